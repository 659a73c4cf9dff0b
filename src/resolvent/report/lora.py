"""Pairs of low-rank factors (LoRA), which are one matrix: their product."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from resolvent.report.adapters import LARGEST, NAME, is_alpha
from resolvent.report.stored import Stored, check_memory

# PEFT: X.lora_A.weight, X.lora_A.default.weight, X.lora_embedding_A; kohya: X.lora_down.weight;
# diffusers: X.lora.down.weight
_FACTOR = re.compile(r"(?P<stem>.+?)[._]lora[._](?P<kind>embedding_)?(?P<side>A|B|down|up)(?P<rest>(\.[^.]+)*)")

# kohya stores the alpha that it was given, which may be a whole number.
_NUMBERS = ("float16", "float32", "float64", "bfloat16", "int", "uint")

# Entries of a product that is formed in float64: half a GiB.
_WIDE = 1 << 26


@dataclass(frozen=True)
class LoraPair:
    """Two factors of one update.

    Attributes
    ----------
    name : of the product
    down : (r, in, ...), "A"
    up : (out, r, ...), "B"
    alpha : the scalar beside them that the product is multiplied by, over r; None where the file has none, and the
        scale is that of an adapter_config.json or not known
    """

    name: str
    down: Stored
    up: Stored
    alpha: Stored | None

    def product(self) -> tuple[Tensor, str]:
        """B @ A in float64 (float32 if large), times its scale where one is known; and a note that says which."""
        entries = self.up.shape[0] * math.prod(self.down.shape[1:])
        check_memory((8.0 if entries <= _WIDE else 4.0) * entries, f"the product of {self.name!r}")
        down, up = (_dense(factor) for factor in (self.down, self.up))
        rank = down.shape[0]
        # rounded to float32, the product of rank r would have small singular values beyond the r that it has
        wide = torch.float64 if entries <= _WIDE else torch.float32
        kind = torch.promote_types(torch.promote_types(down.dtype, up.dtype), wide)
        matrix = up.reshape(-1, rank).to(kind) @ down.reshape(rank, -1).to(kind)
        factor, scaled = self._scale(rank)
        if factor is not None:
            matrix *= factor
        return matrix, f"LoRA pair of rank {rank}: B @ A, {scaled}"

    def _scale(self, rank: int) -> tuple[float | None, str]:
        """The factor of the product and where it comes from, or why there is none."""
        if self.alpha is not None:
            value = _dense(self.alpha).item()
            if not is_alpha(value):
                return None, f"unscaled: {self.alpha.name!r} is {value:g}, not a number up to {LARGEST:g}"
            return value / rank, f"times alpha / r = {value:g} / {rank} = {value / rank:g}, from {self.alpha.name!r}"
        found = self.down.lora
        if found is None:
            return None, f"unscaled: neither {NAME} nor an alpha lies beside it"
        if found.rank is not None and found.rank != rank:
            return None, f"unscaled: {NAME} gives it the rank {found.rank}"
        return found.factor, found.note


def _dense(stored: Stored) -> Tensor:
    tensor = stored.load()
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{stored.name!r} is sparse")
    return tensor


def lora_pairs(tensors: Sequence[Stored]) -> dict[str, LoraPair]:
    """The pairs of a file, by the names of both factors. A factor without a partner that fits is no pair.

    Examples
    --------
    >>> from resolvent.report.readers import stored_state
    >>> pairs = lora_pairs(stored_state({"q.lora_A.weight": torch.ones(2, 5), "q.lora_B.weight": torch.ones(4, 2)}))
    >>> sorted(pairs), pairs["q.lora_A.weight"].name
    (['q.lora_A.weight', 'q.lora_B.weight'], 'q.lora')
    """
    by_name = {t.name: t for t in tensors}
    halves: dict[tuple[str, str, str, str], dict[str, Stored]] = {}
    for tensor in tensors:
        match = _FACTOR.fullmatch(tensor.name)
        if match is not None and len(tensor.shape) >= 2 and not tensor.reason and 0 not in tensor.shape:
            side = match["side"]
            family = "peft" if side in "AB" else "kohya"
            key = (match["stem"], match["kind"] or "", match["rest"], family)
            halves.setdefault(key, {})["down" if side in ("A", "down") else "up"] = tensor
    pairs: dict[str, LoraPair] = {}
    for (stem, _, rest, _), both in halves.items():
        down, up = both.get("down"), both.get("up")
        if down is None or up is None or math.prod(up.shape[1:]) != down.shape[0]:
            continue
        adapter = rest.removesuffix(".weight")
        alpha = by_name.get(f"{stem}.alpha")
        if alpha is not None and (math.prod(alpha.shape) != 1 or not alpha.dtype.startswith(_NUMBERS)):
            alpha = None
        pair = LoraPair(f"{stem}.lora{adapter}", down, up, alpha)
        pairs |= {down.name: pair, up.name: pair}
    return pairs
