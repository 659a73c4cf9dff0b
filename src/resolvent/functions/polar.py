"""The polar decomposition, and the unitary factor alone by composed polynomials: orthogonalisation."""

from __future__ import annotations

import functools
import math
from typing import Any, Literal

import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.functions.equations import solve_lyapunov
from resolvent.functions.minimax import best_quadratic
from resolvent.info import Info
from resolvent.operators import lu
from resolvent.operators.arrays import as_tensor, check_finite, give_back, real_dtype
from resolvent.operators.magnitude import units_of

# The quintic of Newton and Schulz, to which the best ones tend as the interval closes.
_LIMIT = (15 / 8, -10 / 8, 3 / 8)
_HALF = (torch.float16, torch.bfloat16)


def polar(
    A: Any, side: Literal["right", "left"] = "right", *, method: Literal["auto", "svd", "qdwh"] = "auto"
) -> tuple[Any, Any]:
    r"""The polar decomposition :math:`A = U P` (right) or :math:`A = P U` (left), U with orthonormal columns or rows.

    Parameters
    ----------
    A : (*batch, m, n) tensor or array
    side : where the positive semidefinite factor stands
    method : "auto" is "svd" on the CPU, "qdwh" elsewhere

    Returns
    -------
    U : (*batch, m, n), the nearest matrix with orthonormal columns (m >= n) or rows
    P : (*batch, n, n) or, on the left, (*batch, m, m), Hermitian positive semidefinite

    Raises
    ------
    ValueError : `A` is not a finite matrix, `side` or `method` is unknown, or a gradient is asked for at a matrix that has not full rank.

    Notes
    -----
    "svd" is the faster on a CPU. "qdwh": a QR factorisation, then at most 6 weighted Halley steps on the triangular
    factor, of a QR factorisation each while ill conditioned and of a Cholesky factorisation then. Both are backward
    stable. Matrices without full rank take the SVD, and U is then one of many. Gradients of every order, by one Lyapunov
    equation with P.

    References
    ----------
    "Optimizing Halley's Iteration for Computing the Matrix Polar Decomposition"

    Examples
    --------
    >>> U, P = polar(torch.tensor([[0.0, 2.0], [3.0, 0.0]]))
    >>> U.abs().round(decimals=4), P.abs().round(decimals=4)
    (tensor([[0., 1.],
            [1., 0.]]), tensor([[3., 0.],
            [0., 2.]]))
    """
    T, kind = _matrix(A)
    if T.dtype in _HALF:
        raise TypeError(f"A has dtype {T.dtype}; convert it to float32, or take orthogonalize")
    if side not in ("right", "left"):
        raise ValueError(f"side must be 'right' or 'left', got {side!r}")
    if method not in ("auto", "svd", "qdwh"):
        raise ValueError(f"method must be 'auto', 'svd' or 'qdwh', got {method!r}")
    tall = T.shape[-2] >= T.shape[-1]
    rational = method == "qdwh" or (method == "auto" and T.device.type != "cpu")
    U, P = _Polar.apply(T if tall else T.mH, rational)
    if not tall:
        U = U.mH
    if tall != (side == "right"):
        P = _hermitian(U.mH @ T if side == "right" else T @ U.mH)
    return give_back(U, kind), give_back(P, kind)


