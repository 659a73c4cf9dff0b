"""kde_mode and kirszbraun_lift: known modes, limits, the lift's inequality, the hard box kernel, gradients."""

from __future__ import annotations

import math
from itertools import combinations

import networkx as nx
import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch.autograd import gradcheck

from resolvent.errors import ConvergenceError
from resolvent.sketch import kde_mode, kirszbraun_lift
from resolvent.sketch.density_profile import climb, profile, shift

KERNELS = [
    ("gaussian", 1.0),
    ("logistic", 1.0),
    ("sigmoid", 1.0),
    ("generalized_gaussian", 1.5),
    ("generalized_gaussian", 1.0),
]


def clusters(n, d, seed=0):
    g = torch.Generator().manual_seed(seed)
    centres = 0.6 * torch.randn(3, d, generator=g, dtype=torch.float64)
    label = torch.multinomial(torch.tensor([0.5, 0.3, 0.2]), n, True, generator=g)
    return centres[label] + torch.randn(n, d, generator=g, dtype=torch.float64)


def value(r, kernel, exponent):
    return {
        "gaussian": lambda r: np.exp(-(r**2) / 2),
        "logistic": lambda r: 1 / (np.exp(r) + 2 + np.exp(-r)),
        "sigmoid": lambda r: 1 / (np.exp(r) + np.exp(-r)),
        "generalized_gaussian": lambda r: np.exp(-(r**exponent)),
    }[kernel](r)


@pytest.mark.parametrize(("kernel", "exponent"), KERNELS)
def test_against_a_search_from_every_point(kernel, exponent):
    X = clusters(60, 2)
    density = lambda x: value(np.linalg.norm(X.numpy() - x, axis=1) / 0.7, kernel, exponent).mean()  # noqa: E731
    best = max(-minimize(lambda x: -density(x), x0, method="Nelder-Mead").fun for x0 in X.numpy()[::4])
    found = kde_mode(X.numpy(), 0.7, kernel, exponent=exponent)
    assert found.density == pytest.approx(density(found.point), rel=1e-12)
    assert found.density >= best * (1 - 1e-6)


@pytest.mark.parametrize(("kernel", "exponent"), KERNELS)
def test_projection_finds_the_mode_of_the_whole_space(kernel, exponent):
    X = clusters(400, 200)
    h = 0.5 * math.sqrt(200) if kernel != "logistic" else 0.2 * math.sqrt(200)
    full = kde_mode(X, h, kernel, exponent=exponent, dim=200, restarts=400)
    found = [
        kde_mode(X, h, kernel, exponent=exponent, dim=20, lift=lift, generator=0)
        for lift in ("mean_shift", "kirszbraun")
    ]
    for mode in found:
        assert float(mode.density) >= 0.98 * float(full.density)


@pytest.mark.parametrize(("kernel", "exponent"), KERNELS)
def test_pull_is_the_derivative_and_the_fused_pass_agrees(kernel, exponent):
    k = profile(kernel, exponent)
    r = torch.linspace(0.01, 6, 40, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(k.log(r * r).exp().sum(), r)
    torch.testing.assert_close(k.log_pull((r * r).detach()).exp(), (-slope / r).detach())
    np.testing.assert_allclose(k.log(r * r).exp().detach(), 1 * value(r.detach().numpy(), kernel, exponent), rtol=1e-12)
    X = clusters(80, 5)
    log_w = torch.rand(80, dtype=torch.float64).log()
    for Y in (X, X[:7] + 0.1):
        for a, b in zip(shift(X, log_w, Y, k), shift(X, log_w, Y, k, exact=True), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_mean_shift_never_goes_down():
    X = clusters(100, 4)
    k = profile("sigmoid", 1.0)
    log_w = torch.full((100,), -math.log(100), dtype=torch.float64)
    Y, before = X, shift(X, log_w, X, k)[0]
    for _ in range(20):
        Y = shift(X, log_w, Y, k)[1]
        after = shift(X, log_w, Y, k)[0]
        assert bool((after >= before - 1e-12).all())
        before = after
    assert bool((climb(X, log_w, X, k, 1e-8, 500, merge=False).log_density >= after - 1e-7).all())


def test_one_point_two_points_and_weights():
    assert float(kde_mode(torch.tensor([[1.0, 2.0]])).density) == pytest.approx(1)
    X = np.array([[-3.0], [3.0]])
    left = kde_mode(X, weights=[3, 1])
    assert left.point[0] == pytest.approx(-3, abs=1e-4)
    assert kde_mode(np.array([[-0.5], [0.5]])).point[0] == pytest.approx(0, abs=1e-3)
    assert kde_mode(X, kernel="generalized_gaussian", weights=[0, 1]).point.tolist() == [3.0]
    # A cusp: the sharp kernel's mode is a point of the data.
    sharp = kde_mode(X, kernel="generalized_gaussian", weights=[3, 1])
    assert sharp.point.tolist() == [-3.0]
    assert sharp.density == pytest.approx(0.75 + 0.25 * math.exp(-6))


def test_invariances_and_single_precision():
    X = clusters(200, 3)
    Q = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64)).Q
    a, b = kde_mode(X, 0.8), kde_mode(5 * X @ Q + 100, 4.0)
    torch.testing.assert_close(b.point, 5 * a.point @ Q + 100, rtol=1e-4, atol=1e-2)
    assert float(a.density) == pytest.approx(float(b.density), rel=1e-7)
    single = kde_mode(X.float(), 0.8)
    assert single.point.dtype == torch.float32
    assert float(single.density) == pytest.approx(float(a.density), rel=1e-5)


