"""Matrix completion: a matrix of low rank from a few of its entries."""

from __future__ import annotations

import math
import sys
import warnings
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from resolvent.errors import AccuracyWarning, ConvergenceError
from resolvent.factor.observed import SMALL, Observed
from resolvent.info import Info
from resolvent.operators.arrays import Kind, as_tensor, check_finite
from resolvent.operators.lowrank import LowRank
from resolvent.operators.magnitude import unit_of
from resolvent.operators.threads import one_thread
from resolvent.random import GeneratorLike, as_generator

Inner = Literal["cg", "sketched", "exact"]


def complete(
    entries: Any,
    rank: int,
    shape: tuple[int, int] | None = None,
    *,
    inner: Inner = "cg",
    inner_rtol: float = 0.1,
    ridge: float = 0.0,
    rtol: float | None = None,
    max_sweeps: int = 500,
    incoherence: float = 4.0,
    start: Any = None,
    generator: GeneratorLike = None,
    return_info: bool = False,
) -> Any:
    r"""A matrix of rank k that agrees with known entries:
    :math:`\min_X \|P_\Omega(X - M)\|_F^2 + \lambda p \|X\|_F^2`, rank X = k.

    Parameters
    ----------
    entries : what is known of M: ``(rows, cols, values)``; a sparse matrix (SciPy or torch), whose stored entries are
        known, zeros among them; or a dense matrix with NaN where nothing is known
    rank : k, from 1 to min(m, n)
    shape : (m, n), for the first form
    inner : how a sweep solves its small least-squares problems, one for each row: "cg" (conjugate gradients from the
        last sweep's solution), "sketched" (the same, preconditioned by a CountSketch of 4 k rows) or "exact"
    inner_rtol : the inner solutions of "cg" and "sketched" reduce their gradient by this factor, above 0 and below 1
    ridge : :math:`\lambda \ge 0`, the weight of the size of X, for entries with noise; p is the share of known entries
    rtol : bound on :math:`\|P_\Omega(X - X_\infty)\| / \|P_\Omega M\|`, the way that is left to the limit of the sweeps;
        default 1e-8 in float64, 1e-4 in float32
    max_sweeps : over both sides
    incoherence : mu; rows of the first factor that are longer than :math:`2 \mu \sqrt{k / m}` are set to zero
    start : (m, k) a first left factor instead of that of the zero-filled matrix
    generator : randomness of the first factor and of the sketches
    return_info : also return an `Info`; its `matvecs` counts the inner steps of an average row

    Returns
    -------
    LowRank : U diag(s) V^T with orthonormal U, V and s descending; NumPy for NumPy

    Raises
    ------
    ValueError : an index, a value or an argument is out of range, an entry is named twice, nothing is known, the
        numbers are complex, or a gradient is wanted: there is none.
    ConvergenceError : `max_sweeps` did not reach `rtol`; `best` is the `LowRank`.

    Warns
    -----
    AccuracyWarning : rows or columns with fewer than k known entries, which no method can determine.

    Notes
    -----
    The k leading left vectors of the zero-filled matrix, clipped; then alternately V and U by least squares, with the
    other side's columns made orthonormal. A sample of orthonormal columns is well conditioned, so that a few inner
    steps are enough, and a sweep costs O(|Omega| k + (m + n) k^2) instead of O(|Omega| k^2). The way to the limit is
    measured as the change of a sweep over 1 minus the ratio of two changes. All known entries are used in every sweep;
    the paper's proof splits them. Exact solutions of a row that its entries hardly determine can be huge and hold up all
    sweeps; inexact ones are damped, and so are those with a small `ridge`. On CUDA the inner method is "cg" over all rows at once. Not differentiable.

    References
    ----------
    "Low Rank Matrix Completion via Robust Alternating Minimization in Nearly Linear Time"

    Examples
    --------
    >>> nan = float("nan")
    >>> M = torch.tensor([[1.0, 2.0, nan], [2.0, nan, 6.0], [nan, 6.0, 9.0]]).double()
    >>> complete(M, 1).to_dense().round(decimals=4)
    tensor([[1., 2., 3.],
            [2., 4., 6.],
            [3., 6., 9.]], dtype=torch.float64)
    """
    rows, cols, values, shape, kind = _known(entries, shape)
    rtol = _checked(values, rank, shape, inner, inner_rtol, ridge, rtol, max_sweeps, incoherence)
    source = as_generator(generator)
    # Squares of the entries must stay within the range of their dtype.
    unit = unit_of(values)
    observed = Observed(rows, cols, values / unit, shape, int(torch.randint(2**31, (), generator=source)))
    short = observed.shorter_than(rank)
    if short:
        warnings.warn(f"{short} rows or columns have fewer than {rank} known entries", AccuracyWarning, stacklevel=2)
    with one_thread(len(values) * rank < SMALL):
        start = _first_factor(observed, rank, incoherence, source) if start is None else _given(start, observed, rank)
        found, steps, sweeps, error = _alternated(observed, start, (inner, inner_rtol, ridge), rtol, max_sweeps)
    found = LowRank(found.U, found.s * unit, found.V)
    found.kind = kind
    info = Info(f"alternating {inner}", round(steps), sweeps, error, error <= rtol)
    if not info.converged:
        message = f"complete: {error:.2g} from the limit after {sweeps} sweeps, asked for {rtol:.2g}"
        raise ConvergenceError(message, best=found, error=error, info=info)
    return (found, info) if return_info else found


