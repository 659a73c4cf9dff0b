"""Rows appended to a truncated SVD: ours, the dense update of Zha and Simon, scipy's svds anew, IncrementalPCA.

    python benchmarks/factor_truncated_svd.py [--quick]

IncrementalPCA makes its rows dense and centres them: another task of the same use, shown for its time.
"""

from __future__ import annotations

import argparse

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg
from _timing import interleaved, machine, table

from resolvent import factor


def growing(m: int, n: int, density: float) -> sp.csr_array:
    """Rows and columns of very different weights, as data have them."""
    rng = np.random.default_rng(0)
    A = sp.random_array((m, n), density=density, rng=rng, format="csr")
    left, right = (sp.diags_array(rng.zipf(2.0, size).clip(max=50) ** 0.5) for size in (m, n))
    return sp.csr_array(left @ A @ right)


def dense_update(U: np.ndarray, s: np.ndarray, V: np.ndarray, E: sp.csr_array) -> tuple[np.ndarray, ...]:
    """The update with dense bases."""
    k, C = len(s), E @ V
    Q, R = np.linalg.qr(E.T.toarray() - V @ C.T)
    F, t, Gh = np.linalg.svd(np.block([[np.diag(s), np.zeros((k, len(R)))], [C, R.T]]), full_matrices=False)
    F, G = F[:, :k], Gh[:k].T
    return np.vstack([U @ F[:k], F[k:]]), t[:k], V @ G[:k] + Q @ G[k:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller matrices")
    quick = parser.parse_args().quick
    from sklearn.decomposition import IncrementalPCA

    cases = (
        [(5000, 2000, 2e-3, 16, 50)] if quick else [(100_000, 10_000, 1e-3, 32, 100), (30_000, 20_000, 5e-4, 64, 500)]
    )
    rows: list[list[object]] = []
    for m, n, density, k, s in cases:
        A = growing(m, n, density)
        U, start, Vt = scipy.sparse.linalg.svds(A[: m - s], k=k, tol=1e-6, random_state=0)
        U, start, Vt = U[:, ::-1].copy(), start[::-1].copy(), Vt[::-1].copy()
        E = A[m - s :]
        fitted = IncrementalPCA(k).partial_fit(A[: 2 * k].toarray())
        svds = {
            name: factor.TruncatedSVD((U, start, Vt), method=name, rank=20, generator=0)
            for name in ("exact", "lanczos")
        }
        times = interleaved(
            {
                "exact": lambda E=E, svd=svds["exact"]: svd.append_rows(E),
                "lanczos": lambda E=E, svd=svds["lanczos"]: svd.append_rows(E),
                "dense": lambda U=U, start=start, V=Vt.T, E=E: dense_update(U, start, V, E),
                "pca": lambda E=E, fitted=fitted: fitted.partial_fit(E.toarray()),
            },
            3,
        )
        again = interleaved({"svds": lambda A=A, k=k: scipy.sparse.linalg.svds(A, k=k, tol=1e-6, random_state=0)}, 1, 0)
        ratios = [f"{other / times['exact']:.1f}" for other in (times["dense"], again["svds"], times["pca"])]
        rows.append([f"{m} x {n}", k, s, 1e3 * times["exact"], 1e3 * times["lanczos"], *ratios])
    header = ["matrix", "k", "rows", "exact ms", "lanczos ms", "x dense update", "x svds anew", "x IncrementalPCA"]
    table(f"A truncated SVD after rows are appended; {machine()}", header, rows)


if __name__ == "__main__":
    main()
