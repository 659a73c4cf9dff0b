"""Several weights stored as one: queries, keys and values, gate and up projections, the gates of recurrent cells."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from resolvent.report.stored import Stored

_QKV = re.compile(r"(^|[._])(in_proj_weight|(qkv|qkv_proj|to_qkv|Wqkv|c_attn|in_proj_qkv)\.weight)$")
_QUERY_KEY_VALUE = re.compile(r"(^|[._])query_key_value\.weight$")
_HALVES = (
    (re.compile(r"(^|[._])gate_up_proj(\.weight)?$"), ("gate", "up")),
    (re.compile(r"(^|[._])w12\.weight$"), ("gate", "up")),
    (re.compile(r"(^|[._])(kv_proj|to_kv|Wkv)\.weight$"), ("k", "v")),
)
_RECURRENT = re.compile(r"(^|[._])weight_(ih|hh)_l\d+(_reverse)?$")
_GATES = {4: ("input", "forget", "cell", "output"), 3: ("reset", "update", "new")}
_CONV1D = re.compile(r"(^|\.)c_attn\.weight$")


@dataclass(frozen=True)
class Piece:
    """Rows (or columns) of a fused weight.

    Attributes
    ----------
    label : its name: "q", "gate", ...
    whole : the names of all: "q, k, v"
    axis : of the stored matrix that is split
    start, length, step : which of its entries
    block : (rows of one head group, groups) for rows that interleave by head; None where they lie together
    """

    label: str
    whole: str
    axis: int
    start: int
    length: int
    step: int = 1
    block: tuple[int, int] | None = None

    def take(self, matrix: Tensor) -> Tensor:
        """The piece: a view, except where its rows interleave with the others by head."""
        if self.block is not None:
            size, groups = self.block
            grouped = matrix.reshape(groups, size, matrix.shape[1])
            return grouped[:, self.start : self.start + self.length].reshape(groups * self.length, matrix.shape[1])
        if self.step > 1:
            return matrix[self.start :: self.step] if self.axis == 0 else matrix[:, self.start :: self.step]
        return matrix.narrow(self.axis, self.start, self.length)


def split_rows(stored: Stored, shape: tuple[int, ...], by_name: Mapping[str, Stored]) -> tuple[list[Piece], str]:
    """The pieces of a fused matrix whose first axis is the output, and a note on how they were told apart.

    Parameters
    ----------
    stored : the tensor
    shape : (out, in), transposed if the tensor is stored the other way
    by_name : all tensors of the file

    Returns
    -------
    No pieces for a matrix that is not fused, or that cannot be split: the note then says why.
    """
    rows, columns = shape
    if _QKV.search(stored.name):
        return _qkv(rows, columns)
    if _QUERY_KEY_VALUE.search(stored.name):
        return _by_head(stored, rows)
    for pattern, labels in _HALVES:
        if pattern.search(stored.name) and rows % 2 == 0:
            return _even(labels, rows), ""
    if _RECURRENT.search(stored.name):
        hidden = by_name.get(re.sub(r"weight_ih_", "weight_hh_", stored.name), stored)
        gates, rest = divmod(hidden.shape[0], hidden.shape[1]) if len(hidden.shape) == 2 and hidden.shape[1] else (0, 1)
        if rest == 0 and gates in _GATES and rows % gates == 0:
            return _even(_GATES[gates], rows), ""
    return [], ""


def split_last(stored: Stored, by_name: Mapping[str, Stored]) -> tuple[list[Piece], str]:
    """The pieces of each matrix in a batch of fused ones (experts): the axis that the down projection does not have.

    Parameters
    ----------
    stored : a tensor of 3 axes
    by_name : all tensors of the file

    Returns
    -------
    As `split_rows`.
    """
    pattern, labels = _HALVES[0]
    if not pattern.search(stored.name):
        return [], ""
    down = by_name.get(stored.name.replace("gate_up_proj", "down_proj"))
    if down is None or len(down.shape) != 3:
        return [], "gate, up fused: not split, since no down_proj beside it tells the axis"
    _, m, n = stored.shape
    # (in, 2 f) with down (f, out), or (2 f, in) with down (out, f)
    last, first = n == 2 * down.shape[1] and m == down.shape[2], m == 2 * down.shape[2] and n == down.shape[1]
    if last == first:
        return [], "gate, up fused: not split, since the shapes do not tell the axis"
    axis, length = (1, n) if last else (0, m)
    if f"{stored.name}_bias" in by_name:
        # the models that keep a bias per expert (gpt-oss) interleave the two
        return [Piece(label, ", ".join(labels), axis, i, length // 2, step=2) for i, label in enumerate(labels)], ""
    return _even(labels, length, axis), ""


def is_conv1d(stored: Stored) -> bool:
    """Whether this is a fused weight of GPT-2, (in, 3 out), which says how its neighbours are stored."""
    return len(stored.shape) == 2 and stored.shape[1] == 3 * stored.shape[0] and bool(_CONV1D.search(stored.name))


def _even(labels: tuple[str, ...], total: int, axis: int = 0) -> list[Piece]:
    length = total // len(labels)
    return [Piece(label, ", ".join(labels), axis, i * length, length) for i, label in enumerate(labels)]


def _qkv(rows: int, columns: int) -> tuple[list[Piece], str]:
    """Queries, keys and values one below the other; fewer keys and values where heads share them."""
    if rows == 3 * columns or (rows % 3 == 0 and rows < columns):
        return _even(("q", "k", "v"), rows), ""
    if columns < rows < 3 * columns and (rows - columns) % 2 == 0:
        shared = (rows - columns) // 2
        spans = (("q", 0, columns), ("k", columns, shared), ("v", columns + shared, shared))
        note = f"queries as wide as the input, {columns} rows; {shared} for shared keys and values"
        return [Piece(label, "q, k, v", 0, start, length) for label, start, length in spans], note
    if rows % 3 == 0:
        return _even(("q", "k", "v"), rows), "in three equal parts"
    return [], f"q, k, v fused: not split, since {rows} rows do not tell where each begins"


def _by_head(stored: Stored, rows: int) -> tuple[list[Piece], str]:
    """The weights of BLOOM, GPT-NeoX and Falcon: for each group of heads its queries, then its key and its value."""
    if stored.heads is None:
        return [], "q, k, v fused by head: not split, since no config.json beside it tells the number of heads"
    heads, groups = stored.heads
    width, rest = divmod(rows, heads + 2 * groups)
    if rest:
        return [], f"q, k, v fused by head: not split, since {heads} heads do not divide {rows} rows"
    queries = heads // groups * width
    block = (queries + 2 * width, groups)
    spans = (("q", 0, queries), ("k", queries, width), ("v", queries + width, width))
    note = f"interleaved over {heads} heads" + (f", {groups} of keys and values" if groups != heads else "")
    return [Piece(label, "q, k, v", 0, start, length, block=block) for label, start, length in spans], note
