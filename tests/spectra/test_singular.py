"""svds: values against LAPACK, accuracy of small values, rank deficiency, bad input, gradients."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from resolvent.errors import ConvergenceError
from resolvent.operators import Diagonal, LowRank, MatrixFree, Zero, as_operator
from resolvent.spectra import svds
from resolvent.spectra.singular import singular_values

DOUBLE = torch.float64


def _gaussian(*shape: int, dtype: torch.dtype = DOUBLE, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def _check(A: torch.Tensor, U, s, Vh, tolerance: float) -> None:
    k = len(s)
    scale = torch.linalg.matrix_norm(A, 2)
    assert (A @ Vh.mH - U * s).abs().max() < tolerance * scale
    assert (A.mH @ U - Vh.mH * s).abs().max() < tolerance * scale
    assert (U.mH @ U - torch.eye(k)).abs().max() < 10 * tolerance
    assert (Vh @ Vh.mH - torch.eye(k)).abs().max() < 10 * tolerance


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE, torch.complex64, torch.complex128])
@pytest.mark.parametrize("shape", [(300, 120), (120, 300), (150, 150)])
@pytest.mark.parametrize("method", ["dense", "lanczos"])
def test_largest_against_lapack(dtype, shape, method):
    A = _gaussian(*shape, dtype=dtype)
    tolerance = 2e-5 if dtype in (torch.float32, torch.complex64) else 1e-10
    U, s, Vh, info = svds(A, 6, method=method, generator=0, return_info=True)
    exact = torch.linalg.svdvals(A)[:6]
    torch.testing.assert_close(s, exact, rtol=tolerance, atol=0)
    _check(A, U, s, Vh, tolerance)
    assert info.converged


def test_sparse_numpy_stays_numpy():
    A = sp.random(3000, 1300, density=0.005, random_state=0, format="csr")
    exact = np.linalg.svd(A.toarray(), compute_uv=False)[:5]
    for matrix in (A, A.T.tocsr()):
        U, s, Vh = svds(matrix, 5, generator=0)
        assert isinstance(U, np.ndarray)
        np.testing.assert_allclose(s, exact, rtol=1e-10)
        assert np.linalg.norm(matrix @ Vh.T - U * s) < 1e-9


def test_graded_values_are_not_squared_away():
    d = 10.0 ** -torch.arange(1500, dtype=DOUBLE).clamp(max=300)
    _, s, _, info = svds(Diagonal(d), 12, generator=0, return_info=True)
    torch.testing.assert_close(s, d[:12], rtol=0, atol=1e-14)
    assert info.error < 1e-10


def test_multiple_values_and_rank_deficiency():
    d = torch.cat([torch.full((4,), 2.0, dtype=DOUBLE), torch.linspace(0, 1, 1400, dtype=DOUBLE)])
    torch.testing.assert_close(svds(Diagonal(d), 5, generator=0)[1], d.sort(descending=True).values[:5])
    L = LowRank(_gaussian(300, 3), torch.ones(3, dtype=DOUBLE), _gaussian(200, 3, seed=1))
    U, s, Vh = svds(L, 6, method="lanczos", generator=0)
    _check(L.to_dense(), U, s, Vh, 1e-11)
    assert s[3:].max() < 1e-10 * s[0]
    assert float(svds(Zero(1500, 1400, dtype=DOUBLE), 2, generator=0)[1].max()) == 0


@pytest.mark.parametrize("size", [1e290, 1e-290])
def test_sizes_at_the_end_of_the_range(size):
    d = torch.linspace(0.1, 1, 1400, dtype=DOUBLE)
    s = svds(Diagonal(d * size), 3, generator=0)[1]
    torch.testing.assert_close(s / size, d.flip(0)[:3], rtol=1e-9, atol=0)


def test_smallest():
    A = _gaussian(30, 20)
    torch.testing.assert_close(svds(A, 2, which="SM")[1], torch.linalg.svdvals(A)[-2:])
    bands = sp.diags([np.linspace(1, 2, 5000), 0.3 * np.ones(4999)], [0, 1]).tocsr()
    U, s, Vh = svds(bands, 2, which="SM", generator=0)
    assert np.linalg.norm(bands @ Vh.T - U * s) < 1e-9
    exact = np.sqrt(sp.linalg.eigsh((bands.T @ bands).tocsc(), 2, sigma=0, return_eigenvectors=False))
    np.testing.assert_allclose(np.sort(s), np.sort(exact), rtol=1e-8)


def test_batch_and_all_values():
    A = _gaussian(2, 6, 4)
    U, s, Vh = svds(A, 3)
    torch.testing.assert_close(s, torch.linalg.svdvals(A)[:, :3])
    torch.testing.assert_close((A @ Vh.mH), U * s[:, None])
    torch.testing.assert_close(singular_values(as_operator(A)), torch.linalg.svdvals(A))


def test_bad_input_is_named():
    A = torch.ones(4, 3)
    for k in (0, 4):
        with pytest.raises(ValueError, match="k must be between 1 and 3"):
            svds(A, k)
    with pytest.raises(TypeError, match="k must be an int"):
        svds(A, 1.5)
    with pytest.raises(ValueError, match="which"):
        svds(A, 1, which="LA")
    with pytest.raises(ValueError, match="rtol"):
        svds(A, 1, rtol=2.0)
    with pytest.raises(ValueError, match="v0"):
        svds(Diagonal(torch.ones(1500)), 1, v0=torch.ones(2), method="lanczos")
    broken = MatrixFree((5000, 5000), lambda X: X * float("nan"), dtype=DOUBLE, hermitian=True)
    with pytest.raises(ValueError, match="NaN"):
        svds(broken, 2)


def test_tolerance_that_is_not_reached_raises():
    d = torch.linspace(0, 1, 5000, dtype=DOUBLE)
    with pytest.raises(ConvergenceError) as caught:
        svds(Diagonal(d), 4, max_matvecs=10, generator=0)
    assert caught.value.error > 1e-10


def _invariant(U, s, Vh) -> torch.Tensor:
    m, n = U.shape[0], Vh.shape[1]
    weights = torch.linspace(1, 2, m * n, dtype=DOUBLE).reshape(m, n).cos()
    low_rank = (U * s.square().to(U.dtype)) @ Vh
    return (low_rank.real * weights).sum() + (s * torch.linspace(1, 2, len(s), dtype=DOUBLE)).sum()


@pytest.mark.parametrize("shape", [(60, 55), (55, 62)])
@pytest.mark.parametrize("method", ["dense", "lanczos"])
@pytest.mark.parametrize("dtype", [DOUBLE, torch.complex128])
def test_gradient(shape, method, dtype):
    A = (_gaussian(*shape, dtype=dtype) / 8).detach()
    A.diagonal().add_(torch.linspace(3, 0, 55, dtype=DOUBLE) ** 2)
    A.requires_grad_()

    def loss(A: torch.Tensor) -> torch.Tensor:
        return _invariant(*svds(A, 3, method=method, generator=0, rtol=1e-12))

    assert torch.autograd.gradcheck(loss, (A,), rtol=1e-4, atol=1e-6, fast_mode=True)
