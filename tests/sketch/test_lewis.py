"""lewis_weights: the fixed point, p = 2, invariance, repeated rows, heavy tails, float32, bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from resolvent.errors import ConvergenceError
from resolvent.random import gaussian
from resolvent.sketch import leverage_scores, lewis_weights


def heavy_tails(n, d):
    return gaussian((n, d), generator=0) / gaussian((n, 1), generator=1).abs()


@pytest.mark.parametrize("p", [1, 1.5, 3, 3.9, 4, 6, 12])
def test_fixed_point(p):
    A = heavy_tails(300, 5)
    w, info = lewis_weights(A, p, return_info=True)
    assert info.converged and float(w.sum()) == pytest.approx(5, rel=1e-6)
    torch.testing.assert_close(leverage_scores(w[:, None] ** (0.5 - 1 / p) * A), w, rtol=1e-6, atol=1e-12)
    if p < 4:
        # The iteration of the paper, from anywhere.
        v = torch.ones(300, dtype=torch.float64)
        for _ in range(1500 if p > 3.5 else 120):
            inverse = torch.linalg.inv(A.mT @ (v[:, None] ** (1 - 2 / p) * A))
            v = ((A @ inverse) * A).sum(1) ** (p / 2)
        torch.testing.assert_close(w, v, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("p", [1, 1.5, 3, 8, 20])
def test_the_error_that_is_told_is_not_too_small(p):
    for A in (heavy_tails(60, 4), torch.linspace(-1, 1, 60, dtype=torch.float64)[:, None] ** torch.arange(4)):
        exact = lewis_weights(A, p, rtol=1e-12, max_iterations=2000)
        for rtol in (0.3, 0.1, 1e-2, 1e-3, 1e-5):
            w, info = lewis_weights(A, p, rtol=rtol, return_info=True)
            assert float((w.log() - exact.log()).abs().max()) <= info.error <= rtol


def test_p_of_two_gives_leverage_scores_and_columns_do_not_matter():
    A = heavy_tails(200, 4)
    torch.testing.assert_close(lewis_weights(A, 2), leverage_scores(A))
    mixed = A @ gaussian((4, 6), generator=3)
    torch.testing.assert_close(lewis_weights(mixed, 1), lewis_weights(A, 1), rtol=1e-6, atol=1e-10)


def test_a_row_cut_into_equal_parts_shares_its_weight():
    p = 1.5
    A = gaussian((30, 3), generator=0)
    split = torch.cat([A, A[:1].expand(3, -1)])
    split[[0, 30, 31, 32]] *= 4 ** (-1 / p)
    whole, parts = lewis_weights(A, p), lewis_weights(split, p)
    torch.testing.assert_close(parts[1:30], whole[1:], rtol=1e-7, atol=0)
    torch.testing.assert_close(parts[[0, 30, 31, 32]].sum(), whole[0], rtol=1e-7, atol=0)


def test_zeros_float32_numpy_and_bad_input():
    A = heavy_tails(200, 4)
    A[7] = 0
    w = lewis_weights(A.float(), 1.0)
    assert w.dtype == torch.float32 and float(w[7]) == 0
    torch.testing.assert_close(w.double(), lewis_weights(A, 1.0), rtol=1e-3, atol=1e-7)
    assert isinstance(lewis_weights(A.numpy(), 3.0), np.ndarray)
    with pytest.raises(ConvergenceError, match="moved") as caught:
        lewis_weights(A, 10.0, max_iterations=3)
    assert caught.value.best.shape == (200,) and caught.value.error > 1e-8
    for call, error, word in (
        (lambda: lewis_weights(A, 0.5), ValueError, "p must"),
        (lambda: lewis_weights(A, float("inf")), ValueError, "p must"),
        (lambda: lewis_weights(A[None], 1), ValueError, "batch"),
        (lambda: lewis_weights(A.requires_grad_(), 1), TypeError, "gradient"),
    ):
        with pytest.raises(error, match=word):
            call()
