"""pivotal_sample and active_regression: marginals, sizes, repulsion, known methods as limits, fits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from resolvent.random import gaussian
from resolvent.sketch import active_regression, pivotal_sample
from resolvent.sketch.pivotal import contests


def polynomial(n=200, degree=3):
    t = torch.linspace(-1, 1, n, dtype=torch.float64)[:, None]
    return t, torch.cos(torch.arccos(t) * torch.arange(degree + 1))


@pytest.mark.parametrize("way", ["pca", "coordinate", "given"])
def test_marginals_and_size(way):
    runs, n, k = 3000, 60, 7
    points = gaussian((n, 2), generator=0).numpy()
    p = np.random.default_rng(0).random(n) ** 2
    p[3] = 0
    p = np.minimum(1, p * (k / p.sum()))
    p[p < 1] *= (k - (p >= 1).sum()) / p[p < 1].sum()
    rng = np.random.default_rng(1)
    counts = np.zeros(n)
    for _ in range(runs):
        rows = contests(p, None if way == "given" else points, way, rng.random(n), k)
        assert len(rows) == k
        counts[rows] += 1
    free = (p > 0) & (p < 1)
    assert counts[3] == 0 and (counts[p >= 1] == runs).all()
    # The counts are negatively dependent, so their sum of squares is at most about that of independent ones.
    statistic = ((counts - runs * p)[free] ** 2 / (runs * p * (1 - p))[free]).sum()
    assert chi2.ppf(1e-4, free.sum()) < statistic < chi2.ppf(1 - 1e-3, free.sum())


def test_equal_probabilities_in_order_leave_no_two_gaps_empty():
    """With p = 1/4 each the chain is systematic-like: every eight rows in a row hold at least one winner."""
    p, rng = np.full(400, 0.25), np.random.default_rng(0)
    for _ in range(50):
        gaps = np.diff(contests(p, None, "pca", rng.random(400), 100))
        assert gaps.max() <= 8
    independent = max(np.diff(np.flatnonzero(rng.random(400) < 0.25)).max() for _ in range(50))
    assert independent > 8


def test_the_tree_spreads_samples_in_space():
    X = torch.rand(1024, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    cells = (X * 4).long() @ torch.tensor([4, 1])
    for split in ("pca", "coordinate"):
        spread = []
        for seed in range(100):
            rows = pivotal_sample(X, 64, coords=X, split=split, scores=torch.ones(1024), generator=seed).rows
            spread.append(torch.bincount(cells[rows], minlength=16).double().var())
        # Independent samples have the variance 64/16 * 15/16 = 3.75 in every cell.
        assert float(torch.stack(spread).mean()) < 1.9


def test_k_rows_of_rank_k_and_kinds():
    A = torch.eye(5, dtype=torch.float64)
    sample = pivotal_sample(A, 5, generator=0)
    assert sample.rows.tolist() == [0, 1, 2, 3, 4] and sample.weights.tolist() == [1.0] * 5
    t, X = polynomial()
    sample = pivotal_sample(X.float().numpy(), 9, coords=t.numpy(), generator=0)
    assert isinstance(sample.rows, np.ndarray) and sample.weights.dtype == np.float32 and len(sample.rows) == 9
    again = pivotal_sample(X, 9, order="given", generator=0)
    assert torch.equal(again.rows, pivotal_sample(X, 9, order="given", generator=0).rows)


@pytest.mark.parametrize("method", ["pivotal", "bernoulli", "replacement", "uniform"])
def test_what_lies_in_the_range_is_found_exactly(method):
    t, X = polynomial()
    x = gaussian((4, 2), generator=0)
    asked = []

    def query(rows):
        asked.extend(rows.tolist())
        return X[rows] @ x

    fit = active_regression(X, query, 24, method=method, coords=t, generator=0)
    torch.testing.assert_close(fit.coefficients, x)
    assert asked == fit.rows.tolist() and fit.values.shape == (len(asked), 2)


def test_residuals_and_weights():
    t, X = polynomial(500, 5)
    b = torch.exp(3 * t[:, 0]) + 0.1 * gaussian((500,), generator=1)
    best = float((X @ torch.linalg.lstsq(X, b[:, None]).solution[:, 0] - b).norm())
    medians = {}
    for method in ("pivotal", "bernoulli"):
        fits = [active_regression(X, b, 15, method=method, coords=t, generator=s) for s in range(200)]
        medians[method] = float(np.median([float((X @ f.coefficients - b).norm()) for f in fits])) / best
    assert medians["pivotal"] < 1.5 and medians["pivotal"] < medians["bernoulli"]
    f = fits[0]
    X1, b1 = f.weights[:, None] * X[f.rows], f.weights * b[f.rows]
    torch.testing.assert_close(f.coefficients, torch.linalg.lstsq(X1, b1[:, None]).solution[:, 0])


def test_gradients_flow_from_the_answers():
    t, X = polynomial()
    b = gaussian((200,), generator=0).requires_grad_()
    fit = active_regression(X, b, 12, coords=t, generator=0)
    (g,) = torch.autograd.grad(fit.coefficients.sum(), b)
    assert int((g != 0).sum()) == 12


def test_bad_input():
    t, X = polynomial()
    for call, word in (
        (lambda: pivotal_sample(X, 0), "k must"),
        (lambda: pivotal_sample(X, 201), "k must"),
        (lambda: pivotal_sample(X, 5, order="random"), "order"),
        (lambda: pivotal_sample(X, 5, split="median"), "split"),
        (lambda: pivotal_sample(X, 5, coords=t[:7]), "coords"),
        (lambda: pivotal_sample(X, 5, scores=torch.ones(3)), "scores"),
        (lambda: pivotal_sample(X[None], 5), "batch"),
        (lambda: active_regression(X, t, 5, method="best"), "method"),
        (lambda: active_regression(X, lambda rows: torch.ones(3), 5), "query"),
        (lambda: active_regression(X, lambda rows: torch.full((5,), float("nan")), 5), "query"),
    ):
        with pytest.raises(ValueError, match=word):
            call()
