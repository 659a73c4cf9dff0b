"""newton_krylov: known zeros, SciPy's, superlinear convergence, globalisation, implicit gradients, failures."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import torch
from torch.autograd import gradcheck

from resolvent.errors import ConvergenceError
from resolvent.solve import ic, newton_krylov

F64 = torch.float64


def bratu(m, strength):
    """-u'' = strength exp(u) on a square, zero at the boundary."""
    h = 1 / (m + 1)

    def F(u):
        padded = torch.nn.functional.pad(u, (1, 1, 1, 1))
        stencil = 4 * u - padded[:-2, 1:-1] - padded[2:, 1:-1] - padded[1:-1, :-2] - padded[1:-1, 2:]
        return stencil - h**2 * strength * torch.exp(u)

    return F


def poisson(m):
    import scipy.sparse as sp

    T = sp.diags([-np.ones(m - 1), 2 * np.ones(m), -np.ones(m - 1)], [-1, 0, 1])
    return (sp.kron(T, sp.eye(m)) + sp.kron(sp.eye(m), T)).tocsr()


def test_a_boundary_value_problem_as_scipy_solves_it():
    m, F = 16, bratu(16, 5.0)
    u, info = newton_krylov(F, np.zeros((m, m)), return_info=True)
    reference = scipy.optimize.newton_krylov(lambda v: F(torch.from_numpy(v)).numpy(), np.zeros((m, m)), f_tol=1e-11)
    assert isinstance(u, np.ndarray) and u.shape == (m, m)
    np.testing.assert_allclose(u, reference, atol=1e-8)
    assert info.converged and len(info.history) == info.iterations + 1
    # A preconditioner, once for all steps and anew for each.
    M = ic(poisson(m))
    for given in (M, lambda u: M):
        v, fast = newton_krylov(F, np.zeros((m, m)), M=given, return_info=True)
        np.testing.assert_allclose(v, u, atol=1e-9)
        assert fast.matvecs < 0.6 * info.matvecs


def test_convergence_is_superlinear_and_far_steps_are_cheap():
    F = bratu(12, 6.0)
    _, info = newton_krylov(F, 2 * torch.ones(12, 12, dtype=F64), rtol=1e-13, return_info=True)
    ratios = np.array(info.history[1:]) / np.array(info.history[:-1])
    assert ratios[-2] < 0.01 and info.iterations < 12 and ratios[-2] < ratios[0] / 10


def test_steps_are_cut_where_the_full_ones_diverge():
    x0 = torch.tensor([3.0, -4.0, 10.0], dtype=F64)
    # The full step from |x| > 1.39 overshoots for good.
    y = x0.clone()
    for _ in range(5):
        y = y - torch.atan(y) * (1 + y**2)
    assert float(y.abs().max()) > 1e10 or not bool(torch.isfinite(y).all())
    x = newton_krylov(torch.atan, x0)
    assert float(x.abs().max()) < 1e-9

    def rosenbrock(x):
        return torch.stack([10 * (x[1] - x[0] ** 2), 1 - x[0]])

    torch.testing.assert_close(
        newton_krylov(rosenbrock, torch.tensor([-1.2, 1.0], dtype=F64)), torch.ones(2, dtype=F64)
    )
    # A start from which full steps leave the domain of F.
    x = newton_krylov(lambda x: torch.log(x) - 1, torch.tensor([20.0], dtype=F64))
    torch.testing.assert_close(x, torch.tensor([np.e], dtype=F64))


def test_linear_systems_and_zeros_at_the_start():
    A = torch.diag(torch.arange(1.0, 6.0, dtype=F64)) + 0.1
    b = torch.arange(5.0, dtype=F64)
    x, info = newton_krylov(lambda x: A @ x - b, torch.zeros(5, dtype=F64), return_info=True)
    torch.testing.assert_close(x, torch.linalg.solve(A, b), rtol=1e-8, atol=1e-9)
    x, info = newton_krylov(lambda x: A @ x - A @ torch.ones(5, dtype=F64), torch.ones(5, dtype=F64), return_info=True)
    assert info.iterations == 0 and x.tolist() == [1.0] * 5
    y = newton_krylov(lambda x: x**3 - 8, torch.tensor(1.0))
    assert y.dtype == torch.float32 and y.shape == () and float(y) == pytest.approx(2, rel=1e-5)


def test_gradients_by_the_implicit_function_theorem():
    A = torch.randn(4, 4, dtype=F64, generator=torch.Generator().manual_seed(0))
    c = torch.linspace(0.5, 1.5, 4, dtype=F64, requires_grad=True)
    start = torch.zeros(4, dtype=F64)

    def root(c, A):
        return newton_krylov(lambda x: 3 * x + torch.tanh(A @ x) - c, start, rtol=1e-13)

    assert gradcheck(root, (c, A.requires_grad_()))
    with pytest.raises(RuntimeError, match="first derivatives"):
        (g,) = torch.autograd.grad((root(c, A) ** 2).sum(), c, create_graph=True)
        g.sum().backward()


def test_failures_are_errors():
    with pytest.raises(ConvergenceError, match="no step") as caught:
        newton_krylov(lambda x: x**2 + 1, torch.tensor([2.0], dtype=F64))
    assert caught.value.best.shape == (1,) and caught.value.error > 0.1
    with pytest.raises(ConvergenceError, match="maxiter"):
        newton_krylov(bratu(8, 5.0), torch.zeros(8, 8, dtype=F64), maxiter=1)
    one = torch.ones(2, dtype=F64)
    for F, x0, message in (
        (lambda x: x[:1], one, "shape"),
        (lambda x: torch.log(x - 5), one, "not finite at x0"),
        (torch.sin, one * torch.nan, "finite"),
    ):
        with pytest.raises(ValueError, match=message):
            newton_krylov(F, x0)
    for options, message in (
        ({"rtol": 2.0}, "rtol"),
        ({"rtol": 0.0}, "rtol"),
        ({"maxiter": 0}, "maxiter"),
        ({"inner": 1.5}, "inner"),
    ):
        with pytest.raises(ValueError, match=message):
            newton_krylov(torch.sin, one, **options)
    with pytest.raises(TypeError, match="real"):
        newton_krylov(torch.sin, one.to(torch.complex128))
    with pytest.raises(TypeError, match="tensor"):
        newton_krylov(lambda x: 1.0, one)
