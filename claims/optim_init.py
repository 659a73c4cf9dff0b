"""What the papers of the room `optim` about the start of training claim, measured."""

import functools
import math
import time
from itertools import pairwise

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from resolvent import optim
from resolvent.claims import Measured, Scale, claim
from resolvent.operators.threads import one_thread


@functools.cache
def digits() -> tuple[Tensor, Tensor]:
    """Inputs of mean square one in every entry on average, and classes, in random order."""
    x, y = load_digits(return_X_y=True)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    X = torch.tensor(x - x.mean(0), dtype=torch.float32)[order]
    return X / X.square().mean().sqrt(), torch.tensor(y)[order]


class Maxout(nn.Module):
    """The larger of two neighbouring outputs."""

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, 2)).amax(-1)


ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "maxout": Maxout}


def deep(activation: str, depth: int, width: int) -> nn.Sequential:
    sizes, k = [64] + [width] * (depth - 1), 2 if activation == "maxout" else 1
    layers = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b * k), ACTIVATIONS[activation]())]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def start(model: nn.Module, kind: str, seed: int) -> None:
    if kind == "lsuv":
        optim.lsuv_(model, digits()[0][:256], generator=seed)
        return
    fill = {
        "xavier": nn.init.xavier_uniform_,
        "he": functools.partial(nn.init.kaiming_normal_, nonlinearity="relu"),
        "orthogonal": nn.init.orthogonal_,
    }[kind]
    for module in model:
        if isinstance(module, nn.Linear):
            fill(module.weight)
            nn.init.zeros_(module.bias)


def train_together(
    models: list[nn.Sequential], rates: list[float], steps: int, batch: int, momentum: float, size: int
) -> tuple[Tensor, Tensor]:
    """Losses (steps, models) and final accuracies of SGD on the same batches, all models in one batched product per layer."""
    X, y = (part[:size] for part in digits())
    linear = [[layer for layer in model if isinstance(layer, nn.Linear)] for model in models]
    params = []
    for layers in zip(*linear, strict=True):
        params.append(torch.stack([layer.weight.detach().mT for layer in layers]).requires_grad_())
        params.append(torch.stack([layer.bias.detach()[None] for layer in layers]).requires_grad_())
    velocity, lr = [torch.zeros_like(p) for p in params], torch.tensor(rates)[:, None, None]
    g, losses = torch.Generator().manual_seed(0), []

    def outputs(x: Tensor) -> Tensor:
        h = x.expand(len(models), *x.shape)
        for i in range(0, len(params), 2):
            h = torch.baddbmm(params[i + 1], h, params[i])
            h = models[0][i + 1](h) if i + 2 < len(params) else h
        return h

    for _ in range(steps):
        chosen = torch.randint(len(X), (batch,), generator=g) if batch < len(X) else slice(None)
        logits, wanted = outputs(X[chosen]), y[chosen]
        each = nn.functional.cross_entropy(
            logits.movedim(0, 2), wanted[:, None].expand(-1, len(models)), reduction="none"
        )
        losses.append(each.detach().mean(0))
        grads = torch.autograd.grad(each.mean(0).sum(), params)
        with torch.no_grad():
            for p, v, grad in zip(params, velocity, grads, strict=True):
                p.sub_(lr * v.mul_(momentum).add_(grad))
    with torch.no_grad():
        return torch.stack(losses), (outputs(X).argmax(2) == y).float().mean(1)


@functools.cache
def worst_accuracies(full: bool) -> dict[str, float]:
    """Of every start: the accuracy at the best rate, with the activation that suits it least."""
    depth, width, steps, seeds = (40, 100, 400, 3) if full else (20, 40, 200, 1)
    rates = (1e-3, 10**-2.5, 1e-2, 10**-1.5, 1e-1) if full else (10**-2.5, 1e-2)
    kinds = ("lsuv", "xavier", "he", "orthogonal")
    worst = dict.fromkeys(kinds, 1.0)
    for activation in ACTIVATIONS:
        models = []
        for kind in kinds:
            for seed in range(seeds):
                torch.manual_seed(seed)
                model = deep(activation, depth, width)
                start(model, kind, seed)
                models += [model] * len(rates)
        with one_thread(not full):
            _, found = train_together(models, list(rates) * (len(kinds) * seeds), steps, 64, 0.9, 1797)
        best = found.reshape(len(kinds), seeds, len(rates)).median(1).values.amax(1)
        worst = {kind: min(value, float(best[i])) for i, (kind, value) in enumerate(worst.items())}
    return worst


