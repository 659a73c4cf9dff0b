"""`Pattern`: where the entries of a sparse matrix are, and the products of any values placed there."""

from __future__ import annotations

import functools
import itertools
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from resolvent.operators.memory import cleared, fresh

if TYPE_CHECKING:
    from resolvent.operators.diagonals import Diagonals

# Entries times columns that keep one core busy for longer than it takes to wake another.
_PER_THREAD = 20_000
# Products with the same values after which another form of them is looked for, if they are many.
_OFTEN = 12
_MANY = 100_000


class _Plan(NamedTuple):
    """Blocks of rows for an adjoint product, and where each may write (see `csr.adjoint`)."""

    bounds: np.ndarray
    phases: int
    low: np.ndarray
    high: np.ndarray
    home: np.ndarray
    spare: int


class Pattern:
    """Compressed rows: `indptr` (m + 1,) and `indices` (nnz,), both int32 where that suffices, else int64."""

    def __init__(self, indptr: Tensor, indices: Tensor, shape: tuple[int, int]) -> None:
        m, n = shape
        _check(indptr, indices, m, n)
        kind = torch.int32 if max(m, n, len(indices)) < 2**31 else torch.int64
        self.indptr = indptr.to(kind).contiguous()
        self.indices = indices.to(kind).contiguous()
        self.shape = (int(m), int(n))

    @property
    def device(self) -> torch.device:
        return self.indices.device

    def to(self, device: torch.device) -> Pattern:
        if device == self.device:
            return self
        out = object.__new__(Pattern)
        out.indptr, out.indices, out.shape = self.indptr.to(device), self.indices.to(device), self.shape
        return out

    @functools.cached_property
    def rows(self) -> Tensor:
        """The row of every entry."""
        counts = self.indptr.diff().long()
        return torch.repeat_interleave(torch.arange(self.shape[0], device=self.device), counts)

    # ---- products -----------------------------------------------------------------------------------------------

    def product(self, values: Tensor, X: Tensor, adjoint: bool, own: bool = False) -> Tensor:
        """``A X`` or ``A^H X`` for X (n, k) or (m, k); not recorded by autograd.

        `own` says that torch counts all writes to the values, so that a copy in another form can be kept.
        """
        rows = self.shape[1] if adjoint else self.shape[0]
        if len(self.indices) == 0 or X.shape[1] == 0:
            return X.new_zeros(rows, X.shape[1])
        if X.device.type != "cpu":
            return self._torch_product(values, X, adjoint)
        if X.shape[1] == 1 and own and (form := self._streamed(values)) is not None:
            y = form.times(X[:, 0].contiguous().numpy(), adjoint, self._threads(1))
            return torch.from_numpy(y)[:, None]
        return self._scattered(values, X, "adjoint") if adjoint else self._gathered(values, X)

    def gram(self, values: Tensor, X: Tensor, own: bool = False) -> Tensor:
        """``A^H A X`` with one pass over the matrix; not recorded by autograd."""
        if len(self.indices) == 0 or X.shape[1] == 0:
            return torch.zeros_like(X)
        if X.device.type != "cpu":
            return self._torch_product(values, self._torch_product(values, X, False), True)
        if X.shape[1] == 1 and own and self._streamed(values) is not None:
            return self.product(values, self.product(values, X, False, own), True, own)
        return self._scattered(values, X, "gram")

    def mirrored(self, values: Tensor, X: Tensor) -> Tensor:
        """``(U + U^H - diag U) X`` of an upper triangle U with sorted rows, in one pass; not recorded by autograd."""
        if len(self.indices) == 0 or X.shape[1] == 0:
            return torch.zeros_like(X)
        if X.device.type != "cpu":
            on = self.rows == self.indices
            above = torch.where(on, 0, values)
            return self._torch_product(values, X, False) + self._torch_product(above, X, True)
        return self._scattered(values, X, "mirrored")

    def sampled(self, P: Tensor, Q: Tensor) -> Tensor:
        """``(P Q^H)`` at the stored entries: P (m, k), Q (n, k) -> (nnz,); not recorded by autograd."""
        k = P.shape[1]
        if len(self.indices) == 0 or k == 0:
            return P.new_zeros(len(self.indices))
        if P.device.type != "cpu":
            return self._torch_sampled(P, Q)
        from resolvent.operators import csr

        p, lead_p = _flat(P)
        q, lead_q = _flat(Q)
        out = np.empty(len(self.indices), p.dtype)
        rest = (*self._arrays, p, lead_p, q, lead_q, k, out)
        if (threads := self._threads(k)) == 1:
            csr.rows_sampled(0, self.shape[0], *rest)
        else:
            csr.sampled(self._bounds(threads), *rest)
        return torch.from_numpy(out)

    def asymmetry(self, values: Tensor) -> float:
        """Largest ``|a_ij - conj(a_ji)|`` of a square matrix."""
        if self.device.type == "cpu":
            from resolvent.operators import csr

            gap = float(csr.asymmetry(*self._arrays, values.resolve_conj().numpy()))
            if gap >= 0:
                return gap
        # Unsorted rows, repeated entries or an unsymmetric pattern: the slow way.
        places = torch.stack([self.rows, self.indices.long()])
        both = torch.cat([places, places.flip(0)], dim=1)
        signed = torch.cat([values, -values.conj()])
        difference = torch.sparse_coo_tensor(both, signed, self.shape, check_invariants=False).coalesce()
        return float(difference.values().abs().max())

    @functools.cached_property
    def _arrays(self) -> tuple[np.ndarray, np.ndarray]:
        unsigned = np.uint32 if self.indices.dtype == torch.int32 else np.uint64
        return self.indptr.numpy(), self.indices.numpy().view(unsigned)

    def by_diagonals(self, values: Tensor) -> Diagonals | None:
        """The entries held by diagonals if they lie on few: worth it for some dozens of products with one vector."""
        if self.device.type != "cpu" or len(values) < _MANY or values.dtype not in (torch.float32, torch.float64):
            return None
        if not self._few_diagonals or "loose" in self._made:
            return None
        from resolvent.operators.diagonals import diagonals

        form = diagonals(self.shape, *self._arrays, values.detach().numpy())
        if form is None:
            self._made["loose"] = True
        return form

    @functools.cached_property
    def _few_diagonals(self) -> bool:
        """Whether the form by diagonals may come: its sums, and those by rows before it, run in one order."""
        from resolvent.operators.diagonals import few

        return len(self.indices) >= _MANY and few(self.shape, *self._arrays)

    def _streamed(self, values: Tensor) -> Diagonals | None:
        """`by_diagonals`, made when the same values are multiplied for the `_OFTEN`th time and kept."""
        if len(values) < _MANY:
            return None
        known, version, count, form = self._made.get("streamed", (None, 0, 0, None))
        # The values are kept with the count: new ones cannot come to lie where these lay and be taken for them.
        same = known is not None and known.data_ptr() == values.data_ptr() and version == values._version
        if not (same and known.dtype == values.dtype and known.stride() == values.stride()):
            known, version, count, form = values.detach(), values._version, 0, None
        count += 1
        if count == _OFTEN:
            form = self.by_diagonals(values)
        self._made["streamed"] = (known, version, count, form)
        return form

    def _gathered(self, values: Tensor, X: Tensor) -> Tensor:
        from resolvent.operators import csr

        m, k = self.shape[0], X.shape[1]
        v, (x, lead) = values.detach().resolve_conj().numpy(), _flat(X)
        # NumPy asks the system for huge pages for large arrays, torch does not: fewer faults at the first touch.
        y = fresh((m, k), v.dtype)
        ordered = k == 1 and self._few_diagonals
        rest = (*self._arrays, v, x, lead, k, ordered, y.reshape(-1))
        if (threads := self._threads(k)) == 1:
            csr.rows_times(0, m, *rest)
        else:
            csr.times(self._bounds(threads), *rest)
        return torch.from_numpy(y)

    def _scattered(self, values: Tensor, X: Tensor, way: str) -> Tensor:
        from resolvent.operators import csr

        n, k = self.shape[1], X.shape[1]
        v, (x, lead) = values.detach().resolve_conj().numpy(), _flat(X)
        y = cleared((n, k), v.dtype)
        flat = y.reshape(-1)
        if (threads := self._threads(k)) == 1:
            getattr(csr, f"rows_{way}")(0, self.shape[0], *self._arrays, v, x, lead, k, flat, 0)
            return torch.from_numpy(y)
        plan = self._plan(threads, way == "mirrored")
        spare = cleared((plan.spare * k,), v.dtype)
        kernel = getattr(csr, way)
        kernel(plan.bounds, plan.phases, plan.low, plan.home, *self._arrays, v, x, lead, k, flat, spare)
        if plan.spare:
            edges = np.linspace(0, n, len(plan.bounds)).astype(np.int64)
            csr.collect(edges, plan.low, plan.high, plan.home, k, flat, spare)
        return torch.from_numpy(y)

    # ---- who does what ------------------------------------------------------------------------------------------

    def _threads(self, k: int) -> int:
        from resolvent.operators.parallel import numba

        work = (len(self.indices) + self.shape[0]) * k
        return max(1, min(numba.get_num_threads(), work // _PER_THREAD, self.shape[0]))

    @functools.cached_property
    def _made(self) -> dict[Any, Any]:
        return {}

    def _bounds(self, chunks: int) -> np.ndarray:
        """Row bounds of chunks with equal numbers of entries and rows."""
        key = ("bounds", chunks)
        if key not in self._made:
            work = self._arrays[0] + np.arange(self.shape[0] + 1)
            self._made[key] = np.searchsorted(work, np.linspace(0, work[-1], chunks + 1)).astype(np.int64)
        return self._made[key]

    def _plan(self, threads: int, own_rows: bool = False) -> _Plan:
        """Who writes where; `own_rows` says that the blocks write to their own rows too."""
        key = ("plan", threads, own_rows)
        if key not in self._made:
            self._made[key] = self._local_plan(threads, own_rows) or self._private_plan(threads, own_rows)
        return self._made[key]

    def _local_plan(self, threads: int, own_rows: bool) -> _Plan | None:
        """Twice as many blocks as threads, every other one at a time, if those reach different columns."""
        if threads == 1 or self.shape[0] < 2 * threads:
            return None
        bounds = self._bounds(2 * threads)
        low, high = self._reach(bounds, own_rows)
        for phase in (0, 1):
            order = np.argsort(low[phase::2])
            if (high[phase::2][order][:-1] > low[phase::2][order][1:]).any():
                return None
        return _Plan(bounds, 2, low, high, np.full(2 * threads, -1), 0)

    def _private_plan(self, threads: int, own_rows: bool) -> _Plan:
        """One block per thread: the first writes to the result, the others to buffers as long as their reach."""
        # More buffers than the entries fill would cost more to add up than the threads save.
        threads = max(1, min(threads, 1 + len(self.indices) // max(self.shape[1], 1)))
        bounds = self._bounds(threads)
        low, high = self._reach(bounds, own_rows)
        lengths = np.where(np.arange(threads) == 0, 0, high - low)
        home = np.cumsum(lengths) - lengths
        home[0] = -1
        return _Plan(bounds, 1, low, high, home, int(lengths.sum()))

    def _reach(self, bounds: np.ndarray, own_rows: bool) -> tuple[np.ndarray, np.ndarray]:
        """First column and one past the last that every block of rows writes to."""
        low, high = np.zeros(len(bounds) - 1, np.int64), np.zeros(len(bounds) - 1, np.int64)
        edges = self._arrays[0][bounds]
        for b, (start, stop) in enumerate(itertools.pairwise(edges)):
            if stop > start:
                columns = self._arrays[1][start:stop]
                low[b], high[b] = columns.min(), int(columns.max()) + 1
        if own_rows:
            low, high = np.minimum(low, bounds[:-1]), np.maximum(high, bounds[1:])
        return low, high

    # ---- other devices ------------------------------------------------------------------------------------------

    @functools.cached_property
    def _transposed(self) -> tuple[Tensor, Tensor, Tensor]:
        """Row pointers and columns of the transpose, and where its entries lie among ours."""
        order = torch.argsort(self.indices, stable=True)
        counts = torch.bincount(self.indices, minlength=self.shape[1])
        return row_pointers(counts).to(self.indptr.dtype), self.rows[order].to(self.indices.dtype), order

    def _torch_product(self, values: Tensor, X: Tensor, adjoint: bool) -> Tensor:
        # torch has no product with a transposed CSR matrix that is fast on every device: its pattern is kept.
        indptr, indices, shape = self.indptr, self.indices, self.shape
        if adjoint:
            indptr, indices, order = self._transposed
            values, shape = values[order].conj().resolve_conj(), shape[::-1]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
            A = torch.sparse_csr_tensor(indptr, indices, values.detach(), shape, check_invariants=False)
        return A @ X.detach()

    def _torch_sampled(self, P: Tensor, Q: Tensor) -> Tensor:
        # In pieces, so that the gathered rows take no more memory than the operands.
        size = max(1, max(self.shape))
        pieces = zip(self.rows.split(size), self.indices.split(size), strict=True)
        return torch.cat([(P[r] * Q[c].conj()).sum(-1) for r, c in pieces])


def row_pointers(counts: Tensor) -> Tensor:
    """(0, c_0, c_0 + c_1, ...) of the entries per row.

    Examples
    --------
    >>> row_pointers(torch.tensor([2, 0, 1]))
    tensor([0, 2, 2, 3])
    """
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def _flat(X: Tensor) -> tuple[np.ndarray, int]:
    """The memory of a block (n, k) as a 1-D array and the distance of its rows; copied unless rows are contiguous."""
    X = X.detach().resolve_conj().resolve_neg()
    n, k = X.shape
    lead = X.stride(0)
    if (k > 1 and X.stride(1) != 1) or lead < k or n == 1:
        X, lead = X.contiguous(), k
    return X.as_strided(((n - 1) * lead + k if n else 0,), (1,)).numpy(), lead


def _check(indptr: Tensor, indices: Tensor, m: int, n: int) -> None:
    for name, t in (("indptr", indptr), ("indices", indices)):
        if t.ndim != 1 or t.is_floating_point() or t.is_complex() or t.dtype == torch.bool:
            raise ValueError(f"{name} must be a vector of integers, got {t.dtype} of shape {tuple(t.shape)}")
    if len(indptr) != m + 1:
        raise ValueError(f"indptr must have m + 1 = {m + 1} entries for {m} rows, got {len(indptr)}")
    if int(indptr[0]) != 0 or int(indptr[-1]) != len(indices) or bool((indptr[1:] < indptr[:-1]).any()):
        raise ValueError(f"indptr must rise from 0 to the number of indices, {len(indices)}")
    if len(indices):
        low, high = (int(t) for t in indices.aminmax())
        if low < 0 or high >= n:
            raise ValueError(f"indices must lie in 0 to {n - 1} for {n} columns, got {low} to {high}")
