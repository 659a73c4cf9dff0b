"""Products of structured matrices as bilinear maps of their free parameters, and their tensors."""

from __future__ import annotations

import numpy as np

_LETTERS = "gulskw"


def layout(letter: str, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """For each entry of a structured matrix the number of its parameter and its sign, zero where the entry is zero."""
    i, j = np.indices((rows, columns))
    if letter == "g":
        return i * columns + j, np.ones((rows, columns), np.int64)
    if rows != columns:
        raise ValueError(f"op: the structure {letter!r} needs a square operand, got shape {(rows, columns)}")
    low, high = np.minimum(i, j), np.maximum(i, j)
    packed = low * (2 * rows - low - 1) // 2 + high
    if letter == "k":
        packed = packed - low - 1
        return np.where(i == j, 0, packed), np.sign(j - i)
    sign = np.ones((rows, columns), np.int64)
    if letter == "w":
        sign[i > j] = -1
    elif letter == "u":
        sign[i > j] = 0
    elif letter == "l":
        sign[i < j] = 0
    return packed, sign


def count_parameters(letter: str, rows: int, columns: int) -> int:
    """How many free parameters a matrix of this structure has."""
    if letter == "g":
        return rows * columns
    return rows * (rows - 1) // 2 if letter == "k" else rows * (rows + 1) // 2


def diagonal_parameters(letter: str, rows: int, columns: int) -> np.ndarray:
    """Which parameters stand on the diagonal of a structured matrix; none for a general or a skew one."""
    mask = np.zeros(count_parameters(letter, rows, columns), bool)
    if letter not in "gk":
        mask[np.diagonal(layout(letter, rows, columns)[0])] = True
    return mask


def check_op(op: str, n: int | tuple[int, int, int]) -> tuple[int, int, int]:
    """The three sizes of a format, checked together with the operation."""
    if not isinstance(op, str) or len(op) != 2 or op[0] not in _LETTERS or op[1] not in _LETTERS + "t":
        raise ValueError(f"op must be two letters, the first of {_LETTERS}, the second of {_LETTERS}t, got {op!r}")
    sizes = (n, n, n) if isinstance(n, int) else n
    if not isinstance(sizes, tuple | list) or len(sizes) != 3:
        raise ValueError(f"n must be an int or three ints, got {n!r}")
    for size in sizes:
        if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
            raise ValueError(f"n must hold positive ints, got {n!r}")
    n1, n2, n3 = (int(size) for size in sizes)
    if op[1] == "t" and n1 != n3:
        raise ValueError(f"n: a product with a transpose has as many columns as rows, got {(n1, n2, n3)}")
    if (op[0] != "g" and n1 != n2) or (op[1] not in "gt" and n2 != n3):
        raise ValueError(f"n: a structured operand of {op!r} must be square, got {(n1, n2, n3)}")
    return n1, n2, n3


def bilinear_tensor(op: str = "gg", n: int | tuple[int, int, int] = 2) -> np.ndarray:
    r"""The tensor of a product of two structured matrices, :math:`C_k = \sum_{ij} T_{ijk} A_i B_j`.

    Parameters
    ----------
    op : two letters for the operands: g general, u upper and l lower triangular, s symmetric, k skew-symmetric,
        w skew-symmetric with a free diagonal; a second letter t means B = A^T, of which the upper triangle is wanted
    n : the size, or the format (n1, n2, n3) of (n1, n2) times (n2, n3)

    Returns
    -------
    (p, q, s) int64 array with entries -1, 0 and 1: p, q, s parameters of A, B and C. Parameters are the entries of the
    upper triangle by rows (of a general matrix all entries); those of l are its transpose's.

    Raises
    ------
    ValueError : an unknown `op`, or a format that does not fit it.

    Notes
    -----
    The rank of the tensor is the number of multiplications that are needed. With a t, A and B stay two operands, so
    that a scheme computes the upper triangle of A B^T for any two blocks: this is what makes it recursive.

    References
    ----------
    "Faster Algorithms for Structured Matrix Multiplication via Flip Graph Search"

    Examples
    --------
    >>> bilinear_tensor("gg", 2).shape, int(bilinear_tensor("gg", 2).sum())
    ((4, 4, 4), 8)
    >>> bilinear_tensor("sg", 2).shape
    (3, 4, 4)
    """
    n1, n2, n3 = check_op(op, n)
    left, left_sign = layout(op[0], n1, n2)
    if op[1] == "t":
        # The right operand is the transpose of a matrix that has the structure of the left one.
        right, right_sign = (part.T for part in layout(op[0], n1, n2))
        count = count_parameters(op[0], n1, n2)
        out, out_sign = layout("u", n1, n1)
    else:
        right, right_sign = layout(op[1], n2, n3)
        count = count_parameters(op[1], n2, n3)
        out, out_sign = layout("g", n1, n3)
    outputs = count_parameters("u" if op[1] == "t" else "g", n1, n3)
    T = np.zeros((count_parameters(op[0], n1, n2), count, outputs), np.int64)
    for i in range(n1):
        for j in range(n2):
            for k in range(n3):
                value = left_sign[i, j] * right_sign[j, k] * out_sign[i, k]
                if value:
                    T[left[i, j], right[j, k], out[i, k]] += value
    return T
