"""The exponential: against 50 digits, on the classical traps, with derivatives of every order and out of range."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from resolvent import functions, operators
from resolvent.functions import exponential

EPS = {torch.float32: 1.2e-7, torch.float64: 2.2e-16, torch.complex64: 1.2e-7, torch.complex128: 2.2e-16}


def reference(A: Tensor) -> Tensor:
    """The exponential of one matrix to 50 digits."""
    with mpmath.workdps(60):
        R = mpmath.expm(mpmath.matrix(A.to(torch.complex128).tolist()), method="taylor")
        n = len(A)
        found = torch.tensor([[complex(R[i, j]) for j in range(n)] for i in range(n)], dtype=torch.complex128)
    return found if A.is_complex() else found.real


def error(found: Tensor, exact: Tensor) -> float:
    return float(torch.linalg.matrix_norm(found.to(exact.dtype) - exact) / torch.linalg.matrix_norm(exact))


@pytest.mark.parametrize("dtype", EPS)
@pytest.mark.parametrize("norm", [1e-9, 1e-4, 0.04, 0.25, 1.0, 2.9, 20.0])
def test_every_degree_against_fifty_digits(dtype: torch.dtype, norm: float) -> None:
    A = torch.randn(5, 5, dtype=dtype, generator=torch.Generator().manual_seed(0))
    A = norm * A / torch.linalg.matrix_norm(A, 1)
    bound = 100 * EPS[dtype] * max(1.0, norm)
    assert error(functions.expm(A), reference(A)) < bound


@pytest.mark.parametrize("n", [7, 64, 65, 130])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_kernel_and_large_path_agree_with_scipy(n: int, dtype: torch.dtype) -> None:
    A = torch.randn(n, n, dtype=dtype, generator=torch.Generator().manual_seed(n)) / math.sqrt(n)
    for scale in (0.01, 0.2, 0.9, 6.0):
        exact = torch.from_numpy(scipy.linalg.expm((scale * A).numpy()))
        assert error(functions.expm(scale * A), exact) < 2e-14
        assert error(exponential._large((scale * A)[None])[0], exact) < 2e-14


TRAPS = {
    "overscaling": [[1.0, 1e6], [0.0, -1.0]],
    "nilpotent": [[0.0, 1e9, 1e9], [0.0, 0.0, 1e9], [0.0, 0.0, 0.0]],
    "ward": [[-131.0, 19.0, 18.0], [-390.0, 56.0, 54.0], [-387.0, 57.0, 52.0]],
    "moler": [[-49.0, 24.0], [-64.0, 31.0]],
    "jordan": [[2.0, 1.0, 0.0], [0.0, 2.0, 1.0], [0.0, 0.0, 2.0]],
    "repeated": [[4.0, 2.0, 0.0], [1.0, 4.0, 1.0], [1.0, 1.0, 4.0]],
    "stiff": [[-1e3, 1.0], [1.0, -1.0]],
}


@pytest.mark.parametrize("name", TRAPS)
def test_classical_traps(name: str) -> None:
    A = torch.tensor(TRAPS[name], dtype=torch.float64)
    cond = scipy.linalg.expm_cond(A.numpy())
    assert error(functions.expm(A), reference(A)) < 100 * EPS[torch.float64] * max(cond, 1.0)


def test_large_rotation_stays_a_rotation() -> None:
    angle = 1e8
    A = torch.tensor([[0.0, angle], [-angle, 0.0]], dtype=torch.float64)
    Q = functions.expm(A)
    exact = torch.tensor([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]], dtype=torch.float64)
    assert error(Q, exact) < 100 * EPS[torch.float64] * angle


def test_enormous_nilpotent_matrix_and_overflow() -> None:
    A = torch.tensor([[0.0, 1e300], [0.0, 0.0]], dtype=torch.float64)
    assert torch.equal(functions.expm(A), torch.eye(2, dtype=torch.float64) + A)
    with pytest.raises(OverflowError, match="beyond the range"):
        functions.expm(1000 * torch.eye(3))
    with pytest.raises(OverflowError):
        functions.expm(1000 * torch.eye(100, dtype=torch.float64))


@pytest.mark.parametrize("n", [4, 80])
def test_invariances(n: int) -> None:
    g = torch.Generator().manual_seed(1)
    A = torch.randn(n, n, dtype=torch.float64, generator=g) / math.sqrt(n)
    E = functions.expm(A)
    assert error(E @ functions.expm(-A), torch.eye(n, dtype=torch.float64)) < 1e-13
    assert error(functions.expm(A.T), E.T) < 1e-14
    assert abs(float(torch.linalg.slogdet(E)[1] - A.trace())) < 1e-12
    skew = A - A.T
    Q = functions.expm(skew)
    assert error(Q @ Q.T, torch.eye(n, dtype=torch.float64)) < 1e-13
    upper = functions.expm(A.triu())
    assert torch.equal(upper, upper.triu())


def test_batches_keep_shapes_and_scales_apart() -> None:
    g = torch.Generator().manual_seed(2)
    A = torch.randn(3, 4, 5, 5, dtype=torch.float64, generator=g) * torch.logspace(-8, 1.3, 12).view(3, 4, 1, 1)
    together = functions.expm(A)
    large = exponential._large(A[None])[0]
    for i in range(3):
        for j in range(4):
            assert error(together[i, j], reference(A[i, j])) < 1e-13
            assert error(large[i, j], reference(A[i, j])) < 1e-13
    assert functions.expm(A[:0]).shape == (0, 4, 5, 5)
    assert functions.expm(torch.zeros(2, 0, 0)).shape == (2, 0, 0)


def test_many_matrices_in_parallel_equal_those_one_by_one() -> None:
    A = torch.randn(300, 6, 6, generator=torch.Generator().manual_seed(3))
    together = functions.expm(A)
    assert torch.equal(together, torch.stack([functions.expm(a) for a in A]))


def test_kinds_and_bad_input() -> None:
    found = functions.expm(np.zeros((2, 2)))
    assert isinstance(found, np.ndarray) and (found == np.eye(2)).all()
    assert functions.expm([[0, 1], [0, 0]]).dtype == np.float64
    with pytest.raises(ValueError, match=r"A must have shape \(\.\.\., n, n\), got \(2, 3\)"):
        functions.expm(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="A has 1 entries that are NaN"):
        functions.expm(torch.tensor([[math.nan]]))
    with pytest.raises(TypeError, match="convert it to float32"):
        functions.expm(torch.eye(2, dtype=torch.float16))
    with pytest.raises(TypeError, match="has no structure"):
        functions.expm(operators.Toeplitz(torch.arange(3.0)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_derivatives_of_every_order(dtype: torch.dtype) -> None:
    A = torch.randn(2, 3, 3, dtype=dtype, generator=torch.Generator().manual_seed(4)).requires_grad_()
    assert torch.autograd.gradcheck(functions.expm, A, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(functions.expm, A)


def test_derivative_against_scipy_and_of_any_size() -> None:
    g = torch.Generator().manual_seed(5)
    A, E = torch.randn(2, 40, 40, dtype=torch.float64, generator=g)
    exact = torch.from_numpy(scipy.linalg.expm_frechet(A.numpy(), E.numpy(), compute_expm=False))
    for size in (1e-200, 1.0, 1e200):
        derivative = torch.func.jvp(functions.expm, (A,), (size * E,))[1]
        assert error(derivative / size, exact) < 1e-13


def test_function_transforms() -> None:
    A = torch.randn(4, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    assert torch.allclose(torch.func.vmap(functions.expm)(A), functions.expm(A), atol=1e-14)
    forward, backward = torch.func.jacfwd(functions.expm)(A[0]), torch.func.jacrev(functions.expm)(A[0])
    assert torch.allclose(forward, backward, atol=1e-13)
    hessian = torch.func.hessian(lambda X: functions.expm(X).sum())(A[0]).view(9, 9)
    assert torch.allclose(hessian, hessian.T, atol=1e-12)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_stays_on_the_device() -> None:
    A = torch.randn(5, 20, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    found = functions.expm(A.cuda())
    assert found.is_cuda and torch.allclose(found.cpu(), functions.expm(A), rtol=1e-12)


def patterned(pattern, n=451):
    A = torch.randn(n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) / n**0.5
    if pattern == "hermitian":
        return A + A.mT
    if pattern == "complex hermitian":
        return (A + 1j * A.roll(1, 0)) + (A + 1j * A.roll(1, 0)).mH
    if pattern == "upper":
        return A.triu()
    if pattern == "lower":
        return 5 * A.tril()
    keep = torch.zeros(n, n, dtype=torch.bool)
    half = n // 2
    keep[:half, :half] = keep[half:, half:] = True
    keep[:half, half:] = pattern == "block triangular"
    return torch.where(keep, A, 0)


@pytest.mark.parametrize(
    "pattern", ["hermitian", "complex hermitian", "upper", "lower", "block triangular", "block diagonal"]
)
def test_large_patterns_are_multiplied_in_panels(pattern):
    from resolvent.functions.panels import product_of

    A = patterned(pattern)
    product = product_of(A)
    assert product is not None
    assert torch.allclose(product(A, A @ A), A @ A @ A, rtol=0, atol=1e-12 * float(torch.linalg.matrix_norm(A)) ** 3)
    exact = torch.from_numpy(scipy.linalg.expm(A.numpy()))
    assert error(functions.expm(A), exact) < 1e-13
    single = A.to(torch.complex64 if A.is_complex() else torch.float32)
    assert error(functions.expm(single), exact) < 2e-5


def test_patterns_that_fill_up_are_not_panels():
    from resolvent.functions.panels import product_of

    ring = torch.zeros(512, 512)
    ring[torch.arange(511), torch.arange(1, 512)] = 1.0
    assert product_of(ring) is not None
    ring[511, 0] = 1.0
    assert product_of(ring) is None
    assert product_of(torch.rand(512, 512)) is None
    assert product_of(torch.rand(100, 100).triu()) is None
