"""signm, polar, orthogonalize: exact values, invariances, precision, rank, gradients, bad input."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from torch.autograd import gradcheck, gradgradcheck

from resolvent import operators
from resolvent.errors import ConvergenceError
from resolvent.functions import orthogonalize, polar, signm, sqrtm
from resolvent.functions.polar import _plan
from resolvent.random import gaussian

DTYPES = [torch.float32, torch.float64, torch.complex64, torch.complex128]


def error(X, Y):
    return float((torch.linalg.matrix_norm(X - Y) / torch.linalg.matrix_norm(Y)).max())


def with_singular_values(m, n, s, dtype=torch.float64, seed=0):
    U = torch.linalg.qr(gaussian((m, len(s)), dtype, generator=seed)).Q
    V = torch.linalg.qr(gaussian((n, len(s)), dtype, generator=seed + 1)).Q
    return (U * torch.as_tensor(s, dtype=U.real.dtype)) @ V.mH, U @ V.mH


@pytest.mark.parametrize("method", ["auto", "schur", "newton"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_sign(method, dtype):
    A = gaussian((2, 12, 12), dtype, generator=2)
    eps = torch.finfo(dtype).eps
    S = signm(A, method=method)
    assert S.dtype == dtype
    one = torch.eye(12, dtype=dtype).expand(2, 12, 12)
    assert error(S @ S, one) < 3e3 * eps
    assert error(S @ A, A @ S) < 3e3 * eps
    w = torch.linalg.eigvals(A)
    torch.testing.assert_close(S.diagonal(dim1=-2, dim2=-1).sum(-1).real.round(), w.real.sign().sum(-1))
    H = A + A.mH
    assert error(signm(H, method=method), (H @ torch.linalg.inv(sqrtm(_hermitian(H @ H.mH)))).to(dtype)) < 3e3 * eps


def _hermitian(A):
    return (A + A.mH) / 2


def test_sign_of_a_jordan_block_and_of_far_from_normal_matrices():
    J = torch.tensor([[-2.0, 1.0], [0.0, -2.0]])
    torch.testing.assert_close(signm(J), -torch.eye(2))
    A = torch.tensor([[1.0, 1e8], [0.0, -1.0]], dtype=torch.float64)
    torch.testing.assert_close(signm(A), A)
    torch.testing.assert_close(
        signm(operators.Diagonal(torch.tensor([3.0, -2.0]))).to_dense(), torch.diag(torch.tensor([1.0, -1.0]))
    )


@pytest.mark.parametrize("method", ["auto", "schur", "newton"])
def test_no_sign_on_the_imaginary_axis(method):
    for A in (torch.tensor([[0.0, 1.0], [-1.0, 0.0]]), torch.zeros(2, 2), torch.tensor([[1.0, 1.0], [0.0, 0.0]])):
        with pytest.raises((ValueError, ConvergenceError), match="imaginary axis"):
            signm(A.double(), method=method)
    with pytest.raises(ValueError, match="method must be"):
        signm(torch.eye(2), method="fast")


def test_sign_gradients():
    A = gaussian((5, 5), torch.float64, generator=4)
    assert gradcheck(signm, A.requires_grad_())
    H = (A + A.mT).detach().requires_grad_()
    assert gradcheck(signm, H)
    K = gaussian((4, 4), torch.complex128, generator=1).requires_grad_()
    assert gradcheck(signm, K)
    assert gradgradcheck(signm, gaussian((3, 3), torch.float64, generator=6).requires_grad_())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(6, 6), (9, 4), (4, 9), (1, 1)])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("method", ["svd", "qdwh"])
def test_polar(dtype, shape, side, method):
    A = gaussian((3, *shape), dtype, generator=1)
    U, P = polar(A, side, method=method)
    eps = torch.finfo(dtype).eps
    assert U.dtype == P.dtype == dtype
    assert error(U @ P if side == "right" else P @ U, A) < 50 * eps
    for one, unitary, positive in zip(A, U, P, strict=True):
        expected = scipy.linalg.polar(one.numpy(), side)
        assert error(positive, torch.from_numpy(expected[1])) < 100 * eps
        assert error(unitary, torch.from_numpy(expected[0])) < 1e3 * eps
    thin = U if shape[0] >= shape[1] else U.mH
    assert error(thin.mH @ thin, torch.eye(min(shape), dtype=dtype).expand(3, -1, -1)) < 30 * eps
    assert torch.equal(P, P.mH)


@pytest.mark.parametrize("method", ["svd", "qdwh"])
def test_polar_of_ill_conditioned_matrices_is_backward_stable(method):
    A, expected = with_singular_values(30, 30, np.geomspace(1, 1e-13, 30))
    U, P = polar(A, method=method)
    assert error(U @ P, A) < 1e-14
    assert error(U.mT @ U, torch.eye(30, dtype=torch.float64)) < 1e-14
    A, expected = with_singular_values(30, 20, np.geomspace(1, 1e-4, 20))
    assert error(polar(A, method=method)[0], expected) < 1e-11
    rotation = polar(torch.tensor([[0.0, 0.0], [0.0, 5.0]]), method=method)[0]
    torch.testing.assert_close(rotation.mT @ rotation, torch.eye(2))


def test_polar_gradients_and_bad_input():
    for shape, dtype in (((4, 4), torch.float64), ((5, 3), torch.float64), ((3, 5), torch.complex128)):
        A = gaussian(shape, dtype, generator=0).requires_grad_()
        for side in ("right", "left"):
            assert gradcheck(lambda X, side=side: polar(X, side), A)
        assert gradcheck(lambda X: polar(X), A, check_forward_ad=True, check_backward_ad=False)
    assert gradgradcheck(polar, gaussian((3, 2), torch.float64, generator=0).requires_grad_())
    with pytest.raises(ValueError, match="side must be"):
        polar(torch.eye(2), "up")
    with pytest.raises(ValueError, match="method must be"):
        polar(torch.eye(2), method="qr")
    with pytest.raises(ValueError, match="shape"):
        polar(torch.ones(3))
    singular = torch.zeros(2, 2, dtype=torch.float64, requires_grad=True)
    with pytest.raises(ValueError, match="singular"):
        polar(singular)[0].sum().backward()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(20, 20), (40, 15), (15, 40)])
def test_orthogonalize_to_tolerance(dtype, shape):
    eps = torch.finfo(dtype).eps
    A, expected = with_singular_values(*shape, np.geomspace(3e4, 3, min(shape)), dtype)
    U, info = orthogonalize(A, return_info=True)
    assert U.dtype == dtype and info.converged and info.error <= 32 * eps
    assert error(U, expected) < 2e5 * eps
    assert isinstance(orthogonalize(A.numpy()), np.ndarray)
    torch.testing.assert_close(orthogonalize(A, method="svd"), U, rtol=0, atol=1e5 * eps)
    torch.testing.assert_close(orthogonalize(A, method="newton_schulz"), U, rtol=0, atol=1e5 * eps)
    rough, info = orthogonalize(A, rtol=0.05, return_info=True)
    assert info.iterations < 9 and float(torch.linalg.matrix_norm(rough.mH @ rough @ rough.mH - rough.mH)) < 0.5


def test_rank_deficient_matrices_and_impossible_tolerances():
    A, expected = with_singular_values(12, 12, [1.0, 0.5, 0.2])
    for M in (A, A + 1e-17 * gaussian((12, 12), torch.float64, generator=5)):
        U, info = orthogonalize(M, return_info=True)
        torch.testing.assert_close(U, expected, rtol=0, atol=1e-12)
        assert info.method == "svd"
    with pytest.raises(ConvergenceError, match="rounding errors") as caught:
        orthogonalize(gaussian((12, 5), torch.float64, generator=5), rtol=1e-18)
    assert caught.value.best.shape == (12, 5) and caught.value.error > 1e-18
    assert torch.equal(orthogonalize(torch.zeros(3, 2)), torch.zeros(3, 2))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_fixed_steps_in_half_precision(dtype):
    A, expected = with_singular_values(64, 32, np.geomspace(1, 0.01, 32), torch.float64)
    U, info = orthogonalize(A.to(dtype), steps=6, return_info=True)
    assert U.dtype == dtype and info.iterations == 6
    s = torch.linalg.svdvals(U.double())
    slack = 8 * torch.finfo(dtype).eps
    assert s.max() <= 1 + info.error + slack and s.min() >= 1 - info.error - slack
    exact = orthogonalize(A.to(dtype))
    assert exact.dtype == dtype
    assert error(exact.double(), expected) < 100 * torch.finfo(dtype).eps


@pytest.mark.parametrize("method", ["polar_express", "newton_schulz"])
def test_the_stated_error_of_fixed_steps_is_kept(method):
    x = torch.cat([torch.logspace(-3, 0, 4000, dtype=torch.float64)])
    for steps in (1, 3, 5, 8):
        rows, bound = _plan(1e-3, 0.0, method, steps, 0.0)
        y = x
        for a, b, c in rows:
            y = y * (a + b * y**2 + c * y**4)
        found = float((y - 1).abs().max())
        assert found == pytest.approx(bound, rel=1e-6, abs=1e-14)


def test_best_quintics_beat_newton_schulz():
    A, _ = with_singular_values(50, 50, np.geomspace(1, 1e-2, 50))
    errors = [
        orthogonalize(A, steps=6, method=m, return_info=True)[1].error for m in ("polar_express", "newton_schulz")
    ]
    assert errors[0] < 0.03 < 0.9 < errors[1]


def test_orthogonalize_gradients_and_bad_input():
    for shape, dtype in (((4, 4), torch.float64), ((5, 3), torch.float64), ((3, 5), torch.complex128)):
        A = gaussian(shape, dtype, generator=0).requires_grad_()
        assert gradcheck(orthogonalize, A)
    assert gradgradcheck(orthogonalize, gaussian((4, 2), torch.float64, generator=0).requires_grad_())
    half = gaussian((4, 3), torch.float32, generator=0).bfloat16().requires_grad_()
    orthogonalize(half, steps=5).sum().backward()
    assert half.grad.dtype == torch.bfloat16 and bool(torch.isfinite(half.grad).all())
    mapped = torch.func.vmap(orthogonalize)(gaussian((3, 4, 2), torch.float64, generator=1))
    torch.testing.assert_close(mapped, orthogonalize(gaussian((3, 4, 2), torch.float64, generator=1)))
    for options, match in (
        ({"method": "qr"}, "method must be"),
        ({"steps": 3, "rtol": 0.1}, "steps goes with"),
        ({"steps": 0}, "steps must be"),
        ({"steps": 3, "low": 2.0}, "low must lie"),
        ({"rtol": -1.0}, "rtol must be"),
    ):
        with pytest.raises(ValueError, match=match):
            orthogonalize(torch.eye(3), **options)


@pytest.mark.parametrize("size", [1e-38, 1e-25, 1e25, 1e37])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_matrices_whose_squares_leave_the_range_are_orthogonalised_as_others(size, dtype):
    A = gaussian((2, 40, 30), dtype=torch.float32, generator=0).clamp(-3, 3)
    for settings in ({"steps": 5}, {}):
        want = orthogonalize(A.to(dtype), **settings).float()
        found = orthogonalize((A.to(dtype).double() * size).to(dtype), **settings).float()
        assert (found - want).norm() < 0.05 * want.norm()
