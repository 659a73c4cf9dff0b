"""Edge lists: two or three columns of text are the adjacency matrix of a graph."""

from __future__ import annotations

import itertools
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from resolvent.report.stored import Stored, check_memory, sentence

if TYPE_CHECKING:
    import scipy.sparse

_COMMENTS = ("#", "%")
# A longer line is no edge; reading stops there instead of taking the whole file for one.
_LINE = 1 << 16
# Lines parsed at a time: their text takes a few MiB.
_LINES = 1 << 18
# NetworkX writes the attributes of an edge as a dictionary behind it.
_ATTRIBUTES = re.compile(r"\{(.*)\}\s*$")
_WEIGHT = re.compile(r"""['"]weight['"]\s*:\s*([-+0-9.eE]+|nan|inf)""")


@dataclass(frozen=True)
class _Edges:
    """Parsed edges: the numbers of their nodes, their weights or None, and the names of the nodes if they have any."""

    nodes: np.ndarray
    weights: np.ndarray | None
    named: bool


def edge_list(path: Path) -> Stored:
    """The adjacency matrix of an edge list.

    Parameters
    ----------
    path : a text with one edge per line: two nodes (numbers or names) and, if it has one, a weight, with blanks, tabs
        or commas between; lines that begin with # or % are comments

    Returns
    -------
    Stored : role "graph", loads as a CSR array.

    Raises
    ------
    ValueError : a line is no edge; it is named by its number.

    Notes
    -----
    Numbers of nodes that leave more than half of their range unused are renumbered, and names are numbered as they
    come; an edge stored twice counts as the sum of its weights. A list that has no edge in both directions is that of
    an undirected graph, so its other half is added; one that has some is directed and left as it is; the notes say
    which.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "a.edges")
    ...     _ = file.write_text("0 1\\n1 2\\n")
    ...     stored = edge_list(file)
    >>> stored.shape, stored.load().toarray().tolist()
    ((3, 3), [[0.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    """
    try:
        # The numbers in memory take no more than some times their text.
        check_memory(12.0 * path.stat().st_size, "reading it")
        edges = _parsed(path)
        adjacency, notes = _adjacency(edges)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{path}: not a valid edge list ({sentence(error)})") from error
    return Stored(path.stem, adjacency.shape, "float64", lambda: adjacency, role="graph", notes=notes)


def _parsed(path: Path) -> _Edges:
    """All edges of the file."""
    chunks: list[np.ndarray] = []
    numbers: dict[str, int] = {}
    columns = 0
    lines = _lines(path)
    while block := list(itertools.islice(lines, _LINES)):
        if not columns:
            columns = len(_fields(block[0][1]))
            if columns not in (2, 3):
                raise ValueError(f"line {block[0][0]} has {columns} columns; an edge has 2 or 3")
        table = None if numbers else _table(block, columns)
        if table is None:
            if chunks and not numbers:
                raise ValueError(f"a line from {block[0][0]} on is no pair of numbers, as those before are")
            table = _named(block, columns, numbers)
        chunks.append(table)
    if not chunks:
        raise ValueError("it has no edges")
    table = np.concatenate(chunks)
    nodes = table[:, :2]
    if not numbers and not ((nodes >= 0) & (nodes < 2**53) & (nodes == np.floor(nodes))).all():
        bad = int(np.flatnonzero(~((nodes >= 0) & (nodes < 2**53) & (nodes == np.floor(nodes))).all(1))[0])
        raise ValueError(f"edge {bad + 1} is between {nodes[bad, 0]:g} and {nodes[bad, 1]:g}, which number no nodes")
    return _Edges(nodes.astype(np.int64), table[:, 2] if columns == 3 else None, bool(numbers))


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and text of the lines that are neither blank nor comments."""
    with path.open("rb") as file:
        for number in itertools.count(1):
            raw = file.readline(_LINE)
            if not raw:
                return
            if raw.lstrip().startswith(tuple(c.encode() for c in _COMMENTS)):
                while len(raw) == _LINE and not raw.endswith(b"\n"):
                    raw = file.readline(_LINE)
                continue
            if len(raw) == _LINE:
                raise ValueError(f"line {number} is longer than {_LINE} characters")
            if text := raw.decode("utf-8", "replace").strip():
                yield number, text


def _fields(line: str) -> list[str]:
    if match := _ATTRIBUTES.search(line):
        weight = _WEIGHT.search(match[1])
        line = line[: match.start()] + (f" {weight[1]}" if weight else "")
    return line.replace(",", " ").split()


def _table(block: list[tuple[int, str]], columns: int) -> np.ndarray | None:
    """The block as numbers; None where it holds anything else."""
    if "{" in block[0][1]:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            table = np.loadtxt([line.replace(",", " ") for _, line in block], dtype=np.float64, ndmin=2, comments=None)
        except (ValueError, OverflowError):
            return None
    return table if table.shape == (len(block), columns) else None


def _named(block: list[tuple[int, str]], columns: int, numbers: dict[str, int]) -> np.ndarray:
    """The block line by line, names of nodes numbered as they come."""
    table = np.empty((len(block), columns))
    for row, (number, line) in enumerate(block):
        fields = _fields(line)
        if len(fields) != columns:
            raise ValueError(f"line {number} has {len(fields)} columns, the first one has {columns}")
        for side in range(2):
            table[row, side] = numbers.setdefault(fields[side], len(numbers))
        if columns == 3:
            try:
                table[row, 2] = float(fields[2])
            except ValueError as error:
                raise ValueError(f"the weight {fields[2][:40]!r} in line {number} is not a number") from error
    return table


def _adjacency(edges: _Edges) -> tuple[scipy.sparse.csr_array, tuple[str, ...]]:
    import scipy.sparse

    nodes, notes = edges.nodes, []
    if edges.named:
        size = int(nodes.max()) + 1
        notes.append("nodes have names, numbered as they come")
    else:
        low, high = int(nodes.min()), int(nodes.max())
        used, renumbered = np.unique(nodes, return_inverse=True)
        size = high + 1
        if 2 * len(used) < size or (low == 1 and len(used) == high):
            nodes, size = renumbered.reshape(nodes.shape), len(used)
            notes.append(f"nodes renumbered from {low} to {high}")
    weights = np.ones(len(nodes)) if edges.weights is None else edges.weights
    adjacency = scipy.sparse.coo_array((weights, (nodes[:, 0], nodes[:, 1])), shape=(size, size)).tocsr()
    pattern = scipy.sparse.csr_array((np.ones(adjacency.nnz), adjacency.indices, adjacency.indptr), shape=(size, size))
    pattern.setdiag(0)
    pattern.eliminate_zeros()
    both = int(pattern.multiply(pattern.T).sum())
    if both == pattern.nnz:
        # only loops, or every edge in both directions
        notes.append("each edge in both directions")
    elif both == 0:
        loops = scipy.sparse.diags_array(adjacency.diagonal(), format="csr")
        adjacency = scipy.sparse.csr_array(adjacency + adjacency.T - loops)
        notes.append("each edge in one direction: read as undirected")
    else:
        notes.append(f"directed: {both // 2} of its edges go both ways")
    return adjacency, tuple(notes)