def _note(found: dict[str, float]) -> str:
    return "the worst of the activations: " + ", ".join(f"{kind} {value:.2f}" for kind, value in found.items())


@claim(
    paper="All you need is a good init",
    method=optim.lsuv_,
    says="40 layers learn with ReLU, tanh and maxout alike: accuracy on the training data with the worst of the three",
    at_least=0.9,
)
def deep_networks_learn(scale: Scale) -> Measured:
    found = worst_accuracies(scale.full)
    return Measured(found["lsuv"], unit="accuracy", note=_note(found))


@claim(
    paper="All you need is a good init",
    method=optim.lsuv_,
    says="Xavier, He and orthogonal starts each fail with at least one of the activations (the best of their worst accuracies)",
    at_most=0.5,
)
def others_fail_somewhere(scale: Scale) -> Measured:
    found = worst_accuracies(scale.full)
    return Measured(max(value for kind, value in found.items() if kind != "lsuv"), unit="accuracy", note=_note(found))


@claim(
    paper="All you need is a good init",
    method=optim.lsuv_,
    says="every output of 40 layers has variance 1 within 0.1, with ReLU, tanh and maxout: the largest error",
    at_most=0.1,
)
def unit_variances(scale: Scale) -> Measured:
    worst, seconds = 0.0, 0.0
    for activation in ACTIVATIONS:
        torch.manual_seed(0)
        model = deep(activation, 40, 100)
        begin = time.perf_counter()
        optim.lsuv_(model, digits()[0][: scale(quick=256, full=1797)], generator=0)
        seconds = max(seconds, time.perf_counter() - begin)
        h = digits()[0][: scale(quick=256, full=1797)]
        with torch.no_grad():
            for layer in model:
                h = layer(h)
                if isinstance(layer, nn.Linear):
                    worst = max(worst, abs(float(h.var(correction=0)) - 1))
    return Measured(worst, unit="error of a variance", note=f"{seconds:.2f} s for 40 layers")


@functools.cache
def sampled(weights: str, width: int, draws: int) -> optim.Sampled:
    with one_thread():
        return optim.empirical_fluctuations(
            "tanh", weights, width=width, depth=60, draws=draws, ntk=(5, 20, 60), generator=0
        )


