"""One change of one QR factorisation on the host: rotations of R, then of Q, in O(mn)."""

from __future__ import annotations

import numpy as np
import torch

Array = np.ndarray
# Numbers times rotations of them up to which one thread is faster.
_ALONE = 1 << 24
Factors = tuple[Array, Array]


class RankLostError(Exception):
    """Without this row the columns are dependent: how much of it stands beside the others."""


def add_product(Q: Array, R: Array, U: Array, V: Array) -> Factors:
    """Factors of ``Q R + U V^H``, column after column (Daniel, Gragg, Kaufman and Stewart)."""
    from resolvent.factor import qr_update_kernel as kernel

    given, (signs, R) = Q, _signed(Q.shape[1], R.copy())
    for u, v in zip(U.T, V.T, strict=True):
        size = np.abs(u).max(initial=0.0)
        if not size > 0 or not v.any():
            continue
        p = Q.shape[1]
        w, outside = _coordinates(Q, u / size, False)
        w[:p] *= signs.conj()
        R = _rows(R, len(w))
        turns = _Rotations(R, 2 * len(w))
        turns.add(kernel.fold_vector(R, w, 0, *turns.room()))
        R[0] += w[0] * (v.conj() * size)
        turns.add(kernel.fold_band(R, 0, 1, *turns.room()))
        Q, R = turns.apply(Q, outside, R, p, signs)
        signs = np.ones_like(signs)
    return (Q * signs if Q is given else Q), R


def insert_columns(Q: Array, R: Array, X: Array, position: int) -> Factors:
    """Factors with the columns of X from `position` on; Q gains columns while it has fewer than rows."""
    from resolvent.factor import qr_update_kernel as kernel

    given, (signs, R) = Q, _signed(Q.shape[1], R.copy())
    for j, x in enumerate(X.T, position):
        size = np.abs(x).max(initial=0.0)
        w, outside = _coordinates(Q, x / size if size > 0 else x, True)
        w[: len(signs)] *= signs.conj()
        R = _rows(R, len(w))
        turns = _Rotations(R, len(w))
        turns.add(kernel.fold_vector(R, w, j, *turns.room()))
        Q, R = turns.apply(Q, outside, np.insert(R, j, w * size, 1), len(w), signs)
        signs = np.ones(Q.shape[1], Q.dtype)
    return (Q * signs if Q is given else Q), R


def delete_columns(Q: Array, R: Array, position: int, count: int, full: bool) -> Factors:
    """Factors without `count` columns."""
    from resolvent.factor import qr_update_kernel as kernel

    R = np.ascontiguousarray(np.delete(R, slice(position, position + count), 1))
    (p, n), m = R.shape, Q.shape[0]
    turns = _Rotations(R, count * min(p, n))
    turns.add(kernel.fold_band(R, position, count, *turns.room()))
    kept = p if full else min(m, n)
    return turns.apply(Q, Q[:, :0], R, kept)


def insert_rows(Q: Array, R: Array, X: Array, position: int, full: bool) -> Factors:
    """Factors with the rows of X from `position` on."""
    from resolvent.factor import qr_update_kernel as kernel

    (m, p), (k, n) = Q.shape, X.shape
    padded = np.insert(Q, [position] * k, 0, 0)
    units = np.zeros((m + k, k), Q.dtype)
    units[position + np.arange(k), np.arange(k)] = 1
    R = np.concatenate([R, X])
    turns = _Rotations(R, k * n)
    turns.add(kernel.fold_rows(R, p, *turns.room()))
    kept = m + k if full else min(m + k, n)
    return turns.apply(padded, units, R, kept)


def delete_rows(Q: Array, R: Array, position: int, count: int, rtol: float) -> Factors:
    """Factors without `count` rows; `RankLostError` where the columns become dependent by that."""
    from resolvent.factor import qr_update_kernel as kernel

    for _ in range(count):
        m, n = len(Q), R.shape[1]
        unit = np.zeros(m, Q.dtype)
        unit[position] = 1
        w, outside = _coordinates(Q, unit, True)
        if m > n:
            # What stands beside the n columns; the determinant of A^H A shrinks by the square of it.
            left = float(np.linalg.norm(w[n:]))
            if not left > rtol:
                raise RankLostError(left)
        R = _rows(R, len(w))
        turns = _Rotations(R, len(w))
        turns.add(kernel.fold_into_last(R, w, *turns.room()))
        # The last column is the unit vector of the row now, and the last row of R the row itself.
        Q, R = turns.apply(Q, outside, R, len(w) - 1)
        Q = np.delete(Q, position, 0)
    return Q, R


