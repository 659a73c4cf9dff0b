"""The product of two sparse matrices, kept sparse: all of it, or only the entries wanted, in any of six semirings.

>>> import scipy.sparse as sp
>>> from resolvent import factor
>>> A = sp.csr_array([[0.0, 2.0], [1.0, 0.0]])
>>> factor.spgemm(A, A).toarray().tolist()
[[2.0, 0.0], [0.0, 2.0]]
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from resolvent.factor.spgemm_rows import (
    SEMIRINGS,
    by_rows,
    count_flops,
    expanded,
    full_pattern,
    masked,
    rising,
)
from resolvent.info import Info
from resolvent.operators.operator import Operator
from resolvent.operators.pattern import Pattern, row_pointers
from resolvent.operators.sparse import Sparse

Semiring = Literal["plus_times", "min_plus", "max_plus", "max_times", "max_min", "or_and"]
Method = Literal["auto", "hash", "dense_accumulator", "outer", "inner"]

_METHODS = ("auto", "hash", "dense_accumulator", "outer", "inner")
# Pairs of a row and a column that the inner product tries without a mask.
_PAIRS = 10_000_000


@dataclass(frozen=True)
class ProductInfo(Info):
    """What a sparse product did.

    Attributes
    ----------
    flops : products of two entries that were added up
    nnz : entries of the result
    intermediate_bytes : memory beside the operands and the result: tables of the threads, or all partial products
    reads : entries of A and B that were read, again and again where the method reads them so
    thread_flops : products done by each thread; empty where torch divides the work
    """

    flops: int = 0
    nnz: int = 0
    intermediate_bytes: int = 0
    reads: int = 0
    thread_flops: tuple[int, ...] = ()


def spgemm(
    A: Any,
    B: Any,
    *,
    mask: Any = None,
    semiring: Semiring = "plus_times",
    method: Method = "auto",
    return_info: bool = False,
) -> Any:
    r"""The product of two sparse matrices, :math:`C_{ij} = \bigoplus_k A_{ik} \otimes B_{kj}`, as a sparse matrix.

    Parameters
    ----------
    A, B : (m, k) and (k, n) sparse matrices: SciPy's, torch's (COO, CSR, CSC) or `Sparse` operators
    mask : (m, n) sparse matrix whose stored entries are the only ones wanted; its values do not count
    semiring : "plus_times", the usual product; "min_plus" (shortest paths), "max_plus", "max_times", "max_min"
        (widest paths) or "or_and" (reachability: ones where some a_ik and b_kj are not zero). An entry that is not
        stored takes no part.
    method : "auto" takes "dense_accumulator", one place per column, for rows of the result that are at least a 64th
        full or lie close together, and "hash" for others; with a mask it takes "dense_accumulator" or "inner", the
        cheaper by count. "outer" (all partial products, then merged) and "inner" (row by column) are baselines.
    return_info : also return a `ProductInfo`

    Returns
    -------
    (m, n) sparse matrix in the dtype that A and B promote to, columns sorted: an Operator if one of A and B is, else
    a torch CSR tensor if one of them is a tensor, else SciPy's. Its entries are those that something was added up for,
    zero or not.

    Raises
    ------
    ValueError : shapes that do not fit, an unknown `semiring` or `method`, complex numbers that would have to be
        ordered, a gradient wanted in a semiring other than "plus_times".
    TypeError : A, B or `mask` is not sparse.

    Notes
    -----
    Row i of C gathers the rows of B that row i of A names, in a table of its own: nothing but the result is stored.
    Rows are grouped into windows by their counted products, the windows dealt to the threads, largest first; a
    symbolic phase counts the entries, a numeric phase fills them. One thread needs no windows, and counts only where
    more than 4 products meet in an entry: else it takes room for all of them and touches what it fills. Bound by the
    latency of memory, so rows of B are fetched ahead. Gradients of every order flow to the values of A and B: they
    are masked products. On a GPU torch expands and merges the partial products.

    References
    ----------
    "SMASH: Sparse Matrix Atomic Scratchpad Hashing"
    "Two Fast Algorithms for Sparse Matrices: Multiplication and Permuted Transposition"

    Examples
    --------
    >>> import torch
    >>> path = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]).to_sparse()
    >>> spgemm(path, path, semiring="min_plus").to_dense()
    tensor([[0., 0., 2.],
            [0., 0., 0.],
            [0., 0., 0.]])
    """
    if semiring not in SEMIRINGS:
        raise ValueError(f"semiring must be one of {', '.join(SEMIRINGS)}, got {semiring!r}")
    if method not in _METHODS:
        raise ValueError(f"method must be one of {', '.join(_METHODS)}, got {method!r}")
    left = _sparse(A, "A")
    right = left if B is A else _sparse(B, "B")
    if left.shape[1] != right.shape[0]:
        raise ValueError(f"B must have {left.shape[1]} rows, as many as A has columns, got shape {tuple(right.shape)}")
    if left.device != right.device:
        raise ValueError(f"A and B must be on one device, got {left.device} and {right.device}")
    dtype = torch.promote_types(left.dtype, right.dtype)
    X, x = _canonical(left, dtype)
    Y, y = (X, x) if right is left else _canonical(right, dtype)
    M = None
    if mask is not None:
        wanted = _sparse(mask, "mask")
        if tuple(wanted.shape) != (left.shape[0], right.shape[1]):
            raise ValueError(f"mask must have shape {(left.shape[0], right.shape[1])}, got {tuple(wanted.shape)}")
        M, _ = _canonical(wanted.to(x.device), dtype)
    ring = SEMIRINGS.index(semiring)
    _check_ring(semiring, x, y)
    if method == "hash" and M is not None:
        raise ValueError("method 'hash' takes no mask; leave method 'auto'")
    C, c, info = _multiply(X, x, Y, y, M, ring, method)
    result = _given_back(C, c, A, B)
    return (result, info) if return_info else result


def _check_ring(semiring: str, x: Tensor, y: Tensor) -> None:
    if semiring == "plus_times":
        return
    if x.is_complex() and semiring != "or_and":
        raise ValueError(f"semiring {semiring!r} orders numbers, and A or B is complex")
    if torch.is_grad_enabled() and (x.requires_grad or y.requires_grad):
        raise ValueError(f"semiring {semiring!r} has no gradient: detach A and B")


def _sparse(a: Any, name: str) -> Sparse:
    if isinstance(a, Sparse):
        return a
    if isinstance(a, Operator):
        if hasattr(a, "to_sparse"):
            return a.to_sparse()
        raise TypeError(f"{name} must be a sparse matrix, got the operator {a!r}")
    try:
        return Sparse(a)
    except TypeError as error:
        raise TypeError(str(error).replace("a must", f"{name} must", 1)) from None
    except ValueError as error:
        raise ValueError(str(error).replace("a ", f"{name} ", 1)) from None


def _canonical(A: Any, dtype: torch.dtype) -> tuple[Pattern, Tensor]:
    """The entries with sorted columns, each once."""
    pattern, values = A._pattern, A.values.to(dtype)
    if rising(pattern):
        return pattern, values
    m, n = pattern.shape
    places, back = torch.unique(pattern.rows * n + pattern.indices, return_inverse=True)
    values = values.new_zeros(len(places)).index_add(0, back, values)
    counts = torch.bincount(places // n, minlength=m)
    return Pattern(row_pointers(counts), places % n, (m, n)), values


def _multiply(
    X: Pattern, x: Tensor, Y: Pattern, y: Tensor, M: Pattern | None, ring: int, method: str
) -> tuple[Pattern, Tensor, ProductInfo]:
    """Pattern and values of the product, and what was done."""
    flops, a, b = 0, x.detach(), y.detach()
    if method == "inner" and M is None:
        if X.shape[0] * Y.shape[1] > _PAIRS:
            raise ValueError(f"method 'inner' without a mask tries all m n pairs, at most {_PAIRS}; give a mask")
        M = full_pattern((X.shape[0], Y.shape[1]), a.device)
    partial = 0
    hit: Tensor | None = None
    threads: tuple[int, ...] = ()
    if method == "outer" or a.device.type != "cpu":
        method = "outer"
        C, c, partial = expanded(X, a, Y, b, M, ring)
        reads = len(a) + len(b)
    elif M is None:
        C, c, partial, threads, method = by_rows(X, a, Y, b, method)
        flops = sum(threads)
        reads = len(a) + flops
        if ring:
            # The pattern is that of the usual product; what is gathered there is not.
            c, hit, partial, reads, _ = masked(X, a, Y, b, C, ring, "dense_accumulator")
            hit = None
    else:
        C = M
        c, hit, partial, reads, method = masked(X, a, Y, b, C, ring, method)
    if not ring and torch.is_grad_enabled() and (x.requires_grad or y.requires_grad):
        c = _Product.apply(x, y, X, Y, C, c)
    if hit is not None and not bool(hit.all()):
        rows = C.rows[hit]
        C = Pattern(row_pointers(torch.bincount(rows, minlength=C.shape[0])), C.indices[hit], C.shape)
        c = c[hit]
    info = ProductInfo(
        method, flops=flops or count_flops(X, Y), nnz=len(c), intermediate_bytes=partial, reads=reads, thread_flops=threads
    )  # fmt: skip
    return C, c, info


class _Product(torch.autograd.Function):
    """The values of X Y at the entries of M. Its derivatives are such products again, to every order."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, X: Pattern, Y: Pattern, M: Pattern, known: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, y)
        ctx.patterns = X, Y, M
        return _values(X, x, Y, y, M) if known is None else known

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, y = ctx.saved_tensors
        X, Y, M = ctx.patterns
        grad_x = grad_y = None
        if ctx.needs_input_grad[0]:
            T, order = _transposed(Y)
            grad_x = _Product.apply(grad, y[order].conj(), M, T, X, None)
        if ctx.needs_input_grad[1]:
            T, order = _transposed(X)
            grad_y = _Product.apply(x[order].conj(), grad, T, M, Y, None)
        return grad_x, grad_y, None, None, None, None


