"""The command line: `resolvent report`, `resolvent claims`, `resolvent find`, `resolvent index`."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(__name__, submod_attrs={"app": ["main"]})
