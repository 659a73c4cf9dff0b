"""unfold, fold, mode_product, unfolding_values, TensorNetwork and cp against einsum, SVDs and planted factors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from resolvent import factor
from resolvent.errors import ConvergenceError
from resolvent.random import gaussian


def test_unfold_and_fold():
    T = gaussian((2, 3, 4), generator=0)
    assert bool((factor.unfold(T, 1)[2] == T[:, 2].reshape(-1)).all())
    assert factor.unfold(T, (2, 0)).shape == (8, 3)
    assert float(factor.unfold(T, (2, 0))[3 * 2 + 1, 2]) == float(T[1, 2, 3])
    for mode in (0, 1, -1, (0, 2), (2, 0, 1)):
        torch.testing.assert_close(factor.fold(factor.unfold(T, mode), mode, T.shape), T, rtol=0, atol=0)
    assert isinstance(factor.unfold(T.numpy(), 0), np.ndarray)
    assert gradcheck(lambda T: factor.unfold(T, (2, 1)), T.clone().requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128])
def test_mode_product(dtype):
    T, A, B = (
        gaussian((2, 3, 4), dtype, generator=0),
        gaussian((5, 3), dtype, generator=1),
        gaussian((2, 4), dtype, generator=2),
    )
    torch.testing.assert_close(factor.mode_product(T, A, 1), torch.einsum("abc,xb->axc", T, A))
    torch.testing.assert_close(factor.mode_product(T, [A, B], [1, 2]), torch.einsum("abc,xb,yc->axy", T, A, B))
    torch.testing.assert_close(factor.unfold(factor.mode_product(T, A, 1), 1), A @ factor.unfold(T, 1))


def test_mode_product_has_gradients():
    inputs = (gaussian((2, 3, 2), generator=0).requires_grad_(), gaussian((2, 3), generator=1).requires_grad_())
    assert gradcheck(lambda T, A: factor.mode_product(T, A, 1), inputs)


def test_unfolding_values_dense_and_sparse():
    T = gaussian((4, 5, 6), generator=0)
    T[T.abs() < 1] = 0
    for found in (
        factor.unfolding_values(T),
        factor.unfolding_values(T.to_sparse()),
        factor.unfolding_values(T.numpy()),
    ):
        for n, s in enumerate(found):
            torch.testing.assert_close(torch.as_tensor(s), torch.linalg.svdvals(factor.unfold(T, n)))
    size = [float(s.square().sum()) for s in factor.unfolding_values(T.float())]
    assert size == pytest.approx([float(T.square().sum())] * 3, rel=1e-6)


def test_network_against_einsum():
    cores = [gaussian(s, generator=i) for i, s in enumerate([(2, 3, 4), (4, 3, 5), (5, 2), (3, 6)])]
    net = factor.TensorNetwork(cores, ["abc", "cde", "ex", "by"], "ydax")
    torch.testing.assert_close(net.contract(), torch.einsum("abc,cde,ex,by->ydax", *cores))
    assert net.shape == (6, 3, 2, 2)
    assert net.ranks == {"b": 3, "c": 4, "e": 5}
    assert net.edges == {"b": (0, 3), "c": (0, 1), "e": (1, 2)}
    assert net.parameters == sum(c.numel() for c in cores)
    torch.testing.assert_close(net.inner(net), net.contract().square().sum())
    assert isinstance(factor.TensorNetwork([c.numpy() for c in cores], net.labels).contract(), np.ndarray)


def test_the_path_is_the_cheapest():
    # A chain of matrices: the classical order of multiplication, found by its own recursion.
    sizes = [30, 35, 15, 5, 10, 20, 25]
    letters = "abcdefg"
    cores = [torch.zeros(sizes[i], sizes[i + 1]) for i in range(6)]
    net = factor.TensorNetwork(cores, [letters[i : i + 2] for i in range(6)])
    assert net.multiplications == 15125


def test_many_cores_and_a_hyperedge():
    cores = [gaussian((3, 3), generator=i) for i in range(14)]
    labels = [(f"x{i}", f"x{i + 1}") for i in range(14)]
    torch.testing.assert_close(factor.TensorNetwork(cores, labels).contract(), torch.linalg.multi_dot(cores))
    three = cores[:3]
    net = factor.TensorNetwork(three, ["ar", "br", "cr"], "abc")
    torch.testing.assert_close(net.contract(), torch.einsum("ar,br,cr->abc", *three))
    torch.testing.assert_close(net.inner(net), net.contract().square().sum())


def test_network_gradients():
    cores = [gaussian(s, generator=i).requires_grad_() for i, s in enumerate([(2, 3), (3, 2, 2), (2, 2)])]
    assert gradcheck(lambda *c: factor.TensorNetwork(c, ["ia", "ajb", "bk"]).contract(), cores)


def planted(rank, dtype=torch.float64, shape=(6, 7, 8)):
    factors = [gaussian((n, rank), dtype, generator=i) for i, n in enumerate(shape)]
    return torch.einsum("ar,br,cr->abc", *factors), factors


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128])
def test_cp_finds_planted_factors(dtype):
    T, factors = planted(3, dtype)
    found, info = factor.cp(T, 3, rtol=1e-6 if dtype == torch.float32 else 1e-13, generator=0, return_info=True)
    assert info.error < (1e-5 if dtype == torch.float32 else 1e-9)
    for U, V in zip(factors, found.factors, strict=True):
        cosines = (U / torch.linalg.vector_norm(U, dim=0)).mH @ V
        torch.testing.assert_close(cosines.abs().amax(0), torch.ones(3, dtype=cosines.real.dtype), rtol=0, atol=1e-4)
    assert found.to_dense().dtype == dtype
    assert bool((found.weights.abs().diff() <= 0).all())


def test_cp_of_a_matrix_is_as_good_as_its_svd():
    M = gaussian((9, 7), generator=0)
    _, info = factor.cp(M, 2, rtol=1e-12, sweeps=2000, generator=0, return_info=True)
    best = torch.linalg.svdvals(M)[2:].norm() / M.norm()
    assert info.error == pytest.approx(float(best), rel=1e-6)


def test_cp_scales_and_limits():
    T, _ = planted(2)
    for size in (1e-160, 1e150):
        assert factor.cp(T * size, 2, generator=0, return_info=True)[1].error < 1e-6
    assert factor.cp(torch.zeros(2, 3), 1, generator=0).weights.tolist() == [0.0]
    with pytest.raises(ConvergenceError) as caught:
        factor.cp(gaussian((5, 5, 5), generator=0), 4, rtol=1e-12, sweeps=2, generator=0)
    assert caught.value.best.weights.shape == (4,)
    assert isinstance(factor.cp(T.numpy(), 1, generator=0).weights, np.ndarray)


def test_bad_input():
    T = torch.ones(2, 3, 4)
    for call, word in (
        (lambda: factor.unfold(T, 3), "mode"),
        (lambda: factor.unfold(T, (0, 0)), "once"),
        (lambda: factor.fold(torch.ones(2, 3), 0, (2, 4)), "shape"),
        (lambda: factor.mode_product(T, torch.ones(2, 5), 0), "axis 0"),
        (lambda: factor.mode_product(T, [torch.ones(2, 2)], [0, 1]), "one matrix"),
        (lambda: factor.unfolding_values(torch.full((2, 2), math.nan)), "NaN"),
        (lambda: factor.unfolding_values(torch.ones(0, 2)), "empty"),
        (lambda: factor.TensorNetwork([], []), "labels"),
        (lambda: factor.TensorNetwork([T], ["ab"]), "labels"),
        (lambda: factor.TensorNetwork([T, T], ["abc", "acd"]), "size"),
        (lambda: factor.TensorNetwork([T], ["abc"], "abz"), "output"),
        (lambda: factor.cp(T, 0), "rank"),
        (lambda: factor.cp(T, 1, init="zero"), "init"),
        (lambda: factor.cp(torch.ones(3), 1), "two axes"),
        (lambda: factor.cp(T.clone().requires_grad_(), 1), "gradient"),
    ):
        with pytest.raises(ValueError, match=word):
            call()
