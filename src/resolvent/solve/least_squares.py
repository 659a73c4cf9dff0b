"""Least squares: dense by a sketch or orthogonal factors, sparse by an iteration; weights, ridge, least norm."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.operators.arrays import as_tensor, check_finite, give_back_array, real_dtype
from resolvent.operators.convert import OperatorLike, as_operator
from resolvent.operators.elementary import Dense, Diagonal
from resolvent.operators.gradient import records
from resolvent.operators.operator import Operator
from resolvent.random import GeneratorLike, as_generator, gaussian
from resolvent.solve.implicit import refusing
from resolvent.solve.least_squares_methods import Factored, Sketched, Solver, Unreached, frobenius, optimality
from resolvent.solve.system import SolveInfo, default_rtol, right_sides

Method = Literal["auto", "qr", "sketch", "lsmr"]

# Where a sketch begins to beat a QR factorisation: entries, columns, and rows per column.
_ENTRIES, _COLUMNS, _TALL = 1_000_000, 16, 40
# Operators that are written down.
_DENSE = 4_000_000
# Columns of a sparse matrix whose sketch is factorised, and rows per column.
_SPARSE_COLUMNS, _SPARSE_TALL = 2000, 10


def lstsq(
    A: OperatorLike,
    b: Any,
    *,
    ridge: float = 0.0,
    weights: Any = None,
    rcond: float | None = None,
    rtol: float | None = None,
    method: Method = "auto",
    generator: GeneratorLike = 0,
    return_info: bool = False,
) -> Any:
    r"""Least squares :math:`\min_x \sum_i w_i |b - A x|_i^2 + \rho \|x\|^2`, the x of least norm where there are many.

    Parameters
    ----------
    A : (*batch, m, n) operator or anything `as_operator` takes, of any shape and rank
    b : (m,) or (*batch, m, k)
    ridge : :math:`\rho` of at least 0
    weights : (m,) of at least 0, or None for ones
    rcond : singular values below rcond times the largest count as zero; default eps max(m, n)
    rtol : bound on the measured ``|A^H r - ridge x| / (|A| (|r| + |A| |x|))`` of each column, with the Frobenius norm
        of A; default 1e-10 in float64, 1e-5 in float32
    method : "auto", "qr" (orthogonal factors), "sketch" (tall dense matrices), or "lsmr" (an iteration; sparse
        matrices and operators)
    generator : of the sketch; the solution does not depend on it beyond rounding
    return_info : also return a `SolveInfo`

    Returns
    -------
    x (*batch, n) or (*batch, n, k) of the kind of b; or ``(x, info)``.

    Raises
    ------
    ValueError : shapes that do not fit, NaN, a negative ridge or weight
    ConvergenceError : the tolerance was not met; `best` is the best x
    TypeError : mixed precision of torch tensors, a method that does not take this A

    Notes
    -----
    Tall dense matrices: the SVD of a sketch of some 64 n rows preconditions conjugate gradients, which then take about 20
    passes over A at any condition number; the residual is computed anew twice, as that gives the accuracy of a QR
    factorisation (whose 2 m n^2 flops it avoids). Others: QR, and the SVD of R where the rank is in doubt. Sparse ones:
    LSMR, for tall ones with up to 2000 columns preconditioned by a sketch. First-order gradients to b, to the tensors
    inside A and to the weights, right where the rank does not change.

    References
    ----------
    "Blendenpik: Supercharging LAPACK's Least-Squares Solver"
    "LSRN: A Parallel Iterative Solver for Strongly Over- or Underdetermined Systems"
    "Fast randomized least-squares solvers can be just as accurate and stable as classical direct solvers"

    Examples
    --------
    >>> A = torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]])
    >>> lstsq(A, torch.tensor([1.0, 2.0, 3.0])).round(decimals=4)
    tensor([1., 1.])
    """
    if method not in get_args(Method):
        raise ValueError(f"method must be one of {', '.join(get_args(Method))}, got {method!r}")
    if not ridge >= 0:
        raise ValueError(f"ridge must be at least 0, got {ridge!r}")
    A = as_operator(A, name="A")
    A, B, kind, single = right_sides(A, b)
    if B.is_complex() and not A.is_complex:
        A = A.to(B.dtype)
    if weights is not None:
        A, B = _weighted(A, B, weights)
    if rcond is None:
        rcond = torch.finfo(A.dtype).eps * max(A.shape[-2:])
    if not 0 <= rcond < 1:
        raise ValueError(f"rcond must lie in [0, 1), got {rcond!r}")
    rtol = default_rtol(A.dtype) if rtol is None else rtol
    if not 0 < rtol < 1:
        raise ValueError(f"rtol must lie between 0 and 1, got {rtol!r}")
    name = _method(A, method)
    with torch.no_grad():
        if name == "lsmr":
            solver, name = _iterative(A, ridge, rcond, rtol, generator), name
        else:
            solver, name = _dense_solver(A, ridge, rcond, name, generator, asked=method == "sketch")
        X, solver, name = _solved(A, B.detach(), ridge, solver, name, rcond)
        info = _report(A, B.detach(), X, ridge, solver, name, rtol, kind, single)
    X = _attached(A, B, X, ridge, solver)
    value = give_back_array(X[..., 0] if single else X, kind)
    return (value, info) if return_info else value


def _weighted(A: Operator, B: Tensor, weights: Any) -> tuple[Operator, Tensor]:
    w, _ = as_tensor(weights, "weights")
    if tuple(w.shape) != (A.shape[-2],):
        raise ValueError(f"weights must have shape ({A.shape[-2]},), got {tuple(w.shape)}")
    check_finite(w, "weights")
    if w.is_complex() or bool((w < 0).any()):
        raise ValueError(f"weights must be real and at least 0, the least is {float(w.real.min()):.3g}")
    root = w.to(device=A.device, dtype=real_dtype(A.dtype)).sqrt()
    B = root[:, None] * B
    if isinstance(A, Dense):
        return Dense(root[:, None] * A.data), B
    return Diagonal(root.to(A.dtype)) @ A, B


def _method(A: Operator, method: str) -> str:
    m, n = A.shape[-2:]
    if method == "sketch":
        if A.batch_shape or m < 4 * n or not isinstance(A, Dense):
            raise TypeError(
                f"method 'sketch' takes one dense matrix with at least 4 rows per column, got {type(A).__name__} of shape "
                f"{tuple(A.shape)}"
            )
        return method
    if method == "lsmr":
        if A.batch_shape:
            raise TypeError(f"method 'lsmr' takes one matrix, got a batch {tuple(A.batch_shape)}")
        return method
    if method == "qr" or A.batch_shape:
        return "qr"
    if isinstance(A, Dense):
        pays = m * n >= _ENTRIES and n >= _COLUMNS and m >= _TALL * n
        return "sketch" if pays else "qr"
    return "qr" if m * n <= _DENSE and min(m, n) <= 2000 else "lsmr"


def _dense_solver(
    A: Operator, ridge: float, rcond: float, name: str, generator: GeneratorLike, asked: bool
) -> tuple[Solver, str]:
    matrix = A._dense().detach()
    if matrix.dtype not in (torch.float32, torch.float64, torch.complex64, torch.complex128):
        raise TypeError(f"A has dtype {A.dtype}: convert it to float32 or float64")
    m, n = matrix.shape[-2:]
    if name == "sketch" and n:
        rows = min(max(m // 4, 4 * n), (64 if n <= 512 else 16) * n)
        sketched = Sketched(matrix, ridge, rcond, rows, min(4, rows), generator)
        if asked or not sketched.doubtful:
            return sketched, "sketch"
    if ridge:
        eye = ridge**0.5 * torch.eye(n, dtype=matrix.dtype, device=matrix.device)
        matrix = torch.cat([matrix, eye.expand(*matrix.shape[:-2], n, n)], -2)
    return Factored(matrix, rcond), "qr"


def _solved(
    A: Operator, B: Tensor, ridge: float, solver: Solver, name: str, rcond: float
) -> tuple[Tensor, Solver, str]:
    """The solution, and the solver that it came from: a sketch that fails is replaced."""
    if isinstance(solver, Sketched):
        try:
            return solver.solve(B), solver, name
        except Unreached:
            # Rows that weigh as much as all others together can meet in a sketch. Factors cannot fail.
            solver, name = _dense_solver(A, ridge, rcond, "qr", None, asked=False)
    if name == "qr" and ridge:
        B = torch.cat([B, B.new_zeros(*B.shape[:-2], A.shape[-1], B.shape[-1])], -2)
    return solver.solve(B), solver, name


class _Iterative:
    """LSMR, right-preconditioned where a sketch can be had."""

    def __init__(self, A: Operator, ridge: float, rtol: float, N: Tensor | None) -> None:
        self.A, self.ridge, self.rtol, self.N = A, ridge, rtol, N
        self.steps = self.passes = 0
        self.deficient = N is None or N.shape[1] < A.shape[-1]

    def _augmented(self) -> Operator:
        A = self.A
        if self.ridge:
            from resolvent.operators.blocks import Block
            from resolvent.operators.elementary import Identity

            A = Block([[A], [self.ridge**0.5 * Identity(A.shape[-1], dtype=A.dtype, device=A.device)]])
        return A if self.N is None else A @ Dense(self.N)

    def solve(self, B: Tensor) -> Tensor:
        if self.ridge:
            B = torch.cat([B, B.new_zeros(self.A.shape[-1], B.shape[-1])], -2)
        Y = self._run(self._augmented(), B)
        return Y if self.N is None else self.N.to(Y.dtype) @ Y

    def inverse_gram(self, G: Tensor) -> Tensor:
        # The least z with (A N)^H z = N^H G, then the least y with A N y = z.
        full = self._augmented()
        side = G if self.N is None else self.N.mH.to(G.dtype) @ G
        Y = self._run(full, self._run(full.H, side))
        return Y if self.N is None else self.N.to(Y.dtype) @ Y

    def _run(self, A: Operator, B: Tensor) -> Tensor:
        from resolvent.solve.rectangular import lsmr

        try:
            X, info = lsmr(A, B, rtol=self.rtol / 10, return_info=True)
        except ConvergenceError as error:
            # The caller measures what this is worth in its own measure, and says so.
            X, info = error.best, error.info
        self.steps += info.iterations
        self.passes += info.matvecs
        return X


def _iterative(A: Operator, ridge: float, rcond: float, rtol: float, generator: GeneratorLike) -> Solver:
    m, n = A.shape[-2:]
    A = A.detach() if A.requires_grad is True else A
    if m < _SPARSE_TALL * n or not 0 < n <= _SPARSE_COLUMNS:
        return _Iterative(A, ridge, rtol, None)
    from resolvent.sketch import make_sketch

    source = as_generator(generator, A.device)
    S = make_sketch("osnap", min(m, 4 * n), m, generator=source, dtype=A.dtype, device=A.device, nonzeros=4)
    small = A.H._matmul(S.to_dense().mH).mH if S.shape[0] <= 64 else _sketched(A, S)
    if ridge:
        small = torch.cat([small, ridge**0.5 * torch.eye(n, dtype=A.dtype, device=A.device)])
    _, s, Vh = torch.linalg.svd(torch.linalg.qr(small, mode="r").R, full_matrices=False)
    keep = s > rcond * s[0]
    return _Iterative(A, ridge, rtol, Vh[keep].mH / s[keep].to(Vh.dtype))


def _sketched(A: Operator, S: Operator) -> Tensor:
    """S A, column block by column block, so that no block is larger than A's own rows times 64."""
    n = A.shape[-1]
    eye = torch.eye(n, dtype=A.dtype, device=A.device)
    return torch.cat([S._matmul(A._matmul(block.contiguous())) for block in eye.split(64, dim=1)], 1)


