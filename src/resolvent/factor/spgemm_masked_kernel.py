"""Numba kernels for sparse products that are wanted at given entries only, and in semirings other than (+, x).

The entries wanted are a pattern in compressed rows, the mask. "push" goes through the rows of B that a row of A names
and keeps what falls on the mask; "inner" merges row i of A with column j of B for every wanted entry (i, j), which is
the cheaper way when few are wanted. Both say which entries had anything to add up.
"""

from __future__ import annotations

import numpy as np

from resolvent.operators.parallel import njit, prange

# As everywhere in sparse kernels here, unsigned: a signed index costs a test for negative values per entry.
_ONE = np.uint64(1)


@njit(inline="always")
def _combine(ring, a, b):  # type: ignore[no-untyped-def]
    if ring == 1 or ring == 2:
        return a + b
    if ring == 4:
        return a if a.real < b.real else b
    if ring == 5:
        return a / a if a != 0 and b != 0 else a * 0.0
    return a * b


@njit(inline="always")
def _merge(ring, old, new):  # type: ignore[no-untyped-def]
    if ring == 0:
        return old + new
    if ring == 1:
        return new if new.real < old.real else old
    return new if new.real > old.real else old


@njit(cache=True, nogil=True)
def push_rows(first, last, ring, a_ptr, a_idx, a_val, b_ptr, b_idx, b_val, n, m_ptr, m_idx, out, hit):  # type: ignore[no-untyped-def]
    # Where in the mask's row a column lies, plus one.
    place = np.zeros(n, np.uint32)
    for i in range(first, last):
        begin, end = np.uint64(m_ptr[i]), np.uint64(m_ptr[i + 1])
        for e in range(begin, end):
            place[m_idx[e]] = np.uint32(e - begin + _ONE)
        for p in range(np.uint64(a_ptr[i]), np.uint64(a_ptr[i + 1])):
            k, a = np.uint64(a_idx[p]), a_val[p]
            for q in range(np.uint64(b_ptr[k]), np.uint64(b_ptr[k + _ONE])):
                found = np.uint64(place[b_idx[q]])
                if found > 0:
                    at = begin + found - _ONE
                    value = _combine(ring, a, b_val[q])
                    out[at] = _merge(ring, out[at], value) if hit[at] else value
                    hit[at] = True
        for e in range(begin, end):
            place[m_idx[e]] = 0


@njit(cache=True, nogil=True)
def inner_rows(first, last, ring, a_ptr, a_idx, a_val, t_ptr, t_idx, t_val, n, m_ptr, m_idx, out, hit):  # type: ignore[no-untyped-def]
    for i in range(first, last):
        for e in range(np.uint64(m_ptr[i]), np.uint64(m_ptr[i + 1])):
            j = np.uint64(m_idx[e])
            p, p_end = np.uint64(a_ptr[i]), np.uint64(a_ptr[i + 1])
            q, q_end = np.uint64(t_ptr[j]), np.uint64(t_ptr[j + _ONE])
            while p < p_end and q < q_end:
                left, right = a_idx[p], t_idx[q]
                if left == right:
                    value = _combine(ring, a_val[p], t_val[q])
                    out[e] = _merge(ring, out[e], value) if hit[e] else value
                    hit[e] = True
                p += np.uint64(left <= right)
                q += np.uint64(right <= left)


@njit(cache=True, nogil=True, parallel=True)
def push(bounds, ring, a_ptr, a_idx, a_val, b_ptr, b_idx, b_val, n, m_ptr, m_idx, out, hit):  # type: ignore[no-untyped-def]
    """A B at the entries of the mask, chunk t the rows bounds[t] to bounds[t + 1]."""
    for t in prange(bounds.size - 1):
        push_rows(bounds[t], bounds[t + 1], ring, a_ptr, a_idx, a_val, b_ptr, b_idx, b_val, n, m_ptr, m_idx, out, hit)


@njit(cache=True, nogil=True, parallel=True)
def inner(bounds, ring, a_ptr, a_idx, a_val, t_ptr, t_idx, t_val, n, m_ptr, m_idx, out, hit):  # type: ignore[no-untyped-def]
    """The same from the rows of A and the columns of B, given as rows of its transpose; both sorted."""
    for t in prange(bounds.size - 1):
        inner_rows(bounds[t], bounds[t + 1], ring, a_ptr, a_idx, a_val, t_ptr, t_idx, t_val, n, m_ptr, m_idx, out, hit)


@njit(cache=True, nogil=True)
def rising(ptr, idx):  # type: ignore[no-untyped-def]
    """Whether the columns of every row rise, without repetitions."""
    for i in range(ptr.size - 1):
        for p in range(np.uint64(ptr[i]) + _ONE, np.uint64(ptr[i + 1])):
            if idx[p] <= idx[p - _ONE]:
                return False
    return True
