"""The optimizers that the contract runs over, and the small problems that it runs them on.

A class enters with one line in `CASES`. `make` takes parameters (or groups) and options, and sets what the class cannot do
without; a class that takes a module instead of parameters gives `build`, and `advance` where its step is not that of torch.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from resolvent.optim import (
    LAMB,
    LARS,
    MFAC,
    NAG,
    OASIS,
    SGDP,
    AdaHessian,
    AdamP,
    CoRe,
    ExactGaussNewton,
    InverseFreeKFAC,
    LearnedOptimizer,
    Lion,
    OptimisticAMSGrad,
    Shampoo,
    SpectralSGD,
    SteepestDescent,
)

SHAPES = ((6, 5), (4,), (3, 2, 2, 2), (), (0, 3), (7, 1), (1, 4))


@dataclass(frozen=True)
class Case:
    """An optimizer of the contract.

    `lr` is one with which the problems below go down in a few steps; `change` are hyper-parameters of a second group, `bad` options
    that must be refused. `random`: draws probes (from a `generator`, which `make` seeds). `coupled`: one parameter's step depends on other
    parameters. `loose`: multiple of the tolerances between paths. `compiles`: torch.compile takes the step. `narrow`: names of states that are
    kept in less than the precision of the work on purpose.
    """

    make: Callable[..., torch.optim.Optimizer]
    lr: float | None = 0.0625
    change: dict[str, Any] = field(default_factory=lambda: {"lr": 0.03125, "weight_decay": 0.125})
    bad: tuple[dict[str, Any], ...] = ()
    random: bool = False
    coupled: bool = False
    loose: float = 1.0
    compiles: bool = True
    narrow: tuple[str, ...] = ()
    build: Callable[..., torch.optim.Optimizer] | None = None
    advance: Callable[..., Any] | None = None

    @property
    def kind(self) -> Any:
        """The class."""
        return type(self.build(network()) if self.build else self.make(parameters()))

    def __call__(self, params: Iterable[Any], **options: Any) -> Any:
        settings = {} if self.lr is None else {"lr": self.lr}
        return self.make(params, **{**settings, **options})

    def over(self, model: nn.Module, **options: Any) -> Any:
        """The optimizer of a module's parameters."""
        return self.build(model, **options) if self.build else self(model.parameters(), **options)


