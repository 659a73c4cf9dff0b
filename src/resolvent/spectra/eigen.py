"""Some eigenvalues and eigenvectors of an operator.

>>> import torch
>>> from resolvent import spectra
>>> from resolvent.operators import Diagonal
>>> A = Diagonal(torch.arange(1.0, 3001.0, dtype=torch.float64))
>>> w, V = spectra.eigsh(A, k=2, which="LA", generator=0)
>>> w.round(decimals=6)
tensor([2999., 3000.], dtype=torch.float64)
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Literal

import torch
from jaxtyping import Shaped
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.info import Info
from resolvent.operators import Operator, as_operator
from resolvent.operators.arrays import as_tensor, give_back
from resolvent.operators.gradient import records
from resolvent.random import GeneratorLike, as_generator
from resolvent.spectra.eigen_gradient import differentiable_pairs, projected_solve
from resolvent.spectra.extremal import Pairs, Problem, extremal_pairs, order
from resolvent.spectra.golub_kahan import safe_scale
from resolvent.spectra.inertia import scipy_matrix, small_fill
from resolvent.spectra.inverse import nudge, shifted_inverse

Which = Literal["LM", "LA", "SA", "SM", "BE"]
DENSE_LIMIT = 1024
_WHICH = ("LM", "LA", "SA", "SM", "BE")


def eigsh(
    A: Any,
    k: int = 6,
    *,
    which: Which = "LM",
    sigma: float | None = None,
    rtol: float | None = None,
    generator: GeneratorLike = None,
    v0: Shaped[Tensor, " n"] | None = None,
    max_matvecs: int | None = None,
    method: Literal["auto", "dense", "lanczos"] = "auto",
    return_info: bool = False,
) -> tuple[Any, ...]:
    r"""k eigenpairs of a Hermitian operator, :math:`A v_i = w_i v_i`, with orthonormal :math:`v_i`.

    Parameters
    ----------
    A : (*batch, n, n) Hermitian operator or anything `as_operator` takes; a batch is solved densely
    k : how many, 1 to n
    which : largest in size ("LM"), largest ("LA"), smallest ("SA"), smallest in size ("SM"), or half from either end
        with one more from the high end if k is odd ("BE"). With `sigma` it refers to 1 / (w - sigma).
    sigma : find the eigenvalues nearest to it, by shift and invert; for sparse and for small operators
    rtol : residual :math:`\|A v - w v\|` of every pair relative to :math:`\|A\|`; default 1e-10 in float64, 1e-5 in
        float32
    generator : randomness of the starting vectors
    v0 : (n,) starting vector
    max_matvecs : products before it gives up; default max(200000, 50 k), far above what it should need
    method : "dense" for LAPACK, "lanczos" for the iteration; "auto" takes the cheaper one
    return_info : also return `Info`

    Returns
    -------
    w : (*batch, k) real, ascending
    V : (*batch, n, k)

    Raises
    ------
    ValueError : A is not square or not Hermitian, k or another argument is out of range, a product contains NaN
    ConvergenceError : `rtol` was not reached; `best` is (w, V)

    Notes
    -----
    Small or k > n/4: LAPACK. Else thick-restart Lanczos with full orthogonalisation. Where a product is
    cheap beside the orthogonalisation, the iteration runs on a Chebyshev polynomial of A that lifts the wanted end
    out of the rest, so that the basis stays small. Converged pairs are tested: the iteration is restarted with a
    random vector orthogonal to them for at least 40% of the work done so far, and goes on if anything beyond the k-th
    turns up. So copies of a multiple eigenvalue are found, which a single Krylov space cannot see. The residuals are
    recomputed at the end. Differentiable to first order in w and V; for a V-dependent loss the backward pass solves k
    linear systems with MINRES (the dense path: exactly). A loss must not depend on the phases of V, nor on the basis
    chosen for a multiple eigenvalue.

    References
    ----------
    "Thick-Restart Lanczos Method for Large Symmetric Eigenvalue Problems"
    "A Filtered Lanczos Procedure for Extreme and Interior Eigenvalue Problems"

    Examples
    --------
    >>> import torch
    >>> A = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
    >>> w, V = eigsh(A, 1)
    >>> w
    tensor([3.])
    """
    A = as_operator(A, name="A")
    A.check_hermitian("A")
    n = A.shape[-1]
    check_arguments(k, n, which, _WHICH, rtol)
    real = torch.zeros((), dtype=A.dtype).real.dtype
    rtol = rtol if rtol is not None else (1e-10 if real == torch.float64 else 1e-5)
    dense = method == "dense" or (method == "auto" and (n <= DENSE_LIMIT or 4 * k > n or bool(A.batch_shape)))
    if method == "lanczos" and A.batch_shape:
        raise ValueError(f"method='lanczos' takes no batch, A has shape {tuple(A.shape)}")
    if dense or n < 4 * k + 40:
        w, V, info = _dense_hermitian(A, k, which, sigma)
    else:
        w, V, info = _iterative_hermitian(A, k, which, sigma, rtol, generator, v0, max_matvecs)
    w, V = give_back((w, V), A.kind)
    if not info.converged:
        message = f"eigsh: residual {info.error:.2g} after {info.matvecs} products, asked for {rtol:.2g}"
        raise ConvergenceError(message, best=(w, V), error=info.error, info=info)
    return (w, V, info) if return_info else (w, V)


def check_arguments(k: int, n: int, which: str, allowed: tuple[str, ...], rtol: float | None) -> None:
    """Raise an error that names the argument which is out of range."""
    if isinstance(k, bool) or not isinstance(k, int):
        raise TypeError(f"k must be an int, got {type(k).__name__}")
    if not 1 <= k <= n:
        raise ValueError(f"k must be between 1 and {n}, the size of A, got {k}")
    if which not in allowed:
        raise ValueError(f"which must be one of {', '.join(allowed)}, got {which!r}")
    if rtol is not None and not 0 < rtol < 1:
        raise ValueError(f"rtol must be between 0 and 1, got {rtol}")


def _dense_hermitian(A: Operator, k: int, which: str, sigma: float | None) -> tuple[Tensor, Tensor, Info]:
    with torch.no_grad():
        dense = A._dense()
        if not bool(torch.isfinite(torch.view_as_real(dense) if dense.is_complex() else dense).all()):
            raise ValueError("A contains NaN or infinity")
        # eigh reads one triangle; halves first, so that entries near the largest number do not overflow.
        all_w, all_V = torch.linalg.eigh(dense / 2 + dense.mH / 2)
        best = _best(all_w, k, which, sigma)
        w = all_w.gather(-1, best)
        V = all_V.gather(-1, best.unsqueeze(-2).expand(*all_V.shape[:-1], k))
    if records(A):
        w, V = differentiable_pairs(_columns(A, V), w, V, all_w, all_V, None)
    return w, V, Info("dense", matvecs=A.shape[-1], error=4 * torch.finfo(w.dtype).eps)


def _columns(A: Operator, V: Tensor) -> Tensor:
    return A._matmul(V.detach())


def _best(w: Tensor, k: int, which: str, sigma: float | None) -> Tensor:
    """Indices of the wanted values, ascending in w: (..., k)."""
    if which == "SM" and sigma is None:
        which, sigma = "LM", 0.0
    if sigma is not None:
        gaps = w - sigma
        w_seen = 1 / torch.where(gaps == 0, torch.finfo(w.dtype).tiny, gaps)
        if which == "SM":
            return torch.argsort(gaps.abs(), dim=-1, descending=True)[..., :k].sort(-1).values
    else:
        w_seen = w
    flat = w_seen.reshape(-1, w.shape[-1])
    return torch.stack([order(row, which)[:k].sort().values for row in flat]).reshape(*w.shape[:-1], k)


def _iterative_hermitian(
    A: Operator,
    k: int,
    which: str,
    sigma: float | None,
    rtol: float,
    generator: GeneratorLike,
    v0: Tensor | None,
    max_matvecs: int | None,
) -> tuple[Tensor, Tensor, Info]:
    n = A.shape[-1]
    limit = max_matvecs if max_matvecs is not None else max(200_000, 50 * k)
    start = None
    if v0 is not None:
        start, _ = as_tensor(v0, "v0")
        if start.shape != (n,):
            raise ValueError(f"v0 must have shape ({n},), got {tuple(start.shape)}")
        start = start.to(A.dtype)
    if which == "SM" and sigma is None:
        which, sigma = ("SA", None) if A.positive and not _factors(A) else ("LM", 0.0)
    with torch.no_grad():
        scale = safe_scale(A, torch.ones(n, dtype=A.dtype, device=A.device) / math.sqrt(n)) or 1.0
    multiply = A._matmul if scale == 1.0 else lambda X: A._matmul(scale * X)
    problem = Problem(
        multiply,
        n,
        k,
        which,
        rtol,
        A.dtype,
        A.device,
        as_generator(generator, A.device),
        A.cost,
        limit,
        start,
        operator=A if scale == 1.0 else None,
    )
    with torch.no_grad():
        pairs = extremal_pairs(problem) if sigma is None else _shifted(A, problem, sigma, scale)
    info = Info(pairs.method, pairs.products, pairs.restarts, pairs.error, pairs.error <= rtol)
    w, V = (pairs.values / scale).to(torch.zeros((), dtype=A.dtype).real.dtype), pairs.vectors.contiguous()
    if info.converged and records(A):
        quiet = A.detach()
        solve = projected_solve(quiet._matmul, V, max(rtol, 1e-10), 20 * int(math.sqrt(n)) + 2000)
        w, V = differentiable_pairs(_columns(A, V), w, V, w, V, solve)
    return w, V, info


def _factors(A: Operator) -> bool:
    """Whether A - sigma is cheap to factorise."""
    if A.shape[-1] <= 4 * DENSE_LIMIT:
        return True
    matrix = scipy_matrix(A)
    return matrix is not None and small_fill(matrix)


def _shifted(A: Operator, problem: Problem, sigma: float, scale: float) -> Pairs:
    """Pairs nearest to sigma from those of (A - sigma)^-1, with residuals of A itself, all times `scale`."""
    size = extremal_pairs(replace(problem, k=1, which="LM", rtol=0.1, filtered=False, start=None))
    norm = float(size.values.abs().max())
    inner = replace(problem, filtered=False, rtol=max(problem.rtol * 1e-2, 256 * torch.finfo(problem.dtype).eps))
    found = extremal_pairs(replace(inner, multiply=shifted_inverse(A, sigma, norm / scale)))
    step = nudge(A, norm / scale)
    if float(found.values.abs().max()) * step > 2:
        # The shift is an eigenvalue but for rounding: the inverse has one huge value that hides the others.
        found = extremal_pairs(replace(inner, multiply=shifted_inverse(A, sigma + step, norm / scale)))
    V = found.vectors.contiguous()
    AV = problem.multiply(V)
    w = (V.conj() * AV).sum(0).real.to(torch.float64)
    residual = torch.linalg.vector_norm(AV - V * w.to(V.dtype), dim=0).max()
    ascending = torch.argsort(w)
    products = size.products + found.products + problem.k
    error = float(residual) / norm if norm else 0.0
    return Pairs(w[ascending], V[:, ascending], error, products, found.restarts, "shift-invert lanczos")
