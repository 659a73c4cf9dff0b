"""Actions of any scalar function, f(A) B, without forming f(A): Lanczos, Chebyshev, restarted Arnoldi, rational spaces."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.functions.action import matched
from resolvent.functions.action_gradient import Joined
from resolvent.functions.action_krylov import Krylov
from resolvent.functions.action_rational import rational
from resolvent.functions.action_sweep import cheap, declared
from resolvent.functions.funm_chebyshev import chebyshev
from resolvent.functions.funm_krylov import (
    Function,
    arnoldi,
    conjugated,
    coordinates,
    function,
    kept,
    lanczos,
    symmetric,
)
from resolvent.functions.structure import of_structure
from resolvent.info import Info
from resolvent.operators.arrays import as_tensor, check_finite, give_back_array
from resolvent.operators.convert import OperatorLike, as_operator
from resolvent.operators.elementary import Dense
from resolvent.operators.gradient import records
from resolvent.operators.operator import Operator

Method = Literal["auto", "lanczos", "chebyshev", "arnoldi", "rational"]

_TINY = 32
# Terms of a polynomial up to which it is preferred to Lanczos steps, each of which costs two products and more passes.
_DEGREE = 400


def funm_multiply(
    f: Callable[[Tensor], Tensor] | str,
    A: OperatorLike,
    B: Any,
    *,
    rtol: float | None = None,
    method: Method = "auto",
    max_products: int = 20_000,
    return_info: bool = False,
) -> Any:
    r"""Apply a matrix function without forming it: :math:`f(A) B`.

    Parameters
    ----------
    f : a function of tensors, entry by entry, of real ones for a Hermitian `A`, else of complex ones; or "sqrt", "inv_sqrt",
        "inv", "sign", "log", "exp", "cos", "sin", "cosh", "sinh"
    A : (n, n) operator or anything `as_operator` takes
    B : (n,) or (n, k), of the precision of `A`
    rtol : bound on the relative 2-norm error of each column, as estimated; default 1e-10 in float64, 1e-4 in float32
    method : "auto" chooses; "lanczos" and "chebyshev" for Hermitian `A`, "arnoldi" for any, "rational" for positive definite
        `A` with entries (factorisations of A plus a multiple of the identity)
    max_products : columns that `A` may be multiplied with
    return_info : also return an `Info`

    Returns
    -------
    The kind, device and shape of `B`; complex where `A`, `B` or f is.

    Raises
    ------
    ValueError : shapes that do not fit; f is not finite where the spectrum lies; a method that does not suit `A`; a gradient to
        a non-Hermitian `A` that is too large to be formed, or with a "rational" space: there is none
    ConvergenceError : the estimated error stayed above `rtol`; carries the best value and the error reached

    Notes
    -----
    Hermitian: an interpolating Chebyshev series where 400 terms resolve f on an interval that holds the spectrum, else Lanczos
    by two passes over the recurrence, which stores three blocks of vectors (where products are dear, one pass with the basis
    kept). General: Arnoldi, restarted every 60 vectors in the way of Eiermann and Ernst, with f of the growing Hessenberg
    matrix by Schur-Parlett. "rational": a basis by solves with poles spread over the negative mirror image of the spectrum,
    for f with singularities there (roots, logarithms) where thousands of products would be needed. The error is the change
    over the last third of the steps.

    Gradients of first order flow to `B` and, for Hermitian `A`, to the tensors inside it: the derivative
    :math:`L_f(A, g b^H)` is that of two small tridiagonal matrices between the Krylov bases of g and b, for one recorded
    product with a basis. Small matrices and closed forms have gradients of every order.

    References
    ----------
    "A Restarted Krylov Subspace Method for the Evaluation of Matrix Functions";
    "Krylov methods for low-rank updates and Fréchet derivatives of matrix functions"

    Examples
    --------
    >>> from resolvent.operators import Laplacian, path_graph
    >>> A = Laplacian(path_graph(50, dtype=torch.float64))
    >>> b = torch.ones(50, dtype=torch.float64)
    >>> root = funm_multiply("sqrt", A, funm_multiply("sqrt", A, b.cumsum(0)))
    >>> bool(torch.allclose(root, A @ b.cumsum(0)))
    True
    """
    A = as_operator(A, name="A")
    n = A.shape[-1]
    if A.shape[-2] != n or A.batch_shape:
        raise ValueError(f"A must be one square matrix, got shape {tuple(A.shape)}")
    if method not in ("auto", "lanczos", "chebyshev", "arnoldi", "rational"):
        raise ValueError(f"method must be auto, lanczos, chebyshev, arnoldi or rational, got {method!r}")
    X, kind = as_tensor(B, "B")
    if X.ndim not in (1, 2) or X.shape[0] != n:
        raise ValueError(f"B must have shape ({n},) or ({n}, k), got {tuple(X.shape)}")
    check_finite(X, "B")
    A, X = matched(A, X, kind)
    eps = torch.finfo(X.dtype).eps
    rtol = (1e-10 if eps < 1e-10 else 1e-4) if rtol is None else rtol
    if not 8 * eps <= rtol < 1:
        raise ValueError(f"rtol must be at least 8 eps = {8 * eps:.2g} and less than 1 for {X.dtype}, got {rtol}")
    job = Job(function(f), A, X if X.ndim == 2 else X[:, None], rtol, method, max_products)
    value, info = job.run()
    value = give_back_array(value if X.ndim == 2 else value[:, 0], kind)
    if not info.converged:
        raise ConvergenceError(
            f"funm_multiply: the error is {info.error:.3g}, {rtol:.3g} was asked for ({info.matvecs} products)",
            best=value,
            error=info.error,
            info=info,
        )
    return (value, info) if return_info else value


class Job:
    """One call: what to apply to what, and how well."""

    def __init__(self, f: Function, A: Operator, X: Tensor, rtol: float, method: str, limit: int) -> None:
        self.f, self.A, self.X, self.rtol, self.method, self.limit = f, A, X, rtol, method, limit

    def run(self) -> tuple[Tensor, Info]:
        A, n = self.A, self.A.shape[-1]
        if self.X.numel() == 0:
            return self.X.clone(), Info("none")
        if self.method == "auto" and (n <= _TINY or cheap(A)):
            return self._closed()
        self.A = A = declared(A)
        gradient_A = records(A)
        gradient_B = torch.is_grad_enabled() and self.X.requires_grad
        method = self._choice()
        if gradient_A and (not A.hermitian or method == "rational"):
            raise ValueError(
                "funm_multiply has a gradient to A only for a Hermitian A without rational spaces; detach A, or form f(A)"
            )
        self.A = A.detach()
        if gradient_A:
            return self._recorded(A)
        with torch.no_grad():
            value, info = self._apply(method, self.A, self.X.detach(), self.f)
        if not gradient_B:
            return value, info

        def back(grad: Tensor) -> tuple[Tensor, None, None]:
            conjugate = conjugated(self.f)
            g = grad.to(torch.promote_types(grad.dtype, self.A.dtype))
            found, bad = self._apply(method, self.A.H, g, conjugate)
            if not bad.converged:
                raise ConvergenceError(
                    f"gradient of funm_multiply: the error is {bad.error:.3g}, {self.rtol:.3g} was asked for"
                )
            return found, None, None

        return Joined.apply(lambda: value, self.X, None, None, back), info

    def _closed(self) -> tuple[Tensor, Info]:
        A, X = self.A, self.X
        dense = isinstance(A, Dense) or not cheap(A)
        F: Any = self.f.dense.of(A._dense()) if dense else of_structure(A, self.f.dense)
        if dense:
            common = torch.promote_types(F.dtype, X.dtype)
            value = F.to(common) @ X.to(common)
        else:
            value = F._apply(X, "torch")
        return value, Info("closed form", 0, 1, torch.finfo(A.dtype).eps, True)

    def _choice(self) -> str:
        A = self.A
        if self.method in ("lanczos", "chebyshev", "rational") and not A.hermitian:
            raise ValueError(f"method {self.method!r} needs a Hermitian A; use 'arnoldi'")
        if self.method != "auto":
            return self.method
        return "chebyshev_or_lanczos" if A.hermitian else "arnoldi"

    def _apply(self, method: str, A: Operator, X: Tensor, f: Function) -> tuple[Tensor, Info]:
        """f(A) X of the columns that are not zero, without recording."""
        if X.is_complex() and not A.is_complex:
            re, im = (self._apply(method, A, part.contiguous(), f) for part in (X.real, X.imag))
            info = re[1] if re[1].error >= im[1].error else im[1]
            matvecs = re[1].matvecs + im[1].matvecs
            return re[0] + 1j * im[0], Info(info.method, matvecs, info.iterations, info.error, info.converged)
        sizes = X.abs().amax(0)
        alive = (sizes > 0).nonzero()[:, 0]
        if len(alive) == 0:
            return torch.zeros_like(X), Info("none")
        Y = X[:, alive] / sizes[alive]
        if method == "rational":
            value, products, steps, error = rational(f, A, Y, self.rtol, self.limit)
        elif method == "arnoldi":
            value, products, steps, error = arnoldi(f, A, Y, self.rtol, self.limit)
        else:
            found = None
            if method.startswith("chebyshev"):
                found = chebyshev(f, A, Y, self.rtol, math.inf if method == "chebyshev" else _DEGREE, self.limit)
                if found is None and method == "chebyshev":
                    raise ConvergenceError(
                        "funm_multiply: f takes too many Chebyshev terms on the spectrum; use 'lanczos'"
                    )
            method = "chebyshev" if found is not None else "lanczos"
            value, products, steps, error = found or lanczos(f, A, Y, self.rtol, self.limit)
        out = value.new_zeros(X.shape)
        out[:, alive] = value * sizes[alive]
        return out, Info(method, products, steps, error, error <= self.rtol)

    def _recorded(self, A: Operator) -> tuple[Tensor, Info]:
        """With gradients to a Hermitian A and to B: the basis is kept."""
        X = self.X.detach().to(self.A.dtype)
        n, k = X.shape
        with torch.no_grad():
            zero = X.abs().amax(0) == 0
            run, m, error = kept(self.f, self.A, torch.where(zero, torch.ones_like(X), X), self.rtol, self.limit, True)
            theta, S = torch.linalg.eigh(symmetric(run, m))
            value = torch.where(zero, 0, run.combine(coordinates(S, self.f.at(theta))) * run.norms)
        product = A._apply(run.basis[:, :m].permute(2, 0, 1).reshape(n, k * m), "torch")

        def back(grad: Tensor) -> tuple[Tensor, Tensor, None]:
            conjugate = conjugated(self.f)
            parts = [self._pulled(conjugate, g, run, m, theta, S, zero) for g in _real_columns(grad, self.A)]
            B_bar, P_bar = parts[0]
            if len(parts) > 1:
                B_bar, P_bar = (a + 1j * b for a, b in zip(parts[0], parts[1], strict=True))
            return B_bar, P_bar, None

        info = Info("lanczos", m * k, m, error, error <= self.rtol)
        return Joined.apply(lambda: value, self.X, product, None, back), info

    def _pulled(
        self, f: Function, g: Tensor, run: Krylov, m: int, mu: Tensor, S: Tensor, zero: Tensor
    ) -> tuple[Tensor, Tensor]:
        """f(A) g, and V_g X with L_f(A, g b^H) = V_g X V_b^H, column by column."""
        n, k = g.shape
        none = g.abs().amax(0) == 0
        with torch.no_grad():
            other, j, _ = kept(f, self.A, torch.where(none, torch.ones_like(g), g), self.rtol, self.limit, True)
            lam, Q = torch.linalg.eigh(symmetric(other, j))
            y = coordinates(Q, f.at(lam))
            B_bar = torch.where(none, 0, other.combine(y) * other.norms)
            table = f.divided(lam[:, :, None].expand(k, j, m), mu[:, None, :].expand(k, j, m))
            scale = (other.norms * run.norms * ~none * ~zero).to(table.real.dtype)
            middle = table * Q[:, 0].conj()[:, :, None] * S[:, 0][:, None, :] * scale[:, None, None]
            X = Q.to(middle.dtype) @ middle @ S.mH.to(middle.dtype)
            V = other.basis[:, :j].mT
            V = V.to(torch.promote_types(V.dtype, V.dtype.to_complex())) if X.is_complex() else V
            P = (V @ X.to(V.dtype)).permute(1, 0, 2).reshape(n, k * m)
        return B_bar, P


def _real_columns(grad: Tensor, A: Operator) -> list[Tensor]:
    """A gradient in the dtype of A: its two parts where A is real and it is not."""
    if grad.is_complex() and not A.is_complex:
        return [grad.real.contiguous(), grad.imag.contiguous()]
    return [grad.to(A.dtype)]
