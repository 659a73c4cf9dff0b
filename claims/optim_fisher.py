"""Claims of the paper on inverse Fisher matrices from gradients alone (M-FAC)."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from _seconds import seconds
from sklearn.datasets import load_digits
from torch import Tensor, nn

from resolvent import optim
from resolvent.claims import Measured, Scale, claim

MFAC = "M-FAC: Efficient Matrix-Free Approximations of Second-Order Information"


def dense_products(G: Tensor, X: Tensor, damp: float) -> Tensor:
    """Of the dense inverse, refined with residuals in extended precision: in double alone they are off by 1e-8 for damping 1e-7."""
    wide = G.numpy().astype(np.longdouble)
    F = damp * np.eye(G.shape[1], dtype=np.longdouble) + wide.T @ wide / len(G)
    inverse, right = np.linalg.inv(F.astype(np.float64)), X.T.numpy().astype(np.longdouble)
    found = inverse @ right
    for _ in range(3):
        found += inverse @ (right - F @ found)
    return torch.from_numpy(found.astype(np.float64))


@claim(
    paper="M-FAC: Efficient Matrix-Free Approximations of Second-Order Information",
    method=optim.inverse_fisher,
    says="d = 500, m = 64: the product equals that of the dense inverse in both modes (relative error in float64)",
    at_most=1e-8,
)
def products_are_exact(scale: Scale) -> Measured:
    draw, errors = torch.Generator().manual_seed(0), []
    for damp in scale(quick=(1e-5,), full=(1e-7, 1e-5, 1e-3)):
        G, X = (torch.randn(k, 500, dtype=torch.float64, generator=draw) for k in (64, 8))
        wanted = dense_products(G, X, damp)
        for mode in ("static", "dynamic"):
            found = optim.inverse_fisher(G, damp, mode=mode) @ X.T
            errors.append(float((found - wanted).norm() / wanted.norm()))
    return Measured(max(errors), unit="relative error")


@claim(
    paper="M-FAC: Efficient Matrix-Free Approximations of Second-Order Information",
    method=optim.inverse_fisher,
    says="a query costs at most 3 times two products with the matrix of gradients, m = 128",
    at_most=3.0,
)
def a_query_is_two_passes(scale: Scale) -> Measured:
    d = scale(quick=100_000, full=1_000_000)
    draw = torch.Generator().manual_seed(0)
    G, x, c = torch.randn(128, d, generator=draw), torch.randn(d, generator=draw), torch.randn(128, generator=draw)
    operators = [optim.inverse_fisher(G, mode=mode) for mode in ("static", "dynamic")]
    passes, *queries = seconds(lambda: (G @ x, c @ G), *(lambda F=F: F @ x for F in operators), repeats=9)
    note = ", ".join(f"{F.mode} {q * 1e3:.1f}" for F, q in zip(operators, queries, strict=True))
    return Measured(max(queries) / passes, unit="x two passes", note=f"{note} against {passes * 1e3:.1f} ms; d = {d}")


def images() -> tuple[Tensor, Tensor]:
    X, y = load_digits(return_X_y=True)
    return torch.as_tensor(X, dtype=torch.float32) / 16, torch.as_tensor(y)


def perceptron(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 10))


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@cache
def pruned(seed: int, rounds: int, samples: int) -> dict[str, float]:
    """Losses of accuracy on held-out digits at 80 % sparsity, by what decides: "size", "diagonal" or "fisher"."""
    X, y = images()
    model, draw = perceptron(seed), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(400):
        rows = torch.randint(1400, (64,), generator=draw)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(X[rows]), y[rows]).backward()
        optimizer.step()
    first = weights(model)

    def accuracy(w: Tensor) -> float:
        nn.utils.vector_to_parameters(w, model.parameters())
        with torch.no_grad():
            return float((model(X[1400:]).argmax(1) == y[1400:]).float().mean())

    def gradients() -> Tensor:
        rows = torch.randint(1400, (samples,), generator=draw)
        params = list(model.parameters())
        found = [
            torch.autograd.grad(nn.functional.cross_entropy(model(X[i : i + 1]), y[i : i + 1]), params)
            for i in rows.tolist()
        ]
        return torch.stack([torch.cat([g.flatten() for g in one]) for one in found])

    whole, lost = accuracy(first), {}
    smallest = first.abs().argsort()[: int(0.8 * len(first))]
    lost["size"] = whole - accuracy(first.index_fill(0, smallest, 0.0))
    for kind in ("diagonal", "fisher"):
        w = first.clone()
        for number in range(1, rounds + 1):
            # The Fisher matrix is measured anew on what is left, as the paper's code does.
            nn.utils.vector_to_parameters(w, model.parameters())
            live = (w != 0).nonzero()[:, 0]
            G, drop = gradients()[:, live], len(live) - round(len(w) * 0.2 ** (number / rounds))
            if kind == "fisher":
                w[live] = optim.inverse_fisher(G, 1e-5).prune(w[live], drop / len(live))
            else:
                w[live[(w[live].square() * (G.square().mean(0) + 1e-5)).argsort()[:drop]]] = 0
        lost[kind] = whole - accuracy(w)
    return lost


@claim(
    paper="M-FAC: Efficient Matrix-Free Approximations of Second-Order Information",
    method=optim.inverse_fisher,
    says="pruning a digits network to 80 % at once: at most half of the accuracy that pruning by size loses",
    at_most=0.5,
)
def pruning_against_size(scale: Scale) -> Measured:
    lost = [pruned(seed, 4, scale(quick=96, full=512)) for seed in scale(quick=(0,), full=(0, 1, 2, 3, 4))]
    fisher, size = (sum(one[kind] for one in lost) / len(lost) for kind in ("fisher", "size"))
    return Measured(fisher / size, unit="of the drop", note=f"{100 * fisher:.1f} and {100 * size:.1f} points, 4 rounds")


@claim(
    paper="M-FAC: Efficient Matrix-Free Approximations of Second-Order Information",
    method=optim.inverse_fisher,
    says="and less than pruning by the diagonal of the Fisher matrix",
    at_most=1.0,
)
def pruning_against_the_diagonal(scale: Scale) -> Measured:
    lost = [pruned(seed, 4, scale(quick=96, full=512)) for seed in scale(quick=(0,), full=(0, 1, 2, 3, 4))]
    fisher, other = (sum(one[kind] for one in lost) / len(lost) for kind in ("fisher", "diagonal"))
    return Measured(fisher / other, unit="of the drop", note=f"{100 * fisher:.1f} and {100 * other:.1f} points")


def steps_to_loss(make: Callable[[nn.Module], torch.optim.Optimizer], seed: int, most: int) -> int:
    """Steps until the mean loss over all training data is 0.1; looked at every ten steps."""
    X, y = images()
    model, draw = perceptron(seed), torch.Generator().manual_seed(seed)
    optimizer = make(model)
    for number in range(most):
        if number % 10 == 0:
            with torch.no_grad():
                if nn.functional.cross_entropy(model(X[:1400]), y[:1400]) <= 0.1:
                    return number
        rows = torch.randint(1400, (128,), generator=draw)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(X[rows]), y[rows]).backward()
        optimizer.step()
    return most


@claim(
    paper="M-FAC: Efficient Matrix-Free Approximations of Second-Order Information",
    method=optim.MFAC,
    says="reaches a training loss of 0.1 on digits in fewer steps than SGD, both the best of one grid: rate and damping, rate and momentum",
    at_least=1.0,
)
def fewer_steps_than_sgd(scale: Scale) -> Measured:
    seeds, most = scale(quick=(0,), full=(0, 1, 2)), scale(quick=150, full=300)
    # At quick scale only the middle of the grids, where the best of both are.
    rates, damps, momenta = scale(
        quick=((-1, 0, 1), (1e-3,), (0.9,)), full=(range(-3, 4), (1e-5, 1e-4, 1e-3), (0.0, 0.9, 0.95))
    )
    ours = min(
        sum(steps_to_loss(lambda m, lr=lr, damp=damp: fisher_steps(m, lr, damp), seed, most) for seed in seeds)
        for lr in (8e-3 * 2.0**k for k in rates)
        for damp in damps
    )
    sgd = min(
        sum(
            steps_to_loss(lambda m, lr=lr, mu=mu: torch.optim.SGD(m.parameters(), lr, mu), seed, most) for seed in seeds
        )
        for lr in (0.2 * 2.0**k for k in rates)
        for mu in momenta
    )
    return Measured(sgd / max(ours, 1), unit="x fewer steps", note=f"{ours} and {sgd} steps, m = 128")


def fisher_steps(model: nn.Module, lr: float, damp: float) -> optim.MFAC:
    return optim.MFAC(model.parameters(), lr=lr, momentum=0.9, history=128, damp=damp)
