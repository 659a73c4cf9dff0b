"""Thick-restart block Lanczos: the space that `eigsh` and `svds` grow, compress and test.

The basis is kept as orthonormal rows. With Q the matrix of these rows as columns, the space holds

    A Q = Q T + R B E^T,

R the newest block and E the columns of the identity that select the last block. A restart keeps the best Ritz vectors;
then T is diagonal with a border, and everything goes on as before.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from resolvent.random import gaussian
from resolvent.spectra.orthogonal import project_out

Multiply = Callable[[Tensor], Tensor]
_COLUMNS = 1 << 16


class KrylovSpace:
    """Block Krylov space of a Hermitian product, with full orthogonalisation as few large products.

    Parameters
    ----------
    multiply : (n, b) block -> (n, b) block
    n : size
    dim : rows of the basis, besides the newest block
    block : vectors per product
    dtype, device : of the basis
    generator : randomness for starts and for directions that are lost in a breakdown
    """

    def __init__(
        self,
        multiply: Multiply,
        n: int,
        dim: int,
        block: int,
        dtype: torch.dtype,
        device: torch.device,
        generator: torch.Generator,
    ) -> None:
        self.multiply, self.n, self.dim, self.block = multiply, n, dim, block
        self.generator = generator
        self.basis = torch.empty(dim + block, n, dtype=dtype, device=device)
        self.small = torch.complex128 if dtype.is_complex else torch.float64
        self.T = torch.zeros(dim + block, dim + block, dtype=self.small, device=device)
        self.eps = torch.finfo(dtype).eps
        self.size = 0
        self.local = 0
        self.scale = 0.0
        self.products = 0

    def start(self, rows: Tensor, kept: Tensor | None = None, values: Tensor | None = None) -> None:
        """Begin at the rows (b, n); `kept` (j, n) are converged eigenvectors with their eigenvalues (j,)."""
        self.size = 0 if kept is None else kept.shape[0]
        self.T.zero_()
        if kept is not None and values is not None:
            self.basis[: self.size] = kept
            self.T[: self.size, : self.size] = torch.diag(values.to(self.small))
        self.local = self.size
        rows = rows.to(self.basis.dtype).clone()
        if self.size:
            project_out(self.basis[: self.size], rows)
        self._append(rows)
        # The first product finds the coupling to the kept vectors (rounding) by itself.
        self.local = 0

    def random_rows(self, count: int) -> Tensor:
        """Gaussian rows (count, n)."""
        return gaussian((count, self.n), self.basis.dtype, self.basis.device, self.generator)

    def expand(self, limit: int | None = None) -> None:
        """Grow to `dim` rows or by `limit` blocks, with one product per block."""
        b, blocks = self.block, 0
        while self.size + b <= self.dim and (limit is None or blocks < limit):
            j = self.size
            new = self.basis[j : j + b]
            block = self._product(new)
            known = self.basis[: j + b]
            # What the last block and, after a restart, the kept vectors are coupled to is nearly all of the product. It
            # goes first, so that one pass over the whole basis is enough to be orthogonal to working precision.
            near = known[self.local :]
            total = torch.zeros(b, j + b, dtype=block.dtype, device=block.device)
            total[:, self.local :] = project_out(near, block)
            total += project_out(known, block)
            column = total.mT.to(self.small)
            self.T[: j + b, j : j + b] = column
            self.T[j : j + b, : j + b] = column.mH
            inner = self.T[j : j + b, j : j + b]
            self.T[j : j + b, j : j + b] = (inner + inner.mH) / 2
            self.size, self.local = j + b, j
            self._append(block, torch.linalg.vector_norm(total))
            blocks += 1

    def _product(self, rows: Tensor) -> Tensor:
        self.products += rows.shape[0]
        out = self.multiply(rows.mT if rows.shape[0] == 1 else rows.mT.contiguous()).mT.contiguous()
        # A product may return its argument (the identity), and the result is overwritten.
        return out.clone() if out.data_ptr() == rows.data_ptr() else out

    def _append(self, rows: Tensor, size: Tensor | None = None) -> None:
        """Orthonormalise the block that follows the basis; its coefficients go to the border of T."""
        j, b = self.size, self.block
        top = float(torch.linalg.vector_norm(rows) if size is None else size + torch.linalg.vector_norm(rows))
        if not math.isfinite(top):
            raise ValueError("the product with A returned NaN or infinity")
        if size is not None:
            self.scale = max(self.scale, top)
        floor = 8 * self.eps * self.scale
        norm = torch.linalg.vector_norm(rows) if b == 1 else rows.new_zeros(()).real
        if float(norm) > floor:
            torch.div(rows, norm, out=self.basis[j : j + 1])
            border = norm.to(self.small).reshape(1, 1)
        else:
            self.basis[j : j + b], border = self._orthonormal(rows, floor)
        if j >= b and self.local < j:
            self.T[j : j + b, j - b : j] = border
            self.T[j - b : j, j : j + b] = border.mH

    def _orthonormal(self, rows: Tensor, floor: float) -> tuple[Tensor, Tensor]:
        """Rows with the same span, and the (b, b) matrix B with rows^T = new^T B; Cholesky QR, twice."""
        if self.block == 1:
            return self._one_by_one(rows, floor)
        border = torch.eye(self.block, dtype=self.small, device=rows.device)
        new = rows
        for _ in range(2):
            gram = (new.conj() @ new.mT).to(self.small)
            L, failed = torch.linalg.cholesky_ex(gram)
            d = torch.diagonal(L).real
            least, ratio = (float(x) for x in (d.min(), d.min() / d.max()))
            if int(failed) or not least > floor or not ratio > self.eps**0.25:
                return self._one_by_one(rows, floor)
            inverse = torch.linalg.solve_triangular(
                L, torch.eye(self.block, dtype=L.dtype, device=L.device), upper=False
            )
            new = inverse.conj().to(rows.dtype) @ new
            border = L.mH @ border
            if ratio < 0.1 and self.size:
                project_out(self.basis[: self.size], new)
            floor = 0.0
        return new, border

    def _one_by_one(self, rows: Tensor, floor: float) -> tuple[Tensor, Tensor]:
        """The same by Gram-Schmidt; a row that depends on the others gives way to a random one, uncoupled."""
        b = self.block
        border = torch.zeros(b, b, dtype=self.small, device=rows.device)
        new = torch.empty_like(rows)
        for i in range(b):
            row = rows[i : i + 1].clone()
            for _ in range(2):
                if self.size:
                    project_out(self.basis[: self.size], row)
                if i:
                    border[:i, i] += project_out(new[:i], row)[0].to(self.small)
            norm = float(torch.linalg.vector_norm(row))
            if norm > floor:
                border[i, i] = norm
                new[i] = row[0] / norm
            else:
                new[i] = self._fresh(new[:i])
        return new, border

    def _fresh(self, others: Tensor) -> Tensor:
        row = self.random_rows(1)
        for _ in range(2):
            row /= torch.linalg.vector_norm(row)
            for known in (self.basis[: self.size], others):
                if len(known):
                    project_out(known, row)
        return row[0] / torch.linalg.vector_norm(row)

    def ritz(self) -> tuple[Tensor, Tensor, Tensor]:
        """Ritz values ascending (j,), their coordinates (j, j) and the residual norms (j,), on the CPU."""
        j, b = self.size, self.block
        T = self.T[: j + b, : j + b].cpu()
        theta, S = torch.linalg.eigh(T[:j, :j])
        residual = torch.linalg.vector_norm(T[j:, :j] @ S, dim=0)
        return theta, S, residual

    def vectors(self, S: Tensor) -> Tensor:
        """Ritz vectors of the coordinates S (j, p) as rows (p, n)."""
        return S.mT.to(device=self.basis.device, dtype=self.basis.dtype) @ self.basis[: self.size]

    def restart(self, theta: Tensor, S: Tensor) -> None:
        """Compress the space to the Ritz vectors S (j, p) of the values theta (p,), in place."""
        j, b, p = self.size, self.block, S.shape[1]
        border = self.T[j : j + b, :j] @ S.to(self.T.device)
        rotate = S.mT.to(device=self.basis.device, dtype=self.basis.dtype).contiguous()
        for low in range(0, self.n, _COLUMNS):
            piece = self.basis[:j, low : low + _COLUMNS]
            self.basis[:p, low : low + _COLUMNS] = rotate @ piece
        self.basis[p : p + b] = self.basis[j : j + b].clone()
        self.T.zero_()
        self.T[:p, :p] = torch.diag(theta.to(self.T))
        self.T[p : p + b, :p] = border
        self.T[:p, p : p + b] = border.mH
        self.size, self.local = p, 0
