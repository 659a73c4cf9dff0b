"""What the papers on searching by an expensive score, on cutting answers off, and on Hamming profiles claim, measured."""

from functools import cache

import numpy as np
import torch
from _seconds import seconds
from torch import Tensor, nn

from resolvent import search
from resolvent.claims import Measured, Scale, claim


class Cross(nn.Module):
    """A small cross-encoder: a network over both sides and what they have in common."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3 * dim, 64), nn.GELU(), nn.Linear(64, 1))

    def forward(self, q: Tensor, x: Tensor) -> Tensor:
        return self.net(torch.cat([q, x, q * x], -1))[..., 0]


@cache
def scored(items: int, anchors: int, test: int) -> tuple[Tensor, Tensor]:
    """Scores of a trained cross-encoder for all pairs, and of a dual encoder trained on the same labels."""
    g = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        dim = 24
        X, Q = torch.randn(items, dim, generator=g), torch.randn(anchors + test, dim, generator=g)
        M = torch.randn(dim, dim, generator=g) / dim**0.5
        W = torch.randn(dim, 8, generator=g) / dim**0.5
        V = torch.randn(dim, 8, generator=g) / dim**0.5
        cross = Cross(dim)
        left, right = nn.Linear(dim, 32), nn.Linear(dim, 32)
        parameters = [*cross.parameters(), *left.parameters(), *right.parameters()]
        optimizer = torch.optim.Adam(parameters, lr=3e-3)
        for _ in range(400):
            q = Q[torch.randint(anchors, (512,), generator=g)]
            x = X[torch.randint(items, (512,), generator=g)]
            truth = ((q @ M) * x).sum(1) + 6 * torch.tanh((q @ W) * (x @ V)).sum(1)
            loss = (cross(q, x) - truth).square().mean() + ((left(q) * right(x)).sum(1) - truth).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            exact = torch.stack([cross(q.expand(items, -1), X) for q in Q])
            dual = left(Q) @ right(X).mT
    return exact, dual


def recalls(scale: Scale, k: int) -> tuple[float, float]:
    """Recall at k of the search by CUR and of reranking the dual encoder's best, both for 250 exact scores a query."""
    items, anchors, test = 5000, scale(quick=300, full=500), 40
    exact, dual = scored(items, anchors, test)
    index = search.cur_search(exact[:anchors], n_anchor_items=100, generator=0)
    ours, theirs = [], []
    for row, cheap in zip(exact[anchors:], dual[anchors:], strict=True):
        best = row.topk(k).indices.tolist()
        hits = index.query(lambda i, row=row: row[torch.from_numpy(i)], k=k, budget=250)
        first = cheap.topk(250).indices
        ours.append(search.recall_at_k([hits.ids.tolist()], [best]))
        theirs.append(search.recall_at_k([first[row[first].topk(k).indices].tolist()], [best]))
    return float(np.mean(ours)), float(np.mean(theirs))


@claim(
    paper="Efficient Nearest Neighbor Search for Cross-Encoder Models using Matrix Factorization",
    method=search.cur_search,
    says="finds more of the best 100 items of a cross-encoder than reranking a dual encoder for as many exact scores, points",
    at_least=5.0,
)
def recall_at_100(scale: Scale) -> Measured:
    ours, theirs = recalls(scale, 100)
    return Measured(100 * (ours - theirs), unit="points of recall", note=f"{ours:.1%} against {theirs:.1%}")


@claim(
    paper="Efficient Nearest Neighbor Search for Cross-Encoder Models using Matrix Factorization",
    method=search.cur_search,
    says="the same for the best 50 items",
    at_least=5.0,
)
def recall_at_50(scale: Scale) -> Measured:
    ours, theirs = recalls(scale, 50)
    return Measured(100 * (ours - theirs), unit="points of recall", note=f"{ours:.1%} against {theirs:.1%}")


@claim(
    paper="Efficient Nearest Neighbor Search for Cross-Encoder Models using Matrix Factorization",
    method=search.cur_search,
    says="a score of rank at most the number of anchor items is searched exactly: share of the best 50 found",
    at_least=1.0,
)
def exact_at_low_rank(scale: Scale) -> Measured:
    g = torch.Generator().manual_seed(1)
    items = scale(quick=2000, full=5000)
    table = torch.randn(240, 60, generator=g) @ torch.randn(60, items, generator=g)
    index = search.cur_search(table[:200], n_anchor_items=80, generator=0)
    found = [
        index.query(lambda i, row=row: row[torch.from_numpy(i)], k=50, budget=150).ids.tolist() for row in table[200:]
    ]
    return Measured(search.recall_at_k(found, table[200:].topk(50).indices.tolist()), unit="of the best 50")


