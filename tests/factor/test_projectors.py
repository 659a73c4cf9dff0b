"""projectors, solve_with and MatrixCipher: projection, least norm, consistency, masks, the attack that breaks it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from resolvent.factor import MatrixCipher, known_plaintext_attack, meta_factor, projectors, solve_with
from resolvent.random import gaussian

METHODS = ("lu", "qr", "svd", "cur", "cholesky")


def low_rank(method, rng, dtype=np.float64):
    m, n = rng.integers(5, 16, 2)
    r = rng.integers(1, min(m, n))
    A = rng.standard_normal((m, r)) @ rng.standard_normal((r, n))
    if dtype == np.complex128:
        A = A + 1j * rng.standard_normal((m, r)) @ rng.standard_normal((r, n))
    return A @ A.conj().T if method == "cholesky" else A


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_projectors_and_solutions_of_random_matrices(method, dtype):
    rng = np.random.default_rng(0)
    for _ in range(10):
        A = low_rank(method, rng, dtype)
        exact = np.linalg.pinv(A, rcond=1e-11)
        column, row = (P.to_dense() for P in projectors(A, method=method))
        np.testing.assert_allclose(column, A @ exact, atol=1e-9)
        np.testing.assert_allclose(row, exact @ A, atol=1e-9)
        factors = meta_factor(A, preset=method)
        B = A @ rng.standard_normal((A.shape[1], 3))
        found = solve_with(factors, B)
        assert found.consistent and isinstance(found.X, np.ndarray)
        np.testing.assert_allclose(found.X, exact @ B, atol=1e-8)
        # All solutions: the rest of the space is in the null space.
        other = found.X + (np.eye(A.shape[1]) - found.row_projector.to_dense()) @ rng.standard_normal(found.X.shape)
        np.testing.assert_allclose(A @ other, B, atol=1e-8 * np.linalg.norm(B))
        off = B + 1e-5 * np.abs(B).max() * rng.standard_normal(B.shape)
        missed = solve_with(factors, off)
        assert missed.consistent == (np.linalg.matrix_rank(A) == A.shape[0])
        np.testing.assert_allclose(missed.X, exact @ off, atol=1e-8 * np.linalg.norm(missed.X))


def test_the_particular_solution_of_the_paper_solves_too():
    A = gaussian((9, 4), generator=0) @ gaussian((4, 7), generator=1)
    F, H = (torch.linalg.qr(W).Q[:, :4] for W in (A, A.mT))
    oblique = meta_factor(A, F, H, B=gaussian((9, 4), generator=2), D=gaussian((7, 4), generator=3))
    B = A @ gaussian((7, 2), generator=4)
    particular = oblique.X @ torch.linalg.inv(oblique.G) @ oblique.Y.mT @ B
    torch.testing.assert_close(A @ particular, B)
    found = solve_with(oblique, B)
    assert float(found.X.norm()) < float(particular.norm())
    torch.testing.assert_close(found.row_projector @ particular, found.X)
    torch.testing.assert_close(solve_with(A, B).X, found.X)


def test_two_sides_vectors_and_float32():
    A = gaussian((9, 4), generator=0) @ gaussian((4, 7), generator=1)
    C = gaussian((5, 2), generator=2) @ gaussian((2, 6), generator=3)
    B = A @ gaussian((7, 5), generator=4) @ C
    found = solve_with(A, B, right=meta_factor(C, preset="qr"))
    assert found.consistent
    torch.testing.assert_close(found.X, torch.linalg.pinv(A, rtol=1e-10) @ B @ torch.linalg.pinv(C, rtol=1e-10))
    assert not solve_with(A, B + gaussian(B.shape, generator=5), right=C).consistent
    b = A @ gaussian((7,), generator=6)
    assert solve_with(A, b).X.shape == (7,)
    single = solve_with(A.float(), b.float())
    assert single.consistent and single.X.dtype == torch.float32
    torch.testing.assert_close(single.X.double(), solve_with(A, b).X, rtol=1e-4, atol=1e-4)
    assert not solve_with(torch.zeros(3, 2), torch.ones(3)).consistent
    assert solve_with(torch.zeros(3, 2), torch.zeros(3)).consistent


def test_projectors_of_lower_rank_and_gradient():
    A = torch.diag(torch.tensor([4.0, 2.0, 1.0], dtype=torch.float64))
    for method in METHODS:
        column, _ = projectors(A, method=method, rank=2)
        torch.testing.assert_close(column.to_dense(), torch.diag(torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)))
    B = gaussian((3, 2), generator=0).requires_grad_()
    assert gradcheck(lambda B: solve_with(A, B).X, B)


def test_the_cipher():
    cipher = MatrixCipher.random((6, 5), (9, 8), generator=0)
    assert cipher.masked and cipher.dimension == 72
    wrong = MatrixCipher.random((6, 5), (9, 8), generator=1)
    for seed in range(20):
        M = gaussian((6, 5), generator=seed)
        first, second = (cipher.encrypt(M, generator=s) for s in (seed, seed + 100))
        assert float((cipher.decrypt(first) - M).norm() / M.norm()) < 1e-10
        assert float((first - second).norm() / first.norm()) > 0.1
        assert float((wrong.decrypt(first) - M).norm() / M.norm()) > 0.5
    same = MatrixCipher(*cipher.key)
    torch.testing.assert_close(same.decrypt(first), M)
    assert isinstance(cipher.decrypt(first.numpy()), np.ndarray)


def test_a_square_key_has_no_mask():
    square = MatrixCipher.random((4, 3), (4, 3), generator=0)
    M = gaussian((4, 3), generator=0)
    torch.testing.assert_close(square.encrypt(M, generator=1), square.encrypt(M, generator=2))
    assert not square.masked


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_the_attack(dtype):
    cipher = MatrixCipher.random((3, 2), (4, 3), generator=0, dtype=dtype)
    messages = [gaussian((3, 2), dtype, generator=s) for s in range(12)]
    pairs = [cipher.encrypt(M, generator=100 + i) for i, M in enumerate(messages)]
    stolen = known_plaintext_attack(messages, pairs)
    for seed in range(5):
        M = gaussian((3, 2), dtype, generator=50 + seed)
        torch.testing.assert_close(stolen.decrypt(cipher.encrypt(M, generator=seed)), M, rtol=0, atol=1e-9)
    F = cipher.key[0]
    ratio = stolen.key[0] / F
    torch.testing.assert_close(ratio, ratio[0, 0].expand_as(ratio))
    with pytest.raises(ValueError, match="11 pairs with 11 independent"):
        known_plaintext_attack(messages[:11], pairs[:11])
    with pytest.raises(ValueError, match="do not determine"):
        known_plaintext_attack(messages[:11] * 2, pairs[:11] * 2)


def test_bad_input():
    A = torch.eye(3, dtype=torch.float64)
    cipher = MatrixCipher.random((2, 2), (3, 3), generator=0)
    for call, word in (
        (lambda: projectors(A, method="schur"), "method"),
        (lambda: projectors(torch.tensor([[1.0, 2.0], [0.0, 1.0]]), method="cholesky"), "Hermitian"),
        (lambda: solve_with(A, torch.ones(4)), "B must have shape"),
        (lambda: solve_with(A, torch.ones(3), right=A), "two sides"),
        (lambda: solve_with(A, torch.ones(3, 2), right=A), "right factor"),
        (lambda: solve_with(A, torch.full((3,), torch.nan)), "NaN"),
        (lambda: MatrixCipher(torch.ones(3, 2), A), "at least m"),
        (lambda: MatrixCipher(torch.ones(2, 3), A), "independent rows"),
        (lambda: MatrixCipher(A, A, 2 * A), "invert"),
        (lambda: MatrixCipher.random((3, 3), (2, 3)), "size"),
        (lambda: cipher.encrypt(A), "message must have shape"),
        (lambda: cipher.decrypt(torch.ones(2, 2)), "ciphertext must have shape"),
        (lambda: known_plaintext_attack([A], []), "pairs"),
    ):
        with pytest.raises(ValueError, match=word):
            call()


def test_complex_right_hand_side_of_a_real_matrix():
    A = torch.randn(7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    B = torch.randn(7, 3, dtype=torch.complex128, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(solve_with(A, B).X, torch.linalg.pinv(A).to(B) @ B)
    C = torch.randn(4, 3, dtype=torch.complex128, generator=torch.Generator().manual_seed(2))
    wanted = torch.linalg.pinv(A).to(B) @ B @ torch.linalg.pinv(C)
    torch.testing.assert_close(solve_with(A, B, right=C).X, wanted)


def test_what_would_be_lost_is_refused():
    A = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="gradients by B"):
        solve_with(A.clone().requires_grad_(), A[:, 0])
    with pytest.raises(TypeError, match="F is complex"):
        meta_factor(A, 1j * A, torch.eye(3, dtype=torch.complex128))
    cipher = MatrixCipher.random((2, 2), (3, 3), generator=0)
    with pytest.raises(TypeError, match="message is complex"):
        cipher.encrypt(1j * torch.eye(2))
