"""Random flat magic unitaries: rows and columns made orthonormal in turns, and Newton's method where that slows down."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.factor.magic_unitary import flat_projections
from resolvent.info import Info
from resolvent.random import GeneratorLike, as_generator, gaussian

_ROUND = 200


def sinkhorn_projections(
    N: int,
    *,
    count: int | None = None,
    method: Literal["polished", "sinkhorn"] = "polished",
    rtol: float | None = None,
    max_iter: int | None = None,
    restarts: int = 20,
    vectors: bool = False,
    dtype: torch.dtype = torch.complex128,
    generator: GeneratorLike = None,
    return_info: bool = False,
) -> Any:
    """N x N unit vectors of C^N, at random, such that every row and every column is an orthonormal basis.

    Parameters
    ----------
    N : size, >= 1
    count : how many arrays; None means one, without a leading dimension
    method : "sinkhorn" replaces every row by its nearest orthonormal basis (the polar factor), then every column, and so
        on; "polished" hands over to Levenberg and Marquardt's method where that has become slow
    rtol : bound on the defect, the largest entry of a Gram matrix of a row or column minus the identity;
        default 1e-10 in double precision, 1e-5 in single
    max_iter : bound on the sweeps over rows and columns from one start; default 4000 for "sinkhorn", and 400 for
        "polished", with a polish after every 200
    restarts : how many fresh starts an array gets whose own ended above `rtol`; "sinkhorn" takes none
    vectors : return the vectors instead of the projections
    dtype : complex128 or complex64; float64 or float32 for real vectors
    generator : for the Gaussian start
    return_info : also return an `Info`, whose error is the largest defect

    Returns
    -------
    (N, N, N, N) rank-one projections, or (N, N, N) vectors; with `count` in front, if given

    Raises
    ------
    ConvergenceError : an array has a defect above `rtol`; carries the best arrays and the defect of each.

    Notes
    -----
    A sweep costs 2 N polar factors of N x N matrices. It converges linearly for N <= 5, and for N = 6 from most starts; for
    N >= 7 the defect falls like a power of the number of sweeps at best, and 5e-3 to 2e-2 are what a thousand reach.
    A step of the polish solves a dense least-squares problem of 2 N^3 real unknowns, and ends
    quadratically. Where it finds a local minimum instead, sweeps go on from there,
    and at last from a fresh start. There is no gradient.

    References
    ----------
    "Flat matrix models for quantum permutation groups"

    Examples
    --------
    >>> from resolvent.factor import is_magic
    >>> is_magic(sinkhorn_projections(5, generator=0))
    True
    """
    if isinstance(N, bool) or not isinstance(N, int) or N < 1:
        raise ValueError(f"N must be a positive int, got {N!r}")
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
        raise ValueError(f"count must be a positive int or None, got {count!r}")
    if method not in ("polished", "sinkhorn"):
        raise ValueError(f"method must be 'polished' or 'sinkhorn', got {method!r}")
    if dtype not in (torch.complex128, torch.complex64, torch.float64, torch.float32):
        raise TypeError(f"dtype must be complex or float of 32 or 64 bits a part, got {dtype}")
    bound = (1e-10 if torch.finfo(dtype).eps < 1e-10 else 1e-5) if rtol is None else float(rtol)
    g, polished = as_generator(generator), method == "polished"
    limit = (2 * _ROUND if polished else 4000) if max_iter is None else max_iter
    found, defects, sweeps = _converge(gaussian((count or 1, N, N, N), dtype, generator=g), bound, limit, polished)
    for _ in range(restarts if polished else 0):
        left = (~(defects <= bound)).nonzero()[:, 0]
        if not len(left):
            break
        V, fresh, more = _converge(gaussian((len(left), N, N, N), dtype, generator=g), bound, limit, polished)
        better = fresh < defects[left]
        found[left[better]], defects[left[better]] = V[better], fresh[better]
        sweeps += more
    value = found if vectors else flat_projections(found)
    value = value if count is not None else value[0]
    worst = float(defects.max())
    info = Info(method, iterations=sweeps, error=worst, converged=worst <= bound)
    if not info.converged:
        failed = int((~(defects <= bound)).sum())
        raise ConvergenceError(
            f"sinkhorn_projections: {failed} of {len(defects)} arrays have a defect above {bound:g}, the largest {worst:.3g}",
            best=value,
            error=defects if count is not None else worst,
            info=info,
        )
    return (value, info) if return_info else value


def _converge(V: Tensor, bound: float, max_iter: int, polished: bool) -> tuple[Tensor, Tensor, int]:
    """Sweeps over the arrays that are not done, each with a polish at its end, if wanted."""
    V, defects = V.clone(), _defect(V)
    todo, total = (defects > bound).nonzero()[:, 0], 0
    while len(todo) and total < max_iter:
        W = V[todo]
        for _ in range(min(_ROUND, max_iter - total)):
            W = _polar(_polar(W).transpose(1, 2)).transpose(1, 2)
            total += 1
            if total % 10 == 0 and float(_defect(W).max()) <= bound:
                break
        if polished:
            W = torch.stack([v if float(_defect(v[None])) <= bound else _polish(v, bound) for v in W])
        V[todo], defects[todo] = W, _defect(W)
        todo = todo[defects[todo] > bound]
    return V, defects, total


def _polar(M: Tensor) -> Tensor:
    U, _, Vh = torch.linalg.svd(M, full_matrices=False)
    return U @ Vh


def _gram_gaps(v: Tensor) -> tuple[Tensor, Tensor]:
    """Gram matrices of rows and of columns, minus the identity."""
    w = v.transpose(-3, -2)
    eye = torch.eye(v.shape[-1], dtype=v.dtype, device=v.device)
    return v @ v.mH - eye, w @ w.mH - eye


def _defect(V: Tensor) -> Tensor:
    R, C = _gram_gaps(V)
    return torch.maximum(R.abs().amax((1, 2, 3)), C.abs().amax((1, 2, 3)))


def _polish(v: Tensor, bound: float, steps: int = 40) -> Tensor:
    """Levenberg and Marquardt's method for the Gram matrices of one array (N, N, N)."""
    parts = 2 if v.is_complex() else 1
    n = v.numel()
    units = torch.eye(n, dtype=v.dtype)
    units = torch.cat([units, 1j * units]) if parts == 2 else units
    units = units.reshape(parts * n, *v.shape)
    eye = torch.eye(parts * n, dtype=torch.float64 if v.dtype.itemsize > 4 * parts else torch.float32)
    damping = 1e-3
    R, C = _gram_gaps(v)
    size = float(R.abs().square().sum() + C.abs().square().sum())
    for _ in range(steps):
        if max(float(R.abs().max()), float(C.abs().max())) <= bound:
            break
        g = R @ v + (C @ v.transpose(0, 1)).transpose(0, 1)
        A, b = _flat(_normal(v, units), parts), -_flat(g[None], parts)[0]
        while damping < 1e3:
            L, fault = torch.linalg.cholesky_ex(A + damping * eye)
            if int(fault) == 0:
                x = torch.cholesky_solve(b[:, None], L)[:, 0]
                step = torch.complex(x[:n], x[n:]) if parts == 2 else x
                trial = v + step.reshape(v.shape)
                trial_gaps = _gram_gaps(trial)
                new = float(sum((e.abs().square().sum() for e in trial_gaps), torch.zeros(())))
                if new < size:
                    v, size, (R, C) = trial, new, trial_gaps
                    damping = max(damping / 5, 1e-14)
                    break
            damping = max(damping, 1e-12) * 4
        else:
            break
    return v / torch.linalg.vector_norm(v, dim=-1, keepdim=True)


def _normal(v: Tensor, X: Tensor) -> Tensor:
    """J^T J of the map from vectors to Gram matrices, times each of X."""
    E = X @ v.mH
    rows = (E + E.mH) @ v
    w, Y = v.transpose(0, 1), X.transpose(-3, -2)
    E = Y @ w.mH
    return rows + ((E + E.mH) @ w).transpose(-3, -2)


def _flat(X: Tensor, parts: int) -> Tensor:
    flat = X.reshape(len(X), -1)
    return torch.cat([flat.real, flat.imag], 1) if parts == 2 else flat
