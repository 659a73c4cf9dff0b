"""How far the costs of a coreset can be from those of the data: a search for the centres that tell them apart."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from resolvent.operators.arrays import as_tensor, check_finite, give_back
from resolvent.operators.magnitude import unit_of
from resolvent.random import GeneratorLike, as_generator
from resolvent.sketch.coreset_line import check_power, check_sizes, point_weights
from resolvent.sketch.seeding import assign, descend, draw, medoids, seed_centres, set_costs


class Deviation(NamedTuple):
    """The worst centres that were found.

    Attributes
    ----------
    error : |cost of the coreset / cost of the data - 1| there; infinite if only the data costs nothing
    centres : (k,) or (k, d)
    """

    error: Any
    centres: Any


def verify_coreset(
    X: Any,
    S: Any,
    k: int,
    z: float = 1,
    *,
    weights: Any = None,
    trials: int = 100,
    climb: bool = True,
    generator: GeneratorLike = None,
) -> Deviation:
    """Search for k centres at which a coreset is wrong most: a lower bound of its error.

    Parameters
    ----------
    X : (n,) or (n, d) the data
    S : Coreset, or a pair of points (m,) or (m, d) and weights (m,)
    k : number of centres
    z : power of the distance, at least 1
    weights : (n,) of the data; None means 1 each
    trials : random sets of centres
    climb : go uphill from the worst; False looks at random and optimised sets alone
    generator : of the random sets

    Returns
    -------
    Deviation, of the kind of X. For k = 1, z = 1 on a line it is exact: the largest error of all centres. No gradients.

    Raises
    ------
    ValueError : shapes that do not fit, numbers that are not finite or out of range.

    Notes
    -----
    Centres are rows of the data, chosen uniformly or by their distances, points of a box around it, or optimal for the
    data or for the coreset. From the worst the search goes uphill: on a line by trying all kinks of the coreset's cost
    for each centre in turn, else by gradient steps. n k (trials + 50) distances.

    References
    ----------
    "On Coresets for Clustering in Small Dimensional Euclidean Spaces"

    Examples
    --------
    >>> import torch
    >>> x = torch.linspace(0, 1, 1001, dtype=torch.float64)
    >>> found = verify_coreset(x, (x[5::11], torch.full((91,), 11.0)), k=1)
    >>> 0 < float(found.error) < 0.01
    True
    """
    t, kind = as_tensor(X, "X")
    points, _ = as_tensor(S[0], "S[0]")
    flat = t.ndim == 1
    for value, name in ((t, "X"), (points, "S[0]")):
        if value.is_complex():
            raise ValueError(f"{name} must be real, got {value.dtype}")
    if t.ndim not in (1, 2) or points.ndim != t.ndim or points.shape[1:] != t.shape[1:] or 0 in t.shape:
        raise ValueError(f"X and S must have shapes (n, d) and (m, d), got {tuple(t.shape)} and {tuple(points.shape)}")
    check_finite(t, "X")
    check_finite(points, "S[0]")
    check_sizes(k, 0.5)
    check_power(z)
    # Powers of distances stay within range where the data is near one.
    unit = unit_of(t)
    t, points = t.detach() / unit, points.detach().to(t) / unit
    t, points = (t[:, None], points[:, None]) if flat else (t, points)
    w = point_weights(weights, t).detach()
    v = point_weights(S[1], points, "S[1]").detach()
    if t.shape[1] == 1 and k == 1 and z == 1:
        error, centres = _exact_on_a_line(t[:, 0], w, points[:, 0], v)
    else:
        error, centres = _search((t, w, points, v), k, z, trials, climb, as_generator(generator, t.device))
    centres = (centres[:, 0] if flat else centres) * unit
    return Deviation(give_back(torch.as_tensor(error, dtype=torch.float64), kind), give_back(centres.to(t.dtype), kind))


def deviations(of_data: Tensor, of_coreset: Tensor, noise: float) -> Tensor:
    """Relative differences of costs; 0 where they are below the noise."""
    gap = (of_coreset - of_data).abs()
    return torch.where(gap <= noise, torch.zeros_like(gap), gap / of_data)


def rounding(X: Tensor, w: Tensor, z: float) -> float:
    """What costs of zero may come to, as points are known to their last digits only."""
    return float(w.sum()) * (1e-14 * float(X.abs().max())) ** z


def trial_centres(X: Tensor, w: Tensor, k: int, z: float, count: int, generator: torch.Generator) -> Tensor:
    """(T, k, d) float64 sets of centres of many kinds; the last ones are nearly optimal."""
    n, d = X.shape

    def rand(*shape: int) -> Tensor:
        return torch.rand(shape, dtype=torch.float64, device=generator.device, generator=generator).to(X.device)

    chosen = (w > 0).nonzero()[:, 0] if n <= 2000 else draw(w, 2000, generator)
    chosen = chosen[rand(len(chosen)).argsort()]
    rows, mass = X[chosen].to(torch.float64), w[chosen] if n <= 2000 else torch.ones_like(w[chosen])
    least, most = X.amin(0).to(torch.float64), X.amax(0).to(torch.float64)
    each = max(1, count // 5)
    uniform = rows[(rand(each, k) * len(rows)).long()]
    box = least + (1.5 * rand(each, k, d) - 0.25) * (most - least)
    # Several centres within one neighbourhood, as well as one far from all.
    close = rows[(rand(each, 1) * len(rows)).long()] + (rand(each, k, d) - 0.5) * (most - least) * rand(each, 1, 1) ** 3
    far = uniform.clone()
    far[:, 0] = least + (20 * rand(each, d) - 10) * (most - least)
    # Centres that serve the data well leave the least cost, of which an error is the largest share.
    spread = [rows[medoids(rows[:500], mass[:500], k, z, generator, starts=1)] for _ in range(min(each, 6))]
    spread += [X[seed_centres(X, w, k, z, generator).rows].to(torch.float64) for _ in range(3)]
    spread = [torch.cat([c, c[:1].expand(k - len(c), d)]) for c in spread]
    good = [descend(rows, mass, centres, z) for centres in spread[-4:]]
    return torch.cat([uniform, box, close, far, torch.stack(spread), torch.stack(good)])


def _search(
    both: tuple[Tensor, Tensor, Tensor, Tensor], k: int, z: float, trials: int, climb: bool, generator: torch.Generator
) -> tuple[float, Tensor]:
    X, w, S, v = both
    sets = trial_centres(X, w, k, z, trials, generator)
    on_coreset = torch.stack([descend(S, v, sets[-1 - i], z, rounds=20) for i in range(3)])
    on_data = torch.stack([descend(X, w, sets[-1 - i], z, rounds=10) for i in range(2)])
    sets = torch.cat([sets, on_coreset, on_data])
    found = deviations(set_costs(X, w, sets, z), set_costs(S, v, sets, z), rounding(X, w, z))
    return uphill(X, w, S, v, z, sets, found, starts=3 if climb else 0)


def uphill(
    X: Tensor, w: Tensor, S: Tensor, v: Tensor, z: float, sets: Tensor, found: Tensor, starts: int = 3
) -> tuple[float, Tensor]:
    """The largest error near the worst of the sets of centres, whose errors are `found`."""
    order = found.argsort(descending=True)
    best, where = float(found[order[0]]), sets[order[0]]
    for start in sets[order[:starts]]:
        if X.shape[1] == 1 and z == 1:
            error, centres = _climb_on_a_line(X[:, 0], w, S[:, 0], v, start[:, 0])
        else:
            _, centres = _climb(X, w, S, v, start, z)
            of_data, of_coreset = (set_costs(p, m, centres[None], z) for p, m in ((X, w), (S, v)))
            error = float(deviations(of_data, of_coreset, rounding(X, w, z)))
        if error > best:
            best, where = error, centres
    return best, where


def _climb(X: Tensor, w: Tensor, S: Tensor, v: Tensor, centres: Tensor, z: float) -> tuple[float, Tensor]:
    """Gradient steps on the logarithm of the ratio of costs, away from one; shorter ones where it falls."""
    points, few = X.to(torch.float64), S.to(torch.float64)
    step = 0.05 * float((points.amax(0) - points.amin(0)).max())
    noise = rounding(X, w, z)
    best, where = -1.0, centres
    direction = torch.zeros_like(centres)
    for _ in range(12):
        with torch.enable_grad():
            leaf = centres.detach().requires_grad_()
            costs = [
                (mass * torch.linalg.vector_norm(p - leaf[assign(p, leaf.detach(), 1.0).label], dim=1) ** z).sum()
                for p, mass in ((points, w), (few, v))
            ]
            if not float(costs[0].detach()) > noise:
                break
            gap = (costs[1] / costs[0] - 1).abs()
            (slope,) = torch.autograd.grad(gap, leaf)
        error = float(gap.detach())
        if error > best:
            best, where = error, leaf.detach()
            length = float(torch.linalg.vector_norm(slope))
            if not 0 < length < float("inf"):
                break
            direction = slope / length
        else:
            step /= 3
        centres = where + step * direction
    return best, where


class _Line:
    """Costs of many sets of centres on a line, by sums over the sorted points."""

    def __init__(self, x: Tensor, w: Tensor) -> None:
        order = torch.argsort(x)
        self.x = x[order].to("cpu", torch.float64).numpy()
        self.w = w[order].cpu().numpy()
        self._before = [np.concatenate([[0.0], part.cumsum()]) for part in (self.w, self.w * self.x)]
        self._after = [np.concatenate([part[::-1].cumsum()[::-1], [0.0]]) for part in (self.w, self.w * self.x)]
        self._size = [
            np.abs(np.concatenate([[0.0], self.w * np.abs(self.x)]).cumsum()),
            np.concatenate([(self.w * np.abs(self.x))[::-1].cumsum()[::-1], [0.0]]),
        ]

    def _between(self, which: int, first: np.ndarray, last: np.ndarray) -> np.ndarray:
        # From the side where less is to be taken away.
        sizes = self._size if which else [self._before[0], self._after[0]]
        left = self._before[which][last] - self._before[which][first]
        right = self._after[which][first] - self._after[which][last]
        return np.where(sizes[0][last] <= sizes[1][first], left, right)

    def costs(self, centres: np.ndarray) -> np.ndarray:
        """(T,) of sets (T, k); digits are lost where clusters are far narrower than their distance from zero."""
        c = np.sort(centres, axis=1)
        ends = np.searchsorted(self.x, (c[:, 1:] + c[:, :-1]) / 2)
        last = np.full((len(c), 1), len(self.x))
        first = np.concatenate([np.zeros_like(last), ends], axis=1)
        last = np.concatenate([ends, last], axis=1)
        middle = np.clip(np.searchsorted(self.x, c), first, last)
        left = c * self._between(0, first, middle) - self._between(1, first, middle)
        right = self._between(1, middle, last) - c * self._between(0, middle, last)
        return np.asarray((left + right).sum(1))

    def cost(self, centres: np.ndarray) -> float:
        """Of one set (k,), by differences: exact to rounding."""
        from resolvent.sketch.coreset_line_kernel import cost_of

        return float(cost_of(self.x, self.w, np.sort(centres)))


def _relative(data: _Line, few: _Line, sets: np.ndarray) -> tuple[float, np.ndarray]:
    """The worst of the sets: ranked by sums, the first ones measured by differences."""
    with np.errstate(divide="ignore", invalid="ignore"):
        of_data = data.costs(sets)
        ranked = np.nan_to_num(np.abs(few.costs(sets) - of_data) / of_data, nan=0.0)
    best, where = -1.0, sets[0]
    for i in np.argsort(ranked)[-8:]:
        of_one, of_other = data.cost(sets[i]), few.cost(sets[i])
        error = abs(of_other - of_one) / of_one if of_one else (np.inf if of_other else 0.0)
        if error > best:
            best, where = error, sets[i]
    return best, where


def _exact_on_a_line(x: Tensor, w: Tensor, s: Tensor, v: Tensor) -> tuple[float, Tensor]:
    from resolvent.sketch.coreset_line_kernel import outward

    # Both costs are linear between neighbouring points of either, so that their ratio is monotone there.
    data, few = _Line(x, w), _Line(s, v)
    places = np.union1d(data.x, few.x)
    costs = []
    for line in (data, few):
        mass = np.zeros(len(places))
        np.add.at(mass, np.searchsorted(places, line.x), line.w)
        middle = min(int(np.searchsorted(mass.cumsum(), mass.sum() / 2)), len(places) - 1)
        costs.append(outward(places, mass, middle))
    gap = np.abs(costs[1] - costs[0])
    found = np.divide(gap, costs[0], out=np.where(gap > 0, np.inf, 0.0), where=costs[0] > 0)
    best = int(found.argmax())
    # Far outside all points the ratio tends to that of the weights.
    outside = abs(few.w.sum() / data.w.sum() - 1)
    return max(float(found[best]), float(outside)), torch.from_numpy(places[best : best + 1]).to(x.device)[:, None]


def _climb_on_a_line(x: Tensor, w: Tensor, s: Tensor, v: Tensor, centres: Tensor) -> tuple[float, Tensor]:
    data, few = _Line(x, w), _Line(s, v)
    kinks = few.x if len(few.x) <= 2000 else few.x[:: len(few.x) // 2000 + 1]
    best, current = _relative(data, few, centres.cpu().numpy()[None])
    for _ in range(3):
        before = best
        for j in range(len(current)):
            others = np.sort(np.delete(current, j))
            # A kink under the centre itself, or under its border with a neighbour.
            near = np.clip(np.searchsorted(others, kinks), 0, max(len(others) - 1, 0))
            mirrored = [2 * kinks - others[np.clip(near - i, 0, None)] for i in (0, 1)] if len(others) else []
            trial = np.concatenate([kinks, *mirrored])
            sets = np.repeat(current[None], len(trial), axis=0)
            sets[:, j] = trial
            error, found = _relative(data, few, sets)
            if error > best:
                best, current = error, found
        if best <= before:
            break
    return best, torch.from_numpy(current.copy()).to(x.device)[:, None]