def test_gradient_of_the_density():
    X = clusters(6, 2).requires_grad_()
    w = torch.rand(6, dtype=torch.float64).add(0.5).requires_grad_()
    h = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    for kernel in ("gaussian", "logistic"):
        assert gradcheck(lambda X, w, h, k=kernel: kde_mode(X, h, k, w, rtol=1e-14).density, (X, w, h), atol=1e-6)
    assert not kde_mode(X, h).point.requires_grad


def test_lift_meets_its_inequality():
    g = torch.Generator().manual_seed(0)
    X = torch.randn(60, 40, generator=g, dtype=torch.float64)
    low = X @ torch.randn(40, 15, generator=g, dtype=torch.float64) / math.sqrt(15)
    y = low[:5].mean(0)
    upper = torch.triu_indices(60, 60, 1).unbind()
    stretch = float((torch.cdist(X, X)[upper] / torch.cdist(low, low)[upper]).max())
    # Kirszbraun's theorem promises this very factor.
    x = kirszbraun_lift(X, low, y, eps=stretch - 1)
    assert bool(((x - X).norm(dim=1) <= stretch * (y - low).norm(dim=1) * (1 + 1e-9)).all())
    torch.testing.assert_close(kirszbraun_lift(X, X, X[3], eps=0.0), X[3])
    with pytest.raises(ConvergenceError, match="grow") as failed:
        kirszbraun_lift(X, low, y, eps=0.0)
    assert failed.value.error > 0
    with pytest.raises(ValueError, match="shapes"):
        kirszbraun_lift(X, low[:3], y)


def test_the_box_kernel_is_as_hard_as_cliques():
    """Points of a graph of which s lie in one ball of the box kernel exactly if the graph has a clique of s nodes."""
    for seed in range(6):
        graph = nx.gnp_random_graph(9, 0.6, seed=seed)
        gaps = list(nx.complement(graph).edges)
        degrees = [d for _, d in nx.complement(graph).degree]
        most, size = max(degrees), 4
        P = np.zeros((9, len(gaps) + 9))
        for j, (u, v) in enumerate(gaps):
            P[u, j], P[v, j] = 1, -1
        P[range(9), len(gaps) + np.arange(9)] = np.sqrt(most - np.array(degrees))
        limit = most * (1 - 1 / size)
        # The least mean square distance is at the centroid: above the limit, no ball holds the set.
        fits = any(
            max(((P[list(c)] - P[list(c)].mean(0)) ** 2).sum(1)) <= limit + 1e-9 for c in combinations(range(9), size)
        )
        assert fits == (max(len(c) for c in nx.find_cliques(graph)) >= size)
    with pytest.raises(ValueError, match="NP-hard"):
        kde_mode(torch.ones(3, 2), kernel="box")


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda X: kde_mode(X[0]), "shape"),
        (lambda X: kde_mode(X * math.inf), "infinite|NaN"),
        (lambda X: kde_mode(X, 0.0), "bandwidth"),
        (lambda X: kde_mode(X, kernel="cubic"), "kernel"),
        (lambda X: kde_mode(X, kernel="generalized_gaussian", exponent=3.0), "exponent"),
        (lambda X: kde_mode(X, dim=0), "dim"),
        (lambda X: kde_mode(X, lift="up"), "lift"),
        (lambda X: kde_mode(X, rtol=0.0), "rtol"),
        (lambda X: kde_mode(X, weights=[1, 2]), "weights"),
    ],
)
def test_bad_input(call, word):
    with pytest.raises(ValueError, match=word):
        call(torch.ones(3, 2))
