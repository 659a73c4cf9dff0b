"""Some singular values and vectors of an operator.

>>> import torch
>>> from resolvent import spectra
>>> U, s, Vh = spectra.svds(torch.diag(torch.tensor([1.0, 5.0, 3.0])), k=2)
>>> s
tensor([5., 3.])
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
from resolvent.spectra.eigen_gradient import Rest, differentiable_pairs, projected_solve
from resolvent.spectra.extremal import Pairs, Problem, extremal_pairs
from resolvent.spectra.golub_kahan import safe_scale
from resolvent.spectra.inverse import shifted_inverse

_DENSE_SIDE = 1024
_DENSE_ENTRIES = 1 << 24


def svds(
    A: Any,
    k: int = 6,
    *,
    which: Literal["LM", "SM"] = "LM",
    rtol: float | None = None,
    generator: GeneratorLike = None,
    v0: Shaped[Tensor, " n"] | None = None,
    max_matvecs: int | None = None,
    method: Literal["auto", "dense", "lanczos"] = "auto",
    return_info: bool = False,
) -> tuple[Any, ...]:
    r"""k singular triplets of an operator, :math:`A v_i = s_i u_i` and :math:`A^H u_i = s_i v_i`.

    Parameters
    ----------
    A : (*batch, m, n) operator or anything `as_operator` takes; a batch is solved densely
    k : how many, 1 to min(m, n)
    which : the largest ("LM") or the smallest ("SM"; dense, or sparse and square and not singular)
    rtol : residuals :math:`\|A v - s u\|` and :math:`\|A^H u - s v\|` of every triplet relative to :math:`\|A\|`;
        default 1e-10 in float64, 1e-5 in float32
    generator : randomness of the start
    v0 : (min(m, n),) starting vector
    max_matvecs : products before it gives up
    method : "dense" for LAPACK, "lanczos" for the iteration; "auto" takes the cheaper one
    return_info : also return `Info`; its matvecs count products with A and with A^H

    Returns
    -------
    U : (*batch, m, k), orthonormal columns
    s : (*batch, k) real, descending
    Vh : (*batch, k, n), orthonormal rows

    Raises
    ------
    ValueError : k or another argument is out of range, a product contains NaN
    ConvergenceError : `rtol` was not reached; `best` is (U, s, Vh)

    Notes
    -----
    Small or k > min(m, n)/4: LAPACK. Else Golub-Kahan-Lanczos in its one-sided form: thick-restart
    Lanczos (as in `eigsh`, with filter and test for multiple values) on A^H A of the smaller side with one pass over
    the data per product, then a small SVD of A V. What squaring costs in accuracy only shows for s_k below about
    eps/rtol of ||A||; the residuals tell, and then the iteration goes on with [0, A; A^H, 0], which does not square.
    Differentiable to first order, as `eigsh`; a loss must not depend on the signs or phases of the vectors.
    References
    ----------
    "Low-Rank Matrix Approximation Using the Lanczos Bidiagonalization Process with Applications"
    "Thick-Restart Lanczos Method for Large Symmetric Eigenvalue Problems"

    Examples
    --------
    >>> import torch
    >>> U, s, Vh = svds(torch.tensor([[0.0, 2.0], [1.0, 0.0], [0.0, 0.0]]), 1)
    >>> s, Vh.abs()
    (tensor([2.]), tensor([[0., 1.]]))
    """
    A = as_operator(A, name="A")
    m, n = A.shape[-2:]
    side = min(m, n)
    if isinstance(k, bool) or not isinstance(k, int):
        raise TypeError(f"k must be an int, got {type(k).__name__}")
    if not 1 <= k <= side:
        raise ValueError(f"k must be between 1 and {side}, the smaller side of A, got {k}")
    if which not in ("LM", "SM"):
        raise ValueError(f"which must be LM or SM, got {which!r}")
    if rtol is not None and not 0 < rtol < 1:
        raise ValueError(f"rtol must be between 0 and 1, got {rtol}")
    if method == "lanczos" and A.batch_shape:
        raise ValueError(f"method='lanczos' takes no batch, A has shape {tuple(A.shape)}")
    real = torch.zeros((), dtype=A.dtype).real.dtype
    rtol = rtol if rtol is not None else (1e-10 if real == torch.float64 else 1e-5)
    small = side <= _DENSE_SIDE and m * n <= _DENSE_ENTRIES
    if method == "dense" or side < 4 * k + 40 or (method == "auto" and (small or 4 * k > side or bool(A.batch_shape))):
        U, s, Vh, info = _dense(A, k, which)
    else:
        limit = max_matvecs if max_matvecs is not None else max(200_000, 50 * k)
        U, s, Vh, info = _iterative(A, k, which, rtol, generator, v0, limit)
    U, s, Vh = give_back((U, s, Vh), A.kind)
    if not info.converged:
        message = f"svds: residual {info.error:.2g} after {info.matvecs} products, asked for {rtol:.2g}"
        raise ConvergenceError(message, best=(U, s, Vh), error=info.error, info=info)
    return (U, s, Vh, info) if return_info else (U, s, Vh)


def singular_values(A: Operator) -> Tensor:
    """All singular values, descending, by LAPACK; without gradients.

    Examples
    --------
    >>> singular_values(as_operator(torch.diag(torch.tensor([1.0, 2.0]))))
    tensor([2., 1.])
    """
    with torch.no_grad():
        return torch.linalg.svdvals(_finite(A._dense()))


def _finite(dense: Tensor) -> Tensor:
    if not bool(torch.isfinite(dense.abs()).all()):
        raise ValueError("A contains NaN or infinity")
    return dense


def _dense(A: Operator, k: int, which: str) -> tuple[Tensor, Tensor, Tensor, Info]:
    with torch.no_grad():
        U, s, Vh = torch.linalg.svd(_finite(A._dense()), full_matrices=False)
        part = slice(0, k) if which == "LM" else slice(s.shape[-1] - k, s.shape[-1])
        chosen = U[..., part], s[..., part], Vh[..., part, :]
    error = 4 * torch.finfo(s.dtype).eps
    info = Info("dense", matvecs=min(A.shape[-2:]), error=error)
    if not records(A):
        return *chosen, info

    # What is outside of all singular vectors is the null space of [0, A; A^H, 0].
    def rest(w: Tensor, G: Tensor) -> Tensor:
        w = w.unsqueeze(-2)
        return G * torch.where(w > 0, 1 / torch.where(w > 0, w, 1), 0).to(G.dtype)

    return *_with_gradient(A, *chosen, U, s, Vh, rest), info


def _with_gradient(
    A: Operator, U: Tensor, s: Tensor, Vh: Tensor, all_U: Tensor, all_s: Tensor, all_Vh: Tensor, rest: Rest
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of the eigenpairs (s, (u; v)/sqrt 2) of [0, A; A^H, 0]."""
    half = math.sqrt(0.5)
    Z = half * torch.cat([U, Vh.mH], dim=-2)
    basis = half * torch.cat([torch.cat([all_U, all_Vh.mH], -2), torch.cat([all_U, -all_Vh.mH], -2)], -1)
    known = torch.cat([all_s, -all_s], -1)
    product = half * torch.cat([A._matmul(Vh.mH.detach()), A.H._matmul(U.detach())], dim=-2)
    s, Z = differentiable_pairs(product, s, Z, known, basis, rest)
    m = U.shape[-2]
    return Z[..., :m, :] / half, s, (Z[..., m:, :] / half).mH


