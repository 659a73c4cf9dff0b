"""How the functions of torch move the axes of their arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from resolvent.optim.weight_axes import Axis, Labels, align, broadcast, freeze, fresh, regroup
from resolvent.optim.weight_trace import Trace, given, tensors_in

_REDUCE = ("mean", "sum", "amax", "amin", "var", "std", "norm", "logsumexp", "prod")
_POOL = [f"{kind}_pool{d}d" for kind in ("max", "avg", "adaptive_avg", "adaptive_max") for d in (1, 2, 3)]
_RNN = {"rnn_tanh": 1, "rnn_relu": 1, "gru": 3, "lstm": 4}


def _linear(trace: Trace, args: Any, kwargs: Any, out: Any) -> None:
    x, W = trace.of(args[0]), trace.of(given(args, kwargs, 1, "weight"))
    align(x[-1], W[1])
    b = given(args, kwargs, 2, "bias")
    if b is not None:
        align(W[0], trace.of(b)[0])
    trace.put(out, [*x[:-1], W[0]])


def _conv(trace: Trace, args: Any, kwargs: Any, out: Any) -> None:
    x, W = trace.of(args[0]), trace.of(given(args, kwargs, 1, "weight"))
    b, groups = given(args, kwargs, 2, "bias"), given(args, kwargs, 6, "groups", default=1)
    spatial = out.ndim - 2
    channels = x[-spatial - 1]
    for axes in W[2:]:
        freeze(axes)
    if groups == 1:
        align(channels, W[1])
    elif not W[1] and out.shape[-spatial - 1] == groups:
        align(channels, W[0])  # depthwise
    else:
        for axes in (channels, W[0], W[1]):
            freeze(axes)
    if b is not None:
        align(W[0], trace.of(b)[0])
    trace.put(out, [*x[: -spatial - 1], W[0], *fresh(out.shape[-spatial:], fixed=True)])


def _batch_norm(trace: Trace, args: Any, kwargs: Any, out: Any) -> None:
    # running statistics move with their channels
    x = trace.of(args[0])
    for place, name in ((3, "weight"), (4, "bias")):
        t = given(args, kwargs, place, name)
        if t is not None:
            align(x[1], trace.of(t)[0])
    trace.put(out, x)


def _layer_norm(trace: Trace, args: Any, kwargs: Any, out: Any) -> None:
    x = trace.of(args[0])
    for place, name in ((2, "weight"), (3, "bias")):
        t = given(args, kwargs, place, name)
        if isinstance(t, Tensor):
            for left, right in zip(x[-t.ndim :], trace.of(t), strict=True):
                align(left, right)
    trace.put(out, x)


def _group_norm(trace: Trace, args: Any, kwargs: Any, out: Any) -> None:
    # groups may be exchanged as wholes, and channels inside a group
    regroup([trace.of(args[0])[1]], [args[1], out.shape[1] // args[1]])
    _batch_norm(trace, (args[0], None, None, given(args, kwargs, 2, "weight"), given(args, kwargs, 3, "bias")), {}, out)


def _embedding(trace: Trace, args: Any, kwargs: Any, out: Any) -> None:
    W = trace.of(args[1])
    freeze(W[0])
    trace.put(out, [*fresh(out.shape[:-1], fixed=True), W[1]])


def _matmul(trace: Trace, args: Any, kwargs: Any, out: Any) -> None:
    a, b = trace.of(args[0]), trace.of(given(args, kwargs, 1, "other", "mat2"))
    align(a[-1], b[-2] if len(b) > 1 else b[0])
    ends = ([a[-2]] if len(a) > 1 else []) + ([b[-1]] if len(b) > 1 else [])
    trace.put(out, [*broadcast([a[:-2], b[:-2]], out.ndim - len(ends)), *ends])


def _addmm(trace: Trace, args: Any, kwargs: Any, out: Any) -> None:
    _matmul(trace, args[1:3], {}, out)
    trace.put(out, broadcast([trace.of(out), trace.of(args[0])], out.ndim))


def _einsum(trace: Trace, args: Any, kwargs: Any, out: Any) -> None:
    tensors = list(tensors_in(args[1:]))
    left, _, right = args[0].replace(" ", "").partition("->")
    if "." in left or not right:
        return trace.stop(tensors, [out])
    found: dict[str, list[Axis]] = {}
    for letters, t in zip(left.split(","), tensors, strict=True):
        for letter, axes in zip(letters, trace.of(t), strict=True):
            align(found.setdefault(letter, axes), axes)
    trace.put(out, [found[letter] for letter in right])


def _attention(trace: Trace, args: Any, kwargs: Any, out: Any) -> None:
    q, k, v = (trace.of(given(args, kwargs, i, n)) for i, n in enumerate(("query", "key", "value")))
    align(q[-1], k[-1])
    align(k[-2], v[-2])
    mask = given(args, kwargs, 3, "attn_mask")
    if mask is not None or given(args, kwargs, 5, "is_causal", default=False):
        freeze(q[-2])
        freeze(k[-2])
    trace.put(out, [*broadcast([q[:-2], k[:-2], v[:-2]], out.ndim - 2), q[-2], v[-1]])


def _multi_head(trace: Trace, args: Any, kwargs: Any, out: Any) -> None:
    """`nn.MultiheadAttention`: query, key and value of a head share the permutation of the head's own axis."""
    q, k, v = (trace.of(t) for t in args[:3])
    heads, W, b = args[4], args[5], args[6]
    outer, outer_bias = trace.of(args[11]), args[12]
    if W is None or args[7] is not None or args[8] is not None:
        return trace.stop(tensors_in((args, kwargs)), tensors_in(out))
    w = trace.of(W)
    width = args[11].shape[1]
    three, head, inner = regroup([w[0]], [3, heads, width // heads])
    freeze(three)
    for x in (q, k, v):
        align(x[-1], w[1])
    align(head + inner, outer[1])
    if b is not None:
        align(w[0], trace.of(b)[0])
    if outer_bias is not None:
        align(outer[0], trace.of(outer_bias)[0])
    for axes in (*q[:-1], *k[:-1]):
        freeze(axes)
    trace.put(out[0], [*fresh(out[0].shape[:-1], fixed=True), outer[0]])
    if out[1] is not None:
        trace.put(out[1], fresh(out[1].shape, fixed=True))


def _recurrent(gates: int) -> Callable[..., None]:
    def rule(trace: Trace, args: Any, kwargs: Any, out: Any) -> None:
        packed = isinstance(args[3], (list, tuple))  # packed sequences come with their batch sizes
        weights, biases, _, _, _, both = args[3:9] if packed else args[2:8]
        x, results = trace.of(args[0])[-1], list(tensors_in(out))
        per, ways = (4 if biases else 2), (2 if both else 1)
        gate = Axis(gates, fixed=True)
        for first in range(0, len(weights), per * ways):
            hidden = Axis(weights[first + 1].shape[1])
            for k in range(first, first + per * ways, per):
                inner, again, *shifts = (trace.of(t) for t in weights[k : k + per])
                align(x, inner[1])
                align([hidden], again[1])
                for labels in (inner, again, *shifts):
                    align([gate, hidden] if gates > 1 else [hidden], labels[0])
            x = [Axis(2, fixed=True), hidden] if both else [hidden]
        for start in tensors_in((args[2] if packed else args[1],)):
            if trace.of(start)[-1]:
                align(trace.of(start)[-1], [hidden])
        trace.put(results[0], [*fresh(results[0].shape[:-1], fixed=True), x])
        for t in results[1:]:
            trace.put(t, [*fresh(t.shape[:-1], fixed=True), [hidden]])

    return rule


def _regroup(trace: Trace, args: Any, kwargs: Any, out: Any) -> None:
    trace.put(out, regroup(trace.of(args[0]), out.shape))


def _move(trace: Trace, args: Any, kwargs: Any, out: Any) -> None:
    """Any rearrangement of whole dimensions."""
    x = trace.of(args[0])
    # a tensor whose sizes tell its dimensions apart shows where they go
    probe = torch.empty([k + 2 for k in range(len(x))], device="meta")
    name = trace.current
    with torch._C.DisableTorchFunction():
        moved = getattr(probe, name) if name in ("T", "mT") else getattr(torch.Tensor, name)(probe, *args[1:], **kwargs)
    trace.put(out, [x[n - 2] for n in moved.shape])


def _cell(gates: int) -> Callable[..., None]:
    def rule(trace: Trace, args: Any, kwargs: Any, out: Any) -> None:
        x, starts = trace.of(args[0]), list(tensors_in((args[1],)))
        inner, again, *shifts = (trace.of(t) for t in tensors_in(args[2:]))
        hidden, gate = Axis(starts[0].shape[-1]), Axis(gates, fixed=True)
        align(x[-1], inner[1])
        align([hidden], again[1])
        for labels in (inner, again, *shifts):
            align([gate, hidden] if gates > 1 else [hidden], labels[0])
        for labels in (trace.of(t) for t in starts):
            if labels[-1]:
                align(labels[-1], [hidden])
        for t in tensors_in(out):
            trace.put(t, [*x[:-1], [hidden]])

    return rule


def _pieces(trace: Trace, args: Any, kwargs: Any, out: Any) -> None:
    """chunk and split: the piece's number is fixed, the place inside a piece is free if pieces are equal."""
    x, dim = trace.of(args[0]), given(args, kwargs, 2, "dim", default=0)
    equal = len({t.shape[dim] for t in out}) == 1
    if equal:
        which, inner = regroup([x[dim]], [len(out), out[0].shape[dim]])
        freeze(which)
    else:
        freeze(x[dim])
    for t in out:
        labels = list(x)
        labels[dim] = inner if equal else fresh([t.shape[dim]], fixed=True)[0]
        trace.put(t, labels)


def _unbind(trace: Trace, args: Any, kwargs: Any, out: Any) -> None:
    x, dim = list(trace.of(args[0])), given(args, kwargs, 1, "dim", default=0)
    freeze(x.pop(dim))
    for t in out:
        trace.put(t, x)


def _getitem(trace: Trace, args: Any, kwargs: Any, out: Any) -> None:
    x, index = trace.of(args[0]), args[1] if isinstance(args[1], tuple) else (args[1],)
    if any(not isinstance(i, (int, slice)) and i is not None and i is not Ellipsis for i in index):
        return trace.stop([args[0]], [out])
    taken = sum(i is not None and i is not Ellipsis for i in index)
    full = [slice(None)] * (len(x) - taken)
    place = index.index(Ellipsis) if Ellipsis in index else len(index)
    labels: Labels = []
    k = 0
    for i in (*index[:place], *full, *index[place + 1 :]):
        if i is None:
            labels.append([])
            continue
        n = args[0].shape[k]
        if isinstance(i, slice) and i.indices(n) == (0, n, 1):
            labels.append(x[k])
        else:
            freeze(x[k])
            if isinstance(i, slice):
                labels.append(fresh([len(range(*i.indices(n)))], fixed=True)[0])
        k += 1
    trace.put(out, labels)


def _cat(trace: Trace, args: Any, kwargs: Any, out: Any) -> None:
    dim = given(args, kwargs, 1, "dim", default=0) % out.ndim
    parts = [trace.of(t) for t in given(args, kwargs, 0, "tensors")]
    for part in parts:
        freeze(part[dim])
    labels = broadcast([[*p[:dim], [], *p[dim + 1 :]] for p in parts], out.ndim)
    labels[dim] = fresh([out.shape[dim]], fixed=True)[0]
    trace.put(out, labels)


def _stack(trace: Trace, args: Any, kwargs: Any, out: Any) -> None:
    dim = given(args, kwargs, 1, "dim", default=0) % out.ndim
    labels = broadcast([trace.of(t) for t in given(args, kwargs, 0, "tensors")], out.ndim - 1)
    labels.insert(dim, fresh([out.shape[dim]], fixed=True)[0])
    trace.put(out, labels)


def _reduce(trace: Trace, args: Any, kwargs: Any, out: Any) -> None:
    x, dim = trace.of(args[0]), given(args, kwargs, 1, "dim", "axis")
    gone = range(len(x)) if dim is None else [d % len(x) for d in (dim if isinstance(dim, (tuple, list)) else (dim,))]
    for t in tensors_in(out):
        kept = [[] if k in gone else axes for k, axes in enumerate(x)] if t.ndim == len(x) else None
        trace.put(t, kept if kept is not None else [axes for k, axes in enumerate(x) if k not in gone])


def _pool(trace: Trace, args: Any, kwargs: Any, out: Any) -> None:
    x = trace.of(args[0])
    for t in tensors_in(out):
        trace.put(t, [*x[:2], *fresh(t.shape[2:], fixed=True)])


def _expand(trace: Trace, args: Any, kwargs: Any, out: Any) -> None:
    x = trace.of(args[0])
    before = [1] * (out.ndim - len(x)) + list(args[0].shape)
    new = fresh(out.shape, fixed=True)
    padded = [*[[] for _ in range(out.ndim - len(x))], *x]
    trace.put(out, [old if n == m else fixed for old, fixed, n, m in zip(padded, new, before, out.shape, strict=True)])


def _squeeze(trace: Trace, args: Any, kwargs: Any, out: Any) -> None:
    # dimensions of size one have no factors, so the reshape finds the others
    _regroup(trace, args, kwargs, out)


def _prelu(trace: Trace, args: Any, kwargs: Any, out: Any) -> None:
    x, slope = trace.of(args[0]), trace.of(args[1])
    if slope[0]:
        align(x[1], slope[0])
    trace.put(out, x)


RULES: dict[str, Callable[[Trace, Any, Any, Any], None]] = {
    "linear": _linear,
    "batch_norm": _batch_norm,
    "instance_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "rms_norm": _layer_norm,
    "group_norm": _group_norm,
    "embedding": _embedding,
    "addmm": _addmm,
    "baddbmm": _addmm,
    "einsum": _einsum,
    "scaled_dot_product_attention": _attention,
    "multi_head_attention_forward": _multi_head,
    "getitem": _getitem,
    "unbind": _unbind,
    "stack": _stack,
    "prelu": _prelu,
    "squeeze": _squeeze,
    "unsqueeze": _squeeze,
    "expand": _expand,
    "expand_as": _expand,
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _conv),
    **dict.fromkeys(("matmul", "mm", "bmm", "mv", "rmatmul"), _matmul),
    **dict.fromkeys(("reshape", "view", "flatten", "unflatten", "view_as", "reshape_as"), _regroup),
    **dict.fromkeys(("permute", "transpose", "swapaxes", "movedim", "t", "T", "mT"), _move),
    **dict.fromkeys(("chunk", "split", "tensor_split"), _pieces),
    **dict.fromkeys(("cat", "concat", "concatenate"), _cat),
    **dict.fromkeys(_REDUCE, _reduce),
    **dict.fromkeys((*_POOL, "boolean_dispatch", "fn", "interpolate"), _pool),
    **{name: _recurrent(gates) for name, gates in _RNN.items()},
    **{f"{name}_cell": _cell(gates) for name, gates in _RNN.items()},
}
