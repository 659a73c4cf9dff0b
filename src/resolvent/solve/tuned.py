"""Solvers that learn their parameter over a sequence of systems, from the counts of iterations alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import numpy as np
import torch

from resolvent.errors import ConvergenceError
from resolvent.random import GeneratorLike, as_generator
from resolvent.solve.stationary import sor
from resolvent.solve.tuned_kernel import bounded_least_squares

BanditName = Literal["tsallis_inf", "cheb_contextual", "tsallis_bins"]
_BINS = 5
_SWEEPS = 1000


class Bandit(Protocol):
    """A choice among actions that learns from the cost of the one taken."""

    def probabilities(self, context: float | None) -> np.ndarray:
        """How likely each action is to be taken next."""

    def update(self, action: int, cost: float, context: float | None) -> None:
        """Learn the cost of the action just taken."""


class TsallisINF:
    r"""Tsallis-INF for actions whose costs are at least 1: regret of the order of :math:`\sqrt{d T}`.

    The probabilities are :math:`4 (\eta_t (K_i / s - x))^{-2}` with :math:`\eta_t = 2 / \sqrt t` and the x that makes
    their sum 1; K_i adds up (cost - 1) / p_i of the rounds that took i, s is the mean of cost - 1.

    Parameters
    ----------
    actions : how many

    Examples
    --------
    >>> TsallisINF(4).probabilities().tolist()
    [0.25, 0.25, 0.25, 0.25]
    """

    def __init__(self, actions: int) -> None:
        self.losses = np.zeros(actions)
        self.rounds, self.total = 0, 0.0
        self._used = np.full(actions, 1 / actions)

    def probabilities(self, context: float | None = None) -> np.ndarray:
        """(actions,) probabilities."""
        eta = 2 / math.sqrt(self.rounds + 1)
        scaled = self.losses * self.rounds / self.total if self.total > 0 else self.losses
        # The sum of the probabilities is at least 1 here, and convex: Newton's steps come down to the root.
        x = float(scaled.min()) - 2 / eta
        for _ in range(60):
            p = 4 / (eta * (scaled - x)) ** 2
            step = (float(p.sum()) - 1) / (eta * float((p**1.5).sum()))
            x -= step
            if abs(step) <= 1e-14 * abs(x):
                break
        p = 4 / (eta * (scaled - x)) ** 2
        self._used = p / p.sum()
        return self._used

    def update(self, action: int, cost: float, context: float | None = None) -> None:
        """Learn a cost."""
        self.rounds += 1
        self.total += cost - 1
        self.losses[action] += (cost - 1) / self._used[action]


class TsallisBins:
    """One `TsallisINF` for each interval of the context.

    Parameters
    ----------
    actions : how many
    low, high : range of the contexts
    bins : intervals of one length

    Examples
    --------
    >>> TsallisBins(2, 0.0, 1.0).probabilities(0.3).tolist()
    [0.5, 0.5]
    """

    def __init__(self, actions: int, low: float, high: float, bins: int = _BINS) -> None:
        self.low, self.high = low, high
        self.inside = [TsallisINF(actions) for _ in range(bins)]

    def _bandit(self, context: float | None) -> TsallisINF:
        place = (_context(context, self.low, self.high) - self.low) / (self.high - self.low)
        return self.inside[min(int(place * len(self.inside)), len(self.inside) - 1)]

    def probabilities(self, context: float | None = None) -> np.ndarray:
        """(actions,) probabilities in the interval of the context."""
        return self._bandit(context).probabilities()

    def update(self, action: int, cost: float, context: float | None = None) -> None:
        """Learn a cost."""
        self._bandit(context).update(action, cost)


class ChebyshevBandit:
    """Regression of each action's cost on Chebyshev polynomials of the context, explored by inverse gaps.

    Parameters
    ----------
    actions : how many
    low, high : range of the contexts
    terms : Chebyshev polynomials

    Examples
    --------
    >>> ChebyshevBandit(4, 0.0, 1.0).probabilities(0.3).tolist()
    [0.25, 0.25, 0.25, 0.25]
    """

    def __init__(self, actions: int, low: float, high: float, terms: int = 6) -> None:
        self.low, self.high, self.terms = low, high, terms
        self.theta = np.zeros((actions, terms))
        self.gram, self.right = np.zeros((actions, terms, terms)), np.zeros((actions, terms))
        self.square = np.zeros(actions)
        self.least, self.largest = math.inf, 0.0
        self.eta, self.scale, self.rounds, self.gap = 0.0, 1.0, 0, 0.0

    def _features(self, context: float | None) -> np.ndarray:
        t = 2 * (_context(context, self.low, self.high) - self.low) / (self.high - self.low) - 1
        return np.cos(np.arange(self.terms) * math.acos(min(1.0, max(-1.0, t))))

    def probabilities(self, context: float | None = None) -> np.ndarray:
        """(actions,) probabilities at the context: a gap g to the best prediction has 1 / (actions + eta g)."""
        predicted = self.theta @ self._features(context) / self.scale
        best = int(predicted.argmin())
        p = 1 / (len(predicted) + self.eta * (predicted - predicted[best]))
        p[best] = 0
        p[best] = 1 - p.sum()
        return p

    def update(self, action: int, cost: float, context: float | None = None) -> None:
        """Learn a cost: least squares for the action, for all where the bounds of the coefficients have moved."""
        f = self._features(context)
        loss = cost - 1
        predicted = float(self.theta[action] @ f) / self.scale
        self.rounds += 1
        self.gram[action] += np.outer(f, f)
        self.right[action] += loss * f
        self.square[action] += loss**2
        moved = cost > self.largest or cost < self.least
        self.least, self.largest = min(self.least, cost), max(self.largest, cost)
        spread = self.largest - self.least
        N = 2 + 4 * spread / self.largest * (1 + math.log(self.terms))
        self.scale = self.largest * N
        bounds = np.array([self.largest, *(2 * spread / j for j in range(1, self.terms))])
        for i in range(len(self.theta)) if moved else (action,):
            self.theta[i] = self._fit(i, bounds)
        own = self.square[action] - self.theta[action] @ (
            2 * self.right[action] - self.gram[action] @ self.theta[action]
        )
        rest = max(0.0, own) / self.scale**2 if (abs(self.theta[action]) >= bounds * (1 - 1e-9)).any() else 0.0
        # The regret of the regression so far, and the error of a polynomial of so many terms for Lipschitz costs.
        self.gap += (predicted - loss / self.scale) ** 2
        m, d, t = self.terms, len(self.theta), self.rounds
        alpha = (math.pi + 2 / math.pi * math.log(2 * m + 1)) / (2 * self.scale * (m + 1)) * spread
        below = max(self.gap - rest, 0.0) + 2 * alpha**2 * t
        self.eta = 2 * t * math.sqrt(d * t / below) if below > 0 else 0.0

    def _fit(self, i: int, bounds: np.ndarray) -> np.ndarray:
        if not self.gram[i, 0, 0]:
            return np.zeros(self.terms)
        values, vectors = np.linalg.eigh(self.gram[i])
        kept = values > 1e-10 * values[-1]
        # Of all least squares solutions the shortest, while there are few contexts.
        free = vectors[:, kept] @ (vectors[:, kept].T @ self.right[i] / values[kept])
        if (abs(free) <= bounds).all():
            return np.asarray(free)
        inside = np.clip(free, -bounds, bounds)
        bounded_least_squares(self.gram[i], self.right[i], bounds, inside, _SWEEPS)
        return inside


def _context(context: float | None, low: float, high: float) -> float:
    if context is None:
        raise ValueError(f"context must be a number from {low} to {high}: the bandit learns from it")
    return min(high, max(low, float(context)))


class TunedSolver:
    """A solver whose parameter is learned over a sequence of systems.

    Parameters
    ----------
    solver : callable ``(A, b, parameter, rtol=..., return_info=True) -> (x, info)``, as `sor`; any parameter of any
        solver will do
    grid : the parameters to choose from; default 20 from 1 to 1.95
    bandit : "tsallis_inf" competes with the best parameter of the grid; "cheb_contextual" and "tsallis_bins" with the
        best function of the context; or an object with `probabilities` and `update`
    context : (low, high) range of the contexts, for the bandits that use one
    cost : what a solve has cost, from its `Info`, at least 1; default its iterations, or 1
    rtol : passed to the solver; None leaves its default
    generator : of the choices

    Attributes
    ----------
    parameters : the one of each solve so far
    costs : the cost of each

    Notes
    -----
    Only the cost of the parameter that was tried is seen. The regret of Tsallis-INF against the best of d parameters
    after T systems is of the order of sqrt(d T) costs, for any sequence of systems; with a context c, where the cost is
    a Lipschitz function of it, the regression is as good as the best function of c up to T^(8/11) or so. A solve costs
    what its solver costs, and some ten microseconds more, or a hundred with the regression.

    References
    ----------
    "Learning to Relax: Setting Solver Parameters Across a Sequence of Linear System Instances"

    Examples
    --------
    >>> A = torch.diag(torch.full((20,), 2.2)) - torch.diag(torch.ones(19), 1) - torch.diag(torch.ones(19), -1)
    >>> tuned = TunedSolver(grid=[1.0, 1.5, 1.9], generator=0)
    >>> for _ in range(30):
    ...     x = tuned.solve(A, torch.ones(20))
    >>> len(tuned.costs), max(set(tuned.parameters), key=tuned.parameters.count)
    (30, 1.5)
    """

    def __init__(
        self,
        solver: Callable[..., Any] = sor,
        grid: Sequence[Any] | None = None,
        bandit: BanditName | Bandit = "tsallis_inf",
        *,
        context: tuple[float, float] | None = None,
        cost: Callable[[Any], float] | None = None,
        rtol: float | None = None,
        generator: GeneratorLike = None,
    ) -> None:
        self.solver = solver
        self.grid = list(np.linspace(1, 1.95, 20).tolist() if grid is None else grid)
        if not self.grid:
            raise ValueError("grid must hold at least one parameter")
        self.bandit = _bandit(bandit, len(self.grid), context)
        self._cost, self._rtol = cost, rtol
        self._generator = as_generator(generator)
        self.parameters: list[Any] = []
        self.costs: list[float] = []

    def choose(self, context: float | None = None) -> int:
        """The index of a parameter for the next system; `learn` must follow.

        Parameters
        ----------
        context : what is known of the system

        Returns
        -------
        int
        """
        p = self.bandit.probabilities(context)
        u = float(torch.rand((), dtype=torch.float64, generator=self._generator))
        return min(int(np.searchsorted(np.cumsum(p), u * float(p.sum()), side="right")), len(p) - 1)

    def learn(self, action: int, cost: float, context: float | None = None) -> None:
        """What the parameter of that index has cost.

        Parameters
        ----------
        action : from `choose`
        cost : at least 1
        context : as given to `choose`
        """
        if not (math.isfinite(cost) and cost >= 1):
            raise ValueError(f"cost must be a finite number of at least 1, got {cost}")
        self.bandit.update(action, float(cost), context)
        self.parameters.append(self.grid[action])
        self.costs.append(float(cost))

    def solve(self, A: Any, b: Any, context: float | None = None) -> Any:
        """Solve A x = b with a parameter of the grid, and learn from what it has cost.

        Parameters
        ----------
        A, b : the system, as the solver takes it
        context : what is known of the system, for the bandits that use it

        Returns
        -------
        x, as the solver gives it

        Raises
        ------
        ConvergenceError : of the solver, after its cost is learned
        """
        action = self.choose(context)
        options = {} if self._rtol is None else {"rtol": self._rtol}
        try:
            x, info = self.solver(A, b, self.grid[action], return_info=True, **options)
        except ConvergenceError as failed:
            if failed.info is not None:
                self.learn(action, self._of(failed.info), context)
            raise
        self.learn(action, self._of(info), context)
        return x

    def _of(self, info: Any) -> float:
        # A right-hand side of zero takes no iteration, and is solved all the same.
        return max(1.0, float(info.iterations)) if self._cost is None else float(self._cost(info))


def _bandit(bandit: Any, actions: int, context: tuple[float, float] | None) -> Bandit:
    if not isinstance(bandit, str):
        if not (hasattr(bandit, "probabilities") and hasattr(bandit, "update")):
            raise TypeError(f"bandit must be a name or have `probabilities` and `update`, got {type(bandit).__name__}")
        return bandit
    if bandit == "tsallis_inf":
        return TsallisINF(actions)
    if bandit not in ("cheb_contextual", "tsallis_bins"):
        raise ValueError(f"bandit must be tsallis_inf, cheb_contextual or tsallis_bins, got {bandit!r}")
    if context is None or not context[0] < context[1]:
        raise ValueError(f"context must be the range (low, high) of the contexts for {bandit}, got {context}")
    make = ChebyshevBandit if bandit == "cheb_contextual" else TsallisBins
    return make(actions, float(context[0]), float(context[1]))
