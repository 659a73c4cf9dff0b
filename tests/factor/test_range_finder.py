"""range_finder: the captured part, the adaptive rank and its bound over many seeds, Krylov against power."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from resolvent.errors import ConvergenceError
from resolvent.factor import range_finder
from resolvent.factor.range_finder import orthonormal
from resolvent.operators import MatrixFree
from resolvent.random import gaussian

_CASE = runpy.run_path(str(Path(__file__).with_name("lowrank_case.py")))
error, geometric, tail, with_values = (_CASE[name] for name in ("error", "geometric", "tail", "with_values"))


def captured(A, Q):
    return Q @ (Q.mH @ A)


@pytest.mark.parametrize("method", ["power", "krylov"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128])
def test_exact_rank(method, dtype):
    A = with_values(60, 40, torch.linspace(1, 2, 7), dtype=dtype)
    Q = range_finder(A, 7, method=method, generator=0)
    eps = torch.finfo(dtype).eps
    assert error(A, captured(A, Q)) < 100 * eps
    assert float((Q.mH @ Q - torch.eye(Q.shape[1])).abs().max()) < 50 * eps
    assert Q.dtype == dtype


def test_error_is_within_the_expectation_of_the_paper():
    # Theorem 10.5 there: E |A - QQ'A|_F^2 <= (1 + k / (p - 1)) sum of the squares beyond k, without powers.
    s, k, p = geometric(40), 8, 6
    A = with_values(60, 40, s)
    squares = [error(A, captured(A, range_finder(A, k + p, power=0, generator=seed))) ** 2 for seed in range(200)]
    assert float(np.mean(squares)) <= (1 + k / (p - 1)) * tail(s, k) ** 2
    assert min(squares) >= tail(s, k + p) ** 2


def test_krylov_keeps_more_than_power():
    s = torch.arange(1.0, 201).double() ** -0.5
    A = with_values(300, 200, s)
    power, krylov = (range_finder(A, 10, power=2, method=m, generator=0) for m in ("power", "krylov"))
    assert krylov.shape[1] == 30
    assert error(A, captured(A, krylov)) < error(A, captured(A, power))


def test_the_bound_holds_over_200_seeds():
    # The estimate may fail once in a thousand runs; the basis stops where it says that it is done.
    A = with_values(80, 60, geometric(60, 0.7))
    missed = sum(error(A, captured(A, range_finder(A, rtol=1e-3, generator=seed))) > 1e-3 for seed in range(200))
    assert missed == 0


def test_without_the_norm_at_hand_the_bound_holds_too():
    A = with_values(80, 60, geometric(60, 0.7))
    free = MatrixFree(A.shape, lambda X: A @ X, lambda X: A.mT @ X, dtype=A.dtype)
    errors = [error(A, captured(A, range_finder(free, rtol=1e-2, power=0, generator=seed))) for seed in range(200)]
    assert sum(e > 1e-2 for e in errors) <= 1


@pytest.mark.parametrize("rtol", [1e-2, 1e-6, 1e-11])
def test_adaptive_rank(rtol):
    s = geometric(150)
    A = with_values(200, 150, s)
    Q, info = range_finder(A, rtol=rtol, generator=0, return_info=True)
    needed = sum(tail(s, k) > rtol for k in range(150))
    assert error(A, captured(A, Q)) <= rtol and needed <= Q.shape[1] <= 1.5 * needed + 20
    assert info.converged and error(A, captured(A, Q)) <= info.error <= rtol


def test_limits():
    A = gaussian((30, 20), generator=0)
    with pytest.raises(ConvergenceError) as caught:
        range_finder(A, rtol=1e-3, max_rank=5, generator=0)
    assert caught.value.best.shape == (30, 5) and caught.value.error > 1e-3
    assert range_finder(A, 20, generator=0).shape == (30, 20)
    assert error(A, captured(A, range_finder(A, rtol=1e-10, generator=0))) < 1e-12
    assert range_finder(torch.zeros(5, 4), rtol=0.1).shape[0] == 5
    assert isinstance(range_finder(A.numpy(), 3), np.ndarray)
    assert range_finder(gaussian((2, 3, 30, 20), generator=0), 4).shape == (2, 3, 30, 4)
    same = [range_finder(A, 4, generator=3) for _ in range(2)]
    assert bool((same[0] == same[1]).all())


@pytest.mark.parametrize("condition", [1.0, 1e5, 1e12])
def test_orthonormal_columns_of_any_condition(condition):
    Y = with_values(400, 20, torch.logspace(0, -np.log10(condition), 20, dtype=torch.float64))
    Q = orthonormal(Y)
    torch.testing.assert_close(Q.mT @ Q, torch.eye(20, dtype=torch.float64), rtol=0, atol=1e-14)
    assert error(Y, captured(Y, Q)) < 1e-14


def test_bad_input():
    A = torch.eye(4)
    for call, word in (
        (lambda: range_finder(A), "exactly one"),
        (lambda: range_finder(A, 2, rtol=0.1), "exactly one"),
        (lambda: range_finder(A, 5), "rank must be between 1 and 4"),
        (lambda: range_finder(A, rtol=2.0), "rtol"),
        (lambda: range_finder(A, 2, power=-1), "power"),
        (lambda: range_finder(A, 2, method="lanczos"), "method"),
        (lambda: range_finder(A, rtol=0.1, method="krylov"), "krylov"),
        (lambda: range_finder(A.expand(2, 4, 4), rtol=0.1), "batch"),
        (lambda: range_finder(torch.full((3, 3), torch.nan), 1), "NaN"),
    ):
        with pytest.raises(ValueError, match=word):
            call()
    with pytest.raises(TypeError, match="rank"):
        range_finder(A, 2.0)
