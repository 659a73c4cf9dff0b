"""Which axes of a model's parameters are permuted together, read off one forward pass."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from resolvent.optim.weight_axes import Labels, broadcast, freeze, fresh, uniform

# Functions that act on every entry alike, or on a whole axis without regard to its order.
_POINTWISE = """add sub mul div truediv radd rsub rmul rdiv rtruediv iadd isub imul itruediv pow rpow neg abs exp log log1p sqrt
rsqrt square relu relu6 gelu silu mish tanh sigmoid leaky_relu elu celu selu softplus softsign hardtanh hardswish
    hardsigmoid logsigmoid tanhshrink erf sin cos clamp clip maximum minimum where masked_fill dropout dropout1d
    dropout2d dropout3d feature_dropout alpha_dropout contiguous clone detach to float double half bfloat16 type_as
    softmax log_softmax softmin normalize nan_to_num lerp addcmul addcdiv eq ne lt le gt ge bool sign"""
# What says something about a tensor or makes one, without mixing entries.
_SILENT = """size dim ndimension numel stride is_floating_point is_complex is_contiguous len get_device item tolist is_cuda
    zeros ones empty full arange zeros_like ones_like empty_like full_like randn rand tensor new_zeros new_ones
    new_empty new_full triu tril is_same_size has_torch_function data_ptr requires_grad backward all any hash repr
    is_nested is_autocast_enabled get_autocast_dtype is_autocast_cache_enabled bool index"""
POINTWISE, SILENT = frozenset(_POINTWISE.split()), frozenset(_SILENT.split())


class Trace(TorchFunctionMode):
    """Follows the axes of the parameters through a forward pass."""

    def __init__(
        self, parameters: Iterable[Tensor], inputs: Iterable[Tensor], rules: dict[str, Any], strict: bool
    ) -> None:
        super().__init__()
        self._rules, self._strict = rules, strict
        # the tensors are kept, for an id is given again once its tensor is gone
        self._known: dict[int, tuple[Tensor, Labels]] = {}
        self._used: set[int] = set()
        self.current = ""
        for p in parameters:
            self.put(p, fresh(p.shape))
        for x in inputs:
            self.put(x, fresh(x.shape, fixed=True))

    def put(self, t: Any, labels: Labels) -> None:
        """Remember the labels of a tensor."""
        if isinstance(t, Tensor):
            self._known[id(t)] = (t, labels)

    def of(self, t: Tensor) -> Labels:
        """The labels of a tensor; a constant is fixed unless all its entries are equal."""
        if id(t) not in self._known:
            labels: Labels = [[] for _ in t.shape] if uniform(t) else fresh(t.shape, fixed=True)
            self.put(t, labels)
        self._used.add(id(t))
        return self._known[id(t)][1]

    def was_used(self, t: Tensor) -> bool:
        """Whether the forward pass has met the tensor."""
        return id(t) in self._used

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        name = name_of(func)
        taken = list(tensors_in((args, kwargs)))
        results = list(tensors_in(out))
        if not results or not any(id(t) in self._known for t in taken) or name in SILENT:
            return out
        rule, self.current = self._rules.get(name), name
        if rule is not None:
            rule(self, args, kwargs, out)
        elif name in POINTWISE:
            self.put(out, broadcast([self.of(t) for t in taken], out.ndim))
        else:
            if self._strict:
                raise ValueError(
                    f"perm_spec: no rule says how {name} moves axes; give unknown='fix', which lets no permutation act "
                    "on what it touches, or write the specification by hand"
                )
            self.stop(taken, results)
        return out

    def stop(self, tensors: Iterable[Tensor], results: Iterable[Tensor]) -> None:
        """No permutation acts on these."""
        for t in tensors:
            for axes in self.of(t):
                freeze(axes)
        for t in results:
            self.put(t, fresh(t.shape, fixed=True))


def name_of(func: Any) -> str:
    name = getattr(func, "__name__", str(func))
    if name == "__get__":  # a property such as x.T or x.shape
        return str(getattr(getattr(func, "__self__", None), "__name__", name))
    return name.strip("_")


def tensors_in(tree: Any) -> Iterable[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, (tuple, list)):
        for item in tree:
            yield from tensors_in(item)
    elif isinstance(tree, dict):
        yield from tensors_in(tuple(tree.values()))


def given(args: Sequence[Any], kwargs: dict[str, Any], place: int, *names: str, default: Any = None) -> Any:
    if len(args) > place:
        return args[place]
    return next((kwargs[name] for name in names if name in kwargs), default)
