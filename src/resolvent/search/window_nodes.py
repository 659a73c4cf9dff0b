"""Which stretches of a sorted order have an index of their own, and which of them answer a window."""

from __future__ import annotations

from typing import NamedTuple


class Node(NamedTuple):
    """A stretch of the sorted order, given by its place: `part` of `scale` equal parts, halves allowed.

    Attributes
    ----------
    scale : the number of parts that the order is cut into
    half : twice the number of parts before the stretch; odd for the windows between two nodes of the tree
    begin, end : ranks
    """

    scale: int
    half: int
    begin: int
    end: int

    @property
    def name(self) -> str:
        """How it is called in files."""
        return f"{self.scale}-{self.half}"

    @property
    def size(self) -> int:
        return self.end - self.begin


def node(n: int, scale: int, half: int) -> Node:
    """The stretch from `half` half parts on, one part long."""
    return Node(scale, half, n * half // (2 * scale), n * (half + 2) // (2 * scale))


def scales(n: int, branching: int, leaf: int) -> list[int]:
    """The numbers of parts at the levels of a tree whose nodes all have more than `leaf` ranks."""
    found, scale = [], 1
    while n // scale > leaf:
        found.append(scale)
        scale *= branching
    return found


def nodes(n: int, branching: int, leaf: int, overlap: bool) -> list[Node]:
    """All stretches that have an index: the tree's, and with `overlap` windows that begin at every half width.

    Windows have widths that halve, whatever the branching, so that every range of at most half a width lies in one.
    """
    tree = [node(n, s, 2 * i) for s in scales(n, branching, leaf) for i in range(s)]
    if not overlap:
        return tree
    windows = [node(n, s, h) for s in scales(n, 2, leaf) for h in range(2 * s - 1)]
    # With a branching that is a power of two the tree's nodes are among the windows.
    return list(dict.fromkeys(tree + windows))


def smallest(n: int, branching: int, leaf: int, a: int, b: int) -> Node | None:
    """The smallest node of the tree that contains the ranks a..b-1; None if the tree has no node."""
    best = None
    for s in scales(n, branching, leaf):
        i = _part_of(n, s, a)
        found = node(n, s, 2 * i)
        if found.end < b:
            break
        best = found
    return best


def smallest_window(n: int, leaf: int, a: int, b: int) -> Node | None:
    """The smallest overlapping window that contains the ranks a..b-1."""
    for s in reversed(scales(n, 2, leaf)):
        # The last half part that begins at a or before.
        h = min(_part_of(n, 2 * s, a), 2 * s - 2)
        found = node(n, s, h)
        if found.begin <= a and b <= found.end:
            return found
    return None


def cover(n: int, branching: int, leaf: int, a: int, b: int) -> tuple[list[Node], list[tuple[int, int]]]:
    """The largest nodes inside a..b-1, and the stretches at its two ends that no node fills."""
    levels = scales(n, branching, leaf)
    inside: list[Node] = []
    rest = [(a, b)]
    for s in levels:
        todo: list[tuple[int, int]] = []
        for begin, end in rest:
            first = _part_of(n, s, begin)
            first += n * first // s < begin
            last = first
            while last < s and n * (last + 1) // s <= end:
                inside.append(node(n, s, 2 * last))
                last += 1
            if last == first:
                todo.append((begin, end))
            else:
                todo += [(begin, n * first // s), (n * last // s, end)]
        rest = [(x, y) for x, y in todo if x < y]
    return inside, rest


def _part_of(n: int, scale: int, rank: int) -> int:
    """Which of `scale` parts holds a rank."""
    i = min(rank * scale // n, scale - 1)
    while i + 1 < scale and n * (i + 1) // scale <= rank:
        i += 1
    return i
