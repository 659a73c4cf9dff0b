"""Permutation symmetries of weights: which axes move together, and the linear maps that commute with them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from resolvent.random import GeneratorLike, as_generator


class PermSpec(dict[str, tuple[int, ...]]):
    """Which permutation acts on each axis of each weight: name -> ids.

    Parameters
    ----------
    axes : name -> one id for each axis; axes with one id are permuted together
    shapes : name -> the shape in which a weight has those axes, where that is not its own (the gates of a recurrent
        layer, the heads of attention and the channels of a flattened picture are axes of their own)
    fixed : ids on which no permutation acts: inputs, outputs, places in a kernel
    ranks : name -> dimensions of the weight itself, where `shapes` has another number
    lengths : id -> length of the axis, where they are known

    Examples
    --------
    >>> spec = PermSpec({"W": (0, 1), "b": (0,)}, fixed={1})
    >>> spec["W"], spec.free
    ((0, 1), {0})
    """

    def __init__(
        self,
        axes: Mapping[str, Sequence[int]],
        shapes: Mapping[str, Sequence[int]] | None = None,
        fixed: set[int] | frozenset[int] = frozenset(),
        *,
        ranks: Mapping[str, int] | None = None,
        lengths: Mapping[int, int] | None = None,
    ) -> None:
        super().__init__({name: tuple(ids) for name, ids in axes.items()})
        if not self:
            raise ValueError("axes must name at least one weight, got none")
        self.shapes = {name: tuple(shape) for name, shape in (shapes or {}).items()}
        self.fixed = frozenset(fixed)
        self.ranks = {name: rank for name, rank in (ranks or {}).items()}
        self.lengths = dict(lengths or {})
        for name, shape in self.shapes.items():
            if len(shape) != len(self.get(name, ())):
                raise ValueError(f"shapes[{name!r}] must have {len(self.get(name, ()))} axes, got {shape}")

    @property
    def free(self) -> set[int]:
        """The ids that are permuted."""
        return {i for ids in self.values() for i in ids} - self.fixed

    def view(self, name: str, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape in which a weight of `shape` has one axis for each id."""
        view = self.shapes.get(name, tuple(shape))
        if len(view) != len(self[name]):
            raise ValueError(f"{name} has shape {tuple(shape)}, but its specification has {len(self[name])} axes")
        return view

    def sizes(self, weights: Mapping[str, Tensor]) -> dict[int, int]:
        """The length of every axis, by id."""
        found: dict[int, int] = {}
        for name, ids in self.items():
            if name not in weights:
                raise ValueError(f"weights must have every name of the specification, {name!r} is missing")
            for i, n in zip(ids, self.view(name, weights[name].shape), strict=True):
                if found.setdefault(i, n) != n:
                    raise ValueError(f"{name}: axis {i} has length {n}, but {found[i]} elsewhere")
        return found


def perm_spec(model: nn.Module, *example: Any, unknown: Literal["raise", "fix"] = "raise") -> PermSpec:
    """The permutations of a model's hidden units that leave the function it computes as it is.

    Parameters
    ----------
    model : any `nn.Module` of linear, convolutional, recurrent, attention, embedding and normalisation layers with
        residual connections, whatever its control flow
    *example : inputs of a forward pass; may be left out if the first layer is linear, recurrent or an embedding
    unknown : what to do at a function without a rule: raise, or let no permutation act on what it touches

    Returns
    -------
    `PermSpec`: the ids of every parameter's axes.

    Raises
    ------
    ValueError : a function without a rule, or no example where one is needed.

    Notes
    -----
    One forward pass in evaluation mode; each call of a torch function says which axes must move together (the columns of
    a linear layer with the units that it reads, both ends of a residual connection) and where a flattened or packed
    dimension has several factors. Inputs and outputs are fixed. What a rule cannot follow is fixed too, so that the
    symmetries found are symmetries always, though not always all: the heads of `nn.MultiheadAttention` share the
    permutation of queries and values, both directions of a recurrent layer share theirs. Sign and scale symmetries are
    not permutations. Running statistics move with their channels.

    References
    ----------
    "Universal Neural Functionals"

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> spec = perm_spec(model)
    >>> dict(spec), spec.free
    ({'0.weight': (0, 1), '0.bias': (0,), '2.weight': (2, 0), '2.bias': (2,)}, {0})
    """
    from resolvent.optim.weight_axes import freeze, fresh, number
    from resolvent.optim.weight_rules import RULES
    from resolvent.optim.weight_trace import Trace, tensors_in

    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if unknown not in ("raise", "fix"):
        raise ValueError(f"unknown must be 'raise' or 'fix', got {unknown!r}")
    named = dict(model.named_parameters())
    if not named:
        raise ValueError("model has no parameters")
    inputs = example or (_example(model),)
    trace = Trace(named.values(), tensors_in(inputs), RULES, strict=unknown == "raise")
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), trace:
            out = model(*inputs)
    finally:
        model.train(training)
    for t in tensors_in(out):
        for axes in trace.of(t):
            freeze(axes)
    found = {name: (p, trace.of(p) if trace.was_used(p) else fresh(p.shape, True)) for name, p in named.items()}
    spec, shapes, fixed = number(found)
    lengths = {i: n for name, ids in spec.items() for i, n in zip(ids, shapes[name], strict=True)}
    split = {name: shape for name, shape in shapes.items() if shape != named[name].shape}
    return PermSpec(spec, split, fixed, ranks={name: named[name].ndim for name in split}, lengths=lengths)


