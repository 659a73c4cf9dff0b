"""Fixed-radius neighbours: FixedRadiusGrid against scipy's k-d tree and, where it is installed, GriSPy.

python benchmarks/search_grid.py [--quick]
"""

from __future__ import annotations

import argparse
import math

import numpy as np
from _timing import interleaved, machine, table
from scipy.spatial import cKDTree

from resolvent.search import FixedRadiusGrid

try:
    from grispy import GriSPy
except ImportError:
    GriSPy = None


def clumps(n: int, generator: np.random.Generator) -> np.ndarray:
    """Half of the points in clumps, half of them spread out."""
    centres = generator.random((200, 3))
    near = centres[generator.integers(0, 200, n // 2)] + 0.01 * generator.normal(size=(n // 2, 3))
    return np.concatenate([near, generator.random((n - n // 2, 3))]) % 1.0


def rows(name: str, x: np.ndarray, queries: int, box: bool, quick: bool) -> list[list[object]]:
    rng = np.random.default_rng(1)
    n = len(x)
    q, r = rng.random((queries, 3)), (50 / n * 0.75 / math.pi) ** (1 / 3)
    periodic = {a: (0.0, 1.0) for a in range(3)} if box else None
    grid, tree = FixedRadiusGrid(x, periodic=periodic), cKDTree(x, boxsize=1.0 if box else None)
    jobs = {
        "within": {"ours": lambda: grid.within(q, r), "tree": lambda: tree.query_ball_point(q, r)},
        "10 nearest": {"ours": lambda: grid.nearest(q, 10), "tree": lambda: tree.query(q, 10)},
        "build": {"ours": lambda: FixedRadiusGrid(x, periodic=periodic), "tree": lambda: cKDTree(x)},
    }
    if GriSPy is not None:
        peer = GriSPy(x, N_cells=64, periodic={} if periodic is None else periodic)
        jobs["within"]["grispy"] = lambda: peer.bubble_neighbors(q, distance_upper_bound=r)
        jobs["10 nearest"]["grispy"] = lambda: peer.nearest_neighbors(q, n=10)
        jobs["build"]["grispy"] = lambda: GriSPy(x, N_cells=64)
    found = []
    for job, calls in jobs.items():
        seconds = interleaved(calls, repeats=3 if quick else 7)
        times = [seconds.get(peer_name, float("nan")) for peer_name in ("tree", "grispy")]
        found.append([name, job, n, seconds["ours"] * 1e3, *(t / seconds["ours"] for t in times)])
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    rng = np.random.default_rng(0)
    n, queries = (20_000, 200) if quick else (200_000, 1000)
    lines = rows("uniform", rng.random((n, 3)), queries, False, quick)
    lines += rows("uniform, periodic", rng.random((n, 3)), queries, True, quick)
    lines += rows("clumps", clumps(n, rng), queries, False, quick)
    header = ["points", "task", "n", "ours ms", "k-d tree / ours", "GriSPy / ours"]
    table(f"{queries} queries, one thread, about 50 neighbours in a ball; {machine()}", header, lines)


if __name__ == "__main__":
    main()
