"""The whole gallery against every function of `resolvent.spectra`: within tolerance of 50 digits, or an error.

The references of tests/data/gallery_reference.json take the floating entries as exact; make_gallery_reference.py
writes them. Singular values and eigenvalues of Hermitian matrices may move by delta = c eps n ||A||, as backward
stability allows; what is computed from them may take any value that such a move explains; norms are relative.
"""

from __future__ import annotations

import runpy
from pathlib import Path

import mpmath as mp
import pytest
import torch

from resolvent import spectra
from resolvent.operators import MatrixFree

_HERE = runpy.run_path(str(Path(__file__).with_name("gallery_case.py")))
CASES, C, case_of, change, surprise, number = (
    _HERE[n] for n in ("CASES", "C", "case_of", "change", "surprise", "number")
)
# What estimates are asked for: their probes grow like its inverse square. Exact methods meet any.
WIDE = 0.1

over_gallery = pytest.mark.parametrize(("entry", "dtype"), CASES, ids=[f"{e.name}-{d}" for e, d in CASES])


@over_gallery
def test_norms(entry, dtype):
    c = case_of(entry, dtype)
    A, s, r = c.A, c.s, c.reference["norms"]
    inf = float("inf")
    orders = {
        1: "1", -1: "-1", inf: "inf", -inf: "-inf", "fro": "fro",
        ("entrywise", 1): "entrywise 1", ("entrywise", 3): "entrywise 3", ("entrywise", 0.5): "entrywise 0.5",
        ("entrywise", inf): "max", ("induced", 1, 1): "1", ("induced", inf, inf): "inf",
        ("induced", 1, 2): "1 to 2", ("induced", 1, 3): "1 to 3", ("induced", 2, inf): "2 to inf",
        ("induced", 1, inf): "max",
    }  # fmt: skip
    for order, key in orders.items():
        c.within(f"norm {order}", c.call(f"norm {order}", lambda o=order: spectra.norm(A, o)), number(r[key]))
    for order in (2, ("induced", 2, 2), ("schatten", inf), ("ky-fan", 1)):
        c.within(f"norm {order}", c.call(f"norm {order}", lambda o=order: spectra.norm(A, o)), s[0])
    c.within("norm -2", c.call("norm -2", lambda: spectra.norm(A, -2)), s[-1], absolute=c.delta)
    for order in ("nuc", ("schatten", 1), ("ky-fan", len(s))):
        c.within(f"norm {order}", c.call(f"norm {order}", lambda o=order: spectra.norm(A, o)), mp.fsum(s))
    two = mp.fsum(s[:2])
    c.within("norm ky-fan 2", c.call("norm ky-fan 2", lambda: spectra.norm(A, ("ky-fan", min(2, len(s))))), two)
    fro = number(r["fro"])
    c.within("norm schatten 2", c.call("norm schatten 2", lambda: spectra.norm(A, ("schatten", 2))), fro)
    cube = mp.cbrt(mp.fsum(x**3 for x in s))
    c.within("norm schatten 3", c.call("norm schatten 3", lambda: spectra.norm(A, ("schatten", 3))), cube)
    low, high = c.moved(s, mp.sqrt)
    value = c.call("norm schatten 0.5", lambda: spectra.norm(A, ("schatten", 0.5)))
    c.within("norm schatten 0.5", value, low**2, high**2)
    if "inf to 1" in r:
        value = c.call("norm inf to 1", lambda: spectra.norm(A, ("induced", inf, 1)), may_raise=True)
        c.within("norm inf to 1", value, number(r["inf to 1"]), absolute=1e-5 * number(r["inf to 1"]))
    c.finish()


@over_gallery
def test_norms_of_products_only(entry, dtype):
    c = case_of(entry, dtype)
    A = MatrixFree(c.A.shape, lambda X: c.dense @ X, lambda Y: c.dense.mH @ Y, dtype=c.A.dtype)
    references = {2: c.s[0], "fro": number(c.reference["norms"]["fro"]), "nuc": mp.fsum(c.s)}
    for order, value in references.items():
        found = c.call(f"norm {order}", lambda o=order: spectra.norm(A, o, generator=0))
        c.within(f"norm {order}", found, value)
    if c.square:
        scale = mp.fsum(abs(mp.mpc(complex(x))) for x in c.dense.diagonal())
        found = c.call("trace", lambda: spectra.trace(A, generator=0))
        c.within(
            "trace",
            None if found is None else found.real,
            number(c.reference["trace"]).real,
            absolute=C * c.n * c.eps * scale,
        )
    c.finish()


