"""A vector for a JSON value: similar values get similar vectors, and a field can be read back from the vector."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from resolvent.operators.arrays import as_tensor, check_finite, give_back_array
from resolvent.search.binding import BINDINGS, keyed

# Nodes of one batch times dim: some tens of MB.
_ENTRIES = 1 << 23
_GRAM = 3


@dataclass
class _Trees:
    """Several JSON values as one forest in arrays: the leaves, and how each node hangs on its parent."""

    leaves: dict[tuple[str, Any], list[int]] = field(default_factory=dict)
    edges: dict[int, dict[str | int, list[tuple[int, int]]]] = field(default_factory=dict)
    inner: dict[int, list[int]] = field(default_factory=dict)
    arrays: list[int] = field(default_factory=list)
    count: int = 0


class JsonEncoder:
    r"""Encode objects as :math:`\sum_{key} M_{key}\, v_{value}` with a random orthogonal matrix for every key.

    Parameters
    ----------
    dim : length of the vectors; a power of two for orthogonal matrices
    matrices : "orthogonal" (the method), "gaussian" (dense, entries of variance 1/dim), "convolution" (circular, with random
        vectors) or "product" (entrywise, with random signs): the last three show what goes wrong
    strings : "random" (each text its own direction), "ngrams" (texts that share groups of three letters are near), or a
        function of a text that gives its embedding
    number_scale : two numbers at distance x have cosine about :math:`e^{-(x/scale)^2/2}`
    soft : weight of an array's items without their places; above 0 arrays stay similar when their items move
    generator : an int, the seed of everything; vectors compare only under the same one

    Notes
    -----
    Strings, true, false and null are fixed random directions, numbers random Fourier features; arrays bind items to places
    by powers of one orthogonal matrix; every level is normalised, so that depth does not fade. A product with a key's
    matrix costs O(dim log dim), its numbers are drawn from the key: nothing is stored. A field read back by `unbind` is
    its vector plus noise of length :math:`\sqrt{m - 1}` times its own for m keys at its level: up to about dim / 30 keys it
    is told from a thousand values nearly always. There is no gradient.

    References
    ----------
    "Orthogonal Matrices for MBAT Vector Symbolic Architectures, and a "Soft" VSA Representation for JSON"

    Examples
    --------
    >>> encoder = JsonEncoder(dim=512)
    >>> v = encoder.encode({"name": "Ada", "born": {"year": 1815, "city": "London"}})
    >>> encoder.cleanup(encoder.unbind(v, ["born", "city"]), ["Paris", "London", "Rome"])[0]
    'London'
    """

    def __init__(
        self,
        dim: int = 1024,
        *,
        matrices: Literal["orthogonal", "gaussian", "convolution", "product"] = "orthogonal",
        strings: Literal["random", "ngrams"] | Callable[[str], Any] = "random",
        number_scale: float = 1.0,
        soft: float = 0.0,
        generator: int = 0,
    ) -> None:
        if isinstance(dim, bool) or not isinstance(dim, int) or dim < 2:
            raise ValueError(f"dim must be an int of at least 2, got {dim!r}")
        if matrices not in BINDINGS:
            raise ValueError(f"matrices must be one of {', '.join(BINDINGS)}, got {matrices!r}")
        if strings not in ("random", "ngrams") and not callable(strings):
            raise ValueError(f"strings must be 'random', 'ngrams' or a function of a text, got {strings!r}")
        if not 0 < number_scale < math.inf:
            raise ValueError(f"number_scale must be positive and finite, got {number_scale!r}")
        if not 0 <= soft < math.inf:
            raise ValueError(f"soft must be at least 0 and finite, got {soft!r}")
        if isinstance(generator, bool) or not isinstance(generator, int):
            raise TypeError(f"generator must be an int, got {type(generator).__name__}")
        self.dim, self.seed, self.strings, self.soft = dim, generator, strings, float(soft)
        self.binding = BINDINGS[matrices](dim, generator)
        g = keyed(generator, "number")
        self._frequencies = torch.randn(dim // 2, generator=g, dtype=torch.float64) / number_scale

    def encode(self, value: Any) -> np.ndarray:
        """The vector (dim,) float32 of length one of a JSON value.

        Parameters
        ----------
        value : dict with text keys, list or tuple, str, int, float, bool or None, nested to any depth

        Returns
        -------
        (dim,) array

        Raises
        ------
        TypeError : something that JSON does not have, with its place
        ValueError : NaN or an infinite number
        """
        return self.encode_many([value])[0]

    def encode_many(self, values: Sequence[Any]) -> np.ndarray:
        """Vectors (n, dim) of several JSON values: keys that they share are bound together, which is faster."""
        made: list[Tensor] = []
        trees, roots = _Trees(), [0]
        for value in values:
            self._walk(value, trees)
            roots.append(trees.count)
            if trees.count * self.dim > _ENTRIES:
                made.append(self._vectors(trees)[roots[:-1]])
                trees, roots = _Trees(), [0]
        if trees.count:
            made.append(self._vectors(trees)[roots[:-1]])
        return torch.cat(made).numpy() if made else np.empty((0, self.dim), np.float32)

    def unbind(self, v: Any, path: Sequence[str | int] | str | int) -> Any:
        """Read a field: its vector, scaled, plus noise from the other fields.

        Parameters
        ----------
        v : (dim,) or (b, dim), what `encode` gave
        path : the key of an object (text) or place in an array (int from 0), or a sequence of such from the outside in

        Returns
        -------
        The shape and kind of `v`, not normalised.
        """
        t, kind = as_tensor(v, "v")
        if t.ndim == 0 or t.shape[-1] != self.dim:
            raise ValueError(f"v must have shape (..., {self.dim}), got {tuple(t.shape)}")
        check_finite(t, "v")
        t = t.detach()
        for step in [path] if isinstance(path, str | int) else path:
            if isinstance(step, str):
                t = self.binding.unbind("k" + step, t)
            elif isinstance(step, int) and not isinstance(step, bool) and step >= 0:
                t = self.binding.unbind_position(step, t)
            else:
                raise TypeError(f"path must hold texts and places from 0, got {step!r}")
        return give_back_array(t, kind)

    def cleanup(self, v: Any, vocabulary: Sequence[Any], vectors: Any = None) -> Any:
        """The value whose vector is nearest to a noisy one, and its cosine.

        Parameters
        ----------
        v : (dim,) or (b, dim), what `unbind` gave
        vocabulary : the values that it may be
        vectors : (n, dim), ``encode_many(vocabulary)`` if it is at hand already

        Returns
        -------
        (value, cosine), or a list of such for (b, dim)
        """
        if not len(vocabulary):
            raise ValueError("vocabulary must hold at least one value")
        t, _ = as_tensor(v, "v")
        known = torch.as_tensor(self.encode_many(vocabulary) if vectors is None else vectors).to(t)
        if known.shape != (len(vocabulary), self.dim):
            raise ValueError(f"vectors must have shape ({len(vocabulary)}, {self.dim}), got {tuple(known.shape)}")
        cosine = torch.nn.functional.normalize(t.detach().reshape(-1, self.dim), dim=1) @ known.mT
        best = cosine.max(1)
        found = [(vocabulary[i], c) for i, c in zip(best.indices.tolist(), best.values.tolist(), strict=True)]
        return found[0] if t.ndim == 1 else found

    def _walk(self, value: Any, trees: _Trees) -> None:
        """Put one value into the forest. A stack and no recursion: depth is the user's."""
        stack: list[tuple[Any, int, int, str | int | None, str]] = [(value, 0, -1, None, "value")]
        while stack:
            item, depth, parent, edge, where = stack.pop()
            node = trees.count
            trees.count += 1
            if edge is not None:
                trees.edges.setdefault(depth, {}).setdefault(edge, []).append((node, parent))
            if isinstance(item, dict) and item:
                trees.inner.setdefault(depth, []).append(node)
                for key, part in item.items():
                    if not isinstance(key, str):
                        raise TypeError(f"{where} has the key {key!r}: keys of JSON objects are texts")
                    stack.append((part, depth + 1, node, "k" + key, f"{where}[{key!r}]"))
            elif isinstance(item, list | tuple) and item:
                trees.inner.setdefault(depth, []).append(node)
                trees.arrays.append(node)
                stack.extend((part, depth + 1, node, i, f"{where}[{i}]") for i, part in enumerate(item))
            else:
                trees.leaves.setdefault(_leaf(item, where), []).append(node)

    def _vectors(self, trees: _Trees) -> Tensor:
        """(nodes, dim): every node of the forest, from the leaves up."""
        out = torch.zeros(trees.count, self.dim)
        for leaf, nodes in trees.leaves.items():
            out[nodes] = self._leaf_vector(*leaf)
        for depth in range(max(trees.edges, default=0), 0, -1):
            self._normalize(out, trees.inner.get(depth, []))
            for edge, pairs in trees.edges[depth].items():
                nodes, parents = torch.tensor(pairs).T
                x = out[nodes]
                if isinstance(edge, str):
                    bound = self.binding.bind(edge, x)
                else:
                    bound = self.binding.bind_position(edge, x)
                    if self.soft:
                        # The items once more without their places, under one matrix of their own.
                        bound = bound + self.soft * self.binding.bind("bag", x)
                # A parent has a key once: no row is added to twice.
                out[parents] += bound
        self._normalize(out, trees.inner.get(0, []))
        return out

    def _normalize(self, out: Tensor, nodes: list[int]) -> None:
        if nodes:
            out[nodes] = torch.nn.functional.normalize(out[nodes], dim=1)

    def _leaf_vector(self, kind: str, value: Any) -> Tensor:
        if kind == "number":
            return self._number(value)
        if kind == "text" and callable(self.strings):
            return self._embedded(value)
        if kind == "text" and self.strings == "ngrams":
            padded = f"\0{value}\0"
            grams = {padded[i : i + _GRAM] for i in range(max(1, len(padded) - _GRAM + 1))}
            total = torch.stack([self._direction("gram", gram) for gram in sorted(grams)]).sum(0)
            return torch.nn.functional.normalize(total, dim=0)
        return self._direction(kind, value)

    def _direction(self, kind: str, value: str) -> Tensor:
        return torch.nn.functional.normalize(torch.randn(self.dim, generator=keyed(self.seed, kind, value)), dim=0)

    def _number(self, value: float) -> Tensor:
        # In float64: the phase of a number near 1e9 has no digit left in float32.
        phase = self._frequencies * value
        if not bool(torch.isfinite(phase).all()):
            raise ValueError(f"number {value:g} is too large for the number_scale of this encoder")
        made = torch.zeros(self.dim, dtype=torch.float64)
        half = len(phase)
        made[:half], made[half : 2 * half] = phase.cos(), phase.sin()
        return (made / half**0.5).to(torch.float32)

    def _embedded(self, text: str) -> Tensor:
        given, _ = as_tensor(self.strings(text), "strings(text)")  # type: ignore[operator]
        check_finite(given, "strings(text)")
        x = given.detach().to("cpu", torch.float32).reshape(-1)
        if len(x) != self.dim:
            g = keyed(self.seed, "embedding", str(len(x)))
            x = torch.randn(self.dim, len(x), generator=g) @ x
        if not bool(x.any()):
            raise ValueError(f"strings(text) must not be zero, it is for {text!r}")
        return torch.nn.functional.normalize(x, dim=0)


def _leaf(item: Any, where: str) -> tuple[str, Any]:
    """What kind of leaf, and a value that equal leaves share."""
    if isinstance(item, str):
        return "text", item
    if item is None or isinstance(item, bool | dict | list | tuple):
        return "constant", repr(item) if not isinstance(item, tuple) else "[]"
    if isinstance(item, int | float | np.integer | np.floating):
        try:
            number = float(item)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise ValueError(f"{where} must be a finite number, got {str(item)[:20]}")
        return "number", number
    raise TypeError(f"{where} must be JSON (dict, list, str, number, bool, None), got {type(item).__name__}")


__all__ = ["JsonEncoder"]
