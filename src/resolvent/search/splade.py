"""SPLADE: a language model that says which words a text is about, trained to rank and to be sparse."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from resolvent.random import GeneratorLike
from resolvent.search.inverted import InvertedIndex
from resolvent.search.splade_loss import Pool, flops_regularizer, margin_mse, splade_pool
from resolvent.search.topics import pad_tokens
from resolvent.search.training import check_pairs, cross_entropy_of_batch, train_retriever

Sequences = tuple[np.ndarray, np.ndarray]


class _Task(NamedTuple):
    """What a step of the training draws from."""

    queries: Sequences
    documents: Sequences
    positives: np.ndarray
    negatives: np.ndarray | None
    margins: np.ndarray | None


class Splade(torch.nn.Module):
    r"""Learned sparse retrieval: texts become sparse weights over a vocabulary, scores are their inner products.

    :math:`w_j = \mathrm{pool}_i \ln(1 + \max(0, w_{ij}))` of the logits of token i for word j.

    Parameters
    ----------
    encoder : module that maps ids and mask (b, length) to logits (b, length, vocabulary), or to something with an
        attribute `logits`, as the masked language models of transformers do; `TokenEncoder` is a small one
    pool : "max" (version 2) or "sum" (version 1)
    doc_only : queries are the sets of their own words, weight 1 each, and cost no call of the encoder (SPLADE-doc)

    Attributes
    ----------
    losses : mean loss of each tenth of the last `fit`

    Notes
    -----
    Sequences are given as ``(tokens, offsets)``: all token ids one after the other, and where each sequence begins, with
    the end. Encoded texts are CSR arrays for `InvertedIndex`.

    References
    ----------
    "SPLADE: Sparse Lexical and Expansion Model for First Stage Ranking"
    "SPLADE v2: Sparse Lexical and Expansion Model for Information Retrieval"

    Examples
    --------
    >>> from resolvent import search
    >>> corpus = search.topic_corpus(100, 60, 5, queries=10, generator=0)
    >>> model = Splade(search.TokenEncoder(60, width=16, layers=1, heads=2, generator=0))
    >>> train = corpus.sample_queries(200, generator=1)
    >>> documents = corpus.tokens, corpus.offsets
    >>> _ = model.fit((train.tokens, train.offsets), documents, train.relevant, steps=10, batch=8, generator=2)
    >>> index = search.InvertedIndex(model.encode_documents(documents))
    >>> index.query(model.encode_queries((corpus.queries.tokens, corpus.queries.offsets)), k=3).ids.shape
    (10, 3)
    """

    def __init__(self, encoder: torch.nn.Module, pool: Pool = "max", doc_only: bool = False) -> None:
        super().__init__()
        if not isinstance(encoder, torch.nn.Module):
            raise TypeError(f"encoder must be a torch.nn.Module, got {type(encoder).__name__}")
        if pool not in ("sum", "max"):
            raise ValueError(f"pool must be 'sum' or 'max', got {pool!r}")
        self.encoder = encoder
        self.pool: Pool = pool
        self.doc_only = doc_only
        self.losses: list[float] = []
        self._width: int | None = None

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Weights (b, vocabulary) of texts, with gradients."""
        out = self.encoder(ids, mask)
        logits = getattr(out, "logits", out)
        self._width = logits.shape[-1]
        return splade_pool(logits, mask, self.pool)

    def encode_documents(self, documents: Sequences, *, batch: int = 64) -> Any:
        """Weights of documents ``(tokens, offsets)`` as a CSR array (n, vocabulary)."""
        return self._encode(documents, batch)

    def encode_queries(self, queries: Sequences, *, batch: int = 64) -> Any:
        """Weights of queries as a CSR array; with `doc_only` their words, without a call of the encoder."""
        return self._bags(queries) if self.doc_only else self._encode(queries, batch)

    def mine_negatives(
        self, queries: Sequences, documents: Sequences, positives: Any, count: int = 10, *, batch: int = 64
    ) -> np.ndarray:
        """The documents that this model ranks highest among those that are not the relevant one.

        Parameters
        ----------
        queries, documents : ``(tokens, offsets)``
        positives : (q,) the relevant document of each query
        count : how many for each query; fewer than `count` + 1 documents are a ValueError

        Returns
        -------
        (q, count) int64; where too few documents share a word with the query, documents follow in their order
        """
        total = len(documents[1]) - 1
        if not 1 <= count < total:
            raise ValueError(f"count must be between 1 and {total - 1}, less than the documents, got {count}")
        index = InvertedIndex(self._encode(documents, batch))
        found = index.query(self.encode_queries(queries, batch=batch), min(count + 1, total)).ids
        made = np.empty((len(found), count), np.int64)
        for i, (row, right) in enumerate(zip(found, np.asarray(positives), strict=True)):
            own = [d for d in row.tolist() if d not in (right, -1)][:count]
            taken = {*own, int(right)}
            rest = (d for d in range(total) if d not in taken)
            made[i] = own + [next(rest) for _ in range(count - len(own))]
        return made

    def fit(
        self,
        queries: Sequences,
        documents: Sequences,
        positives: Any,
        *,
        negatives: Any = None,
        teacher_margins: Any = None,
        regularization: tuple[float, float] = (3e-4, 1e-4),
        ramp: float = 1 / 3,
        steps: int = 1000,
        batch: int = 32,
        rate: float = 1e-3,
        generator: GeneratorLike = None,
    ) -> Self:
        r"""Train the encoder in place to rank each query's document first, with few and even weights.

        Parameters
        ----------
        queries, documents : ``(tokens, offsets)`` with int64 ids
        positives : (q,) the relevant document of each query
        negatives : (q, m) documents that are not relevant, one of which is drawn at each visit; None has only those of
            the batch
        teacher_margins : (q, m) scores of a teacher, relevant document minus that negative: the loss is `margin_mse`
            instead of the contrastive one
        regularization : lambda of the FLOPS regulariser of queries and of documents
        ramp : share of the steps over which they grow, quadratically, from zero
        steps, batch, rate : of Adam; the rate rises over the first twentieth and falls to zero along a half cosine
        generator : of the batches

        Returns
        -------
        Splade
            itself

        Raises
        ------
        ValueError : shapes that do not fit, or margins without negatives.
        FloatingPointError : the loss is not finite.

        Notes
        -----
        The contrastive loss is the cross entropy of the relevant document against the query's negative and the other
        queries' relevant documents. Cost of a step: the encoder on `batch` queries and one or two times as many
        documents, forward and back.
        """
        task = self._task(queries, documents, positives, negatives, teacher_margins)
        for factor in regularization:
            if not (math.isfinite(factor) and factor >= 0):
                raise ValueError(f"regularization must be two finite numbers of at least 0, got {regularization}")

        def loss(own: np.ndarray, g: torch.Generator, done: float) -> Tensor:
            grown = min(1.0, done / ramp) ** 2 if ramp > 0 else 1.0
            return self._loss(task, own, g, (grown * regularization[0], grown * regularization[1]))

        self.losses = train_retriever(
            self, loss, len(task.positives), steps=steps, batch=batch, rate=rate, generator=generator
        )
        return self

    def _loss(self, task: _Task, own: np.ndarray, g: torch.Generator, factors: tuple[float, float]) -> Tensor:
        q = self._bag_tensor(task.queries, own) if self.doc_only else self._weigh(task.queries, own)
        right = task.positives[own]
        if task.negatives is None:
            column, shown = None, right
        else:
            column = torch.randint(task.negatives.shape[1], (len(own),), generator=g).numpy()
            shown = np.concatenate([right, task.negatives[own, column]])
        d = self._weigh(task.documents, shown)
        penalty = factors[1] * flops_regularizer(d)
        if not self.doc_only:
            penalty = penalty + factors[0] * flops_regularizer(q)
        positive = d[: len(own)]
        wrong = None if column is None else torch.linalg.vecdot(q, d[len(own) :])
        if task.margins is not None and wrong is not None:
            s = torch.linalg.vecdot(q, positive)
            t = torch.as_tensor(task.margins[own, column], dtype=s.dtype, device=s.device)
            return margin_mse(s, wrong, t, torch.zeros_like(t)) + penalty
        return cross_entropy_of_batch(q @ positive.T, right, wrong) + penalty

    def _task(self, queries: Any, documents: Any, positives: Any, negatives: Any, margins: Any) -> _Task:
        right, wrong = check_pairs(queries, documents, positives, negatives)
        known = None if margins is None else np.asarray(margins)
        if known is not None and (wrong is None or known.shape != wrong.shape):
            raise ValueError(f"teacher_margins must have the shape of negatives, got {known.shape}")
        return _Task(queries, documents, right, wrong, known)

    def _device(self) -> torch.device:
        return next((p.device for p in self.parameters()), torch.device("cpu"))

    def _weigh(self, texts: Sequences, rows: Any) -> Tensor:
        ids, mask = pad_tokens(*texts, rows)
        device = self._device()
        return self(ids.to(device), mask.to(device))

    def _encode(self, texts: Sequences, batch: int) -> Any:
        count = len(texts[1]) - 1
        if not count:
            return sparse.csr_array((0, self._vocabulary()), dtype=np.float32)
        training = self.training
        self.eval()
        with torch.no_grad():
            parts = [
                sparse.csr_array(self._weigh(texts, np.arange(a, min(a + batch, count))).float().cpu().numpy())
                for a in range(0, count, batch)
            ]
        self.train(training)
        return sparse.csr_array(sparse.vstack(parts, format="csr"))

    def _bags(self, texts: Sequences) -> Any:
        tokens, offsets = texts
        shape = (len(offsets) - 1, self._vocabulary())
        bags = sparse.csr_array((np.ones(len(tokens), np.float32), tokens, offsets), shape=shape, copy=True)
        bags.sum_duplicates()
        bags.data[:] = 1
        return bags

    def _bag_tensor(self, texts: Sequences, rows: np.ndarray) -> Tensor:
        ids, mask = pad_tokens(*texts, rows)
        bags = torch.zeros(len(rows), self._vocabulary())
        # Padding adds to nothing: its zeros go in first, then the words.
        return bags.scatter_reduce_(1, ids, mask.float(), "amax").to(self._device())

    def _vocabulary(self) -> int:
        if self._width is None:
            with torch.no_grad():
                one = torch.zeros(1, 1, dtype=torch.int64, device=self._device())
                self(one, torch.ones_like(one, dtype=torch.bool))
        return int(self._width or 0)
