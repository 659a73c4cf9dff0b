"""Roles of parameters in the models that users have."""

import pytest
import torch
from torch import nn

from resolvent import optim


class LanguageModel(nn.Module):
    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.wte = nn.Embedding(50, 16)
        self.block = nn.TransformerEncoderLayer(16, 2, 32)
        self.norm = nn.LayerNorm(16)
        self.lm_head = nn.Linear(16, 50, bias=False)
        if tied:
            self.lm_head.weight = self.wte.weight


def test_a_language_model_has_an_embedding_a_readout_and_hidden_matrices():
    found = optim.roles(LanguageModel(tied=False))
    assert found["wte.weight"] == "embedding" and found["lm_head.weight"] == "readout"
    assert found["block.self_attn.in_proj_weight"] == "hidden" and found["block.linear2.weight"] == "hidden"
    assert found["norm.weight"] == "vector" and found["block.linear1.bias"] == "vector"
    assert "input" not in found.values()


def test_a_tied_readout_is_the_embedding_and_no_hidden_matrix_takes_its_place():
    found = optim.roles(LanguageModel(tied=True))
    assert found["wte.weight"] == "embedding" and "readout" not in found.values()


def test_a_convolutional_net_begins_with_an_input_and_ends_with_a_readout():
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(8, 10)
    )
    assert list(optim.roles(net).values()) == [
        "input",
        "vector",
        "vector",
        "vector",
        "hidden",
        "vector",
        "readout",
        "vector",
    ]


def test_a_layer_with_one_output_is_a_matrix():
    assert list(optim.roles(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 1))).values())[2] == "readout"


def test_one_layer_alone_is_a_readout():
    assert optim.roles(nn.Linear(3, 2))["weight"] == "readout"


def test_parameters_without_a_layer_of_their_own_count_by_shape():
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.scale = nn.Parameter(torch.zeros(4, 4)), nn.Parameter(torch.zeros(4, 1))
            self.second = nn.Parameter(torch.zeros(4, 4))

    assert dict(optim.roles(Own())) == {"first": "input", "scale": "vector", "second": "readout"}


def test_override_by_pattern_wins_and_must_hit():
    net = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 1))
    assert optim.roles(net, {"*.weight": "hidden"})["2.weight"] == "hidden"
    with pytest.raises(ValueError, match="no parameter is called 'nothing'"):
        optim.roles(net, {"nothing": "hidden"})
    with pytest.raises(ValueError, match="override must give one of"):
        optim.roles(net, {"*": "middle"})  # type: ignore[dict-item]


def test_groups_leave_out_what_needs_no_gradient_and_feed_an_optimizer():
    net = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 1))
    net[0].weight.requires_grad_(False)
    groups = optim.param_groups_by_role(net, hidden={"lr": 0.5}, vector={"weight_decay": 0.0})
    assert [g["role"] for g in groups] == ["hidden", "readout", "vector"]
    assert groups[0]["names"] == ["1.weight"]
    made = torch.optim.AdamW(groups, lr=0.1)
    assert [g["lr"] for g in made.param_groups] == [0.5, 0.1, 0.1]
