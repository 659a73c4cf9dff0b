"""What a Dask worker runs on one chunk. NumPy only, so that a worker never has to import torch."""

from __future__ import annotations

from typing import Any

import numpy as np


def product(block: Any, X: np.ndarray, start: int, stop: int) -> np.ndarray:
    """``B X[start:stop]``."""
    return np.asarray(block @ X[start:stop])


def adjoint_product(block: Any, Y: np.ndarray, start: int, stop: int) -> np.ndarray:
    """``B^H Y[start:stop]`` as ``(Y^H B)^H``, so that the chunk is neither conjugated nor copied."""
    return np.asarray(Y[start:stop].conj().T @ block).conj().T


def gram_product(block: Any, X: np.ndarray) -> np.ndarray:
    """``B^H B X``."""
    return np.asarray((block @ X).conj().T @ block).conj().T


def total(parts: list[np.ndarray]) -> np.ndarray:
    """The sum of arrays of one shape."""
    out = np.array(parts[0])
    for part in parts[1:]:
        out += part
    return out
