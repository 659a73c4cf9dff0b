"""Adaptive cross approximation: a low-rank matrix from the few of its entries that it looks at."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.factor.range_finder import check_request, frobenius, rounding
from resolvent.info import Info
from resolvent.operators import LowRank, Operator, as_operator
from resolvent.operators.arrays import Kind, as_tensor
from resolvent.operators.gradient import records
from resolvent.random import GeneratorLike, as_generator

Entries = Callable[[Tensor, Tensor], Tensor]

# The result is compared with the entries of so many random rows and columns.
_SIDE = 24
# By how much the error at these entries may understate that of the matrix.
_SAFETY = 1.5


def aca(
    A: Any,
    rank: int | None = None,
    *,
    rtol: float | None = None,
    shape: tuple[int, int] | None = None,
    pivoting: Literal["partial", "full"] = "partial",
    max_rank: int | None = None,
    generator: GeneratorLike = None,
    return_info: bool = False,
) -> Any:
    r"""Adaptive cross approximation :math:`A \approx \sum_k u_k v_k^H` from entries of A.

    Parameters
    ----------
    A : (m, n) operator or anything `as_operator` takes, or a callable ``(rows, columns) -> block`` of index vectors
    rank : number of crosses, 1 to min(m, n)
    rtol : instead of `rank`: stop when the error, in the Frobenius norm, is below this share of A
    shape : of A, for a callable
    pivoting : "partial" reads one row and one column a step; "full" reads all of A and takes its largest entry each time
    max_rank : for `rtol`; default min(m, n)
    generator : the entries on which the result is checked
    return_info : also return an `Info`, whose matvecs count the rows and columns that were read, and whose error is measured
        at random entries

    Returns
    -------
    LowRank : of as many terms as there were steps

    Raises
    ------
    ValueError : neither or both of `rank` and `rtol`, no `shape` for a callable, NaN in an entry, a gradient wanted
    ConvergenceError : `max_rank` crosses do not reach `rtol`; `best` is the operator

    Notes
    -----
    A row of the remainder, its largest entry, the column of that; the next row is where that column is largest. (m + n)
    rank entries and (m + n) rank^2 operations. A step's size tells how much is left only for smooth kernels: before it
    stops, the result is compared with A where 24 random rows cross 24 random columns, and it goes on from the worst of
    these entries if they say more than `rtol` / 1.5. A part of A that is confined to few entries can be missed; "full" misses
    nothing. No gradient: an A that wants one is refused.

    References
    ----------
    "Approximation of boundary element matrices"
    "Adaptive Low-Rank Approximation of Collocation Matrices"

    Examples
    --------
    >>> x, y = torch.linspace(0, 1, 50).double(), torch.linspace(2, 3, 40).double()
    >>> A = aca(lambda i, j: 1 / (y[j] - x[i, None]), rtol=1e-6, shape=(50, 40), generator=0)
    >>> A.s.shape[-1] < 8, bool((A.to_dense() - 1 / (y - x[:, None])).abs().max() < 1e-5)
    (True, True)
    """
    entries, op, kind = _source(A, shape)
    if records(op):
        raise ValueError("aca has no gradient: detach A")
    check_request(op, rank, rtol, 0, max_rank)
    if op.batch_shape:
        raise ValueError(f"aca takes one matrix, A has shape {tuple(op.shape)}")
    if pivoting not in ("partial", "full"):
        raise ValueError(f"pivoting must be 'partial' or 'full', got {pivoting!r}")
    limit = rank or max_rank or min(op.shape)
    goal = 0.0 if rtol is None else rtol
    with torch.no_grad():
        if pivoting == "full":
            U, V, error = full_crosses(op._dense() if entries is None else _all(entries, op), limit, goal)
            lines = sum(op.shape)
        else:
            steps = _Crosses(entries or op.detach()._entries, op, limit, as_generator(generator, op.device))
            U, V, error = steps.run(goal)
            lines = steps.lines
    found = LowRank(U, None, V)
    found.kind = kind
    info = Info(f"{pivoting} pivoting", lines, U.shape[1], error, rtol is None or error <= rtol)
    if not info.converged:
        message = f"aca: error {error:.2g} with {U.shape[1]} crosses, asked for {rtol:.2g}"
        raise ConvergenceError(message, best=found, error=error, info=info)
    return (found, info) if return_info else found


def _source(A: Any, shape: tuple[int, int] | None) -> tuple[Entries | None, Operator, Kind]:
    """What gives entries, an operator that tells shape, dtype and device, and the kind of the result."""
    if callable(A) and not isinstance(A, Operator):
        if shape is None or len(shape) != 2 or min(shape) < 1:
            raise ValueError(f"shape must be (m, n), both at least 1, for a callable A, got {shape!r}")
        first = torch.zeros(1, dtype=torch.long)
        probe, kind = as_tensor(A(first, first), "A(rows, columns)")

        def entries(rows: Tensor, columns: Tensor) -> Tensor:
            block = as_tensor(A(rows, columns), "A(rows, columns)")[0]
            if block.shape != (len(rows), len(columns)):
                wanted = (len(rows), len(columns))
                raise ValueError(f"A(rows, columns) must have shape {wanted}, got {tuple(block.shape)}")
            return block

        like = LowRank(probe.new_zeros(shape[0], 0), None, probe.new_zeros(shape[1], 0))
        return entries, like, kind
    if shape is not None:
        raise ValueError("shape is for a callable A")
    A = as_operator(A, name="A")
    return None, A, A.kind


def _all(entries: Entries, like: Operator) -> Tensor:
    m, n = like.shape
    return entries(torch.arange(m, device=like.device), torch.arange(n, device=like.device))


def full_crosses(A: Tensor, limit: int, rtol: float) -> tuple[Tensor, Tensor, float]:
    """Gaussian elimination with the largest entry of what is left as pivot: A ~ U V^H with triangles up to order."""
    if not bool(torch.isfinite(A.abs().sum())):
        raise ValueError("A contains NaN or infinity")
    rest, size = A.clone(), frobenius(A)
    left: list[Tensor] = []
    right: list[Tensor] = []
    error, least = (1.0 if size else 0.0), 10 * rounding(A.dtype)
    while len(left) < limit and error > max(rtol, least):
        i, j = divmod(int(rest.abs().argmax()), A.shape[1])
        u, v = rest[:, j] / rest[i, j], rest[i].clone()
        rest -= torch.outer(u, v)
        # What is eliminated is zero, and must not become a pivot by its rounding errors.
        rest[i], rest[:, j] = 0, 0
        left.append(u)
        right.append(v.conj())
        error = frobenius(rest) / size
    if not left:
        return A.new_zeros(A.shape[0], 0), A.new_zeros(A.shape[1], 0), error
    return torch.stack(left, 1), torch.stack(right, 1).resolve_conj(), error


class _Crosses:
    """A run with partial pivoting: A ~ U^T V with the terms as rows of U and V, which grow as they are needed."""

    def __init__(self, entries: Entries, like: Operator, limit: int, source: torch.Generator) -> None:
        m, n = like.shape
        self.entries, self.limit, self.source, self.device = entries, limit, source, like.device
        self.eps = rounding(like.dtype)
        self.U = torch.zeros(min(limit, 32), m, dtype=like.dtype, device=like.device)
        self.V = torch.zeros(min(limit, 32), n, dtype=like.dtype, device=like.device)
        self.rank, self.lines, self.square = 0, 0, 0.0
        self.all_rows, self.all_columns = (torch.arange(k, device=like.device) for k in (m, n))
        self.free = torch.ones(m, dtype=torch.bool, device=like.device)

    def run(self, rtol: float) -> tuple[Tensor, Tensor, float]:
        """U and V of the operator, and the error at fresh random entries relative to A."""
        error, row = self.check()
        goal = max(rtol / _SAFETY, 10 * self.eps)
        while self.rank < self.limit and bool(self.free.any()):
            size, following = self.step(row)
            # A small or empty step says that this row is done, and a look at others whether all are.
            if size <= goal * math.sqrt(self.square):
                error, row = self.check()
                if error <= goal:
                    return *self.factors(), error
            else:
                row = following
        error, _ = self.check()
        return *self.factors(), error

    def factors(self) -> tuple[Tensor, Tensor]:
        """U (m, k) and V (n, k) with A ~ U V^H."""
        return self.U[: self.rank].mT.contiguous(), self.V[: self.rank].mH.resolve_conj().contiguous()

    def step(self, row: int) -> tuple[float, int]:
        """Eliminate a row and the column of its largest entry; the size of the term, and the row to take next."""
        k, at = self.rank, self.all_rows[row : row + 1]
        self.free[row] = False
        rest = _finite(self.entries(at, self.all_columns))[0] - self.U[:k, row] @ self.V[:k]
        self.lines += 1
        column = int(rest.abs().argmax())
        pivot = rest[column]
        if float(pivot.abs()) <= 10 * self.eps * math.sqrt(self.square / len(self.all_rows) / len(self.all_columns)):
            return 0.0, row
        found = _finite(self.entries(self.all_rows, self.all_columns[column : column + 1]))[:, 0]
        u = (found - self.V[:k, column] @ self.U[:k]) / pivot
        self.lines += 1
        if k == len(self.U):
            more = min(self.limit, 2 * k) - k
            self.U, self.V = (torch.cat([W, W.new_zeros(more, W.shape[1])]) for W in (self.U, self.V))
        self.U[k], self.V[k], self.rank = u, rest, k + 1
        size = frobenius(u) * frobenius(rest)
        # The row is divided by its pivot, its largest entry, so that no product of two rows overflows.
        largest = float(pivot.abs())
        mixed = (self.U[:k].conj() @ u) * (self.V[:k].conj() @ (rest / largest))
        self.square = max(self.square + 2 * largest * float(mixed.real.sum()) + size**2, 0.0)
        return size, int(torch.where(self.free, u.abs(), -1.0).argmax())

    def check(self) -> tuple[float, int]:
        """The error at random entries relative to A, and a row where it is large."""
        m, n = len(self.all_rows), len(self.all_columns)
        free = self.free.nonzero()[:, 0]
        pool = free if len(free) else self.all_rows
        rows = pool[torch.randint(len(pool), (min(_SIDE, m),), generator=self.source, device=self.device)]
        columns = torch.randint(n, (min(_SIDE, n),), generator=self.source, device=self.device)
        block = _finite(self.entries(rows, columns))
        rest = block - self.U[: self.rank, rows].mT @ self.V[: self.rank, columns]
        scale = math.sqrt(m * n / block.numel())
        size = max(scale * frobenius(block), math.sqrt(self.square))
        error = scale * frobenius(rest) / size if size > 0 else 0.0
        return error, int(rows[int(rest.abs().amax(1).argmax())])


def _finite(block: Tensor) -> Tensor:
    if not bool(torch.isfinite(block.abs().sum())):
        raise ValueError("A contains NaN or infinity")
    return block
