"""Files that are read, and files that must be refused with one clear sentence."""

from __future__ import annotations

import importlib
import json
import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.sparse
import torch
from safetensors.torch import save_file

from resolvent.report import stored_tensors
from resolvent.report.readers import available_memory, check_memory, natural_order


def loaded(path: Path) -> dict[str, torch.Tensor]:
    with stored_tensors(path) as tensors:
        return {t.name: t.load().clone() for t in tensors}


def npy_bytes(header: str, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    return b"\x93NUMPY" + version + struct.pack("<H", len(header)) + header.encode() + data


def safetensors_bytes(header: dict, data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def test_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    tensors = {
        "layer.10.weight": torch.randn(3, 4),
        "layer.2.weight": torch.randn(3, 4).bfloat16(),
        "ids": torch.arange(3),
        "f8": torch.ones(2, 2).to(torch.float8_e4m3fn),
        "flag": torch.ones(2, 2, dtype=torch.bool),
    }
    save_file(tensors, path)
    with stored_tensors(path) as found:
        assert [t.name for t in found] == ["f8", "flag", "ids", "layer.2.weight", "layer.10.weight"]
        by_name = {t.name: t for t in found}
        assert by_name["layer.2.weight"].dtype == "bfloat16" and not by_name["layer.2.weight"].reason
        assert torch.equal(by_name["layer.2.weight"].load(), tensors["layer.2.weight"])
        assert "integers" in by_name["ids"].reason and "scale" in by_name["f8"].reason


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f8", "c8", "c16", "i4", "u1", "?"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy(tmp_path: Path, dtype: str, order: str) -> None:
    array = np.asarray(np.arange(12).reshape(3, 4) % 2 if dtype == "?" else np.arange(12).reshape(3, 4), dtype, order)
    np.save(tmp_path / "a.npy", array)
    assert np.array_equal(loaded(tmp_path / "a.npy")["a"].numpy(), array)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(tmp_path: Path, save: object) -> None:
    arrays = {"a": np.arange(6.0).reshape(2, 3), "b/c": np.ones((2, 3), order="F"), "e": np.zeros((0, 3))}
    save(tmp_path / "a.npz", **arrays)
    found = loaded(tmp_path / "a.npz")
    assert set(found) == set(arrays)
    assert all(np.array_equal(found[name].numpy(), array) for name, array in arrays.items())


def test_a_large_member_is_read_in_pieces(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 3, (2100, 1100)).astype(float)
    np.savez_compressed(tmp_path / "a.npz", a=array)
    assert np.array_equal(loaded(tmp_path / "a.npz")["a"].numpy(), array)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_damaged_member_is_named_and_the_others_are_read(tmp_path: Path, save: object) -> None:
    path = tmp_path / "a.npz"
    rng = np.random.default_rng(0)
    save(path, good=np.eye(3), bad=rng.random((40, 40)))
    with zipfile.ZipFile(path) as archive:
        at = archive.getinfo("bad.npy").header_offset
    raw = bytearray(path.read_bytes())
    raw[at + 3000] ^= 0xFF
    path.write_bytes(raw)
    with stored_tensors(path) as tensors:
        by_name = {t.name: t for t in tensors}
        assert by_name["good"].load().shape == (3, 3)
        with pytest.raises(ValueError, match="it cannot be read"):
            by_name["bad"].load()


def test_npz_members_that_are_not_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, good=np.eye(2), words=np.array(["a", "b"]), objects=np.array([{"a": 1}, None]))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("junk.npy", b"not an array")
        archive.writestr("lie.npy", npy_bytes(CLAIM))
        archive.writestr("readme.txt", "hello")
    with stored_tensors(path) as tensors:
        reasons = {t.name: t.reason for t in tensors}
    assert reasons.pop("good") == "" and "readme.txt" not in reasons
    assert "never loaded" in reasons["objects"] and "not a number" in reasons["words"]
    assert "not a valid .npy" in reasons["junk"] and "claims" in reasons["lie"]


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple:
            return (os.mkdir, (str(tmp_path / "exploded"),))

    np.save(tmp_path / "a.npy", np.array([Bomb()], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="never loaded"), stored_tensors(tmp_path / "a.npy"):
        pass
    (tmp_path / "b.npy").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match="not a valid"), stored_tensors(tmp_path / "b.npy"):
        pass
    assert not (tmp_path / "exploded").exists()


def test_matrix_market(tmp_path: Path) -> None:
    sparse = scipy.sparse.random_array((30, 20), density=0.2, rng=0)
    scipy.io.mmwrite(tmp_path / "sparse.mtx", sparse)
    scipy.io.mmwrite(tmp_path / "dense.mtx", np.arange(6.0).reshape(2, 3))
    symmetric = scipy.sparse.coo_array(np.array([[2.0, 1.0], [1.0, 0.0]]))
    scipy.io.mmwrite(tmp_path / "symmetric.mtx", symmetric, symmetry="symmetric")
    with stored_tensors(tmp_path / "sparse.mtx") as (tensor,):
        assert tensor.shape == (30, 20)
        assert np.allclose(tensor.load().toarray(), sparse.toarray())
    with stored_tensors(tmp_path / "symmetric.mtx") as (tensor,):
        assert np.array_equal(tensor.load().toarray(), symmetric.toarray())
    assert np.array_equal(loaded(tmp_path / "dense.mtx")["dense"], np.arange(6.0).reshape(2, 3))


HEADER = {"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}
HUGE = {"a": {"dtype": "F32", "shape": [2**30, 2**28], "data_offsets": [0, 2**60]}}
CLAIM = "{'descr': '<f8', 'fortran_order': False, 'shape': (1073741824, 1073741824)}"
BAD = {
    "short.safetensors": b"\x01\x02",
    "header.safetensors": struct.pack("<Q", 2**60) + b"{}",
    "json.safetensors": struct.pack("<Q", 8) + b"{{{{{{{{",
    "truncated.safetensors": safetensors_bytes(HEADER, b"\0" * 15),
    "huge.safetensors": safetensors_bytes(HUGE, b"\0" * 16),
    "deep.safetensors": struct.pack("<Q", 100000) + b"[" * 100000,
    "overlap.safetensors": safetensors_bytes({**HEADER, "b": HEADER["a"]}, b"\0" * 16),
    "magic.npy": b"hello, world",
    "short.npy": b"\x93NUMPY\x01",
    "truncated.npy": npy_bytes("{'descr': '<f8', 'fortran_order': False, 'shape': (3, 3)}", b"\0" * 71),
    "huge.npy": npy_bytes(CLAIM, b"\0" * 8),
    "overflow.npy": npy_bytes(CLAIM.replace("1073741824", str(2**62))),
    "negative.npy": npy_bytes("{'descr': '<f8', 'fortran_order': False, 'shape': (-3, 3)}", b"\0" * 72),
    "literal.npy": npy_bytes("[" * 3000),
    "code.npy": npy_bytes("__import__('os').mkdir('x')"),
    "version.npy": npy_bytes("{}", version=b"\x09\x00"),
    "empty.npy": b"",
    "magic.npz": b"hello, world",
    "cut.npz": b"PK\x03\x04" + b"\0" * 40,
    "text.mtx": b"hello, world\n",
    "truncated.mtx": b"%%MatrixMarket matrix coordinate real general\n3 3 9\n1 1 1.0\n2 2 1.0\n",
    "huge.mtx": b"%%MatrixMarket matrix coordinate real general\n1152921504606846976 3 1\n1 1 1.0\n",
    "array.mtx": b"%%MatrixMarket matrix array real general\n1073741824 1073741824\n1.0\n",
    "outside.mtx": b"%%MatrixMarket matrix coordinate real general\n3 3 2\n1 1 1.0\n7 7 1.0\n",
    "words.mtx": b"%%MatrixMarket matrix coordinate real general\n3 3 1\n1 1 abcdefg\n",
    "other.pt": b"PK",
    "none": b"abc",
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_in_one_sentence(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(BAD[name])
    with pytest.raises(ValueError) as caught, stored_tensors(tmp_path / name) as tensors:
        [t.load() for t in tensors]
    text = str(caught.value)
    assert name in text and "\n" not in text and len(text) < 400


def test_missing_directory_and_special_files(tmp_path: Path) -> None:
    for path, words in ((tmp_path / "no.npy", "no such file"), (tmp_path, "directory")):
        with pytest.raises(ValueError, match=words), stored_tensors(path):
            pass
    os.mkfifo(tmp_path / "pipe.npy")
    with pytest.raises(ValueError, match="regular file"), stored_tensors(tmp_path / "pipe.npy"):
        pass
    with zipfile.ZipFile(tmp_path / "no.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(ValueError, match="holds no arrays"), stored_tensors(tmp_path / "no.npz"):
        pass


def test_a_bomb_needs_more_memory_than_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "a.npz", a=np.zeros((1000, 1000)))
    monkeypatch.setattr(importlib.import_module("resolvent.report.stored"), "available_memory", lambda: 1e6)
    with stored_tensors(tmp_path / "a.npz") as (tensor,), pytest.raises(ValueError, match=r"needs 7\.63 MiB"):
        tensor.load()


def test_truncations_never_end_in_another_error(tmp_path: Path) -> None:
    save_file({"a": torch.randn(5, 4), "b": torch.randn(3)}, tmp_path / "a.safetensors")
    np.save(tmp_path / "a.npy", np.eye(4))
    np.savez_compressed(tmp_path / "a.npz", a=np.eye(4), b=np.ones(3))
    scipy.io.mmwrite(tmp_path / "a.mtx", scipy.sparse.eye_array(9))
    rng = np.random.default_rng(0)
    for kind in ("safetensors", "npy", "npz", "mtx"):
        whole = (tmp_path / f"a.{kind}").read_bytes()
        for _ in range(60):
            raw = bytearray(whole[: rng.integers(0, len(whole) + 1)] if rng.random() < 0.5 else whole)
            for _ in range(rng.integers(0, 4)):
                if raw:
                    raw[rng.integers(len(raw))] = rng.integers(256)
            path = tmp_path / f"broken.{kind}"
            path.write_bytes(raw)
            try:
                with stored_tensors(path) as tensors:
                    for tensor in tensors:
                        if not tensor.reason:
                            tensor.load()
            except ValueError as error:
                assert "\n" not in str(error)


def test_types_that_are_not_numbers_or_too_wide(tmp_path: Path) -> None:
    for array, words in ((np.array(["a"]), "not a number"), (np.ones(2, np.longdouble), "wider than float64")):
        np.save(tmp_path / "a.npy", array)
        np.savez(tmp_path / "a.npz", a=array)
        for name in ("a.npy", "a.npz"):
            with stored_tensors(tmp_path / name) as (tensor,):
                assert words in tensor.reason
                with pytest.raises(ValueError, match=words):
                    tensor.load()


def test_a_shape_that_torch_cannot_hold_and_one_that_lies(tmp_path: Path) -> None:
    text = "{'descr': '<f8', 'fortran_order': False, 'shape': (0, 4611686018427387903, 9)}"
    (tmp_path / "a.npy").write_bytes(npy_bytes(text))
    with stored_tensors(tmp_path / "a.npy") as (tensor,), pytest.raises(ValueError, match="beyond what torch"):
        tensor.load()
    path = tmp_path / "a.npy"
    np.save(path, np.eye(9))
    with stored_tensors(path) as (tensor,):
        path.write_bytes(path.read_bytes()[:200])
        with pytest.raises(ValueError, match="file"):
            tensor.load()


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.eye(9)}, path)
    with stored_tensors(path) as (tensor,):
        path.write_bytes(path.read_bytes()[:-8])
        with pytest.raises(ValueError, match="the file ends before"):
            tensor.load()


def test_integers_that_are_not_aligned(tmp_path: Path) -> None:
    # a header of an odd length puts float32 numbers at odd places
    header = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    header += b" " * (1 - len(header) % 2)
    assert len(header) % 2 == 1
    data = struct.pack("<2f", 1.5, -2.0)
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + data)
    assert loaded(tmp_path / "a.safetensors")["a"].tolist() == [1.5, -2.0]


def test_the_members_of_an_archive_are_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # once per member would be hours for an archive of as many members as a few MiB can hold
    np.savez_compressed(tmp_path / "a.npz", **{str(i): np.eye(2) for i in range(50)})
    opened = []
    plain = zipfile.ZipFile
    monkeypatch.setattr(zipfile, "ZipFile", lambda *args: opened.append(args) or plain(*args))
    assert len(loaded(tmp_path / "a.npz")) == 50 and len(opened) == 1


def test_a_type_of_safetensors_that_is_not_known(tmp_path: Path) -> None:
    header = {"a": {"dtype": "F4", "shape": [4, 4], "data_offsets": [0, 8]}}
    (tmp_path / "a.safetensors").write_bytes(safetensors_bytes(header, b"\0" * 8))
    with stored_tensors(tmp_path / "a.safetensors") as (tensor,):
        assert (tensor.shape, tensor.dtype) == ((4, 4), "f4") and "scale" in tensor.reason
        with pytest.raises(ValueError, match="F4"):
            tensor.load()


def test_small_helpers() -> None:
    assert sorted(["b.10", "b.9", "a"], key=natural_order) == ["a", "b.9", "b.10"]
    assert available_memory() > 0
    with pytest.raises(ValueError, match=r"it needs .* TiB"):
        check_memory(2.0**60, "it")
