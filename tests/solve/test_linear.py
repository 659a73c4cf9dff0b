"""solve: every structure against a dense solve, adjoints, batches, singular and near-singular matrices, gradients."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch.autograd import gradcheck, gradgradcheck

from resolvent import operators as ops
from resolvent.errors import ConvergenceError
from resolvent.random import gaussian
from resolvent.solve import solve
from resolvent.solve.linear import _choice

F64 = torch.float64


def draw(*shape, dtype=F64, seed=0):
    return gaussian(shape, dtype, generator=seed)


def square(n, seed=0, dtype=F64):
    return draw(n, n, seed=seed, dtype=dtype) + 4 * torch.eye(n, dtype=dtype)


def positive(n, seed=0):
    X = draw(n, n, seed=seed)
    return ops.Dense(X @ X.mT + torch.eye(n, dtype=F64), positive=True)


def poisson(m):
    T = sp.diags([-np.ones(m - 1), 2 * np.ones(m), -np.ones(m - 1)], [-1, 0, 1])
    return (sp.kron(T, sp.eye(m)) + sp.kron(sp.eye(m), T)).tocsr()


STRUCTURES = {
    "dense": lambda: ops.Dense(square(7)),
    "positive": lambda: positive(7),
    "identity": lambda: ops.Identity(5, dtype=F64),
    "diagonal": lambda: ops.Diagonal(draw(6).abs() + 0.5),
    "lower": lambda: ops.Triangular(square(6)),
    "upper": lambda: ops.Triangular(square(6), upper=True),
    "tridiagonal": lambda: ops.Tridiagonal(draw(7), draw(8, seed=1) + 3, draw(7, seed=2)),
    "tridiagonal of two": lambda: ops.Tridiagonal(draw(1), draw(2, seed=1) + 3, draw(1, seed=2)),
    "circulant": lambda: ops.Circulant(draw(9)),
    "toeplitz": lambda: ops.Toeplitz(draw(9), draw(9, seed=1)),
    "hadamard": lambda: ops.Hadamard(8, dtype=F64),
    "permutation": lambda: ops.Permutation(torch.tensor([2, 0, 3, 1]), dtype=F64),
    "householder": lambda: ops.Householder(draw(5, 5).tril(-1), torch.zeros(5, dtype=F64), full=True),
    "kronecker": lambda: ops.Kronecker(square(3), square(4, 1), ops.Diagonal(draw(2))),
    "sylvester": lambda: ops.KroneckerSum(square(3), square(4, 1)),
    "three hermitian terms": lambda: ops.KroneckerSum(*(positive(k, k) for k in (3, 4, 2))),
    "three terms": lambda: ops.KroneckerSum(square(3), square(4, 1), square(2, 2)),
    "block diagonal": lambda: ops.BlockDiagonal(square(3), ops.Diagonal(draw(4))),
    "multiple": lambda: -3.0 * ops.Kronecker(square(3), square(4, 1)),
    "diagonal plus low rank": lambda: ops.Diagonal(draw(9).abs() + 1) + ops.LowRank(draw(9, 2), draw(2), draw(9, 2)),
    "kronecker plus low rank": lambda: ops.Kronecker(square(3), square(4, 1)) + 2 * ops.LowRank(draw(12, 2)),
    "shifted": lambda: 2 * ops.Identity(6, dtype=F64) + ops.Diagonal(draw(6).abs()),
    "product": lambda: ops.Kronecker(square(3), square(2, 1)) @ ops.Diagonal(draw(6)),
    "power": lambda: ops.Dense(square(5)) ** 3,
    "sparse": lambda: ops.Sparse(sp.random(200, 200, 0.02, random_state=0).tocsr() + 5 * sp.eye(200)),
    "sparse sum": lambda: ops.Sparse(poisson(15)) + 0.1 * ops.Identity(225, dtype=F64),
    "matrix-free": lambda: ops.MatrixFree((6, 6), lambda X: 2 * X.flip(-2), lambda X: 2 * X.flip(-2), dtype=F64),
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_every_structure_solves_with_itself_and_its_adjoint(name):
    A = STRUCTURES[name]()
    D = torch.as_tensor(A.to_dense())
    b = draw(D.shape[0], 2, seed=5)
    for op, matrix in ((A, D), (A.H, D.mH)):
        x, info = solve(op, b, return_info=True)
        torch.testing.assert_close(x, torch.linalg.solve(matrix, b), rtol=1e-9, atol=1e-10)
        assert info.converged and info.error <= 1e-10
    c = draw(D.shape[0], dtype=torch.complex128, seed=6)
    torch.testing.assert_close(solve(A, c), torch.linalg.solve(D.to(c.dtype), c), rtol=1e-9, atol=1e-10)


def test_what_is_closed_is_not_written_down():
    n = 1 << 20
    A = ops.Diagonal(torch.full((n,), 2.0, dtype=F64)) + ops.LowRank(draw(n, 2))
    b = draw(n, seed=1)
    x, info = solve(A, b, return_info=True)
    assert info.method == "structure"
    torch.testing.assert_close(A @ x, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128])
def test_batches_and_dtypes_are_those_of_torch(dtype):
    A, B = draw(3, 1, 5, 5, dtype=dtype) + 4 * torch.eye(5), draw(2, 5, 3, dtype=dtype, seed=1)
    x = solve(A, B)
    assert x.dtype == dtype
    torch.testing.assert_close(x, torch.linalg.solve(A, B))
    b = draw(5, dtype=dtype, seed=2)
    torch.testing.assert_close(solve(A, b), torch.linalg.solve(A, b[:, None])[..., 0])
    torch.testing.assert_close(solve(A[0, 0], B), torch.linalg.solve(A[0, 0], B))


def test_numpy_in_numpy_out():
    A = np.array([[2.0, 1.0], [1.0, 3.0]])
    x = solve(A, [3, 4])
    assert isinstance(x, np.ndarray)
    np.testing.assert_allclose(x, np.linalg.solve(A, [3, 4]))
    assert solve(A.astype(np.float32), np.ones(2, np.float32)).dtype == np.float32


@pytest.mark.parametrize("matrix", [[[1.0, 2.0], [2.0, 4.0]], np.arange(9.0).reshape(3, 3), np.zeros((2, 2))])
def test_a_singular_matrix_is_an_error(matrix):
    with pytest.raises(ValueError, match="singular"):
        solve(np.array(matrix), np.ones(len(matrix)))


@pytest.mark.parametrize(
    "A",
    [
        ops.Diagonal(torch.tensor([1.0, 0.0])),
        ops.Triangular(torch.tensor([[1.0, 0.0], [1.0, 0.0]])),
        ops.Circulant(torch.tensor([1.0, 1.0, 1.0, 1.0])),
        ops.Tridiagonal(torch.zeros(3), torch.tensor([1.0, 0.0, 1.0, 1.0])),
        ops.Zero(2, 2),
        ops.KroneckerSum(torch.diag(torch.tensor([1.0, 2.0])), torch.diag(torch.tensor([-1.0, 5.0]))),
        ops.Sparse(sp.csr_matrix(np.diag(np.r_[np.ones(199), 0.0]).astype(np.float32))),
    ],
    ids=lambda A: type(A).__name__,
)
def test_a_singular_structure_is_an_error(A):
    b = np.ones(A.shape[0], np.float32) if A.kind == "numpy" else torch.ones(A.shape[0])
    with pytest.raises(ValueError, match="singular"):
        solve(A, b)


def test_scaling_is_not_singularity_and_bad_condition_is_not_an_error():
    np.testing.assert_allclose(solve(np.diag([1.0, 1e-200]), [1.0, 1.0]), [1.0, 1e200])
    H = 1 / (np.arange(11)[:, None] + np.arange(11) + 1.0)
    _, info = solve(H, np.ones(11), return_info=True)
    assert info.error < 1e-15
    with pytest.raises(ConvergenceError) as caught:
        solve(H, np.ones(11), rtol=1e-15)
    assert isinstance(caught.value.best, np.ndarray) and caught.value.error > 1e-15


@pytest.mark.parametrize("method", ["cg", "block_cg", "minres", "gmres", "bicgstab", "idr", "direct"])
def test_methods_agree(method):
    A = positive(30)
    b = draw(30, 2, seed=3)
    x, info = solve(A, b, method=method, rtol=1e-12, return_info=True)
    torch.testing.assert_close(x, torch.linalg.solve(A.data, b), rtol=1e-8, atol=1e-10)
    assert info.error <= 1e-12


def test_iterations_take_a_start_a_preconditioner_and_batches_of_right_hand_sides():
    A, B = positive(20), draw(2, 20, 3, seed=3)
    exact = torch.linalg.solve(A.data, B)
    torch.testing.assert_close(solve(A, B, method="cg"), exact, rtol=1e-7, atol=1e-8)
    x, info = solve(A, B[0], x0=exact[0], return_info=True, rtol=1e-9)
    assert info.iterations == 0
    M = ops.Dense(torch.linalg.inv(A.data), positive=False)
    x, info = solve(A, B[0], M=M, method="gmres", return_info=True)
    assert info.iterations <= 3
    torch.testing.assert_close(x, exact[0], rtol=1e-8, atol=1e-9)


def test_large_sparse_matrices_get_a_preconditioner_that_fits():
    laplacian = ops.Sparse(poisson(20))
    assert _choice(laplacian, "auto", None)[1].sizes[0] == 400
    # Weights over eight decades, and a hub, are nothing for aggregates.
    edges = np.array([(i, j) for i in range(400) for j in (i + 1, i + 20) if j < 400])
    for weights in (10.0 ** np.random.default_rng(0).uniform(0, 8, len(edges)), np.ones(len(edges))):
        ends = np.concatenate([edges, [(0, j) for j in range(100, 400)]]) if weights[0] == 1 else edges
        W = sp.coo_matrix((np.ones(len(ends)) if weights[0] == 1 else weights, ends.T), shape=(400, 400)).tocsr()
        uneven = sp.csgraph.laplacian(W + W.T).tocsr() + sp.eye(400)
        assert type(_choice(ops.Sparse(uneven), "auto", None)[1]).__name__ == "RandomizedFactors"
    n = 30
    dense = sp.random(n, n, 0.3, random_state=0)
    indefinite = ops.Sparse((dense + dense.T).tocsr())
    assert _choice(indefinite, "auto", None)[0] == "minres"
    skew = ops.Sparse((poisson(6) + 0.5 * sp.triu(poisson(6))).tocsr())
    name, M = _choice(skew, "auto", None)
    assert name == "gmres" and M is not None


@pytest.mark.parametrize("n", [1100, 1500])
def test_toeplitz_by_iteration(n):
    c = 0.5 ** torch.arange(n, dtype=F64)
    A = ops.Toeplitz(c).declare(positive=True)
    x, info = solve(A, draw(n), return_info=True)
    assert info.method == "cg" and info.iterations < 20
    torch.testing.assert_close(A @ x, draw(n), rtol=1e-8, atol=1e-8)
    B = ops.Toeplitz(c, 0.3 ** torch.arange(n, dtype=F64))
    x, info = solve(B, draw(n), return_info=True)
    assert info.method == "gmres" and info.iterations < 20


def test_gradients_dense():
    A, b = square(4).requires_grad_(), draw(4, 2).requires_grad_()
    assert gradcheck(solve, (A, b)) and gradgradcheck(solve, (A, b))
    C, c = square(3, dtype=torch.complex128).requires_grad_(), draw(3, seed=1).requires_grad_()
    assert gradcheck(solve, (C, c)) and gradgradcheck(solve, (C, c))
    D = (draw(2, 3, 3) + 3 * torch.eye(3, dtype=F64)).requires_grad_()
    assert gradcheck(solve, (D, c)) and gradgradcheck(solve, (D, c))


def test_gradients_of_structures_and_iterations():
    d, U = (draw(4).abs() + 1).detach().requires_grad_(), draw(4, 1).requires_grad_()
    b = draw(4, 2, seed=1).requires_grad_()

    def low_rank(d, U, b):
        return solve(ops.Diagonal(d) + ops.LowRank(U), b)

    assert gradcheck(low_rank, (d, U, b)) and gradgradcheck(low_rank, (d, U, b))
    A = square(4).requires_grad_()
    for method in ("cg", "gmres"):

        def iterated(A, b, method=method):
            return solve(A.mT @ A + torch.eye(4, dtype=F64), b, method=method, rtol=1e-13)

        assert gradcheck(iterated, (A, b)) and gradgradcheck(iterated, (A, b))

    def free(A, b):
        op = ops.MatrixFree((4, 4), lambda X: A @ X, lambda X: A.mT @ X, dtype=F64)
        return solve(op, b, method="gmres", rtol=1e-13)

    assert gradcheck(free, (A, b))
    (first,) = torch.autograd.grad(free(A, b).sum(), A, create_graph=True)
    with pytest.raises(RuntimeError, match="first derivatives only"):
        torch.autograd.grad(first.sum() + A.sum(), A)
    S = ops.Sparse(poisson(3))

    def sparse(values, b):
        return solve(S.with_values(values), b)

    values = S.values.clone().requires_grad_()
    assert gradcheck(sparse, (values, draw(9).requires_grad_()))


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"A": np.ones((2, 3))}, ValueError, "square"),
        ({"b": np.ones(3)}, ValueError, "m = 2"),
        ({"b": [1.0, np.nan]}, ValueError, "NaN"),
        ({"rtol": 2.0}, ValueError, "rtol"),
        ({"method": "qr"}, ValueError, "method"),
        ({"A": torch.eye(2), "b": torch.ones(2, dtype=F64)}, TypeError, "dtype"),
        ({"method": "cg", "A": np.array([[1.0, 2.0], [0.0, 1.0]])}, ValueError, "Hermitian"),
        ({"method": "cg", "M": np.eye(3)}, ValueError, "M must have shape"),
        ({"method": "cg", "x0": np.ones(3)}, ValueError, "x0"),
        ({"method": "cg", "maxiter": 0}, ValueError, "maxiter"),
        ({"method": "cg", "A": np.stack([np.eye(2)] * 2)}, ValueError, "batch"),
        ({"A": np.ones((3, 2, 2)), "b": np.ones((2, 2, 1))}, ValueError, "broadcast"),
    ],
)
def test_bad_input(change, error, match):
    given = {"A": np.eye(2), "b": np.ones(2)} | change
    with pytest.raises(error, match=match):
        solve(given.pop("A"), given.pop("b"), **given)


def test_a_residual_as_large_as_b_is_no_solution():
    Q = torch.linalg.qr(draw(30, 30)).Q
    values = torch.logspace(0, 2, 30, dtype=F64)
    values[3] = 0
    A = (Q * values) @ Q.mT
    # Rounding leaves a pivot that is not zero: x is huge, and its backward error small.
    with pytest.raises((ConvergenceError, ValueError), match=r"singular"):
        solve(A, draw(30, 2, seed=1))
    hilbert = torch.tensor([[1.0 / (i + j + 1) for j in range(20)] for i in range(20)], dtype=F64)
    with pytest.raises(ConvergenceError, match="singular"):
        solve(hilbert, draw(20, seed=1))
    # With a right-hand side in the range there is one.
    x = hilbert @ torch.ones(20, dtype=F64)
    assert torch.allclose(hilbert @ solve(hilbert, x), x)


@pytest.mark.parametrize(("of_A", "of_b"), [(1.0, 1e-30), (1.0, 1e30), (1e-25, 1.0), (1e25, 1.0), (1e20, 1e20)])
def test_float32_far_from_one(of_A, of_b):
    A, b = draw(30, 30, dtype=torch.float32), draw(30, dtype=torch.float32, seed=1)
    exact = torch.linalg.solve(A.double(), b.double())
    assert torch.allclose(solve(A * of_A, b * of_b).double() * (of_A / of_b), exact, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("scale", [1e-200, 1e-100, 1e100, 1e200])
def test_the_residual_is_measured_where_its_square_leaves_the_range(scale):
    A = torch.randn(30, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    b = torch.ones(30, dtype=torch.float64)
    x, info = solve(A * scale, b, return_info=True)
    assert 0 < info.error < 1e-14
    torch.testing.assert_close(A @ (x * scale), b, rtol=1e-12, atol=1e-12)


def test_columns_of_any_size_have_a_residual_of_their_own():
    A = torch.randn(30, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sizes = torch.tensor([1e-250, 1.0, 1e250], dtype=torch.float64)
    X, info = solve(A, torch.ones(30, 3, dtype=torch.float64) * sizes, return_info=True)
    assert 0 < info.error < 1e-14
    torch.testing.assert_close(A @ (X / sizes), torch.ones(30, 3, dtype=torch.float64), rtol=1e-12, atol=1e-12)
