"""Two processes with sharded parameters do what one process does: `DTensor` for every method, and FSDP on top of it."""

import os
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from cases import CASES, close, network, parameters, train

NAMES = [name for name, case in CASES.items() if case.build is None]


@pytest.fixture(scope="module")
def sharded():
    """What two processes end with, by case; one pair of processes serves all of them."""
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("needs torch.distributed with gloo")
    with tempfile.TemporaryDirectory() as folder:
        script = [sys.executable, str(Path(__file__)), folder]
        ranks = [_start([*script, str(rank)]) for rank in range(2)]
        try:
            told = [rank.communicate(timeout=240)[0].decode() for rank in ranks]
        finally:
            for rank in ranks:
                rank.kill()
        assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(told)
        yield torch.load(Path(folder) / "result.pt", weights_only=True)


def _start(command):
    import subprocess

    threads = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, **threads})


@pytest.mark.parametrize("name", sorted(NAMES))
def test_sharded_parameters_step_as_in_one_process(name, sharded):
    params = parameters(shapes=_SHAPES)
    _steps(CASES[name], params, lambda g: g)
    found = sharded[name]
    assert not isinstance(found, str), found
    close(found, params, 1e-6 * CASES[name].loose)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_fsdp_trains_as_one_process(name, sharded):
    case, model = CASES[name], network()
    if case.kind.needs != "grads":
        pytest.skip("FSDP gathers gradients, not their graph")
    train(case, case.over(model), model, range(3))
    found = sharded[f"fsdp {name}"]
    assert not isinstance(found, str), found
    close(found, list(model.parameters()), 1e-5 * case.loose)


# A matrix whose rows do not divide by two, one with fewer rows than processes, a vector, a kernel.
_SHAPES = ((5, 4), (1, 3), (6,), (4, 2, 2, 2))


def _steps(case, params, spread):
    """Three steps; `spread` brings parameters' gradients to where their parameters are."""
    optimizer = case(params, weight_decay=0.125)
    if case.kind.needs == "graph":
        for _ in range(3):
            optimizer.zero_grad()
            loss = sum((0.5 * p.square() + (p.square() - 1).square() / 4).sum() for p in params)
            loss.backward(create_graph=True)
            optimizer.step()
        return
    draw = torch.Generator().manual_seed(4)
    for _ in range(3):
        for p, shape in zip(params, _SHAPES, strict=True):
            p.grad = spread(torch.randn(shape, generator=draw) + 0.5)
        optimizer.step()


def _worker(folder, rank):
    """One of the two processes."""
    from datetime import timedelta

    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import Shard, distribute_tensor

    meeting = {"init_method": f"file://{folder}/meeting", "timeout": timedelta(seconds=60)}
    dist.init_process_group("gloo", rank=rank, world_size=2, **meeting)
    mesh, result = init_device_mesh("cpu", (2,)), {}

    def spread(t):
        return distribute_tensor(t, mesh, [Shard(0)])

    for name in NAMES:
        params = [torch.nn.Parameter(spread(p.detach())) for p in parameters(shapes=_SHAPES)]
        try:
            _steps(CASES[name], params, spread)
            result[name] = [p.full_tensor().detach() for p in params]
        except (RuntimeError, NotImplementedError, ValueError, TypeError) as error:
            result[name] = f"{type(error).__name__}: {error}"
        if CASES[name].kind.needs == "grads":
            model = network()
            fully_shard(model[0], mesh=mesh)
            fully_shard(model, mesh=mesh)
            train(CASES[name], CASES[name].over(model), model, range(3))
            result[f"fsdp {name}"] = [p.full_tensor().detach() for p in model.parameters()]
    if rank == 0:
        torch.save(result, Path(folder) / "result.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    _worker(sys.argv[1], int(sys.argv[2]))
