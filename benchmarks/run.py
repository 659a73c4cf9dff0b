"""Run every benchmark, or those whose names contain one of the words given, and say what the machine can do at most."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import _timing

HERE = Path(__file__).resolve().parent


def scripts(words: list[str]) -> list[Path]:
    """The benchmark scripts beside this one, in the order of their names."""
    every = [path for path in sorted(HERE.glob("[!_]*.py")) if path.name != "run.py"]
    return [path for path in every if not words or any(word in path.stem for word in words)]


def main() -> int:
    chosen = scripts(sys.argv[1:])
    if not chosen:
        print(f"no benchmark's name contains {' or '.join(sys.argv[1:])}", file=sys.stderr)
        return 2
    print(_timing.machine(), flush=True)
    failed = []
    for path in chosen:
        print(f"\n== {path.stem}", flush=True)
        start = time.perf_counter()
        # Each in a process of its own: what one loads or allocates does not weigh on the next.
        if subprocess.run([sys.executable, str(path)], check=False).returncode:
            failed.append(path.stem)
        print(f"-- {time.perf_counter() - start:.0f} s", flush=True)
    if failed:
        print(f"\nfailed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
