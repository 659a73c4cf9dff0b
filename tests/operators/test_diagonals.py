"""Products by diagonals: the same to the bit as those by rows, noticed writes, and when the form is not taken."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch import Tensor

from resolvent.operators import Sparse
from resolvent.operators.pattern import _OFTEN

N = 30_000
BANDS = (-700, -3, -1, 0, 1, 2, 900)


def banded(m: int = N, n: int = N, dtype: torch.dtype = torch.float64, symmetric: bool = False) -> Sparse:
    """Random bands in torch's own memory, with some entries missing."""
    g = np.random.default_rng(0)
    offsets = sorted({*BANDS, *(-b for b in BANDS)}) if symmetric else BANDS
    A = sp.diags_array([g.standard_normal(max(m, n)) for _ in offsets], offsets=offsets, shape=(m, n)).tocsr()
    A = A.multiply(abs(A) > 0.05).tocsr()
    if symmetric:
        A = (A + A.T).tocsr()
    A.sort_indices()
    parts = (torch.tensor(A.indptr), torch.tensor(A.indices), torch.tensor(A.data).to(dtype), A.shape)
    return Sparse(parts)


def vector(n: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(n, dtype=dtype, generator=torch.Generator().manual_seed(1))


def form(A: Sparse) -> object:
    return A._pattern._made.get("streamed", (None, 0, 0, None))[3]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("m", "n"), [(N, N), (N, N + 500), (N + 500, N)])
def test_same_to_the_bit(m: int, n: int, dtype: torch.dtype) -> None:
    A = banded(m, n, dtype)
    x, y = vector(n, dtype), vector(m, dtype)
    forward, adjoint, gram = A @ x, A.H @ y, A._gram(x[:, None])[:, 0]
    assert form(A) is None
    for _ in range(_OFTEN):
        again = A @ x
    assert form(A) is not None
    assert torch.equal(again, forward)
    # The scatter of the adjoint adds in another order than the gather.
    size = 20 * torch.finfo(dtype).eps
    torch.testing.assert_close(A.H @ y, adjoint, rtol=size, atol=20 * size)
    torch.testing.assert_close(A._gram(x[:, None])[:, 0], gram, rtol=size, atol=100 * size)


def test_symmetric_keeps_half() -> None:
    A = banded(symmetric=True)
    x = vector(N)
    first = A @ x
    for _ in range(_OFTEN):
        A @ x
    held = form(A)
    assert held is not None and held.mirrored and held.rows.shape == (6, N)
    assert torch.equal(A @ x, first)
    assert torch.equal(A.H @ x, first)


def test_almost_symmetric_keeps_both_halves() -> None:
    A = banded(symmetric=True)
    values = A.values.clone()
    values[1] *= 1 + 1e-15
    B = A.with_values(values)
    x = vector(N)
    first = B @ x
    for _ in range(_OFTEN):
        B @ x
    assert not form(B).mirrored
    assert torch.equal(B @ x, first)


def test_write_is_noticed() -> None:
    A = banded()
    x = vector(N)
    for _ in range(_OFTEN + 1):
        before = A @ x
    A.values.mul_(2)
    assert torch.equal(A @ x, 2 * before)
    assert form(A) is None


def test_memory_shared_with_numpy_is_read_anew() -> None:
    A = banded()
    shared = sp.csr_array((A.values.numpy().copy(), A.indices.numpy(), A.indptr.numpy()), shape=(N, N))
    B = Sparse(shared)
    x = vector(N)
    for _ in range(_OFTEN + 1):
        before = B @ x
    shared.data *= 2
    assert torch.equal(B @ x, 2 * before)


def test_scattered_entries_stay_rows() -> None:
    g = torch.Generator().manual_seed(0)
    places = torch.randint(0, N, (2, 8 * N), generator=g)
    A = Sparse(torch.sparse_coo_tensor(places, torch.randn(8 * N, generator=g), (N, N)).to(torch.float64))
    x = vector(N)
    first = A @ x
    for _ in range(_OFTEN + 1):
        assert torch.equal(A @ x, first)
    assert form(A) is None and A._pattern.by_diagonals(A.values) is None


def test_new_values_are_not_taken_for_old_ones() -> None:
    # Freed memory is given out again: an address and a version are no name. So what is counted is kept alive.
    A = banded()
    x = vector(N)
    B = A.with_values(A.values * 2)
    for _ in range(_OFTEN):
        B @ x
    assert form(B) is not None
    place, double = B.values.data_ptr(), B @ x
    del B
    gc.collect()
    assert A._pattern._made["streamed"][0].data_ptr() == place
    fresh = [torch.empty_like(A.values) for _ in range(4)]
    assert place not in [values.data_ptr() for values in fresh]
    torch.testing.assert_close(A.with_values(fresh[0].copy_(A.values * 3)) @ x, 1.5 * double)


def test_learnable_values_stay_rows() -> None:
    A = banded()
    values = A.values.clone().requires_grad_()
    B = A.with_values(values)
    x = vector(N)
    for _ in range(_OFTEN + 1):
        before = (B @ x).detach()
        B.detach() @ x
    values.data.mul_(2)
    torch.testing.assert_close((B @ x).detach(), 2 * before)
    torch.testing.assert_close(B.detach() @ x, 2 * before)
    assert form(B) is None


def test_gradient_to_the_operand_through_the_form() -> None:
    A = banded()
    x = vector(N).requires_grad_()
    for _ in range(_OFTEN + 1):
        y = A @ x
    assert form(A) is not None
    weight = vector(N) * 0.5
    (grad,) = torch.autograd.grad((y * weight).sum(), x)
    torch.testing.assert_close(grad, A.H @ weight)
