"""tensor_sketch and kronecker_srht: factors against whole vectors, unbiased squares, one factor, gradients, bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from resolvent import sketch
from resolvent.random import gaussian

BOTH = (sketch.tensor_sketch, sketch.kronecker_srht)


def products(*factors):
    """Columnwise Kronecker products."""
    out = factors[0]
    for X in factors[1:]:
        out = (out[:, None] * X[None]).flatten(0, 1)
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128])
@pytest.mark.parametrize("sizes", [(5,), (3, 4), (8, 5, 2)])
@pytest.mark.parametrize("make", BOTH)
def test_factors_and_whole_vectors_agree(make, sizes, dtype):
    S = make(7, sizes, generator=0, dtype=dtype)
    D = S.to_dense()
    factors = [gaussian((n, 3), dtype, generator=n) for n in sizes]
    X = products(*factors)
    torch.testing.assert_close(S @ X, D @ X)
    torch.testing.assert_close(S.khatri_rao(*factors), D @ X)
    torch.testing.assert_close(S.khatri_rao(*(f[:, 0] for f in factors)), (D @ X)[:, 0])
    Y = gaussian((7, 2), dtype, generator=9)
    torch.testing.assert_close(S.H @ Y, D.mH @ Y)
    torch.testing.assert_close(S.to(torch.float32).to_dense().to(dtype), D)
    assert isinstance(S.khatri_rao(*(f.numpy() for f in factors)), np.ndarray)


@pytest.mark.parametrize("make", BOTH)
def test_squares_are_unbiased(make):
    x, y = gaussian((6,), generator=0), gaussian((5,), generator=1)
    exact = float(torch.kron(x, y).square().sum())
    found = [
        float(make(16, (6, 5), generator=s, dtype=torch.float64).khatri_rao(x, y).square().sum()) for s in range(800)
    ]
    spread = float(torch.tensor(found).std()) / 800**0.5
    assert abs(sum(found) / 800 - exact) < 5 * spread
    assert spread < 0.05 * exact


def test_one_factor_is_a_count_sketch():
    D = sketch.tensor_sketch(4, (30,), generator=0).to_dense()
    assert bool(((D != 0).sum(0) == 1).all()) and float(D.abs().max()) == 1


@pytest.mark.parametrize("make", BOTH)
def test_gradients(make):
    S = make(6, (3, 4), generator=0, dtype=torch.float64)
    x, y = gaussian((3, 2), generator=0).requires_grad_(), gaussian((4, 2), generator=1).requires_grad_()
    assert gradcheck(S.khatri_rao, (x, y))
    assert gradcheck(lambda X: S @ X, gaussian((12, 2), generator=2).requires_grad_())


@pytest.mark.parametrize("make", BOTH)
def test_bad_input(make):
    S = make(6, (3, 4))
    for call, word in (
        (lambda: make(0, (3, 4)), "m must be"),
        (lambda: make(3, ()), "sizes must be"),
        (lambda: make(3, (3, 0)), "sizes must be"),
        (lambda: make(3, 12), "sizes must be"),
        (lambda: S.khatri_rao(torch.ones(3)), "factors must be 2"),
        (lambda: S.khatri_rao(torch.ones(3), torch.ones(5)), "factors must have shapes"),
    ):
        with pytest.raises(ValueError, match=word):
            call()
    with pytest.raises(TypeError, match="dtype"):
        S.khatri_rao(torch.ones(3).double(), torch.ones(4).double())