def _report(
    A: Operator, B: Tensor, X: Tensor, ridge: float, solver: Solver, name: str, rtol: float, kind: Any, single: bool
) -> SolveInfo:
    passes = solver.passes
    if isinstance(solver, Sketched) and solver.last is not None:
        _, R, gradient = solver.last
    else:
        R = B - _times(A, X)
        gradient, passes = _times(A.H, R) - ridge * X, passes + 2
    if isinstance(solver, Sketched) and solver.last is not None:
        norm = solver.norm
    elif isinstance(A, Dense):
        norm = frobenius(A.data.detach())
    else:
        # The image of Gaussian vectors has about the Frobenius norm.
        norm = frobenius(A._matmul(gaussian((A.shape[-1], 1), A.dtype, A.device, 0)))
    error = optimality(norm, X, R, gradient)
    info = SolveInfo(name, passes, solver.steps, error, error <= rtol)
    if not info.converged:
        raise ConvergenceError(
            f"lstsq: the error is {error:.2g}, asked for {rtol:.2g}; method='qr' is the most accurate",
            best=give_back_array(X[..., 0] if single else X, kind),
            error=error,
            info=info,
        )
    return info


def _times(A: Operator, X: Tensor) -> Tensor:
    return A._matmul(X) if X.dtype == A.dtype else A._apply(X, "torch")


