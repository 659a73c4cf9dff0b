"""Randomised Cholesky factors: the mean is the matrix, trees are exact, kernels are kept, and few steps at any contrast."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch.autograd import gradcheck

from resolvent.operators import Circulant, Laplacian, Sparse, grid_graph, path_graph
from resolvent.solve import amg, cg, ic, randomized_cholesky
from resolvent.solve.randomized_cholesky import _graph
from resolvent.solve.randomized_cholesky_kernel import eliminate


def poisson(m):
    T = sp.diags([-np.ones(m - 1), 2 * np.ones(m), -np.ones(m - 1)], [-1, 0, 1])
    return (sp.kron(T, sp.eye(m)) + sp.kron(sp.eye(m), T)).tocsr()


def laplacian(n, edges, weights):
    W = sp.coo_matrix((weights, (edges[:, 0], edges[:, 1])), shape=(n, n)).tocsr()
    W = W + W.T
    return (sp.diags(np.asarray(W.sum(1)).ravel()) - W).tocsr()


def grid_edges(m):
    at = np.arange(m * m).reshape(m, m)
    return np.concatenate([np.c_[at[:, :-1].ravel(), at[:, 1:].ravel()], np.c_[at[:-1].ravel(), at[1:].ravel()]])


def contrast(m, decades, seed=0):
    edges = grid_edges(m)
    rng = np.random.default_rng(seed)
    return laplacian(m * m, edges, 10.0 ** rng.uniform(-decades / 2, decades / 2, len(edges)))


def steps(A, M, seed=0, rtol=1e-8):
    b = np.random.default_rng(seed).standard_normal(A.shape[0])
    b -= b.mean() * (abs(A.sum(1)).max() < 1e-8 * abs(A).max())
    x, info = cg(A, b, M=M, rtol=rtol, return_info=True)
    assert np.linalg.norm(b - A @ x) <= 1.01 * rtol * np.linalg.norm(b)
    return info.iterations


def product(n, order, pivots, starts, rows, entries):
    """L D L^T in the order of A."""
    places = np.empty(n, int)
    places[order] = np.arange(len(order))
    L = np.eye(len(order))
    for j in range(len(order)):
        L[places[rows[starts[j] : starts[j + 1]]], j] = -entries[starts[j] : starts[j + 1]]
    return ((L * pivots) @ L.T)[np.ix_(places[: len(order)], places[: len(order)])]


@pytest.mark.parametrize("copies", [1, 3])
@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_the_mean_of_the_factors_is_the_matrix(copies, shift):
    rng = np.random.default_rng(0)
    edges = np.array(nx.complete_graph(7).edges())
    A = laplacian(7, edges, rng.uniform(0.1, 3, len(edges))) + shift * sp.eye(7)
    graph = _graph(Sparse(sp.csr_matrix(A)))
    samples = np.stack([product(7, *eliminate(*graph[:5], copies, seed)) for seed in range(4000)])
    error = np.abs(samples.mean(0) - A.toarray())
    # What varies at all: the column of the first vertex is exact.
    deviation = samples.std(0) / np.sqrt(len(samples))
    assert (error <= 5 * deviation + 1e-12).all() and deviation.max() > 1e-3
    # More copies, less variance: what they are for.
    if copies == 3:
        single = np.stack([product(7, *eliminate(*graph[:5], 1, seed)) for seed in range(500)])
        assert samples.std(0).max() < single.std(0).max()


def test_trees_are_exact_and_the_kernel_is_kept():
    rng = np.random.default_rng(0)
    edges = np.c_[np.arange(1, 60), [rng.integers(0, i) for i in range(1, 60)]]
    A = laplacian(60, edges, 10.0 ** rng.uniform(-3, 3, 59))
    M = randomized_cholesky(A, generator=0) @ np.eye(60)
    np.testing.assert_allclose(M, np.linalg.pinv(A.toarray(), rcond=1e-14), atol=1e-9 * np.abs(M).max())
    shifted = A + sp.diags(rng.uniform(0, 1, 60))
    np.testing.assert_allclose(
        randomized_cholesky(shifted, generator=0) @ (shifted @ np.eye(60)), np.eye(60), atol=1e-7
    )


def test_the_operator_is_symmetric_and_positive_on_the_range():
    parts = sp.block_diag([contrast(5, 4), poisson(3), sp.csr_matrix((2, 2)), contrast(4, 0)]).tocsr()
    M = randomized_cholesky(parts, generator=3) @ np.eye(parts.shape[0])
    np.testing.assert_allclose(M, M.T, atol=1e-10 * np.abs(M).max())
    kernel = np.zeros((parts.shape[0], 4))
    kernel[:25, 0] = kernel[34, 1] = kernel[35, 2] = kernel[36:, 3] = 1
    assert np.abs(M @ kernel).max() <= 1e-10 * np.abs(M).max()
    w = np.linalg.eigvalsh(M)
    assert (w > 1e-9 * w[-1]).sum() == parts.shape[0] - 4 and w[0] > -1e-10 * w[-1]


def test_a_singular_laplacian_gets_the_solution_of_least_norm():
    A = contrast(12, 2)
    b = A @ np.random.default_rng(1).standard_normal(144)
    x = cg(A, b, M=randomized_cholesky(A, generator=0), rtol=1e-12)
    np.testing.assert_allclose(x, np.linalg.lstsq(A.toarray(), b, rcond=1e-12)[0], atol=1e-8 * np.abs(x).max())


def signed(m, seed=0):
    upper = sp.triu(poisson(m), 1).tocsr()
    upper.data *= np.random.default_rng(seed).choice([-1, 1], upper.nnz)
    return (upper + upper.T + sp.diags(poisson(m).diagonal())).tocsr()


def test_entries_above_zero():
    A = signed(14)
    M = randomized_cholesky(A, copies=2, generator=0)
    assert steps(A, M) < 25
    dense = M @ np.eye(A.shape[0])
    np.testing.assert_allclose(dense, dense.T, atol=1e-12)
    values = np.linalg.eigvals(dense @ A.toarray()).real
    assert values.min() > 0.2 and values.max() < 6
    # A path whose signs can be flipped away: singular, and exact.
    edges = np.array([[0, 1], [1, 2], [2, 3]])
    B = laplacian(4, edges, np.array([1.0, 2.0, 3.0])).toarray() * np.outer([1, -1, -1, 1], [1, -1, -1, 1])
    np.testing.assert_allclose(randomized_cholesky(B, generator=0) @ np.eye(4), np.linalg.pinv(B), atol=1e-12)


def test_steps_on_a_grid_grow_slowly():
    few, many = (steps(poisson(m), randomized_cholesky(poisson(m), generator=0)) for m in (20, 90))
    assert many < 45 and many < 2.2 * few
    assert many < steps(poisson(90), ic(poisson(90))) / 2.5
    with_copies = [steps(poisson(40), randomized_cholesky(poisson(40), copies=c, generator=0)) for c in (1, 2, 4)]
    assert with_copies == sorted(with_copies, reverse=True) and with_copies[-1] < 0.8 * with_copies[0]


def test_contrast_does_no_harm():
    # The weights spread over eight decades. Aggregation and incomplete factors both suffer; sampling does not.
    A = contrast(45, 8)
    ours = max(steps(A, randomized_cholesky(A, generator=seed)) for seed in range(3))
    assert ours < 35
    assert steps(A, amg(A)) > 2 * ours and steps(A, ic(A)) > 10 * ours


def test_a_power_law_graph_and_the_size_of_the_factors():
    G = nx.barabasi_albert_graph(3000, 4, seed=0)
    A = laplacian(3000, np.array(G.edges()), np.ones(G.number_of_edges()))
    M = randomized_cholesky(A, generator=0)
    assert steps(A, M) < 20
    # Exact factors fill in; these keep a few times the entries of the lower half of A, below m log m.
    lower = (A.nnz + 3000) / 2
    assert M.nonzeros < 3 * lower < lower * np.log2(lower)


def test_reproducible_and_without_a_trace_in_the_global_state():
    A = poisson(9)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = (randomized_cholesky(A, generator=g) @ np.ones(81) for g in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3
    assert bool((before == torch.get_rng_state()).all())


def test_kinds_dtypes_and_shapes():
    L = Laplacian(grid_graph((8, 8), dtype=torch.float32))
    M = randomized_cholesky(L, generator=0)
    b = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    assert M.positive and M.shape == (64, 64) and M.H is not None
    Y = M @ b
    assert Y.dtype == torch.float32
    torch.testing.assert_close(Y[:, 1], M @ b[:, 1], rtol=1e-4, atol=1e-5)
    wide = randomized_cholesky(Laplacian(grid_graph((8, 8), dtype=torch.float64)), generator=0) @ b.double()
    torch.testing.assert_close(Y.double(), wide, rtol=1e-3, atol=1e-4)
    tiny = randomized_cholesky(L * torch.tensor(1e-20), generator=0) @ (b * 1e-20)
    torch.testing.assert_close(tiny, Y, rtol=1e-3, atol=1e-4)
    assert isinstance(randomized_cholesky(poisson(3), generator=0) @ np.ones(9), np.ndarray)
    assert (randomized_cholesky(torch.zeros(1, 1), generator=0) @ torch.ones(1)).item() == 0
    assert (randomized_cholesky(torch.zeros(0, 0), generator=0) @ torch.ones(0)).shape == (0,)


def test_gradient_of_the_product():
    M = randomized_cholesky(torch.as_tensor(poisson(3).toarray()), generator=0)
    x = torch.randn(9, 2, dtype=torch.float64, requires_grad=True, generator=torch.Generator().manual_seed(0))
    assert gradcheck(lambda x: M @ x, (x,))


def test_bad_input():
    with pytest.raises(ValueError, match=r"dominant.*row 0"):
        randomized_cholesky(np.array([[1.0, -2.0], [-2.0, 3.0]]))
    with pytest.raises(ValueError, match="Hermitian"):
        randomized_cholesky(np.array([[2.0, -1.0], [0.0, 2.0]]))
    with pytest.raises(ValueError, match="square"):
        randomized_cholesky(np.ones((2, 3)))
    with pytest.raises(ValueError, match="real"):
        randomized_cholesky(np.eye(2, dtype=complex))
    with pytest.raises(ValueError, match="copies"):
        randomized_cholesky(np.eye(2), copies=0)
    with pytest.raises(TypeError, match="sparse or dense"):
        randomized_cholesky(Circulant(torch.tensor([2.0, -1.0, -1.0])))
    with pytest.raises(ValueError):
        randomized_cholesky(np.array([[np.nan]]))
    assert Laplacian(path_graph(3)).positive