def orthogonalize(
    A: Any,
    *,
    rtol: float | None = None,
    steps: int | None = None,
    low: float = 1e-3,
    method: Literal["polar_express", "newton_schulz", "svd"] = "polar_express",
    return_info: bool = False,
) -> Any:
    r"""The unitary polar factor :math:`U = A (A^H A)^{-1/2}`: all singular values become one.

    Parameters
    ----------
    A : (*batch, m, n) tensor or array; float16 and bfloat16 are allowed
    rtol : bound on the root mean square of s^2 - s^4 for the singular values s of the result; default 32 eps, for half
        precision 4 eps
    steps : instead of `rtol`: so many steps, made for singular values from `low` to 1 times the Frobenius norm, in the
        precision of `A`. Smaller ones end between 0 and 1.
    low : for `steps`, the smallest singular value relative to the Frobenius norm
    method : "polar_express" composes the best odd quintics; "newton_schulz" repeats (15 x - 10 x^3 + 3 x^5) / 8; "svd"
    return_info : also return an `Info`, whose error is the measured one for `rtol`, and for `steps` the largest
        distance from one at which singular values in [low, 1] can end

    Returns
    -------
    (*batch, m, n), of the kind, dtype and device of `A`.

    Raises
    ------
    ValueError : bad shape, NaN, or options that do not go together.
    ConvergenceError : rounding errors kept the result from `rtol`; carries the best value.

    Notes
    -----
    Three products per step, on the smaller side. Each quintic is the best approximation of one on the interval that those
    before it have left: 5 steps take [1e-3, 1] to within 0.12 of one and 6 to within 1e-3, where Newton-Schulz needs 10 for 0.5. With `rtol` the interval is measured by a Cholesky factor, half precision computes in float32, and a
    matrix without full rank takes the SVD: singular values within max(m, n) eps of zero, relative to the norm, become
    zero, and there is no gradient. The gradient is that of the polar factor.

    References
    ----------
    "The Polar Express: Optimal Matrix Sign Methods and Their Application to the Muon Algorithm"

    Examples
    --------
    >>> orthogonalize(torch.tensor([[3.0, 0.0], [0.0, 0.2], [0.0, 0.0]])).round(decimals=4)
    tensor([[1., 0.],
            [0., 1.],
            [0., 0.]])
    """
    T, kind = _matrix(A)
    if method not in ("polar_express", "newton_schulz", "svd"):
        raise ValueError(f"method must be 'polar_express', 'newton_schulz' or 'svd', got {method!r}")
    if steps is not None and (rtol is not None or method == "svd"):
        raise ValueError("steps goes with neither rtol nor method='svd'")
    if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int) or steps < 1):
        raise ValueError(f"steps must be a positive integer, got {steps!r}")
    if not 0 < low < 1:
        raise ValueError(f"low must lie between 0 and 1, got {low!r}")
    eps = torch.finfo(real_dtype(T.dtype)).eps
    if rtol is None:
        rtol = 4 * eps if T.dtype in _HALF else 32 * eps
    if not rtol > 0:
        raise ValueError(f"rtol must be positive, got {rtol!r}")
    info: list[Info] = []
    value = _Orthogonal.apply(T, rtol, steps, low, method, info)
    if not info:
        info.append(Info(method))  # inside vmap and its like
    if not info[0].converged:
        raise ConvergenceError(
            f"orthogonalize: singular values were left at an error of {info[0].error:.1e}, above rtol = {rtol:.1e}: "
            f"rounding errors of {T.dtype} allow no less",
            best=give_back(value, kind),
            error=info[0].error,
            info=info[0],
        )
    result = give_back(value, kind)
    return (result, info[0]) if return_info else result


def _matrix(A: Any) -> tuple[Tensor, Any]:
    T, kind = as_tensor(A, "A")
    if T.ndim < 2:
        raise ValueError(f"A must have shape (..., m, n), got {tuple(T.shape)}")
    check_finite(T, "A")
    return T, kind


def _hermitian(P: Tensor) -> Tensor:
    return (P + P.mH) / 2


class _Polar(torch.autograd.Function):
    """U and P of A = U P with m >= n."""

    @staticmethod
    def forward(A: Tensor, rational: bool) -> tuple[Tensor, Tensor]:
        A = A.detach()
        U = _unitary_factor(A, rational)
        return U, _hermitian(U.mH @ A)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(*output)
        ctx.save_for_forward(*output)

    @staticmethod
    def backward(ctx: Any, grad_U: Tensor, grad_P: Tensor) -> tuple[Tensor, None]:
        U, P = ctx.saved_tensors
        half = _hermitian(grad_P)
        return _adjoint(U, P, grad_U, grad_U.mH @ U - P @ half) + U @ half, None

    @staticmethod
    def jvp(ctx: Any, change: Tensor, _: None) -> tuple[Tensor, Tensor]:
        U, P = ctx.saved_tensors
        C = U.mH @ change
        turn = solve_lyapunov(P, C - C.mH)
        dU = U @ turn
        if U.shape[-2] > U.shape[-1]:
            dU = dU + lu.solve(P, change - U @ C, left=False)
        return dU, _hermitian(C - turn @ P)

    @staticmethod
    def vmap(
        info: Any, dims: tuple[Any, ...], A: Tensor, rational: bool
    ) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        return _Polar.apply(A.movedim(dims[0], 0), rational), (0, 0)


def _adjoint(U: Tensor, P: Tensor, grad_U: Tensor, K: Tensor) -> Tensor:
    """What A gets from U: with the turn W = U^H dU of P W + W P = U^H dA - dA^H U; K^H - K is what acts on it."""
    Y = solve_lyapunov(P, K.mH - K)
    found = U @ Y
    if U.shape[-2] > U.shape[-1]:
        found = found + lu.solve(P, grad_U - U @ (U.mH @ grad_U), left=False)
    return found


