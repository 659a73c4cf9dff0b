"""unmix and its scores: descent, exact data, bad channels, the guidance, matching, float32, refusals."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from resolvent.errors import ConvergenceError
from resolvent.factor import Scene, fcls, synthetic_scene, unmix, unmixing_benchmark, unmixing_scores
from resolvent.factor.unmixing import _Problem, guidance_map
from resolvent.operators.threads import one_thread
from resolvent.random import as_generator

SCENE = synthetic_scene(24, 8, 3, snr=30, bands=40, generator=0)


def corrupted(scene, count=4, size=2.0):
    """The scene with gross noise in some channels, the others, and a start that has not seen it."""
    rng = as_generator(1)
    bad = torch.randperm(len(scene.Y), generator=rng)[:count]
    good = torch.ones(len(scene.Y), dtype=torch.bool)
    good[bad] = False
    Y = scene.Y.clone()
    Y[bad] += size * torch.rand(count, Y.shape[1], generator=rng, dtype=torch.float64)
    start = unmix(scene.Y[good], scene.M.shape[1], method="fcls", generator=0)
    M = Y.mean(1, keepdim=True).repeat(1, scene.M.shape[1])
    M[good] = start.M
    return Y, good, (M, start.A)


@pytest.mark.parametrize("method", ["robust_guided", "nmf", "l1", "l1/2", "graph"])
def test_no_step_increases_the_objective(method):
    Y = SCENE.Y
    start = unmix(Y, 3, method="fcls", generator=0)
    M, A = start.M, start.A.clamp_min(1e-8)
    problem = _Problem(Y, method, 0.05, SCENE.shape, 15.0, M, A)
    values = [problem.value(M, A)]
    for _ in range(60):
        M, A = problem.step(M, A)
        values.append(problem.value(M, A))
    assert all(new <= old * (1 + 1e-12) for old, new in itertools.pairwise(values))
    assert values[-1] < values[0]


@pytest.mark.parametrize("method, lam", [("robust_guided", 0.0), ("nmf", 0.0), ("l1/2", 0.01)])
def test_the_limit_is_stationary(method, lam):
    # At a minimum the derivative of the objective by a scaling of one row of M is zero.
    scene = synthetic_scene(8, 4, 2, snr=40, bands=10, generator=0)
    start = unmix(scene.Y, 2, method="fcls", generator=0)
    M, A = start.M, start.A.clamp_min(1e-8)
    problem = _Problem(scene.Y, method, lam, scene.shape, 15.0, M, A)
    with one_thread():
        for _ in range(3000):
            M, A = problem.step(M, A)
    M, A = M.requires_grad_(), A.requires_grad_()
    R = scene.Y - M @ A
    length = R.norm(dim=1)
    error = (length**2 + problem.smooth**2).sqrt().sum() if method == "robust_guided" else R.square().sum() / 2
    total = error + problem.scale * problem.sum / 2 * (1 - A.sum(0)).square().sum()
    if problem.h is not None:
        total = total + problem.scale * problem.lam * A.pow(1 - problem.h).sum()
    torch.testing.assert_close(float(total.detach()), problem.value(M.detach(), A.detach()))
    gradients = torch.autograd.grad(total, (M, A))
    sizes = [
        float((g * X).detach().abs().max() / (1e6 * problem.least)) for g, X in zip(gradients, (M, A), strict=True)
    ]
    assert max(sizes) < 1e-4


def test_scores_do_not_depend_on_order_and_length():
    order = [2, 0, 1]
    scores = unmixing_scores(5 * SCENE.M[:, order], SCENE.A[order], SCENE.M, SCENE.A)
    assert float(scores.angles.max()) < 1e-7 and float(scores.rmse.max()) == 0
    assert scores.order.tolist() == [1, 2, 0]
    turned = torch.tensor([[math.cos(0.1), 0.0], [math.sin(0.1), 1.0]], dtype=torch.float64)
    found = unmixing_scores(turned, torch.ones(2, 4) / 2, torch.eye(2).double(), torch.eye(2).repeat(1, 2))
    assert found.angles.tolist() == pytest.approx([0.1, 0.0], abs=1e-12)
    assert found.rmse.tolist() == pytest.approx([0.5, 0.5])


def test_a_given_start_at_the_truth_stays_near():
    clean = SCENE.M @ SCENE.A
    found = unmix(clean, 3, method="nmf", init=(SCENE.M, SCENE.A), rtol=1e-6)
    scores = unmixing_scores(found.M, found.A, SCENE.M, SCENE.A)
    assert float(scores.angles.max()) < 1e-3 and float(scores.rmse.max()) < 1e-3


def test_bad_channels_count_little():
    Y, good, start = corrupted(SCENE)
    angles = {}
    for method in ("robust_guided", "nmf"):
        found = unmix(Y, 3, method=method, init=start, image_shape=SCENE.shape)
        angles[method] = float(unmixing_scores(found.M[good], found.A, SCENE.M[good], SCENE.A).angles.mean())
    assert angles["robust_guided"] < 0.8 * angles["nmf"]


def test_guidance_sees_pure_pixels():
    A = torch.tensor([[1.0, 0.5, 0.7, 0.34], [0.0, 0.5, 0.3, 0.33], [0.0, 0.0, 0.0, 0.33]], dtype=torch.float64)
    h = guidance_map(A, None)
    assert h.argsort(descending=True).tolist() == [0, 2, 1, 3]
    assert float(h.max()) == pytest.approx(0.95) and float(h.min()) == 0
    assert guidance_map(torch.full((3, 4), 1 / 3), None).tolist() == [0.5] * 4
    found = unmix(SCENE.Y, 3, image_shape=SCENE.shape, generator=0)
    assert float(torch.corrcoef(torch.stack([found.guidance, SCENE.A.amax(0)]))[0, 1]) > 0.5


def test_kinds_and_float32():
    found, info = unmix(SCENE.Y.float().numpy(), 3, method="l1/2", generator=0, return_info=True)
    assert isinstance(found.M, np.ndarray) and found.A.dtype == np.float32 and info.converged
    wide = unmix(SCENE.Y, 3, method="l1/2", generator=0)
    assert float(np.abs(found.A - wide.A.numpy()).max()) < 1e-2
    np.testing.assert_allclose(found.A.sum(0), 1, rtol=1e-5)
    plain = unmix(SCENE.Y, 3, method="fcls", init="spa")
    torch.testing.assert_close(plain.A, fcls(SCENE.Y, plain.M), rtol=1e-9, atol=1e-9)


def test_the_table_of_methods():
    rows = unmixing_benchmark(SCENE, ("fcls", "nmf"), n_init=2, generator=0)
    assert [row.method for row in rows] == ["fcls", "nmf"]
    assert all(0 < row.angle < 0.5 and 0 < row.rmse < 0.5 and row.angle_std >= 0 for row in rows)
    with pytest.raises(ValueError, match="ground truth"):
        unmixing_benchmark(Scene(SCENE.Y, SCENE.shape))


def test_bad_input():
    Y = SCENE.Y
    for call, word in (
        (lambda: unmix(-Y, 3), "negative"),
        (lambda: unmix(Y, 0), "n_endmembers"),
        (lambda: unmix(Y, 3, method="edc"), "method"),
        (lambda: unmix(Y, 3, method="graph"), "image_shape"),
        (lambda: unmix(Y, 3, image_shape=(3, 3)), "image_shape"),
        (lambda: unmix(Y, 3, lam=-1), "lam"),
        (lambda: unmix(Y, 3, rtol=0), "rtol"),
        (lambda: unmix(Y, 3, init="svd"), "init"),
        (lambda: unmix(Y, 3, init=(Y, Y)), "init"),
        (lambda: unmix(Y.clone().requires_grad_(), 3), "gradient"),
        (lambda: unmixing_scores(Y, Y, Y, Y), "shapes"),
        (lambda: unmixing_scores(0 * SCENE.M, SCENE.A, SCENE.M, SCENE.A), "zeros"),
    ):
        with pytest.raises(ValueError, match=word):
            call()
    with pytest.raises(ConvergenceError) as caught:
        unmix(Y, 3, max_iter=5, generator=0)
    assert caught.value.best.M.shape == (40, 3)
    with pytest.raises(ValueError, match="Y is zero"):
        unmix(0 * Y, 3)


def test_guidance_that_is_still_learned_is_no_convergence():
    with pytest.raises(ConvergenceError, match="guidance is still learned") as caught:
        unmix(SCENE.Y, 3, rtol=0.5, max_iter=30, generator=0)
    assert not caught.value.info.converged
    assert unmix(SCENE.Y, 3, rtol=0.5, generator=0, return_info=True)[1].iterations > 200
