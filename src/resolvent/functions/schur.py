"""Schur forms, and what is done with their triangular factors: eigenvalues, Sylvester and Stein equations, roots.

Everything here works on one matrix as a NumPy array: torch has no Schur form, so that general matrices of every device
come through the host, n^2 numbers of traffic for n^3 of work.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.linalg
from numba import njit
from scipy.linalg import lapack

Array = np.ndarray[Any, Any]

# Sides up to which one call of LAPACK, or of a compiled loop, is as fast as splitting.
_LEAF = 48


def schur_form(A: Array, *, as_complex: bool = False) -> tuple[Array, Array]:
    """A = U T U^H of one matrix: T upper triangular, quasi-triangular for a real one; triangular input stays.

    Examples
    --------
    >>> T, U = schur_form(np.array([[1.0, 2.0], [0.0, 1.0]]))
    >>> bool((U == np.eye(2)).all())
    True
    """
    kind = np.result_type(A.dtype, np.complex64) if as_complex else A.dtype
    if as_complex and A.dtype.kind == "c" and not A.imag.any():
        A = A.real
    if is_triangular(A):
        return np.ascontiguousarray(A, kind), np.eye(A.shape[-1], dtype=kind)
    # at unit size, by a power of two: rotations of enormous or tiny numbers would leave their range
    unit = 2.0 ** np.floor(np.log2(np.abs(A).max()))
    T, U = scipy.linalg.schur(A / A.real.dtype.type(unit), output="complex" if A.dtype.kind == "c" else "real")
    if kind == A.dtype:
        return T * A.real.dtype.type(unit), U
    # A real form first: a complex one from the start takes four times the flops.
    S, V = scipy.linalg.rsf2csf(T, U, check_finite=False)
    below = T.diagonal(-1) != 0
    alone = np.flatnonzero(~(np.append(below, False) | np.append(False, below)))
    # A real eigenvalue stays on the axis, where a rounding error would choose the side of a branch cut.
    S[alone, alone] = T[alone, alone]
    return S * unit, V


def is_triangular(A: Array) -> bool:
    """Whether all entries below the diagonal are zero.

    Examples
    --------
    >>> is_triangular(np.eye(2)), is_triangular(np.ones((2, 2)))
    (True, False)
    """
    n = A.shape[-1]
    return n < 2 or not (A[-1, 0] or np.tril(A, -1).any())


def diagonal_eigenvalues(T: Array) -> Array:
    """Eigenvalues of a Schur factor, those of 2 x 2 blocks included.

    Examples
    --------
    >>> diagonal_eigenvalues(np.array([[0.0, 1.0], [-1.0, 0.0]]))
    array([0.+1.j, 0.-1.j])
    """
    d = T.diagonal()
    below = T.diagonal(-1)
    if T.dtype.kind == "c" or not below.any():
        return d.copy()
    w = d.astype(np.result_type(T.dtype, np.complex64))
    at = np.flatnonzero(below)
    # Two roots, because the product of the two may leave the range of their dtype.
    w[at] += 1j * np.sqrt(np.abs(below[at])) * np.sqrt(np.abs(T.diagonal(1)[at]))
    w[at + 1] = w[at].conj()
    return w


def adjoint_form(T: Array) -> Array:
    """T^H with rows and columns reversed, which is upper (quasi-)triangular again.

    Examples
    --------
    >>> adjoint_form(np.array([[1.0, 2.0], [0.0, 3.0]]))
    array([[3., 2.],
           [0., 1.]])
    """
    return np.asarray(T.conj().T[::-1, ::-1])


def triangular_sylvester(T: Array, R: Array, C: Array) -> Array:
    """X of T X + X R = C for upper (quasi-)triangular T and R, by splitting down to LAPACK's trsyl.

    Examples
    --------
    >>> triangular_sylvester(np.array([[1.0]]), np.array([[3.0]]), np.array([[8.0]]))
    array([[2.]])
    """
    m, n = C.shape
    if m <= _LEAF and n <= _LEAF:
        if 0 in C.shape:
            return C.copy()
        (trsyl,) = lapack.get_lapack_funcs(("trsyl",), (T, R, C))
        X, scale, info = trsyl(T, R, C)
        if info < 0:
            raise ValueError(f"trsyl refused its argument {-info}")
        return np.asarray(X / scale)
    if m >= n:
        k = split(T)
        low = triangular_sylvester(T[k:, k:], R, C[k:])
        top = triangular_sylvester(T[:k, :k], R, C[:k] - T[:k, k:] @ low)
        return np.concatenate([top, low])
    k = split(R)
    left = triangular_sylvester(T, R[:k, :k], C[:, :k])
    right = triangular_sylvester(T, R[k:, k:], C[:, k:] - left @ R[:k, k:])
    return np.concatenate([left, right], 1)


def triangular_stein(T: Array, R: Array, C: Array) -> Array:
    """X of X - T X R = C for complex upper triangular T and R, by splitting.

    Examples
    --------
    >>> triangular_stein(np.array([[0.5 + 0j]]), np.array([[0.5 + 0j]]), np.array([[3.0 + 0j]]))
    array([[4.+0.j]])
    """
    m, n = C.shape
    if m <= _LEAF and n <= _LEAF:
        X = np.array(C, order="F")
        _stein_leaf(np.ascontiguousarray(T), np.ascontiguousarray(R), X)
        return X
    if m >= n:
        k = m // 2
        low = triangular_stein(T[k:, k:], R, C[k:])
        top = triangular_stein(T[:k, :k], R, C[:k] + T[:k, k:] @ (low @ R))
        return np.concatenate([top, low])
    k = n // 2
    left = triangular_stein(T, R[:k, :k], C[:, :k])
    right = triangular_stein(T, R[k:, k:], C[:, k:] + (T @ left) @ R[:k, k:])
    return np.concatenate([left, right], 1)


def triangular_root(T: Array) -> Array:
    """The principal square root of a complex upper triangular matrix, by splitting (Deadman, Higham and Ralha).

    Examples
    --------
    >>> triangular_root(np.array([[4.0 + 0j, 4.0], [0.0, 4.0]])).real
    array([[2., 1.],
           [0., 2.]])
    """
    n = T.shape[0]
    if n <= _LEAF:
        R = np.zeros_like(T, order="C")
        _root_leaf(np.ascontiguousarray(T), R)
        return R
    k = n // 2
    R = np.zeros_like(T)
    R[:k, :k], R[k:, k:] = triangular_root(T[:k, :k]), triangular_root(T[k:, k:])
    R[:k, k:] = triangular_sylvester(R[:k, :k], R[k:, k:], T[:k, k:])
    return R


def split(T: Array) -> int:
    """Where to cut a quasi-triangular matrix in two without cutting a 2 x 2 block.

    Examples
    --------
    >>> split(np.eye(4))
    2
    """
    k = T.shape[0] // 2
    return k + 1 if T[k, k - 1] != 0 else k


@njit(cache=True, nogil=True)
def _stein_leaf(T, R, X):  # type: ignore[no-untyped-def]
    m, n = X.shape
    carried = np.empty(m, X.dtype)
    for k in range(n):
        # the columns before this one, then a triangular solve with I - r_kk T
        carried[:] = 0
        for j in range(k):
            for i in range(m):
                carried[i] += X[i, j] * R[j, k]
        for i in range(m):
            for j in range(i, m):
                X[i, k] += T[i, j] * carried[j]
        r = R[k, k]
        for i in range(m - 1, -1, -1):
            total = X[i, k]
            for j in range(i + 1, m):
                total += r * T[i, j] * X[j, k]
            X[i, k] = total / (1 - r * T[i, i])


@njit(cache=True, nogil=True)
def reorder(T, U, rank):  # type: ignore[no-untyped-def]
    """Swap neighbours of a complex Schur form, in place, until the eigenvalues stand in the order of `rank`."""
    n = T.shape[0]
    for end in range(n - 1, 0, -1):
        for k in range(end):
            if rank[k] <= rank[k + 1]:
                continue
            rank[k], rank[k + 1] = rank[k + 1], rank[k]
            x, y = T[k, k + 1], T[k + 1, k + 1] - T[k, k]
            size = np.hypot(abs(x), abs(y))
            if size == 0:
                continue
            c, s = x / size, y / size
            first, second = T[k, k], T[k + 1, k + 1]
            for j in range(n):
                p, q = T[j, k], T[j, k + 1]
                T[j, k], T[j, k + 1] = c * p + s * q, -np.conj(s) * p + np.conj(c) * q
                p, q = U[j, k], U[j, k + 1]
                U[j, k], U[j, k + 1] = c * p + s * q, -np.conj(s) * p + np.conj(c) * q
            for j in range(n):
                p, q = T[k, j], T[k + 1, j]
                T[k, j], T[k + 1, j] = np.conj(c) * p + np.conj(s) * q, -s * p + c * q
            T[k, k], T[k + 1, k + 1], T[k + 1, k] = second, first, 0


@njit(cache=True, nogil=True)
def _root_leaf(T, R):  # type: ignore[no-untyped-def]
    n = T.shape[0]
    for j in range(n):
        R[j, j] = np.sqrt(T[j, j])
        for i in range(j - 1, -1, -1):
            total = T[i, j]
            for k in range(i + 1, j):
                total -= R[i, k] * R[k, j]
            below = R[i, i] + R[j, j]
            # Two zeros on the diagonal: a root exists only where nothing is left, and zero then is one.
            R[i, j] = total / below if below != 0 else total
