"""Documents as a few vectors, queries as one: between a single dense vector and a vector for every token."""

from __future__ import annotations

from typing import Any, Self, cast

import numpy as np
import torch
from torch import Tensor

from resolvent.random import GeneratorLike, as_generator
from resolvent.search.exact import exact_search
from resolvent.search.hits import Hits
from resolvent.search.topics import pad_tokens
from resolvent.search.training import check_pairs, cross_entropy_of_batch, train_retriever

Sequences = tuple[np.ndarray, np.ndarray]


class MultiVectorEncoder(torch.nn.Module):
    r"""A document is the first m outputs of an encoder, a query the first one: :math:`s(q, d) = \max_{j\le m}\langle q, d_j\rangle`.

    Parameters
    ----------
    encoder : module whose `hidden(ids, mask)` gives outputs (b, length, width), such as `TokenEncoder` with a prefix of
        m; or one that gives them when called, or something with an attribute `last_hidden_state`
    m : vectors of a document; 1 is the usual dual encoder
    dim : of the vectors, after one linear layer; default the width
    generator : of the layer's initial weights

    Attributes
    ----------
    losses : mean loss of each tenth of the last `fit`

    Notes
    -----
    A document shorter than m has as many vectors as it has outputs. The vectors of all documents lie in one ordinary
    index for inner products; a document's score is that of its best vector (`search`).

    References
    ----------
    "Sparse, Dense, and Attentional Representations for Text Retrieval"

    Examples
    --------
    >>> from resolvent import search
    >>> corpus = search.topic_corpus(100, 60, 5, queries=10, generator=0)
    >>> model = MultiVectorEncoder(search.TokenEncoder(60, width=16, layers=1, heads=2, prefix=4, generator=0), m=4)
    >>> vectors, owners = model.encode_documents((corpus.tokens, corpus.offsets))
    >>> vectors.shape, owners.shape
    ((400, 16), (400,))
    """

    def __init__(
        self, encoder: torch.nn.Module, m: int = 8, dim: int | None = None, *, generator: GeneratorLike = None
    ) -> None:
        super().__init__()
        if isinstance(m, bool) or not isinstance(m, int) or m < 1:
            raise ValueError(f"m must be an int of at least 1, got {m!r}")
        self.encoder = encoder
        self.m = m
        self.losses: list[float] = []
        with torch.no_grad():
            one = torch.zeros(1, 1, dtype=torch.int64, device=self._device())
            width = self._outputs(one, torch.ones_like(one, dtype=torch.bool)).shape[-1]
        self.linear = torch.nn.Linear(width, dim or width, bias=False).to(self._device())
        with torch.no_grad():
            # Scores of normalised outputs begin at the size of 1, whatever the width.
            self.linear.weight.normal_(0.0, width**-0.75, generator=as_generator(generator, self._device()))

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The first m vectors (b, m, dim) of texts and which of them are there (b, m), with gradients."""
        h = self._outputs(ids, mask)
        ahead = torch.ones(len(ids), h.shape[1] - ids.shape[1], dtype=torch.bool, device=mask.device)
        there = torch.cat([ahead, mask.bool()], 1)[:, : self.m]
        return self.linear(h[:, : self.m]), there

    def encode_documents(self, documents: Sequences, *, batch: int = 64) -> tuple[np.ndarray, np.ndarray]:
        """Vectors (rows, dim) of documents ``(tokens, offsets)``, and the document (rows,) that each belongs to."""
        vectors, owners = [], []
        for rows, (d, there) in self._batches(documents, batch):
            vectors.append(d[there].float().cpu().numpy())
            owners.append(np.repeat(rows, there.sum(1).cpu().numpy()))
        if not vectors:
            return np.zeros((0, self.linear.out_features), np.float32), np.zeros(0, np.int64)
        return np.concatenate(vectors), np.concatenate(owners)

    def encode_queries(self, queries: Sequences, *, batch: int = 64) -> np.ndarray:
        """Vectors (q, dim) of queries ``(tokens, offsets)``."""
        found = [d[:, 0].float().cpu().numpy() for _, (d, _) in self._batches(queries, batch)]
        return np.concatenate(found) if found else np.zeros((0, self.linear.out_features), np.float32)

    def search(self, queries: np.ndarray, vectors: np.ndarray, owners: np.ndarray, k: int = 10) -> Hits:
        """The k documents with the best vectors, exactly: k m vectors hold at least k documents.

        Parameters
        ----------
        queries : (q, dim) or (dim,), as `encode_queries` gives
        vectors, owners : as `encode_documents` gives
        k : documents for each query

        Returns
        -------
        Hits : ids are the owners
        """
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise ValueError(f"k must be a positive integer, got {k!r}")
        if len(vectors) != len(owners):
            raise ValueError(f"owners must have one entry for each of {len(vectors)} vectors, got {len(owners)}")
        most = int(np.bincount(owners).max(initial=1))
        hits = exact_search(vectors, np.atleast_2d(queries), min(k * most, len(vectors)))
        ids, scores = np.full((len(hits.ids), k), -1), np.full((len(hits.ids), k), -np.inf, np.float32)
        for i, (rows, values) in enumerate(zip(hits.ids, hits.scores, strict=True)):
            own = owners[rows[values > -np.inf]]
            first = np.sort(np.unique(own, return_index=True)[1])[:k]
            ids[i, : len(first)], scores[i, : len(first)] = own[first], values[first]
        fields = (ids, scores, hits.evaluations, hits.scanned)
        return Hits(*(field[0] for field in fields) if np.ndim(queries) == 1 else fields)

    def fit(
        self,
        queries: Sequences,
        documents: Sequences,
        positives: Any,
        *,
        negatives: Any = None,
        steps: int = 1000,
        batch: int = 32,
        rate: float = 1e-3,
        generator: GeneratorLike = None,
    ) -> Self:
        """Train encoder and layer in place to rank each query's document above the others of the batch.

        Parameters
        ----------
        queries, documents : ``(tokens, offsets)`` with int64 ids
        positives : (q,) the relevant document of each query
        negatives : (q, m) documents that are not relevant, one of which is drawn at each visit
        steps, batch, rate : of Adam; the rate rises over the first twentieth and falls to zero along a half cosine
        generator : of the batches

        Returns
        -------
        MultiVectorEncoder
            itself
        """
        right, wrong = check_pairs(queries, documents, positives, negatives)

        def loss(own: np.ndarray, g: torch.Generator, done: float) -> Tensor:
            q = self._vectors(queries, own)[0][:, 0]
            shown = right[own]
            if wrong is not None:
                column = torch.randint(wrong.shape[1], (len(own),), generator=g).numpy()
                shown = np.concatenate([shown, wrong[own, column]])
            d, there = self._vectors(documents, shown)
            scores = torch.einsum("qw,dmw->qdm", q, d).masked_fill(~there, -torch.inf).amax(-1)
            extra = None if wrong is None else scores[:, len(own) :].diagonal()
            return cross_entropy_of_batch(scores[:, : len(own)], right[own], extra)

        self.losses = train_retriever(self, loss, len(right), steps=steps, batch=batch, rate=rate, generator=generator)
        return self

    def _outputs(self, ids: Tensor, mask: Tensor) -> Tensor:
        hidden = getattr(self.encoder, "hidden", self.encoder)
        out = hidden(ids, mask)
        return cast(Tensor, getattr(out, "last_hidden_state", out))

    def _device(self) -> torch.device:
        return next((p.device for p in self.encoder.parameters()), torch.device("cpu"))

    def _vectors(self, texts: Sequences, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        ids, mask = pad_tokens(*texts, rows)
        return self(ids.to(self._device()), mask.to(self._device()))

    def _batches(self, texts: Sequences, batch: int) -> Any:
        count = len(texts[1]) - 1
        training = self.training
        self.eval()
        with torch.no_grad():
            for a in range(0, count, batch):
                rows = np.arange(a, min(a + batch, count))
                yield rows, self._vectors(texts, rows)
        self.train(training)
