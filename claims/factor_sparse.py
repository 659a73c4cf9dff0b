"""What the papers on sparse products and on updates of a truncated SVD claim, measured."""

import functools
import math
import time
from collections.abc import Callable

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg
from _seconds import seconds

from resolvent import factor
from resolvent.claims import Measured, Scale, claim


def rmat(scale: int, each: int = 16, seed: int = 0) -> sp.csr_array:
    """A recursive power-law graph of 2**scale vertices (0.57, 0.19, 0.19, 0.05) with random values."""
    rng = np.random.default_rng(seed)
    m = each << scale
    rows, columns = np.zeros(m, np.int32), np.zeros(m, np.int32)
    for _ in range(scale):
        u = rng.random(m)
        rows = 2 * rows + (u >= 0.76)
        columns = 2 * columns + (((u >= 0.57) & (u < 0.76)) | (u >= 0.95))
    A = sp.csr_array((rng.standard_normal(m), (rows, columns)), shape=(1 << scale, 1 << scale))
    A.sum_duplicates()
    return A


def uniform(n: int, each: int, seed: int = 0) -> sp.csr_array:
    return sp.random_array((n, n), density=each / n, rng=np.random.default_rng(seed), format="csr")


@claim(
    paper="SMASH: Sparse Matrix Atomic Scratchpad Hashing",
    method=factor.spgemm,
    says="the pattern is exactly SciPy's and values agree, skewed and uniform, by hash and by dense tables (largest "
    "difference relative to the sum of the sizes)",
    at_most=1e-12,
)
def same_as_scipy(scale: Scale) -> Measured:
    worst = 0.0
    for A in (rmat(scale(quick=10, full=14)), uniform(scale(quick=2000, full=16384), 16)):
        wanted, sizes = A @ A, abs(A) @ abs(A)
        for matrix in (wanted, sizes):
            matrix.sort_indices()
        for method in ("hash", "dense_accumulator"):
            C = factor.spgemm(A, A, method=method)
            if not (np.array_equal(C.indptr, wanted.indptr) and np.array_equal(C.indices, wanted.indices)):
                return Measured(math.inf, note="the patterns differ")
            worst = max(worst, float((np.abs(C.data - wanted.data) / sizes.data).max()))
    return Measured(worst, unit="difference")


@claim(
    paper="SMASH: Sparse Matrix Atomic Scratchpad Hashing",
    method=factor.spgemm,
    says="no matrix of partial products: memory beside the result at least 10 times below that of outer products (R-MAT)",
    at_least=10.0,
)
def intermediate_memory(scale: Scale) -> Measured:
    A = rmat(scale(quick=11, full=14))
    ours = factor.spgemm(A, A, return_info=True)[1]
    outer = factor.spgemm(A, A, method="outer", return_info=True)[1]
    note = f"{ours.intermediate_bytes / 1e6:.2f} MB, {outer.intermediate_bytes / 1e6:.0f} MB; flops/nnz {ours.flops / ours.nnz:.1f}"
    return Measured(outer.intermediate_bytes / ours.intermediate_bytes, unit="x less memory", note=note)


@claim(
    paper="SMASH: Sparse Matrix Atomic Scratchpad Hashing",
    method=factor.spgemm,
    says="on a skewed R-MAT graph at least 1.3 times faster than scipy.sparse (whose columns are not even sorted), 2 threads",
    at_least=1.3,
)
def faster_than_scipy(scale: Scale) -> Measured:
    A = rmat(scale(quick=12, full=14))
    ours, theirs = seconds(lambda: factor.spgemm(A, A), lambda: A @ A, repeats=scale(quick=5, full=5))
    return Measured(theirs / ours, unit="x faster", note=f"{ours * 1e3:.1f} ms against {theirs * 1e3:.1f} ms")


@claim(
    paper="SMASH: Sparse Matrix Atomic Scratchpad Hashing",
    method=factor.spgemm,
    says="windows of counted products balance the threads: the most loaded of 2 has at most 1.2 times the mean",
    at_most=1.2,
)
def balance(scale: Scale) -> Measured:
    import numba

    A = rmat(scale(quick=12, full=14))
    if numba.get_num_threads() < 2:
        return Measured(math.nan, note="one thread only")
    loads = np.array(factor.spgemm(A, A, return_info=True)[1].thread_flops)
    flops = np.add.reduceat(np.diff(A.indptr)[A.indices], A.indptr[:-1][np.diff(A.indptr) > 0])
    whole = np.zeros(A.shape[0])
    whole[np.diff(A.indptr) > 0] = flops
    static = np.array([part.sum() for part in np.array_split(whole, len(loads))])
    note = f"{len(loads)} threads; static blocks of rows {static.max() / static.mean():.2f}"
    return Measured(loads.max() / loads.mean(), unit="largest / mean", note=note)


