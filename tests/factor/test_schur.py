"""Schur and Hessenberg forms against LAPACK, invariant subspaces and finite differences."""

import numpy as np
import pytest
import scipy.linalg
import torch

from resolvent import factor
from resolvent.errors import ConvergenceError

DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)


def random(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def check(A, T, Z, tol=1e-5):
    one = torch.eye(A.shape[-1], dtype=T.dtype).expand(T.shape)
    torch.testing.assert_close(Z.mH @ Z, one, rtol=tol, atol=tol)
    torch.testing.assert_close(Z @ T @ Z.mH, A.to(T.dtype), rtol=tol, atol=tol)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("output", (None, "complex"))
@pytest.mark.parametrize("shape", ((7, 7), (2, 3, 5, 5), (1, 1), (0, 0), (0, 3, 3)))
def test_factors(dtype, output, shape):
    A = random(*shape, dtype=dtype)
    T, Z, w, count = factor.schur(A, output=output)
    assert count is None and w.is_complex() and w.shape == A.shape[:-1]
    check(A, T, Z)
    if output == "complex" or dtype.is_complex:
        assert T.is_complex() and torch.equal(T, T.triu())
        assert torch.equal(w, T.diagonal(dim1=-2, dim2=-1))
    else:
        assert T.dtype == dtype and not T.tril(-2).any()
    if A.numel():
        wanted = torch.linalg.eigvals(A.to(torch.complex128))
        gaps = (w.to(torch.complex128)[..., :, None] - wanted[..., None, :]).abs()
        assert float(gaps.amin(-1).max()) < 1e-4 and float(gaps.amin(-2).max()) < 1e-4
    H, Q = factor.hessenberg(A)
    check(A, H, Q)
    assert not H.tril(-2).any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("output", (None, "complex"))
@pytest.mark.parametrize("sort", ("left", "right", "inside", "outside", lambda w: np.abs(w.imag) < 1))
def test_a_region_comes_first(dtype, output, sort):
    A = random(3, 9, 9, dtype=dtype, seed=2) / 2
    T, Z, w, count = factor.schur(A, output=output, sort=sort)
    check(A, T, Z)
    inside = {
        "left": lambda w: w.real < 0,
        "right": lambda w: w.real >= 0,
        "inside": lambda w: np.abs(w) <= 1,
        "outside": lambda w: np.abs(w) > 1,
    }.get(sort, sort)
    for a, z, ws, c in zip(A, Z, w, count, strict=True):
        chosen = inside(ws.numpy())
        assert chosen[:c].all() and not chosen[c:].any()
        assert c == inside(np.linalg.eigvals(a.to(torch.complex128).numpy())).sum()
        V = z[:, :c]
        torch.testing.assert_close(a.to(V.dtype) @ V, V @ (V.mH @ a.to(V.dtype) @ V), rtol=1e-4, atol=1e-4)


def test_scipys_forms():
    A = random(8, 8).numpy()
    T, _ = scipy.linalg.schur(A)
    found = factor.schur(A)
    assert isinstance(found.T, np.ndarray) and np.allclose(np.abs(found.T), np.abs(T))
    count = scipy.linalg.schur(A, sort="lhp")[2]
    assert factor.schur(A, sort="left").count == count
    assert np.allclose(np.abs(factor.hessenberg(A).H), np.abs(scipy.linalg.hessenberg(A)))
    symmetric = factor.hessenberg(A + A.T).H
    assert np.allclose(symmetric, np.triu(np.tril(symmetric, 1), -1), atol=1e-13)


def test_stable_solution_of_a_riccati_equation():
    # The classical use of an ordered form: A^T X + X A - X X + Q = 0 from the stable subspace of the Hamiltonian.
    A, G = random(5, 5), random(5, 5, seed=1)
    Q = G @ G.T
    hamiltonian = torch.cat([torch.cat([A, -torch.eye(5).double()], 1), torch.cat([-Q, -A.T], 1)])
    Z, count = factor.schur(hamiltonian, sort="left")[1::2]
    assert count == 5
    X = Z[5:, :5] @ torch.linalg.inv(Z[:5, :5])
    torch.testing.assert_close(X, torch.from_numpy(scipy.linalg.solve_continuous_are(A, np.eye(5), Q, np.eye(5))))


@pytest.mark.parametrize("scale", (1e-30, 1e30))
def test_float32_at_any_scale(scale):
    A = random(6, 6).float()
    for sort in (None, "right"):
        T, Z, w, _ = factor.schur(A * scale, sort=sort)
        check(A, T / scale, Z)
        wanted = np.linalg.eigvals(A.double().numpy())
        assert np.allclose(np.sort_complex(w.to(torch.complex128).numpy() / scale), np.sort_complex(wanted), atol=1e-4)
    H, Q = factor.hessenberg(A * scale)
    check(A, H / scale, Q)


def test_eigenvalues_that_leave_the_region_are_told():
    # A Jordan block: eigenvalues are known to the root of rounding only, and an exchange moves them by as much.
    A = torch.diag(torch.ones(11, dtype=torch.float64), 1)
    Q = factor.qr(random(12, 12)).Q
    seen = []

    def flips(w):
        seen.append(w)
        return np.arange(len(w)) % 2 == 1

    with pytest.raises(ConvergenceError, match="region") as caught:
        factor.schur(Q @ A @ Q.T, output="complex", sort=flips)
    check(Q @ A @ Q.T, *caught.value.best[:2])
    assert len(seen) == 2


def invariant(A, sort=None):
    """What no phase of a column changes."""
    T, Z, w, _ = factor.schur(A, output="complex", sort=sort)
    P = Z[..., :2] @ Z[..., :2].mH
    C = torch.arange(16.0, dtype=torch.float64).reshape(4, 4).to(T.dtype) / 16
    return P.real, P.imag, T.abs().square(), w.real, w.imag, (T.conj() * (Z.mH @ C @ Z)).sum((-1, -2)).real


@pytest.mark.parametrize("dtype", (torch.float64, torch.complex128))
@pytest.mark.parametrize("sort", (None, "right"))
def test_gradients(dtype, sort):
    A = random(4, 4, dtype=dtype, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda A: invariant(A, sort), A)


def test_gradients_of_real_forms_and_batches():
    X = random(2, 5, 5)
    A = (X @ torch.diag(torch.arange(1.0, 6.0).double()) @ torch.linalg.inv(X)).requires_grad_()
    assert torch.autograd.gradcheck(lambda A: factor.schur(A, sort=lambda w: w.real > 2.5)[:2], A)
    (grad,) = torch.autograd.grad(factor.schur(A).eigenvalues.real.sum(), A)
    torch.testing.assert_close(grad, torch.eye(5).double().expand(2, 5, 5))


def test_bad_input():
    turn = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    for call, error, word in (
        (lambda: factor.schur(torch.ones(2, 3)), ValueError, "n, n"),
        (lambda: factor.schur(turn * torch.nan), ValueError, "NaN"),
        (lambda: factor.schur(turn.half()), TypeError, "float16"),
        (lambda: factor.schur(turn, output="both"), ValueError, "output must be"),
        (lambda: factor.schur(turn * 1j, output="real"), ValueError, "complex A"),
        (lambda: factor.schur(turn, sort="lower"), ValueError, "sort must be one of"),
        (lambda: factor.schur(turn, sort=lambda w: w.real), ValueError, "booleans"),
        (lambda: factor.schur(turn, sort=lambda w: w.imag > 0), ValueError, "conjugate"),
        (lambda: factor.hessenberg(turn.requires_grad_()), ValueError, "no gradient"),
        (lambda: factor.schur(turn).T.sum().backward(), ValueError, "output='complex'"),
        (lambda: factor.schur(torch.eye(2).requires_grad_()).Z.sum().backward(), ValueError, "the same"),
        (lambda: factor.schur(turn, output="complex").Z.real.sum().backward(), ValueError, "phases"),
    ):
        with pytest.raises(error, match=word):
            call()
