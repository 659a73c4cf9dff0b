"""Nyström approximations: of positive operators from products or from entries, and of any operator from two sketches."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.factor.range_finder import check_request, frobenius, orthonormal, random_product, rounding
from resolvent.info import Info
from resolvent.operators import LowRank, Operator, as_operator
from resolvent.random import GeneratorLike, as_generator, gaussian

# Pivots that are drawn at once; those that the others of the block have made useless are drawn again.
_DRAWN = 64
_PROBES = 16


def nystrom(
    A: Any,
    rank: int | None = None,
    *,
    rtol: float | None = None,
    oversample: int = 10,
    method: Literal["products", "rpcholesky", "greedy"] = "products",
    sketch: str = "gaussian",
    max_rank: int | None = None,
    generator: GeneratorLike = None,
    return_info: bool = False,
) -> Any:
    r"""A Nyström approximation :math:`A\Omega(\Omega^H A\Omega)^+(A\Omega)^H` of a positive semidefinite operator.

    Parameters
    ----------
    A : (n, n) Hermitian positive semidefinite operator or anything `as_operator` takes
    rank : of the approximation, 1 to n
    rtol : instead of `rank`: the bound on the nuclear norm of the error relative to that of A, their traces
    oversample : columns beyond `rank` for "products"
    method : "products" takes random combinations of columns, and is near the best; "rpcholesky" takes columns, drawn
        by the diagonal of what is left, and reads only them and the diagonal; "greedy" the column of its largest entry
    sketch : the kind of the combinations, as in `sketch.make_sketch`
    max_rank : for `rtol`; default n
    generator : randomness
    return_info : also return an `Info`, whose error is NaN for a `rank` where A does not know its trace

    Returns
    -------
    LowRank : U diag(w) U^H, positive, with orthonormal U and w descending

    Raises
    ------
    ValueError : A is not square, Hermitian, or is seen to be not positive; neither or both of `rank` and `rtol`
    TypeError : a method that reads columns with an operator that does not know its diagonal
    ConvergenceError : `max_rank` columns do not reach `rtol`; `best` is the operator

    Notes
    -----
    "products": one product a column with A, shifted by rounding errors of its size before a Cholesky factorisation, and
    the shift taken off the result. Columns: n (rank + 1) entries and n rank^2 operations; blocks of pivots are thinned
    so that they have the law of pivots drawn one by one. The error is positive semidefinite, so that its nuclear norm
    is the difference of traces; where A does not know its trace, 16 fresh probes estimate it. Gradients flow through
    "products" with a `rank` (the singular values involved must be distinct), and through the columns with pivots held.

    References
    ----------
    "Fixed-Rank Approximation of a Positive-Semidefinite Matrix from Streaming Data"
    "Randomly Pivoted Cholesky: Practical Approximation of a Kernel Matrix with Few Entry Evaluations"
    "Embrace Rejection: Kernel Matrix Approximation by Accelerated Randomly Pivoted Cholesky"

    Examples
    --------
    >>> A = torch.diag(torch.tensor([4.0, 0.0, 1.0, 0.0]))
    >>> nystrom(A, 2, generator=0).s.round(decimals=4)
    tensor([4., 1.])
    """
    A = as_operator(A, name="A")
    A.check_hermitian("A")
    check_request(A, rank, rtol, 0, max_rank)
    if A.batch_shape:
        raise ValueError(f"nystrom takes one matrix, A has shape {tuple(A.shape)}")
    if method not in ("products", "rpcholesky", "greedy"):
        raise ValueError(f"method must be 'products', 'rpcholesky' or 'greedy', got {method!r}")
    source = as_generator(generator, A.device)
    n = A.shape[-1]
    limit = rank or max_rank or n
    if method == "products":
        if rank is not None:
            U, w = _from_products(A, min(rank + oversample, n), sketch, source)
            U, w, products, steps = U[:, :rank], w[:rank], min(rank + oversample, n), 1
            error = _relative_gap(A, w)
        else:
            U, w, products, steps, error = _adaptive(A, float(rtol or 0), limit, sketch, source)
    else:
        F, pivots, error = pivoted_columns(A, limit, rtol, method, source)
        # With gradients the factor of the pivots is made again from recorded columns.
        U, w = _spectral(_from_columns(A, pivots) if torch.is_grad_enabled() and A.requires_grad else F)
        products, steps = F.shape[-1], 1
    found = LowRank(U, w).declare(positive=True)
    found.kind = A.kind
    info = Info(method, products, steps, error, rtol is None or error <= rtol)
    if not info.converged:
        message = f"nystrom: error {error:.2g} with rank {w.shape[-1]}, asked for {rtol:.2g}"
        raise ConvergenceError(message, best=found, error=error, info=info)
    return (found, info) if return_info else found


def _from_products(A: Operator, columns: int, kind: str, source: torch.Generator) -> tuple[Tensor, Tensor]:
    """The stabilised Nyström approximation, U and w of all its columns."""
    n = A.shape[-1]
    if kind == "gaussian":
        omega = gaussian((n, columns), A.dtype, A.device, source)
    else:
        from resolvent.sketch import make_sketch

        omega = make_sketch(kind, columns, n, generator=source, dtype=A.dtype, device=A.device).H._dense()
    omega = torch.linalg.qr(omega).Q
    return _shifted(A._matmul(omega), omega)


def _shifted(Y: Tensor, omega: Tensor) -> tuple[Tensor, Tensor]:
    """U and w from Y = A omega, omega with orthonormal columns."""
    size = frobenius(Y)
    if not math.isfinite(size):
        raise ValueError("A contains NaN or infinity, or its product overflows")
    shift = math.sqrt(Y.shape[0]) * rounding(Y.dtype) * size
    if shift == 0:
        return omega, torch.zeros(Y.shape[1], dtype=Y.real.dtype, device=Y.device) * Y.real.sum()
    Y = Y + shift * omega
    core = omega.mH @ Y
    root, failed = torch.linalg.cholesky_ex((core + core.mH) / 2)
    if int(failed):
        least = float(torch.linalg.eigvalsh(core.detach())[0]) - shift
        raise ValueError(f"A must be positive semidefinite, but has an eigenvalue below {least:.3g}")
    U, w = _spectral(torch.linalg.solve_triangular(root.mH, Y, upper=True, left=False))
    return U, (w - shift).clamp_min(0)


def _spectral(F: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvectors and eigenvalues of F F^H."""
    U, s, _ = torch.linalg.svd(F, full_matrices=False)
    return U, s.square()


