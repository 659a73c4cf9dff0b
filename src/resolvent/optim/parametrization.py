"""Parametrisations of wide networks: their exponents, what they do in the limit, and how a model gets one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from resolvent.optim.fans import Weight, rates, weights
from resolvent.optim.optimizer import check
from resolvent.optim.roles import Role
from resolvent.random import GeneratorLike, as_generator

# Exponents are sums of a few halves and thirds; this is far below their differences and far above rounding.
_TOL = 1e-9


class ABC(NamedTuple):
    r"""Exponents of the width n: :math:`W_l = n^{-a_l} w_l`, :math:`w_l \sim N(0, n^{-2 b_l})`, step size :math:`\eta n^{-c}`."""

    a: tuple[float, ...]
    b: tuple[float, ...]
    c: float


@dataclass(frozen=True)
class Classification:
    r"""What a parametrisation does as the width grows.

    Parameters
    ----------
    stable : activations and logits neither vanish nor blow up at initialisation, and their changes do not blow up
    trivial : the function does not change in training
    feature_learning : stable, not trivial, and the last hidden features move by as much as they are
    kernel : stable, not trivial, and they do not: training is kernel gradient descent
    r : features move by :math:`n^{-r}`
    logits : logits move by :math:`n^{-\mathrm{logits}}`

    Examples
    --------
    >>> Classification(True, False, True, False, 0.0, 0.0).feature_learning
    True
    """

    stable: bool
    trivial: bool
    feature_learning: bool
    kernel: bool
    r: float
    logits: float


def abc_exponents(name: Literal["sp", "ntk", "mf", "mup"], layers: int) -> ABC:
    r"""The exponents of a known parametrisation of a perceptron with `layers` hidden layers.

    Parameters
    ----------
    name : "sp", the standard one with the step size 1/n that it needs; "ntk", the neural tangent parametrisation; "mf",
        the mean-field one (one hidden layer); "mup", the maximal update parametrisation
    layers : number of hidden layers L

    Returns
    -------
    ABC : a and b of length L + 1 and c. The shift (a + t, b - t, c - 2t) gives the same training.

    Raises
    ------
    ValueError : an unknown name, no hidden layer, or "mf" with more than one.

    References
    ----------
    "Feature Learning in Infinite-Width Neural Networks"

    Examples
    --------
    >>> abc_exponents("mup", 2)
    ABC(a=(-0.5, 0.0, 0.5), b=(0.5, 0.5, 0.5), c=0.0)
    """
    if isinstance(layers, bool) or not isinstance(layers, int) or layers < 1:
        raise ValueError(f"layers must be a positive number of hidden layers, got {layers!r}")
    zero, half = (0.0,) * layers, (0.5,) * layers
    if name == "sp":
        return ABC((0.0, *zero), (0.0, *half), 1.0)
    if name == "ntk":
        return ABC((0.0, *half), (0.0, *zero), 0.0)
    if name == "mup":
        return ABC((-0.5, *zero[1:], 0.5), (0.5, *half), 0.0)
    if name != "mf":
        raise ValueError(f"name must be 'sp', 'ntk', 'mf' or 'mup', got {name!r}")
    if layers != 1:
        raise ValueError(f"'mf' is for one hidden layer; for {layers}, 'mup' is its extension")
    return ABC((0.0, 1.0), (0.0, 0.0), -1.0)


def classify_parametrization(a: Sequence[float], b: Sequence[float], c: float) -> Classification:
    r"""Decide what a parametrisation does in the limit of infinite width, from its exponents alone.

    Parameters
    ----------
    a, b : L + 1 exponents for L hidden layers, L >= 1
    c : exponent of the step size of gradient descent

    Returns
    -------
    Classification

    Raises
    ------
    ValueError : exponents of different lengths, fewer than two, or not finite.

    Notes
    -----
    Features move by :math:`n^{-r}` with
    :math:`r = \min(a_{L+1}+b_{L+1}, 2a_{L+1}+c) + c - 1 + \min_{l \le L}(2a_l + [l=1])`. Stable means
    :math:`a_1+b_1 = 0`, :math:`a_l+b_l = 1/2`, :math:`a_{L+1}+b_{L+1} \ge 1/2`, :math:`r \ge 0`,
    :math:`2a_{L+1}+c \ge 1` and :math:`a_{L+1}+b_{L+1}+r \ge 1`; trivial that neither of the last two is an equality.
    What is stable and not trivial learns features if r = 0, and else is in the kernel regime. For smooth nonlinearities
    (tanh, GELU), generic inputs and step sizes.

    References
    ----------
    "Feature Learning in Infinite-Width Neural Networks"

    Examples
    --------
    >>> found = classify_parametrization(*abc_exponents("ntk", 3))
    >>> found.kernel, found.r
    (True, 0.5)
    """
    a, b = [float(x) for x in a], [float(x) for x in b]
    if len(a) != len(b) or len(a) < 2:
        raise ValueError(f"a and b must have one length L + 1 of at least 2, got {len(a)} and {len(b)}")
    if not bool(torch.tensor([*a, *b, c]).isfinite().all()):
        raise ValueError(f"a, b and c must be finite, got {a}, {b}, {c}")
    first, update = a[-1] + b[-1], 2 * a[-1] + c
    r = min(first, update) + c - 1 + min(2 * x + (i == 0) for i, x in enumerate(a[:-1]))
    begins = abs(a[0] + b[0]) < _TOL and all(abs(x + y - 0.5) < _TOL for x, y in zip(a[1:-1], b[1:-1], strict=True))
    logits = min(update, first + r) - 1
    stable = begins and first > 0.5 - _TOL and r > -_TOL and logits > -_TOL
    trivial = logits > _TOL
    learns = stable and not trivial and abs(r) < _TOL
    return Classification(stable, trivial, learns, stable and not trivial and not learns, r, logits)


class _Times(nn.Module):
    """A fixed factor between the stored parameter and the weight in use."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, w: Tensor) -> Tensor:
        return w * self.factor

    def right_inverse(self, w: Tensor) -> Tensor:
        return w / self.factor

    def extra_repr(self) -> str:
        return f"factor={self.factor:.4g}"


