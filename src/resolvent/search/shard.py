"""One index over several: records spread over directories by their ids, searched together, on threads or on a cluster."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np

from resolvent.search import store
from resolvent.search.columns import as_columns
from resolvent.search.exact import merge
from resolvent.search.executors import DaskExecutor, Executor, ThreadExecutor
from resolvent.search.hits import Found
from resolvent.search.ids import as_ids
from resolvent.search.planner import Plan
from resolvent.search.schema import Field, MultiVector
from resolvent.search.segment import disk_faults, sync_folder
from resolvent.search.shard_rows import in_order, length, some_rows, stacked

_FILE, _FORMAT = "shards.json", "resolvent.shards/1"
# No file of ours is longer.
_LONGEST = 1 << 16


class Sharded:
    """An index whose records are spread over several ordinary indexes.

    A record belongs to shard ``blake2b(id) mod S``. A search asks all shards and merges their answers, so that it finds
    what one index over the union finds: exact methods exactly, ranks and scores of several fields fused after the
    merge. Each shard commits its part of a batch by itself; there is no transaction over all shards. A batch whose
    writing was interrupted can be repeated with the same name `batch` and is then complete, nothing twice.

    Parameters
    ----------
    path : directory of all shards, made by `Sharded.create`
    mode : "r" or "rw"
    client : a `distributed.Client`: the shards are opened by actors on its workers, which must reach the directory, and
        opened again elsewhere when a worker is lost; None: by threads of this process
    timeout : seconds that a write waits for another writer

    Notes
    -----
    A search costs what its slowest shard costs, and k entries of each list. Replication and membership are the
    cluster's business. Scores of sparse fields are inner products of what was given: weights that depend on all
    documents, as of BM25, are put in before (`word_statistics` of the whole collection).

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> from resolvent import search
    >>> folder = tempfile.TemporaryDirectory()
    >>> index = search.Sharded.create(f"{folder.name}/all", shards=3, vectors={"v": search.Dense(4)})
    >>> index.add(np.arange(100), v=np.random.default_rng(0).normal(size=(100, 4)))
    100
    >>> hits = index.query(v=index.get([42])["v"][0], k=1)
    >>> len(index), hits.counts, hits.explain["exact"]
    (100, np.int64(1), True)
    >>> index.close(); folder.cleanup()
    """

    def __init__(
        self, path: str | Path, mode: Literal["r", "rw"] = "r", *, client: Any = None, timeout: float = 30.0
    ) -> None:
        self.path = Path(path)
        paths = [str(p.resolve()) for p in _shards(self.path)]
        self.shards = len(paths)
        self.mode = mode
        # "int" or "str", as soon as a shard knows it.
        self._kind: str | None = None
        with store.open(paths[0], "r", timeout=timeout) as first:
            self.schema = first.schema
        self._executor: Executor = (
            ThreadExecutor(paths, mode, timeout) if client is None else DaskExecutor(paths, mode, timeout, client)
        )

    @classmethod
    def create(
        cls,
        path: str | Path,
        shards: int,
        *,
        vectors: Mapping[str, Field],
        payload: Mapping[str, Any] | None = None,
        window: Sequence[str] | str = (),
        client: Any = None,
        timeout: float = 30.0,
    ) -> Self:
        """Make empty shards in a directory and open them for writing; the rest is as for `search.create`."""
        if isinstance(shards, bool) or not isinstance(shards, int) or not 1 <= shards <= 10_000:
            raise ValueError(f"shards must be an integer from 1 to 10000, got {shards!r}")
        folder = Path(path)
        if (folder / _FILE).exists():
            raise FileExistsError(f"{folder} holds a sharded index already")
        for i in range(shards):
            store.create(folder / _name(i), vectors=vectors, payload=payload, window=window, timeout=timeout).close()
        # The index exists when this file does: until then nobody opens half of its shards.
        text = json.dumps({"format": _FORMAT, "shards": shards, "placement": "blake2b"})
        with disk_faults(folder):
            partial = folder / f"{_FILE}.partial"
            with partial.open("w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, folder / _FILE)
            sync_folder(folder)
        return cls(folder, "rw", client=client, timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all shards."""
        self._executor.close()

    def __len__(self) -> int:
        return sum(self._all("count", None))

    def __contains__(self, one: Any) -> bool:
        keys = as_ids([one])
        found = self._executor.submit(placement(keys[0], self.shards), "call", "__contains__", {"one": keys[0]})
        return bool(found.result())

    # Writing.

    def add(self, ids: Any, *, payload: Any = None, batch: str | None = None, **fields: Any) -> int:
        """Add records, as `Index.add`; each shard commits its part.

        Whatever can be seen in the batch itself is checked before anything is written; an id that is there already
        fails in its shard alone.
        """
        return self._write("add", ids, payload, batch, fields)

    def upsert(self, ids: Any, *, payload: Any = None, batch: str | None = None, **fields: Any) -> int:
        """Add records and replace those that are there already, as `Index.upsert`."""
        return self._write("upsert", ids, payload, batch, fields)

    def delete(self, ids: Any = None, *, where: Any = None) -> int:
        """Delete records by ids or by a filter, as `Index.delete`."""
        if (ids is None) == (where is None):
            raise ValueError("give either ids or where")
        if ids is None:
            return sum(self._all("call", "delete", {"where": where}))
        keys = as_ids(ids)
        calls = [
            self._executor.submit(shard, "call", "delete", {"ids": keys[rows]}) for shard, rows in self._spread(keys)
        ]
        return sum(call.result() for call in calls)

    def build(self, field: str, spec: Any, **options: Any) -> int:
        """Build a search structure over a field of all shards, as `Index.build`."""
        return sum(self._all("call", "build", {"field": field, "spec": spec, **options}))

    def compact(self, policy: str | float = "auto") -> dict[str, int]:
        """Compact all shards, as `Index.compact`."""
        done = self._all("call", "compact", {"policy": policy})
        return {name: sum(one[name] for one in done) for name in done[0]}

    # Reading.

    def query(self, **arguments: Any) -> Any:
        """Search all shards as they are now; takes what `Index.query` takes and answers the same."""
        from resolvent.search.query import query

        return query(ShardedView(self), **arguments)

    def get(self, ids: Any) -> dict[str, Any]:
        """Records by id, as `Index.get`."""
        keys = as_ids(ids)
        spread = self._spread(keys)
        calls = [self._executor.submit(shard, "call", "get", {"ids": keys[rows]}) for shard, rows in spread]
        parts = [(rows, call.result()) for call, (_, rows) in zip(calls, spread, strict=True)]
        if not parts:
            return self._executor.submit(0, "call", "get", {"ids": keys}).result()
        made: dict[str, Any] = {"ids": keys}
        columns = list(dict.fromkeys(name for _, one in parts for name in one["payload"]))
        made["payload"] = {
            name: in_order([(rows, one["payload"].get(name, [None] * len(rows))) for rows, one in parts], len(keys))
            for name in columns
        }
        for field, kind in self.schema.vectors.items():
            own = [(rows, one[field]) for rows, one in parts]
            made[field] = stacked(kind, own, len(keys))
        return made

    def ids(self, where: Any = None) -> np.ndarray:
        """Ids of all records, or of those that match a filter, shard by shard."""
        return np.concatenate(self._all("call", "ids", {"where": where}))

    def verify(self) -> list[str]:
        """What is wrong with any shard, as `Index.verify`."""
        found = self._all("call", "verify", {})
        return [f"{_name(i)}: {one}" for i, own in enumerate(found) for one in own]

    def stats(self) -> dict[str, Any]:
        """Records and bytes of all shards, and the `Index.stats` of each."""
        own = self._all("call", "stats", {})
        return {
            "path": str(self.path),
            "records": sum(one["records"] for one in own),
            "bytes": sum(one["bytes"] for one in own),
            "shards": own,
        }

    # Inside.

    def _all(self, method: str, *args: Any) -> list[Any]:
        calls = [self._executor.submit(shard, method, *args) for shard in range(self.shards)]
        return [call.result() for call in calls]

    def _spread(self, ids: np.ndarray) -> list[tuple[int, np.ndarray]]:
        """The shards that ids belong to, each with the positions of its ids."""
        home = np.fromiter((placement(i, self.shards) for i in ids.tolist()), np.int64, len(ids))
        return [(int(shard), np.flatnonzero(home == shard)) for shard in np.unique(home)]

    def _write(self, method: str, ids: Any, payload: Any, batch: str | None, fields: dict[str, Any]) -> int:
        if self.mode != "rw":
            from resolvent.errors import ReadOnly

            raise ReadOnly(f"{self.path} was opened with mode='r': open it with mode='rw' to change it")
        keys = as_ids(ids)
        for name in fields:
            if name not in self.schema.vectors:
                raise ValueError(f"fields are {', '.join(self.schema.vectors)}, got {name!r}")
        # A pair is tokens and offsets where sets are meant, and nothing but a sequence elsewhere.
        fields = {
            name: list(value)
            if isinstance(value, tuple) and not isinstance(self.schema.vectors[name], MultiVector)
            else value
            for name, value in fields.items()
        }
        for name, value in fields.items():
            if value is not None and length(value) != len(keys):
                raise ValueError(f"{name} must have {len(keys)} rows like ids, got {length(value)}")
        columns = None if payload is None else as_columns(payload, len(keys))
        store.checked_batch(self.schema, keys, columns, fields)
        if len(set(keys.tolist())) < len(keys):
            raise ValueError("ids must be distinct: a batch has one record for each id")
        kind = "str" if keys.dtype == object else "int"
        if self._kind is None:
            self._kind = next((one["ids"] for one in self._all("call", "stats", {}) if one["ids"]), None)
        if len(keys) and self._kind not in (None, kind):
            raise TypeError(f"ids of this index are {self._kind}, got {kind}")
        # A name of its own, so that a call that is repeated after the loss of a worker is done once.
        name = batch or uuid.uuid4().hex
        calls = []
        for shard, rows in self._spread(keys):
            given: dict[str, Any] = {
                field: some_rows(value, rows) for field, value in fields.items() if value is not None
            }
            if columns is not None:
                given["payload"] = {column: [values[i] for i in rows.tolist()] for column, values in columns.items()}
            calls.append(self._executor.submit(shard, "call", method, {"ids": keys[rows], "batch": name, **given}))
        return sum(call.result() for call in calls)


