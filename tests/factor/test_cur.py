"""cur: exact rank, real columns and rows, cores, errors near the best, gradients."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch.autograd import gradcheck

from resolvent.factor import cur
from resolvent.factor.cur import deim
from resolvent.random import gaussian

_CASE = runpy.run_path(str(Path(__file__).with_name("lowrank_case.py")))
error, geometric, tail, with_values = (_CASE[name] for name in ("error", "geometric", "tail", "with_values"))


@pytest.mark.parametrize("method", ["pivoted", "deim", "leverage"])
@pytest.mark.parametrize("core", ["best", "cross"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128])
def test_exact_rank(method, core, dtype):
    A = with_values(50, 40, torch.linspace(1, 2, 5), dtype=dtype)
    found = cur(A, 5, method=method, core=core, generator=0)
    assert error(A, found.C @ found.U @ found.R) < 1e4 * torch.finfo(dtype).eps
    assert bool((A[:, found.columns] == found.C).all()) and bool((A[found.rows] == found.R).all())
    torch.testing.assert_close(found.operator().to_dense(), found.C @ found.U @ found.R)


@pytest.mark.parametrize(("method", "factor"), [("pivoted", 5), ("deim", 5), ("leverage", 15)])
def test_near_the_best_of_its_rank(method, factor):
    s = geometric(80)
    A = with_values(100, 80, s)
    for seed in range(10):
        best, cross = (cur(A, 15, method=method, core=core, generator=seed) for core in ("best", "cross"))
        found = error(A, best.C @ best.U @ best.R)
        assert tail(s, 15) <= found <= factor * tail(s, 15)
        assert found <= error(A, cross.C @ cross.U @ cross.R) * (1 + 1e-10)


def test_the_best_core_is_that_of_pseudoinverses():
    A = gaussian((20, 15), generator=0)
    found = cur(A, 4, generator=0)
    torch.testing.assert_close(found.U, torch.linalg.pinv(found.C) @ A @ torch.linalg.pinv(found.R))


def test_deim_against_its_definition():
    U = torch.linalg.qr(gaussian((30, 6), generator=0)).Q
    rows = [int(U[:, 0].abs().argmax())]
    for j in range(1, 6):
        c = torch.linalg.solve(U[rows, :j], U[rows, j])
        rows.append(int((U[:, j] - U[:, :j] @ c).abs().argmax()))
    assert deim(U).tolist() == rows


def test_sparse_numpy_and_repeated_columns():
    S = sp.random(60, 50, 0.3, random_state=0, format="csr")
    found = cur(S, 50, method="pivoted")
    assert isinstance(found.C, np.ndarray) and found.rows.dtype == np.int64
    np.testing.assert_allclose(found.C @ found.U @ found.R, S.toarray(), atol=1e-8)
    np.testing.assert_allclose(found.operator().to_dense(), S.toarray(), atol=1e-8)
    same = torch.outer(torch.arange(1.0, 6), torch.arange(1.0, 5))
    twice = cur(same, 3)
    assert error(same, twice.C @ twice.U @ twice.R) < 1e-5


@pytest.mark.parametrize("core", ["best", "cross"])
def test_gradient(core):
    A = gaussian((6, 5), generator=0).requires_grad_()
    assert gradcheck(lambda A: cur(A, 2, core=core).operator().to_dense(), A)


def test_bad_input():
    A = torch.eye(4)
    for call, word in (
        (lambda: cur(A, 5), "between 1 and 4"),
        (lambda: cur(A, 2, method="best"), "method"),
        (lambda: cur(A, 2, core="best of all"), "core"),
        (lambda: cur(A.expand(2, 4, 4), 2), "one matrix"),
        (lambda: cur(torch.full((3, 3), torch.nan), 1), "NaN"),
    ):
        with pytest.raises(ValueError, match=word):
            call()
