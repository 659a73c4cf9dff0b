"""Rows sorted into lists, in slots that lie together per list, with room to grow."""

from __future__ import annotations

import numpy as np

BLOCK = 32
# Slots of lists that have moved away, as a share of all, beyond which the lists are laid out anew.
_WASTE = 0.5


class InvertedLists:
    """For each list the rows that belong to it, and what a method stores with each.

    Parameters
    ----------
    count : number of lists
    payload : shape and dtype of what is kept for a block of 32 slots, by name

    Attributes
    ----------
    start, size, room : (count,) int64, first slot, slots in use, slots in all (a multiple of 32), of each list
    rows : (slots,) int32, the row in a slot, -1 for none
    data : arrays (slots / 32, *shape) by name, one entry a block of slots

    Notes
    -----
    A list that outgrows its room moves to the end with half as much again, so that n rows added one by one are copied
    O(n) times in all; when half of the slots are deserted, all lists are laid out anew.

    Examples
    --------
    >>> lists = InvertedLists(2, {})
    >>> lists.place(np.array([0, 1, 1]), 0)
    array([ 0, 32, 33])
    >>> lists.size
    array([1, 2])
    """

    def __init__(self, count: int, payload: dict[str, tuple[tuple[int, ...], type]]) -> None:
        self.payload = payload
        self.start, self.size, self.room = (np.zeros(count, np.int64) for _ in range(3))
        self.rows = np.empty(0, np.int32)
        self.data: dict[str, np.ndarray] = {
            name: np.empty((0, *shape), dtype) for name, (shape, dtype) in payload.items()
        }
        self._used = 0

    def place(self, labels: np.ndarray, first: int) -> np.ndarray:
        """Give the rows first, first + 1, ... slots in the lists `labels`; the slots."""
        if first + len(labels) > np.iinfo(np.int32).max:
            raise ValueError(f"an index holds at most {np.iinfo(np.int32).max} rows, got {first + len(labels)}")
        new = np.bincount(labels, minlength=len(self.start))
        self._make_room(self.size + new)
        order = np.argsort(labels, kind="stable")
        begins = np.cumsum(new) - new
        within = np.empty(len(labels), np.int64)
        within[order] = np.arange(len(labels)) - np.repeat(begins, new)
        slots = self.start[labels] + self.size[labels] + within
        self.rows[slots] = np.arange(first, first + len(labels), dtype=np.int32)
        self.size += new
        return slots

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything as arrays, for files; slots that no list uses are dropped first."""
        if self._used > int(self.room.sum()):
            self._lay_out(self.room)
        kept = {name: part[: self._used // BLOCK] for name, part in self.data.items()}
        return {"start": self.start, "size": self.size, "room": self.room, "rows": self.rows[: self._used], **kept}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Take what `arrays` gave; bounds are checked, as a file can hold anything."""
        start, size, room, rows = (arrays[name] for name in ("start", "size", "room", "rows"))
        count = len(self.start)
        if not len(start) == len(size) == len(room) == count:
            raise ValueError(
                f"start, size and room must have {count} entries, got {len(start)}, {len(size)}, {len(room)}"
            )
        wrong = (start < 0) | (size < 0) | (size > room) | (start % BLOCK != 0) | (room % BLOCK != 0)
        if wrong.any() or (len(start) and int((start + room).max()) > len(rows)):
            raise ValueError(f"start, size and room must lie within the {len(rows)} slots, in blocks of {BLOCK}")
        if len(rows) % BLOCK:
            raise ValueError(f"rows must have a multiple of {BLOCK} entries, got {len(rows)}")
        for name, (shape, dtype) in self.payload.items():
            part = arrays[name]
            if part.shape != (len(rows) // BLOCK, *shape) or part.dtype != dtype:
                wanted = (len(rows) // BLOCK, *shape)
                raise ValueError(
                    f"{name} must be {np.dtype(dtype)} of shape {wanted}, got {part.dtype} of {part.shape}"
                )
        # These four are written into; the payload is copied when a row is added.
        self.start, self.size, self.room = (np.array(part, np.int64) for part in (start, size, room))
        self.rows, self._used = rows, len(rows)
        self.data = {name: arrays[name] for name in self.payload}

    def check_rows(self, n: int) -> None:
        """Raise a ValueError unless every slot in use names one of n rows."""
        used = [self.rows[s : s + c] for s, c in zip(self.start.tolist(), self.size.tolist(), strict=True)]
        rows = np.concatenate(used) if used else self.rows[:0]
        if len(rows) and (int(rows.min()) < 0 or int(rows.max()) >= n):
            raise ValueError(f"rows must name rows 0..{n - 1}, got {int(rows.min())}..{int(rows.max())}")

    def _make_room(self, wanted: np.ndarray) -> None:
        full = np.flatnonzero(wanted > self.room)
        if not len(full):
            self._own()
            return
        room = self.room.copy()
        fresh = self.room[full] == 0
        room[full] = _blocks(np.where(fresh, wanted[full], np.maximum(wanted[full], self.room[full] * 3 // 2)))
        more = int(room[full].sum())
        if len(full) == len(room) or self._used + more - int(room.sum()) > _WASTE * (self._used + more):
            self._lay_out(room)
            return
        self._own(self._used + more)
        for own in full.tolist():
            self._move(own, self._used, self.rows, self.data)
            self._used += int(room[own])
        self.room = room

    def _lay_out(self, room: np.ndarray) -> None:
        """All lists one after the other in new arrays."""
        old_rows, old = self.rows, self.data
        ends = np.cumsum(room)
        self._used = int(ends[-1]) if len(ends) else 0
        self.rows = np.full(self._used, -1, np.int32)
        self.data = self._fresh(self._used)
        for own, start in enumerate((ends - room).tolist()):
            self._move(own, start, old_rows, old)
        self.room = room.copy()

    def _move(self, own: int, to: int, rows: np.ndarray, data: dict[str, np.ndarray]) -> None:
        at, length = int(self.start[own]), int(_blocks(self.size[own]))
        self.rows[to : to + length] = rows[at : at + length]
        for name, part in data.items():
            self.data[name][to // BLOCK : (to + length) // BLOCK] = part[at // BLOCK : (at + length) // BLOCK]
        self.start[own] = to

    def _own(self, slots: int = 0) -> None:
        """Arrays that may be written, with room for so many slots."""
        have = len(self.rows)
        if slots <= have and self.rows.flags.writeable and all(part.flags.writeable for part in self.data.values()):
            return
        length = have if slots <= have else int(_blocks(np.asarray(max(slots, 2 * have))))
        rows, data = np.full(length, -1, np.int32), self._fresh(length)
        rows[:have] = self.rows
        for name, part in self.data.items():
            data[name][: len(part)] = part
        self.rows, self.data = rows, data

    def _fresh(self, slots: int) -> dict[str, np.ndarray]:
        # A slot without a row scores -inf through its offset, so that a scan needs no test for the end of a list.
        empty = {"offsets": -np.inf}
        return {
            name: np.full((slots // BLOCK, *shape), empty.get(name, 0), dtype)
            for name, (shape, dtype) in self.payload.items()
        }


def _blocks(slots: np.ndarray) -> np.ndarray:
    """Slots filled up to whole blocks."""
    return (slots + BLOCK - 1) // BLOCK * BLOCK
