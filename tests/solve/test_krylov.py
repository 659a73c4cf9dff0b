"""The iterations: known solutions, limits that recover other methods, preconditioners, starts, breakdowns, bad input."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as sl
import torch

from resolvent.errors import ConvergenceError
from resolvent.operators import Diagonal, Sparse
from resolvent.random import gaussian
from resolvent.solve import (
    bicgstab,
    block_cg,
    cg,
    deep_cg,
    fgmres,
    gcrodr,
    gmres,
    idr,
    lsmr,
    lsqr,
    minres,
    shifted_cg,
    sor,
)

F64 = torch.float64
POSITIVE = [cg, block_cg, minres]
GENERAL = [gmres, fgmres, bicgstab, idr]


def by_directions(A, b, **options):
    return deep_cg(A, b, lambda R: R, **options)


def draw(*shape, dtype=F64, seed=0):
    return gaussian(shape, dtype, generator=seed)


def hermitian(n, values, dtype=F64, seed=0):
    Q = torch.linalg.qr(draw(n, n, dtype=dtype, seed=seed)).Q
    A = (Q * values.to(dtype)) @ Q.mH
    return (A + A.mH) / 2


def general(n, dtype=F64):
    return draw(n, n, dtype=dtype) / n**0.5 + 1.5 * torch.eye(n, dtype=dtype)


@pytest.mark.parametrize("method", POSITIVE + GENERAL)
@pytest.mark.parametrize("dtype", [torch.float32, F64, torch.complex64, torch.complex128])
def test_solutions_with_and_without_a_preconditioner(method, dtype):
    n = 40
    A = hermitian(n, torch.logspace(0, 1.5, n, dtype=F64), dtype) if method in POSITIVE else general(n, dtype)
    b = draw(n, 3, dtype=dtype, seed=1)
    scale = torch.linspace(0.5, 2, n, dtype=F64).to(b.real.dtype)
    rtol = 1e-4 if b.real.dtype == torch.float32 else 1e-10
    for M in (None, Diagonal(scale)):
        x, info = method(A, b, M=M, rtol=rtol, return_info=True)
        residual = torch.linalg.vector_norm(b - A @ x, dim=0) / torch.linalg.vector_norm(b, dim=0)
        assert float(residual.max()) <= rtol and x.dtype == dtype
        assert info.error == pytest.approx(float(residual.max()), rel=0.5)
        assert info.history[0] == pytest.approx(1, abs=1e-5) and len(info.history) == info.iterations + 1


@pytest.mark.parametrize("method", POSITIVE + GENERAL)
def test_the_right_preconditioner_ends_at_once_and_a_start_is_used(method):
    n = 30
    A = hermitian(n, torch.logspace(0, 4, n, dtype=F64))
    b = draw(n, seed=1)
    exact = torch.linalg.solve(A, b)
    inverse = torch.linalg.inv(A)
    _, info = method(A, b, M=(inverse + inverse.mT) / 2, return_info=True)
    assert info.iterations <= 4
    _, info = method(A, b, x0=exact, rtol=1e-8, return_info=True)
    assert info.iterations == 0
    assert bool((method(A, torch.zeros(n, dtype=F64), x0=exact) == 0).all())


@pytest.mark.parametrize("method", POSITIVE + GENERAL)
def test_the_callback_sees_the_iterates(method):
    seen = []
    A, b = np.diag([1.0, 2.0, 5.0]), np.ones(3)
    x = method(A, b, callback=seen.append)
    assert isinstance(x, np.ndarray) and seen and seen[0].shape == (3,)
    np.testing.assert_allclose(seen[-1], x, atol=1e-6)


def test_cg_is_that_of_scipy_step_by_step():
    A = hermitian(40, torch.logspace(0, 2, 40, dtype=F64)).numpy()
    b = draw(40, seed=2).numpy()
    ours, theirs = [], []
    cg(A, b, callback=lambda x: ours.append(x.copy()))
    sl.cg(A, b, rtol=1e-10, callback=lambda x: theirs.append(x.copy()))
    for x, y in zip(ours[:15], theirs[:15], strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-8, atol=1e-12)


def test_cg_ends_after_as_many_steps_as_there_are_eigenvalues():
    A = hermitian(50, torch.tensor([1.0, 4.0, 9.0], dtype=F64).repeat(17)[:50])
    assert cg(A, draw(50), return_info=True)[1].iterations == 3
    assert minres(A - 5 * torch.eye(50, dtype=F64), draw(50), return_info=True)[1].iterations == 3
    assert gmres(A, draw(50), return_info=True)[1].iterations == 3


def test_the_fused_kernels_change_nothing():
    T = sp.diags([-np.ones(24_999), 2.1 * np.ones(25_000), -np.ones(24_999)], [-1, 0, 1]).tocsr()
    b = draw(25_000, seed=1)
    x, info = cg(Sparse(T), b, return_info=True)
    two, again = cg(Sparse(T), torch.stack([b, b], 1), return_info=True)
    assert abs(info.iterations - again.iterations) <= 1
    torch.testing.assert_close(two[:, 1], x, rtol=1e-7, atol=1e-8)


def test_block_cg_needs_fewer_steps_and_survives_dependent_columns():
    n = 200
    A, B = hermitian(n, torch.logspace(0, 4, n, dtype=F64)), draw(n, 8, seed=1)
    single, block = (f(A, B, return_info=True)[1].iterations for f in (cg, block_cg))
    assert block < 0.4 * single
    C = torch.cat([B[:, :2], B[:, :1] + B[:, 1:2], 0 * B[:, :1]], 1)
    torch.testing.assert_close(block_cg(A, C), torch.linalg.solve(A, C), rtol=1e-6, atol=1e-8)


def test_minres_indefinite_and_its_residuals_fall():
    n = 60
    values = torch.linspace(1, 20, n, dtype=F64)
    values[::3] *= -1
    A, b = hermitian(n, values), draw(n, seed=1)
    x, info = minres(A, b, return_info=True)
    torch.testing.assert_close(x, torch.linalg.solve(A, b), rtol=1e-7, atol=1e-9)
    assert (np.diff(info.history) <= 1e-14).all()
    y = sl.minres(A.numpy(), b.numpy(), rtol=1e-12)[0]
    np.testing.assert_allclose(x.numpy(), y, rtol=1e-6, atol=1e-9)


def test_gmres_residuals_are_the_least_of_the_krylov_space():
    n, steps = 25, 6
    A, b = general(n), draw(n, seed=1)
    _, info = gmres(A, b, return_info=True)
    K = torch.stack([torch.linalg.matrix_power(A, j) @ b for j in range(1, steps + 1)], 1)
    least = torch.linalg.vector_norm(b - K @ torch.linalg.lstsq(K, b[:, None]).solution[:, 0])
    assert info.history[steps] == pytest.approx(float(least / torch.linalg.vector_norm(b)), rel=1e-6)
    assert gmres(A, b, restart=5, return_info=True)[1].iterations >= info.iterations


def test_flexible_gmres_takes_a_preconditioner_that_changes():
    A, b = hermitian(60, torch.logspace(0, 4, 60, dtype=F64)), draw(60, seed=1)

    def inner(R):
        try:
            return cg(A, R, rtol=1e-2, maxiter=40)
        except ConvergenceError as error:
            return error.best

    x, info = fgmres(A, b, M=inner, return_info=True)
    torch.testing.assert_close(x, torch.linalg.solve(A, b), rtol=1e-6, atol=1e-8)
    assert info.iterations <= 20


def test_idr_ends_within_its_bound():
    n, s = 24, 4
    _, info = idr(general(n), draw(n, seed=1), s=s, return_info=True)
    assert info.iterations <= n + n / s + s + 1


def test_shifts():
    A, b = hermitian(40, torch.logspace(0, 3, 40, dtype=F64)), draw(40, seed=1)
    shifts = [3.0, -0.5, 0.0, 1e4]
    X, info = shifted_cg(A, b, shifts, return_info=True)
    eye = torch.eye(40, dtype=F64)
    for x, s in zip(X, shifts, strict=True):
        torch.testing.assert_close(x, torch.linalg.solve(A + s * eye, b), rtol=1e-7, atol=1e-9)
    seed = cg(A - 0.5 * eye, b, return_info=True)[1]
    assert info.matvecs <= seed.iterations + 10
    with pytest.raises(ValueError, match="positive definite"):
        shifted_cg(A, b, [-10.0])
    with pytest.raises(ValueError, match="shifts"):
        shifted_cg(A, b, [[1.0]])


@pytest.mark.parametrize("method", [cg, block_cg])
def test_an_indefinite_matrix_is_an_error(method):
    with pytest.raises(ValueError, match="positive definite"):
        method(np.diag([1.0, -1.0, 2.0]), np.array([1.0, 2.0, 1.0]))


@pytest.mark.parametrize("method", POSITIVE + GENERAL)
def test_a_missed_tolerance_is_an_error_with_the_best_value(method):
    A, b = hermitian(80, torch.logspace(0, 6, 80, dtype=F64)).numpy(), np.ones(80)
    with pytest.raises(ConvergenceError) as caught:
        method(A, b, maxiter=5)
    error = caught.value
    assert error.info.iterations <= 6 and not error.info.converged
    measured = np.linalg.norm(b - A @ error.best) / np.linalg.norm(b)
    assert error.error == pytest.approx(measured, rel=1e-3)
    assert measured <= 1


@pytest.mark.parametrize("method", [minres, gmres, bicgstab, idr])
def test_a_singular_system_without_a_solution_is_an_error(method):
    with pytest.raises(ConvergenceError):
        method(np.diag([1.0, 2.0, 0.0]), np.ones(3))


@pytest.mark.parametrize("method", POSITIVE + GENERAL)
def test_bad_input(method):
    A, b = torch.eye(3, dtype=F64), torch.ones(3, dtype=F64)
    for given, match in (
        ((torch.ones(2, 3, dtype=F64), b), "square"),
        ((A, b[:2]), "m = 3"),
        ((A, b * torch.nan), "NaN"),
        ((A.expand(2, 3, 3), b), "batch"),
        ((A, b.expand(2, 3, 3)), "shape"),
    ):
        with pytest.raises(ValueError, match=match):
            method(*given)
    for options, match in (
        ({"rtol": 0.0}, "rtol"),
        ({"M": torch.eye(2, dtype=F64)}, "M must"),
        ({"x0": torch.ones(2, dtype=F64)}, "x0"),
        ({"maxiter": -1}, "maxiter"),
    ):
        with pytest.raises(ValueError, match=match):
            method(A, b, **options)
    with pytest.raises(TypeError, match="solve"):
        method(A, b.clone().requires_grad_())
    with pytest.raises((ValueError, ConvergenceError), match=r"NaN or infinity|residual"):
        method(A, b, M=Diagonal(torch.full((3,), torch.inf, dtype=F64)))


def test_bad_options():
    A, b = np.eye(2), np.ones(2)
    with pytest.raises(ValueError, match="restart"):
        gmres(A, b, restart=0)
    with pytest.raises(ValueError, match="s must"):
        idr(A, b, s=0)
    with pytest.raises(ValueError, match="M must be positive"):
        cg(A, b, M=-np.eye(2))
    with pytest.raises(ValueError, match="Hermitian"):
        cg(np.array([[1.0, 1.0], [0.0, 1.0]]), b)


@pytest.mark.parametrize("of_b", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("of_A", [1e-25, 1.0, 1e25])
@pytest.mark.parametrize("method", [*POSITIVE, *GENERAL, gcrodr, sor, lsqr, lsmr, by_directions])
def test_float32_far_from_one(method, of_A, of_b):
    if not 1e-36 < of_b / of_A < 1e36:
        pytest.skip("x is beyond the range of float32")
    n = 20
    A = hermitian(n, torch.linspace(1, 4, n, dtype=F64)).float()
    x = draw(n, 2, dtype=torch.float32, seed=1)
    b = (A.double() @ x.double() * of_b).float()
    found = method((A.double() * of_A).float(), b, rtol=1e-5)
    relative = found.double() * (of_A / of_b) - x
    assert float(relative.abs().max() / x.abs().max()) < 1e-3


def test_columns_of_very_different_sizes_and_a_shift_of_the_size_of_A():
    A, b = hermitian(20, torch.linspace(1, 4, 20, dtype=F64)).float(), draw(20, dtype=torch.float32)
    sizes = torch.tensor([1e-30, 1.0, 1e30])
    exact = torch.linalg.solve(A.double(), b.double())
    found = cg(A, b[:, None] * sizes).double() / sizes
    assert torch.allclose(found, exact[:, None].expand(-1, 3), rtol=1e-3, atol=1e-4)
    small = shifted_cg(A * 1e-25, b * 1e-30, torch.tensor([0.0, 1e-25])).double() * 1e5
    shifted = torch.linalg.solve(A.double() + torch.eye(20, dtype=F64), b.double())
    assert torch.allclose(small, torch.stack([exact, shifted]), rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="range"):
        cg(A * 1e-25, b * 1e30)


@pytest.mark.parametrize("method", [*POSITIVE, *GENERAL, gcrodr, sor, by_directions])
def test_a_zero_column_with_a_start(method):
    n = 20
    A, b = hermitian(n, torch.linspace(1, 4, n, dtype=F64)), draw(n, 2)
    b[:, 0] = 0
    x = method(A, b, x0=draw(n, 2, seed=1), rtol=1e-9)
    assert not x[:, 0].any() and torch.allclose(A @ x, b, atol=1e-7)


def test_callbacks_see_all_of_x_in_memory_of_its_own():
    n = 30
    A, b = hermitian(n, torch.logspace(0, 5, n, dtype=F64)), draw(n)
    for method in (cg, minres, bicgstab, idr, gmres, gcrodr, by_directions):
        for x0 in (None, draw(n, seed=2)):
            seen = []
            # So tight that the residual is solved for again.
            try:
                x = method(A, b, x0=x0, rtol=1e-14, callback=seen.append)
            except ConvergenceError as error:
                x = error.best
            assert torch.linalg.vector_norm(seen[-1] - x) < 1e-6 * torch.linalg.vector_norm(x)
            assert len(seen) == 1 or not torch.equal(seen[0], seen[-1])


def test_starts_and_shifts_that_would_lose_something():
    A, b = torch.eye(3, dtype=F64), torch.ones(3, dtype=F64)
    with pytest.raises(TypeError, match="x0 has dtype"):
        cg(A, b, x0=torch.ones(3, dtype=torch.complex128))
    with pytest.raises(TypeError, match="shifts"):
        shifted_cg(A, b, torch.ones(2, dtype=F64, requires_grad=True))
