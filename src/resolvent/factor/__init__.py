"""Matrices and tensors as products of simpler ones: orthogonal, triangular, low-rank and interpolative factors, recovery from few entries, fast multiplication."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submod_attrs={
        "cholesky": ["PivotedCholesky", "cholesky", "cholesky_update"],
        "cipher": ["MatrixCipher", "known_plaintext_attack"],
        "cross": ["aca"],
        "cur": ["CUR", "cur"],
        "interpolative": ["Interpolative", "interpolative"],
        "jacobi": ["JacobiEigh", "JacobiSVD", "jacobi_eigh", "jacobi_svd"],
        "meta": ["MetaFactorization", "meta_factor"],
        "nystrom": ["generalized_nystrom", "nystrom"],
        "orthogonal": ["QR", "UTV", "PivotedQR", "lq", "qr", "utv"],
        "projectors": ["projectors", "solve_with"],
        "pseudoinverse": ["column_row", "pinv", "pinv_product"],
        "random_pivot": ["PivotFactors", "PivotHistory", "pivot_step", "random_pivot_factor"],
        "randomized": ["randomized_svd"],
        "range_finder": ["range_finder"],
        "spgemm": ["ProductInfo", "spgemm"],
        "truncated": ["TruncatedSVD"],
    },
)
