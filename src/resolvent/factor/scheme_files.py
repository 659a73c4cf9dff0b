"""Schemes in files: the text and JSON formats in which collections of schemes are published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from resolvent.factor.bilinear import BilinearScheme, _general

# A file is not trusted: no scheme of sizes up to 16 comes near these.
_LARGEST_FILE = 64 * 2**20
_LARGEST_SIZE = 4096
_LARGEST_TENSOR = 2**26


def load_scheme(path: str | Path, *, ring: str = "ZT") -> BilinearScheme:
    """Read a scheme of a matrix product from a published file, and verify it.

    Parameters
    ----------
    path : ``.json`` with "n", "u", "v", "w" (rows of coefficients), or a text file of the numbers n1 n2 n3 r and then
        all of U, V and W. In both W is by columns of C, the transposed matrix
    ring : "ZT" admits coefficients -1, 0, 1 only, "Z" all integers

    Returns
    -------
    BilinearScheme that satisfies the Brent equations over the integers

    Raises
    ------
    ValueError : a file that is no scheme, coefficients outside the ring, equations that do not hold.

    Notes
    -----
    Sizes are checked before memory is taken; verification is exact.

    References
    ----------
    "Fast Matrix Multiplication via Ternary Meta Flip Graphs"

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from resolvent.factor import known_scheme
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "strassen.txt"
    >>> save_scheme(known_scheme("strassen"), file)
    >>> load_scheme(file)
    BilinearScheme(op='gg', shape=(2, 2, 2), rank=7)
    """
    if ring not in ("ZT", "Z"):
        raise ValueError(f"ring must be 'ZT' or 'Z', got {ring!r}")
    file = Path(path)
    if file.stat().st_size > _LARGEST_FILE:
        raise ValueError(f"path: {file} has more than {_LARGEST_FILE} bytes")
    text = file.read_text(encoding="utf-8")
    (n1, n2, n3), parts = _from_json(text, file) if file.suffix == ".json" else _from_text(text, file)
    for name, part in zip("UVW", parts, strict=True):
        if ring == "ZT" and (np.abs(part) > 1).any():
            raise ValueError(f"{file}: {name} has the coefficient {part[np.abs(part) > 1][0]}, outside of -1, 0, 1")
    W = parts[2].reshape(-1, n3, n1).transpose(0, 2, 1).reshape(len(parts[2]), -1)
    scheme = BilinearScheme(parts[0], parts[1], W, "gg", (n1, n2, n3))
    if not scheme.verify():
        raise ValueError(f"{file}: the scheme does not satisfy the Brent equations of the format {(n1, n2, n3)}")
    return scheme


def save_scheme(scheme: BilinearScheme, path: str | Path) -> None:
    """Write a scheme of a matrix product with integer coefficients, as text or, to ``.json``, as JSON.

    Parameters
    ----------
    scheme : of two general operands, without a denominator, valid over the integers
    path : the file to write

    Raises
    ------
    ValueError : another operation, a denominator or a modulus.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from resolvent.factor import known_scheme
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "strassen.txt"
    >>> save_scheme(known_scheme("strassen"), file)
    >>> file.read_text().splitlines()[0]
    '2 2 2 7'
    """
    _general(scheme)
    if scheme.denominator != 1 or scheme.modulus:
        raise ValueError(f"scheme must have integer coefficients that hold over the integers, got {scheme!r}")
    n1, n2, n3 = scheme.sizes
    W = scheme.W.reshape(-1, n1, n3).transpose(0, 2, 1).reshape(scheme.rank, -1)
    file = Path(path)
    if file.suffix == ".json":
        content: dict[str, Any] = {"n": [n1, n2, n3], "m": scheme.rank, "z2": False}
        content |= {"complexity": scheme.additive_cost()}
        content |= {"u": scheme.U.tolist(), "v": scheme.V.tolist(), "w": W.tolist()}
        text = json.dumps(content)
    else:
        lines = [f"{n1} {n2} {n3} {scheme.rank}"]
        lines += [" ".join(map(str, part.ravel().tolist())) for part in (scheme.U, scheme.V, W)]
        text = "\n".join(lines) + "\n"
    file.write_text(text, encoding="utf-8")


def _checked(sizes: Any, file: Path) -> tuple[int, int, int]:
    if not isinstance(sizes, list) or len(sizes) != 3 or not all(type(n) is int and 1 <= n <= 64 for n in sizes):
        raise ValueError(f"{file}: the sizes of a scheme must be three ints from 1 to 64, got {str(sizes)[:80]}")
    if (sizes[0] * sizes[1] * sizes[2]) ** 2 > _LARGEST_TENSOR:
        raise ValueError(f"{file}: the tensor of the format {tuple(sizes)} has more than {_LARGEST_TENSOR} entries")
    return sizes[0], sizes[1], sizes[2]


def _from_text(text: str, file: Path) -> tuple[tuple[int, int, int], list[np.ndarray]]:
    try:
        numbers = np.array([int(word) for word in text.split()], np.int64)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{file}: a scheme must be integers, {error}") from None
    n1, n2, n3 = _checked(numbers[:3].tolist(), file)
    rank = int(numbers[3]) if len(numbers) > 3 else 0
    widths = [n1 * n2, n2 * n3, n3 * n1]
    if not 0 < rank <= _LARGEST_SIZE or len(numbers) != 4 + rank * sum(widths):
        raise ValueError(
            f"{file}: a scheme of {(n1, n2, n3)} and rank {rank} has {4 + rank * sum(widths)} numbers, "
            f"got {len(numbers)}"
        )
    ends = np.cumsum([rank * width for width in widths])[:-1]
    return (n1, n2, n3), [part.reshape(rank, -1) for part in np.split(numbers[4:], ends)]


def _from_json(text: str, file: Path) -> tuple[tuple[int, int, int], list[np.ndarray]]:
    try:
        content = json.loads(text)
        n1, n2, n3 = _checked(content["n"], file)
        parts = [np.array(content[name]) for name in "uvw"]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{file}: no scheme in JSON, {type(error).__name__}: {error}") from None
    rank = len(parts[0]) if parts[0].ndim else 0
    for name, part, width in zip("uvw", parts, (n1 * n2, n2 * n3, n3 * n1), strict=True):
        if part.shape != (rank, width) or part.dtype.kind != "i":
            raise ValueError(
                f"{file}: {name} must hold integers, {rank} rows of {width}, got {part.dtype} {part.shape}"
            )
    return (n1, n2, n3), parts
