"""Recycled GMRES: what it minimises, the harmonic Ritz vectors that it keeps, and its limits."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse as sp
import torch

from resolvent.errors import ConvergenceError
from resolvent.operators import Diagonal, Sparse
from resolvent.random import gaussian
from resolvent.solve import gcrodr, gmres, ilu, jacobi_preconditioner
from resolvent.solve.recycle_kernel import largest_space

F64 = torch.float64


def draw(*shape, dtype=F64, seed=0):
    return gaussian(shape, dtype, generator=seed)


def hard(n=300, small=6, dtype=F64, seed=0):
    """Far from normal, with a few eigenvalues near zero that restarts lose sight of."""
    w = torch.cat([torch.logspace(-3, -1.5, small, dtype=F64), torch.linspace(1, 2, n - small, dtype=F64)])
    S = draw(n, n, dtype=dtype, seed=seed) / n**0.5 * 0.3 + torch.eye(n, dtype=dtype)
    return torch.linalg.solve(S, w.to(dtype)[:, None] * S)


@pytest.mark.parametrize("dtype", [torch.float32, F64, torch.complex64, torch.complex128])
@pytest.mark.parametrize("preconditioned", [False, True])
def test_solutions_of_several_columns_that_share_a_space(dtype, preconditioned):
    n = 120
    A, b = hard(n, 4, dtype), draw(n, 3, dtype=dtype, seed=1)
    M = Diagonal(torch.linspace(0.5, 2, n, dtype=F64).to(b.real.dtype)) if preconditioned else None
    rtol = 1e-4 if b.real.dtype == torch.float32 else 1e-10
    x, info = gcrodr(A, b, M=M, rtol=rtol, restart=20, recycle=6, return_info=True)
    residual = torch.linalg.vector_norm(b - A @ x, dim=0) / torch.linalg.vector_norm(b, dim=0)
    assert float(residual.max()) <= rtol and x.dtype == dtype
    assert info.error == pytest.approx(float(residual.max()), rel=0.5)
    assert info.history[0] == pytest.approx(1, abs=1e-5) and len(info.history) == info.iterations + 1
    assert info.space.shape[0] == n and 1 <= info.space.shape[1] <= 7


@pytest.mark.parametrize("dtype", [F64, torch.complex128])
def test_without_a_space_it_is_gmres(dtype):
    A, b = hard(100, 3, dtype), draw(100, dtype=dtype, seed=1)
    plain = gmres(A, b, restart=30, rtol=1e-8, return_info=True)[1]
    ours = gcrodr(A, b, restart=30, recycle=0, rtol=1e-8, return_info=True)[1]
    assert ours.space is None and ours.iterations == pytest.approx(plain.iterations, abs=2)
    np.testing.assert_allclose(ours.history[:30], plain.history[:30], rtol=1e-8)


def test_the_residual_is_the_least_over_the_kept_space_and_the_krylov_space():
    n, k, steps = 60, 3, 5
    A, b, U = hard(n, 3), draw(n, seed=1), draw(n, k, seed=2)
    M = Diagonal(torch.linspace(0.5, 2, n, dtype=F64))
    with pytest.raises(ConvergenceError) as caught:
        gcrodr(A, b, space=U, M=M, restart=k + steps, recycle=k, maxiter=steps)
    C = torch.linalg.qr(A @ U).Q
    B = (A - C @ (C.mT @ A)) @ M.to_dense()
    r = b - C @ (C.mT @ b)
    K = torch.stack([torch.linalg.matrix_power(B, j) @ r for j in range(steps)], 1)
    images = torch.cat([A @ U, A @ M.to_dense() @ K], 1)
    least = torch.linalg.vector_norm(b - images @ torch.linalg.lstsq(images, b[:, None]).solution[:, 0])
    assert caught.value.error == pytest.approx(float(least / torch.linalg.vector_norm(b)), rel=1e-7)


@pytest.mark.parametrize("preconditioned", [False, True])
def test_the_kept_space_is_that_of_the_smallest_harmonic_ritz_values(preconditioned):
    """One cycle from nothing, against the generalised eigenproblem of Morgan's definition."""
    n, k = 50, 4
    A, b = hard(n, 4), draw(n, seed=1)
    P = torch.diag(torch.linspace(0.5, 2, n, dtype=F64)) if preconditioned else torch.eye(n, dtype=F64)
    _, info = gcrodr(A, b, M=P if preconditioned else None, restart=40, recycle=k, rtol=0.04, return_info=True)
    steps = info.iterations
    assert k < steps < 40
    V = b[:, None]
    for _ in range(steps - 1):
        V = torch.linalg.qr(torch.cat([V, A @ P @ V[:, -1:]], 1)).Q
    V = P @ V
    test = A @ V
    theta, Z = scipy.linalg.eig((test.mT @ P @ test).numpy(), (test.mT @ V).numpy())
    Z = Z[:, np.argsort(abs(theta))[: info.space.shape[1]]]
    wanted = scipy.linalg.orth(np.concatenate([(V.numpy() @ Z).real, (V.numpy() @ Z).imag], 1), rcond=1e-6)
    angles = scipy.linalg.subspace_angles(info.space.numpy(), wanted)
    assert wanted.shape[1] == info.space.shape[1] and angles.max() < 1e-4


def test_a_space_of_invariant_vectors_removes_their_eigenvalues():
    n, small = 200, 5
    A, b = hard(n, small), draw(n, seed=1)
    w, V = torch.linalg.eig(A)
    U = V[:, w.abs().argsort()[:small]].real
    ours, plain = (gcrodr(A, b, space=s, restart=25, recycle=small, return_info=True)[1] for s in (U, None))
    assert ours.iterations < 0.6 * plain.iterations
    assert ours.gap < 0.05


