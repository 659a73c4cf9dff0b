"""Constrained and total least squares against their conditions, other solvers and their own definitions."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import torch
from torch.autograd import gradcheck

from resolvent.random import gaussian
from resolvent.solve import constrained_lstsq, lstsq, total_lstsq

F64 = torch.float64


def draw(*shape, dtype=F64, seed=0):
    return gaussian(shape, dtype, generator=seed)


@pytest.mark.parametrize("dtype", [F64, torch.complex128])
def test_the_conditions_of_optimality(dtype):
    A, B = draw(20, 7, dtype=dtype), draw(20, 2, dtype=dtype, seed=1)
    C, D = draw(3, 7, dtype=dtype, seed=2), draw(3, 2, dtype=dtype, seed=3)
    X = constrained_lstsq(A, B, C, D)
    torch.testing.assert_close(C @ X, D)
    # The same by the KKT system.
    K = torch.cat([torch.cat([A.mH @ A, C.mH], 1), torch.cat([C, torch.zeros(3, 3, dtype=dtype)], 1)])
    torch.testing.assert_close(X, torch.linalg.solve(K, torch.cat([A.mH @ B, D]))[:7])
    torch.testing.assert_close(constrained_lstsq(A, B[:, 0], C, D[:, 0]), X[:, 0])


def test_limiting_cases():
    A, b = draw(12, 5), draw(12, seed=1)
    none = constrained_lstsq(A, b, torch.zeros(0, 5, dtype=F64), torch.zeros(0, dtype=F64))
    torch.testing.assert_close(none, lstsq(A, b))
    C, d = draw(5, 5, seed=2), draw(5, seed=3)
    torch.testing.assert_close(constrained_lstsq(A, b, C, d), torch.linalg.solve(C, d))
    # Dependent but consistent constraints, and more unknowns than equations: the solution of least norm.
    A, b, C, d = draw(3, 8, seed=4), draw(3, seed=5), draw(2, 8, seed=6), draw(2, seed=7)
    x = constrained_lstsq(A, b, torch.cat([C, C.sum(0, keepdim=True)]), torch.cat([d, d.sum()[None]]))
    torch.testing.assert_close(
        x, torch.linalg.lstsq(torch.cat([A, C]), torch.cat([b, d])[:, None], driver="gelsd").solution[:, 0]
    )
    x = constrained_lstsq(A.numpy(), b.numpy(), C.numpy(), d.numpy())
    assert isinstance(x, np.ndarray)
    single = constrained_lstsq(A.float(), b.float(), C.float(), d.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), torch.as_tensor(x), rtol=1e-4, atol=1e-5)


def test_constraints_are_met_where_weights_would_lose_them():
    A, b = draw(40, 6), draw(40, seed=1)
    C, d = 1e-6 * draw(2, 6, seed=2), 1e-6 * draw(2, seed=3)
    assert float((C @ constrained_lstsq(A, b, C, d) - d).abs().max()) < 1e-20


def test_constrained_gradients_and_errors():
    inputs = tuple(draw(*shape, seed=i).requires_grad_() for i, shape in enumerate([(9, 5), (9, 2), (2, 5), (2, 2)]))
    assert gradcheck(constrained_lstsq, inputs)
    parts = tuple(
        draw(*shape, dtype=torch.complex128, seed=i).requires_grad_()
        for i, shape in enumerate([(6, 3), (6,), (1, 3), (1,)])
    )
    assert gradcheck(constrained_lstsq, parts)
    A, b, C, d = draw(9, 5), draw(9), draw(2, 5), draw(2)
    with pytest.raises(ValueError, match="contradict"):
        constrained_lstsq(A, b, torch.cat([C, C]), torch.cat([d, d + 1]))
    with pytest.raises(ValueError, match="independent"):
        constrained_lstsq(A.clone().requires_grad_(), b, torch.cat([C, C]), torch.cat([d, d])).sum().backward()
    with pytest.raises(ValueError, match="C must have"):
        constrained_lstsq(A, b, C[:, :3], d)
    with pytest.raises(ValueError, match="columns"):
        constrained_lstsq(A, b, C, d[:, None])
    with pytest.raises(ValueError, match="rcond"):
        constrained_lstsq(A, b, C, d, rcond=2.0)
    with pytest.raises(TypeError, match="dtype"):
        constrained_lstsq(A, b, C.float(), d.float())


def change(A, b, x):
    """The squared Frobenius norm of the least [E, F] with (A + E) x = b + F."""
    r = A @ x - b
    return float(r @ r / (1 + x @ x))


def test_total_least_squares_is_the_least_change():
    A, b = draw(30, 3), draw(30, seed=1)
    b = A @ torch.tensor([1.0, -2.0, 0.5], dtype=F64) + 0.3 * b
    x = total_lstsq(A, b)
    assert change(A, b, x) == pytest.approx(float(torch.linalg.svdvals(torch.cat([A, b[:, None]], 1))[-1]) ** 2)
    found = scipy.optimize.minimize(lambda y: change(A, b, torch.as_tensor(y)), lstsq(A, b).numpy(), tol=1e-12)
    np.testing.assert_allclose(x.numpy(), found.x, atol=1e-5)
    assert change(A, b, x) < change(A, b, lstsq(A, b))


def test_several_right_sides_are_the_nearest_matrix_of_rank_n():
    A, B = draw(25, 4, dtype=torch.complex128), draw(25, 2, dtype=torch.complex128, seed=1)
    X = total_lstsq(A, B)
    U, s, Vh = torch.linalg.svd(torch.cat([A, B], 1), full_matrices=False)
    near = (U[:, :4] * s[:4]) @ Vh[:4]
    torch.testing.assert_close(near[:, :4] @ X, near[:, 4:])
    # No errors at all: the exact solution, and square systems are solved.
    Y = draw(4, 2, dtype=torch.complex128, seed=2)
    torch.testing.assert_close(total_lstsq(A, A @ Y), Y)
    torch.testing.assert_close(total_lstsq(A[:4], B[:4]), torch.linalg.solve(A[:4], B[:4]))


def test_it_is_consistent_where_least_squares_is_biased():
    # Errors in the regressors pull least squares towards zero: the reason for total least squares.
    truth = torch.tensor([2.0, -1.0], dtype=F64)
    clean = draw(20_000, 2)
    A, b = clean + 0.5 * draw(20_000, 2, seed=1), clean @ truth + 0.5 * draw(20_000, seed=2)
    assert float((total_lstsq(A, b) - truth).abs().max()) < 0.05 < 0.2 < float((lstsq(A, b) - truth).abs().max())


def test_exact_columns():
    n = 200
    ones, clean = torch.ones(n, dtype=F64), draw(n)
    A = torch.stack([clean + 0.2 * draw(n, seed=1), ones], 1)
    b = 3 * clean + 5 + 0.2 * draw(n, seed=2)
    x = total_lstsq(A, b, exact=[1])
    # With an intercept that has no error, the line goes through the means (Deming's regression).
    slope = total_lstsq((A[:, :1] - A[:, :1].mean()), b - b.mean())[0]
    torch.testing.assert_close(x, torch.stack([slope, b.mean() - slope * A[:, 0].mean()]))
    torch.testing.assert_close(total_lstsq(A, b, exact=[0, 1]), lstsq(A, b))
    with pytest.raises(ValueError, match="depend"):
        total_lstsq(torch.cat([A, A], 1), b, exact=[1, 3])
    for bad in ([2], [0, 0]):
        with pytest.raises(ValueError, match="exact"):
            total_lstsq(A, b, exact=bad)


def test_what_has_no_solution_is_an_error():
    # b orthogonal to the direction that is lost: the infimum is not reached.
    A = torch.diag(torch.tensor([2.0, 1.0], dtype=F64))
    A = torch.cat([A, torch.zeros(2, 2, dtype=F64)])
    with pytest.raises(ValueError, match="nongeneric"):
        total_lstsq(A, torch.tensor([0.0, 0.0, 5.0, 0.0], dtype=F64))
    with pytest.raises(ValueError, match="unique"):
        total_lstsq(A, torch.tensor([0.0, 0.0, 1.0, 0.0], dtype=F64))
    with pytest.raises(ValueError, match="rows"):
        total_lstsq(draw(2, 3), draw(2))
    with pytest.raises(ValueError, match="b must have"):
        total_lstsq(draw(4, 3), draw(3))
    with pytest.raises(TypeError, match="dtype"):
        total_lstsq(draw(4, 3), draw(4).float())
    with pytest.raises(ValueError, match="finite"):
        total_lstsq(draw(4, 3) * torch.nan, draw(4))


def test_total_batches_kinds_and_gradients():
    A, b = draw(2, 8, 3), draw(2, 8, seed=1)
    X = total_lstsq(A, b)
    torch.testing.assert_close(X[1], total_lstsq(A[1], b[1]))
    x = total_lstsq(A[0].numpy().astype(np.float32), b[0].numpy().astype(np.float32))
    assert isinstance(x, np.ndarray) and x.dtype == np.float32
    np.testing.assert_allclose(x, X[0].numpy(), rtol=1e-3, atol=1e-4)
    for scale in (1e-150, 1e150):
        torch.testing.assert_close(total_lstsq(A * scale, b * scale), X)
    for dtype in (F64, torch.complex128):
        for k in (1, 2):
            inputs = (draw(8, 3, dtype=dtype).requires_grad_(), draw(8, k, dtype=dtype, seed=2).requires_grad_())
            assert gradcheck(total_lstsq, inputs)
    assert gradcheck(
        lambda A, b: total_lstsq(A, b, exact=[1]), (draw(8, 3).requires_grad_(), draw(8, seed=2).requires_grad_())
    )
    tall = (draw(30, 2).requires_grad_(), draw(30, seed=2).requires_grad_())
    assert gradcheck(total_lstsq, tall)


@pytest.mark.parametrize(
    "call", [total_lstsq, lambda A, b: constrained_lstsq(A, b, torch.ones(1, 3, dtype=F64), b[:1])]
)
def test_a_second_derivative_is_refused(call):
    A, b = draw(8, 3).requires_grad_(), draw(8, seed=1)
    (g,) = torch.autograd.grad(call(A, b).sum(), A, create_graph=True)
    with pytest.raises(RuntimeError, match="first derivatives"):
        g.sum().backward()
