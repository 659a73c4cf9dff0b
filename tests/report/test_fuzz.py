"""Damaged and invented files: each is read, or refused in one sentence, in bounded memory and time."""

from __future__ import annotations

import io
import json
import pickletools
import resource
import struct
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.sparse
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from resolvent.report import stored_tensors
from resolvent.report.layout import Layout, not_a_matrix

# Far more than any of these files needs, far less than what they claim.
ROOM = 1 << 30
MANY = settings(max_examples=150, deadline=5000, suppress_health_check=list(HealthCheck), database=None)


def consume(path: Path) -> None:
    """Read all that a file has; a ValueError or an OSError of one line is the only way to fail."""
    try:
        with stored_tensors(path) as tensors:
            layout = Layout(tensors)
            for stored in tensors:
                assert stored.name.isprintable() and "\n" not in stored.reason
                try:
                    if not stored.reason and not not_a_matrix(stored) and layout.tied(stored) is None:
                        for part in layout.parts(stored, stored.load()):
                            assert len(part.matrix.shape) == 2
                    else:
                        stored.load()
                except (ValueError, OSError) as error:
                    assert "\n" not in str(error)
    except (ValueError, OSError) as error:
        assert "\n" not in str(error) and path.name in str(error) and len(str(error)) < 1000


@contextmanager
def little_room() -> Iterator[None]:
    """Let no more than `ROOM` be taken beyond what the process has already."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm", encoding="ascii") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + ROOM, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def consumed(suffix: str, raw: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"fuzz{suffix}")
        path.write_bytes(raw)
        with little_room():
            consume(path)


def torch_bytes(legacy: bool = False) -> bytes:
    out = io.BytesIO()
    state = {"a.weight": torch.eye(3), "a.lora_A.weight": torch.ones(1, 3), "a.lora_B.weight": torch.ones(3, 1)}
    state = {"model": {**state, "half": torch.ones(2, 2).bfloat16()}, "epoch": 3}
    torch.save(state, out, _use_new_zipfile_serialization=not legacy)
    return out.getvalue()


def numpy_bytes(kind: str) -> bytes:
    out = io.BytesIO()
    if kind == "npy":
        np.save(out, np.eye(4))
    elif kind == "sparse":
        scipy.sparse.save_npz(out, scipy.sparse.eye_array(5, format="csr"))
    else:
        (np.savez if kind == "npz" else np.savez_compressed)(out, a=np.eye(4), b=np.ones(3, dtype=">f4"))
    return out.getvalue()


def matrix_market_bytes() -> bytes:
    out = io.BytesIO()
    scipy.io.mmwrite(out, scipy.sparse.eye_array(6))
    return out.getvalue()


def parquet_bytes() -> bytes:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    out = io.BytesIO()
    parquet.write_table(pyarrow.table({"v": [[1.0, 2.0], [3.0, 4.0]], "id": [1, 2]}), out)
    return out.getvalue()


TENSORS = {"a.qkv.weight": torch.randn(6, 2), "conv.weight": torch.ones(2, 2, 3), "c": torch.ones(2, 3).to(torch.int8)}
SEEDS = {
    "safetensors": (".safetensors", lambda: save(TENSORS | {"c_scale": torch.ones(2)})),
    "torch": (".pt", torch_bytes),
    "legacy": (".pth", lambda: torch_bytes(legacy=True)),
    "npy": (".npy", lambda: numpy_bytes("npy")),
    "npz": (".npz", lambda: numpy_bytes("npz")),
    "packed": (".npz", lambda: numpy_bytes("packed")),
    "sparse": (".npz", lambda: numpy_bytes("sparse")),
    "market": (".mtx", matrix_market_bytes),
    "csv": (".csv", lambda: b'word,x,y\n"a,b",1,2\nb,3,4.5\n'),
    "lists": (".csv", lambda: b'e\n"[1, 2]"\n"[3, 4]"\n'),
    "edges": (".edges", lambda: b"# c\n0 1 2.5\n1 2 3\n5 9 1\n"),
    "networkx": (".edgelist", lambda: b"a b {'weight': 1.5}\nb c {'weight': 2}\n"),
    "parquet": (".parquet", parquet_bytes),
}
NUMBERS = [0, 1, 2**7, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**60, 2**63 - 1, 2**63, 2**64 - 1]
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["flip", "cut", "drop", "insert", "number", "copy"]),
        st.integers(0, 1 << 16),
        st.integers(0, 255),
        st.sampled_from(NUMBERS),
    ),
    max_size=6,
)


def edited(raw: bytes, edits: list[tuple[str, int, int, int]]) -> bytes:
    data = bytearray(raw)
    for kind, place, value, number in edits:
        at = place % (len(data) + 1)
        if kind == "cut":
            del data[at:]
        elif kind == "flip" and at < len(data):
            data[at] ^= value or 1
        elif kind == "drop":
            del data[at : at + value]
        elif kind == "insert":
            data[at:at] = bytes([value]) * (value % 9)
        elif kind == "number":
            data[at : at + 8] = struct.pack("<Q", number)
        elif kind == "copy":
            data[at:at] = data[: value * 4]
    return bytes(data)


@pytest.mark.parametrize("kind", SEEDS)
def test_damaged_files(kind: str) -> None:
    suffix, make = SEEDS[kind]
    raw = make()
    consumed(suffix, raw)

    @MANY
    @given(EDITS)
    def check(edits: list[tuple[str, int, int, int]]) -> None:
        consumed(suffix, edited(raw, edits))

    check()


FOUND = [
    # the end of the archive lies before its beginning: zipfile seeks there
    ("torch", [("drop", 4, 1, 0)]),
    # the header of the member that names the format is damaged
    ("sparse", [("flip", 285, 0, 0)]),
    # fewer names of columns than columns
    ("csv", [("drop", 0, 5, 0)]),
    ("csv", [("drop", 5, 1, 0), ("flip", 6, 0, 0)]),
]


@pytest.mark.parametrize(("kind", "edits"), FOUND)
def test_what_fuzzing_found(kind: str, edits: list[tuple[str, int, int, int]]) -> None:
    suffix, make = SEEDS[kind]
    consumed(suffix, edited(make(), edits))


@pytest.mark.parametrize("text", ["1,\n1,1,", "1,\n1,1,1", "x,y\n", ",\n,", '"\n1'])
def test_tables_that_fuzzing_found(text: str) -> None:
    consumed(".csv", text.encode())


SIZES = st.one_of(st.integers(0, 5), st.sampled_from(NUMBERS), st.integers(-3, -1), st.floats(), st.none(), st.text())
NAMES = st.sampled_from(
    [
        "a",
        "a_scale",
        "w.lora_A.weight",
        "w.lora_B.weight",
        "w.alpha",
        "qkv.weight",
        "x.bias",
        "x.weight",
        "lm_head.weight",
    ]
    + [
        "wte.weight",
        "e.gate_up_proj",
        "e.down_proj",
        "conv.weight",
        "h.query_key_value.weight",
        "h.c_attn.weight",
        "\x1b",
    ]
)
DTYPES = st.sampled_from(
    ["F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E8M0", "F4", "I8", "U8", "BOOL", "C64", "I64", "x"]
)


@MANY
@given(st.dictionaries(NAMES, st.tuples(DTYPES, st.lists(st.integers(0, 4), max_size=4)), max_size=6), st.booleans())
def test_invented_tensors_in_safetensors(tensors: dict, text: bool) -> None:
    widths = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "C64": 8, "I64": 8}
    header, at = {}, 0
    for name, (dtype, shape) in tensors.items():
        size = int(np.prod(shape)) * widths.get(dtype, 1)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    if text:
        header["__metadata__"] = {"format": "pt"}
    raw = json.dumps(header).encode()
    consumed(".safetensors", struct.pack("<Q", len(raw)) + raw + bytes(range(256)) * (at // 256 + 1))
    consumed(".safetensors", struct.pack("<Q", len(raw)) + raw + (bytes(range(256)) * (at // 256 + 1))[:at])


JSON = st.recursive(
    st.one_of(SIZES, st.booleans(), DTYPES), lambda x: st.lists(x, max_size=3) | st.dictionaries(NAMES, x, max_size=3)
)


@MANY
@given(st.dictionaries(NAMES, st.fixed_dictionaries({"dtype": DTYPES, "shape": JSON, "data_offsets": JSON}) | JSON))
def test_invented_headers_of_safetensors(header: dict) -> None:
    raw = json.dumps(header).encode()
    consumed(".safetensors", struct.pack("<Q", len(raw)) + raw + b"\0" * 16)


@MANY
@given(JSON, st.sampled_from(["weight_map", "metadata"]))
def test_invented_indices(content: object, key: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "fuzz.safetensors.index.json").write_text(json.dumps({key: content}))
        consume(Path(folder, "fuzz.safetensors.index.json"))


@MANY
@given(
    st.sampled_from(["<f8", ">f4", "<f2", "|i1", "<c16", "|b1", "|O", "<U4", "|V2", "<M8[s]", "<f16", "f4,f4", "x"]),
    st.booleans() | st.none(),
    st.lists(SIZES, max_size=6),
    st.booleans(),
)
def test_invented_headers_of_npy(descr: str, fortran: bool | None, shape: list, packed: bool) -> None:
    header = str({"descr": descr, "fortran_order": fortran, "shape": tuple(shape)}).encode()
    raw = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + b"\0" * 64
    if not packed:
        consumed(".npy", raw)
        return
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", raw)
    consumed(".npz", out.getvalue())


# Opcodes with arguments that are short and mostly valid, so that the machine gets somewhere.
WORDS = [opcode.code.encode("latin-1") for opcode in pickletools.opcodes]
GLOBALS = [
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch._utils\n_rebuild_tensor_v3\n",
    b"ctorch._utils\n_rebuild_parameter\n",
    b"ctorch._utils\n_rebuild_sparse_tensor\n",
    b"ctorch._tensor\n_rebuild_from_type_v2\n",
    b"ctorch\nFloatStorage\n",
    b"ctorch\nbfloat16\n",
    b"ctorch\nSize\n",
    b"ccollections\nOrderedDict\n",
    b"cargparse\nNamespace\n",
    b"cbuiltins\nset\n",
    b"X\x07\x00\x00\x00storage",
    b"X\x01\x00\x00\x000",
    b"X\x03\x00\x00\x00cpu",
    b"K\x04",
    b"K\x02K\x02\x86",
    b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x09tQ",
]


@settings(MANY, max_examples=600)
@given(st.lists(st.sampled_from(WORDS + GLOBALS + [b"\x00", b"\x04", b"\n"]), max_size=40))
def test_invented_pickles(words: list[bytes]) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a/data.pkl", b"".join(words) + b".")
        archive.writestr("a/data/0", bytes(36))
    consumed(".pt", out.getvalue())


FIELDS = st.sampled_from(
    ["1", "2.5", "-3e400", "nan", "", "x", '"', "[1,2]", "[", "{'weight': 3}", "9" * 30, "é", "\0", "#"]
)
TABLES = st.lists(st.lists(FIELDS, min_size=1, max_size=4), max_size=6)


@settings(MANY, max_examples=400)
@given(TABLES, st.sampled_from([",", ";", "\t", " "]), st.sampled_from([".csv", ".edges", ".txt", ".mtx"]))
def test_invented_tables(rows: list[list[str]], separator: str, suffix: str) -> None:
    text = "\n".join(separator.join(row) for row in rows)
    consumed(suffix, text.encode())
    consumed(suffix, b"%%MatrixMarket matrix coordinate real general\n" + text.encode())
