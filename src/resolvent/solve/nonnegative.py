"""Nonnegative least squares: active sets one by one, or many exchanges at once; the conditions of optimality measured."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.operators.arrays import give_back_array
from resolvent.operators.convert import OperatorLike, as_operator
from resolvent.solve.implicit import refusing
from resolvent.solve.system import SolveInfo, default_rtol, right_sides

Method = Literal["auto", "active_set", "pivoting"]

# Columns from which exchanges of whole blocks, which are matrix products, beat exchanges one by one.
_MANY = 150
_ROUNDS, _PATIENCE = 200, 3
# Times eps: slopes that count as zero, relative to the norms of their column and of b.
_NOISE = 32.0


def nnls(
    A: OperatorLike,
    b: Any,
    *,
    rtol: float | None = None,
    method: Method = "auto",
    return_info: bool = False,
) -> Any:
    r"""Nonnegative least squares :math:`\min_{x \ge 0} \|b - A x\|`.

    Parameters
    ----------
    A : (m, n) real operator or anything `as_operator` takes, of any shape and rank; it is written down
    b : (m,) or (m, k), each column a problem of its own
    rtol : bound on the measured ``|g| / (|A| (|r| + |A| |x|))`` of each column with r = b - A x, the Frobenius norm of A
        and g the part of :math:`A^T r` that is not allowed: all of it where x > 0, what is positive where x = 0;
        default 1e-10 in float64, 1e-5 in float32
    method : "active_set" (Lawson and Hanson; any rank), "pivoting" (block principal pivoting; full column rank) or "auto"
    return_info : also return a `SolveInfo`; its `iterations` are exchanges, the most of all columns

    Returns
    -------
    x (n,) or (n, k) of the kind of b, without negative entries; or ``(x, info)``.

    Raises
    ------
    ValueError : shapes that do not fit, NaN, complex input, a batch of matrices
    ConvergenceError : the tolerance was not met; `best` is the best x
    TypeError : mixed precision of torch tensors

    Notes
    -----
    A = Q R first, so that what follows does not see the rows. The active set takes in the column with the steepest slope
    and updates a triangular factor, 2 n^2 flops and more for each of some n steps, on the host. Pivoting exchanges all variables with
    a wrong sign at once and factorises anew, n p^2 flops for p positive variables, in some ten rounds; where it does not come to
    an end, or meets columns that depend on each other, the active set takes over. First-order gradients to b and to the tensors inside A, where
    no variable is zero together with its slope.

    References
    ----------
    "Solving Least Squares Problems"
    "Fast Nonnegative Matrix Factorization: An Active-Set-Like Method and Comparisons"

    Examples
    --------
    >>> A = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    >>> nnls(A, torch.tensor([2.0, 1.0, -1.0])).round(decimals=4)
    tensor([1.5000, 0.0000])
    """
    if method not in get_args(Method):
        raise ValueError(f"method must be one of {', '.join(get_args(Method))}, got {method!r}")
    op = as_operator(A, name="A")
    if op.batch_shape:
        raise ValueError(f"A must be one matrix, got a batch {tuple(op.batch_shape)}")
    op, B, kind, single = right_sides(op, b)
    if op.is_complex or B.is_complex():
        raise ValueError(f"A and b must be real, got {op.dtype} and {B.dtype}")
    if B.ndim > 2:
        raise ValueError(f"b must have shape (m,) or (m, k), got {tuple(B.shape)}")
    rtol = default_rtol(op.dtype) if rtol is None else rtol
    if not 0 < rtol < 1:
        raise ValueError(f"rtol must lie between 0 and 1, got {rtol!r}")
    matrix = op._dense()
    if matrix.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"A has dtype {matrix.dtype}: convert it to float32 or float64")
    if not bool(torch.isfinite(matrix).all()):
        raise ValueError("A has entries that are not finite")
    X, name, steps = _Nonnegative.apply(matrix, B, method)
    with torch.no_grad():
        error = _violation(matrix, B, X)
    value = give_back_array(X[..., 0] if single else X, kind)
    info = SolveInfo(name, 0, steps, error, error <= rtol)
    if not info.converged:
        raise ConvergenceError(
            f"nnls: the conditions of optimality are met to {error:.2g}, asked for {rtol:.2g}; a column of A may be far "
            "smaller than the others",
            best=value,
            error=error,
            info=info,
        )
    return (value, info) if return_info else value


def _violation(A: Tensor, B: Tensor, X: Tensor) -> float:
    """The measured error, see `nnls`, at a scale where nothing over- or underflows."""
    if not A.numel() or not B.numel():
        return 0.0
    a, size = A.abs().amax(), B.abs().amax()
    if not bool(a > 0) or not bool(size > 0):
        return 0.0
    A, X, B = A / a, X * (a / size), B / size
    R = B - A @ X
    slope = A.mT @ R
    wrong = torch.linalg.vector_norm(torch.where(X > 0, slope, slope.clamp(min=0)), dim=0)
    norm = torch.linalg.matrix_norm(A)
    below = norm * (torch.linalg.vector_norm(R, dim=0) + norm * torch.linalg.vector_norm(X, dim=0))
    return float(torch.where(wrong > 0, wrong / below.clamp(min=torch.finfo(below.dtype).tiny), 0).amax())


class _Nonnegative(torch.autograd.Function):
    """X, the method that ran and its steps; the derivative of least squares in the positive variables."""

    @staticmethod
    def forward(ctx: Any, A: Tensor, B: Tensor, method: Method) -> tuple[Tensor, str, int]:
        X, name, steps = _solved(A.detach(), B.detach(), method)
        ctx.save_for_backward(A, B, X)
        return X, name, steps

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: None) -> tuple[Any, ...]:
        saved = ctx.saved_tensors
        with torch.no_grad():
            A, B, X = saved
            T = torch.zeros_like(X)
            for index, columns in _groups(X > 0):
                R = torch.linalg.qr(A[:, index], mode="r").R
                inner = torch.linalg.solve_triangular(R.mT, grad[index][:, columns], upper=False)
                T[index[:, None], columns] = torch.linalg.solve_triangular(R, inner, upper=True)
            back = A @ T
            found = ((B - A @ X) @ T.mT - back @ X.mT, back, None)
        return refusing(found, (grad, *saved), "nnls has first derivatives only")


def _groups(positive: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Which variables are positive, and the columns of which they are; without columns that have none."""
    patterns, which = torch.unique(positive, dim=1, return_inverse=True)
    found = []
    for i in range(patterns.shape[1]):
        index = patterns[:, i].nonzero()[:, 0]
        if len(index):
            found.append((index, (which == i).nonzero()[:, 0]))
    return found


