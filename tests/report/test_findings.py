"""Each rule of the findings, for what it names and for what it must leave alone."""

from __future__ import annotations

import math

import pytest
import torch

from resolvent.report.document import Row
from resolvent.report.embedding import embedding_of
from resolvent.report.facts import facts_of
from resolvent.report.findings import SEVERITIES, Finding, find, random_distance
from resolvent.report.measure import measured
from resolvent.spectra.random_matrix import marchenko_pastur


def gaussian(m: int, n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(m, n, generator=torch.Generator().manual_seed(seed))


def decaying(m: int, n: int, seed: int = 0) -> torch.Tensor:
    u, _ = torch.linalg.qr(gaussian(m, min(m, n), seed))
    v, _ = torch.linalg.qr(gaussian(n, min(m, n), seed + 100))
    return (u / torch.arange(1, min(m, n) + 1) ** 0.4) @ v.T


def row(name: str, A: torch.Tensor, *, embedding: bool = False, quick: bool = True) -> Row:
    m, curve = measured(A, quick=quick)
    found = embedding_of(A, quick=True) if embedding else None
    shape = tuple(A.shape)
    return Row(name, shape, "float32", shape, measured=m, curve=curve, facts=facts_of(A), embedding=found)


def kinds(*rows: Row) -> dict[str, str]:
    return {f.kind: f.severity for f in find(rows)}


def one(kind: str, *rows: Row) -> Finding:
    (finding,) = [f for f in find(rows) if f.kind == kind]
    return finding


def test_nothing_to_say() -> None:
    assert find([]) == () and kinds(row("a", decaying(90, 60))) == {}
    vector = Row("bias", (7,), "float32", (7,), status="skipped", reason="it has one axis (a vector)")
    assert find([vector]) == ()


def test_errors_come_first_and_carry_their_number() -> None:
    bad = decaying(60, 40)
    bad[:2, 3] = math.nan
    bad[5, 5] = math.inf
    lost = Row(
        "lost", (60, 40), "float32", (60, 40), facts=facts_of(bad), status="failed", reason="3 of its 2400 entries"
    )
    bare = Row(
        "bare", (60, 40), "float32", (60, 40), status="failed", reason="3 of its 2400 entries are NaN or infinite"
    )
    cut = Row("cut", (60, 40), "unknown", (60, 40), status="failed", reason="the file ends inside it")
    found = find(
        [row("b", 0.02 * gaussian(60, 60)), row("a", decaying(60, 60) * (gaussian(1, 60) > -9)), cut, lost, bare]
    )
    assert [(f.severity, f.matrix, f.kind) for f in found] == [
        ("error", "cut", "failed"),
        ("error", "lost", "not finite"),
        ("error", "bare", "not finite"),
        ("warning", "b", "random"),
    ]
    assert "2 NaN and 1 infinite of its 2,400 entries" in found[1].text and found[1].value == found[2].value == 3
    assert all(f.advice and f.text and isinstance(f.value, float) and math.isfinite(f.value) for f in found)
    assert SEVERITIES == ("note", "warning", "error")


@pytest.mark.parametrize("shape", [(20, 20), (60, 200), (200, 60), (300, 300)])
def test_random_matrices_stay_below_the_bound(shape: tuple[int, int]) -> None:
    for seed in range(5):
        fit = marchenko_pastur(gaussian(*shape, seed).double())
        assert fit.distance < random_distance(min(shape))
    assert (
        kinds(row("a", torch.rand(shape, generator=torch.Generator().manual_seed(0)) - 0.5)).get("random") == "warning"
    )
    assert "random" not in kinds(row("a", decaying(*shape)))


def test_orthogonal_is_a_note_and_the_identity_is_nothing() -> None:
    q, _ = torch.linalg.qr(gaussian(64, 64))
    assert kinds(row("a", q)) == {"orthogonal": "note"}
    eye = torch.eye(64)
    assert not {"orthogonal", "copy"} & set(kinds(row("a", eye), row("b", eye)))


def test_spikes_and_collapse() -> None:
    A = decaying(100, 80)
    ones = torch.ones(100, 80) / math.sqrt(8000)
    assert one("spike", row("a", A + 20 * ones)).value == pytest.approx(20, rel=0.1)
    assert find([row("embed", A + 20 * ones, embedding=True)])[0].severity == "note"
    flat = row("a", ones)
    assert kinds(flat)["collapsed"] == "warning" and "repeated rows" not in kinds(flat)
    few = decaying(300, 300)
    u, _ = torch.linalg.qr(gaussian(300, 3))
    assert one("collapsed", row("a", 1e-4 * few + 5 * u @ u.T)).value == 3
    # a heavy tail has large gaps by nature
    s = torch.arange(1, 81).float() ** -1.5
    q, _ = torch.linalg.qr(gaussian(80, 80))
    assert "spike" not in kinds(row("a", q * s))
    assert kinds(row("layer.lora", ones)).keys() <= {"constant columns"}
    assert kinds(row("a", torch.zeros(30, 30))) == {"zero": "warning"}
    assert kinds(row("x.lora_B.weight", torch.zeros(30, 30))) == {"zero": "note"}


def test_repeats_say_where() -> None:
    A = decaying(90, 60)
    A[50:60] = A[:10]
    finding = one("repeated rows", row("a", A))
    assert finding.value == 10 and "rows 50 to 59 repeat rows from 0 on" in finding.text and "exactly" in finding.text
    A = decaying(90, 60)
    A[50] = 2 * A[4] + 1e-3 * A[5]
    assert "row 50 repeats row 4" in one("repeated rows", row("a", A)).text
    assert kinds(row("embed", A, embedding=True)).get("duplicates") == "note"


def test_repeated_columns_say_where() -> None:
    A = decaying(90, 60)
    A[:, 50:60] = A[:, :10]
    finding = one("repeated columns", row("a", A))
    assert finding.value == 10 and finding.severity == "warning"
    assert "10 of its 60 columns repeat an earlier column" in finding.text
    assert "columns 50 to 59 repeat columns from 0 on" in finding.text and "inputs" in finding.advice
    assert "repeated rows" not in kinds(row("a", A))
    A[80] = A[3]
    both = kinds(row("a", A))
    assert both["repeated rows"] == both["repeated columns"] == "warning"
    assert kinds(row("embed", A, embedding=True))["repeated columns"] == "note"


def test_near_repeats_of_few_dimensions_are_chance() -> None:
    g = torch.Generator().manual_seed(0)
    A = torch.randn(2000, 3, generator=g) @ torch.randn(3, 60, generator=g)
    assert facts_of(A).near_repeated_rows > 100 and "repeated rows" not in kinds(row("q.lora", A))
    A[1500] = A[7]
    assert one("repeated rows", row("q.lora", A)).text.startswith("1 of its 2000 rows repeats an earlier row (exactly)")


def test_grids() -> None:
    A = decaying(256, 256)
    assert one("quantised", row("a", torch.round(A / A.abs().max() * 3))).severity == "warning"
    long = decaying(64, 4096)
    assert one("quantised", row("a", torch.round(long / long.abs().max() * 127))).severity == "note"
    mask = torch.ones(64, 64).tril()
    assert kinds(row("attn.bias", mask))["mask"] == "note"


def test_dead_units() -> None:
    A = decaying(90, 60)
    A[3:5], A[:, 7] = 0, 0
    found = kinds(row("a", A))
    assert found["dead rows"] == found["dead columns"] == "warning"
    assert kinds(row("embed", A, embedding=True))["dead rows"] == "note"
    assert one("dead rows", row("a", A)).value == 2
    B = decaying(90, 60)
    B[:, 8] = 0.01
    assert kinds(row("a", B))["constant columns"] == "note"


def test_notes_on_entries_condition_and_size() -> None:
    A = decaying(400, 300)
    A[3, 3] = 100 * A.std()
    assert one("outlier entries", row("a", A, quick=False)).value == pytest.approx(100, rel=0.05)
    assert "shuffled" in one("outlier entries", row("a", 9 * A, quick=False)).text
    u, _ = torch.linalg.qr(gaussian(80, 80).double())
    v, _ = torch.linalg.qr(gaussian(80, 80, 1).double())
    finding = one("ill-conditioned", row("a", (u * torch.logspace(0, -5, 80, dtype=torch.float64)) @ v))
    assert finding.value == pytest.approx(1e5, rel=1e-3)
    assert one("compressible", row("a", (u * torch.logspace(0, -5, 80, dtype=torch.float64)) @ v)).value < 0.5


def test_embeddings() -> None:
    A = gaussian(600, 100) / 10 + 2 * torch.eye(100)[0]
    A[50:60] = A[:10]
    found = kinds(row("embed", A, embedding=True))
    assert found["anisotropy"] == found["duplicates"] == "note" and set(found.values()) == {"note"}
    assert kinds(row("embed", gaussian(1500, 200), embedding=True))["hubness"] == "note"


def test_an_exploded_layer_among_its_siblings() -> None:
    rows = [row(f"layers.{i}.w", (1 + 0.2 * i) * decaying(60, 60, i)) for i in range(6)]
    assert "exploding scale" not in kinds(*rows)
    rows[2] = row("layers.2.w", 50 * decaying(60, 60, 2))
    finding = one("exploding scale", *rows)
    assert finding.matrix == "layers.2.w" and finding.value == pytest.approx(50 / 1.6, rel=0.3)
    # scales that differ in all layers are of that kind of model
    spread = [row(f"layers.{i}.w", 8.0**i * decaying(60, 60, i)) for i in range(5)]
    assert "exploding scale" not in kinds(*spread)
    assert "exploding scale" not in kinds(
        *[row(n, s * decaying(60, 60, ord(n))) for n, s in zip("abcde", (1, 1, 1, 1, 99), strict=True)]
    )


def test_copies_and_transposes() -> None:
    A, B = decaying(90, 60), decaying(90, 60, 1)
    finding = one("copy", row("a", A), row("b", B), row("c", A.clone()))
    assert (finding.matrix, finding.value) == ("c", 0) and "copy of a, entry by entry" in finding.text
    finding = one("copy", row("a", A), row("b", B), row("c", B.T + 1e-4 * gaussian(60, 90, 3)))
    assert "transpose of b up to" in finding.text and 0 < finding.value < 0.05
    same = [row(f"x.{i}", A.clone()) for i in range(3)]
    assert [f.matrix for f in find(same) if f.kind == "copy"] == ["x.1", "x.2"]
    symmetric = A @ A.T
    assert "copy" not in kinds(row("a", symmetric))
