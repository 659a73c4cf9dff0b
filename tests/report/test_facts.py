"""Facts of a matrix by their definitions."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch

from resolvent.report.facts import difference, facts_of, finite_rows
from resolvent.report.repeats import repeats_of


def gaussian(m: int, n: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(m, n, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_counts_by_definition(dtype: torch.dtype) -> None:
    A = gaussian(900, 300, dtype=dtype)
    A[3, 4], A[8, 1], A[800, 299], A[5, 0] = math.nan, math.inf, -math.inf, math.nan
    A[10], A[:, 7], A[:, 9], A[20, 20] = 0, 0, 2.5, 40
    facts = facts_of(A)
    finite = A[torch.isfinite(A)].double()
    assert (facts.nan, facts.inf) == (2, 2)
    A[10, 9] = 2.5
    assert (facts.zero_rows, facts.zero_columns, facts.constant_columns) == (0, 1, 1)
    assert facts.mean == pytest.approx(float(finite.mean()), rel=1e-4)
    assert facts.std == pytest.approx(float(finite.std(correction=0)), rel=1e-5)
    assert facts.largest == pytest.approx(
        float(((finite - finite.mean()) / finite.std(correction=0)).abs().max()), rel=1e-4
    )
    assert facts.zeros == pytest.approx(float((A == 0).double().mean()), abs=1e-5)
    assert facts.repeated_rows == 0 and facts.bits is None
    json.dumps(dataclasses.asdict(facts), allow_nan=False)


def test_zero_rows_far_means_and_integers() -> None:
    A = gaussian(50, 40)
    A[:3] = 0
    facts = facts_of(A)
    assert facts.zero_rows == 3 and facts.repeated_rows == 0
    far = gaussian(200, 100, dtype=torch.float64) + 1e8
    assert facts_of(far).std == pytest.approx(float(far.std(correction=0)), rel=1e-6)
    assert facts_of(torch.full((4, 4), 7)).largest is None and facts_of(torch.full((4, 4), 7)).mean == 7
    nothing = facts_of(torch.full((4, 4), math.nan))
    assert nothing.nan == 16 and nothing.mean is None is nothing.std and nothing.largest is None
    huge = facts_of(1e300 * gaussian(50, 40, dtype=torch.float64))
    assert (huge.std, huge.largest, huge.nan, huge.inf) == (None, None, 0, 0)
    assert facts_of(1e38 * (2 + gaussian(50, 40))).inf == int(torch.isinf(1e38 * (2 + gaussian(50, 40))).sum())
    json.dumps([dataclasses.asdict(f) for f in (nothing, huge)], allow_nan=False)
    assert facts_of(torch.ones(3, 5, dtype=torch.complex64)).constant_columns == 5
    for bad in (torch.ones(3), torch.ones(0, 3)):
        with pytest.raises(ValueError, match="entries"):
            facts_of(bad)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("scheme", ["tensor", "row", "column", "group"])
def test_grids_are_seen(bits: int, scheme: str) -> None:
    A = gaussian(256, 512)
    groups = A.reshape(256, -1, 64)
    scale = {
        "tensor": A.abs().max(),
        "row": A.abs().amax(1, keepdim=True),
        "column": A.abs().amax(0, keepdim=True),
        "group": groups.abs().amax(2, keepdim=True).expand(groups.shape).reshape(A.shape),
    }[scheme]
    step = 2 * scale / (2**bits - 1)
    q = (torch.floor(A / step).clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) + 0.5) * step
    facts = facts_of(q)
    assert facts.bits is not None and facts.bits <= bits
    assert facts_of(A).bits is None and facts_of(A.bfloat16()).bits is None


def test_eight_bits_in_long_rows_only() -> None:
    A = gaussian(64, 4096)
    q = torch.round(A / A.abs().max() * 127)
    assert facts_of(q).bits in (7, 8)
    assert facts_of(torch.ones(3, 4)).levels is None and facts_of(q.to(torch.int32)).bits is None


def test_a_block_of_repeated_rows() -> None:
    A = gaussian(3000, 64)
    A[1000:1040] = A[10:50]
    A[2000] = 3 * A[2001] + 0.01 * gaussian(1, 64, 5)
    facts = facts_of(A)
    assert facts.repeated_rows == 40 and facts.near_repeated_rows == 41
    assert facts.repeat == (1000, 10, 40)
    # on one side of the origin, as word vectors are
    assert facts_of(A + 2).repeated_rows == 40
    assert facts_of(A.to(torch.complex64) * 1j).repeated_rows == 40


@pytest.mark.parametrize("n", [300, 3000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64])
def test_a_block_of_repeated_columns(n: int, dtype: torch.dtype) -> None:
    A = gaussian(900, n).to(dtype)
    A[:, 200:240] = A[:, 10:50]
    A[:, 260] = 2 * A[:, 261] + 0.02 * gaussian(900, 1, 5)[:, 0].to(dtype)
    for matrix in (A, A.T.contiguous().T):
        facts = facts_of(matrix)
        assert facts.repeated_columns == 40 and facts.near_repeated_columns == 41 and facts.repeated_rows == 0
        assert facts.repeat_columns == (200, 10, 40) and facts.repeat is None
    assert repeats_of(A.T) == repeats_of(A.T.contiguous())


def test_columns_of_any_size_and_of_none() -> None:
    A = gaussian(60, 50, dtype=torch.float64) * torch.logspace(-250, 250, 50, dtype=torch.float64)
    A[:, 40] = 1e-100 * A[:, 45]
    A[:, 7], A[3, 8] = 0, math.nan
    facts = facts_of(A)
    assert (facts.repeated_columns, facts.near_repeated_columns, facts.repeat_columns) == (0, 1, (45, 40, 1))
    assert facts_of(gaussian(12, 40)).near_repeated_columns is None
    assert facts_of(gaussian(3, 40)).repeated_columns == 0


@pytest.mark.parametrize("count", [50, 700, 2048])
def test_all_pairs_of_few_rows_against_all_cosines(count: int) -> None:
    A = gaussian(count, 40)
    half = count // 2
    A[half:] = A[:half] + 0.044 * torch.rand(half, 1, generator=torch.Generator().manual_seed(4)) * gaussian(
        half, 40, 1
    )
    A[-5:] = A[:5]
    unit = A.double() / A.double().norm(dim=1, keepdim=True)
    near = ((unit @ unit.T).tril(-1) >= 0.999).any(1)
    got = repeats_of(A)
    # every row here has one partner, and each group is a pair
    assert got.exact == 5 and int(near.sum()) - max(1, count // 500) <= got.near <= int(near.sum())


def test_exact_repeats_within_a_tight_cluster() -> None:
    A = gaussian(1, 32) + 1e-6 * gaussian(500, 32, 1)
    A[250:300] = A[:50]
    assert repeats_of(A).exact >= 45 and repeats_of(A).near == 499


def test_rows_that_are_all_one() -> None:
    same = repeats_of(gaussian(1, 32).expand(500, 32))
    assert same.exact == same.near == 499 and same.block == (1, 0, 499)
    near = repeats_of(gaussian(1, 32) + 1e-4 * gaussian(200, 32, 1))
    assert near.exact == 0 and near.near == 199 and near.block is not None
    assert repeats_of(gaussian(20, 3)) == repeats_of(torch.zeros(20, 3))
    assert repeats_of(gaussian(20, 8)).near is None and repeats_of(torch.zeros(20, 18)).near == 0
    assert repeats_of(torch.full((5, 20), math.nan)).exact == 0


def test_near_repeats_are_rarely_missed() -> None:
    A = gaussian(4000, 128)
    unit = A / A.norm(dim=1, keepdim=True)
    noise = gaussian(2000, 128, 1)
    noise = noise / noise.norm(dim=1, keepdim=True)
    A[2000:] = unit[:2000] + 0.03 * noise
    got = repeats_of(A)
    assert got.exact == 0 and got.near >= 1960


def test_fingerprints_tell_copies() -> None:
    A, B = gaussian(300, 120), gaussian(300, 120, 1)
    a = facts_of(A)
    assert difference(a, facts_of(A.clone())) == 0 and difference(a, facts_of(A.T.contiguous()), transposed=True) < 1e-5
    assert difference(a, facts_of(B)) > 0.5 and difference(a, facts_of(-A)) == pytest.approx(2)
    near = difference(a, facts_of(A + 0.01 * B))
    assert 0.003 < near < 0.03
    zero = facts_of(torch.zeros(4, 4))
    assert difference(zero, zero) == math.inf


def test_axes_of_any_length() -> None:
    A = gaussian(3, 150_000)
    assert difference(facts_of(A), facts_of(A.T), transposed=True) < 1e-4
    assert difference(facts_of(A), facts_of(gaussian(3, 150_000, 1))) > 0.5
    many = gaussian(600_000, 4)
    many[500_000:500_100] = many[:100]
    assert facts_of(many).repeated_rows == 100


def test_finite_rows() -> None:
    A = gaussian(40, 10, dtype=torch.float64)
    A[3, 3], A[5] = math.nan, 0
    norms, mean, kept = finite_rows(A)
    good = [i for i in range(40) if i not in (3, 5)]
    assert kept.tolist() == good and norms == pytest.approx(A[good].norm(dim=1))
    assert mean == pytest.approx((A[good] / A[good].norm(dim=1, keepdim=True)).mean(0))
    assert finite_rows(torch.ones(2, 3, dtype=torch.complex64))[1].shape == (6,)
