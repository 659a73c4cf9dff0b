"""diagonal: structures, products with unit vectors, estimates with calibrated errors, gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from resolvent.errors import ConvergenceError
from resolvent.operators import Diagonal, Kronecker, MatrixFree, as_operator
from resolvent.random import gaussian
from resolvent.spectra import diagonal


def free(M, **facts):
    return MatrixFree(M.shape, lambda X: M @ X, lambda X: M.mH @ X, dtype=M.dtype, parameters=[M], **facts)


def low_rank_plus(n=300, seed=0, noise=1e-3, dtype=torch.float64):
    X = gaussian((n, 5), dtype, generator=seed)
    E = gaussian((n, n), dtype, generator=seed + 1)
    return X @ X.mH + noise * E + torch.eye(n, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128])
def test_exact_paths(dtype):
    M = gaussian((130, 130), dtype, generator=0)
    for A in (as_operator(M), free(M), Kronecker(as_operator(M[:3, :3]), Diagonal(torch.ones(4, dtype=dtype)))):
        found = diagonal(A)
        assert found.dtype == dtype
        torch.testing.assert_close(found, A.to_dense().diagonal())
    batch = gaussian((2, 5, 5), dtype, generator=0)
    torch.testing.assert_close(diagonal(free(batch)), batch.diagonal(dim1=-2, dim2=-1))


@pytest.mark.parametrize("method", ["signs", "xdiag"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_estimates_meet_their_tolerance(method, dtype):
    # Signs suffer from all that is off the diagonal, XDiag from what is not of low rank.
    M = low_rank_plus(dtype=dtype) + (60 * torch.eye(300) if method == "signs" else 0)
    found, info = diagonal(free(M), method=method, rtol=0.1, generator=0, return_info=True)
    error = float((found - M.diagonal()).norm() / M.diagonal().norm())
    assert error < 0.12 and info.error <= 0.1 and info.method == method
    torch.testing.assert_close(diagonal(free(M), method=method, rtol=0.1, generator=0), found, rtol=0, atol=0)


def test_xdiag_is_right_on_low_rank_and_cheaper():
    X = gaussian((300, 5), generator=0)
    M = X @ X.mT
    found, info = diagonal(free(M), method="xdiag", rtol=1e-8, generator=0, return_info=True)
    torch.testing.assert_close(found, M.diagonal(), rtol=1e-7, atol=1e-7)
    assert info.matvecs == 64


def test_the_error_covers():
    M = low_rank_plus(200, noise=0.05) + 20 * torch.eye(200)
    exact, seeds = M.diagonal(), 200
    for method in ("signs", "xdiag"):
        hits = 0
        for seed in range(seeds):
            found, info = diagonal(free(M), method=method, rtol=0.5, generator=seed, return_info=True)
            hits += float((found - exact).norm()) <= info.error * float(found.norm())
        assert hits >= 0.93 * seeds, method


def test_auto_estimates_large_operators():
    d = torch.linspace(1, 2, 5000, dtype=torch.float64)
    u = torch.full((5000,), 0.1, dtype=torch.float64)
    A = MatrixFree((5000, 5000), lambda X: d[:, None] * X + u[:, None] * (u @ X), dtype=torch.float64, hermitian=True)
    found, info = diagonal(A, rtol=1e-6, generator=0, return_info=True)
    assert float((found - d - 0.01).norm() / d.norm()) < 1e-6 and info.matvecs > 5000
    coarse, info = diagonal(A, rtol=0.05, generator=0, return_info=True)
    assert info.method in ("signs", "xdiag") and info.matvecs < 1000
    assert float((coarse - d - 0.01).norm() / d.norm()) < 0.07


def test_out_of_reach_raises():
    M = gaussian((300, 300), generator=0)
    with pytest.raises(ConvergenceError, match="products"):
        diagonal(free(M), method="signs", rtol=1e-6, max_matvecs=100, generator=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_gradients(dtype):
    M = gaussian((5, 5), dtype, generator=0).requires_grad_()
    assert gradcheck(lambda M: diagonal(free(M)), M)
    assert gradcheck(lambda M: diagonal(as_operator(M)), M)
    big = (low_rank_plus(200) + 20 * torch.eye(200)).requires_grad_()
    value = diagonal(free(big), method="signs", rtol=0.5, generator=0)
    (g,) = torch.autograd.grad(value.sum(), big)
    torch.testing.assert_close(g.diagonal(), torch.ones(200, dtype=torch.float64))


def test_numpy_and_bad_input():
    assert isinstance(diagonal(np.eye(3)), np.ndarray)
    with pytest.raises(ValueError, match="square"):
        diagonal(torch.ones(2, 3))
    with pytest.raises(ValueError, match="method"):
        diagonal(torch.eye(2), method="magic")
    with pytest.raises(ValueError, match="batch"):
        diagonal(torch.eye(2).expand(3, 2, 2), method="signs")
