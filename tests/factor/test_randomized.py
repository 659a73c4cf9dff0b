"""randomized_svd: near the best error, tolerance, single pass, sparse input, float32, gradients."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch.autograd import gradcheck

from resolvent.errors import ConvergenceError
from resolvent.factor import randomized_svd
from resolvent.random import gaussian

_CASE = runpy.run_path(str(Path(__file__).with_name("lowrank_case.py")))
error, geometric, tail, with_values = (_CASE[name] for name in ("error", "geometric", "tail", "with_values"))


def product(found):
    U, s, Vh = found[:3]
    return (U * s.to(U.dtype)[..., None, :]) @ Vh


@pytest.mark.parametrize(("method", "factor"), [("krylov", 1.0001), ("power", 1.01), ("single_pass", 3.0)])
@pytest.mark.parametrize("shape", [(120, 80), (80, 120)])
def test_near_the_best_of_its_rank(method, factor, shape):
    s = torch.arange(1.0, 81).double() ** -1.0
    A = with_values(*shape, s)
    for seed in range(5):
        U, found, Vh, info = randomized_svd(A, 12, method=method, generator=seed, return_info=True)
        assert tail(s, 12) <= error(A, product((U, found, Vh))) + 1e-14 <= factor * tail(s, 12)
        torch.testing.assert_close(U.mT @ U, torch.eye(12, dtype=torch.float64), rtol=0, atol=1e-13)
        torch.testing.assert_close(Vh @ Vh.mT, torch.eye(12, dtype=torch.float64), rtol=0, atol=1e-13)
        assert bool((found[:-1] >= found[1:]).all())
        assert method == "single_pass" or bool((found <= s[:12] * (1 + 1e-12)).all())
        assert info.matvecs == ({"single_pass": 22 + 45}.get(method, 6 * 22))


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64, torch.complex128])
def test_other_dtypes(dtype):
    s = geometric(40, 0.6)
    U, found, Vh = randomized_svd(with_values(90, 70, s, dtype=dtype), 15, generator=0)
    eps = torch.finfo(dtype).eps
    assert U.dtype == Vh.dtype == dtype and found.dtype == U.real.dtype
    torch.testing.assert_close(found.double(), s[:15], rtol=0, atol=10 * eps)
    assert float((U.mH @ U - torch.eye(15)).abs().max()) < 20 * eps


@pytest.mark.parametrize("rtol", [0.3, 1e-2, 1e-6, 1e-12])
def test_tolerance(rtol):
    s = geometric(150)
    A = with_values(200, 150, s)
    U, found, Vh, info = randomized_svd(A, rtol=rtol, generator=0, return_info=True)
    needed = sum(tail(s, k) > rtol for k in range(150))
    assert error(A, product((U, found, Vh))) <= rtol and needed <= len(found) <= needed + 2
    assert info.converged and info.error <= rtol


def test_tolerance_that_is_not_reached():
    with pytest.raises(ConvergenceError, match="asked for") as caught:
        randomized_svd(gaussian((40, 30), generator=0), rtol=1e-2, max_rank=6, generator=0)
    assert caught.value.best[1].shape == (6,)


def test_whole_rank_batches_and_zero():
    A = gaussian((2, 12, 7), generator=0)
    found = randomized_svd(A, 7, generator=0)
    torch.testing.assert_close(product(found), A)
    torch.testing.assert_close(found[1], torch.linalg.svdvals(A))
    assert float(randomized_svd(torch.zeros(6, 5), 2)[1].max()) == 0
    assert len(randomized_svd(torch.zeros(6, 5), rtol=0.1)[1]) == 1


def test_sparse_and_sketches():
    S = sp.random(300, 200, 0.05, random_state=0, format="csr")
    exact = np.linalg.svd(S.toarray(), compute_uv=False)[:5]
    for sketch in ("gaussian", "rademacher", "sparse_sign"):
        U, s, Vh = randomized_svd(S, 5, power=8, sketch=sketch, generator=0)
        assert isinstance(U, np.ndarray) and isinstance(Vh, np.ndarray)
        np.testing.assert_allclose(s, exact, rtol=1e-6)


def test_gradient_of_the_values():
    A = gaussian((12, 9), generator=0).requires_grad_()
    assert gradcheck(lambda A: randomized_svd(A, 4, power=6, oversample=5, generator=0)[1], A, atol=1e-6)
    U, _, _ = randomized_svd(A, 3, generator=0)
    with pytest.raises(RuntimeError, match="no gradient of the singular vectors"):
        U.sum().backward()


def test_bad_input():
    A = torch.eye(6)
    for call, word in (
        (lambda: randomized_svd(A), "exactly one"),
        (lambda: randomized_svd(A, 7), "between 1 and 6"),
        (lambda: randomized_svd(A, 2, oversample=-1), "oversample"),
        (lambda: randomized_svd(A, 2, method="lanczos"), "method"),
        (lambda: randomized_svd(A, rtol=0.1, method="single_pass"), "single_pass"),
        (lambda: randomized_svd(torch.full((4, 4), torch.nan), 1), "NaN"),
    ):
        with pytest.raises(ValueError, match=word):
            call()
