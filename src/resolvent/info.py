"""What a method did, returned by `return_info=True`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Info:
    """Report of one run of a method.

    Attributes
    ----------
    method : the algorithm that ran
    matvecs : products with the operator or its adjoint, counted per column
    iterations : steps of the outer loop (restarts, rounds of samples)
    error : the error the method measured, in the measure of its `rtol`
    converged : whether that error met the tolerance

    Examples
    --------
    >>> Info("lanczos", matvecs=40, iterations=2, error=1e-12, converged=True).matvecs
    40
    """

    method: str
    matvecs: int = 0
    iterations: int = 0
    error: float = 0.0
    converged: bool = True
