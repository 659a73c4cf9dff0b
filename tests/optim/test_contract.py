"""What every optimizer of the room keeps to, whatever its method: names, groups, checkpoints, schedules, refusals."""

import copy
import inspect
import pickle

import pytest
import torch
from cases import CASES, close, equal, go, gradients, loss_of, network, parameters, saved, tensors, train
from torch import nn

LISTS = [name for name, case in CASES.items() if case.build is None]
every = pytest.mark.parametrize("name", sorted(CASES))
over_lists = pytest.mark.parametrize("name", sorted(LISTS))


def first_order(case):
    if case.kind.needs != "grads":
        pytest.skip("needs more than gradients")


@every
def test_names_and_defaults_are_those_of_adamw(name):
    case = CASES[name]
    ours, adamw = (inspect.signature(k.__init__).parameters for k in (case.kind, torch.optim.AdamW))
    assert issubclass(case.kind, torch.optim.Optimizer)
    assert {"lr", "weight_decay", "maximize"} <= set(ours)
    for shared in ("foreach", "maximize", "fused"):
        if shared in ours:
            assert ours[shared].default == adamw[shared].default
            assert ours[shared].kind is inspect.Parameter.KEYWORD_ONLY
    assert ("fused" in ours) == case.kind.has_fused
    if case.build is None:
        assert list(ours)[1] == "params" and "foreach" in ours
    assert case.kind.__doc__ and "Examples" in case.kind.__doc__


@over_lists
def test_goes_down_and_reports_no_loss(name):
    case, params = CASES[name], parameters()
    optimizer = case(params)
    before = float(loss_of(params).detach())
    go(case, optimizer, params, 20)
    assert float(loss_of(params).detach()) < before
    assert optimizer.param_groups[0]["params"] == params


@over_lists
def test_hyper_parameters_may_differ_per_group(name):
    case = CASES[name]
    if case.random:
        pytest.skip("the order of the draws differs")
    params, left, right = parameters(), parameters(), parameters()
    optimizer = case([{"params": params[:2]}, {"params": params[2:], **case.change}])
    go(case, optimizer, params, 4)
    one, other = case(left[:2]), case(right[2:], **case.change)
    go(case, one, left[:2], 4)
    go(case, other, right[2:], 4)
    close(params, left[:2] + right[2:], 1e-6 * case.loose)


@over_lists
def test_a_group_can_be_added_later(name):
    case, params = CASES[name], parameters()
    optimizer = case(params[:2])
    go(case, optimizer, params, 3)
    start = [p.detach().clone() for p in params]
    optimizer.add_param_group({"params": params[2:], **case.change})
    go(case, optimizer, params, 3)
    assert all(not torch.equal(p, q) for p, q in zip(params, start, strict=True) if p.numel())
    if not case.random:
        alone = parameters()[2:]
        go(case, case(alone, **case.change), alone, 3)
        close(params[2:], alone, 1e-6 * case.loose)


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_resumes_bitwise(name, dtype):
    case = CASES[name]
    if case.build is not None and dtype != torch.float32:
        pytest.skip("one precision is enough for a method with its own model")
    straight, stopped = network(dtype), network(dtype)
    train(case, case.over(straight), straight, range(20))
    optimizer = case.over(stopped)
    train(case, optimizer, stopped, range(10))
    kept, model = saved(optimizer), network(dtype)
    model.load_state_dict(stopped.state_dict())
    fresh = case.over(model)
    fresh.load_state_dict(kept)
    assert [t.dtype for _, t in tensors(fresh)] == [t.dtype for _, t in tensors(optimizer)]
    train(case, fresh, model, range(10, 20))
    equal(model.parameters(), straight.parameters())


@over_lists
@pytest.mark.parametrize("way", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))], ids=["deepcopy", "pickle"])
def test_a_copy_goes_on_alike(name, way):
    case, params = CASES[name], parameters()
    optimizer = case(params)
    go(case, optimizer, params, 3)
    twin = way(optimizer)
    copies = twin.param_groups[0]["params"]
    assert type(twin) is type(optimizer) and copies[0] is not params[0]
    go(case, optimizer, params, 3)
    go(case, twin, copies, 3)
    equal(params, copies)


