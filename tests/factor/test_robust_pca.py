"""robust_pca: exact recovery, a convex solver, certificates, missing entries, partial decompositions, refusals."""

from __future__ import annotations

import math

import cvxpy
import numpy as np
import pytest
import torch

from resolvent.errors import ConvergenceError
from resolvent.factor import robust_pca
from resolvent.factor.thresholding import SingularThreshold
from resolvent.operators import Dense, LowRank
from resolvent.random import as_generator, gaussian


def problem(m, n, rank, share, seed=0, dtype=torch.float64):
    """Entries of about one, a share of them wrong by as much."""
    g = as_generator(seed)
    L = gaussian((m, rank), dtype, generator=g) @ gaussian((rank, n), dtype, generator=g) / math.sqrt(rank)
    wrong = torch.rand(m, n, generator=g) < share
    return L, torch.where(wrong, 5 * gaussian((m, n), dtype, generator=g).sgn(), 0)


def relative(found, exact):
    return float(torch.dist(found, exact) / torch.linalg.vector_norm(exact))


def test_exact_recovery_over_seeds():
    for seed in range(8):
        L0, S0 = problem(100, 100, 5, 0.05, seed)
        (L, S), info = robust_pca(L0 + S0, return_info=True)
        assert info.converged and info.error <= 1e-6
        assert L.s.shape == (5,) and relative(L.to_dense(), L0) < 1e-5 and relative(S, S0) < 1e-5
        assert bool(((S != 0) == (S0 != 0)).all())


def pursuit(M, lam, known):
    """The minimum by an interior-point method."""
    L, S = cvxpy.Variable(M.shape), cvxpy.Variable(M.shape)
    cost = cvxpy.normNuc(L) + lam * cvxpy.sum(cvxpy.abs(cvxpy.multiply(known, S)))
    task = cvxpy.Problem(cvxpy.Minimize(cost), [cvxpy.multiply(known, L + S - M) == 0])
    task.solve(solver="CLARABEL")
    return task.value, L.value


@pytest.mark.parametrize("missing", [False, True])
def test_same_as_an_interior_point_method_where_nothing_is_recovered(missing):
    rng = np.random.default_rng(3)
    M = rng.normal(size=(9, 7))
    known = rng.random(M.shape) < (0.8 if missing else 2)
    lam = 0.3
    value, L0 = pursuit(M, lam, known.astype(float))
    L, S = robust_pca(np.where(known, M, np.nan), lam=lam, mask=known, rtol=1e-8, max_iter=20000)
    dense = L.to_dense()
    assert isinstance(dense, np.ndarray) and isinstance(S, np.ndarray)
    assert np.linalg.norm(dense, "nuc") + lam * np.abs(S).sum() == pytest.approx(value, rel=1e-6)
    np.testing.assert_allclose(dense, L0, atol=1e-3)
    assert np.abs(np.where(known, dense + S - M, 0)).max() < 1e-6 and not S[~known].any()


def test_missing_entries_come_back():
    L0, S0 = problem(80, 80, 2, 0.05)
    known = torch.rand(80, 80, generator=as_generator(1)) < 0.7
    L, S = robust_pca((L0 + S0).masked_fill(~known, math.nan), mask=known, rtol=1e-7)
    assert relative(L.to_dense(), L0) < 1e-5
    assert relative(S, torch.where(known, S0, 0)) < 1e-5


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_float32_at_any_scale(scale):
    L0, S0 = problem(60, 60, 2, 0.05, dtype=torch.float32)
    L, S = robust_pca(scale * (L0 + S0))
    assert L.dtype == S.dtype == torch.float32
    assert relative(L.to_dense() / scale, L0) < 1e-3


def test_complex_transposed_and_large_weights():
    L0, S0 = problem(50, 40, 2, 0.05, dtype=torch.complex128)
    M = L0 + S0
    L, S = robust_pca(M)
    assert relative(L.to_dense(), L0) < 1e-4 and S.is_complex()
    Lt, _ = robust_pca(M.mT)
    assert relative(Lt.to_dense().mT, L0) < 1e-4
    # No entry pays for itself beyond lambda = 1, no triplet below 1 / sqrt(m n).
    L, S = robust_pca(M, lam=1.01)
    assert not S.any() and relative(L.to_dense(), M) < 1e-5
    L, S = robust_pca(M, lam=0.02)
    assert L.s.shape == (0,) and relative(S, M) < 1e-5


def test_partial_decompositions_give_the_same():
    L0, S0 = problem(260, 220, 4, 0.05)
    (L, S), info = robust_pca(L0 + S0, generator=0, return_info=True)
    assert isinstance(L, LowRank) and relative(L.to_dense(), L0) < 1e-5 and relative(S, S0) < 1e-5
    assert info.matvecs < 0.5 * 220 * info.iterations
    again, _ = robust_pca(L0 + S0, generator=0)
    assert bool((again.to_dense() == L.to_dense()).all())


def test_thresholds_of_a_sequence_are_those_of_lapack():
    shrink = SingularThreshold(as_generator(0))
    U, V = (torch.linalg.qr(gaussian((n, 40), generator=i)).Q for i, n in enumerate((260, 220)))
    s = 0.8 ** torch.arange(40.0).double()
    for shift in (0.0, 0.01, 0.02):
        A = (U * (s + shift)) @ V.mT
        for tau in (0.5, 0.1):
            left, values, right = shrink(Dense(A), tau, 1e-9)
            expected = (s + shift - tau)[s + shift > tau]
            torch.testing.assert_close(values, expected, rtol=0, atol=1e-8)
            count = len(expected)
            torch.testing.assert_close(
                (left * values) @ right.mT, (U[:, :count] * expected) @ V[:, :count].mT, atol=1e-7, rtol=0
            )


def test_nothing_and_almost_nothing():
    L, S = robust_pca(torch.zeros(3, 4))
    assert not S.any() and not L.to_dense().any() and L.shape == (3, 4)
    for M in (np.array([[2.0]]), np.array([[1, 2, 3]])):
        L, S = robust_pca(M)
        np.testing.assert_allclose(L.to_dense() + S, M, atol=1e-5)


def test_a_missed_tolerance_carries_the_best():
    L0, S0 = problem(30, 30, 2, 0.1)
    with pytest.raises(ConvergenceError, match="robust_pca: reached") as caught:
        robust_pca(L0 + S0, max_iter=3)
    assert caught.value.best.S.shape == (30, 30) and caught.value.error > 1e-6
    assert not caught.value.info.converged


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lam": 0.0}, "lam must"),
        ({"rtol": 2.0}, "rtol must"),
        ({"max_iter": 0}, "max_iter must"),
        ({"mask": torch.ones(2, 3, dtype=torch.bool)}, "mask must be booleans of shape"),
        ({"mask": torch.ones(3, 3)}, "mask must be booleans"),
        ({"mask": torch.zeros(3, 3, dtype=torch.bool)}, "nothing is known"),
        ({"M": torch.full((3, 3), math.nan)}, "M has 9 entries"),
        ({"M": torch.ones(2, 3, 3)}, "M must have shape"),
        ({"M": torch.ones(3, 3).requires_grad_()}, "no gradient"),
    ],
)
def test_refusals(change, message):
    with pytest.raises(ValueError, match=message):
        robust_pca(**({"M": torch.eye(3)} | change))