# Sorted by name; a variant of a class that takes another way through the code has an entry of its own.
CASES: dict[str, Case] = {
    "AdaHessian": Case(
        lambda p, **kw: AdaHessian(p, **{"generator": 0, **kw}),
        bad=({"hessian_power": 1.5}, {"every": 0}, {"block": "rows"}, {"generator": 0.5}),
        random=True,
        coupled=True,
        loose=30.0,
    ),
    "AdaHessian every 3": Case(
        lambda p, **kw: AdaHessian(p, **{"generator": 0, "every": 3, "block": 1, "hessian_power": 0.5, **kw}),
        random=True,
        coupled=True,
        loose=30.0,
    ),
    "LearnedOptimizer": Case(
        lambda p, **kw: LearnedOptimizer(p, **{"parametrization": "sp", **kw}),
        lr=1.0,
        change={"lr": 0.5},
        bad=({"parametrization": "ntk"}, {"base_width": 0}),
    ),
    "ExactGaussNewton": Case(
        ExactGaussNewton,
        build=lambda model, **kw: ExactGaussNewton(model.parameters(), **{"damping": 0.125, "momentum": 0.5, **kw}),
        advance=lambda optimizer, model, x, y: optimizer.step(model, x, y),
    ),
    "InverseFreeKFAC": Case(
        InverseFreeKFAC,
        build=lambda model, **kw: InverseFreeKFAC(model, **{"interval": 2, "lr_cov": 0.03125, "warmup": (), **kw}),
    ),
    "Lion": Case(Lion, bad=({"norm": "l3"}, {"p": 1.0}, {"betas": (1.0, 0.9)})),
    "Lion spectral": Case(lambda p, **kw: Lion(p, **{"norm": "spectral", **kw}), loose=30.0, compiles=False),
    "SpectralSGD": Case(SpectralSGD, bad=({"momentum": 1.0}, {"power_steps": 0})),
    "MFAC": Case(
        lambda p, **kw: MFAC(p, **{"history": 4, "damp": 0.125, **kw}),
        bad=({"momentum": 1.0}, {"history": 0}, {"damp": 0.0}, {"storage": torch.int32}),
        coupled=True,
        loose=30.0,
        compiles=False,
    ),
    "MFAC bfloat16": Case(
        lambda p, **kw: MFAC(p, **{"history": 4, "damp": 0.125, "momentum": 0.5, "storage": torch.bfloat16, **kw}),
        coupled=True,
        loose=30.0,
        compiles=False,
        narrow=("history",),
    ),
    "OASIS": Case(
        lambda p, **kw: OASIS(p, **{"generator": 0, "warmstart": 4, "eta0": 1e-3, "stochastic": False, **kw}),
        lr=None,
        bad=({"beta2": 1.0}, {"alpha": 0.0}, {"momentum": 1.0}, {"warmstart": 0}, {"eta0": 0.0}),
        change={"lr": 0.03125, "weight_decay": 0.125},
        random=True,
        coupled=True,
        loose=30.0,
    ),
    "OASIS stochastic": Case(
        lambda p, **kw: OASIS(p, **{"generator": 0, "warmstart": 4, "momentum": 0.5, **kw}),
        lr=0.0625,
        change={"lr": 0.03125, "weight_decay": 0.125},
        random=True,
        coupled=True,
        loose=30.0,
    ),
    # A larger ridge than the default: below it are eigenvalues of which float32 keeps no digits.
    "Shampoo": Case(
        lambda p, **kw: Shampoo(p, **{"eps": 1e-3, **kw}),
        bad=(
            {"exponent": "best"},
            {"precond_interval": 0},
            {"block": 0},
            {"bits": 3},
            {"graft": "lion"},
            {"rectify": (1,)},
        ),
        loose=100.0,
        compiles=False,
    ),
    # Eigenvectors of equal eigenvalues are any, and are rounded to 4 bits as they are.
    "Shampoo in 4 bits": Case(
        lambda p, **kw: Shampoo(
            p, **{"eps": 0.1, "bits": 4, "min_quant_size": 0, "precond_interval": 3, "stat_interval": 2, **kw}
        ),
        loose=2e4,
        compiles=False,
        narrow=("left_scales", "right_scales", "left_root_scales", "right_root_scales"),
    ),
    "Shampoo, original": Case(
        lambda p, **kw: Shampoo(
            p, **{"eps": 1e-3, "exponent": "original", "graft": None, "precond_interval": 2, "block": 3, **kw}
        ),
        loose=100.0,
        compiles=False,
    ),
    "SteepestDescent": Case(
        SteepestDescent,
        lr=0.03125,
        bad=({"norm": "l3"}, {"momentum": 1.0}, {"scale": "large"}, {"steps": 0}, {"precision": "half"}),
        loose=30.0,
    ),
    "SteepestDescent dual": Case(
        lambda p, **kw: SteepestDescent(p, **{"norm": "spectral", "scale": "dual", "steps": None, **kw}),
        lr=0.0009765625,
        coupled=True,
        loose=30.0,
        compiles=False,
    ),
    "LAMB": Case(LAMB),
    "LARS": Case(lambda p, **kw: LARS(p, **{"trust": 0.5, **kw}), bad=({"trust": 0.0}, {"momentum": 1.0})),
    "NAG": Case(NAG, bad=({"momentum": 1.0}, {"momentum": -0.1})),
    "AdamP": Case(AdamP, bad=({"delta": -0.1}, {"wd_ratio": -1.0})),
    "AdamP Nesterov": Case(lambda p, **kw: AdamP(p, **{"nesterov": True, "delta": 1.5, **kw}), loose=3.0),
    "SGDP": Case(SGDP, lr=0.015625, bad=({"dampening": 2.0}, {"momentum": 1.0})),
    "OptimisticAMSGrad": Case(
        lambda p, **kw: OptimisticAMSGrad(p, **{"history": 3, **kw}),
        lr=0.015625,
        bad=({"history": 0}, {"reg": 0.0}, {"predictor": "next"}),
        coupled=True,
        loose=30.0,
    ),
    "OptimisticAMSGrad last": Case(
        lambda p, **kw: OptimisticAMSGrad(p, **{"predictor": "last", **kw}), lr=0.015625, loose=3.0
    ),
    "CoRe": Case(
        CoRe,
        lr=0.0078125,
        bad=({"frozen": 2.0}, {"etas": (1.5, 1.2)}, {"step_sizes": (1.0, 0.1)}, {"score_history": -1}),
    ),
    "CoRe frozen": Case(
        lambda p, **kw: CoRe(p, **{"score_history": 3, "frozen": 0.25, **kw}), lr=0.0078125, compiles=False
    ),
}


