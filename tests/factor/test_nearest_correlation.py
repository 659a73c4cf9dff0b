"""nearest_correlation: Higham's example, optimality, weights against a conic solver, both methods, gradients, refusals."""

from __future__ import annotations

import cvxpy
import numpy as np
import pytest
import torch

from resolvent.errors import ConvergenceError
from resolvent.factor import nearest_correlation
from resolvent.random import as_generator, gaussian
from resolvent.spectra import project_spectral


def guess(n, seed=0, dtype=torch.float64):
    A = 2 * torch.rand(n, n, generator=as_generator(seed), dtype=dtype) - 1
    A = torch.triu(A, 1)
    return A + A.mT + torch.eye(n, dtype=dtype)


@pytest.mark.parametrize("method", ["newton", "projections"])
def test_the_example_of_higham(method):
    A = [[2, -1, 0, 0], [-1, 2, -1, 0], [0, -1, 2, -1], [0, 0, -1, 2]]
    X = nearest_correlation(A, method=method, rtol=1e-12)
    # Printed in his paper.
    expected = [[1, -0.8084, 0.1916, 0.1068], [-0.8084, 1, -0.6562, 0.1916]]
    np.testing.assert_allclose(X[:2], expected, atol=5e-5)
    np.testing.assert_allclose(X, X[::-1, ::-1], atol=1e-10)


def dykstra(A, steps=600):
    """Alternating projections as they are written in the paper."""
    Y, correction = A, torch.zeros_like(A)
    for _ in range(steps):
        R = Y - correction
        X = project_spectral(R, "psd")[2]
        correction = X - R
        Y = X.clone().fill_diagonal_(1)
    return Y


def test_both_methods_are_dykstras_limit():
    A = guess(12)
    expected = dykstra(A)
    for method in ("newton", "projections"):
        X = nearest_correlation(A, method=method)
        torch.testing.assert_close(X, expected, rtol=0, atol=1e-9)
        assert bool((X.diagonal() == 1).all()) and float(torch.linalg.eigvalsh(X)[0]) > -1e-12


def test_newton_takes_few_steps_for_a_large_matrix():
    A = guess(80)
    X, info = nearest_correlation(A, rtol=1e-12, return_info=True)
    assert info.iterations <= 10 and info.error <= 1e-12
    # Optimality: A - X = Z - diag(y) with Z positive and X Z = 0, that is X is the positive part of A + diag(y).
    other, slow = nearest_correlation(A, method="projections", rtol=1e-6, return_info=True)
    assert slow.iterations > 3 * info.iterations
    torch.testing.assert_close(other, X, rtol=0, atol=1e-5)


def test_a_correlation_matrix_stays():
    X = gaussian((30, 6), generator=1)
    C = torch.from_numpy(np.corrcoef(X.numpy(), rowvar=False))
    torch.testing.assert_close(nearest_correlation(C), C, rtol=0, atol=1e-9)
    assert nearest_correlation([[5.0]]).tolist() == [[1.0]]
    assert nearest_correlation(torch.zeros(3, 3)).tolist() == torch.eye(3).tolist()


@pytest.mark.parametrize("eps", [0.0, 0.1])
def test_weights_and_eps_against_a_conic_solver(eps):
    A = guess(6, 3).numpy()
    w = np.array([1.0, 4.0, 1.0, 0.2, 2.0, 1.0])
    X = cvxpy.Variable((6, 6), symmetric=True)
    root = np.diag(np.sqrt(w))
    limits = [cvxpy.diag(X) == 1, X - eps * np.eye(6) >> 0]
    cvxpy.Problem(cvxpy.Minimize(cvxpy.norm(root @ (X - A) @ root, "fro")), limits).solve(solver="CLARABEL")
    found = nearest_correlation(A, w, eps)
    assert isinstance(found, np.ndarray)
    np.testing.assert_allclose(found, X.value, atol=2e-4)
    assert np.linalg.eigvalsh(found)[0] > eps - 1e-9
    np.testing.assert_allclose(found, nearest_correlation(A, 7 * w, eps), atol=1e-9)


def test_batches_float32_complex_and_permutations():
    A = torch.stack([guess(7, seed) for seed in range(4)]).reshape(2, 2, 7, 7)
    X = nearest_correlation(A)
    for i in range(2):
        torch.testing.assert_close(X[i, 1], nearest_correlation(A[i, 1]))
    single = nearest_correlation(A.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single, X.float(), rtol=0, atol=1e-5)
    order = torch.randperm(7, generator=as_generator(0))
    torch.testing.assert_close(
        nearest_correlation(A[0, 0][order][:, order]), X[0, 0][order][:, order], rtol=0, atol=1e-8
    )
    phases = torch.exp(1j * torch.arange(7).double())
    turned = nearest_correlation(phases[:, None] * A[0, 0] * phases.conj())
    torch.testing.assert_close(turned, phases[:, None] * X[0, 0] * phases.conj(), rtol=0, atol=1e-8)


@pytest.mark.parametrize("scale", [1e-3, 1e3, 1e6])
def test_matrices_that_are_far_away(scale):
    A = scale * gaussian((20, 20), generator=0)
    X, info = nearest_correlation((A + A.mT) / 2, return_info=True)
    assert info.error <= 1e-10 and float(torch.linalg.eigvalsh(X)[0]) > -1e-12


def test_gradient():
    A = (2 * guess(5, 1)).requires_grad_()

    def near(A):
        return nearest_correlation((A + A.mT) / 2, [1, 2, 3, 1, 0.5], 0.01, rtol=1e-13)

    assert torch.autograd.gradcheck(near, A)
    H = (gaussian((4, 4), torch.complex128, generator=2) * 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda H: nearest_correlation((H + H.mH) / 2, rtol=1e-13), H)
    with pytest.raises(RuntimeError):
        first = torch.autograd.grad(near(A).square().sum(), A, create_graph=True)[0]
        torch.autograd.grad(first.sum(), A)


def test_a_missed_tolerance_carries_the_best():
    with pytest.raises(ConvergenceError, match="nearest_correlation: reached") as caught:
        nearest_correlation(guess(20), method="projections", max_iter=2)
    best = caught.value.best
    assert bool((best.diagonal() == 1).all()) and float(torch.linalg.eigvalsh(best)[0]) > -1e-12


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"A": torch.ones(2, 3)}, "A must have shape"),
        ({"A": torch.tensor([[1.0, 2.0], [0.0, 1.0]])}, "A must be Hermitian"),
        ({"A": torch.full((2, 2), float("nan"))}, "A has 4 entries"),
        ({"weights": [1.0, 2.0]}, "weights must be real of shape"),
        ({"weights": [1.0, 2.0, 0.0]}, "weights must be positive"),
        ({"weights": torch.ones(3, requires_grad=True)}, "no gradient in its weights"),
        ({"eps": 1.0}, "eps must"),
        ({"method": "x"}, "method must"),
        ({"rtol": 0.0}, "rtol must"),
        ({"max_iter": 0}, "max_iter must"),
    ],
)
def test_refusals(args, message):
    with pytest.raises(ValueError, match=message):
        nearest_correlation(**({"A": torch.eye(3)} | args))
