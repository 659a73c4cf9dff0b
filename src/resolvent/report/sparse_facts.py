"""What a sparse matrix or a graph is like: symmetry, structure, the ends of its spectrum, and which solver suits it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import scipy.sparse

    from resolvent.spectra.density import SpectralDensity

# Points of the density curve.
_POINTS = 128
# Up to this size all eigenvalues are computed.
_EXACT = 2000
# Up to this work (products times stored entries and vector updates) the ends are iterated to four digits.
_WORK = 4e8
_PRODUCTS = 2000
_ENDS = 1e-4
# Direct solvers are at home below; their fill grows faster than anything else.
_DIRECT = 20_000
_BANDED = 64


@dataclass(frozen=True)
class SparseFacts:
    r"""The structure and the spectrum of a sparse matrix; what is not known is None, and `missing` says why.

    Attributes
    ----------
    stored : entries stored
    fill : share of the m n entries that are stored
    symmetry : "symmetric", "hermitian", "symmetric pattern", "none" or "not square"
    graph : whether this is the adjacency matrix of a graph: the eigenvalues are then those of its Laplacian D - W
    dominant_rows : share of the rows with :math:`|a_{ii}| \ge \sum_{j \ne i} |a_{ij}|`; None if not square
    bandwidth : largest |i - j| of an entry that is not zero
    zero_diagonal : zeros on the diagonal; None if not square
    empty_rows, empty_columns : without an entry other than zero
    components : connected components, directions ignored; of rows and columns as two sides if not square
    largest_component : share of the vertices in the largest one
    smallest, largest : extreme eigenvalues
    gap : between the two largest eigenvalues; of a Laplacian, its second smallest (0 if it is not connected)
    error : bound of the error of these
    positive : whether all eigenvalues are positive, None if not known
    density_at, density : eigenvalues and the density of the spectrum there
    trace : sum of the diagonal of the matrix; None if not square or complex
    method : how the eigenvalues were found
    solver, preconditioner : what suits a linear system with it
    advice : the suggestion in one sentence, with its reason
    missing : reasons by name
    """

    stored: int
    fill: float
    symmetry: str
    graph: bool
    dominant_rows: float | None
    bandwidth: int
    zero_diagonal: int | None
    empty_rows: int
    empty_columns: int
    components: int
    largest_component: float
    smallest: float | None = None
    largest: float | None = None
    gap: float | None = None
    error: float | None = None
    positive: bool | None = None
    density_at: tuple[float, ...] | None = None
    density: tuple[float, ...] | None = None
    trace: float | None = None
    method: str = ""
    solver: str = ""
    preconditioner: str = ""
    advice: str = ""
    missing: dict[str, str] = field(default_factory=dict)


def sparse_facts_of(csr: scipy.sparse.csr_array, *, quick: bool = False, graph: bool = False) -> SparseFacts:
    """Look through a sparse matrix.

    Parameters
    ----------
    csr : (m, n) SciPy CSR array
    quick : leave out the iterations for the ends of the spectrum; what the density shows of them remains
    graph : it is an adjacency matrix; its Laplacian is looked at, of the symmetric part if it is directed

    Returns
    -------
    SparseFacts

    Raises
    ------
    ValueError : an entry is NaN or infinite, or the matrix has none.

    Notes
    -----
    Eigenvalues of Hermitian matrices only: all of them up to 2000 rows; beyond, the density by stochastic Lanczos
    quadrature, and its ends by Lanczos iteration to four digits where that takes bounded work.

    Examples
    --------
    >>> import scipy.sparse
    >>> ring = scipy.sparse.csr_array([[0, 1, 1], [1, 0, 1], [1, 1, 0]])
    >>> facts = sparse_facts_of(ring, graph=True)
    >>> facts.components, round(facts.gap, 6), facts.symmetry
    (1, 3.0, 'symmetric')
    """
    import scipy.sparse

    if 0 in csr.shape:
        raise ValueError(f"matrix must have entries, got shape {csr.shape}")
    if not np.all(np.isfinite(csr.data)):
        raise ValueError(f"{int((~np.isfinite(csr.data)).sum())} of its stored entries are NaN or infinite")
    A = scipy.sparse.csr_array(csr, dtype=np.complex128 if csr.dtype.kind == "c" else np.float64, copy=True)
    A.sum_duplicates()
    A.eliminate_zeros()
    m, n = A.shape
    graph = graph and m == n and A.dtype.kind != "c"
    missing: dict[str, str] = {}
    values: dict[str, Any] = _structure(A)
    hermitian = values["symmetry"] == ("hermitian" if A.dtype.kind == "c" else "symmetric")
    spectral = "smallest largest gap positive density"
    subject = A
    if graph:
        W = A if hermitian else (A + A.T) / 2
        subject = _laplacian(W)
        if not hermitian:
            missing["directed"] = "its edges have directions: the Laplacian is that of the symmetric part"
    elif not hermitian:
        missing |= dict.fromkeys(spectral.split(), "it is not square" if m != n else "it is not Hermitian")
    if graph or hermitian:
        values |= _ends(subject, quick, graph, values["components"], missing)
        dominant, diagonal = values["dominant_rows"] == 1.0, subject.diagonal().real
        if values.get("positive") is None and not graph and dominant and bool((diagonal > 0).all()):
            strict = 2 * abs(diagonal) > np.asarray(abs(subject).sum(1)).ravel()
            values["positive"] = True if bool(strict.all()) else None
    return SparseFacts(graph=graph, missing=missing, **values, **_solver(subject, values, graph, hermitian))


def _structure(A: scipy.sparse.csr_array) -> dict[str, Any]:
    """What the places of the entries say."""
    import scipy.sparse
    from scipy.sparse.csgraph import connected_components

    m, n = A.shape
    rows = np.repeat(np.arange(m), np.diff(A.indptr))
    count = np.bincount(A.indices, minlength=n)
    square = m == n
    # of rows and columns as the two sides of a graph
    size, ones = (m, np.ones(A.nnz)) if square else (m + n, np.ones(A.nnz))
    pattern = scipy.sparse.csr_array((ones, (rows, A.indices + (size - n))), shape=(size, size))
    components, label = connected_components(pattern, directed=False)
    values: dict[str, Any] = {
        "stored": int(A.nnz),
        "fill": A.nnz / (m * n),
        "symmetry": _symmetry(A) if square else "not square",
        "bandwidth": int(np.abs(rows - A.indices).max()) if A.nnz else 0,
        "empty_rows": int((np.diff(A.indptr) == 0).sum()),
        "empty_columns": int((count == 0).sum()),
        "components": int(components),
        "largest_component": float(np.bincount(label).max() / len(label)),
        "dominant_rows": None,
        "zero_diagonal": None,
    }
    if square:
        diagonal = A.diagonal()
        total = np.asarray(abs(A).sum(1)).ravel()
        values["dominant_rows"] = float((2 * abs(diagonal) >= total * (1 - 1e-14)).mean())
        values["zero_diagonal"] = int((diagonal == 0).sum())
        values["trace"] = float(diagonal.sum()) if A.dtype.kind != "c" else None
    return values


def _symmetry(A: scipy.sparse.csr_array) -> str:
    top = float(abs(A).max()) if A.nnz else 0.0
    names = [("symmetric", A.T)] + ([("hermitian", A.conj().T)] if A.dtype.kind == "c" else [])
    for name, other in reversed(names):
        gap = A - other.tocsr()
        if not gap.nnz or float(abs(gap).max()) <= 1e-12 * top:
            return name
    pattern = A.astype(bool)
    return "symmetric pattern" if (pattern != pattern.T.tocsr()).nnz == 0 else "none"


def _laplacian(W: scipy.sparse.csr_array) -> scipy.sparse.csr_array:
    import scipy.sparse
    from scipy.sparse.csgraph import laplacian

    return scipy.sparse.csr_array(laplacian(W))


def _ends(
    A: scipy.sparse.csr_array, quick: bool, graph: bool, components: int, missing: dict[str, str]
) -> dict[str, Any]:
    """Density and ends of the spectrum of a Hermitian matrix."""
    from resolvent.errors import ConvergenceError
    from resolvent.spectra.density import density

    n = A.shape[0]
    scale = float(abs(A).max()) if A.nnz else 0.0
    if scale == 0:
        zero = {"smallest": 0.0, "largest": 0.0, "gap": 0.0, "error": 0.0, "positive": False, "method": "exact"}
        return {**zero, "density_at": (0.0,), "density": (1.0,)}
    A = A / scale
    exact = n <= _EXACT
    steps = min(n, 20 if quick else 50)
    found = density(A, method="exact" if exact else "slq", probes=4 if quick else 8, steps=steps, generator=0)
    at, height = _drawn(found, scale)
    values: dict[str, Any] = {"density_at": at, "density": height, "method": found.method}
    nodes = found.nodes.sort(1).values
    if exact:
        w = nodes[0].numpy()
        low, high, error = w[:2], w[-2:], 1e-14 * math.sqrt(n) * float(abs(w).max())
    else:
        try:
            low, high, error = _iterated(A, quick)
            values["method"] = "lanczos"
        except (ConvergenceError, ValueError) as reason:
            # the outermost nodes of the quadrature: an eigenvalue lies within the residual of each
            missing["gap"] = str(reason).splitlines()[0]
            low, high = nodes[:, 0].min()[None].numpy(), nodes[:, -1].max()[None].numpy()
            error = float(max(found.residuals[:, 0].max(), found.residuals[:, -1].max()))
    values |= {"smallest": float(low[0]) * scale, "largest": float(high[-1]) * scale, "error": error * scale}
    if graph:
        # zero as often as there are components, whatever the rounding
        if abs(low[0]) <= 2 * error + 1e-9:
            values["smallest"] = 0.0
        if components > 1:
            values["gap"] = 0.0
            missing.pop("gap", None)
        elif len(low) > 1:
            values["gap"] = max(0.0, float(low[1])) * scale
        values["positive"] = False
    elif len(high) > 1:
        values["gap"] = float(high[-1] - high[-2]) * scale
    # a node of the quadrature lies above the smallest eigenvalue: of its sign, only a minus is known
    known = exact or len(low) > 1 or values["smallest"] < 0
    if not graph and known and abs(values["smallest"]) > 2 * values["error"]:
        values["positive"] = values["smallest"] > 0
    return values


def _iterated(A: scipy.sparse.csr_array, quick: bool) -> tuple[np.ndarray, np.ndarray, float]:
    """Two eigenvalues from either end, ascending, and their error."""
    from resolvent.spectra.eigen import eigsh

    products = int(min(_PRODUCTS, _WORK / (A.nnz + 20 * A.shape[0])))
    if quick or products < 60:
        why = "by quick" if quick else "at this size"
        raise ValueError(f"the second eigenvalue takes an iteration, which is left out {why}")
    low, high = (
        eigsh(A, 2, which=which, rtol=_ENDS, generator=0, max_matvecs=products, return_info=True)
        for which in ("SA", "LA")
    )
    size = float(max(abs(low[0][0]), abs(high[0][-1])))
    return low[0], high[0], max(float(low[2].error), float(high[2].error)) * size


def _drawn(found: SpectralDensity, scale: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The density at evenly spaced places, a little beyond the support."""
    import torch

    low, high = found.support
    margin = 0.03 * max(high - low, 1e-3 * max(abs(low), abs(high)))
    x = torch.linspace(low - margin, high + margin, _POINTS, dtype=torch.float64)
    y = torch.as_tensor(found.pdf(x))
    return tuple(float(f"{v * scale:.6g}") for v in x.tolist()), tuple(float(f"{v / scale:.4g}") for v in y.tolist())


