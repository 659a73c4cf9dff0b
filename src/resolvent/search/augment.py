"""Inner products and distances as angles: a further coordinate for every vector."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from resolvent.search.index import as_queries, as_rows
from resolvent.search.vectors import Vectors

_CHUNK = 1 << 16


class Augmentation:
    r"""The map under which near means at a small angle.

    "ip": rows become :math:`[x, \sqrt{R^2 - |x|^2}]`, queries ``[q, 0]``; all rows have length R, and the order of the
    angles is that of the inner products. "l2": rows and queries become ``[x - m, c]`` with the mean m of the rows and c
    half their root mean square distance from it; points at a small distance are at a small angle, and those at the same
    angle about m, but not at the same distance, are not.

    Parameters
    ----------
    vectors : stored rows
    metric : "ip" or "l2"

    Examples
    --------
    >>> made = Augmentation(Vectors.of(torch.tensor([[3.0, 4.0], [0.0, 1.0]])), "ip")
    >>> made.rows(0, 2)
    tensor([[3.0000, 4.0000, 0.0000],
            [0.0000, 1.0000, 4.8990]])
    """

    def __init__(self, vectors: Vectors, metric: str) -> None:
        self.l2 = metric == "l2"
        self._vectors = vectors
        n = len(vectors)
        self.mean, self.length = torch.zeros(vectors.dim), 0.0
        if n and self.l2:
            self.mean = sum(part.sum(0, dtype=torch.float64) / n for part in self._parts()).float()  # type: ignore[union-attr]
            squares = (part - self.mean for part in self._parts())
            self.length = 0.5 * sum(float(part.square().sum(dtype=torch.float64)) / n for part in squares) ** 0.5
        elif n:
            self.length = float(vectors.square.max()) ** 0.5

    def arrays(self) -> dict[str, np.ndarray]:
        """What `restore` needs."""
        return {"mean": self.mean.numpy(), "length": np.array([self.length])}

    @classmethod
    def restore(cls, vectors: Vectors, metric: str, arrays: dict[str, np.ndarray]) -> Augmentation:
        """The augmentation that `arrays` gave."""
        if arrays["mean"].shape != (vectors.dim,) or arrays["length"].shape != (1,):
            raise ValueError(f"mean must have {vectors.dim} entries and length one, got {arrays['mean'].shape}")
        made = cls.__new__(cls)
        made.l2, made._vectors = metric == "l2", vectors
        made.mean = torch.from_numpy(np.array(arrays["mean"], np.float32))
        made.length = float(arrays["length"][0])
        return made

    def fits(self, first: int) -> bool:
        """Whether the rows from `first` on are not longer than those that it was made for."""
        return self.l2 or first >= len(self._vectors) or float(self._vectors.square[first:].max()) <= self.length**2

    def rows(self, first: int, last: int) -> Tensor:
        """Augmented rows first..last-1, (m, dim + 1)."""
        x = self._vectors.block(first, last)
        if self.l2:
            return torch.cat([x - self.mean, x.new_full((len(x), 1), self.length)], 1)
        missing = self.length**2 - torch.from_numpy(self._vectors.square[first:last].astype(np.float64))
        return torch.cat([x, missing.clamp_(min=0).sqrt_().float()[:, None]], 1)

    def queries(self, q: np.ndarray) -> Tensor:
        """Augmented queries, (b, dim + 1)."""
        z = torch.from_numpy(q) - self.mean
        return torch.cat([z, z.new_full((len(z), 1), self.length if self.l2 else 0.0)], 1)

    def _parts(self) -> Any:
        n = len(self._vectors)
        return (self._vectors.block(a, min(n, a + _CHUNK)) for a in range(0, n, _CHUNK))


def to_cosine(x: Any, q: Any = None) -> Any:
    r"""Reduce the search for the largest inner product to one for the smallest angle or distance.

    Rows become :math:`[x, \sqrt{R^2 - |x|^2}]` with R the largest length, queries ``[q, 0]``.

    Parameters
    ----------
    x : (n, d) stored rows
    q : (b, d) queries, or None

    Returns
    -------
    (n, d + 1) rows, all of length R; with `q`, a pair of them and the (b, d + 1) queries. Inner products are unchanged,
    and cosines and distances put the rows into the same order. float32, of the kind of x and q.

    Raises
    ------
    ValueError : wrong shapes or NaN.

    Notes
    -----
    One row that is much longer than the others squeezes them into a small cap around the last axis, where angles say
    little; methods that do not need angles should search inner products as they are.

    References
    ----------
    "A Comprehensive Survey on Vector Database: Storage and Retrieval Technique, Challenge"

    Examples
    --------
    >>> to_cosine(torch.tensor([[3.0, 4.0], [5.0, 0.0]]))
    tensor([[3., 4., 0.],
            [5., 0., 0.]])
    """
    vectors = Vectors.of(as_rows(x, None, "ip"))
    made = Augmentation(vectors, "ip")
    rows = _like(made.rows(0, len(vectors)), x)
    return rows if q is None else (rows, _like(made.queries(as_queries(q, vectors.dim, "ip")), q))


def _like(t: Tensor, x: Any) -> Any:
    return t.to(x.device) if isinstance(x, Tensor) else t.numpy()
