"""The published files of hyperspectral scenes: MATLAB's .mat with counts, and with the ground truth."""

from __future__ import annotations

import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from resolvent.factor.scene import Scene

_LIMIT = 4 << 30


def load_scene(path: str | Path, truth: str | Path | None = None, *, max_bytes: int = _LIMIT) -> Scene:
    r"""A hyperspectral scene from the .mat files that the field shares.

    Parameters
    ----------
    path : file with Y or V (bands x pixels), nRow, nCol and, where they are there, nBand, SlectBands (indices of the
        kept bands, from one) and maxValue. If Y has all nBand bands, the kept ones are taken
    truth : file with M (bands x K), A (K x pixels) and cood (names), each optional; None has no ground truth
    max_bytes : the most memory that one variable may take; checked before it is read

    Returns
    -------
    Scene of float64 arrays; Y divided by maxValue.

    Raises
    ------
    ValueError : not a .mat file of version 4 to 7, a variable that is missing, too large or of a wrong shape, numbers
        that are not finite.
    FileNotFoundError : no such file.

    Notes
    -----
    Pixels run down the columns of the image, as MATLAB stores it. Only the named variables are read, and only
    numbers and text. Version 7.3 is another format (HDF5); save such a file again with `-v7`.

    References
    ----------
    "Hyperspectral Unmixing: Ground Truth Labeling, Datasets, Benchmark Performances and Survey"

    Examples
    --------
    >>> import tempfile
    >>> from resolvent.factor import save_scene, synthetic_scene
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_scene(synthetic_scene(8, 4, 3, generator=0), folder + "/scene.mat")
    ...     load_scene(folder + "/scene.mat").Y.shape
    (100, 64)
    """
    found = _variables(path, ("Y", "V", "nRow", "nCol", "nBand", "SlectBands", "maxValue"), max_bytes)
    name = "Y" if "Y" in found else "V"
    for key in (name, "nRow", "nCol"):
        if key not in found:
            raise ValueError(f"{path} has no variable {'Y or V' if key == 'V' else key}; it has {sorted(found)}")
    shape = (_count(found["nRow"], "nRow", path), _count(found["nCol"], "nCol", path))
    Y = _matrix(found[name], name, path)
    if Y.shape[1] != shape[0] * shape[1]:
        raise ValueError(f"{path}: {name} must have nRow nCol = {shape[0] * shape[1]} columns, got shape {Y.shape}")
    bands = None
    if "SlectBands" in found:
        bands = _matrix(found["SlectBands"], "SlectBands", path).astype(np.int64).ravel()
        if len(bands) != len(Y):
            if not len(bands) or bands.min() < 1 or bands.max() > len(Y):
                raise ValueError(f"{path}: SlectBands must be indices of the {len(Y)} rows of {name}, from one")
            Y = Y[bands - 1]
    scale = float(_matrix(found["maxValue"], "maxValue", path).ravel()[0]) if "maxValue" in found else 1.0
    if not scale > 0:
        raise ValueError(f"{path}: maxValue must be positive, got {scale}")
    M = A = None
    names: tuple[str, ...] = ()
    if truth is not None:
        known = _variables(truth, ("M", "A", "cood"), max_bytes)
        M = _matrix(known["M"], "M", truth) if "M" in known else None
        A = _matrix(known["A"], "A", truth) if "A" in known else None
        names = _names(known.get("cood"))
        _fit(truth, Y, M, A, names)
    return Scene(Y / scale, shape, M, A, names, bands, scale)


def save_scene(scene: Scene, path: str | Path, truth: str | Path | None = None) -> None:
    """Write a scene as `load_scene` reads it: to the last bit.

    Parameters
    ----------
    scene : the scene
    path : file of the pixels
    truth : file of endmembers, abundances and names; None does not write them

    Notes
    -----
    The numbers that were read are written again where they are whole, so that maxValue stays; otherwise the
    reflectances themselves, with maxValue 1.

    Examples
    --------
    >>> import tempfile, torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_scene(Scene(torch.tensor([[0.1, 0.7]]), (1, 2)), folder + "/scene.mat")
    ...     load_scene(folder + "/scene.mat").Y
    array([[0.1       , 0.69999999]])
    """
    from scipy.io import savemat

    Y = np.asarray(scene.Y, dtype=np.float64)
    counts, scale = np.rint(Y * scene.max_value), scene.max_value
    if not np.array_equal(counts / scale, Y):
        counts, scale = Y, 1.0
    rows, columns = scene.shape
    stored: dict[str, Any] = {"Y": counts, "nRow": rows, "nCol": columns, "maxValue": scale}
    stored["nBand"] = len(Y)
    if scene.bands is not None:
        stored["SlectBands"] = np.asarray(scene.bands).reshape(-1, 1)
    savemat(str(path), stored, do_compression=True)
    if truth is not None:
        known: dict[str, Any] = {k: np.asarray(v) for k, v in (("M", scene.M), ("A", scene.A)) if v is not None}
        known["cood"] = np.array(scene.names, dtype=object).reshape(-1, 1)
        savemat(str(truth), known, do_compression=True)


def _variables(path: str | Path, wanted: tuple[str, ...], max_bytes: int) -> dict[str, Any]:
    from scipy.io import loadmat, whosmat
    from scipy.io.matlab import MatReadError

    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} is not a file")
    try:
        held = [(name, shape) for name, shape, _ in whosmat(str(path)) if name in wanted]
        for name, shape in held:
            if math.prod(shape) * 8 > max_bytes:
                raise ValueError(f"{path}: {name} of shape {shape} is larger than max_bytes = {max_bytes}")
        return {name: value for name, value in loadmat(str(path), variable_names=wanted).items() if name in wanted}
    except NotImplementedError:
        raise ValueError(f"{path} is a .mat file of version 7.3 (HDF5); save it with -v7") from None
    except (MatReadError, OSError, EOFError, TypeError, KeyError, IndexError, OverflowError, zlib.error) as problem:
        raise ValueError(f"{path} is not a readable .mat file: {problem}") from None


def _matrix(value: Any, name: str, path: str | Path) -> np.ndarray:
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "biuf" or value.ndim != 2 or not value.size:
        raise ValueError(f"{path}: {name} must be a matrix of real numbers")
    out = np.ascontiguousarray(value, dtype=np.float64)
    if not np.isfinite(out).all():
        raise ValueError(f"{path}: {name} has entries that are NaN or infinite")
    return out


def _count(value: Any, name: str, path: str | Path) -> int:
    number = float(_matrix(value, name, path).ravel()[0])
    if number < 1 or number != int(number):
        raise ValueError(f"{path}: {name} must be a positive integer, got {number}")
    return int(number)


def _names(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    return tuple(str(np.asarray(one).ravel()[0]) if np.asarray(one).size else "" for one in np.asarray(value).ravel())


def _fit(path: str | Path, Y: np.ndarray, M: Any, A: Any, names: tuple[str, ...]) -> None:
    if M is not None and len(M) != len(Y):
        raise ValueError(f"{path}: M must have {len(Y)} rows, the bands of the scene, got shape {M.shape}")
    if A is not None and A.shape[1] != Y.shape[1]:
        raise ValueError(f"{path}: A must have {Y.shape[1]} columns, the pixels of the scene, got shape {A.shape}")
    counts = {len(part) for part in (M.T if M is not None else None, A, names or None) if part is not None}
    if len(counts) > 1:
        raise ValueError(f"{path}: M, A and cood must be about as many endmembers, got {sorted(counts)}")