def _trace(A: Operator) -> float | None:
    known = A._trace()
    return None if known is None else float(known.real)


def _relative_gap(A: Operator, w: Tensor) -> float:
    """The trace of the error relative to that of A; NaN where A does not know its trace."""
    with torch.no_grad():
        whole = _trace(A.detach())
        if whole is None:
            return math.nan
        return max(whole - float(w.sum()), 0.0) / whole if whole > 0 else 0.0


def _adaptive(
    A: Operator, rtol: float, limit: int, kind: str, source: torch.Generator
) -> tuple[Tensor, Tensor, int, int, float]:
    """Twice the columns until the trace of what is left is small."""
    with torch.no_grad():
        A = A.detach()
        whole, n = _trace(A), A.shape[-1]
        probes = None if whole is not None else gaussian((n, _PROBES), A.dtype, A.device, source)
        seen = None if probes is None else A._matmul(probes)
        products, steps, columns = 0 if probes is None else _PROBES, 0, min(32, limit)
        while True:
            U, w = _from_products(A, columns, kind, source)
            products, steps = products + columns, steps + 1
            # The trace of the error within what rounding leaves of it.
            if probes is None or seen is None:
                size = float(whole or 0)
                gap = max(size - float(w.sum()), 0.0)
            else:
                # No more than the trace of A, as what is left is positive.
                size = float(w.sum())
                rest = seen - U @ (w[:, None] * (U.mH @ probes))
                # Twice the mean is exceeded by the truth once in a thousand times at most.
                gap = 4 * max(float((probes.conj() * rest).sum().real), 0.0) / _PROBES
            error = gap / size if size > 0 else 0.0
            if error <= rtol or columns == limit:
                return *_shortened(U, w, gap, rtol * size), products, steps, error
            columns = min(2 * columns, limit)


