"""An encoder and decoder that reads entries from an index half way through: keys find them, values are attended to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Self, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from resolvent.random import GeneratorLike, as_generator
from resolvent.search.exact import exact_search
from resolvent.search.hits import Hits
from resolvent.search.index import VectorIndex
from resolvent.search.memory_layers import Layer, RelativePositions, RMSNorm

PAD, MARK = 0, 1


class Entries(NamedTuple):
    """What a memory holds.

    Attributes
    ----------
    keys : (n, d_model) vectors that are searched
    values : (n, prefix, d_model) hidden states that are attended to
    """

    keys: Tensor
    values: Tensor


class MemoryTransformer(torch.nn.Module):
    r"""A transformer from questions to answers, with a memory of question-answer pairs that can be exchanged.

    The encoder gives a question's key after `key_layer` layers, and in the hidden states of `prefix` tokens in front of
    question and answer, after `value_layer` layers, a value. A new question asks the keys for its k best entries by inner
    product; their values enter its own encoding after `value_layer` layers, and the rest of the encoder and the decoder
    attend to them.

    Parameters
    ----------
    vocabulary : number of tokens; 0 is padding, and 1 stands before and after answers
    d_model : width of the hidden states, divisible by `heads`
    layers : of the encoder, and of the decoder
    key_layer, value_layer : how many layers make a key and a value; ``1 <= key_layer <= value_layer < layers``
    prefix : tokens in front whose hidden states make a value
    k : entries that a question reads; 0 is a plain transformer
    heads : of the attention
    decoder_layers : if not as many as the encoder's
    generator : of the weights

    Attributes
    ----------
    memory : Entries, or None before `build_memory`

    Notes
    -----
    The index is asked with the state after `key_layer` layers, the answer is needed only after `value_layer`. A memory is
    a plain array of keys and values, made once by `build_memory`; another one changes the answers without any training.
    An entry's value and key are added, with a vector for its rank: the paper's code lets the keys run through the layers
    between instead, which needs the answer of the index at once. Sizes of the paper (T5-base): 768, 12 layers, 3 and 7.

    References
    ----------
    "An Efficient Memory-Augmented Transformer for Knowledge-Intensive NLP Tasks"

    Examples
    --------
    >>> model = MemoryTransformer(30, 16, 3, 1, 2, k=2, heads=2, generator=0)
    >>> model = model.build_memory([[5, 9], [6, 9], [7, 9]], [[20], [21], [22]])
    >>> model.retrieve([[6, 9]]).ids.shape, model.answer([[6, 9], [7, 9, 4]], length=3).shape
    (torch.Size([1, 2]), torch.Size([2, 3]))
    """

    def __init__(
        self,
        vocabulary: int,
        d_model: int = 128,
        layers: int = 12,
        key_layer: int = 3,
        value_layer: int = 7,
        prefix: int = 2,
        k: int = 10,
        *,
        heads: int = 4,
        decoder_layers: int | None = None,
        generator: GeneratorLike = None,
    ) -> None:
        super().__init__()
        deep = layers if decoder_layers is None else decoder_layers
        if vocabulary < 3 or prefix < 1 or k < 0 or heads < 1 or deep < 1:
            raise ValueError(
                "vocabulary must be at least 3, prefix, heads and decoder_layers at least 1, k at least 0, got "
                f"{vocabulary}, {prefix}, {heads}, {deep} and {k}"
            )
        if d_model < 1 or d_model % heads:
            raise ValueError(f"d_model must be divisible by heads, got {d_model} and {heads}")
        if not 1 <= key_layer <= value_layer < layers:
            raise ValueError(
                f"layers must obey 1 <= key_layer <= value_layer < layers, got {key_layer}, {value_layer} and {layers}"
            )
        self.vocabulary, self.d_model, self.k, self.prefix = vocabulary, d_model, k, prefix
        self.key_layer, self.value_layer = key_layer, value_layer
        self.tokens = torch.nn.Embedding(vocabulary, d_model)
        self.front = torch.nn.Parameter(torch.empty(prefix, d_model))
        self.rank = torch.nn.Parameter(torch.zeros(max(k, 1), prefix, d_model))
        self.encoder = torch.nn.ModuleList(Layer(d_model, heads, False) for _ in range(layers))
        self.decoder = torch.nn.ModuleList(Layer(d_model, heads, True) for _ in range(deep))
        self.encoder_places, self.decoder_places = RelativePositions(heads, True), RelativePositions(heads, False)
        self.encoder_norm, self.decoder_norm, self.key_norm = RMSNorm(d_model), RMSNorm(d_model), RMSNorm(d_model)
        self.convolve = torch.nn.Conv1d(d_model, d_model, 3, padding=1, bias=False)
        self.project = torch.nn.Linear(d_model, d_model, bias=False)
        self.memory: Entries | None = None
        self._index: VectorIndex | None = None
        _start(self, as_generator(generator))

    # The parts.

    def enter(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Hidden states of prefix and tokens before the first layer, which of them are there, the bias of attention."""
        front = self.front.expand(len(tokens), -1, -1)
        hidden = torch.cat([front, self.tokens(tokens)], 1)
        there = F.pad(tokens != PAD, (self.prefix, 0), value=True)
        places = torch.arange(hidden.shape[1], device=hidden.device)
        bias = self.encoder_places(places, places)[None]
        return hidden, there, bias + absent(there)

    def run(self, hidden: Tensor, bias: Tensor, first: int, last: int) -> Tensor:
        """Layers first..last - 1 of the encoder."""
        for layer in self.encoder[first:last]:
            hidden = layer(hidden, bias)
        return hidden

    def as_key(self, hidden: Tensor, there: Tensor) -> Tensor:
        """(b, d_model) key of hidden states: a convolution, the mean over what is there, a projection, normalised."""
        mask = there[:, None].to(hidden)
        found = torch.relu(self.convolve(hidden.mT * mask)) * mask
        key: Tensor = self.key_norm(self.project(found.sum(2) / mask.sum(2)))
        return key

    def keys_of(self, questions: Tensor) -> Tensor:
        """(b, d_model) keys of padded questions (b, n)."""
        hidden, there, bias = self.enter(questions)
        return self.as_key(self.run(hidden, bias, 0, self.key_layer), there)

    def values_of(self, questions: Tensor, answers: Tensor) -> Tensor:
        """(b, prefix, d_model) values of padded questions and answers."""
        mark = torch.full_like(questions[:, :1], MARK)
        hidden, _, bias = self.enter(torch.cat([questions, mark, answers], 1))
        return self.run(hidden, bias, 0, self.value_layer)[:, : self.prefix]

    def finish(self, hidden: Tensor, there: Tensor, bias: Tensor, entries: Entries | None) -> tuple[Tensor, Tensor]:
        """The rest of the encoder behind `value_layer`, entries (b, k, ...) in front, and what the decoder must not see."""
        if entries is not None:
            keys, values = entries
            rows = (values + keys[:, :, None] + self.rank[: keys.shape[1]]).flatten(1, 2)
            hidden = torch.cat([rows, hidden], 1)
            # Entries have their rank; between them and the question there is no distance.
            there, count, own = F.pad(there, (rows.shape[1], 0), value=True), rows.shape[1], bias
            bias = absent(there).repeat(1, own.shape[1], hidden.shape[1], 1)
            bias[:, :, count:, count:] = own
        return self.encoder_norm(self.run(hidden, bias, self.value_layer, len(self.encoder))), absent(there)

    def decode(self, answers: Tensor, source: Tensor, seen: Tensor | None) -> Tensor:
        """Logits (b, n, vocabulary) of each next token, given answers (b, n) that begin with the mark."""
        hidden = self.tokens(answers)
        places = torch.arange(answers.shape[1], device=answers.device)
        later = places[None, :] > places[:, None]
        bias = self.decoder_places(places, places)[None].masked_fill(later, -torch.inf)
        for layer in self._deep():
            hidden = layer(hidden, bias, layer.cross_attention.remember(source), seen)
        return self.logits(hidden)

    def _deep(self) -> list[Layer]:
        return [cast(Layer, layer) for layer in self.decoder]

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of tokens by the embedding itself."""
        found: Tensor = self.decoder_norm(hidden) @ self.tokens.weight.mT / self.d_model**0.5
        return found

    # What a user calls.

    def fit(self, questions: Any, answers: Any, memory: tuple[Any, Any] | None = None, **options: Any) -> list[float]:
        """Train the model: see `fit_memory_transformer`, which takes the options."""
        from resolvent.search.memory_training import fit_memory_transformer

        return fit_memory_transformer(self, questions, answers, memory, **options)

    def build_memory(self, keys: Any, values: Any, *, index: VectorIndex | None = None, batch: int = 256) -> Self:
        """Fill the memory with entries, in place of what it held.

        Parameters
        ----------
        keys : questions of n entries: lists of tokens, or a padded (n, length) array or tensor
        values : their answers, likewise
        index : searches the keys, by inner product; None searches exactly
        batch : entries at a time
        """
        questions, answers = self.as_tokens(keys, "keys"), self.as_tokens(values, "values")
        if len(questions) != len(answers):
            raise ValueError(f"keys and values must be as many, got {len(questions)} and {len(answers)}")
        if index is not None and index.metric != "ip":
            raise ValueError(f"index must have metric 'ip', got {index.metric!r}")
        with torch.no_grad():
            parts = list(zip(questions.split(batch), answers.split(batch), strict=True))
            found = torch.cat([self.keys_of(q) for q, _ in parts])
            self.memory = Entries(found, torch.cat([self.values_of(q, a) for q, a in parts]))
        self._index = None if index is None else index.build(found)
        return self

    def retrieve(self, questions: Any, k: int | None = None) -> Hits:
        """The entries of the memory that questions would read, as positions, with their inner products.

        Parameters
        ----------
        questions : lists of tokens, or a padded (b, length) array or tensor
        k : how many; None takes the model's
        """
        with torch.no_grad():
            return self._search(self.keys_of(self.as_tokens(questions, "questions")), self.k if k is None else k)

    def answer(self, questions: Any, length: int = 8, *, batch: int = 64) -> Tensor:
        """The most likely answer, token by token.

        Parameters
        ----------
        questions : lists of tokens, or a padded (b, length) array or tensor
        length : of the longest answer
        batch : questions at a time

        Returns
        -------
        (b, length) int64 tensor, 0 after the end of an answer
        """
        if length < 1:
            raise ValueError(f"length must be at least 1, got {length!r}")
        with torch.no_grad():
            parts = self.as_tokens(questions, "questions").split(batch)
            return torch.cat([self._generate(*self.encode(part), length) for part in parts])

    def encode(self, questions: Tensor) -> tuple[Tensor, Tensor]:
        """Encoded rows of padded questions, with the entries that they read, and the bias against those not there."""
        if self.k and self.memory is None:
            raise ValueError("the memory is empty: call build_memory first, or make the model with k=0")
        hidden, there, bias = self.enter(questions)
        hidden = self.run(hidden, bias, 0, self.key_layer)
        entries = None
        if self.k and self.memory is not None:
            found = self._search(self.as_key(hidden, there), min(self.k, len(self.memory.keys))).ids
            entries = Entries(self.memory.keys[found], self.memory.values[found])
        return self.finish(self.run(hidden, bias, self.key_layer, self.value_layer), there, bias, entries)

    def _search(self, queries: Tensor, k: int) -> Hits:
        if self.memory is None:
            raise ValueError("the memory is empty: call build_memory first")
        if self._index is None:
            return exact_search(self.memory.keys, queries, k, "ip")
        return self._index.query(queries, k)

    def _generate(self, source: Tensor, seen: Tensor, length: int) -> Tensor:
        remembered = [layer.cross_attention.remember(source) for layer in self._deep()]
        token = source.new_full((len(source), 1), MARK, dtype=torch.int64)
        before: list[Tensor | None] = [None] * len(self.decoder)
        found, going = [], torch.ones_like(token, dtype=torch.bool)
        for step in range(length):
            hidden = self.tokens(token)
            place = torch.arange(step + 1, device=token.device)
            bias = self.decoder_places(place[-1:], place)[None]
            for i, layer in enumerate(self.decoder):
                earlier = before[i]
                before[i] = hidden if earlier is None else torch.cat([earlier, hidden], 1)
                hidden = layer(hidden, bias, remembered[i], seen, earlier)
            token = self.logits(hidden).argmax(-1)
            going = going & (token != MARK) & (token != PAD)
            token = torch.where(going, token, PAD)
            found.append(token)
        return torch.cat(found, 1)

    def as_tokens(self, sequences: Any, name: str) -> Tensor:
        """Padded tokens (b, longest) on the device of the model, checked."""
        given: Any = sequences
        if isinstance(given, Sequence) and not isinstance(given, str):
            rows = [torch.as_tensor(row).reshape(-1) for row in given]
            given = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True) if rows else torch.zeros(0, 1)
        t = torch.as_tensor(given)
        if t.ndim != 2 or not t.numel() or t.is_floating_point() or t.is_complex() or t.dtype == torch.bool:
            raise ValueError(
                f"{name} must be lists of tokens or integers of shape (b, length), not empty, got {t.dtype} of shape "
                f"{tuple(t.shape)}"
            )
        t = t.to(self.tokens.weight.device, torch.int64)
        if bool((t < 0).any()) or bool((t >= self.vocabulary).any()):
            raise ValueError(
                f"{name} must be tokens from 0 to {self.vocabulary - 1}, got {int(t.min())} to {int(t.max())}"
            )
        if not bool((t != PAD).any(1).all()):
            row = int((t != PAD).any(1).logical_not().nonzero()[0])
            raise ValueError(f"{name} has no token but padding in row {row}")
        return t


def absent(there: Tensor) -> Tensor:
    """Bias (b, 1, 1, n) that keeps attention from rows that are only padding."""
    return torch.zeros(there.shape, device=there.device).masked_fill(~there, -torch.inf)[:, None, None]


def _start(model: MemoryTransformer, rng: torch.Generator) -> None:
    """Weights as in T5: normal, each map divided by the root of its width."""
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            if name.endswith("norm.weight") or "places" in name or name == "rank":
                continue
            spread = 1.0 if name in ("tokens.weight", "front") else weight[0].numel() ** -0.5
            weight.copy_(spread * torch.randn(weight.shape, generator=rng))
