"""Low-rank operators: ``U diag(s) V^H``, two thin products instead of one large."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from resolvent.operators.operator import Operator
from resolvent.operators.parts import batch_of, common_tensors


class LowRank(Operator):
    r"""A matrix of low rank by its factors: :math:`A = U\,\mathrm{diag}(s)\,V^H`.

    Parameters
    ----------
    U : (*batch, m, r)
    s : (*batch, r) or None
        Weights, of any sign or complex; None means ones.
    V : (*batch, n, r) or None
        None means `U`: the operator is then Hermitian if `s` is real, and positive if `s` is None.

    Raises
    ------
    ValueError : sizes that do not match, NaN or infinite entries
    TypeError : torch tensors of mixed precision

    Notes
    -----
    A product with k columns costs ``(m + n) r k`` multiplications and reads U and V once. Entries, diagonal, trace
    and ``A^H A X`` come from the factors. `s` need not be sorted and U, V need not be orthonormal.

    Examples
    --------
    >>> import torch
    >>> U, s, Vh = torch.linalg.svd(torch.tensor([[3.0, 0.0], [0.0, 2.0], [0.0, 0.0]]), full_matrices=False)
    >>> A = LowRank(U, s, Vh.mH)
    >>> A @ torch.tensor([1.0, 1.0])
    tensor([3., 2., 0.])
    >>> A
    LowRank 3x2 rank 2 float32
    """

    def __init__(self, U: Any, s: Any = None, V: Any = None) -> None:
        given = {"U": U} | ({} if s is None else {"s": s}) | ({} if V is None or V is U else {"V": V})
        tensors, kind = common_tensors(**given)
        found = dict(zip(given, tensors, strict=True))
        left = found["U"]
        right = found.get("V", left)
        if left.ndim < 2:
            raise ValueError(f"U must have shape (*batch, m, r), got {tuple(left.shape)}")
        rank = left.shape[-1]
        weights = found["s"] if s is not None else left.new_ones(rank)
        if weights.ndim < 1 or weights.shape[-1] != rank:
            raise ValueError(f"s must have shape (*batch, {rank}) to match U, got {tuple(weights.shape)}")
        if right.ndim < 2 or right.shape[-1] != rank:
            raise ValueError(f"V must have shape (*batch, n, {rank}) to match U, got {tuple(right.shape)}")
        same = right is left
        self._plain = s is None
        super().__init__(
            (
                *batch_of("LowRank", left.shape[:-2], weights.shape[:-1], right.shape[:-2]),
                left.shape[-2],
                right.shape[-2],
            ),
            dtype=left.dtype,
            device=left.device,
            kind=kind,
            hermitian=same and (s is None or not weights.is_complex()),
            positive=same and s is None,
            parts=(left, weights, right),
        )

    @property
    def U(self) -> Tensor:
        """The left factor (*batch, m, r)."""
        return self._parts[0]

    @property
    def s(self) -> Tensor:
        """The weights (*batch, r)."""
        return self._parts[1]

    @property
    def V(self) -> Tensor:
        """The right factor (*batch, n, r)."""
        return self._parts[2]

    def _matmul(self, X: Tensor) -> Tensor:
        inner = self.V.mH @ X
        return self.U @ (inner if self._plain else self.s[..., None] * inner)

    def _adjoint(self) -> Operator:
        return LowRank(self.V, self.s.conj(), self.U)

    def _map(self, fn: Callable[[Tensor], Tensor]) -> Operator:
        U = fn(self.U)
        return LowRank(U, None if self._plain else fn(self.s), U if self.V is self.U else fn(self.V))

    def _dense(self) -> Tensor:
        return (self.U * self.s[..., None, :]) @ self.V.mH

    def _diagonal(self) -> Tensor:
        m = min(self.shape[-2:])
        return (self.U[..., :m, :] * self.s[..., None, :] * self.V[..., :m, :].conj()).sum(-1)

    def _entries(self, rows: Tensor, cols: Tensor) -> Tensor:
        return (self.U[..., rows, :] * self.s[..., None, :]) @ self.V[..., cols, :].mH

    def _gram(self, X: Tensor) -> Tensor:
        s = self.s[..., None]
        inner = self.U.mH @ (self.U @ (s * (self.V.mH @ X)))
        return self.V @ (s.conj() * inner)

    def _label(self) -> str:
        name, shape, *rest = super()._label().split(" ")
        return " ".join([name, shape, f"rank {self.s.shape[-1]}", *rest])

    def conj(self) -> Operator:
        """The complex conjugate, entry by entry."""
        return self._mapped(_conjugate) if self.is_complex else self


def _conjugate(t: Tensor) -> Tensor:
    return t.conj().resolve_conj() if t.is_complex() else t


__all__ = ["LowRank"]
