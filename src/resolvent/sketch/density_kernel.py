"""A Numba kernel that turns squared distances into the pulls of mean shift, in one pass where torch takes a dozen."""

from __future__ import annotations

import numpy as np
from numba import njit

# Profiles by number: Gaussian, logistic, sigmoid, generalized Gaussian.
KINDS = ("gaussian", "logistic", "sigmoid", "generalized_gaussian")
# Where exp(-r) is below the last digit of anything it is added to.
_FAR = 80.0


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"})
def pulls(s, w, kind, exponent, tiny, value, total):  # type: ignore[no-untyped-def]
    """Overwrite s (m, n) by w times -k'(r) / r; the sums over each row go to `total`, those of w k to `value`.

    A pull that is infinite at r = 0 is left out where s <= tiny.
    """
    m, n = s.shape
    half = exponent / 2
    for i in range(m):
        row = s[i]
        density = 0.0
        force = 0.0
        for j in range(n):
            q = max(row[j], 0.0)
            pull = 0.0
            if kind == 0:
                if q < 2 * _FAR:
                    k = w[j] * np.exp(-q / 2)
                    density += k
                    pull = k
            elif kind == 1:
                if q < _FAR * _FAR:
                    r = np.sqrt(q)
                    e = np.exp(-r)
                    k = w[j] * e / ((1 + e) * (1 + e))
                    density += k
                    # tanh(r / 2) is (1 - e) / (1 + e)
                    pull = k * ((1 - e) / ((1 + e) * r) if r > 1e-4 else 0.5)
            elif kind == 2:
                if q < _FAR * _FAR:
                    r = np.sqrt(q)
                    e = np.exp(-r)
                    f = e * e
                    k = w[j] * e / (1 + f)
                    density += k
                    pull = k * ((1 - f) / ((1 + f) * r) if r > 1e-4 else 1.0)
            elif exponent == 2:
                if q < _FAR:
                    k = w[j] * np.exp(-q)
                    density += k
                    pull = 2 * k
            else:
                p = np.sqrt(q) if exponent == 1 else q**half
                if p < _FAR:
                    k = w[j] * np.exp(-p)
                    density += k
                    if q > tiny:
                        pull = exponent * k * p / q
            row[j] = pull
            force += pull
        value[i] = density
        total[i] = force
