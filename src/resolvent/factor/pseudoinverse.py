"""Pseudoinverses: of a matrix, of a product by its factors, and of a large matrix of low rank by random products."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.factor.range_finder import check_request, frobenius, levelled, random_product, rounding
from resolvent.info import Info
from resolvent.operators import LowRank, Operator, as_operator
from resolvent.operators.arrays import as_tensor, check_finite, give_back, give_back_array
from resolvent.operators.gradient import records
from resolvent.operators.parts import common_tensors
from resolvent.random import GeneratorLike, as_generator, gaussian

_PROBES = 8


def pinv(
    A: Any,
    *,
    rtol: float | None = None,
    method: Literal["exact", "randomized"] = "exact",
    rank: int | None = None,
    oversample: int = 10,
    sketch: str = "gaussian",
    generator: GeneratorLike = None,
    return_info: bool = False,
) -> Any:
    r"""The Moore-Penrose pseudoinverse :math:`A^+`; for "randomized" :math:`(P^H A)^+ (P^H A Q) (A Q)^+`.

    Parameters
    ----------
    A : (*batch, m, n) tensor or array; for "randomized" also an operator or anything `as_operator` takes, (m, n)
    rtol : singular values up to this share of the largest count as zero; default max(m, n) eps for "exact", 100 times
        that for "randomized", whose singular values carry the rounding errors of two products
    method : "exact" by an SVD; "randomized" by s products with A and s with A^H, s = rank + oversample
    rank : for "randomized", the most that the result may have; None looks for the rank of A by doubling s
    oversample : columns of P and Q beyond `rank`
    sketch : the kind of P and Q, as in `sketch.make_sketch`
    generator : randomness of P and Q
    return_info : also return an `Info`, whose error is, for "randomized", a measure of |A - A A^+ A|_F / |A|_F by 8
        fresh probes

    Returns
    -------
    "exact" : (*batch, n, m), of the kind of A
    "randomized" : LowRank (n, m) with orthonormal factors, the rank found in its s; ``@ b`` is the least-squares
        solution of least norm

    Raises
    ------
    ValueError : arguments out of range, NaN
    ConvergenceError : `rank` is None and that of A is above about min(m, n) / 4, so that "exact" would cost less; or the
        probes find a part of A that the sketches have lost. `best` is the operator

    Notes
    -----
    The randomized formula is A^+ exactly if and only if P^H A and A Q have the rank of A, which s >= rank(A) gives with
    probability one: a singular value of zero among s of each tells that it is so. As (P^H A Q)(A Q)^+ is P^H times the
    projector on the range of A Q, only P^H A is inverted here, and no error is divided by a singular value twice. With
    a `rank` below that of A it is the pseudoinverse of a matrix near the best approximation. Gradients: "exact" has
    those of torch; "randomized" has none, and refuses an A that wants one.

    References
    ----------
    "The Pseudoinverse of A=CR is A^+=R^+C^+ (?)"

    Examples
    --------
    >>> pinv(torch.tensor([[2.0, 0.0], [0.0, 0.0], [0.0, 4.0]]))
    tensor([[0.5000, 0.0000, 0.0000],
            [0.0000, 0.0000, 0.2500]])
    >>> A = torch.outer(torch.tensor([1.0, 2.0, 2.0]), torch.ones(4))
    >>> pinv(A, method="randomized", rank=1, generator=0) @ torch.tensor([1.0, 2.0, 2.0])
    tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """
    if rtol is not None and not 0 <= rtol < 1:
        raise ValueError(f"rtol must be at least 0 and below 1, got {rtol}")
    if method not in ("exact", "randomized"):
        raise ValueError(f"method must be 'exact' or 'randomized', got {method!r}")
    if method == "exact":
        if rank is not None:
            raise ValueError("rank is for method 'randomized'; 'exact' takes rtol")
        op = as_operator(A, name="A")
        found = torch.linalg.pinv(op._dense(), rtol=rtol)
        exact = give_back_array(found, op.kind)
        return (exact, Info("svd", matvecs=min(op.shape[-2:]))) if return_info else exact
    op = as_operator(A, name="A")
    if records(op):
        raise ValueError("method 'randomized' has no gradient: detach A, or take 'exact'")
    if op.batch_shape:
        raise ValueError(f"method 'randomized' takes one matrix, A has shape {tuple(op.shape)}")
    if rank is not None:
        check_request(op, rank, None)
    if isinstance(oversample, bool) or not isinstance(oversample, int) or oversample < 1:
        raise ValueError(f"oversample must be an int of at least 1, got {oversample!r}")
    eps = 100 * max(op.shape) * rounding(op.dtype)
    with torch.no_grad():
        cut = eps if rtol is None else max(rtol, eps)
        source = as_generator(generator, op.device)
        inverse, info = _randomized(op.detach(), cut, rank, oversample, sketch, source)
    if not info.converged:
        message = (
            f"pinv: error {info.error:.2g} with rank {inverse.s.shape[-1]}: A has more singular values above "
            f"{cut:.2g} of the largest than pay for random products; give rank or rtol, or take method 'exact'"
        )
        raise ConvergenceError(message, best=inverse, error=info.error, info=info)
    return (inverse, info) if return_info else inverse


def _randomized(
    A: Operator, cut: float, rank: int | None, oversample: int, kind: str, source: torch.Generator
) -> tuple[LowRank, Info]:
    side = min(A.shape)
    columns = min((rank or 32) + oversample, side)
    matvecs, steps = 0, 0
    while True:
        inverse, whole = _from_sketches(A, columns, cut, rank, kind, source)
        matvecs, steps = matvecs + 2 * columns, steps + 1
        if rank is not None or whole or columns == side:
            break
        if 4 * columns > side:
            break
        columns *= 2
    inverse.kind = A.kind
    probes = gaussian((A.shape[1], _PROBES), A.dtype, A.device, source)
    seen = A._matmul(probes)
    rest = seen - A._matmul(inverse._matmul(seen))
    size = frobenius(seen)
    error = frobenius(rest) / size if size > 0 else 0.0
    # What is dropped as zero, and rounding errors, remain; a lost direction would be far larger.
    limit = max(cut, rounding(A.dtype)) * 10 * math.sqrt(side)
    # With a rank that is below that of A the error is the truncation that was asked for.
    converged = error <= limit if whole else rank is not None
    return inverse, Info("randomized", matvecs + 2 * _PROBES, steps, error, converged)


def _from_sketches(
    A: Operator, columns: int, cut: float, rank: int | None, kind: str, source: torch.Generator
) -> tuple[LowRank, bool]:
    """(P^H A)^+ P^H (A Q)(A Q)^+ in orthonormal factors, and whether the sketches have seen all of A."""
    m = A.shape[0]
    left, s1, _ = torch.linalg.svd(_finite(random_product(A, columns, kind, source)[0]), full_matrices=False)
    P = torch.linalg.qr(gaussian((m, columns), A.dtype, A.device, source)).Q
    right, s2, mixed = torch.linalg.svd(_finite(A.H._matmul(P)), full_matrices=False)
    ranks = [int((s > cut * s[0]).sum()) for s in (s1, s2)]
    whole = max(ranks) < columns or columns == min(A.shape)
    r = min(ranks) if rank is None else min(*ranks, rank)
    if r == 0:
        zero = A.shape[1], m
        return LowRank(s1.new_zeros(zero[0], 1).to(A.dtype), s1.new_zeros(1), s1.new_zeros(m, 1).to(A.dtype)), True
    # P^H A = mixed^H s2 right^H, so that its pseudoinverse is right (1 / s2) mixed; the projector is left left^H.
    core = (mixed[:r] @ (P.mH @ left[:, :r])) / s2[:r, None]
    X, t, Zh = torch.linalg.svd(core)
    return LowRank(right[:, :r] @ X, t, left[:, :r] @ Zh.mH), whole


def _finite(Y: Tensor) -> Tensor:
    if not bool(torch.isfinite(Y.abs().sum())):
        raise ValueError("A contains NaN or infinity, or its product overflows")
    return Y


def pinv_product(
    C: Any, R: Any, *, method: Literal["general", "reverse"] = "general", rtol: float | None = None
) -> Any:
    r"""The pseudoinverse of :math:`A = C R` by its factors: :math:`(C^+ C R)^+ (C R R^+)^+`, or :math:`R^+ C^+`.

    Parameters
    ----------
    C : (m, k)
    R : (k, n)
    method : "general" is right for all factors; "reverse" only if C has independent columns and R independent rows,
        and refuses others
    rtol : singular values up to this share of the largest, of C, of R and of what they make, count as zero; default
        10 max(m, k, n) eps

    Returns
    -------
    LowRank : (n, m), with orthonormal factors for "general"

    Raises
    ------
    ValueError : sizes that do not match, NaN, or factors without full rank for "reverse"

    Notes
    -----
    Thin SVDs of C and of R^H and two of size k: 6 (m + n) k^2 operations, and A is never formed. The general formula
    divides by the singular values of C V and of V^H R for orthonormal V, which are those of the two brackets. Gradients
    of factors of full rank, which the reverse order gives; others have none, and raise.

    References
    ----------
    "The Pseudoinverse of A=CR is A^+=R^+C^+ (?)"

    Examples
    --------
    The reverse order would give 1/2 here:

    >>> pinv_product(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0], [1.0]])).to_dense().round(decimals=4)
    tensor([[1.]])
    """
    (c, r), kind = common_tensors(C=C, R=R)
    if c.ndim != 2 or r.ndim != 2 or c.shape[1] != r.shape[0] or 0 in (*c.shape, *r.shape):
        raise ValueError(f"C and R must have shapes (m, k) and (k, n), got {tuple(c.shape)} and {tuple(r.shape)}")
    if method not in ("general", "reverse"):
        raise ValueError(f"method must be 'general' or 'reverse', got {method!r}")
    cut = 10 * max(*c.shape, *r.shape) * rounding(c.dtype) if rtol is None else rtol
    Uc, sc, Vc = _svd(c.detach(), cut)
    Ur, sr, Vr = _svd(r.detach(), cut)
    inner, k = Vc.mH @ Ur, c.shape[1]
    recorded = torch.is_grad_enabled() and (c.requires_grad or r.requires_grad)
    if (method == "reverse" or recorded) and min(len(sc), len(sr)) < k:
        which, rank = ("C has", len(sc)) if len(sc) < k else ("R has", len(sr))
        why = "method 'reverse' needs" if method == "reverse" else "a gradient needs"
        raise ValueError(f"{why} independent columns of C and rows of R, but {which} rank {rank} of {k}")
    if recorded:
        found = LowRank(torch.linalg.pinv(r), None, torch.linalg.pinv(c).mH)
    elif method == "reverse":
        core = (Ur.mH @ Vc) / (sr[:, None] * sc)
        found = LowRank(Vr, None, Uc @ core.mH)
    else:
        left, right = inner * sr, sc[:, None] * inner
        core = torch.linalg.pinv(left, rtol=cut) @ inner @ torch.linalg.pinv(right, rtol=cut)
        X, t, Zh = torch.linalg.svd(core, full_matrices=False)
        found = LowRank(Vr @ X, t, Uc @ Zh.mH)
    found.kind = kind
    return found


def _svd(t: Tensor, cut: float) -> tuple[Tensor, Tensor, Tensor]:
    """U, s, V of the rank to working precision (at least 1)."""
    U, s, Vh = torch.linalg.svd(t, full_matrices=False)
    r = max(int((s > cut * s[0]).sum()), 1)
    if not float(s[0]) > 0:
        return U[:, :1], torch.zeros_like(s[:1]), Vh[:1].mH
    return U[:, :r], s[:r], Vh[:r].mH


class ColumnRow(NamedTuple):
    """A = C R.

    Attributes
    ----------
    C : (m, r) the first independent columns of A
    R : (r, n) the nonzero rows of the reduced row echelon form
    columns : (r,) where the columns of C stand in A
    """

    C: Any
    R: Any
    columns: Any


def column_row(A: Any, *, rtol: float | None = None) -> ColumnRow:
    r"""The factorisation :math:`A = C R` of elimination: C the first independent columns, R the reduced row echelon form.

    Parameters
    ----------
    A : (m, n) tensor or array
    rtol : a column is dependent if its distance from the span of those before is up to this share of the largest
        column; default 10 max(m, n) eps

    Returns
    -------
    ColumnRow : (C, R, columns), of the kind of A; a zero matrix has r = 0

    Raises
    ------
    ValueError : A is not a finite matrix

    Notes
    -----
    Gram-Schmidt from left to right, twice, on the columns that are left after each independent one: 4 m n r operations.
    The rows come from a triangular solve with the orthonormal basis, not from elimination, so that they are as accurate
    as C is conditioned. Rank decisions from the left can be worse than those of pivoted QR or the SVD. Gradients of R hold
    the columns.

    References
    ----------
    "The Pseudoinverse of A=CR is A^+=R^+C^+ (?)"

    Examples
    --------
    >>> column_row(torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 3.0]])).R.round(decimals=4)
    tensor([[1., 2., 0.],
            [0., 0., 1.]])
    """
    t, kind = as_tensor(A, "A")
    if t.ndim != 2 or 0 in t.shape:
        raise ValueError(f"A must have shape (m, n), both at least 1, got {tuple(t.shape)}")
    check_finite(t, "A")
    cut = 10 * max(t.shape) * rounding(t.dtype) if rtol is None else rtol
    columns = _first_independent(levelled(t.detach()), cut)
    C = t[:, columns]
    Q, T = torch.linalg.qr(C)
    R = torch.linalg.solve_triangular(T, Q.mH @ t, upper=True)
    # What elimination leaves is exact by its definition: a row begins with its pivot, which is alone in its column.
    before = torch.arange(t.shape[1], device=t.device) < columns[:, None]
    R = R.masked_fill(before, 0)
    R[:, columns] = torch.eye(len(columns), dtype=t.dtype, device=t.device)
    return give_back(ColumnRow(C, R, columns), kind)


def _first_independent(A: Tensor, cut: float) -> Tensor:
    rest = A if A.shape[0] <= A.shape[1] else torch.linalg.qr(A).R
    found: list[int] = []
    basis, start = rest[:, :0], 0
    goal = cut * float(torch.linalg.vector_norm(A, dim=0).max())
    while start < A.shape[1] and len(found) < min(A.shape):
        free = torch.linalg.vector_norm(rest[:, start:], dim=0) > goal
        if not bool(free.any()):
            break
        start += int(free.int().argmax())
        found.append(start)
        q = rest[:, start : start + 1]
        q = q - basis @ (basis.mH @ q)
        q = q / torch.linalg.vector_norm(q)
        basis = torch.cat([basis, q], 1)
        rest = rest - q @ (q.mH @ rest)
        start += 1
    return torch.tensor(found, dtype=torch.long, device=A.device)
