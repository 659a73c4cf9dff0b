"""The errors and warnings of the whole library."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resolvent.info import Info


class ResolventError(Exception):
    """Base of the errors that are the library's own."""


class ConvergenceError(ResolventError, RuntimeError):
    """A method could not reach its tolerance.

    Attributes
    ----------
    best : the best value found, in the form the function would have returned
    error : the error reached, in the measure of the function's `rtol`
    info : `Info` of the run, or None

    Examples
    --------
    >>> raise ConvergenceError("norm: reached 1e-3, asked for 1e-6", best=1.0, error=1e-3)
    Traceback (most recent call last):
    ...
    resolvent.errors.ConvergenceError: norm: reached 1e-3, asked for 1e-6
    """

    def __init__(self, message: str, *, best: Any = None, error: Any = None, info: Info | None = None) -> None:
        super().__init__(message)
        self.best = best
        self.error = error
        self.info = info


class AccuracyWarning(UserWarning):
    """A result is as accurate as its input allows, and that is less than one may expect."""


class StoreError(ResolventError):
    """Base of the errors of an index on disk."""


class Busy(StoreError, TimeoutError):
    """Another process is writing to the index and did not finish within the timeout."""


class Damaged(StoreError, ValueError):
    """A file of the index is missing, truncated or has other bytes than those that were written."""


class ReadOnly(StoreError, PermissionError):
    """The index was opened for reading, or its directory or disk cannot be written."""


class NoSpace(StoreError, OSError):
    """The disk is full; nothing of the batch was written, and what was there before still is."""
