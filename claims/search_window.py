"""What the paper on window filters claims, measured: work at every width of the window, and where labels are adverse."""

import functools
import math

import numpy as np

from resolvent import search
from resolvent.claims import Measured, Scale, claim

K = 10
WIDTHS = (10, 14, 20, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)


def graph() -> search.HNSW:
    return search.HNSW(M=8, ef_construction=60, metric="l2")


def cheapest(asked, true, low: float = 0.95):
    """The least work of the settings tried, in ascending order, whose mean recall is enough: (evaluations, recall)."""
    for hits in asked:
        recall = search.recall_at_k(hits.ids, true)
        if recall >= low:
            return float(hits.evaluations.mean()), recall
    return math.inf, 0.0


def postfiltered(index: search.HNSW, q, keep, rows: int):
    """One graph asked for more and more rows, of which those in the window are kept."""
    for width in WIDTHS:
        if width >= 2 * rows:
            return
        hits = index.query(q, min(width, rows), ef=width)
        ids = np.full((len(q), K), -1, np.int64)
        for i, row in enumerate(hits.ids):
            mine = row[(row >= 0) & keep[i][row]][:K]
            ids[i, : len(mine)] = mine
        yield search.Hits(ids, np.where(ids >= 0, 0.0, -np.inf), hits.evaluations, hits.scanned)


def exact(x, q, keep):
    return np.stack([search.exact_search(x, one, K, "l2", allowed=k).ids for one, k in zip(q, keep, strict=True)])


@functools.cache
def fractions(sizes: tuple[int, int, int, int]) -> dict[int, dict[str, float]]:
    """By the exponent of the fraction: work of a scan, a postfiltered graph and the tree; the tree's recall."""
    n, leaf, queries, smallest = sizes
    corpus = search.clustered_vectors(n, 16, n_queries=queries, generator=0)
    x, q = corpus.x.numpy(), corpus.queries.numpy()
    rng = np.random.default_rng(0)
    labels = rng.random(n)
    tree = search.WindowTree(x, labels, leaf=leaf, inner=graph(), metric="l2")
    single = graph().build(x)
    found = {}
    for p in range(1, smallest + 1):
        low = rng.random(queries) * (1 - 2.0**-p)
        high = low + 2.0**-p
        keep = [(labels >= a) & (labels <= b) for a, b in zip(low, high, strict=True)]
        true = exact(x, q, keep)
        answers = [tree.query(q, K, low=low, high=high, ef=ef) for ef in WIDTHS[:7]]
        outside = sum(int((~keep[i][row[row >= 0]]).sum()) for hits in answers for i, row in enumerate(hits.ids))
        work, recall = cheapest(answers, true)
        found[p] = {
            "scan": float(np.mean([k.sum() for k in keep])),
            "post": cheapest(postfiltered(single, q, keep, n), true)[0],
            "tree": work,
            "recall": recall if not outside else math.nan,
        }
    return found


def sizes(scale: Scale) -> tuple[int, int, int, int]:
    return scale(quick=(8000, 300, 60, 5), full=(100_000, 1000, 200, 8))


@claim(
    paper="Approximate Nearest Neighbor Search with Window Filters",
    method=search.WindowTree,
    says="work at recall 0.95 is never above 1.5x the better of a scan of the window and a postfiltered graph",
    at_most=1.5,
)
def never_dearer(scale: Scale) -> Measured:
    found = fractions(sizes(scale))
    ratios = {p: v["tree"] / min(v["scan"], v["post"]) for p, v in found.items()}
    note = ", ".join(f"2^-{p}: {r:.2f}" for p, r in ratios.items())
    return Measured(max(ratios.values()), unit="x the better of the two", note=note)


@claim(
    paper="Approximate Nearest Neighbor Search with Window Filters",
    method=search.WindowTree,
    says="fewer evaluations than the better of the two at the hardest middle fraction, recall 0.95 (paper: up to 75x)",
    at_least=3.0,
    known_miss="1.8x with 8000 rows (scan 502, postfilter 906, tree 279): both baselines grow with n, the tree hardly does; 7.0x with 100,000",
)
def the_middle(scale: Scale) -> Measured:
    found = fractions(sizes(scale))
    ratios = {p: min(v["scan"], v["post"]) / v["tree"] for p, v in found.items()}
    best = max(ratios, key=lambda p: ratios[p])
    v = found[best]
    note = f"at 2^-{best}: scan {v['scan']:.0f}, postfilter {v['post']:.0f}, tree {v['tree']:.0f}"
    return Measured(ratios[best], unit="x fewer evaluations", note=note)


@claim(
    paper="Approximate Nearest Neighbor Search with Window Filters",
    method=search.WindowTree,
    says="the least recall over all fractions, and no row outside the window",
    at_least=0.95,
)
def recall_at_every_fraction(scale: Scale) -> Measured:
    return Measured(min(v["recall"] for v in fractions(sizes(scale)).values()), unit="recall@10")


@claim(
    paper="Approximate Nearest Neighbor Search with Window Filters",
    method=search.WindowTree,
    says="labels are bands of clusters, queries come from another cluster: evaluations of a postfiltered graph over ours",
    at_least=10.0,
    known_miss="8.6x with 6000 rows: a band has 600, and no method can need more evaluations than there are rows; 40x with 100,000",
)
def adverse_labels(scale: Scale) -> Measured:
    n, leaf, queries = scale(quick=(6000, 100, 40), full=(100_000, 1000, 200))
    clusters = scale(quick=10, full=50)
    corpus = search.clustered_vectors(n, 16, clusters=clusters, spread=0.3, n_queries=queries, generator=1)
    x, q = corpus.x.numpy(), corpus.queries.numpy()
    rng = np.random.default_rng(1)
    labels = corpus.labels.numpy() + rng.random(n)
    centres = np.stack([x[corpus.labels.numpy() == c].mean(0) for c in range(clusters)])
    own = ((q[:, None] - centres) ** 2).sum(-1).argmin(1)
    band = (own + 1 + rng.integers(0, clusters - 1, queries)) % clusters
    keep = [(labels >= b) & (labels < b + 1) for b in band]
    true = exact(x, q, keep)
    tree = search.WindowTree(x, labels, leaf=leaf, inner=graph(), metric="l2")
    ends = {"low": band, "high": np.nextafter(band + 1.0, 0)}
    ours, recall = cheapest((tree.query(q, K, ef=ef, **ends) for ef in WIDTHS[:8]), true)
    post = cheapest(postfiltered(graph().build(x), q, keep, n), true)[0]
    post = min(post, float(n))
    note = f"tree {ours:.0f} at recall {recall:.3f}, postfilter {post:.0f}"
    return Measured(post / ours, unit="x fewer evaluations", note=note)
