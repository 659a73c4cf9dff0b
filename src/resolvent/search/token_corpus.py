"""Synthetic retrieval with sets of tokens: documents, queries made from some of them, and which those are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from resolvent.random import GeneratorLike, as_generator, gaussian


@dataclass(frozen=True)
class TokenCorpus:
    """Documents and queries as sets of unit vectors, and the document that each query was made from.

    Attributes
    ----------
    tokens : (t, d) float32, the tokens of all documents one after the other
    offsets : (n + 1,) int64, where each document begins
    query_tokens : (s, d) float32
    query_offsets : (m + 1,) int64
    relevant : (m,) int64, the document of each query
    topics : (n, c) int64, the topics of each document; (n, 0) where there are none

    Examples
    --------
    >>> from resolvent.search import token_sets
    >>> corpus = token_sets(10, tokens=4, dim=8, queries=3, query_tokens=2, generator=0)
    >>> corpus.tokens.shape, corpus.offsets[:3], corpus.query_tokens.shape
    ((40, 8), array([0, 4, 8]), (6, 8))
    """

    tokens: np.ndarray
    offsets: np.ndarray
    query_tokens: np.ndarray
    query_offsets: np.ndarray
    relevant: np.ndarray
    topics: np.ndarray

    @property
    def documents(self) -> tuple[np.ndarray, np.ndarray]:
        return self.tokens, self.offsets

    @property
    def queries(self) -> tuple[np.ndarray, np.ndarray]:
        return self.query_tokens, self.query_offsets


def token_sets(
    n: int,
    tokens: int = 60,
    dim: int = 64,
    *,
    queries: int = 200,
    query_tokens: int = 32,
    noise: float = 0.5,
    topics: int | None = None,
    per_document: int = 5,
    family: int = 1,
    own: float = 0.0,
    spread: float = 0.5,
    query_topics: int | None = None,
    ragged: bool = False,
    generator: GeneratorLike = None,
) -> TokenCorpus:
    r"""A corpus of token sets with planted matches, without structure or with topics that documents share.

    Parameters
    ----------
    n : number of documents
    tokens : tokens of a document; with `ragged`, uniform between half and one and a half times as many
    dim : length of a token
    queries, query_tokens : number of queries, and tokens of each
    noise : length of the Gaussian noise that a query token adds to the document's token it copies, before normalising
    topics : number of topics in all; None (default) draws every token uniformly on the sphere
    per_document : topics of a document, drawn without order from all
    family : this many documents in a row have the same topics, as texts on one subject; the last may have fewer
    own : how far a document's version of a topic lies from the topic itself, in the length of a topic
    spread : how far tokens lie from their document's version of the topic
    query_topics : query tokens come from this many of the document's topics; default all
    ragged : documents of different sizes
    generator : a torch.Generator, an int or None

    Returns
    -------
    TokenCorpus

    Raises
    ------
    ValueError : a number below 1, more topics in a document than there are, a negative spread.

    Notes
    -----
    A query token is :math:`(p + \sigma g / \sqrt d) / \|\cdot\|` for a token p of its document and a Gaussian g. Without
    topics any single token of the document is the nearest of its kind, so that a search token by token is hard to beat;
    with topics each query token has many near tokens in other documents, and only the whole set tells them apart.

    Examples
    --------
    >>> from resolvent.search import chamfer
    >>> corpus = token_sets(50, tokens=6, dim=16, queries=4, query_tokens=3, noise=0.1, generator=0)
    >>> bool((chamfer(corpus.queries, corpus.documents).argmax(1) == corpus.relevant).all())
    True
    """
    counts = {"n": n, "tokens": tokens, "dim": dim, "queries": queries, "query_tokens": query_tokens}
    counts |= {"per_document": per_document, "family": family}
    _check(counts, topics, query_topics, {"noise": noise, "own": own, "spread": spread})
    g = as_generator(generator)
    sizes = torch.full((n,), tokens)
    if ragged:
        sizes = torch.randint(max(1, tokens // 2), tokens + tokens // 2 + 1, (n,), generator=g)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
    owner = torch.repeat_interleave(torch.arange(n), sizes)
    if topics is None:
        chosen = torch.empty(n, 0, dtype=torch.int64)
        which = torch.zeros(len(owner), dtype=torch.int64)
        made = _unit(_normal((len(owner), dim), g))
    else:
        # The first few of a random order of all topics: distinct topics for each document.
        subjects = torch.rand(-(-n // family), topics, generator=g).topk(per_document, dim=1).indices
        chosen = subjects.repeat_interleave(family, 0)[:n]
        centres = _unit(_normal((topics, dim), g))
        versions = _unit(centres[chosen] + own * _normal((n, per_document, dim), g) / dim**0.5)
        # In turn and not at random: every topic of a document has tokens.
        which = (torch.arange(len(owner)) - offsets[owner]) % per_document
        made = _unit(versions[owner, which] + spread * _normal((len(owner), dim), g) / dim**0.5)
    relevant = torch.randint(n, (queries,), generator=g)
    copied = _copied(relevant, offsets, which, per_document if topics else 1, query_topics, query_tokens, g)
    asked = _unit(made[copied] + noise * _normal((queries * query_tokens, dim), g) / dim**0.5)
    return TokenCorpus(
        made.numpy(),
        offsets.numpy(),
        asked.numpy(),
        np.arange(queries + 1, dtype=np.int64) * query_tokens,
        relevant.numpy(),
        chosen.numpy(),
    )


def _copied(
    relevant: Tensor,
    offsets: Tensor,
    which: Tensor,
    per_document: int,
    query_topics: int | None,
    query_tokens: int,
    g: torch.Generator,
) -> Tensor:
    """The document token that each query token copies: uniform among those of the topics that the query is about."""
    sizes = offsets[relevant + 1] - offsets[relevant]
    longest = int(sizes.max())
    place = torch.arange(longest)
    weight = torch.rand(len(relevant), query_tokens, longest, generator=g)
    allowed = (place < sizes[:, None])[:, None, :]
    if query_topics is not None:
        first = torch.randint(per_document, (len(relevant),), generator=g)
        topic = which[torch.minimum(offsets[relevant][:, None] + place, offsets[-1] - 1)]
        about = (topic - first[:, None]) % per_document < query_topics
        # A short document may have no token of a topic: then all of it is asked about.
        about |= ~(about & allowed[:, 0]).any(1, keepdim=True)
        allowed = allowed & about[:, None, :]
    picked = torch.where(allowed, weight, -1.0).argmax(2)
    return (offsets[relevant][:, None] + picked).reshape(-1)


def _normal(shape: tuple[int, ...], g: torch.Generator) -> Tensor:
    return gaussian(shape, torch.float32, generator=g)


def _unit(x: Tensor) -> Tensor:
    return torch.nn.functional.normalize(x, dim=-1)


def _check(counts: dict[str, int], topics: int | None, query_topics: int | None, spreads: dict[str, float]) -> None:
    given = {name: value for name, value in (("topics", topics), ("query_topics", query_topics)) if value is not None}
    for name, value in (counts | given).items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be an int of at least 1, got {value!r}")
    per_document = counts["per_document"]
    if topics is not None and per_document > topics:
        raise ValueError(f"per_document must be at most topics = {topics}, got {per_document}")
    if query_topics is not None and (topics is None or query_topics > per_document):
        raise ValueError(f"query_topics must be at most per_document = {per_document}, with topics; got {query_topics}")
    for name, spread in spreads.items():
        if not 0 <= spread < float("inf"):
            raise ValueError(f"{name} must be a finite number of at least 0, got {spread!r}")
