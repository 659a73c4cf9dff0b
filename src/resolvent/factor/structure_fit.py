"""The cores of a given tensor network: least squares of one core after the other, or gradients for any loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Protocol

import torch
from torch import Tensor

from resolvent.factor.structure_state import Structure


class Objective(Protocol):
    """What a structure is fitted to."""

    def error(self, state: Structure) -> float:
        """The loss, or the relative error."""

    def fit(self, state: Structure, sweeps: int, gain: float, nodes: Iterable[int] | None = None) -> float:
        """Improve the cores of `nodes` in place, until a sweep gains less than `gain` of the error; returns the error."""


class Entries:
    """Least squares of the entries of a tensor, of all or of those where `mask` is True.

    Parameters
    ----------
    t : (I_1, ..., I_N) tensor
    mask : of the same shape, bool, or None

    Examples
    --------
    >>> t = torch.ones(2, 3, dtype=torch.float64)
    >>> state = Structure.of_ranks((2, 3), {}, t.dtype, "cpu", torch.Generator().manual_seed(0))
    >>> Entries(t).fit(state, 10, 1e-3) < 1e-10
    True
    """

    def __init__(self, t: Tensor, mask: Tensor | None = None) -> None:
        self.t = t if mask is None else torch.where(mask, t, torch.zeros_like(t))
        self.mask = mask
        self.size = float(torch.linalg.vector_norm(self.t))
        self._known = [t.movedim(k, 0).reshape(t.shape[k], -1) for k in range(t.ndim) for t in (self.t,)]
        self._masks = None
        if mask is not None:
            self._masks = [mask.movedim(k, 0).reshape(mask.shape[k], -1).to(t.dtype) for k in range(mask.ndim)]

    def error(self, state: Structure) -> float:
        """Relative error in the Frobenius norm over the entries that count."""
        gap = self.t - state.dense()
        gap = gap if self.mask is None else torch.where(self.mask, gap, torch.zeros_like(gap))
        return float(torch.linalg.vector_norm(gap)) / (self.size or 1.0)

    def fit(self, state: Structure, sweeps: int, gain: float, nodes: Iterable[int] | None = None) -> float:
        """Alternating least squares."""
        chosen = list(range(state.nodes) if nodes is None else nodes)
        error = math.inf
        # What rounding leaves of a tensor that is fitted exactly.
        floor = 10 * torch.finfo(self.t.dtype).eps
        for _ in range(sweeps):
            for k in chosen:
                gap = self._improve(state, k)
            before, error = error, float(gap) / (self.size or 1.0)
            if before - error <= gain * before if math.isfinite(before) else False:
                break
            if error <= floor:
                break
        return error

    def _improve(self, state: Structure, k: int) -> Tensor:
        """The least-squares core k, as a change of the present one, so that the ridge costs no accuracy."""
        E, X = state.environment(k), state.matrix(k)
        T = self._known[k] if k < state.axes else self.t.reshape(1, -1)
        if self._masks is None:
            G = E @ E.mT
            right = T @ E.mT - X @ G
            X = X + torch.cholesky_solve(right.mT, ridged_factor(G)).mT
            state.set_matrix(k, X)
            return torch.linalg.vector_norm(T - X @ E)
        W = self._masks[k] if k < state.axes else self.mask.reshape(1, -1).to(T.dtype)
        G = torch.stack([(E * w) @ E.mT for w in W])
        right = (W * (T - X @ E)) @ E.mT
        X = X + torch.cholesky_solve(right[..., None], ridged_factor(G))[..., 0]
        state.set_matrix(k, X)
        return torch.linalg.vector_norm(W * (T - X @ E))


def ridged_factor(G: Tensor, ridge: float = 100.0) -> Tensor:
    """Cholesky factors of Gram matrices that may be singular: `ridge` times rounding of their trace is added."""
    n = G.shape[-1]
    info = torch.finfo(G.dtype)
    trace = G.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    one = torch.eye(n, dtype=G.dtype, device=G.device)
    return torch.linalg.cholesky_ex(G + (ridge * info.eps * trace + info.tiny) * one).L


class Loss:
    """Any differentiable loss of the tensor.

    Parameters
    ----------
    loss : from a tensor to a number

    Examples
    --------
    >>> state = Structure.of_ranks((2, 3), {}, torch.float64, "cpu", torch.Generator().manual_seed(0))
    >>> Loss(lambda t: (t - 1).square().sum()).fit(state, 50, 0.0) < 1e-10
    True
    """

    def __init__(self, loss: Callable[[Tensor], Tensor]) -> None:
        self.loss = loss

    def error(self, state: Structure) -> float:
        """The loss."""
        with torch.no_grad():
            return self._checked(self.loss(state.dense()))

    def fit(self, state: Structure, sweeps: int, gain: float, nodes: Iterable[int] | None = None) -> float:
        """L-BFGS with a line search that satisfies the strong Wolfe conditions."""
        chosen = list(range(state.nodes) if nodes is None else nodes)
        leaves = [state.cores[k].detach().clone().requires_grad_() for k in chosen]
        for k, leaf in zip(chosen, leaves, strict=True):
            state.cores[k] = leaf
        search = torch.optim.LBFGS(
            leaves,
            max_iter=10,
            history_size=20,
            line_search_fn="strong_wolfe",
            tolerance_grad=1e-12,
            tolerance_change=1e-16,
        )

        def closure() -> Tensor:
            search.zero_grad()
            value = self.loss(state.dense())
            self._checked(value)
            value.backward()
            return value

        error = self.error(state)
        with torch.enable_grad():
            for _ in range(max(1, sweeps // 10)):
                search.step(closure)
                before, error = error, self.error(state)
                if before - error <= gain * abs(before):
                    break
        for k, leaf in zip(chosen, leaves, strict=True):
            state.cores[k] = leaf.detach()
        return error

    @staticmethod
    def _checked(value: Tensor) -> float:
        if not isinstance(value, Tensor) or value.numel() != 1 or not bool(torch.isfinite(value.detach()).all()):
            raise ValueError(f"target must return one finite number for every tensor, got {value!r}")
        return float(value.detach())
