"""Files of torch.save: as torch reads them, and the ones that torch should not be given."""

from __future__ import annotations

import argparse
import datetime
import io
import os
import pathlib
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
import torch
from torch import nn

from resolvent.report import stored_tensors

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.complex64,
    torch.complex128,
    torch.float8_e4m3fn,
    torch.int64,
    torch.uint16,
    torch.int8,
    torch.bool,
]


def entries(path: Path) -> dict:
    with stored_tensors(path) as tensors:
        return {t.name: t for t in tensors}


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    bytes_of = (x.contiguous().view(-1).view(torch.uint8) for x in (a, b))
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(*bytes_of)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_state_dict_is_read_as_torch_reads_it(tmp_path: Path, legacy: bool) -> None:
    path = tmp_path / "a.pt"
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Conv2d(2, 3, 2))
    # torch itself cannot save the newer types in the old format
    dtypes = [d for d in DTYPES if not legacy or d not in (torch.float8_e4m3fn, torch.uint16)]
    state = model.state_dict() | {f"d.{str(d)[6:]}": torch.arange(6).reshape(2, 3).to(d) for d in dtypes}
    state["view"] = torch.arange(24.0).reshape(4, 6)[1:, ::2].T
    state["empty"] = torch.zeros(0, 3)
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    wanted = torch.load(path, weights_only=True)
    found = entries(path)
    assert set(found) == set(wanted)
    for name, tensor in wanted.items():
        assert found[name].shape == tuple(tensor.shape) and found[name].dtype == str(tensor.dtype)[6:]
        assert same(found[name].load(), tensor), name
    assert "integers" in found["d.int64"].reason and "scale" in found["d.int8"].reason
    assert found["0.weight"].reason == "" and found["d.complex64"].reason == ""


@pytest.mark.parametrize("key", ["state_dict", "model"])
@pytest.mark.parametrize("legacy", [False, True])
def test_nested_weights_are_found_and_the_rest_is_named(tmp_path: Path, key: str, legacy: bool) -> None:
    weights = nn.Linear(3, 4)
    optimizer = torch.optim.Adam(weights.parameters())
    weights(torch.ones(3)).sum().backward()
    optimizer.step()
    beside = {
        "optimizer": optimizer.state_dict(),
        "args": argparse.Namespace(lr=1.0, path=pathlib.PurePosixPath("a")),
        "when": datetime.datetime(2020, 1, 1),
        "loss": np.float64(0.5),
        "history": np.arange(3),
        "epoch": 3,
        "sizes": torch.Size([1, 2]),
        "device": torch.device("cpu"),
        "set": {1, 2},
        "frozen": frozenset({1}),
        "complex": 1j,
        "bytes": b"abc",
    }
    torch.save({key: weights.state_dict(), **beside}, tmp_path / "a.pth", _use_new_zipfile_serialization=not legacy)
    found = entries(tmp_path / "a.pth")
    assert set(found) == {"weight", "bias", "optimizer"}
    assert torch.equal(found["weight"].load(), weights.weight)
    assert "beside the weights in" in found["optimizer"].reason
    with pytest.raises(ValueError, match="beside the weights"):
        found["optimizer"].load()


def test_other_containers_and_parameters(tmp_path: Path) -> None:
    torch.save(torch.eye(3), tmp_path / "one.pt")
    assert torch.equal(entries(tmp_path / "one.pt")["one"].load(), torch.eye(3))
    torch.save([torch.eye(2), {"x": (nn.Parameter(torch.eye(3)),)}], tmp_path / "list.pt")
    assert {n: t.shape for n, t in entries(tmp_path / "list.pt").items()} == {"0": (2, 2), "1.x.0": (3, 3)}
    torch.save({"model": {"state_dict": {"w": torch.eye(2)}}}, tmp_path / "deep.pt")
    assert set(entries(tmp_path / "deep.pt")) == {"w"}
    odd = nn.Parameter(torch.eye(2))
    odd.mark = "attribute"
    torch.save(OrderedDict(a=odd, b=nn.Buffer(torch.ones(2))), tmp_path / "odd.pt")
    assert torch.equal(entries(tmp_path / "odd.pt")["a"].load(), torch.eye(2))


