from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from scipy.sparse import csgraph

from resolvent.operators import Identity, Laplacian, Sparse, from_edges, grid_graph, path_graph


def graph(n: int = 25, loops: bool = True) -> np.ndarray:
    rng = np.random.default_rng(0)
    W = np.triu(rng.random((n, n)) * (rng.random((n, n)) < 0.2), 0 if loops else 1)
    W[:, 7] = W[7, :] = 0
    return W + W.T


def test_path_has_its_known_eigenvalues():
    n = 40
    L = Laplacian(path_graph(n, dtype=torch.float64))
    assert L.hermitian and L.positive
    k = torch.arange(n, dtype=torch.float64)
    w = torch.linalg.eigvalsh(L.to_dense())
    torch.testing.assert_close(w, 2 - 2 * torch.cos(math.pi * k / n), atol=1e-13, rtol=0)


def test_grids_are_kronecker_sums_of_paths_and_rings():
    for periodic in (False, True):
        a, b, c = (grid_graph((m,), periodic=periodic).to_dense() for m in (3, 4, 2))
        eye = [torch.eye(m) for m in (3, 4, 2)]
        want = (
            torch.kron(torch.kron(a, eye[1]), eye[2])
            + torch.kron(torch.kron(eye[0], b), eye[2])
            + torch.kron(torch.kron(eye[0], eye[1]), c)
        )
        assert torch.equal(grid_graph((3, 4, 2), periodic=periodic).to_dense(), want)
    ring = grid_graph((5,), periodic=True).to_dense()
    assert torch.equal(ring, torch.eye(5).roll(1, 0) + torch.eye(5).roll(-1, 0))
    assert torch.equal(grid_graph((2,), periodic=True).to_dense(), path_graph(2).to_dense())
    assert path_graph(1).to_dense().shape == (1, 1)


def test_agrees_with_scipy():
    W = graph(loops=False)
    np.testing.assert_allclose(Laplacian(W).to_dense(), csgraph.laplacian(W), atol=1e-14)
    normed = Laplacian(sp.csr_array(W), normalized="sym").to_dense()
    np.testing.assert_allclose(normed, csgraph.laplacian(W, normed=True), atol=1e-14)


def test_formulas_with_loops_and_an_isolated_vertex():
    W = torch.from_numpy(graph())
    d = W.sum(1)
    inverse = torch.where(d > 0, 1 / d, 0)
    linked = torch.diag((d > 0).double())
    want = {
        "none": torch.diag(d) - W,
        "sym": linked - inverse.sqrt()[:, None] * W * inverse.sqrt(),
        "rw": linked - inverse[:, None] * W,
    }
    for name, dense in want.items():
        L = Laplacian(W.to_sparse(), normalized=name)
        torch.testing.assert_close(L.to_dense(), dense, atol=1e-14, rtol=0)
        assert (L.hermitian, L.positive) == ((name != "rw"),) * 2
        x = torch.randn(25, 2, dtype=torch.float64)
        torch.testing.assert_close(L @ x, dense @ x)
        torch.testing.assert_close(L.H @ x, dense.T @ x)


def test_constants_and_signs():
    W = graph()
    for name in ("none", "rw"):
        assert np.abs(Laplacian(W, normalized=name) @ np.ones(25)).max() < 1e-14
    assert np.linalg.eigvalsh(Laplacian(W, normalized="sym").to_dense()).min() > -1e-13
    assert np.linalg.eigvalsh(Laplacian(W, normalized="sym").to_dense()).max() < 2 + 1e-13
    signed = from_edges([(0, 1), (1, 2)], [1.0, -3.0])
    assert Laplacian(signed).hermitian and not Laplacian(signed).positive


@pytest.mark.parametrize("normalized", ["none", "sym", "rw"])
def test_gradients_to_the_weights(normalized):
    edges = torch.tensor([(0, 1), (1, 2), (2, 0), (2, 3), (4, 4)])
    w = (torch.rand(5, dtype=torch.float64) + 0.5).requires_grad_()
    X = torch.randn(6, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda w: Laplacian(from_edges(edges, w, n=6), normalized=normalized) @ X, (w,))


def test_edges():
    A = from_edges([(0, 1), (2, 1), (1, 0), (2, 2)], [1.0, 2.0, 3.0, 5.0], n=4)
    want = torch.tensor([[0.0, 4, 0, 0], [4, 0, 2, 0], [0, 2, 5, 0], [0, 0, 0, 0]])
    assert torch.equal(A.to_dense(), want) and A.hermitian and isinstance(A, Sparse)
    assert from_edges(np.array([(0, 1)])).kind == "numpy"
    assert from_edges([(0, 1)], dtype=torch.float64).dtype == torch.float64
    assert from_edges([], n=3).to_dense().abs().sum() == 0


def test_float32_kinds_and_conversion():
    L = Laplacian(path_graph(10))
    assert L.dtype == torch.float32 and (L + Identity(10)).dtype == torch.float32
    single = Laplacian(graph()).to(torch.float32)
    assert isinstance(single, Laplacian) and single.normalized == "none" and single.positive
    assert isinstance(single.to_dense(), np.ndarray)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: Laplacian(torch.tensor([[0.0, 1.0], [2.0, 0.0]])), "adjacency must be Hermitian"),
        (lambda: Laplacian(torch.ones(2, 3)), "shape"),
        (lambda: Laplacian(torch.ones(2, 3).to_sparse()), "square"),
        (lambda: Laplacian(torch.eye(2), normalized="both"), "normalized"),
        (lambda: Laplacian(torch.eye(2, dtype=torch.complex64)), "real"),
        (lambda: Laplacian(from_edges([(0, 1)], [-1.0]), normalized="sym"), "degrees"),
        (lambda: Laplacian(torch.full((2, 2), float("nan"))), "NaN"),
        (lambda: from_edges([(0, 5)], n=3), "0 to 2"),
        (lambda: from_edges([(0, 1, 2)]), "shape"),
        (lambda: from_edges([(0, 1)], [1.0, 2.0]), "weights"),
        (lambda: from_edges([(0, 1)], [1j]), "real"),
        (lambda: grid_graph(()), "dims"),
        (lambda: path_graph(0), "dims"),
    ],
)
def test_bad_input(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_operators_that_are_no_matrices():
    with pytest.raises(TypeError, match="Identity"):
        Laplacian(Identity(3))
