"""Products, norms and losses with unit scale: what the layers of `resolvent.optim.unit` compute."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from resolvent.optim.unit.scale import backward_scale, between, positive, scale


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, constraint: str | None = "to_output_scale") -> Tensor:
    r"""A linear map of unit scale: :math:`y = x W^T / \sqrt{n_\mathrm{in}} + b`.

    Parameters
    ----------
    x : (*batch, n_in)
    weight : (n_out, n_in), entries of variance one
    bias : (n_out,) or None
    constraint : "to_output_scale" gives the gradient of `x` the factor of the output, so that it is the exact one;
        None gives it its own, :math:`n_\mathrm{out}^{-1/2}`, for edges of the graph that nothing runs beside

    Returns
    -------
    (*batch, n_out)

    Raises
    ------
    ValueError : shapes that do not fit, or an unknown constraint.

    Notes
    -----
    The gradients of `weight` and `bias` are sums over the batch times batch^(-1/2). The bias is added after the scale,
    so that a step of size one in it is one of size one in y at every width.

    References
    ----------
    "u-μP: The Unit-Scaled Maximal Update Parametrization"

    Examples
    --------
    >>> import torch
    >>> linear(torch.ones(2, 4), torch.ones(3, 4)).tolist()
    [[2.0, 2.0, 2.0], [2.0, 2.0, 2.0]]
    """
    fan_out, fan_in, batch = _sizes(x, weight)
    forward = fan_in**-0.5
    x = scale(x, 1.0, backward_scale(constraint, forward, fan_out**-0.5))
    y = scale(F.linear(x, scale(weight, 1.0, batch**-0.5)), forward, 1.0)
    return y if bias is None else y + scale(bias, 1.0, batch**-0.5)


def readout(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    r"""The last linear map of a network: :math:`y = x W^T / n_\mathrm{in} + b`, with gradients of unit scale.

    Parameters
    ----------
    x : (*batch, n_in)
    weight : (n_out, n_in), entries of variance one
    bias : (n_out,) or None

    Returns
    -------
    (*batch, n_out); of scale :math:`n_\mathrm{in}^{-1/2}` at initialisation, of scale one once trained

    Raises
    ------
    ValueError : shapes that do not fit.

    Notes
    -----
    Nothing runs beside the output of a network, so its gradient has its own factor :math:`n_\mathrm{out}^{-1/2}`; all
    gradients below are then the exact ones times one number.

    References
    ----------
    "u-μP: The Unit-Scaled Maximal Update Parametrization"

    Examples
    --------
    >>> import torch
    >>> readout(torch.ones(2, 4), torch.ones(1, 4)).tolist()
    [[1.0], [1.0]]
    """
    fan_out, fan_in, batch = _sizes(x, weight)
    y = F.linear(scale(x, 1.0, fan_out**-0.5), scale(weight, 1.0, batch**-0.5))
    y = scale(y, 1 / fan_in, 1.0)
    return y if bias is None else y + scale(bias, 1.0, batch**-0.5)


def embedding(index: Tensor, weight: Tensor, padding_idx: int | None = None) -> Tensor:
    r"""Rows of a table, whose gradients have unit scale.

    Parameters
    ----------
    index : (*batch,) integers in [0, vocabulary)
    weight : (vocabulary, n), entries of variance one
    padding_idx : a row that gets no gradient, or None

    Returns
    -------
    (*batch, n)

    Notes
    -----
    A row is met batch / vocabulary times, so that its gradient is divided by the root of that.

    References
    ----------
    "u-μP: The Unit-Scaled Maximal Update Parametrization"

    Examples
    --------
    >>> import torch
    >>> embedding(torch.tensor([1, 0]), torch.tensor([[1.0, 2.0], [3.0, 4.0]])).tolist()
    [[3.0, 4.0], [1.0, 2.0]]
    """
    meets = max(index.numel(), 1) / weight.shape[0]
    return F.embedding(index, scale(weight, 1.0, meets**-0.5), padding_idx)


def layer_norm(
    x: Tensor, shape: Sequence[int], weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """Layer normalisation, whose gain and bias have gradients of unit scale.

    Parameters
    ----------
    x : (*batch, *shape)
    shape : the trailing dimensions that are normalised
    weight, bias : (*shape,) or None
    eps : added to the variance

    Returns
    -------
    (*batch, *shape)

    References
    ----------
    "u-μP: The Unit-Scaled Maximal Update Parametrization"

    Examples
    --------
    >>> import torch
    >>> layer_norm(torch.tensor([[1.0, 3.0]]), (2,)).round(decimals=3).tolist()
    [[-1.0, 1.0]]
    """
    factor = _rows(x, shape) ** -0.5
    weight, bias = (None if p is None else scale(p, 1.0, factor) for p in (weight, bias))
    return F.layer_norm(x, list(shape), weight, bias, eps)


def rms_norm(x: Tensor, shape: Sequence[int], weight: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    r"""Division by the root mean square, :math:`y = w\,x / \sqrt{\mathrm{mean}(x^2) + \epsilon}`.

    Parameters
    ----------
    x : (*batch, *shape)
    shape : the trailing dimensions that are normalised
    weight : (*shape,) or None; its gradient has unit scale
    eps : added to the mean of the squares

    Returns
    -------
    (*batch, *shape)

    References
    ----------
    "u-μP: The Unit-Scaled Maximal Update Parametrization"

    Examples
    --------
    >>> import torch
    >>> rms_norm(torch.tensor([[3.0, 4.0]]), (2,)).square().mean().round(decimals=3).item()
    1.0
    """
    factor = _rows(x, shape) ** -0.5
    weight = None if weight is None else scale(weight, 1.0, factor)
    return F.rms_norm(x, list(shape), weight, eps)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mask: Tensor | None = None,
    causal: bool = False,
    mult: float = 1.0,
) -> Tensor:
    r"""Scaled dot-product attention of unit scale, :math:`s\,\mathrm{softmax}(\alpha\,Q K^T / d)\,V`.

    Parameters
    ----------
    query : (*batch, n, d)
    key : (*batch, m, d)
    value : (*batch, m, d)
    mask : (*batch, n, m) boolean (True may attend) or additive, or None
    causal : position i attends to positions up to i
    mult : :math:`\alpha`, how sharp the attention is; one of the five hyper-parameters of u-muP

    Returns
    -------
    (*batch, n, d)

    Raises
    ------
    ValueError : `mult` is not positive, or shapes that do not fit.

    Notes
    -----
    The logits are divided by d, not by its root, as queries and keys grow alike in training. The factor s is a model
    of the mean over m values, between sqrt(m) for flat attention (sqrt(m / log m) if causal) and 1 for sharp one, on a
    logarithmic axis with weight 1 / (1 + 4 d / mult^2). It is the same for values and gradients, so that gradients are
    exact up to that one factor.

    References
    ----------
    "u-μP: The Unit-Scaled Maximal Update Parametrization"

    Examples
    --------
    >>> import torch
    >>> q = torch.randn(2, 64, 16, generator=torch.Generator().manual_seed(0))
    >>> 0.7 < attention(q, q.flip(0), q.flip(1)).std().item() < 1.3
    True
    """
    positive("mult", mult)
    if query.ndim < 2 or query.shape[-1] != key.shape[-1] or key.shape[:-1] != value.shape[:-1]:
        shapes = f"{tuple(query.shape)}, {tuple(key.shape)}, {tuple(value.shape)}"
        raise ValueError(f"query, key, value must be (*batch, n, d), (*batch, m, d), (*batch, m, e), got {shapes}")
    length, d = key.shape[-2:]
    flat = math.log(length) / length if causal and length > 1 else 1 / max(length, 1)
    factor = 1 / between(1 / (1 + 4 * d / mult**2), flat**0.5, 1.0)
    query, key, value = (scale(t, 1.0, factor) for t in (query, key, value))
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal, scale=mult / d)
    return scale(out, factor, 1.0)


def cross_entropy(logits: Tensor, target: Tensor, *, mult: float = 1.0, ignore_index: int = -100) -> Tensor:
    r"""The mean cross-entropy of logits times `mult`, whose gradient has unit scale at initialisation.

    Parameters
    ----------
    logits : (*batch, classes)
    target : (*batch,) integers in [0, classes), or `ignore_index`
    mult : the inverse temperature; one of the five hyper-parameters of u-muP
    ignore_index : targets that do not count

    Returns
    -------
    The mean over the targets that count, 0-d; zero if none does.

    Raises
    ------
    ValueError : `mult` is not positive, or shapes that do not fit.

    Notes
    -----
    The gradient is that of the sum, times :math:`c / \sqrt{c - 1}` for c classes, without the factor `mult`: softmax
    minus one-hot has the root mean square :math:`\sqrt{c - 1} / c` where all logits are equal.

    References
    ----------
    "u-μP: The Unit-Scaled Maximal Update Parametrization"

    Examples
    --------
    >>> import torch
    >>> logits = torch.zeros(8, 10, requires_grad=True)
    >>> cross_entropy(logits, torch.arange(8)).backward()
    >>> round(logits.grad.square().mean().sqrt().item(), 6)
    1.0
    """
    positive("mult", mult)
    if logits.ndim < 1 or logits.shape[:-1] != target.shape:
        raise ValueError(
            f"logits must be (*batch, classes) and target (*batch,), got {tuple(logits.shape)} and {tuple(target.shape)}"
        )
    classes = logits.shape[-1]
    if classes < 2:
        raise ValueError(f"logits must have at least 2 classes, got {classes}")
    logits = scale(logits, mult, classes / (classes - 1) ** 0.5)
    flat = target.reshape(-1)
    total = F.cross_entropy(logits.reshape(-1, classes), flat, ignore_index=ignore_index, reduction="sum")
    return scale(total, 1 / (flat != ignore_index).sum().clamp(min=1).to(total.dtype), 1.0)


def _sizes(x: Tensor, weight: Tensor) -> tuple[int, int, int]:
    if weight.ndim != 2 or x.ndim < 1 or x.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"x must be (*batch, n_in) and weight (n_out, n_in), got {tuple(x.shape)}, {tuple(weight.shape)}"
        )
    fan_out, fan_in = weight.shape
    return fan_out, fan_in, max(x.numel() // fan_in, 1)


def _rows(x: Tensor, shape: Sequence[int]) -> int:
    if tuple(x.shape[x.ndim - len(shape) :]) != tuple(shape):
        raise ValueError(f"x must end in {tuple(shape)}, got {tuple(x.shape)}")
    return max(x.numel() // max(math.prod(shape), 1), 1)
