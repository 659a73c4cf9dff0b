"""Degree-weighted adjacency matrices of graphs, their energy, and the spectra that have closed forms."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from scipy.sparse import bmat, csr_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from resolvent.operators.arrays import give_back
from resolvent.operators.convert import OperatorLike, as_operator
from resolvent.operators.laplacian import _adjacency, from_edges
from resolvent.operators.operator import Operator
from resolvent.operators.sparse import Sparse
from resolvent.spectra.equitable import Spectrum, partitioned_spectrum
from resolvent.spectra.exact import exact_eigenvalues, hermitian_operator
from resolvent.spectra.norms import norm

Weight = Literal["adjacency", "abs", "abc", "randic", "sum_connectivity"]
Family = Literal[
    "complete",
    "complete_bipartite",
    "complete_multipartite",
    "cycle",
    "double_star",
    "friendship",
    "regular",
    "star",
    "wheel",
]
# Rows from which looking for two sides costs less than it saves.
_SIDES = 64


def graph_degree_matrix(G: Any, weight: Weight | Callable[[Tensor, Tensor], Tensor] = "abs") -> Any:
    r"""The adjacency matrix of a graph with weights that depend on the degrees of the two ends.

    ==================  ==================================================
    weight              entry of an edge
    ==================  ==================================================
    "adjacency"         1
    "abs" (default)     :math:`\sqrt{(d_i + d_j - 2) / (d_i + d_j)}`
    "abc"               :math:`\sqrt{(d_i + d_j - 2) / (d_i d_j)}`
    "randic"            :math:`1 / \sqrt{d_i d_j}`
    "sum_connectivity"  :math:`1 / \sqrt{d_i + d_j}`
    ==================  ==================================================

    Parameters
    ----------
    G : (n, n) symmetric adjacency, dense or sparse; `operators.Sparse`; a list of edges as tuples ``(i, j)``; an
        undirected `networkx.Graph`. Entries other than 0 and 1 are weights w: degrees are row sums of w, and entries are
        multiplied by w
    weight : one of the above, or a callable ``f(d_i, d_j)`` of two equally long tensors, symmetric

    Returns
    -------
    (n, n) dense of the kind and dtype of a dense G, else `operators.Sparse`, Hermitian.

    Raises
    ------
    ValueError : G is not symmetric, has loops or negative weights, or is directed; a weight that is not defined for the
        degrees, not finite or not symmetric.
    TypeError : G is no graph.

    Notes
    -----
    O(n + edges). Gradients flow to the weights of G; the root of "abs" and "abc" has none at d_i + d_j = 2 and counts as
    constant there.

    References
    ----------
    "On the Characteristic polynomial of ABS Matrix and ABS-Energy of Some Graphs"

    Examples
    --------
    >>> graph_degree_matrix(torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]))
    tensor([[0.0000, 0.5774, 0.0000],
            [0.5774, 0.0000, 0.5774],
            [0.0000, 0.5774, 0.0000]])
    """
    if not callable(weight) and weight not in get_args(Weight):
        raise ValueError(f"weight must be {', '.join(get_args(Weight))} or a callable, got {weight!r}")
    W, dense = _graph(G)
    w, rows, columns = W.values, W._pattern.rows.long(), W.indices.long()
    if bool(((rows == columns) & (w != 0)).any()):
        raise ValueError(f"G must have no loops, vertex {int(rows[(rows == columns) & (w != 0)][0])} has one")
    if bool((w < 0).any()):
        raise ValueError(f"G must have no negative weights, got {float(w.min()):.3g}")
    d = w.new_zeros(W.shape[0]).index_add(0, rows, w)
    out: Operator = W.with_values(w * _weights(weight, d[rows], d[columns], w))
    if callable(weight):
        try:
            out.check_hermitian("weight")
        except ValueError as error:
            raise ValueError("weight must be symmetric: f(d_i, d_j) = f(d_j, d_i)") from error
    out = out.declare(hermitian=True)
    return give_back(out._dense(), W.kind) if dense else out


def energy(A: OperatorLike, *, partition: Any = None) -> Any:
    r"""The energy of a Hermitian matrix: the sum of the absolute values of its eigenvalues.

    Parameters
    ----------
    A : (*batch, n, n) Hermitian operator or anything `as_operator` takes
    partition : an equitable partition, as labels or cells, or "equitable", which finds the coarsest one: the energy comes
        from the quotient and the rest, as `partitioned_spectrum` splits them

    Returns
    -------
    (*batch,) tensor, 0-d without a batch; a Python float or an array for NumPy.

    Raises
    ------
    ValueError : A is not square or seen not to be Hermitian; the partition is not equitable, or is given for a batch or for
        a tensor that requires a gradient.

    Notes
    -----
    Eigenvalues by structure or LAPACK, O(n^3); a sparse A of a bipartite graph takes the singular values of the block
    between its sides; operators that are too large take `norm` (A, "nuc") with its own tolerance. A partition into few
    cells of repeating rows costs one pass over A. Without a partition the energy has exact first-order gradients,
    ``sign(A)``, a subgradient at singular A.

    References
    ----------
    "On the Characteristic polynomial of ABS Matrix and ABS-Energy of Some Graphs"

    Examples
    --------
    >>> star = graph_degree_matrix([(0, 1), (0, 2), (0, 3)])
    >>> round(float(energy(star)), 4), round(float(energy(star, partition="equitable")), 4)
    (2.4495, 2.4495)
    """
    M = as_operator(A, name="A")
    if partition is not None:
        return partitioned_spectrum(M, partition).energy()
    M = hermitian_operator(M)
    sides = _sides(M) if isinstance(M, Sparse) and M.device.type == "cpu" and M.shape[0] >= _SIDES else None
    if sides is not None:
        block = M._entries(*sides)
        return give_back(2 * torch.linalg.svdvals(block).sum(), M.kind)
    values = exact_eigenvalues(M)
    return norm(M, "nuc") if values is None else give_back(values.abs().sum(-1), M.kind)


def abs_spectrum(
    family: Family, *sizes: Any, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> Spectrum:
    r"""The eigenvalues of the ABS matrix of a graph of a known family.

    ==============================  =====================================================================
    family, sizes                   eigenvalues (multiplicities)
    ==============================  =====================================================================
    "complete", n                   :math:`(n-1)c,\ -c\ (n-1)` with :math:`c^2 = (n-2)/(n-1)`
    "complete_bipartite", r, s      :math:`\pm\sqrt{rs(r+s-2)/(r+s)},\ 0`
    "star", n vertices              :math:`\pm\sqrt{(n-1)(n-2)/n},\ 0`
    "cycle", n                      :math:`\sqrt 2 \cos(2 \pi j / n)`
    "friendship", k triangles       :math:`-b\ (k),\ b\ (k-1)`, roots of :math:`x^2 - bx - 2k^2/(k+1)`, :math:`b^2 = 1/2`
    "wheel", n vertices             :math:`2b\cos(2\pi j/(n-1))`, roots of :math:`x^2 - 2bx - (n-1)n/(n+2)`, :math:`b^2 = 2/3`
    "complete_multipartite", n_1..  those of the quotient, 0
    "double_star", p, q leaves      those of the quotient, 0
    "regular", r, eigenvalues       :math:`\sqrt{(r-1)/r}` times the adjacency eigenvalues of any r-regular graph
    ==============================  =====================================================================

    Parameters
    ----------
    family : one of the above
    sizes : its integers; for "regular" r and a vector of eigenvalues
    dtype : real; default torch's default
    device : default torch's default

    Returns
    -------
    Spectrum
        Tensors, computed in double precision; equal values are not always gathered.

    Raises
    ------
    ValueError : an unknown family, sizes that it does not have.

    Notes
    -----
    A handful of numbers; multipartite graphs of k parts and double stars decompose their k x k and 4 x 4 quotients.
    There is no gradient.

    References
    ----------
    "On the Characteristic polynomial of ABS Matrix and ABS-Energy of Some Graphs"

    Examples
    --------
    >>> values, often = abs_spectrum("complete_bipartite", 3, 2)
    >>> values, often
    (tensor([ 1.8974,  0.0000, -1.8974]), tensor([1, 3, 1]))
    """
    if family == "regular":
        found = _regular(sizes)
    elif family in _FAMILIES:
        least, count = _LEAST[family]
        if (count and len(sizes) != count) or not sizes:
            raise ValueError(f"sizes of {family!r} must be {count or 'one or more'} integers, got {len(sizes)}")
        if any(isinstance(s, bool) or not isinstance(s, int | np.integer) or s < least for s in sizes):
            raise ValueError(f"sizes of {family!r} must be integers of at least {least}, got {sizes}")
        found = _FAMILIES[family](*(int(s) for s in sizes))
    else:
        raise ValueError(f"family must be {', '.join(get_args(Family))}, got {family!r}")
    values = torch.tensor([v for v, m in found if m], dtype=torch.float64)
    often = torch.tensor([m for _, m in found if m], dtype=torch.int64)
    order = values.argsort(descending=True, stable=True)
    dtype = torch.get_default_dtype() if dtype is None else dtype
    device = torch.get_default_device() if device is None else device
    return Spectrum(values[order].to(device, dtype), often[order].to(device))


def _graph(G: Any) -> tuple[Sparse, bool]:
    """A symmetric sparse adjacency, and whether the graph came as a dense matrix."""
    networkx = sys.modules.get("networkx")
    if networkx is not None and isinstance(G, networkx.Graph):
        if G.is_directed() or G.is_multigraph():
            raise ValueError(f"G must be an undirected graph without parallel edges, got {type(G).__name__}")
        return Sparse(networkx.to_scipy_sparse_array(G, dtype=np.float64, format="csr"), hermitian=True), False
    if isinstance(G, list) and G and all(isinstance(e, tuple) and len(e) == 2 for e in G):
        return from_edges(G), False
    if isinstance(G, Operator) and not isinstance(G, Sparse):
        raise TypeError(f"G must be an adjacency matrix, edges or a networkx graph, got {type(G).__name__}")
    dense = isinstance(G, np.ndarray | list | tuple) or (isinstance(G, Tensor) and G.layout == torch.strided)
    W = _adjacency(list(G) if isinstance(G, tuple) else G)
    if W.is_complex:
        raise ValueError(f"G must be real, got {W.dtype}")
    W.check_hermitian("G")
    return W, dense


def _weights(weight: Any, a: Tensor, b: Tensor, w: Tensor) -> Tensor:
    """The weight of each stored entry; entries that are zero need no defined one."""
    linked = w != 0
    a, b = torch.where(linked, a, 1), torch.where(linked, b, 1)
    if callable(weight):
        f = weight(a, b)
        if not isinstance(f, Tensor) or f.shape != a.shape or f.is_complex():
            raise TypeError("weight must return a real tensor of the shape of its arguments")
        if not bool(torch.isfinite(f.detach()).all()):
            at = int((~torch.isfinite(f.detach())).nonzero()[0])
            raise ValueError(f"weight is not finite for degrees {float(a[at]):g} and {float(b[at]):g}")
        return f.to(w.dtype)
    if weight == "adjacency":
        return torch.ones_like(a)
    if weight == "randic":
        return (a * b).rsqrt()
    if weight == "sum_connectivity":
        return (a + b).rsqrt()
    excess = a + b - 2
    # Degrees that are sums of weights may miss 2 by rounding.
    rounding = 8 * torch.finfo(w.dtype).eps * (a + b).detach()
    if bool((excess.detach() < -rounding).any()):
        raise ValueError(f"weight {weight!r} needs d_i + d_j of at least 2, got {float((a + b).min()):.3g}")
    inside = (excess / (a + b if weight == "abs" else a * b)).clamp_min(0)
    positive = inside > 0
    return torch.where(positive, torch.where(positive, inside, 1).sqrt(), 0)


def _sides(M: Sparse) -> tuple[Tensor, Tensor] | None:
    """The two sides of a bipartite graph, or None."""
    n = M.shape[0]
    kept = (M.values.detach() != 0).numpy()
    pattern = csr_matrix((kept, M.indices.numpy(), M.indptr.numpy()), shape=(n, n), copy=True)
    pattern.eliminate_zeros()
    # Two copies of each vertex, edges from one copy to the other: an odd cycle joins the copies of its vertices.
    _, component = connected_components(bmat([[None, pattern], [pattern, None]]), directed=False)
    here, there = component[:n], component[n:]
    if bool((here == there).any()):
        return None
    first, second = (torch.from_numpy(np.flatnonzero(side)) for side in (here < there, here > there))
    return first, second


Found = Sequence[tuple[float, int]]


def _roots(middle: float, product: float) -> Found:
    """The roots of x^2 - 2 middle x - product."""
    reach = math.sqrt(middle**2 + product)
    return [(middle + reach, 1), (middle - reach, 1)]


def _complete(n: int) -> Found:
    c = math.sqrt((n - 2) / (n - 1))
    return [((n - 1) * c, 1), (-c, n - 1)]


def _complete_bipartite(r: int, s: int) -> Found:
    v = math.sqrt(r * s * (r + s - 2) / (r + s))
    return [(v, 1), (-v, 1), (0.0, r + s - 2)]


def _cycle(n: int) -> Found:
    return [(math.sqrt(2) * math.cos(2 * math.pi * j / n), 1 if 2 * j in (0, n) else 2) for j in range(n // 2 + 1)]


def _friendship(k: int) -> Found:
    b = math.sqrt(0.5)
    return [(-b, k), (b, k - 1), *_roots(b / 2, 2 * k * k / (k + 1))]


def _wheel(n: int) -> Found:
    m, b = n - 1, math.sqrt(2 / 3)
    rim = [(2 * b * math.cos(2 * math.pi * j / m), 1 if 2 * j == m else 2) for j in range(1, m // 2 + 1)]
    return [*rim, *_roots(b, m * (m + 1) / (m + 3))]


def _complete_multipartite(*sizes: int) -> Found:
    s = torch.tensor(sizes, dtype=torch.float64)
    return _of_quotient(s, s.sum() - s, 1 - torch.eye(len(sizes), dtype=torch.float64))


def _double_star(p: int, q: int) -> Found:
    links = torch.zeros(4, 4, dtype=torch.float64)
    for i, j in ((0, 1), (0, 2), (1, 3)):
        links[i, j] = links[j, i] = 1
    sizes, degrees = torch.tensor([[1.0, 1.0, p, q], [p + 1.0, q + 1.0, 1.0, 1.0]], dtype=torch.float64)
    return _of_quotient(sizes, degrees, links)


def _of_quotient(sizes: Tensor, degrees: Tensor, links: Tensor) -> Found:
    """Cells without inner edges, joined completely where `links` says: the quotient's eigenvalues and zeros."""
    total = degrees[:, None] + degrees
    weight = links * ((total - 2).clamp_min(0) / total.clamp_min(1)).sqrt()
    values = torch.linalg.eigvalsh(weight * (sizes[:, None] * sizes).sqrt()).tolist()
    return [*((v, 1) for v in values), (0.0, int(sizes.sum()) - len(sizes))]