class _Orthogonal(torch.autograd.Function):
    """The polar factor to a tolerance or in so many steps; differentiated as the factor itself."""

    @staticmethod
    def forward(A: Tensor, rtol: float, steps: int | None, low: float, method: str, info: list[Info]) -> Tensor:
        A = A.detach()
        tall = A.shape[-2] >= A.shape[-1]
        X, report = _orthogonal(A if tall else A.mH, rtol, steps, low, method)
        info.append(report)
        return X if tall else X.mH.contiguous()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0], output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        A, U = ctx.saved_tensors
        dtype = A.dtype
        if dtype in _HALF:
            A, U, grad = A.float(), U.float(), grad.float()
        if A.shape[-2] < A.shape[-1]:
            found = _adjoint(U.mH, _hermitian(A @ U.mH), grad.mH, grad @ U.mH).mH
        else:
            found = _adjoint(U, _hermitian(U.mH @ A), grad, grad.mH @ U)
        return found.to(dtype), None, None, None, None, None

    @staticmethod
    def vmap(info: Any, dims: tuple[Any, ...], A: Tensor, *rest: Any) -> tuple[Tensor, int]:
        return _Orthogonal.apply(A.movedim(dims[0], 0), *rest), 0


def _orthogonal(A: Tensor, rtol: float, steps: int | None, low: float, method: str) -> tuple[Tensor, Info]:
    if A.numel() == 0:
        return A.clone(), Info(method)
    if method == "svd":
        X, report = _by_svd(A.float() if A.dtype in _HALF else A)
        return X.to(A.dtype), report
    A = A / units_of(A)
    size = torch.linalg.matrix_norm(A.float() if A.dtype in _HALF else A)[..., None, None]
    size = torch.where(size > 0, size, torch.ones_like(size))
    if steps is not None:
        return orthogonal_steps((A / size).to(A.dtype), steps, low, method)
    X = (A.float() if A.dtype in _HALF else A) / size
    found, report = _to_tolerance(X, rtol, method)
    return found.to(A.dtype), report


def orthogonal_steps(X: Tensor, steps: int, low: float, method: str) -> tuple[Tensor, Info]:
    """So many steps on matrices of Frobenius norm 1, with at least as many rows as columns."""
    rows, bound = _plan(low, 4 * torch.finfo(real_dtype(X.dtype)).eps, method, steps, 0.0)
    for row in rows:
        X = _quintic(X, row)
    return X, Info(method, iterations=steps, error=bound)


def _by_svd(A: Tensor) -> tuple[Tensor, Info]:
    """Singular values that are zero to rounding become zero, all others one."""
    W, s, Vh = torch.linalg.svd(A, full_matrices=False)
    kept = (s > max(A.shape[-2:]) * torch.finfo(s.dtype).eps * s[..., :1]).to(W.dtype)
    X = (W * kept[..., None, :]) @ Vh
    return X, Info("svd", iterations=1, error=_error(X))


def _quintic(X: Tensor, c: tuple[float, ...]) -> Tensor:
    """X (a I + b G + c G^2) with G = X^H X."""
    G = (X.mH @ X).reshape(-1, X.shape[-1], X.shape[-1])
    # One pass over G instead of four, and in half precision one rounding.
    P = torch.baddbmm(G, G, G, beta=c[1], alpha=c[2])
    P.diagonal(dim1=-2, dim2=-1).add_(c[0])
    return X @ P.reshape(*X.shape[:-2], *P.shape[-2:])


@functools.lru_cache(maxsize=256)
def _plan(
    low: float, safety: float, method: str, steps: int | None, target: float
) -> tuple[tuple[tuple[float, float, float], ...], float]:
    """Coefficients of so many steps, or of those that reach the target, and the distance from one at which [low, 1]
    ends."""
    rows: list[tuple[float, float, float]] = []
    while True:
        if method == "newton_schulz":
            a, b, c = _LIMIT
            low = low * (a + b * low**2 + c * low**4)
            rows.append(_LIMIT)
            last = len(rows) == steps if steps else 1 - low <= target
        else:
            # Room for the rounding errors that lift values above one, where the quintics are steep.
            low, room = low / (1 + safety), 1 + safety
            a, b, c, error = best_quadratic(low * low)
            last = len(rows) + 1 == steps if steps else error <= target
            top = 1.0 if last else 1 + error
            rows.append((a / top / room, b / top / room**3, c / top / room**5))
            low = (1 - error) / top
        if last:
            return tuple(rows), 1 - low


