"""Sparse matrices and graphs whose structure and spectrum are known."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import scipy.sparse as sp

from resolvent.report.sparse_facts import sparse_facts_of


def path(n: int) -> sp.csr_array:
    return sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(n, n)).tocsr()


def grid(n: int) -> sp.csr_array:
    eye = sp.eye_array(n)
    return (sp.kron(path(n), eye) + sp.kron(eye, path(n))).tocsr()


def ring(n: int) -> sp.csr_array:
    rows = np.arange(n)
    W = sp.coo_array((np.ones(n), (rows, (rows + 1) % n)), shape=(n, n)).tocsr()
    return (W + W.T).tocsr()


def test_a_tridiagonal_matrix() -> None:
    n = 300
    f = sparse_facts_of(path(n))
    exact = 2 - 2 * np.cos(np.pi * np.arange(1, n + 1) / (n + 1))
    assert (f.symmetry, f.bandwidth, f.components, f.dominant_rows, f.zero_diagonal) == ("symmetric", 1, 1, 1.0, 0)
    assert (f.smallest, f.largest, f.gap) == pytest.approx((exact[0], exact[-1], exact[-1] - exact[-2]), rel=1e-8)
    assert (
        f.positive
        and f.solver == "banded Cholesky"
        and f.trace == 2 * n
        and f.fill == pytest.approx((3 * n - 2) / n**2)
    )
    assert np.trapezoid(f.density, f.density_at) == pytest.approx(1, abs=0.05)
    json.dumps(dataclasses.asdict(f))


def test_a_graph_is_its_laplacian() -> None:
    n = 60
    f = sparse_facts_of(ring(n), graph=True)
    assert f.graph and f.smallest == 0 and f.largest == pytest.approx(4) and f.positive is False
    assert f.gap == pytest.approx(2 - 2 * math.cos(2 * math.pi / n), rel=1e-6)
    assert f.solver == "conjugate gradients" and "constant" in f.advice
    two = sp.block_diag([ring(10), ring(20)], format="csr")
    f = sparse_facts_of(two, graph=True)
    assert (
        (f.components, f.gap) == (2, 0.0) and f.largest_component == pytest.approx(2 / 3) and "2 components" in f.advice
    )
    directed = sp.triu(ring(30), format="csr")
    f = sparse_facts_of(directed, graph=True)
    assert "directions" in f.missing["directed"] and f.largest == pytest.approx(2, rel=0.01)
    assert sparse_facts_of(sp.csr_array((5, 5)), graph=True).components == 5


def test_beyond_the_exact_size_the_ends_are_iterated() -> None:
    side = 50
    A = grid(side)
    one = 2 - 2 * np.cos(np.pi * np.arange(1, side + 1) / (side + 1))
    every = np.sort((one[:, None] + one).ravel())
    f = sparse_facts_of(A)
    assert f.method == "lanczos" and f.largest == pytest.approx(every[-1], rel=1e-3)
    assert f.smallest == pytest.approx(every[0], abs=2 * f.error + 1e-4)
    assert f.gap == pytest.approx(every[-1] - every[-2], abs=4 * f.error + 1e-4)
    assert np.trapezoid(f.density, f.density_at) == pytest.approx(1, abs=0.05)
    quick = sparse_facts_of(A, quick=True)
    assert quick.method == "slq" and quick.gap is None and "quick" in quick.missing["gap"]
    assert quick.largest == pytest.approx(8, rel=0.05)


def test_solvers_follow_the_structure() -> None:
    big = grid(150)
    f = sparse_facts_of(big, quick=True)
    assert (f.solver == "conjugate gradients" and f.preconditioner == "algebraic multigrid") or f.solver == "MINRES"
    order = np.random.default_rng(0).permutation(900)
    mixed = grid(30)[order][:, order].tocsr()
    assert sparse_facts_of(mixed).solver == "sparse Cholesky"
    indefinite = sparse_facts_of((mixed - 3.9 * sp.eye_array(900)).tocsr())
    assert indefinite.solver == "sparse LDL" and indefinite.positive is False
    wide = sp.random_array((400, 90), density=0.05, rng=0, format="csr")
    f = sparse_facts_of(wide)
    assert f.symmetry == "not square" and f.solver == "LSMR" and "square" in f.missing["smallest"] and f.trace is None
    shifted = (big + sp.triu(big)).tocsr()
    f = sparse_facts_of(shifted, quick=True)
    assert (f.symmetry, f.solver) == ("symmetric pattern", "GMRES") or f.solver == "BiCGSTAB"
    assert "Hermitian" in f.missing["density"]
    random = sp.random_array((25000, 25000), density=1e-4, rng=1, format="csr")
    f = sparse_facts_of(random, quick=True)
    assert f.symmetry == "none" and "singular" in f.advice and f.empty_rows > 0
    full = (
        random
        + sp.diags_array(np.where(np.arange(25000) % 2, 1e-3, 0.0))
        + sp.eye_array(25000, k=1)
        + sp.eye_array(25000, k=-24999)
    ).tocsr()
    assert sparse_facts_of(full, quick=True).preconditioner.startswith("ILU after")
    assert sparse_facts_of((random + 99 * sp.eye_array(25000)).tocsr(), quick=True).solver == "BiCGSTAB"


def test_symmetric_without_known_sign() -> None:
    random = sp.random_array((25000, 25000), density=1e-4, rng=1, format="csr")
    A = (random + random.T + 0.01 * sp.eye_array(25000)).tocsr()
    assert sparse_facts_of(A, quick=True).solver == "MINRES"
    assert sparse_facts_of((random + random.T + 99 * sp.eye_array(25000)).tocsr(), quick=True).positive


def test_complex_matrices() -> None:
    A = sp.csr_array(np.array([[2, 1j, 0], [-1j, 2, 0], [0, 0, 5]]))
    f = sparse_facts_of(A)
    assert (f.symmetry, f.smallest, f.largest) == ("hermitian", pytest.approx(1), pytest.approx(5)) and f.trace is None
    f = sparse_facts_of(sp.csr_array(np.array([[2, 1j], [1j, 2]])))
    assert f.symmetry == "symmetric" and "Hermitian" in f.missing["smallest"]


def test_bad_input_and_nothing() -> None:
    with pytest.raises(ValueError, match="NaN"):
        sparse_facts_of(sp.csr_array(np.array([[1.0, math.nan]])))
    with pytest.raises(ValueError, match=r"\(0, 3\)"):
        sparse_facts_of(sp.csr_array((0, 3)))
    f = sparse_facts_of(sp.csr_array((40, 40)))
    assert (f.smallest, f.largest, f.components, f.empty_rows) == (0, 0, 40, 40) and "singular" in f.advice
    explicit = sp.csr_array((np.array([0.0, 3.0]), ([0, 1], [1, 1])), shape=(2, 2))
    assert sparse_facts_of(explicit).stored == 1 and explicit.nnz == 2
