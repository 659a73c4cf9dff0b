"""soft_impute: closed forms, a convex solver, certificates, large sparse problems, refusals."""

from __future__ import annotations

import math

import cvxpy
import numpy as np
import pytest
import torch

from resolvent.errors import ConvergenceError
from resolvent.factor import soft_impute
from resolvent.operators import LowRank
from resolvent.random import as_generator, gaussian
from resolvent.spectra import prox_spectral


def test_all_entries_give_the_soft_threshold():
    M = gaussian((25, 18), generator=0)
    found = soft_impute(M, 2.0, rtol=1e-9)
    torch.testing.assert_close(found.to_dense(), prox_spectral("nuclear", M, 0.5), rtol=0, atol=1e-4)


def test_same_as_an_interior_point_method():
    rng = np.random.default_rng(0)
    M = rng.normal(size=(9, 7))
    known = rng.random(M.shape) < 0.7
    X = cvxpy.Variable(M.shape)
    cost = cvxpy.sum_squares(cvxpy.multiply(known, X - M)) / 2 + 0.4 * cvxpy.normNuc(X)
    expected = cvxpy.Problem(cvxpy.Minimize(cost))
    expected.solve(solver="CLARABEL")
    found, info = soft_impute(np.where(known, M, np.nan), 0.4, rtol=1e-8, max_iter=20000, return_info=True)
    dense = found.to_dense()
    assert isinstance(dense, np.ndarray) and info.error <= 1e-8
    value = ((dense - M)[known] ** 2).sum() / 2 + 0.4 * np.linalg.norm(dense, "nuc")
    assert value == pytest.approx(expected.value, rel=1e-6)
    np.testing.assert_allclose(dense, X.value, atol=2e-3)


def low_rank(m, n, k, share, dtype=torch.float64):
    g = as_generator(0)
    U, V = gaussian((m, k), dtype, generator=g), gaussian((n, k), dtype, generator=g)
    places = torch.randint(m * n, (round(share * m * n),), generator=g).unique()
    rows, cols = places // n, places % n
    return U, V, rows, cols, (U[rows] * V[cols]).sum(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_large_problems_stay_sparse(dtype):
    U, V, rows, cols, values = low_rank(400, 350, 3, 0.25, dtype)
    # 140000 entries are above what may be formed.
    found, info = soft_impute((rows, cols, values), 4.0, (400, 350), generator=0, return_info=True)
    assert isinstance(found, LowRank) and found.s.shape == (3,) and found.dtype == dtype
    exact = U @ V.mT
    assert float(torch.dist(found.to_dense(), exact)) < 0.08 * float(exact.norm())
    assert info.converged and info.matvecs < 150 * info.iterations
    again = soft_impute((rows, cols, values), 4.0, (400, 350), generator=0)
    assert bool((again.s == found.s).all())
    torch.testing.assert_close(found.U.mT @ found.U, torch.eye(3, dtype=dtype), rtol=0, atol=1e-4)


def test_scaling_transposition_and_the_largest_penalty():
    _, _, rows, cols, values = low_rank(40, 30, 2, 0.5)
    first = soft_impute((rows, cols, values), 0.5, (40, 30), rtol=1e-8).to_dense()
    turned = soft_impute((cols, rows, values), 0.5, (30, 40), rtol=1e-8).to_dense()
    torch.testing.assert_close(turned.mT, first, rtol=0, atol=1e-3)
    small = soft_impute((rows, cols, 1e-20 * values), 5e-21, (40, 30), rtol=1e-8).to_dense()
    torch.testing.assert_close(1e20 * small, first, rtol=0, atol=1e-3)
    zero_filled = torch.zeros(40, 30, dtype=torch.float64).index_put((rows, cols), values)
    top = float(torch.linalg.matrix_norm(zero_filled, 2))
    assert soft_impute((rows, cols, values), 1.001 * top, (40, 30)).s.shape == (0,)
    assert soft_impute((rows, cols, values), 0.95 * top, (40, 30)).s.shape == (1,)
    assert not soft_impute((rows, cols, 0 * values), 1.0, (40, 30)).to_dense().any()


def test_a_missed_tolerance_carries_the_best():
    _, _, rows, cols, values = low_rank(40, 30, 2, 0.5)
    with pytest.raises(ConvergenceError, match="soft_impute: gap") as caught:
        soft_impute((rows, cols, values), 0.01, (40, 30), max_iter=2)
    assert caught.value.best.shape == (40, 30) and caught.value.error > 1e-5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lam": 0.0}, "lam must"),
        ({"lam": math.inf}, "lam must"),
        ({"rtol": 0.0}, "rtol must"),
        ({"max_iter": 0}, "max_iter must"),
        ({"entries": torch.full((2, 2), math.nan)}, "no known entry"),
        ({"entries": torch.ones(2, 2).requires_grad_()}, "no gradient"),
    ],
)
def test_refusals(change, message):
    with pytest.raises(ValueError, match=message):
        soft_impute(**({"entries": torch.eye(3), "lam": 1.0} | change))
