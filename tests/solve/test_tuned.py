"""TunedSolver: the formulas of its bandits, what they learn, any solver and parameter, failures."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.optimize
import scipy.sparse

from resolvent.errors import ConvergenceError
from resolvent.solve import ChebyshevBandit, TsallisBins, TsallisINF, TunedSolver, cg, ssor_preconditioner
from resolvent.solve.tuned_kernel import bounded_least_squares


def laplacian(m, shift=0.0):
    T = scipy.sparse.diags([-1.0, 2.0 + shift / 2, -1.0], [-1, 0, 1], shape=(m, m))
    return (scipy.sparse.kron(scipy.sparse.eye(m), T) + scipy.sparse.kron(T, scipy.sparse.eye(m))).tocsr()


def play(tuned, table, contexts=None):
    for i, row in enumerate(table):
        context = None if contexts is None else contexts[i]
        action = tuned.choose(context)
        tuned.learn(action, row[action], context)
    return sum(tuned.costs)


def test_probabilities_of_tsallis_inf():
    bandit = TsallisINF(3)
    p = bandit.probabilities()
    np.testing.assert_allclose(p, 1 / 3)
    bandit.update(1, 7.0)
    assert bandit.losses.tolist() == pytest.approx([0, 18, 0])
    q = bandit.probabilities()
    eta, scaled = 2 / math.sqrt(2), np.array([0, 18, 0]) / 6
    x = scipy.optimize.brentq(lambda x: (4 / (eta * (scaled - x)) ** 2).sum() - 1, -50, -1e-9)
    np.testing.assert_allclose(q, 4 / (eta * (scaled - x)) ** 2, rtol=1e-9)
    for cost in (1.0, 1e6, 3.0):
        bandit.update(2, cost)
        assert bandit.probabilities().sum() == pytest.approx(1)
    assert bandit.probabilities()[2] < 0.05


def test_learns_the_best_action():
    rng = np.random.default_rng(0)
    table = 1 + rng.exponential([30, 10, 40, 25], (2000, 4))
    tuned = TunedSolver(grid=[1, 2, 3, 4], generator=0)
    total = play(tuned, table)
    assert total < 1.3 * table.sum(0).min()
    assert tuned.parameters[-500:].count(2) > 350
    again = TunedSolver(grid=[1, 2, 3, 4], generator=0)
    assert play(again, table) == total


@pytest.mark.parametrize("name", ["cheb_contextual", "tsallis_bins"])
def test_learns_a_function_of_the_context(name):
    rng = np.random.default_rng(0)
    contexts = rng.uniform(2, 5, 2000)
    # the best of five actions moves with the context
    table = 10 + 30 * np.abs((contexts[:, None] - 2) / 3 - np.linspace(0, 1, 5))
    tuned = TunedSolver(grid=list(range(5)), bandit=name, context=(2, 5), generator=0)
    total = play(tuned, table, contexts)
    assert total < 0.95 * table.sum(0).min()
    if name == "cheb_contextual":
        features = np.cos(np.arange(6) * math.acos(2 * (3.5 - 2) / 3 - 1))
        assert tuned.bandit.theta[2] @ features + 1 == pytest.approx(10, abs=3)


def test_inverse_gaps_and_bounded_coefficients():
    bandit = ChebyshevBandit(3, 0.0, 1.0, terms=2)
    bandit.theta[:, 0], bandit.scale, bandit.eta = [1.0, 2.0, 4.0], 2.0, 10.0
    np.testing.assert_allclose(bandit.probabilities(0.5), [1 - 1 / 8 - 1 / 18, 1 / 8, 1 / 18])
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((50, 4)), rng.standard_normal(50) * 5
    bounds = np.array([0.3, 0.1, 2.0, 0.2])
    exact = scipy.optimize.lsq_linear(X, y, (-bounds, bounds)).x
    found = np.zeros(4)
    bounded_least_squares(X.T @ X, X.T @ y, bounds, found, 1000)
    np.testing.assert_allclose(found, exact, atol=1e-5)


def test_solves_and_learns_over_a_sequence():
    rng = np.random.default_rng(0)
    tuned = TunedSolver(grid=[1.0, 1.5, 1.8], rtol=1e-8, generator=0)
    for shift in rng.uniform(0, 0.3, 60):
        A, b = laplacian(6, shift), rng.standard_normal(36)
        x = tuned.solve(A, b)
        assert np.linalg.norm(A @ x - b) <= 1e-8 * np.linalg.norm(b) * (1 + 1e-6)
    assert len(tuned.costs) == len(tuned.parameters) == 60
    assert tuned.parameters.count(1.5) > tuned.parameters.count(1.0)


def test_any_solver_and_cost():
    def ssor_cg(A, b, omega, **options):
        return cg(A, b, M=ssor_preconditioner(A, omega), **options)

    tuned = TunedSolver(ssor_cg, [0.2, 1.5], cost=lambda info: 1 + info.iterations**2, generator=1)
    A = laplacian(12)
    for _ in range(80):
        tuned.solve(A, np.ones(144))
    assert tuned.parameters[-30:].count(1.5) > 20
    assert min(tuned.costs) == int(math.sqrt(min(tuned.costs) - 1)) ** 2 + 1


def test_failures_cost_and_are_raised():
    tuned = TunedSolver(lambda A, b, w, **o: cg(A, b, maxiter=2, **o), [1.0], generator=0)
    with pytest.raises(ConvergenceError):
        tuned.solve(laplacian(6), np.arange(36.0))
    assert tuned.costs == [2.0]


def test_bad_input():
    for call, error, word in (
        (lambda: TunedSolver(grid=[]), ValueError, "grid"),
        (lambda: TunedSolver(bandit="ucb"), ValueError, "bandit"),
        (lambda: TunedSolver(bandit=3), TypeError, "bandit"),
        (lambda: TunedSolver(bandit="cheb_contextual"), ValueError, "context"),
        (lambda: TsallisBins(2, 0.0, 1.0).probabilities(), ValueError, "context"),
        (lambda: TunedSolver().learn(0, 0.5), ValueError, "cost"),
        (lambda: TunedSolver().learn(0, math.nan), ValueError, "cost"),
    ):
        with pytest.raises(error, match=word):
            call()


def test_a_right_hand_side_of_zero_costs_one():
    tuned = TunedSolver(grid=[1.0, 1.5], generator=0)
    assert not tuned.solve(laplacian(4), np.zeros(16)).any()
    assert tuned.costs == [1.0]
