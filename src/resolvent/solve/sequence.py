"""Many systems that resemble each other: in which order to solve them, and what one leaves to the next."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.factor import randomized_svd
from resolvent.info import Info
from resolvent.operators.arrays import as_tensor, check_finite, give_back_array
from resolvent.solve.recycle import gcrodr
from resolvent.solve.system import SolveInfo

Sorting = Literal["greedy", "hilbert"]
_BUCKET = 2048  # points whose distances are all computed at once
_BITS = 16  # of a coordinate on the curve


@dataclass(frozen=True)
class SequenceInfo(Info):
    """Report of `solve_sequence`: `Info` with the sums over all systems and the largest error.

    Attributes
    ----------
    order : the systems as they were solved
    systems : the report of each, in the order given: a `RecycleInfo` without its space, or what a failure has reported
    seconds : time of all solves, without that of sorting

    Examples
    --------
    >>> SequenceInfo("gcrodr", iterations=30, order=(0, 2, 1)).order
    (0, 2, 1)
    """

    order: tuple[int, ...] = ()
    systems: tuple[SolveInfo, ...] = ()
    seconds: float = 0.0


def solve_sequence(
    systems: Sequence[tuple[Any, Any]],
    params: Any = None,
    *,
    sort: Sorting | None = "greedy",
    M: Any = None,
    rtol: float | None = None,
    restart: int = 50,
    recycle: int = 10,
    maxiter: int | None = None,
    return_info: bool = False,
) -> Any:
    r"""Solve A_i x_i = b_i for many i, similar systems after each other, each with the space of the one before.

    Parameters
    ----------
    systems : N pairs (A, b): a list, or anything with a length whose item i is built when it is asked for. A is (n, n),
        b is (n,) or (n, s), of one shape.
    params : (N, ...) what tells the systems apart, such as their coefficient fields; None keeps the order given
    sort : "greedy" goes to the nearest system not yet solved, in the Frobenius norm of the parameters; "hilbert" along a
        curve through their two leading principal components; None keeps the order given
    M : a function of A that returns a preconditioner, such as `jacobi_preconditioner`; or one operator for all; or None
    rtol, restart, recycle, maxiter : as in `gcrodr`, of each system; ``recycle=0`` solves each for itself
    return_info : also return a `SequenceInfo`

    Returns
    -------
    (N, n) or (N, n, s) solutions in the order given and of the kind of the first b, or ``(X, info)``. No gradients.

    Raises
    ------
    ValueError : no system, shapes that do not fit
    ConvergenceError : some systems missed their tolerance; `best` has the best solution of each, the others converged

    Notes
    -----
    Sorting costs N^2 p / 2 multiplications for p parameters up to 2048 systems, and beyond that N p 2048 in buckets along
    the curve. What is gained grows with the eigenvalues near zero that neighbours share. With a preconditioner, what is
    carried are directions of the solution, not of A M: they move less from system to system.

    References
    ----------
    "Accelerating Data Generation for Neural Operators via Krylov Subspace Recycling"

    Examples
    --------
    >>> d = torch.linspace(0.001, 1, 100, dtype=torch.float64)
    >>> shifts = torch.tensor([0.0, 0.003, 0.001, 0.002])
    >>> systems = [(torch.diag(d + s), torch.ones(100, dtype=torch.float64)) for s in shifts.tolist()]
    >>> X, info = solve_sequence(systems, shifts, restart=20, recycle=5, return_info=True)
    >>> info.order, X.shape
    ((0, 2, 3, 1), torch.Size([4, 100]))
    """
    count = len(systems)
    if not count:
        raise ValueError("systems must hold at least one pair (A, b)")
    order = list(range(count)) if params is None or sort is None else _order(params, count, sort)
    options: dict[str, Any] = {
        "rtol": rtol,
        "restart": restart,
        "recycle": recycle,
        "maxiter": maxiter,
        "return_info": True,
    }
    found: list[Any] = [None] * count
    reports: list[SolveInfo] = [SolveInfo("gcrodr")] * count
    failed: list[int] = []
    space, spent = None, 0.0
    for i in order:
        A, b = _pair(systems, i)
        start = time.perf_counter()
        try:
            # A matrix of SciPy's can be called too, but has a shape.
            near = M(A) if callable(M) and not hasattr(M, "shape") else M
            found[i], info = gcrodr(A, b, space=space, M=near, **options)
            space = info.space
            reports[i] = _without_space(info)
        except ConvergenceError as missed:
            if not isinstance(missed.info, SolveInfo):
                raise
            found[i], reports[i] = missed.best, missed.info
            failed.append(i)
        except ValueError as wrong:
            raise ValueError(f"system {i}: {wrong}") from wrong
        spent += time.perf_counter() - start
    X = _stacked(found)
    total = SequenceInfo(
        "gcrodr",
        matvecs=sum(r.matvecs for r in reports),
        iterations=sum(r.iterations for r in reports),
        error=max(r.error for r in reports),
        converged=not failed,
        order=tuple(order),
        systems=tuple(reports),
        seconds=spent,
    )
    if failed:
        raise ConvergenceError(
            f"solve_sequence: {len(failed)} of {count} systems missed their tolerance, the first is system {min(failed)} "
            f"with a relative residual of {reports[min(failed)].error:.2g}",
            best=X,
            error=total.error,
            info=total,
        )
    return (X, total) if return_info else X


def _pair(systems: Sequence[tuple[Any, Any]], i: int) -> tuple[Any, Any]:
    pair = systems[i]
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise ValueError(f"systems must hold pairs (A, b), but item {i} is {type(pair).__name__}")
    return pair[0], pair[1]


def _without_space(info: SolveInfo) -> SolveInfo:
    return type(info)(**{**vars(info), "space": None})


def _stacked(found: list[Any]) -> Any:
    shapes = {tuple(x.shape) for x in found}
    if len(shapes) > 1:
        raise ValueError(f"systems must be of one shape, but their solutions have shapes {sorted(shapes)}")
    return torch.stack(found) if isinstance(found[0], Tensor) else np.stack(found)


def _order(params: Any, count: int, sort: Sorting) -> list[int]:
    if len(params) != count:
        raise ValueError(f"params must have one entry for each of the {count} systems, got {len(params)}")
    return [int(i) for i in sort_systems(params, sort)]


def sort_systems(params: Any, method: Sorting = "greedy", *, start: int = 0) -> Any:
    r"""An order in which neighbours are similar: a short path through the parameters of systems.

    Parameters
    ----------
    params : (N, ...) real or complex, N >= 1
    method : "greedy" moves to the nearest point not yet visited; "hilbert" along a Hilbert curve through the projection on
        the two leading principal components, which keeps what is near mostly near and costs no distances
    start : the first point of the greedy path, 0 <= start < N

    Returns
    -------
    (N,) integers of the kind of params, a permutation.

    Raises
    ------
    ValueError : no parameters, NaN, an unknown method, start out of range

    Notes
    -----
    The greedy path computes all distances of up to 2048 points as one product of matrices. More are cut into buckets of
    that size along the Hilbert curve, and the path goes from bucket to bucket; `start` is then where the first one begins.

    References
    ----------
    "Accelerating Data Generation for Neural Operators via Krylov Subspace Recycling"

    Examples
    --------
    >>> sort_systems(torch.tensor([0.0, 5.0, 1.0, 3.0]))
    tensor([0, 2, 3, 1])
    """
    given, kind = as_tensor(params, "params")
    if method not in ("greedy", "hilbert"):
        raise ValueError(f'method must be "greedy" or "hilbert", got {method!r}')
    if given.ndim == 0 or not given.numel():
        raise ValueError(f"params must have shape (N, ...) with at least one entry, got {tuple(given.shape)}")
    check_finite(given, "params")
    N = len(given)
    if isinstance(start, bool) or not isinstance(start, int) or not 0 <= start < N:
        raise ValueError(f"start must be an int from 0 to {N - 1}, got {start!r}")
    X = torch.view_as_real(given.detach()) if given.is_complex() else given.detach()
    X = X.reshape(N, -1).double()
    X = X - X.mean(0)
    if method == "hilbert":
        path = _along_curve(X)
    elif N <= _BUCKET:
        path = _nearest(X, start)
    else:
        path = torch.empty(0, dtype=torch.long, device=X.device)
        curve = _along_curve(X)
        where = int((curve == start).nonzero())
        # The bucket of the start comes first; then on to the end of the curve, then what was before.
        for bucket in torch.cat([curve[where:], curve[:where].flip(0)]).split(_BUCKET):
            first = start if not len(path) else bucket[int((X[bucket] - X[path[-1]]).square().sum(1).argmin())]
            path = torch.cat([path, bucket[_nearest(X[bucket], int((bucket == first).nonzero()))]])
    return give_back_array(path, kind)


def _nearest(X: Tensor, start: int) -> Tensor:
    """The greedy path from a point through all of them."""
    squares = X.square().sum(1)
    apart = (squares[:, None] + squares - 2 * (X @ X.mT)).cpu().numpy()
    path = np.empty(len(X), np.int64)
    place = start
    for i in range(len(X)):
        path[i] = place
        apart[:, place] = np.inf
        place = int(apart[place].argmin())
    return torch.from_numpy(path).to(X.device)


def _along_curve(X: Tensor) -> Tensor:
    """The order along a Hilbert curve through two principal components; along the line where there is but one."""
    if min(X.shape) <= 2:
        projected = X if X.shape[1] <= 2 else torch.linalg.svd(X, full_matrices=False)[0][:, :2]
    else:
        U, s, _ = randomized_svd(X, 2, generator=0)
        projected = U * s
    if projected.shape[1] == 1:
        return projected[:, 0].argsort(stable=True)
    low, high = projected.amin(0), projected.amax(0)
    side = float((high - low).amax()) or 1.0
    cells = ((projected - low) / side * (2**_BITS - 1)).long()
    x, y = cells[:, 0], cells[:, 1]
    distance = torch.zeros_like(x)
    for bit in reversed(range(_BITS)):
        size = 2**bit
        right, up = (x & size) > 0, (y & size) > 0
        distance += size * size * torch.where(right, 3 - up.long(), up.long())
        # Turn the quarter so that the curve inside it is the whole curve again.
        x, y = x & (size - 1), y & (size - 1)
        mirrored = right & ~up
        x, y = torch.where(mirrored, size - 1 - x, x), torch.where(mirrored, size - 1 - y, y)
        x, y = torch.where(up, x, y), torch.where(up, y, x)
    return distance.argsort(stable=True)
