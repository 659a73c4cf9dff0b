"""How the tensors of a checkpoint become matrices: by their names, their shapes and what lies beside them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from resolvent.report.fused import is_conv1d, split_last, split_rows
from resolvent.report.lora import LoraPair, lora_pairs
from resolvent.report.stored import Stored

if TYPE_CHECKING:
    import scipy.sparse

    Matrix: TypeAlias = Tensor | scipy.sparse.csr_array

_CODES = ("int8", "uint8", "bool")
# A batch of more matrices than this is data and no layer: it is read as one matrix with one of them per row.
BATCH = 1024
# Entries compared at a time when two tensors are suspected to be one.
_CHUNK = 1 << 22
# The input and the output embedding of a language model, which are often one matrix; the former is the one to measure.
_INPUT = re.compile(
    r"(^|[._])(embed|embeds|embeddings?|embed_tokens|tok_embeddings|word_embeddings|wte|shared)([._]|$)"
)
_OUTPUT = re.compile(
    r"(^|[._])(lm_head|embed_out|output_projection|output_layer|unembed|head|decoder|proj_out)\.weight$"
    r"|^output\.weight$"
)
_MASK = re.compile(r"(^|\.)(attn|attention|self_attn)\.(bias|masked_bias|mask)$|(^|[._])(causal_mask|attn_mask)$")
# The weights that GPT-2 stores as (in, out).
_CONV1D = re.compile(r"(^|\.)(c_attn|c_proj|c_fc|q_attn)\.weight$")


@dataclass(frozen=True)
class Part:
    """A matrix to measure, out of a tensor.

    Attributes
    ----------
    suffix : what its name has behind the tensor's: "" for the whole, "[q]", "[3]", "[3][gate]"
    read_as : how the tensor became this matrix, "" for one that is stored as a matrix
    matrix : 2-D, a view of the tensor where that is possible
    notes : how it was recognised
    name : its whole name where that is not the tensor's with the suffix (the product of a LoRA pair); else ""
    """

    suffix: str
    read_as: str
    matrix: Matrix
    notes: tuple[str, ...] = ()
    name: str = ""

    def named(self, stored: Stored) -> str:
        """The name of the row that this part becomes."""
        return self.name or stored.name + self.suffix


class Layout:
    """What the tensors of a checkpoint are to one another: fused, transposed, tied, factors of one matrix.

    Parameters
    ----------
    tensors : all tensors of the file, as `stored_tensors` or `stored_state` gives them

    Notes
    -----
    Nothing is read here. Names and shapes decide, and a bias beside a weight, which tells its output axis; two tensors
    count as tied if they are the same memory, or if their names are those of an input and an output embedding and their
    entries are the same.

    Examples
    --------
    >>> from resolvent.report.readers import stored_state
    >>> state = {"attn.in_proj_weight": torch.eye(6)[:, :2], "head.lora_A.weight": torch.ones(1, 4)}
    >>> tensors = stored_state(state | {"head.lora_B.weight": torch.ones(3, 1)})
    >>> layout = Layout(tensors)
    >>> for stored in tensors:
    ...     for part in layout.parts(stored, stored.load()):
    ...         print(part.named(stored), tuple(part.matrix.shape), *part.notes)
    attn.in_proj_weight[q] (2, 2) q, k, v fused: part q
    attn.in_proj_weight[k] (2, 2) q, k, v fused: part k
    attn.in_proj_weight[v] (2, 2) q, k, v fused: part v
    head.lora (3, 4) LoRA pair of rank 1: B @ A, unscaled: neither adapter_config.json nor an alpha lies beside it
    """

    def __init__(self, tensors: Sequence[Stored]) -> None:
        self._by_name = {t.name: t for t in tensors}
        self._lora = lora_pairs(tensors)
        self._conv1d = any(map(is_conv1d, tensors))
        self._tied = _same_memory(tensors)
        self._embeddings = [t for t in tensors if _is_plain(t) and (_INPUT.search(t.name) or _OUTPUT.search(t.name))]
        self._compared: set[str] = set()

    def tied(self, stored: Stored) -> str | None:
        """The name of the tensor that this one repeats, which is measured in its place; None for all others.

        Raises
        ------
        ValueError, OSError : a tensor that had to be compared cannot be read.
        """
        if stored.name not in self._tied and any(t is stored for t in self._embeddings):
            self._compare(stored)
        return self._tied.get(stored.name)

    def factor_of(self, stored: Stored) -> str | None:
        """The name of the product that a LoRA factor is part of, for the factor that yields no part; else None."""
        pair = self._lora.get(stored.name)
        return pair.name if pair is not None and pair.down is not stored else None

    def parts(self, stored: Stored, tensor: Matrix) -> Iterator[Part]:
        """The matrices of a tensor, each to be measured by itself.

        Parameters
        ----------
        stored : one of those that the layout was made of
        tensor : what its `load()` returned

        Yields
        ------
        Part : none for the second factor of a LoRA pair, one for a matrix or kernel, several for fused weights and
            batches.

        Raises
        ------
        ValueError, OSError : the other factor of a LoRA pair cannot be read, or does not fit in memory.
        """
        notes = stored.notes
        pair = self._lora.get(stored.name)
        if pair is not None:
            if pair.down is stored:
                yield _product(pair, notes)
        elif not isinstance(tensor, Tensor):
            yield Part("", "", tensor, notes)
        elif tensor.ndim == 2:
            yield from self._matrix(stored, tensor, notes)
        elif self._is_kernel(stored):
            yield self._kernel(stored, tensor, notes)
        else:
            yield from self._batch(stored, tensor, notes)

    def _matrix(self, stored: Stored, matrix: Tensor, notes: tuple[str, ...]) -> Iterator[Part]:
        read_as = ""
        if self._is_transposed(stored):
            matrix, read_as = matrix.T, "transposed (in, out)"
            notes = (*notes, "stored as (in, out), as Conv1D does: transposed")
        pieces, note = split_rows(stored, tuple(matrix.shape), self._by_name)
        if not pieces:
            yield Part("", read_as, matrix, (*notes, note) if note else notes)
        for piece in pieces:
            yield Part(
                f"[{piece.label}]",
                f"{piece.label} of {piece.whole}" + (f", {read_as}" if read_as else ""),
                piece.take(matrix),
                (*notes, f"{piece.whole} fused: part {piece.label}{note and f' ({note})'}"),
            )

    def _is_transposed(self, stored: Stored) -> bool:
        """Whether the bias beside it says that the second axis is the output; without one, GPT-2's names say."""
        rows, columns = stored.shape
        bias = self._bias(stored)
        if bias is not None and rows != columns:
            return bias == columns
        return self._conv1d and _CONV1D.search(stored.name) is not None

    def _bias(self, stored: Stored) -> int | None:
        """The length of the bias of a weight."""
        head, dot, last = stored.name.rpartition(".")
        bias = self._by_name.get(f"{head}{dot}bias") if last in ("weight", "kernel") else None
        return bias.shape[0] if bias is not None and len(bias.shape) == 1 else None

    def _is_kernel(self, stored: Stored) -> bool:
        shape = stored.shape
        if len(shape) > 3 or "conv" in stored.name.lower():
            return True
        # a batch of matrices has a bias per matrix, a kernel has one number per output
        bias = self._bias(stored)
        return bias is not None and bias > 1 and (bias == shape[0] or (bias == shape[1] and bias != shape[0]))

    def _kernel(self, stored: Stored, tensor: Tensor, notes: tuple[str, ...]) -> Part:
        axes = {3: "k", 4: "kh*kw", 5: "kd*kh*kw"}[tensor.ndim]
        bias = self._bias(stored)
        if bias == tensor.shape[1] and bias != tensor.shape[0]:
            tensor = tensor.transpose(0, 1)
            notes = (*notes, "transposed convolution, stored as (in, out, ...)")
        elif (group := self._groups(stored)) is not None:
            notes = (*notes, group)
        elif tensor.shape[1] == 1 and tensor.shape[0] > 1:
            notes = (*notes, "depthwise, or a kernel on one channel: one input channel per output")
        return Part("", f"kernel (out, in*{axes})", tensor.reshape(len(tensor), -1), notes)

    def _groups(self, stored: Stored) -> str | None:
        """A note for a convolution with fewer input channels than the numbered one before it has outputs."""
        match = re.search(r"^(.*conv)(\d+)(\.weight)$", stored.name)
        if match is None or stored.shape[1] == 1:
            return None
        before = self._by_name.get(f"{match[1]}{int(match[2]) - 1}{match[3]}")
        if before is None or len(before.shape) != len(stored.shape):
            return None
        groups, rest = divmod(before.shape[0], stored.shape[1])
        if rest or groups < 2 or stored.shape[0] % groups:
            return None
        return f"grouped convolution: {groups} groups of {stored.shape[1]} of the {before.shape[0]} channels before it"

    def _batch(self, stored: Stored, tensor: Tensor, notes: tuple[str, ...]) -> Iterator[Part]:
        """Three axes that are no kernel."""
        count, m, n = tensor.shape
        if 1 in tensor.shape:
            kept = [k for k in tensor.shape if k != 1]
            yield Part(
                "", "an axis of length 1 dropped", tensor.reshape(kept if len(kept) == 2 else (count, -1)), notes
            )
            return
        if count > BATCH:
            yield Part("", f"{count} arrays of {m}×{n}, one per row", tensor.reshape(count, -1), notes)
            return
        pieces, note = split_last(stored, self._by_name)
        for i, matrix in enumerate(tensor):
            read_as = f"matrix {i} of a batch of {count}"
            if not pieces:
                yield Part(f"[{i}]", read_as, matrix, (*notes, note) if note else notes)
            for piece in pieces:
                yield Part(
                    f"[{i}][{piece.label}]",
                    f"{piece.label} of {piece.whole}, {read_as}",
                    piece.take(matrix),
                    (*notes, f"{piece.whole} fused: part {piece.label}{note and f' ({note})'}"),
                )

    def _compare(self, stored: Stored) -> None:
        """Look for embeddings with the entries of this one, and give the first input embedding of them the others."""
        alike = [
            t
            for t in self._embeddings
            if t.shape == stored.shape and t.dtype == stored.dtype and t.scale == stored.scale
        ]
        if stored.name in self._compared or len(alike) < 2:
            return
        self._compared |= {t.name for t in alike}
        alike.sort(key=lambda t: _INPUT.search(t.name) is None)
        first: list[Stored] = []
        for tensor in alike:
            if tensor.name in self._tied:
                continue
            twin = next((t for t in first if _equal(t, tensor)), None)
            if twin is None:
                first.append(tensor)
            else:
                self._tied[tensor.name] = twin.name