def apply_abc(
    model: nn.Module,
    a: Sequence[float],
    b: Sequence[float],
    c: float,
    width: int,
    *,
    lr: float = 1.0,
    sigma: float = 1.0,
    override: Mapping[str, Role] | None = None,
    generator: GeneratorLike = None,
) -> list[dict[str, Any]]:
    r"""Give a model an abc-parametrisation: draw its weights anew, and multiply them by :math:`n^{-a_l}` in use.

    Parameters
    ----------
    model : a module whose input or embeddings take the exponents of layer 1, whose hidden matrices those of layers 2 to L
        in order, and whose readout those of layer L + 1; changed in place. Where all hidden exponents are equal, there may
        be any number of hidden matrices.
    a, b, c : exponents, for example from `abc_exponents`
    width : n
    lr : step size before the factor :math:`n^{-c}`
    sigma : a factor of all weights
    override : roles of parameters, see `resolvent.optim.roles`
    generator : randomness

    Returns
    -------
    list of one group for `torch.optim.SGD`, with the step size :math:`\eta n^{-c}`

    Raises
    ------
    ValueError : the exponents do not fit the number of hidden matrices, or a parameter is shared or has a parametrisation
        already.

    Notes
    -----
    Constants that no exponent sees are chosen so that a layer of the width n has the usual variances: entries have the
    standard deviation :math:`\sigma n^{-b_1} n_\mathrm{in}^{-1/2}` in the input and
    :math:`\sigma n^{-b_l} (n/n_\mathrm{in})^{1/2}` above it. Biases and gains get the factor of layer 1, as they have one
    input, but begin as zero and as they were; a bias of the readout gets :math:`n^{-\max(0, -c/2)}`. The multiplier is a
    `torch.nn.utils.parametrize` parametrisation, whose parameter is called `parametrizations.weight.original`.

    References
    ----------
    "Feature Learning in Infinite-Width Neural Networks"

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(3, 64), nn.Tanh(), nn.Linear(64, 1))
    >>> groups = apply_abc(model, *abc_exponents("mup", 1), width=64, lr=0.1, generator=0)
    >>> model[2].parametrizations.weight[0], groups[0]["lr"]
    (_Times(factor=0.125), 0.1)
    """
    classify_parametrization(a, b, c)
    check("width", width, 1)
    check("lr", lr, above=True)
    check("sigma", sigma, above=True)
    found = list(weights(model, override).values())
    index = _layers(found, len(a), a, b)
    clash = [w.name for w in found if parametrize.is_parametrized(w.owner)]
    if clash:
        raise ValueError(f"{', '.join(clash)}: already parametrised; apply an abc-parametrisation to a plain model")
    shared = {name for name, _ in model.named_parameters(remove_duplicate=False)} - {w.name for w in found}
    if shared:
        raise ValueError(f"{', '.join(sorted(shared))}: shared parameters would have two exponents; untie them")
    rng: dict[torch.device, torch.Generator] = {}
    for w in found:
        power, spread = _exponents(w, index, a, b, c, found)
        with torch.no_grad():
            if spread is not None:
                fan = w.fan_in if w.role in ("input", "embedding") else w.fan_in / width
                g = rng.setdefault(w.param.device, as_generator(generator, w.param.device))
                # Written as the weight in use: the parametrisation divides its multiplier out.
                w.param.normal_(0.0, sigma * width ** -(spread + power) * fan**-0.5, generator=g)
            elif w.name.rpartition(".")[2].startswith("bias"):
                w.param.zero_()
        if power:
            parametrize.register_parametrization(w.owner, w.name.rpartition(".")[2], _Times(width**-power))
    trained = [p for p in model.parameters() if p.requires_grad]
    return [{"params": trained, "lr": lr * width**-c}]


