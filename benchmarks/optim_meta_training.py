"""Make the meta-parameters that `resolvent.optim.LearnedOptimizer` ships: a muP optimizer and its twin without muP.

    OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 python benchmarks/optim_meta_training.py mup learned_meta.safetensors
    OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 python benchmarks/optim_meta_training.py sp learned_sp.safetensors

Both learn from the same data (1400 handwritten digits of 8 x 8 pixels, ReLU networks with two hidden layers of 64 units) with the same
settings and the same seed, in about four minutes of one core each.
"""

import sys
import time

import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits

from resolvent.optim import PerceptronTask, meta_train

SETTINGS = {"steps": 300, "hidden": 4, "layers": 2, "pairs": 8, "lr": 1e-2, "truncation": 25, "longest": 500}


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels of mean 0 and variance 1, and the classes; the last 397 pictures are kept for tests."""
    found = load_digits()
    pixels = torch.tensor(found.data, dtype=torch.float32)
    return ((pixels - pixels.mean()) / pixels.std())[:1400], torch.tensor(found.target)[:1400]


def main(parametrization: str, path: str) -> None:
    start = time.process_time()

    def show(step: int, loss: float, _: object) -> None:
        if step % 10 == 0:
            print(f"{step:5d}  mean loss {loss:.4f}  {time.process_time() - start:6.1f} s", flush=True)

    task = PerceptronTask(*digits(), width=64, base_width=64)
    meta = meta_train(task, parametrization=parametrization, generator=0, callback=show, **SETTINGS)
    save_file(meta, path, {"parametrization": parametrization, "base_width": "64"})


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
