"""Joint training of a query encoder and the codewords of a product-quantised index, on the errors that it makes now."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from resolvent.operators.arrays import as_tensor
from resolvent.random import GeneratorLike, as_generator
from resolvent.search.codebook import Codebook
from resolvent.search.inverted_lists import positive
from resolvent.search.product import OPQ, ProductQuantizer


class JointPQ:
    r"""Tune a query encoder and the codewords of a compressed index together, so that relevant documents rank high.

    Documents are coded once, by OPQ. Then, step by step: a batch of queries is encoded, the compressed index as it is
    now gives its best documents, missing relevant ones are appended, and with :math:`s_d = \langle q, y_d\rangle` the
    inner product with the reconstruction of document d the loss of a query is the mean over pairs (+, -) of

    .. math:: \log(1 + e^{s_- - s_+}) \, |1/r_- - 1/r_+| ,

    r the ranks, 1/r zero beyond `lambda_cut`. Its gradients move the encoder and the codewords; codes and rotation stay.

    Parameters
    ----------
    m, bits : parts of a code and bits of a part, 4 or 8: m * bits / 8 bytes a document
    top : documents that the index gives for each query of a step
    lambda_cut : rank beyond which the reciprocal counts as zero
    train_encoder, train_codewords : what is trained; without codewords this is the ablation of the paper
    generator : of the codes and of the order of the queries; an int makes it repeatable

    Attributes
    ----------
    index : OPQ, after `fit`: an ordinary index over the documents with the trained codewords
    query_encoder : the trained copy of the encoder
    losses : mean loss of each epoch

    Notes
    -----
    Negatives are what the index gets wrong at this moment (end-to-end negative sampling), which is why codewords are
    written back after each step. AdamW with a rate for the encoder and one for the codewords, both falling linearly to
    zero; the norm of the encoder's gradient is clipped at 1. A step costs a scan of all codes for each query and
    top * m look-ups for the loss.

    References
    ----------
    "Jointly Optimizing Query Encoder and Product Quantization to Improve Retrieval Performance"

    Examples
    --------
    >>> import torch
    >>> from resolvent import search
    >>> x = search.clustered_vectors(600, 16, generator=0).x
    >>> queries = x[:64] + 0.1
    >>> tuned = search.JointPQ(m=4, bits=4, top=50).fit(torch.nn.Linear(16, 16), x, queries, range(64), epochs=2)
    >>> hits = tuned.query(queries, k=10)
    >>> hits.ids.shape, tuned.losses[1] < tuned.losses[0], tuned.index.code_size
    (torch.Size([64, 10]), True, 2)
    """

    def __init__(
        self,
        m: int = 16,
        bits: int = 8,
        top: int = 200,
        lambda_cut: int = 200,
        *,
        train_encoder: bool = True,
        train_codewords: bool = True,
        generator: GeneratorLike = 0,
    ) -> None:
        if not (train_encoder or train_codewords):
            raise ValueError("train_encoder or train_codewords must be True: there is nothing to train")
        self.m, self.bits = positive(m, "m"), bits
        self.top, self.lambda_cut = positive(top, "top"), positive(lambda_cut, "lambda_cut")
        self.train_encoder, self.train_codewords = train_encoder, train_codewords
        self.generator = generator
        self.losses: list[float] = []

    def fit(
        self,
        query_encoder: torch.nn.Module,
        doc_vectors: Any,
        queries: Any,
        qrels: Tensor | Sequence[int | Iterable[int]] | Mapping[int, Iterable[int]],
        *,
        epochs: int = 6,
        batch: int = 32,
        rate: float = 5e-6,
        codeword_rate: float = 1e-4,
        clip: float = 1.0,
        index: ProductQuantizer | None = None,
    ) -> Self:
        """Train on queries with known relevant documents.

        Parameters
        ----------
        query_encoder : from a batch of rows of `queries` to (b, d); it is copied, not changed
        doc_vectors : (n, d), what the documents' encoder gave
        queries : (b, ...) array or tensor, the encoder's input
        qrels : for each query its relevant document or documents, by position
        epochs, batch : passes over the queries, queries per step
        rate, codeword_rate : of AdamW, for the encoder (5e-6 is for large pretrained ones) and for the codewords
        clip : bound on the norm of the encoder's gradient
        index : a built quantiser over the documents to begin with, instead of a new OPQ; it is not changed

        Returns
        -------
        JointPQ
            itself

        Raises
        ------
        ValueError
            a query without a relevant document, one that does not exist, or an encoder of another dimension
        """
        g = as_generator(self.generator)
        seed = int(torch.randint(2**31, (), generator=g).item())
        if index is None:
            self.index = OPQ(m=self.m, bits=self.bits, refine=0, generator=seed).build(doc_vectors)
        else:
            if index.metric != "ip":
                raise ValueError(f"index must have metric 'ip', got {index.metric!r}")
            self.index = type(index).restore(index.settings(), index.arrays())  # type: ignore[assignment]
        inputs, _ = as_tensor(queries, "queries")
        relevant = _relevant(qrels, len(inputs), len(self.index))
        encoder = copy.deepcopy(query_encoder).train()
        book = self.index.codebook
        words = torch.from_numpy(book.books.copy()).requires_grad_(self.train_codewords)
        groups = [{"params": list(encoder.parameters()), "lr": rate}] if self.train_encoder else []
        if self.train_codewords:
            groups.append({"params": [words], "lr": codeword_rate, "weight_decay": 0.0})
        optimizer = torch.optim.AdamW(groups)
        codes = torch.from_numpy(self.index.codes().astype(np.int64))
        steps = epochs * -(-len(inputs) // batch)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1 - step / steps))
        self.losses = []
        for _ in range(epochs):
            total = 0.0
            for own in torch.randperm(len(inputs), generator=g).split(batch):
                with torch.set_grad_enabled(self.train_encoder):
                    q = encoder(inputs[own])
                    if q.ndim != 2 or q.shape[1] != self.index.dim:
                        wanted = (len(own), self.index.dim)
                        raise ValueError(f"query_encoder must give shape {wanted}, got {tuple(q.shape)}")
                found = self.index.query(q.detach(), min(self.top, len(self.index)), refine=0).ids
                loss = self._loss(self._turned(q, book), words, codes, found, [relevant[i] for i in own.tolist()])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                if self.train_encoder:
                    torch.nn.utils.clip_grad_norm_(encoder.parameters(), clip)
                optimizer.step()
                schedule.step()
                if self.train_codewords:
                    self.index.set_codewords(words.detach().numpy())
                total += float(loss.detach()) * len(own)
            self.losses.append(total / len(inputs))
        self.query_encoder = encoder.eval()
        return self

    def query(self, queries: Any, k: int = 10, **options: Any) -> Any:
        """Encode queries and search the index: Hits with the documents' positions."""
        inputs, kind = as_tensor(queries, "queries")
        with torch.no_grad():
            q = self.query_encoder(inputs)
        return self.index.query(q.numpy() if kind == "numpy" else q, k, **options)

    @staticmethod
    def _turned(q: Tensor, book: Codebook) -> Tensor:
        """Queries in the coordinates of the codewords; gradients pass."""
        if book.turn is not None:
            return q @ torch.from_numpy(book.turn)
        return torch.nn.functional.pad(q, (0, book.width - q.shape[1]))

    def _loss(self, z: Tensor, words: Tensor, codes: Tensor, found: Tensor, relevant: list[Tensor]) -> Tensor:
        """The mean over the queries of the weighted pairwise loss."""
        m, width, _ = words.shape
        # The scores of all codewords, then of documents by look-up: gradients reach queries and codewords alike.
        tables = torch.einsum("bmw,mwc->bmc", z.view(-1, m, width), words)
        losses = []
        for table, ids, good in zip(tables, found, relevant, strict=True):
            listed = torch.cat([ids, good[~torch.isin(good, ids)]])
            positive_ = torch.isin(listed, good)
            scores = table.gather(1, codes[listed].mT).sum(0)
            ranks = torch.arange(1, len(listed) + 1)
            reciprocal = torch.where(ranks <= self.lambda_cut, 1 / ranks, 0.0)
            gap = scores[~positive_] - scores[positive_][:, None]
            weight = (reciprocal[~positive_] - reciprocal[positive_][:, None]).abs()
            # Nothing but relevant documents listed: there is no pair to order.
            losses.append((torch.nn.functional.softplus(gap) * weight).mean() if gap.numel() else gap.sum())
        return torch.stack(losses).mean()


def _relevant(qrels: Any, queries: int, documents: int) -> list[Tensor]:
    """The positions of the relevant documents of each query."""
    rows = [qrels[i] for i in range(queries)] if isinstance(qrels, Mapping) else list(qrels)
    if len(rows) != queries:
        raise ValueError(f"qrels must have an entry for each of the {queries} queries, got {len(rows)}")
    found = []
    for i, row in enumerate(rows):
        many = row if isinstance(row, Tensor | np.ndarray) else list(row) if isinstance(row, Iterable) else [row]
        own = torch.as_tensor(many, dtype=torch.int64).reshape(-1).unique()
        if not len(own):
            raise ValueError(f"qrels must give every query a relevant document, query {i} has none")
        if int(own.min()) < 0 or int(own.max()) >= documents:
            raise ValueError(f"qrels must name documents 0..{documents - 1}, query {i} has {own.tolist()}")
        found.append(own)
    return found
