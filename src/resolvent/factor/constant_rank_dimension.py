"""How large an affine space of matrices of constant rank can be."""

from __future__ import annotations

from typing import Any, Literal


def constant_rank_dimension(
    n: int | tuple[int, int],
    r: int,
    *,
    field: Literal["real"] | int = "real",
    kind: Literal["alternating", "symmetric", "general"] = "alternating",
    mode: Literal["exact", "at_least"] = "exact",
) -> int:
    r"""The greatest dimension of an affine space of matrices of constant rank r, where a theorem gives it.

    Parameters
    ----------
    n : number of rows and columns; (n, m) for kind="general"
    r : the rank, even for alternating matrices, r = 2 s
    field : "real", or a prime
    kind : "alternating", "symmetric" or "general"
    mode : "exact", or "at_least" where no rank is below r

    Returns
    -------
    int. Alternating: :math:`s (n - s - 1)` for n >= r + 3 and a field of at least min(r - 1, r/2 + 2) elements; over the
    reals also for n = r and r + 2, and s (s + 1) for n = r + 1; "at_least": :math:`n (n - 1) / 2 - s^2`. Symmetric, real,
    "exact": :math:`\lfloor r/2 \rfloor (n - \lfloor r/2 \rfloor)`. General, real, "exact":
    :math:`r \max(n, m) - r (r + 1) / 2`; "at_least", real: :math:`n m - r (r + 1) / 2`.

    Raises
    ------
    ValueError : sizes, a rank or a field that do not go together, or a case that these theorems do not cover.

    References
    ----------
    "On affine spaces of alternating matrices with constant rank"
    "Affine subspaces of matrices with constant rank"
    "Affine subspaces of antisymmetric matrices with constant rank"

    Examples
    --------
    >>> constant_rank_dimension(7, 4, field=3), constant_rank_dimension(7, 4, mode="at_least")
    (8, 17)
    """
    rows, columns = checked_problem(n, r, field, kind, mode)
    s, real = r // 2, field == "real"
    if kind == "alternating" and (real or int(field) >= min(r - 1, s + 2)):
        if mode == "at_least":
            return rows * (rows - 1) // 2 - s * s
        if rows >= r + 3:
            return s * (rows - s - 1)
        if real:
            return s * (s + 1) if rows == r + 1 else s * (rows - s - 1)
    if kind == "symmetric" and real and mode == "exact":
        return s * (rows - s)
    if kind == "general" and real:
        whole = r * max(rows, columns) if mode == "exact" else rows * columns
        return whole - r * (r + 1) // 2
    raise ValueError(f"no theorem here for {kind} matrices of size {rows} and rank {r}, mode {mode!r}, field {field!r}")


def checked_problem(n: Any, r: Any, field: Any, kind: str, mode: str) -> tuple[int, int]:
    """Rows and columns of a problem that makes sense."""
    if kind not in ("alternating", "symmetric", "general"):
        raise ValueError(f"kind must be 'alternating', 'symmetric' or 'general', got {kind!r}")
    if mode not in ("exact", "at_least"):
        raise ValueError(f"mode must be 'exact' or 'at_least', got {mode!r}")
    sizes = tuple(n) if isinstance(n, tuple | list) else (n, n)
    if len(sizes) != 2 or any(isinstance(k, bool) or not isinstance(k, int) or k < 1 for k in sizes):
        raise ValueError(f"n must be a positive int or two of them, got {n!r}")
    if kind != "general" and sizes[0] != sizes[1]:
        raise ValueError(f"n must be one int for {kind} matrices, got {n!r}")
    if isinstance(r, bool) or not isinstance(r, int) or not 1 <= r <= min(sizes):
        raise ValueError(f"r must be an int from 1 to {min(sizes)}, got {r!r}")
    if kind == "alternating" and r % 2:
        raise ValueError(f"r must be even for alternating matrices, got {r}")
    if field != "real":
        small = isinstance(field, int) and not isinstance(field, bool) and 2 <= field < 2**31
        if not small or any(field % q == 0 for q in range(2, int(field**0.5) + 1)):
            raise ValueError(f"field must be 'real' or a prime below 2^31, got {field!r}")
    return sizes[0], sizes[1]
