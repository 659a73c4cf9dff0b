"""nuclear_norm_upper and matrix_entropy: bound, equality, the paper's steps, streams, ragged lists, gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from resolvent.random import gaussian
from resolvent.spectra import matrix_entropy, nuclear_norm_upper
from resolvent.spectra.nuclear import NuclearNormStream


def prepared(X):
    R = X - X.mean(0)
    return R / R.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("shape", [(30, 7), (7, 30)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128])
def test_the_papers_steps(shape, dtype):
    X = gaussian(shape, dtype, generator=0)
    columns = prepared(X).norm(dim=0).sort(descending=True).values
    torch.testing.assert_close(nuclear_norm_upper(X), columns[: min(shape)].sum())
    torch.testing.assert_close(nuclear_norm_upper(X, per_token=True), columns[: min(shape)].sum() / shape[0])
    torch.testing.assert_close(nuclear_norm_upper(X, top=2), columns[:2].sum())


@pytest.mark.parametrize("shape", [(30, 7), (7, 30)])
def test_all_columns_bound_the_nuclear_norm(shape):
    for seed in range(20):
        X = gaussian(shape, generator=seed)
        bound = nuclear_norm_upper(X, top=shape[1], center=False, normalize_rows=False)
        assert float(torch.linalg.matrix_norm(X, "nuc")) <= float(bound)


def test_equality_for_orthogonal_columns():
    Q = torch.linalg.qr(gaussian((20, 6), generator=0)).Q * torch.linspace(0, 5, 6)
    found = nuclear_norm_upper(Q, top=6, center=False, normalize_rows=False)
    torch.testing.assert_close(found, torch.linalg.matrix_norm(Q, "nuc"))


def test_matrix_entropy():
    X = gaussian((40, 9), generator=0)
    R = prepared(X)
    w = torch.linalg.eigvalsh(R.mT @ R / 40)
    torch.testing.assert_close(matrix_entropy(X, normalized=False), -(w * w.log()).sum())
    torch.testing.assert_close(matrix_entropy(X), -(w * w.log()).sum() / math.log(9))
    wide = gaussian((6, 50), generator=0)
    R = prepared(wide)
    w = torch.linalg.eigvalsh(R @ R.mT / 6)[1:]
    torch.testing.assert_close(matrix_entropy(wide, normalized=False), -(w * w.log()).sum())
    assert float(matrix_entropy(torch.eye(5, dtype=torch.float64), center=False)) == pytest.approx(1)
    assert float(matrix_entropy(torch.ones(5, 3), center=False)) == pytest.approx(0, abs=1e-6)
    assert float(matrix_entropy(torch.tensor([[2.0], [3.0]]), center=False)) == 0


def test_ragged_lists():
    parts = [gaussian((m, 8), generator=m) for m in (3, 20, 11)]
    torch.testing.assert_close(nuclear_norm_upper(parts), torch.stack([nuclear_norm_upper(x) for x in parts]))
    torch.testing.assert_close(matrix_entropy(parts), torch.stack([matrix_entropy(x) for x in parts]))
    assert isinstance(nuclear_norm_upper([x.numpy() for x in parts]), np.ndarray)


@pytest.mark.parametrize("sizes", [(50,), (1, 49), (20, 7, 23)])
def test_streams_equal_the_whole(sizes):
    X = gaussian((50, 6), generator=0) + 1e4
    pieces = X.split(sizes)
    known = NuclearNormStream(X.mean(0)).extend(pieces).value()
    torch.testing.assert_close(known, nuclear_norm_upper(X), rtol=1e-9, atol=0)
    moving = NuclearNormStream(normalize_rows=False).extend(pieces).value(top=4)
    torch.testing.assert_close(moving, nuclear_norm_upper(X, top=4, normalize_rows=False), rtol=1e-9, atol=0)
    plain = NuclearNormStream(center=False).extend(p.numpy() for p in pieces).value(per_token=True)
    assert plain == pytest.approx(float(nuclear_norm_upper(X, center=False, per_token=True)))


def test_gradients():
    X = gaussian((6, 4), generator=0).requires_grad_()
    assert gradcheck(nuclear_norm_upper, X)
    assert gradcheck(lambda X: nuclear_norm_upper(X, top=2, center=False, normalize_rows=False), X)
    assert gradcheck(matrix_entropy, X)
    flat = torch.zeros(4, 3, dtype=torch.float64)
    flat[:, 0] = torch.tensor([1.0, -1.0, 1.0, -1.0])
    flat.requires_grad_()
    (g,) = torch.autograd.grad(nuclear_norm_upper(flat, normalize_rows=False), flat)
    assert bool(torch.isfinite(g).all())


def test_numpy_rows_of_zeros_and_bad_input():
    assert type(nuclear_norm_upper(np.eye(4))) is float
    same = torch.ones(5, 3)
    assert float(nuclear_norm_upper(same)) == 0
    for call, word in (
        (lambda: nuclear_norm_upper(torch.ones(3)), "shape"),
        (lambda: nuclear_norm_upper(torch.ones(0, 3)), "shape"),
        (lambda: nuclear_norm_upper(torch.full((2, 2), math.inf)), "infinite"),
        (lambda: nuclear_norm_upper(torch.eye(3), top=4), "top"),
        (lambda: nuclear_norm_upper(torch.eye(3), top=0), "top"),
        (lambda: nuclear_norm_upper([]), "at least one"),
        (lambda: matrix_entropy([]), "at least one"),
        (lambda: matrix_entropy(same), "zero"),
        (lambda: NuclearNormStream(), "mean"),
        (lambda: NuclearNormStream(torch.ones(2), center=False), "center"),
        (lambda: NuclearNormStream(center=False).value(), "no rows"),
        (lambda: NuclearNormStream(center=False).update(torch.eye(2)).update(torch.eye(3)), "width"),
    ):
        with pytest.raises(ValueError, match=word):
            call()
