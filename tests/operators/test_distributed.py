"""Dask products against dense ones: blocks, adjoints, a memory limit in a process of its own, and a real cluster."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

from resolvent.operators import as_operator, from_dask

da = pytest.importorskip("dask.array")


def example(dtype=np.float64, chunks=(5, 4), shape=(13, 11)):
    rng = np.random.default_rng(0)
    dense = rng.standard_normal(shape).astype(dtype)
    if np.dtype(dtype).kind == "c":
        dense = dense + 1j * rng.standard_normal(shape).astype(dtype)
    return dense.astype(dtype), da.from_array(dense.astype(dtype), chunks=chunks)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.complex128, np.complex64])
def test_products_and_adjoints(dtype):
    dense, array = example(dtype)
    A = from_dask(array)
    tol = 50 * np.finfo(dtype).eps
    rng = np.random.default_rng(1)
    X, Y = rng.standard_normal((11, 3)).astype(dtype), rng.standard_normal((13, 2)).astype(dtype)
    assert isinstance(A @ X, np.ndarray) and (A @ X).dtype == dtype
    np.testing.assert_allclose(A @ X, dense @ X, atol=tol, rtol=tol)
    np.testing.assert_allclose(A @ X[:, 0], dense @ X[:, 0], atol=tol, rtol=tol)
    np.testing.assert_allclose(A.H @ Y, dense.conj().T @ Y, atol=tol, rtol=tol)
    np.testing.assert_allclose(A.T @ Y, dense.T @ Y, atol=tol, rtol=tol)
    np.testing.assert_allclose((A.H @ A) @ X, dense.conj().T @ dense @ X, atol=20 * tol, rtol=tol)
    np.testing.assert_allclose(A.to_dense(), dense)
    np.testing.assert_allclose(A[[1, 12], 2:4], dense[[1, 12], 2:4])
    assert A.H.H is A


def test_a_batch_of_blocks_and_a_tensor():
    dense, array = example()
    X = torch.randn(4, 11, 2, dtype=torch.float64)
    Y = from_dask(array) @ X
    assert isinstance(Y, torch.Tensor)
    torch.testing.assert_close(Y, torch.from_numpy(dense) @ X)


def test_gram_reads_every_chunk_once():
    reads = []

    def load(block, block_info=None):
        reads.append(block_info[0]["chunk-location"])
        return block

    dense, array = example(chunks=(5, 11))
    A = from_dask(array.map_blocks(load, dtype=array.dtype, meta=np.empty((0, 0))))
    X = torch.randn(11, 2, dtype=torch.float64)
    reads.clear()
    torch.testing.assert_close(A._gram(X), torch.from_numpy(dense.T @ dense) @ X)
    assert sorted(reads) == [(0, 0), (1, 0), (2, 0)]
    reads.clear()
    A @ X
    assert len(reads) == 3


def test_gradients_in_x():
    _, array = example(chunks=(7, 3), shape=(8, 6))
    A = from_dask(array)
    X = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: A @ x, X)
    assert torch.autograd.gradcheck(lambda y: A.H @ y, torch.randn(8, 1, dtype=torch.float64, requires_grad=True))


def test_facts_integers_and_other_dtypes():
    dense, array = example(shape=(6, 6))
    S = from_dask(array + array.T, hermitian=True)
    assert S.hermitian and S.H is S
    A = from_dask(da.arange(12, chunks=5).reshape(3, 4))
    assert A.dtype == torch.float64
    np.testing.assert_allclose(A @ np.ones(4), [6, 22, 38])
    assert S.to(torch.float32).dtype == torch.float32
    np.testing.assert_allclose(S.to(torch.float32) @ np.ones(6, np.float32), (dense + dense.T).sum(1), rtol=1e-5)
    assert as_operator(array).shape == (6, 6)


def test_bad_input():
    with pytest.raises(TypeError, match=r"dask\.array\.Array"):
        from_dask(np.ones((2, 2)))
    with pytest.raises(ValueError, match="2 dimensions"):
        from_dask(da.ones(4))
    with pytest.raises(TypeError, match="float16"):
        from_dask(da.ones((2, 2), dtype=np.float16))
    array = da.ones((6, 2), chunks=2)
    with pytest.raises(ValueError, match="unknown size"):
        from_dask(array[array[:, 0] > 0])
    with pytest.raises(ValueError, match="n = 2"):
        from_dask(array) @ np.ones(3)


def test_without_dask_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "dask", None)
    with pytest.raises(ImportError, match=r"resolvent\[dask\]"):
        from_dask(object())


LIMITED = """
    import resource
    import numpy as np, torch, dask, dask.array as da
    from resolvent.operators import from_dask

    dask.config.set(scheduler="threads", num_workers=2)
    m, n = 12_288, 8_192                                       # 768 MiB of float64 in chunks of 8 MiB
    u, v = np.linspace(1, 2, m), np.linspace(-1, 1, n)

    def fill(block_info=None):
        (r0, r1), (c0, c1) = block_info[None]["array-location"]
        return np.outer(u[r0:r1], v[c0:c1])

    array = da.map_blocks(fill, chunks=((1024,) * 12, (1024,) * 8), dtype=np.float64, meta=np.empty((0, 0)))
    A = from_dask(array)
    A[:1, :1], torch.ones(4, 4) @ torch.ones(4, 4)             # threads and libraries are loaded before the limit

    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    limit = used + 320 * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        np.ones((m, n))
    except MemoryError:
        print("the array does not fit")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    x, y = np.cos(np.arange(n)), np.sin(np.arange(m))
    assert np.allclose(A @ x, u * (v @ x), rtol=1e-10, atol=1e-9)
    assert np.allclose(A.H @ y, v * (u @ y), rtol=1e-10, atol=1e-9)
    print("grown by", (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_an_array_larger_than_the_memory_limit():
    environment = {**os.environ, "MALLOC_ARENA_MAX": "2", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LIMITED)], capture_output=True, text=True, env=environment, timeout=120
    )
    assert ran.returncode == 0, ran.stderr
    assert "the array does not fit" in ran.stdout
    grown = int(ran.stdout.split("grown by")[1])
    # Two threads hold a chunk each and a few wait: far below the 96 chunks of the array.
    assert grown < 160, ran.stdout


def test_a_cluster_of_two_processes():
    distributed = pytest.importorskip("distributed")
    dense, array = example(chunks=(4, 4))
    X = np.random.default_rng(2).standard_normal((11, 3))
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0", silence_logs=50
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        assert len(client.scheduler_info()["workers"]) == 2
        for A in (from_dask(array), from_dask(array, client=client)):
            np.testing.assert_allclose(A @ X, dense @ X, atol=1e-13)
            np.testing.assert_allclose(A.H @ (A @ X), dense.T @ dense @ X, atol=1e-12)
    np.testing.assert_allclose(from_dask(array) @ X, dense @ X, atol=1e-13)