def test_shared_memory_is_told(tmp_path: Path) -> None:
    w = torch.randn(3, 4)
    torch.save({"a": w, "b": w, "c": w.clone(), "t": w.T, "part": w[:2]}, tmp_path / "a.pt")
    found = entries(tmp_path / "a.pt")
    assert found["a"].memory == found["b"].memory == found["t"].memory
    assert len({found[n].memory for n in ("a", "c", "part")}) == 3


@pytest.mark.filterwarnings("ignore")
def test_sparse_meta_and_quantised_tensors(tmp_path: Path) -> None:
    dense = torch.tensor([[0.0, 1.0, 0.0], [2.0, 0.0, 3.0]])
    state = {
        "coo": dense.to_sparse_coo(),
        "csr": dense.to_sparse_csr(),
        "csc": dense.to_sparse_csc(),
        "three": torch.ones(2, 2, 2).to_sparse_coo(),
        "meta": torch.empty(3, 3, device="meta"),
        "old": torch.quantize_per_tensor(dense, 0.1, 0, torch.qint8),
    }
    torch.save(state, tmp_path / "a.pt")
    found = entries(tmp_path / "a.pt")
    for name in ("coo", "csr", "csc"):
        matrix = found[name].load()
        assert isinstance(matrix, scipy.sparse.csr_array) and np.array_equal(matrix.toarray(), dense)
    with pytest.raises(ValueError, match="3 axes"):
        found["three"].load()
    assert "meta" in found["meta"].reason and "quantised" in found["old"].reason


class _Bomb:
    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return (os.mkdir, (self.target,))


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_would_run_code_is_one_sentence(tmp_path: Path, legacy: bool) -> None:
    path, target = tmp_path / "a.pt", tmp_path / "exploded"
    torch.save({"w": torch.eye(2), "b": _Bomb(str(target))}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ValueError, match=r"posix\.mkdir, which could run code; save model\.state_dict\(\)") as caught:
        entries(path)
    assert "\n" not in str(caught.value) and not target.exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_modules_programs_and_other_pickles(tmp_path: Path, legacy: bool) -> None:
    path = tmp_path / "a.pt"
    torch.save(nn.Linear(2, 2), path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ValueError, match="pickled module"):
        entries(path)
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ValueError, match=r"torch\.save did not write"):
        entries(path)
    path.write_bytes(b"hello, world")
    with pytest.raises(ValueError, match="not a file of"):
        entries(path)
    torch.save({"epoch": 3}, path)
    with pytest.raises(ValueError, match="holds no tensors"):
        entries(path)


def repacked(path: Path, change: dict[str, bytes | None], compression: int = zipfile.ZIP_STORED) -> None:
    """The archive with members replaced, dropped (None) or added."""
    with zipfile.ZipFile(path) as archive:
        root = archive.namelist()[0].split("/")[0]
        members = {name: archive.read(name) for name in archive.namelist()}
    for name, data in change.items():
        members[f"{root}/{name}"] = data
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            if data is not None:
                archive.writestr(name, data)


def test_archives_that_are_not_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    state = {"a": torch.randn(4, 4), "b": torch.randn(4, 4)}

    def saved() -> bytes:
        torch.save(state, path)
        return path.read_bytes()

    path.write_bytes(saved()[:-30])
    with pytest.raises(ValueError, match="truncated or damaged"):
        entries(path)
    saved()
    repacked(path, {"data/0": None})
    found = entries(path)
    assert "not in the file" in found["a"].reason and found["a"].dtype == "unknown"
    assert torch.equal(found["b"].load(), state["b"])
    saved()
    repacked(path, {"data/0": b"\0" * 60})
    assert "claims 64 bytes, the file holds 60 bytes" in entries(path)["a"].reason
    for change, words in (
        ({"data.pkl": None}, "without one data.pkl"),
        ({"constants.pkl": b""}, "TorchScript"),
        ({"data.pkl": b"\x80\x02}q\x00."}, "no tensors"),
        ({"data.pkl": b"\x80\x02garbage"}, "damaged"),
    ):
        saved()
        repacked(path, change)
        with pytest.raises(ValueError, match=words):
            entries(path)
    saved()
    repacked(path, {}, zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="compressed"):
        entries(path)


