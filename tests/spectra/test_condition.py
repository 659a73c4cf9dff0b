"""`cond`: against torch and known matrices, float32 in double precision, singular ones, honest refusals."""

import math

import mpmath
import numpy as np
import pytest
import scipy.sparse
import torch

from resolvent.errors import ConvergenceError
from resolvent.operators import Diagonal, Identity, Kronecker, MatrixFree
from resolvent.spectra import cond

ORDERS = [2, -2, 1, -1, math.inf, -math.inf, "fro", "nuc"]


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_is_that_of_torch(p, dtype):
    a = random(3, 6, 6, dtype=dtype)
    torch.testing.assert_close(cond(a, p), torch.linalg.cond(a, p), rtol=1e-10, atol=0)


def test_rectangular_and_structures():
    a = random(7, 4)
    torch.testing.assert_close(cond(a), torch.linalg.cond(a))
    d = random(5)
    for p in ORDERS:
        torch.testing.assert_close(cond(Diagonal(d), p), torch.linalg.cond(torch.diag(d), p), rtol=1e-10, atol=0)
    A = Kronecker(random(3, 3), random(4, 4, seed=1))
    torch.testing.assert_close(cond(A), torch.linalg.cond(A.to_dense()), rtol=1e-10, atol=0)
    assert float(cond(Identity(3))) == 1


def test_hilbert_matrix_in_mpmath():
    n = 6
    with mpmath.workdps(50):
        H = mpmath.matrix([[mpmath.mpf(1) / (i + j + 1) for j in range(n)] for i in range(n)])
        s = mpmath.svd_r(H, compute_uv=False)
        exact = float(s[0] / s[n - 1])
        one = float(mpmath.mnorm(H, 1) * mpmath.mnorm(H**-1, 1))
    hilbert = np.array([[1 / (i + j + 1) for j in range(n)] for i in range(n)])
    assert cond(hilbert) == pytest.approx(exact, rel=1e-8)
    assert cond(hilbert, 1) == pytest.approx(one, rel=1e-8)


def test_float32_keeps_what_a_float32_spectrum_loses():
    Q, R = torch.linalg.qr(random(40, 40)).Q, torch.linalg.qr(random(40, 40, seed=1)).Q
    a = (Q @ torch.diag(torch.logspace(0, -6.5, 40, dtype=torch.float64)) @ R).float()
    value = cond(a)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), torch.linalg.cond(a.double()), rtol=1e-6, atol=0)
    off = abs(float(torch.linalg.svdvals(a)[0] / torch.linalg.svdvals(a)[-1]) / float(value) - 1)
    assert off > 1e-3


def test_singular_is_infinite():
    for p in ORDERS:
        if p in (-2, -1, -math.inf):
            continue
        assert cond(np.zeros((2, 2)), p) == math.inf
        assert cond(Diagonal(torch.tensor([1.0, 0.0])), p) == math.inf
    values = cond(torch.stack([torch.eye(2), torch.zeros(2, 2)]), 1)
    assert values.tolist() == [1, math.inf]
    assert float(cond(torch.zeros(2, 2), -2)) == 0


@pytest.mark.parametrize("p", [2, -2, 1, math.inf, "fro", "nuc"])
def test_gradients(p):
    a = random(4, 4, seed=5).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: cond(t, p), a)


def test_bad_input():
    with pytest.raises(ValueError, match="p must be"):
        cond(torch.eye(2), 3)
    with pytest.raises(ValueError, match="square"):
        cond(torch.ones(2, 3), 1)
    with pytest.raises(ValueError, match="rows and columns"):
        cond(torch.ones(0, 3))
    with pytest.raises(ValueError, match="NaN"):
        cond(torch.full((2, 2), math.nan))


def laplacian(n):
    return scipy.sparse.diags_array([np.full(n, 2.0), -np.ones(n - 1), -np.ones(n - 1)], offsets=[0, -1, 1]).tocsr()


def test_large_operators_by_both_ends():
    n = 5000
    d = 1 + torch.arange(n, dtype=torch.float64) / 100
    shift = torch.roll(torch.arange(n), 1)
    A = MatrixFree((n, n), lambda X: d[:, None] * X[shift], lambda X: (d[:, None] * X).roll(-1, 0), dtype=torch.float64)
    value, info = cond(A, generator=0, return_info=True)
    assert float(value) == pytest.approx(float(d[-1] / d[0]), rel=1e-3) and info.error <= 1e-3
    with pytest.raises(ValueError, match="too large"):
        cond(A, 1)


def test_a_condition_number_out_of_reach_raises(monkeypatch):
    monkeypatch.setattr("resolvent.spectra.schatten._DENSE", 50)
    a = laplacian(2000).toarray()
    a[0] *= 1e9
    t = torch.from_numpy(a)
    A = MatrixFree(t.shape, lambda X: t @ X, lambda X: t.T @ X, dtype=torch.float64)
    with pytest.raises(ConvergenceError) as caught:
        cond(A, generator=0)
    assert caught.value.error > 1e-3


@pytest.mark.parametrize("p", [2, 1, "fro"])
def test_scale_does_not_matter(p):
    a = torch.randint(-4, 5, (6, 6), generator=torch.Generator().manual_seed(0)).double() + 9 * torch.eye(6).double()
    for scale in (5e-324, 1e300):
        assert float(cond(a * scale, p)) == pytest.approx(float(cond(a, p)), rel=1e-12)
