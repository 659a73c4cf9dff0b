"""Pickles, as torch writes them and as nobody should: what they describe is read, and nothing runs."""

from __future__ import annotations

import importlib
import io
import pickle
import struct

import pytest
import torch

from resolvent.report.torch_names import Opaque, Storage, UnsafePickleError
from resolvent.report.torch_pickle import read_pickle


def pickled(raw: bytes) -> object:
    return read_pickle(io.BytesIO(raw), len(raw))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b".",
        b"\x80\x02",
        b"\xff.",
        b"\x80\x63.",
        b"\x8e" + struct.pack("<Q", 2**60) + b"abc.",
        b"\x96" + struct.pack("<Q", 2**40) + b"abc.",
        b"\x95" + struct.pack("<Q", 2**60) + b"N.",
        b"\x80\x04" + b"\x82\x01.",
        b"(I1\nI2\no.",
        b"(icollections\nOrderedDict\n.",
        b"}" + b"(" * 3 + b")" + b"\x85" * 100_000 + b"Ns.",
        b"NN}s.",
        b"N)R.",
        b"}q\x00(h\x00h\x00u.",
        b"Pabc\n.",
        b"(lQ.",
        b"I" + b"9" * 100_000 + b"\n.",
        b"ctorch._utils\n_rebuild_tensor_v2\n(NNNNtR.",
        b"ctorch._utils\n_rebuild_tensor_v2\n}b.",
        b"ctorch._utils\n_rebuild_sparse_tensor\n(N)tR.",
        b"ctorch._tensor\n_rebuild_from_type_v2\n(NNNtR.",
        b"ctorch\nSize\n(NtR.",
    ],
)
def test_pickles_that_are_damaged_on_purpose(raw: bytes) -> None:
    with pytest.raises(ValueError, match="pickle is damaged"):
        pickled(raw)


@pytest.mark.parametrize(
    "name", ["os system", "builtins eval", "torch load", "torch._utils _import_dotted_name", "torch hub", "numpy load"]
)
def test_names_that_are_not_in_the_tables(name: str) -> None:
    module, name = name.split()
    with pytest.raises(UnsafePickleError, match="could run code"):
        pickled(f"c{module}\n{name}\n.".encode())


def test_a_pickle_changes_nothing_but_its_own_containers() -> None:
    for name in ("collections\nOrderedDict", "torch\nSize", "argparse\nNamespace"):
        with pytest.raises(ValueError, match="damaged"):
            pickled(f"c{name}\n(N}}S'call'\nNs\x86b.".encode())
    assert pickled(b"\x80\x02ccollections\nOrderedDict\n)R}X\x01\x00\x00\x00aK\x01sb.") == {}
    assert pickled(b"\x80\x02ccollections\nOrderedDict\n(((K\x01K\x02lltR.") == {1: 2}


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_plain_values_of_every_protocol(protocol: int) -> None:
    value = {"a": [1, -(2**70), 1.5, None, True], "é": ("x", "y"), 3: {"s": {}}, (1, "k"): []}
    assert pickled(pickle.dumps(value, protocol)) == value
    if protocol >= 4:
        # older protocols write a set as a call, and bytes as one that is not made
        sets = {"set": {1, "a"}, "frozen": frozenset({2}), "long": b"x" * 70_000}
        assert pickled(pickle.dumps(sets, protocol)) == sets


@pytest.mark.parametrize(
    "raw",
    [
        b"\x80\x04\x8f(" + b")" + b"\x85" * 100_000 + b"\x90.",
        b"\x80\x04(" + b")" + b"\x85" * 100_000 + b"\x91.",
        b"\x80\x04](K\x01\x90.",
        b"\x80\x04ctorch\nSize\n)}\x92.",
        b"\x80\x04ctorch\nSize\n(K\x01t\x81.",
        b"]K\x01K\x02s.",
        b"(X\x06\x00\x00\x00storageNNNNtQ.",
        b"(X\x07\x00\x00\x00storageNNNNtQ.",
        b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nNNI-1\ntQ.",
    ],
)
def test_sets_calls_and_storages_that_torch_does_not_write(raw: bytes) -> None:
    try:
        pickled(raw)
    except ValueError as error:
        assert "pickle is damaged" in str(error)
    else:
        assert raw[2:].startswith(b"ctorch\nSize\n)}")


def test_options_and_views_of_storages() -> None:
    assert isinstance(pickled(b"cargparse\nNamespace\n)R(K\x01K\x02u."), Opaque)
    view = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x00kNK\x09(X\x01\x00\x00\x00vK\x03K\x04ttQ."
    assert pickled(view) == Storage("k", torch.float32, 9, 3)
    with pytest.raises(UnsafePickleError, match="module with its code"):
        pickled(b"(X\x06\x00\x00\x00moduleNNNNtQ.")


def test_a_pickle_longer_than_any_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module("resolvent.report.torch_pickle"), "LONGEST", 100)
    raw = pickle.dumps(list(range(1000)))
    with pytest.raises(ValueError, match="longer than"):
        pickled(raw)
