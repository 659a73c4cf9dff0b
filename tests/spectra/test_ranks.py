"""Soft ranks: flat spectra, definitions, invariances, estimates against exact values, gradients."""

import math

import numpy as np
import pytest
import torch

from resolvent.errors import ConvergenceError
from resolvent.operators import Dense, Diagonal, Identity, Kronecker, MatrixFree
from resolvent.spectra import effective_rank, numerical_rank, participation_ratio, stable_rank

SOFT = [effective_rank, lambda A: effective_rank(A, power=2), stable_rank, participation_ratio]


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def by_definition(a):
    s = torch.linalg.svdvals(a)
    p, e = s / s.sum(), s**2 / (s**2).sum()
    return [
        torch.exp(-(p * p.log()).sum()),
        torch.exp(-(e * e.log()).sum()),
        (s**2).sum() / s[0] ** 2,
        (s**2).sum() ** 2 / (s**4).sum(),
    ]


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (300, 270)])
def test_definitions(shape, dtype):
    a = random(*shape, dtype=dtype)
    for rank, expected in zip(SOFT, by_definition(a), strict=True):
        torch.testing.assert_close(rank(a), expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("rank", SOFT)
def test_a_projector_has_its_rank_and_scale_and_rotation_do_not_matter(rank):
    Q = torch.linalg.qr(random(12, 5)).Q
    assert float(rank(Q @ Q.T)) == pytest.approx(5, rel=1e-9)
    a = random(8, 7, seed=1)
    R = torch.linalg.qr(random(8, 8, seed=2)).Q
    torch.testing.assert_close(rank(R @ a), rank(a))
    for scale in (1e-200, 1e200, 1e-310):
        assert float(rank(a * scale)) == pytest.approx(float(rank(a)), rel=1e-9 if scale > 1e-300 else 1e-2)
    assert float(rank(torch.zeros(3, 2))) == 0
    assert float(rank(torch.zeros(0, 2))) == 0


@pytest.mark.parametrize("rank", SOFT)
def test_structures_batches_kinds_float32(rank):
    A = Kronecker(Diagonal(random(4)), Dense(random(3, 5)))
    torch.testing.assert_close(rank(A), rank(A.to_dense()))
    assert float(rank(Identity(7))) == pytest.approx(7)
    a = random(2, 4, 5)
    torch.testing.assert_close(rank(a), torch.stack([rank(x) for x in a]))
    assert isinstance(rank(a[0].numpy()), float) and isinstance(rank(a.numpy()), np.ndarray)
    single = rank(a.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), rank(a), rtol=1e-5, atol=0)


@pytest.mark.parametrize("rank", SOFT)
def test_order_between_the_ranks(rank):
    a = random(10, 10) @ torch.diag(0.5 ** torch.arange(10, dtype=torch.float64))
    soft, participation, entropic, roy = (f(a) for f in (stable_rank, participation_ratio, SOFT[1], SOFT[0]))
    assert 1 <= float(soft) <= float(participation) <= float(entropic) <= float(roy) <= 10


@pytest.mark.parametrize("rank", SOFT)
def test_gradients(rank):
    a = random(5, 4, seed=3).requires_grad_()
    assert torch.autograd.gradcheck(rank, a)
    values = torch.tensor([2.0, 1.0, 0.0], dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(rank(Diagonal(values)), values)
    assert bool(torch.isfinite(grad[:2]).all())


@pytest.mark.parametrize("index", [0, 1, 3])
def test_large_operators_are_estimated_within_their_interval(index, monkeypatch):
    monkeypatch.setattr("resolvent.spectra.schatten._DENSE", 50)
    a = random(320, 200) / 18 + torch.eye(320, 200, dtype=torch.float64)
    A = MatrixFree((320, 200), lambda X: a @ X, lambda X: a.T @ X, dtype=torch.float64)
    exact = float(by_definition(a)[index])
    rank = [effective_rank, lambda A, **k: effective_rank(A, power=2, **k), None, participation_ratio][index]
    value, info = rank(A, generator=0, return_info=True)
    assert info.error <= 1e-2 and abs(float(value) - exact) <= 2 * info.error * exact
    assert rank(A, generator=0) == value
    with pytest.raises(ConvergenceError):
        rank(A, rtol=1e-9, generator=0)


def test_numerical_rank():
    a = random(9, 4) @ random(4, 7, seed=1)
    assert int(numerical_rank(a)) == int(torch.linalg.matrix_rank(a)) == 4
    d = torch.tensor([1.0, 1e-3, 1e-9, 0.0], dtype=torch.float64)
    assert [int(numerical_rank(torch.diag(d), t)) for t in (1e-2, 1e-6, 1e-12)] == [1, 2, 3]
    assert int(numerical_rank(torch.diag(d), 0.0, atol=1e-4)) == 2
    assert numerical_rank(np.eye(3)) == 3 and isinstance(numerical_rank(np.eye(3)), int)
    assert numerical_rank(torch.zeros(0, 3)).dtype == torch.int64
    assert numerical_rank(torch.stack([torch.eye(3), torch.zeros(3, 3)])).tolist() == [3, 0]
    assert not numerical_rank(a.requires_grad_()).requires_grad


def test_bad_input():
    with pytest.raises(ValueError, match="power"):
        effective_rank(torch.eye(2), power=0)
    with pytest.raises(ValueError, match="rtol"):
        numerical_rank(torch.eye(2), -1.0)
    bad = torch.full((2, 2), math.nan)
    for rank in (*SOFT, numerical_rank):
        with pytest.raises(ValueError, match="NaN"):
            rank(bad)
    for rank in (stable_rank, participation_ratio):
        with pytest.raises(ValueError, match="NaN"):
            rank(Dense(bad))
