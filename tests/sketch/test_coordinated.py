"""MatrixSketch, estimate_product and inner_product: exact limits, unbiasedness, the bound, streams, keys, words."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from resolvent.random import gaussian
from resolvent.sketch import MatrixSketch, estimate_product, inner_product
from resolvent.sketch.coordinated import hash_uniform


@pytest.mark.parametrize("method", ["priority", "threshold"])
@pytest.mark.parametrize("sparse", [False, True])
def test_unbiased_within_the_bound_over_300_seeds(method, sparse):
    A = gaussian((300, 6), generator=0) * torch.logspace(0, 1, 300, dtype=torch.float64)[:, None]
    B = A[:, :4] + gaussian((300, 4), generator=1)
    exact = A.mT @ B
    a, b = (sp.csr_matrix(t.numpy()) for t in (A, B)) if sparse else (A, B)
    found = []
    for seed in range(300):
        sketches = [MatrixSketch(t, 40, seed=seed, method=method) for t in (a, b)]
        value, info = estimate_product(*sketches, return_info=True)
        found.append(torch.as_tensor(value))
    error = torch.stack(found) - exact
    rmse = float(error.square().sum((1, 2)).mean().sqrt())
    assert info.error == pytest.approx((2 / 39) ** 0.5 * float(A.norm() * B.norm()))
    assert rmse < info.error
    assert float(error.mean(0).norm()) < 3 * rmse / 300**0.5


def test_all_rows_are_exact_and_zero_rows_are_never_kept():
    A, B = gaussian((10, 3), torch.complex128, generator=0), gaussian((10, 2), torch.complex128, generator=1)
    A[3] = 0
    sketch = MatrixSketch(A, 10)
    assert 3 not in sketch.keys.tolist() and len(sketch.keys) == 9
    torch.testing.assert_close(estimate_product(sketch, MatrixSketch(B, 12)), A.mH @ B)
    empty = MatrixSketch(torch.zeros(4, 3), 2)
    assert len(empty.keys) == 0 and not estimate_product(empty, MatrixSketch(torch.ones(4, 1), 2)).any()


def test_streams_and_merging():
    A = gaussian((90, 5), generator=0)
    for method in ("priority", "threshold"):
        whole = MatrixSketch(A, 12, seed=4, method=method)
        parts = [
            MatrixSketch(A[i : i + 30], 12, seed=4, method=method, keys=torch.arange(i, i + 30)) for i in (60, 0, 30)
        ]
        joined = parts[0].merge(parts[1]).merge(parts[2])
        assert torch.equal(joined.keys, whole.keys) and joined.threshold == pytest.approx(whole.threshold)
        torch.testing.assert_close(joined.rows.to_dense(), whole.rows.to_dense())
    S = sp.csr_matrix(A.numpy())
    halves = [MatrixSketch(S[i : i + 45], 12, keys=np.arange(i, i + 45)) for i in (0, 45)]
    np.testing.assert_allclose(halves[0].merge(halves[1]).rows.to_dense(), MatrixSketch(A, 12).rows.to_dense())


def test_keys_join_tables_in_any_order():
    A, B = gaussian((50, 3), generator=0), gaussian((50, 2), generator=1)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    shuffled = MatrixSketch(B[order], 20, keys=order)
    left = MatrixSketch(A, 20)
    torch.testing.assert_close(estimate_product(left, shuffled), estimate_product(left, MatrixSketch(B, 20)))
    apart = MatrixSketch(B, 20, keys=torch.arange(1000, 1050))
    assert not estimate_product(left, apart).any()


def test_words_vectors_kinds_and_gradients():
    S = sp.random(500, 400, density=0.01, random_state=0).tocsr()
    sketch = MatrixSketch(S, 50)
    assert sketch.words == 2 * sketch.rows.nnz + 51 and sketch.words < 1000
    a, b = gaussian((40,), generator=0), gaussian((40,), generator=1)
    torch.testing.assert_close(inner_product(MatrixSketch(a, 40), MatrixSketch(b, 40)), a @ b)
    assert isinstance(inner_product(MatrixSketch(a.numpy(), 40), MatrixSketch(b.numpy(), 40)), float)
    A = gaussian((20, 2), generator=2).requires_grad_()
    half = MatrixSketch(A.float(), 8)
    assert half.rows.dtype == torch.float32
    sketch = MatrixSketch(A, 8)
    (g,) = torch.autograd.grad(estimate_product(sketch, sketch).diagonal().sum(), A)
    assert sorted(g.any(1).nonzero()[:, 0].tolist()) == sketch.keys.tolist()


def test_hashes_are_uniform_and_independent():
    u = hash_uniform(torch.arange(50_000), 3)
    histogram = torch.histc(u, 50, 0, 1)
    assert float(((histogram - 1000) ** 2 / 1000).sum()) < 95  # chi-square, 49 degrees, p = 1e-4
    for other in (hash_uniform(torch.arange(50_000), 4), hash_uniform(torch.arange(50_000) + 1, 3)):
        assert abs(np.corrcoef(u, other)[0, 1]) < 0.02


def test_bad_input():
    A = gaussian((5, 2), generator=0)
    for call, word in (
        (lambda: MatrixSketch(A, 1), "k must"),
        (lambda: MatrixSketch(A, 3, seed="a"), "seed"),
        (lambda: MatrixSketch(A, 3, method="best"), "method"),
        (lambda: MatrixSketch(A, 3, keys=[0, 1, 1, 2, 3]), "differ"),
        (lambda: MatrixSketch(A, 3, keys=[0, 1]), "keys"),
        (lambda: MatrixSketch(A[None], 3), "batch"),
        (lambda: estimate_product(MatrixSketch(A, 3, seed=1), MatrixSketch(A, 3)), "seed"),
        (lambda: estimate_product(MatrixSketch(A, 3, method="threshold"), MatrixSketch(A, 3)), "method"),
        (lambda: MatrixSketch(A, 3).merge(MatrixSketch(A, 3)), "other keys"),
        (lambda: MatrixSketch(A, 3).merge(MatrixSketch(A, 4)), "differ in k"),
        (lambda: inner_product(MatrixSketch(A, 3), MatrixSketch(A, 3)), "vector"),
        (lambda: MatrixSketch(A * 1e200, 3), "scale"),
        (lambda: MatrixSketch(sp.csr_matrix((A * 1e-200).numpy()), 3), "scale"),
    ):
        with pytest.raises(ValueError, match=word):
            call()