def test_containers_without_end_and_ones_that_are_shared(tmp_path: Path) -> None:
    loop: list = [torch.eye(2)]
    loop.append(loop)
    laughs: list = []
    for _ in range(60):
        laughs = [laughs, laughs]
    for value in (loop, {"a": torch.eye(2), "b": laughs}):
        torch.save(value, tmp_path / "a.pt")
        with pytest.raises(ValueError, match="without end"):
            entries(tmp_path / "a.pt")
    shared = {"w": torch.eye(2)}
    torch.save({"x": shared, "y": shared}, tmp_path / "a.pt")
    assert set(entries(tmp_path / "a.pt")) == {"x.w", "y.w"}


def test_an_archive_without_checksums(tmp_path: Path) -> None:
    from torch.serialization import set_crc32_options

    set_crc32_options(False)
    try:
        torch.save({"a": torch.eye(3)}, tmp_path / "a.pt")
    finally:
        set_crc32_options(True)
    assert torch.equal(entries(tmp_path / "a.pt")["a"].load(), torch.eye(3))


def test_a_legacy_file_that_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"a": torch.randn(40, 40)}, path, _use_new_zipfile_serialization=False)
    raw = path.read_bytes()
    for length in (20, 60, 300, len(raw) - 1):
        path.write_bytes(raw[:length])
        with pytest.raises(ValueError, match=r"truncated|damaged|protocol"):
            entries(path)


def test_the_other_order_of_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    values = {"f": np.arange(6.0).reshape(2, 3), "c": np.arange(4) * 1j}
    torch.save({name: torch.from_numpy(v) for name, v in values.items()}, path)
    swapped = [v.byteswap().tobytes() for v in values.values()]
    repacked(path, {"byteorder": b"big", "data/0": swapped[0], "data/1": swapped[1]})
    found = entries(path)
    assert all(np.array_equal(found[name].load().numpy(), v) for name, v in values.items())


def tensor_pickle(count: int, offset: int, shape: tuple, stride: tuple) -> bytes:
    """The pickle of one tensor with what it claims."""

    class _Storage(dict):
        pass

    class _Pickler(pickle._Pickler):
        def persistent_id(self, value: object) -> object:
            return ("storage", torch.FloatStorage, "0", "cpu", count) if isinstance(value, _Storage) else None

        def save_global(self, value: object, name: str | None = None) -> None:
            self.write(b"ctorch._utils\n_rebuild_tensor_v2\n" if value is rebuild else b"ctorch\nFloatStorage\n")

        dispatch = pickle._Pickler.dispatch.copy()

    def rebuild() -> None: ...

    class _Tensor:
        def __reduce__(self) -> tuple:
            return (rebuild, (_Storage(), offset, shape, stride, False, OrderedDict))

    _Pickler.dispatch[type(rebuild)] = _Pickler.save_global
    out = io.BytesIO()
    _Pickler(out, 2).dump({"a": _Tensor()})
    return out.getvalue()


@pytest.mark.parametrize(
    ("count", "offset", "shape", "stride", "words"),
    [
        (2**60, 0, (2**30, 2**30), (2**30, 1), "claims"),
        (16, 0, (2**30, 2**30), (0, 0), "repeats"),
        (16, 0, (5, 4), (4, 1), "beyond"),
        (16, 13, (2, 2), (2, 1), "beyond"),
        (16, 2**61, (2, 2), (2, 1), "beyond"),
    ],
)
def test_claims_beyond_the_storage(
    tmp_path: Path, count: int, offset: int, shape: tuple, stride: tuple, words: str
) -> None:
    path = tmp_path / "a.pt"
    torch.save({"a": torch.randn(4, 4)}, path)
    repacked(path, {"data.pkl": tensor_pickle(count, offset, shape, stride)})
    assert words in entries(path)["a"].reason


@pytest.mark.parametrize(
    ("offset", "shape", "stride"), [(-1, (2, 2), (2, 1)), (0, (-2, 2), (2, 1)), (0, (2, 2), (2,)), (0, (2.5,), (1,))]
)
def test_impossible_shapes(tmp_path: Path, offset: int, shape: tuple, stride: tuple) -> None:
    path = tmp_path / "a.pt"
    torch.save({"a": torch.randn(4, 4)}, path)
    repacked(path, {"data.pkl": tensor_pickle(16, offset, shape, stride)})
    with pytest.raises(ValueError, match="damaged"):
        entries(path)