def _solved(A: Tensor, B: Tensor, method: Method) -> tuple[Tensor, str, int]:
    m, n = A.shape
    if not A.numel() or not B.shape[1]:
        return A.new_zeros(n, B.shape[1]), "active_set", 0
    # At size one nothing over- or underflows.
    a, size = A.abs().amax(), B.abs().amax(0)
    if not bool(a > 0):
        return A.new_zeros(n, B.shape[1]), "active_set", 0
    size = torch.where(size > 0, size, 1)
    A, B = A / a, B / size
    lengths = torch.linalg.vector_norm(B, dim=0)
    if m > n:
        A, B = _reduced(A, B)
    floor = _NOISE * torch.finfo(A.dtype).eps * lengths
    name: str = method
    if method == "auto":
        name = "pivoting" if m >= n and (n >= _MANY or A.device.type == "cuda") else "active_set"
    if name == "pivoting":
        X, steps, left = _pivoted(A, B, floor)
        if len(left):
            name = "active_set" if len(left) == B.shape[1] else "pivoting"
            X[:, left], more = _one_by_one(A, B[:, left], floor[left])
            steps = max(steps, more)
    else:
        X, steps = _one_by_one(A, B, floor)
    return X * (size / a), name, steps


def _reduced(A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """R and Q^T B of A = Q R; for few columns of B without Q."""
    n, k = A.shape[1], B.shape[1]
    if k > n or A.shape[0] < n + k:
        Q, R = torch.linalg.qr(A)
        return R, Q.mT @ B
    both = torch.linalg.qr(torch.cat([A, B], 1), mode="r").R
    return both[:n, :n], both[:n, n:]


def _one_by_one(A: Tensor, B: Tensor, floor: Tensor) -> tuple[Tensor, int]:
    from resolvent.solve.nonnegative_kernel import active_set

    # Columns are what the kernel runs along.
    matrix, sides = A.mT.contiguous().cpu().numpy(), B.cpu().numpy()
    n = len(matrix)
    found, most = np.zeros((n, sides.shape[1]), matrix.dtype), 0
    for j, least in enumerate(floor.tolist()):
        x = np.zeros(n, matrix.dtype)
        work, side = matrix.copy(order="C"), sides[:, j].copy()
        passive = np.empty(min(matrix.shape), np.int64)
        eps = float(np.finfo(matrix.dtype).eps)
        steps = active_set(work, side, x, passive, 30 * n + 100, least, _NOISE * eps * np.sqrt(n))
        # What the limit cut off is measured by the caller, as everything is.
        most = max(most, steps if steps >= 0 else 30 * n + 100)
        found[:, j] = x
    return torch.from_numpy(found).to(B.device), most


def _pivoted(A: Tensor, B: Tensor, floor: Tensor) -> tuple[Tensor, int, Tensor]:
    """Block principal pivoting; X, rounds, and the columns that it did not solve."""
    n, k = A.shape[1], B.shape[1]
    scale = torch.linalg.vector_norm(A, dim=0)[:, None]
    X, slope = B.new_zeros(n, k), A.mT @ B
    positive = torch.zeros(n, k, dtype=torch.bool, device=A.device)
    patience = torch.full((k,), _PATIENCE, device=A.device)
    fewest = torch.full((k,), n + 1, device=A.device)
    failed = torch.zeros(k, dtype=torch.bool, device=A.device)
    rounds = 0
    while True:
        wrong = torch.where(positive, X < 0, slope > scale * floor) & ~failed
        count = wrong.sum(0)
        going = (count > 0).nonzero()[:, 0]
        if not len(going) or rounds == _ROUNDS:
            failed[going] = True
            return X.clamp(min=0), rounds, failed.nonzero()[:, 0]
        rounds += 1
        better = count < fewest
        fewest = torch.where(better, count, fewest)
        patience = torch.where(better, _PATIENCE, patience - 1)
        # After some rounds without gain one variable at a time, the last: so it ends (Murty).
        place = torch.arange(n, device=A.device)[:, None]
        last = place == torch.where(wrong, place, -1).amax(0)
        positive ^= torch.where(patience >= 0, wrong, wrong & last)
        for index, columns in _groups_of(positive, going):
            X[:, columns] = 0
            if not len(index):
                slope[:, columns] = A.mT @ B[:, columns]
                continue
            R, part = _reduced(A[:, index], B[:, columns])
            d = R.diagonal().abs()
            if len(index) > A.shape[0] or bool(
                (d <= _NOISE * torch.finfo(d.dtype).eps * scale[index, 0] * n**0.5).any()
            ):
                failed[columns] = True
                continue
            found = torch.linalg.solve_triangular(R, part, upper=True)
            X[index[:, None], columns] = found
            slope[:, columns] = A.mT @ (B[:, columns] - A[:, index] @ found)


def _groups_of(positive: Tensor, columns: Tensor) -> list[tuple[Tensor, Tensor]]:
    """`_groups` among some of the columns, those without positive variables too."""
    part = positive[:, columns]
    found = [(index, columns[where]) for index, where in _groups(part)]
    empty = columns[~part.any(0)]
    return [*found, (columns[:0], empty)] if len(empty) else found
