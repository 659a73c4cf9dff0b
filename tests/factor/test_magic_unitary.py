"""magic_unitary, sinkhorn_projections, haar_moments: Pauli matrices by hand, groups, moments by brute force."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from resolvent.errors import ConvergenceError
from resolvent.factor import haar_moments, is_magic, magic_defect, magic_unitary, sinkhorn_projections
from resolvent.factor.magic_moments import moment_matrix
from resolvent.random import gaussian


def symmetric_table():
    """S_3, a group that is not commutative."""
    elements = list(permutations(range(3)))
    return np.array([[elements.index(tuple(a[b[i]] for i in range(3))) for b in elements] for a in elements])


def test_pauli_by_hand():
    x = torch.linalg.qr(gaussian((2, 2), torch.complex128, generator=0)).Q
    one, X = torch.eye(2, dtype=torch.complex128), torch.tensor([[0, 1], [1, 0]], dtype=torch.complex128)
    Z = torch.diag(torch.tensor([1, -1], dtype=torch.complex128))
    # c_(i, a) = W_ia = Z^i shifted by a: e_b to (-1)^(ib) e_(a+b).
    c = [one, X, Z, X @ Z]
    u = magic_unitary((2, 2), "weyl", x)
    for g, h in product(range(4), repeat=2):
        v = torch.stack([torch.trace(b.mH @ c[g] @ x @ c[h].mH) / 2 for b in c])
        torch.testing.assert_close(u[g, h], torch.outer(v, v.conj()))


@pytest.mark.parametrize(
    ("group", "cocycle"), [((5,), None), ((2, 3), None), ("S3", None), ((2, 2), "weyl"), ((3, 3), "weyl")]
)
def test_magic(group, cocycle):
    group = symmetric_table() if group == "S3" else group
    u = magic_unitary(group, cocycle, count=5, generator=0)
    assert float(magic_defect(u).max()) < 1e-12 and is_magic(u)
    N = u.shape[-1]
    torch.testing.assert_close(torch.einsum("...ii", u), torch.ones(5, N, N, dtype=u.dtype))
    assert is_magic(magic_unitary(group, cocycle, dtype=torch.complex64, generator=0))
    V = magic_unitary(group, cocycle, vectors=True, count=5, generator=0)
    torch.testing.assert_close(V.unsqueeze(-1) * V.unsqueeze(-2).conj(), u)


def test_a_cocycle_given_as_a_table_and_kinds():
    i, a = np.divmod(np.arange(9), 3)
    sigma = np.exp(2j * np.pi * np.outer(i, a) / 3)
    x = torch.linalg.qr(gaussian((3, 3), torch.complex128, generator=0)).Q
    u = magic_unitary((3, 3), "weyl", x)
    c = magic_unitary((3, 3), sigma, generator=0)
    assert is_magic(c) and isinstance(magic_unitary((3, 3), "weyl", x.numpy()), np.ndarray)
    # A group element for x gives permutations: each u_gh depends on g h^-1 only.
    e = torch.zeros(9, dtype=torch.complex128)
    e[0] = 1
    flat = magic_unitary((3, 3), sigma, e)
    assert bool(((flat.abs() - flat.abs().square()).abs() < 1e-12).all())
    assert u.shape == (9, 9, 9, 9)


def test_gradients():
    # Along the unitary group, by a rotation of the coefficients.
    def value(t):
        K = torch.tensor([[0, 1], [-1, 0]], dtype=torch.complex128) * t
        return magic_unitary((2, 2), "weyl", torch.linalg.matrix_exp(K)).real

    assert gradcheck(value, torch.tensor(0.3, dtype=torch.float64, requires_grad=True))


@pytest.mark.parametrize("p", [1, 2, 3])
def test_moments_by_brute_force(p):
    V = sinkhorn_projections(3, count=4, vectors=True, generator=0)
    u = V.unsqueeze(-1) * V.unsqueeze(-2).conj()
    T = moment_matrix(V, p)
    for i, j in product(product(range(3), repeat=p), repeat=2):
        word = torch.eye(3, dtype=u.dtype).expand(4, 3, 3)
        for a, b in zip(i, j, strict=True):
            word = word @ u[:, a, b]
        row, column = (int(np.ravel_multi_index(t, (3,) * p)) for t in (i, j))
        assert abs(complex(torch.einsum("sii", word).mean() / 3 - T[row, column])) < 1e-12


def test_moments_of_known_groups():
    weyl = magic_unitary((2, 2), "weyl", vectors=True, count=400, generator=0)
    assert haar_moments(weyl, 3).moments == (1, 2, 5)
    # The plain group algebra of Z_3 generates Z_3 itself: the p-th moment of its regular character is 3^(p-1).
    plain = magic_unitary((3,), vectors=True, count=400, generator=0)
    assert haar_moments(plain, 4).moments == (1, 3, 9, 27)
    # Magic unitaries of size 3 commute: they are those of the permutations of 3 points.
    counts = tuple(sum(sum(s[i] == i for i in range(3)) ** p for s in permutations(range(3))) // 6 for p in (1, 2, 3))
    assert haar_moments(sinkhorn_projections(3, vectors=True, count=100, generator=0), 3).moments == counts


@pytest.mark.parametrize("N", [1, 2, 3, 4, 6])
def test_search(N):
    u, info = sinkhorn_projections(N, generator=0, return_info=True)
    assert u.shape == (N, N, N, N) and info.error <= 1e-10 and float(magic_defect(u)) < 1e-9
    assert torch.equal(u, sinkhorn_projections(N, generator=0))


def test_search_in_other_dtypes_and_failure():
    assert is_magic(sinkhorn_projections(4, dtype=torch.complex64, generator=0))
    assert sinkhorn_projections(4, dtype=torch.float64, generator=0).dtype == torch.float64
    u = sinkhorn_projections(4, count=3, method="sinkhorn", generator=0)
    assert u.shape == (3, 4, 4, 4, 4) and is_magic(u)
    with pytest.raises(ConvergenceError) as caught:
        sinkhorn_projections(7, count=2, method="sinkhorn", max_iter=50, generator=0)
    assert caught.value.best.shape[0] == 2 and 1e-10 < float(caught.value.error.min()) < 0.5


def test_bad_input():
    for call, word in (
        (lambda: magic_unitary((0, 2)), "orders"),
        (lambda: magic_unitary(np.array([[0, 1], [0, 1]])), "table of a group"),
        (lambda: magic_unitary((2, 3), "weyl"), "weyl"),
        (lambda: magic_unitary((2,), np.full((2, 2), 2.0)), "modulus"),
        (lambda: magic_unitary((3,), np.array([[1, 1, 1], [1, 1j, 1], [1, 1, 1]])), "cocycle must satisfy"),
        (lambda: magic_unitary((2, 2), "weyl", torch.ones(2, 2)), "unitary"),
        (lambda: magic_unitary((2, 2), "weyl", torch.ones(3)), "shape"),
        (lambda: magic_unitary((2,), x=torch.tensor([1.0, 0]), count=2), "count"),
        (lambda: magic_defect(torch.ones(2, 3, 1, 1)), "shape"),
        (lambda: sinkhorn_projections(0), "N must"),
        (lambda: sinkhorn_projections(3, method="newton"), "method"),
        (lambda: haar_moments(torch.ones(2, 3, 3, 2), 1), "shape"),
        (lambda: haar_moments(torch.ones(2, 2, 2, 2), 1), "unit vectors"),
        (lambda: haar_moments(torch.ones(2, 2, 2, 2), 13), "k must"),
    ):
        with pytest.raises(ValueError, match=word):
            call()
    with pytest.raises(TypeError, match="integers"):
        magic_unitary((2.5,))
