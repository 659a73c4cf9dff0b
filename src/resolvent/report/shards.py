"""Checkpoints in several files: a directory, or the index that says which tensor lies in which shard."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from resolvent.report.safetensors_file import safetensors
from resolvent.report.stored import Stored, natural_order, printable, readable_file, unreadable
from resolvent.report.torch_file import torch_file

_READERS: dict[str, Callable[[Path], list[Stored]]] = {
    ".safetensors": safetensors,
    ".bin": torch_file,
    ".ckpt": torch_file,
    ".pt": torch_file,
    ".pth": torch_file,
}
# The index of a model of a thousand layers has some hundred KiB.
_LONGEST_INDEX = 64 << 20
_LONGEST_CONFIG = 1 << 20
_SHARD = re.compile(r"(.+)-(\d{1,6})-of-(\d{1,6})(\.[a-z]+)")


def directory(path: Path) -> list[Stored]:
    """The tensors of the checkpoint in a directory.

    Parameters
    ----------
    path : the directory; what lies in its subdirectories is not looked at

    Returns
    -------
    One `Stored` per tensor, by name over all shards.

    Raises
    ------
    ValueError : it holds no weights, more than one checkpoint, or lacks a shard, which is named.

    Notes
    -----
    An index (`*.safetensors.index.json`, then `*.bin.index.json`) comes first, then the shards `NAME-00001-of-00003`,
    then the one file of weights there is; of a `model.safetensors` and others beside it, that one.
    """
    names = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith("."))
    for suffix in _READERS:
        indices = [name for name in names if name.endswith(f"{suffix}.index.json")]
        if len(indices) == 1 or f"model{suffix}.index.json" in indices:
            return index(path / (indices[0] if len(indices) == 1 else f"model{suffix}.index.json"))
        files = [name for name in names if name.lower().endswith(suffix) and (path / name).is_file()]
        whole = [name for name in files if not _SHARD.fullmatch(name)]
        families = {(match[1], int(match[3])) for name in files if (match := _SHARD.fullmatch(name))}
        chosen = next((name for name in (f"model{suffix}", f"pytorch_model{suffix}") if name in whole), None)
        if chosen is None and len(whole) == 1 and not families:
            chosen = whole[0]
        if chosen is not None:
            return _READERS[suffix](_readable(path / chosen))
        if len(families) == 1 and not whole:
            ((stem, count),) = families
            return _shards(path, _numbered(path, stem, count, suffix, names))
        if files:
            listed = ", ".join(files[:4]) + (f" and {len(files) - 4} more" if len(files) > 4 else "")
            raise ValueError(f"{path}: holds more than one checkpoint ({printable(listed)}); give one file")
    raise ValueError(f"{path}: is a directory without weights (no {', '.join(_READERS)} file in it)")


def index(path: Path) -> list[Stored]:
    """The tensors that an index names, out of the shards beside it.

    Parameters
    ----------
    path : a `*.safetensors.index.json` or `*.bin.index.json`

    Returns
    -------
    One `Stored` per tensor, by name over all shards. A tensor that its shard does not hold is an entry that says so,
    and so is one that lies in a shard without being named.

    Raises
    ------
    ValueError : it is no index, or a shard that it names is missing or damaged.
    """
    if path.stat().st_size > _LONGEST_INDEX:
        raise ValueError(f"{path}: is longer than an index of shards can be")
    try:
        content = json.loads(path.read_bytes())
        weight_map = content["weight_map"]
        pairs = [(str(name), str(shard)) for name, shard in weight_map.items()]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: is no index of shards (no 'weight_map' in it)") from error
    shards = sorted({shard for _, shard in pairs}, key=natural_order)
    if not shards:
        raise ValueError(f"{path}: names no tensors")
    for shard in shards:
        if Path(shard).name != shard or Path(shard).suffix.lower() not in _READERS or "\0" in shard:
            raise ValueError(f"{path}: names {printable(shard)[:80]!r}, which is no shard beside it")
    found = {(t.name, shard): t for shard in shards for t in _shard(path.parent, shard)}
    tensors = []
    for name, shard in pairs:
        tensor = found.pop((name, shard), None)
        if tensor is None:
            tensor = unreadable(name, f"the index names it in {printable(shard)}, which does not hold it")
        tensors.append(tensor)
    for (_, shard), tensor in found.items():
        reason = tensor.reason or f"the index does not name it, though it lies in {printable(shard)}"
        tensors.append(dataclasses.replace(tensor, reason=reason))
    return sorted(tensors, key=lambda t: natural_order(t.name))


def heads_beside(path: Path) -> tuple[int, int] | None:
    """The query heads and key/value heads that the model's config.json tells, if one lies beside the weights.

    Parameters
    ----------
    path : the file of weights or the directory

    Returns
    -------
    (heads, key/value heads) or None where no config tells them.
    """
    config = (path if path.is_dir() else path.parent) / "config.json"
    try:
        if not config.is_file() or config.stat().st_size > _LONGEST_CONFIG:
            return None
        content = json.loads(config.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(content, dict):
        return None
    heads = next((content[k] for k in ("num_attention_heads", "n_head", "num_heads") if k in content), None)
    groups = next((content[k] for k in ("num_key_value_heads", "num_kv_heads", "n_head_kv") if content.get(k)), heads)
    if content.get("multi_query") is True and not content.get("new_decoder_architecture"):
        groups = 1
    if type(heads) is not int or type(groups) is not int or not 0 < groups <= heads < 10**5 or heads % groups:
        return None
    return heads, groups


def _numbered(path: Path, stem: str, count: int, suffix: str, names: Sequence[str]) -> list[str]:
    """The shards 1 to `count` of a family, every one of which must be there."""
    there = {int(m[2]): name for name in names if (m := _SHARD.fullmatch(name)) and m[1] == stem and m[4] == suffix}
    missing = [number for number in range(1, min(count, len(there) + 1) + 1) if number not in there]
    if missing:
        name = f"{stem}-{missing[0]:05d}-of-{count:05d}{suffix}"
        raise ValueError(f"{path}: the shard {printable(name)} is missing ({len(there)} of {count} are there)")
    return [there[number] for number in sorted(there)]


def _shards(path: Path, shards: Sequence[str]) -> list[Stored]:
    tensors: dict[str, tuple[Stored, str]] = {}
    for shard in shards:
        for tensor in _shard(path, shard):
            if tensor.name in tensors:
                first = tensors[tensor.name][1]
                raise ValueError(f"{path}: {tensor.name!r} lies in both {printable(first)} and {printable(shard)}")
            tensors[tensor.name] = (tensor, shard)
    return sorted((tensor for tensor, _ in tensors.values()), key=lambda t: natural_order(t.name))


def _shard(folder: Path, shard: str) -> list[Stored]:
    """The tensors of one shard; those of different shards never share memory."""
    tensors = _READERS[Path(shard).suffix.lower()](_readable(folder / shard))
    return [t if t.memory is None else dataclasses.replace(t, memory=(shard, t.memory)) for t in tensors]


def _readable(path: Path) -> Path:
    if not path.exists() and not path.is_symlink():
        raise ValueError(f"{path.parent}: the shard {printable(path.name)} is missing")
    readable_file(path, ", ".join(_READERS))
    return path
