"""The spectral report: what the matrices of a file are like, one line per matrix.

`report(path)` reads a checkpoint, an array or a sparse matrix one tensor at a time and returns a `Report`;
`measure_matrix(matrix)` gives the same quantities for one matrix in memory. The module can be called itself:
`resolvent.report(path)`.
"""

import sys as _sys
from types import ModuleType as _ModuleType
from typing import Any as _Any

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submod_attrs={
        "collect": ["report"],
        "document": ["Report", "Row"],
        "measure": ["Measurement", "measure_matrix"],
        "readers": ["stored_state", "stored_tensors"],
        "findings": ["Finding"],
        "stored": ["Stored"],
        "spectrum": ["Spectrum", "spectrum_of"],
    },
)


class _Room(_ModuleType):
    """A room that is also its main function, whichever of the two `resolvent.report` was resolved to first."""

    def __call__(self, *args: _Any, **kwargs: _Any) -> _Any:
        return self.report(*args, **kwargs)


_sys.modules[__name__].__class__ = _Room
