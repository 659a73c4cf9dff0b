"""Sparse products of patterns and values: who multiplies which rows, with which table, and the way by torch alone."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resolvent.operators.memory import fresh
from resolvent.operators.pattern import Pattern, row_pointers

SEMIRINGS = ("plus_times", "min_plus", "max_plus", "max_times", "max_min", "or_and")

# Products that keep one core busy for longer than it takes to wake another.
_PER_THREAD = 500_000
# Windows per thread: enough to balance what the counted products do not say.
_WINDOWS = 16
# Columns whose table of sums stays in the caches near a core.
_NEAR = 1 << 18
# Columns between the first and the last entry of a row of the product that count as lying close together.
_SPAN = 1 << 16
# Products per entry of the result up to which room is taken for all products, of which only what is used is touched.
_MEET = 4.0
_SAMPLE = 32


def count_flops(X: Pattern, Y: Pattern) -> int:
    """How many products of two entries X Y adds up.

    Examples
    --------
    >>> X = Pattern(torch.tensor([0, 2]), torch.tensor([0, 1]), (1, 2))
    >>> Y = Pattern(torch.tensor([0, 3, 4]), torch.tensor([0, 1, 2, 0]), (2, 3))
    >>> count_flops(X, Y)
    4
    """
    if X.device.type == "cpu":
        return int(np.diff(Y.indptr.numpy())[X.indices.numpy()].sum(dtype=np.int64))
    return int(Y.indptr.diff().long()[X.indices.long()].sum())


def full_pattern(shape: tuple[int, int], device: torch.device) -> Pattern:
    """Every entry of a matrix.

    Examples
    --------
    >>> full_pattern((2, 3), torch.device("cpu")).indices.tolist()
    [0, 1, 2, 0, 1, 2]
    """
    m, n = shape
    return Pattern(torch.arange(m + 1, device=device) * n, torch.arange(n, device=device).repeat(m), shape)


def rising(pattern: Pattern) -> bool:
    """Whether the columns of every row rise, without repetitions.

    Examples
    --------
    >>> rising(Pattern(torch.tensor([0, 2]), torch.tensor([1, 0]), (1, 2)))
    False
    """
    if pattern.device.type == "cpu":
        from resolvent.factor import spgemm_masked_kernel as kernel

        return bool(kernel.rising(*_arrays(pattern)))
    places = pattern.rows * pattern.shape[1] + pattern.indices
    return bool((places[1:] > places[:-1]).all())


def _arrays(pattern: Pattern) -> tuple[np.ndarray, np.ndarray]:
    """Row pointers of 64 bits and columns of 32: one form, so that the kernels are compiled once a dtype."""
    indices = pattern.indices.numpy()
    narrow = indices.view(np.uint32) if indices.dtype == np.int32 else indices.astype(np.uint32)
    return pattern.indptr.numpy().astype(np.int64), narrow


def _windows(work: np.ndarray, threads: int) -> tuple[np.ndarray, ...]:
    """Windows of rows of about equal work, dealt to the threads, the largest first.

    Returns bounds of the windows, the windows in the order of the threads, where each thread begins in that order, and
    the work of each thread.
    """
    total = np.concatenate([[0], np.cumsum(work)])
    count = max(1, min(_WINDOWS * threads, len(work)))
    bounds = np.unique(np.searchsorted(total, np.linspace(0, total[-1], count + 1), side="left"))
    bounds = np.unique(np.concatenate([[0], bounds, [len(work)]]))
    amount = total[bounds[1:]] - total[bounds[:-1]]
    load, owned = np.zeros(threads, np.int64), [[] for _ in range(threads)]  # type: ignore[var-annotated]
    for w in np.argsort(-amount, kind="stable"):
        t = int(load.argmin())
        owned[t].append(int(w))
        load[t] += amount[w]
    order = np.array([w for mine in owned for w in sorted(mine)], np.int64)
    parts = np.concatenate([[0], np.cumsum([len(mine) for mine in owned])]).astype(np.int64)
    return bounds, order, parts, load


def _threads(work: int) -> int:
    from resolvent.operators.parallel import numba

    return max(1, min(numba.get_num_threads(), work // _PER_THREAD))


def _tables(n: int, method: str) -> tuple[int, int]:
    """From how many products on, or within how many columns, a row is gathered with one place per column."""
    if method == "hash":
        return 1 << 62, 0
    return (0, _SPAN) if method == "dense_accumulator" or n <= _NEAR else (n // 64, _SPAN)


def _met(kernel: ModuleType, symbolic: tuple[Any, ...], flops: np.ndarray, counts: np.ndarray) -> float:
    """Products per entry of the result, from a sample of its rows."""
    m = len(flops)
    first = np.unique(np.linspace(0, max(m - _SAMPLE, 0), _SAMPLE).astype(np.int64))
    last = np.minimum(first + _SAMPLE // 8, m)
    kernel.count_rows(np.arange(len(first)), first, last, *symbolic)
    rows = np.concatenate([np.arange(s, e) for s, e in zip(first, last, strict=True)])
    return float(flops[rows].sum() / max(counts[rows].sum(), 1))


def by_rows(
    X: Pattern, x: Tensor, Y: Pattern, y: Tensor, method: str
) -> tuple[Pattern, Tensor, int, tuple[int, ...], str]:
    """The product row by row: pattern, values, bytes of the tables, products of each thread, the table used.

    Examples
    --------
    >>> X = Pattern(torch.tensor([0, 2]), torch.tensor([0, 1]), (1, 2))
    >>> Y = Pattern(torch.tensor([0, 1, 2]), torch.tensor([2, 2]), (2, 3))
    >>> by_rows(X, torch.tensor([1.0, 2.0]), Y, torch.tensor([1.0, 1.0]), "auto")[1]
    tensor([3.])
    """
    from resolvent.factor import spgemm_kernel as kernel

    (m, _), n = X.shape, Y.shape[1]
    (a_ptr, a_idx), (b_ptr, b_idx) = _arrays(X), _arrays(Y)
    a_val, b_val = x.numpy(), y.numpy()
    flops = kernel.flops_per_row(a_ptr, a_idx, b_ptr)
    work = int(flops.sum())
    threads = _threads(work)
    dense_from, span = _tables(n, method)
    counts = np.empty(m, np.int64)
    symbolic = (a_ptr, a_idx, b_ptr, b_idx, n, flops, dense_from, span, counts)
    c_ptr = np.zeros(m + 1, np.int64)
    # One thread writes row after row: it counts before only where room for all products would be far too much.
    known = threads > 1 or (work > 0 and _met(kernel, symbolic, flops, counts) > _MEET)
    if threads > 1:
        bounds, order, parts, _ = _windows(flops + 1, threads)
        given = (order, bounds[:-1], bounds[1:])
        kernel.count_entries(parts, *given, *symbolic)
        done = tuple(sum(int(flops[bounds[w] : bounds[w + 1]].sum()) for w in order[s:e]) for s, e in _pairs(parts))
    else:
        given, done = (np.zeros(1, np.int64), np.zeros(1, np.int64), np.array([m])), (work,)
        if known:
            kernel.count_rows(*given, *symbolic)
    if known:
        np.cumsum(counts, out=c_ptr[1:])
    room = int(c_ptr[-1]) if known else work
    c_idx, c_val = fresh((room,), np.dtype(np.uint32)), fresh((room,), a_val.dtype)
    used = np.zeros((threads, 2), np.int64)
    numeric = (a_ptr, a_idx, a_val, b_ptr, b_idx, b_val, n, flops, dense_from, span, known, c_ptr, c_idx, c_val)
    if threads == 1:
        kernel.fill_rows(*given, *numeric, used[0])
    else:
        kernel.fill_entries(parts, *given, *numeric, used)
    c_idx, c_val = c_idx[: c_ptr[-1]], c_val[: c_ptr[-1]]
    C = _unchecked(torch.from_numpy(c_ptr), torch.from_numpy(c_idx.view(np.int32)), (m, n))
    by_hash, by_place = (bool(total) for total in used.sum(0))
    largest = int(min(flops[flops < dense_from].max(initial=0), n)) if by_hash else 0
    table = n * (a_val.itemsize + 2) + n // 8 if by_place else 0
    table += int((4 + a_val.itemsize) * 2 ** np.ceil(np.log2(2 * largest)) + 16 * largest) if largest else 0
    names = [name for name, there in (("hash", by_hash), ("dense_accumulator", by_place)) if there]
    chosen = ", ".join(names) or ("hash" if method == "hash" else "dense_accumulator")
    return C, torch.from_numpy(c_val), threads * table, done, chosen


def _unchecked(indptr: Tensor, indices: Tensor, shape: tuple[int, int]) -> Pattern:
    """A pattern that a kernel made: its indices need no test, which costs three passes over them."""
    out = object.__new__(Pattern)
    kind = torch.int32 if max(*shape, len(indices)) < 2**31 else torch.int64
    out.indptr, out.indices, out.shape = indptr.to(kind), indices.to(kind), shape
    return out


def _pairs(parts: np.ndarray) -> list[tuple[int, int]]:
    return list(zip(parts[:-1].tolist(), parts[1:].tolist(), strict=True))


def masked(
    X: Pattern, x: Tensor, Y: Pattern, y: Tensor, M: Pattern, ring: int, method: str
) -> tuple[Tensor, Tensor, int, int, str]:
    """The product at the entries of M: values, whether anything was added up, bytes beside, entries read, the method.

    Examples
    --------
    >>> X = Pattern(torch.tensor([0, 1]), torch.tensor([0]), (1, 2))
    >>> Y = Pattern(torch.tensor([0, 1, 2]), torch.tensor([2, 1]), (2, 3))
    >>> full = full_pattern((1, 3), torch.device("cpu"))
    >>> masked(X, torch.tensor([5.0]), Y, torch.tensor([1.0, 1.0]), full, 0, "auto")[:2]
    (tensor([0., 0., 5.]), tensor([False, False,  True]))
    """
    from resolvent.factor import spgemm_masked_kernel as kernel

    (m, _), n = X.shape, Y.shape[1]
    (a_ptr, a_idx), (m_ptr, m_idx) = _arrays(X), _arrays(M)
    lengths = np.diff(Y.indptr.numpy().astype(np.int64))
    push = np.add.reduceat(np.append(lengths[a_idx], 0), a_ptr[:-1]) * (np.diff(a_ptr) > 0)
    tall = np.bincount(Y.indices.numpy(), minlength=n)
    each = np.diff(m_ptr)
    pull = np.add.reduceat(np.append(tall[m_idx], 0), m_ptr[:-1]) * (each > 0) + each * np.diff(a_ptr)
    inner = method == "inner" or (method == "auto" and int(pull.sum()) < int(push.sum()))
    work = (pull if inner else push) + each + 1
    threads = _threads(int(work.sum()))
    bounds = np.searchsorted(np.cumsum(work), np.linspace(0, work.sum(), threads + 1)).astype(np.int64)
    bounds[-1] = m
    out, hit = np.zeros(len(m_idx), x.numpy().dtype), np.zeros(len(m_idx), np.bool_)
    values = y.numpy()
    if inner:
        indptr, indices, order = Y._transposed
        b = (*_arrays(Pattern(indptr, indices, (n, Y.shape[0]))), values[order.numpy()])
    else:
        b = (*_arrays(Y), values)
    rest = (ring, a_ptr, a_idx, x.numpy(), *b, n, m_ptr, m_idx, out, hit)
    if threads == 1:
        (kernel.inner_rows if inner else kernel.push_rows)(0, m, *rest)
    else:
        (kernel.inner if inner else kernel.push)(bounds, *rest)
    beside = len(values) * (8 + values.itemsize) if inner else 4 * n * threads
    name = "inner" if inner else "dense_accumulator"
    reads = int(pull.sum() if inner else push.sum() + len(a_idx))
    return torch.from_numpy(out), torch.from_numpy(hit), beside, reads, name


def expanded(X: Pattern, x: Tensor, Y: Pattern, y: Tensor, M: Pattern | None, ring: int) -> tuple[Pattern, Tensor, int]:
    """The product as a sum of outer products, column of X times row of Y: all of them are held, then merged. By torch.

    Examples
    --------
    >>> X = Pattern(torch.tensor([0, 2]), torch.tensor([0, 1]), (1, 2))
    >>> Y = Pattern(torch.tensor([0, 1, 2]), torch.tensor([2, 2]), (2, 3))
    >>> expanded(X, torch.tensor([1.0, 2.0]), Y, torch.tensor([1.0, 1.0]), None, 0)[1]
    tensor([3.])
    """
    _, rows, order = X._transposed
    inner = X.indices.long()[order]
    lengths = Y.indptr.diff().long()[inner]
    owner = torch.repeat_interleave(torch.arange(len(order), device=x.device), lengths)
    ends = lengths.cumsum(0)
    at = torch.arange(len(owner), device=x.device) - (ends - lengths - Y.indptr.long()[inner])[owner]
    n = Y.shape[1]
    places = rows.long()[owner] * n + Y.indices.long()[at]
    left, right = x[order][owner], y[at]
    if ring in (1, 2):
        parts = left + right
    elif ring == 4:
        parts = torch.minimum(left, right)
    elif ring == 5:
        parts = ((left != 0) & (right != 0)).to(x.dtype)
    else:
        parts = left * right
    if M is not None:
        wanted = M.rows * n + M.indices
        spot = torch.searchsorted(wanted, places).clamp_(max=max(len(wanted) - 1, 0))
        kept = wanted[spot] == places if len(wanted) else torch.zeros_like(places, dtype=torch.bool)
        places, parts = places[kept], parts[kept]
    beside = len(owner) * (8 + x.element_size())
    taken, back = torch.unique(places, return_inverse=True)
    if ring == 0:
        values = parts.new_zeros(len(taken)).index_add(0, back, parts)
    elif parts.is_complex():
        # or_and of complex numbers: ones and zeros.
        values = parts.real.new_zeros(len(taken)).scatter_reduce(0, back, parts.real, "amax", include_self=False)
        values = values.to(x.dtype)
    else:
        how = "amin" if ring == 1 else "amax"
        values = parts.new_zeros(len(taken)).scatter_reduce(0, back, parts, how, include_self=False)
    counts = torch.bincount(taken // n, minlength=X.shape[0]) if len(taken) else taken.new_zeros(X.shape[0])
    return Pattern(row_pointers(counts), taken % n if len(taken) else taken, (X.shape[0], n)), values, beside
