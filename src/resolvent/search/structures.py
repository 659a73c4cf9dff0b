"""Search structures over the parts of an index: which there are, how they are built, kept in files and restored."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from resolvent.errors import Damaged
from resolvent.search.database import Segment
from resolvent.search.field_parts import Part
from resolvent.search.schema import Dense, Field, MultiVector, Sparse
from resolvent.search.segment import Pieces

# What a file may name: a settings text chooses among these and nothing else.
_MODULES = {
    "HNSW": "hnsw",
    "IVF": "inverted_lists",
    "IVFPQ": "ivfpq",
    "SimHash": "simhash",
    "RandomProjectionForest": "forest",
    "InvertedIndex": "inverted",
    "MultiVectorIndex": "multivector",
    "WindowTree": "window",
}


def spec_settings(spec: Any, kind: Field, name: str, by: str | None, window: Sequence[str]) -> dict[str, Any]:
    """The settings of an unbuilt index that a user gives to `build`, fitted to the field and, of a tree, to a column."""
    from resolvent.search.index import VectorIndex

    if not isinstance(kind, Dense):
        raise ValueError(
            f"field {name!r} is {type(kind).__name__}: its structure is fixed, only Dense fields take a spec"
        )
    if not isinstance(spec, VectorIndex) or type(spec).__name__ not in _MODULES:
        raise TypeError(f"spec must be an unbuilt index of {', '.join(_MODULES)}, got {type(spec).__name__}")
    if len(spec):
        raise ValueError("spec must be unbuilt: the index on disk has its own rows")
    made = {**spec.settings(), "metric": "l2" if kind.metric == "l2" else "ip", "dtype": kind.dtype}
    if made["kind"] != "WindowTree":
        if by is not None:
            raise ValueError(f"by names the column of a WindowTree, got {by!r} with {made['kind']}")
        return made
    column = window[0] if by is None and len(window) == 1 else by
    if column not in window:
        listed = ", ".join(window) or "none: name them in create(window=[...])"
        raise ValueError(f"by must be one of the window columns ({listed}), got {by!r}")
    return {**made, "by": column}


def structure_name(settings: Mapping[str, Any]) -> str:
    """How a structure is called in the files and in `Part.structures`."""
    kind = str(settings["kind"])
    if kind == "WindowTree":
        return window_name(str(settings["by"]))
    return {"InvertedIndex": "sparse", "MultiVectorIndex": "fde"}.get(kind, kind.lower())


def window_name(column: str) -> str:
    """How the window tree over a payload column is called."""
    return f"window_{column}"


def standing(kind: Field) -> dict[str, Any]:
    """The structure that every large part of a sparse or a multi-vector field has."""
    if isinstance(kind, Sparse):
        return {"kind": "InvertedIndex"}
    # A whole encoding takes 40 KB a document; this one takes 2, and the exact score ranks what it finds.
    return {"kind": "MultiVectorIndex", "dtype": "int8", "final_dim": 2048}


def build(
    settings: dict[str, Any], part: Part, labels: tuple[np.ndarray, np.ndarray] | None = None
) -> tuple[dict[str, Any], Mapping[str, np.ndarray | Pieces]] | None:
    """Build a structure over all rows of a part, live or not: its settings and arrays, or None if the rows do not admit it.

    A window tree is built over the rows of `labels`: their positions in the part, and the values of the column.
    """
    own = {name: value for name, value in settings.items() if name not in ("kind", "by")}
    if "by" in settings:
        from resolvent.search.stored_window import StoredWindow

        if labels is None:
            raise ValueError("labels must be given for a window tree")
        window = StoredWindow.build(_class(settings)(**own), settings["by"], part.vectors, *labels)
        return window.settings(), window.arrays()
    if isinstance(part.field, Sparse):
        if len(part.vectors.data) and part.vectors.data.min() < 0:
            # Postings are for weights of at least 0; a field with others is scanned.
            return None
        made = _class(settings)(**own).build(part.vectors)
        return made.settings(), made.arrays()
    if isinstance(part.field, MultiVector):
        tokens, offsets = part.vectors
        if (np.diff(offsets) == 0).any():
            return None
        made = _class(settings)(**own).build((tokens.rows(np.arange(len(tokens))), offsets))
        return made.settings(), made.arrays(tokens=False)
    made = _class(settings)(**own)
    # The rows are encoded already: `build` would decode and encode them once more.
    made._vectors, made._dead = part.vectors, np.zeros(len(part), np.uint8)
    made._ids.append(len(part))
    made._build()
    return made.settings(), made.arrays(vectors=False)


def restore(own: Segment, mapped: tuple[dict[str, np.ndarray], dict[str, str]], part: Part) -> Any:
    """The structure of a file, over its mapped arrays and the part's vectors; Damaged if they do not fit."""
    arrays, metadata = mapped
    try:
        settings = json.loads(metadata["settings"])
        if isinstance(part.field, Sparse):
            made = _class(settings).restore(settings, arrays)
        elif isinstance(part.field, MultiVector):
            made = _class(settings).restore(settings, arrays, part.vectors[0])
        elif settings["kind"] == "WindowTree":
            from resolvent.search.stored_window import StoredWindow

            if structure_name(settings) != own.structure:
                raise ValueError(f"it is a {structure_name(settings)!r}")
            return StoredWindow.restore(settings, arrays, part.vectors)
        else:
            made = _class(settings).restore(settings, arrays, part.vectors)
        if len(made) != len(part):
            raise ValueError(f"it has {len(made)} rows of {len(part)}")
    except (KeyError, ValueError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise Damaged(
            f"{own.file}: the structure {own.structure!r} cannot be restored ({error}): verify() rebuilds it"
        ) from error
    return made


def _class(settings: Any) -> Any:
    module = _MODULES.get(settings["kind"])
    if module is None:
        raise ValueError(f"structures are {', '.join(_MODULES)}, got {settings['kind']!r}")
    return getattr(importlib.import_module(f"resolvent.search.{module}"), settings["kind"])
