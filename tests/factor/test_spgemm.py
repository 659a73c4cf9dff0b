"""Sparse products against SciPy's, dense semiring products and finite differences."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from resolvent import factor
from resolvent.operators import Sparse

METHODS = ("auto", "hash", "dense_accumulator", "outer", "inner")


def random(m, n, density, seed=0, dtype=np.float64):
    return sp.random_array((m, n), density=density, rng=np.random.default_rng(seed), format="csr", dtype=dtype)


def skewed(n=300, each=8, seed=0):
    """A graph with a few full rows and many short ones, repeated entries added up."""
    rng = np.random.default_rng(seed)
    rows, cols = (np.minimum(rng.zipf(1.6, n * each) - 1, n - 1) for _ in range(2))
    return sp.csr_array((rng.standard_normal(n * each), (rows, cols)), shape=(n, n))


def same(found, wanted):
    wanted = sp.csr_array(wanted)
    wanted.sort_indices()
    assert np.array_equal(found.indptr, wanted.indptr) and np.array_equal(found.indices, wanted.indices)
    assert np.allclose(found.data, wanted.data, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_pattern_and_values_are_scipys(method):
    for A, B in (
        (random(60, 40, 0.1), random(40, 90, 0.08, 1)),
        (skewed(), skewed(seed=1)),
        (random(30, 30, 0.9), random(30, 30, 0.9, 2)),
        (sp.csr_array((5, 4)), random(4, 7, 0.5)),
        (random(20, 1, 0.5), random(1, 9, 0.5, 3)),
    ):
        same(factor.spgemm(A, B, method=method), A @ B)


def test_many_rows_on_several_threads_and_long_rows():
    A = random(3000, 3000, 0.004)
    A = sp.vstack([A, random(2, 3000, 0.8, 5)], format="csr")
    B = random(3000, 200_000, 1e-4, 1)
    for method in ("auto", "hash", "dense_accumulator"):
        found, info = factor.spgemm(A, B, method=method, return_info=True)
        same(found, A @ B)
        assert info.nnz == found.nnz and sum(info.thread_flops) == info.flops


def test_wide_results_take_the_hash_and_local_ones_the_table():
    wide = random(400, 400, 0.01), random(400, 3_000_000, 1e-5, 1)
    found, info = factor.spgemm(*wide, return_info=True)
    same(found, wide[0] @ wide[1])
    assert info.method == "hash"
    band = sp.diags_array([1.0, 2.0, 3.0], offsets=[-1, 0, 1], shape=(300_000, 300_000)).tocsr()
    found, info = factor.spgemm(band, band, return_info=True)
    same(found, band @ band)
    assert info.method == "dense_accumulator"


def test_float32_and_complex_keep_their_dtype():
    A, B = random(50, 40, 0.2, dtype=np.float32), random(40, 30, 0.2, 1, dtype=np.float32)
    found = factor.spgemm(A, B)
    assert found.dtype == np.float32 and abs(found - A @ B).max() < 1e-5
    C = A.astype(np.complex64) * (1 + 2j)
    found = factor.spgemm(C, B)
    assert found.dtype == np.complex64 and abs(found - C @ B).max() < 1e-5


def test_kinds():
    A, B = random(20, 30, 0.2), random(30, 10, 0.2, 1)
    assert isinstance(factor.spgemm(A, B), sp.csr_array)
    assert isinstance(factor.spgemm(sp.csr_matrix(A), sp.csr_matrix(B)), sp.csr_matrix)
    coo, csc = torch.from_numpy(A.toarray()).to_sparse(), torch.from_numpy(B.toarray()).to_sparse_csc()
    found = factor.spgemm(coo, csc)
    assert found.layout == torch.sparse_csr
    torch.testing.assert_close(found.to_dense(), torch.from_numpy((A @ B).toarray()))
    found = factor.spgemm(Sparse(A), B)
    assert isinstance(found, Sparse)
    torch.testing.assert_close(found._dense(), torch.from_numpy((A @ B).toarray()))


def test_repeated_and_unsorted_entries():
    indptr, indices = np.array([0, 3, 5]), np.array([2, 0, 2, 1, 0])
    A = Sparse((indptr, indices, np.arange(1.0, 6.0), (2, 3)))
    B = random(3, 4, 0.7)
    wanted = A._dense() @ torch.from_numpy(B.toarray())
    torch.testing.assert_close(factor.spgemm(A, B)._dense(), wanted)


def semiring_product(A, B, add, times):
    """By loops over what is stored."""
    found = {}
    A, B = A.tocsr(), B.tocsr()
    for i in range(A.shape[0]):
        for p in range(A.indptr[i], A.indptr[i + 1]):
            k = A.indices[p]
            for q in range(B.indptr[k], B.indptr[k + 1]):
                place, value = (i, int(B.indices[q])), times(A.data[p], B.data[q])
                found[place] = add(found[place], value) if place in found else value
    return found


RINGS = {
    "min_plus": (min, lambda a, b: a + b),
    "max_plus": (max, lambda a, b: a + b),
    "max_times": (max, lambda a, b: a * b),
    "max_min": (max, min),
    "or_and": (max, lambda a, b: float(a != 0 and b != 0)),
}


@pytest.mark.parametrize("ring", RINGS)
@pytest.mark.parametrize("method", ("auto", "outer"))
def test_semirings(ring, method):
    A, B = skewed(40, 4), skewed(40, 4, 1)
    found = factor.spgemm(A, B, semiring=ring, method=method).tocoo()
    wanted = semiring_product(A, B, *RINGS[ring])
    got = {(int(i), int(j)): v for i, j, v in zip(*found.coords, found.data, strict=True)}
    assert got.keys() == wanted.keys()
    assert all(abs(got[place] - value) < 1e-14 for place, value in wanted.items())


def test_min_plus_powers_are_shortest_paths():
    A = sp.csr_array(random(40, 40, 0.1) * (1 - np.eye(40)))
    A.eliminate_zeros()
    edges, here = A.tocoo(), np.arange(40)
    places = tuple(np.append(side, here) for side in edges.coords)
    # Staying costs nothing: a stored zero, which takes part.
    step = sp.csr_array((np.append(edges.data, np.zeros(40)), places), shape=(40, 40))
    walks = step
    for _ in range(6):
        walks = factor.spgemm(walks, walks, semiring="min_plus")
    wanted = sp.csgraph.shortest_path(A, method="D")
    reached = np.isfinite(wanted) & (wanted > 0)
    assert np.allclose(walks.toarray()[reached], wanted[reached])


@pytest.mark.parametrize("method", ("auto", "dense_accumulator", "inner", "outer"))
def test_mask(method):
    A, B, mask = skewed(), skewed(seed=1), random(300, 300, 0.02, 7)
    found = factor.spgemm(A, B, mask=mask, method=method)
    whole = A @ B
    pattern = (abs(whole) > 0).multiply(mask != 0).tocsr()
    same(found, whole.multiply(pattern).tocsr())
    # The method that counts fewer steps is taken: one entry wanted of a full product is an inner product.
    one = sp.csr_array(([1.0], ([0], [0])), shape=(300, 300))
    _, info = factor.spgemm(A, B, mask=one, return_info=True)
    assert info.method == "inner"


def test_triangles_of_a_graph_are_a_masked_product():
    A = (random(80, 80, 0.1) != 0).astype(float)
    A = sp.csr_array(((A + A.T) != 0).astype(float))
    A.setdiag(0)
    A.eliminate_zeros()
    dense = A.toarray()
    assert factor.spgemm(A, A, mask=A).sum() == pytest.approx(np.trace(dense @ dense @ dense))


@pytest.mark.parametrize("dtype", (torch.float64, torch.complex128))
@pytest.mark.parametrize("with_mask", (False, True))
def test_gradients(dtype, with_mask):
    A, B = Sparse(random(6, 5, 0.4)), Sparse(random(5, 7, 0.4, 1))
    mask = random(6, 7, 0.3, 2) if with_mask else None
    g = torch.Generator().manual_seed(0)
    x, y = (torch.randn(S.nnz, dtype=dtype, generator=g).requires_grad_() for S in (A, B))

    def values(x, y):
        return factor.spgemm(A.with_values(x), B.with_values(y), mask=mask).values

    assert torch.autograd.gradcheck(values, (x, y))
    assert torch.autograd.gradgradcheck(values, (x, y))


def test_gradient_is_that_of_the_dense_product():
    A, B = Sparse(skewed(50, 4)), Sparse(skewed(50, 4, 1))
    x, y = A.values.clone().requires_grad_(), B.values.clone().requires_grad_()
    (factor.spgemm(A.with_values(x), B.with_values(y)).values ** 2).sum().backward()
    P, Q = A._dense().requires_grad_(), B._dense().requires_grad_()
    ((P @ Q) ** 2).sum().backward()
    torch.testing.assert_close(x.grad, P.grad[A._pattern.rows, A.indices.long()])
    torch.testing.assert_close(y.grad, Q.grad[B._pattern.rows, B.indices.long()])


def test_counts_of_the_baselines():
    A = skewed()
    flops = int((np.bincount(A.indices, minlength=300) * np.diff(A.indptr)).sum())
    infos = {m: factor.spgemm(A, A, method=m, return_info=True)[1] for m in METHODS}
    assert all(info.flops == flops for info in infos.values())
    assert infos["outer"].intermediate_bytes == 16 * flops and infos["outer"].reads == 2 * A.nnz
    assert infos["hash"].reads == A.nnz + flops < infos["inner"].reads
    assert infos["hash"].intermediate_bytes < infos["outer"].intermediate_bytes


def test_bad_input():
    A = random(4, 5, 0.5)
    x = torch.ones(2, requires_grad=True)
    grown = torch.sparse_coo_tensor(torch.tensor([[0, 1], [0, 1]]), x, (2, 2))
    for call, error, word in (
        (lambda: factor.spgemm(A, A), ValueError, "B must have 5 rows"),
        (lambda: factor.spgemm(np.eye(2), A), TypeError, "A must be"),
        (lambda: factor.spgemm(A, A.T, mask=A), ValueError, "mask must have shape"),
        (lambda: factor.spgemm(A, A.T, semiring="plus"), ValueError, "semiring"),
        (lambda: factor.spgemm(A, A.T, method="fast"), ValueError, "method"),
        (lambda: factor.spgemm(A, A.T, method="hash", mask=random(4, 4, 0.5)), ValueError, "hash"),
        (lambda: factor.spgemm(1j * A, A.T, semiring="min_plus"), ValueError, "complex"),
        (lambda: factor.spgemm(grown, grown, semiring="min_plus"), ValueError, "gradient"),
        (lambda: factor.spgemm(random(10_000, 2, 0.1), random(2, 10_000, 0.1), method="inner"), ValueError, "mask"),
    ):
        with pytest.raises(error, match=word):
            call()


def patterns():
    """Rows within one word of bits, within few words, wide ones, many products an entry, and more columns than fit near."""
    line = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(40, 40))
    yield sp.csr_array(sp.diags_array([1.0] * 5, offsets=[-2, -1, 0, 1, 2], shape=(900, 900)))
    yield sp.csr_array(sp.kronsum(line, line))
    yield sp.csr_array(sp.block_diag([np.ones((30, 30))] * 6))
    yield random(20_000, 20_000, 3e-4)
    wide = random(400_000, 400_000, 2e-6)
    band = sp.diags_array([1.0, 2.0, 3.0], offsets=[-70, 0, 1], shape=(400_000, 400_000))
    yield wide
    yield sp.csr_array(band)
    yield sp.csr_array(wide + band)


@pytest.mark.parametrize("threads", (1, 3))
def test_every_table_and_both_phases(threads, monkeypatch):
    from resolvent.factor import spgemm_rows

    monkeypatch.setattr(spgemm_rows, "_threads", lambda work: threads)
    seen = set()
    for A in patterns():
        A.data[:] = np.random.default_rng(0).standard_normal(A.nnz)
        found, info = factor.spgemm(A, A, return_info=True)
        same(found, A @ A)
        assert info.flops == sum(info.thread_flops) == int((np.diff(A.indptr)[A.indices]).sum())
        seen.add(info.method)
    assert seen == {"dense_accumulator", "hash, dense_accumulator"} or seen == {
        "dense_accumulator", "hash", "hash, dense_accumulator",
    }  # fmt: skip


def test_memory_of_the_result_is_its_own():
    A = patterns().__next__()
    first = factor.spgemm(A, A)
    copy = first.data.copy()
    for _ in range(3):
        factor.spgemm(2 * A, A)
    assert np.array_equal(first.data, copy)
