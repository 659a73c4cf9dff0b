"""Numba kernels for CSR matrices times row-major blocks of vectors. Imported with the first sparse product.

Every kernel reads the matrix once for all columns of the block. The columns of a row are taken in groups of 16, 8, 4,
2 and 1, each group held in vector registers while the row's entries pass (they stay in the first-level cache between
groups). LLVM does not vectorise "for each entry, for each column" with the sums in registers by itself, so the inner
loops are written in its language, with vectors as wide as the group; LLVM splits them for the machine at hand.

Blocks are 1-D views with a leading dimension, so that a slice of columns of a larger row-major block needs no copy.
Indices are unsigned: a signed one costs a test for negative (wrap-around) values per entry.
`rows_*` work on a range of rows, on one core and without waking another; the others share the rows among the cores.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from resolvent.operators.parallel import njit, prange

# Reassociation only: fused multiply-add and vectors. NaN and infinity keep their meaning.
_FAST = {"reassoc", "contract", "nsz"}
_FLAGS = ("reassoc", "contract", "nsz")
_INT32, _INT64 = ir.IntType(32), ir.IntType(64)


class _Emit:
    """Vector code for one group of columns: what the gather and the scatter loops share."""

    def __init__(self, context: Any, builder: Any, dtype: types.Type, width: int) -> None:
        self.context, self.builder = context, builder
        self.pair = isinstance(dtype, types.Complex)
        single = dtype in (types.float32, types.complex64)
        self.element = ir.FloatType() if single else ir.DoubleType()
        self.align = 4 if single else 8
        self.vector = ir.VectorType(self.element, width * (2 if self.pair else 1))
        self.zero = ir.Constant(self.vector, [0.0] * self.vector.count)

    def data(self, kind: types.Array, value: Any) -> Any:
        return self.context.make_array(kind)(self.context, self.builder, value).data

    def address(self, data: Any, offset: Any) -> Any:
        if self.pair:
            offset = self.builder.shl(offset, ir.Constant(_INT64, 1))
        data = self.builder.bitcast(data, self.element.as_pointer())
        return self.builder.gep(data, [offset])

    def load(self, pointer: Any) -> Any:
        return self.builder.load(self.builder.bitcast(pointer, self.vector.as_pointer()), align=self.align)

    def store(self, value: Any, pointer: Any) -> None:
        self.builder.store(value, self.builder.bitcast(pointer, self.vector.as_pointer()), align=self.align)

    def index(self, data: Any, j: Any, bits: int) -> Any:
        index = self.builder.load(self.builder.gep(data, [j]))
        return self.builder.zext(index, _INT64) if bits < 64 else index

    def splat(self, pointer: Any, part: int) -> Any:
        """The real number `part` places after `pointer`, in every lane."""
        number = self.builder.load(self.builder.gep(pointer, [ir.Constant(_INT64, part)]))
        undefined = ir.Constant(self.vector, ir.Undefined)
        first = self.builder.insert_element(undefined, number, ir.Constant(_INT32, 0))
        lanes = ir.Constant(ir.VectorType(_INT32, self.vector.count), [0] * self.vector.count)
        return self.builder.shuffle_vector(first, undefined, lanes)

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        return self.builder.fadd(self.builder.fmul(a, b, flags=_FLAGS), c, flags=_FLAGS)

    def times_i(self, x: Any, sign: float) -> Any:
        """sign * i * x on (re, im) pairs."""
        count = self.vector.count
        swapped = ir.Constant(ir.VectorType(_INT32, count), [lane ^ 1 for lane in range(count)])
        signs = ir.Constant(self.vector, [-sign, sign] * (count // 2))
        return self.builder.fmul(self.builder.shuffle_vector(x, x, swapped), signs, flags=_FLAGS)

    def loop(self, start: Any, stop: Any, body: Any, state: tuple[Any, ...]) -> tuple[Any, ...]:
        """for j in range(start, stop): state = body(j, state); returns the last state."""
        builder = self.builder
        before, inside = builder.block, builder.append_basic_block("entries")
        after = builder.append_basic_block("entries.end")
        builder.cbranch(builder.icmp_signed("<", start, stop), inside, after)
        builder.position_at_end(inside)
        j = builder.phi(_INT64)
        carried = tuple(builder.phi(self.vector) for _ in state)
        new = body(j, carried)
        following = builder.add(j, ir.Constant(_INT64, 1))
        last = builder.block
        builder.cbranch(builder.icmp_signed("<", following, stop), inside, after)
        for phi, first, value in zip((j, *carried), (start, *state), (following, *new), strict=True):
            phi.add_incoming(first, before)
            phi.add_incoming(value, last)
        builder.position_at_end(after)
        result = tuple(builder.phi(self.vector) for _ in state)
        for phi, first, value in zip(result, state, new, strict=True):
            phi.add_incoming(first, before)
            phi.add_incoming(value, last)
        return result


def _gather(width: int) -> Any:
    """y[to : to + width] = sum over the row's entries of values[j] * x[indices[j] * lead + column :]."""

    @intrinsic
    def gather(typingctx, values, indices, start, stop, x, lead, column, y, to):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            kinds = signature.args
            emit = _Emit(context, builder, values.dtype, width)
            v, rows, source, target = (emit.data(kinds[n], args[n]) for n in (0, 1, 4, 7))

            def body(j: Any, state: tuple[Any, ...]) -> tuple[Any, ...]:
                row = emit.index(rows, j, indices.dtype.bitwidth)
                part = emit.load(emit.address(source, builder.add(builder.mul(row, args[5]), args[6])))
                entry = emit.address(v, j)
                return tuple(emit.fma(emit.splat(entry, n), part, total) for n, total in enumerate(state))

            # Complex: the sums with the real and the imaginary parts are joined once, after the row.
            total = emit.loop(args[2], args[3], body, (emit.zero,) * (2 if emit.pair else 1))
            value = total[0]
            if emit.pair:
                value = builder.fadd(value, emit.times_i(total[1], 1.0), flags=_FLAGS)
            emit.store(value, emit.address(target, args[8]))
            return context.get_dummy_value()

        n = types.intp
        return types.void(values, indices, n, n, x, n, n, y, n), codegen

    return gather


