"""Fuzz everything that reads files of others: `make fuzz`, or `python tests/search/fuzz_readers.py -max_total_time=60`.

Arguments are those of libFuzzer. The first byte of an input chooses the reader, the rest is the file. A reader may
refuse a file with one line that names it; anything else that it raises, more than three gigabytes, or ten seconds is a find.
"""

from __future__ import annotations

import contextlib
import json
import resource
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import atheris
import numpy as np

with atheris.instrument_imports(include=["resolvent.search", "resolvent.cli"]):
    import resolvent.cli.index_input as index_input
    from resolvent import search
    from resolvent.search import F, formats, segment, store

ROOM, SECONDS = 3 << 30, 10
FOLDER = Path(tempfile.mkdtemp(prefix="fuzz"))


def refused(error: Exception, name: str) -> None:
    """Is this the way to say no?"""
    text = str(error)
    if not isinstance(error, ValueError | OSError) or "\n" in text or name not in text or len(text) > 2000:
        raise error


def reads(suffix: str, read: Callable[[Path], object]) -> Callable[[bytes], None]:
    """A target that writes its input to a file and reads that."""

    def target(raw: bytes) -> None:
        path = FOLDER / f"fuzz{suffix}"
        path.write_bytes(raw)
        try:
            read(path)
        except Exception as error:
            refused(error, path.name)

    return target


def header(raw: bytes) -> None:
    """The header of a segment: what is refused is Damaged."""
    try:
        arrays, metadata = segment.unpack(raw, "fuzz")
    except segment.StoreError as error:
        refused(error, "fuzz")
    else:
        if sum(array.nbytes for array in arrays.values()) > len(raw) or not isinstance(metadata, dict):
            raise RuntimeError("arrays are larger than their file")


def make_index() -> dict[str, bytes]:
    """A small index of every kind of field: its files."""
    path = FOLDER / "seed"
    fields = {"v": search.Dense(3), "s": search.Sparse(6), "m": search.MultiVector(2)}
    with search.create(path, vectors=fields, payload={"n": int, "t": list[str]}, window=["n"]) as index:
        g, payload = np.random.default_rng(0), {"n": list(range(40)), "t": [["a"]] * 40}
        index.add(
            range(40), v=g.normal(size=(40, 3)), s=[{i % 6: 1.0} for i in range(40)], m=g.normal(size=(40, 2, 2)),
            payload=payload,
        )  # fmt: skip
        index.build("v", search.HNSW(M=4), min_rows=10)
        index.build("v", search.WindowTree(leaf=10, inner=search.HNSW(M=4)), min_rows=10)
        index.add([77], v=np.ones((1, 3)))
    return {file.name: file.read_bytes() for file in sorted(path.iterdir())}


