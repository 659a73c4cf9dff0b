"""The gallery's matrices against exact entries, and its closed forms against mpmath with 50 digits."""

from __future__ import annotations

import functools
import math
from fractions import Fraction

import mpmath as mp
import pytest
import torch

from resolvent.operators import gallery

ENTRIES = gallery.entries()
NAMES = [e.name for e in ENTRIES]
BY_NAME = {e.name: e for e in ENTRIES}
DIGITS = 50
SINGULAR = {"norm2", "condition", "singular_values"}


def _formula(rows, cols, value):
    return mp.matrix([[value(i, j) for j in range(1, cols + 1)] for i in range(1, rows + 1)])


def _reflected(n, eigenvalues):
    H = mp.eye(n) - mp.matrix(n, n).apply(lambda _: mp.mpf(2) / n)
    return H * mp.diag([mp.mpf(w) for w in eigenvalues]) * H


def _near_singular(n):
    return [mp.mpf(2) ** -50] + [1 + mp.mpf(k) / n for k in range(n - 1)]


def _invol(n):
    A = _formula(n, n, lambda i, j: mp.mpf(1) / (i + j - 1))
    d = mp.mpf(-n)
    for i in range(n):
        A[i, 0] *= d
    for i in range(1, n):
        d = -d * (n + i) * (n - i) / (i * i)
        for j in range(n):
            A[i, j] *= d
    return A


def _clement_side(n, i, j):
    return mp.sqrt(min(i, j) * (n - min(i, j))) if abs(i - j) == 1 else mp.mpf(0)


# The exact matrices of the entries that rounding changes; every other one is its own exact matrix.
EXACT = {
    "hilbert": lambda n: _formula(n, n, lambda i, j: mp.mpf(1) / (i + j - 1)),
    "cauchy": lambda n: _formula(n, n, lambda i, j: mp.mpf(1) / (i + j)),
    "parter": lambda n: _formula(n, n, lambda i, j: 1 / (i - j + mp.mpf(1) / 2)),
    "ris": lambda n: _formula(n, n, lambda i, j: mp.mpf(1) / (2 * n - 2 * i - 2 * j + 3)),
    "lehmer": lambda n: _formula(n, n, lambda i, j: mp.mpf(min(i, j)) / max(i, j)),
    "lotkin": lambda n: _formula(n, n, lambda i, j: mp.mpf(1) / (i + j - 1) if i > 1 else mp.mpf(1)),
    "prolate": lambda n: _formula(
        n, n, lambda i, j: mp.sin(mp.pi * (i - j) / 2) / (mp.pi * (i - j)) if i != j else mp.mpf(1) / 2
    ),
    "vandermonde": lambda n: _formula(n, n, lambda i, j: mp.cos((2 * j - 1) * mp.pi / (2 * n)) ** (i - 1)),
    "clement_symmetric": lambda n: _formula(n, n, lambda i, j: _clement_side(n, i, j)),
    "lesp": lambda n: _formula(
        n, n, lambda i, j: {0: mp.mpf(-2 * i - 3), 1: mp.mpf(j), -1: mp.mpf(1) / i}.get(j - i, mp.mpf(0))
    ),
    "sine": lambda n: _formula(n, n, lambda i, j: mp.sqrt(mp.mpf(2) / (n + 1)) * mp.sin(i * j * mp.pi / (n + 1))),
    "fourier": lambda n: _formula(n, n, lambda i, j: mp.expjpi(-mp.mpf(2) * (i - 1) * (j - 1) / n) / mp.sqrt(n)),
    "smoke": lambda n: _formula(n, n, lambda i, j: mp.expjpi(mp.mpf(2) * i / n) if i == j else mp.mpf(j == i % n + 1)),
    "kahan": lambda n: _formula(
        n, n, lambda i, j: mp.sin(mp.mpf(1.2)) ** (i - 1) * ((i == j) - mp.cos(mp.mpf(1.2)) * (i < j))
    ),
    "invol": _invol,
    "repeated": lambda n: _reflected(n, BY_NAME["repeated"].known["eigenvalues"](n)),
    "geometric": lambda n: _reflected(n, BY_NAME["geometric"].known["eigenvalues"](n)),
    "rank_deficient": lambda n: _reflected(n, BY_NAME["rank_deficient"].known["eigenvalues"](n)),
    "near_singular": lambda n: _reflected(n, _near_singular(n)),
    "clustered": lambda n: _reflected(n, BY_NAME["clustered"].known["eigenvalues"](n)),
    "sign_pairs": lambda n: _reflected(n, BY_NAME["sign_pairs"].known["eigenvalues"](n)),
}


def to_mp(A):
    A = A.to_dense() if A.is_sparse else A
    number = mp.mpc if A.is_complex() else mp.mpf
    return mp.matrix([[number(x) for x in row] for row in A.tolist()])


