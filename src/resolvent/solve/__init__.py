"""Linear systems and what surrounds them: iterations, preconditioners, sequences of systems, exact arithmetic, reduced bases, least squares."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submod_attrs={},
)
