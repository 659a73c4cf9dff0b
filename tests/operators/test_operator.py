"""The base: products, kinds, facts, entries, algebra and errors."""

import numpy as np
import pytest
import scipy.sparse.linalg
import torch

import resolvent
from resolvent.operators import Dense, Diagonal, Identity, MatrixFree, Operator, Product, Sum, Zero, as_operator

F64 = torch.float64


@pytest.fixture
def a() -> torch.Tensor:
    return torch.randn(5, 3, dtype=F64, generator=torch.Generator().manual_seed(1))


def test_the_kind_of_the_operand_goes_out(a):
    A = as_operator(a)
    assert isinstance(A @ torch.ones(3, dtype=F64), torch.Tensor)
    assert isinstance(A @ np.ones(3), np.ndarray)
    assert isinstance(np.ones(5) @ A, np.ndarray)
    np.testing.assert_allclose(np.ones(5) @ A, a.numpy().sum(0))
    assert isinstance(as_operator(a.numpy()).to_dense(), np.ndarray)
    assert isinstance(A @ Identity(3, dtype=F64), Operator)


def test_memory_is_shared_not_copied():
    a = np.zeros((2, 2))
    A = as_operator(a)
    a[0, 0] = 7
    assert A[0, 0] == 7


def test_real_operator_times_complex_vector(a):
    x = torch.randn(3, 2, dtype=torch.complex128)
    torch.testing.assert_close(as_operator(a) @ x, a.to(x.dtype) @ x)
    torch.testing.assert_close(as_operator(a.to(x.dtype)) @ x.real, a.to(x.dtype) @ x.real.to(x.dtype))


def test_mixed_precision_raises_for_torch_and_promotes_for_numpy(a):
    with pytest.raises(TypeError, match="X has dtype"):
        as_operator(a) @ torch.ones(3)
    assert (as_operator(a.float().numpy()) @ np.ones(3)).dtype == np.float64


@pytest.mark.parametrize("shape", [(4,), (4, 1), (2, 4, 3)])
def test_a_wrong_operand_is_named(a, shape):
    with pytest.raises(ValueError, match=r"X must have shape .* n = 3"):
        as_operator(a) @ torch.ones(shape, dtype=F64)


def test_batches_broadcast_like_torch():
    a = torch.randn(2, 1, 4, 3, dtype=F64)
    x = torch.randn(5, 3, 2, dtype=F64)
    torch.testing.assert_close(as_operator(a) @ x, a @ x)
    torch.testing.assert_close(as_operator(a) @ x[0, :, 0], (a @ x[0, :, :1])[..., 0])


def test_entries_by_any_index(a):
    for A in (as_operator(a), MatrixFree(a.shape, lambda X: a @ X, lambda Y: a.mT @ Y, dtype=F64)):
        torch.testing.assert_close(A[1:4, [0, 2]], a[1:4][:, [0, 2]])
        torch.testing.assert_close(A[-1], a[-1])
        torch.testing.assert_close(A[:, 1], a[:, 1])
        torch.testing.assert_close(A[torch.tensor([True, False, True, False, False])], a[[0, 2]])
        assert float(A[2, -1]) == pytest.approx(float(a[2, -1]))
        with pytest.raises(IndexError, match="row index 5 is out of range"):
            A[5]


def test_adjoint_of_the_adjoint_is_the_operator_itself(a):
    A = as_operator(a)
    assert A.H.H is A
    S = A.H @ A
    assert S.positive and S.H is S
    assert (A @ A.H).positive and not (A.H @ as_operator(a.clone())).positive


def test_algebra_equals_dense_algebra(a):
    A, B = as_operator(a), as_operator(torch.randn(5, 3, dtype=F64))
    b = B.to_dense()
    torch.testing.assert_close((2 * A - B / 4).to_dense(), 2 * a - b / 4)
    torch.testing.assert_close((A.T @ B).to_dense(), a.T @ b)
    torch.testing.assert_close(((A.H @ B) ** 3).to_dense(), torch.linalg.matrix_power(a.T @ b, 3))
    torch.testing.assert_close(((A.H @ B) ** 0).to_dense(), torch.eye(3, dtype=F64))
    torch.testing.assert_close((1j * A).H.to_dense(), (1j * a).mH)
    torch.testing.assert_close((1j * A).T.to_dense(), (1j * a).mT.resolve_conj())
    assert isinstance(A + B + A, Sum) and len((A + B + A)._parts) == 3
    assert (A + Zero(5, 3, dtype=F64)) is A
    assert (A @ Identity(3, dtype=F64)) is A
    assert isinstance(sum([A, B]), Sum)


def test_facts_follow_the_algebra():
    P = Diagonal(torch.tensor([1.0, 2.0], dtype=F64))
    assert P.positive and (P + P).positive and isinstance(P + P, Diagonal)
    assert not (-P).positive and (-P).hermitian
    assert not (1j * P).hermitian
    assert not Diagonal(torch.tensor([1j, 2])).hermitian
    assert (P**2).positive and isinstance(P @ P, Product)
    assert as_operator(torch.eye(2), positive=True).hermitian


def test_declaring_what_is_false_raises(a):
    with pytest.raises(ValueError, match="must be Hermitian"):
        as_operator(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), hermitian=True)
    with pytest.raises(ValueError, match="must be square"):
        as_operator(a, hermitian=True)
    turn = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=F64)
    skew = MatrixFree((2, 2), lambda X: turn @ X, lambda X: turn.T @ X, dtype=F64)
    with pytest.raises(ValueError, match="must be Hermitian"):
        skew.check_hermitian()
    assert Dense(torch.eye(2)).declare(hermitian=True).declare(hermitian=False).hermitian is False