@functools.cache
def exact(name, n):
    with mp.workdps(DIGITS):
        return EXACT[name](n) if name in EXACT else to_mp(gallery.get(name, n))


def span(name, A):
    """The decimal digits between the largest and the smallest entry of a graded matrix."""
    if "graded" not in BY_NAME[name].tags:
        return 0
    sizes = [abs(x) for x in A if x != 0]
    return int(mp.log10(max(sizes) / min(sizes))) if sizes else 0


@functools.cache
def singular_values(name, n):
    A = exact(name, n)
    with mp.workdps(DIGITS + 2 * span(name, A)):
        values = mp.svd_c(A, compute_uv=False) if isinstance(A[0, 0], mp.mpc) else mp.svd_r(A, compute_uv=False)
        return sorted(values, reverse=True)


@functools.cache
def eigenvalues(name, n):
    A = exact(name, n)
    with mp.workdps(DIGITS * max(n, 4)):
        if BY_NAME[name].hermitian:
            symmetric = mp.eighe if isinstance(A[0, 0], mp.mpc) else mp.eigsy
            return list(symmetric((A + A.H) / 2, eigvals_only=True))
        return list(mp.eig(A, left=False, right=False))


def key(name):
    """The size at which the closed forms are checked: the entry's own, less where mpmath would take long."""
    return min(BY_NAME[name].size, 10 if name in ("kahan", "redheffer", "near_defective") else 99)


def test_there_are_sixty():
    assert len(ENTRIES) >= 60
    assert len(set(NAMES)) == len(NAMES)
    assert set(NAMES) | {"Entry", "entries", "get"} == set(gallery.__all__)


@pytest.mark.parametrize("e", ENTRIES, ids=NAMES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.complex64], ids=str)
def test_builds(e, dtype):
    A = e.build(dtype=dtype)
    B = gallery.get(e.name, dtype=dtype)
    assert B.to_dense().dtype in (dtype, dtype.to_complex())
    assert B.is_sparse == ("sparse" in e.tags)
    assert e.says and e.says.endswith((".", "-3")) and "Examples" in e.build.__doc__
    if "random" in e.tags:
        assert torch.equal(A.to_dense(), e.build(dtype=dtype).to_dense())
    dense = B.to_dense()
    assert bool(torch.isfinite(dense.abs()).all())
    assert ("rectangular" in e.tags) == (dense.shape[0] != dense.shape[1])
    if dense.shape[0] == dense.shape[1]:
        assert bool(torch.equal(dense, dense.mH)) >= e.hermitian
        if not e.hermitian and dense.shape[0] > 1:
            assert not torch.equal(dense, dense.mH)
    if "integer" in e.tags:
        assert torch.equal(torch.view_as_real(dense + 0j).round(), torch.view_as_real(dense + 0j))
    if ("complex" in e.tags) and dtype == torch.float32:
        assert dense.dtype == torch.complex64


@pytest.mark.parametrize("name", sorted(EXACT))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_entries_are_rounded_from_the_exact_matrix(name, dtype):
    n = BY_NAME[name].size
    A, B = to_mp(gallery.get(name, n, dtype=dtype)), exact(name, n)
    eps = torch.finfo(dtype).eps
    largest = max(abs(x) for x in B)
    cancels = name in ("vandermonde", "sine", "fourier", "smoke", "prolate")
    absolute = cancels or "_reflected" in EXACT[name].__code__.co_names
    for i in range(A.rows):
        for j in range(A.cols):
            slack = 4 * eps * largest if absolute else 8 * eps * abs(B[i, j])
            assert abs(A[i, j] - B[i, j]) <= slack, (i, j)


def close(value, reference, digits=1e-13, size=None):
    if not isinstance(value, complex):
        value = mp.mpf(Fraction(value).numerator) / Fraction(value).denominator
    return abs(value - reference) <= digits * max(abs(reference), size or 0)


@pytest.mark.parametrize("name", [e.name for e in ENTRIES if "eigenvalues" in e.known])
def test_known_eigenvalues(name):
    n = key(name)
    known, found = BY_NAME[name].known["eigenvalues"](n), eigenvalues(name, n)
    assert len(known) == len(found)
    size = max(abs(x) for x in found)
    remaining = list(found)
    for w in known:
        nearest = min(range(len(remaining)), key=lambda k: abs(remaining[k] - w))
        assert abs(remaining.pop(nearest) - w) <= 1e-13 * size, w
    if BY_NAME[name].hermitian:
        assert known == sorted(known)


@pytest.mark.parametrize("name", [e.name for e in ENTRIES if SINGULAR & set(e.known)])
def test_known_singular_values(name):
    n, known = key(name), BY_NAME[name].known
    s = singular_values(name, n)
    if "singular_values" in known:
        assert all(close(x, y) for x, y in zip(known["singular_values"](n), s, strict=True))
    if "norm2" in known:
        assert close(known["norm2"](n), s[0])
    if "condition" in known:
        value = known["condition"](n)
        if math.isinf(value):
            assert s[-1] <= mp.mpf(10) ** (8 - DIGITS) * s[0]
        else:
            assert close(value, s[0] / s[-1])