@over_gallery
def test_condition(entry, dtype):
    c = case_of(entry, dtype)
    top, bottom = c.s[0], c.s[-1]
    infinite = 2 * c.max
    low, high = (top - c.delta) / (bottom + c.delta) if top else mp.mpf(0), infinite
    if bottom > c.delta:
        high = (top + c.delta) / (bottom - c.delta)
    c.within("cond 2", c.call("cond 2", lambda: spectra.cond(c.A)), low, high)
    inverse = 1 / high if high < infinite else mp.mpf(0)
    c.within("cond -2", c.call("cond -2", lambda: spectra.cond(c.A, -2)), inverse, 1 / low if low else c.max)
    if c.square:
        for p, key in ((1, "1"), (float("inf"), "inf"), ("fro", "fro")):
            value = c.call(f"cond {p}", lambda p=p: spectra.cond(c.A, p))
            known = c.reference["inverse"].get(key)
            if known is None:
                c.within(f"cond {p}", value, 1 / (C * c.n * c.eps) / c.n, infinite)
                continue
            kappa = number(c.reference["norms"][key]) * number(known)
            loss = C * c.n * c.eps * kappa
            if loss < 0.5:
                c.within(f"cond {p}", value, kappa * (1 - loss), kappa * (1 + loss) / (1 - loss))
            else:
                c.within(f"cond {p}", value, kappa / (1 + loss) / c.n, infinite)
    c.finish()


