"""Stationary iterations: successive over-relaxation, and the factor that suits a matrix."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from resolvent.operators.algebra import Product
from resolvent.operators.convert import as_operator
from resolvent.operators.elementary import Dense, Diagonal
from resolvent.operators.operator import Operator
from resolvent.solve.conjugate import answer, refuse_gradients
from resolvent.solve.system import Run, System, prepare

# Matrices whose Jacobi iteration is decomposed.
_SMALL = 1500


def sor(
    A: Any,
    b: Any,
    omega: float = 1.0,
    *,
    rtol: float | None = None,
    x0: Any = None,
    maxiter: int | None = None,
    callback: Callable[[Any], Any] | None = None,
    return_info: bool = False,
) -> Any:
    r"""Successive over-relaxation, :math:`x \leftarrow x + (D / \omega + L)^{-1} (b - A x)`.

    Parameters
    ----------
    A : (n, n) sparse or dense matrix with a diagonal without zeros; D is its diagonal, L what is below
    b : (n,) or (n, k)
    omega : between 0 and 2; 1 is Gauss and Seidel's iteration
    rtol : bound on ``|b - A x| / |b|`` of each column; default 1e-10 in float64, 1e-5 in float32
    x0 : start; None means zero
    maxiter : most sweeps; default 10 n + 50, at most 20000
    callback : called with x after every run over the columns
    return_info : also return a `SolveInfo`; its `iterations` are the sweeps

    Returns
    -------
    x of the shape and kind of b, or ``(x, info)``. No gradients: they are those of ``solve(A, b)``.

    Raises
    ------
    ValueError : shapes that do not fit, NaN, omega outside (0, 2), a zero on the diagonal
    ConvergenceError : the tolerance was not met, or the iteration diverges; `best` is the last x
    TypeError : A is neither sparse nor dense; A or b requires a gradient

    Notes
    -----
    Two passes over the entries a sweep, one for the triangular system and one for the residual, on one core: each row
    waits for the one before. It converges for Hermitian positive definite A and every omega in (0, 2), by a factor of
    `omega` - 1 a sweep at best, see `optimal_omega`. On a GPU the sweeps are dense triangular solves.

    References
    ----------
    "Learning to Relax: Setting Solver Parameters Across a Sequence of Linear System Instances"

    Examples
    --------
    >>> A = torch.tensor([[4.0, 1.0], [1.0, 3.0]])
    >>> sor(A, torch.tensor([1.0, 2.0]), 1.1)
    tensor([0.0909, 0.6364])
    """
    if not 0 < omega < 2:
        raise ValueError(f"omega must lie between 0 and 2, got {omega!r}")
    system = prepare("sor", A, b, rtol=rtol, M=None, x0=x0, maxiter=maxiter, callback=callback, balance=False)
    refuse_gradients(system)
    rows = None if system.A.device.type == "cuda" else compressed_rows(system.A)

    def run(system: System, R: Tensor, goal: Tensor, limit: int) -> Run:
        X, history = (
            _swept(system.A, R, float(omega), goal, limit)
            if rows is None
            else _relaxed(rows, R, float(omega), goal, limit)
        )
        system.show(X)
        return Run(X, list(history), len(history), 2 * len(history) * R.shape[-1])

    return answer(system, run, return_info)


def compressed_rows(A: Operator) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Sorted compressed rows and the places of the diagonal in them."""
    from resolvent.spectra.inertia import scipy_matrix

    found = A._dense().detach().numpy() if isinstance(A, Dense) else scipy_matrix(A)
    if found is None:
        raise TypeError(f"A must be sparse or dense, got {type(A).__name__}")
    csr = scipy.sparse.csr_matrix(found)
    csr.sum_duplicates()
    rows = np.repeat(np.arange(csr.shape[0]), np.diff(csr.indptr))
    places = np.flatnonzero((csr.indices == rows) & (csr.data != 0))
    if len(places) < csr.shape[0]:
        missing = int(np.setdiff1d(np.arange(csr.shape[0]), rows[places])[0])
        raise ValueError(f"A has a zero at place {missing} of its diagonal")
    return csr.indptr, csr.indices, csr.data, places


