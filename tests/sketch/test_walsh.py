"""wht: scipy's matrix, every layout and cache block, round trips, other dtypes, derivatives, bad input."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.func import jvp, vmap

from resolvent.operators import Hadamard
from resolvent.operators.walsh import _by_gemm, walsh_in_place
from resolvent.operators.walsh_kernel import transform
from resolvent.random import gaussian
from resolvent.sketch import wht

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-13, torch.complex64: 1e-5, torch.complex128: 1e-13}


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("n", [1, 2, 4, 8, 16, 64, 256, 1024])
def test_scipys_matrix(n, dtype):
    x = gaussian((3, n), dtype, generator=0)
    exact = x.to(torch.complex128) @ torch.from_numpy(scipy.linalg.hadamard(n)).to(torch.complex128)
    found = wht(x)
    assert found.dtype == dtype
    torch.testing.assert_close(found.to(torch.complex128), exact, rtol=0, atol=TOLERANCE[dtype] * n)
    torch.testing.assert_close(wht(x, normalized=True) * n**0.5, found)


@pytest.mark.parametrize("inner", [1, 2, 3, 4, 5, 16, 33, 100])
@pytest.mark.parametrize("n", [2, 32, 512, 1 << 13])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_kernel_against_small_matrices(n, inner, dtype):
    x = np.random.default_rng(0).standard_normal((2, n, inner)).astype(dtype)
    y = np.empty_like(x)
    transform(x.reshape(-1), y.reshape(-1), n, inner, 0.5)
    exact = _by_gemm(torch.from_numpy(x).double(), 1, 0.5).numpy()
    np.testing.assert_allclose(y, exact, rtol=0, atol=np.finfo(dtype).eps * 8 * n**0.5 * 13)
    transform(x.reshape(-1), x.reshape(-1), n, inner, 0.5)
    assert (x == y).all()


def test_a_long_transform_by_its_definition():
    n = 1 << 20
    x = gaussian((n,), torch.float32, generator=0)
    y = wht(x)
    index = torch.arange(n)
    for i in (0, 1, 5, 4097, n - 1, 699050):
        bits = index & i
        for shift in (16, 8, 4, 2, 1):
            bits = bits ^ (bits >> shift)
        exact = float((x.double() * (1 - 2 * (bits & 1))).sum())
        assert float(y[i]) == pytest.approx(exact, abs=2e-6 * 20 * n**0.5)
    torch.testing.assert_close(wht(y) / n, x, rtol=0, atol=1e-5)


def test_layouts():
    x = gaussian((4, 64, 6), generator=0)
    plain = wht(x, 1)
    torch.testing.assert_close(wht(x.movedim(1, 0), 0).movedim(0, 1), plain)
    torch.testing.assert_close(wht(x.transpose(1, 2)).transpose(1, 2), plain)
    torch.testing.assert_close(wht(torch.cat([x, x], 2)[:, :, ::2], 1), wht(torch.cat([x, x], 2), 1)[:, :, ::2])
    torch.testing.assert_close(wht(x[:1].expand(3, 64, 6), -2), plain[:1].expand(3, 64, 6))
    torch.testing.assert_close(wht(x[:, :, 0], 1), plain[:, :, 0])
    z = torch.complex(x, x.flip(0))
    torch.testing.assert_close(wht(z.conj(), 1), wht(z, 1).conj())
    assert wht(x[:0], 1).shape == (0, 64, 6)
    before = x.clone()
    wht(x, 1)
    assert bool((x == before).all())
    torch.testing.assert_close(walsh_in_place(x.clone(), 1, 1.0), plain)


def test_kinds_and_precisions():
    x = np.arange(8)
    found = wht(x)
    assert isinstance(found, np.ndarray) and found.dtype == np.float64
    np.testing.assert_allclose(found, scipy.linalg.hadamard(8) @ x)
    half = torch.ones(512, dtype=torch.bfloat16)
    assert wht(half).dtype == torch.bfloat16 and float(wht(half, normalized=True)[0]) == pytest.approx(
        512**0.5, rel=0.01
    )
    torch.testing.assert_close(Hadamard(512) @ torch.ones(512, 2), wht(torch.ones(512, 2), 0))


def test_derivatives():
    for shape, dim in (((3, 8), -1), ((128, 4), 0)):
        x = gaussian(shape, generator=0).requires_grad_()
        assert gradcheck(lambda x, dim=dim: wht(x, dim), x, check_forward_ad=True, fast_mode=x.numel() > 50)
    x = gaussian((2, 4), torch.complex128, generator=0).requires_grad_()
    assert gradgradcheck(lambda x: wht(x).abs().pow(4), x)
    y, dx = gaussian((2, 5, 256), generator=0), gaussian((2, 5, 256), generator=1)
    torch.testing.assert_close(vmap(wht, in_dims=1, out_dims=1)(y), wht(y))
    torch.testing.assert_close(jvp(wht, (y,), (dx,))[1], wht(dx))


@pytest.mark.parametrize("n", [0, 3, 12, 1000])
def test_wrong_lengths(n):
    with pytest.raises(ValueError, match=f"power of two along axis -1, got {n}"):
        wht(torch.ones(2, n))


def test_bad_axes_and_types():
    with pytest.raises(IndexError, match="dim must be an axis"):
        wht(torch.ones(4), 1)
    with pytest.raises(TypeError, match="x must be a numeric"):
        wht("abcd")
