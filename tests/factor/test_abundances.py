"""fcls, spa and vca: conditions of optimality, SciPy's solutions, exact vertices, gradients, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from torch.autograd import gradcheck

from resolvent.factor import fcls, spa, synthetic_scene, vca
from resolvent.random import as_generator, gaussian


def uniform(*shape, seed=0, dtype=torch.float64):
    return torch.rand(*shape, generator=as_generator(seed), dtype=dtype)


def mixtures(K, N, seed=0):
    A = -uniform(K, N, seed=seed).log()
    return A / A.sum(0)


def test_conditions_of_optimality():
    M, Y = uniform(30, 6), uniform(30, 500, seed=1)
    A = fcls(Y, M)
    w = M.T @ (Y - M @ A)
    level = (w * A).sum(0)
    assert float(A.min()) >= 0 and float((A.sum(0) - 1).abs().max()) < 1e-12
    # No coordinate may gain, and those in use gain alike.
    assert float((w - level).max()) < 1e-8
    assert float(((w - level).abs() * (A > 0)).max()) < 1e-8
    assert 1 < float((A > 0).sum(0).double().mean()) < 6


def test_solutions_are_those_of_scipy():
    M, Y = uniform(10, 4).numpy(), uniform(10, 200, seed=1).numpy()
    A = fcls(Y, M)
    assert isinstance(A, np.ndarray)
    for n in range(200):
        # A heavy row of ones holds the sum at one to 1e-7.
        heavy = 1e4
        x, _ = nnls(np.vstack([M, np.full(4, heavy)]), np.append(Y[:, n], heavy))
        np.testing.assert_allclose(A[:, n], x, atol=1e-6)


def test_mixtures_come_back_and_one_endmember():
    M, A = uniform(20, 5), mixtures(5, 50)
    torch.testing.assert_close(fcls(M @ A, M), A, rtol=0, atol=1e-10)
    torch.testing.assert_close(fcls((M @ A).float(), M.float()), A.float(), rtol=0, atol=1e-4)
    assert fcls(M @ A, M[:, :1]).eq(1).all()
    # An offset common to all does not matter on the simplex.
    torch.testing.assert_close(fcls(M @ A + 1e3, M + 1e3), A, rtol=0, atol=1e-9)
    # More endmembers than channels, by one: a simplex still.
    V = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    torch.testing.assert_close(fcls(torch.tensor([[0.25], [0.5]]), V), torch.tensor([[0.25], [0.25], [0.5]]))


def test_gradients():
    M, Y = uniform(6, 3), uniform(6, 8, seed=1)
    assert gradcheck(fcls, (Y.requires_grad_(), M.requires_grad_()))


def test_pure_pixels_are_found():
    M, A = uniform(25, 4), mixtures(4, 300)
    for k in range(4):
        A[:, 7 * k] = torch.eye(4)[k]
    Y = M @ A
    for found in (spa(Y, 4), vca(Y, 4, generator=0)):
        assert sorted(found.indices.tolist()) == [0, 7, 14, 21]
        torch.testing.assert_close(found.M, Y[:, found.indices], rtol=1e-8, atol=1e-8)
    noisy = Y + 0.02 * gaussian(Y.shape, generator=3)
    assert len(set(vca(noisy, 4, generator=0).indices.tolist()) & {0, 7, 14, 21}) >= 3
    assert vca(Y.float().numpy(), 4, generator=0).M.dtype == np.float32


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_spectra_near_the_ends_of_the_range(size):
    scene = synthetic_scene(16, 4, 3, bands=20, generator=0)
    Y = scene.Y.float()
    for find in (lambda Y: spa(Y, 3), lambda Y: vca(Y, 3, generator=0)):
        plain, scaled = find(Y), find(size * Y)
        assert torch.equal(plain.indices, scaled.indices)
        torch.testing.assert_close(scaled.M / size, plain.M, rtol=1e-3, atol=1e-4)
    wide = size**6
    torch.testing.assert_close(fcls(wide * scene.Y, wide * scene.M), fcls(scene.Y, scene.M), rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match="zero"):
        vca(torch.zeros(5, 9), 2)


def test_bad_input():
    M, Y = uniform(6, 3), uniform(6, 8, seed=1)
    for call, word in (
        (lambda: fcls(Y[:5], M), "channels"),
        (lambda: fcls(Y, M[:, [0, 1, 1]]), "affinely independent"),
        (lambda: fcls(Y[0], M), "real matrix"),
        (lambda: fcls(Y / 0, M), "infinite"),
        (lambda: spa(Y, 0), "between 1 and 6"),
        (lambda: spa(torch.ones(4, 5), 2), "rank"),
        (lambda: vca(Y, 9), "between 1 and 6"),
        (lambda: vca(Y.clone().requires_grad_(), 2), "gradient"),
    ):
        with pytest.raises(ValueError, match=word):
            call()
