"""Layer-sequential unit variance: orthonormal weights, then every layer's output scaled to unit variance on a batch."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from resolvent.errors import AccuracyWarning
from resolvent.optim.haar import LAYERS, assign, check_layers, orthogonal_layers_
from resolvent.random import GeneratorLike


@dataclass(frozen=True)
class LayerVariance:
    """What happened to one layer.

    Attributes
    ----------
    name : the module's name; kind : its class
    before, after : variance of its output before and after
    mean : mean of its output after
    corrections : how often the weight was divided
    status : "done", "not reached" (max_iter), "constant output" or "not run" (no forward pass came by)

    Examples
    --------
    >>> LayerVariance("0", "Linear", 0.25, 1.0, 0.0, 1, "done").status
    'done'
    """

    name: str
    kind: str
    before: float
    after: float
    mean: float
    corrections: int
    status: str


@dataclass(frozen=True)
class LSUVReport:
    """Every layer in the order of execution; prints as a table.

    Attributes
    ----------
    layers : one `LayerVariance` per layer; layers that did not run come last
    converged : whether every layer that ran has its variance

    Examples
    --------
    >>> print(LSUVReport((LayerVariance("0", "Linear", 0.25, 1.0, 0.0, 1, "done"),)))
    layer  kind    before  after  corrections  status
    0      Linear  0.25    1.000  1            done
    """

    layers: tuple[LayerVariance, ...]

    @property
    def converged(self) -> bool:
        return all(layer.status in ("done", "not run") for layer in self.layers)

    def __str__(self) -> str:
        rows = [("layer", "kind", "before", "after", "corrections", "status")]
        for x in self.layers:
            rows.append((x.name, x.kind, f"{x.before:.3g}", f"{x.after:.3f}", str(x.corrections), x.status))
        widths = [max(len(row[i]) for row in rows) for i in range(6)]
        return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def lsuv_(
    model: nn.Module,
    batch: Any,
    tol: float = 0.1,
    max_iter: int = 10,
    target_std: float = 1.0,
    zero_mean: bool = False,
    orthogonal: bool = True,
    modules: tuple[type[nn.Module], ...] = LAYERS,
    *,
    generator: GeneratorLike = None,
) -> LSUVReport:
    r"""Initialise a network so that every layer's output has the variance `target_std**2` on a batch, in place.

    Weights become orthonormal; then, layer by layer in the order of execution,
    :math:`W \leftarrow W\, s / \sqrt{\mathrm{Var}(Wx + b)}` until :math:`|\mathrm{Var}/s^2 - 1| \le` tol.

    Parameters
    ----------
    model : any module; a layer that is used several times is scaled at its first use
    batch : the input: a tensor, a tuple of arguments or a dict of keyword arguments
    tol : allowed relative error of the variance, positive
    max_iter : corrections of one layer at most
    target_std : s, positive
    zero_mean : also shift the biases so that the outputs of a layer have mean zero (not in the paper)
    orthogonal : first fill the weights with random orthonormal rows or columns, the biases with zeros; False keeps what is there
    modules : the kinds of layers to initialise
    generator : for the orthonormal weights; of the CPU

    Returns
    -------
    `LSUVReport`, which prints as a table.

    Raises
    ------
    ValueError : bad options, no such layer, or an output that is NaN or infinite.

    Warns
    -----
    AccuracyWarning : outputs of variance zero, which are left as they are; variances that max_iter corrections do not reach;
        layers that the forward pass did not run as modules.

    Notes
    -----
    One forward pass in all. The paper runs the network once per correction; here a hook corrects a layer while the pass is
    at it, computes its output again from the same input and passes that on, which gives the same weights. One correction is enough
    for layers that are linear in their weight. The pass is in eval mode without gradients: no dropout, no statistics of batch
    norm; modes are restored.

    References
    ----------
    "All you need is a good init"

    Examples
    --------
    >>> x = torch.randn(256, 8, generator=torch.Generator().manual_seed(0))
    >>> net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
    >>> print(lsuv_(net, x, generator=0))
    layer  kind    before  after  corrections  status
    0      Linear  0.26    1.000  1            done
    2      Linear  0.489   1.000  1            done
    """
    for name, value in (("tol", tol), ("target_std", target_std)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise ValueError(f"{name} must be a positive number, got {value!r}")
    if isinstance(max_iter, bool) or not isinstance(max_iter, int) or max_iter < 1:
        raise ValueError(f"max_iter must be an int of at least 1, got {max_iter!r}")
    layers = check_layers(model, modules)
    if orthogonal:
        orthogonal_layers_((module for _, module in layers), generator, keep_variance=False)
    scaling = _Scaling(tol, max_iter, target_std, zero_mean)
    training = [(module, module.training) for module in model.modules()]
    with ExitStack() as stack, torch.no_grad():
        for name, module in layers:
            handle = module.register_forward_hook(scaling.hook(name), with_kwargs=True)
            stack.callback(handle.remove)
        for module, mode in training:
            stack.callback(setattr, module, "training", mode)
        model.eval()
        _call(model, batch)
    report = LSUVReport(tuple(scaling.done.values()) + tuple(_not_run(layers, scaling.done)))
    for status, what in (
        ("constant output", "have outputs of variance zero and were left as they are"),
        ("not reached", f"did not reach the variance in {max_iter} corrections"),
        ("not run", "were not run as modules by the forward pass, so their variance is not known"),
    ):
        names = [layer.name for layer in report.layers if layer.status == status]
        if names:
            warnings.warn(f"layers {', '.join(names)} {what}", AccuracyWarning, stacklevel=2)
    return report


def _call(model: nn.Module, batch: Any) -> None:
    if isinstance(batch, Mapping):
        model(**batch)
    elif isinstance(batch, tuple):
        model(*batch)
    else:
        model(batch)


def _not_run(layers: list[tuple[str, nn.Module]], done: Mapping[str, LayerVariance]) -> list[LayerVariance]:
    rest = [(name, module) for name, module in layers if name not in done]
    return [LayerVariance(name, type(m).__name__, math.nan, math.nan, math.nan, 0, "not run") for name, m in rest]


class _Scaling:
    """Hooks that correct a layer at its first use."""

    def __init__(self, tol: float, max_iter: int, target_std: float, zero_mean: bool) -> None:
        self.tol, self.max_iter, self.target, self.zero_mean = tol, max_iter, target_std, zero_mean
        self.done: dict[str, LayerVariance] = {}

    def hook(self, name: str) -> Callable[..., Tensor | None]:
        def correct(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Tensor | None:
            if name in self.done:
                return None
            if not isinstance(output, Tensor):
                raise TypeError(f"{name} must return a tensor to be scaled, got {type(output).__name__}")
            return self._correct(name, module, lambda: module.forward(*args, **kwargs), output)

        return correct

    def _correct(self, name: str, module: nn.Module, again: Callable[[], Tensor], output: Tensor) -> Tensor:
        weight: Any = module.weight
        variance, mean, size = _statistics(output, name)
        before, corrections, status = variance, 0, "done"
        # Less than rounding errors of the output is no variance.
        floor = (torch.finfo(output.dtype).eps * size) ** 2
        # Nothing within the tolerance is touched: orthonormal weights that need no correction stay orthonormal.
        while abs(variance / self.target**2 - 1) > self.tol:
            if variance <= floor:
                status = "constant output"
                break
            if corrections == self.max_iter:
                status = "not reached"
                break
            assign(module, weight.detach() * (self.target / math.sqrt(variance)))
            corrections += 1
            output, weight = again(), module.weight
            variance, mean, _ = _statistics(output, name)
        bias = getattr(module, "bias", None)
        if self.zero_mean and isinstance(bias, Tensor):
            bias.sub_(mean)
            output = again()
            variance, mean, _ = _statistics(output, name)
        self.done[name] = LayerVariance(name, type(module).__name__, before, variance, mean, corrections, status)
        return output


def _statistics(output: Tensor, name: str) -> tuple[float, float, float]:
    """Variance, mean and largest entry over the whole output, at least in float32."""
    x = output.detach().to(torch.promote_types(output.dtype, torch.float32))
    if x.numel() < 2:
        raise ValueError(f"the output of {name} has {x.numel()} entries: its variance is not defined")
    variance, mean = torch.var_mean(x, correction=0)
    found = torch.stack([variance, mean, x.abs().amax()]).tolist()
    if not all(map(math.isfinite, found)):
        raise ValueError(f"the output of {name} is NaN or infinite on this batch")
    return found[0], found[1], found[2]