@pytest.mark.parametrize("bad", ["text", object(), None, 3, {1: 2}])
def test_what_does_not_multiply_is_refused(bad):
    with pytest.raises((TypeError, ValueError), match="a must"):
        as_operator(bad)


def test_nan_and_shape_are_named():
    with pytest.raises(ValueError, match=r"a has 1 entries that are NaN or infinite, the first at \(1, 0\)"):
        as_operator(torch.tensor([[1.0, 0.0], [float("nan"), 1.0]]))
    with pytest.raises(ValueError, match="a must have shape"):
        as_operator(torch.ones(3))
    with pytest.raises(ValueError, match="must match, got shapes"):
        as_operator(torch.ones(2, 3)) @ as_operator(torch.ones(2, 3))
    with pytest.raises(ValueError, match="one shape"):
        as_operator(torch.ones(2, 3)) + as_operator(torch.ones(3, 2))
    with pytest.raises(ValueError, match="NaN or infinite"):
        float("inf") * Identity(2)
    with pytest.raises(ValueError, match="p must be an int"):
        Identity(2) ** -1
    with pytest.raises(TypeError, match="layout"):
        as_operator(torch.eye(4).to_sparse_bsr((2, 2)))


def test_scipy_linear_operator_keeps_numpy(a):
    S = scipy.sparse.linalg.aslinearoperator(a.numpy())
    A = as_operator(S)
    assert A.kind == "numpy"
    np.testing.assert_allclose(A @ np.ones(3), a.numpy() @ np.ones(3))
    np.testing.assert_allclose((A.H @ np.eye(5)), a.numpy().T)
    assert isinstance(A[0, 0], float)


def test_callables_are_checked():
    with pytest.raises(TypeError, match="matmul must be callable"):
        MatrixFree((2, 2), None)
    with pytest.raises(ValueError, match="adjoint was not given"):
        _ = MatrixFree((2, 2), lambda X: X, dtype=F64).H
    with pytest.raises(ValueError, match="matmul must return shape"):
        MatrixFree((2, 2), lambda X: X[:1], dtype=F64) @ torch.ones(2, dtype=F64)
    with pytest.raises(TypeError, match=r"matmul must return torch\.float64"):
        MatrixFree((2, 2), lambda X: X.float(), dtype=F64) @ torch.ones(2, dtype=F64)


def test_gram_in_one_pass_is_exact():
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-13), (torch.complex64, 1e-5)):
        a = torch.randn(1030, 1027, dtype=dtype, generator=torch.Generator().manual_seed(0))
        x = torch.randn(1027, 1, dtype=dtype, generator=torch.Generator().manual_seed(1))
        expected = (a.mH @ (a @ x)).to(torch.complex128)
        got = as_operator(a)._gram(x).to(torch.complex128)
        assert float((got - expected).norm() / expected.norm()) < tolerance


def test_gradients_reach_the_tensors_inside():
    d = torch.randn(3, dtype=F64, requires_grad=True)
    a = torch.randn(3, 3, dtype=F64, requires_grad=True)
    c = torch.tensor(2.0, dtype=F64, requires_grad=True)

    def f(d, a, c):
        A = c * (Diagonal(d) + Dense(a)) @ Dense(a).H
        return A @ torch.ones(3, dtype=F64), (A**2)._matmul(torch.ones(3, 1, dtype=F64))

    assert torch.autograd.gradcheck(f, (d, a, c))
    assert Diagonal(d).requires_grad and not Diagonal(d).detach().requires_grad
    assert MatrixFree((3, 3), lambda X: a @ X, dtype=F64).requires_grad is None


def test_repr_shows_the_tree(a):
    A = as_operator(a)
    text = repr(2 * (A.H @ A) + Identity(3, dtype=F64))
    assert text.splitlines() == [
        "Sum 3x3 float64 positive",
        "├─ Scaled 3x3 float64 positive by 2",
        "│  └─ Product 3x3 float64 positive",
        "│     ├─ Dense 3x5 float64",
        "│     └─ Dense 5x3 float64",
        "└─ Identity 3x3 float64 positive unitary",
    ]


def test_integers_lists_and_foreign_byte_order():
    assert as_operator([[1, 2], [3, 4]]).dtype == F64
    assert as_operator(torch.tensor([[1, 2], [3, 4]])).dtype == torch.get_default_dtype()
    big = np.arange(4.0).reshape(2, 2).astype(">f8")
    np.testing.assert_array_equal(as_operator(big).to_dense(), np.arange(4.0).reshape(2, 2))
    with pytest.raises(TypeError, match="numeric"):
        as_operator(np.array([["a", "b"]]))


def test_second_derivatives_of_a_first_order_value_raise():
    from resolvent.operators.gradient import first_order

    a = torch.eye(2, dtype=F64, requires_grad=True)
    x = torch.tensor([1.0, 0.0], dtype=F64)
    (g,) = torch.autograd.grad(first_order(torch.tensor(1.0, dtype=F64), x @ (a @ x)), a, create_graph=True)
    with pytest.raises(RuntimeError):
        g.sum().backward()


def test_public_face():
    assert resolvent.as_operator is as_operator
    assert issubclass(resolvent.ConvergenceError, RuntimeError)
