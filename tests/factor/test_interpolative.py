"""interpolative: exact rank, pivots that Gram-Schmidt also takes, tolerance, rows, sketches, gradients."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch.autograd import gradcheck

from resolvent.factor import interpolative
from resolvent.factor.interpolative import _pivoted_by_steps, pivoted
from resolvent.random import gaussian

_CASE = runpy.run_path(str(Path(__file__).with_name("lowrank_case.py")))
error, geometric, tail, with_values = (_CASE[name] for name in ("error", "geometric", "tail", "with_values"))


def product(A, found, axis="columns"):
    J, T = found
    return A[:, J] @ T if axis == "columns" else T @ A[J]


@pytest.mark.parametrize("method", ["exact", "sketched"])
@pytest.mark.parametrize("axis", ["columns", "rows"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128])
def test_exact_rank(method, axis, dtype):
    A = with_values(60, 50, torch.linspace(1, 2, 7), dtype=dtype)
    found = interpolative(A, 7, method=method, axis=axis, generator=0)
    assert error(A, product(A, found, axis)) < 500 * torch.finfo(dtype).eps
    one = found.coefficients[:, found.indices] if axis == "columns" else found.coefficients[found.indices]
    assert bool((one == torch.eye(7)).all())
    assert found.coefficients.dtype == dtype and len(set(found.indices.tolist())) == 7


def test_more_columns_than_the_rank():
    A = with_values(40, 30, torch.ones(3))
    found = interpolative(A, 10)
    assert 3 <= len(found.indices) <= 10 and error(A, product(A, found)) < 1e-12


@pytest.mark.parametrize("method", ["exact", "sketched"])
def test_near_the_best_of_its_rank(method):
    s = geometric(80)
    A = with_values(100, 80, s)
    errors = [error(A, product(A, interpolative(A, 20, method=method, generator=seed))) for seed in range(10)]
    assert tail(s, 20) <= min(errors) and max(errors) < 5 * tail(s, 20)


@pytest.mark.parametrize("method", ["exact", "sketched"])
@pytest.mark.parametrize("rtol", [0.1, 1e-4, 1e-9])
def test_tolerance(method, rtol):
    s = geometric(150)
    A = with_values(200, 150, s)
    needed = sum(tail(s, k) > rtol for k in range(150))
    for axis in ("columns", "rows"):
        for seed in range(3):
            found = interpolative(A, rtol=rtol, method=method, axis=axis, generator=seed)
            assert error(A, product(A, found, axis)) <= rtol
            assert needed <= len(found.indices) <= needed + 12


def test_pivots_by_householder_and_by_gram_schmidt():
    for dtype in (torch.float64, torch.complex128):
        Y = gaussian((12, 30), dtype, generator=0)
        order, R = pivoted(Y, 8)
        other, S = _pivoted_by_steps(Y, 8)
        assert bool((order[:8] == other[:8]).all())
        assert sorted(other.tolist()) == list(range(30))
        torch.testing.assert_close(R[:, :8].abs(), S[:, :8].abs())
        torch.testing.assert_close(R.mH @ R, (S.mH @ S)[:, other.argsort()][other.argsort()][:, order][order])


def test_sparse_numpy_and_zero():
    S = sp.random(80, 60, 0.2, random_state=0, format="csr")
    J, T = interpolative(S, 60)
    assert isinstance(J, np.ndarray)
    np.testing.assert_allclose(S.toarray()[:, J] @ T, S.toarray(), atol=1e-10)
    found = interpolative(torch.zeros(4, 3), 2)
    assert bool((found.coefficients.abs().sum(1) == 1).all())
    assert len(interpolative(torch.zeros(4, 3), rtol=0.1).indices) == 1


def test_gradient():
    A = gaussian((6, 5), generator=0).requires_grad_()
    assert gradcheck(lambda A: interpolative(A, 3).coefficients, A)


def test_bad_input():
    A = torch.eye(4)
    for call, word in (
        (lambda: interpolative(A), "exactly one"),
        (lambda: interpolative(A, 5), "between 1 and 4"),
        (lambda: interpolative(A, 2, axis="both"), "axis"),
        (lambda: interpolative(A, 2, method="id"), "method"),
        (lambda: interpolative(A.expand(2, 4, 4), 2), "one matrix"),
        (lambda: interpolative(torch.full((3, 3), torch.nan), 1), "NaN"),
    ):
        with pytest.raises(ValueError, match=word):
            call()
