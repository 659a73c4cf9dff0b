"""One loop for four factorisations: make random blocks of columns orthogonal until all are."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.operators.arrays import as_tensor, check_finite, give_back
from resolvent.random import GeneratorLike, as_generator

Step = Literal["rotation", "triangular", "mixed"]
# Random numbers for one call of the kernel.
_DRAWS = 1 << 16


class PivotHistory(NamedTuple):
    """Of :func:`random_pivot_factor`.

    Attributes
    ----------
    steps : (r,) steps done at each look
    gamma : (r,) the potential ``tr(B o B^-1) - n`` there, zero where B is diagonal
    cosine : the largest ``|b_ij| / sqrt(b_ii b_jj)`` that is left
    backward_error : ``||A T - Q|| / ||A||``, or ``||T^H A T - Q|| / ||A||`` for two sides
    """

    steps: Any
    gamma: Any
    cosine: float
    backward_error: float


class PivotFactors(NamedTuple):
    """Of :func:`random_pivot_factor`: ``Q = A T``, or ``Q = T^H A T`` for two sides."""

    Q: Any
    T: Any
    history: PivotHistory


def random_pivot_factor(
    A: Any,
    S: Step = "rotation",
    *,
    block: int = 2,
    sided: Literal["one", "two"] = "one",
    schedule: Literal["uniform", "matching"] = "uniform",
    tol: float | None = None,
    max_steps: int | None = None,
    generator: GeneratorLike = None,
) -> PivotFactors:
    r"""T with :math:`A T` of orthogonal columns, or :math:`T^H A T` diagonal, from blocks of columns drawn at random.

    Parameters
    ----------
    A : (m, n) of full column rank; for two sides (n, n) Hermitian positive definite
    S : what makes a block diagonal: "rotation" (its eigenvectors), "triangular" (elimination in the order of the
        columns) or "mixed" (one of the two, at random)
    block : columns of a block, 2 to n
    sided : "one" works on the columns of A, with B = A^H A; "two" on B = A
    schedule : "uniform" draws every block from all subsets; "matching" deals the columns into disjoint blocks
    tol : bound on the largest :math:`|b_{ij}| / \sqrt{b_{ii} b_{jj}}` at the end; default 1e-12 in float64, 1e-5 in
        float32
    max_steps : default 40 times what the mean decrease takes from the first potential to the tolerance
    generator : of the draws

    Returns
    -------
    Q : (m, n) with orthogonal columns of their own lengths, or (n, n) diagonal
    T : (n, n), unitary for "rotation", unit upper triangular for "triangular"
    history : `PivotHistory`

    Raises
    ------
    ValueError : an argument is out of range, A is not finite, not of full column rank or not positive definite, or a
        gradient is wanted: there is none.
    ConvergenceError : `tol` was not reached in `max_steps`; carries the factors so far.

    Notes
    -----
    One sided: "rotation" is Jacobi's singular value decomposition (A = Q T^H), "triangular" QR (A = Q T^-1); two sided:
    the eigendecomposition and LDL^H. Whatever S, a uniform step multiplies the potential
    :math:`\Gamma = \operatorname{tr}(B \circ B^{-1}) - n` by 1 - k (k - 1) / (n (n - 1)) in the mean. A step costs
    O(k^2 (m + n)), on the host. One-sided rotations find small singular values to high relative accuracy; prefer
    `jacobi_svd` for speed. Not differentiable.

    References
    ----------
    "A Unified Perspective on Orthogonalization and Diagonalization"

    Examples
    --------
    >>> A = torch.tensor([[2.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
    >>> Q, T, history = random_pivot_factor(A, "triangular", generator=0)
    >>> Q, T
    (tensor([[2., 0.],
            [0., 1.]], dtype=torch.float64), tensor([[ 1.0000, -0.5000],
            [ 0.0000,  1.0000]], dtype=torch.float64))
    """
    t, kind = _checked(A, S, block, sided, schedule)
    n = t.shape[1]
    double = t.dtype in (torch.float64, torch.complex128)
    tol = (1e-12 if double else 1e-5) if tol is None else tol
    if not tol > 0:
        raise ValueError(f"tol must be positive, got {tol}")
    source = as_generator(generator)
    host = t.detach().resolve_conj().resolve_neg().cpu().numpy()
    # A power of two changes no digit, and keeps squares in the range of the dtype.
    scale = 2.0 ** np.round(np.log2(max(float(np.abs(host).max()), float(np.finfo(host.dtype).tiny))))
    host = (host / scale).astype(host.dtype)
    both = sided == "two"
    X = np.array(host if both else host.T, order="C")
    T = np.eye(n, dtype=X.dtype)
    gamma = _potential(X, both)
    pairs = n * (n - 1) / (block * (block - 1)) if n > 1 else 1.0
    if max_steps is None:
        max_steps = int(40 * (pairs + 1) * (math.log(1 + gamma) + 2 * math.log(1 / tol) + 1))
    look = max(1, math.ceil(pairs))
    steps, at, gammas = 0, [0], [gamma]
    cosine = _largest_cosine(X, both)
    while cosine > tol and steps < max_steps:
        todo = min(look, max_steps - steps)
        _advance(X, T, S, block, both, schedule, todo, source)
        steps += todo
        at.append(steps)
        gammas.append(_potential(X, both))
        cosine = _largest_cosine(X, both)
    Q = X if both else X.T
    change = T.conj() @ host @ T.T - X if both else host @ T.T - X.T
    error = float(np.linalg.norm(change) / np.linalg.norm(host))
    parts = (torch.from_numpy(np.ascontiguousarray(part)).to(t.device) for part in (Q * X.dtype.type(scale), T.T))
    wide = [torch.tensor(at), torch.tensor(gammas, dtype=torch.float64)]
    found_Q, found_T = give_back(tuple(parts), kind)
    looks, potentials = give_back(tuple(wide), kind)
    factors = PivotFactors(found_Q, found_T, PivotHistory(looks, potentials, cosine, error))
    if not cosine <= tol:
        message = (
            f"random_pivot_factor: columns have cosines up to {cosine:.2g} after {steps} steps, asked for {tol:.2g}"
        )
        raise ConvergenceError(message, best=factors, error=cosine)
    return factors


def pivot_step(A: Any, columns: Any, S: Step = "rotation", *, sided: Literal["one", "two"] = "one") -> tuple[Any, Any]:
    """One step of `random_pivot_factor` on given columns.

    Parameters
    ----------
    A, S, sided : as there, but for "mixed"
    columns : the columns of the block, different ones

    Returns
    -------
    (A S or S^H A S, S) of the kind of A

    Examples
    --------
    >>> pivot_step(torch.tensor([[1.0, 1.0], [0.0, 1.0]]), [0, 1], "triangular")[0]
    tensor([[1., 0.],
            [0., 1.]])
    """
    from resolvent.factor import jacobi_kernel as kernel

    subset = np.array([[int(j) for j in columns]], np.int64)
    t, kind = _checked(A, S, subset.shape[1], sided, "uniform")
    n, k = t.shape[1], subset.shape[1]
    if S == "mixed":
        raise ValueError("S must be rotation or triangular for one step, got 'mixed'")
    if len(set(subset[0].tolist())) < k or subset.min() < 0 or subset.max() >= n:
        raise ValueError(f"columns must be different and from 0 to {n - 1}, got {subset[0].tolist()}")
    host = t.detach().resolve_conj().resolve_neg().cpu().numpy()
    both = sided == "two"
    X, T = np.array(host if both else host.T, order="C"), np.eye(n, dtype=host.dtype)
    kernel.apply_subsets(X, T, subset, np.array([S == "triangular"]), both, float(np.finfo(X.dtype).eps) / 4)
    parts = (torch.from_numpy(np.ascontiguousarray(p)).to(t.device) for p in (X if both else X.T, T.T))
    return give_back(tuple(parts), kind)


def _checked(A: Any, S: str, block: int, sided: str, schedule: str) -> tuple[Tensor, Any]:
    t, kind = as_tensor(A, "A")
    if t.ndim != 2 or not t.shape[1]:
        raise ValueError(f"A must have shape (m, n), n at least 1, got {tuple(t.shape)}")
    if t.requires_grad and torch.is_grad_enabled():
        raise ValueError("random_pivot_factor has no gradient: detach A")
    check_finite(t, "A")
    m, n = t.shape
    if S not in ("rotation", "triangular", "mixed"):
        raise ValueError(f"S must be rotation, triangular or mixed, got {S!r}")
    if sided not in ("one", "two"):
        raise ValueError(f"sided must be one or two, got {sided!r}")
    if schedule not in ("uniform", "matching"):
        raise ValueError(f"schedule must be uniform or matching, got {schedule!r}")
    if isinstance(block, bool) or not isinstance(block, int) or not 2 <= block <= max(n, 2):
        raise ValueError(f"block must be an int from 2 to {n}, the columns of A, got {block!r}")
    if sided == "one":
        if m < n:
            raise ValueError(f"A must have at least as many rows as columns, got shape {tuple(t.shape)}")
    elif m != n or bool((t - t.mH).abs().max() > 1e3 * torch.finfo(t.dtype).eps * t.abs().max()):
        raise ValueError(f"A must be Hermitian for sided='two', got shape {tuple(t.shape)} or entries that differ")
    return t, kind


def _advance(
    X: np.ndarray, T: np.ndarray, S: str, k: int, both: bool, schedule: str, steps: int, source: torch.Generator
) -> None:
    """So many steps, the random numbers in pieces."""
    from resolvent.factor import jacobi_kernel as kernel

    n = len(T)
    if n == 1:
        return
    tol = float(np.finfo(X.dtype).eps) / 4
    for start in range(0, steps, _DRAWS):
        count = min(_DRAWS, steps - start)
        if schedule == "uniform":
            numbers = torch.randint(2**62, (count, k), generator=source, device=source.device).cpu().numpy()
            subsets = kernel.draw_subsets(numbers, n)
        else:
            each = n // k
            deals = torch.rand(-(-count // each), n, generator=source, device=source.device).argsort(1)
            subsets = deals[:, : each * k].reshape(-1, k)[:count].cpu().numpy()
        if S == "mixed":
            triangular = torch.rand(count, generator=source, device=source.device).cpu().numpy() < 0.5
        else:
            triangular = np.full(count, S == "triangular")
        kernel.apply_subsets(X, T, subsets, triangular, both, tol)


def _potential(X: np.ndarray, both: bool) -> float:
    """``tr(B o B^-1) - n``, which no scaling of the columns changes: by the triangular factor of columns of length one."""
    if both:
        d = X.diagonal().real
        if not bool((d > 0).all()):
            raise ValueError("A must be positive definite, and it is not")
        try:
            R = np.linalg.cholesky(X / np.sqrt(d)[:, None] / np.sqrt(d)).conj().T
        except np.linalg.LinAlgError:
            raise ValueError("A must be positive definite, and it is not") from None
    else:
        lengths = np.linalg.norm(X, axis=1)
        if not bool((lengths > 0).all()):
            raise ValueError(f"A must have full column rank, and column {int(lengths.argmin())} is zero")
        R = np.asarray(np.linalg.qr((X / lengths[:, None]).T, mode="r"))
    s = np.linalg.svd(R, compute_uv=False)
    if not s[-1] > 0:
        raise ValueError("A must have full column rank, and its columns are dependent")
    # sum(1 / s^2) - n without the cancellation: the squares of s add up to n.
    return float((((1 - s * s) / s) ** 2).sum())


def _largest_cosine(X: np.ndarray, both: bool) -> float:
    if both:
        d = np.sqrt(np.abs(X.diagonal().real))
        G = np.abs(X) / d[:, None] / d
    else:
        Y = X / np.linalg.norm(X, axis=1)[:, None]
        G = np.abs(Y.conj() @ Y.T)
    np.fill_diagonal(G, 0)
    return float(G.max(initial=0.0))