@pytest.mark.parametrize("name", [e.name for e in ENTRIES if "rank" in e.known])
def test_known_rank(name):
    n = key(name)
    s = singular_values(name, n)
    threshold = mp.mpf(10) ** (8 - DIGITS) * s[0] / mp.mpf(10) ** (2 * span(name, exact(name, n)))
    assert sum(x > threshold for x in s) == BY_NAME[name].known["rank"](n)


@pytest.mark.parametrize("name", [e.name for e in ENTRIES if "det" in e.known])
@pytest.mark.parametrize("smaller", [False, True])
def test_known_det(name, smaller):
    n = key(name)
    if smaller:
        n = {"rosser": n, "one_by_one": n, "hadamard": 4, "hanowa": 6}.get(name, max(n - 3, 3))
    A = exact(name, n)
    with mp.workdps(DIGITS):
        found = mp.det(A)
        scale = mp.mpf(10) ** (12 - DIGITS) * (mp.mnorm(A, "f") + 1) ** A.rows
    known = BY_NAME[name].known["det"](n)
    assert abs(mp.mpc(known) - found) <= scale if known == 0 else close(known, found, 1e-12)


@pytest.mark.parametrize("name", [e.name for e in ENTRIES if e.positive])
def test_positive_entries_are_positive(name):
    n = key(name)
    e = BY_NAME[name]
    A = exact(name, n)
    with mp.workdps(DIGITS + 2 * span(name, A)):
        least = min(mp.eigsy(A, eigvals_only=True))
    # The random Gram matrices are positive as they were drawn; rounding may move an eigenvalue by eps.
    slack = 4e-16 if "random" in e.tags else mp.mpf(10) ** (8 - DIGITS)
    assert least >= -slack * e.size * singular_values(name, n)[0]


@pytest.mark.parametrize("e", ENTRIES, ids=NAMES)
def test_other_sizes_and_bad_ones(e):
    built = 0
    for n in range(1, 10):
        try:
            A = e.build(n)
        except ValueError as error:
            assert f"n={n}" in str(error) or "spikes" in str(error)
        else:
            built += 1
            assert bool(torch.isfinite(A.to_dense().abs()).all())
    assert built >= 1
    with pytest.raises(ValueError, match="n=0"):
        e.build(0)
    with pytest.raises(TypeError, match="dtype"):
        e.build(e.size, dtype=torch.int64)


def test_get_and_entries_name_what_is_wrong():
    with pytest.raises(ValueError, match="hilbertt"):
        gallery.get("hilbertt")
    with pytest.raises(ValueError, match="nice"):
        gallery.entries("nice")
    with pytest.raises(TypeError, match="n must be an int"):
        gallery.hilbert(2.5)
    with pytest.raises(ValueError, match="width"):
        gallery.prolate(4, width=0.7)
    assert {e.name for e in gallery.entries("sparse")} >= {"poisson", "wathen"}


def test_random_matrices_follow_their_generator():
    same = torch.Generator().manual_seed(0)
    assert torch.equal(gallery.goe(6), gallery.goe(6, generator=same))
    assert not torch.equal(gallery.goe(6), gallery.goe(6, generator=1))


def test_ensembles_at_a_larger_size():
    assert float(torch.linalg.matrix_norm(gallery.goe(400), 2)) == pytest.approx(2, abs=0.1)
    assert float(torch.linalg.matrix_norm(gallery.gue(400), 2)) == pytest.approx(2, abs=0.1)
    assert float(torch.linalg.matrix_norm(gallery.wishart(400), 2)) == pytest.approx((1 + 0.5**0.5) ** 2, abs=0.1)
    spiked = torch.linalg.eigvalsh(gallery.spiked_covariance(400))[-2:]
    ell = torch.tensor([9.0, 25.0], dtype=torch.float64)
    torch.testing.assert_close(spiked, ell * (1 + 0.5 / (ell - 1)), atol=0, rtol=0.3)
    Q = gallery.haar_orthogonal(200)
    assert abs(float(Q.trace())) < 5
    torch.testing.assert_close(Q @ Q.T, torch.eye(200, dtype=Q.dtype))


def test_riemann_and_wilkinson_literature_values():
    # The largest eigenvalue of W21+, as printed in Wilkinson's book.
    top = torch.linalg.eigvalsh(gallery.wilkinson(21))[-2:]
    torch.testing.assert_close(top[1], torch.tensor(10.746194182903393, dtype=torch.float64))
    assert 0 < float(top[1] - top[0]) < 1e-13
    assert float(torch.linalg.cond(gallery.hilbert(10))) == pytest.approx(1.6025e13, rel=1e-3)