def _iterative(
    A: Operator, k: int, which: str, rtol: float, generator: GeneratorLike, v0: Tensor | None, limit: int
) -> tuple[Tensor, Tensor, Tensor, Info]:
    m, n = A.shape[-2:]
    if m < n:
        U, s, Vh, info = _iterative(A.H, k, which, rtol, generator, v0, limit)
        return Vh.mH, s, U.mH, info
    start = None
    if v0 is not None:
        start, _ = as_tensor(v0, "v0")
        if start.shape != (n,):
            raise ValueError(f"v0 must have shape ({n},), the smaller side of A, got {tuple(start.shape)}")
    source = as_generator(generator, A.device)
    with torch.no_grad():
        probe = torch.ones(n, dtype=A.dtype, device=A.device) / math.sqrt(n)
        scale = safe_scale(A, probe) or 1.0
        problem = Problem(
            _gram(A, scale), n, k, "LA", rtol, A.dtype, A.device, source, 2 * A.cost, limit // 2, start, squared=True
        )
        if which == "SM":
            problem = _smallest(A, problem)
        pairs = extremal_pairs(problem)
        U, s, V, error, norm = _triplets(A, pairs.vectors.contiguous(), scale)
        if which == "SM":
            norm = float(_largest(A, problem, scale))
        products, restarts, name = 2 * pairs.products, pairs.restarts, "golub-kahan"
        if error > rtol * norm and which == "LM":
            pairs = _dilated(A, problem, scale)
            U, s, V, error, norm = _triplets(A, torch.linalg.qr(pairs.vectors[m:])[0], scale)
            products, restarts, name = products + 2 * pairs.products, restarts + pairs.restarts, "dilated lanczos"
    relative = error / norm if norm > 0 else 0.0
    info = Info(name, products + 2 * k, restarts, relative, relative <= rtol)
    Vh = V.mH
    if info.converged and records(A):
        quiet, half = A.detach(), math.sqrt(0.5)
        both = half * torch.cat([torch.cat([U, V]), torch.cat([U, -V])], dim=1)

        def multiply(Z: Tensor) -> Tensor:
            return torch.cat([quiet._matmul(Z[m:].contiguous()), quiet.H._matmul(Z[:m].contiguous())])

        rest = projected_solve(multiply, both, max(rtol, 1e-10), 40 * int(math.sqrt(n)) + 4000)
        U, s, Vh = _with_gradient(A, U, s, Vh, U, s, Vh, rest)
    return U, s, Vh, info


