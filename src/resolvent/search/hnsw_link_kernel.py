"""Numba kernels that put nodes into an HNSW graph.

A batch of nodes is inserted in two steps. First every node of the batch searches the graph as it stood before the batch,
and the nodes of the batch before it one by one, and writes its own lists; then the lists of the nodes that it chose are
extended, each by one thread. No thread reads what another writes, so there is no lock and the graph does not depend on
the number of threads.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from resolvent.search.hnsw_gap_kernel import gap
from resolvent.search.hnsw_walk_kernel import beam, descend, next_stamp, place
from resolvent.search.kernel import FAST, entry


@njit(cache=True, nogil=True, fastmath=FAST)
def decode_row(rows, row, out):  # type: ignore[no-untyped-def]
    """A stored row as float32; its extra coordinate."""
    data, scale, lift = rows
    unit = scale[row] if scale.shape[0] else np.float32(1)
    for j in range(data.shape[1]):
        out[j] = entry(data, row, j) * unit
    return lift[row] if lift.shape[0] else np.float32(0)


@njit(cache=True, nogil=True, fastmath=FAST)
def select(gaps, nodes, size, limit, rules, rows, l2, kept, x):  # type: ignore[no-untyped-def]
    """Choose at most `limit` of the candidates, sorted by gap, into `kept`; how many.

    With the heuristic a candidate is kept if no kept one is nearer to it than the node is: links then lead out of a
    cluster instead of crowding inside. Differences to the paper: equal gaps (which equal rows have) are no reason to
    drop a candidate until half of the list is made of them, so that copies of a row stay reachable and do not close
    themselves off. `rules`: (heuristic, keep_pruned).
    """
    heuristic, keep_pruned = rules
    if not heuristic:
        count = min(size, limit)
        kept[:count] = nodes[:count]
        return count
    count, equal = 0, 0
    pruned = np.empty(size if keep_pruned else 0, np.int32)
    dropped = 0
    for i in range(size):
        if count == limit:
            break
        number = decode_row(rows, np.int64(nodes[i]), x)
        good, tie = True, False
        for j in range(count):
            d = gap(x, number, rows, l2, kept[j])
            if d < gaps[i] or (d == gaps[i] and 2 * equal >= limit):
                good = False
                break
            tie = tie or d == gaps[i]
        if good:
            kept[count] = nodes[i]
            count += 1
            equal += tie
        elif keep_pruned:
            pruned[dropped] = nodes[i]
            dropped += 1
    if keep_pruned:
        for i in range(min(dropped, limit - count)):
            kept[count + i] = pruned[i]
        count += min(dropped, limit - count)
    return count


@njit(cache=True, nogil=True, fastmath=FAST)
def _extend(q, number, rows, l2, links, start, size, room, seen, stamp, gaps, nodes):  # type: ignore[no-untyped-def]
    """Add the neighbours of the candidates to them, as the paper's extend_candidates does; the new size."""
    shift, first = start
    around = nodes[:size].copy()
    for i in range(around.shape[0]):
        row = np.int64(around[i]) if shift < 0 else first[around[i]] + shift
        for j in range(links.shape[1]):
            v = links[row, j]
            if v < 0:
                break
            if seen[v] != stamp:
                seen[v] = stamp
                d = gap(q, number, rows, l2, v)
                if size < room or d < gaps[size - 1]:
                    _, size = place(gaps, nodes, size, room, d, v)
    return size


@njit(cache=True, nogil=True)
def _without(node, gaps, nodes, size):  # type: ignore[no-untyped-def]
    """Take a node out of a list: one that is inserted again may meet itself."""
    for i in range(size):
        if nodes[i] == node:
            for j in range(i, size - 1):
                gaps[j], nodes[j] = gaps[j + 1], nodes[j + 1]
            return size - 1
    return size


@njit(cache=True, nogil=True, fastmath=FAST)
def insert(X, batch, span, graph, levels, rows, l2, head, rules, room, extend, seen, clock):  # type: ignore[no-untyped-def]
    """Find and write the lists of the nodes batch[span[0]:span[1]], whose vectors are those rows of `X`.

    `head`: (entry, top layer) of the graph before the batch, entry -1 if there is none. Gaps computed.
    """
    base, upper, first = graph
    lift = rows[2]
    wide = room * (4 if extend else 1)
    gaps, nodes = np.empty(wide + 1, np.float32), np.empty(wide + 1, np.int32)
    fresh, kept = np.empty(base.shape[1] + 1, np.int32), np.empty(base.shape[1] + 1, np.int32)
    x = np.empty(X.shape[1], np.float32)
    most = upper.shape[1]
    total = 0
    for i in range(span[0], span[1]):
        node, q = np.int64(batch[i]), X[i]
        number = lift[node] if lift.shape[0] else np.float32(0)
        level, at, d = np.int64(levels[node]), head[0], np.float32(0)
        if at >= 0:
            at, d, used = descend(q, number, rows, l2, graph, at, head[1], min(level, head[1]) + 1)
            total += used
        for layer in range(level, -1, -1):
            links, shift = (base, -1) if layer == 0 else (upper, layer - 1)
            stamp = next_stamp(seen, clock)
            size = 0
            if at >= 0 and layer <= head[1]:
                gaps[0], nodes[0] = d, at
                size, used = beam(q, number, rows, l2, links, (shift, first), 1, room, seen, stamp, gaps, nodes, fresh)
                total += used
                at, d = np.int64(nodes[0]), gaps[0]
                size = _without(node, gaps, nodes, size)
                if extend:
                    size = _extend(q, number, rows, l2, links, (shift, first), size, wide, seen, stamp, gaps, nodes)
            for j in range(i):
                mate = np.int64(batch[j])
                if levels[mate] >= layer:
                    e = gap(q, number, rows, l2, mate)
                    total += 1
                    if size < room or e < gaps[size - 1]:
                        _, size = place(gaps, nodes, size, max(size, room), e, np.int32(mate))
            count = select(gaps, nodes, size, most, rules, rows, l2, kept, x)
            row = node if layer == 0 else first[node] + shift
            links[row, :count] = kept[:count]
            links[row, count:] = -1
    return total


