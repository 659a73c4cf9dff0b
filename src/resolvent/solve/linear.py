"""Linear systems: by structure, by factors, else by an iteration; the residual is measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.operators.arrays import give_back_array
from resolvent.operators.convert import OperatorLike, as_operator
from resolvent.operators.operator import Operator
from resolvent.operators.toeplitz import Toeplitz
from resolvent.random import gaussian
from resolvent.solve.arnoldi import gmres_with
from resolvent.solve.conjugate import run_block_cg, run_cg
from resolvent.solve.implicit import Inverse, differentiable
from resolvent.solve.short import idr_with, run_bicgstab
from resolvent.solve.structure import circulant_near, inverse_of
from resolvent.solve.symmetric import run_minres
from resolvent.solve.system import Method as Run
from resolvent.solve.system import SolveInfo, iterate, lengths, prepare, right_sides
from resolvent.spectra.inertia import scipy_matrix

Method = Literal["auto", "direct", "refine", "cg", "block_cg", "minres", "gmres", "bicgstab", "idr"]
_RUNS: dict[str, Callable[[], Run]] = {
    "cg": lambda: run_cg,
    "block_cg": lambda: run_block_cg,
    "minres": lambda: run_minres,
    "gmres": lambda: gmres_with(50, flexible=False),
    "bicgstab": lambda: run_bicgstab,
    "idr": lambda: idr_with(4, 0),
}
_SYMMETRIC = ("cg", "block_cg", "minres")
# Part of b that a residual may be: beyond, x = 0 is as good, and a small backward error only says how large x is.
_LOST = 0.5


def solve(
    A: OperatorLike,
    b: Any,
    *,
    rtol: float | None = None,
    method: Method = "auto",
    M: OperatorLike | None = None,
    x0: Any = None,
    maxiter: int | None = None,
    return_info: bool = False,
) -> Any:
    r"""Solve :math:`A x = b`.

    Parameters
    ----------
    A : (*batch, n, n) operator or anything `as_operator` takes
    b : (n,), one vector for every matrix of a batch, or (*batch, n, k); leading dimensions broadcast
    rtol : bound on the measured ``|b - A x| / |b|`` of each column. None: 1e-10 in float64 and 1e-5 in float32 for
        iterations; for direct methods the same bound on ``|b - A x| / (|A| |x| + |b|)``, which no condition of A can spoil,
        and 0.5 on ``|b - A x| / |b|``
    method : "auto" looks at the structure, then factorises what is dense, small, or sparse with little fill, and else
        iterates. "direct" does not iterate; "refine" factorises in float32 and corrects to float64; the names of
        iterations iterate.
    M : (n, n) operator near the inverse of A, for an iteration; None chooses one for sparse and Toeplitz matrices
    x0 : start of an iteration
    maxiter : most steps of an iteration
    return_info : also return a `SolveInfo`

    Returns
    -------
    x of the kind of b, (*batch, n) for a vector b and (*batch, n, k) for columns; or ``(x, info)``.

    Raises
    ------
    ValueError : shapes that do not fit, NaN, or A is singular to working precision
    ConvergenceError : the measured residual is above the tolerance; `best` is the best x
    TypeError : mixed precision of torch tensors; a direct method was asked for and there is none

    Notes
    -----
    Closed forms: diagonal, triangular, tridiagonal, circulant, Hadamard, permutations and all else that is unitary,
    multiples, powers, products, block diagonals, Kronecker products, Kronecker sums (two terms, or Hermitian ones), and
    any of these plus low rank. Dense matrices: Cholesky if declared Hermitian and found positive, else LU with one look
    at the pivots. Sparse ones: SuperLU if the factors are known to be small, else `amg` or `ic` with conjugate gradients,
    `ilu` with GMRES. "refine" takes dense float64 matrices, about 1.5 times faster than "direct" where n is in the
    thousands, up to a condition of 1e7 and beyond where few singular values are that small. A residual above `rtol` is solved for once more before it is an error. Gradients to b and to the
    tensors inside A, of first and second order, by the adjoint system; nothing of an iteration is recorded.

    Examples
    --------
    >>> A = torch.tensor([[2.0, 1.0], [1.0, 3.0]])
    >>> solve(A, torch.tensor([3.0, 4.0])).round(decimals=4)
    tensor([1., 1.])
    """
    if method not in get_args(Method):
        raise ValueError(f"method must be one of {', '.join(get_args(Method))}, got {method!r}")
    A = as_operator(A, name="A")
    if A.shape[-1] != A.shape[-2]:
        raise ValueError(f"A must be square, got shape {tuple(A.shape)}: use lstsq")
    A, B, kind, single = right_sides(A, b)
    if rtol is not None and not 0 < rtol < 1:
        raise ValueError(f"rtol must lie between 0 and 1, got {rtol!r}")
    batch = _batch(A, B)
    reports: list[SolveInfo] = []
    found = None
    with torch.no_grad():
        if method == "refine":
            from resolvent.solve.refine import refined_inverse

            found = refined_inverse(A)
        elif method == "direct" or (method == "auto" and M is None and x0 is None):
            found = inverse_of(A.detach() if _detachable(A) else A)
    inverse: Inverse
    if found is not None:
        inverse = _measured(A, *found, rtol, kind, single, reports)
    elif method == "direct":
        raise TypeError(f"A has no direct method: {type(A).__name__} of shape {tuple(A.shape)}; use method='auto'")
    else:
        inverse = _iterated(A, B, method, rtol, M, x0, maxiter, (kind, single), reports)
    X = differentiable(A, B.expand(*batch, *B.shape[-2:]), inverse)
    value = give_back_array(X[..., 0] if single else X, kind)
    return (value, reports[0]) if return_info else value


def _detachable(A: Operator) -> bool:
    return A.requires_grad is True


def _batch(A: Operator, B: Tensor) -> torch.Size:
    try:
        return torch.broadcast_shapes(A.batch_shape, B.shape[:-2])
    except RuntimeError:
        raise ValueError(f"the leading dimensions do not broadcast: A {tuple(A.shape)}, b {tuple(B.shape)}") from None


def _times(A: Operator, X: Tensor) -> Tensor:
    return A._matmul(X) if X.dtype == A.dtype else A._apply(X, "torch")


def _measured(
    A: Operator, inverse: Inverse, name: str, rtol: float | None, kind: Any, single: bool, reports: list[SolveInfo]
) -> Inverse:
    """A direct method that looks at its residual."""
    goal = rtol if rtol is not None else (1e-10 if torch.finfo(A.dtype).bits == 64 else 1e-5)

    def solve(B: Tensor, adjoint: bool) -> Tensor:
        op = A.H if adjoint else A
        with torch.no_grad():
            X = inverse(B, adjoint)
            if not bool(torch.isfinite(X.abs().sum())) and not bool(torch.isfinite(X).all()):
                raise ValueError(f"A is singular to working precision, or x is beyond the range of {X.dtype}")
            X, error, rounds, left = _refined(op, B, X, lambda R: inverse(R, adjoint), goal, backward=rtol is None)
        # A residual as large as b is no better than that of zero, however small beside the huge x that it comes from.
        lost = left >= _LOST
        error = max(error, left) if lost else error
        info = SolveInfo(name, (1 + rounds) * B.shape[-1], rounds, error, error <= goal and not lost)
        reports.append(info)
        if not info.converged:
            raise ConvergenceError(
                f"solve: the relative residual is {error:.2g}, asked for {goal:.2g}: "
                + (
                    "use method='direct', A is too near to a singular matrix"
                    if name.startswith("refine")
                    else "A is too near to a singular matrix"
                )
                + " for its precision",
                best=give_back_array(X[..., 0] if single else X, kind),
                error=error,
                info=info,
            )
        return X

    return solve


def _refined(
    A: Operator, B: Tensor, X: Tensor, again: Callable[[Tensor], Tensor], goal: float, backward: bool
) -> tuple[Tensor, float, int, float]:
    """X with the measured error, corrected by its residual for as long as that is needed and helps.

    The last is the largest residual beside b alone.
    """
    size = None
    error, rounds, left = float("inf"), -1, 0.0
    best, sides = X, _lengths(B)
    while rounds < 2:
        rounds += 1
        R = B - _times(A, X)
        below = sides
        if backward:
            if size is None:
                # The image of a Gaussian vector has about the Frobenius norm.
                g = gaussian((A.shape[-1], 1), A.dtype, A.device, 0)
                size = _lengths(_times(A, g))
            below = below + size * _lengths(X)
        length = _lengths(R)
        now = _worst(length, below)
        if not now < error:
            break
        best, error, left = X, now, _worst(length, sides) if backward else now
        if error <= goal:
            break
        X = X + again(R)
    return best, error, rounds, left


def _lengths(X: Tensor) -> Tensor:
    """`lengths`, also of columns whose squares leave the range of float64."""
    if not X.shape[-2]:
        return lengths(X)
    top = X.abs().amax(-2, keepdim=True)
    return lengths(X / torch.where(top > 0, top, 1)) * top[..., 0, :]


def _worst(length: Tensor, below: Tensor) -> float:
    """The largest quotient of residuals and what they are compared with."""
    relative = torch.where(length > 0, length / torch.where(below > 0, below, torch.finfo(below.dtype).tiny), 0)
    return float(relative.amax()) if relative.numel() else 0.0


def _iterated(
    A: Operator,
    B: Tensor,
    method: str,
    rtol: float | None,
    M: Any,
    x0: Any,
    maxiter: int | None,
    given: tuple[Any, bool],
    reports: list[SolveInfo],
) -> Inverse:
    """An iteration, and a preconditioner for it."""
    if A.batch_shape:
        raise ValueError(
            f"method {method!r} takes one matrix, got a batch {tuple(A.batch_shape)} of {type(A).__name__}"
        )
    with torch.no_grad():
        name, P = _choice(A, method, None if M is None else as_operator(M, name="M"))
    step = _RUNS[name]()
    kind, single = given

    def solve(B: Tensor, adjoint: bool) -> Tensor:
        # A batch of right-hand sides becomes columns.
        side = B.movedim(-2, 0)
        flat = side.reshape(B.shape[-2], -1)
        system = prepare(
            name,
            A.H if adjoint else A,
            flat,
            rtol=rtol,
            M=P.H if adjoint and P is not None else P,
            x0=None if adjoint or x0 is None else _columns(x0, B, single),
            maxiter=maxiter,
            callback=None,
            hermitian=name in _SYMMETRIC,
        )
        system = system._replace(kind=kind, single=single and flat.shape[1] == 1)
        X, info = iterate(system, step)
        reports.append(info)
        return X.reshape(side.shape).movedim(0, -2)

    return solve


def _columns(x0: Any, B: Tensor, single: bool) -> Tensor:
    X0 = torch.as_tensor(x0, dtype=B.dtype, device=B.device)
    X0 = X0[..., None] if single else X0
    if X0.shape != B.shape:
        raise ValueError(f"x0 must have the shape of x, got {tuple(X0.shape)} for {tuple(B.shape)}")
    return X0.movedim(-2, 0).reshape(B.shape[-2], -1)


def _choice(A: Operator, method: str, M: Operator | None) -> tuple[str, Operator | None]:
    """Which iteration, and with which preconditioner."""
    if isinstance(A, Toeplitz):
        name = method if method != "auto" else "cg" if A.positive else "minres" if A.hermitian else "gmres"
        return name, M or circulant_near(A)
    matrix = scipy_matrix(A)
    symmetric = A.hermitian or (matrix is not None and _is_hermitian(A))
    if M is not None or matrix is None:
        positive = A.positive and (M is None or M.positive)
        return (method if method != "auto" else "cg" if positive else "minres" if symmetric else "gmres"), M
    from resolvent.solve.choose import preconditioner_for

    return preconditioner_for(A, matrix, symmetric, method)


def _is_hermitian(A: Operator) -> bool:
    try:
        A.check_hermitian("A")
    except ValueError:
        return False
    return True
