"""The rows of one vector field as plain arrays: taken from the user, joined, picked out, viewed, and given back."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from resolvent.errors import Damaged
from resolvent.search.schema import Dense, Field, MultiVector, Sparse
from resolvent.search.segment import Pieces

# Rows that are copied at a time when files are joined.
_BLOCK = 1 << 16
Arrays = dict[str, np.ndarray]


def encode(field: Field, x: Any, n: int, name: str) -> Arrays:
    """Rows as the user gave them, checked, in the form in which they are kept."""
    from resolvent.search.ragged import as_sets

    if isinstance(field, Sparse):
        return _encode_sparse(field, x, n, name)
    if isinstance(field, MultiVector):
        if n == 0 and len(x) == 0:
            return {
                **_prefixed(_dense(np.empty((0, field.dim), np.float32), field, name)),
                "offsets": np.zeros(1, np.int64),
            }
        sets = as_sets(x, name, dim=field.dim)
        _check_count(len(sets.offsets) - 1, n, name)
        return {**_prefixed(_dense(sets.tokens, field, name)), "offsets": sets.offsets}
    if np.ndim(x) == 1 and n == 1 and len(x) == field.dim:
        x = x.reshape(1, -1) if hasattr(x, "reshape") else [x]
    if n == 0 and len(x) == 0:
        x = np.empty((0, field.dim), np.float32)
    arrays = _dense(x, field, name)
    _check_count(len(arrays["data"]), n, name)
    return arrays


def view(field: Field, arrays: Arrays, size: int | None = None) -> Any:
    """What a search works on, without a copy: `Vectors`, a CSR matrix, or (`Vectors` of tokens, offsets)."""
    from resolvent.search.vectors import Vectors

    if isinstance(field, Sparse):
        import scipy.sparse

        _check_ends(arrays["indptr"], len(arrays["indices"]))
        if len(arrays["data"]) != len(arrays["indices"]):
            raise ValueError(f"{len(arrays['data'])} values have {len(arrays['indices'])} indices")
        lowest, highest = int(arrays["indices"].min(initial=0)), int(arrays["indices"].max(initial=0))
        # A query of a field without a declared size is as wide as its own terms.
        shape = (len(arrays["indptr"]) - 1, field.size or size or highest + 1)
        if not 0 <= lowest <= highest < shape[1]:
            raise ValueError(f"indices are from {lowest} to {highest}, there are {shape[1]} columns")
        return scipy.sparse.csr_matrix((arrays["data"], arrays["indices"], arrays["indptr"]), shape=shape)
    if isinstance(field, MultiVector):
        own = {key[7:]: part for key, part in arrays.items() if key.startswith("tokens.") and key != "tokens.norm"}
        _check_ends(arrays["offsets"], len(arrays["tokens.data"]))
        return Vectors.from_arrays(own, field.dtype), arrays["offsets"]
    return Vectors.from_arrays({key: arrays[key] for key in ("data", "square", "scale") if key in arrays}, field.dtype)


def decode(field: Field, arrays: Arrays, index: np.ndarray, size: int | None = None) -> Any:
    """Rows as a user gave them: float32 (m, d), CSR (m, size), or a list of (t, d) arrays; cosine rows have their length again."""
    picked = pick(field, arrays, index)
    seen = view(field, picked, size)
    if isinstance(field, Sparse):
        return seen
    if isinstance(field, MultiVector):
        vectors, offsets = seen
        tokens = _with_norm(vectors.rows(np.arange(len(vectors))), picked.get("tokens.norm"))
        return [tokens[a:b] for a, b in itertools.pairwise(offsets.tolist())]
    return _with_norm(seen.rows(np.arange(len(seen))), picked.get("norm"))


def count(field: Field, arrays: Arrays) -> int:
    """How many rows there are."""
    if isinstance(field, Dense):
        return len(arrays["data"])
    return len(arrays["offsets" if isinstance(field, MultiVector) else "indptr"]) - 1


def pick(field: Field, arrays: Arrays, index: np.ndarray) -> Arrays:
    """These rows alone, still encoded."""
    if isinstance(field, Dense):
        return {name: part[index] for name, part in arrays.items()}
    from resolvent.search.ragged import joined_rows

    ends = _ends_name(field)
    _check_ends(arrays[ends], len(arrays["indices" if isinstance(field, Sparse) else "tokens.data"]))
    inner, offsets = joined_rows(arrays[ends].astype(np.int64), index)
    return {name: offsets if name == ends else part[inner] for name, part in arrays.items()}


def join(field: Field, sources: Sequence[tuple[Arrays, np.ndarray | None]]) -> dict[str, np.ndarray | Pieces]:
    """The rows of several sources (None: all of a source) one after the other, read only while they are written."""
    sizes = [count(field, arrays) if index is None else len(index) for arrays, index in sources]
    names = list(sources[0][0])
    if isinstance(field, Dense):
        return {name: _lazy(sources, name, sum(sizes)) for name in names}
    ends = _ends_name(field)
    lengths = []
    for arrays, index in sources:
        each = np.diff(arrays[ends])
        lengths.append(each if index is None else each[index])
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths), dtype=np.int64)])
    parts = [
        (arrays, None if index is None else _inner_rows(arrays[ends].astype(np.int64), index))
        for arrays, index in sources
    ]
    made: dict[str, np.ndarray | Pieces] = {
        name: offsets if name == ends else _lazy(parts, name, int(offsets[-1])) for name in names
    }
    if isinstance(field, Sparse):
        made |= _same_width(int(offsets[-1]), offsets, made["indices"])
    return made


def checks(field: Field, arrays: Arrays) -> np.ndarray:
    """A 32-bit checksum of each row (n,), so that damage can be named row by row.

    Words are multiplied by odd numbers and summed modulo 2^32: a row in which one word has changed never has the same sum.
    """
    total = np.zeros(count(field, arrays), np.uint32)
    ends = None if isinstance(field, Dense) else arrays[_ends_name(field)]
    for salt, (name, part) in enumerate(sorted(arrays.items())):
        if ends is not None and name == _ends_name(field):
            total += np.diff(ends).astype(np.uint32) * np.uint32(0x9E3779B1)
            continue
        words = part.astype(np.int64).astype(np.uint32) if name == "indices" else part
        own = _word_sums(words, salt)
        if ends is not None:
            own = _by_set(own, ends.astype(np.int64))
        total += own
    return total


def _dense(x: Any, field: Dense | MultiVector, name: str) -> Arrays:
    import torch

    from resolvent.search.index import as_rows
    from resolvent.search.vectors import Vectors

    if field.metric != "cosine":
        return Vectors.of(as_rows(x, field.dim, field.metric, name), field.dtype).arrays()
    raw = as_rows(x, field.dim, None, name)
    unit = as_rows(raw, field.dim, "cosine", name)
    # By the largest entry: the square of one near 1e30 would leave the range of float32.
    largest = raw.abs().amax(1) if len(raw) else raw.new_zeros(0)
    norm = largest * torch.linalg.vector_norm(raw / largest[:, None], dim=1)
    return {**Vectors.of(unit, field.dtype).arrays(), "norm": norm.numpy()}


def _encode_sparse(field: Sparse, x: Any, n: int, name: str) -> Arrays:
    import scipy.sparse

    if isinstance(x, dict):
        x = [x]
    if isinstance(x, list | tuple) and all(isinstance(row, dict) for row in x):
        sizes = np.fromiter((len(row) for row in x), np.int64, len(x))
        values = np.array([v for row in x for v in row.values()], np.float32)
        where = np.array([i for row in x for i in row], np.int64)
        if len(where) and (where.min() < 0 or where.max() >= 2**31 - 1):
            raise ValueError(f"{name} has the index {int(where[(where < 0) | (where >= 2**31 - 1)][0])}, outside int32")
        width = field.size or int(where.max(initial=0)) + 1
        if len(where) and where.max() >= width:
            raise ValueError(f"{name} has the index {int(where.max())}, the field has size {width}")
        x = scipy.sparse.csr_matrix((values, where, np.concatenate([[0], np.cumsum(sizes)])), shape=(len(x), width))
    if not scipy.sparse.issparse(x):
        raise TypeError(f"{name} must be a SciPy sparse matrix or a list of dicts, got {type(x).__name__}")
    matrix = scipy.sparse.csr_matrix(x, dtype=np.float32, copy=True)
    if field.size is not None and matrix.shape[1] != field.size:
        raise ValueError(f"{name} must have {field.size} columns, got {matrix.shape[1]}")
    _check_count(matrix.shape[0], n, name)
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    if not np.isfinite(matrix.data).all():
        raise ValueError(f"{name} has entries that are NaN or infinite (in float32)")
    offsets = matrix.indptr.astype(np.int64)
    made = {"indices": matrix.indices, "data": matrix.data, "indptr": offsets}
    return made | _same_width(matrix.nnz, offsets, matrix.indices)  # type: ignore[return-value]


def _same_width(entries: int, offsets: np.ndarray, indices: Any) -> dict[str, Any]:
    """SciPy copies indices whose type is not that of the offsets: both are 32 bits wide while they can be."""
    dtype = np.dtype(np.int32 if entries < 2**31 else np.int64)
    if isinstance(indices, Pieces):
        read = indices.read
        return {
            "indptr": offsets.astype(dtype),
            "indices": Pieces(indices.shape, dtype, lambda: (piece.astype(dtype) for piece in read())),
        }
    return {"indptr": offsets.astype(dtype), "indices": indices.astype(dtype)}


def _lazy(sources: Sequence[tuple[Arrays, np.ndarray | None]], name: str, n: int) -> Pieces:
    first = sources[0][0][name]

    def read() -> Iterator[np.ndarray]:
        for arrays, index in sources:
            part = arrays[name]
            total = len(part) if index is None else len(index)
            for a in range(0, total, _BLOCK):
                yield part[a : a + _BLOCK] if index is None else part[index[a : a + _BLOCK]]

    return Pieces((n, *first.shape[1:]), first.dtype, read)


def _inner_rows(offsets: np.ndarray, index: np.ndarray) -> np.ndarray:
    from resolvent.search.ragged import joined_rows

    return joined_rows(offsets, index)[0]


def _ends_name(field: Field) -> str:
    return "offsets" if isinstance(field, MultiVector) else "indptr"


def _prefixed(arrays: Arrays) -> Arrays:
    return {f"tokens.{name}": part for name, part in arrays.items()}


def _with_norm(rows: np.ndarray, norm: np.ndarray | None) -> np.ndarray:
    return np.array(rows) if norm is None else rows * norm[:, None]


def _check_ends(ends: np.ndarray, entries: int) -> None:
    """Ends of rows that are not in order would lead SciPy and the kernels out of the arrays."""
    if not len(ends) or ends[0] != 0 or ends[-1] != entries or (ends[1:] < ends[:-1]).any():
        raise ValueError(f"the ends of the rows do not ascend from 0 to {entries}")


def _check_count(found: int, n: int, name: str) -> None:
    if found != n:
        raise ValueError(f"{name} must have one row for each of the {n} ids, got {found}")


def _word_sums(part: np.ndarray, salt: int) -> np.ndarray:
    """Sum over a row of its words times odd weights, modulo 2^32."""
    n = len(part)
    if not n:
        return np.zeros(0, np.uint32)
    made = np.empty(n, np.uint32)
    row_bytes = part[0].nbytes if part.ndim > 1 else part.itemsize
    width = 4 if row_bytes % 4 == 0 else 2 if row_bytes % 2 == 0 else 1
    weights = _weights(row_bytes // width, salt)
    for a in range(0, n, _BLOCK):
        block = np.ascontiguousarray(part[a : a + _BLOCK])
        words = block.reshape(len(block), -1).view(f"<u{width}").astype(np.uint32, copy=False)
        made[a : a + _BLOCK] = words @ weights
    return made


def _weights(count: int, salt: int) -> np.ndarray:
    from resolvent.search.columns import mixed

    return (mixed(np.arange(1, count + 1, dtype=np.uint64) + np.uint64(salt << 40)) >> np.uint64(32)).astype(
        np.uint32
    ) | np.uint32(1)


def _by_set(own: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Sums over each set; an entry counts with its place in the set, so that two that change places are seen."""
    sizes = np.diff(offsets)
    place = np.arange(len(own)) - np.repeat(offsets[:-1], sizes)
    weighted = own * (2 * place + 1).astype(np.uint32)
    total = np.concatenate([[0], np.cumsum(weighted, dtype=np.uint32)]).astype(np.uint32)
    return total[offsets[1:]] - total[offsets[:-1]]


def checked_view(make: Callable[[], Any], name: str) -> Any:
    """What `make` builds over arrays of a file; arrays that do not fit together are damage."""
    try:
        return make()
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise Damaged(f"{name}: its arrays do not fit together ({error})") from error
