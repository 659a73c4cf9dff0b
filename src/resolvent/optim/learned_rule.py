"""The update of a learned optimizer: features of every weight, and the perceptron that turns them into a step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

# Decays at which the accumulators start; what is learned is a shift of log(1 - decay) / 10.
MOMENTUM, SQUARES, FACTORED = (0.9, 0.99, 0.999), (0.999,), (0.9, 0.99, 0.999)
TIMES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4, 3e4, 1e5)
# Features of each weight: 16 of its own, 12 of its row and its column, and those of the time.
OWN, SHARED = 16, 12
FEATURES = OWN + SHARED + len(TIMES)
STEP = MAGNITUDE = 1e-3
# Rows are taken together up to this many weights, so that features stay in the cache.
BLOCK = 32_768

Meta = dict[str, Tensor]
Moments = dict[str, Tensor]


def initial_meta(hidden: int, layers: int, generator: torch.Generator) -> Meta:
    """Weights of a fresh perceptron, normal of variance 1 / fan_in, cut at two deviations, and decays unshifted."""
    meta = {}
    width = FEATURES
    for k, size in enumerate([hidden] * layers + [2]):
        w = torch.empty(width, size)
        # the deviation of a normal number cut at two is 0.8796
        torch.nn.init.trunc_normal_(w, 0.0, 1.0, -2.0, 2.0, generator=generator)
        meta[f"w{k}"] = w / (0.87962566 * math.sqrt(width))
        meta[f"b{k}"] = torch.zeros(size)
        width = size
    decays = {"momentum_decays": MOMENTUM, "rms_decays": SQUARES, "adafactor_decays": FACTORED}
    return {**meta, **{name: torch.zeros(len(start)) for name, start in decays.items()}}


def factored(shape: Sequence[int]) -> tuple[int, int] | None:
    """The second largest and the largest axis, whose means of squares are kept; None for vectors."""
    if len(shape) < 2:
        return None
    order = sorted(range(len(shape)), key=lambda k: shape[k])
    return order[-2], order[-1]


def begin(p: Tensor) -> Moments:
    """Accumulators of a parameter (particles, *shape): decays come second, reduced axes have length one."""
    n, shape = p.shape[0], p.shape[1:]
    axes = factored(shape)
    made = {"momentum": p.new_zeros(n, 3, *shape), "squares": p.new_zeros(n, 1, *shape)}
    if axes is None:
        return {**made, "whole": p.new_zeros(n, 3, *shape)}
    for name, axis in zip(("row", "column"), reversed(axes), strict=True):
        kept = [1 if k == axis else size for k, size in enumerate(shape)]
        made[name] = p.new_zeros(n, 3, *kept)
    return made


@dataclass(frozen=True)
class Rule:
    """A perceptron and decays for each particle, ready for a device and a dtype.

    Parameters
    ----------
    weights, biases : (particles, outputs, inputs) and (particles, outputs, 1) of each layer
    momentum, squares, factored : (particles, decays)
    """

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    momentum: Tensor
    squares: Tensor
    factored: Tensor

    @classmethod
    def of(cls, meta: Meta, like: Tensor) -> Rule:
        """From meta-parameters with a leading axis of particles."""
        layers = sum(name.startswith("w") for name in meta)
        made = {name: value.to(dtype=like.dtype, device=like.device) for name, value in meta.items()}
        decays = [
            1 - torch.exp(10 * (torch.log1p(-made[name].new_tensor(start)) / 10 + made[name]))
            for name, start in (
                ("momentum_decays", MOMENTUM),
                ("rms_decays", SQUARES),
                ("adafactor_decays", FACTORED),
            )
        ]
        return cls(
            tuple(made[f"w{k}"].mT.contiguous() for k in range(layers)),
            tuple(made[f"b{k}"].unsqueeze(-1) for k in range(layers)),
            decays[0],
            decays[1].clamp(0, 1),
            decays[2].clamp(0, 1),
        )

    def update(self, p: Tensor, g: Tensor, state: Moments, step: Tensor) -> Tensor:
        """Move the accumulators in place and return the step of each weight.

        Parameters
        ----------
        p, g : (particles, *shape), at least one axis of shape
        state : what `begin` gave
        step : (particles,) steps taken before

        Returns
        -------
        (particles, *shape), to be subtracted.
        """
        shape = p.shape[1:]
        axes = factored(shape)
        self._accumulate(g, state, axes)
        low, factor = _shared(state, axes)
        time = torch.tanh(step[:, None].to(p) / p.new_tensor(TIMES) - 1)
        first = self.weights[0]
        offset = torch.baddbmm(self.biases[0], first[:, :, OWN + SHARED :], time.unsqueeze(-1))
        shifts = [offset.reshape(*offset.shape[:2], *[1] * len(shape))]
        for x, columns in low:
            scaled = x * torch.rsqrt(1e-5 + x.square().flatten(2).mean(-1)).reshape(*x.shape[:2], *[1] * len(shape))
            shifts.append((first[:, :, columns] @ scaled.flatten(2)).reshape(*first.shape[:2], *x.shape[2:]))
        blocks = _blocks(shape)
        if len(blocks) == 1:
            own = _own(p, g, state, factor, blocks[0])
            return self._steps(own, torch.rsqrt(1e-5 + own.square().mean(-1)), shifts, blocks[0], shape)
        squares = p.new_zeros(p.shape[0], OWN)
        for block in blocks:
            own = _own(p, g, state, factor, block)
            squares += torch.linalg.vector_norm(own, dim=-1).square_()
        scale = torch.rsqrt(1e-5 + squares / math.prod(shape))
        parts = [
            self._steps(_own(p, g, state, factor, b), scale, shifts, b, (b.stop - b.start, *shape[1:])) for b in blocks
        ]
        return torch.cat(parts, 1)

    def can_fuse(self, p: Tensor, g: Tensor) -> bool:
        """Whether the kernel takes these: vectors and matrices on the CPU."""
        # one precision only: the kernel takes seconds to compile, and float64 is for checks
        fits = p.dtype == torch.float32 and p.device.type == "cpu" and p.ndim in (2, 3)
        return fits and p.is_contiguous() and g.is_contiguous() and p.numel() > 0

    def advance(self, p: Tensor, g: Tensor, state: Moments, step: Tensor, rate: float) -> None:
        """p -= rate x `update`, in place, in two passes over memory where that is possible."""
        if not self.can_fuse(p, g):
            p.sub_(self.update(p, g, state, step), alpha=rate)
            return
        from resolvent.optim import learned_kernel

        accumulate, advance = (cast(Any, f) for f in (learned_kernel.accumulate, learned_kernel.advance))

        axes = factored(p.shape[1:])
        self._accumulate_factored(g, state, axes)
        low, factor = _shared(state, axes)
        n, rows, columns = p.shape if p.ndim == 3 else (p.shape[0], 1, p.shape[1])
        time = torch.tanh(step[:, None].to(p) / p.new_tensor(TIMES) - 1)
        first = self.weights[0]
        by_row = torch.baddbmm(self.biases[0], first[:, :, OWN + SHARED :], time.unsqueeze(-1)).repeat(1, 1, rows)
        by_column = p.new_zeros(n, first.shape[1], columns)
        for x, places in low:
            scaled = x * torch.rsqrt(1e-5 + x.square().flatten(2).mean(-1)).reshape(*x.shape[:2], *[1] * (p.ndim - 1))
            part = first[:, :, places] @ scaled.flatten(2)
            (by_row if p.ndim == 3 and x.shape[2] == rows and x.shape[3] == 1 else by_column).add_(part)
        if axes is None:
            factors = [p.new_ones(n, 3, 1), *factor]
        else:
            fi, fj = factor if axes[1] == 1 else factor[::-1]
            factors = [fi.flatten(2), fj.flatten(2), fj.flatten(2)]
        tensors = [p.reshape(n, rows, columns), g.reshape(n, rows, columns)]
        tensors += [state["momentum"].view(n, 3, rows, columns), state["squares"].view(n, rows, columns), *factors]
        arrays = [t.numpy() for t in tensors]
        sums = np.empty((n, rows, OWN))
        accumulate(*arrays, self.momentum.numpy(), self.squares.flatten().numpy(), sums)
        scale = torch.rsqrt(1e-5 + torch.from_numpy(sums.sum(1) / (rows * columns))).to(p)
        hidden = first.shape[1]
        inner = torch.stack([*self.weights[1:-1]], 1) if len(self.weights) > 2 else p.new_empty(n, 0, hidden, hidden)
        shifts = torch.cat(self.biases[1:-1], 2).mT if len(self.weights) > 2 else p.new_empty(n, 0, hidden)
        parts = [first[:, :, :OWN] * scale.unsqueeze(1), by_row, by_column, inner, shifts]
        parts += [self.weights[-1], self.biases[-1].squeeze(-1)]
        advance(*arrays, *(t.contiguous().numpy() for t in parts), np.float32(rate * STEP))

    def _accumulate_factored(self, g: Tensor, state: Moments, axes: tuple[int, int] | None) -> None:
        ones = [1] * (g.ndim - 1)
        a = self.factored.reshape(*self.factored.shape, *ones)
        square = (g * g + 1e-30).unsqueeze(1)
        if axes is None:
            state["whole"].mul_(a).add_((1 - a) * square)
            return
        for name, axis in zip(("row", "column"), reversed(axes), strict=True):
            state[name].mul_(a).add_((1 - a) * square.mean(axis + 2, keepdim=True))

    def _accumulate(self, g: Tensor, state: Moments, axes: tuple[int, int] | None) -> None:
        ones = [1] * (g.ndim - 1)
        for name, decay in (("momentum", self.momentum), ("squares", self.squares)):
            a = decay.reshape(*decay.shape, *ones)
            state[name].mul_(a).add_((1 - a) * (g if name == "momentum" else g * g).unsqueeze(1))
        self._accumulate_factored(g, state, axes)

    def _steps(self, own: Tensor, scale: Tensor, shifts: list[Tensor], block: slice, shape: Sequence[int]) -> Tensor:
        """The perceptron on a block of weights; the normalisation of features goes into its first layer."""
        first = self.weights[0][:, :, :OWN] * scale.unsqueeze(1)
        x = (first @ own).reshape(own.shape[0], -1, *shape)
        for shift in shifts:
            x = x.add_(shift[:, :, block] if shift.shape[2] > 1 else shift)
        x = x.flatten(2)
        for w, b in zip(self.weights[1:], self.biases[1:], strict=True):
            x = torch.baddbmm(b, w, x.relu_())
        return (x[:, 0] * torch.exp(MAGNITUDE * x[:, 1]) * STEP).reshape(own.shape[0], *shape)


def _blocks(shape: Sequence[int]) -> list[slice]:
    if math.prod(shape) <= 2 * BLOCK:
        return [slice(0, shape[0])]
    rows = max(1, BLOCK // max(1, math.prod(shape[1:])))
    return [slice(a, min(a + rows, shape[0])) for a in range(0, shape[0], rows)]


def _shared(state: Moments, axes: tuple[int, int] | None) -> tuple[list[tuple[Tensor, slice]], tuple[Tensor, ...]]:
    """Features that a whole row or column shares, with their places, and the factors of the normalised gradients."""
    if axes is None:
        v = state["whole"]
        root = torch.rsqrt(v + 1e-8)
        features = torch.cat([v, v, root, root], 1)
        return [(features, slice(OWN, OWN + SHARED))], (
            torch.rsqrt((v + 1e-9).clamp_min(1e-9)),
            torch.rsqrt(v + 1e-6),
        )
    row, column = state["row"], state["column"]
    mean = row.mean(axes[0] + 2, keepdim=True)
    factor = torch.rsqrt((row / (mean + 1e-9)).clamp_min(1e-9)), torch.rsqrt(column.clamp_min(1e-9))
    low = [
        (row, slice(OWN, OWN + 3)),
        (column, slice(OWN + 3, OWN + 6)),
        (torch.rsqrt(row + 1e-8), slice(OWN + 6, OWN + 9)),
        (torch.rsqrt(column + 1e-8), slice(OWN + 9, OWN + 12)),
    ]
    return low, factor


def _own(p: Tensor, g: Tensor, state: Moments, factor: tuple[Tensor, ...], block: slice) -> Tensor:
    """(particles, 16, weights of the block): g, p, 3 m, v, 3 m / sqrt(v), 1 / sqrt(v), 3 normalised g, 3 normalised m."""
    full = block.stop - block.start == p.shape[1]

    def cut(x: Tensor, axis: int) -> Tensor:
        return x if full or x.shape[axis] == 1 else x.narrow(axis, block.start, block.stop - block.start)

    p, g = cut(p, 1).unsqueeze(1), cut(g, 1).unsqueeze(1)
    m, v = cut(state["momentum"], 2), cut(state["squares"], 2)
    out = p.new_empty(p.shape[0], OWN, *p.shape[2:])
    root = torch.rsqrt(v + 1e-6)
    out[:, 0:1], out[:, 1:2], out[:, 2:5], out[:, 5:6], out[:, 9:10] = g, p, m, v, root
    torch.mul(m, root, out=out[:, 6:9])
    if "whole" in state:
        torch.mul(g, cut(factor[0], 2), out=out[:, 10:13])
        torch.mul(m, cut(factor[1], 2), out=out[:, 13:16])
    else:
        both = cut(factor[0], 2) * cut(factor[1], 2)
        torch.mul(g, both, out=out[:, 10:13])
        torch.mul(m, both, out=out[:, 13:16])
    return out.flatten(2)
