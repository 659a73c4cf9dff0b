"""Linear operators, spectra and matrix functions for PyTorch: fast, differentiable, on CPU and GPU.

Rooms: `operators`, `spectra`, `functions`, `sketch`, `factor`, `solve`, `search`, `optim`, `report`. They load when they are first used.
"""

import lazy_loader as _lazy

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submodules=[
        "factor",
        "functions",
        "operators",
        "optim",
        "science",
        "search",
        "sketch",
        "solve",
        "spectra",
        "errors",
        "claims",
    ],
    submod_attrs={
        "errors": ["AccuracyWarning", "ConvergenceError", "ResolventError"],
        "info": ["Info"],
        "operators": ["Operator", "as_operator"],
        "report": ["report"],
    },
)
