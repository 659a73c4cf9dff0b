"""What the paper on u-muP claims, measured on transformers over source text."""

from _unit_text import scales, train

from resolvent.claims import Measured, Scale, claim
from resolvent.optim import unit

SHAPE = {"quick": (256, 4), "full": (256, 4)}


def worst(found: dict[str, float]) -> tuple[float, str]:
    """How far the farthest root mean square is from one, as a factor."""
    name = max(found, key=lambda k: max(found[k], 1 / found[k]))
    return max(found[name], 1 / found[name]), f"{len(found)} tensors; {name}: {found[name]:.2g}"


@claim(
    paper="u-μP: The Unit-Scaled Maximal Update Parametrization",
    method=unit.ResidualStack,
    says="at initialisation all tensors but the logits have a root mean square in [1/4, 4], for independent characters",
    at_most=4.0,
)
def unit_scale_everywhere(scale: Scale) -> Measured:
    factor, note = worst(scales("unit", *scale(**SHAPE), real=False))
    return Measured(factor, unit="x from one", note=note)


@claim(
    paper="u-μP: The Unit-Scaled Maximal Update Parametrization",
    method=unit.ResidualStack,
    says="the same on text, whose characters are not independent",
    at_most=4.0,
    known_miss="about 12: characters repeat, so the summands of a weight's gradient are alike, and their sum exceeds batch^(1/2)",
)
def unit_scale_on_text(scale: Scale) -> Measured:
    factor, note = worst(scales("unit", *scale(**SHAPE)))
    return Measured(factor, unit="x from one", note=note)


@claim(
    paper="u-μP: The Unit-Scaled Maximal Update Parametrization",
    method=unit.ResidualStack,
    says="the standard parametrisation of the same network spans, from the least to the largest",
    at_least=100.0,
)
def the_standard_one_spans_decades(scale: Scale) -> Measured:
    found = scales("standard", *scale(**SHAPE))
    return Measured(max(found.values()) / min(found.values()), unit="x", note=f"{len(found)} tensors")


@claim(
    paper="u-μP: The Unit-Scaled Maximal Update Parametrization",
    method=unit.groups,
    says="the best learning rate moves by at most one point of a grid of factor 2 between the widths",
    at_most=1.0,
)
def the_learning_rate_transfers(scale: Scale) -> Measured:
    widths, grid = scale(quick=((32, 64), (-1, 0, 1, 2)), full=((64, 512), tuple(range(-3, 4))))
    blocks, steps, rows, length, seeds = scale(quick=(1, 25, 8, 16, 1), full=(2, 200, 16, 32, 2))
    best, note = [], []
    for n in widths:
        losses = [
            sum(train("unit", n, blocks, 2.0**p, steps, s, False, rows, length) for s in range(seeds)) / seeds
            for p in grid
        ]
        best.append(grid[losses.index(min(losses))])
        note.append(f"{n}: 2^{best[-1]}, loss {min(losses):.3f}")
    return Measured(max(best) - min(best), unit="grid points", note=", ".join(note))


def eight_bits(kind: str, lr: float, scale: Scale) -> tuple[float, float]:
    width, blocks, steps, rows = scale(quick=(32, 1, 25, 64), full=(64, 2, 200, 64))
    plain, rounded = (train(kind, width, blocks, lr, steps, 0, fp8, rows, 32) for fp8 in (False, True))
    return plain, rounded


@claim(
    paper="u-μP: The Unit-Scaled Maximal Update Parametrization",
    method=unit.simulate_fp8,
    says="the loss after training in simulated FP8 is within 1 percent of that in float32, without any scale factors",
    at_most=0.01,
)
def eight_bits_are_enough(scale: Scale) -> Measured:
    plain, rounded = eight_bits("unit", 1.0, scale)
    return Measured(abs(rounded / plain - 1), unit="relative", note=f"{rounded:.3f} and {plain:.3f}")


@claim(
    paper="u-μP: The Unit-Scaled Maximal Update Parametrization",
    method=unit.simulate_fp8,
    says="the standard parametrisation degrades in simulated FP8 without scale factors, with batches of 2048 characters: by more than 1 percent",
    at_least=0.01,
)
def eight_bits_break_the_standard_one(scale: Scale) -> Measured:
    plain, rounded = eight_bits("standard", 2.0**-7, scale)
    return Measured(rounded / plain - 1, unit="relative", note=f"{rounded:.3f} and {plain:.3f}")
