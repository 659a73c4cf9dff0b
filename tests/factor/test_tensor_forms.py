"""tucker, tt, tt_round and tensor_ring: exact ranks, bounds, matrices as a limiting case, bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from resolvent import factor
from resolvent.errors import ConvergenceError
from resolvent.factor.tensor_train import TensorTrain
from resolvent.random import gaussian


def smooth(n=8, dtype=torch.float64):
    x = torch.linspace(0, 1, n, dtype=torch.float64)
    T = 1 / (1 + x[:, None, None, None] + 2 * x[:, None, None] + 3 * x[:, None] ** 2 + x)
    return T.to(dtype)


def of_ranks(shape, ranks, dtype=torch.float64):
    core = gaussian(ranks, dtype, generator=0)
    return factor.mode_product(
        core, [gaussian((n, r), dtype, generator=n) for n, r in zip(shape, ranks, strict=True)], range(len(shape))
    )


@pytest.mark.parametrize("method", ["hooi", "hosvd", "st-hosvd"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128])
def test_tucker_of_exact_ranks(method, dtype):
    T = of_ranks((6, 7, 8), (2, 3, 4), dtype)
    eps = torch.finfo(dtype).eps
    found, info = factor.tucker(T, (2, 3, 4), method=method, return_info=True)
    assert info.error < 50 * eps
    for U in found.factors:
        torch.testing.assert_close(U.mH @ U, torch.eye(U.shape[1], dtype=dtype))
    torch.testing.assert_close(found.to_dense(), T, rtol=1e3 * eps, atol=1e3 * eps)
    assert factor.tucker(T, rtol=100 * eps, method=method).ranks == (2, 3, 4)
    assert found.parameters == 24 + 12 + 21 + 32


@pytest.mark.parametrize("method", ["hosvd", "st-hosvd"])
@pytest.mark.parametrize("rtol", [1e-1, 1e-3, 1e-6])
def test_tucker_meets_its_tolerance(method, rtol):
    T = smooth()
    found, info = factor.tucker(T, rtol=rtol, method=method, return_info=True)
    assert info.error <= rtol
    assert max(found.ranks) < 8


def test_hooi_lies_between_the_bound_and_hosvd():
    T = gaussian((9, 10, 11), generator=0)
    ranks = (3, 4, 2)
    errors = {m: factor.tucker(T, ranks, method=m, return_info=True)[1].error for m in ("hooi", "hosvd", "st-hosvd")}
    tails = [float(s[r:].square().sum()) for s, r in zip(factor.unfolding_values(T), ranks, strict=True)]
    assert math.sqrt(max(tails)) / T.norm() <= errors["hooi"] < min(errors["hosvd"], errors["st-hosvd"])
    assert errors["hosvd"] <= math.sqrt(sum(tails)) / T.norm()


def test_tucker_agrees_with_tensorly():
    decomposition = pytest.importorskip("tensorly.decomposition")
    import tensorly

    T = gaussian((6, 7, 8), generator=0).numpy()
    theirs = decomposition.tucker(T, rank=[2, 3, 2], n_iter_max=500, tol=1e-14)
    error = np.linalg.norm(T - tensorly.tucker_to_tensor(theirs)) / np.linalg.norm(T)
    assert factor.tucker(T, (2, 3, 2), sweeps=500, return_info=True)[1].error == pytest.approx(error, rel=1e-6)


def test_matrices_are_the_limiting_case():
    M = gaussian((9, 7), generator=0)
    best = float(torch.linalg.svdvals(M)[3:].norm() / M.norm())
    for task in (factor.tucker, factor.tt):
        assert task(M, 3, return_info=True)[1].error == pytest.approx(best, rel=1e-12)
    assert factor.tensor_ring(M, (1, 3), return_info=True)[1].error == pytest.approx(best, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128])
def test_tt_of_exact_ranks(dtype):
    train = TensorTrain(
        tuple(gaussian(s, dtype, generator=i) for i, s in enumerate([(1, 4, 2), (2, 5, 3), (3, 4, 2), (2, 3, 1)]))
    )
    T = train.to_dense()
    torch.testing.assert_close(T, torch.einsum("xap,pbq,qcr,rdx->abcd", *train.cores))
    found, info = factor.tt(T, rtol=100 * torch.finfo(dtype).eps, return_info=True)
    assert found.ranks == (1, 2, 3, 2)
    assert found.shape == (4, 5, 4, 3)
    assert info.error < 100 * torch.finfo(dtype).eps
    for core in found.cores[:-1]:
        U = core.reshape(-1, core.shape[2])
        torch.testing.assert_close(U.mH @ U, torch.eye(U.shape[1], dtype=dtype))


@pytest.mark.parametrize("rtol", [1e-1, 1e-3, 1e-6])
def test_tt_meets_its_tolerance(rtol):
    T = smooth()
    found, info = factor.tt(T, rtol=rtol, return_info=True)
    assert info.error <= rtol
    assert max(found.ranks) < 8
    rounded = factor.tt_round(factor.tt(T, rtol=1e-13), rtol=rtol)
    assert float(torch.dist(rounded.to_dense(), T) / T.norm()) <= rtol * (1 + 1e-6)
    assert rounded.ranks == found.ranks


def test_rounding_a_sum():
    T = factor.tt(smooth(6), rtol=1e-12)
    a, *middle, b = T.cores
    zero = [torch.zeros_like(c) for c in middle]
    doubled = [
        torch.cat([a, a], 2),
        *(torch.cat([torch.cat([c, z], 2), torch.cat([z, c], 2)]) for c, z in zip(middle, zero, strict=True)),
        torch.cat([b, b]),
    ]
    found = factor.tt_round(doubled, rtol=1e-10)
    assert found.ranks == factor.tt(2 * T.to_dense(), rtol=1e-10).ranks
    torch.testing.assert_close(found.to_dense(), 2 * T.to_dense())
    assert isinstance(factor.tt_round([c.numpy() for c in doubled], ranks=2).cores[0], np.ndarray)


def test_tensor_ring():
    # Ring ranks (2, 2, 3, 2): the train of the same tensor needs more.
    ring = TensorTrain(
        tuple(gaussian(s, generator=i) for i, s in enumerate([(2, 5, 2), (2, 4, 3), (3, 4, 2), (2, 5, 2)]))
    )
    T = ring.to_dense()
    torch.testing.assert_close(T, torch.einsum("xap,pbq,qcr,rdx->abcd", *ring.cores))
    found, info = factor.tensor_ring(T, rtol=1e-12, return_info=True)
    assert info.error <= 1e-12
    assert found.parameters <= factor.tt(T, rtol=1e-12).parameters
    closed, info = factor.tensor_ring(T, (2, 2, 8, 10), return_info=True)
    assert closed.ranks[:2] == (2, 2)
    assert info.error < 1e-12


def test_small_shapes_and_numpy():
    assert factor.tt(torch.tensor([1.0, 2.0]), rtol=1e-3).to_dense().tolist() == [1.0, 2.0]
    assert factor.tucker(torch.zeros(2, 3, 2), 1).to_dense().abs().sum() == 0
    assert factor.tucker(torch.ones(4, 1, 1), (3, 1, 1)).core.shape == (3, 1, 1)
    found = factor.tucker(np.ones((2, 3)), 1)
    assert isinstance(found.core, np.ndarray)
    assert isinstance(found.to_dense(), np.ndarray)
    assert isinstance(factor.tt(np.ones((2, 3)), 1).cores[0], np.ndarray)


def test_bad_input():
    T = gaussian((3, 4, 5), generator=0)
    for call, word in (
        (lambda: factor.tucker(T), "either"),
        (lambda: factor.tucker(T, 2, rtol=0.1), "either"),
        (lambda: factor.tucker(T, (2, 2)), "3 ints"),
        (lambda: factor.tucker(T, (2, 2, 6)), "3 ints"),
        (lambda: factor.tucker(T, 0), "3 ints"),
        (lambda: factor.tucker(T, 2, method="als"), "method"),
        (lambda: factor.tucker(T, 2, sweeps=-1), "sweeps"),
        (lambda: factor.tucker(T * math.inf, 2), "NaN"),
        (lambda: factor.tucker(T.clone().requires_grad_(), 2), "gradient"),
        (lambda: factor.tt(T), "either"),
        (lambda: factor.tt(T, rtol=2.0), "rtol"),
        (lambda: factor.tt(T, (2,)), "2 ints"),
        (lambda: factor.tt(T.clone().requires_grad_(), 2), "gradient"),
        (lambda: factor.tt_round([T], ranks=1), "shape"),
        (lambda: factor.tt_round([], ranks=1), "at least one"),
        (lambda: factor.tt_round(factor.tt(T, 2)), "either"),
        (lambda: factor.tensor_ring(T, (2, 2, 2)), "ranks"),
        (lambda: factor.tensor_ring(T[0, 0], rtol=0.1), "two axes"),
    ):
        with pytest.raises(ValueError, match=word):
            call()
    with pytest.raises(ConvergenceError) as caught:
        factor.tucker(T.float(), rtol=1e-9)
    assert caught.value.best.ranks == (3, 4, 5)
