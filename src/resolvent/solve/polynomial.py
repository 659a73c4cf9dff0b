"""Preconditioners from products alone: Chebyshev polynomials, and a randomised Nystrom approximation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from resolvent.operators.algebra import Sum
from resolvent.operators.arrays import real_dtype
from resolvent.operators.convert import OperatorLike, as_operator
from resolvent.operators.elementary import Identity
from resolvent.operators.lowrank import LowRank
from resolvent.operators.operator import Operator
from resolvent.random import GeneratorLike, gaussian


class _Chebyshev(Operator):
    """q(A) with the polynomial whose 1 - t q(t) is least on an interval."""

    def __init__(self, A: Operator, degree: int, low: float, high: float) -> None:
        super().__init__(A.shape, dtype=A.dtype, device=A.device, kind=A.kind, positive=True, parts=(A,))
        self.degree, self.low, self.high = degree, low, high

    @property
    def cost(self) -> float:
        return self.degree * self._parts[0].cost

    def _matmul(self, X: Tensor) -> Tensor:
        A = self._parts[0]
        middle, half = (self.high + self.low) / 2, (self.high - self.low) / 2
        sigma = middle / half
        rho = 1 / sigma
        R = X
        D = R / middle
        Y = D
        for _ in range(self.degree):
            R = R - A._matmul(D)
            after = 1 / (2 * sigma - rho)
            D = (after * rho) * D + (2 * after / half) * R
            Y, rho = Y + D, after
        return Y


def chebyshev_preconditioner(
    A: OperatorLike,
    degree: int = 4,
    *,
    low: float | None = None,
    high: float | None = None,
    generator: GeneratorLike = None,
) -> Operator:
    r"""A polynomial of A near its inverse: Chebyshev's iteration with a fixed number of steps.

    Parameters
    ----------
    A : (n, n) Hermitian positive definite operator or anything `as_operator` takes
    degree : of the polynomial, so many products with A each time; at least 1
    low, high : the interval on which :math:`1 - t q(t)` is least. high must bound the spectrum, and is estimated
        from above if None; low is high / 30 if None: what lies below is left to the outer iteration.
    generator : of the estimate

    Returns
    -------
    Positive operator for A with its spectrum in (0, high]; differentiable.

    Raises
    ------
    ValueError : A is not Hermitian or not square, degree below 1, not 0 < low < high

    Notes
    -----
    No inner products and no substitutions, so that it runs on any device at the speed of the products.

    References
    ----------
    "Iterative Methods for Sparse Linear Systems"

    Examples
    --------
    >>> A = torch.diag(torch.tensor([1.0, 2.0, 4.0]))
    >>> (chebyshev_preconditioner(A, degree=12, low=1.0, high=4.0) @ torch.ones(3)).round(decimals=3)
    tensor([1.0000, 0.5000, 0.2500])
    """
    A = _hermitian(A)
    if isinstance(degree, bool) or not isinstance(degree, int) or degree < 1:
        raise ValueError(f"degree must be an int of at least 1, got {degree!r}")
    if high is None:
        high = _upper_bound(A, generator)
    if low is None:
        low = high / 30
    if not 0 < low < high:
        raise ValueError(f"low and high must satisfy 0 < low < high, got {low!r} and {high!r}")
    return _Chebyshev(A, degree, float(low), float(high))


def _upper_bound(A: Operator, generator: GeneratorLike) -> float:
    """The largest eigenvalue from a few Lanczos steps, with the residual of its Ritz pair added."""
    from resolvent.spectra.lanczos import lanczos_tridiagonal

    steps = min(20, A.shape[-1])
    start = gaussian((A.shape[-1], 1), A.dtype, A.device, generator)
    alpha, beta = lanczos_tridiagonal(A, start, steps)
    T = torch.diag(alpha[0]) + torch.diag(beta[0], 1) + torch.diag(beta[0], -1)
    w, V = torch.linalg.eigh(T)
    last = float(beta[0, -1]) * float(V[-1, -1].abs()) if steps > 1 else 0.0
    return 1.05 * float(w[-1]) + last


def nystrom_preconditioner(
    A: OperatorLike, rank: int, shift: float = 0.0, *, generator: GeneratorLike = None, **options: Any
) -> Operator:
    r"""A preconditioner for A + shift I from a randomised low-rank approximation :math:`A \approx U \Lambda U^H`.

    .. math:: P^{-1} = (\lambda_r + \mu) U (\Lambda + \mu)^{-1} U^H + (I - U U^H)

    Parameters
    ----------
    A : (n, n) positive semidefinite operator or anything `as_operator` takes, without the shift
    rank : of the approximation, at least 1; best about the effective dimension of A at the shift
    shift : :math:`\mu` of at least 0
    generator : of the test matrix
    options : for `factor.nystrom`

    Returns
    -------
    Positive operator ``I + U W U^H``.

    Raises
    ------
    ValueError : A is not Hermitian or not square, rank below 1, shift below 0

    Notes
    -----
    rank products with A and n rank^2 flops once, 4 n rank flops a product. With a rank of twice the effective
    dimension, the condition of the preconditioned system is below 28 in the mean.

    References
    ----------
    "Randomized Nyström Preconditioning"

    Examples
    --------
    >>> A = torch.diag(torch.tensor([100.0, 10.0, 0.0, 0.0]))
    >>> P = nystrom_preconditioner(A, rank=2, shift=1.0, generator=0)
    >>> (P @ torch.tensor([101.0, 11.0, 1.0, 1.0])).round(decimals=2)
    tensor([11., 11.,  1.,  1.])
    """
    from resolvent.factor.nystrom import nystrom

    A = _hermitian(A)
    if not shift >= 0:
        raise ValueError(f"shift must be at least 0, got {shift!r}")
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise ValueError(f"rank must be an int of at least 1, got {rank!r}")
    with torch.no_grad():
        found = nystrom(A.detach() if A.requires_grad else A, min(rank, A.shape[-1]), generator=generator, **options)
        w = found.s.clamp(min=0).to(real_dtype(A.dtype))
        bottom = w.amin() + shift
        # Directions without weight and without a shift stay as they are.
        ratio = torch.where(w + shift > 0, bottom / torch.where(w + shift > 0, w + shift, 1), 1)
        low = LowRank(found.U, (ratio - 1).to(A.dtype))
    out = Sum(Identity(A.shape[-1], dtype=A.dtype, device=A.device), low).declare(positive=True)
    out.kind = A.kind
    return out


def _hermitian(A: Any) -> Operator:
    A = as_operator(A, name="A")
    if A.batch_shape:
        raise ValueError(f"A must be one matrix, got a batch {tuple(A.batch_shape)}")
    A.check_hermitian("A")
    return A
