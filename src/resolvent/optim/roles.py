"""The role of every parameter: embedding, input, hidden matrix, readout or vector."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, Literal

from torch import nn

Role = Literal["embedding", "input", "hidden", "readout", "vector"]
ROLES = ("embedding", "input", "hidden", "readout", "vector")

# Names that the authors of models give to their last layer.
_READOUT = re.compile(
    r"(^|[._])(lm_head|head|heads|classifier|readout|unembed|unembedding|fc_out|out_proj_vocab|output_layer|decoder_head|to_logits|logits)($|[._])"
)


class Roles(dict[str, Role]):
    """The roles of a model's parameters by name; prints as a table.

    Parameters
    ----------
    roles : name and role
    shapes : name and shape, for the table

    Examples
    --------
    >>> print(roles(nn.Sequential(nn.Linear(2, 8), nn.Linear(8, 8), nn.Linear(8, 3))))
    0.weight  (8, 2)  input
    0.bias    (8,)    vector
    1.weight  (8, 8)  hidden
    1.bias    (8,)    vector
    2.weight  (3, 8)  readout
    2.bias    (3,)    vector
    """

    def __init__(self, roles: Mapping[str, Role], shapes: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__(roles)
        self.shapes = dict(shapes)

    def __str__(self) -> str:
        names = max((len(name) for name in self), default=0)
        shapes = max((len(str(self.shapes[name])) for name in self), default=0)
        return "\n".join(f"{name:<{names}}  {self.shapes[name]!s:<{shapes}}  {role}" for name, role in self.items())


def roles(model: nn.Module, override: Mapping[str, Role] | None = None) -> Roles:
    """Find the role of every parameter of a model.

    Parameters
    ----------
    model : any module
    override : role by parameter name or by pattern ("*.head.weight"); later patterns win

    Returns
    -------
    A mapping from parameter names, in the model's order, which prints as a table.

    Raises
    ------
    ValueError : an unknown role, or a pattern that no parameter has.

    Notes
    -----
    Tensors with fewer than two axes longer than one, and all of normalisation layers, are vectors; weights of `nn.Embedding` are
    embeddings (also where the readout shares them). The readout is a matrix whose name says so (head, classifier, readout, ...), else the last
    matrix in the order of registration. The first matrix is the input where there is no embedding before it and it is not the
    readout. All other matrices are hidden. The order of registration is usually that of execution; where it is not,
    `override` says what is right.

    Examples
    --------
    >>> model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 4), nn.Linear(4, 10))
    >>> dict(roles(model, override={"1.*": "vector"}))["2.weight"]
    'readout'
    """
    owners = {
        f"{prefix}.{name}" if prefix else name: module
        for prefix, module in model.named_modules(remove_duplicate=False)
        for name in module._parameters
    }
    found: dict[str, Role] = {}
    matrices: list[str] = []
    for name, p in model.named_parameters():
        owner = owners.get(name)
        if isinstance(owner, (nn.Embedding, nn.EmbeddingBag)):
            found[name] = "embedding"
        elif _is_vector(name, p, owner):
            found[name] = "vector"
        else:
            found[name] = "hidden"
            matrices.append(name)
    _mark(found, matrices, tied=_has_tied_embedding(model))
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    for pattern, role in (override or {}).items():
        if role not in ROLES:
            raise ValueError(f"override must give one of {', '.join(ROLES)}, got {role!r} for {pattern!r}")
        hit = [name for name in found if fnmatchcase(name, pattern)]
        if not hit:
            raise ValueError(
                f"override: no parameter is called {pattern!r}; there are {', '.join(list(found)[:8])}, ..."
            )
        found.update(dict.fromkeys(hit, role))
    return Roles(found, shapes)


def _is_vector(name: str, p: nn.Parameter, owner: nn.Module | None) -> bool:
    if isinstance(owner, (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.batchnorm._NormBase)):
        return True
    # The weight of a layer with one input or output is a matrix all the same.
    return sum(n > 1 for n in p.shape) < 2 and not (p.ndim >= 2 and _is_matrix(owner))


def _is_matrix(owner: nn.Module | None) -> bool:
    return isinstance(owner, (nn.Linear, nn.Bilinear, nn.modules.conv._ConvNd, nn.RNNBase, nn.MultiheadAttention))


def _has_tied_embedding(model: nn.Module) -> bool:
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    return any(
        id(p) in tables for m in model.modules() if not isinstance(m, nn.Embedding) for p in m._parameters.values()
    )


def _mark(found: dict[str, Role], matrices: list[str], tied: bool) -> None:
    """Tell readouts and the input from the hidden matrices."""
    named = [name for name in matrices if _READOUT.search(name)]
    # A tied readout is the embedding: then the last matrix is one like the others.
    readouts = named or ([] if tied else matrices[-1:])
    for name in readouts:
        found[name] = "readout"
    order = list(found)
    rest = [name for name in matrices if name not in readouts]
    if rest:
        before = order[: order.index(rest[0])]
        if not any(found[name] == "embedding" for name in before):
            found[rest[0]] = "input"


def param_groups_by_role(
    model: nn.Module,
    *,
    override: Mapping[str, Role] | None = None,
    embedding: Mapping[str, Any] | None = None,
    input: Mapping[str, Any] | None = None,
    hidden: Mapping[str, Any] | None = None,
    readout: Mapping[str, Any] | None = None,
    vector: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Groups of parameters by role, each with options of its own.

    Parameters
    ----------
    model : any module; parameters that need no gradient are left out
    override : as in `roles`
    embedding, input, hidden, readout, vector : options of the group, for example `{"lr": 1e-3, "weight_decay": 0.0}`

    Returns
    -------
    Groups for an optimizer, each with "params", "role" and "names"; roles that no parameter has are left out.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> groups = param_groups_by_role(model, vector={"weight_decay": 0.0})
    >>> [(group["role"], len(group["params"])) for group in groups]
    [('input', 1), ('readout', 1), ('vector', 2)]
    """
    known = roles(model, override)
    options = dict(zip(ROLES, (embedding, input, hidden, readout, vector), strict=True))
    params = dict(model.named_parameters())
    groups = []
    for role in ROLES:
        names = [name for name, r in known.items() if r == role and params[name].requires_grad]
        if names:
            group = {"params": [params[name] for name in names], "role": role, "names": names}
            groups.append({**group, **(options[role] or {})})
    return groups