def _solver(A: scipy.sparse.csr_array, values: dict[str, Any], graph: bool, hermitian: bool) -> dict[str, Any]:
    """Which method solves a linear system with it, and why."""
    m, n = A.shape
    if m != n:
        solver, preconditioner, why = "LSMR", "column scaling", f"it is {m} x {n}: a least-squares problem"
    elif graph:
        pieces = values["components"]
        solver, preconditioner = "conjugate gradients", "algebraic multigrid or approximate Cholesky"
        why = "a graph Laplacian is positive semidefinite"
        why += "; take out the constant vector" + (f" of each of its {pieces} components" if pieces > 1 else "")
    elif values["empty_rows"] or values["empty_columns"]:
        empty = values["empty_rows"] + values["empty_columns"]
        solver, preconditioner = "LSMR or MINRES-QLP", "diagonal scaling"
        why = f"it is singular: {empty} rows or columns are empty"
    elif values["bandwidth"] <= min(_BANDED, n // 8):
        kind = "Cholesky" if values.get("positive") else "LU"
        solver, preconditioner = f"banded {kind}", "none"
        why = f"all entries lie within {values['bandwidth']} of the diagonal: a direct solve takes O(n b^2)"
    elif n <= _DIRECT:
        kind = "Cholesky" if values.get("positive") else "LDL" if hermitian else "LU"
        solver, preconditioner, why = f"sparse {kind}", "none", f"{n} rows are few for a direct solver"
    elif hermitian and values.get("positive"):
        multigrid = values["dominant_rows"] == 1.0 and bool((A.data.real[_off_diagonal(A)] <= 0).all())
        solver = "conjugate gradients"
        preconditioner = "algebraic multigrid" if multigrid else "incomplete Cholesky"
        why = "it is Hermitian and positive definite" + (", with the signs of a diffusion" if multigrid else "")
    elif hermitian:
        solver, preconditioner = "MINRES", "a positive definite one, such as the absolute diagonal"
        known = values.get("positive") is False
        why = "it is Hermitian and indefinite" if known else "it is Hermitian and not known to be positive definite"
    else:
        dominant = values["dominant_rows"] == 1.0
        solver = "BiCGSTAB" if dominant else "GMRES"
        preconditioner = "Jacobi" if dominant else "ILU"
        if values["zero_diagonal"]:
            preconditioner = "ILU after a permutation that fills the diagonal"
        why = "it is not Hermitian" + (", and its diagonal dominates" if dominant else "")
    with_it = "" if preconditioner == "none" else f" with {preconditioner}"
    return {"solver": solver, "preconditioner": preconditioner, "advice": f"{solver}{with_it}: {why}"}


def _off_diagonal(A: scipy.sparse.csr_array) -> np.ndarray:
    return np.repeat(np.arange(A.shape[0]), np.diff(A.indptr)) != A.indices