def test_a_sequence_gains_and_restarts_alone_gain():
    A, b = hard(), draw(300, seed=1)
    plain = gmres(A, b, restart=20, maxiter=3000, rtol=1e-8, return_info=True)[1].iterations
    _, first = gcrodr(A, b, restart=20, recycle=8, rtol=1e-8, return_info=True)
    B = A + 1e-4 * draw(300, 300, seed=3) / 300**0.5
    y, second = gcrodr(B, b, space=first.space, restart=20, recycle=8, rtol=1e-8, return_info=True)
    assert first.iterations < 0.7 * plain and second.iterations < 0.8 * first.iterations
    assert np.isnan(first.gap) and 0 <= second.gap < 1
    torch.testing.assert_close(B @ y, b, rtol=1e-6, atol=1e-6)


def test_kinds_scales_and_vectors_that_depend_on_each_other():
    T = sp.diags([-np.ones(399), 2.4 * np.ones(400), -1.2 * np.ones(399)], [-1, 0, 1]).tocsr()
    b = np.ones(400)
    for M in (None, jacobi_preconditioner(T), ilu(T)):
        x, info = gcrodr(T, b, M=M, restart=20, recycle=5, return_info=True)
        assert isinstance(x, np.ndarray) and isinstance(info.space, np.ndarray)
        assert np.linalg.norm(b - T @ x) <= 1e-10 * np.linalg.norm(b)
    twice = np.concatenate([1e-150 * info.space, info.space, 0 * info.space[:, :1]], 1)
    again = gcrodr(T, b, M=M, space=twice, restart=20, recycle=5, return_info=True)[1]
    assert again.converged
    y = gcrodr(Sparse(1e100 * T), 1e-50 * b, restart=20, recycle=5)
    np.testing.assert_allclose(1e150 * y, x, rtol=1e-6)


def test_small_systems_end_at_once():
    A = torch.tensor([[1.0, 2.0, 0.0], [0.0, -1.0, 1.0], [1.0, 0.0, 3.0]], dtype=F64)
    b = torch.tensor([3.0, 1.0, 2.0], dtype=F64)
    x, info = gcrodr(A, b, return_info=True)
    torch.testing.assert_close(A @ x, b)
    assert info.iterations == 3
    y, again = gcrodr(A, b + 1, space=info.space, return_info=True)
    torch.testing.assert_close(A @ y, b + 1)
    assert again.iterations <= 3
    one = gcrodr(torch.tensor([[2.0]]), torch.tensor([4.0]))
    assert one.tolist() == [2.0]
    assert bool((gcrodr(A, 0 * b, x0=b) == 0).all())
    assert gcrodr(A, b, x0=x, rtol=1e-8, return_info=True)[1].iterations == 0


def test_the_callback_sees_the_cycles():
    seen = []
    A, b = hard(100, 5).numpy(), np.ones(100)
    x = gcrodr(A, b, restart=8, recycle=3, callback=seen.append)
    assert len(seen) > 2 and seen[0].shape == (100,)
    np.testing.assert_allclose(seen[-1], x)


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_the_invariant_space_of_the_largest_eigenvalues(dtype):
    rng = np.random.default_rng(0)
    K = rng.standard_normal((9, 9)).astype(dtype)
    sizes = np.sort(abs(np.linalg.eigvals(K)))[::-1]
    for k in range(1, 9):
        S = largest_space(K, k)
        inside = S.conj().T @ K @ S
        assert np.linalg.norm(K @ S - S @ inside) < 1e-12
        assert np.linalg.norm(S.conj().T @ S - np.eye(S.shape[1])) < 1e-12
        found = np.sort(abs(np.linalg.eigvals(inside)))[::-1]
        np.testing.assert_allclose(found, sizes[: len(found)])
        assert abs(S.shape[1] - k) <= (dtype == np.float64)


def test_a_missed_tolerance_and_a_singular_system_are_errors():
    A, b = hard().numpy(), np.ones(300)
    with pytest.raises(ConvergenceError) as caught:
        gcrodr(A, b, restart=5, recycle=2, maxiter=7)
    measured = np.linalg.norm(b - A @ caught.value.best) / np.linalg.norm(b)
    assert caught.value.error == pytest.approx(measured, rel=1e-3) and measured <= 1
    with pytest.raises(ConvergenceError):
        gcrodr(np.diag([1.0, 2.0, 0.0]), np.ones(3))


def test_bad_input():
    A, b = torch.eye(3, dtype=F64), torch.ones(3, dtype=F64)
    for options, match in (
        ({"restart": 1}, "restart"),
        ({"restart": 5, "recycle": 5}, "recycle"),
        ({"recycle": -1}, "recycle"),
        ({"space": torch.ones(2, 1, dtype=F64)}, "space"),
        ({"space": torch.ones(3, 3, dtype=F64), "restart": 3, "recycle": 1}, "space"),
        ({"space": torch.full((3, 1), torch.nan, dtype=F64)}, "space"),
        ({"rtol": 2.0}, "rtol"),
    ):
        with pytest.raises(ValueError, match=match):
            gcrodr(A, b, **options)
    with pytest.raises(TypeError, match="real space"):
        gcrodr(A, b, space=torch.ones(3, 1, dtype=torch.complex128))
    with pytest.raises(TypeError, match="solve"):
        gcrodr(A, b.clone().requires_grad_())
    with pytest.raises(ValueError, match="NaN or infinity"):
        gcrodr(A, b, M=Diagonal(torch.full((3,), torch.inf, dtype=F64)))
