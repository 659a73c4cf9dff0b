"""Methods of the natural sciences: descriptors of atoms and molecules."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submod_attrs={
        "descriptors": ["eeacsf", "element_properties"],
    },
)