@cache
def judged(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Queries whose scores have a scale of their own and whose relevant items differ in number."""
    r = np.random.default_rng(seed)
    b, m, d = 1500, 60, 16
    q = r.normal(size=(b, d))
    level = 0.45 + 0.2 * np.tanh(q[:, :1] + 0.5 * q[:, 1:2])
    width = 0.04 + 0.08 / (1 + np.exp(-2 * q[:, 2:3]))
    share = 0.1 + 0.6 / (1 + np.exp(-2 * q[:, 3:4]))
    relevant = r.random((b, m)) < share
    scores = level + width * (2.2 * relevant + 0.8 * r.normal(size=(b, m)))
    scores = scores.clip(0, 1)
    order = np.argsort(-scores, axis=1)
    return q, np.take_along_axis(scores, order, 1), np.take_along_axis(relevant, order, 1)


@cache
def cutoffs() -> dict[str, search.RelevanceCutoff]:
    return {
        form: search.RelevanceCutoff(form, steps=300, generator=0).fit(*judged(0))
        for form in ("power", "cosine", "platt", "relative")
    }


def kept_at_recall(values: np.ndarray, labels: np.ndarray, recall: float) -> float:
    """Precision at the largest threshold that keeps this share of the relevant hits."""
    order = np.argsort(-values.ravel())
    hits = np.cumsum(labels.ravel()[order])
    place = int(np.searchsorted(hits, recall * hits[-1]))
    return float(hits[place] / (place + 1))


@claim(
    paper="Relevance Filtering for Embedding-based Retrieval",
    method=search.RelevanceCutoff,
    says="precision of what is kept above the best single threshold on the raw cosine at equal recall (0.9), points",
    at_least=10.0,
)
def precision_above_a_constant(scale: Scale) -> Measured:
    q, scores, labels = judged(1)
    values = {form: cut.transform(q, scores) for form, cut in cutoffs().items()}
    precision = {form: kept_at_recall(v, labels, 0.9) for form, v in values.items()}
    best = max(p for form, p in precision.items() if form != "power")
    return Measured(
        100 * (precision["power"] - best),
        unit="points of precision",
        note=", ".join(f"{form} {p:.1%}" for form, p in precision.items()),
    )


@claim(
    paper="Relevance Filtering for Embedding-based Retrieval",
    method=search.RelevanceCutoff,
    says="the same above the best number of hits k for all queries, at its recall, points",
    at_least=10.0,
)
def precision_above_top_k(scale: Scale) -> Measured:
    q, scores, labels = judged(1)
    totals = np.cumsum(labels.sum(0)) / labels.sum()
    k = int(np.searchsorted(totals, 0.9)) + 1
    top = labels[:, :k].mean()
    ours = kept_at_recall(cutoffs()["power"].transform(q, scores), labels, float(totals[k - 1]))
    return Measured(
        100 * (ours - top), unit="points of precision", note=f"{ours:.1%} against {top:.1%} of the first {k}"
    )


@claim(
    paper="Relevance Filtering for Embedding-based Retrieval",
    method=search.RelevanceCutoff,
    says="area under the precision-recall curve of mapped scores pooled over queries, above that of raw cosines",
    at_least=0.05,
)
def area(scale: Scale) -> Measured:
    from sklearn.metrics import average_precision_score

    q, scores, labels = judged(1)
    ours = average_precision_score(labels.ravel(), cutoffs()["power"].transform(q, scores).ravel())
    raw = average_precision_score(labels.ravel(), scores.ravel())
    return Measured(ours - raw, unit="more area", note=f"{ours:.3f} against {raw:.3f}")


def zipf(n: int, alphabet: int, seed: int) -> np.ndarray:
    weight = 1 / np.arange(1, alphabet + 1)
    return np.random.default_rng(seed).choice(alphabet, size=n, p=weight / weight.sum())


@cache
def text_and_pattern(m: int) -> tuple[np.ndarray, np.ndarray]:
    text, pattern = zipf(1 << 18, 4096, 0), zipf(m, 4096, 1)
    pattern[: m // 2] = text[1000 : 1000 + m // 2]
    return text, pattern


def everywhere(text: np.ndarray, pattern: np.ndarray) -> np.ndarray:
    """All pairs, compared in vector registers by two threads: the strongest loop."""
    from resolvent.search.hamming_kernel import compare_all

    out = np.empty(len(text) - len(pattern) + 1, np.int32)
    compare_all(text, pattern, out)
    return out


@claim(
    paper="Faster Algorithms for Text-to-Pattern Hamming Distances",
    method=search.hamming_profile,
    says="every distance of a pattern of 2^12 in a text of 2^18 over 4096 symbols is exact: share of the shifts",
    at_least=1.0,
)
def exact_everywhere(scale: Scale) -> Measured:
    text, pattern = text_and_pattern(1 << 12)
    found, info = search.hamming_profile(text, pattern, return_info=True)
    right = found == everywhere(text.astype(np.int16), pattern.astype(np.int16))
    return Measured(
        float(right.mean()), unit="of the shifts", note=f"at most {info.error:.1e} from an integer before rounding"
    )


@claim(
    paper="Faster Algorithms for Text-to-Pattern Hamming Distances",
    method=search.hamming_profile,
    says="faster than the loop over all pairs in vector registers on all cores, pattern of 2^14",
    at_least=2.0,
)
def against_the_loop(scale: Scale) -> Measured:
    text, pattern = text_and_pattern(1 << 14)
    short = text.astype(np.int16), pattern.astype(np.int16)
    ours, loop = seconds(lambda: search.hamming_profile(text, pattern), lambda: everywhere(*short), repeats=3)
    return Measured(loop / ours, unit="x faster", note=f"{1e3 * ours:.0f} ms against {1e3 * loop:.0f} ms")


@claim(
    paper="Faster Algorithms for Text-to-Pattern Hamming Distances",
    method=search.hamming_profile,
    says="faster than one transform per symbol (scipy.signal, all symbols of the pattern), pattern of 2^14",
    at_least=20.0,
)
def against_transforms(scale: Scale) -> Measured:
    from scipy.signal import oaconvolve

    text, pattern = text_and_pattern(1 << 14)
    symbols = np.unique(pattern)
    some = symbols[:: max(1, len(symbols) // scale(quick=6, full=60))]

    def one_by_one() -> None:
        for a in some:
            oaconvolve((text == a).astype(np.float32), (pattern[::-1] == a).astype(np.float32), mode="valid")

    ours, theirs = seconds(lambda: search.hamming_profile(text, pattern), one_by_one, repeats=3)
    every = theirs * len(symbols) / len(some)
    note = f"{1e3 * ours:.0f} ms against {every:.1f} s for {len(symbols)} symbols, timed on {len(some)} of them"
    return Measured(every / ours, unit="x faster", note=note)


@claim(
    paper="Faster Algorithms for Text-to-Pattern Hamming Distances",
    method=search.hamming_profile,
    says="time grows like the square root of the pattern's length (fitted exponent from 2^8 to 2^14)",
    at_most=0.65,
)
def growth(scale: Scale) -> Measured:
    lengths = [1 << e for e in (8, 10, 12, 14)]
    times = seconds(*(lambda m=m: search.hamming_profile(*text_and_pattern(m)) for m in lengths), repeats=5)
    exponent = float(np.polyfit(np.log(lengths), np.log(times), 1)[0])
    return Measured(exponent, unit="exponent", note=", ".join(f"{1e3 * t:.1f} ms" for t in times))


@claim(
    paper="Faster Algorithms for Text-to-Pattern Hamming Distances",
    method=search.hamming_profile,
    says="approximate distances (eps = 0.1, random maps for all but the frequent symbols): share of shifts within 10 %",
    at_least=0.99,
)
def approximate(scale: Scale) -> Measured:
    n, m = scale(quick=1 << 15, full=1 << 18), scale(quick=1 << 10, full=1 << 12)
    text, pattern = zipf(n, 64, 2), zipf(m, 64, 3)
    pattern[: m // 2] = text[100 : 100 + m // 2]
    true = everywhere(text.astype(np.int16), pattern.astype(np.int16))
    found, info = search.hamming_profile(text, pattern, eps=0.1, maps=40, generator=0, return_info=True)
    good = np.abs(found - true) <= 0.1 * true
    return Measured(float(good.mean()), unit="of the shifts", note=f"{info.matvecs} correlations")
