"""GMRES that keeps a small space from cycle to cycle and from system to system: GCRO-DR."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.linalg import solve_triangular
from torch import Tensor

from resolvent.operators.arrays import as_tensor, check_finite, give_back_array
from resolvent.operators.threads import one_thread
from resolvent.solve.conjugate import refuse_gradients
from resolvent.solve.recycle_kernel import largest_space, rotate
from resolvent.solve.system import Run, SolveInfo, System, iterate, prepare

# Unknowns below which threads wait for each other longer than they work.
_SMALL = 20_000
# Cycles in a row that may gain nothing.
_PATIENCE = 5


@dataclass(frozen=True)
class RecycleInfo(SolveInfo):
    """Report of `gcrodr`: `SolveInfo`, and what the next system can use.

    Attributes
    ----------
    space : (n, k) of the kind of b, the vectors to recycle; None where there are none
    gap : root mean square of the sines of the angles from the space that this system has found to the one that it was
        given, both as images under A; NaN where one of them is missing

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
    A cycle minimises the residual over k kept vectors U, whose images C = A U are orthonormal, and M times m - k Arnoldi
    vectors of (I - C C^H) A M. Then the k harmonic Ritz vectors of M A of the smallest values are kept, by an ordered
    Schur form, so that pairs stay together and C stays orthonormal. They are vectors of the solution, those of A M being
    M^-1 of them: where M changes with A, they move less. A step costs one product with A, one with M and 4 (k + j) n
    multiplications in step j; a cycle one product, m products with M in one block and a Schur form of size m more; a
    space that comes from another system k products.

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
    with one_thread(given.B.shape[0] < _SMALL):
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
    return U.to(system.B).mT.contiguous() if U.shape[1] else None