def dense_update(U: np.ndarray, s: np.ndarray, V: np.ndarray, E: sp.csr_array) -> tuple[np.ndarray, ...]:
    """The update of Zha and Simon with dense bases: what the paper compares with."""
    k, C = len(s), E @ V
    Q, R = np.linalg.qr(E.T.toarray() - V @ C.T)
    F, t, Gh = np.linalg.svd(np.block([[np.diag(s), np.zeros((k, len(R)))], [C, R.T]]), full_matrices=False)
    F, G = F[:, :k], Gh[:k].T
    return np.vstack([U @ F[:k], F[k:]]), t[:k], V @ G[:k] + Q @ G[k:]


@functools.cache
def growing(full: bool) -> dict[str, float]:
    """Rows appended in 12 batches to a sparse matrix of clustered rows: times and differences."""
    m, n, k = (30_000, 20_000, 64) if full else (2400, 48_000, 16)
    rng = np.random.default_rng(0)
    A = sp.random_array((m, n), density=5e-4, rng=rng, format="csr")
    # Popular columns and busy rows, as data have them: leading singular values stand out.
    A = sp.csr_array(
        sp.diags_array(rng.zipf(2.0, m).clip(max=50) ** 0.5) @ A @ sp.diags_array(rng.zipf(2.0, n).clip(max=50) ** 0.5)
    )
    begin = 4 * m // 5
    pieces = [A[rows[0] : rows[-1] + 1] for rows in np.array_split(np.arange(begin, m), 12)]
    start = factor.TruncatedSVD(A[:begin], k, rtol=1e-5, generator=0)
    triplets = start.left(), start.singular_values, start.right()
    svd = factor.TruncatedSVD((triplets[0], triplets[1], triplets[2].T))
    # The first update compiles.
    factor.TruncatedSVD((triplets[0], triplets[1], triplets[2].T)).append_rows(pieces[0])
    found = {"ours": 0.0, "dense": 0.0, "again": 0.0, "difference": 0.0}
    for i, E in enumerate(pieces):
        found["ours"] += timed(functools.partial(svd.append_rows, E))[0]
        spent, triplets = timed(functools.partial(dense_update, *triplets, E))
        found["dense"] += spent
        found["difference"] = max(found["difference"], float(np.abs(svd.singular_values / triplets[1] - 1).max()))
        if i in (0, 11):
            whole = A[: begin + sum(p.shape[0] for p in pieces[: i + 1])]
            found["again"] += 6 * timed(functools.partial(scipy.sparse.linalg.svds, whole, k=k, tol=1e-6))[0]
    # Share of A that the subspace holds: the same for both.
    ours, theirs = (np.linalg.norm(A @ V) / sp.linalg.norm(A) for V in (svd.right(), triplets[2]))
    return found | {"precision": abs(ours - theirs)}


def timed(call: Callable[[], object]) -> tuple[float, object]:
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


@claim(
    paper="Fast Updating Truncated SVD for Representation Learning with Sparse Matrices",
    method=factor.TruncatedSVD,
    says="12 batches of appended rows: singular values as those of the dense update of Zha and Simon (relative)",
    at_most=1e-6,
)
def as_the_dense_update(scale: Scale) -> Measured:
    found = growing(scale.full)
    note = f"share of the matrix in the subspace differs by {found['precision']:.1e}"
    return Measured(max(found["difference"], found["precision"]), unit="largest relative difference", note=note)


@claim(
    paper="Fast Updating Truncated SVD for Representation Learning with Sparse Matrices",
    method=factor.TruncatedSVD,
    says="updates in the sparse pairs take at least 5 times less than the dense updates (the paper: an order of magnitude)",
    at_least=5.0,
)
def faster_than_dense_updates(scale: Scale) -> Measured:
    found = growing(scale.full)
    return Measured(
        found["dense"] / found["ours"], unit="x faster", note=f"{found['ours']:.2f} s, {found['dense']:.2f} s"
    )


@claim(
    paper="Fast Updating Truncated SVD for Representation Learning with Sparse Matrices",
    method=factor.TruncatedSVD,
    says="and at least 10 times less than scipy's svds after each batch",
    at_least=10.0,
    known_miss="6.3 at full scale (30 at quick scale): SciPy takes 1 s for 64 triplets of 3e5 entries, and half of an update "
    "by 500 rows is a small dense SVD",
)
def faster_than_recomputing(scale: Scale) -> Measured:
    found = growing(scale.full)
    return Measured(
        found["again"] / found["ours"], unit="x faster", note=f"{found['ours']:.2f} s, {found['again']:.2f} s"
    )
