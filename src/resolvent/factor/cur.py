"""A matrix from some of its own columns and some of its own rows: CUR."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from resolvent.factor.interpolative import columns_of, pivot_rows, pivoted
from resolvent.factor.range_finder import check_request, rounding
from resolvent.operators import LowRank, Operator, as_operator, lu
from resolvent.operators.arrays import give_back
from resolvent.random import GeneratorLike, as_generator


class CUR(NamedTuple):
    """A ~ C U R.

    Attributes
    ----------
    C : (m, k) the chosen columns
    U : (k, k) the core
    R : (k, n) the chosen rows
    rows, columns : (k,) their indices
    """

    C: Any
    U: Any
    R: Any
    rows: Any
    columns: Any

    def operator(self) -> LowRank:
        """C U R as an operator."""
        from resolvent.operators.arrays import as_tensor

        (C, kind), (U, _), (R, _) = as_tensor(self.C, "C"), as_tensor(self.U, "U"), as_tensor(self.R, "R")
        found = LowRank(C @ U, None, R.mH)
        found.kind = kind
        return found


def cur(
    A: Any,
    rank: int,
    *,
    method: Literal["pivoted", "deim", "leverage"] = "pivoted",
    core: Literal["best", "cross"] = "best",
    sketch: str = "gaussian",
    generator: GeneratorLike = None,
) -> CUR:
    r"""A CUR decomposition :math:`A \approx C U R` with actual columns C and rows R of A.

    Parameters
    ----------
    A : (m, n) operator or anything `as_operator` takes
    rank : how many columns and rows, 1 to min(m, n)
    method : "pivoted" takes the columns by QR with pivoting of a sketch and the rows by pivoting on those columns;
        "deim" interpolates the singular vectors of a randomized SVD; "leverage" draws columns and rows by the leverage
        scores of those vectors, without replacement
    core : "best" is :math:`C^+ A R^+`, the least error for C and R, and one more product with all rows of C^+;
        "cross" is the pseudoinverse of the entries where they cross, which reads nothing else of A
    sketch : the kind of the sketch, as in `sketch.make_sketch`
    generator : randomness

    Returns
    -------
    CUR : (C, U, R, rows, columns), of the kind of A

    Raises
    ------
    ValueError : arguments out of range, a batch, NaN

    Notes
    -----
    Singular values below rounding errors are left out of the pseudoinverses. C and R of sparse matrices are dense blocks
    here. The error of "pivoted" with the best core is usually within 2 of the best of its rank. Gradients flow through
    the entries with rows and columns held.

    References
    ----------
    "CUR matrix decompositions for improved data analysis"
    "A DEIM Induced CUR Factorization"
    "Simpler is better: A comparative study of randomized pivoting algorithms for CUR and interpolative decompositions"

    Examples
    --------
    >>> A = torch.outer(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 3.0]))
    >>> found = cur(A, 1)
    >>> found.columns, (found.C @ found.U @ found.R).round(decimals=4)
    (tensor([1]), tensor([[1., 3.],
            [2., 6.]]))
    """
    A = as_operator(A, name="A")
    check_request(A, rank, None)
    if A.batch_shape:
        raise ValueError(f"cur takes one matrix, A has shape {tuple(A.shape)}")
    if method not in ("pivoted", "deim", "leverage"):
        raise ValueError(f"method must be 'pivoted', 'deim' or 'leverage', got {method!r}")
    if core not in ("best", "cross"):
        raise ValueError(f"core must be 'best' or 'cross', got {core!r}")
    source = as_generator(generator, A.device)
    with torch.no_grad():
        rows, columns = _chosen(A.detach(), rank, method, sketch, source)
    C, R = columns_of(A, columns), columns_of(A.H, rows).mH
    U = cross_pinv(C[rows]) if core == "cross" else _best_core(A, C, R)
    return give_back(CUR(C, U, R, rows, columns), A.kind)


def _chosen(A: Operator, rank: int, method: str, kind: str, source: torch.Generator) -> tuple[Tensor, Tensor]:
    if method == "pivoted":
        Y, _ = pivot_rows(A, rank, None, "auto", kind, source)
        columns = pivoted(Y, rank)[0][:rank]
        C = columns_of(A, columns)
        return pivoted(C.mH, rank)[0][:rank], columns
    from resolvent.factor.randomized import randomized_svd

    A.kind = "torch"
    U, _, Vh = randomized_svd(A, rank, sketch=kind, generator=source)
    if method == "deim":
        return deim(U), deim(Vh.mH)
    return tuple(  # type: ignore[return-value]
        torch.multinomial(W.abs().square().sum(1).double(), rank, generator=source) for W in (U, Vh.mH)
    )


def deim(U: Tensor) -> Tensor:
    """Rows (k,) where the columns of U (n, k) can be interpolated: LU with row pivoting."""
    _, pivots = lu.lu_factor(U)
    order = torch.arange(len(U), device=U.device)
    for i, j in enumerate(pivots.tolist()):
        order[[i, j - 1]] = order[[j - 1, i]]
    return order[: U.shape[1]]


def cross_pinv(X: Tensor) -> Tensor:
    """The pseudoinverse without singular values that are rounding errors."""
    return torch.linalg.pinv(X, rtol=10 * max(X.shape) * rounding(X.dtype))


def _best_core(A: Operator, C: Tensor, R: Tensor) -> Tensor:
    """C^+ A R^+ by orthonormal bases: A is multiplied with one of them."""
    Q, _ = torch.linalg.qr(C)
    P, _ = torch.linalg.qr(R.mH)
    return cross_pinv(Q.mH @ C) @ (Q.mH @ A._matmul(P)) @ cross_pinv(R @ P)
