"""bures_loss, bures_low_rank, bures_critical_point and deep_linear_covariance: SciPy, all critical points, invariances."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import scipy.linalg
import torch
from torch.autograd import gradcheck

from resolvent.errors import ConvergenceError
from resolvent.factor import bures_critical_point, bures_loss, bures_low_rank, deep_linear_covariance
from resolvent.random import gaussian


def covariance(m=6, seed=0, dtype=torch.float64):
    A = gaussian((m, 2 * m), dtype, generator=seed)
    return A @ A.mH / (2 * m)


def by_scipy(S0, S):
    S0, S = np.asarray(S0), np.asarray(S)
    root = scipy.linalg.sqrtm(S0)
    return (np.trace(S0) + np.trace(S) - 2 * np.trace(scipy.linalg.sqrtm(root @ S @ root))).real


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("tau", [0.0, 0.2])
def test_loss_against_scipy(dtype, tau):
    S0, W = covariance(dtype=dtype), gaussian((6, 7), dtype, generator=1)
    S = W @ W.mH + tau * torch.eye(6)
    assert float(bures_loss(S0, W, tau=tau)) == pytest.approx(by_scipy(S0, S), rel=1e-8)
    assert type(bures_loss(S0.numpy(), W.numpy())) is float
    many = bures_loss(S0, torch.stack([W, 2 * W]), tau=tau)
    torch.testing.assert_close(many[1], bures_loss(S0, 2 * W, tau=tau))


def test_loss_is_a_distance():
    S0 = covariance()
    Q = torch.linalg.qr(gaussian((6, 6), generator=2)).Q
    W = gaussian((6, 3), generator=1)
    torch.testing.assert_close(bures_loss(Q @ S0 @ Q.mT, Q @ W), bures_loss(S0, W))
    assert abs(float(bures_loss(S0, torch.linalg.cholesky(S0) @ Q))) < 1e-13
    # Commuting matrices: the distance of the roots.
    a, b = torch.tensor([4.0, 1.0]).double(), torch.tensor([9.0, 0.25]).double()
    assert float(bures_loss(a.diag(), b.sqrt().diag())) == pytest.approx(float((a.sqrt() - b.sqrt()).square().sum()))


def test_gradients():
    S0, W = covariance(4).requires_grad_(), gaussian((4, 2), generator=1).requires_grad_()
    symmetric = lambda S: (S + S.mT) / 2  # noqa: E731
    assert gradcheck(lambda S, W: bures_loss(symmetric(S), W, tau=0.3), (S0, W))
    assert gradcheck(lambda S, W: bures_loss(symmetric(S), W), (S0, W))
    assert gradcheck(lambda S: bures_low_rank(symmetric(S), 2, tau=0.1).value, S0)
    assert gradcheck(lambda S: bures_low_rank(symmetric(S), 2).value, S0)
    product = lambda S: (F := bures_low_rank(symmetric(S), 2, tau=0.1).factor) @ F.mT  # noqa: E731
    assert gradcheck(product, S0)
    C, Z = covariance(3, dtype=torch.complex128), gaussian((3, 2), torch.complex128, generator=1)
    hermitian = lambda S: (S + S.mH) / 2  # noqa: E731
    assert gradcheck(lambda S, W: bures_loss(hermitian(S), W, tau=0.3), (C.requires_grad_(), Z.requires_grad_()))


@pytest.mark.parametrize("tau", [0.0, 0.3])
def test_low_rank_is_the_least_of_many(tau):
    S0 = covariance()
    w = torch.linalg.eigvalsh(S0).flip(0)
    found = bures_low_rank(S0, 3, tau=tau)
    assert float(found.value) == pytest.approx(
        by_scipy(S0, found.factor @ found.factor.mT + tau * torch.eye(6)), abs=1e-6
    )
    assert float(found.value) == pytest.approx(float(bures_loss(S0, found.factor, tau=tau)), rel=1e-10)
    torch.testing.assert_close(found.eigenvalues, (w[:3] - tau).clamp_min(0))
    for seed in range(30):
        near = found.factor + 0.1 * gaussian((6, 3), generator=seed)
        assert float(bures_loss(S0, near, tau=tau)) > float(found.value)
    if tau == 0:
        assert float(found.value) == pytest.approx(float(w[3:].sum()))


def test_low_rank_below_the_threshold_and_batches():
    S0 = torch.diag(torch.tensor([4.0, 0.25, 0.04])).double()
    found = bures_low_rank(S0, 2, tau=1.0)
    torch.testing.assert_close(found.eigenvalues, torch.tensor([3.0, 0.0]).double())
    assert float(found.value) == pytest.approx(0.5**2 + 0.8**2)
    assert float(found.value) == pytest.approx(float(bures_loss(S0, found.factor, tau=1.0)))
    many = bures_low_rank(torch.stack([covariance(), 2 * covariance()]), 2)
    assert many.factor.shape == (2, 6, 2) and many.value.shape == (2,)
    assert isinstance(bures_low_rank(S0.numpy(), 1).factor, np.ndarray)
    assert bures_low_rank(S0.float(), 1).factor.dtype == torch.float32


@pytest.mark.parametrize("tau", [0.0, 0.05])
def test_every_critical_point(tau):
    S0, k = covariance(5), 2
    w, V = (t.flip(-1) for t in torch.linalg.eigh(S0))
    turn = torch.linalg.qr(gaussian((3, 3), generator=3)).Q[:k]
    for J in combinations(range(5), k):
        W = V[:, list(J)] * (w[list(J)] - tau).sqrt() @ turn
        found = bures_critical_point(S0, W, k=k, tau=tau)
        assert found.kept == J and found.gradient < 1e-10 and found.minimum == (J == (0, 1))
        if not found.minimum:
            h = 1e-3
            bend = sum(
                c * float(bures_loss(S0, W + t * h * found.direction, tau=tau)) for c, t in ((1, -1), (-2, 0), (1, 1))
            )
            assert found.curvature < 0 and bend / h**2 == pytest.approx(found.curvature, rel=1e-3)
            assert float(found.direction.norm()) == pytest.approx(1)


def test_a_missing_direction_is_a_saddle():
    S0 = torch.diag(torch.tensor([4.0, 1.0, 0.25])).double()
    W = torch.zeros(3, 2, dtype=torch.float64)
    W[0, 0] = 3.9**0.5
    found = bures_critical_point(S0, W, tau=0.1)
    h = 1e-3
    bend = 2 * float(bures_loss(S0, W + h * found.direction, tau=0.1) - bures_loss(S0, W, tau=0.1)) / h**2
    assert found.kept == (0,) and bend == pytest.approx(found.curvature, rel=1e-3)
    assert bures_critical_point(S0, bures_low_rank(S0, 2, tau=2.0).factor, tau=2.0).minimum
    with pytest.raises(ValueError, match="rank"):
        bures_critical_point(S0, W)
    with pytest.raises(ValueError, match="gradient"):
        bures_critical_point(S0, torch.eye(3).double()[:, :2])


@pytest.mark.parametrize(
    ("widths", "init"), [((6, 6), "gaussian"), ((6, 2, 6), "balanced"), ((3, 2, 4, 6), "balanced")]
)
def test_descent_reaches_the_closed_form(widths, init):
    S0 = covariance()
    found = deep_linear_covariance(S0, widths, init=init, generator=0)
    best = float(bures_low_rank(S0, min(widths)).value)
    assert best - 1e-12 <= found.value < best + 1e-8 and found.gradient <= 1e-7
    assert [tuple(f.shape) for f in found.factors] == list(zip(widths[1:], widths, strict=False))
    W = found.factors[0]
    for f in found.factors[1:]:
        W = f @ W
    torch.testing.assert_close(W, found.product)
    assert bool((found.losses.diff() < 1e-12).all()) and len(found.losses) == found.steps + 1


def test_descent_with_a_shift_float32_complex_and_numpy():
    S0 = covariance()
    for S in (S0, covariance(dtype=torch.complex128)):
        found = deep_linear_covariance(S, (6, 3, 6), tau=0.5, generator=0)
        assert found.value == pytest.approx(float(bures_low_rank(S, 3, tau=0.5).value), abs=1e-8)
    low = deep_linear_covariance(S0.float().numpy(), (6, 2, 6), init="identity")
    assert low.product.dtype == np.float32
    assert low.value == pytest.approx(float(bures_low_rank(S0, 2).value), abs=1e-5)
    for size in (1e-30, 1e30):
        far = deep_linear_covariance((size * S0).float(), (6, 2, 6), generator=0)
        assert far.value / size == pytest.approx(float(bures_low_rank(S0, 2).value), rel=1e-3)
    start = [gaussian((2, 6), generator=0), gaussian((6, 2), generator=1)]
    kept = [f.clone() for f in start]
    again = deep_linear_covariance(S0, (6, 2, 6), init=start, lr=0.02)
    assert again.value == pytest.approx(float(bures_low_rank(S0, 2).value), abs=1e-8)
    assert all(torch.equal(a, b) for a, b in zip(start, kept, strict=True))


def test_balance_is_kept_by_small_steps():
    S0 = covariance()
    drift = []
    for lr in (1e-2, 1e-3):
        with pytest.raises(ConvergenceError) as caught:
            deep_linear_covariance(S0, (6, 2, 6), lr=lr, max_steps=round(1 / lr), generator=0)
        drift.append(caught.value.best.balancedness)
    assert 0 < drift[1] < drift[0] / 5 and drift[1] < 1e-3


def test_bad_input():
    S0 = covariance(3)
    for call, word in (
        (lambda: bures_loss(torch.ones(3, 2), S0), "S0 must have shape"),
        (lambda: bures_loss(torch.tensor([[1.0, 2.0], [0.0, 1.0]]), torch.eye(2)), "Hermitian"),
        (lambda: bures_loss(-S0, S0), "semidefinite"),
        (lambda: bures_loss(S0, torch.ones(2, 2)), "W must have shape"),
        (lambda: bures_loss(S0, torch.ones(3, 2)), "float64"),
        (lambda: bures_loss(S0, S0, tau=-1.0), "tau"),
        (lambda: bures_low_rank(S0, 4), "k must be"),
        (lambda: deep_linear_covariance(S0, (3, 2)), "last of widths"),
        (lambda: deep_linear_covariance(S0, (3,)), "widths"),
        (lambda: deep_linear_covariance(S0, (3, 3), init="zero"), "init"),
        (lambda: deep_linear_covariance(S0, (3, 3), init=[S0[:2]]), "shapes"),
        (lambda: deep_linear_covariance(S0, (3, 3), lr=0.0), "lr"),
        (lambda: deep_linear_covariance(S0, (3, 3, 3), lr=1e3, generator=0), "too large"),
        (lambda: deep_linear_covariance(S0.requires_grad_(), (3, 3)), "gradients"),
    ):
        with pytest.raises(ValueError, match=word):
            call()