@dataclass
class Recycler:
    """The space that is kept, row by row: U, and C = A U with orthonormal rows."""

    restart: int
    recycle: int
    U: Tensor | None = None
    C: Tensor | None = None
    given: Tensor | None = None
    room: Tensor | None = None

    def __post_init__(self) -> None:
        m, k = self.restart, self.recycle
        if isinstance(m, bool) or not isinstance(m, int) or m < 2:
            raise ValueError(f"restart must be an int of at least 2, got {m!r}")
        if isinstance(k, bool) or not isinstance(k, int) or not 0 <= k < m:
            raise ValueError(f"recycle must be an int from 0 to restart - 1 = {m - 1}, got {k!r}")

    def run(self, system: System, R: Tensor, goal: Tensor, limit: int) -> Run:
        """The columns one after the other, from zero."""
        matvecs = self._refresh(system)
        X, steps, histories = torch.zeros_like(R), 0, []
        for i, wanted in enumerate(goal.tolist()):
            norms, products = self._column(system, X, R, i, wanted, limit)
            histories.append(norms)
            steps, matvecs = max(steps, len(norms) - 1), matvecs + products
        merged = [goal.new_tensor([h[min(j, len(h) - 1)] for h in histories]) for j in range(1, steps + 1)]
        return Run(X, merged, steps, matvecs)

    def _refresh(self, system: System) -> int:
        """The images of the kept vectors under this A; what has become dependent is dropped. Returns the products."""
        if self.U is None:
            return 0
        count = len(self.U)
        lengths = torch.linalg.vector_norm(self.U, dim=1, keepdim=True)
        U = self.U / torch.where(lengths > 0, lengths, 1)
        Q, upper = torch.linalg.qr(system.multiply(U.mT.contiguous()))
        d = upper.diagonal().abs()
        if not bool(torch.isfinite(d).all()):
            raise ValueError("the product with A returned NaN or infinity")
        good = d > torch.finfo(d.dtype).eps ** 0.5 * d.amax()
        if not bool(good.all()):
            self.U = U[good].contiguous() if bool(good.any()) else None
            self.C = None
            return count + self._refresh(system)
        self.U = torch.linalg.solve_triangular(upper.mT, U, upper=False)
        self.C = Q.mT.contiguous()
        if self.given is None:
            self.given = self.C
        return count

    def _column(self, system: System, X: Tensor, R: Tensor, i: int, goal: float, limit: int) -> tuple[list[float], int]:
        """Cycles for one column, whose solution goes into X[:, i]: the norms of the residuals and the products."""
        x, r = torch.zeros_like(R[:, i]), R[:, i].contiguous()
        norm = float(torch.linalg.vector_norm(r))
        history, products, stalled = [norm], 0, 0
        while norm > goal and len(history) <= limit:
            if self.C is not None and self.U is not None:
                along = self.C.conj() @ r
                x, r = x + self.U.mT @ along, r - self.C.mT @ along
            step, norms = self._cycle(system, r, goal, limit + 1 - len(history))
            x = X[:, i] = x + step
            system.show(x[:, None], i)
            r = R[:, i] - system.multiply(x[:, None])[:, 0]
            history, products = history + norms, products + len(norms) + 1
            before, norm = norm, float(torch.linalg.vector_norm(r))
            # A cycle that gains nothing may still have found a better space.
            stalled = 0 if norm < 0.999 * before else stalled + 1
            if stalled > (_PATIENCE if self.U is not None else 0):
                break
        return history, products

    def _cycle(self, system: System, r: Tensor, goal: float, limit: int) -> tuple[Tensor, list[float]]:
        """Arnoldi steps beside the kept space: the correction for r, which is orthogonal to C, and the norms on the way."""
        start = norm = float(torch.linalg.vector_norm(r))
        if norm <= goal:
            return torch.zeros_like(r), []
        k, n = 0 if self.C is None else len(self.C), len(r)
        steps = min(self.restart - k, limit, max(1, n - k))
        small = np.complex128 if r.is_complex() else np.float64
        if self.room is None or self.room.shape[2] != n:
            # Once, not once a cycle: fresh memory costs more than the sums that go there.
            self.room = torch.empty(2, self.restart + 2, n, dtype=r.dtype, device=r.device)
        # A maps the rows of V, the kept vectors and M times those of W, to combinations of the rows of W.
        W, V = self.room[0, : k + steps + 1], self.room[1, : k + steps]
        if self.C is not None:
            W[:k] = self.C
        W[k] = r / norm
        G = np.zeros((k + steps + 1, k + steps), small)
        cosines, sines = np.ones(steps, small), np.zeros(steps)
        history: list[float] = []
        for j in range(k, k + steps):
            v = system.precondition(W[j][:, None])
            V[j] = v[:, 0]
            below = _orthogonalise(system.multiply(v)[:, 0], W, G, j)
            norm *= rotate(G[k : j + 1, j].copy(), below, cosines, sines, j - k)
            history.append(norm)
            if norm <= goal or below == 0:
                break
        used = k + len(history)
        step = self._finish(system, W[: used + 1], V[:used], G[: used + 1, :used], k, start)
        return step, history

    def _finish(self, system: System, W: Tensor, V: Tensor, G: np.ndarray, k: int, start: float) -> Tensor:
        """The correction of least residual, and the new kept space."""
        if self.U is not None:
            lengths = torch.linalg.vector_norm(self.U, dim=1)
            torch.div(self.U, lengths[:, None], out=V[:k])
            G[:k, :k] = np.diag(1 / lengths.cpu().numpy())
        Q, upper = np.linalg.qr(G)
        d = abs(np.diag(upper))
        # A zero on the diagonal belongs to a direction that A maps to nothing new.
        good = d > np.finfo(float).eps * d.max()
        side = np.where(good, start * Q[k].conj(), 0)
        upper[~good, ~good] = 1
        inverse = solve_triangular(upper, np.eye(len(upper)))
        mix = (inverse @ side)[:, None]
        chosen = self._choose(system, W, V, Q, inverse, k) if self.recycle and good.all() else None
        if chosen is not None:
            mix = np.concatenate([inverse @ chosen, mix], 1)
        new = torch.from_numpy(mix.T.copy()).to(W) @ V
        if chosen is not None:
            self.U = new[:-1]
            self.C = torch.from_numpy((Q @ chosen).T.copy()).to(W) @ W
        return new[-1]

    def _choose(
        self, system: System, W: Tensor, V: Tensor, Q: np.ndarray, inverse: np.ndarray, k: int
    ) -> np.ndarray | None:
        """Coordinates of the images of the new kept vectors, in the space of those of this cycle."""
        across = (W.conj() @ V.mT).cpu().numpy()
        K = Q.conj().T @ across @ inverse
        if system.M is not None:
            # M has been applied to all of W but the images of the kept vectors and the last vector.
            rest = system.precondition(torch.cat([W[:k], W[-1:]]).mT.contiguous())
            beside = (W.conj() @ rest).cpu().numpy()
            K = np.linalg.solve(Q.conj().T @ np.column_stack([beside[:, :k], across[:, k:], beside[:, k:]]) @ Q, K)
        chosen = largest_space(K, min(self.recycle, len(K)))
        return chosen if 0 < chosen.shape[1] < self.restart else None

    def report(self, info: SolveInfo, system: System) -> RecycleInfo:
        """The report with the space and how far it has turned."""
        space = None if self.U is None else give_back_array(self.U.mT.contiguous(), system.kind)
        gap = float("nan") if self.given is None or self.C is None else float(gap_of(self.given, self.C))
        return RecycleInfo(**vars(info), space=space, gap=gap)


def _orthogonalise(w: Tensor, W: Tensor, G: np.ndarray, j: int) -> float:
    """Classical Gram-Schmidt, twice, against the rows 0..j: column j of G and row j + 1 of W; returns the entry below."""
    size = float(torch.linalg.vector_norm(w))
    known = W[: j + 1]
    first = known.conj() @ w
    w = torch.addmv(w, known.mT, first, alpha=-1)
    again = known.conj() @ w
    w = torch.addmv(w, known.mT, again, alpha=-1)
    below = float(torch.linalg.vector_norm(w))
    if not (math.isfinite(size) and math.isfinite(below)):
        raise ValueError("the product with A or M returned NaN or infinity")
    # The space has ended: what is left of w is rounding.
    below = below if below > 4 * torch.finfo(w.dtype).eps * size else 0.0
    G[: j + 1, j], G[j + 1, j] = (first + again).cpu().numpy(), below
    W[j + 1] = w / below if below else 0
    return below


def gap_of(C: Tensor, Q: Tensor) -> Tensor:
    """Root mean square of the sines of the angles from the rows of Q to the space of those of C; both orthonormal."""
    return torch.linalg.matrix_norm(Q - (Q @ C.mH) @ C) / len(Q) ** 0.5
