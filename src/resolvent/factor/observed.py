"""The known entries of a matrix by rows and by columns, and the least-squares problems of one side given the other."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from resolvent.operators.operator import Operator

_INNER = {"exact": 0, "cg": 1, "sketched": 2}

# Numbers that one thread goes through in less time than a second one needs to wake up, several times over.
SMALL = 1 << 21


class Observed:
    """Known entries, ready for alternating least squares.

    Parameters
    ----------
    rows, cols : (N,) int64
    values : (N,) float32 or float64
    shape : (m, n)
    seed : of the sketches
    """

    def __init__(self, rows: Tensor, cols: Tensor, values: Tensor, shape: tuple[int, int], seed: int = 0) -> None:
        self.shape, self.values, self.seed = shape, values, seed
        self.share = len(values) / (shape[0] * shape[1])
        self._by_row = _Lines(rows, cols, values, shape[0], shape[1])
        self._by_column = _Lines(cols, rows, values, shape[1], shape[0])

    def shorter_than(self, count: int) -> int:
        """Rows and columns with fewer than `count` known entries."""
        return sum(int((torch.diff(lines.ptr) < count).sum()) for lines in (self._by_row, self._by_column))

    def operator(self) -> Operator:
        """The zero-filled matrix."""
        from resolvent.operators.sparse import Sparse

        lines = self._by_row
        places = torch.stack([_expanded(lines.ptr), lines.index])
        return Sparse(
            torch.sparse_coo_tensor(places, lines.values, self.shape, is_coalesced=True, check_invariants=False)
        )

    def rows(
        self, V: Tensor, U: Tensor, inner: str = "cg", rtol: float = 0.1, ridge: float = 0.0
    ) -> tuple[Tensor, float, float]:
        """The left factor for an orthonormal right factor V, from U: factor, change of the entries, mean steps."""
        return self._solved(self._by_row, V, U, inner, rtol, ridge)

    def columns(
        self, U: Tensor, V: Tensor, inner: str = "cg", rtol: float = 0.1, ridge: float = 0.0
    ) -> tuple[Tensor, float, float]:
        """The right factor for an orthonormal left factor U, from V: factor, change of the entries, mean steps."""
        return self._solved(self._by_column, U, V, inner, rtol, ridge)

    def _solved(
        self, lines: _Lines, F: Tensor, X: Tensor, inner: str, rtol: float, ridge: float
    ) -> tuple[Tensor, float, float]:
        self.seed += 1
        weight = ridge * self.share
        if F.device.type == "cpu":
            return lines.solve(F, X, inner, rtol, weight, self.seed)
        return lines.solve_together(F, X, rtol, weight)


class _Lines:
    """Entries sorted by line, a line being a row or a column."""

    def __init__(self, line: Tensor, place: Tensor, values: Tensor, lines: int, places: int) -> None:
        order = torch.argsort(line * places + place)
        counts = torch.bincount(line, minlength=lines)
        self.ptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        self.index, self.values = place[order], values.detach()[order]
        self.longest = int(counts.max())
        self.line = line[order] if values.device.type != "cpu" else None

    def solve(
        self, F: Tensor, X: Tensor, inner: str, rtol: float, ridge: float, seed: int
    ) -> tuple[Tensor, float, float]:
        """Each line by itself, in compiled code."""
        from resolvent.factor.complete_kernel import half_sweep, some_rows
        from resolvent.operators.parallel import get_num_threads

        found = X.contiguous().clone()
        count, k = found.shape
        number = F.numpy().dtype.type
        squares, changes, steps = np.zeros(count), np.zeros(count), np.zeros(count, np.int64)
        lines = (self.ptr.numpy(), self.index.numpy(), self.values.numpy(), F.contiguous().numpy(), found.numpy())
        how = (_INNER[inner], number(rtol), 2 * k + 10, number(ridge), self.longest)
        noted = (np.uint64(seed), squares, changes, steps)
        if len(self.values) * k < SMALL:
            some_rows(*lines, *how, 0, 1, *noted)
        else:
            chunks = min(count, 8 * get_num_threads())  # type: ignore[call-arg]
            half_sweep(*lines, *how, chunks, *noted)
        return found, float(np.sqrt(changes.sum())), float(steps.mean())

    def solve_together(self, F: Tensor, X: Tensor, rtol: float, ridge: float) -> tuple[Tensor, float, float]:
        """Conjugate gradients of all lines at once, in plain torch: for devices without compiled code."""
        line = self.line if self.line is not None else _expanded(self.ptr)
        X = X.clone()
        A = F[self.index]
        first = residual = self.values - (A * X[line]).sum(-1)
        g = torch.zeros_like(X).index_add_(0, line, residual[:, None] * A) - ridge * X
        p, gamma = g, (g * g).sum(-1)
        start = gamma
        steps = 0
        for steps in range(2 * X.shape[1] + 11):
            open_lines = (gamma > rtol * rtol * start) | ((gamma > 0) if steps == 0 else False)
            if not bool(open_lines.any()) or steps == 2 * X.shape[1] + 10:
                break
            q = (A * p[line]).sum(-1)
            w = torch.zeros_like(X).index_add_(0, line, q[:, None] * A) + ridge * p
            below = (w * p).sum(-1)
            alpha = torch.where(open_lines & (below > 0), gamma / torch.where(below > 0, below, 1.0), 0.0)
            X = X + alpha[:, None] * p
            residual = residual - alpha[line] * q
            g = g - alpha[:, None] * w
            new = (g * g).sum(-1)
            beta = torch.where(open_lines, new / torch.where(gamma > 0, gamma, 1.0), 0.0)
            p, gamma = g + beta[:, None] * p, torch.where(open_lines, new, gamma)
        return X, float(torch.linalg.vector_norm(first - residual)), float(steps)


def _expanded(ptr: Tensor) -> Tensor:
    """The line of every entry."""
    return torch.repeat_interleave(torch.arange(len(ptr) - 1, device=ptr.device), torch.diff(ptr))