def _gram(A: Operator, scale: float) -> Any:
    if scale == 1.0:
        return A._gram
    return lambda X: A.H._matmul(scale * A._matmul(scale * X)) * 1.0


def _triplets(A: Operator, V: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor, float, float]:
    """The best triplets in the span of V, the largest residual and the largest singular value."""
    Q, R = torch.linalg.qr(A._matmul(scale * V))
    wide = torch.complex128 if V.is_complex() else torch.float64
    left, s, right = torch.linalg.svd(R.to(wide))
    U, V = Q @ left.to(V.dtype), V @ right.mH.to(V.dtype)
    residual = A.H._matmul(scale * U) - V * s.to(V.dtype)
    error = float(torch.linalg.vector_norm(residual, dim=0).max())
    if not math.isfinite(error):
        raise ValueError("the product with A returned NaN or infinity")
    return U, (s / scale).to(V.real.dtype), V.contiguous(), error, float(s[0])


def _dilated(A: Operator, problem: Problem, scale: float) -> Pairs:
    m, n = A.shape[-2:]

    def multiply(Z: Tensor) -> Tensor:
        Z = scale * Z
        return torch.cat([A._matmul(Z[m:].contiguous()), A.H._matmul(Z[:m].contiguous())])

    return extremal_pairs(replace(problem, multiply=multiply, n=m + n, start=None, squared=False, which="LA"))


def _largest(A: Operator, problem: Problem, scale: float) -> Tensor:
    rough = replace(problem, multiply=_gram(A, scale), k=1, rtol=0.1, start=None, squared=False, filtered=False)
    return extremal_pairs(rough).values.max().sqrt()


def _smallest(A: Operator, problem: Problem) -> Problem:
    """The largest of (A^H A)^-1 = A^-1 A^-H."""
    m, n = A.shape[-2:]
    if m != n:
        raise ValueError(
            f"which='SM' of a large operator needs a square sparse one, got shape {tuple(A.shape)}; use method='dense'"
        )
    inverse = shifted_inverse(A, 0.0, 1.0)
    return replace(problem, multiply=lambda X: inverse(inverse.adjoint(X)), filtered=False)
