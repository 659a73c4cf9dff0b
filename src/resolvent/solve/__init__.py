"""Linear systems and what surrounds them: iterations, preconditioners, sequences of systems, exact arithmetic, reduced bases, least squares."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submod_attrs={
        "arnoldi": ["fgmres", "gmres"],
        "conjugate": ["block_cg", "cg", "shifted_cg"],
        "exact": ["RationalSolution", "is_consistent", "nullspace", "rational_rank", "rational_solve"],
        "interpolation": ["EIM", "Separated"],
        "least_squares": ["lstsq"],
        "linear": ["solve"],
        "modular": ["independent_rows", "modular_rref"],
        "multigrid": ["Multigrid", "amg"],
        "polynomial": ["chebyshev_preconditioner", "nystrom_preconditioner"],
        "precondition": ["block_jacobi_preconditioner", "ic", "ilu", "jacobi_preconditioner", "ssor_preconditioner"],
        "rectangular": ["lsmr", "lsqr"],
        "separate": ["SeparatedMatrix", "separate_matrix"],
        "short": ["bicgstab", "idr"],
        "stationary": ["optimal_omega", "sor"],
        "symmetric": ["minres"],
        "system": ["SolveInfo"],
        "tuned": ["ChebyshevBandit", "TsallisBins", "TsallisINF", "TunedSolver"],
    },
)
