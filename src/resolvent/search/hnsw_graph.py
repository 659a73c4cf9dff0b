"""The arrays of an HNSW graph: growth, levels, checks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from resolvent.search.vectors import aligned

_MOST_LEVELS = 30


class HNSWGraph:
    """Links of an HNSW graph in flat int32 arrays; lists end with -1.

    Parameters
    ----------
    M : links of a new node in each layer; the ground layer has room for 2M
    seed : of the levels: the level of a position depends on the seed and the position alone

    Attributes
    ----------
    base : (capacity, 2M) links of the ground layer
    upper : (rows, M) links of the layers above: node v has levels[v] rows from first[v] on
    first, levels : (capacity,) int32 and uint8
    count : nodes; entry, top : where walks begin and in which layer

    Examples
    --------
    >>> graph = HNSWGraph(16, seed=0)
    >>> graph.reserve(1000)
    >>> graph.base.shape, graph.entry
    ((1000, 32), -1)
    """

    def __init__(self, M: int, seed: int = 0) -> None:
        self.M, self.seed = M, seed
        self.count, self.entry, self.top = 0, -1, 0
        self.base, self.upper = _links(0, 2 * M), _links(0, M)
        self.first, self.levels = np.empty(0, np.int32), np.empty(0, np.uint8)
        self.used = 0

    @property
    def arrays_of_walk(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.base, self.upper, self.first

    def reserve(self, n: int) -> None:
        """Room for n nodes, at least doubled; positions from `count` on get their levels when they are opened."""
        if n > len(self.base) or not self.base.flags.writeable:
            room = n if not len(self.base) else max(n, min(2 * len(self.base), 2**31 - 1))
            self.base = _longer(self.base, room)
            first, levels = np.full(room, -1, np.int32), np.zeros(room, np.uint8)
            first[: len(self.first)], levels[: len(self.levels)] = self.first, self.levels
            self.first, self.levels = first, levels

    def open(self, nodes: np.ndarray) -> None:
        """Give new nodes their levels and empty lists."""
        levels = _levels(nodes, self.seed, self.M)
        self.levels[nodes] = levels
        self.base[nodes] = -1
        starts = self.used + np.cumsum(levels, dtype=np.int64) - levels
        self.first[nodes] = np.where(levels > 0, starts, -1)
        self.used += int(levels.sum())
        if self.used > len(self.upper) or not self.upper.flags.writeable:
            self.upper = _longer(self.upper, max(self.used, 2 * len(self.upper)))

    def raise_entry(self, nodes: np.ndarray) -> None:
        """Begin at the highest of these nodes if it is higher than the entry."""
        highest = int(nodes[np.argmax(self.levels[nodes])])
        if self.entry < 0 or self.levels[highest] > self.top:
            self.entry, self.top = highest, int(self.levels[highest])

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything `restore` needs."""
        n = self.count
        return {
            "base": self.base[:n],
            "upper": self.upper[: self.used],
            "first": self.first[:n],
            "levels": self.levels[:n],
            "head": np.array([self.entry, self.top], np.int64),
        }

    @classmethod
    def restore(cls, arrays: dict[str, np.ndarray], M: int, seed: int, count: int) -> HNSWGraph:
        """A graph over arrays that exist, without a copy; they are copied when something is added."""
        made = cls(M, seed)
        shapes: dict[str, tuple[Any, ...]] = {
            "base": (count, 2 * M),
            "first": (count,),
            "levels": (count,),
            "head": (2,),
        }
        for name, shape in shapes.items():
            if arrays[name].shape != shape:
                raise ValueError(f"{name} must have shape {shape}, got {arrays[name].shape}")
        for name, kind in (("base", np.int32), ("upper", np.int32), ("first", np.int32), ("levels", np.uint8)):
            if arrays[name].dtype != kind:
                raise ValueError(f"{name} must have dtype {np.dtype(kind)}, got {arrays[name].dtype}")
        if arrays["upper"].ndim != 2 or arrays["upper"].shape[1] != M:
            raise ValueError(f"upper must have {M} columns, got shape {arrays['upper'].shape}")
        made.base, made.upper, made.first, made.levels = (arrays[n] for n in ("base", "upper", "first", "levels"))
        made.count, made.used = count, len(made.upper)
        made.entry, made.top = (int(i) for i in arrays["head"])
        if not -1 <= made.entry < count or (count and made.entry < 0) or not 0 <= made.top <= _MOST_LEVELS:
            raise ValueError(f"head must name a node below {count} and its layer, got {made.entry} and {made.top}")
        return made

    def faults(self) -> list[str]:
        """What is wrong with the links, in words; empty if nothing is. A walk over wrong links would leave the arrays."""
        from resolvent.search.hnsw_link_kernel import faults

        n = self.count
        wrong = int(faults(self.base[:n], self.upper[: self.used], self.first[:n], self.levels[:n]))
        found = [f"{wrong} links name nodes or layers that do not exist"] if wrong else []
        if n and int(self.levels[self.entry]) != self.top:
            found.append(f"the entry point {self.entry} has level {int(self.levels[self.entry])}, not {self.top}")
        return found


def _levels(nodes: np.ndarray, seed: int, M: int) -> np.ndarray:
    """floor(-ln(U) / ln(M)) with U hashed from the seed and the position."""
    mixed = nodes.astype(np.uint64) + np.uint64((seed * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) % 2**64)
    # The finaliser of splitmix64.
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    mixed ^= mixed >> np.uint64(31)
    uniform = (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53 + 2.0**-54
    return np.minimum(np.floor(-np.log(uniform) / math.log(M)), _MOST_LEVELS).astype(np.uint8)


def _links(n: int, width: int) -> np.ndarray:
    made = aligned(n, width, np.dtype(np.int32))
    made[...] = -1
    return made


def _longer(links: np.ndarray, room: int) -> np.ndarray:
    made = _links(room, links.shape[1])
    made[: len(links)] = links
    return made
