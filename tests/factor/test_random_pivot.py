"""Random blocks of columns: the exact mean decrease, the four factorisations and their known limits."""

from itertools import combinations

import numpy as np
import pytest
import torch

from resolvent import factor
from resolvent.errors import ConvergenceError


def random(m, n, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((m, n))
    return (A + 1j * rng.standard_normal((m, n)) if np.dtype(dtype).kind == "c" else A).astype(dtype)


def potential(B):
    return float(np.real(np.trace(B * np.linalg.inv(B).T))) - len(B)


@pytest.mark.parametrize("S", ("rotation", "triangular"))
@pytest.mark.parametrize("sided", ("one", "two"))
@pytest.mark.parametrize("k", (2, 3))
def test_the_mean_decrease_of_the_potential_is_exact(S, sided, k):
    A, n = random(9, 6, dtype=np.complex128), 6
    B = A.conj().T @ A
    after = []
    for J in combinations(range(n), k):
        X, T = factor.pivot_step(A if sided == "one" else B, J, S, sided=sided)
        assert np.allclose(X, A @ T if sided == "one" else T.conj().T @ B @ T)
        after.append(potential(X.conj().T @ X if sided == "one" else X))
    assert np.mean(after) / potential(B) == pytest.approx(1 - k * (k - 1) / (n * (n - 1)), abs=1e-12)


@pytest.mark.parametrize("schedule", ("uniform", "matching"))
@pytest.mark.parametrize("block", (2, 4))
@pytest.mark.parametrize("dtype", (np.float64, np.complex128))
def test_four_factorisations(schedule, block, dtype):
    A = random(12, 8, dtype=dtype)
    B = A.conj().T @ A
    given = {"block": block, "schedule": schedule, "generator": 1}
    Q, T, history = factor.random_pivot_factor(A, **given)
    s = np.linalg.svd(A, compute_uv=False)
    assert np.allclose(np.sort(np.linalg.norm(Q, axis=0))[::-1], s) and np.allclose(T.conj().T @ T, np.eye(8))
    assert history.backward_error < 1e-14 and history.cosine < 1e-12 and history.gamma[-1] < 1e-12 < history.gamma[0]
    Q, T, _ = factor.random_pivot_factor(A, "triangular", **given)
    R = np.linalg.qr(A, mode="r")
    assert np.allclose(np.triu(T), T) and np.allclose(np.linalg.norm(Q, axis=0), np.abs(R.diagonal()))
    D, T, _ = factor.random_pivot_factor(B, sided="two", **given)
    assert np.allclose(np.sort(D.diagonal().real), np.linalg.eigvalsh(B))
    D, T, _ = factor.random_pivot_factor(B, "triangular", sided="two", **given)
    L = np.linalg.cholesky(B)
    assert np.allclose(D.diagonal().real, np.abs(L.diagonal()) ** 2)
    assert np.allclose(np.linalg.inv(T).conj().T * np.abs(L.diagonal()), L)


def test_one_block_of_all_columns_is_done_in_one_step():
    A = random(7, 5)
    for S in ("rotation", "triangular"):
        history = factor.random_pivot_factor(A, S, block=5, generator=0).history
        assert history.steps.tolist() == [0, 1] and history.cosine < 1e-14


def test_mixed_steps_float32_kinds_and_seeds():
    A = torch.from_numpy(random(10, 6, dtype=np.float32))
    Q, T, history = factor.random_pivot_factor(A, "mixed", generator=3)
    assert Q.dtype == torch.float32 and history.cosine <= 1e-5 and history.backward_error < 1e-5
    torch.testing.assert_close(A @ T, Q, rtol=1e-4, atol=1e-5)
    again = factor.random_pivot_factor(A, "mixed", generator=3)
    assert torch.equal(again.T, T) and torch.equal(again.history.steps, history.steps)
    assert isinstance(factor.random_pivot_factor(A.numpy(), generator=0).history.gamma, np.ndarray)


def test_potential_at_the_start():
    A = random(9, 6)
    assert factor.random_pivot_factor(A, generator=0).history.gamma[0] == pytest.approx(potential(A.T @ A))
    _, T, history = factor.random_pivot_factor(np.eye(4)[:, :1])
    assert history.gamma.tolist() == [0.0] and T.tolist() == [[1.0]]


def test_errors():
    A = random(6, 4)
    for call, word in (
        (lambda: factor.random_pivot_factor(A.T), "as many rows"),
        (lambda: factor.random_pivot_factor(A, "fast"), "S must be"),
        (lambda: factor.random_pivot_factor(A, block=5), "block"),
        (lambda: factor.random_pivot_factor(A, sided="both"), "sided"),
        (lambda: factor.random_pivot_factor(A, schedule="all"), "schedule"),
        (lambda: factor.random_pivot_factor(A, tol=0), "tol"),
        (lambda: factor.random_pivot_factor(A, sided="two"), "Hermitian"),
        (lambda: factor.random_pivot_factor(-np.eye(3), sided="two"), "positive definite"),
        (lambda: factor.random_pivot_factor(np.array([[1.0, 2.0], [2.0, 1.0]]), sided="two"), "positive definite"),
        (lambda: factor.random_pivot_factor(A * [1, 0, 1, 1]), "column 1 is zero"),
        (lambda: factor.random_pivot_factor(torch.from_numpy(A).requires_grad_()), "gradient"),
        (lambda: factor.pivot_step(A, [0, 0]), "different"),
        (lambda: factor.pivot_step(A, [0, 1], "mixed"), "mixed"),
    ):
        with pytest.raises(ValueError, match=word):
            call()
    with pytest.raises(ConvergenceError) as caught:
        factor.random_pivot_factor(A, max_steps=1, generator=0)
    assert caught.value.error > 1e-12 and caught.value.best.history.steps.tolist() == [0, 1]