def permute_weights(
    weights: Mapping[str, Tensor], spec: Mapping[str, Sequence[int]], perms: Mapping[int, Tensor]
) -> dict[str, Tensor]:
    """Move every axis of every weight by the permutation of its id.

    Parameters
    ----------
    weights : name -> (*batch, *shape, *channels), where a `PermSpec` with shapes of its own wants plain (*shape)
    spec : name -> ids of the axes
    perms : id -> (n,) places; ids left out stay

    Returns
    -------
    name -> permuted weights.

    Examples
    --------
    >>> W = {"W": torch.tensor([[1.0, 2.0], [3.0, 4.0]])}
    >>> permute_weights(W, {"W": (0, 0)}, {0: torch.tensor([1, 0])})["W"]
    tensor([[4., 3.],
            [2., 1.]])
    """
    spec = as_spec(spec)
    out = {}
    for name, ids in spec.items():
        w = weights[name]
        t = w.reshape(spec.view(name, w.shape))
        for dim, i in enumerate(ids):
            if i in perms:
                t = t.index_select(dim, perms[i].to(t.device))
        out[name] = t.reshape(w.shape)
    return out


def random_permutations(
    weights: Mapping[str, Tensor], spec: PermSpec, generator: GeneratorLike = None
) -> dict[int, Tensor]:
    """A uniformly random permutation for every id that is free.

    Parameters
    ----------
    weights : name -> weights, for the lengths of axes
    spec : the specification
    generator : a `torch.Generator`, an int or None

    Returns
    -------
    id -> (n,) permutation.

    Examples
    --------
    >>> spec = PermSpec({"W": (0, 1)}, fixed={1})
    >>> list(random_permutations({"W": torch.ones(4, 3)}, spec, generator=0))
    [0]
    """
    g = as_generator(generator)
    sizes = spec.sizes(weights)
    return {i: torch.randperm(sizes[i], generator=g) for i in sorted(spec.free)}


class BasisTerm(NamedTuple):
    """One map of a basis of the equivariant ones: y over the blocks `out` of x averaged over those of `inp` alone.

    Attributes
    ----------
    out : the block of every axis of the output; equal blocks write on a diagonal
    inp : the block of every axis of the input; equal blocks read a diagonal
    """

    out: tuple[int, ...]
    inp: tuple[int, ...]

    @property
    def shared(self) -> tuple[int, ...]:
        """Blocks that both have: these axes are aligned, the output's others broadcast, the input's others averaged."""
        return tuple(sorted(set(self.out) & set(self.inp)))


def basis_terms(out_spec: Sequence[int], in_spec: Sequence[int]) -> list[BasisTerm]:
    """A basis of the linear maps between two weights that commute with all permutations of their axes.

    Parameters
    ----------
    out_spec : the id of the permutation that acts on each axis of the output
    in_spec : of the input

    Returns
    -------
    Every way of dividing the axes of both into blocks of one id each: the product of Bell numbers of how often each id
    occurs.

    Notes
    -----
    For axes shorter than the number of their blocks some of the terms depend on each other.

    References
    ----------
    "Universal Neural Functionals"

    Examples
    --------
    >>> len(basis_terms((0, 1), (0, 1))), len(basis_terms((0, 0), (0, 0)))
    (4, 15)
    >>> basis_terms((0,), (1, 0))
    [BasisTerm(out=(0,), inp=(1, 0)), BasisTerm(out=(0,), inp=(2, 1))]
    """
    everything = (*out_spec, *in_spec)
    places: dict[int, list[int]] = defaultdict(list)
    for place, i in enumerate(everything):
        places[i].append(place)
    terms = []
    for choice in product(*(list(_partitions(where)) for where in places.values())):
        label = [0] * len(everything)
        for number, block in enumerate(block for blocks in choice for block in blocks):
            for place in block:
                label[place] = number
        terms.append(BasisTerm(tuple(label[: len(out_spec)]), tuple(label[len(out_spec) :])))
    return terms


def as_spec(spec: Mapping[str, Sequence[int]]) -> PermSpec:
    """A specification from any mapping of names to ids.

    Parameters
    ----------
    spec : a `PermSpec`, or name -> ids

    Returns
    -------
    PermSpec

    Examples
    --------
    >>> as_spec({"W": [0, 1]})
    {'W': (0, 1)}
    """
    return spec if isinstance(spec, PermSpec) else PermSpec(spec)


def _partitions(items: list[int]) -> Iterator[list[list[int]]]:
    """Every division of a list into blocks."""
    if not items:
        yield []
        return
    first, rest = items[0], items[1:]
    for blocks in _partitions(rest):
        for k in range(len(blocks)):
            yield [*blocks[:k], [first, *blocks[k]], *blocks[k + 1 :]]
        yield [[first], *blocks]


def _example(model: nn.Module) -> Tensor:
    """An input that the first layer takes."""
    first = next(m for m in model.modules() if next(m.parameters(recurse=False), None) is not None)
    p = next(first.parameters(recurse=False))
    if isinstance(first, nn.Linear):
        return torch.zeros(2, first.in_features, dtype=p.dtype, device=p.device)
    if isinstance(first, nn.RNNBase):
        return torch.zeros(2, 3, first.input_size, dtype=p.dtype, device=p.device)
    if isinstance(first, nn.Embedding):
        return torch.zeros(2, 3, dtype=torch.long, device=p.device)
    raise ValueError(f"example must be given: what {type(model).__name__} takes cannot be read off its first layer")
