"""One orthonormal basis of a truncated SVD, held as a tall factor times a small one, and the part of new vectors outside."""

from __future__ import annotations

import torch
from torch import Tensor

from resolvent.operators import lu
from resolvent.operators.elementary import Dense
from resolvent.operators.operator import Operator
from resolvent.operators.sparse import Sparse

# The small factor amplifies rounding errors of the tall one by its condition.
_WORST = 1e5


class Side:
    """An orthonormal basis (size, k) as the product of a tall factor (size, k) and a small one (k, k).

    Examples
    --------
    >>> side = Side(torch.eye(3, 2), torch.float64)
    >>> side.turn(torch.tensor([[0.0, 1.0], [1.0, 0.0]]).double(), Dense(torch.zeros(1, 3)), torch.zeros(1, 2).double())
    >>> side.rows(torch.tensor([0, 1]))
    tensor([[0., 1.],
            [1., 0.]])
    """

    def __init__(self, Q: Tensor, wide: torch.dtype) -> None:
        self.size = Q.shape[0]
        self._memory = Q.detach().clone(memory_format=torch.contiguous_format)
        self._small = torch.eye(Q.shape[1], dtype=wide, device=Q.device)

    @property
    def _tall(self) -> Tensor:
        return self._memory[: self.size]

    def rows(self, index: Tensor | slice) -> Tensor:
        """Rows of the basis."""
        return self._tall[index] @ self._small.to(self._memory.dtype)

    def coefficients(self, X: Operator) -> Tensor:
        """``Q^H X^H`` (k, s) for rows X (s, size)."""
        return (X._matmul(self._tall).to(self._small.dtype) @ self._small).mH

    def turn(self, W: Tensor, X: Operator, T: Tensor) -> None:
        """``Q <- Q W + X^H T``, touching only rows where X^H is not zero."""
        small = self._small @ W
        if _well_conditioned(small):
            _add_adjoint(self._tall, X, lu.solve(small, T, left=False))
            self._small = small
        else:
            self._memory = (self._tall.to(small.dtype) @ small).to(self._memory.dtype)
            _add_adjoint(self._memory, X, T)
            self._small = torch.eye(len(small), dtype=small.dtype, device=small.device)

    def grow(self, W: Tensor, bottom: Tensor) -> None:
        """``Q <- [Q W; bottom]``."""
        small = self._small @ W
        if _well_conditioned(small):
            bottom = lu.solve(small, bottom, left=False)
            self._small = small
        else:
            self._memory = (self._tall.to(small.dtype) @ small).to(self._memory.dtype)
            self._small = torch.eye(len(small), dtype=small.dtype, device=small.device)
        more = self.size + len(bottom)
        if more > len(self._memory):
            # Room for as many again: a copy for every addition would cost more than the addition.
            memory = self._memory.new_empty(more + more // 2, self._memory.shape[1])
            memory[: self.size] = self._tall
            self._memory = memory
        self._memory[self.size : more] = bottom.to(self._memory.dtype)
        self.size = more


def _well_conditioned(small: Tensor) -> bool:
    s = torch.linalg.svdvals(small)
    return bool(s[0] < _WORST * s[-1])


def _add_adjoint(Q: Tensor, X: Operator, T: Tensor) -> None:
    """``Q += X^H T`` in place."""
    T = T.to(Q.dtype)
    if not isinstance(X, Sparse):
        Q += X.H._matmul(T)
        return
    touched, columns = torch.unique(X.indices, return_inverse=True)
    if len(touched) == 0:
        return
    narrow = Sparse((X.indptr, columns, X.values, (X.shape[0], len(touched))))
    Q.index_add_(0, touched, narrow.H._matmul(T))


def rows_of(X: Operator) -> Operator:
    """An operator that is an adjoint, with its entries at hand where they are stored.

    Examples
    --------
    >>> rows_of(Sparse(torch.tensor([[0.0, 1.0]]).to_sparse()).H)
    Sparse 2x1 float32
    """
    inner = X.H
    if not isinstance(inner, Sparse):
        return Dense(X._dense())
    indptr, indices, order = inner._pattern._transposed
    return Sparse((indptr, indices, inner.values[order].conj().resolve_conj(), tuple(X.shape)))


def residual_basis(X: Operator, C: Tensor, method: str, rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    r"""Z (s, r) and root (r,) of :math:`(I - Q Q^H) X^H \approx B \operatorname{diag}(root) Z^H` with
    :math:`B = (X^H - Q C) Z / root` orthonormal, from the inner products :math:`X X^H - C^H C` of pairs.

    Examples
    --------
    >>> X, C = Dense(torch.eye(3, 4).double()), torch.eye(2, 3).double()
    >>> residual_basis(X, C, "exact", 1, torch.Generator())[1]
    tensor([1.], dtype=torch.float64)
    """
    wide, s = C.dtype, X.shape[0]
    if method == "exact" or rank >= s:
        # In the wide dtype: squares of the entries of rows may leave the range of a narrow one.
        outer = _outer(X.to(wide))
        values, Z = torch.linalg.eigh(outer - C.mH @ C)
        largest = float(outer.diagonal().real.max())
    else:
        Z, values, largest = _leading(X, C, method, rank, generator)
    # What is left of a row beyond this is rounding error.
    kept = values > 100 * torch.finfo(X.dtype).eps * largest
    return Z[:, kept], values[kept].clamp_min(0).sqrt().to(torch.float64)


def _outer(X: Operator) -> Tensor:
    """``X X^H`` (s, s)."""
    if isinstance(X, Sparse):
        from resolvent.factor.spgemm import spgemm

        return spgemm(X, rows_of(X.H))._dense()
    dense = X._dense()
    return dense @ dense.mH


def _leading(
    X: Operator, C: Tensor, method: str, rank: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, float]:
    """The leading eigenvectors (s, rank) of the inner products by Lanczos or by two products with random vectors."""

    def times(Y: Tensor) -> Tensor:
        inside = X._matmul(X.H._matmul(Y.to(X.dtype)).contiguous())
        return inside.to(C.dtype) - C.mH @ (C @ Y)

    s = X.shape[0]
    block = rank if method == "random" else 1
    start = torch.randn(s, block, dtype=C.dtype, device=generator.device, generator=generator).to(C.device)
    if method == "random":
        basis = torch.linalg.qr(times(torch.linalg.qr(times(start))[0]))[0]
    else:
        # As many steps again as directions wanted: the last ones converge last.
        basis = torch.linalg.qr(start)[0]
        for _ in range(min(s, 2 * rank) - 1):
            new = times(basis[:, -1:])
            for _ in range(2):
                new = new - basis @ (basis.mH @ new)
            length = torch.linalg.vector_norm(new)
            if not bool(length > 0):
                break
            basis = torch.cat([basis, new / length], 1)
    product = times(basis)
    small = basis.mH @ product
    values, turn = torch.linalg.eigh((small + small.mH) / 2)
    largest = float(values[-1]) + float(torch.linalg.matrix_norm(C, 2)) ** 2
    return basis @ turn[:, -rank:], values[-rank:], largest