def _scatter(width: int) -> Any:
    """y[(indices[j] - shift) * lead + column :] += conj(values[j]) * x[at : at + width] for the row's entries."""

    @intrinsic
    def scatter(typingctx, values, indices, start, stop, x, at, y, lead, column, shift):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            kinds = signature.args
            emit = _Emit(context, builder, values.dtype, width)
            v, rows, source, target = (emit.data(kinds[n], args[n]) for n in (0, 1, 4, 6))
            part = emit.load(emit.address(source, args[5]))
            parts = (part, emit.times_i(part, -1.0)) if emit.pair else (part,)

            def body(j: Any, state: tuple[Any, ...]) -> tuple[Any, ...]:
                row = builder.sub(emit.index(rows, j, indices.dtype.bitwidth), args[9])
                place = emit.address(target, builder.add(builder.mul(row, args[7]), args[8]))
                total, entry = emit.load(place), emit.address(v, j)
                for n, x_n in enumerate(parts):
                    total = emit.fma(emit.splat(entry, n), x_n, total)
                emit.store(total, place)
                return state

            emit.loop(args[2], args[3], body, ())
            return context.get_dummy_value()

        n = types.intp
        return types.void(values, indices, n, n, x, n, y, n, n, n), codegen

    return scatter


_gather16, _gather8, _gather4, _gather2, _gather1 = (_gather(width) for width in (16, 8, 4, 2, 1))
_scatter16, _scatter8, _scatter4, _scatter2, _scatter1 = (_scatter(width) for width in (16, 8, 4, 2, 1))


# A call per row would cost as much as the row: Numba copies these two into their callers.
@njit(inline="always")
def _gather_row(values, indices, s, e, x, lead, k, y, to):  # type: ignore[no-untyped-def]
    c = 0
    while c + 16 <= k:
        _gather16(values, indices, s, e, x, lead, c, y, to + c)
        c += 16
    if k - c >= 8:
        _gather8(values, indices, s, e, x, lead, c, y, to + c)
        c += 8
    if k - c >= 4:
        _gather4(values, indices, s, e, x, lead, c, y, to + c)
        c += 4
    if k - c >= 2:
        _gather2(values, indices, s, e, x, lead, c, y, to + c)
        c += 2
    if k - c >= 1:
        _gather1(values, indices, s, e, x, lead, c, y, to + c)


@njit(inline="always")
def _scatter_row(values, indices, s, e, x, at, k, y, lead, shift):  # type: ignore[no-untyped-def]
    c = 0
    while c + 16 <= k:
        _scatter16(values, indices, s, e, x, at + c, y, lead, c, shift)
        c += 16
    if k - c >= 8:
        _scatter8(values, indices, s, e, x, at + c, y, lead, c, shift)
        c += 8
    if k - c >= 4:
        _scatter4(values, indices, s, e, x, at + c, y, lead, c, shift)
        c += 4
    if k - c >= 2:
        _scatter2(values, indices, s, e, x, at + c, y, lead, c, shift)
        c += 2
    if k - c >= 1:
        _scatter1(values, indices, s, e, x, at + c, y, lead, c, shift)