def _relaxed(rows: Any, R: Tensor, omega: float, goal: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """The columns one after the other, each as long as it needs."""
    from resolvent.solve.stationary_kernel import relax

    indptr, indices, values, places = rows
    B = R.numpy()
    X, histories = np.empty_like(B), []
    for j, size in enumerate(goal.tolist()):
        history = np.zeros(limit)
        column = np.ascontiguousarray(B[:, j])
        X[:, j], steps = relax(indptr, indices, values.astype(B.dtype), places, column, omega, size, limit, history)
        histories.append(history[:steps])
    longest = max(len(h) for h in histories)
    kept = np.stack([np.pad(h, (0, longest - len(h)), mode="edge") for h in histories], axis=1)
    return torch.from_numpy(X), torch.from_numpy(kept).to(goal)


def _swept(A: Operator, R: Tensor, omega: float, goal: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    matrix = A._dense().to(R.dtype)
    lower = matrix.tril(-1) + torch.diag(matrix.diagonal() / omega)
    X, rest, history = torch.zeros_like(R), R, []
    for _ in range(limit):
        X = X + torch.linalg.solve_triangular(lower, rest, upper=False)
        rest = R - matrix @ X
        history.append(torch.linalg.vector_norm(rest, dim=0))
        if bool((history[-1] <= goal).all()) or not bool(torch.isfinite(history[-1]).all()):
            break
    return X, torch.stack(history)


def optimal_omega(A: Any) -> float:
    r"""The relaxation factor with the fastest asymptotic convergence, where Young's theory holds.

    .. math:: \omega^* = 1 + \left(\frac{\beta}{1 + \sqrt{1 - \beta^2}}\right)^2

    Parameters
    ----------
    A : (n, n) matrix with a diagonal without zeros, consistently ordered (block tridiagonal with diagonal blocks, as
        the five-point Laplacian in any of its usual orders)

    Returns
    -------
    float, from 1 to 2

    Raises
    ------
    ValueError : not square, a zero on the diagonal, or :math:`\beta \ge 1`, where Jacobi's iteration diverges

    Notes
    -----
    beta is the spectral radius of Jacobi's iteration :math:`I - D^{-1} A`: from all its eigenvalues up to n = 1500,
    beyond by Lanczos, for Hermitian A with a positive diagonal. There are no gradients.

    References
    ----------
    "Learning to Relax: Setting Solver Parameters Across a Sequence of Linear System Instances"

    Examples
    --------
    >>> A = torch.tensor([[2.0, -1.0], [-1.0, 2.0]], dtype=torch.float64)
    >>> round(optimal_omega(A), 6)
    1.071797
    """
    A = as_operator(A, name="A")
    if A.batch_shape or A.shape[0] != A.shape[1]:
        raise ValueError(f"A must have shape (n, n), got {tuple(A.shape)}")
    from resolvent.spectra.diagonal import diagonal
    from resolvent.spectra.eigen import eigsh

    with torch.no_grad():
        d = torch.as_tensor(diagonal(A))
        if bool((d == 0).any()):
            raise ValueError(f"A has a zero at place {int((d == 0).nonzero()[0])} of its diagonal")
        if A.shape[0] <= _SMALL:
            iteration = torch.eye(len(d), dtype=A.dtype, device=A.device) - A._dense() / d[:, None]
            beta = float(torch.linalg.eigvals(iteration).abs().max())
        else:
            A.check_hermitian("A")
            if not bool((d.real > 0).all()):
                raise ValueError("A must have a positive diagonal")
            side = Diagonal(d.rsqrt())
            scaled = Product(side, A, side).declare(hermitian=True)
            ends = [float(torch.as_tensor(eigsh(scaled, 1, which=w)[0])[0]) for w in ("SA", "LA")]
            beta = max(abs(1 - w) for w in ends)
    if not beta < 1:
        raise ValueError(f"Jacobi's iteration has spectral radius {beta:.6g}: there is no optimal omega below 2")
    return 1 + (beta / (1 + math.sqrt(1 - beta**2))) ** 2
