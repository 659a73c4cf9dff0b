"""The inner loops of the exhaustive search: one query row by row, many queries by products of blocks."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from resolvent.search.parts import in_parts
from resolvent.search.vectors import Vectors

# Queries and rows of one product: its scores are read once by a kernel and should still be in the cache of a core.
_QUERIES, _ROWS = 256, 2048


def by_rows(vectors: Vectors, q: np.ndarray, k: int, l2: bool, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Few queries: the rows are read once a query, in their storage format; scores and rows (b, k), sorted."""
    from resolvent.search.exact_kernel import scan, scan_part
    from resolvent.search.kernel import kernel_scale, kernel_view
    from resolvent.search.reservoir_kernel import room_for

    parts = max(1, min(torch.get_num_threads(), len(vectors) // 1024))
    keys, values = np.full((len(q), k), -np.inf, np.float32), np.full((len(q), k), -1, np.int64)
    near, places = np.empty((parts, room_for(k)), np.float32), np.empty((parts, room_for(k)), np.int64)
    sizes = np.zeros(parts, np.int64)
    data, scale = kernel_view(vectors), kernel_scale(vectors)
    for i, one in enumerate(q):
        if parts == 1:
            # To wake a team for one part would take longer than the part, on a busy machine a hundred times as long.
            sizes[0] = scan_part(data, scale, one, l2, mask, k, near[0], places[0], 0, len(vectors))
        else:
            scan(data, scale, one, l2, mask, k, parts, near, places, sizes)
        found = [(near[p, :size], places[p, :size]) for p, size in enumerate(sizes)]
        best, rows = (np.concatenate(part) for part in zip(*found, strict=True))
        # The parts are in the order of the rows, so that a stable sort keeps the earlier of equal ones.
        order = np.argsort(-best, kind="stable")[:k]
        keys[i, : len(order)], values[i, : len(order)] = best[order], rows[order]
    return keys, values


def by_products(
    vectors: Vectors, q: np.ndarray, k: int, l2: bool, mask: np.ndarray, block: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Many queries: scores of blocks, of which only what beats a query's threshold is kept; sorted (b, k)."""
    keys, values = np.full((len(q), k), -np.inf, np.float32), np.full((len(q), k), -1, np.int64)
    asked, centre = torch.from_numpy(q), _centre(vectors) if l2 else None
    if centre is not None:
        asked = asked - centre
    # Decoded, moved or not, a block of rows meets all queries before the next.
    step, tile = block or _ROWS, _QUERIES * torch.get_num_threads()
    state = [_Reservoirs(min(tile, len(q) - a), k) for a in range(0, len(q), tile)]
    scores = torch.empty(min(tile, len(q)) * min(step, max(1, len(vectors))))
    for first in range(0, len(vectors), step):
        last = min(len(vectors), first + step)
        part, square = vectors.block(first, last), vectors.square[first:last]
        if centre is not None:
            part = part - centre
            square = (part * part).sum(1).numpy()
        for number, own in enumerate(state):
            some = asked[number * tile : number * tile + tile]
            out = scores[: len(some) * (last - first)].view(len(some), last - first)
            torch.mm(some, part.mT, out=out)
            own.offer(out.numpy(), first, square, l2, mask)
    for number, own in enumerate(state):
        here = slice(number * tile, number * tile + tile)
        own.finish(vectors, q[here], l2, keys[here], values[here])
    return keys, values


class _Reservoirs:
    """The best rows so far of some queries."""

    def __init__(self, queries: int, k: int) -> None:
        from resolvent.search.reservoir_kernel import room_for

        self.keys, self.values = (
            np.empty((queries, room_for(k)), np.float32),
            np.empty((queries, room_for(k)), np.int64),
        )
        self.counts, self.limits = np.zeros(queries, np.int64), np.full(queries, -np.inf, np.float32)
        self.k = k

    def offer(self, scores: np.ndarray, first: int, square: np.ndarray, l2: bool, mask: np.ndarray) -> None:
        from resolvent.search.exact_kernel import offer_block

        half = square / 2 if l2 else np.empty(0, np.float32)
        in_parts(
            offer_block,
            len(scores),
            scores,
            first,
            half,
            mask,
            self.k,
            self.keys,
            self.values,
            self.counts,
            self.limits,
        )

    def finish(self, vectors: Vectors, q: np.ndarray, l2: bool, keys: np.ndarray, values: np.ndarray) -> None:
        from resolvent.search.exact_kernel import finish
        from resolvent.search.kernel import kernel_scale, kernel_view

        rows, scale = kernel_view(vectors), kernel_scale(vectors)
        in_parts(finish, len(q), self.keys, self.values, self.counts, rows, scale, q, l2, keys, values)


def _centre(vectors: Vectors) -> Tensor | None:
    """The mean of a sample, if the data lies so far from the origin that distances from products would lose digits."""
    if not len(vectors):
        return None
    sample = torch.from_numpy(vectors.rows(np.linspace(0, len(vectors) - 1, min(len(vectors), 4096)).astype(np.int64)))
    mean = sample.mean(0)
    spread = (sample - mean).square().sum(1).mean()
    return mean if bool((mean * mean).sum() > 4 * spread) else None