def _shortened(U: Tensor, w: Tensor, gap: float, allowed: float) -> tuple[Tensor, Tensor]:
    """The fewest eigenpairs that keep the error within what is allowed."""
    tails = torch.cat([w.double().flip(0).cumsum(0).flip(0), w.new_zeros(1).double()])
    fits = tails <= allowed - gap
    rank = max(1, int(fits.int().argmax())) if bool(fits.any()) else len(w)
    return U[:, :rank], w[:rank]


def pivoted_columns(
    A: Operator, limit: int, rtol: float | None, method: str, source: torch.Generator
) -> tuple[Tensor, Tensor, float]:
    """F with A near F F^H from columns of A, their pivots, and the trace of the error relative to that of A."""
    diagonal = A.detach()._diagonal()
    if diagonal is None:
        raise TypeError(f"method {method!r} reads the diagonal, which {type(A).__name__} does not know")
    with torch.no_grad():
        quiet = A.detach()
        d = (diagonal.real if diagonal.is_complex() else diagonal).clone()
        whole, n = float(d.sum()), len(d)
        if float(d.min()) < -100 * rounding(A.dtype) * max(float(d.max()), 0.0) or whole < 0:
            raise ValueError(f"A must be positive semidefinite, but has the diagonal entry {float(d.min()):.3g}")
        d.clamp_(min=0)
        F = torch.zeros(n, 0, dtype=A.dtype, device=A.device)
        pivots = torch.zeros(0, dtype=torch.long, device=A.device)
        goal = max((rtol or 0.0) * whole, 10 * rounding(A.dtype) * whole)
        while F.shape[1] < limit and float(d.sum()) > goal:
            room = limit - F.shape[1]
            if method == "greedy":
                chosen = d.argmax()[None]
            else:
                chosen = torch.multinomial(d.double(), min(_DRAWN, 4 * room), replacement=True, generator=source)
            block, taken = _pivot_block(quiet, F, chosen, d, room, source, method == "greedy")
            squares = block.abs().square()
            # Pivots of a block come in their order: those after the goal are not needed.
            enough = int((float(d.sum()) - squares.sum(0).cumsum(0) > goal).sum()) + 1
            F, pivots = torch.cat([F, block[:, :enough]], 1), torch.cat([pivots, taken[:enough]])
            d = (d - squares[:, :enough].sum(1)).clamp_(min=0)
            d[pivots] = 0
    return F, pivots, float(d.sum()) / whole if whole > 0 else 0.0


def _pivot_block(
    A: Operator, F: Tensor, chosen: Tensor, d: Tensor, room: int, source: torch.Generator, all_taken: bool
) -> tuple[Tensor, Tensor]:
    """The columns of the pivots that are accepted, orthogonalised against those before in the sense of Cholesky."""
    small = A._entries(chosen, chosen) - F[chosen] @ F[chosen].mH
    chances = torch.rand(len(chosen), generator=source, device=source.device).double().cpu().numpy()
    if all_taken:
        chances[:] = 0.0
    keep = accepted(small.resolve_conj().cpu().numpy().copy(), d[chosen].double().cpu().numpy(), chances, room)
    taken = chosen[torch.from_numpy(keep).to(chosen.device)]
    everywhere = torch.arange(A.shape[-1], device=A.device)
    rest = A._entries(everywhere, taken) - F @ F[taken].mH
    core = rest[taken]
    root, failed = torch.linalg.cholesky_ex((core + core.mH) / 2)
    if int(failed):
        if int(failed) == 1:
            raise ValueError("A must be positive semidefinite, but a pivot of its Cholesky factor is not positive")
        # Rounding errors have used up the later pivots of the block: they are drawn again if they still matter.
        taken, rest = taken[: int(failed) - 1], rest[:, : int(failed) - 1]
        root = root[: int(failed) - 1, : int(failed) - 1]
    return torch.linalg.solve_triangular(root.mH, rest, upper=True, left=False), taken


