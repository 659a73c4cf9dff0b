"""What a search over the rows of a matrix meets: norms, a common direction, their dimension, hubs and copies."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from resolvent.operators.threads import one_thread
from resolvent.report.facts import Facts, finite_rows
from resolvent.report.repeats import Repeats, repeats_of

# Rows whose neighbours are searched; beyond, a sample of so many.
_ROWS = 5000
_QUICK_ROWS = 2000
# Nearest rows that are asked for.
_NEIGHBOURS = 10
# The largest ratios of the two nearest distances are noise of the outliers (Facco et al. leave out a tenth).
_KEPT = 0.9
# Fewer rows than this have no neighbourhoods to speak of.
_FEWEST = 32
# A flat index answers within milliseconds up to here, and is exact.
_FLAT = 10_000
# Distances that are held at a time.
_BLOCK = 1 << 22
_NAMES = re.compile(
    r"(^|[._/\-\[])(w[tp]e|\w*embed(ding|dings|s|_tokens|_tokens_per_layer)?|lookup_table)([._/\-\]]|$)"
)
_NOT = re.compile(r"conv|proj|norm|dense|mlp|linear|lora|attn|attention")


@dataclass(frozen=True)
class Embedding:
    r"""The rows of a matrix as points to be searched.

    Attributes
    ----------
    rows : rows of numbers that are not all zero
    sampled : rows whose neighbours were searched, a random part of them where that is fewer
    norm_spread : standard deviation over mean of the row norms: near zero, inner product and cosine give one order
    anisotropy : squared norm of the mean unit row, in [0, 1]: the share of every row in one common direction
    dimension_twonn : intrinsic dimension from the ratio of the distances to the two nearest rows; None where equal rows
        leave too few ratios
    dimension_mle : intrinsic dimension by maximum likelihood from the 10 nearest distances; None likewise
    hubness : skewness of the number of times that a row is among the 10 nearest of another; above 1 there are hubs
    largest_hub : the largest of those numbers, over their mean
    duplicates : rows that are equal to an earlier one
    near_duplicates : rows with a cosine of at least 0.999 to an earlier one, those included; None below 16 columns
    rank90, rank99 : directions that keep 90 and 99 percent of the variance, the mean taken out
    metric : "cosine" or "inner product": what the norms suggest
    index : "flat", "graph", "IVF" or "IVF-PQ"
    advice : the suggestion in one sentence, with its reason
    """

    rows: int
    sampled: int
    norm_spread: float
    anisotropy: float
    dimension_twonn: float | None
    dimension_mle: float | None
    hubness: float | None
    largest_hub: float | None
    duplicates: int
    near_duplicates: int | None
    rank90: int
    rank99: int
    metric: str
    index: str
    advice: str


def is_embedding(name: str, shape: Sequence[int], role: str = "weight") -> bool:
    """Whether the rows of a matrix are vectors that stand for things.

    Parameters
    ----------
    name : of the tensor
    shape : of the matrix
    role : "vectors" for a file of vectors, whatever its name

    Examples
    --------
    >>> is_embedding("embeddings.word_embeddings.weight", (30522, 384)), is_embedding("wte.weight", (50257, 768))
    (True, True)
    >>> is_embedding("patch_embed.proj.weight", (768, 768)), is_embedding("mlp.up.weight", (4096, 1024))
    (False, False)
    """
    if len(shape) != 2 or shape[0] < _FEWEST or shape[1] < 2 or role == "graph":
        return False
    if role == "vectors":
        return True
    name = name.lower()
    return bool(_NAMES.search(name)) and not _NOT.search(name)


def embedding_of(matrix: Tensor, *, quick: bool = False, facts: Facts | None = None) -> Embedding:
    r"""Measure the rows of a matrix as points.

    Parameters
    ----------
    matrix : (m, n) tensor on the CPU; rows with a NaN or an infinity are left out
    quick : search among 2000 rows instead of 5000
    facts : of this matrix, if they are known: its repeated rows are then not searched again

    Returns
    -------
    Embedding

    Raises
    ------
    ValueError : no row is finite and not zero.

    Notes
    -----
    Neighbours are Euclidean and exact among the sampled rows (fixed seed), by blocks of products; the distances of the
    nearest ones are then computed again without cancellation. TwoNN is the slope of :math:`-\log(1 - F)` against
    :math:`\log(r_2 / r_1)` through the origin over the smaller nine tenths; the maximum likelihood estimate averages
    the inverses over the rows. A sample is sparser than the whole, so that both see a coarser scale.

    References
    ----------
    "Estimating the intrinsic dimension of datasets by a minimal neighborhood information"
    "Maximum Likelihood Estimation of Intrinsic Dimension"
    "Hubs in Space: Popular Nearest Neighbors in High-Dimensional Data"
    "All-but-the-Top: Simple and Effective Postprocessing for Word Representations"

    Examples
    --------
    >>> plane = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0)) @ torch.eye(2, 50)
    >>> e = embedding_of(plane)
    >>> round(e.dimension_twonn), round(e.dimension_mle), e.rank99, e.index
    (2, 2, 2, 'flat')
    """
    with one_thread():
        norms, mean, kept = finite_rows(matrix.detach())
        repeats = repeats_of(matrix) if facts is None else Repeats(facts.repeated_rows, facts.near_repeated_rows)
    if not len(kept):
        raise ValueError("matrix must have a row that is finite and not zero")
    norms = norms / norms.max()
    spread = float(norms.std(correction=0) / norms.mean())
    anisotropy = min(1.0, float(mean.square().sum()))
    rows = _QUICK_ROWS if quick else _ROWS
    if len(kept) > rows:
        kept = kept[torch.randperm(len(kept), generator=torch.Generator().manual_seed(0))[:rows].sort().values]
    X = _points(matrix, kept)
    rank90, rank99 = _ranks(X)
    twonn = mle = hubness = hub = None
    if len(X) > 2 * _NEIGHBOURS:
        distances, nearest = _nearest(X, _NEIGHBOURS)
        twonn, mle = _two_nearest(distances), _likelihood(distances)
        hubness, hub = _hubs(nearest, len(X))
    metric, index, advice = _suggested(len(norms), matrix.shape[1], spread, anisotropy, mle)
    return Embedding(
        rows=len(norms),
        sampled=len(X),
        norm_spread=spread,
        anisotropy=anisotropy,
        dimension_twonn=twonn,
        dimension_mle=mle,
        hubness=hubness,
        largest_hub=hub,
        duplicates=repeats.exact,
        near_duplicates=repeats.near,
        rank90=rank90,
        rank99=rank99,
        metric=metric,
        index=index,
        advice=advice,
    )


def _points(matrix: Tensor, kept: Tensor) -> Tensor:
    """The rows as real points of a size whose squares are no problem."""
    X = matrix[kept]
    if X.is_complex():
        X = torch.view_as_real(X.resolve_conj()).flatten(1)
    X = X if X.dtype in (torch.float32, torch.float64) else X.float()
    # distances do not see the mean, but their digits do
    X = X / X.abs().max()
    return (X - X.mean(0)).float()


def _ranks(X: Tensor) -> tuple[int, int]:
    gram = X.T @ X if len(X) >= X.shape[1] else X @ X.T
    # small: two threads would wait for each other more than they work
    with one_thread():
        eigenvalues = torch.linalg.eigvalsh(gram.double())
    energy = eigenvalues.flip(0).clamp_min(0).cumsum(0)
    total = float(energy[-1])
    if total == 0:
        return 0, 0
    first, second = (int((energy < share * total * (1 - 1e-6)).sum()) + 1 for share in (0.9, 0.99))
    return first, second


def _nearest(X: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(rows, k) ascending distances and places of the nearest other rows."""
    squares = X.square().sum(1)
    step = max(1, _BLOCK // len(X))
    found, places = [], []
    for start in range(0, len(X), step):
        block = X[start : start + step]
        # up to a constant of the row, which does not change the order
        gap = torch.addmm(squares, block, X.T, alpha=-2)
        here = torch.arange(len(block))
        gap[here, start + here] = math.inf
        # a few more than asked for: the products round, and the order of the last may change
        near = gap.topk(min(k + 2, len(X) - 1), largest=False).indices
        exact = (X[near] - block[:, None]).square().sum(-1).double().sqrt()
        exact, order = exact.sort(1)
        found.append(exact[:, :k])
        places.append(near.gather(1, order)[:, :k])
    return torch.cat(found), torch.cat(places)


def _two_nearest(distances: Tensor) -> float | None:
    first, second = distances[:, 0], distances[:, 1]
    ratios = (second / first)[first > 0]
    if len(ratios) < _FEWEST:
        return None
    logs = ratios.log().sort().values
    count = len(logs)
    logs = logs[: int(_KEPT * count)]
    share = torch.arange(1, len(logs) + 1, dtype=torch.float64) / count
    energy = float(logs @ logs)
    return float(-(logs @ torch.log1p(-share))) / energy if energy > 0 else None


def _likelihood(distances: Tensor) -> float | None:
    whole = distances[distances[:, 0] > 0]
    if len(whole) < _FEWEST:
        return None
    k = whole.shape[1]
    # k - 2 in place of k - 1 makes each inverse unbiased
    inverse = (whole[:, -1:] / whole[:, :-1]).log().sum(1) / (k - 1)
    mean = float(inverse.mean())
    return 1 / mean if mean > 0 else None


def _hubs(nearest: Tensor, rows: int) -> tuple[float | None, float | None]:
    counts = np.bincount(nearest.reshape(-1).numpy(), minlength=rows).astype(float)
    spread = counts.std()
    if spread == 0:
        return 0.0, 1.0
    return float(((counts - counts.mean()) ** 3).mean() / spread**3), float(counts.max() / counts.mean())


def _suggested(
    rows: int, columns: int, spread: float, anisotropy: float, dimension: float | None
) -> tuple[str, str, str]:
    """Metric, index and a sentence."""
    # the square of the spread is the share of a squared distance that is due to the norms alone
    if spread < 0.05:
        metric, why = "cosine", f"the norms are all but equal (spread {spread:.2g}): inner product gives the same order"
    else:
        metric = "inner product"
        why = f"the norms differ (spread {spread:.2g}): normalise the rows if length means nothing"
    if anisotropy > 0.25:
        why += f"; take the mean out first, {anisotropy:.0%} of every row is common"
    if rows <= _FLAT:
        return metric, "flat", f"exact flat {metric} index, {rows} rows are few; {why}"
    if rows <= 10_000_000 and (dimension is None or dimension <= 50):
        intrinsic = "" if dimension is None else f", intrinsic dimension about {dimension:.0f}"
        return metric, "graph", f"graph index (HNSW) with {metric}{intrinsic}; {why}"
    if rows <= 1_000_000:
        return metric, "IVF", f"inverted file (IVF) with {metric}: too many dimensions for a graph to be short; {why}"
    return metric, "IVF-PQ", f"inverted file with product codes of {max(8, columns // 8)} bytes, {metric}; {why}"
