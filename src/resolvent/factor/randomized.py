"""Truncated singular value decompositions from a few blocks of products with random vectors."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.factor.range_finder import (
    Basis,
    adaptive_basis,
    check_request,
    fixed_basis,
    random_product,
)
from resolvent.info import Info
from resolvent.operators import Operator, as_operator
from resolvent.operators.arrays import give_back
from resolvent.operators.gradient import bilinear, first_order, records
from resolvent.random import GeneratorLike, as_generator, gaussian


def randomized_svd(
    A: Any,
    rank: int | None = None,
    *,
    rtol: float | None = None,
    oversample: int = 10,
    power: int | None = None,
    method: Literal["krylov", "power", "single_pass"] = "krylov",
    sketch: str = "gaussian",
    max_rank: int | None = None,
    generator: GeneratorLike = None,
    return_info: bool = False,
) -> tuple[Any, ...]:
    r"""A truncated singular value decomposition :math:`A \approx U\,\mathrm{diag}(s)\,V^H`, near the best of its rank.

    Parameters
    ----------
    A : (*batch, m, n) operator or anything `as_operator` takes; a batch needs `rank`
    rank : number of triplets, 1 to min(m, n)
    rtol : instead of `rank`: the bound on :math:`\|A - U S V^H\|_F / \|A\|_F`; as few triplets as the basis shows enough
    oversample : columns of the basis beyond `rank`
    power : products with A A^H; default 2 for `rank` (more than enough unless the spectrum is flat), 1 for `rtol`, 0 for
        "single_pass"
    method : "krylov" uses all blocks of the powers, "power" the last; "single_pass" takes one product with A and one with
        A^H that do not wait for each other, and is the least accurate. For `rtol` "krylov" means "power"
    sketch : the kind of the random vectors, as in `sketch.make_sketch`
    max_rank : for `rtol`, the most columns of the basis
    generator : randomness
    return_info : also return an `Info`

    Returns
    -------
    U : (*batch, m, rank), orthonormal columns
    s : (*batch, rank) real, descending
    Vh : (*batch, rank, n), orthonormal rows

    Raises
    ------
    ValueError : neither or both of `rank` and `rtol`, or values out of range, or NaN in a product
    ConvergenceError : `max_rank` columns do not reach `rtol`; `best` is (U, s, Vh)

    Notes
    -----
    An orthonormal basis Q of ``[A W, (A A^H) A W, ...]``, whose products ``A^H Q`` come on the way, then a small SVD: 2
    power + 2 products a column. The error of "krylov" is within 1 + eps of the best for power about log(n) / sqrt(eps),
    without a gap in the spectrum. Triplets to a residual: `spectra.svds`. Singular values have first-order gradients,
    exact up to the error of the triplets; the vectors have none, and say so.

    References
    ----------
    "Finding Structure with Randomness: Probabilistic Algorithms for Constructing Approximate Matrix Decompositions"
    "Randomized Block Krylov Methods for Stronger and Faster Approximate Singular Value Decomposition"

    Examples
    --------
    >>> U, s, Vh = randomized_svd(torch.diag(torch.tensor([1.0, 5.0, 3.0])), 2, generator=0)
    >>> s.round(decimals=4)
    tensor([5., 3.])
    """
    A = as_operator(A, name="A")
    check_request(A, rank, rtol, 0 if power is None else power, max_rank)
    if method not in ("krylov", "power", "single_pass"):
        raise ValueError(f"method must be 'krylov', 'power' or 'single_pass', got {method!r}")
    if isinstance(oversample, bool) or not isinstance(oversample, int) or oversample < 0:
        raise ValueError(f"oversample must be an int of at least 0, got {oversample!r}")
    if method == "single_pass" and (rank is None or power):
        raise ValueError("method 'single_pass' needs rank, and has no powers")
    source = as_generator(generator, A.device)
    if rank is not None:
        columns = min(rank + oversample, *A.shape[-2:])
        if method == "single_pass":
            U, s, Vh, matvecs = _single_pass(A, columns, sketch, source)
            info = Info(method, matvecs, 1)
        else:
            q = 2 if power is None else power
            # A basis of all of the range needs no powers.
            q = 0 if columns == min(A.shape[-2:]) else q
            found = fixed_basis(A, columns, q, method, sketch, source)
            U, s, Vh, matvecs = _triplets(A, found)
            info = Info(method, matvecs, q)
        U, s, Vh = U[..., :rank], s[..., :rank], Vh[..., :rank, :]
    else:
        rtol = float(rtol or 0)
        # The basis may take half of the error, and leaves the truncation sqrt(3)/2 of it.
        found = adaptive_basis(A, rtol / 2, 1 if power is None else power, sketch, source, max_rank)
        U, s, Vh, matvecs = _triplets(A, found)
        U, s, Vh, error = _truncated(U, s, Vh, found, rtol)
        info = Info("power", matvecs, found.steps, error, error <= rtol)
    U, s, Vh = give_back(_with_gradient(A, U, s, Vh), A.kind)
    if not info.converged:
        message = f"randomized_svd: error {info.error:.2g} with rank {s.shape[-1]}, asked for {rtol:.2g}"
        raise ConvergenceError(message, best=(U, s, Vh), error=info.error, info=info)
    return (U, s, Vh, info) if return_info else (U, s, Vh)


def _triplets(A: Operator, found: Basis) -> tuple[Tensor, Tensor, Tensor, int]:
    """The SVD of Q Q^H A."""
    with torch.no_grad():
        B, matvecs = found.coordinates(A.detach())
        right, s, left = torch.linalg.svd(B, full_matrices=False)
        return found.Q @ left.mH, s, right.mH, matvecs


def _single_pass(A: Operator, columns: int, kind: str, source: torch.Generator) -> tuple[Tensor, Tensor, Tensor, int]:
    """From Y = A W and Z = A^H P: A = Q (P^H Q)^+ Z^H with Q an orthonormal basis of Y."""
    with torch.no_grad():
        quiet, m = A.detach(), A.shape[-2]
        more = min(2 * columns + 1, m)
        Q = torch.linalg.qr(random_product(quiet, columns, kind, source)[0]).Q
        P = torch.linalg.qr(gaussian((m, more), A.dtype, A.device, source)).Q
        Z = quiet.H._matmul(P)
        basis, R = torch.linalg.qr(P.mH @ Q)
        core = torch.linalg.solve_triangular(R, basis.mH @ Z.mH, upper=True)
        left, s, Vh = torch.linalg.svd(core, full_matrices=False)
        return Q @ left, s, Vh, columns + more


def _truncated(U: Tensor, s: Tensor, Vh: Tensor, found: Basis, rtol: float) -> tuple[Tensor, Tensor, Tensor, float]:
    """The fewest triplets that keep the whole error within rtol, and that error."""
    allowed = (rtol * found.size) ** 2 - found.error**2
    tails = torch.cat([s.double().square().flip(-1).cumsum(-1).flip(-1), s.new_zeros(1).double()])
    fits = tails <= allowed
    # At least one triplet, also of a zero matrix; all of them if nothing fits.
    rank = max(1, int(fits.int().argmax())) if bool(fits.any()) else s.shape[-1]
    rank = min(rank, s.shape[-1])
    error = math.sqrt(float(tails[rank]) + found.error**2) / found.size if found.size else 0.0
    return U[:, :rank], s[:rank], Vh[:rank], error


def _with_gradient(A: Operator, U: Tensor, s: Tensor, Vh: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient of the singular values from one recorded product; vectors that refuse one."""
    if not records(A):
        return U, s, Vh
    V = Vh.mH
    product = A._matmul(V)
    values = first_order(s, bilinear(U, product).real)
    why = "randomized_svd has no gradient of the singular vectors; use spectra.svds"
    return Refusing.apply(U, product, why), values, Refusing.apply(Vh, product, why)


class Refusing(torch.autograd.Function):
    """Vectors that depend on A in a way that is not known: a gradient of them is an error, not a zero."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, source: Tensor, why: str) -> Tensor:
        ctx.why = why
        return vectors.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None, None]:
        raise RuntimeError(ctx.why)
