"""Nonnegative matrix factorisation: parts that only add up.

>>> import torch
>>> from resolvent import factor
>>> A = torch.tensor([[1.0, 2.0, 0.0], [2.0, 4.0, 0.0], [0.0, 0.0, 3.0]]).double()
>>> W, H = factor.nmf(A, 2, rtol=1e-8)
>>> bool(torch.dist(A, W @ H) < 1e-6)
True
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.info import Info
from resolvent.operators import Dense, Operator, Sparse, as_operator
from resolvent.operators.arrays import as_tensor, check_finite, give_back
from resolvent.operators.gradient import records
from resolvent.operators.magnitude import power_of_two
from resolvent.operators.threads import one_thread
from resolvent.random import GeneratorLike, as_generator

# Where coordinates are cheap beside the product with A, a row is swept again while it still moves (Gillis and Glineur).
_SWEEPS, _SLOW = 10, 0.1
# Multiplications of a product with A below which a second thread costs more than it gives.
_SMALL = 2_000_000


class NMF(NamedTuple):
    """Of :func:`nmf`: ``A ~ W H`` with nonnegative entries, the columns of W as long as the rows of H.

    Attributes
    ----------
    W : (m, r)
    H : (r, n)
    """

    W: Any
    H: Any


def nmf(
    A: Any,
    rank: int,
    *,
    method: Literal["hals", "multiplicative"] = "hals",
    init: Literal["svd", "random"] | tuple[Any, Any] = "svd",
    rtol: float = 1e-3,
    max_iter: int = 5000,
    generator: GeneratorLike = None,
    return_info: bool = False,
) -> Any:
    r"""Nonnegative factors: a stationary point of :math:`\min_{W, H \ge 0} \tfrac12 \|A - W H\|_F^2`.

    Parameters
    ----------
    A : (m, n) nonnegative matrix: tensor, array, sparse matrix or any operator (its entries are checked where they
        are stored)
    rank : r, at least 1
    method : "hals", exact minimisation over one column or row after the other; "multiplicative", the rule of Lee and
        Seung, which never leaves zero and is slower
    init : "svd" (signs of the leading singular triplets, zeros filled for the multiplicative rule), "random", or
        (W, H) of shapes (m, r) and (r, n)
    rtol : the norm of the projected gradient, relative to that at the start
    max_iter : passes over A and its adjoint
    generator : for the random numbers of the start
    return_info : also return `Info`

    Returns
    -------
    NMF (W, H) of the kind and dtype of A; with `return_info`, (NMF, Info).

    Raises
    ------
    ValueError : a negative or infinite entry, a rank or a start that does not fit, A records a gradient.
    ConvergenceError : `rtol` was not reached within `max_iter` passes; carries the factors.

    Notes
    -----
    Hierarchical alternating least squares: with H fixed every row of W is a small problem with the Gram matrix H H^T,
    solved by cyclic coordinates in one compiled loop; then the same for H. A pass costs 4 m n r flops (or 4 nnz r)
    and 2 (m + n) r^2 a sweep. W and H are balanced after every pass, which makes the measure of `rtol` free of
    their scale. The problem is not convex: the point found is stationary, and depends on the start. No gradient.

    References
    ----------
    "Fast Local Algorithms for Large Scale Nonnegative Matrix and Tensor Factorizations"
    "Accelerated Multiplicative Updates and Hierarchical ALS Algorithms for Nonnegative Matrix Factorization"

    Examples
    --------
    >>> A = torch.rand(40, 3) @ torch.rand(3, 30)
    >>> W, H = nmf(A, 3, generator=0)
    >>> W.shape, bool((W >= 0).all()), bool(torch.dist(A, W @ H) < 0.05 * A.norm())
    (torch.Size([40, 3]), True, True)
    """
    operator = _checked(A, rank, method, rtol, max_iter)
    m, n = operator.shape
    with torch.no_grad(), one_thread(m * n * rank <= _SMALL):
        # Squares of gradients, of the third degree in the root of A, must stay within the range of the dtype.
        ones = torch.ones(n, 1, dtype=operator.dtype, device=operator.device)
        root = power_of_two(math.sqrt(float(operator._matmul(ones).max().clamp_min(0))))
        operator = operator / root**2
        W, Ht = _start(operator, rank, init, method, root, generator)
        step = _coordinates if method == "hals" else _multiplicative
        first, reached, count = 0.0, math.inf, 0
        for count in range(1, max_iter + 1):
            _balance(W, Ht)
            before, after_W = step(W, operator @ Ht, Ht.mT @ Ht, _sweeps(n, rank))
            C, G = operator.H @ W, W.mT @ W
            # The gradient of H is known before its step: with that of W after its own, both belong to one point.
            before_H = _projected(Ht, C, G)
            if count == 1:
                first = math.sqrt(before + before_H)
            reached = math.sqrt(after_W + before_H)
            if not math.isfinite(reached):
                raise OverflowError(f"the factors are beyond the range of {W.dtype}; scale A")
            if reached <= rtol * first:
                break
            step(Ht, C, G, _sweeps(m, rank))
        _balance(W, Ht)
        W, Ht = W * root, Ht * root
    error = reached / first if first else 0.0
    info = Info(f"nmf, {method}", matvecs=2 * count * rank, iterations=count, error=error, converged=error <= rtol)
    found = NMF(*give_back((W, Ht.mT.contiguous()), operator.kind))
    if not info.converged:
        raise ConvergenceError(
            f"nmf: the projected gradient is {error:.2g} of its start after {max_iter} passes, asked for {rtol:.2g}; "
            "allow more, or a larger rtol",
            best=found,
            error=error,
            info=info,
        )
    return (found, info) if return_info else found


def _checked(A: Any, rank: int, method: str, rtol: float, max_iter: int) -> Operator:
    operator = as_operator(A, name="A")
    m, n = operator.shape[-2:]
    if operator.batch_shape or operator.is_complex:
        raise ValueError(f"A must be one real matrix, got shape {(*operator.batch_shape, m, n)} of {operator.dtype}")
    if records(operator):
        raise ValueError("nmf has no gradient: detach A")
    if method not in ("hals", "multiplicative"):
        raise ValueError(f'method must be "hals" or "multiplicative", got {method!r}')
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise ValueError(f"rank must be an integer of at least 1, got {rank!r}")
    if min(m, n) < 1:
        raise ValueError(f"A must have rows and columns, got shape {(m, n)}")
    if not 0 < rtol < 1:
        raise ValueError(f"rtol must be between 0 and 1, got {rtol}")
    if max_iter < 1:
        raise ValueError(f"max_iter must be at least 1, got {max_iter}")
    if operator.dtype in (torch.float16, torch.bfloat16):
        raise TypeError(f"A has dtype {operator.dtype}; convert it to float32")
    stored = operator.data if isinstance(operator, Dense) else operator.values if isinstance(operator, Sparse) else None
    if stored is not None and stored.numel() and float(stored.min()) < 0:
        raise ValueError(f"A must have no negative entry, its smallest is {float(stored.min()):.3g}")
    return operator


def _start(
    operator: Operator, rank: int, init: Any, method: str, root: float, generator: GeneratorLike
) -> tuple[Tensor, Tensor]:
    """W and the transpose of H, scaled so that the size of W H is that of A."""
    (m, n), like = operator.shape, {"dtype": operator.dtype, "device": operator.device}
    rng = as_generator(generator, operator.device)
    if isinstance(init, tuple | list):
        W, Ht = _given(init, m, n, rank, like)
        return W / root, Ht / root
    if init not in ("svd", "random"):
        raise ValueError(f'init must be "svd", "random" or a pair (W, H), got {init!r}')
    W = torch.rand(m, rank, generator=rng, **like)
    Ht = torch.rand(n, rank, generator=rng, **like)
    if init == "svd":
        from resolvent.factor.randomized import randomized_svd

        k = min(rank, m, n)
        U, s, Vh = (as_tensor(part, "A")[0] for part in randomized_svd(operator, k, generator=rng))
        # Of both sign patterns of a pair of vectors the heavier one (Boutsidis and Gallopoulos).
        positive, negative = (
            ((sign * U).clamp_min(0) for sign in (1, -1)),
            ((sign * Vh.mH).clamp_min(0) for sign in (1, -1)),
        )
        (Up, Un), (Vp, Vn) = positive, negative
        plus, minus = (
            torch.linalg.vector_norm(P, dim=0) * torch.linalg.vector_norm(Q, dim=0) for P, Q in ((Up, Vp), (Un, Vn))
        )
        better = plus >= minus
        P, Q, weight = torch.where(better, Up, Un), torch.where(better, Vp, Vn), (s * torch.maximum(plus, minus)).sqrt()
        small = 1e-2 if method == "hals" else 0.3
        for X, part in ((W, P), (Ht, Q)):
            length = torch.linalg.vector_norm(part, dim=0)
            part = part / torch.where(length > 0, length, 1) * weight
            # A little of everything: a zero is a trap for the multiplicative rule and slow for the other.
            X.mul_(small * part.mean()).narrow(1, 0, k).add_(part)
    product = operator @ Ht
    inner, square = (W * product).sum(), ((W.mT @ W) * (Ht.mT @ Ht)).sum()
    scale = (inner / torch.where(square > 0, square, 1)).clamp_min(0).sqrt()
    return W * scale, Ht * scale


def _given(init: tuple[Any, ...] | list[Any], m: int, n: int, rank: int, like: dict[str, Any]) -> tuple[Tensor, Tensor]:
    if len(init) != 2:
        raise ValueError(f"init must be a pair (W, H), got {len(init)} parts")
    W, H = (as_tensor(part, f"init[{i}]")[0].detach().to(**like).clone() for i, part in enumerate(init))
    if W.shape != (m, rank) or H.shape != (rank, n):
        raise ValueError(
            f"init must have shapes {(m, rank)} and {(rank, n)}, got {tuple(W.shape)} and {tuple(H.shape)}"
        )
    for i, part in enumerate((W, H)):
        check_finite(part, f"init[{i}]")
        if float(part.min()) < 0:
            raise ValueError(f"init[{i}] must have no negative entry, its smallest is {float(part.min()):.3g}")
    return W.contiguous(), H.mT.contiguous()


def _balance(W: Tensor, Ht: Tensor) -> None:
    """Columns of W and H^T of equal length, their product as it was."""
    a, b = torch.linalg.vector_norm(W, dim=0), torch.linalg.vector_norm(Ht, dim=0)
    ratio = torch.where((a > 0) & (b > 0), (b / torch.where(a > 0, a, 1)).sqrt(), 1)
    W.mul_(ratio)
    Ht.div_(ratio)


def _projected(X: Tensor, C: Tensor, G: Tensor) -> float:
    """The squared norm of the projected gradient of x G x / 2 - c x over the rows of X."""
    g = X @ G - C
    return float(torch.where(X > 0, g, g.clamp_max(0)).square().sum())


def _sweeps(other: int, rank: int) -> int:
    return min(_SWEEPS, 1 + (rank + other) // (2 * rank))


def _coordinates(X: Tensor, C: Tensor, G: Tensor, sweeps: int) -> tuple[float, float]:
    """Every row of X to (nearly) its minimum; the squared projected gradients before and after."""
    if X.device.type == "cpu":
        from resolvent.factor.nonnegative_kernel import descend_rows

        return descend_rows(X.numpy(), C.contiguous().numpy(), G.contiguous().numpy(), sweeps, _SLOW)
    before = _projected(X, C, G)
    size = G.diagonal()
    for _ in range(min(sweeps, 3)):
        for k in range(X.shape[1]):
            step = (C[:, k] - X @ G[:, k]) / torch.where(size[k] > 0, size[k], math.inf)
            X[:, k].add_(step).clamp_min_(0)
    return before, _projected(X, C, G)


def _multiplicative(X: Tensor, C: Tensor, G: Tensor, sweeps: int) -> tuple[float, float]:
    before = _projected(X, C, G)
    X.mul_(C.clamp_min(0) / (X @ G).clamp_min(torch.finfo(X.dtype).tiny ** 0.5))
    return before, _projected(X, C, G)
