"""power_pca and GenerativeProjector: against eigenvectors, brute force over supports and signs, a generator known exactly."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
import torch

from resolvent.errors import ConvergenceError
from resolvent.factor import GenerativeProjector, power_pca
from resolvent.random import gaussian


def wigner(x, noise=0.1, seed=0):
    n = len(x)
    E = gaussian((n, n), generator=seed)
    return torch.outer(x, x) + noise * (E + E.mT) / n**0.5 + torch.eye(n)


def unit(v):
    return v / v.norm()


def test_no_structure_is_the_power_method():
    V = wigner(unit(gaussian((12,), generator=1)))
    found, info = power_pca(V, n_iter=500, rtol=1e-12, return_info=True)
    top = torch.linalg.eigh(V).eigenvectors[:, -1]
    assert abs(float(found @ top)) == pytest.approx(1, abs=1e-12) and info.converged and info.error <= 1e-12
    # A basis of everything is no restriction.
    torch.testing.assert_close(power_pca(V, torch.eye(12).double(), n_iter=100), power_pca(V, n_iter=100))


def test_sparse_finds_the_best_support():
    x = torch.zeros(8, dtype=torch.float64)
    x[[1, 4, 6]] = torch.tensor([0.7, -0.5, 0.5]).double()
    V = wigner(unit(x))
    found = power_pca(V, 3, n_iter=100)
    best = max((float(torch.linalg.eigvalsh(V[list(S)][:, list(S)])[-1]), S) for S in combinations(range(8), 3))
    assert tuple(found.nonzero()[:, 0].tolist()) == best[1]
    assert float(found @ V @ found) == pytest.approx(best[0], rel=1e-10)


def test_sign_nonnegative_and_subspace():
    x = torch.tensor([1.0, -1, 1, 1, -1, 1]).double() / 6**0.5
    V = wigner(x)
    found = power_pca(V, "sign", w0=x + 0.2)
    best = max(product((-1.0, 1.0), repeat=6), key=lambda s: float((t := torch.tensor(s).double()) @ V @ t))
    assert abs(float(found @ torch.tensor(best).double())) == pytest.approx(6**0.5)
    positive = power_pca(wigner(unit(torch.arange(1.0, 7).double())), "nonnegative")
    assert bool((positive >= 0).all()) and float(positive.norm()) == pytest.approx(1)
    assert power_pca(-torch.eye(3).double(), "nonnegative", torch.ones(3), n_iter=1).isfinite().all()
    B = gaussian((6, 2), generator=2)
    inside = power_pca(V, B, n_iter=300)
    Q = torch.linalg.qr(B).Q
    small = torch.linalg.eigh(Q.mT @ V @ Q)
    assert abs(float(inside @ Q @ small.eigenvectors[:, -1])) == pytest.approx(1, abs=1e-8)


def test_generator_that_is_linear_is_its_subspace():
    B = gaussian((10, 3), generator=3)
    projector = GenerativeProjector(lambda z: z @ B.mT, 3, steps=200, lr=0.05, generator=0)
    v = gaussian((4, 10), generator=4)
    Q = torch.linalg.qr(B).Q
    exact = v @ Q @ Q.mT
    exact = exact / exact.norm(dim=1, keepdim=True)
    found, z = projector.project(v)
    assert float((found * exact).sum(1).min()) > 1 - 1e-5 and z.shape == (4, 3)
    again, _ = projector.project(v, z)
    assert float((again * exact).sum(1).min()) > 1 - 1e-5
    V = wigner(unit(B[:, 0]))
    torch.testing.assert_close(power_pca(V, projector, n_iter=3), power_pca(V, B, n_iter=3), atol=0.02, rtol=0)


def test_generator_of_a_curve_and_batches():
    def curve(z):
        return torch.exp(-((z - torch.linspace(-2, 2, 15)) ** 2))

    projector = GenerativeProjector(curve, 1, generator=0)
    truth = torch.stack([unit(curve(torch.tensor([[a]]))[0]) for a in (-0.7, 0.4)])
    V = torch.stack([wigner(x.double(), 0.3, seed) for seed, x in enumerate(truth)]).float()
    found = power_pca(V, projector, n_iter=5)
    assert found.shape == (2, 15) and found.dtype == torch.float32
    # A fixed point of the steps; on a curve of one parameter the best point can be looked up.
    grid = curve(torch.linspace(-4, 4, 2001)[:, None])
    grid = grid / grid.norm(dim=1, keepdim=True)
    best = torch.einsum("gi,bij,gj->bg", grid, V, grid).amax(1)
    assert bool((torch.einsum("bi,bij,bj->b", found, V, found) > 0.995 * best).all())
    assert bool(((found * truth).sum(1) > (power_pca(V) * truth).sum(1).abs()).all())
    again = power_pca(V, GenerativeProjector(curve, 1, generator=0), n_iter=5)
    assert torch.equal(found, again)


def test_kinds_and_invariance():
    V = wigner(unit(gaussian((6,), generator=1)))
    assert isinstance(power_pca(V.numpy()), np.ndarray) and power_pca(V.float()).dtype == torch.float32
    torch.testing.assert_close(power_pca(7 * V, 3), power_pca(V, 3))
    order = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(power_pca(V[order][:, order], 3), power_pca(V, 3)[order])


def test_bad_input():
    V = wigner(unit(gaussian((6,), generator=1)))
    for call, word in (
        (lambda: power_pca(torch.ones(2, 3)), "shape"),
        (lambda: power_pca(torch.tensor([[0.0, 1.0], [0.0, 0.0]])), "symmetric"),
        (lambda: power_pca(V * torch.nan), "NaN"),
        (lambda: power_pca(V, 7), "between 1 and 6"),
        (lambda: power_pca(V, "sparse"), "projector"),
        (lambda: power_pca(V, torch.ones(5, 2)), "basis"),
        (lambda: power_pca(V, lambda v: v[:2]), "projector must give"),
        (lambda: power_pca(V, w0=torch.ones(5)), "w0"),
        (lambda: power_pca(V, n_iter=0), "n_iter"),
        (lambda: power_pca(V.clone().requires_grad_()), "gradients"),
        (lambda: GenerativeProjector(torch.sin, 0), "latent_dim"),
        (lambda: GenerativeProjector(torch.sin, 1, lr=0.0), "lr"),
    ):
        with pytest.raises(ValueError, match=word):
            call()
    with pytest.raises(ConvergenceError) as caught:
        power_pca(V, n_iter=1, rtol=1e-12)
    assert caught.value.best.shape == (6,)
