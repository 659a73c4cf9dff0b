"""Some eigenvalues of a general square operator."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch
from jaxtyping import Shaped
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.info import Info
from resolvent.operators import Operator, as_operator, lu
from resolvent.operators.arrays import as_tensor, give_back
from resolvent.operators.gradient import bilinear, first_order, records
from resolvent.random import GeneratorLike, as_generator
from resolvent.spectra.arnoldi import GeneralProblem, general_pairs, pick
from resolvent.spectra.eigen import DENSE_LIMIT, check_arguments
from resolvent.spectra.inverse import shifted_inverse

_WHICH = ("LM", "SM", "LR", "SR", "LI", "SI")


def eigs(
    A: Any,
    k: int = 6,
    *,
    which: Literal["LM", "SM", "LR", "SR", "LI", "SI"] = "LM",
    sigma: complex | None = None,
    rtol: float | None = None,
    generator: GeneratorLike = None,
    v0: Shaped[Tensor, " n"] | None = None,
    max_matvecs: int | None = None,
    method: Literal["auto", "dense", "arnoldi"] = "auto",
    return_info: bool = False,
) -> tuple[Any, ...]:
    r"""k eigenpairs of a general square operator, :math:`A v_i = w_i v_i`.

    Parameters
    ----------
    A : (*batch, n, n) operator or anything `as_operator` takes; a batch is solved densely
    k : how many, 1 to n
    which : largest or smallest in size ("LM", "SM"), in real part ("LR", "SR") or in the size of the imaginary part
        ("LI", "SI"). With `sigma` it refers to 1 / (w - sigma).
    sigma : find the eigenvalues nearest to it, by shift and invert; for sparse and for small operators
    rtol : residual :math:`\|A v - w v\|` of every pair relative to :math:`\|A\|`; default 1e-10 in float64, 1e-5 in
        float32
    generator, v0, max_matvecs, return_info : as in `eigsh`
    method : "dense" for LAPACK, "arnoldi" for Krylov-Schur; "auto" takes the cheaper one

    Returns
    -------
    w : (*batch, k) complex, the most wanted first; a conjugate pair that k would cut counts by its first member
    V : (*batch, n, k) complex, unit columns

    Raises
    ------
    ValueError : A is not square, k or another argument is out of range, a product contains NaN
    ConvergenceError : `rtol` was not reached; `best` is (w, V)

    Notes
    -----
    Krylov-Schur: Arnoldi with full reorthogonalisation, restarted with the wanted part of the Schur form.
    A small residual does not mean a small error where eigenvalues are ill-conditioned (far from normal A): there the
    values are those of a matrix within rtol ||A|| of A. w is differentiable to first order, by the left eigenvectors
    of one more run; V is not differentiable.

    References
    ----------
    "A Krylov--Schur Algorithm for Large Eigenproblems"

    Examples
    --------
    >>> import torch
    >>> w, V = eigs(torch.tensor([[0.0, -2.0], [2.0, 0.0]]), 2)
    >>> w.imag.abs().round(decimals=4)
    tensor([2., 2.])
    """
    A = as_operator(A, name="A")
    m, n = A.shape[-2:]
    if m != n:
        raise ValueError(f"A must be square, got shape {tuple(A.shape)}")
    check_arguments(k, n, which, _WHICH, rtol)
    real = torch.zeros((), dtype=A.dtype).real.dtype
    rtol = rtol if rtol is not None else (1e-10 if real == torch.float64 else 1e-5)
    dense = method == "dense" or (method == "auto" and (n <= DENSE_LIMIT or 4 * k > n or bool(A.batch_shape)))
    if dense or n < 4 * k + 40:
        w, V, info = _dense_general(A, k, which, sigma, rtol)
    else:
        limit = max_matvecs if max_matvecs is not None else max(50_000, 50 * k)
        w, V, info = _iterative_general(A, k, which, sigma, rtol, generator, v0, limit)
    w, V = give_back((w, V), A.kind)
    if not info.converged:
        message = f"eigs: residual {info.error:.2g} after {info.matvecs} products, asked for {rtol:.2g}"
        raise ConvergenceError(message, best=(w, V), error=info.error, info=info)
    return (w, V, info) if return_info else (w, V)


def _dense_general(A: Operator, k: int, which: str, sigma: complex | None, rtol: float) -> tuple[Tensor, Tensor, Info]:
    with torch.no_grad():
        dense = A._dense()
        if not bool(torch.isfinite(dense.abs()).all()):
            raise ValueError("A contains NaN or infinity")
        all_w, all_V = torch.linalg.eig(dense)
        best = _best(all_w, k, which, sigma)
        w = all_w.gather(-1, best)
        V = all_V.gather(-1, best.unsqueeze(-2).expand(*all_V.shape[:-1], k))
        error = _residual(dense, w, V)
    if records(A):
        # Rows of the inverse of V are the left eigenvectors, scaled so that y^H v = 1.
        left = lu.inv(all_V).mH
        left = left.gather(-1, best.unsqueeze(-2).expand(*all_V.shape[:-1], k))
        w = first_order(w, bilinear(left, A @ V))
    return w, V, Info("dense", matvecs=A.shape[-1], error=error, converged=error <= rtol)


def _residual(dense: Tensor, w: Tensor, V: Tensor) -> float:
    """The largest ||A v - w v|| / ||A||_F: balancing, which LAPACK does first, may lose pairs of a graded matrix."""
    largest = dense.abs().amax((-2, -1), keepdim=True) if dense.numel() else dense.new_zeros(1).abs()
    size = torch.where(largest > 0, largest, 1.0)
    scaled = dense / size
    gap = scaled.to(V.dtype) @ V - V * (w / size[..., 0])[..., None, :]
    norm = torch.linalg.matrix_norm(scaled)[..., None].clamp_min(1.0)
    return float((torch.linalg.vector_norm(gap, dim=-2) / norm).max())


def _best(w: Tensor, k: int, which: str, sigma: complex | None) -> Tensor:
    flat = w.reshape(-1, w.shape[-1]).to(torch.complex128)
    if sigma is not None:
        gaps = flat - sigma
        flat = 1 / torch.where(gaps == 0, torch.finfo(torch.float64).tiny, gaps)
    picked = [torch.from_numpy(pick(row.cpu().numpy(), which)[:k].copy()) for row in flat]
    return torch.stack(picked).reshape(*w.shape[:-1], k).to(w.device)


def _iterative_general(
    A: Operator,
    k: int,
    which: str,
    sigma: complex | None,
    rtol: float,
    generator: GeneratorLike,
    v0: Tensor | None,
    limit: int,
) -> tuple[Tensor, Tensor, Info]:
    n = A.shape[-1]
    start = None
    if v0 is not None:
        start, _ = as_tensor(v0, "v0")
        if start.shape != (n,):
            raise ValueError(f"v0 must have shape ({n},), got {tuple(start.shape)}")
    if which == "SM" and sigma is None:
        which, sigma = "LM", 0.0
    source = as_generator(generator, A.device)
    problem = GeneralProblem(A._matmul, n, k, which, rtol, A.dtype, A.device, source, limit, start)
    with torch.no_grad():
        w, V, error, products, restarts = general_pairs(problem) if sigma is None else _shifted(A, problem, sigma)
    info = Info("krylov-schur", products, restarts, error, error <= rtol)
    if info.converged and records(A):
        with torch.no_grad():
            left = _left_vectors(A, problem, w, V, sigma)
        w = first_order(w, bilinear(left, A @ V))
    return w, V, info


def _shifted(A: Operator, problem: GeneralProblem, sigma: complex) -> tuple[Tensor, Tensor, float, int, int]:
    rough = replace(problem, k=1, which="LM", rtol=0.3, start=None, limit=200)
    norm = float(general_pairs(rough)[0].abs().max())
    real_shift = complex(sigma).imag == 0
    shift = complex(sigma).real if real_shift else sigma
    inverse = shifted_inverse(A if real_shift or A.is_complex else A.to(A.dtype.to_complex()), shift, norm)
    dtype = A.dtype if real_shift or A.is_complex else A.dtype.to_complex()
    inner = replace(problem, multiply=inverse, dtype=dtype, rtol=max(problem.rtol * 1e-2, 1e-14))
    mu, V, _, products, restarts = general_pairs(inner)
    AV = A @ V
    w = sigma + 1 / mu
    error = float(torch.linalg.vector_norm(AV - V * w, dim=0).max())
    return w, V, error / norm if norm else 0.0, products + problem.k, restarts


def _left_vectors(A: Operator, problem: GeneralProblem, w: Tensor, V: Tensor, sigma: complex | None) -> Tensor:
    """Left eigenvectors of the values w, scaled so that Y^H V is the identity."""
    if sigma is None:
        adjoint = replace(problem, multiply=A.H._matmul, start=None)
        _, Y, error, _, _ = general_pairs(adjoint)
    else:
        adjoint = replace(problem, start=None)
        _, Y, error, _, _ = _shifted(A.H, adjoint, complex(sigma).conjugate())
    # The two runs find the same invariant subspace, up to the order and the basis of equal eigenvalues.
    overlap = Y.mH @ V
    if float(torch.linalg.cond(overlap)) > 1e8 or error > problem.rtol:
        raise ConvergenceError(
            "eigs: the gradient needs left eigenvectors of the same eigenvalues, and these are defective or cut off "
            "in the "
            "middle of a cluster or of a conjugate pair: change k",
            best=w,
            error=error,
        )
    return Y @ lu.inv(overlap).mH