@claim(
    paper="Feature Learning and Generalization in Deep Networks with Orthogonal Weights",
    method=optim.depth_fluctuations,
    says="Gaussian weights: the four-point vertex V/K^2 of tanh grows linearly with the depth, by 2/3 a layer (relative error)",
    at_most=0.02,
)
def gaussian_growth(scale: Scale) -> Measured:
    depth = scale(quick=600, full=3000)
    found = optim.depth_fluctuations("tanh", "gaussian", width=64, depth=depth).four_point
    slope = float(found[-1] - found[depth // 2 - 1]) / (depth - depth // 2)
    return Measured(abs(slope * 1.5 - 1), unit="relative error", note=f"{slope:.4f} a layer")


@claim(
    paper="Feature Learning and Generalization in Deep Networks with Orthogonal Weights",
    method=optim.empirical_fluctuations,
    says="orthogonal weights: V/K^2 does not depend on the depth; |V/K^2| sampled at depth 60 over that at depth 20, width 64",
    at_most=1.3,
)
def orthogonal_is_flat(scale: Scale) -> Measured:
    found = sampled("orthogonal", 64, scale(quick=1000, full=4000))
    values, errors = found.four_point[[19, 59]].tolist(), found.four_point_error[[19, 59]].tolist()
    theory = optim.depth_fluctuations("tanh", "orthogonal", width=64, depth=60).four_point[[19, 59]].tolist()
    pairs = zip((20, 60), values, errors, theory, strict=True)
    note = "; ".join(f"depth {d}: {v:.3f} ± {e:.3f}, theory {t:.3f}" for d, v, e, t in pairs)
    return Measured(abs(values[1] / values[0]), unit="x", note=note + "; the limit is -2")


@claim(
    paper="Feature Learning and Generalization in Deep Networks with Orthogonal Weights",
    method=optim.empirical_fluctuations,
    says="the norm of the last preactivations fluctuates less with orthogonal weights: ratio of the variances at depth 60, width 64",
    at_least=30.0,
)
def steadier_norms(scale: Scale) -> Measured:
    draws = scale(quick=1000, full=4000)
    a, b = (float(sampled(weights, 64, draws).variance[-1]) for weights in ("gaussian", "orthogonal"))
    return Measured(a / b, unit="x smaller", note=f"{a:.4f} and {b:.5f}")


@claim(
    paper="Feature Learning and Generalization in Deep Networks with Orthogonal Weights",
    method=optim.depth_fluctuations,
    says="theory is the limit of wide networks: its mean error of V/K^2 at depths 3 to 24 falls like 1/width (at width 32 over at 256)",
    at_least=3.0,
)
def limit_of_wide_networks(scale: Scale) -> Measured:
    errors = []
    for width, draws in ((32, scale(quick=4000, full=40_000)), (256, scale(quick=2000, full=20_000))):
        theory = optim.depth_fluctuations("tanh", "orthogonal", width=width, depth=24).four_point
        with one_thread():
            found = optim.empirical_fluctuations("tanh", "orthogonal", width=width, depth=24, draws=draws, generator=0)
        errors.append(float((found.four_point - theory)[2:].mean().abs()))
    return Measured(errors[0] / errors[1], unit="x", note=f"mean error of V/K^2 {errors[0]:.4f} and {errors[1]:.4f}")


@claim(
    paper="Feature Learning and Generalization in Deep Networks with Orthogonal Weights",
    method=optim.empirical_fluctuations,
    says="the tangent kernel's fluctuation saturates by depth 20 with orthogonal weights: depth 60 over depth 20, width 64",
    at_most=1.3,
)
def tangent_kernel_saturates(scale: Scale) -> Measured:
    draws = scale(quick=1000, full=4000)
    both = {weights: sampled(weights, 64, draws).ntk_variance.tolist() for weights in ("gaussian", "orthogonal")}
    note = "; ".join(f"{w}: " + ", ".join(f"{v:.4f}" for v in found) for w, found in both.items())
    return Measured(both["orthogonal"][2] / both["orthogonal"][1], unit="x", note=note + " at depths 5, 20, 60")


@claim(
    paper="Feature Learning and Generalization in Deep Networks with Orthogonal Weights",
    method=optim.empirical_fluctuations,
    says="and keeps growing with Gaussian weights: depth 60 over depth 20, width 64",
    at_least=2.0,
)
def gaussian_tangent_kernel_grows(scale: Scale) -> Measured:
    found = sampled("gaussian", 64, scale(quick=1000, full=4000))
    error = float(found.ntk_variance_error[2])
    return Measured(
        float(found.ntk_variance[2] / found.ntk_variance[1]),
        unit="x",
        note=f"{float(found.ntk_variance[2]):.2f} ± {error:.2f}",
    )


@claim(
    paper="Feature Learning and Generalization in Deep Networks with Orthogonal Weights",
    method=optim.orthogonal_critical_,
    says="full-batch training at depth 32 reaches a loss in fewer steps than from Gaussian weights, both at their best rate",
    at_least=1.2,
)
def fewer_steps(scale: Scale) -> Measured:
    rates, seeds = scale(quick=(0.05, 0.1), full=(0.0125, 0.025, 0.05, 0.1, 0.2)), scale(quick=1, full=3)
    size, limit, width = scale(quick=128, full=1000), scale(quick=140, full=600), scale(quick=32, full=64)
    models = []
    for weights in ("gaussian", "orthogonal"):
        for seed in range(seeds):
            torch.manual_seed(seed)
            models += [deep("tanh", 32, width)] * len(rates)
            if weights == "orthogonal":
                optim.orthogonal_critical_(models[-1], "tanh", generator=seed)
            else:
                for layer in models[-1][::2]:
                    nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
                    nn.init.zeros_(layer.bias)
    with one_thread(not scale.full):
        losses, _ = train_together(models, list(rates) * (2 * seeds), limit, size, 0.0, size)
    reached = losses <= 0.5
    steps = torch.where(reached.any(0), reached.float().argmax(0), math.inf).reshape(2, seeds, len(rates))
    a, b = steps.median(1).values.amin(1).tolist()
    return Measured(
        min(a, limit) / b, unit="x fewer steps", note=f"{a:g} and {b:g} steps to a loss of 0.5, of {limit} at most"
    )
