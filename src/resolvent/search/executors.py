"""Where the shards of an index live: threads of this process, or actors on the workers of a Dask cluster."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

from resolvent.errors import StoreError
from resolvent.search.shard_server import ShardServer

# Seconds between attempts to reach a shard whose worker is gone, and how many there are.
_PAUSE, _ATTEMPTS = 0.5, 20


class Executor(Protocol):
    """What `Sharded` needs: calls of methods of the `ShardServer` of a shard, answered by futures."""

    def submit(self, shard: int, method: str, *args: Any) -> Any:
        """A future whose `result()` is the answer, or raises what the method raised."""

    def close(self) -> None:
        """Close the shards."""


class ThreadExecutor:
    """Shards opened in this process; their searches leave the interpreter's lock to each other.

    Parameters
    ----------
    paths : directories of the shards
    mode : "r" or "rw"
    timeout : seconds that a write waits for another writer

    Examples
    --------
    >>> import tempfile
    >>> from resolvent import search
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     search.create(f"{folder}/a", vectors={"v": search.Dense(2)}).close()
    ...     executor = ThreadExecutor([f"{folder}/a"], "r", 30.0)
    ...     count = executor.submit(0, "count", None).result()
    ...     executor.close()
    >>> count
    0
    """

    def __init__(self, paths: Sequence[str], mode: str, timeout: float) -> None:
        self._servers = [ShardServer(path, mode, timeout) for path in paths]
        self._pool = ThreadPoolExecutor(max_workers=max(1, len(paths)))

    def submit(self, shard: int, method: str, *args: Any) -> Future[Any]:
        return self._pool.submit(getattr(self._servers[shard], method), *args)

    def close(self) -> None:
        self._pool.shutdown()
        for server in self._servers:
            server.close()


class DaskExecutor:
    """Shards opened by actors, one for each shard, spread over the workers of a Dask cluster.

    An actor whose worker dies is opened again on another one: a shard is a directory, which all workers must reach. A
    call that was under way is repeated; a write carries the name of its batch and is done once. A call may take long:
    it is waited for as long as the scheduler knows its worker.

    Parameters
    ----------
    paths : directories of the shards, as the workers see them
    mode : "r" or "rw"
    timeout : seconds that a write waits for another writer, and between two looks whether a worker is still there
    client : a `distributed.Client`
    """

    def __init__(self, paths: Sequence[str], mode: str, timeout: float, client: Any) -> None:
        self._paths, self._mode, self._timeout, self._client = list(paths), mode, timeout, client
        self._actors: list[Any] = [None] * len(paths)
        for shard in range(len(paths)):
            self._open(shard)

    def submit(self, shard: int, method: str, *args: Any) -> _Answer:
        return _Answer(self, shard, method, args)

    def close(self) -> None:
        answers = [self._start(shard, "close", ()) for shard, actor in enumerate(self._actors) if actor is not None]
        for answer in answers:
            if answer is not None:
                self._value(answer)
        self._actors = [None] * len(self._paths)

    def _open(self, shard: int) -> None:
        """Open a shard on the worker that is next in turn among those that are alive."""
        workers = sorted(self._client.scheduler_info(n_workers=-1)["workers"])
        if not workers:
            raise StoreError(f"no worker of the cluster is alive to open shard {shard}")
        # Another worker than the one that was lost, as long as the scheduler does not know of the loss yet.
        last = getattr(self._actors[shard], "_address", None)
        others = [w for w in workers if w != last] or workers
        made = self._client.submit(
            ShardServer,
            self._paths[shard],
            self._mode,
            self._timeout,
            actor=True,
            workers=[others[shard % len(others)]],
            allow_other_workers=True,
            pure=False,
        )
        self._actors[shard] = made.result(timeout=self._timeout)

    def _start(self, shard: int, method: str, args: tuple[Any, ...]) -> Any:
        """The actor's future and its worker, or None if it could not even be asked."""
        actor = self._actors[shard]
        try:
            return actor.answer(method, args), actor._address
        except (OSError, ValueError, RuntimeError):
            return None

    def _value(self, started: Any) -> Any:
        """(done, value): an error of the method itself comes back as a value; anything raised means a lost worker."""
        from distributed.comm import CommClosedError

        if started is None:
            return None
        future, address = started
        while True:
            try:
                return future.result(timeout=self._timeout)
            except TimeoutError:
                # Slow is not lost: a repeated call would work beside the one that is under way.
                if address not in self._client.scheduler_info(n_workers=-1)["workers"]:
                    return None
            except (OSError, ValueError, RuntimeError, CommClosedError):
                return None

    def _again(self, shard: int, method: str, args: tuple[Any, ...]) -> Any:
        from distributed.scheduler import KilledWorker

        for _ in range(_ATTEMPTS):
            try:
                self._open(shard)
            except (OSError, RuntimeError, KilledWorker):
                time.sleep(_PAUSE)
                continue
            found = self._value(self._start(shard, method, args))
            if found is not None:
                return found
            time.sleep(_PAUSE)
        raise StoreError(
            f"shard {shard} ({self._paths[shard]}) cannot be reached: its workers were lost {_ATTEMPTS} times"
        )


class _Answer:
    """The future of a call of a shard, which survives the loss of its worker."""

    def __init__(self, executor: DaskExecutor, shard: int, method: str, args: tuple[Any, ...]) -> None:
        self._executor, self._call = executor, (shard, method, args)
        self._future = executor._start(*self._call)

    def result(self) -> Any:
        found = self._executor._value(self._future)
        if found is None:
            found = self._executor._again(*self._call)
        error, value = found
        if error is not None:
            raise error
        return value
