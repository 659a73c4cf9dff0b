"""top_eigenvector_stream and oja: recovery, heavy rows, random and sorted order, memory, pieces, bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from resolvent.random import gaussian
from resolvent.sketch import oja, top_eigenvector_stream
from resolvent.sketch.stream import _oja_rows_torch


def stream(seed, *, n=4000, d=40, gap=4.0, heavy=0.0, others=0):
    """Rows whose top direction gets the share `heavy` of its energy from three rows; `others` heavy rows elsewhere."""
    g = torch.Generator().manual_seed(seed)
    Q = torch.linalg.qr(torch.randn(d, d, generator=g, dtype=torch.float64)).Q
    scale = torch.full((d,), 0.5 if others else 1.0, dtype=torch.float64)
    scale[0] = gap * (1 - heavy)
    A = torch.randn(n, d, generator=g, dtype=torch.float64) * (scale / n).sqrt()
    H = torch.zeros(3 * (heavy > 0) + others, d, dtype=torch.float64)
    if heavy:
        H[:3, 0] = (gap * heavy / 3) ** 0.5
    for i in range(others):
        H[len(H) - others + i, i + 1] = 0.5**0.5
    A = torch.cat([A, H])[torch.randperm(n + len(H), generator=g)] @ Q.T
    return A, torch.linalg.svd(A, full_matrices=False).Vh[0]


def miss(found, v):
    return 1 - float(torch.as_tensor(found.vector).double() @ v) ** 2


def test_failure_rate_over_two_hundred_orders():
    bad = 0
    for seed in range(200):
        A, v = stream(seed, n=1500, d=20, gap=4, heavy=(0, 0.5, 1)[seed % 3], others=(seed % 3) * 5)
        bad += miss(top_eigenvector_stream(A, generator=seed), v) > 0.1
    assert bad <= 4  # a few of two hundred may draw a bad first vector


@pytest.mark.parametrize("heavy", [0.5, 1.0])
def test_heavy_rows_must_be_stored(heavy):
    errors = {None: [], 0: []}
    for seed in range(8):
        A, v = stream(seed, heavy=heavy, others=12)
        for budget, kept in errors.items():
            found = top_eigenvector_stream(A, heavy_budget=budget, generator=seed)
            kept.append(miss(found, v))
            assert found.heavy_rows == (0 if budget == 0 else 15)
            assert found.memory == (found.heavy_rows + 4) * 40
    assert max(errors[None]) < 0.02
    assert np.median(errors[0]) > (0.3 if heavy == 1 else np.median(errors[None]))


def test_sorted_order_breaks_it():
    g = torch.Generator().manual_seed(0)
    # v_1 in the first part of the stream only, light rows of the other directions after it
    first = torch.randn(1000, 1, generator=g, dtype=torch.float64) * torch.eye(20, dtype=torch.float64)[0] * 2
    rest = torch.randn(3000, 20, generator=g, dtype=torch.float64)
    rest[:, 0] *= 0.1
    A = torch.cat([first, rest * 0.5])
    v = torch.linalg.svd(A, full_matrices=False).Vh[0]
    assert miss(top_eigenvector_stream(A, generator=0), v) > 0.5
    assert miss(top_eigenvector_stream(A[torch.randperm(4000, generator=g)], generator=0), v) < 0.02


def test_a_late_heavy_row_is_not_lost():
    A, _ = stream(0, gap=1.0)
    A[-1] = 0
    A[-1, 3] = 5.0
    v = torch.linalg.svd(A, full_matrices=False).Vh[0]
    found = top_eigenvector_stream(A, generator=0)
    assert found.heavy_rows == 1 and miss(found, v) < 1e-3
    assert found.value == pytest.approx(25, rel=0.1)


def test_value_energy_and_pieces():
    A, v = stream(3)
    whole = top_eigenvector_stream(A, generator=0)
    pieces = top_eigenvector_stream(iter(A.split([10, 3000, 990])), 4000, generator=0)
    assert miss(pieces, v) < 0.02 and miss(whole, v) < 0.02
    assert whole.energy == pytest.approx(float(A.square().sum()), rel=1e-9)
    assert whole.value == pytest.approx(4, rel=0.1)
    torch.testing.assert_close(whole.vector, top_eigenvector_stream(A, generator=0).vector, rtol=0, atol=0)
    torch.testing.assert_close(top_eigenvector_stream(A * 8, generator=0).vector, whole.vector)


@pytest.mark.parametrize(("dtype", "scale"), [(torch.float32, 1e-25), (torch.float32, 1e25), (torch.float64, 1e-200)])
def test_the_scale_of_the_rows_changes_nothing(dtype, scale):
    A = stream(3)[0].to(dtype)
    for method in (top_eigenvector_stream, oja):
        plain, other = method(A, generator=0), method(A * scale, generator=0)
        assert 1 - abs(float(plain.vector @ other.vector)) < 1e-5
        assert other.energy == pytest.approx(plain.energy * scale * scale, rel=1e-5)
    rate = oja(A.double(), [0.3, 4.0], generator=0).rate
    assert oja(A.double() * 1e150, [0.3e-300, 4e-300], generator=0).rate == pytest.approx(rate * 1e-300)


def test_rows_that_grow_beyond_the_range():
    A = stream(3)[0]
    A[2000] *= 1e300
    for method in (top_eigenvector_stream, oja):
        with pytest.raises(ValueError, match="overflow"):
            method(A, generator=0)


def test_budget_keeps_the_longest_rows():
    A, v = stream(0, heavy=1.0, others=12)
    found = top_eigenvector_stream(A, heavy_budget=3, generator=0)
    assert found.heavy_rows == 3
    assert miss(found, v) < 0.05


def test_kinds_and_dtypes():
    X = load_digits().data
    X = X[np.random.default_rng(0).permutation(len(X))]
    v = torch.from_numpy(np.linalg.svd(X, full_matrices=False)[2][0])
    for found in (top_eigenvector_stream(X, generator=0), oja(X, generator=0)):
        assert isinstance(found.vector, np.ndarray) and found.vector.dtype == np.float64
        assert miss(found, v) < 0.01
    single = top_eigenvector_stream(torch.from_numpy(X).float(), generator=0)
    assert single.vector.dtype == torch.float32 and miss(single, v) < 0.01
    assert oja(torch.from_numpy(X).half(), generator=0).vector.dtype == torch.float16


def test_oja_is_its_rule():
    A, _ = stream(0, n=60, d=7)
    found = oja(A, [0.3, 4.0], generator=5)
    v = gaussian((7,), generator=5)
    v = v / v.norm()
    by_torch, growth = v[None].clone(), torch.zeros(1, dtype=torch.float64)
    _oja_rows_torch(A, by_torch, torch.tensor([found.rate], dtype=torch.float64), growth)
    for a in A:
        v = v + found.rate * a * (a @ v)
    torch.testing.assert_close(found.vector, v / v.norm())
    assert found.log_growth == pytest.approx(float(v.norm().log()))
    torch.testing.assert_close(by_torch[0], found.vector)
    assert float(growth) == pytest.approx(found.log_growth)


def test_oja_picks_a_rate_and_survives_long_growth():
    A, v = stream(1, gap=16)
    found = oja(A, generator=0)
    assert miss(found, v) < 0.02
    assert miss(top_eigenvector_stream(A, method="oja", generator=0), v) < 0.02
    tall = torch.ones(3000, 2, dtype=torch.float64)  # grows by 10^3 a row: lengths far beyond the range of float64
    huge = oja(tall, 1e3, generator=0)
    assert huge.log_growth == pytest.approx(3000 * np.log(2001), rel=1e-3)
    assert miss(huge, torch.full((2,), 0.5**0.5, dtype=torch.float64)) < 1e-12


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda A: top_eigenvector_stream(A, 5), "n must"),
        (lambda A: top_eigenvector_stream([A]), "needed"),
        (lambda A: top_eigenvector_stream([A], 9), "n says 9"),
        (lambda A: top_eigenvector_stream([A, A], 12), "more than"),
        (lambda A: top_eigenvector_stream([], 3), "empty"),
        (lambda A: top_eigenvector_stream(A[0]), "shape"),
        (lambda A: top_eigenvector_stream([A, A[:, :2]], 16), "every piece"),
        (lambda A: top_eigenvector_stream(A, blocks=1), "blocks"),
        (lambda A: top_eigenvector_stream(A, heavy_budget=-1), "heavy_budget"),
        (lambda A: top_eigenvector_stream(A, method="qr"), "method"),
        (lambda A: top_eigenvector_stream(A * 0), "zero"),
        (lambda A: top_eigenvector_stream(A * float("inf")), "infinite"),
        (lambda A: top_eigenvector_stream(A * 1j), "real"),
        (lambda A: oja(A, -1.0), "rate"),
        (lambda A: oja(A * 0), "zero"),
    ],
)
def test_bad_input(call, word):
    with pytest.raises(ValueError, match=word):
        call(torch.ones(8, 3, dtype=torch.float64))
    with pytest.raises(TypeError, match="iterable"):
        top_eigenvector_stream(3)