def accepted(H: np.ndarray, weights: np.ndarray, chances: np.ndarray, room: int) -> np.ndarray:
    """Which pivots of a block are kept: each by the share of its weight that those kept before have left it.

    Drawn independently by `weights` and thinned so, they have the law of pivots that are drawn one after the other.
    """
    kept: list[int] = []
    for i in range(len(weights)):
        left = H[i, i].real
        if len(kept) == room:
            break
        if left > 0 and chances[i] * weights[i] < left and (chances[i] > 0 or left > 1e-12 * weights[i]):
            kept.append(i)
            column = H[:, i] / math.sqrt(left)
            H -= np.outer(column, column.conj())
    # One is always taken: its weight is all there but for rounding errors.
    return np.asarray(kept or [0])


def _from_columns(A: Operator, pivots: Tensor) -> Tensor:
    everywhere = torch.arange(A.shape[-1], device=A.device)
    columns = A._entries(everywhere, pivots)
    root = torch.linalg.cholesky(columns[pivots])
    return torch.linalg.solve_triangular(root.mH, columns, upper=True, left=False)


def generalized_nystrom(
    A: Any, rank: int, *, oversample: int | None = None, sketch: str = "gaussian", generator: GeneratorLike = None
) -> Any:
    r"""The approximation :math:`A X (Y^H A X)^+ Y^H A` of any operator from one pass over it.

    Parameters
    ----------
    A : (*batch, m, n) operator or anything `as_operator` takes
    rank : columns of X, 1 to min(m, n)
    oversample : columns of Y beyond `rank`; default rank / 2 and at least 2. Without them a single run can be arbitrarily bad
    sketch : the kind of X, as in `sketch.make_sketch`; Y is Gaussian
    generator : randomness

    Returns
    -------
    LowRank : (*batch, m, n) of rank at most `rank`

    Raises
    ------
    ValueError : arguments out of range, NaN in a product

    Notes
    -----
    One product with A and one with A^H that do not wait for each other, and no orthonormal basis of either. The
    pseudoinverse drops singular values of Y^H A X below rounding errors, so that exact rank below `rank` does no harm.
    Expected error with p extra columns: within sqrt(1 + rank / (p - 1)) of that of a randomized SVD. Gradients flow
    through it (the singular values of the core must be distinct).

    References
    ----------
    "Fast and stable randomized low-rank matrix approximation"

    Examples
    --------
    >>> A = torch.outer(torch.tensor([1.0, 2.0, 0.0]), torch.tensor([1.0, 1.0]))
    >>> generalized_nystrom(A, 1, generator=0).to_dense().round(decimals=4)
    tensor([[1., 1.],
            [2., 2.],
            [0., 0.]])
    """
    A = as_operator(A, name="A")
    check_request(A, rank, None)
    m = A.shape[-2]
    extra = max(2, rank // 2) if oversample is None else oversample
    if isinstance(extra, bool) or not isinstance(extra, int) or extra < 0:
        raise ValueError(f"oversample must be an int of at least 0, got {oversample!r}")
    source = as_generator(generator, A.device)
    AX, _ = random_product(A, rank, sketch, source)
    Y = orthonormal(gaussian((m, min(rank + extra, m)), A.dtype, A.device, source))
    YA = A.H._matmul(Y)
    if not bool(torch.isfinite(AX.detach().abs().sum() + YA.detach().abs().sum())):
        raise ValueError("A contains NaN or infinity, or its product overflows")
    U, s, Vh = torch.linalg.svd(Y.mH @ AX, full_matrices=False)
    kept = s > 10 * max(m, A.shape[-1]) * rounding(A.dtype) * s[..., :1]
    inverse = torch.where(kept, 1 / torch.where(kept, s, 1), 0)
    found = LowRank(AX @ Vh.mH, inverse.to(U.dtype) if U.is_complex() else inverse, YA @ U)
    found.kind = A.kind
    return found
