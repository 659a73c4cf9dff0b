"""Matrices and tensors as products of simpler ones: orthogonal, triangular, low-rank and interpolative factors, recovery from few entries, fast multiplication."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submod_attrs={},
)