def orthogonalized(Q: Array, u: Array) -> tuple[Array, Array, float]:
    """w, q and rho with ``u = Q w + rho q``, q of length one beside Q; rho is 0 where u is in the range of Q."""
    # Products by torch, whose threads are those of the caller: NumPy's would wait for them.
    basis, rest = torch.from_numpy(Q), torch.from_numpy(np.ascontiguousarray(u))
    w = basis.mH @ rest
    if Q.shape[1] == Q.shape[0]:
        return w.resolve_conj().numpy(), u, 0.0
    start = size = float(np.linalg.norm(u))
    change = w
    for _ in range(4):
        rest = rest - basis @ change
        before, size = size, float(torch.linalg.vector_norm(rest))
        if not size > 4 * float(np.finfo(Q.dtype).eps) * start:
            return w.numpy(), rest.numpy(), 0.0
        # Nothing was lost to cancellation: the rest is orthogonal to rounding (Kahan's twice is enough).
        if size > 0.7 * before:
            break
        change = basis.mH @ rest
        w = w + change
    return w.numpy(), (rest / size).numpy(), size


def complement(Q: Array) -> Array:
    """A vector of length one that is orthogonal to the columns of Q, fewer than its rows."""
    unit = np.zeros(Q.shape[0], Q.dtype)
    unit[np.argmin(np.linalg.norm(Q, axis=1))] = 1
    return orthogonalized(Q, unit)[1]


def _coordinates(Q: Array, u: Array, widen: bool) -> tuple[Array, Array]:
    """w and E with ``u = [Q E] w``: E is one column orthogonal to Q, or none if Q is square or u needs none.

    With `widen` only a square Q has none: a u in the range of Q gets any such column, with a zero in w.
    """
    w, rest, length = orthogonalized(Q, u)
    if Q.shape[0] == Q.shape[1] or (length == 0 and not widen):
        return w, Q[:, :0]
    outside = rest if length > 0 else complement(Q)
    return np.append(w, length).astype(Q.dtype), outside[:, None]


def _signed(count: int, R: Array) -> tuple[Array, Array]:
    """Signs d for `count` columns of Q, and the R that belongs to Q diag(d), its diagonal nonnegative."""
    found = np.ones(count, R.dtype)
    d = R.diagonal()
    size = np.abs(d)
    found[: len(d)] = np.where(size > 0, d / np.where(size > 0, size, 1), 1)
    if (found == 1).all():
        return found, R
    R = R * found.conj()[:, None]
    np.fill_diagonal(R, size)
    return found, R


def _rows(R: Array, count: int) -> Array:
    """A copy of R, for sweeps to work in, with rows of zeros down to `count`."""
    out = np.zeros((count, R.shape[1]), R.dtype)
    out[: len(R)] = R
    return out


class _Rotations:
    """Room for the rotations of one change, and what Q makes of them."""

    def __init__(self, R: Array, most: int) -> None:
        self.at = np.empty((most, 2), np.int64)
        self.cosines, self.sines = np.empty(most, R.real.dtype), np.empty(most, R.dtype)
        self.count = 0

    def room(self) -> tuple[Array, Array, Array]:
        return self.at[self.count :], self.cosines[self.count :], self.sines[self.count :]

    def add(self, count: int) -> None:
        self.count += count

    def apply(self, Q: Array, extra: Array, R: Array, kept: int, signs: Array | None = None) -> Factors:
        """The first columns of ``[Q diag(signs), extra]`` and rows of the turned R, its diagonal made nonnegative."""
        from resolvent.factor import qr_update_kernel as kernel

        phases, R = _signed(kept, R[:kept])
        out = np.empty((Q.shape[0], kept), Q.dtype)
        done = slice(self.count)
        turns = self.at[done], self.cosines[done], self.sines[done]
        before = np.ones(Q.shape[1], Q.dtype) if signs is None else signs
        turn = kernel.turn_columns_on_all if out.size * (1 + self.count) > _ALONE else kernel.turn_columns
        turn(Q, before, np.ascontiguousarray(extra), *turns, phases, out)
        return out, R