def opened(files: dict[str, bytes]) -> Callable[[bytes], None]:
    """A directory whose files have bytes changed: (file, place, place, byte) after (file, place, place, byte)."""
    names = [name for name in files if not name.endswith("-shm")]

    def target(raw: bytes) -> None:
        changed = {name: bytearray(content) for name, content in files.items()}
        for at in range(0, len(raw) - 3, 4):
            own = changed[names[raw[at] % len(names)]]
            place = int.from_bytes(raw[at + 1 : at + 3], "little")
            if own and place == 0xFFFF:
                del own[raw[at + 3] * len(own) // 256 :]
            elif own:
                own[place % len(own)] ^= raw[at + 3]
        path = FOLDER / "index"
        path.mkdir(exist_ok=True)
        for old in path.iterdir():
            old.unlink()
        for name, content in changed.items():
            (path / name).write_bytes(content)
        try:
            with store.open(path) as index:
                for ask in ({"v": [1.0, 0, 0]}, {"s": {2: 1.0}}, {"m": [[1.0, 0.0]]}):
                    for method in ("exact", "hnsw", "window"):
                        with contextlib.suppress(segment.StoreError):
                            index.query(k=3, where=F.n < 30, method=method, **ask)
                index.verify()
        except Exception as error:
            if not isinstance(error, segment.StoreError | ValueError | FileNotFoundError) or "\n" in str(error):
                raise

    return target


def tables(path: Path) -> None:
    """What `resolvent index add` takes from a file."""
    for batch in index_input.read_table(path, "vector"):
        if batch.rows < 0 or any(len(column) != batch.rows for column in batch.payload.values()):
            raise RuntimeError("columns of different lengths")


def texts(path: Path) -> None:
    for batch in index_input.read_texts(path, 5):
        if any(not isinstance(text, str) for text in batch.vectors["text"]):
            raise RuntimeError("a text that is none")


def collection(path: Path) -> None:
    """A collection whose documents, queries and judgements are parts of the input."""
    (path.parent / "qrels").mkdir(exist_ok=True)
    names = ("corpus.jsonl", "queries.jsonl", "qrels/test.tsv")
    parts = [*path.read_bytes().split(b"\0", 2), b"", b""]
    for name, part in zip(names, parts, strict=False):
        (path.parent / name).write_bytes(part)
    try:
        formats.read_beir(path.parent)
    except (ValueError, OSError) as error:
        if not any(name.rpartition("/")[2] in str(error) for name in names):
            raise
        raise ValueError(path.name) from error


LINE = json.dumps({"id": 1, "vector": [1.0, 2.0], "lang": "de", "text": "one two"}).encode() + b"\n"


def seeds() -> list[tuple[Callable[[bytes], None], list[bytes]]]:
    """The targets with inputs to begin with."""
    import io

    import safetensors.numpy

    files = make_index()
    parts = [raw for name, raw in files.items() if name.endswith(".safetensors")]
    one = {"vector": np.eye(3, dtype=np.float32), "ids": np.arange(3), "lang": np.array(["a", "b", "c"])}
    npy, npz, packed = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.save(npy, np.eye(3))
    np.savez(npz, **one)
    np.savez_compressed(packed, **one)
    plain = {name: array for name, array in one.items() if array.dtype.kind != "U"}
    found: list[tuple[Callable[[bytes], None], list[bytes]]] = [
        (header, [min(parts, key=len), safetensors.numpy.save(plain)]),
        (opened(files), [bytes([2, 9, 0, 1]), bytes([0, 0xFF, 0xFF, 9]), bytes([3, 0x80, 2, 0xFF, 4, 9, 1, 3])]),
        (reads(".npy", tables), [npy.getvalue()]),
        (reads(".npz", tables), [npz.getvalue(), packed.getvalue()]),
        (reads(".safetensors", tables), [safetensors.numpy.save(plain)]),
        (reads(".jsonl", tables), [2 * LINE, b'{"vector": {"3": 1.5}}\n']),
        (reads(".jsonl", texts), [2 * LINE]),
        (reads(".md", texts), [b"# One\n\ntwo three four five six\n"]),
        (reads(".npy", index_input.read_queries), [npy.getvalue()]),
        (reads(".qrels", formats.read_qrels), [b"q1 0 d7 2\nq1 d8 1\n"]),
        (reads(".run", formats.read_run), [b"q1 Q0 d7 1 12.5 mine\nq1 d2 3\n"]),
        (reads(".tsv", formats.read_tsv), [b"7\twhat is tea\n"]),
        (reads(".fvecs", formats.read_vecs), [np.array([2, 5, 6, 2, 7, 8], np.int32).tobytes()]),
        (reads(".bvecs", formats.read_vecs), [np.array([4, 5, 4, 7], np.int32).tobytes()]),
        (
            reads(".beir", collection),
            [b'{"_id": "d", "text": "x"}\0{"_id": "q", "text": "y"}\0query-id\tcorpus-id\tscore\nq\td\t1\n'],
        ),
    ]
    with contextlib.suppress(ImportError):
        import pyarrow
        from pyarrow import parquet

        table = io.BytesIO()
        parquet.write_table(pyarrow.table({"vector": [[1.0, 2.0], [3.0, 4.0]], "id": [1, 2]}), table)
        found.append((reads(".parquet", tables), [table.getvalue()]))
    return found


def main() -> None:
    targets = seeds()
    corpus = FOLDER / "corpus"
    corpus.mkdir()
    for number, (target, inputs) in enumerate(targets):
        for i, raw in enumerate(inputs):
            (corpus / f"{number}-{i}").write_bytes(bytes([number]) + raw)
            target(raw)

    def one_input(raw: bytes) -> None:
        if raw:
            targets[raw[0] % len(targets)][0](raw[1:])

    warnings.simplefilter("ignore")
    with open("/proc/self/statm", encoding="ascii") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + ROOM, resource.getrlimit(resource.RLIMIT_AS)[1]))
    given = sys.argv[1:]
    files = [word for word in given if not word.startswith("-")]
    own = [] if files else [str(corpus)]
    limits = [f"-timeout={SECONDS}", "-rss_limit_mb=0", "-max_len=20000", f"-artifact_prefix={tempfile.gettempdir()}/"]
    atheris.Setup([sys.argv[0], *limits, *given, *own], one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
