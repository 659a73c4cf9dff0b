"""Lost nodes: ranks against numpy, the paper's counts, all double losses decoded, probabilities by sampling."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from resolvent.factor import (
    decodable,
    fault_tolerant_matmul,
    known_scheme,
    parity_search,
    reliability,
    standard_scheme,
)
from resolvent.random import gaussian

TWO = ["strassen", "winograd"]


def vectors(schemes, parity=()):
    pairs = [pair for s in schemes for pair in zip(known_scheme(s).U, known_scheme(s).V, strict=True)]
    return np.array([np.kron(u, v) for u, v in [*pairs, *parity]])


def by_ranks(P, lost):
    T = np.zeros((4, 16))
    for i, j, k in itertools.product(range(2), repeat=3):
        T[2 * i + k, 4 * (2 * i + j) + 2 * j + k] = 1
    left = np.delete(P, lost, 0)
    return np.linalg.matrix_rank(np.vstack([left, T])) == np.linalg.matrix_rank(left)


def test_decodable_against_floating_ranks():
    P = vectors(TWO)
    rng = np.random.default_rng(0)
    answers = set()
    for _ in range(80):
        lost = rng.choice(14, rng.integers(1, 6), replace=False).tolist()
        answers.add(decodable(TWO, lost))
        assert decodable(TWO, lost) == by_ranks(P, lost)
    assert answers == {True, False}


def test_counts_of_the_paper():
    assert reliability(["strassen"], 0.1).counts == (0, 7, 21, 35, 35, 21, 7, 1)
    assert reliability(["strassen"] * 2, 0.1).counts[:3] == (0, 0, 7)
    assert reliability(["strassen"] * 3, 0.1).counts[:4] == (0, 0, 0, 7)
    found = reliability(TWO, 0.01)
    assert (found.counts[:3], found.nodes) == ((0, 0, 2), 14)
    assert sum(found.counts) < 2**14


def test_copies_have_the_closed_form():
    for copies, p in itertools.product((1, 2, 3), (0.0, 0.05, 0.4, 1.0)):
        assert reliability(["winograd"] * copies, p).failure == pytest.approx(1 - (1 - p**copies) ** 7, abs=1e-14)


def test_counts_by_enumeration():
    spare = [((1, 0, 0, 1), (1, 1, 0, 0))]
    counts = reliability(TWO, 0.1, parity=spare).counts
    P = vectors(TWO, spare)
    for size in (2, 3):
        lost = sum(not by_ranks(P, pattern) for pattern in itertools.combinations(range(15), size))
        assert counts[size] == lost


def test_parities_repair_all_double_losses():
    spare = parity_search(TWO, 2)
    assert reliability(TWO, 0.01, parity=spare).counts[:3] == (0, 0, 0)
    assert set(np.ravel(spare).tolist()) <= {-1, 0, 1}
    assert parity_search(TWO, 0) == ()


def test_products_without_lost_nodes():
    A, B = gaussian((2, 5, 7), generator=0), gaussian((7, 3), generator=1)
    for lost in [(), (0,), (15,), (2, 11), (6, 8), (14, 15), (0, 13)]:
        C, info = fault_tolerant_matmul(A, B, failed=lost, return_info=True)
        torch.testing.assert_close(C, A @ B, rtol=1e-12, atol=1e-12)
        assert not set(lost) & set(info.used)
        assert info.growth < 100
    torch.testing.assert_close(fault_tolerant_matmul(A, B, failed=[3], levels=3, workers=2), A @ B)


def test_one_scheme_is_plain_strassen():
    A = gaussian((4, 4), generator=0)
    C, info = fault_tolerant_matmul(A, A, ["strassen"], parity=0, return_info=True)
    torch.testing.assert_close(C, A @ A)
    assert [[int(c) for c in row] for row in info.coefficients] == known_scheme("strassen").W.T.tolist()
    with pytest.raises(ValueError, match="cannot be decoded"):
        fault_tolerant_matmul(A, A, ["strassen"], parity=0, failed=[4])


def test_other_formats():
    wide = known_scheme("strassen").extend(2)
    A, B = gaussian((4, 4), generator=0), gaussian((4, 6), generator=1)
    schemes = [wide, standard_scheme("gg", (2, 2, 3))]
    for node in range(23):
        assert decodable(schemes, [node])
    torch.testing.assert_close(fault_tolerant_matmul(A, B, schemes, parity=(), failed=[0, 11]), A @ B)


def test_kinds_float32_gradients():
    A, B = gaussian((4, 4), torch.float32, generator=0), gaussian((4, 4), torch.float32, generator=1)
    C = fault_tolerant_matmul(A, B, failed=[2, 11])
    assert C.dtype == torch.float32
    assert torch.linalg.matrix_norm(C - A @ B) < 1e-5
    assert isinstance(fault_tolerant_matmul(A.numpy(), B.numpy()), np.ndarray)
    X = gaussian((3, 3), generator=0).requires_grad_()
    assert gradcheck(lambda Y: fault_tolerant_matmul(Y, Y, failed=[1, 9]), (X,))


def test_bad_input():
    A = torch.ones(2, 2)
    with pytest.raises(ValueError, match="schemes must be a list"):
        decodable("strassen")
    with pytest.raises(ValueError, match="schemes\\[1\\]"):
        decodable(["strassen", standard_scheme("gg", (2, 2, 3))])
    with pytest.raises(ValueError, match="failed must hold"):
        decodable(TWO, [14])
    with pytest.raises(ValueError, match="parity\\[0\\]"):
        decodable(TWO, parity=[((0, 0, 0, 0), (1, 0, 0, 0))])
    with pytest.raises(ValueError, match="p must be a probability"):
        reliability(TWO, 1.5)
    with pytest.raises(ValueError, match="at most 21"):
        reliability([standard_scheme("gg", 3)], 0.1)
    with pytest.raises(ValueError, match="n_extra must be"):
        parity_search(TWO, -1)
    with pytest.raises(ValueError, match="too many candidates"):
        parity_search([standard_scheme("gg", 3)], 1)
    with pytest.raises(ValueError, match="parity must be"):
        fault_tolerant_matmul(A, A, parity=-1)
    with pytest.raises(ValueError, match="B must have 2 rows"):
        fault_tolerant_matmul(A, torch.ones(3, 2))
    with pytest.raises(ValueError, match="levels must be"):
        fault_tolerant_matmul(A, A, levels=0)
