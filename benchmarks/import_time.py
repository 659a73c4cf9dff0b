"""What importing costs beyond `import torch`: fresh interpreters, in turn, the median of the differences."""

from __future__ import annotations

import statistics
import subprocess
import sys

import _timing

STATEMENTS = {
    "import resolvent": "import resolvent",
    "as_operator": "from resolvent import as_operator",
    "spectra.norm": "from resolvent.spectra import norm",
    "spectra.svds": "from resolvent.spectra import svds",
    "scipy.sparse.linalg": "import scipy.sparse.linalg",
}
CODE = "import time, torch; start = time.perf_counter(); {}; print(time.perf_counter() - start)"


def seconds(statement: str) -> float:
    """Seconds that one statement takes in a fresh interpreter that has torch."""
    done = subprocess.run([sys.executable, "-c", CODE.format(statement)], capture_output=True, text=True, check=True)
    return float(done.stdout)


def main(repeats: int = 5) -> None:
    times: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for _ in range(repeats):
        for name, statement in STATEMENTS.items():
            times[name].append(seconds(statement))
    rows = [(name, statistics.median(values), min(values)) for name, values in times.items()]
    _timing.table("seconds beyond `import torch`", ["statement", "median", "least"], rows)


if __name__ == "__main__":
    main()
