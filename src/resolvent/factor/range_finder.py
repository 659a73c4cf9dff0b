"""An orthonormal basis of nearly the range of an operator, from a few products with random vectors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.info import Info
from resolvent.operators import Dense, Diagonal, LowRank, Operator, Sparse, as_operator
from resolvent.operators.arrays import give_back_array, real_dtype
from resolvent.random import GeneratorLike, as_generator, gaussian

Method = Literal["power", "krylov"]

# The columns that an adaptive basis starts with, and the share by which it grows.
_BLOCK = 32
_GROWTH = 2
# The mean square of 16 Gaussian probes is below a quarter of its expectation once in a thousand times; more of them,
# or a residual with more than one direction, stray less: 2 bounds the error with that probability or more.
_SAFETY = 2.0


@dataclass
class Basis:
    """Orthonormal columns Q (*batch, m, c), coordinates B = A^H Q (*batch, n, c), products and the residual.

    `error` bounds, with probability 0.999, the Frobenius norm of A - Q Q^H A, and `size` is that of A, both where the
    basis is adaptive.
    """

    Q: Tensor
    B: Tensor | None
    matvecs: int
    steps: int = 0
    error: float = math.nan
    size: float = math.nan

    def coordinates(self, A: Operator) -> tuple[Tensor, int]:
        """A^H Q and the products that were needed in all."""
        if self.B is not None:
            return self.B, self.matvecs
        return A.H._matmul(self.Q), self.matvecs + self.Q.shape[-1]


def range_finder(
    A: Any,
    rank: int | None = None,
    *,
    rtol: float | None = None,
    power: int = 1,
    method: Method = "power",
    sketch: str = "gaussian",
    max_rank: int | None = None,
    generator: GeneratorLike = None,
    return_info: bool = False,
) -> Any:
    r"""Orthonormal columns Q with :math:`Q Q^H A \approx A`.

    Parameters
    ----------
    A : (*batch, m, n) operator or anything `as_operator` takes; a batch needs `rank`
    rank : number of columns, 1 to min(m, n)
    rtol : instead of `rank`: the bound on :math:`\|A - Q Q^H A\|_F / \|A\|_F`; as many columns as it takes
    power : how often A A^H is applied; each costs two products a column and sharpens the basis
    method : "power" keeps the last block, :math:`(A A^H)^q A \Omega`; "krylov" keeps all of them, so that the basis has up
        to ``(power + 1) rank`` columns and is far better for the same products. For `rtol` only "power"
    sketch : the kind of the random vectors, as in `sketch.make_sketch`
    max_rank : for `rtol`, the most columns; default min(m, n)
    generator : randomness
    return_info : also return an `Info`

    Returns
    -------
    (*batch, m, c) orthonormal columns, NumPy where `A` is

    Raises
    ------
    ValueError : neither or both of `rank` and `rtol`, or values out of range, or NaN in a product
    ConvergenceError : `max_rank` columns do not reach `rtol`; `best` is the basis

    Notes
    -----
    Products with a block of random vectors, made orthonormal after each. For `rtol`, each new block, before its powers,
    measures the error of the columns so far without bias; twice that bounds it with probability 0.999. Cost: (2 power +
    1) products a column. No gradient: the result has none.

    References
    ----------
    "Finding Structure with Randomness: Probabilistic Algorithms for Constructing Approximate Matrix Decompositions"

    Examples
    --------
    >>> A = torch.outer(torch.tensor([3.0, 4.0]), torch.ones(5))
    >>> range_finder(A, 1, generator=0).abs()
    tensor([[0.6000],
            [0.8000]])
    """
    A = as_operator(A, name="A")
    check_request(A, rank, rtol, power, max_rank)
    if method not in ("power", "krylov"):
        raise ValueError(f"method must be 'power' or 'krylov', got {method!r}")
    source = as_generator(generator, A.device)
    if rank is not None:
        found = fixed_basis(A, rank, power, method, sketch, source)
        info = Info(method, found.matvecs, power)
    else:
        if method == "krylov":
            raise ValueError("method 'krylov' needs rank; rtol is for method 'power'")
        rtol = float(rtol or 0)
        found = adaptive_basis(A, rtol, power, sketch, source, max_rank)
        error = found.error / found.size if found.size else 0.0
        info = Info(method, found.matvecs, found.steps, error, error <= rtol)
        if not info.converged:
            message = f"range_finder: error {error:.2g} with {found.Q.shape[-1]} columns, asked for {rtol:.2g}"
            raise ConvergenceError(message, best=give_back_array(found.Q, A.kind), error=error, info=info)
    Q = give_back_array(found.Q, A.kind)
    return (Q, info) if return_info else Q


def check_request(
    A: Operator, rank: int | None, rtol: float | None, power: int = 0, max_rank: int | None = None
) -> None:
    """Refuse a request that is not exactly one of a rank and a tolerance."""
    side = min(A.shape[-2:])
    if (rank is None) == (rtol is None):
        raise ValueError(f"give exactly one of rank and rtol, got rank={rank}, rtol={rtol}")
    for name, value in (("rank", rank), ("max_rank", max_rank)):
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name} must be an int, got {type(value).__name__}")
        if not 1 <= value <= side:
            raise ValueError(f"{name} must be between 1 and {side}, the smaller side of A, got {value}")
    if rtol is not None and not 0 < rtol < 1:
        raise ValueError(f"rtol must be between 0 and 1, got {rtol}")
    if rtol is not None and A.batch_shape:
        raise ValueError(f"rtol takes one matrix, A has shape {tuple(A.shape)}; give rank for a batch")
    if isinstance(power, bool) or not isinstance(power, int) or power < 0:
        raise ValueError(f"power must be an int of at least 0, got {power!r}")


def orthonormal(Y: Tensor) -> Tensor:
    """Orthonormal columns with the span of Y (..., m, c), m >= c, without a gradient.

    Two Cholesky factorisations of Gram matrices, which are products, where Y is conditioned well enough for them to be
    as accurate as Householder's QR; that otherwise.
    """
    # The Gram matrix has squares: of entries near one they stay in the range of the dtype.
    Y = levelled(Y)
    tall = Y.shape[-2] >= 4 * Y.shape[-1] and Y.shape[-1] > 1
    Q = _by_cholesky(Y) if tall else None
    return torch.linalg.qr(Y).Q if Q is None else Q


def _by_cholesky(Y: Tensor) -> Tensor | None:
    root, failed = torch.linalg.cholesky_ex(Y.mH @ Y)
    pivots = root.diagonal(dim1=-2, dim2=-1).real
    eps = torch.finfo(Y.dtype).eps
    # The square of the condition has to be far from 1/eps for the second factorisation to mend the first.
    good = (failed == 0).all() & (pivots.amin(-1) > 30 * math.sqrt(eps) * pivots.amax(-1)).all()
    if not bool(good):
        return None
    Q = torch.linalg.solve_triangular(root.mH, Y, upper=True, left=False)
    gram = Q.mH @ Q
    off = (gram - torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)).abs().sum(-1).amax()
    root, failed = torch.linalg.cholesky_ex(gram)
    if not bool((off < 0.1) & (failed == 0).all()):
        return None
    return torch.linalg.solve_triangular(root.mH, Q, upper=True, left=False)


def random_product(A: Operator, columns: int, kind: str, source: torch.Generator) -> tuple[Tensor, Tensor | None]:
    """A times random columns, and the columns where they are at hand; ``E |omega|^2`` is the same for all kinds."""
    n = A.shape[-1]
    if kind == "gaussian":
        omega = gaussian((n, columns), A.dtype, A.device, source)
        return A._matmul(omega), omega
    from resolvent.sketch import make_sketch

    S = make_sketch(kind, columns, n, generator=source, dtype=A.dtype, device=A.device)
    if isinstance(A, Dense):
        return S._matmul(A.data.mH).mH * math.sqrt(columns), None
    omega = S.H._dense() * math.sqrt(columns)
    return A._matmul(omega), omega


def _finite(Y: Tensor) -> Tensor:
    if not bool(torch.isfinite(Y.abs().sum())):
        raise ValueError("A contains NaN or infinity, or its product overflows")
    return Y


def fixed_basis(A: Operator, columns: int, power: int, method: Method, kind: str, source: torch.Generator) -> Basis:
    """A basis of `columns` columns, or of (power + 1) times as many for "krylov", with B where it came on the way."""
    with torch.no_grad():
        A = A.detach()
        m = A.shape[-2]
        Q = orthonormal(_finite(random_product(A, columns, kind, source)[0]))
        if method == "power":
            for _ in range(power):
                Q = orthonormal(A._matmul(orthonormal(A.H._matmul(Q))))
            return Basis(Q, None, (2 * power + 1) * columns)
        blocks, coordinates = [Q], []
        matvecs = columns
        for _ in range(power):
            width = min(columns, m - sum(block.shape[-1] for block in blocks))
            if width <= 0:
                break
            coordinates.append(A.H._matmul(blocks[-1]))
            Y = A._matmul(levelled(coordinates[-1]))
            matvecs += 2 * columns
            blocks.append(_new_columns(Y, torch.cat(blocks, -1), width))
        coordinates.append(A.H._matmul(blocks[-1]))
        matvecs += blocks[-1].shape[-1]
        return Basis(torch.cat(blocks, -1), torch.cat(coordinates, -1), matvecs)


def _new_columns(Y: Tensor, basis: Tensor, width: int) -> Tensor:
    """`width` orthonormal columns orthogonal to the basis that hold what is new in Y."""
    Y = levelled(Y)
    Y = Y / torch.linalg.vector_norm(Y, dim=-2, keepdim=True).clamp_min(torch.finfo(Y.real.dtype).tiny)
    for _ in range(2):
        Y = Y - basis @ (basis.mH @ Y)
    Y = orthonormal(Y)[..., :width]
    # What was rounding error of the basis has become a direction of its own: one more projection.
    Y = Y - basis @ (basis.mH @ Y)
    return torch.linalg.qr(Y).Q if Y.shape[-2] < 4 * Y.shape[-1] else orthonormal(Y)


def frobenius_norm(A: Operator) -> float | None:
    """The norm where it costs no products, else None."""
    from resolvent.spectra.entrywise import entry_norm

    if isinstance(A, Dense | Sparse | LowRank | Diagonal) and not A.batch_shape:
        return float(entry_norm(A, 2))
    return None


def adaptive_basis(
    A: Operator, rtol: float, power: int, kind: str, source: torch.Generator, max_rank: int | None = None
) -> Basis:
    """A basis that grows until a fresh block of probes says that what is left is small."""
    side = min(A.shape[-2:])
    limit = side if max_rank is None else max_rank
    with torch.no_grad():
        A = A.detach()
        known = frobenius_norm(A)
        Q = torch.zeros(A.shape[-2], 0, dtype=A.dtype, device=A.device)
        B = torch.zeros(A.shape[-1], 0, dtype=A.dtype, device=A.device)
        squares, probes, steps, matvecs = 0.0, 0, 0, 0
        while True:
            width = max(_BLOCK, Q.shape[-1] // _GROWTH)
            Y, _ = random_product(A, width, kind, source)
            matvecs, probes, steps = matvecs + width, probes + width, steps + 1
            squares += frobenius(_finite(Y)) ** 2
            size = math.sqrt(squares / probes) if known is None else known
            for _ in range(2):
                Y = Y - Q @ (Q.mH @ Y)
            error = _SAFETY * frobenius(Y) / math.sqrt(width)
            if known is not None:
                # What is left of the norm is exact but for the rounding errors of the difference.
                left = max(known**2 - frobenius(B) ** 2, 0.0)
                error = min(error, math.sqrt(left + 100 * rounding(A.dtype) * known**2))
            width = min(width, limit - Q.shape[-1])
            if error <= rtol * size or width == 0:
                if not Q.shape[-1]:
                    Q = torch.eye(A.shape[-2], 1, dtype=A.dtype, device=A.device)
                    B = A.H._matmul(Q)
                return Basis(Q, B, matvecs, steps, error, size)
            Y = orthonormal(Y)[:, :width]
            for _ in range(power):
                Y = orthonormal(A._matmul(orthonormal(A.H._matmul(Y))))
                matvecs += 2 * width
            Y = _new_columns(Y, Q, width) if steps > 1 else Y
            Q, B = torch.cat([Q, Y], -1), torch.cat([B, A.H._matmul(Y)], -1)
            matvecs += width


def frobenius(t: Tensor) -> float:
    """The root of the sum of all squares, in double precision: squares of single numbers overflow beyond 1e19."""
    return float(torch.linalg.vector_norm(t.detach(), dtype=torch.complex128 if t.is_complex() else torch.float64))


def levelled(Y: Tensor) -> Tensor:
    """Matrices (..., m, n) divided by the size of their largest entry; zeros stay."""
    if not Y.numel():
        return Y
    largest = Y.detach().abs().amax((-2, -1), keepdim=True)
    return Y / torch.where(largest > 0, largest, 1)


def rounding(dtype: torch.dtype) -> float:
    """The unit of rounding errors of a dtype."""
    return float(torch.finfo(real_dtype(dtype)).eps)