def _layers(found: list[Weight], length: int, a: Sequence[float], b: Sequence[float]) -> dict[str, int]:
    """The layer of every matrix, counted from zero."""
    hidden = [w.name for w in found if w.role == "hidden"]
    index = {w.name: 0 for w in found if w.role in ("input", "embedding")}
    index.update({w.name: length - 1 for w in found if w.role == "readout"})
    if len(hidden) == length - 2:
        return index | {name: 1 + i for i, name in enumerate(hidden)}
    if length > 2 and len(set(zip(a[1:-1], b[1:-1], strict=True))) == 1:
        return index | dict.fromkeys(hidden, 1)
    raise ValueError(f"a and b have exponents for {length - 2} hidden matrices, and the model has {len(hidden)}")


def _exponents(
    w: Weight, index: Mapping[str, int], a: Sequence[float], b: Sequence[float], c: float, found: list[Weight]
) -> tuple[float, float | None]:
    """The exponents of the multiplier and of the standard deviation; no second one: the parameter is not drawn."""
    if w.role != "vector":
        return float(a[index[w.name]]), float(b[index[w.name]])
    last = any(v.owner is w.owner and v.role == "readout" for v in found)
    return (max(0.0, -c / 2) if last else float(a[0])), None


def mup_groups(
    model: nn.Module,
    lr: float,
    base: nn.Module,
    optimizer: Literal["sgd", "adam"] = "adam",
    *,
    weight_decay: float = 0.0,
    override: Mapping[str, Role] | None = None,
) -> list[dict[str, Any]]:
    r"""Parameter groups with the step sizes of the maximal update parametrisation, relative to a smaller model.

    Parameters
    ----------
    model : any module
    lr : the learning rate, as tuned for `base`
    base : the same architecture at the width at which `lr` was tuned; only shapes are read, so that it may live on the
        "meta" device
    optimizer : "adam" (also Lion, sign descent): every matrix gets `lr` divided by the growth of its inputs. "sgd": also
        multiplied by the growth of its outputs
    weight_decay : decay of matrices at learning rate `lr`; groups with another rate decay as much in a step
    override : roles of parameters, see `resolvent.optim.roles`

    Returns
    -------
    list of groups with "params", "lr", "weight_decay", "role" and "names"

    Raises
    ------
    ValueError : the two models have different parameters, or numbers out of range.

    Notes
    -----
    Initialise with `spectral_init_`, whose readout is smaller by a root of the width than usual; logits of attention are
    to be divided by the dimension of a head, not by its root. Dimensions that both models have in common are not
    widths, and change nothing. The readout here carries its factor 1/n in weight and step size, which is the same
    function in training as a multiplier on its output.

    References
    ----------
    "Feature Learning in Infinite-Width Neural Networks"

    Examples
    --------
    >>> def net(n): return nn.Sequential(nn.Linear(8, n), nn.ReLU(), nn.Linear(n, n), nn.ReLU(), nn.Linear(n, 2))
    >>> [(g["role"], g["lr"]) for g in mup_groups(net(256), 0.1, net(64))]
    [('input', 0.1), ('vector', 0.1), ('hidden', 0.025), ('readout', 0.025)]
    """
    if optimizer not in ("sgd", "adam"):
        raise ValueError(f"optimizer must be 'sgd' or 'adam', got {optimizer!r}")
    mine, theirs = weights(model, override), weights(base, override)
    if mine.keys() != theirs.keys():
        odd = sorted(mine.keys() ^ theirs.keys())
        raise ValueError(f"base must have the parameters of model; only one of them has {', '.join(odd[:4])}")
    factors = {}
    for name, w in mine.items():
        inputs, outputs = w.fan_in / theirs[name].fan_in, w.fan_out / theirs[name].fan_out
        factors[name] = outputs / inputs if optimizer == "sgd" else 1 / inputs
    return rates(model, factors, lr, weight_decay, override)
