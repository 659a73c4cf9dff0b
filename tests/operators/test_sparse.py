from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from resolvent.operators import HermitianSparse, Sparse, as_operator, grid_graph
from resolvent.operators.csr import asymmetry
from resolvent.operators.sparse import _Sampled

DTYPES = [torch.float32, torch.float64, torch.complex64, torch.complex128]


def random_dense(m: int, n: int, dtype: torch.dtype, density: float = 0.15, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    a = torch.randn(m, n, dtype=dtype, generator=g)
    return a * (torch.rand(m, n, generator=g) < density)


def close(got: torch.Tensor, want: torch.Tensor) -> None:
    tolerance = 200 * torch.finfo(want.dtype).eps
    assert got.dtype == want.dtype and got.shape == want.shape
    assert float((got - want).abs().max()) <= tolerance * float(want.abs().max())


@pytest.mark.parametrize("dtype", DTYPES)
def test_products_of_every_width_and_both_directions(dtype):
    D = random_dense(150, 90, dtype)
    A = Sparse(D.to_sparse())
    for k in (1, 2, 3, 8, 31):
        X, Y = torch.randn(90, k, dtype=dtype), torch.randn(150, k, dtype=dtype)
        close(A @ X, D @ X)
        close(A.H @ Y, D.mH @ Y)
        close(A._gram(X), D.mH @ (D @ X))
        close(A._pattern.sampled(Y, X), (Y @ X.mH)[A._pattern.rows, A.indices.long()])
    x = torch.randn(90, dtype=dtype)
    close(A @ x, D @ x)
    close(A.T @ Y, D.mT @ Y)


def banded(n: int) -> sp.csr_array:
    diagonals = [np.arange(1.0, n), np.arange(1.0, n + 1), -np.ones(n - 7)]
    return sp.diags_array(diagonals, offsets=[-1, 0, 7], shape=(n, n)).tocsr()


@pytest.mark.parametrize("threads", [2, 3, 4, 7])
@pytest.mark.parametrize("local", [True, False])
def test_adjoint_by_several_threads(threads, local, monkeypatch):
    # The plan is asked for many threads whatever this machine has: the blocks are what is tested.
    n = 400
    M = banded(n) if local else sp.random_array((n, n), density=0.05, rng=np.random.default_rng(1)).tocsr()
    A = Sparse(M)
    monkeypatch.setattr(A._pattern, "_threads", lambda k: threads)
    plan = A._pattern._plan(threads)
    assert plan.phases == (2 if local else 1)
    assert (plan.spare == 0) == local
    for k in (1, 5):
        X = np.random.default_rng(2).standard_normal((n, k))
        np.testing.assert_allclose(A @ X, M @ X, rtol=1e-12, atol=1e-9)
        np.testing.assert_allclose(A.H @ X, M.T @ X, rtol=1e-12, atol=1e-9)
        G = A._gram(torch.from_numpy(X)).numpy()
        np.testing.assert_allclose(G, M.T @ (M @ X), rtol=1e-10, atol=1e-6)


def test_every_source_of_a_sparse_matrix():
    D = random_dense(20, 30, torch.float64)
    x = torch.randn(30, dtype=torch.float64)
    for a in (D.to_sparse(), D.to_sparse_csr(), D.to_sparse_csc()):
        close(Sparse(a) @ x, D @ x)
        assert Sparse(a).kind == "torch"
    for form in ("csr", "csc", "coo", "lil", "dok", "bsr", "dia"):
        A = as_operator(sp.coo_array(D.numpy()).asformat(form))
        assert A.kind == "numpy" and isinstance(A.to_dense(), np.ndarray)
        np.testing.assert_array_equal(A.to_dense(), D.numpy())
    csr = sp.csr_matrix(D.numpy())
    raw = Sparse((csr.indptr, csr.indices, csr.data, csr.shape))
    assert raw.nnz == csr.nnz
    np.testing.assert_array_equal(raw.to_dense(), D.numpy())


def test_csr_arrays_are_not_copied():
    M = banded(50)
    assert Sparse(M).values.data_ptr() == M.data.ctypes.data


def test_wide_indices_agree():
    D = random_dense(20, 30, torch.float64)
    A = Sparse(D.to_sparse())
    pattern = A._pattern
    pattern.indptr, pattern.indices = pattern.indptr.long(), pattern.indices.long()
    X = torch.randn(30, 3, dtype=torch.float64)
    close(A @ X, D @ X)
    close(A.H @ (D @ X), D.mT @ (D @ X))


def test_repeated_entries_add_up():
    A = Sparse((np.array([0, 3, 4]), np.array([1, 0, 1, 1]), np.array([1.0, 2.0, 3.0, 5.0]), (2, 2)))
    want = np.array([[2.0, 4.0], [0.0, 5.0]])
    np.testing.assert_array_equal(A.to_dense(), want)
    np.testing.assert_array_equal(A[:, :], want)
    np.testing.assert_array_equal(A @ np.eye(2), want)
    np.testing.assert_array_equal(A._diagonal().numpy(), [2.0, 5.0])


def test_blocks_of_any_layout():
    D = random_dense(40, 40, torch.float64)
    A = Sparse(D.to_sparse())
    wide = torch.randn(40, 20, dtype=torch.float64)
    for X in (wide[:, 3:9], wide[:, 5:6], wide[:, ::2], wide.T.contiguous().T, wide[:1].expand(40, 20), wide.flip(0)):
        close(A @ X, D @ X)
        close(A.H @ X, D.T @ X)
    batch = torch.randn(2, 3, 40, 4, dtype=torch.float64)
    close(A @ batch, D @ batch)
    close(A.H @ batch, D.T @ batch)
    Z = random_dense(40, 40, torch.complex128, 1.0)
    close(A @ Z, D.to(Z.dtype) @ Z)
    C = Sparse(Z.to_sparse())
    close(C @ Z.conj().mT, Z @ Z.mH)


def test_empty_shapes():
    A = Sparse(torch.zeros(3, 4).to_sparse())
    assert torch.equal(A @ torch.ones(4), torch.zeros(3))
    assert torch.equal(A.H @ torch.ones(3, 2), torch.zeros(4, 2))
    assert (A @ torch.ones(4, 0)).shape == (3, 0)
    assert (A @ torch.ones(0, 4, 2)).shape == (0, 3, 2)
    none = Sparse((torch.zeros(1, dtype=torch.long), torch.zeros(0, dtype=torch.long), torch.zeros(0), (0, 5)))
    assert (none @ torch.ones(5, 2)).shape == (0, 2)
    assert torch.equal(none.H @ torch.ones(0, 2), torch.zeros(5, 2))


def test_entries_and_diagonal():
    D = random_dense(30, 20, torch.float64, 0.3)
    A = Sparse(D.to_sparse())
    rows, cols = torch.tensor([3, 3, 0, 29]), torch.tensor([19, 2, 2, 5, 0])
    assert torch.equal(A[rows, cols], D[rows][:, cols])
    assert torch.equal(A.H[cols, rows], D.T[cols][:, rows])
    assert torch.equal(A[-1], D[-1]) and float(A[3, 4]) == float(D[3, 4])
    assert torch.equal(A[5:5, :], D[5:5, :])
    assert torch.equal(A._diagonal(), D.diagonal())
    assert A.nnz == int((D != 0).sum()) and A.cost == A.nnz


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("adjoint", [False, True])
def test_gradients_to_the_second_order(dtype, adjoint):
    A = Sparse(random_dense(4, 3, dtype, 0.6).to_sparse())
    values = A.values.clone().requires_grad_()
    X = torch.randn(4 if adjoint else 3, 2, dtype=dtype, requires_grad=True)

    def product(v, X):
        B = A.with_values(v)
        return (B.H if adjoint else B) @ X

    assert torch.autograd.gradcheck(product, (values, X))
    assert torch.autograd.gradgradcheck(product, (values, X))
    assert torch.autograd.gradcheck(lambda v, X: A.with_values(v)._gram(X), (values, X.detach()[:3].requires_grad_()))


def test_gradients_of_a_sampling():
    A = Sparse(random_dense(6, 5, torch.float64, 0.4).to_sparse())
    P, Q = (torch.randn(s, 2, dtype=torch.float64, requires_grad=True) for s in (6, 5))
    assert torch.autograd.gradcheck(lambda P, Q: _Sampled.apply(P, Q, A._pattern), (P, Q))


def test_gradients_of_a_declared_hermitian_matrix():
    D = random_dense(4, 4, torch.float64, 0.4)
    D = D + D.T
    A = Sparse(D.to_sparse(), hermitian=True)
    assert A.H is A
    X = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda X: A @ X, (X,))
    values = A.values.clone().requires_grad_()
    B = A._map(lambda t: values)
    assert B.hermitian
    assert torch.autograd.gradgradcheck(lambda v, X: A._map(lambda t: v) @ X, (values, X))


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr, torch.sparse_csc])
def test_gradients_reach_the_tensor_that_was_given(layout):
    D = random_dense(6, 5, torch.float64, 0.4).requires_grad_()
    X = torch.randn(5, 3, dtype=torch.float64)
    A = Sparse(D.to_sparse(layout=layout))
    (A @ X).square().sum().backward()
    E = D.detach().clone().requires_grad_()
    (E @ X).square().sum().backward()
    close(D.grad, E.grad * (D.detach() != 0))


