"""amg: a symmetric positive cycle, steps that do not grow with the size, hard coefficients, bad input."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from resolvent import operators as ops
from resolvent.solve import amg, cg
from resolvent.solve.multigrid_kernel import aggregate, inverse_diagonal, tentative, transpose


def poisson(m, anisotropy=1.0):
    T = sp.diags([-np.ones(m - 1), 2 * np.ones(m), -np.ones(m - 1)], [-1, 0, 1])
    return (sp.kron(T, sp.eye(m)) + anisotropy * sp.kron(sp.eye(m), T)).tocsr()


def rows(A):
    return A.indptr.astype(np.int32), A.indices.astype(np.int32), A.data


@pytest.mark.parametrize("options", [{}, {"cycle": "W"}, {"sweeps": 2}, {"smoother": "jacobi"}, {"theta": 0.0}])
def test_the_cycle_is_symmetric_and_positive(options):
    A = poisson(12)
    M = amg(A, coarsest=10, **options)
    assert len(M.sizes) > 2 and M.positive
    D = M @ np.eye(144)
    np.testing.assert_allclose(D, D.T, atol=1e-12)
    assert np.linalg.eigvalsh(D)[0] > 0
    # A cycle is a contraction in the norm of A.
    values = np.linalg.eigvals(D @ A.toarray()).real
    assert values.min() > 0.2 and values.max() <= 1 + 1e-10


def test_steps_do_not_grow_with_the_size():
    steps = []
    for m in (30, 60, 120, 240):
        A, b = poisson(m), np.random.default_rng(0).standard_normal(m * m)
        M = amg(A)
        x, info = cg(A, b, M=M, rtol=1e-8, return_info=True)
        assert np.linalg.norm(b - A @ x) <= 1e-8 * np.linalg.norm(b)
        steps.append(info.iterations)
    assert max(steps) <= 14 and M.complexity < 1.7


def test_three_dimensions_jumps_and_anisotropy():
    m = 16
    T = sp.diags([-np.ones(m - 1), 2 * np.ones(m), -np.ones(m - 1)], [-1, 0, 1])
    eye = sp.eye(m)
    cube = sp.kron(sp.kron(T, eye), eye) + sp.kron(sp.kron(eye, T), eye) + sp.kron(sp.kron(eye, eye), T)
    generator = np.random.default_rng(0)
    # A network whose conductances jump by four orders of magnitude.
    places = ops.grid_graph((50, 50), dtype=torch.float64)
    weights = torch.from_numpy(10.0 ** generator.integers(-2, 3, places.nnz))
    W = sp.csr_matrix((weights.numpy(), places.indices.numpy(), places.indptr.numpy()), shape=(2500, 2500))
    W = sp.triu(W, 1)
    W = W + W.T
    jumps = sp.diags(np.asarray(W.sum(1)).ravel() + 1e-3) - W
    for A, most in ((cube.tocsr(), 16), (jumps.tocsr(), 45), (poisson(60, 1e-3), 20)):
        b = generator.standard_normal(A.shape[0])
        x, info = cg(A, b, M=amg(A), rtol=1e-8, return_info=True)
        assert info.iterations <= most
        np.testing.assert_allclose(A @ x, b, atol=1e-6 * np.linalg.norm(b))


def test_a_near_null_vector_of_another_shape():
    # Scaled rows and columns: constants are no longer what relaxation leaves.
    n = 900
    s = 10.0 ** np.random.default_rng(0).uniform(-1, 1, n)
    A = (sp.diags(s) @ poisson(30) @ sp.diags(s)).tocsr()
    b = np.random.default_rng(1).standard_normal(n)
    told = cg(A, b, M=amg(A, near_nullspace=1 / s, coarsest=50), rtol=1e-8, return_info=True)[1].iterations
    untold = cg(A, b, M=amg(A, coarsest=50), rtol=1e-8, return_info=True)[1].iterations
    assert told <= 15 < untold


def test_a_singular_laplacian():
    A = ops.Laplacian(ops.grid_graph((40, 40), dtype=torch.float64))
    b = torch.randn(1600, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    b -= b.mean()
    x, info = cg(A, b, M=amg(A), rtol=1e-8, return_info=True)
    torch.testing.assert_close(A @ x, b, atol=1e-6, rtol=0)
    assert info.iterations <= 20


def test_aggregates_cover_and_the_prolongator_reproduces():
    A = poisson(13)
    inverse, bound = inverse_diagonal(*rows(A))
    assert bound == pytest.approx(2.0)
    label, count = aggregate(*rows(A), inverse, 0.08)
    assert label.min() == 0 and set(label) == set(range(count)) and count < 169 / 3
    # Aggregates are connected: each is a ball around its root or joins one.
    for a in range(count):
        inside = np.flatnonzero(label == a)
        assert sp.csgraph.connected_components(A[inside][:, inside])[0] == 1
    near = np.random.default_rng(0).standard_normal(169)
    weight, coarse = tentative(label, count, near)
    np.testing.assert_allclose(weight * coarse[label], near)
    T = sp.csr_matrix((weight, (np.arange(169), label)))
    np.testing.assert_allclose((T.T @ T).toarray(), np.eye(count), atol=1e-14)


def test_transpose():
    A = sp.random(30, 20, 0.2, random_state=0, format="csr")
    found = transpose(*rows(A), 20)
    np.testing.assert_array_equal(
        sp.csr_matrix((found[2], found[1], found[0]), shape=(20, 30)).toarray(), A.T.toarray()
    )


def test_kinds_blocks_and_float32():
    A = poisson(30)
    M = amg(A)
    X = np.random.default_rng(0).standard_normal((900, 3))
    np.testing.assert_allclose(M @ X, np.stack([M @ x for x in X.T], 1))
    half = amg(A.astype(np.float32))
    assert (half @ X.astype(np.float32)).dtype == np.float32
    x, info = cg(A.astype(np.float32), X.astype(np.float32), M=half, rtol=1e-5, return_info=True)
    assert x.dtype == np.float32 and info.iterations <= 12
    # A small matrix is solved directly, and one without couplings as well.
    np.testing.assert_allclose(amg(poisson(5)) @ np.ones(25), np.linalg.solve(poisson(5).toarray(), np.ones(25)))
    np.testing.assert_allclose(amg(2 * sp.eye(500, format="csr")) @ np.ones(500), 0.5)


def test_the_way_of_other_devices_is_that_of_the_kernels():
    A = poisson(25)
    M = amg(A, smoother="jacobi", coarsest=20, sweeps=2)
    B = torch.randn(625, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(M._descend(0, B), M._matmul(B))


@pytest.mark.parametrize(
    ("A", "options", "match"),
    [
        (np.ones((2, 3)), {}, "square"),
        (sp.csr_matrix(np.array([[2.0, 1.0], [0.0, 2.0]])), {}, "Hermitian"),
        (np.eye(2) * 1j, {}, "real"),
        (sp.diags(np.r_[np.ones(299), -1.0]).tocsr(), {}, "positive"),
        (poisson(3), {"theta": 2.0}, "theta"),
        (poisson(3), {"cycle": "F"}, "cycle"),
        (poisson(3), {"smoother": "sor"}, "smoother"),
        (poisson(3), {"sweeps": 0}, "sweeps"),
        (poisson(3), {"near_nullspace": np.ones(4)}, "near_nullspace"),
    ],
)
def test_bad_input(A, options, match):
    with pytest.raises(ValueError, match=match):
        amg(A, **options)