def _same_memory(tensors: Sequence[Stored]) -> dict[str, str]:
    """Tensors that are the memory of another one: an input embedding is the one to measure, else the first."""
    groups: dict[object, list[Stored]] = {}
    for tensor in tensors:
        if tensor.memory is not None and len(tensor.shape) > 1:
            groups.setdefault(tensor.memory, []).append(tensor)
    tied: dict[str, str] = {}
    for group in groups.values():
        first = next((t for t in group if _INPUT.search(t.name)), group[0])
        tied |= {t.name: first.name for t in group if t is not first}
    return tied


def _is_plain(stored: Stored) -> bool:
    return len(stored.shape) == 2 and not stored.reason and stored.role == "weight" and math.prod(stored.shape) > 0


def _equal(a: Stored, b: Stored) -> bool:
    """Whether two tensors of one shape and dtype have the same bytes."""
    x, y = a.load(), b.load()
    if not isinstance(x, Tensor) or not isinstance(y, Tensor):
        return False
    rows = max(1, _CHUNK // max(1, x.shape[1]))
    return all(
        torch.equal(p.contiguous().view(torch.uint8), q.contiguous().view(torch.uint8))
        for p, q in zip(x.split(rows), y.split(rows), strict=True)
    )


def _product(pair: LoraPair, notes: tuple[str, ...]) -> Part:
    matrix, note = pair.product()
    return Part("", "B @ A of a LoRA pair", matrix, (*notes, note), name=pair.name)


def not_a_matrix(stored: Stored) -> str:
    """Why a tensor is nothing to measure by its shape, dtype or name; "" if it is a matrix or holds some.

    Parameters
    ----------
    stored : the tensor; its own `reason` comes before this one

    Returns
    -------
    A clause such as "it has one axis (a vector)", or "".

    Examples
    --------
    >>> from resolvent.report.readers import stored_state
    >>> [not_a_matrix(stored) for stored in stored_state({"a": torch.ones(3), "b": torch.ones(2, 3)})]
    ['it has one axis (a vector)', '']
    """
    axes = len(stored.shape)
    if axes == 0:
        return "it is one number (no axes)"
    if axes == 1:
        return "it has one axis (a vector)"
    if axes > 5:
        return f"it has {axes} axes; 2 to 5 are read"
    if 0 in stored.shape:
        return "it has no entries"
    if axes > 2 and sum(k > 1 for k in stored.shape) < 2:
        return "it has one axis longer than 1 (a vector)"
    if stored.dtype in _CODES and not stored.scale:
        return f"its {stored.dtype} entries are codes whose scale is not known"
    if axes == 4 and stored.shape[:2] == (1, 1) and _MASK.search(stored.name):
        return "it is an attention mask and not a weight"
    return ""