@over_lists
def test_parameters_without_gradient_stay(name):
    case, params = CASES[name], parameters()
    still = params[1].detach().clone()
    optimizer = case(params)
    go(case, optimizer, [params[0], *params[2:]], 2)
    assert torch.equal(params[1], still)
    assert params[1] not in optimizer.state or not optimizer.state[params[1]]
    go(case, optimizer, params, 2)
    assert not torch.equal(params[1], still)
    empty = case(parameters())
    empty.step() if case.kind.needs == "grads" else None


@over_lists
def test_sparse_gradients_are_refused(name):
    case = CASES[name]
    first_order(case)
    table = nn.Embedding(5, 3, sparse=True)
    optimizer = case(table.parameters())
    table(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(RuntimeError, match="sparse"):
        optimizer.step()


@over_lists
def test_maximize_is_descent_on_the_negative(name):
    case, up, down = CASES[name], parameters(), parameters()
    go(case, case(up, maximize=True), up, 3, sign=-1.0)
    go(case, case(down), down, 3)
    close(up, down, 1e-6 * case.loose)


@over_lists
def test_closures_give_the_loss(name):
    case, params, plain = CASES[name], parameters(), parameters()
    optimizer, reference = case(params), case(plain)
    for _ in range(2):
        loss = optimizer.step(lambda: gradients(case, optimizer, params))
        assert float(loss) == pytest.approx(float(gradients(case, reference, plain)), rel=1e-5)
        reference.step()
    close(params, plain, 1e-6 * case.loose)


@over_lists
def test_lr_may_be_a_tensor_and_follow_a_schedule(name):
    case = CASES[name]
    if case.lr is None:
        pytest.skip("finds its own step size")
    runs = []
    for lr in (case.lr, torch.tensor(case.lr)):
        params = parameters()
        optimizer = case(params, lr=lr)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 0.5**t)
        for _ in range(3):
            go(case, optimizer, params, 1)
            schedule.step()
        runs.append(params)
    by_hand = parameters()
    optimizer = case(by_hand)
    for t in range(3):
        optimizer.param_groups[0]["lr"] = case.lr * 0.5**t
        go(case, optimizer, by_hand, 1)
    close(runs[0], by_hand, 1e-7)
    close(runs[1], by_hand, 1e-7)
    still = parameters()
    optimizer = case(still)
    go(case, optimizer, still, 1)
    # The first step without a step size may end a move that a method made in advance.
    optimizer.param_groups[0]["lr"] = 0.0
    go(case, optimizer, still, 1)
    before = [p.detach().clone() for p in still]
    go(case, optimizer, still, 1)
    close(still, before, 1e-7)


@over_lists
def test_bad_hyper_parameters_are_refused(name):
    case = CASES[name]
    accepted = inspect.signature(case.kind.__init__).parameters
    wrong = [
        {"lr": -1.0},
        {"lr": float("nan")},
        {"weight_decay": -0.1},
        {"eps": -1.0},
        {"betas": (1.0, 0.9)},
        {"lr": "fast"},
    ]
    for options in [*(w for w in wrong if set(w) <= set(accepted)), *case.bad]:
        with pytest.raises((ValueError, TypeError), match=next(iter(options)).replace("_", ".")):
            case(parameters(), **options)
    optimizer = case(parameters())
    with pytest.raises((ValueError, TypeError), match="weight_decay"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(2))], "weight_decay": -1.0})
    assert len(optimizer.param_groups) == 1
    with pytest.raises(ValueError):
        case([])
    if case.kind.has_fused:
        with pytest.raises(ValueError, match="fused"):
            case(parameters(), foreach=True, fused=True)


@over_lists
def test_refuses_to_step_without_its_needs(name):
    case, params = CASES[name], parameters()
    if case.kind.needs != "graph":
        pytest.skip("needs gradients only")
    optimizer = case(params)
    loss_of(params).backward()
    with pytest.raises(RuntimeError, match="create_graph"):
        optimizer.step()
