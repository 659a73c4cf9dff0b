"""Products of matrices with a long inner dimension, to a tolerance, from some of its indices."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from resolvent.info import Info
from resolvent.operators.arrays import as_tensor, check_finite, give_back_array
from resolvent.operators.magnitude import moderate
from resolvent.random import GeneratorLike, as_generator
from resolvent.sketch.transforms import make_sketch

Method = Literal["auto", "sampling", "sketch", "multilevel", "exact"]
_COARSEST = 16


def approx_matmul(
    A: Any,
    B: Any,
    *,
    rtol: float = 0.1,
    method: Method = "auto",
    generator: GeneratorLike = None,
    return_info: bool = False,
) -> Any:
    r"""The product A B with a root mean square error of at most :math:`rtol\, \|A\|_F \|B\|_F`.

    Parameters
    ----------
    A, B : (r, n) and (n, c) tensors or arrays, n long
    rtol : between 0 and 1; the error is measured in the Frobenius norm
    method : "sampling" draws inner indices with probability :math:`p_i \propto \|a_i\| \|b_i\|`; "sketch" multiplies
        A S^H by S B with a count sketch S; "multilevel" takes every 2^l-th index, halving the stride until the product
        moves by no more than the tolerance, for data that vary smoothly along n; "auto" samples where that saves work
    generator : of the draws
    return_info : also return an `Info`: matvecs are the inner indices used, error the bound ("sampling", "sketch")
        or the last change ("multilevel") over :math:`\|A\|_F \|B\|_F`

    Returns
    -------
    (r, c) tensor; an array if both are arrays.

    Raises
    ------
    ValueError : shapes that do not fit, NaN or infinity, rtol out of range.

    Notes
    -----
    Sampling: :math:`\frac1c \sum_t a_{i_t} b_{i_t}^T / p_{i_t}` is unbiased with variance
    :math:`((\sum \|a_i\| \|b_i\|)^2 - \|AB\|^2)/c`, which gives c. Sketch: :math:`2/rtol^2` rows. Multilevel: a shifted
    grid, every index counted once, the shift random and so the grid unbiased. Each is the exact product where it would
    take as many indices. Gradients are those of the sampled product, unbiased for the first two.

    References
    ----------
    "Fast Monte Carlo Algorithms for Matrices I: Approximating Matrix Multiplication"; "A Multilevel Monte Carlo
    Estimator for Matrix Multiplication"

    Examples
    --------
    >>> A = torch.ones(2, 10_000)
    >>> approx_matmul(A, A.T, rtol=0.1, generator=0)
    tensor([[10000., 10000.],
            [10000., 10000.]])
    """
    (A, kind_a), (B, kind_b) = as_tensor(A, "A"), as_tensor(B, "B")
    if A.ndim != 2 or B.ndim != 2 or A.shape[1] != B.shape[0] or not A.numel() or not B.numel():
        raise ValueError(f"A and B must have shapes (r, n) and (n, c), got {tuple(A.shape)} and {tuple(B.shape)}")
    if method not in ("auto", "sampling", "sketch", "multilevel", "exact"):
        raise ValueError(f"method must be auto, sampling, sketch, multilevel or exact, got {method!r}")
    if not 0 < rtol < 1:
        raise ValueError(f"rtol must be between 0 and 1, got {rtol!r}")
    if A.device != B.device:
        raise ValueError(f"A and B must be on one device, got {A.device} and {B.device}")
    for t, name in ((A, "A"), (B, "B")):
        check_finite(t, name)
    dtype = torch.promote_types(A.dtype, B.dtype)
    A, B = A.to(dtype), B.to(dtype)
    ways = {"sampling": _sampled, "auto": _sampled, "sketch": _sketched, "multilevel": _by_levels}
    g = as_generator(generator, A.device)
    (A, of_a), (B, of_b) = moderate(A), moderate(B)
    done = None if method == "exact" else ways[method](A, B, rtol, g)
    product, info = (A @ B, Info("exact", A.shape[1])) if done is None else done
    product = product if of_a == of_b == 1 else product * (of_a * of_b)
    product = give_back_array(product, "numpy" if kind_a == kind_b == "numpy" else "torch")
    return (product, info) if return_info else product


def _sampled(A: Tensor, B: Tensor, rtol: float, g: torch.Generator) -> tuple[Tensor, Info] | None:
    a, b = (torch.linalg.vector_norm(t.detach(), dim=dim).double() for t, dim in ((A, 0), (B, 1)))
    sizes, norms = a * b, float(a.norm() * b.norm())
    total = float(sizes.sum())
    if total == 0:
        return None
    count = math.ceil((total / (rtol * norms)) ** 2)
    if count >= A.shape[1]:
        return None
    edges = sizes.cumsum(0)
    drawn = torch.rand(count, generator=g, device=g.device, dtype=torch.float64).to(A.device) * edges[-1]
    # An index that is drawn again costs no second product.
    found, times = torch.searchsorted(edges, drawn).clamp(max=len(sizes) - 1).unique(return_counts=True)
    weights = times * total / (count * sizes[found])
    product = (A[:, found] * weights.to(A.dtype)) @ B[found]
    return product, Info("sampling", len(found), 1, total / math.sqrt(count) / norms)


def _sketched(A: Tensor, B: Tensor, rtol: float, g: torch.Generator) -> tuple[Tensor, Info] | None:
    m, n = math.ceil(2 / rtol**2), A.shape[1]
    if m >= n:
        return None
    S = make_sketch("count_sketch", m, n, generator=g, dtype=A.dtype, device=A.device)
    return (S @ A.mH).mH @ (S @ B), Info("sketch", m, 1, math.sqrt(2 / m))


def _by_levels(A: Tensor, B: Tensor, rtol: float, g: torch.Generator) -> tuple[Tensor, Info] | None:
    n = A.shape[1]
    depth = max(0, int(math.log2(n / _COARSEST))) if n > _COARSEST else 0
    scale = float(torch.linalg.vector_norm(A.detach()).double() * torch.linalg.vector_norm(B.detach()).double())
    shift = int(torch.randint(1 << depth, (), generator=g, device=g.device))
    sums = A[:, shift :: 1 << depth] @ B[shift :: 1 << depth]
    used = len(range(shift, n, 1 << depth))
    for level in range(depth - 1, 0, -1):
        stride = 1 << level
        # The indices of the finer grid that the coarser one has not.
        new = (shift + stride) % (2 * stride)
        extra = A[:, new :: 2 * stride] @ B[new :: 2 * stride]
        used += len(range(new, n, 2 * stride))
        change = stride * float(torch.linalg.vector_norm((extra - sums).detach()).double())
        sums, shift = sums + extra, shift % stride
        if change <= rtol * scale:
            return sums * stride, Info("multilevel", used, depth - level + 1, change / scale if scale else 0.0)
    return None
