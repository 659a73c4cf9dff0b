"""bootstrap_amg and its matchings: weights of matchings, symmetry, measured rates, smooth vectors, bad input."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from resolvent.errors import ConvergenceError
from resolvent.operators import as_operator
from resolvent.random import gaussian
from resolvent.solve import bootstrap_amg, cg, jacobi_preconditioner
from resolvent.solve.matching_kernel import compatible, pairs, suitors


def anisotropic(n, epsilon=0.01):
    T, one = sp.diags([-1.0, 2.0, -1.0], [-1, 0, 1], shape=(n, n)), sp.eye(n)
    return (sp.kron(one, T) + epsilon * sp.kron(T, one)).tocsr()


def random_graph(n, seed, density=0.5):
    rng = np.random.default_rng(seed)
    W = np.triu(rng.random((n, n)) * (rng.random((n, n)) < density), 1)
    return sp.csr_matrix(W + W.T)


def heaviest(W):
    """The weight of the best matching, by trying all."""
    n = W.shape[0]

    def best(free):
        if len(free) < 2:
            return 0.0
        u, rest = free[0], free[1:]
        options = [best(rest)]
        options += [W[u, v] + best(tuple(x for x in rest if x != v)) for v in rest if W[u, v] > 0]
        return max(options)

    return best(tuple(range(n)))


@pytest.mark.parametrize("seed", range(10))
def test_matchings_have_half_of_the_best_weight(seed):
    W = random_graph(9, seed)
    mate = suitors(W.indptr, W.indices, W.data)
    matched = [(u, v) for u, v in enumerate(mate) if v >= 0]
    assert all(mate[v] == u and W[u, v] > 0 for u, v in matched)
    assert 2 * sum(W[u, v] for u, v in matched) / 2 >= heaviest(W.toarray()) - 1e-12
    label, count = pairs(W.indptr, W.indices, W.data, mate)
    assert set(label) == set(range(count))
    for u, v in itertools.combinations(range(9), 2):
        if mate[u] == v:
            assert label[u] == label[v]


def test_weights_of_pairs():
    A = sp.csr_matrix(np.array([[2.0, -1.0, 0.5], [-1.0, 3.0, 0.0], [0.5, 0.0, 1.0]]))
    w = np.array([1.0, 2.0, -1.0])
    found = sp.csr_matrix((compatible(A.indptr, A.indices, A.data, A.diagonal(), w), A.indices, A.indptr)).toarray()
    assert found[0, 1] == pytest.approx(1 + 2 * 2 / (2 + 12)) == found[1, 0]
    assert found[0, 2] == pytest.approx(1 + 1 / 3) and (np.diag(found) == 0).all()


@pytest.mark.parametrize("options", [{}, {"smooth": False, "cycle": "W"}])
def test_the_rate_is_reached_and_true(options):
    A = anisotropic(24)
    M = bootstrap_amg(A, 0.3, coarsest=30, **options)
    assert M.rates[-1] <= 0.3 and len(M.rates) == len(M.hierarchies) > 1
    inverse = M._matmul(torch.eye(576, dtype=torch.float64)).numpy()
    np.testing.assert_allclose(inverse, inverse.T, atol=1e-10 * np.abs(inverse).max())
    # the eigenvalues of M A lie around 1; the true rate is 1 minus the smallest
    C = np.linalg.cholesky(A.toarray())
    w = np.linalg.eigvalsh(C.T @ inverse @ C)
    assert w[0] > 0 and w[-1] < 1 + 1e-10
    assert 1 - w[0] == pytest.approx(M.rates[-1], abs=0.1)
    Q = M.smooth_vectors
    np.testing.assert_allclose(Q.T @ Q, np.eye(Q.shape[1]), atol=1e-10)


def test_it_beats_jacobi_and_finds_hidden_null_vectors():
    A, b = anisotropic(40), np.ones(1600)
    M = bootstrap_amg(A)
    quick = cg(A, b, M=M, rtol=1e-8, return_info=True)[1].iterations
    assert 5 * quick < cg(A, b, M=jacobi_preconditioner(A), rtol=1e-8, return_info=True)[1].iterations
    # scaled unknowns hide the smooth vectors from methods that assume constants
    D = sp.diags(np.exp(np.random.default_rng(0).standard_normal(1600)))
    hidden = bootstrap_amg((D @ A @ D).tocsr(), 0.5, max_hierarchies=15)
    assert hidden.rates[-1] <= 0.5 < hidden.rates[0]


def test_laplacians():
    W = random_graph(300, 0, density=0.03)
    W.data[:] = 1
    degree = np.asarray(W.sum(1)).ravel()
    L = (sp.diags(degree) - W).tocsr()
    M = bootstrap_amg(L, 0.3, coarsest=30)
    b = gaussian((300,), generator=0).numpy()
    b -= b.mean()
    x = cg(L, b, M=M)
    np.testing.assert_allclose(L @ x, b, atol=1e-8)
    assert abs(M._matmul(torch.from_numpy(b)[:, None]).sum()) < 1e-10


def test_kinds_seeds_and_precision():
    A = anisotropic(20)
    assert isinstance(bootstrap_amg(A, coarsest=30).smooth_vectors, np.ndarray)
    one, two = (
        bootstrap_amg(as_operator(torch.from_numpy(A.toarray()).to_sparse_csr()), coarsest=30, generator=5)
        for _ in range(2)
    )
    assert torch.equal(one.smooth_vectors, two.smooth_vectors)
    single = bootstrap_amg(A.astype(np.float32), coarsest=30)
    x = cg(A.astype(np.float32), np.ones(400, np.float32), M=single, rtol=1e-5)
    assert x.dtype == np.float32
    np.testing.assert_allclose(A @ x, np.ones(400), atol=1e-3)


def test_failure_and_bad_input():
    A = anisotropic(20)
    with pytest.raises(ConvergenceError, match="1 hierarchies") as caught:
        bootstrap_amg(A, 0.01, max_hierarchies=1, smooth=False, coarsest=30)
    assert caught.value.best.rates == [caught.value.error]
    for call, word in (
        (lambda: bootstrap_amg(A, 1.0), "target_rate"),
        (lambda: bootstrap_amg(A, max_hierarchies=0), "max_hierarchies"),
        (lambda: bootstrap_amg(A, cycle="K"), "cycle"),
        (lambda: bootstrap_amg(A, coarsest=0), "coarsest"),
        (lambda: bootstrap_amg(sp.block_diag([[[1.0, -1.0], [-1.0, 1.0]]] * 40).tocsr()), "40 components"),
        (lambda: bootstrap_amg(sp.triu(A).tocsr()), "ermitian|symmetric"),
        (lambda: bootstrap_amg(-A, coarsest=30), "diagonal"),
    ):
        with pytest.raises(ValueError, match=word):
            call()
