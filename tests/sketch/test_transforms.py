"""Test matrices: products against the dense matrix, unbiased squares, structure, seeds, gradients, bad input."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.linalg
import torch
from torch.autograd import gradcheck

from resolvent import sketch
from resolvent.operators import as_operator
from resolvent.random import gaussian
from resolvent.sketch.structured import MixedSigns, RowSample

KINDS = ("gaussian", "rademacher", "sparse_sign", "count_sketch", "osnap", "srht", "srct", "fjlt")
DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_products_and_adjoints(kind, dtype):
    S = sketch.make_sketch(kind, 40, 100, generator=0, dtype=dtype)
    D = S.to_dense()
    assert D.dtype == dtype and tuple(D.shape) == tuple(S.shape) == (40, 100)
    X, Y = gaussian((3, 100, 5), dtype, generator=1), gaussian((40, 4), dtype, generator=2)
    torch.testing.assert_close(S @ X, D @ X)
    torch.testing.assert_close(S @ X[0, :, 0], D @ X[0, :, 0])
    torch.testing.assert_close(S @ X.mT.contiguous().mT, D @ X)
    torch.testing.assert_close(S @ X[0].mT.contiguous().mT, D @ X[0])
    torch.testing.assert_close(S.H @ Y, D.mH @ Y)
    torch.testing.assert_close(S.H.to_dense(), D.mH)
    torch.testing.assert_close(S[[3, 7]], D[[3, 7]])
    other = torch.float64 if dtype in (torch.float32, torch.complex64) else torch.float32
    torch.testing.assert_close(S.to(other).to_dense().to(dtype), D)


@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_of_the_gram_matrix_is_the_identity(kind):
    trials, m, n = 60, 16, 64
    total = torch.zeros(n, n, dtype=torch.float64)
    g = torch.Generator().manual_seed(0)
    for _ in range(trials):
        D = sketch.make_sketch(kind, m, n, generator=g, dtype=torch.float64).to_dense()
        total += D.mT @ D
    # an entry beside the diagonal has a variance of 1 / m, one of the diagonal of at most 2 / m (fjlt: 3 / (q m))
    on, off = 6 * ((8 if kind == "fjlt" else 2) / m / trials) ** 0.5, 6 * (1 / m / trials) ** 0.5
    gap = (total / trials - torch.eye(n)).abs()
    assert float(gap.diagonal().max()) < on and float(gap.fill_diagonal_(0).max()) < off * (2 if kind == "fjlt" else 1)


@pytest.mark.parametrize("kind", KINDS)
def test_seeds_and_gradients(kind):
    first, again, other = (sketch.make_sketch(kind, 9, 12, generator=s, dtype=torch.float64) for s in (3, 3, 4))
    assert bool((first.to_dense() == again.to_dense()).all()) and not bool((first.to_dense() == other.to_dense()).all())
    torch.manual_seed(5)
    drawn = sketch.make_sketch(kind, 9, 12).to_dense()
    torch.manual_seed(5)
    assert bool((sketch.make_sketch(kind, 9, 12).to_dense() == drawn).all()) and drawn.dtype == torch.float32
    X, Y = (gaussian((size, 2), generator=1).requires_grad_() for size in (12, 9))
    assert gradcheck(lambda X: first @ X, X)
    assert gradcheck(lambda Y: first.H @ Y, Y)
    (g,) = torch.autograd.grad((first @ X).sum(), X)
    torch.testing.assert_close(g, first.to_dense().mT @ torch.ones(9, 2, dtype=torch.float64))


def test_numpy_and_composition():
    S = sketch.make_sketch("sparse_sign", 20, 50, generator=0, dtype=torch.float64)
    X = np.random.default_rng(0).standard_normal((50, 3))
    assert isinstance(S @ X, np.ndarray)
    np.testing.assert_allclose((S @ as_operator(X)).to_dense(), S.to_dense().numpy() @ X)


@pytest.mark.parametrize("m, n, s", [(17, 300, 5), (8, 50, 8), (5, 40, 1), (64, 1, 8)])
def test_sparse_columns(m, n, s):
    D = sketch.sparse_sign(m, n, nonzeros=s, generator=0, dtype=torch.float64).to_dense()
    assert bool(((D != 0).sum(0) == s).all())
    torch.testing.assert_close(D[D != 0].abs(), torch.full((n * s,), s**-0.5, dtype=torch.float64))
    B = sketch.osnap(m, n, nonzeros=s, generator=0, dtype=torch.float64).to_dense()
    edges = [i * m // s for i in range(s + 1)]
    for a, b in itertools.pairwise(edges):
        assert bool(((B[a:b] != 0).sum(0) == 1).all())
    # every row is used: uniform positions
    if n >= 40 * m // s:
        assert bool((D != 0).any(1).all()) and bool((B != 0).any(1).all())


def test_subsets_are_uniform():
    D = sketch.sparse_sign(6, 60_000, nonzeros=3, generator=0).to_dense() != 0
    codes = (D * (2 ** torch.arange(6))[:, None]).sum(0)
    counts = torch.bincount(codes, minlength=64)
    counts = counts[counts > 0]
    assert len(counts) == 20
    # chi square of 20 equal cells: mean 19, a tail of 1e-6 beyond 62
    assert float(((counts - 3000.0) ** 2 / 3000).sum()) < 62


def test_one_sign_a_column_is_a_count_sketch():
    D = sketch.count_sketch(7, 30, generator=0).to_dense()
    assert bool(((D != 0).sum(0) == 1).all()) and bool((D.abs().sum(0) == 1).all())


def test_srht_is_rows_of_the_transform():
    S = sketch.srht(6, 13, generator=0, dtype=torch.float64)
    sample, mixed = S._parts
    H = torch.from_numpy(scipy.linalg.hadamard(16)).double()[:, :13] * mixed.signs / 4
    torch.testing.assert_close(mixed.to_dense(), H)
    rows = sample._parts[0]
    assert len(rows.unique()) == 6
    torch.testing.assert_close(S.to_dense(), H[rows] * (16 / 6) ** 0.5)
    full = sketch.srht(16, 16, generator=0, dtype=torch.float64).to_dense()
    torch.testing.assert_close(full.mT @ full, torch.eye(16, dtype=torch.float64))
    torch.testing.assert_close(mixed.H @ (mixed @ torch.eye(13).double()), torch.eye(13).double())


def test_srct_columns_have_length_one():
    D = sketch.srct(5, 9, generator=0, dtype=torch.float64).to_dense()
    torch.testing.assert_close(D.abs(), torch.full_like(D, 5**-0.5))
    # before the signs every row is the row above it, shifted
    whole = sketch.srct(9, 9, generator=0, dtype=torch.float64)
    C = whole._parts[1].to_dense()
    torch.testing.assert_close(C[1:, 1:], C[:-1, :-1])


def test_vmap_and_forward_mode():
    M = MixedSigns(torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64))
    X, dX = gaussian((4, 3, 2), generator=0), gaussian((4, 3, 2), generator=1)
    torch.testing.assert_close(torch.func.vmap(lambda x: M @ x)(X), M @ X)
    torch.testing.assert_close(torch.func.jvp(lambda x: M @ x, (X,), (dX,))[1], M @ dX)
    assert M.tensors() == [] and RowSample(torch.tensor([1]), 3).tensors() == []


def test_bad_input():
    for call, word in (
        (lambda: sketch.make_sketch("gauss", 3, 4), "kind must be one of count_sketch, fjlt"),
        (lambda: sketch.gaussian(0, 4), "m must be an int of at least 1, got 0"),
        (lambda: sketch.gaussian(3, 2.5), "n must be an int"),
        (lambda: sketch.sparse_sign(4, 9, nonzeros=5), "nonzeros must be an int from 1 to m = 4, got 5"),
        (lambda: sketch.osnap(4, 9, nonzeros=0), "nonzeros"),
        (lambda: sketch.srht(17, 16), "m must be at most 16"),
        (lambda: sketch.srct(17, 16), "m must be at most n = 16"),
    ):
        with pytest.raises(ValueError, match=word):
            call()
    with pytest.raises(TypeError, match="dtype must be float32"):
        sketch.gaussian(3, 4, dtype=torch.float16)
    with pytest.raises(TypeError, match="generator"):
        sketch.count_sketch(3, 4, generator="seed")
    with pytest.raises(TypeError, match="nonzeros"):
        sketch.make_sketch("gaussian", 3, 4, nonzeros=2)
