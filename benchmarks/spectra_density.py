"""density of the Laplacian of a grid of 10^6 vertices, 8 probes x 50 steps, against matfree (JAX).

    python benchmarks/spectra_density.py [--side 1000] [--probes 8] [--steps 50]

matfree multiplies by slices of the grid, which is less memory traffic than any stored matrix; we multiply by a stored
sparse matrix. It runs without reorthogonalisation too, compiled beforehand, and its compilation is not timed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import torch
from _timing import interleaved, machine, table

from resolvent.operators import Laplacian, grid_graph
from resolvent.spectra import density
from resolvent.spectra.density import SpectralDensity


def exact_cdf(side: int, x: torch.Tensor) -> torch.Tensor:
    """The distribution of the eigenvalues ``2 - 2 cos(pi i / side) + 2 - 2 cos(pi j / side)``."""
    t = 2 - 2 * torch.cos(torch.pi * torch.arange(side, dtype=torch.float64) / side)
    below = torch.searchsorted(t, x[:, None] - t, right=True)
    return below.sum(1) / side**2


def matfree_density(
    side: int, probes: int, steps: int, reortho: str
) -> Callable[[], tuple[np.ndarray, np.ndarray]] | None:
    """The same rules by matfree, or None where it is not installed."""
    try:
        import jax
        import jax.numpy as jnp
        from matfree import decomp
    except ImportError:
        return None
    jax.config.update("jax_enable_x64", True)
    degree = np.full((side, side), 4.0)
    for edge in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
        degree[edge] -= 1
    degrees = jnp.asarray(degree)

    def product(v):
        x = v.reshape(side, side)
        y = degrees * x
        y = y.at[1:].add(-x[:-1]).at[:-1].add(-x[1:]).at[:, 1:].add(-x[:, :-1]).at[:, :-1].add(-x[:, 1:])
        return y.reshape(-1)

    tridiagonalise = decomp.tridiag_sym(steps, reortho=reortho, materialize=True)

    @jax.jit
    def rules(vectors):
        def one(v):
            w, S = jnp.linalg.eigh(tridiagonalise(product, v).J_small)
            return w, S[0] ** 2

        # One probe after the other: together their bases do not fit.
        return jax.lax.map(one, vectors)

    key = jax.random.PRNGKey(0)
    vectors = jax.random.rademacher(key, (probes, side * side), dtype=jnp.float64)
    return lambda: tuple(np.asarray(r) for r in jax.block_until_ready(rules(vectors)))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", type=int, default=1000)
    parser.add_argument("--probes", type=int, default=8)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    A = Laplacian(grid_graph((given.side, given.side), dtype=torch.float64))

    def ours() -> SpectralDensity:
        return density(A, method="slq", probes=given.probes, steps=given.steps, generator=0)

    competitors: dict[str, Callable[[], object]] = {"resolvent": ours}
    for reortho in ("full", "none"):
        peer = matfree_density(given.side, given.probes, given.steps, reortho)
        if peer is not None:
            competitors[f"matfree, reortho={reortho}"] = peer
    if len(competitors) == 1:
        print("matfree is not installed: pip install matfree jax")
    seconds = interleaved(competitors, repeats=given.repeats)
    x = torch.linspace(-0.5, 8.5, 400, dtype=torch.float64)
    exact = exact_cdf(given.side, x)
    rows = []
    for name, run in competitors.items():
        law = run()
        if not isinstance(law, SpectralDensity):
            nodes, weights = (torch.from_numpy(np.array(r)) for r in law)
            law = SpectralDensity(nodes, weights, given.side**2, "slq", torch.zeros_like(nodes))
        error = float((law.cdf(x) - exact).abs().max())
        rows.append([name, seconds[name], seconds[name] / seconds["resolvent"], error])
    title = f"density, grid Laplacian of {given.side**2} rows, {given.probes} probes x {given.steps} steps, float64"
    table(f"{title}; {machine()}", ["method", "seconds", "x of ours", "largest error of the cdf"], rows)


if __name__ == "__main__":
    main()