def _alternated(
    observed: Observed, U: Tensor, how: tuple[str, float, float], rtol: float, max_sweeps: int
) -> tuple[LowRank, float, int, float]:
    """The matrix, inner steps, sweeps and the way that is left to the limit."""
    U = torch.linalg.qr(U).Q
    V = U.new_zeros(observed.shape[1], U.shape[1])
    size = float(torch.linalg.vector_norm(observed.values))
    last = error = math.inf
    steps, sweeps = 0.0, 0
    for sweeps in range(1, max_sweeps + 1):
        V, right_change, right_steps = observed.columns(U, V, *how)
        U, V = _orthonormal_right(U, V)
        U, change, left_steps = observed.rows(V, U, *how)
        V, U = _orthonormal_right(V, U)
        steps += right_steps + left_steps
        change = math.hypot(change, right_change) / (size or 1.0)
        ratio = min(change / last, 0.999) if last > 0 else 0.0
        # The first change has nothing to be compared with.
        error = 0.0 if change == 0 else change * ratio / (1 - ratio) if sweeps > 1 else math.inf
        last = change
        if error <= rtol:
            break
    return _in_order(U, V), steps, sweeps, error


def _orthonormal_right(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """The same product left right^T with orthonormal columns on the right."""
    Q, R = torch.linalg.qr(right)
    return left @ R.mT, Q


def _in_order(U: Tensor, V: Tensor) -> LowRank:
    """U V^T by its singular vectors, both of full column rank or not."""
    P, R = torch.linalg.qr(U)
    Q, S = torch.linalg.qr(V)
    left, s, right = torch.linalg.svd(R @ S.mT)
    return LowRank(P @ left, s, Q @ right.mT)


def _first_factor(observed: Observed, rank: int, incoherence: float, source: torch.Generator) -> Tensor:
    """The leading left vectors of the zero-filled matrix without the rows that are too long."""
    from resolvent.factor.randomized import randomized_svd

    U = randomized_svd(observed.operator(), rank, power=3, generator=source)[0]
    long = torch.linalg.vector_norm(U, dim=1) > 2 * incoherence * math.sqrt(rank / U.shape[0])
    return U.masked_fill(long[:, None], 0.0)


def _given(start: Any, observed: Observed, rank: int) -> Tensor:
    U, _ = as_tensor(start, "start")
    if tuple(U.shape) != (observed.shape[0], rank):
        raise ValueError(f"start must have shape {(observed.shape[0], rank)}, got {tuple(U.shape)}")
    check_finite(U, "start")
    return U.detach().to(observed.values)


def _checked(
    values: Tensor,
    rank: int,
    shape: tuple[int, int],
    inner: str,
    inner_rtol: float,
    ridge: float,
    rtol: float | None,
    max_sweeps: int,
    incoherence: float,
) -> float:
    if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= min(shape):
        raise ValueError(f"rank must be an int from 1 to {min(shape)}, got {rank!r}")
    if inner not in ("cg", "sketched", "exact"):
        raise ValueError(f"inner must be 'cg', 'sketched' or 'exact', got {inner!r}")
    if not 0 < inner_rtol < 1:
        raise ValueError(f"inner_rtol must lie between 0 and 1, got {inner_rtol!r}")
    if not (ridge >= 0 and math.isfinite(ridge)):
        raise ValueError(f"ridge must be finite and not negative, got {ridge!r}")
    if isinstance(max_sweeps, bool) or not isinstance(max_sweeps, int) or max_sweeps < 1:
        raise ValueError(f"max_sweeps must be an int of at least 1, got {max_sweeps!r}")
    if not incoherence > 0:
        raise ValueError(f"incoherence must be positive, got {incoherence!r}")
    if values.requires_grad:
        raise ValueError("complete has no gradient: detach the entries")
    default = 1e-8 if values.dtype == torch.float64 else 1e-4
    if rtol is not None and not 0 < rtol < 1:
        raise ValueError(f"rtol must lie between 0 and 1, got {rtol!r}")
    return default if rtol is None else float(rtol)


def _known(entries: Any, shape: Any) -> tuple[Tensor, Tensor, Tensor, tuple[int, int], Kind]:
    """Row and column numbers, values, shape and kind of what is known."""
    if isinstance(entries, tuple | list) and len(entries) == 3 and not np.isscalar(entries[0]) and shape is not None:
        values, kind = as_tensor(entries[2], "values")
        rows, cols = (_numbers(entries[i], name, values) for i, name in ((0, "rows"), (1, "cols")))
        if values.ndim != 1 or rows.shape != values.shape or cols.shape != values.shape:
            found = [tuple(t.shape) for t in (rows, cols, values)]
            raise ValueError(f"rows, cols and values must be vectors of one length, got {found}")
        if len(shape) != 2 or any(isinstance(n, bool) or n != int(n) or n < 1 for n in shape):
            raise ValueError(f"shape must be two positive ints, got {shape!r}")
        shape = (int(shape[0]), int(shape[1]))
    elif (sparse := sys.modules.get("scipy.sparse")) is not None and sparse.issparse(entries):
        coo = entries.tocoo()
        values, kind = as_tensor(coo.data, "entries")
        rows, cols = (torch.from_numpy(t.astype(np.int64)) for t in (coo.row, coo.col))
        shape = (int(coo.shape[0]), int(coo.shape[1]))
    elif isinstance(entries, Tensor) and entries.layout != torch.strided:
        coo = entries.to_sparse_coo() if entries.layout != torch.sparse_coo else entries
        rows, cols = coo._indices()
        if entries.requires_grad:
            raise ValueError("complete has no gradient: detach the entries")
        values, kind, shape = coo._values(), "torch", (int(coo.shape[0]), int(coo.shape[1]))
    else:
        if isinstance(entries, tuple):
            raise ValueError("entries of the form (rows, cols, values) need shape=(m, n)")
        dense, kind = as_tensor(entries, "entries")
        if dense.ndim != 2:
            raise ValueError(f"entries must have two dimensions, got shape {tuple(dense.shape)}")
        rows, cols = (~torch.isnan(dense)).nonzero(as_tuple=True)
        values, shape = dense[rows, cols], (dense.shape[0], dense.shape[1])
    if values.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"entries must be float32 or float64 numbers, got {values.dtype}")
    check_finite(values, "entries")
    _check_places(rows, cols, shape)
    return rows, cols, values, shape, kind


def _numbers(given: Any, name: str, values: Tensor) -> Tensor:
    t = torch.as_tensor(given, device=values.device)
    if t.is_floating_point() or t.is_complex() or t.dtype == torch.bool:
        raise ValueError(f"{name} must be integers, got {t.dtype}")
    return t.long()


def _check_places(rows: Tensor, cols: Tensor, shape: tuple[int, int]) -> None:
    if not len(rows):
        raise ValueError("entries has no known entry")
    for name, t, n in (("row", rows, shape[0]), ("column", cols, shape[1])):
        low, high = int(t.min()), int(t.max())
        if low < 0 or high >= n:
            raise ValueError(f"a {name} index is out of range: {low if low < 0 else high} for {n} {name}s")
    flat = torch.sort(rows * shape[1] + cols).values
    twice = (flat[1:] == flat[:-1]).nonzero()
    if len(twice):
        place = int(flat[twice[0, 0]])
        raise ValueError(f"entry {divmod(place, shape[1])} is given more than once")
