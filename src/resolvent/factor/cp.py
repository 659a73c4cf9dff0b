"""Canonical polyadic decompositions: a tensor as a sum of products of vectors."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.factor.network import TensorNetwork
from resolvent.factor.range_finder import frobenius
from resolvent.factor.tensor import left_basis, tensor_of, without_gradient
from resolvent.info import Info
from resolvent.operators import lu
from resolvent.operators.arrays import give_back
from resolvent.random import GeneratorLike, as_generator, gaussian


class CP(NamedTuple):
    """Weights and unit vectors.

    Attributes
    ----------
    weights : (r,) descending
    factors : N matrices (I_n, r) with columns of length 1
    """

    weights: Any
    factors: tuple[Any, ...]

    @property
    def parameters(self) -> int:
        """Numbers that it holds."""
        return len(self.weights) + sum(math.prod(U.shape) for U in self.factors)

    def network(self) -> TensorNetwork:
        """As a `TensorNetwork`, with one axis that all cores share."""
        n = len(self.factors)
        labels: list[Any] = [(f"i{k}", "r") for k in range(n)]
        return TensorNetwork([*self.factors, self.weights], [*labels, ["r"]], [f"i{k}" for k in range(n)])

    def to_dense(self) -> Any:
        """The tensor, a sum of r products."""
        return self.network().contract()


def cp(
    T: Any,
    rank: int,
    *,
    rtol: float | None = None,
    init: Literal["svd", "random"] = "svd",
    sweeps: int = 500,
    generator: GeneratorLike = None,
    return_info: bool = False,
) -> Any:
    r"""A canonical polyadic decomposition :math:`T \approx \sum_{j=1}^r w_j\, u^1_j \otimes \cdots \otimes u^N_j`.

    Parameters
    ----------
    T : (I_1, ..., I_N) tensor, N at least 2
    rank : r, the number of terms, at least 1
    rtol : a sweep that changes the relative error by less ends the iteration; default 1e-8 in float64, 1e-5 in float32
    init : from the left singular vectors of the unfoldings, with random columns where they are too few; or "random"
    sweeps : at most
    generator : randomness of the start
    return_info : also return `Info`, whose error is the relative error of the decomposition

    Returns
    -------
    CP : (weights, factors), of the kind of `T`

    Raises
    ------
    ValueError : a rank below 1, fewer than two axes, NaN, or a gradient is wanted: there is none
    ConvergenceError : the error still changed after all sweeps; carries the decomposition as it is then

    Notes
    -----
    Alternating least squares: the factor of each axis solves its normal equations, whose matrix is the Hadamard product
    of the Gram matrices of the others; the error is measured from the residual. About 2 N r flops an entry and sweep. A
    local optimum, which a second start may improve; a best decomposition need not exist. The normal equations square the
    condition of the factors, so terms nearly alike settle slowly.

    References
    ----------
    "Tensor Decompositions and Applications"

    Examples
    --------
    >>> a, b = torch.tensor([3.0, 4.0]).double(), torch.tensor([1.0, 0.0]).double()
    >>> found = cp(a[:, None, None] * a[:, None] * b, 1, generator=0)
    >>> found.weights.round(decimals=6)
    tensor([25.], dtype=torch.float64)
    """
    t, kind = tensor_of(T, "T")
    t = without_gradient(t, "cp")
    if t.ndim < 2:
        raise ValueError(f"T must have at least two axes, got shape {tuple(t.shape)}")
    for value, name in ((rank, "rank"), (sweeps, "sweeps")):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be an int of at least 1, got {value!r}")
    if init not in ("svd", "random"):
        raise ValueError(f"init must be svd or random, got {init!r}")
    single = torch.finfo(t.dtype).eps > 1e-10
    change = (1e-5 if single else 1e-8) if rtol is None else rtol
    if not 0 < change < 1:
        raise ValueError(f"rtol must be between 0 and 1, got {rtol!r}")
    size = frobenius(t)
    factors = _start(t, rank, init, as_generator(generator, t.device))
    # Everything is done for a tensor of norm one, so that no square leaves the range of its dtype.
    scaled = t / size if size > 0 else t
    error, settled, done, weights = math.inf, False, 0, torch.ones(rank, dtype=t.dtype, device=t.device)
    while not settled and done < sweeps:
        done += 1
        weights = _pass(scaled, factors)
        before, error = error, float(torch.linalg.vector_norm(scaled - CP(weights, tuple(factors)).to_dense()))
        settled = abs(before - error) <= change or error <= 10 * torch.finfo(t.dtype).eps
    order = weights.abs().argsort(descending=True)
    best = CP((weights * (size if size > 0 else 1.0))[order], tuple(U[:, order] for U in factors))
    found, info = give_back(best, kind), Info("als", iterations=done, error=error, converged=settled)
    if not settled:
        raise ConvergenceError(f"cp: the error {error:.3e} still changes", best=found, error=error, info=info)
    return (found, info) if return_info else found


def _start(t: Tensor, rank: int, init: str, generator: torch.Generator) -> list[Tensor]:
    factors = []
    for n, size in enumerate(t.shape):
        U = gaussian((size, rank), t.dtype, t.device, generator)
        U = U / torch.linalg.vector_norm(U, dim=0)
        if init == "svd":
            known = left_basis(t.movedim(n, 0).reshape(size, -1))[0][:, :rank]
            U = torch.cat([known, U[:, known.shape[1] :]], 1)
        factors.append(U)
    return factors


def _pass(t: Tensor, factors: list[Tensor]) -> Tensor:
    """One sweep of least squares, in place; returns the weights."""
    # Conjugates of the Gram matrices: what the transpose of a Khatri-Rao product makes with its conjugate.
    grams = [U.mT @ U.conj() for U in factors]
    weights = torch.linalg.vector_norm(factors[0], dim=0)
    for n in range(t.ndim):
        gram = torch.ones_like(grams[0])
        for m, g in enumerate(grams):
            if m != n:
                gram = gram * g
        right = _khatri_rao_product(t, factors, n)
        # The ridge is the size of a rounding error: it only keeps terms that coincide from dividing by zero.
        ridge = torch.finfo(t.dtype).eps * gram.diagonal().real.sum()
        one = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        U = lu.solve(gram + ridge * one, right.mH).mH
        weights = torch.linalg.vector_norm(U, dim=0)
        # A term of weight zero keeps its direction, so that the next axis can still use it.
        factors[n] = torch.where(weights > 0, U / torch.where(weights > 0, weights, 1), factors[n])
        grams[n] = factors[n].mT @ factors[n].conj()
    return weights.to(t.dtype)


def _khatri_rao_product(t: Tensor, factors: list[Tensor], n: int) -> Tensor:
    """The unfolding of t times the Khatri-Rao product of all factors but the n-th, which is never formed."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    axes = [m for m in range(t.ndim) if m != n]
    first = axes.pop()
    part = torch.tensordot(t, factors[first].conj(), dims=([first], [0]))
    held = [m for m in range(t.ndim) if m != first]
    while axes:
        m = axes.pop()
        at = held.index(m)
        names = letters[: len(held)]
        rest = names[:at] + names[at + 1 :]
        part = torch.einsum(f"{names}z,{names[at]}z->{rest}z", part, factors[m].conj())
        held.remove(m)
    return part
