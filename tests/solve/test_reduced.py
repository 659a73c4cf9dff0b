"""ReducedBasis: exact where it must be, projections by hand, error bounds, outputs, black boxes, kinds, bad input."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
import torch

from resolvent.errors import ConvergenceError
from resolvent.random import gaussian
from resolvent.solve import ReducedBasis, separate_matrix

N = 40


def matrix(mu, dtype=torch.float64):
    t = torch.linspace(0, 1, N, dtype=torch.float64)
    A = torch.diag(2 + 0 * t) - torch.diag(torch.ones(N - 1).double(), 1) - torch.diag(torch.ones(N - 1).double(), -1)
    return (A + mu[0] * torch.diag(torch.exp(-mu[1] * t)) + 0.1 * torch.eye(N).double()).to(dtype)


def side(mu):
    t = torch.linspace(0, 1, N, dtype=torch.float64)
    return torch.exp(-mu[0] * t)


def grid(m=5):
    return [(float(a), float(b)) for a in np.linspace(0.5, 2, m) for b in np.linspace(0, 2, m)]


UNSEEN = [(0.61, 0.13), (1.23, 1.71), (1.9, 0.9)]
# A(mu) is at least 0.1 + 0.5 exp(-2) for positive numbers
LEAST = 0.1


@pytest.fixture(scope="module")
def separated():
    return separate_matrix(matrix, grid(), rtol=1e-11, generator=0)


def test_solutions_of_the_basis_are_exact(separated):
    found = ReducedBasis(separated, side, grid(), max_basis=5, matrix_rtol=1e-12, stability=LEAST)
    U = found.basis
    torch.testing.assert_close(U.mH @ U, torch.eye(5, dtype=torch.float64))
    for mu in found.points:
        x = torch.linalg.solve(matrix(mu), side(mu))
        torch.testing.assert_close(found.solve(mu).x, x, rtol=1e-8, atol=1e-8)
        assert found.residual(mu) < 1e-9
    assert len(found.history) == 6
    assert found.history[-1] < 0.1 * found.history[1]


@pytest.mark.parametrize("projection", ["galerkin", "symmetric", "minimum_residual"])
def test_projections_by_hand(separated, projection):
    found = ReducedBasis(
        separated, side, grid(), max_basis=4, matrix_rtol=1e-12, projection=projection, stability=LEAST
    )
    for mu in UNSEEN:
        gammas, _ = found.primal[1].weights([mu])
        A, b, U = found.matrix.matrix(mu), found.primal[1].vectors @ gammas[0], found.basis
        torch.testing.assert_close(b, side(mu), rtol=1e-4, atol=1e-4)
        if projection == "minimum_residual":
            y = torch.linalg.lstsq(A @ U, b).solution
        else:
            y = torch.linalg.solve(U.mH @ A @ U, U.mH @ b)
        torch.testing.assert_close(found.solve(mu).coordinates, y, rtol=1e-8, atol=1e-9)
        exact = float(torch.linalg.vector_norm(b - A @ U @ y) / torch.linalg.vector_norm(b))
        assert found.residual(mu) == pytest.approx(exact, rel=1e-6)


def test_symmetric_projection_of_a_complex_symmetric_matrix():
    t = torch.linspace(0, 1, 20, dtype=torch.float64)

    def wave(k):
        return torch.exp(1j * k * (t[:, None] - t).abs()) + 3 * torch.eye(20)

    found = ReducedBasis(
        wave, lambda k: torch.exp(1j * k * t), [1.0, 1.5, 2.0, 2.5, 3.0], max_basis=3, projection="symmetric"
    )
    A, b, U = wave(1.7), torch.exp(1.7j * t), found.basis
    y = torch.linalg.solve(U.mT @ A @ U, U.mT @ b)
    torch.testing.assert_close(found.solve(1.7).coordinates, y, rtol=1e-4, atol=1e-5)


def test_errors_are_bounded_and_small(separated):
    found = ReducedBasis(separated, side, grid(), rtol=1e-5, generator=0)
    assert found.history[-1] <= 1e-5
    for mu in UNSEEN:
        x = torch.linalg.solve(matrix(mu), side(mu))
        value = found.solve(mu)
        error = float(torch.linalg.vector_norm(value.x - x) / torch.linalg.vector_norm(value.x))
        assert error <= value.error <= 50 * error
        assert error < 1e-4


def test_residuals_are_known_below_the_root_of_eps(separated):
    found = ReducedBasis(separated, side, grid(), max_basis=25, matrix_rtol=1e-13, stability=LEAST)
    assert max(found.residual(mu) for mu in grid()) < 1e-10


def test_outputs_and_their_correction(separated):
    functional = gaussian((N,), generator=3)
    plain, dual = (
        ReducedBasis(
            separated, side, grid(), output=functional, max_basis=4, matrix_rtol=1e-12, stability=LEAST, dual=dual
        )
        for dual in (False, True)
    )
    gaps = []
    for mu in UNSEEN:
        exact = float(functional @ torch.linalg.solve(matrix(mu), side(mu)))
        pair = [rb.output(mu) for rb in (plain, dual)]
        for value in pair:
            assert abs(float(value.value) - exact) <= value.error
        gaps.append([abs(float(value.value) - exact) for value in pair])
        torch.testing.assert_close(pair[0].value, functional @ plain.solve(mu).x)
    assert max(g[1] for g in gaps) < 0.1 * max(g[0] for g in gaps)
    many = dual.outputs(UNSEEN)
    for i, mu in enumerate(UNSEEN):
        torch.testing.assert_close(many.value[i], dual.output(mu).value)
        assert float(many.error[i]) == pytest.approx(dual.output(mu).error)


def test_an_output_that_depends_on_the_parameter(separated):
    found = ReducedBasis(separated, side, grid(), output=lambda mu: side((2 * mu[0], 0)), rtol=1e-6)
    for mu in UNSEEN:
        exact = float(side((2 * mu[0], 0)) @ torch.linalg.solve(matrix(mu), side(mu)))
        value = found.output(mu)
        assert abs(float(value.value) - exact) <= value.error < 0.1


def test_the_code_is_a_black_box():
    calls, looked = [], []

    def solver(mu):
        calls.append(mu)
        return torch.linalg.solve(matrix(mu), side(mu))

    def entries(mu, rows, columns):
        looked.append(len(rows))
        return matrix(mu)[rows, columns]

    found = ReducedBasis(matrix, side, grid(), rtol=1e-4, solver=solver, entries=entries, generator=0)
    assert tuple(calls) == found.points
    looked.clear()
    found.solve(UNSEEN[0])
    assert len(looked) == 1
    assert looked[0] <= len(found.matrix.points) + 16


def test_numpy_sparse_and_float32():
    def sparse(mu):
        return scipy.sparse.diags([-1.0, 2.2 + mu, -1.0], [-1, 0, 1], shape=(N, N)).tocsr()

    b = np.linspace(0, 1, N)
    found = ReducedBasis(sparse, b, [0.0, 0.5, 1.0, 1.5, 2.0], rtol=1e-6, output=b)
    x = np.linalg.solve(sparse(0.8).toarray(), b)
    value = found.solve(0.8)
    assert isinstance(value.x, np.ndarray)
    np.testing.assert_allclose(value.x, x, rtol=1e-3)
    assert isinstance(found.output(0.8).value, float)
    assert found.output(0.8).value == pytest.approx(b @ x, rel=1e-5)
    single = ReducedBasis(lambda mu: matrix(mu, torch.float32), side, grid(), generator=0)
    mu = UNSEEN[0]
    assert single.solve(mu).x.dtype == torch.float32
    exact = torch.linalg.solve(matrix(mu), side(mu))
    torch.testing.assert_close(single.solve(mu).x.double(), exact, rtol=1e-2, atol=2e-3)


def test_a_missed_tolerance_and_bad_input(separated):
    with pytest.raises(ConvergenceError) as caught:
        ReducedBasis(separated, side, grid(), rtol=1e-6, max_basis=2)
    assert len(caught.value.best.points) == 2
    assert caught.value.error == caught.value.best.history[-1]
    for call, word in (
        (lambda: ReducedBasis(matrix, side, []), "train"),
        (lambda: ReducedBasis(separated, side, grid(), rtol=2.0), "rtol"),
        (lambda: ReducedBasis(separated, side, grid(), max_basis=0), "max_basis"),
        (lambda: ReducedBasis(separated, side, grid(), projection="oblique"), "projection"),
        (lambda: ReducedBasis(separated, torch.ones(3), grid()), "b must have"),
        (lambda: ReducedBasis(separated, torch.ones(N, N), grid()), "b must be a vector"),
        (lambda: ReducedBasis(separated, 1j * torch.ones(N).double(), grid()), "complex"),
        (lambda: ReducedBasis(separated, side, grid(), output=torch.ones(3), rtol=0.1), "output must have"),
        (lambda: ReducedBasis(separated, side, grid(), stability=-1.0), "stability"),
        (lambda: ReducedBasis(separated, side, grid(), matrix_rtol=0.0), "matrix_rtol"),
        (lambda: ReducedBasis(lambda mu: torch.ones(3, 2), torch.ones(3), [1.0]), "square"),
        (lambda: ReducedBasis(separated, side, grid(), rtol=0.1, solver=lambda mu: torch.ones(2)), "a solution"),
        (lambda: ReducedBasis(separated, side, grid(), rtol=0.1).output(UNSEEN[0]), "output"),
    ):
        with pytest.raises(ValueError, match=word):
            call()
    with pytest.raises(ValueError, match="stability"):
        ReducedBasis(lambda s: torch.eye(3) * len(s), torch.ones(3), ["a", "bb"])
