"""linear_estimator, its filters and their risk: convex solvers, known estimators, simulation, limits, gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from resolvent.random import gaussian
from resolvent.solve import (
    SchattenRegressor,
    estimator_risk,
    estimator_risk_limit,
    linear_estimator,
    schatten_filter,
)

NORMS = ["nuclear", 1.5, "frobenius", 3.0, "spectral"]


def strength_of(bias):
    return 0.3 if bias == "spectral" else 2.0


def matrix_of(X, bias, strength):
    """L, column by column."""
    return linear_estimator(X, torch.eye(len(X), dtype=X.dtype), bias, strength)


@pytest.mark.parametrize("bias", [1.01, 1.5, 2.0, 3.0, 40.0])
def test_the_filter_meets_lagranges_conditions(bias):
    s = torch.logspace(-6, 6, 200, dtype=torch.float64)
    a = schatten_filter(s, bias, 1.7)
    b = 1 - a * s
    assert bool((b >= -1e-15).all()) and bool((b <= 1).all())
    # alpha (1 - b) = s^2 b^(p - 1), both sides divided by 1 + s^2
    left, right = 1.7 * a * s / (1 + s * s), s * s * b.clamp(min=0) ** (bias - 1) / (1 + s * s)
    strong = b > 1e-10
    torch.testing.assert_close(left[strong], right[strong], rtol=1e-5, atol=1e-12)


def test_filters_that_are_known():
    s = torch.tensor([3.0, 1.0, 0.1, 0.0], dtype=torch.float64)
    torch.testing.assert_close(schatten_filter(s, "frobenius", 0.5), s / (s * s + 0.5))
    torch.testing.assert_close(schatten_filter(s, 2, 0.5), schatten_filter(s, "frobenius", 0.5))
    torch.testing.assert_close(
        schatten_filter(s, "nuclear", 0.5), torch.tensor([1 / 3, 1, 0.2, 0], dtype=torch.float64)
    )
    torch.testing.assert_close(schatten_filter(s, math.inf, 0.5), torch.tensor([1 / 6, 0.5, 5, 0], dtype=torch.float64))
    # exponents between the named ones meet them
    torch.testing.assert_close(
        schatten_filter(s, 1.0001, 0.5), schatten_filter(s, "nuclear", 0.5), rtol=1e-3, atol=1e-3
    )
    for bias in NORMS:
        torch.testing.assert_close(schatten_filter(s[:3], bias, 0.0), 1 / s[:3])


@pytest.mark.parametrize("bias", ["nuclear", "frobenius", "spectral"])
@pytest.mark.parametrize("shape", [(6, 4), (3, 5)])
def test_the_convex_problem(bias, shape):
    cvxpy = pytest.importorskip("cvxpy")
    X = gaussian(shape, generator=1)
    if bias == "spectral" and shape[0] < shape[1]:
        return  # the bias on the null space is 1 whatever L, so the norm says nothing
    L = matrix_of(X, bias, strength_of(bias)).numpy()
    d = shape[1]
    order = {"nuclear": "nuc", "frobenius": "fro", "spectral": 2}[bias]
    budget = np.linalg.norm(L @ X.numpy() - np.eye(d), order)
    V = cvxpy.Variable((d, shape[0]))
    problem = cvxpy.Problem(
        cvxpy.Minimize(cvxpy.sum_squares(V)), [cvxpy.norm(V @ X.numpy() - np.eye(d), order) <= budget]
    )
    problem.solve(solver="CLARABEL")
    np.testing.assert_allclose(L, V.value, atol=3e-5)
    assert np.sum(L**2) == pytest.approx(problem.value, rel=1e-6)


@pytest.mark.parametrize("bias", [1.5, 3.0])
def test_other_exponents_are_stationary(bias):
    X = gaussian((7, 4), generator=2)
    L = matrix_of(X, bias, 2.0).requires_grad_()
    # 2 L + mu d/dL |L X - I|_p^p = 0 with mu = 2 / (p alpha)
    s = torch.linalg.svdvals(L @ X - torch.eye(4, dtype=L.dtype))
    (g,) = torch.autograd.grad((L**2).sum() + (s**bias).sum() * 2 / (bias * 2.0), L)
    assert float(g.abs().max()) < 1e-10


def test_ridge_and_least_squares():
    X, y = gaussian((20, 5), generator=0), gaussian((20,), generator=1)
    ridge = torch.linalg.solve(X.mT @ X + 0.7 * torch.eye(5, dtype=X.dtype), X.mT @ y)
    torch.testing.assert_close(linear_estimator(X, y, strength=0.7), ridge)
    for bias in NORMS:
        torch.testing.assert_close(linear_estimator(X, y, bias, 0.0), torch.linalg.lstsq(X, y[:, None]).solution[:, 0])
    wide = X.mT.contiguous()
    torch.testing.assert_close(linear_estimator(wide, y[:5], "nuclear", 0.0), torch.linalg.pinv(wide) @ y[:5])


def test_rotations_batches_kinds_and_precision():
    X, Y = gaussian((3, 9, 4), generator=0), gaussian((3, 9, 2), generator=1)
    Q = torch.linalg.qr(gaussian((4, 4), generator=2)).Q
    for bias in NORMS:
        found = linear_estimator(X, Y, bias, strength_of(bias))
        torch.testing.assert_close(Q @ linear_estimator(X @ Q, Y, bias, strength_of(bias)), found)
        torch.testing.assert_close(linear_estimator(X[1], Y[1], bias, strength_of(bias)), found[1])
        single = linear_estimator(X.float(), Y.float(), bias, strength_of(bias))
        assert single.dtype == torch.float32
        torch.testing.assert_close(single.double(), found, rtol=1e-4, atol=1e-5)
        assert isinstance(linear_estimator(X[0].numpy(), Y[0].numpy(), bias, strength_of(bias)), np.ndarray)


@pytest.mark.parametrize("bias", NORMS)
def test_gradients(bias):
    X, y = gaussian((6, 3), generator=0).requires_grad_(), gaussian((6,), generator=1).requires_grad_()
    alpha = torch.tensor(strength_of(bias) / 2, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda X, y, c: linear_estimator(X, y, bias, c), (X, y, alpha))
    wide = gaussian((3, 5), generator=2).requires_grad_()
    assert gradcheck(lambda X: linear_estimator(X, y.detach()[:3], bias, alpha.detach()), wide)
    s = torch.tensor([2.0, 1.1, 0.3], dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda s, c: schatten_filter(s, bias, c), (s, alpha))


def test_gradients_at_repeated_and_zero_singular_values():
    y = gaussian((4,), generator=1)
    for bias in ("frobenius", 1.5, 3.0, "spectral"):
        same = torch.eye(4, 3, dtype=torch.float64).requires_grad_()
        assert gradcheck(lambda X, bias=bias: linear_estimator(X, y, bias, 0.7), same)
    deficient = torch.diag(torch.tensor([2.0, 0.0, 0.0], dtype=torch.float64)).requires_grad_()
    assert gradcheck(lambda X: linear_estimator(X, y[:3], "nuclear", 0.7), deficient)
    with pytest.raises(ValueError, match="full rank"):
        linear_estimator(deficient, y[:3], "spectral", 0.5).sum().backward()


def test_cross_validation_is_what_it_says():
    X, y = gaussian((30, 6), generator=0), gaussian((30,), generator=1)
    y = y + X @ torch.ones(6, dtype=y.dtype)
    for bias in ("nuclear", "frobenius", "spectral"):
        _, info = linear_estimator(X, y, bias, cv=3, generator=4, return_info=True)
        order = torch.randperm(30, generator=torch.Generator().manual_seed(4))
        for at in (20, 60):
            total = 0.0
            for fold in order.tensor_split(3):
                kept = torch.tensor([i for i in range(30) if i not in set(fold.tolist())])
                beta = linear_estimator(X[kept], y[kept], bias, info.grid[at])
                total += float(((y[fold] - X[fold] @ beta) ** 2).sum())
            assert info.scores[at] == pytest.approx(total / 30)
        assert info.strength == info.grid[int(np.argmin(info.scores))]
    _, info = linear_estimator(X, y, cv="gcv", return_info=True)
    H = X @ torch.linalg.solve(X.mT @ X + info.grid[50] * torch.eye(6, dtype=X.dtype), X.mT)
    expected = 30 * float(((y - H @ y) ** 2).sum()) / (30 - float(H.trace())) ** 2
    assert info.scores[50] == pytest.approx(expected)


@pytest.mark.parametrize("bias", NORMS)
@pytest.mark.parametrize("shape", [(40, 15), (15, 40)])
def test_risk_against_simulation(bias, shape):
    n, d = shape
    X = gaussian(shape, generator=0)
    strength = 0.3 if bias == "spectral" else 20.0
    beta = 2 * gaussian((d, 8000), generator=1) / d**0.5
    Y = X @ beta + 0.5 * gaussian((n, 8000), generator=2)
    error = float(((linear_estimator(X, Y, bias, strength) - beta) ** 2).sum(0).mean())
    s = torch.linalg.svdvals(X)
    found = estimator_risk(s, bias, strength, signal=2, noise=0.5, dim=d)
    assert found.total == pytest.approx(error, rel=0.02)
    assert found == estimator_risk(
        s, lambda s: schatten_filter(s, bias, strength), strength, signal=2, noise=0.5, dim=d
    )


@pytest.mark.parametrize("aspect", [0.3, 0.7, 1.5])
def test_limits(aspect):
    assert estimator_risk_limit(aspect, strength=0.0).bias == pytest.approx(max(0, 1 - 1 / aspect), abs=1e-9)
    assert estimator_risk_limit(aspect, strength=0.0).variance == pytest.approx(
        aspect / (1 - aspect) if aspect < 1 else 1 / (aspect - 1), rel=1e-6
    )
    # the best ridge has strength sigma^2 d / r^2
    best = estimator_risk_limit(aspect, signal=2.0, noise=0.5)
    assert best.strength == pytest.approx(aspect * 0.25 / 4, rel=1e-3)
    for bias in ("nuclear", "spectral", 1.5):
        found = estimator_risk_limit(aspect, bias, signal=2.0, noise=0.5)
        assert best.total <= found.total + 1e-9
        for factor in (0.9, 1.1):
            near = estimator_risk_limit(aspect, bias, min(1.0, factor * found.strength), signal=2.0, noise=0.5)
            assert near.total >= found.total - 1e-9


def test_the_regressor():
    from sklearn.base import clone
    from sklearn.kernel_ridge import KernelRidge
    from sklearn.linear_model import Ridge

    X, y = gaussian((40, 5), generator=0).numpy() + 3, gaussian((40,), generator=1).numpy() + 2
    ours, theirs = SchattenRegressor(strength=1.3).fit(X, y), Ridge(1.3).fit(X, y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_)
    assert ours.intercept_ == pytest.approx(theirs.intercept_)
    assert ours.score(X, y) == pytest.approx(theirs.score(X, y))
    assert clone(ours).get_params() == ours.get_params()

    def rbf(X, Z):
        return np.exp(-0.1 * ((X[:, None] - Z[None]) ** 2).sum(-1))

    machine = SchattenRegressor(strength=0.4, kernel=rbf, fit_intercept=False).fit(X, y)
    known = KernelRidge(alpha=0.4, kernel=rbf_pair(rbf)).fit(X, y)
    np.testing.assert_allclose(machine.predict(X[:7] + 0.1), known.predict(X[:7] + 0.1), rtol=1e-6)
    # a linear kernel is no kernel, also with an intercept, folds and other norms
    for bias in ("nuclear", "spectral", 3.0):
        plain = SchattenRegressor(bias, 0.7).fit(X, y)
        kernel = SchattenRegressor(bias, 0.7, kernel=lambda X, Z: X @ Z.T).fit(X, y)
        np.testing.assert_allclose(kernel.predict(X - 1), plain.predict(X - 1), rtol=1e-6)
    assert SchattenRegressor("nuclear").fit(torch.from_numpy(X), torch.from_numpy(y)).predict(
        torch.from_numpy(X)
    ).shape == (40,)


def rbf_pair(kernel):
    return lambda a, b: float(kernel(a[None], b[None])[0, 0])


def test_bad_input():
    X, y = torch.eye(4), torch.ones(4)
    for call, word in (
        (lambda: linear_estimator(X, torch.ones(3)), "rows"),
        (lambda: linear_estimator(X, y, "trace", 1.0), "bias"),
        (lambda: linear_estimator(X, y, 0.5, 1.0), "bias"),
        (lambda: linear_estimator(X, y, strength=-1.0), "strength"),
        (lambda: linear_estimator(X, y, "spectral", 1.5), "strength"),
        (lambda: linear_estimator(X, y, strength=torch.ones(2)), "strength"),
        (lambda: linear_estimator(X, y, cv=9), "cv"),
        (lambda: linear_estimator(torch.zeros(4, 2), y, cv=2), "zero"),
        (lambda: linear_estimator(torch.full((4, 2), math.nan), y, strength=1.0), "NaN"),
        (lambda: linear_estimator(torch.ones(2, 4, 2), torch.ones(2, 4, 1)), "batch"),
        (lambda: schatten_filter([-1.0]), "at least 0"),
        (lambda: estimator_risk([1.0, 2.0], dim=1), "dim"),
        (lambda: estimator_risk_limit(0.0), "aspect"),
        (lambda: SchattenRegressor().predict(X), "fit"),
        (lambda: SchattenRegressor(kernel=lambda X, Z: -X @ Z.T).fit(X, y), "semidefinite"),
        (lambda: SchattenRegressor().set_params(alpha=1), "alpha"),
    ):
        with pytest.raises(ValueError, match=word):
            call()
    with pytest.raises(TypeError, match="dtype"):
        linear_estimator(X, y.double(), strength=1.0)


@pytest.mark.parametrize("bias", [1.2, 1.5, 3.0])
def test_filters_of_tiny_singular_values_and_their_second_derivatives(bias):
    for dtype, tiny in ((torch.float32, 1e-22), (torch.float64, 1e-180)):
        found = schatten_filter(torch.tensor([tiny, 1.0], dtype=dtype), bias, 0.5)
        assert float(found[0]) == pytest.approx(tiny / 0.5, rel=1e-3)
    s = (0.2 + gaussian((4,), torch.float64, generator=0).abs()).requires_grad_()
    alpha = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    assert gradgradcheck(lambda s, a: schatten_filter(s, bias, a), (s, alpha))