@njit(cache=True, nogil=True, fastmath={"contract", "nsz"})
def _one_column(first, last, indptr, indices, values, x, y):  # type: ignore[no-untyped-def]
    # Without reassociation: LLVM's vector gathers are slower than one element after the other.
    s = np.uint64(indptr[first])
    for i in range(first, last):
        e = np.uint64(indptr[i + 1])
        total = values.dtype.type(0)
        for j in range(s, e):
            total += values[j] * x[indices[j]]
        y[i] = total
        s = e


@njit(cache=True, nogil=True, fastmath={"contract", "nsz"})
def _one_column_apart(first, last, indptr, indices, values, x, y):  # type: ignore[no-untyped-def]
    # Four sums: one alone waits for the latency of its additions. The steps are unsigned so that no index is checked.
    one, two, three, four = np.uint64(1), np.uint64(2), np.uint64(3), np.uint64(4)
    j = np.uint64(indptr[first])
    for i in range(first, last):
        e = np.uint64(indptr[i + 1])
        a = b = c = d = values.dtype.type(0)
        while j + four <= e:
            a += values[j] * x[indices[j]]
            b += values[j + one] * x[indices[j + one]]
            c += values[j + two] * x[indices[j + two]]
            d += values[j + three] * x[indices[j + three]]
            j += four
        while j < e:
            a += values[j] * x[indices[j]]
            j += one
        y[i] = (a + b) + (c + d)


@njit(cache=True, nogil=True)
def rows_times(first, last, indptr, indices, values, x, lead, k, ordered, y):  # type: ignore[no-untyped-def]
    """Rows first to last of y = A x for a row-major block of k columns, row i of x at i * lead, of y at i * k.

    `ordered` says that the sums of one column run in the order of the entries.
    """
    if k == 1 and lead == 1:
        if ordered:
            _one_column(first, last, indptr, indices, values, x, y)
        else:
            _one_column_apart(first, last, indptr, indices, values, x, y)
        return
    s = np.intp(indptr[first])
    for i in range(first, last):
        e = np.intp(indptr[i + 1])
        _gather_row(values, indices, s, e, x, lead, k, y, i * k)
        s = e


@njit(cache=True, nogil=True, parallel=True)
def times(bounds, indptr, indices, values, x, lead, k, ordered, y):  # type: ignore[no-untyped-def]
    """`rows_times`, chunk t the rows bounds[t] to bounds[t + 1]."""
    for t in prange(bounds.size - 1):
        rows_times(bounds[t], bounds[t + 1], indptr, indices, values, x, lead, k, ordered, y)


@njit(cache=True, nogil=True)
def rows_adjoint(first, last, indptr, indices, values, x, lead, k, y, shift):  # type: ignore[no-untyped-def]
    """y += A[first:last]^H x[first:last], row j of the result at (j - shift) * k of y."""
    s = np.intp(indptr[first])
    for i in range(first, last):
        e = np.intp(indptr[i + 1])
        _scatter_row(values, indices, s, e, x, i * lead, k, y, k, shift)
        s = e


@njit(cache=True, nogil=True)
def rows_gram(first, last, indptr, indices, values, x, lead, k, y, shift):  # type: ignore[no-untyped-def]
    """y += A[first:last]^H A[first:last] x: a row is used twice while it lies in cache."""
    row = np.empty(k, values.dtype)
    s = np.intp(indptr[first])
    for i in range(first, last):
        e = np.intp(indptr[i + 1])
        _gather_row(values, indices, s, e, x, lead, k, row, 0)
        _scatter_row(values, indices, s, e, row, 0, k, y, k, shift)
        s = e


@njit(cache=True, nogil=True)
def rows_mirrored(first, last, indptr, indices, values, x, lead, k, y, shift):  # type: ignore[no-untyped-def]
    """y += the rows first to last of U + U^H - diag(U) times x, and what they say of other rows; U upper, sorted."""
    row = np.empty(k, values.dtype)
    s = np.intp(indptr[first])
    for i in range(first, last):
        e = np.intp(indptr[i + 1])
        _gather_row(values, indices, s, e, x, lead, k, row, 0)
        for c in range(k):
            y[(i - shift) * k + c] += row[c]
        # The diagonal entry, if there is one, comes first and has no mirror image.
        above = s + 1 if s < e and np.intp(indices[s]) == i else s
        _scatter_row(values, indices, above, e, x, i * lead, k, y, k, shift)
        s = e


