"""Search for schemes of low rank by random walks in the flip graph, over two or three elements or over -1, 0, 1.

>>> from resolvent import factor
>>> factor.flip_graph_search((2, 2, 3), target=11, generator=0).rank
11
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from resolvent.errors import ConvergenceError
from resolvent.factor.bilinear import BilinearScheme, standard_scheme
from resolvent.factor.flip_graph_kernel import walk
from resolvent.factor.structured_product import check_op
from resolvent.info import Info
from resolvent.random import GeneratorLike, as_generator

Ring = Literal["ZT", 2, 3]

_RINGS: dict[Any, int] = {"ZT": 0, 2: 2, 3: 3}
# Entries of a vector that fit one mask.
_WIDTH = 64


@dataclass(frozen=True)
class FlipInfo(Info):
    """What a search did.

    Attributes
    ----------
    flips : flips tried by all runners together
    ranks : the best rank found for each format that was visited (one, without meta moves)
    """

    flips: int = 0
    ranks: tuple[tuple[tuple[int, int, int], int], ...] = ()


class _Walker(NamedTuple):
    """A scheme as masks and signs, with room to grow."""

    P: np.ndarray
    N: np.ndarray
    S: np.ndarray
    rank: int


class _Search(NamedTuple):
    """What all strategies share."""

    ring: int
    op: str
    target: int
    allowance: int
    plus: tuple[int, int]
    runners: int
    path: int
    flips: int
    random: Callable[[int], int]
    pool: ThreadPoolExecutor


def flip_graph_search(
    n: int | tuple[int, int, int],
    op: str = "gg",
    *,
    ring: Ring = "ZT",
    target: int | None = None,
    start: BilinearScheme | None = None,
    meta: bool = False,
    method: Literal["walk", "pool"] = "walk",
    runners: int = 8,
    max_flips: int = 20_000_000,
    path_flips: int = 250_000,
    plus_after: int | tuple[int, int] = (5_000, 50_000),
    allowance: int = 2,
    pool_size: int = 200,
    workers: int = 2,
    generator: GeneratorLike = None,
    return_info: bool = False,
) -> Any:
    r"""Search a scheme of few multiplications by flips, reductions and plus steps.

    Parameters
    ----------
    n : the size, or the format (n1, n2, n3)
    op : two letters for the operands, as in `bilinear_tensor`
    ring : "ZT", integers of which only -1, 0, 1 are allowed: what is found holds over every ring; or 2 or 3, the field
        of so many elements: what is found holds modulo it, until `lift_scheme` lifts it
    target : the rank to stop at; None searches until `max_flips` are spent
    start : where to start; None means the standard scheme (with `meta` the smallest formats)
    meta : also change the format (general operands): extend, project and merge schemes of formats up to the wanted one
        and one more along its last axis
    method : "walk", runners that keep walking; or "pool", as many schemes as `pool_size` of one rank before the next
    runners : independent walks
    max_flips : flips of all runners together
    path_flips : flips of a runner between two decisions
    plus_after : so many flips without a smaller rank (drawn between two numbers) before a step up
    allowance : how far above the best rank a walk may step
    pool_size : schemes of a rank that the method "pool" collects
    workers : threads; the result does not depend on it
    generator : a torch.Generator, an int or None
    return_info : also return a `FlipInfo`

    Returns
    -------
    BilinearScheme, verified; of the smallest rank that was found.

    Raises
    ------
    ConvergenceError : `target` was not reached; its `best` is the scheme of the smallest rank.
    ValueError : vectors of more than 64 entries, a start that is not valid in the ring, and the like.

    Notes
    -----
    A flip turns s a b c + t a b' c' into s a (b + b') c + a b' (t c' - s c) for terms with a common factor; terms that
    agree in two factors merge, which lowers the rank. Over "ZT" a move that would give a 2 is not made. A plus step
    turns two terms into three. Vectors are two 64-bit masks with the first entry 1, so that equal up to sign is equal;
    lists of equal pairs are kept up to date. About 4 million flips a second and thread at ranks below 30.
    The walks find no bound: a missed target says nothing about the rank.

    References
    ----------
    "Faster Algorithms for Structured Matrix Multiplication via Flip Graph Search"
    "Fast Matrix Multiplication via Ternary Meta Flip Graphs"

    Examples
    --------
    >>> scheme = flip_graph_search(2, "sg", target=6, generator=0)
    >>> scheme.rank, scheme.verify(), scheme.ternary
    (6, True, True)
    """
    sizes = check_op(op, n)
    if ring not in _RINGS or isinstance(ring, bool):
        raise ValueError(f"ring must be 'ZT', 2 or 3, got {ring!r}")
    if method not in ("walk", "pool"):
        raise ValueError(f"method must be 'walk' or 'pool', got {method!r}")
    low, high = (plus_after, plus_after) if isinstance(plus_after, int) else plus_after
    counts = {
        "target": (1 if target is None else target, 1), "runners": (runners, 1), "max_flips": (max_flips, 1),
        "path_flips": (path_flips, 1), "plus_after": (low, 1), "allowance": (allowance, 0),
        "pool_size": (pool_size, 1), "workers": (workers, 1),
    }  # fmt: skip
    for name, (value, least) in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be an int, at least {least}, got {value!r}")
    if high < low:
        raise ValueError(f"plus_after must be two rising ints, got {plus_after!r}")
    if meta and (op != "gg" or start is not None or method != "walk"):
        raise ValueError("meta needs op 'gg', method 'walk' and no start")
    first = _started(start, op, sizes, _RINGS[ring])
    g = as_generator(generator)

    def random(bound: int) -> int:
        return int(torch.randint(bound, (), generator=g))

    with ThreadPoolExecutor(workers) as pool:
        search = _Search(
            _RINGS[ring], op, target or 0, allowance, (low, high), runners, path_flips, max_flips, random, pool
        )  # fmt: skip
        if meta:
            best, flips = _meta(search, sizes)
        else:
            best, flips = _pools(search, first, pool_size) if method == "pool" else _walks(search, first)
    scheme = best[sizes]
    if not scheme.verify():
        raise ArithmeticError("the scheme found does not satisfy the Brent equations; please report this")
    ranks = tuple(sorted((shape, found.rank) for shape, found in best.items()))
    reached = target is None or scheme.rank <= target
    info = FlipInfo("meta" if meta else method, error=scheme.rank - (target or scheme.rank), converged=reached,
                    flips=flips, ranks=ranks)  # fmt: skip
    if not reached:
        message = f"flip_graph_search: rank {scheme.rank} after {flips} flips, asked for {target}"
        raise ConvergenceError(message, best=scheme, error=info.error, info=info)
    return (scheme, info) if return_info else scheme


def _started(start: BilinearScheme | None, op: str, sizes: tuple[int, int, int], ring: int) -> BilinearScheme:
    scheme = standard_scheme(op, sizes) if start is None else start
    if (scheme.op, scheme.sizes) != (op, sizes):
        raise ValueError(f"start must be a scheme of {op!r} and the format {sizes}, got {scheme!r}")
    widest = max(part.shape[1] for part in (scheme.U, scheme.V, scheme.W))
    if widest > _WIDTH:
        raise ValueError(f"n: vectors of {widest} entries do not fit, at most {_WIDTH}; got the format {sizes}")
    if start is None:
        return scheme
    if ring == 0 and not scheme.ternary:
        raise ValueError("start must have coefficients -1, 0 and 1 for the ring 'ZT'")
    if scheme.denominator != 1 or scheme.modulus not in (0, ring) or not scheme.verify():
        raise ValueError(f"start must be a valid scheme in the ring, without a denominator, got {scheme!r}")
    return scheme


def _encoded(scheme: BilinearScheme, ring: int, room: int) -> _Walker:
    size = scheme.rank + room
    P, N, S = np.zeros((size, 3), np.uint64), np.zeros((size, 3), np.uint64), np.ones(size, np.int64)
    for mode, part in enumerate((scheme.U, scheme.V, scheme.W)):
        entries = part % 2 if ring == 2 else (part + 1) % 3 - 1 if ring == 3 else part
        bits = np.uint64(1) << np.arange(entries.shape[1], dtype=np.uint64)
        ones, minus = ((entries == value).astype(np.uint64) @ bits for value in (1, -1))
        # The first entry of each vector is made 1; a term that vanishes is dropped by the walk.
        turned = entries[np.arange(len(entries)), (entries != 0).argmax(1)] < 0
        P[: scheme.rank, mode], N[: scheme.rank, mode] = np.where(turned, minus, ones), np.where(turned, ones, minus)
        S[: scheme.rank] *= 1 - 2 * turned
    return _Walker(P, N, S, scheme.rank)


def _decoded(walker: _Walker, like: BilinearScheme, ring: int) -> BilinearScheme:
    parts = []
    for mode, part in enumerate((like.U, like.V, like.W)):
        places = np.arange(part.shape[1], dtype=np.uint64)
        ones, minus = (
            (masks[: walker.rank, mode, None] >> places & np.uint64(1)).astype(np.int64)
            for masks in (walker.P, walker.N)
        )
        parts.append(ones - minus)
    W = parts[2] * walker.S[: walker.rank, None]
    return BilinearScheme(parts[0], parts[1], W % 2 if ring == 2 else W, like.op, like.sizes, 1, ring)


def _path(search: _Search, now: _Walker, best: int, target: int, seed: int, flips: int) -> tuple[_Walker, _Walker, int]:
    """A walk: where it is, the best of it (rank `best` or more: none), flips done."""
    P, N, S = now.P.copy(), now.N.copy(), now.S.copy()
    bestP, bestN, bestS = P.copy(), N.copy(), S.copy()
    state = np.array([seed * 2 + 1], np.uint64)
    rank, reached, done = walk(
        P, N, S, now.rank, search.ring, flips, target, search.allowance, *search.plus, state,
        bestP, bestN, bestS, best,
    )  # fmt: skip
    return _Walker(P, N, S, rank), _Walker(bestP, bestN, bestS, reached), done


def _round(
    search: _Search, starts: list[_Walker], bests: list[int], targets: list[int], flips: int
) -> list[tuple[_Walker, _Walker, int]]:
    # Seeds are drawn before the threads run: the result does not depend on their order.
    seeds = [search.random(2**62) for _ in starts]
    each = [flips] * len(starts)
    return list(search.pool.map(_path, itertools.repeat(search), starts, bests, targets, seeds, each))


def _walks(search: _Search, first: BilinearScheme) -> tuple[dict[tuple[int, int, int], BilinearScheme], int]:
    room = search.allowance + 2
    start = _encoded(first, search.ring, room)
    runners = [start] * search.runners
    records = [start.rank + 1] * search.runners
    best, flips = start, 0
    while flips < search.flips and best.rank > search.target:
        share = min(search.path, -(-(search.flips - flips) // search.runners))
        for i, (now, found, done) in enumerate(
            _round(search, runners, records, [search.target] * search.runners, share)
        ):
            flips += done
            runners[i] = now
            if found.rank < records[i]:
                records[i] = found.rank
                if found.rank < best.rank:
                    best = found
        for i in range(search.runners):
            # A runner far behind starts again from the best: its own record is no longer worth its time.
            if records[i] > best.rank + 1:
                runners[i], records[i] = best, best.rank
    return {first.sizes: _decoded(best, first, search.ring)}, flips


def _pools(search: _Search, first: BilinearScheme, size: int) -> tuple[dict[tuple[int, int, int], BilinearScheme], int]:
    """All schemes of a rank before the next: each path starts from a random scheme of the pool."""
    pool, flips = [_encoded(first, search.ring, search.allowance + 2)], 0
    while flips < search.flips and pool[0].rank > search.target:
        rank = pool[0].rank
        following: list[_Walker] = []
        while len(following) < size and flips < search.flips:
            starts = [pool[search.random(len(pool))] for _ in range(search.runners)]
            share = min(search.path, -(-(search.flips - flips) // search.runners))
            for _, found, done in _round(search, starts, [rank] * len(starts), [rank - 1] * len(starts), share):
                flips += done
                if found.rank < rank:
                    following.append(found)
            if any(found.rank <= search.target for found in following):
                break
        if not following:
            break
        least = min(found.rank for found in following)
        pool = [found for found in following if found.rank == least]
    return {first.sizes: _decoded(pool[0], first, search.ring)}, flips


def _meta(search: _Search, sizes: tuple[int, int, int]) -> tuple[dict[tuple[int, int, int], BilinearScheme], int]:
    """Walks that change the format: after each path the scheme is extended, projected or merged, or stays."""
    limits = (*sizes[:2], sizes[2] + (max(sizes[0] * sizes[2], sizes[1] * sizes[2]) + max(sizes[:2]) <= _WIDTH))
    smallest = tuple(min(2, size) for size in sizes)
    seed = standard_scheme("gg", smallest)  # type: ignore[arg-type]
    schemes = [seed] * search.runners
    best, flips = {seed.sizes: seed}, 0
    while flips < search.flips and (sizes not in best or best[sizes].rank > search.target):
        room = search.allowance + 2
        starts = [_encoded(scheme, search.ring, room) for scheme in schemes]
        targets = [search.target if scheme.sizes == sizes else 0 for scheme in schemes]
        bests = [scheme.rank + 1 for scheme in schemes]
        share = min(search.path, -(-(search.flips - flips) // search.runners))
        for i, (now, found, done) in enumerate(_round(search, starts, bests, targets, share)):
            flips += done
            # Of equal ranks the later one: the walk goes on where it was.
            scheme = _decoded(now if now.rank <= found.rank else found, schemes[i], search.ring)
            if scheme.sizes not in best or scheme.rank < best[scheme.sizes].rank:
                best[scheme.sizes] = scheme
            schemes[i] = _changed(search, scheme, best, limits, sizes)
            found_now = schemes[i]
            if found_now.sizes not in best or found_now.rank < best[found_now.sizes].rank:
                best[found_now.sizes] = found_now
    if sizes not in best:
        best[sizes] = standard_scheme("gg", sizes)
    return best, flips


def _changed(
    search: _Search,
    scheme: BilinearScheme,
    best: dict[tuple[int, int, int], BilinearScheme],
    limits: tuple[int, ...],
    sizes: tuple[int, int, int],
) -> BilinearScheme:
    """The scheme after a random change of its format that stays within the limits, if there is one."""
    options: list[Callable[[], BilinearScheme]] = []
    for axis, (size, limit) in enumerate(zip(scheme.sizes, limits, strict=True)):
        if size < limit:
            options.append(lambda axis=axis: scheme.extend(axis))  # type: ignore[misc]
        for other in best.values():
            same = all(a == b for k, (a, b) in enumerate(zip(scheme.sizes, other.sizes, strict=True)) if k != axis)
            if same and size + other.sizes[axis] <= limit:
                options.append(lambda axis=axis, other=other: scheme.merge(other, axis))  # type: ignore[misc]
        if size > sizes[axis]:
            options.append(lambda axis=axis, size=size: scheme.project(axis, search.random(size)))  # type: ignore[misc]
    if scheme.sizes == sizes and search.random(2):
        return best[sizes]
    return options[search.random(len(options))]() if options else scheme