@njit(cache=True, nogil=True, fastmath=FAST)
def link_back(links, places, targets, sources, span, rows, l2, rules):  # type: ignore[no-untyped-def]
    """Add sources[i] to the list of targets[i], in row places[i] of `links`, for i in span; `places` is sorted.

    A list that overflows is chosen anew from its nodes and the new ones.
    """
    width = links.shape[1]
    data = rows[0]
    q, x = np.empty(data.shape[1], np.float32), np.empty(data.shape[1], np.float32)
    kept = np.empty(width + 1, np.int32)
    i = span[0]
    while i < span[1]:
        row, node = places[i], np.int64(targets[i])
        stop = i
        while stop < span[1] and places[stop] == row:
            stop += 1
        have = 0
        while have < width and links[row, have] >= 0:
            have += 1
        # Sources that are linked already (nodes that are inserted again) move to the front of the run and are left out.
        for j in range(i, stop):
            for t in range(have):
                if links[row, t] == sources[j]:
                    sources[j] = sources[i]
                    i += 1
                    break
        size = have + stop - i
        if size <= width:
            for j in range(i, stop):
                links[row, have + j - i] = sources[j]
        else:
            gaps, nodes = np.empty(size + 1, np.float32), np.empty(size + 1, np.int32)
            number = decode_row(rows, node, q)
            filled = 0
            # The newest first: among copies of a row, which are equally near, links to the newest lead on to the rest.
            for j in range(size):
                v = sources[stop - 1 - j] if j < stop - i else links[row, j - (stop - i)]
                d = gap(q, number, rows, l2, v)
                _, filled = place(gaps, nodes, filled, size, d, v)
            count = select(gaps, nodes, size, width, rules, rows, l2, kept, x)
            links[row, :count] = kept[:count]
            links[row, count:] = -1
        i = stop


@njit(cache=True, nogil=True, fastmath=FAST)
def relink(links, places, owners, dead, span, rows, l2, rules, hops):  # type: ignore[no-untyped-def]
    """Replace the dead nodes in the lists of living owners by what the dead were linked to, chosen by the heuristic.

    `hops` (n,): the row of each node in `links`, -1 where it has none.
    """
    width = links.shape[1]
    data = rows[0]
    q, x = np.empty(data.shape[1], np.float32), np.empty(data.shape[1], np.float32)
    kept = np.empty(width + 1, np.int32)
    found = np.empty(width * (width + 1) + 1, np.int32)
    out = np.full((span[1] - span[0], width), -1, np.int32)
    for i in range(span[0], span[1]):
        row, owner = places[i], np.int64(owners[i])
        size, touched = 0, False
        for j in range(width):
            v = links[row, j]
            if v < 0:
                break
            if not dead[v]:
                found[size] = v
                size += 1
                continue
            touched = True
            for t in range(width):
                u = links[hops[v], t]
                if u < 0:
                    break
                if not dead[u] and u != owner:
                    found[size] = u
                    size += 1
        if not touched:
            out[i - span[0]] = links[row]
            continue
        gaps, nodes = np.empty(size + 1, np.float32), np.empty(size + 1, np.int32)
        number = decode_row(rows, owner, q)
        filled, last = 0, np.int32(-1)
        for v in np.sort(found[:size]):
            if v != last:
                d = gap(q, number, rows, l2, v)
                _, filled = place(gaps, nodes, filled, size, d, v)
            last = v
        count = select(gaps, nodes, filled, width, rules, rows, l2, kept, x)
        out[i - span[0], :count] = kept[:count]
    return out


@njit(cache=True, nogil=True)
def unreached(base, count, entry_node):  # type: ignore[no-untyped-def]
    """One byte per node: can it not be reached from the entry over links of the ground layer?"""
    lost = np.ones(count, np.uint8)
    stack = np.empty(count, np.int32)
    stack[0], size = entry_node, 1
    lost[entry_node] = 0
    while size:
        size -= 1
        node = stack[size]
        for j in range(base.shape[1]):
            v = base[node, j]
            if v < 0:
                break
            if lost[v]:
                lost[v] = 0
                stack[size] = v
                size += 1
    return lost


@njit(cache=True, nogil=True)
def faults(base, upper, first, levels):  # type: ignore[no-untyped-def]
    """How many lists name a node that does not exist, or rows of layers that do not."""
    n = base.shape[0]
    wrong = 0
    for v in range(n):
        for j in range(base.shape[1]):
            wrong += base[v, j] < -1 or base[v, j] >= n
        if levels[v] > 0:
            wrong += first[v] < 0 or first[v] + levels[v] > upper.shape[0]
            if first[v] >= 0 and first[v] + levels[v] <= upper.shape[0]:
                for layer in range(levels[v]):
                    for j in range(upper.shape[1]):
                        u = upper[first[v] + layer, j]
                        wrong += u < -1 or u >= n or (u >= 0 and levels[u] <= layer)
    return wrong