def test_the_torch_path_agrees_with_the_kernels():
    D = random_dense(30, 20, torch.complex128, 0.3)
    A = Sparse(D.to_sparse())
    X, Y = torch.randn(20, 3, dtype=D.dtype), torch.randn(30, 3, dtype=D.dtype)
    close(A._pattern._torch_product(A.values, X, False), D @ X)
    close(A._pattern._torch_product(A.values, Y, True), D.mH @ Y)
    close(A._pattern._torch_sampled(Y, X), A._pattern.sampled(Y, X))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", DTYPES)
def test_cuda(dtype):
    D = random_dense(150, 90, dtype)
    A, X, Y = Sparse(D.to_sparse()).to("cuda"), torch.randn(90, 3, dtype=dtype), torch.randn(150, 3, dtype=dtype)
    assert (A @ X.cuda()).device.type == "cuda"
    close((A @ X.cuda()).cpu(), D @ X)
    close((A.H @ Y.cuda()).cpu(), D.mH @ Y)
    close(A._gram(X.cuda()).cpu(), D.mH @ (D @ X))
    close(A[2:5, :].cpu(), D[2:5])
    values = A.values.clone().requires_grad_()
    (A.with_values(values) @ X.cuda()).abs().square().sum().backward()
    close(values.grad.cpu(), 2 * ((D @ X) @ X.mH)[A._pattern.rows.cpu(), A.indices.cpu().long()])


