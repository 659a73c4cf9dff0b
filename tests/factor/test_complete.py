"""complete: recovery, the three inner solvers, the device path, penalties against brute force, and refusals."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import scipy.sparse
import torch

from resolvent.errors import AccuracyWarning, ConvergenceError
from resolvent.factor import complete
from resolvent.factor.observed import Observed
from resolvent.operators import LowRank
from resolvent.random import as_generator, gaussian


def problem(m, n, k, share, seed=0, dtype=torch.float64):
    g = as_generator(seed)
    M = (gaussian((m, k), dtype, generator=g) @ gaussian((k, n), dtype, generator=g)) / math.sqrt(k)
    chosen = torch.randperm(m * n, generator=g)[: int(share * m * n)]
    return M, chosen // n, chosen % n


def relative(found, exact):
    return float(torch.linalg.matrix_norm(found.to_dense() - exact) / torch.linalg.matrix_norm(exact))


@pytest.mark.parametrize("inner", ["cg", "sketched", "exact"])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-7), (torch.float32, 1e-3)])
def test_recovery(inner, dtype, bound):
    M, rows, cols = problem(120, 90, 4, 0.4, dtype=dtype)
    found, info = complete((rows, cols, M[rows, cols]), 4, (120, 90), inner=inner, generator=0, return_info=True)
    assert relative(found, M) < bound
    assert found.dtype == dtype and info.converged and info.iterations < 60
    assert isinstance(found, LowRank)
    torch.testing.assert_close(found.U.mT @ found.U, torch.eye(4, dtype=dtype), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.V.mT @ found.V, torch.eye(4, dtype=dtype), rtol=0, atol=1e-5)
    assert bool((found.s.diff() <= 0).all())


def test_same_from_all_forms_of_entries():
    M, rows, cols = problem(40, 30, 2, 0.5)
    M[rows[0], cols[0]] = 0.0  # a known zero stays known
    values = M[rows, cols]
    dense = torch.full_like(M, math.nan)
    dense[rows, cols] = values
    sparse = scipy.sparse.coo_array((values.numpy(), (rows.numpy(), cols.numpy())), shape=(40, 30))
    coo = torch.sparse_coo_tensor(torch.stack([rows, cols]), values, (40, 30), check_invariants=True)
    loose = {"generator": 0, "rtol": 1e-3, "ridge": 0.1}
    first = complete((rows, cols, values), 2, (40, 30), **loose).to_dense()
    for form in (dense, coo, coo.coalesce().to_sparse_csr()):
        torch.testing.assert_close(complete(form, 2, **loose).to_dense(), first, rtol=1e-6, atol=1e-8)
    for form in (sparse, sparse.tocsr(), dense.numpy()):
        found = complete(form, 2, **loose).to_dense()
        assert isinstance(found, np.ndarray)
        np.testing.assert_allclose(found, first.numpy(), rtol=1e-6, atol=1e-8)


def test_all_entries_give_the_truncated_svd():
    M = gaussian((20, 15), generator=0)
    U, s, Vh = torch.linalg.svd(M, full_matrices=False)
    found = complete(M, 3, rtol=1e-9, max_sweeps=5000, generator=0)
    torch.testing.assert_close(found.to_dense(), (U[:, :3] * s[:3]) @ Vh[:3], rtol=1e-6, atol=1e-6)
    # A ridge of lambda shrinks the leading singular values by 1 + lambda.
    shrunk = complete(M, 3, ridge=0.5, rtol=1e-9, max_sweeps=5000, generator=0)
    torch.testing.assert_close(shrunk.s, s[:3] / 1.5, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("inner", ["exact", "cg", "sketched"])
def test_a_half_sweep_solves_every_row(inner):
    M, rows, cols = problem(12, 200, 3, 0.6)
    M = M + gaussian(M.shape, generator=1)
    observed = Observed(rows, cols, M[rows, cols], (12, 200), 1)
    V = torch.linalg.qr(gaussian((200, 3), generator=2)).Q
    start = gaussian((12, 3), generator=3)
    found, change, _ = observed.rows(V, start, inner, 1e-9, ridge=0.2)
    moved = 0.0
    for i in range(12):
        A = V[cols[rows == i]]
        b = M[i, cols[rows == i]]
        expected = torch.linalg.solve(A.mT @ A + 0.2 * observed.share * torch.eye(3).double(), A.mT @ b)
        torch.testing.assert_close(found[i], expected, rtol=1e-7, atol=1e-8)
        moved += float((A @ (expected - start[i])).square().sum())
    assert change == pytest.approx(math.sqrt(moved), rel=1e-6)


def test_all_rows_at_once_equal_the_compiled_rows():
    M, rows, cols = problem(50, 40, 3, 0.4)
    observed = Observed(rows, cols, M[rows, cols], (50, 40))
    V = torch.linalg.qr(gaussian((40, 3), generator=2)).Q
    one = observed._by_row.solve(V, torch.zeros(50, 3).double(), "cg", 1e-12, 0.01, 0)
    all_ = observed._by_row.solve_together(V, torch.zeros(50, 3).double(), 1e-12, 0.01)
    torch.testing.assert_close(one[0], all_[0], rtol=1e-9, atol=1e-9)
    assert one[1] == pytest.approx(all_[1])


def test_scale_transpose_and_seed():
    M, rows, cols = problem(60, 50, 3, 0.5)
    v = M[rows, cols]
    first = complete((rows, cols, v), 3, (60, 50), generator=0).to_dense()
    torch.testing.assert_close(complete((rows, cols, v), 3, (60, 50), generator=0).to_dense(), first, rtol=0, atol=0)
    tiny = complete((rows, cols, 1e-20 * v), 3, (60, 50), generator=0).to_dense()
    torch.testing.assert_close(1e20 * tiny, first, rtol=1e-6, atol=1e-6)
    turned = complete((cols, rows, v), 3, (50, 60), generator=0).to_dense()
    torch.testing.assert_close(turned.mT, first, rtol=1e-5, atol=1e-5)


def test_a_start_and_too_few_sweeps():
    M, rows, cols = problem(60, 50, 3, 0.5)
    known = (rows, cols, M[rows, cols])
    U = torch.linalg.svd(M)[0][:, :3]
    assert relative(complete(known, 3, (60, 50), inner="exact", start=U, max_sweeps=3), M) < 1e-12
    with pytest.raises(ConvergenceError, match="from the limit") as caught:
        complete(known, 3, (60, 50), start=gaussian((60, 3), generator=5), max_sweeps=1)
    assert isinstance(caught.value.best, LowRank) and not caught.value.info.converged


def test_rows_that_nothing_determines():
    M, rows, cols = problem(60, 50, 3, 0.5)
    keep = rows != 7
    with pytest.warns(AccuracyWarning, match="1 rows or columns"):
        found = complete((rows[keep], cols[keep], M[rows, cols][keep]), 3, (60, 50), generator=0).to_dense()
    assert float(found[7].abs().max()) < 1e-12
    torch.testing.assert_close(found[8:], M[8:], rtol=1e-5, atol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AccuracyWarning)
        zero = complete((rows, cols, 0 * M[rows, cols]), 3, (60, 50), generator=0)
    assert float(zero.to_dense().abs().max()) == 0


@pytest.mark.parametrize("inner", ["cg", "sketched", "exact"])
@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_float32_near_the_ends_of_its_range(inner, size):
    M, rows, cols = problem(40, 30, 2, 0.6, dtype=torch.float32)
    plain, scaled = (
        complete((rows, cols, c * M[rows, cols]), 2, (40, 30), inner=inner, generator=0) for c in (1.0, size)
    )
    torch.testing.assert_close(scaled.s / size, plain.s, rtol=1e-4, atol=0)
    assert relative(LowRank(scaled.U, scaled.s / size, scaled.V), M) < 1e-3


def test_sparse_entries_with_gradients_are_refused():
    places = torch.tensor([[0, 1], [0, 1]])
    sparse = torch.sparse_coo_tensor(places, torch.ones(2), (2, 2), check_invariants=True).requires_grad_()
    with pytest.raises(ValueError, match="gradient"):
        complete(sparse, 1)


def test_bad_input():
    one, v = torch.tensor([0, 1]), torch.ones(2)
    dense = torch.eye(3)
    for call, word in (
        (lambda: complete((one, one, v), 1), "shape"),
        (lambda: complete((one, one, v), 1, (1, 2)), "row index"),
        (lambda: complete((one, one - 1, v), 1, (2, 2)), "column index"),
        (lambda: complete((one * 0, one * 0, v), 1, (2, 2)), "more than once"),
        (lambda: complete((one.double(), one, v), 1, (2, 2)), "integers"),
        (lambda: complete((one, one, v * math.inf), 1, (2, 2)), "infinite"),
        (lambda: complete((one, one, v[:1]), 1, (2, 2)), "one length"),
        (lambda: complete(dense * math.nan, 1), "no known"),
        (lambda: complete(dense.to(torch.complex64), 1), "float32 or float64"),
        (lambda: complete(dense, 4), "rank"),
        (lambda: complete(dense, 1, inner="qr"), "inner"),
        (lambda: complete(dense, 1, inner_rtol=1.0), "inner_rtol"),
        (lambda: complete(dense, 1, ridge=-1.0), "ridge"),
        (lambda: complete(dense, 1, rtol=0.0), "rtol"),
        (lambda: complete(dense, 1, max_sweeps=0), "max_sweeps"),
        (lambda: complete(dense, 1, start=torch.ones(2, 1)), "start"),
        (lambda: complete(dense.requires_grad_(), 1), "gradient"),
    ):
        with pytest.raises(ValueError, match=word):
            call()
