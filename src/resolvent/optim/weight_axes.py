"""Axes of tensors that must be permuted together: a union-find whose elements can be split into factors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


class Axis:
    """A set of positions that one permutation moves; `fixed` where no permutation may."""

    __slots__ = ("fixed", "parent", "parts", "size")

    def __init__(self, size: int, fixed: bool = False) -> None:
        self.size = size
        self.fixed = fixed
        self.parent: Axis | None = None
        self.parts: list[Axis] | None = None


# The axes of a tensor: for each of its dimensions the factors of that dimension, the slowest first.
Labels = list[list[Axis]]


def root(axis: Axis) -> Axis:
    """The representative of everything that is permuted as `axis` is."""
    while axis.parent is not None:
        axis = axis.parent
    return axis


def atoms(axes: Sequence[Axis]) -> list[Axis]:
    """The unsplit factors of a dimension."""
    found: list[Axis] = []
    for axis in axes:
        top = root(axis)
        found.extend(atoms(top.parts) if top.parts is not None else [top])
    return found


def fresh(shape: Sequence[int], fixed: bool = False) -> Labels:
    """Labels of a tensor about which nothing is known; a dimension of size one has no factors."""
    return [[Axis(n, fixed)] if n != 1 else [] for n in shape]


def freeze(axes: Sequence[Axis]) -> None:
    """No permutation may move these."""
    for axis in atoms(axes):
        axis.fixed = True


def split(axis: Axis, first: int) -> tuple[Axis, Axis]:
    """Two factors of an unsplit axis, the slower of size `first`."""
    parts = Axis(first, axis.fixed), Axis(axis.size // first, axis.fixed)
    axis.parts = list(parts)
    return parts


def align(left: Sequence[Axis], right: Sequence[Axis]) -> None:
    """The two dimensions are permuted alike from now on; frozen where their factors do not fit."""
    xs, ys = atoms(left), atoms(right)
    if math.prod(a.size for a in xs) != math.prod(b.size for b in ys):
        freeze(xs)
        freeze(ys)
        return
    while xs and ys:
        a, b = root(xs[0]), root(ys[0])
        if a.parts is not None or b.parts is not None:
            xs, ys = atoms(xs), atoms(ys)
        elif a is b or a.size == b.size:
            if a is not b:
                b.parent = a
                a.fixed = a.fixed or b.fixed
            xs, ys = xs[1:], ys[1:]
        else:
            big, small = (a, b) if a.size > b.size else (b, a)
            if big.size % small.size:
                freeze(xs)
                freeze(ys)
                return
            split(big, small.size)


def regroup(labels: Labels, shape: Sequence[int]) -> Labels:
    """Labels after a reshape."""
    left = [axis for axes in labels for axis in axes]
    found: Labels = []
    for n in shape:
        taken: list[Axis] = []
        size = 1
        while size < n:
            left = atoms(left)
            a, want = left[0], n // size
            if a.size > want or want % a.size:
                # the part that both groupings share, if one divides the other
                if a.size <= want or a.size % want:
                    freeze([axis for axes in labels for axis in axes])
                    return fresh(shape, fixed=True)
                split(a, want)
                continue
            taken.append(a)
            left = left[1:]
            size *= a.size
        found.append(taken)
    return found


def uniform(t: Tensor) -> bool:
    """Whether all entries are equal, so that every permutation leaves the tensor as it is."""
    return t.numel() < 2 or bool((t == t.reshape(-1)[0]).all())


def broadcast(many: Sequence[Labels], ndim: int) -> Labels:
    """Labels of an elementwise result."""
    found: Labels = [[] for _ in range(ndim)]
    for labels in many:
        for k, axes in enumerate(labels[::-1]):
            if axes and found[ndim - 1 - k]:
                align(found[ndim - 1 - k], axes)
            elif axes:
                found[ndim - 1 - k] = axes
    return found


def number(named: Mapping[str, tuple[Tensor, Labels]]) -> tuple[dict, dict, set[int]]:
    """Ids and the shape of every parameter, each dimension split into its factors, and the ids that are fixed."""
    ids: dict[Axis | tuple[str, int], int] = {}
    spec: dict[str, tuple[int, ...]] = {}
    shapes: dict[str, torch.Size] = {}
    fixed = set()
    for name, (p, labels) in named.items():
        numbers, sizes = [], []
        for k, (n, axes) in enumerate(zip(p.shape, labels, strict=True)):
            for axis in atoms(axes):
                numbers.append(ids.setdefault(axis, len(ids)))
                sizes.append(axis.size)
                if axis.fixed:
                    fixed.add(numbers[-1])
            if n == 1:
                numbers.append(ids.setdefault((name, k), len(ids)))
                sizes.append(1)
                fixed.add(numbers[-1])
        spec[name], shapes[name] = tuple(numbers), torch.Size(sizes)
    return spec, shapes, fixed
