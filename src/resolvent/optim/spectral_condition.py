r"""The spectral condition of feature learning: weights and updates of spectral norm :math:`\sqrt{n_\mathrm{out}/n_\mathrm{in}}`.

>>> import torch
>>> from torch import nn
>>> from resolvent.optim import spectral_groups, spectral_init_
>>> model = spectral_init_(nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 2)), generator=0)
>>> optimizer = torch.optim.Adam(spectral_groups(model, lr=0.1, optimizer="adam", base_width=32))
>>> [group["lr"] for group in optimizer.param_groups]
[0.1, 0.1, 0.05]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeVar

import torch
from torch import nn

from resolvent.optim.fans import Weight, rates, weights
from resolvent.optim.optimizer import check
from resolvent.optim.roles import Role
from resolvent.random import GeneratorLike, as_generator

M = TypeVar("M", bound=nn.Module)


@torch.no_grad()
def spectral_init_(
    module: M,
    sigma: float = 1.0,
    activation: str | None = None,
    *,
    orthogonal: bool = False,
    override: Mapping[str, Role] | None = None,
    generator: GeneratorLike = None,
) -> M:
    r"""Draw every weight anew, with a spectral norm of the order of :math:`\sqrt{n_\mathrm{out}/n_\mathrm{in}}`.

    Parameters
    ----------
    module : any module; changed in place
    sigma : a factor of all weights, of order one
    activation : a name that `torch.nn.init.calculate_gain` knows, for example "relu": weights behind a nonlinearity
        (hidden ones and the readout) are multiplied by its gain
    orthogonal : semi-orthogonal weights times :math:`\sqrt{n_\mathrm{out}/n_\mathrm{in}}`, whose singular values are all
        equal, instead of Gaussian ones
    override : roles of parameters, see `resolvent.optim.roles`
    generator : randomness

    Returns
    -------
    `module`

    Raises
    ------
    ValueError : `sigma` is not positive, or torch does not know the activation.

    Notes
    -----
    Gaussian entries have the standard deviation
    :math:`\sigma\,n_\mathrm{in}^{-1/2}\,\min(1, \sqrt{n_\mathrm{out}/n_\mathrm{in}})`: as usual for the input and hidden
    weights, smaller by a root of the width for the readout. Rows of an embedding are outputs of one input
    (:math:`n_\mathrm{in} = 1`), and so are biases, which become zero; gains of normalisation stay as they are. A
    convolution is the matrix of its flattened kernels.

    References
    ----------
    "A Spectral Condition for Feature Learning"

    Examples
    --------
    >>> layer = spectral_init_(nn.Linear(400, 100), orthogonal=True, generator=0)
    >>> round(torch.linalg.matrix_norm(layer.weight, 2).item(), 4)
    0.5
    """
    check("sigma", sigma, above=True)
    gain = 1.0 if activation is None else nn.init.calculate_gain(activation)  # type: ignore[arg-type]
    found = weights(module, override).values()
    rng: dict[torch.device, torch.Generator] = {}
    for w in found:
        p = w.param
        if w.role == "vector":
            if w.name.rpartition(".")[2].startswith("bias"):
                p.zero_()
            continue
        g = rng.setdefault(p.device, as_generator(generator, p.device))
        scale = sigma * (gain if w.role in ("hidden", "readout") else 1.0)
        if orthogonal and w.role != "embedding":
            _semi_orthogonal_(w, scale, g)
        else:
            p.normal_(0.0, scale * w.fan_in**-0.5 * min(1.0, w.target), generator=g)
    return module


def _semi_orthogonal_(w: Weight, scale: float, generator: torch.Generator) -> None:
    full = w.param.dtype if w.param.dtype in (torch.float32, torch.float64) else torch.float32
    draw = torch.empty(w.fan_out, w.fan_in, dtype=full, device=w.param.device).normal_(generator=generator)
    q, r = torch.linalg.qr(draw if w.fan_out >= w.fan_in else draw.T)
    # Without the signs of R the factor of a Gaussian matrix is not uniform.
    q = q * r.diagonal().sign()
    q = (q if w.fan_out >= w.fan_in else q.T) * (scale * w.target)
    if isinstance(w.owner, nn.modules.conv._ConvTransposeNd):
        shape = (w.param.shape[1], w.param.shape[0], *w.param.shape[2:])
        w.param.copy_(q.reshape(shape).transpose(0, 1))
    else:
        w.param.copy_(q.reshape(w.param.shape))


def spectral_groups(
    model: nn.Module,
    lr: float,
    optimizer: Literal["sgd", "adam"] = "sgd",
    base_width: int | None = None,
    *,
    weight_decay: float = 0.0,
    override: Mapping[str, Role] | None = None,
) -> list[dict[str, Any]]:
    r"""Parameter groups whose updates have a spectral norm of the order of :math:`\sqrt{n_\mathrm{out}/n_\mathrm{in}}`.

    Parameters
    ----------
    model : any module
    lr : the one learning rate; a good one stays good at other widths
    optimizer : "sgd" gives a parameter :math:`\eta\,n_\mathrm{out}/n_\mathrm{in}`; "adam", for all methods whose entries
        of an update have a size of their own (Adam, sign descent, Lion), :math:`\eta/n_\mathrm{in}`
    base_width : the width at which all learning rates are `lr`, so that a setting tuned there can be kept; None for the
        plain rule
    weight_decay : decay of matrices at learning rate `lr`; groups with another rate decay as much in a step
    override : roles of parameters, see `resolvent.optim.roles`

    Returns
    -------
    list of groups with "params", "lr", "weight_decay", "role" and "names"

    Raises
    ------
    ValueError : `lr` or `base_width` is not positive, or an unknown optimizer.

    Notes
    -----
    Biases, gains and embeddings have :math:`n_\mathrm{in} = 1`. With `base_width` only dimensions that are widths count:
    the outputs of the input, of embeddings and of vectors, the inputs of the readout, and both of hidden weights. In
    exponents of the width, the rule is that of the maximal update parametrisation. `SpectralSGD` holds the condition
    exactly, whatever the rank of the gradient.

    References
    ----------
    "A Spectral Condition for Feature Learning"

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 2))
    >>> [(g["role"], g["lr"]) for g in spectral_groups(model, 0.1, "sgd", base_width=16)]
    [('input', 0.4), ('vector', 0.4), ('readout', 0.025), ('vector', 0.1)]
    """
    found = weights(model, override)
    if base_width is not None:
        check("base_width", base_width, above=True)
    factors = {name: _factor(w, optimizer, base_width, found) for name, w in found.items()}
    return rates(model, factors, lr, weight_decay, override)


def _factor(w: Weight, optimizer: str, base: int | None, found: Mapping[str, Weight]) -> float:
    if optimizer not in ("sgd", "adam"):
        raise ValueError(f"optimizer must be 'sgd' or 'adam', got {optimizer!r}")
    rows, columns = float(w.fan_out), float(w.fan_in)
    if base is not None:
        is_last = w.role == "readout" or (
            w.role == "vector" and any(v.owner is w.owner and v.role == "readout" for v in found.values())
        )
        # A hidden matrix of the base has the same ratio of outputs to inputs, and base_width inputs.
        rows, columns = {
            "hidden": (rows / columns * (columns / base), columns / base),
            "readout": (1.0, columns / base),
        }.get(w.role, (1.0 if is_last else rows / base, 1.0))
    return rows / columns if optimizer == "sgd" else 1 / columns
