"""Trees: a forest that halves the rows at medians of random projections, searched leaf by leaf in one order."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import torch

from resolvent.random import GeneratorLike, as_generator, gaussian
from resolvent.search.augment import Augmentation
from resolvent.search.hits import Found, Metric
from resolvent.search.index import VectorIndex
from resolvent.search.inverted_lists import positive
from resolvent.search.simhash import as_seed, filled
from resolvent.search.vectors import Vectors

_SPLITS = ("points", "direction")
_CHUNK = 1 << 15


class RandomProjectionForest(VectorIndex):
    """Search by trees that split at the median of a projection, with one queue over the leaves of all trees.

    Parameters
    ----------
    trees : how many
    leaf : a leaf holds between half as many rows and as many
    split : "points": a node projects onto the line between two of its rows, which follows the data; "direction": one
        random direction for each level of a tree, which needs less memory and one product for a query
    candidates : rows that a query scores, at least, when it says nothing else
    metric, dtype : as for every `VectorIndex`
    generator : of the projections; an int makes it repeatable

    Notes
    -----
    A query descends every tree and keeps the other sides in a queue ordered by the sum of the squared margins on the way
    to them; `query(..., candidates=)` sets when it stops. Projections count as evaluations. Inner products become
    distances by one more coordinate (see `to_cosine`). Trees are complete, so a tree is a permutation (4 bytes a row) and
    a threshold a node, with "points" also d + 1 numbers a node. Rows that are added build the forest anew.

    References
    ----------
    "A Comprehensive Survey on Vector Database: Storage and Retrieval Technique, Challenge"

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(500, 16))
    >>> forest = RandomProjectionForest(trees=4, metric="l2").build(x)
    >>> forest.query(x[:3], k=1).ids[:, 0]
    array([0, 1, 2])
    """

    parameters: ClassVar[tuple[str, ...]] = ("trees", "leaf", "split", "candidates", "generator")

    def __init__(
        self,
        trees: int = 10,
        leaf: int = 32,
        *,
        split: str = "points",
        candidates: int = 500,
        metric: Metric = "ip",
        dtype: str = "float32",
        generator: GeneratorLike = 0,
    ) -> None:
        super().__init__(metric, dtype)
        self.trees, self.leaf = positive(trees, "trees"), positive(leaf, "leaf")
        self.candidates = positive(candidates, "candidates")
        if split not in _SPLITS:
            raise ValueError(f"split must be 'points' or 'direction', got {split!r}")
        self.split = split
        self.generator = as_seed(generator)

    def _depth(self) -> int:
        return max(0, math.ceil(math.log2(len(self._stored()) / self.leaf))) if len(self._stored()) else 0

    def _build(self) -> None:
        vectors = self._stored()
        n, depth = len(vectors), self._depth()
        # Distances need no further coordinates; the augmentation of inner products does.
        self._augment = Augmentation(vectors, "ip")
        extra = np.zeros(n, np.float32) if self.inner == "l2" else self._extra()
        g = as_generator(self.generator)
        width = vectors.dim + 1
        self._thresholds = np.zeros((self.trees, (1 << depth) - 1), np.float32)
        self._orders = np.tile(np.arange(n, dtype=np.int32), (self.trees, 1))
        along = self.split == "direction"
        shape = (self.trees, depth, width) if along else (self.trees, (1 << depth) - 1, width)
        self._planes = np.zeros(shape, np.float32)
        for t in range(self.trees):
            if along:
                self._plant(t, gaussian((depth, width), torch.float32, generator=g), extra)
            else:
                self._plant_between(t, torch.rand((1 << depth) - 1, 2, generator=g).numpy(), extra)

    def _extra(self) -> np.ndarray:
        n = len(self._stored())
        parts = [self._augment.rows(a, min(n, a + _CHUNK))[:, -1] for a in range(0, n, _CHUNK)]
        return torch.cat(parts).numpy() if parts else np.empty(0, np.float32)

    def _plant(self, t: int, directions: torch.Tensor, extra: np.ndarray) -> None:
        from resolvent.search.forest_kernel import plant

        vectors, n = self._stored(), len(self._stored())
        directions = directions / torch.linalg.vector_norm(directions, dim=1, keepdim=True)
        self._planes[t] = directions.numpy()
        projections = np.empty((len(directions), n), np.float32)
        for a in range(0, n, _CHUNK):
            b = min(n, a + _CHUNK)
            part = directions[:, :-1] @ vectors.block(a, b).mT
            projections[:, a:b] = torch.addr(part, directions[:, -1], torch.from_numpy(extra[a:b])).numpy()
        plant(projections, self._orders[t], self._thresholds[t])

    def _plant_between(self, t: int, draws: np.ndarray, extra: np.ndarray) -> None:
        from resolvent.search.forest_kernel import plant_between

        vectors = self._stored()
        x = vectors.block(0, len(vectors)).numpy()
        keys = np.empty(len(vectors), np.float32)
        plant_between(x, extra, self._orders[t], self._thresholds[t], self._planes[t], draws, keys)

    def _search(  # type: ignore[override]
        self, q: np.ndarray, k: int, allowed: np.ndarray | None, candidates: int | None = None
    ) -> Found:
        from resolvent.search.forest_kernel import search
        from resolvent.search.kernel import kernel_scale, kernel_view

        vectors = self._stored()
        budget = max(k, positive(self.candidates if candidates is None else candidates, "candidates"))
        rows, scores = np.full((len(q), k), -1, np.int64), np.full((len(q), k), -np.inf, np.float32)
        counts = np.zeros((len(q), 2), np.int64)
        levels = self._planes.shape[1] if self.split == "direction" else 0
        directions = torch.from_numpy(self._planes[:, :levels, :-1].reshape(-1, vectors.dim))
        projections = (torch.from_numpy(q) @ directions.mT).numpy().reshape(len(q), self.trees, levels)
        if len(vectors):
            mask = np.empty(0, np.uint8) if allowed is None else allowed
            data, scale, l2 = kernel_view(vectors), kernel_scale(vectors), self.inner == "l2"
            trees = (self._planes, self._orders, self._thresholds)
            search(data, scale, l2, q, projections, *trees, budget, mask, rows, scores, counts)
        made = counts[:, 1] + self.trees * levels
        found = Found(rows, scores, counts[:, 0] + made, np.zeros(len(q), np.int64))
        return filled(found, vectors, q, self.inner, allowed)

    def _stored(self) -> Vectors:
        if self._vectors is None:
            raise ValueError("the index is empty: build it first")
        return self._vectors

    def _arrays(self) -> dict[str, np.ndarray]:
        if self._vectors is None:
            return {}
        return {"orders": self._orders, "thresholds": self._thresholds, "planes": self._planes}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        n, depth, width = len(self._stored()), self._depth(), self._stored().dim + 1
        nodes = (1 << depth) - 1
        wanted: dict[str, Any] = {
            "orders": (self.trees, n),
            "thresholds": (self.trees, nodes),
            "planes": (self.trees, depth if self.split == "direction" else nodes, width),
        }
        for name, shape in wanted.items():
            if arrays[name].shape != shape:
                raise ValueError(f"{name} must have shape {shape}, got {arrays[name].shape}")
        self._orders, self._thresholds, self._planes = arrays["orders"], arrays["thresholds"], arrays["planes"]
        if n and (self._orders.min() < 0 or self._orders.max() >= n):
            raise ValueError(f"orders must hold positions below {n}")
