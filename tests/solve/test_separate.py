"""separate_matrix: exact where A is a short sum, at the snapshots, few entries, kinds, bad input."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
import torch

from resolvent.errors import ConvergenceError
from resolvent.operators import Operator
from resolvent.random import gaussian
from resolvent.solve import separate_matrix


def affine(mu):
    parts = [gaussian((7, 5), generator=i) for i in range(3)]
    return parts[0] + mu**2 * parts[1] + np.sin(mu) * parts[2]


def kernel(mu, n=40):
    t = torch.linspace(0, 1, n, dtype=torch.float64)
    return torch.exp(-mu[0] * (t[:, None] - t) ** 2) / (1 + mu[1] * t[:, None] * t)


def grid(m):
    return [(float(a), float(b)) for a in np.linspace(1, 4, m) for b in np.linspace(0, 1, m)]


def test_short_sums_are_exact():
    found = separate_matrix(affine, np.linspace(0, 2, 9).tolist(), generator=0)
    assert len(found.points) == 3
    for mu in (0.3, 1.7, 5.0):
        torch.testing.assert_close(found.matrix(mu), affine(mu), rtol=1e-9, atol=1e-9)
        assert isinstance(found.to_operator(mu), Operator)
        x = gaussian((5,), generator=9)
        torch.testing.assert_close(found.to_operator(mu) @ x, affine(mu) @ x, rtol=1e-9, atol=1e-9)
    for m, mu in enumerate(found.points):
        torch.testing.assert_close(found.beta(mu), torch.eye(3, dtype=torch.float64)[m], rtol=0, atol=1e-10)


def test_unseen_parameters_and_symmetry():
    found = separate_matrix(kernel, grid(7), rtol=1e-6, sample=200, generator=0)
    assert found.error <= 1e-6
    assert found.condition() > 1
    for mu in ((1.3, 0.15), (3.6, 0.9)):
        value = found.matrix(mu)
        gap = torch.linalg.matrix_norm(value - kernel(mu), 2) / torch.linalg.matrix_norm(kernel(mu), 2)
        assert float(gap) < 1e-5
        torch.testing.assert_close(value, value.mT, rtol=0, atol=1e-8)


def test_an_evaluation_looks_at_as_many_entries_as_there_are_terms():
    seen = []

    def entries(mu, rows, columns):
        seen.append(len(rows))
        return kernel(mu)[rows, columns]

    found = separate_matrix(kernel, grid(5), rtol=1e-4, entries=entries, generator=0)
    seen.clear()
    found.to_operator((2.0, 0.5))
    assert seen == [len(found.points)]


def test_a_sample_that_misses_entries_is_enriched():
    def spike(mu):
        A = torch.eye(60, dtype=torch.float64) * mu
        A[17, 42] = mu**3
        A[:, 3] += 1
        return A

    found = separate_matrix(spike, np.linspace(1, 2, 8).tolist(), sample=4, generator=0)
    torch.testing.assert_close(found.matrix(1.55), spike(1.55), rtol=1e-8, atol=1e-8)


def test_sparse_numpy_complex_and_float32():
    def helmholtz(k):
        return scipy.sparse.diags([-1.0, 2 - k**2, -1.0], [-1, 0, 1], shape=(30, 30)).tocsr()

    found = separate_matrix(helmholtz, [0.5, 1.0, 1.5, 2.0])
    assert len(found.points) == 2
    np.testing.assert_allclose(found.matrix(1.2), helmholtz(1.2).toarray(), rtol=1e-12, atol=1e-12)
    assert isinstance(found.beta(1.2), np.ndarray)
    r = 0.1 + np.abs(np.subtract.outer(np.linspace(0, 1, 20), np.linspace(0, 1, 20)))
    waves = separate_matrix(lambda k: np.exp(1j * k * r) / r, np.linspace(1, 5, 25).tolist(), rtol=1e-7)
    np.testing.assert_allclose(waves.matrix(3.3), np.exp(3.3j * r) / r, atol=1e-5)
    single = separate_matrix(lambda mu: kernel(mu).float(), grid(5), generator=0)
    assert single.matrix((2.0, 0.5)).dtype == torch.float32


def test_gradients_flow_through_the_entries():
    t = torch.linspace(0, 1, 12, dtype=torch.float64)

    def wave(mu):
        return torch.exp(-mu * (t[:, None] - t) ** 2)

    found = separate_matrix(
        lambda mu: wave(mu).detach(),
        list(torch.linspace(1, 3, 20)),
        rtol=1e-9,
        max_terms=12,
        entries=lambda mu, i, j: wave(mu)[i, j],
    )
    mu = torch.tensor(2.2, dtype=torch.float64, requires_grad=True)
    x = gaussian((12,), generator=0)
    (slope,) = torch.autograd.grad(x @ (found.to_operator(mu) @ x), mu)
    (exact,) = torch.autograd.grad(x @ (wave(mu) @ x), mu)
    torch.testing.assert_close(slope, exact, rtol=1e-5, atol=1e-6)


def test_bad_input():
    with pytest.raises(ConvergenceError) as caught:
        separate_matrix(kernel, grid(5), rtol=1e-9, max_terms=3)
    assert len(caught.value.best.points) == 3
    for call, word in (
        (lambda: separate_matrix(kernel, []), "train"),
        (lambda: separate_matrix(lambda mu: torch.zeros(3, 3), [1.0]), "zero"),
        (lambda: separate_matrix(lambda mu: torch.eye(2 + int(mu)), [0, 1, 2]), "shape"),
        (lambda: separate_matrix(kernel, grid(2), rtol=0), "rtol"),
        (lambda: separate_matrix(kernel, grid(2), max_terms=0), "max_terms"),
        (lambda: separate_matrix(kernel, grid(2), sample=0), "sample"),
        (lambda: separate_matrix(kernel, grid(2), entries=lambda *a: torch.ones(2)), "entries"),
    ):
        with pytest.raises(ValueError, match=word):
            call()
