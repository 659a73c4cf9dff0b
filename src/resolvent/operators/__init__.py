"""Floor 1: anything that multiplies. `as_operator` takes what the user has; structures know cheap products."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submodules=["gallery"],
    submod_attrs={
        "algebra": ["Power", "Product", "Scaled", "Sum"],
        "banded": ["Triangular", "Tridiagonal"],
        "blocks": ["Block", "BlockDiagonal"],
        "convert": ["OperatorLike", "as_operator"],
        "curvature": ["fisher", "gauss_newton"],
        "distributed": ["from_dask"],
        "elementary": ["Dense", "Diagonal", "Identity", "MatrixFree", "Zero"],
        "fast": ["Hadamard", "Householder", "Permutation"],
        "kernel": ["Kernel"],
        "kronecker": ["Kronecker", "KroneckerSum"],
        "laplacian": ["Laplacian", "from_edges", "grid_graph", "path_graph"],
        "lowrank": ["LowRank"],
        "models": ["hessian", "jacobian"],
        "operator": ["Operator"],
        "sparse": ["Sparse"],
        "toeplitz": ["Circulant", "Hankel", "Toeplitz"],
        "triangle": ["HermitianSparse"],
    },
)
