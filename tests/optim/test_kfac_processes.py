"""Inverse-free KFAC over processes: statistics that are summed give the steps of one process with all samples."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from resolvent.optim import InverseFreeKFAC

STRUCTURES = ("dense", "diag", "lowrank", "hierarchical")


def trained(structure, x, y, share):
    """Five steps; `share` averages gradients over processes."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    optimizer = InverseFreeKFAC(model, lr=0.05, lr_cov=0.1, interval=1, warmup=(), structure=structure, rank=2)
    for _ in range(5):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        share(model)
        optimizer.step()
    return [p.detach() for p in model.parameters()]


def samples():
    draw = torch.Generator().manual_seed(3)
    return torch.randn(8, 5, dtype=torch.float64, generator=draw), torch.randint(0, 3, (8,), generator=draw)


def worker(folder, rank):
    from datetime import timedelta

    import torch.distributed as dist

    dist.init_process_group(
        "gloo", rank=rank, world_size=2, init_method=f"file://{folder}/meeting", timeout=timedelta(seconds=60)
    )

    def share(model):
        for p in model.parameters():
            dist.all_reduce(p.grad)
            p.grad /= 2

    x, y = (t[4 * rank : 4 * rank + 4] for t in samples())
    torch.save({s: trained(s, x, y, share) for s in STRUCTURES}, Path(folder) / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def test_two_processes_step_as_one_with_all_samples(tmp_path):
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("needs torch.distributed with gloo")
    command = [sys.executable, str(Path(__file__)), str(tmp_path)]
    threads = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [*command, str(rank)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, **threads}
        )
        for rank in range(2)
    ]
    try:
        told = [rank.communicate(timeout=120)[0].decode() for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(told)
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    x, y = samples()
    for structure in STRUCTURES:
        wanted = trained(structure, x, y, lambda model: None)
        for ps in (found[0][structure], found[1][structure]):
            for p, w in zip(ps, wanted, strict=True):
                torch.testing.assert_close(p, w, rtol=1e-9, atol=1e-12)


if __name__ == "__main__":
    worker(sys.argv[1], int(sys.argv[2]))