def _attached(A: Operator, B: Tensor, X: Tensor, ridge: float, solver: Solver) -> Tensor:
    """X with its first-order gradients."""
    if not torch.is_grad_enabled():
        return X
    recorded = records(A)
    if not recorded and not B.requires_grad:
        return X
    tensors = list({id(t): t for t in A.tensors() if t.requires_grad}.values())
    if recorded and not tensors:
        raise TypeError(
            "lstsq has gradients to the tensors inside A only where the operator knows them: give `parameters`"
        )
    return _Fit.apply(X, A, B, ridge, solver, *tensors)


class _Fit(torch.autograd.Function):
    """The derivative of a pseudoinverse of constant rank, applied to b."""

    @staticmethod
    def forward(ctx: Any, X: Tensor, A: Operator, B: Tensor, ridge: float, solver: Solver, *tensors: Tensor) -> Tensor:
        ctx.A, ctx.ridge, ctx.solver = A, ridge, solver
        ctx.save_for_backward(X, B, *tensors)
        return X.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        saved = ctx.saved_tensors
        with torch.no_grad():
            found = _Fit._first(ctx, grad, saved)
        return refusing(found, (grad, *saved), "lstsq has first derivatives only")

    @staticmethod
    def _first(ctx: Any, grad: Tensor, saved: tuple[Tensor, ...]) -> tuple[Any, ...]:
        X, B, *tensors = saved
        A, solver = ctx.A, ctx.solver
        T = solver.inverse_gram(grad.contiguous())
        back = _times(A, T)
        found: list[Tensor | None] = [None] * len(tensors)
        if tensors:
            left, right = [X, T], [-back, B - _times(A, X)]
            m, n = A.shape[-2:]
            if not ctx.ridge and (solver.deficient or m < n):
                rest = grad - solver.inverse_gram(_times(A.H, _times(A, grad)))
                left.append(rest)
                right.append(_times(A, solver.inverse_gram(X)))
            with torch.enable_grad():
                product = _times(A, torch.cat([t.expand(*X.shape[:-2], *t.shape[-2:]) for t in left], -1))
                weights = torch.cat([t.expand(*product.shape[:-2], *t.shape[-2:]) for t in right], -1)
                found = list(torch.autograd.grad(product, tensors, weights, allow_unused=True))
        back = back.sum_to_size(B.shape)
        return None, None, back.real if back.is_complex() and not B.is_complex() else back, None, None, *found