def test_hermitian_is_checked_entry_by_entry():
    D = random_dense(40, 40, torch.complex128)
    H = D + D.mH
    assert Sparse(H.to_sparse(), hermitian=True).hermitian
    as_operator(H.to_sparse_csc(), hermitian=True)
    broken = H.clone()
    i, j = (H.triu(1) != 0).nonzero()[-1].tolist()
    for entry in (H[i, j] * (1 + 1e-9), torch.zeros((), dtype=H.dtype)):
        broken[i, j] = entry
        with pytest.raises(ValueError, match="Hermitian"):
            Sparse(broken.to_sparse(), hermitian=True)
        broken[i, j], broken[j, i] = H[i, j], entry
        with pytest.raises(ValueError, match="Hermitian"):
            Sparse(broken.to_sparse()).check_hermitian()
        broken[j, i] = H[j, i]
    imaginary = torch.eye(3, dtype=torch.complex128) * 1j
    with pytest.raises(ValueError, match="Hermitian"):
        Sparse(imaginary.to_sparse()).check_hermitian()
    with pytest.raises(ValueError, match="square"):
        Sparse(torch.ones(2, 3).to_sparse()).check_hermitian()


def test_hermitian_with_unsorted_rows_takes_the_slow_way():
    indptr, indices, values = np.array([0, 2, 4]), np.array([1, 0, 1, 0]), np.array([2.0, 1.0, 3.0, 2.0])
    A = Sparse((indptr, indices, values, (2, 2)), hermitian=True)
    assert asymmetry(*A._pattern._arrays, values) == -1
    with pytest.raises(ValueError, match="differ by 3"):
        Sparse((indptr, indices, np.array([2.0, 1.0, 3.0, 5.0]), (2, 2)), hermitian=True)


def test_conversions_keep_the_pattern():
    A = grid_graph((3, 4), dtype=torch.float64)
    single = A.to(torch.float32)
    assert single.dtype == torch.float32 and single.hermitian and isinstance(single, Sparse)
    assert single._pattern is A._pattern
    B = Sparse(random_dense(4, 5, torch.float64).to_sparse())
    close(B.H.to(torch.float32).to_dense(), B.to_dense().T.float())
    assert B.H.H is B and B.H.shape == (5, 4)
    assert torch.equal(B.H._diagonal(), B._diagonal())


