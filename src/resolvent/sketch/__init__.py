"""Randomisation: random projections, row sampling, approximate products, coresets and streams, each with its guarantee."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submod_attrs={},
)
