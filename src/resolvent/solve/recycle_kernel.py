"""The small dense steps of recycled GMRES, on the host: one rotation a step, one ordered Schur form a cycle."""

from __future__ import annotations

import numpy as np
from numba import njit
from scipy.linalg import lapack, schur


@njit(cache=True, nogil=True)
def rotate(column, below, cosines, sines, j):  # type: ignore[no-untyped-def]
    """Turn the new column (j + 1,) of a Hessenberg matrix by the rotations so far, and add the one that removes `below`.

    Returns the factor by which the least residual falls.
    """
    for i in range(j):
        high, low = column[i], column[i + 1]
        column[i] = np.conj(cosines[i]) * high + sines[i] * low
        column[i + 1] = cosines[i] * low - sines[i] * high
    top = abs(column[j])
    length = np.hypot(top, below)
    if length == 0:
        cosines[j], sines[j] = 1, 0
        return 1.0
    cosines[j], sines[j] = column[j] / length, below / length
    return below / length


def largest_space(K: np.ndarray, k: int) -> np.ndarray:
    """An orthonormal basis (m, k) of the invariant subspace of the k eigenvalues of K that are largest in modulus.

    A real matrix has a real basis: of a pair that the k-th place would split, neither is taken, or both where that
    would leave none.
    """
    m = len(K)
    if k >= m:
        return np.eye(m, dtype=K.dtype)
    T, Z = schur(K, output="complex" if np.iscomplexobj(K) else "real")
    sizes = abs(np.diag(T)).copy()
    if not np.iscomplexobj(K):
        pairs = np.flatnonzero(np.diag(T, -1))
        # The two of a block have one modulus, the root of its determinant.
        sizes[pairs] = np.sqrt(
            abs(T[pairs, pairs] * T[pairs + 1, pairs + 1] - T[pairs, pairs + 1] * T[pairs + 1, pairs])
        )
        sizes[pairs + 1] = sizes[pairs]
    chosen = np.zeros(m, np.int32)
    chosen[np.argsort(-sizes, kind="stable")[:k]] = 1
    if not np.iscomplexobj(K):
        split = pairs[chosen[pairs] != chosen[pairs + 1]]
        both = int(chosen.sum() == len(split))
        chosen[split], chosen[split + 1] = both, both
    if np.iscomplexobj(K):
        _, Z, _, count, _, _, _ = lapack.ztrsen(chosen, T, Z, job="N")
    else:
        _, Z, _, _, count, _, _, _ = lapack.dtrsen(chosen, T, Z, job="N")
    # Two eigenvalues too close to be exchanged: any order of such is as good.
    return Z[:, :count]
