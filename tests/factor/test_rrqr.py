"""The strong rank-revealing factorisation: its bounds on Kahan's matrix and others, exact ranks, finite differences."""

import itertools

import numpy as np
import pytest
import torch

from resolvent import factor

DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)


def random(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def kahan(n, c=0.285):
    """Its columns are in the order of pivots (the last ones by a hair), and its last pivot is nothing like sigma_n."""
    s = (1 - c * c) ** 0.5
    A = torch.diag(s ** torch.arange(n, dtype=torch.float64)) @ (torch.eye(n) - c * torch.ones(n, n).triu(1)).double()
    return A * (1 + 25 * torch.finfo(torch.float64).eps * torch.arange(n, 0, -1))


def bounds_hold(A, found, k, f, slack=1e-12):
    n = A.shape[-1]
    R, s = found.R, torch.linalg.svdvals(A)
    q = (1 + f * f * k * (n - k)) ** 0.5
    rounding = slack * float(s[0])
    top = torch.linalg.svdvals(R[:k, :k])
    left = torch.linalg.svdvals(R[k:, k:])
    assert bool((top >= s[:k] / q - rounding).all())
    assert bool((left <= q * s[k : k + len(left)] + rounding).all())
    W = torch.linalg.solve_triangular(R[:k, :k], R[:k, k:], upper=True)
    assert float(W.abs().max()) <= f * (1 + 1e-6) if W.numel() else True


@pytest.mark.parametrize("n", (30, 90))
@pytest.mark.parametrize("f", (1.1, 2.0))
def test_the_guarantee_on_kahans_matrix(n, f):
    A, k = kahan(n), n - 1
    plain = factor.qr(A, pivoted=True)
    s = torch.linalg.svdvals(A)
    q = (1 + f * f * k) ** 0.5
    # The plain pivots stay in order and break the bound on the last singular value.
    assert torch.equal(plain.order, torch.arange(n))
    assert float(plain.R[-1, -1]) > 10 * q * float(s[-1]) or n == 30
    found = factor.rrqr(A, k, f=f)
    torch.testing.assert_close(found.Q @ found.R, A[:, found.order])
    bounds_hold(A, found, k, f)
    for k in (1, n // 3, n - 2):
        bounds_hold(A, factor.rrqr(A, k, f=f), k, f)


def test_the_rank_of_kahans_matrix():
    A = kahan(90)
    s = torch.linalg.svdvals(A)
    rtol = 1e-4
    assert s[-1] < rtol * s[0] / 100 < s[-2]
    assert factor.qr(A, pivoted=True, rtol=rtol).rank == 90
    assert factor.rrqr(A, rtol=rtol).rank == 89


@pytest.mark.parametrize("seed", range(4))
def test_the_guarantee_on_matrices_with_a_gap(seed):
    # Nearly equal columns, steps in the spectrum, more columns than rows and fewer.
    for m, n, k in ((20, 30, 5), (30, 20, 12), (15, 15, 14), (12, 25, 12)):
        U, V = factor.qr(random(m, min(m, n), seed=seed)).Q, factor.qr(random(n, min(m, n), seed=seed + 9)).Q
        s = torch.logspace(0, -8, min(m, n), dtype=torch.float64)
        A = U @ torch.diag(s) @ V.T
        for f in (1.01, 3.0):
            found = factor.rrqr(A, k, f=f)
            assert found.rank == k
            torch.testing.assert_close(found.Q @ found.R, A[:, found.order])
            bounds_hold(A, found, k, f)


def test_no_exchange_is_better_by_more_than_f():
    A = random(6, 7, seed=5)
    found = factor.rrqr(A, 3, f=1.001)
    volume = float(found.R[:3, :3].diagonal().prod())

    def of(columns):
        return float(torch.linalg.svdvals(A[:, list(columns)]).prod())

    chosen = found.order[:3].tolist()
    assert of(chosen) == pytest.approx(volume)
    for i, j in itertools.product(range(3), found.order[3:].tolist()):
        assert of([*chosen[:i], *chosen[i + 1 :], j]) <= 1.001 * volume * (1 + 1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", ((9, 6), (6, 9)))
def test_ranks_are_found(dtype, shape):
    m, n = shape
    A = random(m, 3, dtype=dtype, seed=1) @ random(3, n, dtype=dtype, seed=2)
    stacked = torch.stack([A, torch.zeros_like(A), random(m, n, dtype=dtype)])
    Q, R, order, rank = factor.rrqr(stacked)
    assert rank.tolist() == [3, 0, min(m, n)]
    torch.testing.assert_close(Q @ R, stacked.gather(-1, order[:, None].expand(stacked.shape)), rtol=1e-4, atol=1e-4)
    assert bool((R.diagonal(dim1=-2, dim2=-1).real >= 0).all())
    assert factor.rrqr(A * 1e-25).rank == factor.rrqr(A * 1e25).rank == 3
    assert factor.rrqr(A, 5).rank == 5
    assert factor.rrqr(A[:0]).rank == factor.rrqr(A[:, :0]).rank == 0
    assert factor.rrqr(stacked[:0]).R.shape == (0, 6, n)


def test_kinds_and_tolerance():
    found = factor.rrqr(np.diag([1.0, 1e-3, 1e-6]), rtol=1e-4)
    assert found.rank == 2 and isinstance(found.Q, np.ndarray)
    assert factor.rrqr(np.diag([1.0, 1e-3, 1e-6]), 1).order[0] == 0


def test_gradients():
    A = random(5, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda A: factor.rrqr(A, 2)[:2], A)


def test_bad_input():
    eye = torch.eye(3)
    for call, error, word in (
        (lambda: factor.rrqr(torch.ones(3)), ValueError, "A must have shape"),
        (lambda: factor.rrqr(eye * torch.nan), ValueError, "NaN"),
        (lambda: factor.rrqr(eye.half()), TypeError, "float16"),
        (lambda: factor.rrqr(eye, 4), ValueError, "rank"),
        (lambda: factor.rrqr(eye, 1, rtol=0.1), ValueError, "not both"),
        (lambda: factor.rrqr(eye, f=1.0), ValueError, "f must be"),
        (lambda: factor.rrqr(eye, rtol=-1), ValueError, "rtol"),
    ):
        with pytest.raises(error, match=word):
            call()