@njit(cache=True, nogil=True, parallel=True)
def mirrored(bounds, phases, low, home, indptr, indices, values, x, lead, k, y, spare):  # type: ignore[no-untyped-def]
    """y += (U + U^H - diag(U)) x, with the blocks of `adjoint`."""
    for p in range(phases):
        for t in prange((bounds.size - 1) // phases):
            b = t * phases + p
            own = home[b] >= 0
            target, shift = (spare[home[b] * k :], low[b]) if own else (y, 0)
            rows_mirrored(bounds[b], bounds[b + 1], indptr, indices, values, x, lead, k, target, shift)


@njit(cache=True, nogil=True, parallel=True)
def adjoint(bounds, phases, low, home, indptr, indices, values, x, lead, k, y, spare):  # type: ignore[no-untyped-def]
    """y += A^H x by blocks of rows that write where no block beside them writes.

    Block b reaches the columns from low[b] on. It writes into y if home[b] < 0, else into `spare` from home[b] on, for
    `collect` to add later. Blocks b = t * phases + p of the same p run at the same time.
    """
    for p in range(phases):
        for t in prange((bounds.size - 1) // phases):
            b = t * phases + p
            own = home[b] >= 0
            target, shift = (spare[home[b] * k :], low[b]) if own else (y, 0)
            rows_adjoint(bounds[b], bounds[b + 1], indptr, indices, values, x, lead, k, target, shift)


@njit(cache=True, nogil=True, parallel=True)
def gram(bounds, phases, low, home, indptr, indices, values, x, lead, k, y, spare):  # type: ignore[no-untyped-def]
    """y += A^H A x, with the blocks of `adjoint`."""
    for p in range(phases):
        for t in prange((bounds.size - 1) // phases):
            b = t * phases + p
            own = home[b] >= 0
            target, shift = (spare[home[b] * k :], low[b]) if own else (y, 0)
            rows_gram(bounds[b], bounds[b + 1], indptr, indices, values, x, lead, k, target, shift)


@njit(cache=True, nogil=True, parallel=True)
def collect(edges, low, high, home, k, y, spare):  # type: ignore[no-untyped-def]
    """Add the private ranges of `adjoint` to y, each thread over its own columns edges[t] to edges[t + 1]."""
    for t in prange(edges.size - 1):
        for b in range(low.size):
            if home[b] >= 0:
                first, last = max(edges[t], low[b]) * k, min(edges[t + 1], high[b]) * k
                offset = (home[b] - low[b]) * k
                for j in range(first, last):
                    y[j] += spare[j + offset]


@njit(cache=True, nogil=True, fastmath=_FAST)
def rows_sampled(first, last, indptr, indices, p, lead_p, q, lead_q, k, out):  # type: ignore[no-untyped-def]
    """out_j = sum over columns c of p[i, c] * conj(q[indices[j], c]) for every stored entry j of the rows i."""
    for i in range(first, last):
        for j in range(np.intp(indptr[i]), np.intp(indptr[i + 1])):
            total = p.dtype.type(0)
            at = np.intp(indices[j]) * lead_q
            for c in range(k):
                total += p[i * lead_p + c] * np.conj(q[at + c])
            out[j] = total


@njit(cache=True, nogil=True, parallel=True)
def sampled(bounds, indptr, indices, p, lead_p, q, lead_q, k, out):  # type: ignore[no-untyped-def]
    """`rows_sampled`, chunk t the rows bounds[t] to bounds[t + 1]."""
    for t in prange(bounds.size - 1):
        rows_sampled(bounds[t], bounds[t + 1], indptr, indices, p, lead_p, q, lead_q, k, out)


@njit(cache=True, nogil=True)
def asymmetry(indptr, indices, values):  # type: ignore[no-untyped-def]
    """Largest |a_ij - conj(a_ji)| of a square matrix, in one pass; -1 if a row is unsorted or the pattern unsymmetric.

    Rows are taken in order, so the entries of a row's lower part are asked for in the order in which they lie.
    """
    n = indptr.size - 1
    following = indptr[:-1].copy()
    gap = 0.0
    for i in range(n):
        # Every entry left of the diagonal must have been asked for by an earlier row.
        if following[i] < indptr[i + 1] and indices[following[i]] < i:
            return -1.0
        for j in range(np.intp(following[i]), np.intp(indptr[i + 1])):
            column = np.intp(indices[j])
            if column < i or (j > indptr[i] and indices[j] <= indices[j - 1]):
                return -1.0
            place = np.intp(following[column]) if column > i else j
            if place >= indptr[column + 1] or indices[place] != i:
                return -1.0
            if column > i:
                following[column] += 1
            gap = max(gap, abs(values[j] - np.conj(values[place])))
    return gap