def _regular(sizes: Sequence[Any]) -> Found:
    if len(sizes) != 2 or isinstance(sizes[0], bool) or not isinstance(sizes[0], int) or sizes[0] < 1:
        raise ValueError(
            f"sizes of 'regular' must be an int r of at least 1 and a vector of eigenvalues, got {sizes!r}"
        )
    r = sizes[0]
    values = torch.as_tensor(sizes[1], dtype=torch.float64)
    if values.requires_grad:
        raise ValueError("eigenvalues require a gradient, and there is none: detach them")
    if values.ndim != 1 or not len(values) or not bool((values.abs() <= r * (1 + 1e-6)).all()):
        raise ValueError(f"eigenvalues of an r-regular graph must be a vector between -{r} and {r}")
    return [(math.sqrt((r - 1) / r) * v, 1) for v in values.tolist()]


# The least size of each family and how many it has (0: any number).
_LEAST = {
    "complete": (2, 1),
    "complete_bipartite": (1, 2),
    "complete_multipartite": (1, 0),
    "cycle": (3, 1),
    "double_star": (1, 2),
    "friendship": (1, 1),
    "star": (2, 1),
    "wheel": (4, 1),
}
_FAMILIES: dict[str, Callable[..., Found]] = {
    "complete": _complete,
    "complete_bipartite": _complete_bipartite,
    "complete_multipartite": _complete_multipartite,
    "cycle": _cycle,
    "double_star": _double_star,
    "friendship": _friendship,
    "star": lambda n: _complete_bipartite(1, n - 1),
    "wheel": _wheel,
}
