"""CP dictionaries of distributions on grids, fitted in an optimal transport distance."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.factor.block_descent import bcd_prox, onto_simplex
from resolvent.info import Info
from resolvent.operators.arrays import as_tensor, check_finite, give_back
from resolvent.operators.threads import one_thread
from resolvent.random import GeneratorLike, as_generator

# Iterations of one dual problem, which starts from the solution of the sweep before; and how often it may go on where
# they did not decrease the objective.
_INNER, _ROUNDS = 40, 20
_SMALL = 2_000_000


class WassersteinCP(NamedTuple):
    """Of :func:`wasserstein_cp_dictionary`: ``Y_j ~ sum_r codes[j, r] factors[0][:, r] x ... x factors[d-1][:, r]``.

    Attributes
    ----------
    factors : d arrays (n_k, R), their columns are distributions
    codes : (N, R), rows are distributions
    objective : (sweeps + 1,) sums of the entropic transport costs
    stationarity : (sweeps,) squared norms of the prox-gradients
    """

    factors: tuple[Any, ...]
    codes: Any
    objective: Any
    stationarity: Any


def wasserstein_cp_dictionary(
    Y: Any,
    rank: int,
    cost: Sequence[Any] | None = None,
    *,
    reg: float | None = None,
    prox: float = 0.1,
    init: tuple[Sequence[Any], Any] | None = None,
    rtol: float = 3e-2,
    max_iter: int = 200,
    generator: GeneratorLike = None,
    return_info: bool = False,
) -> Any:
    r"""Separable atoms of distributions: :math:`\min \sum_j OT_\gamma\big(Y_j, \sum_r \lambda_{jr}\, u_r^{(1)} \otimes \cdots \otimes u_r^{(d)}\big)`.

    Parameters
    ----------
    Y : (N, n_1, ..., n_d) distributions on a grid, each nonnegative with sum one
    rank : R, the number of atoms
    cost : d matrices (n_k, n_k), nonnegative; the ground cost is their sum. None takes squared distances of the grid
        points of [0, 1]
    reg : gamma, weight of the entropy in the transport cost. For squared distances its plans blur: the variances of the
        atoms come out larger by gamma / 2 along each axis; None takes twice the smallest positive cost, for a blur of
        one grid cell. A smaller one blurs less and needs more iterations
    prox : c, weight of the proximal terms
    init : (factors, codes) to start from; None draws data points and takes their marginals
    rtol : the prox-gradient relative to that of the first sweep
    max_iter : sweeps over the codes and each factor
    generator : of the start
    return_info : also return `Info`

    Returns
    -------
    WassersteinCP of the kind and dtype of Y, its two sequences in double precision; with `return_info`, (WassersteinCP, Info).

    Raises
    ------
    ValueError : Y holds no distributions, shapes that do not fit, Y records a gradient.
    OverflowError : reg is too small for the cost: its kernel vanishes.
    ConvergenceError : `rtol` was not reached; carries the best value.

    Notes
    -----
    Cyclic blocks, each solved in its dual: with the conjugate
    :math:`H_y^*(g) = \gamma (E(y) + \langle y, \log K e^{g / \gamma}\rangle)` of the transport cost and
    :math:`R^*`, a projection on simplices, minimise :math:`\sum_j H^*(g_j) + R^*(-M^T g)` by L-BFGS from the last
    solution; M is the linear map of the block, and the projection is the block (SciPy's L-BFGS, on the host). The kernel K is applied mode
    by mode with every fibre scaled by its largest entry: 2 N n sum(n_k) multiplications an evaluation. Double precision
    inside. The problem is not convex; the atoms depend on the start. No gradient.

    References
    ----------
    "Complexity of Block Coordinate Descent with Proximal Regularization and Applications to Wasserstein CP-dictionary Learning"

    Examples
    --------
    >>> import torch
    >>> x = torch.arange(8.0)
    >>> bump = lambda at: torch.softmax(-((x - at) ** 2), 0)
    >>> Y = torch.stack([torch.outer(bump(2), bump(5)), torch.outer(bump(6), bump(1))])
    >>> found = wasserstein_cp_dictionary(Y, 2, generator=0)
    >>> sorted(found.factors[0].argmax(0).tolist())
    [2, 6]
    """
    T, kind = _distributions(Y, rank, reg)
    dtype, T = T.dtype, T.double()
    with torch.no_grad(), one_thread(T.numel() * max(T.shape[1:]) <= _SMALL):
        costs = _costs(cost, T)
        transport = _Transport(T, costs, _default(costs) if reg is None else reg)
        start = _start(T, rank, init, as_generator(generator, T.device))
        modes = T.ndim - 1
        problems = [_Codes(transport, modes), *(_Factor(transport, k, modes) for k in range(modes))]

        def objective(blocks: list[Tensor]) -> Tensor:
            # The last block has measured it already.
            return transport.value(model(blocks[0], blocks[1:])) if transport.last is None else transport.last

        missed = None
        try:
            found = bcd_prox(start, problems, objective, prox=prox, rtol=rtol, max_iter=max_iter)
        except ConvergenceError as stopped:
            if stopped.best is None:  # Sinkhorn's iteration, not the sweeps
                raise
            found, missed = stopped.best, stopped.error
        codes, *factors = (block.to(dtype) for block in found.blocks)
        values = give_back((codes, found.objective, found.stationarity), kind)
        result = WassersteinCP(give_back(tuple(f.mT.contiguous() for f in factors), kind), *values)
    sweeps = len(found.stationarity)
    error = float((found.stationarity[-1] / found.stationarity[0].clamp_min(1e-300)).sqrt())
    info = Info("wasserstein_cp_dictionary", iterations=sweeps, error=error, converged=missed is None)
    if missed is not None:
        raise ConvergenceError(
            f"wasserstein_cp_dictionary: the prox-gradient is {missed:.2g} of its first after {max_iter} sweeps, asked "
            f"for {rtol:.2g}; allow more sweeps, or a larger rtol",
            best=result,
            error=missed,
            info=info,
        )
    return (result, info) if return_info else result


def model(codes: Tensor, factors: Sequence[Tensor]) -> Tensor:
    """(N, n_1, ..., n_d) from codes (N, R) and factors (R, n_k)."""
    atoms = factors[0]
    for u in factors[1:]:
        atoms = (atoms[..., None] * u.reshape(len(u), *[1] * (atoms.ndim - 1), -1)).contiguous()
    return torch.tensordot(codes, atoms, 1)


class _Transport:
    """The entropic transport cost to every Y_j: its conjugate, and its value by Sinkhorn's iteration."""

    def __init__(self, Y: Tensor, costs: list[Tensor], reg: float) -> None:
        self.Y, self.reg = Y, reg
        self.kernels = [torch.exp(-C / reg) for C in costs]
        self.last: Tensor | None = None  # the cost of the blocks as they are
        self.entropy = -torch.special.xlogy(Y, Y).sum()

    def log_kernel(self, h: Tensor, transposed: bool = False) -> Tensor:
        """log(K e^h), mode by mode."""
        for k, K in enumerate(self.kernels, 1):
            top = h.amax(k, keepdim=True)
            # A fibre without mass stays without.
            top = torch.where(torch.isfinite(top), top, 0)
            moved = torch.exp(h - top).movedim(k, -1) @ (K if transposed else K.mT)
            h = moved.movedim(-1, k).log() + top
        return h

    def conjugate(self, g: Tensor) -> tuple[Tensor, Tensor]:
        """The sum of H*(g_j), and its gradient: the second marginals."""
        h = g / self.reg
        log_mass = self.log_kernel(h)
        value = self.reg * (self.entropy + (self.Y * log_mass).sum())
        if not bool(torch.isfinite(value)):
            raise OverflowError(f"reg = {self.reg} is too small for the cost: its kernel vanishes; take a larger one")
        # y / (K e^h) in the logarithm: both can be beyond the range.
        back = self.log_kernel(self.Y.log() - log_mass, transposed=True)
        return value, torch.exp(h + back)

    def value(self, Z: Tensor, g: Tensor | None = None, rtol: float = 1e-4) -> Tensor:
        """The sum of the costs from Y_j to Z_j: cost of the plan plus reg times the sum of its p log p."""
        log_z = Z.log()
        h = torch.zeros_like(Z) if g is None else g / self.reg
        # The value is a maximum over h: its error is of second order in the gap.
        for _ in range(5000):
            back = self.log_kernel(self.Y.log() - self.log_kernel(h), transposed=True)
            gap = (torch.exp(h + back) - Z).abs().sum(tuple(range(1, Z.ndim))).amax()
            h = log_z - back
            if bool(gap <= rtol):
                break
        else:
            raise ConvergenceError(f"Sinkhorn's iteration stopped at a gap of {float(gap):.1e}; take a larger reg")
        found, _ = self.conjugate(self.reg * h)
        return self.reg * torch.where(Z > 0, Z * h, 0).sum() - found


class _Dual(ABC):
    """One block's problem: the map M of the block, and the dual variable of the sweep before."""

    def __init__(self, transport: _Transport) -> None:
        self.transport = transport
        self.g: Tensor | None = None

    @abstractmethod
    def parts(self, blocks: list[Tensor]) -> tuple[Tensor, Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
        """The block before, x -> M x, and g -> M^T g."""

    def __call__(self, blocks: list[Tensor], c: float) -> Tensor:
        from scipy.optimize import minimize

        before, forward, adjoint = self.parts(blocks)
        if self.g is None:
            self.g = torch.zeros_like(self.transport.Y)
        start = self.g

        def evaluate(flat: np.ndarray) -> tuple[float, np.ndarray]:
            g = torch.from_numpy(flat).to(start.device).reshape(start.shape)
            value, marginals = self.transport.conjugate(g)
            v = -adjoint(g)
            x = onto_simplex(before + v / c)
            total = value + (v * x).sum() - c / 2 * (x - before).square().sum()
            return float(total), (marginals - forward(x)).flatten().cpu().numpy()

        options = {"maxiter": _INNER, "ftol": 1e-14, "gtol": 1e-9}
        old = self.transport.value(forward(before)) if self.transport.last is None else self.transport.last
        for _ in range(_ROUNDS):
            done = minimize(evaluate, self.g.flatten().cpu().numpy(), jac=True, method="L-BFGS-B", options=options)
            self.g = torch.from_numpy(done.x).to(start.device).reshape(start.shape)
            x = onto_simplex(before - adjoint(self.g) / c)
            value = self.transport.value(forward(x), self.g)
            new = value + c / 2 * (x - before).square().sum()
            # A dual solution that is not good enough shows in the primal problem, which it must decrease.
            if bool(new <= old + 1e-7 * (1 + old.abs())):
                self.transport.last = value
                return x
        raise ConvergenceError(
            f"the dual problem of a block did not decrease the objective, {float(old):.6g} to {float(new):.6g}; "
            "take a larger reg or prox"
        )


class _Codes(_Dual):
    def __init__(self, transport: _Transport, modes: int) -> None:
        super().__init__(transport)
        self.modes = modes

    def parts(self, blocks: list[Tensor]) -> tuple[Tensor, Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
        codes, factors = blocks[0], blocks[1:]
        atoms = model(torch.eye(codes.shape[1], dtype=codes.dtype, device=codes.device), factors)
        return codes, lambda x: torch.tensordot(x, atoms, 1), lambda g: g.flatten(1) @ atoms.flatten(1).mT


class _Factor(_Dual):
    def __init__(self, transport: _Transport, mode: int, modes: int) -> None:
        super().__init__(transport)
        self.mode, self.modes = mode, modes

    def parts(self, blocks: list[Tensor]) -> tuple[Tensor, Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
        codes, factors, k = blocks[0], blocks[1:], self.mode
        others = [u for i, u in enumerate(factors) if i != k]
        R = codes.shape[1]
        rest = codes[:, :, None]
        for u in others:
            rest = (rest[..., None] * u[None, :, None]).flatten(2)
        # (N, R, all other modes); of one mode only there is nothing else.
        shape = [t for i, t in enumerate(self.transport.Y.shape[1:]) if i != k]

        def forward(x: Tensor) -> Tensor:
            made = torch.einsum("jro,ri->joi", rest, x)
            return made.reshape(len(codes), *shape, x.shape[1]).movedim(-1, k + 1)

        def adjoint(g: Tensor) -> Tensor:
            moved = g.movedim(k + 1, -1).reshape(len(codes), -1, g.shape[k + 1])
            return torch.tensordot(rest.transpose(0, 1).reshape(R, -1), moved.reshape(-1, moved.shape[-1]), 1)

        return factors[k], forward, adjoint


def _distributions(Y: Any, rank: int, reg: float | None) -> tuple[Tensor, Any]:
    T, kind = as_tensor(Y, "Y")
    if T.ndim < 2 or T.is_complex() or not T.numel():
        raise ValueError(f"Y must be real of shape (N, n_1, ..., n_d), got {tuple(T.shape)} of {T.dtype}")
    if torch.is_grad_enabled() and T.requires_grad:
        raise ValueError("wasserstein_cp_dictionary has no gradient: detach Y")
    check_finite(T, "Y")
    sums = T.sum(tuple(range(1, T.ndim)))
    if float(T.min()) < 0 or float((sums - 1).abs().max()) > 1e-4:
        raise ValueError(
            "Y must hold distributions: nonnegative, each with sum one; smallest entry "
            f"{float(T.min()):.3g}, sums from {float(sums.min()):.4g} to {float(sums.max()):.4g}"
        )
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise ValueError(f"rank must be a positive integer, got {rank!r}")
    if reg is not None and not (math.isfinite(reg) and reg > 0):
        raise ValueError(f"reg must be positive, got {reg}")
    # In double precision the sums are one to its last digit.
    return T / sums.reshape(-1, *[1] * (T.ndim - 1)), kind


def _costs(cost: Sequence[Any] | None, T: Tensor) -> list[Tensor]:
    sizes = T.shape[1:]
    if cost is None:
        lines = [torch.linspace(0, 1, n, dtype=torch.float64, device=T.device) for n in sizes]
        return [(x[:, None] - x) ** 2 for x in lines]
    found = [as_tensor(C, f"cost[{k}]")[0].detach().to(T) for k, C in enumerate(cost)]
    if [tuple(C.shape) for C in found] != [(n, n) for n in sizes]:
        raise ValueError(
            f"cost must be matrices of shapes {[(n, n) for n in sizes]}, got {[tuple(C.shape) for C in found]}"
        )
    for k, C in enumerate(found):
        check_finite(C, f"cost[{k}]")
        if float(C.min()) < 0:
            raise ValueError(f"cost[{k}] must not be negative, its smallest entry is {float(C.min()):.3g}")
    return found


def _default(costs: list[Tensor]) -> float:
    """The entropy's weight that blurs a plan by about a cell of the finest grid."""
    positive = [C[C > 0].min() for C in costs if bool((C > 0).any())]
    return 2 * float(torch.stack(positive).min()) if positive else 1.0


def _start(T: Tensor, rank: int, init: Any, rng: torch.Generator) -> list[Tensor]:
    N, sizes = len(T), T.shape[1:]
    if init is not None:
        factors, codes = init
        blocks = [as_tensor(codes, "init")[0], *(as_tensor(f, "init")[0].mT for f in factors)]
        wanted = [(N, rank), *((rank, n) for n in sizes)]
        if [tuple(b.shape) for b in blocks] != wanted:
            raise ValueError(f"init must be (factors, codes) for {wanted}, got {[tuple(b.shape) for b in blocks]}")
        return [onto_simplex(b.detach().to(T)) for b in blocks]
    # Far from each other, as the seeds of k-means++: two starts in one cluster seldom part.
    flat, chosen = T.flatten(1), [int(torch.randint(N, (1,), generator=rng, device=rng.device))]
    while len(chosen) < rank:
        gap = torch.cdist(flat, flat[chosen]).amin(1).square().to(rng.device)
        weights = gap if float(gap.sum()) > 0 else torch.ones_like(gap)
        chosen.append(int(torch.multinomial(weights, 1, generator=rng)))
    picked, factors = T[chosen], []
    for k, n in enumerate(sizes):
        rest = [i + 1 for i in range(len(sizes)) if i != k]
        marginal = picked.sum(rest) if rest else picked
        # A little everywhere: transport to a point without mass has no finite potential.
        factors.append(0.9 * marginal + 0.1 / n)
    return [T.new_full((N, rank), 1 / rank), *factors]
