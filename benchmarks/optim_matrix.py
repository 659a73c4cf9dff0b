"""Steps of matrix preconditioners on the parameters of a transformer: Muon's products, Shampoo with and without new roots, state.

python benchmarks/optim_matrix.py [--quick]
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable

import torch
from _timing import interleaved, machine, table
from torch import nn

from resolvent import optim
from resolvent.optim.precision import product_dtype

Params = list[nn.Parameter]


def transformer(d: int, layers: int, words: int) -> tuple[Params, Params]:
    """Hidden matrices and everything else, with gradients; 256, 6 and 10240 make 10 million in 77 tensors."""
    generator = torch.Generator().manual_seed(0)

    def make(shape: tuple[int, ...]) -> nn.Parameter:
        p = nn.Parameter(0.02 * torch.randn(shape, generator=generator))
        p.grad = 0.01 * torch.randn(shape, generator=generator)
        return p

    hidden = [make(s) for _ in range(layers) for s in [(3 * d, d), (d, d), (4 * d, d), (d, 4 * d)]]
    vectors = [(3 * d,), *[(d,)] * 6, (4 * d,)] * layers
    rest = [make(s) for s in [(words, d), (256, d), (words, d), (d,), (d,), *vectors]]
    return hidden, rest


def products(params: Params) -> Callable[[], None]:
    """Five steps of Newton and Schulz, the matrix products alone."""
    dtype = product_dtype(params[0], "auto", tuple(params[0].shape))
    alike = Counter(tuple(sorted(p.shape, reverse=True)) for p in params)
    tall = [torch.randn(count, *shape).to(dtype) for shape, count in alike.items()]

    def run() -> None:
        for X in tall:
            for _ in range(5):
                G = X.mT @ X
                X @ (G @ G)

    return run


def with_step(optimizer: torch.optim.Optimizer, step: int) -> Callable[[], None]:
    """A step that the optimizer takes for its step number `step`."""

    def run() -> None:
        for group in optimizer.param_groups:
            group["step"] = step - 1  # where pytorch_optimizer counts
            for p in group["params"]:
                if "step" in optimizer.state.get(p, {}):
                    optimizer.state[p]["step"] = step - 1
        optimizer.step()

    return run


def muon_table(size: tuple[int, int, int], repeats: int) -> None:
    import pytorch_optimizer

    def hidden() -> Params:
        return transformer(*size)[0]

    everything = [p for part in transformer(*size) for p in part]
    calls = {
        "products": products(hidden()),
        "SteepestDescent": optim.SteepestDescent(hidden(), norm="spectral").step,
        "float32": optim.SteepestDescent(hidden(), norm="spectral", precision="full").step,
        "torch Muon": torch.optim.Muon(hidden()).step,
        "pytorch_optimizer Muon": pytorch_optimizer.Muon([{"params": hidden(), "use_muon": True}]).step,
        "AdamW, all parameters": torch.optim.AdamW(everything, foreach=True).step,
    }
    seconds = interleaved(calls, repeats=repeats)
    rows = [[name, value * 1e3, value / seconds["products"]] for name, value in seconds.items()]
    table("Orthogonalised momentum, hidden matrices", ["step", "ms", "x the products"], rows)


def shampoo_table(size: tuple[int, int, int], repeats: int) -> None:
    import pytorch_optimizer

    def every() -> Params:
        hidden, rest = transformer(*size)
        return hidden + rest

    def hidden() -> Params:
        return transformer(*size)[0]

    makes = {
        "Shampoo, hidden": lambda: optim.Shampoo(hidden()),
        "Shampoo, hidden, float32": lambda: optim.Shampoo(hidden(), precision="full"),
        "Shampoo, 4 bits, hidden": lambda: optim.Shampoo(hidden(), bits=4, precond_interval=100),
        "Shampoo, all": lambda: optim.Shampoo(every()),
        "pytorch_optimizer, hidden": lambda: pytorch_optimizer.Shampoo(hidden(), preconditioning_compute_steps=100),
    }
    optimizers = {name: make() for name, make in makes.items()}
    for optimizer in optimizers.values():
        optimizer.step()
    plain = interleaved({name: with_step(o, 101) for name, o in optimizers.items()}, repeats=repeats)
    renewing = interleaved({name: with_step(o, 200) for name, o in optimizers.items()}, repeats=1, warmup=0)
    peer = "pytorch_optimizer, hidden"
    amortised = {name: plain[name] + (renewing[name] - plain[name]) / 100 for name in makes}
    rows = []
    for name, optimizer in optimizers.items():
        state = [
            v for s in optimizer.state.values() for k, v in s.items() if k.startswith(("left", "right", "pre", "inv"))
        ]
        size_mb = sum(v.nbytes for v in state) / 1e6
        ratio = amortised[peer] / amortised[name]
        rows.append([name, plain[name] * 1e3, renewing[name] * 1e3, amortised[name] * 1e3, ratio, size_mb])
    header = [
        "optimizer",
        "ms a step",
        "ms with new roots",
        "ms amortised at 100",
        "x faster than the peer",
        "MB of factors",
    ]
    table("Shampoo", header, rows)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="a small transformer, to see that all runs")
    quick = parser.parse_args().quick
    size = (64, 1, 512) if quick else (256, 6, 10240)
    print(machine() if not quick else "quick")
    muon_table(size, 2 if quick else 7)
    shampoo_table(size, 2 if quick else 5)


if __name__ == "__main__":
    main()