def selected(w, which, k):
    """The eigenvalues that eigsh promises, ascending."""
    if which in ("LM", "SM"):
        return sorted(sorted(w, key=abs, reverse=which == "LM")[:k])
    if which == "BE":
        return w[: k // 2] + w[len(w) - (k - k // 2) :]
    return w[:k] if which == "SA" else w[len(w) - k :]


def finite(*tensors):
    return all(bool(torch.isfinite(t.abs()).all()) for t in tensors)


def residuals(c, name, A, w, V, tolerance):
    """||A V - V w|| and ||V^H V - I|| in double precision, on a scaled matrix."""
    if not finite(w, V):
        c.failures.append(f"{name} is not finite")
        return
    wide = torch.complex128 if A.is_complex() or V.is_complex() else torch.float64
    # In two steps, since the inverse of a subnormal norm overflows.
    power = -int(mp.ceil(mp.log(c.s[0], 2))) if c.s[0] else 0
    steps = 2.0 ** (power // 2), 2.0 ** (power - power // 2)
    M, values = A.to(wide) * steps[0] * steps[1], w.to(wide) * steps[0] * steps[1]
    tolerance = float(tolerance + (c.grain / c.s[0] if c.s[0] else 0))
    V = V.to(wide)
    error = float((M @ V - V * values).norm(dim=0).max())
    if not error <= tolerance:
        c.failures.append(f"{name}: residual {error:.2e} above {tolerance:.2e} of the norm")


@over_gallery
@pytest.mark.parametrize("method", ["auto", "lanczos"])
def test_eigsh(entry, dtype, method):
    c = case_of(entry, dtype)
    if not entry.hermitian:
        if c.square:
            value = c.call("eigsh", lambda: spectra.eigsh(c.A, 1, method=method), may_raise=True)
            if value is not None:
                c.failures.append("eigsh took a matrix that is not Hermitian")
        c.finish()
        return
    rtol = 0 if method == "auto" else (1e-10 if dtype == "float64" else 1e-5)
    k = min(3, len(c.w))
    tolerance = float(C * c.n * c.eps + rtol)
    for which in ("LM", "LA", "SA", "SM", "BE"):
        name = f"eigsh {which} {method}"
        # Iterating for interior eigenvalues without a shift may be given up.
        hard = method == "lanczos" and which == "SM"
        pairs = c.call(name, lambda o=which: spectra.eigsh(c.A, k, which=o, method=method, generator=0), hard)
        if pairs is None:
            continue
        w, V = pairs
        found, wanted = [float(x) for x in w], selected(c.w, which, k)
        if which in ("LM", "SM"):
            # Which of two eigenvalues of equal size comes is open.
            found, wanted = sorted(map(abs, found)), sorted(map(abs, wanted))
        c.spectrum(name, found, wanted, c.delta + rtol * c.s[0])
        residuals(c, name, c.dense, w, V, tolerance)
        loss = float((V.mH @ V - torch.eye(k, dtype=V.dtype)).abs().max())
        if not loss <= tolerance:
            c.failures.append(f"{name}: V^H V - I is {loss:.2e}")
    c.finish()


@over_gallery
@pytest.mark.parametrize("method", ["auto", "lanczos"])
def test_svds(entry, dtype, method):
    c = case_of(entry, dtype)
    rtol = 0 if method == "auto" else (1e-10 if dtype == "float64" else 1e-5)
    k = min(3, len(c.s))
    tolerance = float(C * c.n * c.eps + rtol)
    value = c.call(f"svds {method}", lambda: spectra.svds(c.A, k, method=method, generator=0))
    if value is not None:
        U, s, Vh = value
        c.spectrum(f"svds {method}", [float(x) for x in s], c.s[:k], c.delta + rtol * c.s[0])
        if finite(U, s, Vh):
            m, n = c.A.shape
            zero = torch.zeros
            both = torch.cat([torch.cat([zero(m, m).to(U), c.dense], 1), torch.cat([c.dense.mH, zero(n, n).to(U)], 1)])
            residuals(c, f"svds {method}", both, s, torch.cat([U, Vh.mH]), 2 * tolerance)
            for name, Q in (("U", U), ("V", Vh.mH)):
                loss = float((Q.mH @ Q - torch.eye(k, dtype=Q.dtype)).abs().max())
                if not loss <= tolerance:
                    c.failures.append(f"svds {method}: {name}^H {name} - I is {loss:.2e}")
        else:
            c.failures.append(f"svds {method} is not finite")
    if method == "auto":
        low = c.call("svds SM", lambda: spectra.svds(c.A, k, which="SM"), may_raise=min(c.s) <= c.delta)
        if low is not None:
            c.spectrum("svds SM", sorted(float(x) for x in low[1]), c.s[::-1][:k], c.delta)
    c.finish()


@over_gallery
@pytest.mark.parametrize("method", ["auto", "arnoldi"])
def test_eigs(entry, dtype, method):
    c = case_of(entry, dtype)
    if not c.square:
        with pytest.raises(ValueError, match="square"):
            spectra.eigs(c.A, 1)
        return
    rtol = 0 if method == "auto" else (1e-10 if dtype == "float64" else 1e-5)
    k = min(3, len(c.w))
    pairs = c.call(f"eigs {method}", lambda: spectra.eigs(c.A, k, method=method, generator=0), method == "arnoldi")
    if pairs is None:
        c.finish()
        return
    w, V = pairs
    residuals(c, f"eigs {method}", c.dense, w, V, float(C * c.n * c.eps + rtol))
    conditions = [mp.mpf(x) for x in c.reference["eigenvalue conditions"]] or [mp.mpf(1)] * len(c.w)
    step = c.delta + rtol * c.s[0]
    # First-order perturbation theory holds for simple eigenvalues that the perturbation keeps apart.
    if max(conditions) * step < 1e-3 * c.s[0]:
        order = sorted(range(len(c.w)), key=lambda i: -abs(c.w[i]))
        slack = 4 * max(conditions) * step
        for i, x in enumerate(complex(x) for x in w):
            c.within(f"|eigs {method}|[{i}]", abs(x), abs(c.w[order[i]]), absolute=slack)
            if min(abs(x - y) for y in c.w) > slack + c.grain:
                c.failures.append(f"eigs {method}[{i}] = {x} is no eigenvalue")
    c.finish()


@over_gallery
def test_trace_and_diagonal(entry, dtype):
    c = case_of(entry, dtype)
    if not c.square:
        with pytest.raises(ValueError, match="square"):
            spectra.trace(c.A)
        return
    found, known = c.call("trace", lambda: spectra.trace(c.A)), number(c.reference["trace"])
    scale = mp.fsum(abs(mp.mpc(complex(x))) for x in c.dense.diagonal())
    if found is not None:
        c.within("trace", found.real, known.real, absolute=C * c.n * c.eps * scale)
        if c.A.is_complex():
            c.within("trace.imag", found.imag, known.imag, absolute=C * c.n * c.eps * scale)
    d = c.call("diagonal", lambda: spectra.diagonal(c.A))
    if d is not None and not torch.equal(d, c.dense.diagonal()):
        c.failures.append("diagonal differs")
    c.finish()


@over_gallery
@pytest.mark.parametrize("method", ["auto", "slq"])
def test_logdet(entry, dtype, method):
    c = case_of(entry, dtype)
    if not entry.hermitian:
        if c.square:
            value = c.call("logdet", lambda: spectra.logdet(c.A), may_raise=True)
            if value is not None:
                c.failures.append(f"logdet took a matrix that is not Hermitian: {float(value)}")
        c.finish()
        return
    definite = c.w[0] > c.delta
    # An estimate of a badly conditioned matrix may be given up, the exact method may not.
    give_up = not definite or method == "slq"
    value = c.call("logdet", lambda: spectra.logdet(c.A, method=method, rtol=WIDE, generator=0), give_up)
    if value is not None:
        if c.w[0] < -c.delta:
            c.failures.append(f"logdet = {float(value)} of a matrix with the eigenvalue {mp.nstr(c.w[0], 5)}")
        low = mp.fsum(mp.log(max(x - c.delta, c.grain * c.eps)) for x in c.w)
        high = mp.fsum(mp.log(x + c.delta) for x in c.w if x + c.delta > 0)
        exact = mp.fsum(mp.log(x) for x in c.w) if definite else (low + high) / 2
        # Rounding of a sum of logarithms, and an estimate's own tolerance at three times its interval.
        largest = mp.fsum(abs(mp.log(abs(x))) for x in c.w if x != 0)
        slack = C * c.n * c.eps * largest + (3 * abs(exact) * WIDE if method == "slq" else 0)
        c.within("logdet", value, low, high, absolute=slack)
    c.finish()


@over_gallery
@pytest.mark.parametrize("method", ["auto", "slq"])
def test_entropy(entry, dtype, method):
    c = case_of(entry, dtype)
    usable = entry.hermitian and c.w[0] >= -c.delta and mp.fsum(c.w) > c.delta
    for alpha in (1, 2, float("inf"), 0.5):
        name = f"entropy {alpha} {method}"
        value = c.call(
            name,
            lambda a=alpha: spectra.entropy(c.A, a, method=method, rtol=WIDE, atol=WIDE, generator=0),
            not usable or method == "slq",
        )
        if value is None:
            continue
        if not entry.hermitian or c.w[0] < -4 * c.delta:
            c.failures.append(f"{name} = {float(value)} of a matrix that is not positive")
            continue
        if mp.fsum(c.w) <= 0:
            c.failures.append(f"{name} = {float(value)} of a matrix of trace zero")
            continue
        total = mp.fsum(c.w)
        p, d = [max(x, mp.mpf(0)) / total for x in c.w], 2 * c.delta / total
        if alpha == 1:
            known, slack = mp.fsum(map(surprise, p)), mp.fsum(change(surprise, x, d) for x in p)
        elif alpha == float("inf"):
            known, slack = -mp.log(max(p)), d / max(p)
        else:
            power = mp.fsum(x**alpha for x in p)
            moved = mp.fsum(change(lambda x, a=alpha: x**a, x, d) for x in p)
            known, slack = mp.log(power) / (1 - alpha), 2 * moved / power / abs(1 - alpha)
        if method == "slq":
            slack += 3 * WIDE * max(abs(known), 1)
        c.within(name, value, known, absolute=slack + C * c.n * c.eps)
    c.finish()


@over_gallery
def test_ranks(entry, dtype):
    c = case_of(entry, dtype)
    A, s = c.A, c.s
    squares = mp.fsum(x * x for x in s)
    stable = c.call("stable_rank", lambda: spectra.stable_rank(A))
    c.within("stable_rank", stable, squares / s[0] ** 2 if s[0] else mp.mpf(0))
    share = c.call("participation_ratio", lambda: spectra.participation_ratio(A))
    c.within("participation_ratio", share, squares**2 / mp.fsum(x**4 for x in s) if s[0] else mp.mpf(0))
    for power in (1, 2):
        value = c.call(f"effective_rank {power}", lambda a=power: spectra.effective_rank(A, power=a))
        if not s[0]:
            c.within(f"effective_rank {power}", value, mp.mpf(0))
            continue
        total = mp.fsum(x**power for x in s)
        p = [x**power / total for x in s]
        moved = [2 * change(lambda x, a=power: x**a, x, c.delta) / total for x in s]
        known = mp.fsum(map(surprise, p))
        slack = mp.fsum(change(surprise, x, d) for x, d in zip(p, moved, strict=True))
        c.within(f"effective_rank {power}", value, mp.exp(known - slack), mp.exp(known + slack))
    value = c.call("numerical_rank", lambda: spectra.numerical_rank(A))
    if value is not None:
        edge = c.n * c.eps * s[0]
        low, high = sum(x > edge + c.delta for x in s), sum(x > max(edge - c.delta, c.grain) for x in s)
        if not low <= int(value) <= max(high, low) and not (edge < c.grain and int(value) <= len(s)):
            c.failures.append(f"numerical_rank = {int(value)}, reference {low} to {high}")
        for rtol in (mp.mpf(1) / 1000, mp.mpf(1) / 10):
            edge = rtol * s[0]
            low, high = sum(x > edge + c.delta for x in s), sum(x > edge - c.delta for x in s)
            value = c.call("numerical_rank rtol", lambda t=float(rtol): spectra.numerical_rank(A, t))
            if value is not None and s[0] and not low <= int(value) <= high:
                c.failures.append(f"numerical_rank {float(rtol)} = {int(value)}, reference {low} to {high}")
    c.finish()


@over_gallery
def test_count(entry, dtype):
    c = case_of(entry, dtype)
    if not entry.hermitian:
        if c.square:
            assert c.call("count", lambda: spectra.count(c.A, 0, 1), may_raise=True) is None, "not Hermitian"
        return
    gaps = [
        (i + 1, float((a + b) / 2))
        for i, (a, b) in enumerate(zip(c.w, c.w[1:], strict=False))
        if b - a > 8 * c.delta + 64 * c.eps * c.s[0]
    ]
    inf = float("inf")
    for below, t in [(0, -inf), *gaps]:
        found = c.call(f"count below {t}", lambda t=t: spectra.count(c.A, -inf, t))
        above = c.call(f"count above {t}", lambda t=t: spectra.count(c.A, t, inf))
        for name, value, known in (("below", found, below), ("above", above, len(c.w) - below)):
            if value is not None and not (
                value.low <= known <= value.high and (value.value == known or not value.exact)
            ):
                c.failures.append(f"count {name} {t} = {value}, reference {known}")
    c.finish()


@over_gallery
def test_density_moments(entry, dtype):
    c = case_of(entry, dtype)
    if not entry.hermitian:
        if c.square:
            assert c.call("density", lambda: spectra.density(c.A), may_raise=True) is None, "not Hermitian"
        return
    d = c.call("density", lambda: spectra.density(c.A))
    if d is not None:
        top, count = c.s[0], len(c.w)
        moments = c.call("moments", lambda: d.moments(4))
        for j in range(5) if moments is not None else ():
            if 4 * top**j < 2 * mp.mpf(2) ** 1023:
                slack = (j + 1) * (C * c.n * c.eps * top**j + mp.mpf(2) ** -1070 * c.n)
                c.within(f"moment {j}", moments[j], mp.fsum(x**j for x in c.w) / count, absolute=slack)
        mean = mp.fsum(c.w) / count
        c.within("density mean", d.mean, mean, absolute=c.delta)
        variance = mp.fsum((x - mean) ** 2 for x in c.w) / count
        if variance < mp.mpf(2) ** 1022:
            slack = 4 * c.delta * (top + c.delta) + mp.mpf(2) ** -1060
            c.within("density variance", d.variance, variance, absolute=slack)
        c.within("support low", d.support[0], c.w[0], absolute=c.delta)
        c.within("support high", d.support[1], c.w[-1], absolute=c.delta)
    c.finish()
