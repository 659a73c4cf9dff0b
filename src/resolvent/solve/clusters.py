"""Local reduced bases: snapshots in clusters by the angles between them, and a basis for each cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from resolvent.operators.arrays import Kind, as_tensor, give_back, give_back_array
from resolvent.random import GeneratorLike
from resolvent.solve.medoids import k_medoids
from resolvent.solve.snapshots import Frame, frame_of, rows_of, sines, unit_rows

Dissimilarity = Literal["angle", "euclidean"] | Any


@dataclass(frozen=True)
class LocalBases:
    """Bases of clusters of snapshots.

    Attributes
    ----------
    labels : (m,) the cluster of each snapshot
    medoids : (k,) the indices of the snapshots that the clusters are around
    bases : k matrices (n, modes), orthonormal with respect to the inner product
    singular_values : k vectors, all singular values of the clusters' snapshots, those left out of the basis too
    radii : (k,) the largest dissimilarity of a snapshot to its medoid. For angles it bounds the Kolmogorov width of the
        cluster's unit vectors: no basis of one or more vectors that is as good as can be has a larger error
    dissimilarity : (m, m) between the snapshots
    measure : its name: "angle", "euclidean" or "given"
    frame, centres : the inner product, and the medoids as vectors (k * each, n)
    kind : of the results
    classifier : what tells a cluster from parameters, None before `train`

    Examples
    --------
    >>> import torch
    >>> X = torch.eye(4, dtype=torch.float64)[[0, 0, 3, 3]] * torch.tensor([[1.0], [5.0], [2.0], [9.0]])
    >>> found = local_bases(X, 2, 1, generator=0)
    >>> bool(found.errors(X).max() < 1e-12), [tuple(V.shape) for V in found.bases]
    (True, [(4, 1), (4, 1)])
    """

    labels: Any
    medoids: Any
    bases: tuple[Any, ...]
    singular_values: tuple[Any, ...]
    radii: Any
    dissimilarity: Any
    measure: str
    frame: Frame
    centres: Tensor
    each: int
    kind: Kind = "torch"
    classifier: Any = None

    def assign(self, x: Any = None, *, parameters: Any = None) -> Any:
        """The cluster of new snapshots: of the nearest medoid, or as the classifier says.

        Parameters
        ----------
        x : (k, n) snapshots, coarse ones will do, or (k, t, n) trajectories as long as those of before
        parameters : (k, p) where no snapshots are known: for the classifier

        Returns
        -------
        (k,) int64
        """
        if (x is None) == (parameters is None):
            raise ValueError("give either x or parameters")
        if parameters is not None:
            if self.classifier is None:
                raise ValueError("parameters need a classifier: call train first")
            found = self.classifier.predict(_host(parameters))
            return give_back_array(torch.as_tensor(found, device=self.centres.device).long(), self.kind)
        if self.measure == "given":
            raise ValueError("the dissimilarity was given as a matrix, which says nothing of new x: use train")
        X, kind = self._vectors(x)
        return give_back_array(self._near(X), kind)

    def train(self, classifier: Any, parameters: Any) -> LocalBases:
        """With a classifier that tells the cluster from parameters (a "ROM-net").

        Parameters
        ----------
        classifier : anything with scikit-learn's ``fit(P, labels)`` and ``predict(P)``
        parameters : (m, p) of the snapshots

        Returns
        -------
        LocalBases
        """
        rows, labels = _host(parameters), _host(self.labels)
        if len(rows) != len(labels):
            raise ValueError(f"parameters must have {len(labels)} rows, one a snapshot, got {len(rows)}")
        return replace(self, classifier=classifier.fit(rows, labels))

    def project(self, x: Any, labels: Any = None) -> Any:
        """The nearest elements of the local spaces.

        Parameters
        ----------
        x : (k, n) snapshots, or (k, t, n) trajectories
        labels : (k,) their clusters; None: of the nearest medoid

        Returns
        -------
        as x
        """
        X, kind = self._vectors(x)
        return give_back_array((X - self._remainders(X, labels)).reshape(tuple(x.shape)), kind)

    def errors(self, x: Any, labels: Any = None) -> Any:
        """The relative errors of `project`: (k,), and (k, t) for trajectories. A zero vector has none."""
        X, kind = self._vectors(x)
        lengths = self.frame.lengths(X)
        left = self.frame.lengths(self._remainders(X, labels))
        found = torch.where(lengths > 0, left / torch.where(lengths > 0, lengths, 1), 0)
        return give_back_array(found.reshape(tuple(x.shape)[:-1]), kind)

    def silhouette(self) -> Any:
        """The mean over the snapshots of (b - a) / max(a, b), a the mean dissimilarity to the own cluster, b to the next.

        Between -1 and 1, larger is better; snapshots that are a cluster by themselves count as 0.
        """
        D, labels = (as_tensor(t, "D")[0] for t in (self.dissimilarity, self.labels))
        labels, k = labels.long(), len(self.bases)
        if k == 1:
            raise ValueError("one cluster has no silhouette")
        sizes = torch.bincount(labels, minlength=k)
        sums = D.new_zeros(len(D), k).index_add_(1, labels, D)
        own = sums.gather(1, labels[:, None])[:, 0] / (sizes[labels] - 1).clamp_min(1)
        others = (sums / sizes).scatter(1, labels[:, None], torch.inf).amin(dim=1)
        largest = torch.maximum(own, others)
        values = torch.where((largest > 0) & (sizes[labels] > 1), (others - own) / largest.clamp_min(1e-300), 0)
        return give_back(values.mean(), self.kind)

    def _vectors(self, x: Any) -> tuple[Tensor, Kind]:
        X, _, kind = rows_of(x, "x")
        n = self.centres.shape[1]
        each = 1 if len(x.shape) == 2 else x.shape[1]
        if X.shape[1] != n or each != self.each:
            wanted = (n,) if self.each == 1 else (self.each, n)
            raise ValueError(f"x must have shape (k, {', '.join(map(str, wanted))}), got {tuple(x.shape)}")
        return X.to(self.centres), kind

    def _near(self, X: Tensor) -> Tensor:
        if self.measure == "angle":
            found = _angles(self.frame, X, self.centres, self.each)
        else:
            found = _distances(self.frame, X, self.centres, self.each)
        return found.argmin(dim=1)

    def _remainders(self, X: Tensor, labels: Any) -> Tensor:
        where = self._near(X) if labels is None else torch.as_tensor(labels, device=X.device).long()
        if where.shape != (len(X) // self.each,) or bool(((where < 0) | (where >= len(self.bases))).any()):
            raise ValueError(f"labels must be {len(X) // self.each} numbers from 0 to {len(self.bases) - 1}")
        where = where.repeat_interleave(self.each)
        left = X.clone()
        for label, basis in enumerate(self.bases):
            V, chosen = as_tensor(basis, "basis")[0], where == label
            rows = left[chosen]
            left[chosen] = rows - (self.frame.weighted(rows) @ V.conj()) @ V.mT
        return left


def local_bases(
    snapshots: Any,
    n_clusters: int | Sequence[int] | Any,
    n_modes: int | None = None,
    *,
    rtol: float | None = None,
    dissimilarity: Dissimilarity = "angle",
    inner: Any = None,
    normalize: bool = True,
    starts: int = 10,
    generator: GeneratorLike = None,
) -> LocalBases:
    r"""Cluster snapshots by the angle between them, and give each cluster a basis of its own.

    .. math:: d(u, v) = \sqrt{1 - \left(\frac{\langle u, v \rangle}{\|u\| \|v\|}\right)^2}

    Parameters
    ----------
    snapshots : (m, n) one a row, or (m, t, n) trajectories, of which each stays in one cluster as a whole
    n_clusters : how many; or (m,) labels 0, 1, ... of a partition made elsewhere
    n_modes : the size of each basis, less where a cluster has less rank
    rtol : or the smallest sizes that leave at most `rtol` of the root mean square in each cluster; default 1e-3 where
        `n_modes` is None
    dissimilarity : "angle", the sine of the angle, which no amplitude changes, as bases have none; for trajectories the root
        mean square of the sines of the principal angles between their spans. "euclidean", the distance. Or any (m, m)
        matrix
    inner : (n, n) positive definite inner product; None is the Euclidean one
    normalize : a basis is best for unit snapshots, in the mean of squared relative errors; False: for snapshots as they are
    starts, generator : of `k_medoids`

    Returns
    -------
    LocalBases

    Raises
    ------
    ValueError : a snapshot is zero, or has NaN; shapes, labels or sizes that do not fit.

    Notes
    -----
    `k_medoids` of the dissimilarities, and a proper orthogonal decomposition (SVD) in each cluster. All of it happens in
    coordinates of an orthonormal frame of the snapshots: O(m^2 (n + k)), and the inner product is applied once to the frame.
    A reduced basis holds all multiples of a snapshot, so that what it can gain in a cluster depends on angles and on no
    amplitude: the radius of a cluster in this dissimilarity bounds the error of the best basis of one vector or more. Angles
    below 1e-8 are told apart no more. There is no gradient.

    References
    ----------
    "Physics-informed cluster analysis and a priori efficiency criterion for the construction of local reduced-order bases"

    Examples
    --------
    >>> import torch
    >>> t = torch.linspace(0, 1, 50, dtype=torch.float64)
    >>> X = torch.exp(-100 * (t - torch.linspace(0.1, 0.9, 40, dtype=torch.float64)[:, None]) ** 2)
    >>> whole, local = local_bases(X, 1, 4), local_bases(X, 4, 4, generator=0)
    >>> bool(local.errors(X).max() < 0.2 * whole.errors(X).max())
    True
    """
    X, owner, kind = rows_of(snapshots, "snapshots")
    m, each = int(owner[-1]) + 1, len(X) // (int(owner[-1]) + 1)
    if n_modes is not None and (isinstance(n_modes, bool) or not isinstance(n_modes, int) or n_modes < 1):
        raise ValueError(f"n_modes must be an int of at least 1 or None, got {n_modes!r}")
    if rtol is not None and not 0 < rtol < 1:
        raise ValueError(f"rtol must be between 0 and 1, got {rtol}")
    wanted = rtol if rtol is not None else 1e-3 if n_modes is None else None
    with torch.no_grad():
        frame, C = frame_of(X, inner)
        D, measure = dissimilarities(C, each, dissimilarity)
        labels, medoids = _partition(D, n_clusters, starts, generator)
        C = unit_rows(C) if normalize else C
        bases, values = [], []
        for label in range(len(medoids)):
            V, s = modes(C[labels[owner] == label], n_modes, wanted)
            bases.append(frame.Q @ V)
            values.append(s)
        radii = torch.stack([D[labels == label, medoids[label]].max() for label in range(len(medoids))])
        centres = X.reshape(m, each, -1)[medoids].flatten(0, 1)
    return LocalBases(
        give_back_array(labels, kind),
        give_back_array(medoids, kind),
        tuple(give_back_array(V, kind) for V in bases),
        tuple(give_back_array(s, kind) for s in values),
        give_back_array(radii, kind),
        give_back_array(D, kind),
        measure,
        frame,
        centres,
        each,
        kind,
    )


def dissimilarities(C: Tensor, each: int, dissimilarity: Dissimilarity) -> tuple[Tensor, str]:
    """(m, m) and its name, from coordinates."""
    m = len(C) // each
    if not isinstance(dissimilarity, str):
        D = as_tensor(dissimilarity, "dissimilarity")[0]
        if tuple(D.shape) != (m, m):
            raise ValueError(f"dissimilarity must have shape {(m, m)}, got {tuple(D.shape)}")
        return D, "given"
    if dissimilarity == "angle":
        empty = (~C.reshape(m, -1).any(dim=1)).nonzero()[:, 0]
        if len(empty):
            raise ValueError(f"snapshot {int(empty[0])} is zero: it has no angle to others")
        return sines(C, C, each).fill_diagonal_(0), "angle"
    if dissimilarity != "euclidean":
        raise ValueError(f"dissimilarity must be 'angle', 'euclidean' or a matrix, got {dissimilarity!r}")
    flat = C.reshape(m, -1)
    flat = torch.view_as_real(flat).flatten(1) if flat.is_complex() else flat
    return torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist"), "euclidean"


def modes(C: Tensor, n_modes: int | None, rtol: float | None) -> tuple[Tensor, Tensor]:
    """The modes (r, modes) of rows of coordinates, and all singular values."""
    _, s, Vh = torch.linalg.svd(C, full_matrices=False)
    count = max(1, int((s > torch.finfo(C.dtype).eps * max(C.shape) * s[0]).sum()))
    count = min(count, n_modes or count)
    if rtol is not None:
        # left[j]: what j modes leave
        left = torch.cat([s.square().flip(0).cumsum(0).flip(0), s.new_zeros(1)]).sqrt()
        count = min(count, max(1, int((left > rtol * left[0]).sum())))
    return Vh[:count].mT, s


def _partition(D: Tensor, n_clusters: Any, starts: int, generator: GeneratorLike) -> tuple[Tensor, Tensor]:
    if isinstance(n_clusters, int):
        found = k_medoids(D, n_clusters, starts=starts, generator=generator)
        return found.labels, found.medoids
    labels = torch.as_tensor(n_clusters, device=D.device)
    if labels.shape != D.shape[:1] or labels.is_floating_point() or labels.is_complex():
        raise ValueError(f"n_clusters must be an int or {len(D)} labels 0, 1, ..., got {n_clusters!r}")
    labels = labels.long()
    k = int(labels.max()) + 1
    if int(labels.min()) < 0 or bool((torch.bincount(labels, minlength=k) == 0).any()):
        raise ValueError("labels must be 0, 1, ..., each at least once")
    # The medoid of a given cluster: its snapshot with the least sum of dissimilarities to the others.
    sums = torch.where(labels[:, None] == labels, D, 0).sum(dim=0)
    medoids = [torch.where(labels == label, sums, torch.inf).argmin() for label in range(k)]
    return labels, torch.stack(medoids)


def _angles(frame: Frame, X: Tensor, centres: Tensor, each: int) -> Tensor:
    # In a frame of both: what X has beside the snapshots' span makes its angles larger.
    _, C = frame_of(torch.cat([X, centres]), frame.G)
    empty = (~C[: len(X)].reshape(len(X) // each, -1).any(dim=1)).nonzero()[:, 0]
    if len(empty):
        raise ValueError(f"x[{int(empty[0])}] is zero: it has no angle to others")
    return sines(C[: len(X)], C[len(X) :], each)


def _distances(frame: Frame, X: Tensor, centres: Tensor, each: int) -> Tensor:
    gaps = [frame.lengths(X.reshape(-1, X.shape[1]) - c.repeat(len(X) // each, 1)) for c in centres.split(each)]
    return torch.stack([g.square().reshape(-1, each).sum(dim=1) for g in gaps], dim=1)


def _host(values: Any) -> Any:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else values
