"""Tensor trains of functions of indices, from the few entries that the method asks for."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.factor.tensor import rank_within
from resolvent.factor.tensor_train import TensorTrain
from resolvent.info import Info
from resolvent.operators import lu
from resolvent.operators.arrays import Kind, as_tensor, give_back
from resolvent.random import GeneratorLike, as_generator

# Indices that are handed over at a time; columns of the first sweep; entries by which a result is checked.
_CHUNK, _START, _CHECKS = 1 << 18, 4, 1024
# A row is exchanged while that multiplies the volume by more than this.
_VOLUME = 1.02


def tt_cross(
    f: Callable[[Tensor], Any],
    shape: Sequence[int],
    *,
    rtol: float | None = None,
    max_rank: int = 128,
    max_sweeps: int = 20,
    generator: GeneratorLike = None,
    return_info: bool = False,
) -> Any:
    r"""A tensor train :math:`f(i_1, \ldots, i_d) \approx G_1(i_1) \cdots G_d(i_d)` from some values of f.

    Parameters
    ----------
    f : a function of an (N, d) tensor of indices, int64, that returns the (N,) values: real or complex, torch or NumPy
    shape : (n_1, ..., n_d), how many values each index has
    rtol : bound on the error at 1024 random entries relative to the values there, both as roots of squares; default 1e-8,
        1e-4 for single precision
    max_rank : the largest rank
    max_sweeps : sweeps over all pairs of neighbouring axes
    generator : the first columns, and the entries of the checks
    return_info : also return `Info`, whose `matvecs` counts the values that were asked for, and whose `error` is that of
        the last check

    Returns
    -------
    TensorTrain : its cores have the kind of the values

    Raises
    ------
    ValueError : an argument is out of range, f returns a wrong shape, NaN or infinity, or records a gradient: there is none
    ConvergenceError : the check was not met within `max_rank` and `max_sweeps`; `best` is the TensorTrain

    Notes
    -----
    Two axes at a time: all values of f where the chosen left indices cross the chosen right ones, (r n)^2 of them, and
    their truncated singular vectors, which tell the rank; of their rows those of (locally) maximal volume are the next left
    indices. The sweeps go forth and back. Where a check fails, its worst entries join the crosses and the truncation
    becomes finer. A sweep asks for about d n^2 r^2 values, of n^d. The checks see errors that are spread: a peak in a few of
    n^d entries can be missed by any method that looks at few of them.

    References
    ----------
    "TT-cross approximation for multidimensional arrays"
    "Fast adaptive interpolation of multi-dimensional arrays in tensor train format"

    Examples
    --------
    >>> train, info = tt_cross(lambda i: i.double().sum(1), (10,) * 8, generator=0, return_info=True)
    >>> train.ranks, info.matvecs < 20000
    ((1, 2, 2, 2, 2, 2, 2, 2), True)
    """
    sizes = _sizes(shape)
    if rtol is not None and not 0 < rtol < 1:
        raise ValueError(f"rtol must lie between 0 and 1, got {rtol!r}")
    for name, value in (("max_rank", max_rank), ("max_sweeps", max_sweeps)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be an int of at least 1, got {value!r}")
    values = _Values(f, len(sizes))
    source = as_generator(generator)
    with torch.no_grad():
        probes = _random(sizes, min(_CHECKS, math.prod(sizes)), source)
        exact = values(probes)
        single = torch.finfo(exact.dtype).eps > 1e-10
        bound = (1e-4 if single else 1e-8) if rtol is None else float(rtol)
        cores, sweeps, error = _crossed(values, sizes, bound, max_rank, max_sweeps, source)
    train: TensorTrain = give_back(TensorTrain(tuple(cores)), values.kind)
    info = Info("dmrg cross", values.count, sweeps, error, error <= bound)
    if not info.converged:
        message = f"tt_cross: error {error:.2g} at random entries after {sweeps} sweeps, asked for {bound:.2g}"
        raise ConvergenceError(message, best=train, error=error, info=info)
    return (train, info) if return_info else train


class _Values:
    """The function, with what it returns checked and counted."""

    def __init__(self, f: Callable[[Tensor], Any], axes: int) -> None:
        self.f, self.axes, self.count = f, axes, 0
        self.kind: Kind = "torch"
        self.flipped = False

    def __call__(self, indices: Tensor) -> Tensor:
        self.count += len(indices)
        return torch.cat([self._some(part) for part in indices.split(_CHUNK)])

    def _some(self, indices: Tensor) -> Tensor:
        found, self.kind = as_tensor(self.f(indices.flip(1) if self.flipped else indices), "f(indices)")
        if found.shape != (len(indices),):
            raise ValueError(f"f(indices) must have shape ({len(indices)},), got {tuple(found.shape)}")
        if found.requires_grad:
            raise ValueError("tt_cross has no gradient: f must return detached values")
        if found.dtype in (torch.float16, torch.bfloat16):
            raise ValueError(f"f(indices) has dtype {found.dtype}; convert it to float32")
        if not bool(torch.isfinite(found.abs()).all()):
            where = tuple(indices[int((~torch.isfinite(found.abs())).nonzero()[0, 0])].tolist())
            raise ValueError(f"f is NaN or infinite at the indices {where[::-1] if self.flipped else where}")
        return found


def _crossed(
    values: _Values, sizes: tuple[int, ...], bound: float, max_rank: int, max_sweeps: int, source: torch.Generator
) -> tuple[list[Tensor], int, float]:
    """Cores, sweeps and the error of the last check."""
    d = len(sizes)
    right = [_random(sizes[k:], _START, source) for k in range(d)] + [torch.zeros(1, 0, dtype=torch.long)]
    share = 0.3 / math.sqrt(max(d - 1, 1))
    error, sweep = math.inf, 0
    for sweep in range(1, max_sweeps + 1):
        cores, left = _swept(values, sizes, right, bound * share, max_rank)
        probes = _random(sizes, _CHECKS, source)
        exact = values(probes)
        gap = (exact - _at(cores, probes)).abs()
        scale = float(exact.abs().max()) or 1.0
        size = float(torch.linalg.vector_norm(exact / scale)) * scale
        missed = float(torch.linalg.vector_norm(gap / scale)) * scale
        error = missed / size if size > 0 else (math.inf if missed > 0 else 0.0)
        if error <= bound or sweep == max_sweeps:
            break
        # Back: everything reversed, the left indices being the right ones.
        worst = probes[gap.topk(min(_START, len(gap))).indices].flip(1)
        sizes, values.flipped = sizes[::-1], not values.flipped
        right = [worst, *(torch.cat([left[d - k].flip(1), worst[:, k:]]).unique(dim=0) for k in range(1, d)), left[0]]
        share *= 0.5
    if values.flipped:
        cores = [core.permute(2, 1, 0).contiguous() for core in reversed(cores)]
    return cores, sweep, error


def _swept(
    values: _Values, sizes: tuple[int, ...], right: list[Tensor], share: float, max_rank: int
) -> tuple[list[Tensor], list[Tensor]]:
    """Cores from the first axis to the last, and the left indices before every axis.

    `right` holds the right indices from every axis on, of which those of the first two are not needed, and at its end
    the one of no axis.
    """
    d = len(sizes)
    left = [torch.zeros(1, 0, dtype=torch.long)]
    if d == 1:
        return [values(torch.arange(sizes[0])[:, None])[None, :, None]], left
    cores = []
    for k in range(d - 1):
        rows = _joined(left[k], torch.arange(sizes[k])[:, None])
        columns = _joined(torch.arange(sizes[k + 1])[:, None], right[k + 2])
        block = values(_joined(rows, columns)).reshape(len(rows), len(columns))
        scale = float(block.abs().max()) or 1.0
        U, s, _ = torch.linalg.svd(block / scale, full_matrices=False)
        noise = 4 * torch.finfo(s.dtype).eps * math.sqrt(len(s))
        rank = min(max_rank, rank_within(s, max(share, noise) * float(torch.linalg.vector_norm(s))))
        chosen, core = _largest_volume(U[:, :rank])
        left.append(rows[chosen])
        cores.append(core.reshape(len(left[k]), sizes[k], rank))
    last = block[chosen].reshape(rank, sizes[-1], -1)
    return [*cores, last], left


def _largest_volume(U: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of U (m, r) whose determinant is locally the largest, and U by these rows: U = Z U[rows], |Z| about 1."""
    m, r = U.shape
    _, pivots = lu.lu_factor(U)
    order = torch.arange(m)
    for i, p in enumerate(pivots.tolist()):
        order[[i, p - 1]] = order[[p - 1, i]]
    chosen = order[:r].clone()
    Z = lu.solve(U[chosen].mT, U.mT).mT
    for _ in range(4 * r):
        place = int(Z.abs().argmax())
        i, j = divmod(place, r)
        if float(Z[i, j].abs()) <= _VOLUME:
            break
        row = Z[i].clone()
        row[j] -= 1
        Z = Z - torch.outer(Z[:, j] / Z[i, j], row)
        chosen[j] = i
    return chosen, lu.solve(U[chosen].mT, U.mT).mT


def _at(cores: list[Tensor], indices: Tensor) -> Tensor:
    """Entries of a train."""
    found = cores[0][0, indices[:, 0]]
    for k, core in enumerate(cores[1:], 1):
        found = torch.einsum("na,nab->nb", found, core[:, indices[:, k]].movedim(1, 0))
    return found[:, 0]


def _joined(first: Tensor, second: Tensor) -> Tensor:
    """Every row of the first with every row of the second, the second faster."""
    a = first.repeat_interleave(len(second), 0)
    return torch.cat([a, second.repeat(len(first), 1)], 1)


def _random(sizes: Sequence[int], count: int, source: torch.Generator) -> Tensor:
    draws = [torch.randint(n, (count,), generator=source, device=source.device).cpu() for n in sizes]
    return torch.stack(draws, 1)


def _sizes(shape: Sequence[int]) -> tuple[int, ...]:
    sizes = tuple(shape)
    if not sizes or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in sizes):
        raise ValueError(f"shape must hold at least one int, each at least 1, got {shape!r}")
    return sizes