def parameters(dtype: torch.dtype = torch.float32, seed: int = 0, shapes: Iterable[Any] = SHAPES) -> list[nn.Parameter]:
    """Parameters of many shapes, an empty one and one without axes among them."""
    draw = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(s, generator=draw, dtype=torch.float64).to(dtype)) for s in shapes]


def loss_of(params: Iterable[Tensor]) -> Tensor:
    """A smooth function of parameters, curved in every direction, not alike in any two."""
    terms = []
    for p in params:
        x = torch.view_as_real(p) if p.is_complex() else p
        slope = (
            torch.linspace(0.5, 2.0, max(x.numel(), 1), dtype=torch.float32)[: x.numel()].reshape(x.shape).to(x.dtype)
        )
        terms.append((slope * (x - 0.25 * slope).square()).sum() + 0.05 * (x.sum() - x.square().sum()).square())
    return torch.stack([t.float() if t.dtype != torch.float64 else t for t in terms]).sum()


def gradients(case: Case, optimizer: torch.optim.Optimizer, params: Iterable[Tensor], sign: float = 1.0) -> Tensor:
    """The gradients of a step, with the graph where the method needs one."""
    optimizer.zero_grad()
    loss = sign * loss_of(params)
    loss.backward(create_graph=optimizer.needs == "graph")
    return loss.detach()


def go(case: Case, optimizer: Any, params: Iterable[Tensor], steps: int, sign: float = 1.0) -> None:
    """Steps on `loss_of`."""
    params = list(params)
    for _ in range(steps):
        gradients(case, optimizer, params, sign)
        optimizer.step()
    optimizer.zero_grad()


def network(dtype: torch.dtype = torch.float32) -> nn.Module:
    """A small network with matrices, a normalisation and biases."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 3)).to(dtype)


def batch(number: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Inputs and targets, the same for the same number."""
    draw = torch.Generator().manual_seed(100 + number)
    x = torch.randn(16, 5, generator=draw)
    return x.to(dtype), torch.sin(x[:, :3] * 2).to(dtype)


def train(case: Case, optimizer: Any, model: nn.Module, steps: Iterable[int]) -> None:
    """Steps of a network on the batches of these numbers."""
    for number in steps:
        x, y = batch(number, next(model.parameters()).dtype)
        if case.advance is not None:
            case.advance(optimizer, model, x, y)
            continue
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), y).backward(create_graph=optimizer.needs == "graph")
        optimizer.step()
    optimizer.zero_grad()


def tensors(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    """All tensors of the state, by name."""

    def walk(name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, dict):
            for key, inner in value.items():
                yield from walk(str(key), inner)
        elif isinstance(value, (list, tuple)):
            for inner in value:
                yield from walk(name, inner)

    for key, state in optimizer.state.items():
        if isinstance(key, Tensor):
            yield from walk("", state)


def close(left: Iterable[Tensor], right: Iterable[Tensor], rtol: float) -> None:
    """Finite, and the same up to `rtol` of the largest entry (of 1 at least)."""
    for a, b in zip(left, right, strict=True):
        a, b = a.detach().double(), b.detach().double()
        scale = max(1.0, float(b.abs().max()) if b.numel() else 0.0)
        assert a.shape == b.shape and bool(torch.isfinite(b).all())
        assert torch.allclose(a, b, rtol=0, atol=rtol * scale), (a - b).abs().max()


def equal(left: Iterable[Tensor], right: Iterable[Tensor]) -> None:
    """Bit by bit."""
    for a, b in zip(left, right, strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b)


def saved(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The state after a way through a file that trusts nothing."""
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)
