"""Token sets and the single-vector heuristic that claims about multi-vector search are measured against."""

from functools import cache

import numpy as np
import torch
from torch import Tensor

from resolvent import search
from resolvent.search import TokenCorpus

# Nearest tokens of each query token that the heuristic looks at.
DEPTHS = (10, 100, 1000)
# Query tokens resemble a topic more than one token: many documents hold a near token, one holds them all.
SHARED = {"topics": 100, "per_document": 5, "own": 0.3, "spread": 0.5, "noise": 2.0}
CORPORA = {
    "shared": SHARED,
    # Ten documents on each subject, so that a query has ten good answers.
    "families": SHARED | {"family": 10},
    # Every token on its own: whatever resembles a query token was its source.
    "random": {"noise": 2.5},
}


@cache
def problem(documents: int, queries: int, kind: str) -> tuple[TokenCorpus, Tensor]:
    """A corpus of 60 tokens a document and 32 a query, and all Chamfer scores."""
    corpus = search.token_sets(documents, queries=queries, generator=0, **CORPORA[kind])
    return corpus, torch.from_numpy(search.chamfer(corpus.queries, corpus.documents))


@cache
def by_encodings(documents: int, queries: int, kind: str, repetitions: int = 20) -> Tensor:
    """(queries, documents) products of the encodings."""
    corpus, _ = problem(documents, queries, kind)
    f = search.fixed_dimensional_encoding(*corpus.queries, "query", repetitions=repetitions)
    g = search.fixed_dimensional_encoding(*corpus.documents, "document", repetitions=repetitions)
    return torch.from_numpy(f @ g.T)


@cache
def by_heuristic(documents: int, queries: int, kind: str) -> dict[str, Tensor]:
    """Documents by the nearest tokens of each query token, united by best score or by best place, for several depths."""
    corpus, _ = problem(documents, queries, kind)
    owner = torch.from_numpy(np.repeat(np.arange(documents), np.diff(corpus.offsets)))
    products = torch.from_numpy(corpus.query_tokens) @ torch.from_numpy(corpus.tokens).T
    deepest = products.topk(DEPTHS[-1], 1)
    orders = {}
    for depth in DEPTHS:
        values, index = deepest.values[:, :depth], deepest.indices[:, :depth]
        found = owner[index].view(queries, -1)
        score = torch.full((queries, documents), -torch.inf)
        score.scatter_reduce_(1, found, values.reshape(queries, -1), "amax")
        places = torch.arange(depth, dtype=torch.float32).expand_as(values).reshape(queries, -1)
        place = torch.full((queries, documents), torch.inf).scatter_reduce_(1, found, places, "amin")
        orders[f"score, {depth} a token"] = score
        # Documents of one place come in the order of their scores.
        orders[f"place, {depth} a token"] = -place + 0.25 * score.clamp_min(-2)
    return orders


def needed(order: Tensor, exact: Tensor, k: int, recall: float) -> float:
    """Candidates at which `recall` of the k best documents is reached; infinite where some are never found."""
    best = exact.topk(k, 1).indices
    held = order.gather(1, best)
    # Ties count against the method: a document comes after all of its score.
    place = (order[:, None, :] >= held[:, :, None]).sum(2).double()
    place[held == -torch.inf] = torch.inf
    flat = place.flatten().sort().values
    return float(flat[int(np.ceil(recall * len(flat))) - 1])


def fewest(orders: dict[str, Tensor], exact: Tensor, k: int, recall: float) -> tuple[float, str]:
    """The best of several orders: its candidates and its name."""
    return min((needed(order, exact, k, recall), name) for name, order in orders.items())
