"""logdet, entropy and e^(tA) b of sparse matrices against matfree (JAX) and CoLA.

    python benchmarks/functions_matfree.py [--side 1000] [--repeats 3] [--only traces]

The peers leave the number of steps to the user: they get the smallest of a list with which they are right, found
beforehand and not timed, and so is compilation. matfree and CoLA multiply by the grid's slices and by torch's CSR.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from _timing import interleaved, machine, table

from resolvent import functions, spectra
from resolvent.operators import Laplacian, Sparse, grid_graph

STEPS = (5, 10, 20, 40, 80, 160, 320)


def shifted(side: int) -> Sparse:
    """L + I of a grid."""
    L = Laplacian(grid_graph((side, side), dtype=torch.float64))
    M = sp.csr_array((L.values.numpy(), L.indices.numpy(), L.indptr.numpy()), shape=tuple(L.shape))
    return Sparse(M + sp.eye_array(side**2, format="csr")).declare(hermitian=True, positive=True)


def exact_eigenvalues(side: int) -> torch.Tensor:
    t = 2 - 2 * torch.cos(torch.pi * torch.arange(side, dtype=torch.float64) / side)
    return (1 + t[:, None] + t).flatten()


def slices(side: int) -> Callable[[Any], Any]:
    """The product with L + I in JAX."""
    import jax.numpy as jnp

    degree = np.full((side, side), 5.0)
    for edge in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
        degree[edge] -= 1
    degrees = jnp.asarray(degree)

    def product(v: Any) -> Any:
        x = v.reshape(side, side)
        y = degrees * x
        y = y.at[1:].add(-x[:-1]).at[:-1].add(-x[1:]).at[:, 1:].add(-x[:, :-1]).at[:, :-1].add(-x[:, 1:])
        return y.reshape(-1)

    return product


def matfree_trace(side: int, f: str, steps: int, probes: int) -> Callable[[], float]:
    """tr f(L + I) by matfree's stochastic Lanczos quadrature."""
    import jax
    import jax.numpy as jnp
    from matfree import decomp, funm, stochtrace

    jax.config.update("jax_enable_x64", True)
    function = {"log": jnp.log, "entropy": lambda x: -x * jnp.log(x)}[f]
    product = slices(side)
    n = side**2
    dense = funm.dense_funm_sym_eigh(function)
    integrand = funm.monte_carlo_funm_sym(dense, decomp.tridiag_sym(steps, reortho="full"))
    sampler = stochtrace.sampler_signs(jnp.ones(n), num=probes)
    scale = 1.0 if f == "log" else float(exact_eigenvalues(side).sum())
    estimator = stochtrace.estimator_monte_carlo(integrand, sampler)
    run = jax.jit(lambda key: estimator(lambda x: product(x) / scale, key))
    return lambda: float(run(jax.random.PRNGKey(0)))


def matfree_action(side: int, b: torch.Tensor, t: float, steps: int) -> Callable[[], np.ndarray]:
    """e^(-t (L + I)) b by matfree's Lanczos."""
    import jax
    import jax.numpy as jnp
    from matfree import decomp, funm

    jax.config.update("jax_enable_x64", True)
    product = slices(side)
    dense = funm.dense_funm_sym_eigh(jnp.exp)
    action = funm.funm_lanczos_sym(dense, decomp.tridiag_sym(steps, reortho="full"))
    run = jax.jit(lambda v: action(lambda x: -t * product(x), v))
    vector = jnp.asarray(b.numpy())
    return lambda: np.asarray(run(vector))


def cola_operator(A: Sparse) -> Any:
    import cola

    M = torch.sparse_csr_tensor(A.indptr, A.indices, A.values, size=tuple(A.shape))
    return cola.PSD(cola.ops.LinearOperator(torch.float64, tuple(A.shape), matmat=lambda X: M @ X))


def cheapest(make: Callable[[int], Callable[[], Any]], good: Callable[[Any], bool]) -> tuple[int, Callable[[], Any]]:
    """The run with the smallest number of steps whose result is good."""
    for steps in STEPS:
        run = make(steps)
        if good(run()):
            return steps, run
    raise RuntimeError("the peer is never right")


def compare(name: str, ours: Callable[[], Any], peers: dict[str, tuple[int, Callable[[], Any]]], repeats: int) -> list:
    runs = {"resolvent": ours} | {peer: run for peer, (_, run) in peers.items()}
    seconds = interleaved(runs, repeats=repeats)
    return [
        [name, peer, peers[peer][0] if peer in peers else "-", seconds[peer], seconds[peer] / seconds["resolvent"]]
        for peer in runs
    ]


def traces(side: int, repeats: int) -> list:
    A = shifted(side)
    w = exact_eigenvalues(side)
    p = w / w.sum()
    exact = {"log": float(w.log().sum()), "entropy": float(-(p * p.log()).sum())}
    rows = []
    for f, ours in (
        ("log", lambda: spectra.logdet(A, method="slq", generator=0)),
        ("entropy", lambda: spectra.entropy(A, method="slq", generator=0)),
    ):
        value = exact[f]

        def near(x: Any, value: float = value) -> bool:
            return math.isclose(float(x), value, rel_tol=1e-2)

        assert near(ours())
        # Two probes: with fewer, nothing can be said about the confidence.
        peers = {"matfree": cheapest(lambda m, f=f: matfree_trace(side, f, m, 2), near)}
        if f == "log":
            try:
                import cola

                C = cola_operator(A)

                def cola_logdet(steps: int, C: Any = C) -> Callable[[], float]:
                    return lambda: float(
                        cola.logdet(C, cola.Lanczos(max_iters=steps), cola.Hutch(tol=1e-2, max_iters=2, bs=2))
                    )

                peers["CoLA"] = cheapest(cola_logdet, near)
            except ImportError:
                print("CoLA is not installed: pip install cola-ml")
        rows += compare(f"{f} of {side**2} rows, 1%", ours, peers, repeats)
    return rows


def actions(side: int, repeats: int) -> list:
    A = shifted(side)
    b = torch.randn(side**2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rows = []
    for t in (1.0, 10.0, 100.0):
        exact = functions.expm_multiply(-A, b, t)
        size = float(exact.norm())

        def near(x: Any, exact: torch.Tensor = exact, size: float = size) -> bool:
            return float((torch.as_tensor(np.asarray(x)) - exact).norm()) <= 1e-10 * size

        peers = {"matfree": cheapest(lambda m, t=t: matfree_action(side, b, t, m), near)}
        try:
            import cola

            def cola_action(steps: int, t: float = t) -> Callable[[], Any]:
                C = cola.PSD(cola.SelfAdjoint(cola_operator(A)))
                return lambda: cola.exp(-t * C, cola.Lanczos(max_iters=steps, tol=1e-14)) @ b

            peers["CoLA"] = cheapest(cola_action, near)
        except ImportError:
            print("CoLA is not installed: pip install cola-ml")
        rows += compare(
            f"e^(-tA) b, {side**2} rows, t|A| = {9 * t:g}",
            lambda t=t: functions.expm_multiply(-A, b, t),
            peers,
            repeats,
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", type=int, default=1000, help="of the grid for the traces; half of it for the actions")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=("traces", "actions"), help="one of the two tables")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    side, repeats = (60, 1) if given.quick else (given.side, given.repeats)
    header = ["task", "method", "steps", "seconds", "x of ours"]
    print(machine())
    if given.only != "actions":
        table("Traces against matfree and CoLA", header, traces(side, repeats))
    if given.only != "traces":
        table("Actions against matfree and CoLA", header, actions(max(side // 2, 30), repeats))


if __name__ == "__main__":
    main()
