"""tt_cross: known ranks, all entries of small tensors, an integral in ten dimensions, counts, failures, refusals."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from resolvent.errors import ConvergenceError
from resolvent.factor import TensorTrain, tt, tt_cross
from resolvent.factor.tt_cross import _largest_volume
from resolvent.random import as_generator, gaussian


def grid(shape):
    return torch.cartesian_prod(*(torch.arange(n) for n in shape)).reshape(-1, len(shape))


def test_the_sum_of_the_indices_has_rank_two():
    train, info = tt_cross(lambda i: i.double().sum(1), (5, 6, 7, 4), generator=0, return_info=True)
    assert isinstance(train, TensorTrain) and train.ranks == (1, 2, 2, 2)
    exact = grid((5, 6, 7, 4)).double().sum(1).reshape(5, 6, 7, 4)
    torch.testing.assert_close(train.to_dense(), exact, rtol=0, atol=1e-11)
    assert info.iterations == 1 and info.error < 1e-12


@pytest.mark.parametrize("shape", [(12, 9, 14), (8, 8, 8, 8), (30, 20)])
def test_a_hilbert_tensor(shape):
    def f(i):
        return 1 / (1 + i.double().sum(1))

    asked = [0]

    def counted(i):
        asked[0] += len(i)
        return f(i)

    train, info = tt_cross(counted, shape, rtol=1e-9, generator=0, return_info=True)
    exact = f(grid(shape)).reshape(shape)
    assert float(torch.dist(train.to_dense(), exact) / exact.norm()) < 3e-9
    # No more than what the best decomposition of the tensor has, by two.
    best = tt(exact, rtol=1e-9).ranks
    assert all(r <= b + 2 for r, b in zip(train.ranks, best, strict=True))
    assert info.matvecs == asked[0]


def test_a_planted_train_comes_back_with_its_ranks():
    g = as_generator(0)
    ranks, shape = (1, 3, 4, 2, 3, 1), (7, 5, 6, 8, 5)
    for dtype, bound in ((torch.float64, 1e-8), (torch.float32, 1e-3), (torch.complex128, 1e-8)):
        cores = tuple(gaussian((ranks[k], shape[k], ranks[k + 1]), dtype, generator=g) for k in range(5))
        exact = TensorTrain(cores).to_dense()
        train = tt_cross(lambda i, exact=exact: exact[tuple(i.T)], shape, generator=1)
        assert train.ranks == ranks[:-1] and train.cores[0].dtype == dtype
        assert float(torch.linalg.vector_norm(train.to_dense() - exact) / torch.linalg.vector_norm(exact)) < bound


def test_an_integral_in_ten_dimensions():
    """Genz's corner peak, (1 + a x)^-(d+1), whose integral is a sum over the corners."""
    d, a = 10, 0.1 * np.arange(1, 11)
    nodes, weights = np.polynomial.legendre.leggauss(8)
    x, w = torch.from_numpy((nodes + 1) / 2), torch.from_numpy(weights / 2)
    scale = torch.from_numpy(a)
    train, info = tt_cross(
        lambda i: (1 + (x[i] * scale).sum(1)) ** (-d - 1.0), (8,) * d, rtol=1e-7, generator=0, return_info=True
    )
    found = torch.ones(1, dtype=torch.float64)
    for core in train.cores:
        found = torch.einsum("a,aib,i->b", found, core, w)
    corners = itertools.product((0, 1), repeat=d)
    exact = math.fsum((-1) ** sum(c) / (1 + float(np.dot(a, c))) for c in corners) / (math.factorial(d) * np.prod(a))
    assert float(found) == pytest.approx(exact, rel=1e-4)
    assert info.matvecs < 2e-3 * 8**d


def test_numpy_values_one_axis_and_two():
    train = tt_cross(lambda i: np.cos(i.numpy().sum(1)), (6, 5, 4), generator=0)
    assert all(isinstance(core, np.ndarray) for core in train.cores) and train.ranks == (1, 2, 2)
    i, j, k = np.meshgrid(np.arange(6), np.arange(5), np.arange(4), indexing="ij")
    np.testing.assert_allclose(train.to_dense(), np.cos(i + j + k), atol=1e-12)
    line = tt_cross(lambda i: i[:, 0].double() ** 2, (5,))
    assert line.to_dense().tolist() == [0, 1, 4, 9, 16]
    assert not tt_cross(lambda i: torch.zeros(len(i)), (3, 4, 3)).to_dense().any()


def test_sizes_beyond_squares():
    for scale in (1e-200, 1e200):
        train = tt_cross(lambda i, scale=scale: scale * (1 + i.double().sum(1)), (4, 5, 6), generator=0)
        exact = 1 + grid((4, 5, 6)).double().sum(1).reshape(4, 5, 6)
        torch.testing.assert_close(train.to_dense() / scale, exact)


def test_same_seed_same_result_and_the_global_state_is_left_alone():
    def f(i):
        return torch.exp(-((i.double().sum(1) / 9) ** 2))

    state = torch.get_rng_state()
    first, second = (tt_cross(f, (7,) * 5, generator=3) for _ in range(2))
    assert all(bool((a == b).all()) for a, b in zip(first.cores, second.cores, strict=True))
    assert bool((torch.get_rng_state() == state).all())


def test_rows_of_large_volume():
    U = torch.linalg.qr(gaussian((60, 5), generator=0)).Q
    rows, Z = _largest_volume(U)
    assert len(set(rows.tolist())) == 5 and float(Z.abs().max()) <= 1.02 + 1e-12
    torch.testing.assert_close(Z @ U[rows], U)


def test_noise_has_no_train_and_says_so():
    noise = gaussian((6,) * 5, generator=0)
    with pytest.raises(ConvergenceError, match="tt_cross: error") as caught:
        tt_cross(lambda i: noise[tuple(i.T)], (6,) * 5, max_rank=8, max_sweeps=3, generator=0)
    assert caught.value.best.shape == (6,) * 5 and caught.value.error > 0.1
    assert max(caught.value.best.ranks) <= 8 and caught.value.info.iterations == 3
    # With all ranks allowed it is found, as every tensor has a train.
    whole = tt_cross(lambda i: noise[tuple(i.T)], (6,) * 5, max_rank=300, generator=0)
    torch.testing.assert_close(whole.to_dense(), noise, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": ()}, "shape must"),
        ({"shape": (3, 0)}, "shape must"),
        ({"rtol": 1.0}, "rtol must"),
        ({"max_rank": 0}, "max_rank must"),
        ({"max_sweeps": True}, "max_sweeps must"),
        ({"f": lambda i: i.double()}, r"f\(indices\) must have shape"),
        ({"f": lambda i: 0 / (i.double().sum(1) - i.double().sum(1))}, "NaN or infinite at the indices"),
        ({"f": lambda i: i.double().sum(1).requires_grad_()}, "no gradient"),
        ({"f": lambda i: i.half().sum(1)}, "float16"),
    ],
)
def test_refusals(change, message):
    with pytest.raises(ValueError, match=message):
        tt_cross(**({"f": lambda i: i.double().sum(1), "shape": (3, 3, 3)} | change))
