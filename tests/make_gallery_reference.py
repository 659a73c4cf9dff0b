"""Write tests/data/gallery_reference.json: what 50-digit arithmetic says of every gallery matrix.

    python tests/make_gallery_reference.py

The floating entries of a matrix, in float64 and in float32, count as exact. Random matrices are stored with the entries
they had, so that another version of torch, with other random numbers, is tested on the same ones. Deterministic.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import mpmath as mp
import numpy as np
import torch

from resolvent.operators import gallery

DIGITS = 50
SHOWN = 22
WHERE = Path(__file__).parent / "data" / "gallery_reference.json"
DTYPES = {"float64": torch.float64, "float32": torch.float32}


def to_mp(A: torch.Tensor) -> mp.matrix:
    number = mp.mpc if A.is_complex() else mp.mpf
    return mp.matrix([[number(x) for x in row] for row in A.tolist()])


def digits_of(A: mp.matrix) -> int:
    """Working digits: 50 beyond the span of the entries, which for graded matrices is hundreds of digits."""
    sizes = [abs(x) for x in A if x != 0]
    return DIGITS + (2 * int(mp.log10(max(sizes) / min(sizes))) if sizes else 0)


def show(x) -> str | list[str]:
    if isinstance(x, mp.mpc):
        return [mp.nstr(x.real, SHOWN), mp.nstr(x.imag, SHOWN)]
    return mp.nstr(x, SHOWN)


def best_signs(A: torch.Tensor) -> np.ndarray:
    """The signs x that maximise ||A x||_1, found in double precision; the value is computed in 50 digits."""
    dense = A.double().numpy()
    dense = dense / (np.abs(dense).max() or 1.0)
    patterns = [(1.0, *rest) for rest in itertools.product((1.0, -1.0), repeat=dense.shape[1] - 1)]
    signs = np.array(patterns)
    return signs[np.abs(signs @ dense.T).sum(1).argmax()]


def eigenvalues(A: mp.matrix, hermitian: bool) -> tuple[list, list]:
    """Eigenvalues and their condition numbers 1 / |y^H x| (infinite for defective ones)."""
    if hermitian:
        solve = mp.eighe if isinstance(A[0, 0], mp.mpc) else mp.eigsy
        return sorted(mp.mpf(w) for w in solve(A, eigvals_only=True)), []
    values, left, right = mp.eig(A, left=True, right=True)
    conditions = []
    for i in range(A.rows):
        x, y = right[:, i], left[i, :]
        inner = abs((y * x)[0, 0])
        sizes = mp.norm(x) * mp.norm(y.T)
        conditions.append(sizes / inner if inner > sizes * mp.mpf(10) ** -30 else mp.inf)
    return list(values), conditions


def norms(A: mp.matrix, T: torch.Tensor) -> dict[str, str]:
    rows = [[abs(A[i, j]) for j in range(A.cols)] for i in range(A.rows)]
    cols = list(zip(*rows, strict=True))
    flat = [x for row in rows for x in row]
    out = {
        "1": max(map(mp.fsum, cols)),
        "-1": min(map(mp.fsum, cols)),
        "inf": max(map(mp.fsum, rows)),
        "-inf": min(map(mp.fsum, rows)),
        "fro": mp.sqrt(mp.fsum(x * x for x in flat)),
        "max": max(flat),
        "entrywise 1": mp.fsum(flat),
        "entrywise 3": mp.cbrt(mp.fsum(x**3 for x in flat)),
        "entrywise 0.5": mp.fsum(mp.sqrt(x) for x in flat) ** 2,
        "1 to 2": max(mp.sqrt(mp.fsum(x * x for x in c)) for c in cols),
        "1 to 3": max(mp.cbrt(mp.fsum(x**3 for x in c)) for c in cols),
        "2 to inf": max(mp.sqrt(mp.fsum(x * x for x in r)) for r in rows),
    }
    if not T.is_complex():
        x = mp.matrix([mp.mpf(s) for s in best_signs(T)])
        out["inf to 1"] = mp.fsum(abs(y) for y in A * x)
    return {name: show(value) for name, value in out.items()}


def inverse_norms(A: mp.matrix, s: list) -> dict[str, str]:
    """Norms of the inverse of a square matrix that is not singular to 40 digits."""
    if A.rows != A.cols or s[-1] <= s[0] * mp.mpf(10) ** (10 - mp.mp.dps):
        return {}
    B = mp.inverse(A)
    return {"1": show(mp.mnorm(B, 1)), "inf": show(mp.mnorm(B, mp.inf)), "fro": show(mp.mnorm(B, "f"))}


def reference(T: torch.Tensor, e: gallery.Entry) -> dict:
    A = to_mp(T)
    with mp.workdps(digits_of(A)):
        svd = mp.svd_c if T.is_complex() else mp.svd_r
        s = sorted(svd(A if A.rows >= A.cols else A.T, compute_uv=False), reverse=True)
        out = {"singular": [show(abs(x)) for x in s], "norms": norms(A, T), "inverse": inverse_norms(A, s)}
    if A.rows == A.cols:
        # A defective eigenvalue keeps 1/n of the digits, and QR needs the more for a graded matrix.
        with mp.workdps(digits_of(A) * (1 if e.hermitian else 4)):
            values, conditions = eigenvalues(A, e.hermitian)
            out["eigenvalues"] = [show(w) for w in values]
            out["eigenvalue conditions"] = [mp.nstr(c, 6) for c in conditions]
            out["trace"] = show(mp.fsum(A[i, i] for i in range(A.rows)))
    if "random" in e.tags:
        out["entries"] = torch.view_as_real(T + 0j).tolist() if T.is_complex() else T.tolist()
    return out


def main() -> None:
    table = {}
    for e in gallery.entries():
        for name, dtype in DTYPES.items():
            T = e.build(e.size, dtype=dtype).to_dense()
            table[f"{e.name} {name}"] = reference(T, e)
    WHERE.parent.mkdir(exist_ok=True)
    WHERE.write_text(json.dumps(table, indent=0, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
