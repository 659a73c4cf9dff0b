"""Tucker decompositions: a small core and one orthonormal factor for every axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.factor.network import TensorNetwork
from resolvent.factor.range_finder import frobenius
from resolvent.factor.tensor import left_basis, products, rank_within, tensor_of, without_gradient
from resolvent.info import Info
from resolvent.operators.arrays import give_back


class Tucker(NamedTuple):
    """A core and the factors that multiply its axes.

    Attributes
    ----------
    core : (r_1, ..., r_N)
    factors : N matrices (I_n, r_n)
    """

    core: Any
    factors: tuple[Any, ...]

    @property
    def ranks(self) -> tuple[int, ...]:
        """(r_1, ..., r_N)."""
        return tuple(self.core.shape)

    @property
    def parameters(self) -> int:
        """Numbers that it holds."""
        return math.prod(self.ranks) + sum(math.prod(U.shape) for U in self.factors)

    def network(self) -> TensorNetwork:
        """As a `TensorNetwork` with the core last."""
        n = len(self.factors)
        labels = [(f"i{k}", f"r{k}") for k in range(n)]
        return TensorNetwork(
            [*self.factors, self.core], [*labels, [f"r{k}" for k in range(n)]], [f"i{k}" for k in range(n)]
        )

    def to_dense(self) -> Any:
        """The tensor, core times all factors."""
        return self.network().contract()


def tucker(
    T: Any,
    ranks: int | Sequence[int] | None = None,
    *,
    rtol: float | None = None,
    method: Literal["hooi", "hosvd", "st-hosvd"] = "hooi",
    sweeps: int = 20,
    return_info: bool = False,
) -> Any:
    r"""A Tucker decomposition :math:`T \approx G \times_1 U_1 \cdots \times_N U_N` with orthonormal columns of all U.

    Parameters
    ----------
    T : (I_1, ..., I_N) tensor
    ranks : shape of the core, r_n from 1 to I_n; one number is meant for every axis. `core_shape` finds a good one
    rtol : instead of `ranks`: the bound on :math:`\|T - \hat T\|_F / \|T\|_F`
    method : "hosvd" cuts every unfolding of T; "st-hosvd" cuts one after the other, each of what the last has left;
        "hooi" improves on it, one factor after the other, until a sweep gains less than rounding. With `rtol` "hooi" is
        "st-hosvd"
    sweeps : of "hooi", at most
    return_info : also return `Info`, whose error is the relative error

    Returns
    -------
    Tucker : (core, factors), of the kind of `T`

    Raises
    ------
    ValueError : neither or both of `ranks` and `rtol`, a rank out of range, NaN, or a gradient is wanted: there is none
    ConvergenceError : `rtol` is below what rounding allows

    Notes
    -----
    The bases are left singular vectors of unfoldings, made triangular first: no Gram matrix, so they are accurate to
    rounding. HOSVD is within sqrt(N) of the best error of its ranks, whose lower bound is the largest tail of one
    unfolding; ST-HOSVD obeys the same bound for less work; HOOI decreases the error monotonically to a local optimum.
    For `rtol` what is left of the squared bound is shared by the axes that are left. Cost about 2 I_n flops an entry
    and axis, and r_n a sweep.

    References
    ----------
    "A Multilinear Singular Value Decomposition"
    "On the Best Rank-1 and Rank-(R1,R2,...,RN) Approximation of Higher-Order Tensors"
    "A New Truncation Strategy for the Higher-Order Singular Value Decomposition"

    Examples
    --------
    >>> x, y = torch.linspace(0, 1, 8).double(), torch.linspace(0, 1, 9).double()
    >>> T = torch.sin(x[:, None, None] + y[None, :, None] + x)
    >>> tucker(T, rtol=1e-12).ranks
    (2, 2, 2)
    """
    t, kind = tensor_of(T, "T")
    t = without_gradient(t, "tucker")
    if method not in ("hooi", "hosvd", "st-hosvd"):
        raise ValueError(f"method must be hooi, hosvd or st-hosvd, got {method!r}")
    if isinstance(sweeps, bool) or not isinstance(sweeps, int) or sweeps < 0:
        raise ValueError(f"sweeps must be an int of at least 0, got {sweeps!r}")
    if (ranks is None) == (rtol is None):
        raise ValueError("give either ranks or rtol")
    done = 0
    if rtol is not None:
        bound = tolerance(rtol) * frobenius(t)
        core, factors = _to_bound(t, bound, sequential=method != "hosvd")
    else:
        wanted = checked_ranks(ranks, tuple(t.shape), "ranks")
        core, factors = _cut(t, wanted, sequential=method != "hosvd")
        if method == "hooi":
            core, factors, done = _improve(t, core, factors, sweeps)
    error = relative_error(t, products(core, factors, range(t.ndim)))
    found = give_back(Tucker(core, tuple(factors)), kind)
    info = Info(method, iterations=done, error=error, converged=rtol is None or error <= rtol)
    if not info.converged:
        raise ConvergenceError(f"tucker: reached {error:.1e}, asked for {rtol:.1e}", best=found, error=error, info=info)
    return (found, info) if return_info else found


def checked_ranks(ranks: Any, limits: Sequence[int], name: str) -> tuple[int, ...]:
    """One rank for every limit, each from 1 to it."""
    wanted = [ranks] * len(limits) if isinstance(ranks, int) else list(ranks)
    single = isinstance(ranks, int) and not isinstance(ranks, bool)
    if single:
        wanted = [min(r, limit) for r, limit in zip(wanted, limits, strict=True)]
    bad = [r for r in wanted if isinstance(r, bool) or not isinstance(r, int) or r < 1]
    if bad or len(wanted) != len(limits) or any(r > limit for r, limit in zip(wanted, limits, strict=True)):
        raise ValueError(f"{name} must be {len(limits)} ints from 1 to {tuple(limits)}, got {ranks!r}")
    return tuple(wanted)


def tolerance(rtol: Any) -> float:
    """A relative tolerance that can be used."""
    if isinstance(rtol, bool) or not isinstance(rtol, int | float) or not 0 < rtol < 1:
        raise ValueError(f"rtol must be between 0 and 1, got {rtol!r}")
    return float(rtol)


def relative_error(t: Tensor, near: Tensor) -> float:
    """The distance in the Frobenius norm over the norm of t; 0 for two tensors of zeros."""
    size, gap = frobenius(t), frobenius(t - near)
    return gap / size if size > 0 else gap


def _basis(t: Tensor, n: int) -> tuple[Tensor, Tensor]:
    return left_basis(t.movedim(n, 0).reshape(t.shape[n], -1))


def _cut(t: Tensor, ranks: Sequence[int], sequential: bool) -> tuple[Tensor, list[Tensor]]:
    """(Sequentially) truncated HOSVD; the smallest axis goes first, as its basis is cheapest while the tensor is whole."""
    core, factors = t, [t] * t.ndim
    for n in sorted(range(t.ndim), key=lambda n: t.shape[n]):
        U = _basis(core if sequential else t, n)[0]
        if U.shape[1] < ranks[n]:
            # Fewer columns than the rank: any orthonormal directions complete the basis.
            U = torch.linalg.qr(U, mode="complete").Q
        factors[n] = U[:, : ranks[n]]
        if sequential:
            core = products(core, [factors[n].mH], [n])
    return (core if sequential else products(t, [U.mH for U in factors], range(t.ndim))), factors


def _to_bound(t: Tensor, bound: float, sequential: bool) -> tuple[Tensor, list[Tensor]]:
    core, factors, left = t, [t] * t.ndim, bound**2
    order = sorted(range(t.ndim), key=lambda n: t.shape[n])
    for done, n in enumerate(order):
        U, s = _basis(core if sequential else t, n)
        share = left / (t.ndim - done) if sequential else bound**2 / t.ndim
        # What lies below rounding is no part of the tensor: it is cut whatever the share.
        noise = frobenius(s) * torch.finfo(s.dtype).eps
        k = rank_within(s, max(math.sqrt(share), noise))
        left = max(0.0, left - float(s[k:].double().square().sum()))
        factors[n] = U[:, :k]
        if sequential:
            core = products(core, [factors[n].mH], [n])
    return (core if sequential else products(t, [U.mH for U in factors], range(t.ndim))), factors


def _improve(t: Tensor, core: Tensor, factors: list[Tensor], sweeps: int) -> tuple[Tensor, list[Tensor], int]:
    """Higher-order orthogonal iteration."""
    whole = frobenius(t)
    kept = frobenius(core)
    small = 10 * torch.finfo(t.dtype).eps * whole
    for sweep in range(sweeps):
        for n in range(t.ndim):
            others = [m for m in range(t.ndim) if m != n]
            part = products(t, [factors[m].mH for m in others], others)
            U = _basis(part, n)[0]
            r = factors[n].shape[1]
            if U.shape[1] >= r:
                factors[n] = U[:, :r]
        core = products(part, [factors[-1].mH], [t.ndim - 1])
        size = frobenius(core)
        if size - kept <= small:
            return core, factors, sweep + 1
        kept = size
    return core, factors, sweeps
