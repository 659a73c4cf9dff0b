"""One shard of an index where it lives: an ordinary index, asked by method name and answered by plain arrays."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

import numpy as np

from resolvent.errors import ResolventError
from resolvent.search.hits import Found
from resolvent.search.snapshot import Snapshot
from resolvent.search.store import open as open_index

# Views kept for searches that ask more than once; an older one is opened anew.
_VIEWS = 16


class ShardServer:
    """An open shard.

    Parameters
    ----------
    path : directory of the index
    mode : "r" or "rw"
    timeout : seconds that a write waits for another writer

    Examples
    --------
    >>> import tempfile
    >>> from resolvent import search
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     search.create(f"{folder}/a", vectors={"v": search.Dense(2)}).close()
    ...     server = ShardServer(f"{folder}/a", "r", 30.0)
    ...     answer = server.answer("count", (None,)), server.answer("call", ("add", {}))[0]
    ...     server.close()
    >>> answer
    ((None, 0), TypeError("Index.add() missing 1 required positional argument: 'ids'"))
    """

    def __init__(self, path: str, mode: str, timeout: float) -> None:
        self._index = open_index(path, mode, timeout=timeout)  # type: ignore[arg-type]
        self._views: OrderedDict[str, Snapshot] = OrderedDict()
        self._lock = threading.Lock()

    def answer(self, method: str, args: tuple[Any, ...]) -> tuple[Exception | None, Any]:
        """(error, value) of a method: errors of a call travel as values, so that they are told from a lost worker."""
        try:
            return None, getattr(self, method)(*args)
        except (
            ResolventError,
            ArithmeticError,
            AttributeError,
            ImportError,
            LookupError,
            MemoryError,
            OSError,
            RuntimeError,
            TypeError,
            ValueError,
        ) as error:
            return error, None

    def close(self) -> None:
        for view in self._views.values():
            view.close()
        self._views.clear()
        self._index.close()

    def call(self, method: str, arguments: dict[str, Any]) -> Any:
        """A method of the index itself."""
        if method == "compact":
            # What a view maps or reads cannot be freed.
            with self._lock:
                self._views.clear()
        return getattr(self._index, method)(**arguments)

    def count(self, token: str | None) -> int:
        """Records."""
        return len(self._index) if token is None else self._view(token).count

    def strings(self, token: str) -> bool:
        """Are the ids strings?"""
        return self._view(token).strings

    def matches(self, token: str, where: Any) -> int:
        """Records that a filter lets through."""
        return len(self._view(token).rows(where))

    def search(self, token: str, field: str, ask: Any, k: int, where: Any, options: dict[str, Any]) -> Any:
        """The best rows of a field, the plan, and the ids of those rows."""
        from resolvent.search.field_search import matching_rows, search_field

        view = self._view(token)
        matching = None if where is None else matching_rows(view, where)
        most = max(1, view.count if matching is None else len(matching))
        found, plan = search_field(view, field, ask, min(k, most), matching, options)
        rows = np.unique(found.rows[found.rows >= 0])
        return Found(*found), plan, rows, view.ids(rows)

    def scores(self, token: str, field: str, ask: Any, rows: np.ndarray) -> np.ndarray:
        """Exact scores of given rows."""
        from resolvent.search.field_search import exact_scores

        return exact_scores(self._view(token), field, ask, rows)

    def payload(self, token: str, rows: np.ndarray) -> dict[str, list[Any]]:
        """The payload of given rows."""
        return self._view(token).payload(rows)

    def _view(self, token: str) -> Snapshot:
        """The view of the index that belongs to one search."""
        with self._lock:
            view = self._views.pop(token, None)
            if view is None:
                view = self._index.snapshot()
            self._views[token] = view
            # A search that still uses a view keeps it; the end of its life closes it.
            while len(self._views) > _VIEWS:
                self._views.popitem(last=False)
            return view
