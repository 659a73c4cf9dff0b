"""One matrix of the gallery with its 50-digit references, and the outcomes of the functions tried on it.

Singular values and eigenvalues of Hermitian matrices may move by delta = c eps n ||A||, as backward stability allows;
what is computed from them may take any value that such a move explains; norms are relative.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

import mpmath as mp
import torch

from resolvent.errors import ConvergenceError
from resolvent.operators import gallery

CASES = [(e, dtype) for e in gallery.entries() for dtype in ("float64", "float32")]
C = 10


@functools.cache
def references():
    return json.loads((Path(__file__).parent / "data" / "gallery_reference.json").read_text())


def number(x):
    return mp.mpc(*x) if isinstance(x, list) else mp.mpf(x)


class Case:
    """One matrix with its references, and the outcomes of the functions that were tried on it."""

    def __init__(self, entry, dtype):
        self.entry = entry
        self.reference = r = references()[f"{entry.name} {dtype}"]
        self.A = entry.build(entry.size, dtype=getattr(torch, dtype))
        if "entries" in r:
            stored = torch.tensor(r["entries"], dtype=self.A.dtype.to_real())
            stored = torch.view_as_complex(stored) if self.A.is_complex() else stored
            self.A = stored.to_sparse() if self.A.is_sparse else stored
        self.dense = self.A.to_dense()
        info = torch.finfo(self.A.dtype)
        self.eps, self.tiny, self.max = mp.mpf(info.eps), mp.mpf(info.tiny), mp.mpf(info.max)
        self.s = [number(x) for x in r["singular"]]
        self.w = [number(x) for x in r.get("eigenvalues", [])]
        self.n = max(self.A.shape)
        self.square = self.A.shape[0] == self.A.shape[1]
        # The smallest subnormal number, by which every operation near underflow may be off.
        self.grain = 4 * self.n * self.tiny * self.eps
        self.delta = C * self.eps * self.n * self.s[0] + self.grain
        self.extreme = "extreme" in entry.tags
        self.failures = []

    def call(self, name, fn, may_raise=False):
        """The value, or None if it raised what it is allowed to raise."""
        try:
            return fn()
        except (ValueError, ConvergenceError) as error:
            if not (may_raise or self.extreme):
                self.failures.append(f"{name} raised {type(error).__name__}: {error}")
        except Exception as error:  # an error of another kind is a finding, and the table goes on
            self.failures.append(f"{name} raised {type(error).__name__}: {error}")
        return None

    def within(self, name, value, low, high=None, absolute=0):
        """`value` lies in [low, high] up to rounding."""
        if value is None:
            return
        high = low if high is None else high
        slack = C * self.n * self.eps * max(abs(low), abs(high)) + self.grain + absolute
        value = float(value)
        if value != value:
            good = False
        elif abs(value) == float("inf"):
            good = (high if value > 0 else -low) > self.max * (1 - C * self.n * self.eps)
        else:
            good = low - slack <= value <= high + slack
        if not good:
            shown = " to ".join(dict.fromkeys((mp.nstr(low, 10), mp.nstr(high, 10))))
            self.failures.append(f"{name} = {value!r}, reference {shown}, slack {mp.nstr(slack, 3)}")

    def spectrum(self, name, found, wanted, absolute):
        """Sorted values against sorted references."""
        for i, (x, y) in enumerate(zip(found, wanted, strict=True)):
            self.within(f"{name}[{i}]", x, y, absolute=absolute)

    def moved(self, values, f, lowest=0):
        """The range of sum f(x) for f increasing, when every x moves by delta."""
        down = mp.fsum(f(max(x - self.delta, lowest)) for x in values)
        return down, mp.fsum(f(x + self.delta) for x in values)

    def finish(self):
        assert not self.failures, f"{self.entry.name} {self.A.dtype}: " + "\n".join(["", *self.failures])


def case_of(entry, dtype):
    mp.mp.dps = 40
    return Case(entry, dtype)


def surprise(p):
    return -p * mp.log(p) if p > 0 else mp.mpf(0)


def change(f, x, d):
    """How much f may change where x moves by d; f has one maximum in (0, 1) at most."""
    return max(abs(f(x + d) - f(x)), abs(f(max(x - d, mp.mpf(0))) - f(x)))
