"""Expectations of products of random matrices, by many short products and few long ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.operators.arrays import Kind, as_tensor, check_finite, give_back
from resolvent.random import GeneratorLike, as_generator

Sampler = Callable[[int, Tensor, torch.Generator], tuple[Any, Any]]
# Numbers that one call of the sampler is asked for, at most.
_BLOCK = 1 << 21
# The share of the squared error that a bias may take where the finest level is not the whole.
_BIAS = 0.25


@dataclass(frozen=True)
class MultilevelEstimate:
    """An estimated expectation and what it took.

    Attributes
    ----------
    value : (r, c)
    standard_error : (r, c), of each entry, the bias not included
    error : estimate of the root mean square error in the Frobenius norm, bias included
    method : "multilevel", or "single level" where the coarse levels did not pay
    inner : indices used at each level that counts, coarsest first
    samples : samples at each of them
    multiply_adds : for all products, those of pilots and of levels given up included
    single_level : predicted multiply-adds of products at the finest level alone, for the same error

    Examples
    --------
    >>> MultilevelEstimate(torch.zeros(1, 1), torch.ones(1, 1), 1.0, "single level", (8,), (50,), 400.0, 400.0).inner
    (8,)
    """

    value: Any
    standard_error: Any
    error: float
    method: str
    inner: tuple[int, ...]
    samples: tuple[int, ...]
    multiply_adds: float
    single_level: float


def multilevel_expectation(
    sampler: Sampler,
    n_inner: int,
    rmse: float,
    *,
    coarsest: int = 16,
    pilot: int = 50,
    max_multiply_adds: float = 1e12,
    generator: GeneratorLike = None,
) -> MultilevelEstimate:
    r"""The expectation :math:`E[A(\omega) B(\omega)]` of a product over a long inner dimension.

    Parameters
    ----------
    sampler : called with a count s, inner indices (t,) and a generator; returns s independent realisations of
        those columns of A, (s, r, t), and rows of B, (s, t, c), both parts of a pair from one :math:`\omega`
    n_inner : length n of the inner dimension
    rmse : root mean square error wanted, in the Frobenius norm
    coarsest : indices at the coarsest level, about
    pilot : samples at each level before it is judged
    max_multiply_adds : where to give up
    generator : handed to the sampler

    Returns
    -------
    MultilevelEstimate

    Raises
    ------
    ConvergenceError : more than `max_multiply_adds` would be needed; carries the estimate so far.
    ValueError : arguments out of range, samples of the wrong shape or with NaN.

    Notes
    -----
    Level l takes every :math:`2^{L-l}`-th index (one random shift a call), nested. With E and O the products over the
    indices that the coarser level has and has not, :math:`P_l = s_l (E + O)` and :math:`Y_l = P_l - P_{l-1} =
    s_l (O - E)` come from one realisation for one product. Giles' loop: :math:`N_l = \frac43\,rmse^{-2} \sqrt{V_l / C_l}
    \sum_k \sqrt{V_k C_k}`, and finer levels until :math:`\|E Y_L\| \le rmse/2` or the level is the whole. The
    coarsest level that takes part is the one that makes the sum smallest; if that is the finest, nothing is gained by
    levels, and the method says so. Variances are measured, and so is the error. No gradient.

    References
    ----------
    "A Multilevel Monte Carlo Estimator for Matrix Multiplication"; "Multilevel Monte Carlo Path Simulation"

    Examples
    --------
    >>> def ramps(count, index, generator):
    ...     slope = torch.rand(count, 1, 1, generator=generator, dtype=torch.float64)
    ...     A = slope * index / 1024
    ...     return A, torch.full((count, len(index), 1), 1 / 1024, dtype=torch.float64)
    >>> found = multilevel_expectation(ramps, 1024, rmse=0.01, generator=0)
    >>> abs(float(found.value) - 0.25) < 0.04, found.multiply_adds < found.single_level
    (True, True)
    """
    for name, value, least in (("n_inner", n_inner, 1), ("coarsest", coarsest, 1), ("pilot", pilot, 2)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be an int of at least {least}, got {value!r}")
    if not 0 < rmse < math.inf:
        raise ValueError(f"rmse must be positive, got {rmse!r}")
    g = as_generator(generator)
    depth = max(0, math.ceil(math.log2(n_inner / coarsest))) if n_inner > coarsest else 0
    grid = _Grid(sampler, n_inner, depth, int(torch.randint(1 << depth, (), generator=g, device=g.device)), g)
    levels = [_Level(grid, 0)]
    while True:
        for level in levels:
            level.extend(pilot - level.count)
        first = _cheapest(levels)
        last = len(levels) - 1 == depth
        # Two levels say nothing yet of how fast the changes fall.
        if last or len(levels) > 2:
            _sample(levels, first, rmse, last, max_multiply_adds)
            if last or levels[-1].bias() <= rmse * math.sqrt(_BIAS):
                return _estimate(levels, first, rmse, last)
        levels.append(_Level(grid, len(levels)))


class _Grid:
    """Index sets of the levels, and realisations on them."""

    def __init__(self, sampler: Sampler, n: int, depth: int, shift: int, generator: torch.Generator) -> None:
        self.sampler, self.n, self.depth, self.shift, self.generator = sampler, n, depth, shift, generator
        self.kind: Kind = "torch"

    def products(self, level: int, count: int) -> tuple[Tensor, Tensor, int]:
        """P and Y of `count` realisations, and the multiply-adds of one."""
        stride = 1 << (self.depth - level)
        old = torch.arange(self.shift % (2 * stride), self.n, 2 * stride)
        new = torch.arange((self.shift + stride) % (2 * stride), self.n, 2 * stride)
        if level == 0:
            old, new = torch.arange(self.shift % stride, self.n, stride), new[:0]
        index = torch.cat([old, new])
        (A, kind), (B, _) = (as_tensor(t, "sampler") for t in self.sampler(count, index, self.generator))
        self.kind = kind
        t = len(index)
        if A.ndim != 3 or B.ndim != 3 or (len(A), A.shape[2], len(B), B.shape[1]) != (count, t, count, t):
            shapes = f"{tuple(A.shape)} and {tuple(B.shape)}"
            raise ValueError(f"sampler must return shapes ({count}, r, {t}) and ({count}, {t}, c), got {shapes}")
        E = A[:, :, : len(old)] @ B[:, : len(old)]
        cost = A.shape[1] * B.shape[2] * t
        if level == 0:
            return stride * E, stride * E, cost
        odd = A[:, :, len(old) :] @ B[:, len(old) :]
        return stride * (E + odd), stride * (odd - E), cost


class _Level:
    """Running sums of one level."""

    def __init__(self, grid: _Grid, number: int) -> None:
        self.grid, self.number, self.count, self.cost = grid, number, 0, 0
        self.size = len(range(grid.shift % (1 << (grid.depth - number)), grid.n, 1 << (grid.depth - number)))
        self.sums: list[Tensor] = []
        self.squares: list[Tensor] = []
        self.center: list[Tensor] = []

    def extend(self, more: int) -> None:
        """Draw more samples."""
        while more > 0:
            width = 2 if not self.count else sum(self.center[0].shape)
            part = min(more, max(2, _BLOCK // (self.size * width)))
            *found, self.cost = self.grid.products(self.number, part)
            for t in found:
                check_finite(t, "sampler")
            if not self.count:
                # Squares are taken about the first mean: no cancellation where the variance is small.
                self.center = [t.mean(0) for t in found]
                self.sums = [torch.zeros_like(t) for t in self.center]
                self.squares = [torch.zeros_like(t.real) for t in self.center]
            for k, t in enumerate(found):
                apart = t - self.center[k]
                self.sums[k] += apart.sum(0)
                self.squares[k] += apart.abs().square().sum(0)
            self.count += part
            more -= part

    def mean(self, k: int) -> Tensor:
        return self.center[k] + self.sums[k] / self.count

    def variances(self, k: int) -> Tensor:
        """Of the entries of P (k = 0) or Y (k = 1)."""
        return ((self.squares[k] - self.sums[k].abs().square() / self.count) / (self.count - 1)).clamp(min=0)

    def work(self, k: int) -> float:
        """The root of variance times cost."""
        return math.sqrt(float(self.variances(k).sum()) * self.cost)

    def bias(self) -> float:
        """What the next levels together would add: as much as this one did, where changes halve."""
        size = float(self.mean(1).abs().square().sum()) - float(self.variances(1).sum()) / self.count
        return math.sqrt(max(size, 0.0))


def _cheapest(levels: list[_Level]) -> int:
    """The first level that should take part."""
    tails = [sum(level.work(1) for level in levels[k + 1 :]) for k in range(len(levels))]
    sums = [levels[k].work(0) + tail for k, tail in enumerate(tails)]
    return sums.index(min(sums))


def _sample(levels: list[_Level], first: int, rmse: float, last: bool, most: float) -> None:
    """Giles' numbers of samples, until the variances they were computed from hold."""
    share = 1.0 if last else 1 / (1 - _BIAS)
    while True:
        used = levels[first:]
        work = [level.work(min(k, 1)) for k, level in enumerate(used)]
        wanted = [math.ceil(share / rmse**2 * w / level.cost * sum(work)) for w, level in zip(work, used, strict=True)]
        cost = sum(max(n, level.count) * level.cost for n, level in zip(wanted, used, strict=True))
        if cost > most:
            reached = _estimate(levels, first, rmse, last)
            raise ConvergenceError(
                f"multilevel_expectation: {cost:.1e} multiply-adds for rmse {rmse:.1e}, {most:.1e} are allowed",
                best=reached,
                error=reached.error,
            )
        if all(level.count >= n for n, level in zip(wanted, used, strict=True)):
            return
        # At most four times as many at once, as long as the variances come from few samples.
        for n, level in zip(wanted, used, strict=True):
            level.extend(min(n, 4 * level.count) - level.count)


def _estimate(levels: list[_Level], first: int, rmse: float, last: bool) -> MultilevelEstimate:
    used = levels[first:]
    parts = [min(k, 1) for k in range(len(used))]
    value = sum((level.mean(k) for k, level in zip(parts[1:], used[1:], strict=True)), used[0].mean(0))
    spread = sum(
        (level.variances(k) / level.count for k, level in zip(parts[1:], used[1:], strict=True)),
        used[0].variances(0) / used[0].count,
    )
    bias = 0.0 if last else used[-1].bias()
    kind = used[0].grid.kind
    single = (1.0 if last else 1 / (1 - _BIAS)) * used[-1].work(0) ** 2 / rmse**2
    return MultilevelEstimate(
        give_back(value, kind),
        give_back(spread.sqrt(), kind),
        math.sqrt(float(spread.sum()) + bias**2),
        "multilevel" if len(used) > 1 else "single level",
        tuple(level.size for level in used),
        tuple(level.count for level in used),
        float(sum(level.count * level.cost for level in levels)),
        max(single, float(used[-1].cost)),
    )
