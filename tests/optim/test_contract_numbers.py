"""What every optimizer of the room keeps to with other precisions, other memory and other paths."""

import copy

import pytest
import torch
from cases import CASES, batch, close, equal, go, gradients, loss_of, network, parameters, saved, tensors
from torch import nn

over_lists = pytest.mark.parametrize("name", sorted(name for name, case in CASES.items() if case.build is None))


def first_order(case):
    if case.kind.needs != "grads":
        pytest.skip("needs more than gradients")


@over_lists
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
def test_half_precision_parameters_have_state_in_float32(name, dtype):
    case, params, wide = CASES[name], parameters(dtype), parameters(dtype)
    optimizer = case(params)
    gradients(case, optimizer, params)
    optimizer.step()
    wide = [nn.Parameter(p.detach().float()) for p in wide]
    reference = case(wide)
    gradients(case, reference, wide)
    if case.kind.needs == "grads":
        for p, q in zip(params, wide, strict=True):
            q.grad = p.grad.float()
        reference.step()
        close(params, [p.to(dtype) for p in wide], torch.finfo(dtype).eps)
    assert all(p.dtype == dtype for p in params)
    for label, t in tensors(optimizer):
        assert not t.is_floating_point() or t.dtype == torch.float32 or label in case.narrow, label


@over_lists
def test_a_step_inside_autocast_is_the_step_outside(name):
    case = CASES[name]
    if case.kind.needs == "graph":
        pytest.skip("the second derivatives themselves are taken in the precision of the graph")
    inside, outside = network(), network()
    optimizers = [case.over(inside), case.over(outside)]
    for number in range(3):
        x, y = batch(number)
        for model, optimizer, enabled in zip((inside, outside), optimizers, (True, False), strict=True):
            optimizer.zero_grad()
            nn.functional.mse_loss(model(x), y).backward()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
                optimizer.step()
    equal(inside.parameters(), outside.parameters())
    assert [t.dtype for _, t in tensors(optimizers[0])] == [t.dtype for _, t in tensors(optimizers[1])]


@over_lists
def test_grad_scaler_skips_a_step_with_infinite_gradients(name):
    case = CASES[name]
    first_order(case)
    params, plain = parameters(), parameters()
    optimizer, reference = case(params), case(plain)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**6)
    for spoiled in (False, True, False):
        optimizer.zero_grad()
        scaler.scale(loss_of(params)).backward()
        before = [p.detach().clone() for p in params], copy.deepcopy(optimizer.state_dict()["state"])
        if spoiled:
            params[0].grad[0, 0] = torch.inf
        scaler.step(optimizer)
        scaler.update()
        if spoiled:
            equal(params, before[0])
            assert str(optimizer.state_dict()["state"]) == str(before[1])
        else:
            gradients(case, reference, plain)
            reference.step()
    close(params, plain, 1e-5 * case.loose)


@over_lists
def test_complex_parameters_are_pairs_of_real_ones(name):
    case = CASES[name]
    values = parameters(torch.complex64, shapes=((4, 3), (5,)))
    pairs = [nn.Parameter(torch.view_as_real(v.detach()).clone()) for v in values]
    optimizer = case(values)
    if not case.kind.takes_complex:
        gradients(case, optimizer, values)
        with pytest.raises(RuntimeError, match="complex"):
            optimizer.step()
        return
    go(case, optimizer, values, 4)
    go(case, case(pairs), pairs, 4)
    close([torch.view_as_real(v.detach()) for v in values], pairs, 1e-6 * case.loose)


@over_lists
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_all_paths_agree(name, dtype):
    case = CASES[name]
    options = [{"foreach": True}, {"foreach": None}]
    if case.kind.has_fused and case(parameters())._can_fuse(case(parameters()).param_groups[0]):
        options.append({"fused": True})
    reference = _path(case, dtype, {"foreach": False})
    for option in options:
        close(_path(case, dtype, option), reference, (1e-6 if dtype == torch.float32 else 1e-12) * case.loose)


def _path(case, dtype, options):
    """Six steps; the gradients of a first-order method are given, so that differences do not feed on themselves."""
    params = parameters(dtype)
    optimizer = case(params, weight_decay=0.125, **options)
    draw = torch.Generator().manual_seed(9)
    for _ in range(6):
        gradients(case, optimizer, params)
        if case.kind.needs == "grads":
            for p in params:
                p.grad = (torch.randn(p.shape, generator=draw, dtype=torch.float64) + 0.5).to(dtype)
        optimizer.step()
    optimizer.zero_grad()
    return params


@over_lists
def test_memory_need_not_be_contiguous(name):
    case = CASES[name]
    plain = parameters(shapes=((6, 5), (4, 3, 2, 2), (4,)))
    strided = [
        nn.Parameter(plain[0].detach().t().contiguous().t()),
        nn.Parameter(plain[1].detach().clone().to(memory_format=torch.channels_last)),
        nn.Parameter(plain[2].detach().repeat_interleave(2)[::2]),
    ]
    assert not any(p.is_contiguous() for p in strided)
    optimizer = case(strided)
    go(case, optimizer, strided, 3)
    go(case, case(plain), plain, 3)
    close(strided, plain, 1e-6 * case.loose)
    # The state goes on with a parameter that lies in memory in another order.
    kept = saved(optimizer)
    packed = [nn.Parameter(p.detach().contiguous()) for p in strided]
    fresh = case(packed)
    fresh.load_state_dict(kept)
    go(case, fresh, packed, 2)
    go(case, optimizer, strided, 2)
    close(packed, strided, 1e-6 * case.loose)


@over_lists
def test_gradients_need_not_be_contiguous(name):
    case = CASES[name]
    first_order(case)
    one, other = parameters(shapes=((6, 5),)), parameters(shapes=((6, 5),))
    left, right = case(one), case(other)
    for _ in range(3):
        g = torch.randn(5, 6)
        one[0].grad, other[0].grad = g.t(), g.t().contiguous()
        left.step()
        right.step()
    close(one, other, 1e-6 * case.loose)


@over_lists
def test_empty_and_single_numbers(name):
    case = CASES[name]
    params = parameters(shapes=((0,), (), (0, 4)))
    optimizer = case(params)
    go(case, optimizer, params, 3)
    assert torch.isfinite(params[1]) and params[0].shape == (0,)
    if case.kind.needs == "grads":
        assert not optimizer.state.get(params[0])


@over_lists
def test_zero_gradients_give_no_nan(name):
    case, params = CASES[name], [nn.Parameter(torch.zeros(3, 2)), nn.Parameter(torch.ones(4))]
    optimizer = case(params)
    for _ in range(2):
        optimizer.zero_grad()
        (sum((p**2 * 0).sum() for p in params)).backward(create_graph=optimizer.needs == "graph")
        optimizer.step()
    assert all(bool(torch.isfinite(p).all()) for p in params)


@pytest.mark.filterwarnings("ignore:Dynamo")
@over_lists
def test_torch_compile_takes_the_step(name):
    case = CASES[name]
    first_order(case)
    if not case.compiles:
        pytest.skip("chooses its work by values")
    params, plain = parameters(shapes=((3, 2), (4,))), parameters(shapes=((3, 2), (4,)))
    optimizer, reference = case(params), case(plain)
    step = torch.compile(optimizer.step, backend="eager")
    for _ in range(2):
        gradients(case, optimizer, params)
        step()
        gradients(case, reference, plain)
        reference.step()
    torch._dynamo.reset()
    close(params, plain, 1e-6 * case.loose)
