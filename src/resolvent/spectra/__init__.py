"""Everything that depends on a matrix only through its eigenvalues or singular values."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submod_attrs={
        "condition": ["cond"],
        "count": ["count"],
        "density": ["density"],
        "diagonal": ["diagonal"],
        "diversity": ["vendi_score"],
        "eigen": ["eigsh"],
        "eigen_general": ["eigs"],
        "entropy": ["entropy"],
        "logdet": ["logdet"],
        "norms": ["norm"],
        "nuclear": ["matrix_entropy", "nuclear_norm_upper"],
        "power_law": ["PowerLaw", "power_law"],
        "random_matrix": ["MarchenkoPastur", "Semicircle", "marchenko_pastur"],
        "ranks": ["effective_rank", "numerical_rank", "participation_ratio", "stable_rank"],
        "singular": ["svds"],
        "trace": ["trace"],
    },
)
