"""QR factors after changes against the factors of the changed matrix, LAPACK's and finite differences."""

import numpy as np
import pytest
import scipy.linalg
import torch

from resolvent import factor

DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)
SHAPES = ((9, 4), (6, 6), (4, 7), (5, 4), (7, 1), (1, 3))


def random(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def complete(A):
    """Q square and R with a positive diagonal."""
    Q, R = torch.linalg.qr(A, mode="complete")
    r = min(A.shape[-2:])
    phase = R.diagonal(dim1=-2, dim2=-1).sgn()
    phase = torch.cat([phase, phase.new_ones(*A.shape[:-2], A.shape[-2] - r)], -1)
    return Q * phase[..., None, :], R * phase.conj()[..., None]


def factors_of(A, full):
    return complete(A) if full else factor.qr(A)


def check(found, A, full, tol=1e-4):
    """Factors of A, the same as those computed anew as far as they are unique."""
    (m, n), r = A.shape[-2:], min(A.shape[-2:])
    Q, R = found
    p = m if full else r
    assert Q.shape == (*A.shape[:-1], p) and R.shape == (*A.shape[:-2], p, n) and Q.dtype == A.dtype
    torch.testing.assert_close(Q @ R, A, rtol=tol, atol=tol)
    torch.testing.assert_close(Q.mH @ Q, torch.eye(p, dtype=A.dtype).expand(*A.shape[:-2], -1, -1), rtol=tol, atol=tol)
    assert torch.equal(R, R.triu()) and bool((R.diagonal(dim1=-2, dim2=-1).real >= 0).all())
    torch.testing.assert_close(R[..., :r, :], factor.qr(A).R, rtol=10 * tol, atol=10 * tol)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("full", (False, True))
def test_changes(dtype, shape, full):
    m, n = shape
    A = random(*shape, dtype=dtype)
    Q, R = factors_of(A, full)
    for k in (1, 2):
        U, V = random(m, k, dtype=dtype, seed=1), random(n, k, dtype=dtype, seed=2)
        check(factor.qr_update(Q, R, U, V, full=full), A + U @ V.mH, full)
        for at in range(m + 1):
            X = random(k, n, dtype=dtype, seed=3)
            check(factor.qr_insert(Q, R, X, at, full=full), torch.cat([A[:at], X, A[at:]]), full)
            if at + k <= m and m > k:
                check(factor.qr_delete(Q, R, at, k, full=full), torch.cat([A[:at], A[at + k :]]), full)
        for at in range(n + 1):
            X = random(m, k, dtype=dtype, seed=4)
            changed = torch.cat([A[:, :at], X, A[:, at:]], 1)
            check(factor.qr_insert(Q, R, X, at, "column", full=full), changed, full)
            if at + k <= n and n > k:
                changed = torch.cat([A[:, :at], A[:, at + k :]], 1)
                check(factor.qr_delete(Q, R, at, k, "column", full=full), changed, full)


def test_scipys_functions():
    A = random(12, 5).numpy()
    Q, R = np.linalg.qr(A)
    u, v, x, y = (random(size, seed=size).numpy() for size in (12, 5, 5, 12))
    for found, wanted in (
        (factor.qr_update(Q, R, u, v), scipy.linalg.qr_update(Q, R, u, v)),
        (factor.qr_insert(Q, R, x, 3), scipy.linalg.qr_insert(Q, R, x, 3)),
        (factor.qr_insert(Q, R, y, 2, "column"), scipy.linalg.qr_insert(Q, R, y, 2, "col")),
        (factor.qr_delete(Q, R, 4, 2), scipy.linalg.qr_delete(Q, R, 4, 2)),
        (factor.qr_delete(Q, R, 1, 2, "column"), scipy.linalg.qr_delete(Q, R, 1, 2, "col")),
    ):
        assert isinstance(found.Q, np.ndarray)
        assert np.allclose(found.Q @ found.R, wanted[0] @ wanted[1])
        assert np.allclose(np.abs(found.R), np.abs(wanted[1])) and np.allclose(np.abs(found.Q), np.abs(wanted[0]))


def test_batches_and_the_path_of_other_devices():
    A, U, V = random(3, 9, 5), random(3, 9, 4, seed=1), random(3, 5, 4, seed=2)
    Q, R = factor.qr(A)
    # 4 columns beside 5 are factored anew, one after the other they are not.
    anew = factor.qr_update(Q, R, U, V)
    check(anew, A + U @ V.mH, False)
    for j in range(4):
        Q, R = factor.qr_update(Q, R, U[..., j], V[..., j])
    torch.testing.assert_close((Q, R), tuple(anew))
    X = random(3, 2, 5, seed=3)
    check(factor.qr_insert(Q, R, X, 1), torch.cat([(Q @ R)[:, :1], X, (Q @ R)[:, 1:]], -2), False)
    check(factor.qr_delete(Q, R, -2, 2), (Q @ R)[:, :-2], False)
    check(factor.qr_update(*complete(A), U, V, full=False), A + U @ V.mH, False)
    check(factor.qr_update(*factor.qr(A), U, V, full=True), A + U @ V.mH, True)
    empty = factor.qr_update(Q[:0], R[:0], U[:0], V[:0])
    assert empty.Q.shape == (0, 9, 5)


def test_changes_that_are_none_leave_the_signs_right():
    A = random(6, 3)
    Q, R = torch.linalg.qr(A)
    assert bool((R.diagonal() < 0).any())
    zero, none = torch.zeros(6).double(), torch.zeros(6, 0).double()
    check(factor.qr_update(Q, R, zero, zero[:3]), A, False)
    check(factor.qr_update(Q, R, none, none[:3]), A, False)
    check(factor.qr_insert(Q, R, none, 1, "column"), A, False)
    check(factor.qr_insert(Q, R, none[:3].T, 1), A, False)


def test_hundreds_of_changes_leave_q_orthonormal():
    A = random(30, 6)
    rows = random(400, 6, seed=1)
    Q, R = factor.qr(A)
    for x in rows:
        Q, R = factor.qr_insert(Q, R, x, 30)
        Q, R = factor.qr_delete(Q, R, 0)
    torch.testing.assert_close(Q @ R, rows[-30:], rtol=1e-11, atol=1e-11)
    assert float((Q.T @ Q - torch.eye(6)).abs().max()) < 1e-12


def test_nearly_dependent_changes():
    A = random(20, 5)
    Q, R = factor.qr(A)
    for size in (1.0, 1e-6, 1e-12, 1e-15, 0.0):
        x = A @ random(5, seed=7) + size * random(20, seed=8)
        P, S = factor.qr_insert(Q, R, x, 2, "column")
        torch.testing.assert_close(P @ S, torch.cat([A[:, :2], x[:, None], A[:, 2:]], 1), rtol=1e-13, atol=1e-13)
        assert float((P.T @ P - torch.eye(6)).abs().max()) < 1e-14
        P, S = factor.qr_update(Q, R, x - A[:, 0], torch.eye(5).double()[0])
        assert float((P.T @ P - torch.eye(5)).abs().max()) < 1e-14
        torch.testing.assert_close(P @ S, torch.cat([x[:, None], A[:, 1:]], 1), rtol=1e-13, atol=1e-13)
    P, S = factor.qr_insert(Q, R, torch.zeros(20).double(), 5, "column")
    assert float((P.T @ P - torch.eye(6)).abs().max()) < 1e-14 and float(S[5, 5]) == 0


@pytest.mark.parametrize("full", (False, True))
def test_a_row_that_the_rank_needs(full):
    A = random(8, 3)
    A[:, 2] = 0
    A[5, 2] = 2.0
    Q, R = factors_of(A, full)
    with pytest.raises(ValueError, match="dependent without the rows"):
        factor.qr_delete(Q, R, 5, full=full)
    with pytest.raises(ValueError, match="dependent without the rows"):
        factor.qr_delete(Q, R, 4, 3, full=full)
    check(factor.qr_delete(Q, R, 4, full=full), torch.cat([A[:4], A[5:]]), full)
    # Little of the rank elsewhere is enough, and kept to its last digits.
    A[0, 2] = 1e-10
    Q, R = factors_of(A, full)
    P, S = factor.qr_delete(Q, R, 5, full=full)
    kept = torch.cat([A[:5], A[6:]])
    assert float((P @ S - kept).abs().max()) < 1e-14
    assert float(S[2, 2]) == pytest.approx(float(factor.qr(kept).R[2, 2]), rel=1e-4)
    with pytest.raises(ValueError, match="dependent"):
        factor.qr_delete(Q, R, 5, full=full, rtol=1e-6)


def test_what_stays_is_rho_of_the_smallest_singular_value():
    A = random(9, 4, seed=3)
    Q, R = factor.qr(A)
    for i in range(9):
        rho = float((1 - Q[i].square().sum()).sqrt())
        S = factor.qr_delete(Q, R, i).R
        assert float(S.diagonal().prod()) == pytest.approx(rho * float(R.diagonal().prod()), rel=1e-10)
        assert torch.linalg.svdvals(S)[-1] >= rho * torch.linalg.svdvals(R)[-1] * (1 - 1e-12)


@pytest.mark.parametrize("scale", (1e-25, 1e25))
def test_float32_at_any_scale(scale):
    A, u, v = random(8, 4).float(), random(8, seed=1).float(), random(4, seed=2).float()
    Q, R = factor.qr(A * scale)
    P, S = factor.qr_update(Q, R, u * scale, v)
    torch.testing.assert_close(P @ (S / scale), A + torch.outer(u, v))
    P, S = factor.qr_insert(Q, R, v * scale, 0)
    torch.testing.assert_close(P @ (S / scale), torch.cat([v[None], A]))
    P, S = factor.qr_insert(Q, R, u * scale, 0, "column")
    torch.testing.assert_close(P @ (S / scale), torch.cat([u[:, None], A], 1))
    with pytest.raises(OverflowError, match="R has entries"):
        factor.qr_update(torch.eye(2), torch.eye(2), torch.full((2,), 1e25), torch.full((2,), 1e25))


@pytest.mark.parametrize("dtype", (torch.float64, torch.complex128))
@pytest.mark.parametrize("shape", ((4, 2), (2, 3)))
def test_gradients(dtype, shape):
    m, n = shape
    A = random(*shape, dtype=dtype, seed=2).requires_grad_()
    u, v = random(m, dtype=dtype, seed=3).requires_grad_(), random(n, dtype=dtype, seed=4).requires_grad_()
    assert torch.autograd.gradcheck(lambda A, u, v: tuple(factor.qr_update(*factor.qr(A), u, v)), (A, u, v))
    assert torch.autograd.gradcheck(lambda A, v: tuple(factor.qr_insert(*factor.qr(A), v, 1)), (A, v))
    assert torch.autograd.gradcheck(lambda A, u: tuple(factor.qr_insert(*factor.qr(A), u, 1, "column")), (A, u))
    assert torch.autograd.gradcheck(lambda A: tuple(factor.qr_delete(*factor.qr(A), 1)), A)
    B = random(2, *shape, dtype=dtype, seed=6).requires_grad_()
    assert torch.autograd.gradcheck(lambda B: tuple(factor.qr_delete(*factor.qr(B), 0, 1, "column")), B)
    Q, R = factor.qr(A.detach())
    assert torch.autograd.gradgradcheck(lambda u, v: tuple(factor.qr_update(Q, R, u, v)), (u, v))


def test_bad_input():
    Q, R = torch.eye(4, 2), torch.eye(2)
    two, four = torch.ones(2), torch.ones(4)
    dependent = torch.ones(2, dtype=torch.float32).requires_grad_()
    for call, error, word in (
        (lambda: factor.qr_update(Q, torch.eye(3), four, two), ValueError, "Q and R must have shapes"),
        (lambda: factor.qr_update(torch.eye(4, 3), torch.ones(3, 2).triu(), four, two), ValueError, "columns, got 3"),
        (lambda: factor.qr_update(2 * Q, R, four, two), ValueError, "orthonormal"),
        (lambda: factor.qr_update(Q, torch.ones(2, 2), four, two), ValueError, "upper triangular"),
        (lambda: factor.qr_update(Q, R, two, two), ValueError, "U must have shape"),
        (lambda: factor.qr_update(Q, R, four, four), ValueError, "V must have shape"),
        (lambda: factor.qr_update(Q, R, torch.ones(4, 2), two), ValueError, "as many columns"),
        (lambda: factor.qr_update(Q, R, four * torch.nan, two), ValueError, "U has"),
        (lambda: factor.qr_update(Q * torch.nan, R, four, two), ValueError, "Q has"),
        (lambda: factor.qr_update(Q.half(), R, four, two), TypeError, "float16"),
        (lambda: factor.qr_insert(Q, R, four, 0), ValueError, "X must have shape"),
        (lambda: factor.qr_insert(Q, R, two, 5), ValueError, "position"),
        (lambda: factor.qr_insert(Q, R, two, 0, "col"), ValueError, "which"),
        (lambda: factor.qr_delete(Q, R, 4), ValueError, "position"),
        (lambda: factor.qr_delete(Q, R, 1, 2, "column"), ValueError, "count"),
        (lambda: factor.qr_delete(Q, R, 1, rtol=-1), ValueError, "rtol"),
        (lambda: factor.qr_delete(Q, R, 0), ValueError, "dependent"),
        (lambda: factor.qr_update(Q, R.clone().requires_grad_(), four, two, full=True), ValueError, "no gradient"),
        (
            lambda: (
                factor.qr_insert(torch.eye(2, 1), torch.ones(1, 1), dependent * torch.eye(2)[0], 0, "column")
                .R.sum()
                .backward()
            ),
            ValueError,
            "no gradient where",
        ),
    ):
        with pytest.raises(error, match=word):
            call()
