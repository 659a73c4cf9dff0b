"""The nearest correlation matrix: what estimated correlations become when they must fit together."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from resolvent.errors import ConvergenceError
from resolvent.info import Info
from resolvent.operators.arrays import as_tensor, check_finite, give_back_array, real_dtype

# Of the line search, and of the conjugate gradients of a Newton step.
_ARMIJO, _HALVINGS, _CG_STEPS = 1e-4, 25, 200


def nearest_correlation(
    A: Any,
    weights: Any = None,
    eps: float = 0.0,
    *,
    method: Literal["newton", "projections"] = "newton",
    rtol: float | None = None,
    max_iter: int | None = None,
    return_info: bool = False,
) -> Any:
    r"""The nearest correlation matrix, :math:`\min_X \|W^{1/2} (X - A) W^{1/2}\|_F` with unit diagonal and
    :math:`X \succeq \epsilon I`.

    Parameters
    ----------
    A : (*batch, n, n) symmetric or Hermitian
    weights : (n,) positive numbers, the diagonal of W; default ones. With weights the bound is :math:`X \succeq
        \epsilon I` all the same
    eps : smallest eigenvalue allowed, from 0 to 1, below 1
    method : "newton", of Qi and Sun, converges quadratically; "projections" alternates between the two sets with
        Dykstra's correction, as Higham does, and takes tens to hundreds of decompositions
    rtol : bound on the norm of diag X - 1 relative to sqrt(n), before the diagonal is scaled to one; default 1e-10 in
        float64 and 1e-6 in float32
    max_iter : default 100 for "newton", 5000 for "projections"
    return_info : also return `Info`; iterations and error are those of the worst matrix of a batch

    Returns
    -------
    (*batch, n, n) of the kind and dtype of A, its diagonal exactly one

    Raises
    ------
    ValueError : A is not Hermitian or not finite, `weights` or `eps` are out of range.
    ConvergenceError : `rtol` was not reached; carries the best matrix.

    Notes
    -----
    The dual problem has n unknowns y: :math:`\tfrac12 \|(A + \mathrm{diag}\, y)_+\|_F^2 - \sum y`, whose gradient
    is diag X - 1 with X the positive part. A Newton step solves with the generalised Hessian by preconditioned
    conjugate gradients, 4 n^2 r flops each with r the smaller number of eigenvalues of one sign; a step is one
    eigendecomposition, about ten in all. Alternating projections are the gradient method of the same function with
    step one. Computed in float64 whatever the dtype. First-order gradients in A (one more system with the Hessian)
    where no eigenvalue of A + diag y is zero; `weights` have none, and a second derivative raises.

    References
    ----------
    "A Quadratically Convergent Newton Method for Computing the Nearest Correlation Matrix"
    "Computing the nearest correlation matrix---a problem from finance"

    Examples
    --------
    >>> A = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0], [0.0, 1.0, 1.0]])
    >>> nearest_correlation(A)
    tensor([[1.0000, 0.7607, 0.1573],
            [0.7607, 1.0000, 0.7607],
            [0.1573, 0.7607, 1.0000]])
    """
    matrix, kind = as_tensor(A, "A")
    w = _checked(matrix, weights, eps, method)
    if rtol is not None and not 0 < rtol < 1:
        raise ValueError(f"rtol must lie between 0 and 1, got {rtol!r}")
    if max_iter is not None and (isinstance(max_iter, bool) or not isinstance(max_iter, int) or max_iter < 1):
        raise ValueError(f"max_iter must be an int of at least 1, got {max_iter!r}")
    bound = (1e-10 if real_dtype(matrix.dtype) == torch.float64 else 1e-6) if rtol is None else float(rtol)
    limit = max_iter or (100 if method == "newton" else 5000)
    n = matrix.shape[-1]
    wide = matrix.to(torch.complex128 if matrix.is_complex() else torch.float64)
    # Weighted by roots, and without eps I, the set is that of positive matrices with a given diagonal.
    root = w.sqrt()
    scaled = root[:, None] * wide * root - torch.diag(eps * w)
    found, steps, error = [], 0, 0.0
    for one in scaled.reshape(-1, n, n):
        report = _Report()
        found.append(_Nearest.apply((one + one.mH) / 2, (1 - eps) * w, method, bound, limit, report))
        steps, error = max(steps, report.iterations), max(error, report.error)
    X = torch.stack(found).reshape(matrix.shape) + torch.diag(eps * w).to(wide.dtype)
    X = X / (root[:, None] * root)
    lengths = X.diagonal(dim1=-2, dim2=-1).real.sqrt()
    X = (X / (lengths[..., :, None] * lengths[..., None, :])).to(matrix.dtype)
    one_of = torch.eye(n, dtype=torch.bool, device=X.device)
    result = give_back_array(X.masked_fill(one_of, 1), kind)
    info = Info(method, 0, steps, error, error <= bound)
    if not info.converged:
        message = f"nearest_correlation: reached {error:.2g} after {steps} iterations, asked for {bound:.2g}"
        raise ConvergenceError(message, best=result, error=error, info=info)
    return (result, info) if return_info else result


@dataclass
class _Report:
    iterations: int = 0
    error: float = 0.0


class _Nearest(torch.autograd.Function):
    """The nearest positive semidefinite matrix with diagonal b."""

    @staticmethod
    def forward(ctx: Any, G: Tensor, b: Tensor, method: str, rtol: float, limit: int, report: _Report) -> Tensor:
        point = _newton(G, b, rtol, limit, report) if method == "newton" else _projections(G, b, rtol, limit, report)
        ctx.point = point
        return point.X

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        # dX = D(dG + diag dy) with diag dX = 0; the derivative D of the positive part is its own adjoint.
        point: _Point = ctx.point
        inner = point.derivative((grad + grad.mH) / 2)
        v = _solved(point, inner.diagonal().real.clone(), 1e-12, 0.0)
        return inner - point.derivative(torch.diag(v).to(inner.dtype)), None, None, None, None, None


class _Point:
    """The dual function at y: value, gradient, and products with the generalised Hessian."""

    def __init__(self, G: Tensor, b: Tensor, y: Tensor) -> None:
        self.y = y
        self.values, self.P = torch.linalg.eigh(G + torch.diag(y))
        kept = self.values.clamp(min=0)
        self.X = (self.P * kept) @ self.P.mH
        self.value = float(kept.square().sum() / 2 - b @ y)
        self.slope = self.X.diagonal().real - b
        self.error = float(torch.linalg.vector_norm(self.slope) / torch.linalg.vector_norm(b))
        self.below = int((self.values <= 0).sum())

    def weights(self) -> Tensor:
        """Divided differences of the positive part."""
        kept = self.values.clamp(min=0)
        gap = self.values[:, None] - self.values
        mixed = (self.values[:, None] > 0) != (self.values > 0)
        both = ((self.values[:, None] > 0) & (self.values > 0)).to(gap.dtype)
        return torch.where(mixed, (kept[:, None] - kept) / torch.where(mixed, gap, 1.0), both)

    def derivative(self, H: Tensor) -> Tensor:
        """Of the positive part, in the direction H."""
        return self.P @ (self.weights() * (self.P.mH @ H @ self.P)) @ self.P.mH

    def hessian(self) -> tuple[Any, Tensor]:
        """h -> diag D(diag h), from the eigenvectors of the rarer sign, and its diagonal."""
        n, below = len(self.values), self.below
        rare = slice(0, below) if 2 * below <= n else slice(below, n)
        negative = 2 * below <= n
        W = 1 - self.weights() if negative else self.weights()
        part = W[rare].clone()
        # Pairs within the rare sign are met twice.
        part[:, rare] /= 2
        Q = self.P[:, rare]

        def product(h: Tensor) -> Tensor:
            core = part * (Q.mH @ (h[:, None] * self.P))
            found = 2 * ((Q @ core) * self.P.conj()).sum(1).real
            return h - found if negative else found

        squares = self.P.abs().square()
        found = 2 * ((squares[:, rare] @ part) * squares).sum(1)
        return product, 1 - found if negative else found


def _newton(G: Tensor, b: Tensor, rtol: float, limit: int, report: _Report) -> _Point:
    point = _Point(G, b, b - G.diagonal().real)
    for report.iterations in range(limit + 1):
        report.error = point.error
        if point.error <= rtol or report.iterations == limit:
            break
        step = _solved(point, -point.slope, min(0.1, point.error), 1e-6 * min(1.0, point.error))
        descent = float(step @ point.slope)
        length = 1.0
        for _ in range(_HALVINGS):
            trial = _Point(G, b, point.y + length * step)
            # Next to the minimum the value no longer has the digits to tell; the gradient has.
            flat = length == 1.0 and trial.error < 0.5 * point.error
            if flat or trial.value <= point.value + _ARMIJO * length * descent:
                break
            length /= 2
        else:
            break
        point = trial
    return point


def _projections(G: Tensor, b: Tensor, rtol: float, limit: int, report: _Report) -> _Point:
    point = _Point(G, b, torch.zeros_like(b))
    for report.iterations in range(1, limit + 1):
        report.error = point.error
        if point.error <= rtol:
            break
        point = _Point(G, b, point.y - point.slope)
    report.error = point.error
    return point


def _solved(point: _Point, right: Tensor, rtol: float, shift: float) -> Tensor:
    """(Hessian + shift) x = right, by conjugate gradients with the diagonal."""
    product, diagonal = point.hessian()
    inverse = 1 / (diagonal + shift).clamp(min=1e-8)
    x, r = torch.zeros_like(right), right.clone()
    z = inverse * r
    p, rz = z, r @ z
    goal = rtol * torch.linalg.vector_norm(right)
    for _ in range(_CG_STEPS):
        if bool(torch.linalg.vector_norm(r) <= goal):
            break
        q = product(p) + shift * p
        bend = p @ q
        if bool(bend <= 0):
            break
        alpha = rz / bend
        x, r = x + alpha * p, r - alpha * q
        z = inverse * r
        new = r @ z
        p, rz = z + (new / rz) * p, new
    # Without curvature in the first direction the gradient itself is a step.
    return x if bool(x.any()) else inverse * right


def _checked(A: Tensor, weights: Any, eps: float, method: str) -> Tensor:
    """The weights; a ValueError for what does not fit."""
    if A.ndim < 2 or A.shape[-1] != A.shape[-2] or 0 in A.shape:
        raise ValueError(f"A must have shape (*batch, n, n) with n at least 1, got {tuple(A.shape)}")
    check_finite(A, "A")
    with torch.no_grad():
        gap, size = (A - A.mH).abs().max(), A.abs().max()
    if bool(gap > 1e4 * torch.finfo(A.dtype).eps * size):
        raise ValueError(f"A must be Hermitian, entries differ from their mirror by {float(gap):.3g}")
    if method not in ("newton", "projections"):
        raise ValueError(f"method must be 'newton' or 'projections', got {method!r}")
    if not 0 <= eps < 1:
        raise ValueError(f"eps must be at least 0 and below 1, got {eps!r}")
    if weights is None:
        return torch.ones(A.shape[-1], dtype=torch.float64, device=A.device)
    w, _ = as_tensor(weights, "weights")
    if w.requires_grad and torch.is_grad_enabled():
        raise ValueError("nearest_correlation has no gradient in its weights: detach them")
    if w.is_complex() or w.shape != A.shape[-1:]:
        raise ValueError(f"weights must be real of shape ({A.shape[-1]},), got {tuple(w.shape)} of {w.dtype}")
    check_finite(w, "weights")
    if not bool((w > 0).all()):
        raise ValueError(f"weights must be positive, the smallest is {float(w.min())}")
    w = w.detach().to(device=A.device, dtype=torch.float64)
    # Only their ratios count.
    return w / math.exp(float(w.log().mean()))
