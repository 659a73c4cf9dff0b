"""A matrix from some of its own columns, or rows: the interpolative decomposition."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.factor.range_finder import adaptive_basis, check_request, frobenius, random_product, rounding
from resolvent.operators import Dense, Operator, as_operator
from resolvent.operators.arrays import give_back
from resolvent.operators.gradient import records
from resolvent.random import GeneratorLike, as_generator, gaussian

# Entries up to which pivoting on all of them is as fast as on a sketch.
_SMALL = 100_000


class Interpolative(NamedTuple):
    """Chosen columns (or rows) and the coefficients that make all from them.

    Attributes
    ----------
    indices : (k,) integers
    coefficients : (k, n) with A ~ A[:, indices] coefficients, or (m, k) with A ~ coefficients A[indices]; the columns
        (rows) of the chosen are those of the identity
    """

    indices: Any
    coefficients: Any


def interpolative(
    A: Any,
    rank: int | None = None,
    *,
    rtol: float | None = None,
    axis: Literal["columns", "rows"] = "columns",
    method: Literal["auto", "exact", "sketched"] = "auto",
    sketch: str = "gaussian",
    generator: GeneratorLike = None,
) -> Interpolative:
    r"""An interpolative decomposition :math:`A \approx A_{:,J} T` with T near the identity.

    Parameters
    ----------
    A : (m, n) operator or anything `as_operator` takes
    rank : how many columns, 1 to min(m, n)
    rtol : instead of `rank`: the bound on :math:`\|A - A_{:,J}T\|_F / \|A\|_F`, as few columns as the pivots show enough
    axis : choose "columns", or "rows", which is A ~ T A[J]
    method : "exact" pivots on A itself; "sketched" on a few random combinations of its rows, which needs products
        only; "auto" takes "sketched" where that is much smaller than A
    sketch : the kind of the combinations, as in `sketch.make_sketch`
    generator : randomness

    Returns
    -------
    Interpolative : (indices, coefficients), of the kind of `A`, indices in the order in which they were chosen

    Raises
    ------
    ValueError : neither or both of `rank` and `rtol`, a batch, NaN
    ConvergenceError : all columns that are independent to working precision leave an error above `rtol`

    Notes
    -----
    Householder's QR with column pivoting of A, with T from its triangle; or of rank + 10 combinations of its rows, with
    T by least squares: two products a column. The error is usually within 2 of the best of its rank, and at worst within
    sqrt(1 + rank (n - rank)) 2^rank. What a sketch says of the error for `rtol` is checked by 16 fresh probes. Gradients
    of the coefficients take the columns as chosen, by least squares.

    References
    ----------
    "On the Compression of Low Rank Matrices"
    "A fast randomized algorithm for the approximation of matrices"

    Examples
    --------
    >>> A = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 1.0]])
    >>> found = interpolative(A, 2)
    >>> (A[:, found.indices] @ found.coefficients).round(decimals=4)
    tensor([[1., 2., 3.],
            [0., 0., 1.]])
    """
    A = as_operator(A, name="A")
    if axis not in ("columns", "rows"):
        raise ValueError(f"axis must be 'columns' or 'rows', got {axis!r}")
    if method not in ("auto", "exact", "sketched"):
        raise ValueError(f"method must be 'auto', 'exact' or 'sketched', got {method!r}")
    if A.batch_shape:
        raise ValueError(f"interpolative takes one matrix, A has shape {tuple(A.shape)}")
    check_request(A, rank, rtol)
    wide = A if axis == "columns" else A.H
    source = as_generator(generator, A.device)
    with torch.no_grad():
        quiet = wide.detach()
        Y, exact = pivot_rows(quiet, rank, rtol, method, sketch, source)
        indices, R = pivoted(Y, rank)
        if rank is not None:
            T = _coefficients(indices, R, rank)
            # The coefficients of a sketch are not those of least squares: for one product they can be.
            T = T if exact else _least_squares(quiet, indices[: len(T)])
        else:
            indices, T = _within(quiet, indices, R, float(rtol or 0), exact, source)
        indices = indices[: T.shape[0]]
    if records(A):
        T = _least_squares(wide, indices)
    return give_back(Interpolative(indices, T if axis == "columns" else T.mH), A.kind)


def pivot_rows(
    A: Operator, rank: int | None, rtol: float | None, method: str, kind: str, source: torch.Generator
) -> tuple[Tensor, bool]:
    """(l, n), whose columns depend on one another as those of A do: A itself (and True), or combinations of its rows."""
    m, n = A.shape[-2:]
    if rank is not None:
        columns = min(rank + 10, m)
        if method == "exact" or (method == "auto" and (4 * columns > m or m * n < _SMALL)):
            return _finite(A._dense()), True
        return _finite(random_product(A.H, columns, kind, source)[0].mH), False
    if method == "exact" or (method == "auto" and m * n < _SMALL):
        return _finite(A._dense()), True
    # A^H ~ Q Q^H A^H, so that the columns of A are nearly those of (A Q) Q^H, in an orthonormal basis R Q^H.
    found = adaptive_basis(A.H, float(rtol or 0) / 8, 0, kind, source)
    B, _ = found.coordinates(A.H)
    return torch.linalg.qr(B).R @ found.Q.mH, False


def _finite(Y: Tensor) -> Tensor:
    if not bool(torch.isfinite(Y.abs().sum())):
        raise ValueError("A contains NaN or infinity, or its product overflows")
    return Y


def pivoted(Y: Tensor, steps: int | None = None) -> tuple[Tensor, Tensor]:
    """The triangle R (k, n) of a QR factorisation with column pivoting, and the order of the columns."""
    most = min(Y.shape) if steps is None else min(steps, *Y.shape)
    if Y.device.type == "cpu":
        from scipy.linalg import qr

        R, order = qr(Y.resolve_conj().numpy(), mode="r", pivoting=True, check_finite=False)
        return torch.from_numpy(order).long(), torch.from_numpy(R[:most].copy())
    return _pivoted_by_steps(Y, most)


def _pivoted_by_steps(Y: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """The same by Gram-Schmidt with tensors only, for other devices."""
    n = Y.shape[1]
    rest, basis = Y.clone(), torch.zeros_like(Y[:, :steps])
    squares = rest.abs().square().sum(0)
    taken = torch.zeros(n, dtype=torch.bool, device=Y.device)
    order = torch.zeros(steps, dtype=torch.long, device=Y.device)
    tiny = torch.finfo(squares.dtype).tiny
    for j in range(steps):
        order[j] = squares.masked_fill(taken, -1.0).argmax()
        q = rest.index_select(1, order[j : j + 1])
        q = q - basis @ (basis.mH @ q)
        q = q / torch.linalg.vector_norm(q).clamp_min(tiny)
        basis[:, j] = q[:, 0]
        taken[order[j]] = True
        rest = rest - q @ (q.mH @ rest)
        squares = rest.abs().square().sum(0)
    others = (~taken).nonzero()[:, 0]
    order = torch.cat([order, others])
    return order, (basis.mH @ Y)[:, order].triu()


def _coefficients(order: Tensor, R: Tensor, rank: int) -> Tensor:
    """T (k, n) with A ~ A[:, order[:k]] T; what is zero to working precision in the triangle stays out of it."""
    diagonal = R.diagonal().abs()
    useful = int((diagonal > rounding(R.dtype) * diagonal[0]).sum()) if len(diagonal) else 0
    k = min(rank, max(useful, 1))
    T = torch.zeros(k, R.shape[1], dtype=R.dtype, device=R.device)
    T[:, order[:k]] = torch.eye(k, dtype=R.dtype, device=R.device)
    if useful:
        T[:, order[k:]] = torch.linalg.solve_triangular(R[:k, :k], R[:k, k:], upper=True)
    return T


def _within(
    A: Operator, order: Tensor, R: Tensor, rtol: float, exact: bool, source: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The fewest pivots whose error, measured where the pivots came from a sketch, is within rtol."""
    squares = R.abs().double().square()
    tails = torch.cat([squares.sum(1).flip(0).cumsum(0).flip(0), squares.new_zeros(1)]).sqrt()
    size = float(tails[0])
    error = 0.0
    for share in (1.0,) if exact else (0.48, 0.25, 0.1):
        rank = max(1, int((tails <= share * rtol * size).int().argmax()))
        T = _coefficients(order, R, rank)
        error = float(tails[len(T)]) / size if size else 0.0
        if not exact:
            probes = gaussian((A.shape[-1], 16), A.dtype, A.device, source)
            T = _least_squares(A, order[: len(T)])
            rest = frobenius(A._matmul(probes) - columns_of(A, order[: len(T)]) @ (T @ probes))
            error = 2 * rest / 4 / size if size else 0.0
        if error <= rtol:
            return order, T
    found = Interpolative(order[: len(T)], T)
    raise ConvergenceError(
        f"interpolative: error {error:.2g} with {len(T)} columns, asked for {rtol:.2g}", best=found, error=error
    )


def _least_squares(A: Operator, indices: Tensor) -> Tensor:
    """C^+ A with the chosen columns C, recorded if A is; the identity where they stand."""
    Q, R = torch.linalg.qr(columns_of(A, indices))
    T = torch.linalg.solve_triangular(R, A.H._matmul(Q).mH, upper=True)
    at = torch.zeros(T.shape[1], dtype=torch.bool, device=T.device)
    at[indices] = True
    one = torch.zeros_like(T)
    one[torch.arange(len(indices), device=T.device), indices] = 1
    return torch.where(at, one, T)


def columns_of(A: Operator, indices: Tensor) -> Tensor:
    """A[:, indices], without a look at the other columns where they are stored."""
    if isinstance(A, Dense):
        return A.data.index_select(-1, indices)
    return A._entries(torch.arange(A.shape[-2], device=A.device), indices)
