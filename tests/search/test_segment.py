"""Files of arrays: readable by others, whole or absent, and never believed."""

from __future__ import annotations

import errno
import json
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resolvent.errors import Damaged, NoSpace, StoreError
from resolvent.search import segment

ARRAYS = {
    "data": np.arange(12, dtype=np.float32).reshape(4, 3),
    "rows": np.array([1, 5, 7, 9]),
    "bits": np.array([1, 0, 1], np.uint8),
    "none": np.empty((0, 3), np.int8),
    "half": np.ones((2, 2), np.float16),
}


def test_other_readers_understand_the_file(tmp_path):
    numpy_reader = pytest.importorskip("safetensors.numpy")
    made = segment.write(tmp_path, "a.safetensors", ARRAYS, {"field": "text"})
    read = numpy_reader.load_file(tmp_path / "a.safetensors")
    for name, array in ARRAYS.items():
        assert np.array_equal(read[name], array) and read[name].dtype == array.dtype
    assert made.bytes == (tmp_path / "a.safetensors").stat().st_size
    assert made.digest == segment.file_digest(tmp_path / "a.safetensors")


def test_arrays_are_mapped_aligned_and_read_only(tmp_path):
    made = segment.write(tmp_path, "a.safetensors", ARRAYS, {"field": "text"})
    arrays, metadata = segment.map_file(tmp_path / "a.safetensors", made.bytes)
    assert metadata == {"field": "text"} and set(arrays) == set(ARRAYS)
    for name, array in ARRAYS.items():
        assert np.array_equal(arrays[name], array) and not (arrays[name].size and arrays[name].flags.writeable)
        assert not arrays[name].size or arrays[name].ctypes.data % 64 == 0
    (tmp_path / "a.safetensors").unlink()
    assert arrays["data"].sum() == 66


def test_pieces_are_written_as_one_array(tmp_path):
    whole = np.arange(10.0).reshape(5, 2)
    pieces = segment.Pieces((5, 2), whole.dtype, lambda: iter([whole[:2], whole[2:2], whole[2:]]))
    assert segment.pack({"x": pieces}) == segment.pack({"x": whole})
    with pytest.raises(StoreError, match="came in pieces"):
        segment.pack({"x": segment.Pieces((6, 2), whole.dtype, lambda: iter([whole]))})


def test_bfloat16_is_called_by_its_name(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    x = torch.randn(3, 2).to(torch.bfloat16)
    segment.write(tmp_path, "a.safetensors", {"data": x.view(torch.uint16).numpy()}, {}, {"data": "BF16"})
    assert torch.equal(load_file(tmp_path / "a.safetensors")["data"], x)
    assert np.array_equal(segment.map_file(tmp_path / "a.safetensors")[0]["data"], x.view(torch.uint16).numpy())


@pytest.mark.parametrize("moment", ["write", "fsync", "replace"])
def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch, moment):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    if moment == "write":
        monkeypatch.setattr(segment, "_parts", lambda *_: iter([b"some bytes", full()]))
    else:
        monkeypatch.setattr(segment.os, moment, full)
    with pytest.raises(NoSpace, match="disk is full"):
        segment.write(tmp_path, "a.safetensors", ARRAYS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [0, 7, 8, 100, -1])
def test_truncated_files_are_damaged(tmp_path, size):
    path = tmp_path / "a.safetensors"
    whole = segment.pack(ARRAYS)
    path.write_bytes(whole[:size])
    with pytest.raises(Damaged, match=r"a\.safetensors"):
        segment.map_file(path)
    with pytest.raises(Damaged, match="were written"):
        segment.map_file(path, len(whole))


def header(entries: dict, data: bytes = b"") -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(
    "raw",
    [
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 5) + b"[1,2]",
        header({"x": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 4]}}, b"1234"),
        header({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 2**50]}}, b"1234"),
        header({"x": {"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]}}, b"1234"),
        header({"x": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}}, b"1234"),
        header({"x": {"dtype": "F32", "shape": [0, 2**62], "data_offsets": [0, 0]}}),
        header({"x": {"dtype": "F32", "shape": [0, 2**61, 2**61], "data_offsets": [0, 0]}}),
        header({"x": {"dtype": "O", "shape": [1], "data_offsets": [0, 8]}}, b"12345678"),
        header({"x": {"dtype": "U8", "shape": [2], "data_offsets": [2, 4]}}, b"1234"),
        header({"x": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}, b"12345"),
        header({"x": [1], "__metadata__": {}}),
        header({"__metadata__": {"a": 1}}),
        struct.pack("<Q", 60000) + b"[" * 60000,
    ],
)
def test_wrong_headers_are_damaged(raw):
    with pytest.raises(Damaged):
        segment.unpack(raw, "x")


@settings(max_examples=300, deadline=None)
@given(at=st.integers(0, 700), bit=st.integers(0, 7), cut=st.integers(0, 900))
def test_flipped_bits_are_damage_or_other_numbers_but_never_a_crash(at, bit, cut):
    raw = bytearray(segment.pack(ARRAYS, {"field": "x"}))
    raw[at % len(raw)] ^= 1 << bit
    try:
        arrays, _ = segment.unpack(bytes(raw[: len(raw) - max(0, cut - 600)]), "x")
    except Damaged:
        return
    assert sum(a.nbytes for a in arrays.values()) <= len(raw)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_noise_is_damage(raw):
    with pytest.raises(Damaged):
        segment.unpack(raw, "x")
