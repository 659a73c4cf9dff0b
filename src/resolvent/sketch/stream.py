"""The top right singular vector of a matrix whose rows pass by once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from resolvent.operators.arrays import as_tensor, check_finite, give_back
from resolvent.operators.magnitude import moderate
from resolvent.random import GeneratorLike, as_generator, gaussian

# Rows that are looked at together; they do not count as memory of the method.
_CHUNK = 1024
# Oja's rule has found its direction when the logarithm of its vector's length has grown by this many log d.
_GROWTH = 3.0


@dataclass(frozen=True)
class TopEigenvector:
    """What `top_eigenvector_stream` and `oja` return.

    Attributes
    ----------
    vector : (d,) of length one
    value : estimate of sigma_1^2, the largest eigenvalue of A^H A; NaN for Oja's rule, which has none
    heavy_rows : rows that were stored
    memory : numbers kept at the most, in words
    energy : estimate of the squared Frobenius norm of A
    blocks : steps of the power method; 1 for Oja's rule
    rate : learning rate of Oja's rule, else 0
    log_growth : logarithm of the length that Oja's vector reached, else 0

    Examples
    --------
    >>> rows = torch.tensor([[2.0, 0.0], [0.0, 1.0]]).repeat(500, 1)
    >>> found = top_eigenvector_stream(rows, generator=0)
    >>> found.vector.abs().round(decimals=1), found.heavy_rows
    (tensor([1., 0.]), 0)
    """

    vector: Any
    value: float
    heavy_rows: int
    memory: int
    energy: float
    blocks: int
    rate: float = 0.0
    log_growth: float = 0.0


def top_eigenvector_stream(
    rows: Any,
    n: int | None = None,
    *,
    blocks: int | None = None,
    heavy_budget: int | None = None,
    method: Literal["block_power", "oja"] = "block_power",
    generator: GeneratorLike = None,
) -> TopEigenvector:
    r"""The top right singular vector of a matrix A whose rows come once, in uniformly random order.

    Parameters
    ----------
    rows : (n, d) real tensor or array, or an iterable of such pieces
    n : number of rows; needed where `rows` is an iterable
    blocks : steps of the power method, at least 2; default ``ceil(log d) + 2``
    heavy_budget : rows that may be stored. Default None: all with
        :math:`\|a\|^2 \ge \|A\|_F^2 / (d \log d)`, of which there are at most d log d; 0 stores none. If there are
        more, the shortest of them are taken for light
    method : "block_power", or "oja", which needs no random order and a larger gap (see `oja`)
    generator : of the first vector

    Returns
    -------
    TopEigenvector : its vector has the kind, dtype and device of the rows; its sign is arbitrary.

    Raises
    ------
    ValueError : shapes, NaN or infinity, a wrong `n`, complex rows, only rows of zeros.

    Notes
    -----
    Heavy rows H are stored. The light rows of a block, times n over its length, stand for all light rows: one step
    ``v <- H^T H v + (n / m) sum a (a.v)`` a block, in memory for two vectors. The last block is half of the stream, as
    its noise stays. A heavy row may come after the block that needed it, so the end takes the top eigenvector of
    :math:`z z^T / (v^T z) + H^T H`, z being the light product of the last block: it lies below A^T A and agrees with
    it on v. With :math:`R = \sigma_1^2 / \sigma_2^2`, ``1 - <v, v_1>^2`` is O(1 / sqrt(R)) with high probability for
    R above a constant; for light rows that are alike it is about ``2 d / (n R)``. Rows in sorted order break it:
    shuffle them before. Cost: 2 n d multiplications. There is no gradient.

    References
    ----------
    "Approximating the Top Eigenvector in Random Order Streams"

    Examples
    --------
    >>> g = torch.Generator().manual_seed(0)
    >>> A = torch.randn(4000, 20, generator=g) * torch.cat([torch.tensor([3.0]), torch.ones(19)])
    >>> found = top_eigenvector_stream((A[i : i + 500] for i in range(0, 4000, 500)), 4000, generator=0)
    >>> bool(found.vector[0].abs() > 0.99)
    True
    """
    if method not in ("block_power", "oja"):
        raise ValueError(f"method must be block_power or oja, got {method!r}")
    if method == "oja":
        return oja(rows, n=n, generator=generator)
    stream = _Rows(rows, n)
    d = stream.d
    t = math.ceil(math.log(d)) + 2 if blocks is None else blocks
    if isinstance(t, bool) or not isinstance(t, int) or t < 2:
        raise ValueError(f"blocks must be an int of at least 2, got {blocks!r}")
    if heavy_budget is not None and (isinstance(heavy_budget, bool) or heavy_budget < 0):
        raise ValueError(f"heavy_budget must be at least 0, got {heavy_budget!r}")
    half = stream.n // 2
    edges = sorted({half * i // (t - 1) for i in range(1, t)} - {0} | {stream.n})
    power = _BlockPower(stream, heavy_budget, generator)
    seen = 0
    for chunk in stream.pieces(edges):
        power.add(chunk)
        seen += len(chunk)
        if seen in edges:
            power.finish_block()
    return power.result(len(edges))


class _Rows:
    """A stream of rows of known number, in checked pieces that end at given places."""

    def __init__(self, rows: Any, n: int | None) -> None:
        whole = isinstance(rows, Tensor) or hasattr(rows, "__array__")
        pieces = iter((rows,)) if whole else (iter(rows) if isinstance(rows, Iterable) else None)
        if pieces is None:
            raise TypeError(f"rows must be a matrix or an iterable of matrices, got {type(rows).__name__}")
        first = next(pieces, None)
        if first is None:
            raise ValueError("rows must have at least one row, got an empty iterable")
        t, self.kind = as_tensor(first, "rows")
        if t.ndim != 2 or 0 in t.shape:
            raise ValueError(f"rows must have shape (n, d), both at least 1, got {tuple(t.shape)}")
        if n is None and not whole:
            raise ValueError("n, the number of rows, is needed where rows is an iterable")
        self.n = len(t) if n is None else n
        if isinstance(self.n, bool) or not isinstance(self.n, int) or self.n < 1 or (whole and self.n != len(t)):
            raise ValueError(f"n must be the number of rows{f', {len(t)},' if whole else ''} got {n!r}")
        self.d, self.dtype, self.device = t.shape[1], t.dtype, t.device
        # What the rows are divided by, known with the first that are not zero.
        self.unit = 0.0
        self._first, self._rest = first, pieces

    def pieces(self, edges: Sequence[int] = ()) -> Iterator[Tensor]:
        """Pieces of at most `_CHUNK` rows, cut at the edges."""
        seen = 0
        for given in self._all():
            start = 0
            while start < len(given):
                edge = next((e for e in edges if e > seen), self.n)
                if edge <= seen:
                    raise ValueError(f"rows has more than n = {self.n} rows")
                part = given[start : start + min(_CHUNK, edge - seen)]
                check_finite(part, "rows")
                start, seen = start + len(part), seen + len(part)
                if not self.unit and bool(part.any()):
                    self.unit = moderate(part)[1]
                yield part if self.unit in (0.0, 1.0) else part / self.unit
        if seen != self.n:
            raise ValueError(f"rows has {seen} rows, n says {self.n}")

    def _all(self) -> Iterator[Tensor]:
        yield self._checked(self._first)
        for piece in self._rest:
            yield self._checked(piece)

    def _checked(self, piece: Any) -> Tensor:
        t, _ = as_tensor(piece, "rows")
        if t.ndim != 2 or t.shape[1] != self.d:
            raise ValueError(f"rows must have shape (n, {self.d}) in every piece, got {tuple(t.shape)}")
        if t.is_complex():
            raise ValueError("rows must be real, got complex rows")
        return t.detach().to(self.dtype)


class _BlockPower:
    """The state between rows: a vector, what the block adds to it, and the heavy rows."""

    def __init__(self, stream: _Rows, budget: int | None, generator: GeneratorLike) -> None:
        self.stream, self.n, self.d, self.kind = stream, stream.n, stream.d, stream.kind
        self.budget = budget
        self.dtype = stream.dtype
        # Half precision cannot hold the sums.
        wide = torch.float64 if stream.dtype == torch.float64 else torch.float32
        start = gaussian((stream.d,), wide, stream.device, as_generator(generator))
        self.v = start / torch.linalg.vector_norm(start)
        self.last = self.v
        self.z = torch.zeros_like(self.v)
        self.heavy = self.v.new_zeros(0, self.d)
        self.light_energy, self.heavy_energy = 0.0, 0.0
        self.seen, self.in_block, self.most = 0, 0, 0

    def add(self, chunk: Tensor) -> None:
        chunk = chunk.to(self.v.dtype)
        squares = chunk.double().square().sum(1)
        self.seen += len(chunk)
        self.in_block += len(chunk)
        if self.budget != 0:
            heavy = squares >= self._threshold(squares)
            if bool(heavy.any()):
                self.heavy = torch.cat([self.heavy, chunk[heavy]])
                self.heavy_energy += float(squares[heavy].sum())
                chunk, squares = chunk[~heavy], squares[~heavy]
                chunk, squares = self._within_budget(chunk, squares)
        self.light_energy += float(squares.sum())
        self.z += chunk.mT @ (chunk @ self.v)
        self.most = max(self.most, len(self.heavy))

    def _threshold(self, squares: Tensor) -> float:
        """``||A||_F^2 / (d log d)``, the heavy rows counted once and the light ones for all that will come."""
        share = self.n / self.seen
        factor = self.d * max(math.log(self.d), 1.0)
        values = squares.sort().values
        below = torch.cat([values.new_zeros(1), values.cumsum(0)]).tolist()
        count = len(values)
        while True:
            energy = share * (self.light_energy + below[count]) + self.heavy_energy + below[-1] - below[count]
            limit = energy / factor
            # Every row taken out lowers the estimate and so the limit: this ends at the largest consistent set.
            left = int(torch.searchsorted(values[:count], limit))
            if left == count:
                return max(limit, torch.finfo(torch.float64).tiny)
            count = left

    def _within_budget(self, chunk: Tensor, squares: Tensor) -> tuple[Tensor, Tensor]:
        if self.budget is None or len(self.heavy) <= self.budget:
            return chunk, squares
        sizes = self.heavy.double().square().sum(1)
        order = sizes.argsort(descending=True)
        out = order[self.budget :]
        chunk = torch.cat([chunk, self.heavy[out]])
        squares = torch.cat([squares, sizes[out]])
        self.heavy_energy -= float(sizes[out].sum())
        self.heavy = self.heavy[order[: self.budget]]
        return chunk, squares

    def finish_block(self) -> None:
        self.z *= self.n / self.in_block
        self.last = self.v
        y = self.z + self.heavy.mT @ (self.heavy @ self.v)
        length = torch.linalg.vector_norm(y)
        if not bool(torch.isfinite(length)):
            raise ValueError(
                "rows must not grow by so much that their squares overflow: scale the stream by its largest rows"
            )
        if bool(length > 0):  # a block of zeros says nothing
            self.v = y / length
        self.product, self.z, self.in_block = self.z, torch.zeros_like(self.z), 0

    def result(self, blocks: int) -> TopEigenvector:
        along = torch.dot(self.last, self.product)
        lines = self.heavy
        if bool(along > 0):
            lines = torch.cat([self.heavy, (self.product / along.sqrt())[None]])
        if not self.light_energy + self.heavy_energy:
            raise ValueError("rows must not all be zero")
        if not len(lines):  # the last block has nothing along v and there is nothing else: v is what is known
            lines = self.v[None] * math.sqrt(torch.finfo(self.v.dtype).tiny)
        scale = lines.abs().amax()
        unit = (lines / scale).double()
        w, U = torch.linalg.eigh(unit @ unit.mT)
        v = unit.mT @ U[:, -1]
        v = (v / torch.linalg.vector_norm(v)).to(self.dtype)
        unit = self.stream.unit
        return TopEigenvector(
            give_back(v, self.kind),
            float(w[-1]) * float(scale) ** 2 * unit * unit,
            self.most,
            (self.most + 4) * self.d,
            (self.light_energy + self.heavy_energy) * unit * unit,
            blocks,
        )


def oja(
    rows: Any,
    rate: float | Sequence[float] | None = None,
    *,
    n: int | None = None,
    generator: GeneratorLike = None,
) -> TopEigenvector:
    r"""Oja's rule, :math:`v \leftarrow v + \eta\, a \langle a, v\rangle` over the rows a of a stream, in any order.

    Parameters
    ----------
    rows : (n, d) real tensor or array, or an iterable of such pieces
    rate : learning rate eta, or several that run side by side. Default None: powers of two over all rates that the
        squared Frobenius norm allows, about log2(d) + 4 of them
    n : number of rows; needed where `rows` is an iterable
    generator : of the first vector, which all rates share

    Returns
    -------
    TopEigenvector : of the smallest rate whose vector grew by d^3, else of the rate that grew most.

    Raises
    ------
    ValueError : shapes, NaN or infinity, a wrong `n`, complex rows, a rate that is not positive, only rows of zeros.

    Notes
    -----
    A vector that grew much has found v_1, as all others grow by no more than ``exp(eta sigma_2^2)`` to a power; the
    smallest such rate has the least noise. Needs R of the order log^2 d in any order of the rows, log d in random order;
    with one fixed rate there are streams of R = log d / log log d on which every rate fails. The scale of the default
    rates is taken from the first piece of 1024 rows. 4 d flops a row and rate in a Numba kernel on the CPU; row by row
    in torch on other devices. There is no gradient.

    References
    ----------
    "Approximating the Top Eigenvector in Random Order Streams"

    Examples
    --------
    >>> g = torch.Generator().manual_seed(0)
    >>> A = torch.randn(2000, 10, generator=g) * torch.cat([torch.tensor([4.0]), torch.ones(9)])
    >>> bool(oja(A, generator=0).vector[0].abs() > 0.99)
    True
    """
    stream = _Rows(rows, n)
    d = stream.d
    rates = torch.as_tensor(1.0 if rate is None else rate, dtype=torch.float64).reshape(-1)
    if not (len(rates) and bool((rates > 0).all()) and bool(torch.isfinite(rates).all())):
        raise ValueError(f"rate must be positive and finite, got {rate!r}")
    V = squares = growth = torch.zeros(0)
    energy = 0.0
    pieces = stream.pieces()
    for chunk in pieces:
        energy += float(chunk.double().square().sum())
        if not energy:
            continue
        if not len(V):
            if rate is None:
                scale = energy * stream.n / len(chunk)
                steps = torch.arange(math.ceil(math.log2(d)) + 4, dtype=torch.float64)
                rates = math.log(max(d, 2)) / scale * 2.0**steps
            else:
                rates = rates * stream.unit * stream.unit
            rates = rates.to(stream.device)
            start = gaussian((d,), torch.float64, stream.device, as_generator(generator))
            V = (start / torch.linalg.vector_norm(start)).expand(len(rates), d).contiguous()
            squares, growth = V.new_ones(len(rates)), V.new_zeros(len(rates))
        _oja_piece(chunk, V, rates, squares, growth)
    if not energy:
        raise ValueError("rows must not all be zero")
    if not math.isfinite(energy):
        raise ValueError(
            "rows must not grow by so much that their squares overflow: scale the stream by its largest rows"
        )
    lengths = torch.linalg.vector_norm(V, dim=1)
    growth = growth + lengths.log()
    enough = (growth >= _GROWTH * math.log(max(d, 2))).nonzero()[:, 0]
    best = int(enough[rates[enough].argmin()]) if len(enough) else int(growth.argmax())
    v = (V[best] / lengths[best]).to(stream.dtype)
    used, energy = float(rates[best]) / stream.unit / stream.unit, energy * stream.unit * stream.unit
    memory = len(rates) * (d + 2)
    return TopEigenvector(give_back(v, stream.kind), math.nan, 0, memory, energy, 1, used, float(growth[best]))


def _oja_piece(rows: Tensor, V: Tensor, rates: Tensor, squares: Tensor, growth: Tensor) -> None:
    if V.device.type == "cpu":
        from resolvent.sketch.stream_kernel import oja_rows

        wide = rows if rows.dtype in (torch.float32, torch.float64) else rows.float()
        oja_rows(wide.contiguous().numpy(), V.numpy(), rates.numpy(), squares.numpy(), growth.numpy())
    else:
        _oja_rows_torch(rows, V, rates, growth)


def _oja_rows_torch(rows: Tensor, V: Tensor, rates: Tensor, growth: Tensor) -> None:
    """The kernel for devices without Numba; every vector keeps the length one."""
    for a in rows.double():
        V += (rates * (V @ a))[:, None] * a
        lengths = torch.linalg.vector_norm(V, dim=1)
        V /= lengths[:, None]
        growth += lengths.log()
