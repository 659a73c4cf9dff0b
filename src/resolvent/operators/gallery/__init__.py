"""Hard and classical matrices with what is known of them: for tests, for benchmarks and for teaching.

Every name is a function `name(n, *, dtype, device)`; `entries()` lists them all with their facts and closed forms, and
`get(name, n)` builds one by name.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submod_attrs={
        "entry": ["Entry", "entries", "get"],
        "classical": [
            "cauchy", "fiedler", "hilbert", "inverse_hilbert", "kms", "lauchli", "lehmer", "lotkin", "magic", "minij",
            "moler", "parter", "pascal", "pei", "prolate", "ris", "vandermonde",
        ],
        "spectral": [
            "clement", "clement_symmetric", "fourier", "hadamard", "hanowa", "lesp", "redheffer", "riemann", "rosser",
            "second_difference", "shift", "sine", "skew", "wilkinson", "dramadah",
        ],
        "nonnormal": [
            "chow", "companion", "convection_diffusion", "forsythe", "frank", "gear", "grcar", "invol",
            "jordan_block", "kahan", "near_defective", "smoke", "triw", "upper_ones",
        ],
        "scaled": [
            "clustered", "geometric", "graded", "graded_rows", "huge", "identity", "near_overflow", "near_singular",
            "one_by_one", "rank_deficient", "rank_one", "repeated", "sign_pairs", "subnormal", "tiny", "zero",
        ],
        "graphs": [
            "arrowhead", "laplacian_complete", "laplacian_cycle", "laplacian_grid", "laplacian_hypercube",
            "laplacian_path", "laplacian_star", "neumann", "poisson", "sparse_random", "wathen",
        ],
        "ensembles": [
            "correlation", "doubly_stochastic", "gaussian", "goe", "gue", "haar_orthogonal", "haar_unitary",
            "heavy_tailed", "low_rank_plus_noise", "rademacher", "spiked_covariance", "stochastic", "wishart",
        ],
    },
)  # fmt: skip
