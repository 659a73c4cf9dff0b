"""Descriptors of the surroundings of atoms, in which elements are numbers of the periodic table instead of channels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

# Numbers of the elements that end the periods.
_NOBLE = (0, 2, 10, 18, 36, 54, 86, 118)
PROPERTIES = ("one", "period", "valence", "holes", "d")


def element_properties(Z: Int[Tensor, "*n"]) -> Float[Tensor, "*n 5"]:
    """Numbers that say where elements stand in the periodic table.

    Parameters
    ----------
    Z : atomic numbers, 0 (no atom) to 118

    Returns
    -------
    float64, in the order one, period n, valence m (s and p electrons outside the closed shells, 1 to 8), holes 8 - m, and electrons d in the
    d shell (0 outside of the d block); zeros where Z is 0.

    Raises
    ------
    ValueError : a number outside of 0 to 118.

    Notes
    -----
    Elements of the d block have valence 2, those of the f block also d = 1. Helium stands in group 18 with valence 8.
    Which properties there are follows the idea of the paper, not its list, which was not at hand.

    References
    ----------
    "Lifelong Machine Learning Potentials"

    Examples
    --------
    >>> element_properties(torch.tensor([1, 8, 26])).int().tolist()
    [[1, 1, 1, 7, 0], [1, 2, 6, 2, 0], [1, 4, 2, 6, 6]]
    """
    Z = torch.as_tensor(Z)
    if Z.is_floating_point() or (Z.numel() and (int(Z.min()) < 0 or int(Z.max()) > 118)):
        raise ValueError("Z must be integers from 0 (no atom) to 118")
    return torch.tensor([_row(z) for z in range(119)], dtype=torch.float64, device=Z.device)[Z.long()]


def eeacsf(
    positions: Float[Tensor, "*batch n 3"],
    Z: Int[Tensor, "*batch n"],
    cutoff: float = 6.0,
    *,
    radial_etas: Sequence[float] = (0.0, 0.1, 0.4, 1.6),
    angular_etas: Sequence[float] = (0.0, 0.1),
    zetas: Sequence[float] = (1.0, 4.0),
    properties: Sequence[str] = PROPERTIES,
) -> Float[Tensor, "*batch n features"]:
    r"""Element-embracing atom-centered symmetry functions: sums over neighbours weighted by their place in the periodic table.

    Radial: :math:`\sum_{j} H_j e^{-\eta R_{ij}^2} f(R_{ij})`. Angular:
    :math:`\sum_{j<k} |H_j + \gamma H_k|\, 2^{1-\zeta} (1 + \lambda\cos\theta_{jik})^\zeta e^{-\eta (R_{ij}^2 + R_{ik}^2)} f(R_{ij}) f(R_{ik})`.

    Parameters
    ----------
    positions : coordinates of the atoms
    Z : atomic numbers; 0 fills up a batch of molecules of different size, and its features are 0
    cutoff : radius R_c, in the unit of the positions
    radial_etas, angular_etas : widths, in 1 / unit^2
    zetas : sharpness of the angle, at least 1; each with lambda = 1 and -1
    properties : H, of "one", "period", "valence", "holes", "d" (see `element_properties`)

    Returns
    -------
    Features of every atom: first radial (eta by eta, properties inside), then angular (eta, zeta, lambda, property, gamma). For the property
    "one", gamma = -1 would give zeros and is left out. The number of features does not depend on the number of elements.

    Raises
    ------
    ValueError : shapes that do not fit, a cutoff that is not positive, an unknown property, atoms at the same place.

    Notes
    -----
    f(R) = exp(1 - 1 / (1 - (R / R_c)^2)) has all derivatives, zero at the cutoff. Invariant under rotation, translation, reflection and the order of
    atoms; differentiable in the positions. Cost n^3 for each feature of the angular kind, memory n^3 for each molecule. Which
    properties and parameters serve best is a choice of the user; the defaults cover molecules in Angstrom.

    References
    ----------
    "Lifelong Machine Learning Potentials"

    Examples
    --------
    >>> water = torch.tensor([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])
    >>> eeacsf(water, torch.tensor([8, 1, 1])).shape
    torch.Size([3, 92])
    """
    H, distances, near, cosines = _geometry(positions, Z, cutoff, properties)
    found = []
    ones = list(properties)
    for eta in radial_etas:
        found.append(torch.einsum("...ij,...jh->...ih", near * torch.exp(-eta * distances.square()), H))
    # Each pair of neighbours is met twice, and an atom is no neighbour of itself.
    half = 0.5 * (1 - torch.eye(H.shape[-2], dtype=H.dtype, device=H.device))
    pairs = {gamma: (H[..., :, None, :] + gamma * H[..., None, :, :]).abs() * half[..., None] for gamma in (1.0, -1.0)}
    for eta in angular_etas:
        weight = near * torch.exp(-eta * distances.square())
        both = weight[..., :, :, None] * weight[..., :, None, :]
        for zeta in zetas:
            if zeta < 1:
                raise ValueError(f"zetas must be at least 1, got {zeta}")
            for sign in (1.0, -1.0):
                terms = both * 2 ** (1 - zeta) * (1 + sign * cosines).clamp(min=0.0) ** zeta
                plus, minus = (torch.einsum("...ijk,...jkh->...ih", terms, pairs[g]) for g in (1.0, -1.0))
                kept = [i for i, name in enumerate(ones) if name != "one"]
                found.append(torch.cat([plus, minus[..., kept]], -1))
    return torch.cat(found, -1)


def _geometry(
    positions: Tensor, Z: Tensor, cutoff: float, properties: Sequence[str]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Properties of the atoms, distances, the cutoff function of each pair (0 for no pair), cosines of angles at i."""
    positions, Z = torch.as_tensor(positions), torch.as_tensor(Z)
    if positions.ndim < 2 or positions.shape[-1] != 3 or not positions.is_floating_point():
        raise ValueError(
            f"positions must be (..., n, 3) real numbers, got {tuple(positions.shape)} of {positions.dtype}"
        )
    if Z.shape != positions.shape[:-1] and Z.shape != positions.shape[-2:-1]:
        raise ValueError(f"Z must be (..., n) = {tuple(positions.shape[:-1])} atomic numbers, got {tuple(Z.shape)}")
    if not cutoff > 0:
        raise ValueError(f"cutoff must be above 0, got {cutoff}")
    unknown = [name for name in properties if name not in PROPERTIES]
    if unknown:
        raise ValueError(f"properties must be of {', '.join(PROPERTIES)}, got {unknown[0]!r}")
    Z = Z.expand(positions.shape[:-1])
    H = element_properties(Z)[..., [PROPERTIES.index(name) for name in properties]].to(positions.dtype)
    is_pair = (Z > 0)[..., :, None] & (Z > 0)[..., None, :]
    is_pair = is_pair & ~torch.eye(Z.shape[-1], dtype=torch.bool, device=Z.device)
    steps = positions[..., None, :, :] - positions[..., :, None, :]
    squares = steps.square().sum(-1)
    if bool(((squares == 0) & is_pair).any()):
        raise ValueError("positions must differ between atoms: two are at the same place")
    # Safe values where there is no pair: their gradients would be 0 times infinity.
    is_near = is_pair & (squares < cutoff**2)
    squares = torch.where(is_near, squares, torch.full_like(squares, 0.25 * cutoff**2))
    distances = squares.sqrt()
    near = torch.where(is_near, torch.exp(1 - 1 / (1 - squares / cutoff**2)), torch.zeros_like(squares))
    units = torch.where(is_near[..., None], steps, torch.zeros_like(steps)) / distances[..., None]
    return H, distances, near, units @ units.transpose(-1, -2)


def _row(z: int) -> tuple[float, ...]:
    """The properties of one element."""
    if z == 0:
        return (0.0,) * len(PROPERTIES)
    period = next(p for p in range(1, 8) if z <= _NOBLE[p])
    inside, size = z - _NOBLE[period - 1], _NOBLE[period] - _NOBLE[period - 1]
    if inside <= 2 and period > 1:
        valence, d = inside, 0
    elif period == 1:
        valence, d = (1 if z == 1 else 8), 0
    elif size - inside < 6:
        valence, d = 8 - (size - inside), 0
    elif size == 32 and inside < 17:
        valence, d = 2, 1
    else:
        valence, d = 2, inside - 2 - (14 if size == 32 else 0)
    return (1.0, float(period), float(valence), float(8 - valence), float(d))
