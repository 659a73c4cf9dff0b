"""Whether local bases are worth having, before any is used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from resolvent.random import GeneratorLike, as_generator
from resolvent.solve.clusters import Dissimilarity, dissimilarities
from resolvent.solve.medoids import k_medoids
from resolvent.solve.snapshots import frame_of, rows_of, unit_rows


class EfficiencyRow(NamedTuple):
    """Local bases of one size against global ones, by cross-validated relative projection errors.

    Attributes
    ----------
    n_clusters, n_modes : clusters, and the size of each basis
    local, local_worst : the mean and the largest error with the basis of the own cluster
    global_ : the mean error of a global basis of as many modes
    wrong : the mean error with the basis of another cluster; NaN for one cluster
    gain : ``global_ / local``
    equal_modes : the least size of a global basis with a mean error of at most `local`; None where none has it
    accuracy : the share of right choices from which a classifier makes local bases better than the global one; above 1
        where none does
    smallest : the snapshots of the smallest cluster
    accepted : whether the gain reaches the threshold and no cluster is too small
    """

    n_clusters: int
    n_modes: int
    local: float
    local_worst: float
    global_: float
    wrong: float
    gain: float
    equal_modes: int | None
    accuracy: float
    smallest: int
    accepted: bool


@dataclass(frozen=True)
class Efficiency:
    """The rows of `efficiency_criterion`; printed, they are a table.

    Attributes
    ----------
    rows : one for each number of clusters and of modes

    Examples
    --------
    >>> Efficiency(()).best() is None
    True
    """

    rows: tuple[EfficiencyRow, ...]

    def best(self) -> EfficiencyRow | None:
        """The accepted row of the largest gain; None where no row is."""
        accepted = [row for row in self.rows if row.accepted]
        return max(accepted, key=lambda row: row.gain) if accepted else None

    def __str__(self) -> str:
        head = f"{'K':>3} {'modes':>5} {'local':>9} {'worst':>9} {'global':>9} {'gain':>7} {'equal':>5} {'accuracy':>8}"
        lines = [head + f" {'smallest':>8} accepted"]
        for r in self.rows:
            equal = "-" if r.equal_modes is None else str(r.equal_modes)
            lines.append(
                f"{r.n_clusters:3} {r.n_modes:5} {r.local:9.2e} {r.local_worst:9.2e} {r.global_:9.2e} {r.gain:7.2f} "
                f"{equal:>5} {r.accuracy:8.2f} {r.smallest:8} {'yes' if r.accepted else 'no'}"
            )
        return "\n".join(lines)


def efficiency_criterion(
    snapshots: Any,
    n_clusters: Sequence[int],
    n_modes: Sequence[int],
    *,
    dissimilarity: Dissimilarity = "angle",
    inner: Any = None,
    normalize: bool = True,
    folds: int = 5,
    threshold: float = 1.0,
    min_size: int | None = None,
    starts: int = 10,
    generator: GeneratorLike = None,
) -> Efficiency:
    r"""Compare local bases with global ones before a classifier is trained or a reduced model is built.

    .. math:: \text{gain}(K, N) = \frac{\text{mean relative projection error on the global basis of } N \text{ modes}}
        {\text{mean relative projection error on } K \text{ local bases of } N \text{ modes}}

    Parameters
    ----------
    snapshots, dissimilarity, inner, normalize, starts, generator : as for `local_bases`
    n_clusters : the numbers K of clusters to look at
    n_modes : the sizes N to look at
    folds : errors are those of snapshots left out of the basis, in so many parts of each cluster
    threshold : the gain from which a row is accepted
    min_size : snapshots of the smallest cluster from which a row is accepted; default N + 1, below which a basis would
        hold all of its cluster

    Returns
    -------
    Efficiency

    Raises
    ------
    ValueError : as for `local_bases`; fewer snapshots than folds.

    Notes
    -----
    The clusters come from all snapshots, the bases from all but one part of them in turn, the errors from that part: bases
    of small clusters would otherwise look as if they had no error. With the errors e_l of local bases, e_w of those of
    another cluster (chosen in proportion to its size) and e_g of the global one, a classifier that is right with
    probability p has the mean error p e_l + (1 - p) e_w, which is below e_g from ``accuracy = (e_w - e_g) / (e_w - e_l)``
    on. The cost is `folds` small SVDs for each cluster, for all N at once. There is no gradient.

    References
    ----------
    "Physics-informed cluster analysis and a priori efficiency criterion for the construction of local reduced-order bases"

    Examples
    --------
    >>> import torch
    >>> t = torch.linspace(0, 1, 50, dtype=torch.float64)
    >>> X = torch.exp(-100 * (t - torch.linspace(0.1, 0.9, 60, dtype=torch.float64)[:, None]) ** 2)
    >>> found = efficiency_criterion(X, [2, 4], [3], generator=0)
    >>> [row.accepted for row in found.rows], found.best().n_clusters
    ([True, True], 4)
    """
    X, owner, _ = rows_of(snapshots, "snapshots")
    m = int(owner[-1]) + 1
    each = len(X) // m
    if not 2 <= folds <= m:
        raise ValueError(f"folds must be from 2 to the number of snapshots {m}, got {folds}")
    sizes = [int(n) for n in n_modes]
    if not sizes or min(sizes) < 1:
        raise ValueError(f"n_modes must be sizes of at least 1, got {list(n_modes)}")
    if not len(n_clusters):
        raise ValueError("n_clusters must name at least one number of clusters")
    g = as_generator(generator, X.device)
    rows: list[EfficiencyRow] = []
    with torch.no_grad():
        _, C = frame_of(X, inner)
        D, _ = dissimilarities(C, each, dissimilarity)
        turn = torch.empty(m, dtype=torch.long, device=X.device)
        turn[torch.randperm(m, generator=g, device=g.device).to(X.device)] = torch.arange(m, device=X.device) % folds
        groups = C.reshape(m, each, -1)
        everywhere = torch.zeros(m, dtype=torch.long, device=X.device)
        across, _ = _means(groups, everywhere, turn, folds, normalize)
        for K in n_clusters:
            labels = k_medoids(D, int(K), starts=starts, generator=g).labels
            rows.extend(_rows(groups, labels, turn, folds, normalize, sizes, across, threshold, min_size))
    return Efficiency(tuple(rows))


def _rows(
    groups: Tensor,
    labels: Tensor,
    turn: Tensor,
    folds: int,
    normalize: bool,
    sizes: list[int],
    across: Tensor,
    threshold: float,
    min_size: int | None,
) -> Iterator[EfficiencyRow]:
    smallest = int(torch.bincount(labels).min())
    own, other = _means(groups, labels, turn, folds, normalize)
    # A row for each mode; a basis has no more modes than the rank allows.
    local, worst, wrong = own.mean(0), own.amax(0), other.mean(0)
    whole = across.mean(0)
    last = len(whole) - 1
    for n in sizes:
        j = min(n, last)
        e, g, w = float(local[j]), float(whole[j]), float(wrong[j])
        within = (whole <= local[j]).nonzero()
        gain = g / e if e > 0 else float("inf") if g > 0 else 1.0
        yield EfficiencyRow(
            n_clusters=int(labels.max()) + 1,
            n_modes=n,
            local=e,
            local_worst=float(worst[j]),
            global_=g,
            wrong=w,
            gain=gain,
            equal_modes=int(within[0, 0]) if len(within) else None,
            accuracy=(w - g) / (w - e) if w > e else float("nan"),
            smallest=smallest,
            accepted=gain >= threshold and smallest >= (n + 1 if min_size is None else min_size),
        )


def _means(groups: Tensor, labels: Tensor, turn: Tensor, folds: int, normalize: bool) -> tuple[Tensor, Tensor]:
    """(m, most + 1) relative errors of 0, 1, ... modes for each snapshot left out: of its own cluster, and of the others."""
    m, each, r = groups.shape
    k = int(labels.max()) + 1
    own = groups.real.new_zeros(m, r + 1)
    other = torch.full_like(own, torch.nan) if k == 1 else torch.zeros_like(own)
    counts = torch.bincount(labels, minlength=k)
    for fold in range(folds):
        tested = turn == fold
        for cluster in range(k):
            C = groups[(labels == cluster) & ~tested].reshape(-1, r)
            found = _left(groups[tested].reshape(-1, r), unit_rows(C) if normalize else C)
            found = found.reshape(-1, each, r + 1).mean(dim=1)
            mine = labels[tested] == cluster
            own[tested] += torch.where(mine[:, None], found, 0)
            if k > 1:
                shares = counts[cluster] / (m - counts[labels[tested]])
                other[tested] += torch.where(mine[:, None], 0, found * shares[:, None])
    return own, other


def _left(X: Tensor, C: Tensor) -> Tensor:
    """(v, r + 1) the relative lengths of what 0, 1, ... modes of C leave of the rows of X."""
    v, r = X.shape
    # Relative lengths: those of unit rows.
    X = unit_rows(X)
    if not len(C):
        return torch.linalg.vector_norm(X, dim=1)[:, None].expand(v, r + 1)
    Vh = torch.linalg.svd(C, full_matrices=False).Vh
    along = X @ Vh.mH
    beside = torch.linalg.vector_norm(X - along @ Vh, dim=1)
    # From the last mode backwards: sums of small squares, and no difference of large ones.
    tails = along.abs().square().flip(1).cumsum(dim=1).flip(1)
    tails = torch.nn.functional.pad(tails, (0, r + 1 - tails.shape[1]))
    return (tails + beside.square()[:, None]).sqrt()