def _to_tolerance(X: Tensor, rtol: float, method: str) -> tuple[Tensor, Info]:
    eps = torch.finfo(real_dtype(X.dtype)).eps
    smallest = _smallest(X)
    if smallest < max(X.shape[-2:]) * eps:
        # Polynomials would lift the rounding errors in directions that the matrix does not have.
        return _by_svd(X)
    # Few different intervals, so that a plan is found once.
    low = 2.0 ** (math.floor(4 * math.log2(smallest)) / 4)
    rows, _ = _plan(low, 4 * eps, method, None, max(rtol / 8, eps))
    best, error, taken = X, math.inf, 0
    for row in (*rows, *[_LIMIT] * 6):
        # The limit of the best quintics repairs what rounding errors have left.
        if taken >= len(rows) and (error := _error(best)) <= rtol:
            break
        best = _quintic(best, row)
        taken += 1
    if error > rtol:
        error = _error(best)
    return best, Info(method, iterations=taken, error=error, converged=error <= rtol)


def _smallest(X: Tensor) -> float:
    """A lower bound of the singular values of X, zero where there is none above the root of the precision."""
    double = torch.complex128 if X.is_complex() else torch.float64
    wide = X.to(double)
    R, failed = torch.linalg.cholesky_ex(wide.mH @ wide, upper=True)
    if bool(failed.any()):
        return 0.0
    one = torch.eye(R.shape[-1], dtype=R.dtype, device=R.device).expand_as(R)
    bound = 1 / float(torch.linalg.matrix_norm(torch.linalg.solve_triangular(R, one, upper=True)).amax())
    return bound if bound > 1e-7 else 0.0


def _error(X: Tensor) -> float:
    """The root mean square of s^2 - s^4 over the singular values that are not zero."""
    G = X.mH @ X
    rank = G.diagonal(dim1=-2, dim2=-1).sum(-1).real.clamp(min=1)
    return float((torch.linalg.matrix_norm(G - G @ G) / rank.sqrt()).amax())


def _unitary_factor(A: Tensor, rational: bool) -> Tensor:
    """U of A = U P for m >= n, by SVD or by QDWH."""
    if A.numel() == 0:
        return A.clone()
    if not rational:
        W, _, Vh = torch.linalg.svd(A, full_matrices=False)
        return W @ Vh
    Q, R = torch.linalg.qr(A)
    diagonal = R.diagonal(dim1=-2, dim2=-1).abs()
    eps = torch.finfo(diagonal.dtype).eps
    low = 0.0
    if bool((diagonal.amin(-1) > 0).all()):
        size = torch.linalg.matrix_norm(R)[..., None, None]
        X = R / size
        one = torch.eye(R.shape[-1], dtype=R.dtype, device=R.device).expand_as(R)
        low = 1 / float(torch.linalg.matrix_norm(torch.linalg.solve_triangular(X, one, upper=True)).amax())
    if not low > R.shape[-1] * eps:
        return _unitary_factor(A, False)
    return Q @ _halley(X, low, eps)


def _halley(X: Tensor, low: float, eps: float) -> Tensor:
    """Dynamically weighted Halley steps on square X with singular values in [low, 1]."""
    n = X.shape[-1]
    one = torch.eye(n, dtype=X.dtype, device=X.device).expand_as(X)
    for _ in range(12):
        if 1 - low <= 4 * eps:
            break
        d = (4 * (1 - low * low) / low**4) ** (1 / 3)
        root = math.sqrt(1 + d)
        a = root + math.sqrt(8 - 4 * d + 8 * (2 - low * low) / (low * low * root)) / 2
        b = (a - 1) ** 2 / 4
        c = a + b - 1
        if c > 100:
            Q = torch.linalg.qr(torch.cat([math.sqrt(c) * X, one], -2)).Q
            X = b / c * X + (a - b / c) / math.sqrt(c) * Q[..., :n, :] @ Q[..., n:, :].mH
        else:
            L = torch.linalg.cholesky(one + c * (X.mH @ X))
            X = b / c * X + (a - b / c) * torch.cholesky_solve(X.mH, L).mH
        low = min(1.0, low * (a + b * low * low) / (1 + c * low * low))
    # One Newton-Schulz step takes the rounding errors of the last rational step out of the orthogonality.
    return X @ (3 * one - X.mH @ X) / 2
