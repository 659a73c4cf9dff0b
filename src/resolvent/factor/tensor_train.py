"""Tensor trains and rings: one core for every axis, each tied to the next."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.factor.network import TensorNetwork
from resolvent.factor.range_finder import frobenius
from resolvent.factor.tensor import left_basis, rank_within, tensor_of, without_gradient
from resolvent.factor.tucker import checked_ranks, relative_error, tolerance
from resolvent.info import Info
from resolvent.operators.arrays import Kind, as_tensor, check_finite, give_back


class TensorTrain(NamedTuple):
    """Cores in a row, or in a ring.

    Attributes
    ----------
    cores : N tensors (r_{n-1}, I_n, r_n); r_0 = r_N is 1 for a train
    """

    cores: tuple[Any, ...]

    @property
    def ranks(self) -> tuple[int, ...]:
        """(r_0, r_1, ..., r_{N-1}); r_0 is 1 for a train."""
        return tuple(int(core.shape[0]) for core in self.cores)

    @property
    def shape(self) -> tuple[int, ...]:
        """(I_1, ..., I_N)."""
        return tuple(int(core.shape[1]) for core in self.cores)

    @property
    def parameters(self) -> int:
        """Numbers that it holds."""
        return sum(math.prod(core.shape) for core in self.cores)

    def network(self) -> TensorNetwork:
        """As a `TensorNetwork`."""
        n = len(self.cores)
        if n == 1:
            return TensorNetwork([self.cores[0].diagonal(0, 0, 2).sum(-1)], [["i0"]])
        labels = [(f"r{k}", f"i{k}", f"r{(k + 1) % n}") for k in range(n)]
        return TensorNetwork(self.cores, labels, [f"i{k}" for k in range(n)])

    def to_dense(self) -> Any:
        """The tensor."""
        return self.network().contract()


def tt(
    T: Any,
    ranks: int | Sequence[int] | None = None,
    *,
    rtol: float | None = None,
    return_info: bool = False,
) -> Any:
    r"""A tensor train :math:`T_{i_1 \ldots i_N} \approx G_1(i_1) G_2(i_2) \cdots G_N(i_N)`, by TT-SVD.

    Parameters
    ----------
    T : (I_1, ..., I_N) tensor
    ranks : (r_1, ..., r_{N-1}), largest ranks of the edges; one number is meant for all. An edge takes fewer where the
        unfolding has no more
    rtol : instead of `ranks`: the bound on :math:`\|T - \hat T\|_F / \|T\|_F`
    return_info : also return `Info`, whose error is the relative error

    Returns
    -------
    TensorTrain : its cores of the kind of `T`, all but the last with orthonormal columns

    Raises
    ------
    ValueError : neither or both of `ranks` and `rtol`, a rank below 1, NaN, or a gradient is wanted: there is none
    ConvergenceError : `rtol` is below what rounding allows

    Notes
    -----
    A singular value decomposition for every edge, each of what the last has left, so within sqrt(N - 1) of the best
    error of its ranks. What is left of the squared bound is shared by the edges that are left. Cost about 2 r_n I_n
    flops an entry.

    References
    ----------
    "Tensor-Train Decomposition"

    Examples
    --------
    >>> x = torch.linspace(0, 1, 6).double()
    >>> T = torch.exp(x[:, None, None] * 2 + x[None, :, None]) + x
    >>> tt(T, rtol=1e-12).ranks
    (1, 2, 2)
    """
    t, kind = tensor_of(T, "T")
    t = without_gradient(t, "tt")
    wanted, bound = _request(ranks, rtol, t)
    cores = _sweep(t[None, ..., None], wanted, bound, t.ndim - 1)
    return _result("tt", t, cores, kind, rtol, return_info)


def tt_round(
    train: TensorTrain | Sequence[Any],
    ranks: int | Sequence[int] | None = None,
    *,
    rtol: float | None = None,
) -> TensorTrain:
    r"""A tensor train with smaller ranks, without the tensor.

    Parameters
    ----------
    train : TensorTrain, or its cores (r_{n-1}, I_n, r_n) with r_0 = r_N = 1
    ranks : (r_1, ..., r_{N-1}), largest ranks; one number is meant for all
    rtol : instead of `ranks`: the bound on the change in the Frobenius norm, relative to that of the train

    Returns
    -------
    TensorTrain : of the kind of its cores

    Raises
    ------
    ValueError : neither or both of `ranks` and `rtol`, cores that do not fit, or a gradient is wanted: there is none

    Notes
    -----
    QR decompositions from the right make all cores but the first orthonormal; then the truncated decompositions of
    `tt` go from the left. Cost I r^3 a core. Within sqrt(N - 1) of the best train of the same ranks.

    References
    ----------
    "Tensor-Train Decomposition"

    Examples
    --------
    >>> train = tt(torch.ones(3, 3, 3).double(), ranks=1)
    >>> twice = [torch.cat([c, c], 2) if k == 0 else torch.cat([c, c]) if k == 2 else torch.stack(
    ...     [torch.cat([c[0], 0 * c[0]], 1), torch.cat([0 * c[0], c[0]], 1)]) for k, c in enumerate(train.cores)]
    >>> tt_round(twice, rtol=1e-10).ranks
    (1, 1, 1)
    """
    found = [
        as_tensor(c, f"train[{k}]") for k, c in enumerate(train.cores if isinstance(train, TensorTrain) else train)
    ]
    cores = [without_gradient(c, "tt_round") for c, _ in found]
    kind: Kind = "numpy" if all(k == "numpy" for _, k in found) else "torch"
    _check_cores(cores)
    for k in range(len(cores) - 1, 0, -1):
        a, n, b = cores[k].shape
        Q, R = torch.linalg.qr(cores[k].reshape(a, n * b).mH)
        cores[k] = Q.mH.reshape(-1, n, b)
        cores[k - 1] = torch.tensordot(cores[k - 1], R.mH, dims=1)
    if (ranks is None) == (rtol is None):
        raise ValueError("give either ranks or rtol")
    size = frobenius(cores[0])
    left = math.inf if rtol is None else (tolerance(rtol) * size) ** 2
    limits = _limits(ranks, len(cores) - 1)
    for k in range(len(cores) - 1):
        a, n, b = cores[k].shape
        U, rest, left = _divide(cores[k].reshape(a * n, b), limits[k], left, len(cores) - 1 - k, rtol is not None)
        cores[k] = U.reshape(a, n, -1)
        cores[k + 1] = torch.tensordot(rest, cores[k + 1], dims=1)
    out: TensorTrain = give_back(TensorTrain(tuple(cores)), kind)
    return out


def tensor_ring(
    T: Any,
    ranks: Sequence[int] | None = None,
    *,
    rtol: float | None = None,
    return_info: bool = False,
) -> Any:
    r"""A tensor ring :math:`T_{i_1 \ldots i_N} \approx \operatorname{tr} G_1(i_1) G_2(i_2) \cdots G_N(i_N)`, by TR-SVD.

    Parameters
    ----------
    T : (I_1, ..., I_N) tensor, N at least 2
    ranks : (r_0, r_1, ..., r_{N-1}), r_0 ties the last core to the first; the product r_0 r_1 is at most I_1, and the
        others are largest ranks
    rtol : instead of `ranks`: the bound on :math:`\|T - \hat T\|_F / \|T\|_F`
    return_info : also return `Info`, whose error is the relative error

    Returns
    -------
    TensorTrain : with r_0 of 1 or more, of the kind of `T`

    Raises
    ------
    ValueError : neither or both of `ranks` and `rtol`, ranks that do not fit, NaN, or a gradient is wanted
    ConvergenceError : `rtol` is below what rounding allows

    Notes
    -----
    The first decomposition, of I_1 by the rest, has its rank split in two factors r_0 r_1; the rest is a train whose
    ends they close. For `rtol` all divisors are tried and the ring of fewest numbers is kept, so it is never larger
    than the train, which is r_0 = 1. It is not the smallest ring: which columns of the first core belong together is
    a choice that the decomposition leaves open. Smaller ones, by optimisation: `structure_search`.

    References
    ----------
    "Tensor Ring Decomposition"

    Examples
    --------
    >>> T = torch.randn(4, 3, 4, generator=torch.Generator().manual_seed(0)).double()
    >>> ring = tensor_ring(T, rtol=1e-12)
    >>> ring.parameters <= tt(T, rtol=1e-12).parameters, bool(torch.dist(ring.to_dense(), T) < 1e-12 * T.norm())
    (True, True)
    """
    t, kind = tensor_of(T, "T")
    t = without_gradient(t, "tensor_ring")
    if t.ndim < 2:
        raise ValueError(f"T must have at least two axes, got shape {tuple(t.shape)}")
    if (ranks is None) == (rtol is None):
        raise ValueError("give either ranks or rtol")
    first, rest = t.shape[0], tuple(t.shape[1:])
    if ranks is None:
        left = (tolerance(rtol) * frobenius(t)) ** 2
        U, tail, left = _divide(t.reshape(first, -1), first, left, t.ndim, True)
        closed = [r for r in range(1, U.shape[1] + 1) if U.shape[1] % r == 0]
        inner: Sequence[int] | None = None
    else:
        wanted = checked_ranks(list(ranks), [max(t.numel(), 1)] * t.ndim, "ranks")
        closed, left, inner = [wanted[0]], math.inf, wanted[2:]
        U, tail, _ = _divide(t.reshape(first, -1), wanted[0] * wanted[1], left, 1, False)
        if U.shape[1] < wanted[0] * wanted[1]:
            raise ValueError(f"ranks[0] * ranks[1] must be at most {U.shape[1]}, got {wanted[0] * wanted[1]}")
    bound = None if rtol is None else left
    rings = []
    for r0 in closed:
        head = U.reshape(first, r0, -1).movedim(0, 1)
        body = tail.reshape(r0, U.shape[1] // r0, *rest).movedim(0, -1)
        rings.append([head, *_sweep(body, _limits(inner, t.ndim - 2), bound, t.ndim - 2)])
    cores = min(rings, key=lambda ring: sum(core.numel() for core in ring))
    return _result("tensor_ring", t, cores, kind, rtol, return_info)


def _request(ranks: Any, rtol: Any, t: Tensor) -> tuple[list[int], float | None]:
    if (ranks is None) == (rtol is None):
        raise ValueError("give either ranks or rtol")
    if rtol is None:
        return _limits(ranks, t.ndim - 1), None
    return _limits(None, t.ndim - 1), (tolerance(rtol) * frobenius(t)) ** 2


def _limits(ranks: Any, count: int) -> list[int]:
    if ranks is None:
        return [2**62] * count
    return list(checked_ranks(ranks, [2**62] * count, "ranks"))


def _divide(M: Tensor, limit: int, left: float, parts: int, bounded: bool) -> tuple[Tensor, Tensor, float]:
    """M ~ U rest, with the squared error that is left to others."""
    U, s = left_basis(M)
    noise = frobenius(s) * torch.finfo(s.dtype).eps
    k = min(limit, rank_within(s, max(math.sqrt(left / parts), noise))) if bounded else min(limit, U.shape[1])
    U = U[:, :k]
    return U, U.mH @ M, max(0.0, left - float(s[k:].double().square().sum()))


def _sweep(t: Tensor, limits: Sequence[int], bound: float | None, edges: int) -> list[Tensor]:
    """Cores of a tensor (a, I, ..., b) with the open ends a and b."""
    cores, last = [], t.shape[-1]
    left = math.inf if bound is None else bound
    sizes = t.shape[1:-1]
    M = t.reshape(t.shape[0] * sizes[0], -1)
    for k in range(edges):
        a = M.shape[0] // sizes[k]
        U, rest, left = _divide(M, limits[k], left, edges - k, bound is not None)
        cores.append(U.reshape(a, sizes[k], -1))
        M = rest.reshape(rest.shape[0] * sizes[k + 1], -1)
    return [*cores, M.reshape(-1, sizes[-1], last)]


def _result(method: str, t: Tensor, cores: list[Tensor], kind: Kind, rtol: Any, return_info: bool) -> Any:
    train = TensorTrain(tuple(cores))
    error = relative_error(t, train.to_dense())
    found = give_back(train, kind)
    info = Info(method, error=error, converged=rtol is None or error <= rtol)
    if not info.converged:
        raise ConvergenceError(
            f"{method}: reached {error:.1e}, asked for {rtol:.1e}", best=found, error=error, info=info
        )
    return (found, info) if return_info else found


def _check_cores(cores: list[Tensor]) -> None:
    if not cores:
        raise ValueError("train must hold at least one core")
    for k, c in enumerate(cores):
        check_finite(c, f"train[{k}]")
        before = 1 if k == 0 else cores[k - 1].shape[-1]
        if c.ndim != 3 or c.shape[0] != before or (k == len(cores) - 1 and c.shape[2] != 1):
            raise ValueError(f"train[{k}] must have shape ({before}, I, r), r = 1 at the end, got {tuple(c.shape)}")
