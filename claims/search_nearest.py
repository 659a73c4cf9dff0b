"""What the papers on fixed-radius neighbours and on split nearest neighbours claim, measured."""

import functools
import itertools
import math

import numpy as np
from _seconds import seconds
from scipy.spatial import cKDTree
from sklearn.neighbors import KNeighborsRegressor

from resolvent import search
from resolvent.claims import Measured, Scale, claim


def points(n: int, queries: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Uniform points, queries, and the radius with about 50 neighbours."""
    rng = np.random.default_rng(0)
    return rng.random((n, 3)), rng.random((queries, 3)), (50 / n * 0.75 / math.pi) ** (1 / 3)


def brute(x: np.ndarray, q: np.ndarray, r: float, images: bool) -> list[np.ndarray]:
    """Neighbours by all distances, to every image of every query."""
    shifts = np.array(list(itertools.product((-1, 0, 1), repeat=3))) if images else np.zeros((1, 3))
    found = []
    for one in q:
        near = np.zeros(len(x), bool)
        for shift in shifts:
            gap = x - (one + shift)
            near |= (gap * gap).sum(1) <= r * r
        found.append(np.flatnonzero(near))
    return found


@claim(
    paper="GriSPy: A Python package for Fixed-Radius Nearest Neighbors Search",
    method=search.FixedRadiusGrid.within,
    says="the same neighbour sets as a k-d tree, open and periodic, and as brute force with images; share of the queries",
    at_least=1.0,
)
def the_same_neighbours(scale: Scale) -> Measured:
    x, q, r = points(*scale(quick=(50_000, 400), full=(200_000, 1000)))
    box = {a: (0.0, 1.0) for a in range(3)}
    same = []
    for grid, tree in (
        (search.FixedRadiusGrid(x), cKDTree(x)),
        (search.FixedRadiusGrid(x, periodic=box), cKDTree(x, boxsize=1.0)),
    ):
        found, lists = grid.within(q, r), tree.query_ball_point(q, r)
        same += [set(found[i][0].tolist()) == set(ids) for i, ids in enumerate(lists)]
    found = search.FixedRadiusGrid(x, periodic=box).within(q[:20], r)
    same += [set(found[i][0].tolist()) == set(ids.tolist()) for i, ids in enumerate(brute(x, q[:20], r, True))]
    return Measured(float(np.mean(same)), unit="of the queries", note=f"{found.counts.mean():.0f} neighbours each")


@claim(
    paper="GriSPy: A Python package for Fixed-Radius Nearest Neighbors Search",
    method=search.FixedRadiusGrid.within,
    says="distances computed by brute force over those of the grid",
    at_least=10.0,
)
def work_against_brute_force(scale: Scale) -> Measured:
    x, q, r = points(*scale(quick=(50_000, 400), full=(200_000, 1000)))
    found = search.FixedRadiusGrid(x).within(q, r)
    return Measured(
        len(x) / found.evaluations.mean(), unit="x fewer", note=f"{found.evaluations.mean():.0f} of {len(x)}"
    )


@claim(
    paper="GriSPy: A Python package for Fixed-Radius Nearest Neighbors Search",
    method=search.FixedRadiusGrid.within,
    says="time over that of scipy's k-d tree, interleaved, one thread",
    at_most=1.5,
)
def time_against_a_tree(scale: Scale) -> Measured:
    x, q, r = points(*scale(quick=(50_000, 1000), full=(200_000, 1000)))
    grid, tree = search.FixedRadiusGrid(x), cKDTree(x)
    ours, theirs = seconds(lambda: grid.within(q, r), lambda: tree.query_ball_point(q, r))
    return Measured(ours / theirs, unit="x the time")


@claim(
    paper="GriSPy: A Python package for Fixed-Radius Nearest Neighbors Search",
    method=search.FixedRadiusGrid.within,
    says="the cost of a query is flat in n at constant density: largest over smallest work over an eightfold range",
    at_most=2.0,
)
def flat_cost(scale: Scale) -> Measured:
    rng = np.random.default_rng(1)
    work = []
    for n in scale(quick=(12_500, 100_000), full=(50_000, 100_000, 200_000, 400_000)):
        side = (n / 50_000) ** (1 / 3)
        grid = search.FixedRadiusGrid(rng.random((n, 3)) * side)
        r = (50 / 50_000 * 0.75 / math.pi) ** (1 / 3)
        work.append(grid.within(r + rng.random((300, 3)) * (side - 2 * r), r).evaluations.mean())
    return Measured(max(work) / min(work), unit="x", note=", ".join(f"{w:.0f}" for w in work))


def surface(x: np.ndarray) -> np.ndarray:
    """A regression function with kinks: Lipschitz and no smoother."""
    return np.abs(x[:, 0] - 0.4) + np.abs(x[:, 1] - x[:, 0]) + 0.5 * np.abs(np.sin(6 * x[:, 1]))


@functools.cache
def risks(sizes: tuple[int, ...], repeats: int) -> dict[int, dict[str, dict[int, float]]]:
    """Excess risks by n: of the refined rule and the plain mean by groups, of nearest neighbours by k."""
    found = {}
    rng = np.random.default_rng(0)
    for n in sizes:
        root = n**0.5
        risk: dict[str, dict[int, float]] = {"refined": {}, "plain": {}, "near": {}}
        # The square root itself and a range around it, as fine as that of k.
        tried = sorted({round(root * 2 ** (j / 2)) for j in range(-3, 7)})
        for repeat in range(repeats):
            x, q = rng.random((n, 2)), rng.random((1000, 2))
            y, truth = surface(x) + 0.5 * rng.normal(size=n), surface(q)
            for name, keep in (("refined", 0.5), ("plain", 1.0)):
                for groups in tried:
                    model = search.SplitNearestNeighbor(groups, keep, "regress", generator=repeat).fit(x, y)
                    error = float(np.square(model.predict(q) - truth).mean()) / repeats
                    risk[name][groups] = risk[name].get(groups, 0.0) + error
            order = cKDTree(x).query(q, tried[-1])[1]
            means = np.cumsum(y[order], 1) / np.arange(1, order.shape[1] + 1)
            for k in tried:
                error = float(np.square(means[:, k - 1] - truth).mean()) / repeats
                risk["near"][k] = risk["near"].get(k, 0.0) + error
        found[n] = risk
    return found


def runs(scale: Scale) -> dict[int, dict[str, dict[int, float]]]:
    sizes = scale(quick=(2000, 4000, 8000), full=(2000, 4000, 8000, 16_000, 32_000, 64_000))
    return risks(sizes, scale(quick=2, full=10))


def against_the_best_k(scale: Scale, rule: str) -> Measured:
    """The best number of groups over the best k: both are chosen with the same knowledge."""
    found = runs(scale)
    ratios = [min(v[rule].values()) / min(v["near"].values()) for v in found.values()]
    ones = [v[rule][round(n**0.5)] / min(v["near"].values()) for n, v in found.items()]
    note = f"{', '.join(f'{r:.2f}' for r in ratios)}; with sqrt(n) groups {', '.join(f'{r:.2f}' for r in ones)}"
    return Measured(max(ratios), unit="x the error", note=note)


@claim(
    paper="One-Nearest-Neighbor Search is All You Need for Minimax Optimal Regression and Classification",
    method=search.SplitNearestNeighbor,
    says="excess risk with sqrt(n) groups falls at the minimax rate n^(-1/2), a Lipschitz function of two variables: slope",
    at_most=0.1,
)
def minimax_rate(scale: Scale) -> Measured:
    found = {n: v["refined"][round(n**0.5)] for n, v in runs(scale).items()}
    slope = np.polyfit(np.log(list(found)), np.log(list(found.values())), 1)[0]
    return Measured(abs(slope + 0.5), unit="from -0.5", note=f"slope {slope:.3f}")


@claim(
    paper="One-Nearest-Neighbor Search is All You Need for Minimax Optimal Regression and Classification",
    method=search.SplitNearestNeighbor,
    says="error of the refined rule with the best number of groups over that of k-NN with the best k, the worst n",
    at_most=1.1,
    known_miss="1.21 at n = 2000, 1.06 and 1.03 at 4000 and 8000, means of two draws; with sqrt(n) groups, as the entry has it, "
    "about 2, because noise dominates and the best k is far above sqrt(n)",
)
def refined_against_the_best_k(scale: Scale) -> Measured:
    return against_the_best_k(scale, "refined")


@claim(
    paper="One-Nearest-Neighbor Search is All You Need for Minimax Optimal Regression and Classification",
    method=search.SplitNearestNeighbor,
    says="error of the plain mean with the best number of groups over that of k-NN with the best k, the worst n",
    at_most=1.25,
    known_miss="1.57 at the worst n: the mean over all groups contains the groups whose nearest point is far away, the loss that "
    "the refined rule is there to mend",
)
def plain_against_the_best_k(scale: Scale) -> Measured:
    return against_the_best_k(scale, "plain")


@claim(
    paper="One-Nearest-Neighbor Search is All You Need for Minimax Optimal Regression and Classification",
    method=search.SplitNearestNeighbor.predict,
    says="two workers against scikit-learn's k-nearest neighbours with k = sqrt(n) and two workers: times faster",
    at_least=1.5,
)
def two_workers(scale: Scale) -> Measured:
    n = scale(quick=16_000, full=64_000)
    rng = np.random.default_rng(0)
    x, q = rng.random((n, 2)), rng.random((4000, 2))
    y, groups = surface(x) + 0.5 * rng.normal(size=n), round(n**0.5)
    ours = search.SplitNearestNeighbor(groups, 0.5, "regress", workers=2, generator=0).fit(x, y)
    theirs = KNeighborsRegressor(groups, n_jobs=2).fit(x, y)
    fast, slow = seconds(lambda: ours.predict(q), lambda: theirs.predict(q), repeats=3)
    return Measured(slow / fast, unit="x faster", note=f"{groups} groups")