def _values(X: Pattern, x: Tensor, Y: Pattern, y: Tensor, M: Pattern) -> Tensor:
    x, y = x.detach().resolve_conj(), y.detach().resolve_conj()
    if x.device.type == "cpu":
        return masked(X, x, Y, y, M, 0, "auto")[0]
    C, c, _ = expanded(X, x, Y, y, M, 0)
    # Of the mask, those entries are left that something was added up for: the others are zero.
    n = M.shape[1]
    places = torch.searchsorted(M.rows * n + M.indices, C.rows * n + C.indices)
    return c.new_zeros(len(M.indices)).index_copy(0, places, c)


def _transposed(A: Pattern) -> tuple[Pattern, Tensor]:
    indptr, indices, order = A._transposed
    return Pattern(indptr, indices, (A.shape[1], A.shape[0])), order


def _given_back(C: Pattern, c: Tensor, A: Any, B: Any) -> Any:
    if isinstance(A, Operator) or isinstance(B, Operator):
        out = Sparse((C.indptr, C.indices, c, C.shape))
        if all(getattr(side, "kind", "numpy") == "numpy" and not isinstance(side, Tensor) for side in (A, B)):
            out.kind = "numpy"
        return out
    if isinstance(A, Tensor) or isinstance(B, Tensor):
        return torch.sparse_csr_tensor(C.indptr.long(), C.indices.long(), c, C.shape, check_invariants=False)
    scipy_sparse = sys.modules["scipy.sparse"]
    kind = scipy_sparse.csr_array
    if isinstance(A, scipy_sparse.spmatrix) and isinstance(B, scipy_sparse.spmatrix):
        kind = scipy_sparse.csr_matrix
    out = kind((c.detach().numpy(), C.indices.numpy(), C.indptr.numpy()), shape=C.shape)
    out.has_canonical_format = True
    return out