@pytest.mark.parametrize(
    ("a", "error", "match"),
    [
        (([0, 1, 2], [0, 5], [1.0, 1.0], (2, 2)), ValueError, "indices must lie in 0 to 1"),
        (([0, 1, 2], [0, -1], [1.0, 1.0], (2, 2)), ValueError, "indices must lie in 0 to 1"),
        (([0, 3, 2], [0, 1], [1.0, 1.0], (2, 2)), ValueError, "indptr must rise"),
        (([1, 1, 2], [0, 1], [1.0, 1.0], (2, 2)), ValueError, "indptr must rise"),
        (([0, 2], [0, 1], [1.0, 1.0], (2, 2)), ValueError, "indptr must have m . 1 = 3"),
        (([0, 1, 2], [0, 1], [1.0, 1.0, 1.0], (2, 2)), ValueError, "values must be as many"),
        (([0, 1, 2], [0.0, 1.0], [1.0, 1.0], (2, 2)), ValueError, "indices must be a vector of integers"),
        (([0, 1, 2], [0, 1], [1.0, float("nan")], (2, 2)), ValueError, "NaN"),
        (torch.eye(2), TypeError, "layout"),
        (torch.eye(2).to(torch.float16).to_sparse(), TypeError, "float16"),
        (torch.ones(2, 2, 2).to_sparse(), ValueError, "shape"),
        ("matrix", TypeError, "str"),
    ],
)
def test_bad_input(a, error, match):
    with pytest.raises(error, match=match):
        Sparse(a)


def test_bad_operands():
    A = Sparse(torch.ones(2, 3).to_sparse())
    with pytest.raises(ValueError, match="n = 3"):
        A @ torch.ones(2)
    with pytest.raises(ValueError, match=r"\(6,\)"):
        A.with_values(torch.ones(5))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.complex128])
@pytest.mark.parametrize("reach", [40, 20_000])
def test_one_triangle_multiplies_like_both(dtype: torch.dtype, reach: int) -> None:
    n, g = 20_000, torch.Generator().manual_seed(0)
    rows = torch.randint(0, n, (12 * n,), generator=g)
    cols = (rows + torch.randint(0, reach, (12 * n,), generator=g)) % n
    values = torch.randn(12 * n, dtype=dtype, generator=g)
    W = torch.sparse_coo_tensor(torch.stack([rows, cols]), values, (n, n))
    whole = Sparse((W + W.mH).coalesce(), hermitian=True)
    half = HermitianSparse(whole)
    assert half.nnz < 0.51 * whole.nnz
    tolerance = 2e-3 if dtype == torch.float32 else 1e-11
    for k in (1, 3, 16):
        X = torch.randn(n, k, dtype=dtype, generator=g)
        torch.testing.assert_close(half @ X, whole @ X, rtol=0, atol=tolerance)
    torch.testing.assert_close(half.to_sparse().values, whole.values)
    torch.testing.assert_close(half[:50, :70], whole[:50, :70])


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_gradients_of_one_triangle(dtype: torch.dtype) -> None:
    U = torch.triu(torch.ones(5, 5, dtype=dtype))
    U[1, 3] = U[0, 2] = 0
    A = HermitianSparse(U.to_sparse())
    X = torch.randn(5, 2, dtype=dtype, generator=torch.Generator().manual_seed(0), requires_grad=True)
    values = torch.arange(1.0, A.nnz + 1).to(dtype).requires_grad_()
    product = lambda v, X: A._map(lambda _: v) @ X  # noqa: E731
    if dtype == torch.float64:
        assert torch.autograd.gradcheck(product, (values, X))
        assert torch.autograd.gradgradcheck(product, (values, X))
    assert torch.autograd.gradcheck(lambda X: A @ X, (X,))


def test_bad_triangles_are_named() -> None:
    with pytest.raises(ValueError, match=r"a must be square, got shape \(2, 3\)"):
        HermitianSparse(torch.ones(2, 3).to_sparse())
    with pytest.raises(ValueError, match="a must be Hermitian"):
        HermitianSparse(torch.tensor([[1.0, 2.0], [3.0, 1.0]]).to_sparse())
    with pytest.raises(ValueError, match="a must have a real diagonal"):
        HermitianSparse(torch.tensor([[1j, 2.0], [0.0, 1.0]]).to_sparse())
    lower = HermitianSparse(torch.tensor([[1.0, 0.0], [2.0, 1.0]]).to_sparse())
    assert lower.to_dense().tolist() == [[1.0, 2.0], [2.0, 1.0]]
