"""sparse_pca: brute force, planted components, limits, deflation, operators, refusals."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from resolvent.errors import ConvergenceError
from resolvent.factor import sparse_pca
from resolvent.operators import LowRank
from resolvent.random import as_generator, gaussian


def covariance(n, m, seed, dtype=torch.float64):
    X = gaussian((m, n), dtype, generator=seed)
    return X.mH @ X / m


def brute(A, k):
    supports = itertools.combinations(range(len(A)), k)
    return max(float(torch.linalg.eigvalsh(A[list(s)][:, list(s)])[-1]) for s in supports)


def test_exact_is_brute_force_and_power_is_near_it():
    equal = 0
    for seed in range(12):
        A = covariance(10, 12, seed)
        best = brute(A, 3)
        exact, power = (sparse_pca(A, 3, method=method, generator=0) for method in ("exact", "power"))
        assert float(exact.variances) == pytest.approx(best)
        x = power.components[:, 0]
        assert int((x != 0).sum()) == 3 and float(x @ A @ x) == pytest.approx(float(power.variances))
        assert 0.9 * best < float(power.variances) <= best * (1 + 1e-12)
        equal += abs(float(power.variances) - best) < 1e-9
    assert equal >= 10


def test_planted_components_come_back_from_data():
    g = as_generator(0)
    u, v = torch.zeros(2, 300, dtype=torch.float64)
    u[10:20], v[40:50] = 10**-0.5, 10**-0.5
    X = (
        3 * gaussian((200, 1), generator=g) * u
        + 2 * gaussian((200, 1), generator=g) * v
        + gaussian((200, 300), generator=g)
    )
    found, info = sparse_pca(LowRank(X.T / 200**0.5), 10, 2, generator=0, return_info=True)
    assert found.components[:, 0].nonzero()[:, 0].tolist() == list(range(10, 20))
    assert found.components[:, 1].nonzero()[:, 0].tolist() == list(range(40, 50))
    assert info.converged
    dense = sparse_pca(X.T.numpy() @ X.numpy() / 200, 10, 2, generator=0)
    assert isinstance(dense.components, np.ndarray)
    np.testing.assert_allclose(dense.variances, found.variances, rtol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128])
def test_all_entries_give_the_principal_components(dtype):
    A = covariance(8, 30, 1, dtype)
    found = sparse_pca(A, 8, 8, generator=0)
    bound = 1e-5 if dtype == torch.float32 else 1e-10
    torch.testing.assert_close(found.variances, torch.linalg.eigvalsh(A).flip(0), rtol=bound, atol=bound)
    torch.testing.assert_close(found.components.mH @ found.components, torch.eye(8, dtype=dtype), rtol=0, atol=1e-3)


def test_one_entry_gives_the_largest_variance():
    A = covariance(9, 20, 2)
    found = sparse_pca(A, 1)
    assert int(found.components.abs().argmax()) == int(A.diagonal().argmax())
    assert float(found.variances) == pytest.approx(float(A.diagonal().max()))


def test_deflation_never_counts_a_variance_twice():
    A = covariance(12, 30, 3)
    found = sparse_pca(A, [4, 3, 5, 4], 4, generator=0)
    assert (found.components != 0).sum(0).tolist() == [4, 3, 5, 4]
    total = 0.0
    Q = torch.zeros(12, 0, dtype=A.dtype)
    for x, value in zip(found.components.T, found.variances, strict=True):
        P = torch.eye(12, dtype=A.dtype) - Q @ Q.mT
        assert float(x @ P @ A @ P @ x) == pytest.approx(float(value))
        Q = torch.linalg.qr(torch.cat([Q, x[:, None]], 1)).Q
        total += float(value)
    assert total <= float((Q.mT @ A @ Q).trace()) * (1 + 1e-12)


def test_scales_and_zero():
    A = covariance(9, 20, 2)
    found = sparse_pca(A, 3, generator=0)
    for scale in (1e-25, 1e25):
        other = sparse_pca((scale * A).float(), 3, generator=0)
        torch.testing.assert_close((other.variances / scale).double(), found.variances, rtol=1e-4, atol=0)
    assert sparse_pca(torch.zeros(3, 3), 2).variances.tolist() == [0]


def test_more_components_than_the_rank():
    X = gaussian((2, 6), generator=0)
    found = sparse_pca(X.T @ X, 3, 6, generator=0)
    assert bool((found.variances >= 0).all())
    assert float(found.variances.sum()) <= float((X * X).sum()) * (1 + 1e-12)


def test_a_start_that_still_rises():
    with pytest.raises(ConvergenceError, match="still rises"):
        sparse_pca(covariance(30, 40, 0), 5, max_iter=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"A": torch.ones(2, 3)}, "A must be one square"),
        ({"A": torch.tensor([[1.0, 2.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])}, "A must be Hermitian"),
        ({"A": -torch.eye(3)}, "positive semidefinite"),
        ({"A": torch.eye(3).requires_grad_()}, "no gradient"),
        ({"nonzeros": 0}, "nonzeros must"),
        ({"nonzeros": [1, 2]}, "nonzeros must"),
        ({"components": 4}, "components must"),
        ({"method": "x"}, "method must"),
        ({"max_iter": 0}, "max_iter must"),
        ({"A": torch.eye(60), "nonzeros": 10, "method": "exact"}, "at most 500000"),
    ],
)
def test_refusals(change, message):
    with pytest.raises(ValueError, match=message):
        sparse_pca(**({"A": torch.eye(3), "nonzeros": 2} | change))
