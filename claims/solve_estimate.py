"""What the paper on linear estimators of bounded bias claims, measured."""

import functools
import warnings

import numpy as np
import torch

from resolvent import solve
from resolvent.claims import Measured, Scale, claim
from resolvent.random import gaussian


@claim(
    paper="Flat Minima in Linear Estimation and an Extended Gauss Markov Theorem",
    method=solve.linear_estimator,
    says="the closed forms solve the convex problem: cvxpy finds no smaller norm for the bias of p = 1, 2, infinity",
    at_most=1e-6,
)
def against_a_convex_solver(scale: Scale) -> Measured:
    import cvxpy

    worst = 0.0
    for seed in range(scale(quick=2, full=10)):
        X = gaussian((8, 5), generator=seed).numpy()
        for bias, order, strength in (("nuclear", "nuc", 4.0), ("frobenius", "fro", 4.0), ("spectral", 2, 0.3)):
            L = solve.linear_estimator(X, np.eye(8), bias, strength)
            V = cvxpy.Variable(L.shape)
            budget = np.linalg.norm(L @ X - np.eye(5), order)
            constraint = cvxpy.norm(V @ X - np.eye(5), order) <= budget
            problem = cvxpy.Problem(cvxpy.Minimize(cvxpy.sum_squares(V)), [constraint])
            problem.solve(solver="CLARABEL")
            worst = max(worst, abs(problem.value / float((L**2).sum()) - 1))
    return Measured(worst, unit="relative difference of the minima")


@claim(
    paper="Flat Minima in Linear Estimation and an Extended Gauss Markov Theorem",
    method=solve.linear_estimator,
    says="p = 1.5: gradient descent over all 5 x 8 matrices ends at the closed form",
    at_most=1e-6,
)
def against_descent(scale: Scale) -> Measured:
    X = gaussian((8, 5), generator=scale(quick=0, full=1))
    one = torch.eye(5, dtype=X.dtype)
    L = solve.linear_estimator(X, torch.eye(8, dtype=X.dtype), 1.5, 3.0)
    V = torch.zeros_like(L).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [V], max_iter=150, tolerance_grad=1e-13, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def objective() -> torch.Tensor:
        optimizer.zero_grad()
        value = (V**2).sum() + 2 / (1.5 * 3.0) * (torch.linalg.svdvals(V @ X - one) ** 1.5).sum()
        value.backward()
        return value

    optimizer.step(objective)
    return Measured(float((V.detach() - L).abs().max() / L.abs().max()), unit="largest relative difference")


@claim(
    paper="Flat Minima in Linear Estimation and an Extended Gauss Markov Theorem",
    method=solve.estimator_risk_limit,
    says="the error of simulated regressions is the integral against the limit law (aspects 0.3, 0.7, 1.5; three norms)",
    at_most=0.03,
)
def simulation_against_the_limit(scale: Scale) -> Measured:
    n, draws = 600, scale(quick=1, full=10)
    worst = 0.0
    for aspect in (0.3, 0.7, 1.5):
        d = round(aspect * n)
        for bias, strength in (("nuclear", 0.3), ("frobenius", 0.2), ("spectral", 0.4)):
            errors = []
            for seed in range(draws):
                X = gaussian((n, d), generator=seed)
                beta = gaussian((d, 256), generator=100 + seed) / d**0.5
                Y = X @ beta + 0.5 * gaussian((n, 256), generator=200 + seed)
                factor = 1 if bias == "spectral" else n
                found = solve.linear_estimator(X, Y, bias, strength * factor)
                # Features of variance 1 and new noise: the error of a prediction.
                errors.append(float(((found - beta) ** 2).sum(0).mean()) + 0.25)
            limit = solve.estimator_risk_limit(aspect, bias, strength, noise=0.5).total + 0.25
            worst = max(worst, abs(float(np.mean(errors)) / limit - 1))
    return Measured(worst, unit="largest relative difference")


