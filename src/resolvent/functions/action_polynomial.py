"""e^{tA} B by polynomials of A with a short recurrence: one product and one pass per term, the error measured."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from resolvent.functions.action_chebyshev import Family, family
from resolvent.functions.action_field import STEPS, Field, estimated_disc, estimated_field, proved_field
from resolvent.functions.action_krylov import Swept
from resolvent.operators.diagonals import Diagonals
from resolvent.operators.operator import Operator
from resolvent.operators.sparse import Sparse
from resolvent.spectra.recurrence import column_dots

# Terms between two looks at the sizes of the polynomials, and terms of one series at most.
_LOOK, _TERMS = 10, 16384
# A proved box may be too wide: beyond this number of terms, a dozen products that look for a narrower one pay, and
# earlier where a few rows make it wide.
_WORTH = {True: 70, False: 25}
# Radius of a proved box times time up to which a general matrix is given Taylor's series on a disc.
_SHORT = 50.0
# Rounding errors of a sum with a recurrence, relative to one rounding of the sum of the sizes of its terms.
_ROUNDING = 4


@dataclass
class Series:
    """What one series gave: values (T, n, k) times e^logs (T,), the part of the error that more terms would take
    away and the loss by cancellation (both (T, k), relative to the values), and how fast the polynomials grew."""

    values: Tensor
    logs: np.ndarray
    tails: np.ndarray
    losses: np.ndarray
    products: int
    rate: float
    terms: int


class Recurrence:
    """The polynomials of a family one after the other, applied to X; the last two are kept."""

    def __init__(self, A: Operator, X: Tensor, family: Family) -> None:
        self.A, self.family, self.k = A, family, 0
        self.now, self.other = X.clone(memory_format=torch.contiguous_format), torch.zeros_like(X)
        self.sparse: Sparse | None = None
        self.form: Diagonals | None = None
        if isinstance(A, Sparse) and A.device.type == "cpu" and not A.is_complex and X.dtype == A.dtype and A.nnz:
            self.sparse = A
            self.form = A._pattern.by_diagonals(A.values) if X.shape[1] == 1 else None
        c = family.centre
        self.centre: complex = c if A.is_complex else c.real

    def sign(self, k: int) -> int:
        """What p_k is multiplied by as it is held: a recurrence that adds becomes one that subtracts."""
        return -1 if self.family.kind == "imaginary" and k % 4 > 1 else 1

    def step(self) -> Tensor:
        """The next polynomial, in the memory of the one before the last."""
        kind = self.family.kind
        scale = (2.0 if self.k and kind != "power" else 1.0) / self.family.size
        scale *= self.sign(self.k) * self.sign(self.k + 1)
        if kind == "power":
            self.other.zero_()
        if self.sparse is not None:
            from resolvent.spectra.fused import chebyshev_step

            x, z = self.now.numpy(), self.other.numpy()
            real = z.dtype.type
            chebyshev_step(self.sparse, self.form, x, z, real(scale), real(scale * self.centre.real))
        else:
            W = self.A._matmul(self.now)
            self.other.neg_().add_(W, alpha=scale).sub_(self.now, alpha=scale * self.centre)
        self.now, self.other = self.other, self.now
        self.k += 1
        return self.now


def series(
    A: Operator, X: Tensor, times: np.ndarray, phase: complex, fam: Family, rtol: float, rows: int, limit: int
) -> Series | None:
    """``e^{phase s A} X`` at the times s by one series, until its tail is below rtol; None if it would be too long."""
    count = fam.needed(float(times[-1]), phase, rtol * torch.finfo(X.dtype).eps, _TERMS)
    if count > _TERMS:
        return None
    count += count % 2
    table, logs = fam.coefficients(times, phase, count)
    if not np.isfinite(table).all():
        return None
    sums = _Sums(table, X)
    run = Recurrence(A, X, fam)
    watch = _Watch(np.abs(table), X, fam, rtol, rows)
    for k in range(0, count, 2):
        x = run.now if k == 0 else run.step()
        z = run.step()
        sums.add(k, (x, run.sign(k)), (z, run.sign(k + 1)))
        spent = run.k * X.shape[1] >= limit
        if (spent or watch.due(k + 1)) and (watch.enough(k + 1, z, sums) or spent):
            break
    values = sums.values()
    tails, losses = watch.errors(values)
    return Series(values, logs, tails, losses, run.k * X.shape[1], watch.rate, run.k)


def polynomial(A: Operator, X: Tensor, fam: Family, table: np.ndarray) -> tuple[Tensor, float, int]:
    """The sum of the polynomials with the coefficients in `table` (count,), applied to X; how fast they grew, and the
    products."""
    table = np.append(table, [0.0] * (len(table) % 2))[None]
    sums, run = _Sums(table.astype(complex), X), Recurrence(A, X, fam)
    for k in range(0, table.shape[1], 2):
        x = run.now if k == 0 else run.step()
        sums.add(k, (x, run.sign(k)), (run.step(), run.sign(k + 1)))
    with np.errstate(invalid="ignore", over="ignore"):
        growth = (column_dots(run.now, run.now) / column_dots(X, X)).sqrt().cpu().numpy() ** (1 / run.k)
    rate = float(growth.max(initial=0.0))
    return sums.values()[0], rate if math.isfinite(rate) else 2.0, run.k * X.shape[1]


class _Sums:
    """The series of all times, added up two terms at a time."""

    def __init__(self, table: np.ndarray, X: Tensor) -> None:
        self.mixed = not X.is_complex() and bool((table.imag != 0).any())
        if not X.is_complex():
            table = np.concatenate([table.real, table.imag]) if self.mixed else table.real
        self.table = np.ascontiguousarray(table)
        self.out = torch.zeros(len(self.table), *X.shape, dtype=X.dtype, device=X.device)
        self.fused = X.device.type == "cpu" and not X.is_complex()

    def add(self, k: int, first: tuple[Tensor, int], second: tuple[Tensor, int]) -> None:
        a, b = self.table[:, k] * first[1], self.table[:, k + 1] * second[1]
        if self.fused:
            from resolvent.functions.action_kernel import accumulate

            x, z = first[0].numpy().reshape(-1), second[0].numpy().reshape(-1)
            accumulate(self.out.numpy().reshape(len(self.out), -1), x, z, a, b)
            return
        for p in range(len(self.out)):
            for c, t in ((a[p], first[0]), (b[p], second[0])):
                if c != 0:
                    self.out[p].add_(t, alpha=complex(c) if t.is_complex() else float(c.real))

    def values(self) -> Tensor:
        if not self.mixed:
            return self.out
        T = len(self.out) // 2
        return torch.complex(self.out[:T], self.out[T:])


class _Watch:
    """How large the polynomials are, how much of the series is left, and what cancelled in it."""

    def __init__(self, sizes: np.ndarray, X: Tensor, fam: Family, rtol: float, rows: int) -> None:
        self.sizes, self.fam, self.rtol, self.rows = sizes, fam, rtol, rows
        self.start = self._norms(X)
        self.seen = [(0, self.start)]
        self.rate = 0.0
        self.left = self.cancelled = np.zeros((len(sizes), X.shape[1]))
        self.values: np.ndarray | None = None
        self.finite = True
        weights = sizes[-1] * np.exp(np.minimum(np.arange(sizes.shape[1]) * math.log(fam.rate), 600))
        rest = weights[::-1].cumsum()[::-1]
        self.first = int(np.searchsorted(-rest, -rtol * rest[0]))

    @staticmethod
    def _norms(X: Tensor) -> np.ndarray:
        return np.maximum(column_dots(X, X).sqrt().cpu().numpy(), 1e-300)

    def due(self, k: int) -> bool:
        """Whether the k-th term is one to look at: some on the way, and then often."""
        return k % _LOOK == _LOOK - 1 or k >= self.first or k + 1 == self.sizes.shape[1]

    def enough(self, k: int, z: Tensor, sums: _Sums) -> bool:
        norm = self._norms(z)
        if not np.isfinite(norm).all():
            self.finite = False
            return True
        before, old = self.seen[-1]
        self.seen.append((k, norm))
        local = (norm / old) ** (1 / (k - before))
        whole = (norm / self.start) ** (1 / k)
        rates = np.maximum(np.maximum(local, whole), 1.0 if self.fam.kind != "power" else 0.5)
        self.rate = max(self.rate, float(whole.max()))
        rest = self.sizes[:, k + 1 :]
        steps = np.arange(1, rest.shape[1] + 1)
        with np.errstate(over="ignore"):
            self.left = np.stack([rest @ np.minimum(r**steps, 1e300) for r in rates], 1) * norm
        if rest.shape[1] == 0:
            # The terms that the table lacks are no larger than the last it has, or the next look would have come.
            self.left = self.sizes[:, k : k + 1] * norm
        if k < self.first:
            # Whoever stops here knows nothing about the terms to come.
            self.left = np.full_like(self.left, math.inf)
            return False
        if self.values is not None and (self.left > 0.4 * self.rtol * self.values).any():
            return False
        # The sums have nearly their final size: looked at again only where it would be enough.
        self.values = self._sizes(sums.values())
        return bool((self.left <= 0.4 * self.rtol * self.values).all())

    def _sizes(self, values: Tensor) -> np.ndarray:
        found = torch.linalg.vector_norm(values[:, : self.rows], dim=1)
        return np.maximum(found.double().cpu().numpy(), 1e-300)

    def errors(self, values: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """What is left of the series, and the sum of the sizes of its terms, both relative to the values (T, k)."""
        sizes = self._sizes(values)
        if not self.finite:
            return np.full_like(sizes, math.inf), np.full_like(sizes, math.inf)
        total = np.zeros_like(sizes)
        for (k0, n0), (k1, n1) in zip(self.seen, self.seen[1:], strict=False):
            steps = np.arange(k0, k1)
            between = n0 * (n1 / n0) ** ((steps - k0) / (k1 - k0))[:, None]
            total += self.sizes[:, k0:k1] @ np.maximum(between, np.minimum(n0, n1))
        empty = self.start <= 1e-300
        # No exponential takes a vector to zero: a sum that vanished is a sum that went wrong.
        lost = sizes <= 1e-300
        tails, losses = (np.where(lost, math.inf, e / sizes) for e in (self.left, total))
        return np.where(empty, 0, tails), np.where(empty, 1, losses)


def polynomial_sweep(
    A: Operator, X: Tensor, times: np.ndarray, phase: complex, rtol: float, rows: int, taylor: bool, limit: int
) -> Swept:
    """``e^{phase s A} X`` at all times s, ascending and positive: one series, or steps in time where too much cancels."""
    field = _field(A, times, phase, rtol, taylor)
    products = 0 if field.certain else STEPS
    half, T = _ROUNDING * torch.finfo(X.dtype).eps / 2, len(times)
    pieces: list[tuple[Tensor, np.ndarray, np.ndarray]] = []
    carried, rounding, log, now, done, steps = np.zeros(X.shape[1]), np.zeros(X.shape[1]), 0j, 0.0, 0, 0
    step = float(times[-1])
    while done < T and products < limit:
        stop = min(now + step, float(times[-1]))
        upto = int(np.searchsorted(times, stop * (1 + 1e-14), side="right"))
        here = times[done:upto] - now
        ends = upto < T and (upto == done or times[upto - 1] < stop * (1 - 1e-14))
        here = np.append(here, stop - now) if ends else here
        share = rtol * max((stop - now) / float(times[-1]), 1e-3)
        fam = family(field, taylor)
        found = _folded(A, X, here, phase, fam, share, rows, limit - products)
        if found is None:
            step = (stop - now) / 4
            continue
        products += found.products
        allowed = max(4.0, 0.25 * rtol / half)
        loss = float(found.losses.max(initial=1.0))
        if loss > allowed and products < limit:
            better = _retry(field, fam, found)
            if better is not None:
                field = better
                continue
            if stop - now > 1e-5 * float(times[-1]):
                parts = math.log(loss) / math.log(allowed) if math.isfinite(loss) else 8
                step = (stop - now) / max(2, math.ceil(parts))
                continue
        steps += 1
        bad = carried + found.tails + np.hypot(rounding, half * found.losses)
        pieces.append((found.values[: upto - done], log + found.logs[: upto - done], bad[: upto - done]))
        carried, rounding = carried + found.tails[-1], np.hypot(rounding, half * found.losses[-1])
        X, log, now, done = found.values[-1], log + found.logs[-1], stop, upto
        X, size = _level(X)
        log += size
    centre, a, b = field.ellipse
    method = "taylor" if taylor or family(field).kind == "power" else "chebyshev"
    return _joined(pieces, T, products, steps, method, abs(centre) + max(a, b))


def _folded(
    A: Operator, X: Tensor, times: np.ndarray, phase: complex, fam: Family, rtol: float, rows: int, limit: int
) -> Series | None:
    """`series`; with a real operator, the real and imaginary parts of a complex X are columns of one real block."""
    if not X.is_complex() or A.is_complex:
        return series(A, X, times, phase, fam, rtol, rows, limit)
    found = series(A, torch.cat([X.real, X.imag], 1), times, phase, fam, rtol, rows, limit)
    if found is None:
        return None
    k = X.shape[1]
    V = found.values
    Y = V[..., :k] + 1j * V[..., k:] if V.is_complex() else torch.complex(V[..., :k], V[..., k:])
    # The larger relative error of the two parts bounds that of the whole.
    tails, losses = (np.maximum(e[:, :k], e[:, k:]) for e in (found.tails, found.losses))
    return replace(found, values=Y, tails=tails, losses=losses)


def _level(X: Tensor) -> tuple[Tensor, float]:
    """X over its largest column norm, and the logarithm of that."""
    size = float(torch.linalg.vector_norm(X, dim=0).max())
    if size == 0 or 1e-30 < size < 1e30:
        return X, 0.0
    return X / size, math.log(size)


def _joined(
    pieces: list[tuple[Tensor, np.ndarray, np.ndarray]], T: int, products: int, steps: int, method: str, size: float
) -> Swept:
    values = pieces[0][0] if len(pieces) == 1 else torch.cat([p[0] for p in pieces])
    logs, errors = (np.concatenate([p[i] for p in pieces]) for i in (1, 2))
    if missing := T - len(values):
        values = torch.cat([values, values.new_zeros(missing, *values.shape[1:])])
        logs = np.append(logs, np.zeros(missing))
        errors = np.concatenate([errors, np.full((missing, errors.shape[1]), math.inf)])
    return Swept(values, logs, torch.from_numpy(errors), products, steps, method, size)


def _retry(field: Field, fam: Family, found: Series) -> Field | None:
    """A wider box where the polynomials outgrew what the box allows them."""
    if field.certain or fam.kind == "power" or found.rate <= 1.005 * fam.rate:
        return None
    rate = found.rate if math.isfinite(found.rate) else 2 * fam.rate
    reached, allowed = (r + 1 / r for r in (rate, fam.rate))
    return replace(field.wider(1.02 * max(reached / allowed, 1.01)), certain=False)


def _field(A: Operator, times: np.ndarray, phase: complex, rtol: float, taylor: bool) -> Field:
    """The proved box if it is good enough, else an estimate."""
    proved = proved_field(A)
    if proved is None:
        return estimated_field(A, None, phase, float(times[-1]))
    if A.hermitian or proved.up - proved.down <= 1e-3 * (proved.high - proved.low):
        terms = family(proved, taylor).needed(float(times[-1]), phase, rtol, _TERMS)
        if terms <= _WORTH[proved.even > 0.5]:
            return proved
    elif max(proved.ellipse[1:]) * float(times[-1]) <= _SHORT:
        return estimated_disc(A, proved)
    return estimated_field(A, proved, phase, float(times[-1]))
