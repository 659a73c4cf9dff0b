"""What every structure owes: the same checks for each of them, against matrices computed without the library."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from resolvent.operators import Operator

_HERE = runpy.run_path(str(Path(__file__).with_name("structures.py")))
CASES, draw = _HERE["CASES"], _HERE["draw"]
F32, F64, C64, C128 = torch.float32, torch.float64, torch.complex64, torch.complex128

PAIRS = [(case, dtype) for case in CASES for dtype in ((F64,) if case.real else (F64, C128))]
both = pytest.mark.parametrize(("case", "dtype"), PAIRS, ids=[f"{c.name}-{str(d)[6:]}" for c, d in PAIRS])
every = pytest.mark.parametrize("case", CASES, ids=[c.name for c in CASES])
_CONVERTIBLE = [c for c in CASES if c.converts]
convertible = pytest.mark.parametrize("case", _CONVERTIBLE, ids=[c.name for c in _CONVERTIBLE])


def made(case, dtype, grad=False):
    data = tuple(t.requires_grad_(grad) for t in case.data(draw(dtype)))
    with torch.no_grad():
        dense = case.dense(dtype, *data)
    return case.build(dtype, *data), dense, data


def operand(*shape, dtype=F64, seed=5):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def close(found, expected, tolerance=1e-12):
    torch.testing.assert_close(found, expected.broadcast_to(found.shape), atol=tolerance, rtol=tolerance)


@both
def test_dense_and_shape(case, dtype):
    A, dense, _ = made(case, dtype)
    assert isinstance(A, Operator)
    assert A.shape == dense.shape and A.dtype == dtype and A.ndim == dense.ndim
    assert A.to_dense().shape == dense.shape
    close(A.to_dense(), dense)


@both
def test_products(case, dtype):
    A, dense, _ = made(case, dtype)
    m, n = A.shape[-2:]
    x, X, many = operand(n, dtype=dtype), operand(n, 3, dtype=dtype), operand(3, 1, n, 2, dtype=dtype)
    assert (A @ x).shape == (*A.batch_shape, m)
    close(A @ x, dense @ x)
    close(A @ X, dense @ X)
    assert (A @ X).shape == (dense @ X).shape
    assert (A @ many).shape == (dense @ many).shape
    close(A @ many, dense @ many)
    close(A @ operand(n, 0, dtype=dtype), operand(*A.batch_shape, m, 0, dtype=dtype))
    close(operand(m, dtype=dtype) @ A, operand(m, dtype=dtype) @ dense)
    close(operand(2, m, dtype=dtype) @ A, operand(2, m, dtype=dtype) @ dense)


@both
def test_strided_operands_are_read_as_they_are(case, dtype):
    A, dense, _ = made(case, dtype)
    n = A.shape[-1]
    transposed, cut = operand(3, n, dtype=dtype).mT, operand(2 * n, 4, dtype=dtype)[::2, 1:3]
    for X in (transposed, cut, operand(n, 1, dtype=dtype).expand(n, 2)):
        before = X.clone()
        close(A @ X, dense @ X)
        assert torch.equal(X, before)


@both
def test_adjoint_transpose_conjugate(case, dtype):
    A, dense, _ = made(case, dtype)
    m, n = A.shape[-2:]
    x, y = operand(n, 2, dtype=dtype), operand(m, 2, dtype=dtype, seed=6)
    close(((A @ x).conj() * y).sum(-2), (x.conj() * (A.H @ y)).sum(-2))
    assert A.H.shape == dense.mH.shape
    close(A.H @ y, dense.mH @ y)
    close(A.H.to_dense(), dense.mH)
    close(A.H.H.to_dense(), dense)
    close(A.T.to_dense(), dense.mT)
    close(A.T @ y, dense.mT @ y)
    close(A.conj().to_dense(), dense.conj())
    close(A.conj() @ x, dense.conj() @ x)


@every
def test_real_and_complex_mix(case):
    A, dense, _ = made(case, F64)
    close(A @ operand(A.shape[-1], 2, dtype=C128), dense.to(C128) @ operand(A.shape[-1], 2, dtype=C128))
    assert (A @ operand(A.shape[-1], 2)).dtype == F64
    if not case.real:
        B, dense, _ = made(case, C128)
        close(B @ operand(B.shape[-1], 2), dense @ operand(B.shape[-1], 2).to(C128))


@convertible
def test_single_precision_stays_and_is_accurate(case):
    A, dense, _ = made(case, F64)
    B = A.to(F32)
    X = operand(A.shape[-1], 3)
    assert B.dtype == F32 and (B @ X.float()).dtype == F32 and (B.H @ operand(A.shape[-2], 1).float()).dtype == F32
    close((B @ X.float()).double(), dense @ X, 2e-5)
    close(B.to_dense().double(), dense, 2e-6)
    data = tuple(t.float() for t in case.data(draw(F64)))
    assert case.build(F32, *data).dtype == F32


@convertible
def test_conversion_keeps_facts_and_entries(case):
    A, dense, _ = made(case, F64)
    B = A.to(C128)
    assert B.dtype == C128 and type(B) is type(A)
    assert (B.hermitian, B.positive, B.unitary) == (A.hermitian, A.positive, A.unitary)
    close(B.to_dense(), dense.to(C128))
    assert A.to("cpu").device.type == "cpu"
    if not case.real:
        C = made(case, C128)[0]
        assert C.to(F32).dtype == C64


@both
def test_entries(case, dtype):
    A, dense, _ = made(case, dtype)
    m, n = A.shape[-2:]
    rows, cols = torch.tensor([m - 1, 0, 0]), torch.tensor([1, -1, 0, 1])
    close(A[rows, cols], dense[..., rows, :][..., cols])
    assert A[rows, cols].shape == (*A.batch_shape, 3, 4)
    close(A[0, :], dense[..., 0, :])
    close(A[:, -1], dense[..., -1])
    close(A[1:, :2], dense[..., 1:, :2])
    close(A[m - 1, n - 1], dense[..., -1, -1])
    close(A[torch.arange(m) > 0, [0, 1]], dense[..., 1:, :2])
    assert A[[], :].shape == (*A.batch_shape, 0, n)
    with pytest.raises(IndexError, match="row"):
        A[m, 0]


@both
def test_diagonal_trace_and_gram(case, dtype):
    A, dense, _ = made(case, dtype)
    d, trace = A._diagonal(), A._trace()
    if d is not None:
        close(d, dense.diagonal(dim1=-2, dim2=-1))
        assert d.shape == (*A.batch_shape, min(A.shape[-2:]))
    if trace is not None:
        close(trace, dense.diagonal(dim1=-2, dim2=-1).sum(-1))
        assert trace.shape == A.batch_shape
    X = operand(A.shape[-1], 3, dtype=dtype)
    close(A._gram(X), dense.mH @ (dense @ X))


@both
def test_facts_are_true(case, dtype):
    A, dense, _ = made(case, dtype)
    for name in case.facts:
        assert getattr(A, name), name
    if A.hermitian:
        close(dense, dense.mH)
        assert A.H is A
    if A.positive:
        assert torch.linalg.eigvalsh(dense).min() > -1e-12
    if A.unitary:
        close(dense.mH @ dense, torch.eye(A.shape[-1], dtype=dtype))
        assert A.H.unitary
    B = A.H
    if B.hermitian or B.positive:
        close(B.to_dense(), B.to_dense().mH)


@both
def test_gradients(case, dtype):
    A, _, data = made(case, dtype, grad=True)
    m, n = A.shape[-2:]
    X, Y = operand(n, 2, dtype=dtype).requires_grad_(), operand(m, 2, dtype=dtype).requires_grad_()

    def forward(X, *tensors):
        return case.build(dtype, *tensors) @ X

    def backward(Y, *tensors):
        return case.build(dtype, *tensors).H @ Y

    assert torch.autograd.gradcheck(forward, (X, *data), fast_mode=True)
    assert torch.autograd.gradcheck(backward, (Y, *data), fast_mode=True)
    assert A.requires_grad == bool(data)
    assert len(A.tensors()) >= len(data)


@both
def test_gradients_of_slices(case, dtype):
    A, _, data = made(case, dtype, grad=True)
    if not data:
        return
    weights = operand(3, 2, dtype=dtype)
    rows, cols = torch.tensor([1, 0, 1]), torch.tensor([0, 1])
    found = torch.autograd.grad((A[rows, cols] * weights).real.sum(), data, retain_graph=True, allow_unused=True)
    full = torch.zeros(3, A.shape[-2], dtype=dtype)
    full[torch.arange(3), rows] = 1
    picked = torch.zeros(A.shape[-1], 2, dtype=dtype)
    picked[cols, torch.arange(2)] = 1
    expected = torch.autograd.grad((full @ (A @ picked) * weights).real.sum(), data)
    for f, e in zip(found, expected, strict=True):
        close(torch.zeros_like(e) if f is None else f, e)


@both
def test_an_adjoint_taken_without_autograd_still_has_gradients(case, dtype):
    A, _, data = made(case, dtype, grad=True)
    if not data:
        return
    y, z = operand(A.shape[-2], 1, dtype=dtype), operand(A.shape[-1], 1, dtype=dtype, seed=6)
    with torch.no_grad():
        _ = A.H @ y
    found = torch.autograd.grad(((A.H @ y) * z.conj()).real.sum(), data, retain_graph=True)
    expected = torch.autograd.grad((y.conj() * (A @ z)).real.sum(), data)
    for f, e in zip(found, expected, strict=True):
        close(f, e)


@both
def test_writes_to_the_data_are_seen(case, dtype):
    A, _, data = made(case, dtype)
    x, y = operand(A.shape[-1], dtype=dtype), operand(A.shape[-2], dtype=dtype)
    _ = A @ x, A.H @ y
    # A matrix computed from the data before it was given is no part of the operator.
    if case.name == "Kronecker positive" or "alone" in case.name or "symmetric" in case.name:
        return
    for t in data:
        t.mul_(2)
    dense = case.dense(dtype, *data)
    close(A.to_dense(), dense)
    close(A @ x, dense @ x)
    close(A.H @ y, dense.mH @ y)


@every
def test_detach(case):
    A, dense, data = made(case, F64, grad=True)
    B = A.detach()
    assert B.requires_grad is False and type(B) is type(A)
    assert not (B @ operand(A.shape[-1])).requires_grad
    if data:
        assert (A @ operand(A.shape[-1])).requires_grad
    close(B.to_dense(), dense)


@every
def test_repr_shows_the_tree(case):
    A = made(case, F64)[0]
    head, *rest = repr(A).splitlines()
    assert head.startswith(type(A).__name__) and "x".join(map(str, A.shape)) in head and "float64" in head
    children = [p for p in A._parts if isinstance(p, Operator)]
    assert sum(line.startswith(("├─", "└─")) for line in rest) == len(children)


@every
def test_arrays_in_arrays_out(case):
    A, dense, data = made(case, F64)
    n = A.shape[-1]
    assert isinstance(A @ np.ones(n), np.ndarray)
    assert isinstance(A @ torch.ones(n, dtype=F64), torch.Tensor)
    assert isinstance(np.ones(A.shape[-2]) @ A, np.ndarray)
    np.testing.assert_allclose(A @ np.ones((n, 2)), (dense @ torch.ones(n, 2, dtype=F64)).numpy(), atol=1e-12)
    if case.converts:
        np.testing.assert_allclose(A.to(F32) @ np.ones(n), (dense @ torch.ones(n, dtype=F64)).numpy(), atol=1e-5)
    if data and case.numpy:
        B = case.build(F64, *(t.numpy() for t in data))
        if case.name not in {"Kronecker mixed", "BlockDiagonal square", "Block square", "Sum"}:
            assert B.kind == "numpy"
        assert B.H.kind == B.kind and B.detach().kind == B.kind
        if B.kind == "numpy":
            assert isinstance(B.to_dense(), np.ndarray)
            assert isinstance(B[0, :], np.ndarray)
        np.testing.assert_allclose(np.asarray(B.to_dense()), dense.numpy(), atol=1e-12)


@every
def test_wrong_operands_are_named(case):
    A = made(case, F64)[0]
    n = A.shape[-1]
    for bad in (torch.ones(n + 1, dtype=F64), torch.ones(n + 1, 2, dtype=F64), torch.ones(2, n + 1, 1, dtype=F64)):
        with pytest.raises(ValueError, match=rf"X must have shape .* n = {n}"):
            A @ bad
    with pytest.raises(TypeError, match="X has dtype"):
        A @ torch.ones(n)
    with pytest.raises(ValueError, match="X must have shape"):
        torch.ones(A.shape[-2] + 1, dtype=F64) @ A


@every
def test_composition(case):
    A, dense, _ = made(case, F64)
    m, n = A.shape[-2:]
    B = operand(n, m)
    x = operand(m, 1)
    close(A @ B, dense @ B)
    C = 2 * (A.H @ A) - A.H @ A
    assert isinstance(C, Operator)
    close(C.to_dense(), dense.mH @ dense, 1e-11)
    close((A @ A.H) @ x, dense @ (dense.mH @ x), 1e-11)
    if (A.H @ A).positive:
        assert torch.linalg.eigvalsh(dense.mH @ dense).min() > -1e-10


@every
def test_cost_is_a_number(case):
    A = made(case, F64)[0]
    assert isinstance(A.cost, float | int) and A.cost >= 0
