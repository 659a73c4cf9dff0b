"""Low rank: known facts, accuracy against the dense product, bad input."""

import numpy as np
import pytest
import torch

from resolvent.operators import LowRank

F64 = torch.float64


def test_a_truncated_svd_is_the_best_approximation():
    a = torch.randn(8, 6, dtype=F64)
    U, s, Vh = torch.linalg.svd(a, full_matrices=False)
    A = LowRank(U[:, :2], s[:2], Vh[:2].mH)
    assert torch.linalg.matrix_norm(a - A.to_dense(), 2).item() == pytest.approx(s[2].item(), rel=1e-12)


def test_what_is_known_about_it():
    U = torch.randn(4, 2, dtype=F64)
    assert LowRank(U).positive
    assert LowRank(U, torch.tensor([1.0, -1.0], dtype=F64)).hermitian
    assert not LowRank(U, torch.tensor([1.0, -1.0], dtype=F64)).positive
    assert not LowRank(U, V=U.clone()).hermitian
    assert not LowRank(U + 0j, torch.tensor([1.0, 1j], dtype=torch.complex128)).hermitian
    assert LowRank(U).to(torch.float32).positive


def test_the_weights_default_to_ones_and_v_to_u():
    U, V = torch.randn(4, 2, dtype=F64), torch.randn(3, 2, dtype=F64)
    torch.testing.assert_close(LowRank(U, V=V).to_dense(), U @ V.mT)
    torch.testing.assert_close(LowRank(U).to_dense(), U @ U.mT)


def test_it_costs_the_factors_only():
    n = 100_000
    A = LowRank(torch.ones(n, 1), None, torch.ones(n, 1))
    assert A.cost < 5 * n
    assert (A @ torch.ones(n))[0] == n
    assert A[n - 1, 0] == 1
    assert A._trace() == n


def test_repr_and_arrays():
    A = LowRank(np.ones((3, 2)), [1.0, 2.0], np.ones((4, 2)))
    assert repr(A) == "LowRank 3x4 rank 2 float64"
    assert isinstance(A @ np.ones(4), np.ndarray)


@pytest.mark.parametrize(
    ("U", "s", "V", "name"),
    [
        (torch.ones(3), None, None, "U must"),
        (torch.ones(3, 2), torch.ones(3), None, "s must"),
        (torch.ones(3, 2), torch.ones(2), torch.ones(4, 3), "V must"),
        (torch.ones(3, 2) * torch.nan, None, None, "U has"),
        (torch.ones(2, 3, 2), torch.ones(3, 2), None, "LowRank: batch shapes"),
    ],
)
def test_bad_input_is_named(U, s, V, name):
    with pytest.raises(ValueError, match=name):
        LowRank(U, s, V)


def test_mixed_precision_raises():
    with pytest.raises(TypeError, match="V has dtype"):
        LowRank(torch.ones(3, 2), None, torch.ones(3, 2, dtype=F64))
