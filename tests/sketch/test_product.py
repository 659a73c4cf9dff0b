"""approx_matmul and multilevel_expectation: errors over many seeds, exact limits, fallbacks, gradients, bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from resolvent.errors import ConvergenceError
from resolvent.random import gaussian
from resolvent.sketch import approx_matmul, multilevel_expectation


def pair(n=4000):
    weights = torch.logspace(0, 1, n, dtype=torch.float64)
    return gaussian((6, n), generator=0) * weights, gaussian((n, 5), generator=1) * weights[:, None]


@pytest.mark.parametrize("method", ["sampling", "sketch", "multilevel"])
def test_root_mean_square_error_over_200_seeds(method):
    A, B = pair()
    exact, scale = A @ B, float(A.norm() * B.norm())
    errors, total = [], torch.zeros_like(exact)
    for seed in range(200):
        found, info = approx_matmul(A, B, rtol=0.1, method=method, generator=seed, return_info=True)
        errors.append(float((found - exact).norm()) / scale)
        total += found
        assert info.method == method and info.matvecs < 4000 and info.error <= 0.1 + 1e-12
    rms = float(np.sqrt(np.mean(np.square(errors))))
    assert rms <= 0.11
    assert float((total / 200 - exact).norm()) / scale < 3 * rms / 200**0.5


def test_limits():
    A, B = pair(50)
    for method in ("auto", "sampling", "sketch", "multilevel", "exact"):
        found, info = approx_matmul(A, B, rtol=1e-4, method=method, generator=0, return_info=True)
        torch.testing.assert_close(found, A @ B)
        assert info.method == "exact"
    assert not approx_matmul(A * 0, B, generator=0).any()
    # All lengths equal and all terms the same: one sample is exact.
    one = torch.ones(2, 1000)
    torch.testing.assert_close(approx_matmul(one, one.mT, rtol=0.9, generator=0), one @ one.mT)


@pytest.mark.parametrize("method", ["sampling", "sketch", "multilevel"])
def test_squares_beyond_the_range_of_the_dtype(method):
    A, B = pair()
    for dtype, scale in ((torch.float32, 1e25), (torch.float32, 1e-25), (torch.float64, 2.0**600)):
        options = {"rtol": 0.2, "method": method, "generator": 0, "return_info": True}
        wanted, info = approx_matmul(A.to(dtype), B.to(dtype), **options)
        found, other = approx_matmul(A.to(dtype) * scale, B.to(dtype) / scale, **options)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))
        assert other.matvecs == info.matvecs and other.error == pytest.approx(info.error, rel=1e-4)


def test_levels_use_few_indices_of_smooth_data():
    t = torch.linspace(0, 1, 20_000, dtype=torch.float64)
    A = torch.cos(t * torch.arange(8)[:, None])
    found, info = approx_matmul(A, A.mT, rtol=1e-3, method="multilevel", generator=0, return_info=True)
    assert float((found - A @ A.mT).norm()) < 1e-3 * float(A.norm()) ** 2
    assert info.matvecs < 2500


def test_kinds_and_gradients():
    A, B = pair()
    assert isinstance(approx_matmul(A.numpy(), B.numpy(), generator=0), np.ndarray)
    assert approx_matmul(A.float(), B.float(), generator=0).dtype == torch.float32
    A.requires_grad_()
    for method in ("sampling", "sketch", "multilevel"):
        product = approx_matmul(A, B, rtol=0.2, method=method, generator=3)
        (g,) = torch.autograd.grad(product.sum(), A)
        # The sampled product is linear in A with its indices held fixed, so the gradient gives it back.
        torch.testing.assert_close((g * A).sum().detach(), product.sum().detach())
        assert bool((g != 0).any())


def smooth(n, rows=3, modes=6):
    """A sampler of fields with decaying cosine series, B = A^T / n, and its exact expectation."""
    decay = (1.0 + torch.arange(modes, dtype=torch.float64)) ** -2

    def basis(index):
        t = (index.double() + 0.5) / n
        return torch.cos(math.pi * torch.arange(modes)[:, None] * t) * decay[:, None]

    def sampler(count, index, generator):
        a = 0.5 * torch.randn(count, rows, modes, dtype=torch.float64, generator=generator)
        a[..., 0] += 1
        F = a @ basis(index)
        return F, F.mT / n

    everything = basis(torch.arange(n))
    exact = everything[0] @ everything[0] / n * torch.ones(rows, rows, dtype=torch.float64)
    exact += 0.25 * everything.square().sum() / n * torch.eye(rows, dtype=torch.float64)
    return sampler, exact


def test_multilevel_meets_its_error_over_200_seeds():
    sampler, exact = smooth(1024)
    rmse = 0.08 * float(exact.norm())
    found = [multilevel_expectation(sampler, 1024, rmse, generator=seed) for seed in range(200)]
    errors = torch.stack([f.value - exact for f in found])
    measured = float(errors.square().sum((1, 2)).mean().sqrt())
    assert measured <= 1.2 * rmse
    assert {f.method for f in found} == {"multilevel"}
    assert np.mean([f.single_level / f.multiply_adds for f in found]) > 1.0
    # Standard errors are those of the entries.
    claimed = torch.stack([f.standard_error for f in found]).square().mean(0).sqrt()
    torch.testing.assert_close(claimed, errors.square().mean(0).sqrt(), rtol=0.3, atol=0.1 * rmse)


def test_white_noise_gains_nothing_and_says_so():
    def white(count, index, generator):
        F = 1 + torch.randn(count, 2, len(index), dtype=torch.float64, generator=generator)
        return F / 256, F.mT

    found = [multilevel_expectation(white, 256, 0.05, coarsest=4, generator=seed) for seed in range(20)]
    assert {f.method for f in found} == {"single level"}
    exact = torch.ones(2, 2, dtype=torch.float64) + torch.eye(2, dtype=torch.float64)
    errors = torch.stack([f.value - exact for f in found])
    assert float(errors.square().sum((1, 2)).mean().sqrt()) < 1.5 * 0.05


def test_numpy_samples_no_randomness_and_giving_up():
    def still(count, index, generator):
        return np.ones((count, 2, len(index))), np.ones((count, len(index), 1))

    found = multilevel_expectation(still, 64, 1e-6, generator=0)
    assert isinstance(found.value, np.ndarray)
    np.testing.assert_allclose(found.value, [[64.0], [64.0]])
    sampler, _ = smooth(256)
    with pytest.raises(ConvergenceError, match="multiply-adds") as caught:
        multilevel_expectation(sampler, 256, 1e-5, max_multiply_adds=1e6, generator=0)
    assert caught.value.best.value.shape == (3, 3) and caught.value.error > 1e-5


def test_bad_input():
    A, B = pair(30)
    for call, word in (
        (lambda: approx_matmul(A, A), "shapes"),
        (lambda: approx_matmul(A, B, rtol=0.0), "rtol"),
        (lambda: approx_matmul(A, B, method="best"), "method"),
        (lambda: approx_matmul(A / 0, B), "NaN"),
        (lambda: multilevel_expectation(smooth(8)[0], 0, 0.1), "n_inner"),
        (lambda: multilevel_expectation(smooth(8)[0], 8, -0.1), "rmse"),
        (lambda: multilevel_expectation(lambda c, i, g: (A, B), 8, 0.1), "sampler must"),
    ):
        with pytest.raises(ValueError, match=word):
            call()
