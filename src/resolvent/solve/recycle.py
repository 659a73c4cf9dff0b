"""GMRES that keeps a small space from cycle to cycle and from system to system: GCRO-DR."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resolvent.operators.arrays import as_tensor, check_finite, give_back_array
from resolvent.solve.conjugate import refuse_gradients
from resolvent.solve.recycle_kernel import largest_space, rotate
from resolvent.solve.system import Run, SolveInfo, System, iterate, prepare


@dataclass(frozen=True)
class RecycleInfo(SolveInfo):
    """Report of `gcrodr`: `SolveInfo`, and what the next system can use.

    Attributes
    ----------
    space : (n, k) of the kind of b, the vectors to recycle; None where there are none
    gap : sine of the largest angle from the space that this system has found to the one that it was given, both as
        images under A M; NaN where one of them is missing

    Examples
    --------
    >>> RecycleInfo("gcrodr", iterations=3).space is None
    True
    """

    space: Any = None
    gap: float = float("nan")


def gcrodr(
    A: Any,
    b: Any,
    *,
    space: Any = None,
    rtol: float | None = None,
    M: Any = None,
    x0: Any = None,
    restart: int = 50,
    recycle: int = 10,
    maxiter: int | None = None,
    callback: Callable[[Any], Any] | None = None,
    return_info: bool = False,
) -> Any:
    r"""GMRES with deflated restarts whose small space outlives the cycle and the system (GCRO-DR).

    Parameters
    ----------
    A : (n, n) operator or anything `as_operator` takes
    b : (n,) or (n, s); the columns run one after the other, each with the space of the one before
    space : (n, k) with 0 <= k < restart, from the report of a system like this one; None starts without
    rtol : bound on ``|b - A x| / |b|`` of each column; default 1e-10 in float64, 1e-5 in float32
    M : (n, n) operator near the inverse of A, or None. It stands on the right, so that the residual is that of A.
    x0 : start, of the shape of x; None means zero
    restart : m, the dimension of the space of a cycle, those recycled among it, at least 2
    recycle : k, vectors kept, 0 <= k < restart; 0 is `gmres`
    maxiter : most steps; default 10 n + 50, at most 20000
    callback : called with x after every cycle, (n,) or the column at work (n, 1)
    return_info : also return a `RecycleInfo`

    Returns
    -------
    x of the shape and kind of b, or ``(x, info)`` where ``info.space`` is what the next system can be given. No gradients:
    use `solve`.

    Raises
    ------
    ValueError : shapes that do not fit, NaN, a restart or recycle out of range
    ConvergenceError : the tolerance was not met; `best` is the best x
    TypeError : A or b requires a gradient

    Notes
    -----
    A cycle minimises the residual over k kept vectors U, whose images C = A M U are orthonormal, and m - k Arnoldi steps
    with (I - C C^H) A M. Then the k harmonic Ritz vectors of the smallest values are kept, as an ordered Schur form, so
    that pairs stay together and C stays orthonormal. A step costs one product with A, one with M and 4 (k + j) n
    multiplications in step j; a cycle k products with M and a Schur form of size m more; a space that comes from
    another system k products with A and with M.

    References
    ----------
    "Accelerating Data Generation for Neural Operators via Krylov Subspace Recycling"

    "Recycling Krylov subspaces for sequences of linear systems"

    Examples
    --------
    >>> A = torch.diag(torch.linspace(0.001, 1, 200, dtype=torch.float64))
    >>> b = torch.ones(200, dtype=torch.float64)
    >>> x, first = gcrodr(A, b, restart=30, recycle=8, return_info=True)
    >>> y, again = gcrodr(A + 0.001 * torch.eye(200), b, space=first.space, restart=30, recycle=8, return_info=True)
    >>> again.iterations < first.iterations, bool(torch.allclose(A @ x, b))
    (True, True)
    """
    given = prepare("gcrodr", A, b, rtol=rtol, M=M, x0=x0, maxiter=maxiter, callback=callback)
    refuse_gradients(given)
    kept = Recycler(restart, recycle, _space(space, given, restart))
    X, info = iterate(given, kept.run)
    return (given.result(X), kept.report(info, given)) if return_info else given.result(X)


def _space(space: Any, system: System, restart: int) -> Tensor | None:
    if space is None:
        return None
    U, _ = as_tensor(space, "space")
    n = system.A.shape[0]
    if U.ndim != 2 or U.shape[0] != n or U.shape[1] >= restart:
        raise ValueError(f"space must have shape ({n}, k) with k < restart = {restart}, got {tuple(U.shape)}")
    check_finite(U, "space")
    if U.is_complex() and not system.B.is_complex():
        raise TypeError(f"space has dtype {U.dtype}, the system {system.B.dtype}: give a real space")
    return U.to(system.B)


@dataclass
class Recycler:
    """The space that is kept, row by row: U before M, its image under M, and C = A M U with orthonormal rows."""

    restart: int
    recycle: int
    U: Tensor | None = None
    moved: Tensor | None = None
    C: Tensor | None = None
    found_at: Tensor | None = field(default=None)

    def __post_init__(self) -> None:
        m, k = self.restart, self.recycle
        if isinstance(m, bool) or not isinstance(m, int) or m < 2:
            raise ValueError(f"restart must be an int of at least 2, got {m!r}")
        if isinstance(k, bool) or not isinstance(k, int) or not 0 <= k < m:
            raise ValueError(f"recycle must be an int from 0 to restart - 1 = {m - 1}, got {k!r}")
        if self.U is not None:
            self.U = self.U.mT.contiguous() if self.U.shape[1] else None
