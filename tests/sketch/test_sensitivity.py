"""sensitivities: linear programs, a one-dimensional problem, bounds, invariance, float32, bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize

from resolvent.random import gaussian
from resolvent.sketch import leverage_scores, sensitivities


def matrix(n=40, d=3):
    A = gaussian((n, d), generator=0)
    A[0] *= 30
    return A


def by_linear_program(A, i):
    """1 / min ||A x||_1 with a_i x = 1."""
    n, d = A.shape
    equal = np.block([[A, -np.eye(n), np.eye(n)], [A[i : i + 1], np.zeros((1, 2 * n))]])
    right = np.concatenate([np.zeros(n), [1]])
    bounds = [(None, None)] * d + [(0, None)] * (2 * n)
    return 1 / linprog(np.concatenate([np.zeros(d), np.ones(2 * n)]), A_eq=equal, b_eq=right, bounds=bounds).fun


def test_p_of_one_against_linear_programs():
    A = matrix()
    found = sensitivities(A, 1, "exact", rtol=1e-4)
    wanted = [by_linear_program(A.numpy(), i) for i in range(len(A))]
    np.testing.assert_allclose(found.numpy(), wanted, rtol=2e-4)


@pytest.mark.parametrize("p", [1.5, 3.0, 6.0])
def test_against_a_general_minimizer(p):
    A = matrix()
    found = sensitivities(A, p, "exact", rtol=1e-5)
    for i in (0, 1, 7):
        a = A[i].numpy()

        def cost(x, a=a):
            return float((np.abs(A.numpy() @ x) ** p).sum() / np.abs(a @ x) ** p)

        least = min(
            minimize(cost, start, method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-12, "maxiter": 4000}).fun
            for start in (a, np.linalg.solve(A.T.numpy() @ A.numpy(), a))
        )
        assert float(found[i]) == pytest.approx(1 / least, rel=1e-4)


@pytest.mark.parametrize("p", [1, 1.5, 3, 4])
def test_bounds_hold_and_sum_to_what_they_should(p):
    for A in (matrix(60, 4), torch.linspace(-1, 1, 60, dtype=torch.float64)[:, None] ** torch.arange(5)):
        d = A.shape[1]
        exact, bound = sensitivities(A, p, "exact", rtol=1e-3), sensitivities(A, p)
        assert bool((bound >= exact / 1.001).all())
        assert float(bound.sum()) <= d ** max(1, p / 2) + 1e-6
        mixed = A @ gaussian((d, d), generator=5)
        torch.testing.assert_close(sensitivities(mixed, p, "exact", rtol=1e-3), exact, rtol=3e-3, atol=0)


def test_one_column_p_of_two_zeros_and_kinds():
    x = torch.tensor([[1.0], [2.0], [0.0], [-3.0]], dtype=torch.float64)
    for p in (1, 3):
        wanted = (x.abs() ** p / (x.abs() ** p).sum())[:, 0]
        torch.testing.assert_close(sensitivities(x, p, "exact", rtol=1e-6), wanted, rtol=1e-6, atol=0)
    A = matrix()
    torch.testing.assert_close(sensitivities(A, 2, "exact"), leverage_scores(A))
    single = sensitivities(A.float(), 1.5, "exact", rtol=1e-3)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), sensitivities(A, 1.5, "exact", rtol=1e-3), rtol=3e-3, atol=0)
    assert isinstance(sensitivities(A.numpy(), 1), np.ndarray)


@pytest.mark.parametrize("p", [1, 3])
def test_a_matrix_of_zeros(p):
    for method in ("exact", "bound"):
        assert sensitivities(torch.zeros(5, 2), p, method).tolist() == [0] * 5


def test_bad_input():
    A = matrix()
    for call, error, word in (
        (lambda: sensitivities(A, 0.9), ValueError, "p must"),
        (lambda: sensitivities(A, 1, "guess"), ValueError, "method"),
        (lambda: sensitivities(A, 1, rtol=0.0), ValueError, "rtol"),
        (lambda: sensitivities(A.to(torch.complex128), 1, "exact"), ValueError, "real"),
        (lambda: sensitivities(A[None], 1), ValueError, "batch"),
        (lambda: sensitivities(A.requires_grad_(), 1), TypeError, "gradient"),
    ):
        with pytest.raises(error, match=word):
            call()