def regimes() -> dict[str, tuple[int, np.ndarray, np.ndarray, float]]:
    """Rows, standard deviations of the features in their principal directions, sizes of beta there, noise."""
    i = np.arange(1, 41)
    low = i <= 4
    near = np.linspace(1.5, 0.5, 20)
    return {
        "fast decay, strong low frequencies": (80, 1.0 / i**2, np.where(low, 10.0, 0.5), 0.3),
        "slow decay, strong low frequencies": (80, 1.0 / i, np.where(low, 3.0, 0.3), 0.3),
        "well conditioned, equal coefficients": (200, near, np.ones(20) / 20**0.5, 2.0),
        "well conditioned, equal contributions": (200, near, 1 / near / 20**0.5, 2.0),
        "well conditioned, strong weak directions": (200, near, 1 / near**2 / 20**0.5, 2.0),
    }


@functools.cache
def comparison(draws: int) -> dict[str, dict[str, tuple[float, float]]]:
    """Of each regime and norm: Student's t of ridge's excess over 50 draws, and the ratio of the mean errors."""
    from sklearn.linear_model import RidgeCV

    found: dict[str, dict[str, tuple[float, float]]] = {}
    for name, (n, scales, sizes, noise) in regimes().items():
        d = len(scales)
        errors: dict[str, list[float]] = {"ridge": [], "nuclear": [], "spectral": []}
        for draw in range(draws):
            rng = np.random.default_rng(draw)
            X = rng.standard_normal((n, d)) * scales
            beta = sizes * rng.choice([-1.0, 1.0], d)
            y = X @ beta + noise * rng.standard_normal(n)
            grid = np.logspace(-8, 4, 97) * np.linalg.norm(X) ** 2 / d
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ridge = RidgeCV(grid, fit_intercept=False).fit(X, y).coef_
            fits = {"ridge": ridge} | {b: solve.linear_estimator(X, y, b) for b in ("nuclear", "spectral")}
            for bias, coefficients in fits.items():
                errors[bias].append(float(((scales * (coefficients - beta)) ** 2).sum()))
        found[name] = {}
        for bias in ("nuclear", "spectral"):
            gain = np.array(errors["ridge"]) - np.array(errors[bias])
            t = gain.mean() / (gain.std(ddof=1) / draws**0.5)
            found[name][bias] = float(t), float(np.mean(errors[bias]) / np.mean(errors["ridge"]))
    return found


@claim(
    paper="Flat Minima in Linear Estimation and an Extended Gauss Markov Theorem",
    method=solve.linear_estimator,
    says="the better of nuclear and spectral beats scikit-learn's RidgeCV with t > 2 over 50 draws in two regimes of five",
    at_least=2,
)
def against_ridge(scale: Scale) -> Measured:
    table = comparison(scale(quick=25, full=50))
    best = {name: max(row.values()) for name, row in table.items()}
    note = ", ".join(f"{name}: t {t:.1f}, error x{ratio:.2f}" for name, (t, ratio) in best.items())
    return Measured(sum(t > 2 for t, _ in best.values()), unit="regimes", note=note)


@claim(
    paper="Flat Minima in Linear Estimation and an Extended Gauss Markov Theorem",
    method=solve.linear_estimator,
    says="elsewhere the better of nuclear and spectral is never more than 5 percent worse than RidgeCV",
    at_most=1.05,
    known_miss="1.12 (1.13 at quick scale): where features are well conditioned and all coefficients of one size, ridge is "
    "the Bayes estimator; 0.96 or less in the four other regimes",
)
def never_much_worse(scale: Scale) -> Measured:
    table = comparison(scale(quick=25, full=50))
    ratios = {name: min(ratio for _, ratio in row.values()) for name, row in table.items()}
    worst = max(ratios, key=ratios.__getitem__)
    return Measured(ratios[worst], unit="x the error of ridge", note=worst)
