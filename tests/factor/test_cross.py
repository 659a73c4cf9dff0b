"""aca: smooth kernels from few entries, blocks that partial pivoting is known to miss, tolerance, full pivoting."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from resolvent.errors import ConvergenceError
from resolvent.factor import aca
from resolvent.operators import Dense, Kernel
from resolvent.random import gaussian

_CASE = runpy.run_path(str(Path(__file__).with_name("lowrank_case.py")))
error, geometric, tail, with_values = (_CASE[name] for name in ("error", "geometric", "tail", "with_values"))


def cauchy(m, n, dtype=torch.float64):
    x, y = torch.linspace(0, 1, m, dtype=dtype), torch.linspace(1.3, 3, n, dtype=dtype)
    return 1 / (y - x[:, None])


@pytest.mark.parametrize("pivoting", ["partial", "full"])
@pytest.mark.parametrize("rtol", [1e-2, 1e-6, 1e-12])
def test_smooth_kernels(pivoting, rtol):
    A = cauchy(300, 200)
    found, info = aca(A, rtol=rtol, pivoting=pivoting, generator=0, return_info=True)
    assert error(A, found.to_dense()) <= rtol and info.converged
    s = torch.linalg.svdvals(A)
    needed = sum(tail(s, k) > rtol for k in range(30))
    assert needed <= found.s.shape[0] <= needed + 3


def test_few_entries_are_read():
    A, seen = cauchy(2000, 1500), []

    def entries(rows, columns):
        seen.append(len(rows) * len(columns))
        return A[rows][:, columns]

    found = aca(entries, rtol=1e-8, shape=(2000, 1500), generator=0)
    assert error(A, found.to_dense()) <= 1e-8
    assert sum(seen) < 0.02 * A.numel()


def test_parts_that_a_row_does_not_see():
    # The rows of one block say nothing about the other: the stopping rule of the step alone ends after the first.
    A = torch.block_diag(cauchy(100, 80), cauchy(100, 80).flip(0))
    for seed in range(20):
        found = aca(A, rtol=1e-6, generator=seed)
        assert error(A, found.to_dense()) <= 1e-5


@pytest.mark.parametrize("pivoting", ["partial", "full"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128])
def test_exact_rank(pivoting, dtype):
    A = with_values(60, 50, torch.linspace(1, 2, 6), dtype=dtype)
    found = aca(A, 6, pivoting=pivoting, generator=0)
    assert found.s.shape == (6,) and found.dtype == dtype
    assert error(A, found.to_dense()) < 1e3 * torch.finfo(dtype).eps
    # Elimination has nothing left after the rank.
    more = aca(A, rtol=100 * torch.finfo(dtype).eps, pivoting=pivoting, generator=0)
    assert more.s.shape[0] <= 7


def test_full_pivoting_is_gaussian_elimination():
    A = gaussian((6, 6), generator=0)
    found = aca(A, 6, pivoting="full")
    torch.testing.assert_close(found.to_dense(), A)
    first = int(A.abs().argmax())
    i, j = divmod(first, 6)
    torch.testing.assert_close(found.U[:, 0], A[:, j] / A[i, j])
    torch.testing.assert_close(found.V[:, 0], A[i])


def test_operators_numpy_and_zero():
    points = gaussian((40, 2), generator=0)
    K = Kernel(lambda X, Y: torch.exp(-torch.cdist(X, Y).square()), points)
    found = aca(K, rtol=1e-6, generator=0)
    assert error(K.to_dense(), found.to_dense()) <= 1e-6
    assert aca(Dense(cauchy(30, 20).numpy()), 3, generator=0).kind == "numpy"
    numbers = np.asarray(cauchy(30, 20))
    by_call = aca(lambda i, j: numbers[np.ix_(i, j)], 3, shape=(30, 20), generator=0)
    assert isinstance(by_call.to_dense(), np.ndarray)
    assert float(aca(torch.zeros(5, 4), rtol=0.1, generator=0).to_dense().abs().max()) == 0


def test_tolerance_that_is_not_reached():
    A = gaussian((60, 50), generator=0)
    for pivoting in ("partial", "full"):
        with pytest.raises(ConvergenceError) as caught:
            aca(A, rtol=1e-3, max_rank=5, pivoting=pivoting, generator=0)
        assert caught.value.best.s.shape == (5,) and caught.value.error > 1e-3


def test_bad_input():
    A = torch.eye(4)
    for call, word in (
        (lambda: aca(A), "exactly one"),
        (lambda: aca(A, 2, shape=(4, 4)), "callable"),
        (lambda: aca(lambda i, j: A[i][:, j], 2), "shape"),
        (lambda: aca(lambda i, j: A[i], 2, shape=(4, 4)), "shape"),
        (lambda: aca(A, 2, pivoting="rook"), "pivoting"),
        (lambda: aca(A.expand(2, 4, 4), 2), "one matrix"),
        (lambda: aca(lambda i, j: torch.full((len(i), len(j)), torch.nan), 1, shape=(3, 3)), "NaN"),
    ):
        with pytest.raises(ValueError, match=word):
            call()


@pytest.mark.parametrize("ratio", (0.5, 0.7))
def test_tolerance_holds_for_every_seed(ratio):
    A = with_values(60, 50, geometric(50, ratio))
    errors = [error(A, aca(A, rtol=1e-3, generator=seed).to_dense()) for seed in range(200)]
    assert sum(e > 1e-3 for e in errors) <= 2


def test_gradient_is_refused():
    with pytest.raises(ValueError, match="gradient"):
        aca(cauchy(9, 8).requires_grad_(), 2)
