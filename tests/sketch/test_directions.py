"""FrequentDirections: its bound on every stream, merges, sparse rows, exactness, kinds and bad input."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
import torch
from sklearn.datasets import load_digits

from resolvent.random import gaussian
from resolvent.sketch import FrequentDirections


def gap(A, B):
    """Extreme eigenvalues of A^H A - B^H B."""
    w = torch.linalg.eigvalsh(A.mH @ A - B.mH @ B)
    return float(w[0]), float(w[-1])


def stream(seed, m=160, d=24):
    """Rows of decaying energy in random directions, with a change of the directions half way."""
    g = torch.Generator().manual_seed(seed)
    power = float(torch.rand((), generator=g)) * 2
    scale = torch.arange(1.0, d + 1, dtype=torch.float64) ** -power
    parts = []
    for _ in range(2):
        Q = torch.linalg.qr(torch.randn(d, d, generator=g, dtype=torch.float64)).Q
        parts.append((torch.randn(m // 2, d, generator=g, dtype=torch.float64) * scale) @ Q)
    return torch.cat(parts)


def tail_bound(A, size):
    """min over k of ||A - A_k||_F^2 / (size + 1 - k), the theorem's bound."""
    squares = torch.linalg.svdvals(A).square()
    return min(float(squares[k:].sum()) / (size + 1 - k) for k in range(size + 1))


def test_the_bound_holds_on_two_hundred_streams():
    for seed in range(200):
        A = stream(seed)
        size = 3 + seed % 9
        fd = FrequentDirections(24, size).update(A)
        low, high = gap(A, fd.sketch())
        slack = 1e-12 * float(A.square().sum())
        assert low >= -slack
        assert high <= fd.error_bound() + slack
        assert fd.error_bound() <= tail_bound(A, size) + slack
        assert fd.sketch().shape[0] <= size


def test_low_rank_rows_are_kept_exactly():
    A = gaussian((200, 5), generator=0) @ gaussian((5, 40), generator=1)
    fd = FrequentDirections(40, 5).update(A)
    torch.testing.assert_close(fd.sketch().mT @ fd.sketch(), A.mT @ A, rtol=1e-10, atol=1e-9)
    assert fd.error_bound() < 1e-9 * fd.energy
    small = FrequentDirections(40, 30).update(A[:4])
    assert small.sketch().shape == (4, 40)


def test_pieces_do_not_matter():
    A = stream(0)
    whole = FrequentDirections(24, 6).update(A)
    pieces = FrequentDirections(24, 6).extend(A.split([1, 7, 110, 42]))
    torch.testing.assert_close(whole.sketch(), pieces.sketch())
    for row in A:
        last = FrequentDirections(24, 6).update(row)
    assert last.rows == 1 and whole.rows == 160
    assert whole.energy == pytest.approx(float(A.square().sum()))


def test_merging_keeps_the_bound():
    for seed in range(30):
        A = stream(seed)
        parts = [FrequentDirections(24, 8).update(p) for p in A.split(40)]
        first = parts[0]
        for other in parts[1:]:
            first.merge(other)
        low, high = gap(A, first.sketch())
        assert low >= -1e-10 and high <= first.error_bound() + 1e-10
        assert first.error_bound() <= tail_bound(A, 8) + 1e-10
        assert first.rows == 160
    one = FrequentDirections(24, 8).update(A)
    bound, kept = one.error_bound(), one.sketch()
    one.merge(one)
    low, high = gap(torch.cat([A, A]), one.sketch())
    assert low >= -1e-10 and high <= one.error_bound() + 1e-10
    assert one.error_bound() >= 2 * bound - 1e-9 and kept.shape == (8, 24)


@pytest.mark.parametrize("form", ["csr", "coo", "torch_coo", "torch_csr"])
def test_sparse_rows(form):
    X = load_digits().data
    X[X < 12] = 0
    given = {
        "csr": lambda: scipy.sparse.csr_array(X),
        "coo": lambda: scipy.sparse.coo_matrix(X),
        "torch_coo": lambda: torch.from_numpy(X).to_sparse_coo(),
        "torch_csr": lambda: torch.from_numpy(X).to_sparse_csr(),
    }[form]()
    found = FrequentDirections(64, 10).update(given)
    dense = FrequentDirections(64, 10).update(X)
    B, C = torch.as_tensor(found.sketch()), torch.as_tensor(dense.sketch())
    torch.testing.assert_close(B.mT @ B, C.mT @ C, rtol=1e-9, atol=1e-6)
    assert isinstance(found.sketch(), np.ndarray) == (form in ("csr", "coo"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64, torch.complex128])
def test_other_dtypes(dtype):
    A = gaussian((200, 16), dtype, generator=0) * torch.logspace(0, -3, 16)
    fd = FrequentDirections(16, 6).update(A)
    B = fd.sketch()
    assert B.dtype == dtype
    wide = A.to(torch.complex128)
    low, high = gap(wide, B.to(torch.complex128))
    slack = 1e3 * torch.finfo(dtype).eps * fd.energy
    assert low >= -slack and high <= fd.error_bound() + slack
    assert (
        FrequentDirections(16, 6, dtype=torch.float64).update(gaussian((9, 16)).float()).sketch().dtype == torch.float64
    )


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_extreme_scales_of_single_precision(scale):
    A = stream(1)
    fd = FrequentDirections(24, 6).update((A * scale).float())
    B = fd.sketch().double() / scale
    low, high = gap(A, B)
    assert low >= -1e-3 and high <= fd.error_bound() / scale**2 + 1e-3


def test_a_bound_beyond_the_range_is_infinite():
    fd = FrequentDirections(24, 6).update(stream(1) * 1e200)
    assert fd.error_bound() == float("inf") and bool(torch.isfinite(fd.sketch()).all())


def test_zeros_and_bad_input():
    fd = FrequentDirections(3, 2).update(torch.zeros(50, 3))
    assert fd.sketch().shape == (0, 3) and fd.error_bound() == 0
    for call, word in (
        (lambda: FrequentDirections(0, 2), "d must"),
        (lambda: FrequentDirections(3, True), "size"),
        (lambda: FrequentDirections(3, 2, dtype=torch.int64), "dtype"),
        (lambda: FrequentDirections(3, 2).sketch(), "no rows"),
        (lambda: fd.update(torch.ones(2, 4)), "shape"),
        (lambda: fd.update(scipy.sparse.eye_array(4).tocsr()), "shape"),
        (lambda: fd.update(torch.full((1, 3), float("nan"))), "NaN"),
        (lambda: fd.update(torch.ones(1, 3) * 1j), "complex"),
        (lambda: fd.merge(FrequentDirections(4, 2)), "columns"),
    ):
        with pytest.raises(ValueError, match=word):
            call()
    with pytest.raises(TypeError, match="FrequentDirections"):
        fd.merge(3)