class _Matching(NamedTuple):
    """A filter, and how many records of each shard match."""

    where: Any
    counts: tuple[int, ...]

    def __len__(self) -> int:
        return sum(self.counts)


class ShardedView:
    """All shards as one view for `query.query`: row r of shard s is row r S + s.

    Parameters
    ----------
    index : the sharded index
    """

    def __init__(self, index: Sharded) -> None:
        self._index = index
        self._token = uuid.uuid4().hex
        self.schema = index.schema
        self.count = sum(index._all("count", self._token))
        self._strings = any(index._all("strings", self._token))
        self._names: dict[int, Any] = {}

    def rows(self, where: Any) -> Any:
        return _Matching(where, tuple(self._index._all("matches", self._token, where)))

    def search_field(
        self, field: str, ask: Any, k: int, matching: _Matching | None, options: dict[str, Any]
    ) -> tuple[Found, Plan]:
        S = self._index.shards
        where = None if matching is None else matching.where
        answers = self._index._all("search", self._token, field, ask, k, where, options)
        parts, steps = [], []
        for shard, (found, plan, rows, ids) in enumerate(answers):
            self._names.update(zip((rows * S + shard).tolist(), ids.tolist(), strict=True))
            parts.append(found._replace(rows=np.where(found.rows >= 0, found.rows * S + shard, -1)))
            steps.extend(plan.steps)
        return merge(parts, k), Plan(field, tuple(steps))

    def exact_scores(self, field: str, ask: Any, rows: np.ndarray) -> np.ndarray:
        S = self._index.shards
        scores = np.full(rows.shape, -np.inf, np.float32)
        own = [np.where((rows >= 0) & (rows % S == shard), rows // S, -1) for shard in range(S)]
        calls = [self._index._executor.submit(i, "scores", self._token, field, ask, part) for i, part in enumerate(own)]
        for part, call in zip(own, calls, strict=True):
            scores[part >= 0] = call.result()[part >= 0]
        return scores

    def ids(self, rows: np.ndarray) -> np.ndarray:
        names = [self._names[row] for row in np.asarray(rows).tolist()]
        return np.array(names, dtype=object if self._strings else np.int64)

    def payload(self, rows: np.ndarray) -> dict[str, list[Any]]:
        S, rows = self._index.shards, np.asarray(rows)
        places = [np.flatnonzero(rows % S == shard) for shard in range(S)]
        asked = [(i, where) for i, where in enumerate(places) if len(where)]
        calls = [self._index._executor.submit(i, "payload", self._token, rows[where] // S) for i, where in asked]
        parts = [(where, call.result()) for (_, where), call in zip(asked, calls, strict=True)]
        names = list(dict.fromkeys(name for _, one in parts for name in one))
        return {
            name: in_order([(where, one.get(name, [None] * len(where))) for where, one in parts], len(rows))
            for name in names
        }


def placement(one: int | str, shards: int) -> int:
    """The shard of an id: the same on every machine and in every language that has blake2b.

    Parameters
    ----------
    one : the id; an integer counts as its eight bytes, least first, a string as its UTF-8
    shards : how many there are

    Returns
    -------
    int
        blake2b of 8 bytes, read least first, modulo `shards`

    Examples
    --------
    >>> placement(7, 4), placement("seven", 4)
    (3, 3)
    """
    data = one.encode() if isinstance(one, str) else int(one).to_bytes(8, "little", signed=True)
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little") % shards


def _name(shard: int) -> str:
    return f"shard-{shard:04d}"


def _shards(folder: Path) -> list[Path]:
    """The directories of the shards, from the file that lists them."""
    from resolvent.errors import Damaged

    file = folder / _FILE
    if not file.is_file():
        raise FileNotFoundError(f"{folder} holds no sharded index: there is no {_FILE}")
    try:
        if file.stat().st_size > _LONGEST:
            raise ValueError
        told = json.loads(file.read_text())
        count = told["shards"]
        if told["format"] != _FORMAT or told["placement"] != "blake2b" or not isinstance(count, int) or count < 1:
            raise ValueError
    except (ValueError, KeyError, TypeError):
        raise Damaged(f"{file} is damaged, or of a later version") from None
    made = [folder / _name(i) for i in range(min(count, 10_000))]
    missing = [p.name for p in made if not p.is_dir()]
    if missing:
        raise Damaged(f"{folder} lacks {len(missing)} of its {count} shards, the first is {missing[0]}")
    return made
