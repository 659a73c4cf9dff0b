"""A small transformer over token ids: enough to check, on a laptop, what retrieval papers do with a large one."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor

from resolvent.random import GeneratorLike, as_generator

# At the start the logit of a token for itself is about the sum of these, that for others the second, give or take the
# first over the root of the width: what is not there has no weight.
_OWN_LOGIT, _OTHER_LOGIT = 3.0, -1.0


class TokenEncoder(torch.nn.Module):
    r"""A transformer encoder with the tied head of a masked language model.

    Called with ids and a mask it gives logits over the vocabulary,
    :math:`w_{ij} = s\,\langle \mathrm{norm}(h_i), e_j\rangle + b_j` with the input's own embeddings e; `hidden` gives h.

    Parameters
    ----------
    vocabulary : number of tokens
    width, layers, heads : of the transformer; heads divide the width
    prefix : learned vectors that stand before every sequence, as [CLS] does; their outputs come first in `hidden` and
        have no logits
    longest : longest sequence, for the learned positions
    generator : of the initial weights

    Notes
    -----
    Layers normalise before each part and use GELU, with no dropout. At the start attention adds a mean of the tokens, so
    that a prefix is a random compression of the bag of words, and a token's largest logit is its own, as in a trained
    language model: what is learned first is not to copy.

    Examples
    --------
    >>> encoder = TokenEncoder(50, width=16, layers=1, heads=2, generator=0)
    >>> ids = torch.tensor([[3, 7, 0]])
    >>> mask = torch.tensor([[True, True, False]])
    >>> logits = encoder(ids, mask)
    >>> logits.shape, logits[0].argmax(-1)[:2]
    (torch.Size([1, 3, 50]), tensor([3, 7]))
    """

    def __init__(
        self,
        vocabulary: int,
        *,
        width: int = 128,
        layers: int = 2,
        heads: int = 4,
        prefix: int = 0,
        longest: int = 512,
        generator: GeneratorLike = None,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("vocabulary", vocabulary, 1),
            ("width", width, 1),
            ("layers", layers, 0),
            ("heads", heads, 1),
            ("prefix", prefix, 0),
            ("longest", longest, 1),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be an int of at least {least}, got {value!r}")
        if width % heads:
            raise ValueError(f"width must be a multiple of heads, got {width} and {heads}")
        self.vocabulary, self.width, self.prefix = vocabulary, width, prefix
        self.embedding = torch.nn.Embedding(vocabulary, width)
        self.positions = torch.nn.Parameter(torch.empty(longest, width))
        self.first = torch.nn.Parameter(torch.empty(prefix, width))
        self.layers = torch.nn.ModuleList(
            torch.nn.TransformerEncoderLayer(
                width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(layers)
        )
        self.norm = torch.nn.LayerNorm(width)
        self.bias = torch.nn.Parameter(torch.zeros(vocabulary))
        self.log_scale = torch.nn.Parameter(torch.tensor(math.log(_OWN_LOGIT / width)))
        self._start(as_generator(generator))

    def hidden(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Outputs (b, prefix + length, width) of the last layer, normalised; ids are (b, length)."""
        if ids.ndim != 2 or ids.shape[1] > len(self.positions):
            raise ValueError(f"ids must have shape (b, at most {len(self.positions)}), got {tuple(ids.shape)}")
        x = self.embedding(ids) + self.positions[: ids.shape[1]]
        x = torch.cat([self.first.expand(len(ids), -1, -1), x], 1)
        padded = None
        if mask is not None:
            none = torch.zeros(len(ids), self.prefix, dtype=torch.bool, device=ids.device)
            padded = torch.cat([none, ~mask.bool()], 1)
            # Attention over nothing at all would be NaN.
            padded = padded & ~padded.all(1, keepdim=True)
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=padded)
        return cast(Tensor, self.norm(x))

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits (b, length, vocabulary)."""
        h = self.hidden(ids, mask)[:, self.prefix :]
        return torch.nn.functional.linear(h * self.log_scale.exp(), self.embedding.weight, self.bias)

    def _start(self, generator: torch.Generator) -> None:
        """All weights from one generator."""
        with torch.no_grad():
            for name, p in self.named_parameters():
                if name.endswith("bias"):
                    p.zero_()
                elif name.endswith("norm.weight") or "norm1" in name or "norm2" in name:
                    torch.nn.init.ones_(p)
                elif name == "embedding.weight":
                    p.normal_(0.0, 1.0, generator=generator)
                elif name in ("positions", "first"):
                    p.normal_(0.0, 0.02, generator=generator)
                elif p.ndim == 2:
                    # What a layer adds to the stream begins small.
                    gain = 0.1 if name.endswith("linear2.weight") else 1.0
                    p.normal_(0.0, gain * p.shape[1] ** -0.5, generator=generator)
            for layer in self.layers:
                # Attention begins as a mean: what the values turn, the output turns back.
                attention = cast(torch.nn.MultiheadAttention, layer.self_attn)
                turn = torch.linalg.qr(attention.out_proj.weight)[0]
                attention.in_proj_weight[2 * self.width :] = turn
                attention.out_proj.weight.copy_(turn.T / max(1, len(self.layers)))
            self.bias.fill_(_OTHER_LOGIT)
