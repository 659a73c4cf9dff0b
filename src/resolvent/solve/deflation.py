"""Preconditioners that take a known space out of a system: deflation, balanced with another preconditioner."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from resolvent.operators import lu
from resolvent.operators.arrays import as_tensor, check_finite
from resolvent.operators.convert import OperatorLike, as_operator
from resolvent.operators.operator import Operator
from resolvent.random import gaussian

# Times eps and n: what counts as dependent, or as singular.
_NOISE = 4.0


class _Deflated(Operator):
    """(I - Q A) M (I - A Q) + Q with Q = V E^-1 V^H."""

    def __init__(self, A: Operator, M: Operator | None, V: Tensor, AV: Tensor, HV: Tensor, inverse: Tensor):
        positive = A.positive and (M is None or M.positive)
        super().__init__(
            A.shape,
            dtype=A.dtype,
            device=A.device,
            kind=A.kind,
            hermitian=A.hermitian and (M is None or M.hermitian),
            positive=positive,
        )
        self._of, self._M, self._tensors = A, M, (V, AV, HV, inverse)

    @property
    def cost(self) -> float:
        return 4.0 * self._tensors[0].numel() + (0.0 if self._M is None else self._M.cost)

    def _matmul(self, X: Tensor) -> Tensor:
        V, AV, HV, inverse = self._tensors
        coarse = inverse @ (V.mH @ X)
        Y = X - AV @ coarse
        if self._M is not None:
            Y = self._M._matmul(Y)
        return Y + V @ (coarse - inverse @ (HV.mH @ Y))

    def _adjoint(self) -> Operator:
        V, AV, HV, inverse = self._tensors
        return _Deflated(self._of.H, None if self._M is None else self._M.H, V, HV, AV, inverse.mH)


def deflation_preconditioner(A: OperatorLike, V: Any, *, M: OperatorLike | None = None) -> Operator:
    r"""A preconditioner that is exact on a space: :math:`(I - Q A) M (I - A Q) + Q`, :math:`Q = V (V^H A V)^{-1} V^H`.

    Parameters
    ----------
    A : (n, n) operator or anything `as_operator` takes
    V : (n, k) of full column rank: Ritz vectors of small eigenvalues, solutions of related systems, indicators of domains
    M : (n, n) operator near the inverse of A for what is left; None is the identity

    Returns
    -------
    Operator P with P A V = V, positive where A and M are. Gradients to what it is multiplied with, none to A, V or M.

    Raises
    ------
    ValueError : shapes that do not fit, NaN, columns of V that depend on each other, a singular :math:`V^H A V`
    TypeError : V complex and A real, or mixed precision of torch tensors

    Notes
    -----
    k products with A (and with its adjoint, if A is not Hermitian) once; 8 n k flops and one product with M each time.
    For eigenvectors V, the other eigenvalues of P A are those of A alone: with M None, the condition of A without the
    eigenvalues deflated, and 1. Scale M so that it fits around 1 (balancing, as of Mandel).

    References
    ----------
    "Comparison of Two-Level Preconditioners Derived from Deflation, Domain Decomposition and Multigrid Methods"

    Examples
    --------
    >>> A = torch.diag(torch.tensor([1e-4, 1.0, 1.0, 2.0]))
    >>> P = deflation_preconditioner(A, torch.eye(4)[:, :1])
    >>> P @ (A @ torch.ones(4))
    tensor([1., 1., 1., 2.])
    """
    A = as_operator(A, name="A")
    if A.batch_shape or A.shape[0] != A.shape[1]:
        raise ValueError(f"A must be one square matrix, got shape {tuple(A.shape)}")
    n = A.shape[0]
    space, kind = as_tensor(V, "V")
    if space.ndim != 2 or space.shape[0] != n or space.shape[1] > n:
        raise ValueError(f"V must have shape ({n}, k) with k at most {n}, got {tuple(space.shape)}")
    check_finite(space, "V")
    if space.is_complex() and not A.is_complex:
        raise TypeError(f"V has dtype {space.dtype}, A {A.dtype}: give a real V, or a complex A")
    if kind == "torch" and torch.finfo(space.dtype).bits != torch.finfo(A.dtype).bits:
        raise TypeError(f"V has dtype {space.dtype}, A {A.dtype}; convert one of them")
    other = None if M is None else as_operator(M, name="M")
    if other is not None:
        if tuple(other.shape) != (n, n):
            raise ValueError(f"M must have shape {(n, n)}, got {tuple(other.shape)}")
        other = other if other.dtype == A.dtype else other.to(A.dtype)
    with torch.no_grad():
        noise = _NOISE * n * torch.finfo(A.dtype).eps
        space = space.detach().to(device=A.device, dtype=A.dtype)
        lengths = torch.linalg.vector_norm(space, dim=0)
        Q, R = torch.linalg.qr(space / torch.where(lengths > 0, lengths, 1))
        if space.shape[1] and bool(torch.linalg.svdvals(R)[-1] <= noise):
            raise ValueError("the columns of V depend on each other")
        AV = A._matmul(Q)
        HV = AV if A.hermitian else A.H._matmul(Q)
        E = Q.mH @ AV
        values = torch.linalg.svdvals(E)
        # What A does to a Gaussian vector tells its size, and so what is rounding in A V.
        g = gaussian((n, 1), A.dtype, A.device, 0)
        rounding = _NOISE * torch.finfo(A.dtype).eps * torch.linalg.vector_norm(A._matmul(g)) / max(n, 1) ** 0.5
        if values.numel() and not bool(values[-1] > torch.maximum(noise * torch.linalg.matrix_norm(AV, 2), rounding)):
            raise ValueError(
                f"V^H A V is singular to working precision: its least singular value is {float(values[-1]):.2g}"
            )
        eye = torch.eye(E.shape[0], dtype=E.dtype, device=E.device)
        inverse = lu.solve(E, eye)
        if A.hermitian:
            inverse = (inverse + inverse.mH) / 2
    return _Deflated(A, other, Q, AV, HV, inverse)
