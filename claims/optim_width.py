"""What the papers on width claim, measured: the spectral condition, and limits of networks that learn features."""

import math

import torch
from _planted_words import WORDS, analogies, trained_limit, trained_network
from _simulated_exponents import drawn, simulated
from _wide_networks import best_rates, feature_changes, perceptron, slopes

from resolvent import optim
from resolvent.claims import Measured, Scale, claim

WIDTHS = {"quick": (64, 256, 1024), "full": (64, 128, 256, 512, 1024, 2048)}


def changes(kind: str, scale: Scale) -> dict[int, list[float]]:
    return feature_changes(kind, scale(**WIDTHS), scale(quick=2, full=8))


@claim(
    paper="A Spectral Condition for Feature Learning",
    method=optim.spectral_groups,
    says="the relative change of features varies by less than 2x over the widths, in every hidden layer",
    at_most=2.0,
)
def features_move_alike(scale: Scale) -> Measured:
    found = changes("spectral", scale)
    layers = list(zip(*found.values(), strict=True))
    return Measured(max(max(c) / min(c) for c in layers), unit="x", note=f"widths {min(found)} to {max(found)}")


@claim(
    paper="A Spectral Condition for Feature Learning",
    method=optim.apply_abc,
    says="under the neural tangent parametrisation it decays as width^(-1/2) or faster (exponent, with 0.1 for noise)",
    at_most=-0.4,
)
def features_stop_in_the_kernel_regime(scale: Scale) -> Measured:
    found = slopes(changes("ntk", scale))
    return Measured(max(found), unit="exponent", note=", ".join(f"layer {i}: {s:.2f}" for i, s in enumerate(found, 1)))


@claim(
    paper="A Spectral Condition for Feature Learning",
    method=optim.spectral_groups,
    says="under the standard parametrisation with a fixed step size it grows as width^(1/2) (exponent, with 0.1 for noise)",
    at_least=0.4,
    known_miss="0.2 from width 64 to 1024, 0.4 from 1024 to 4096: the layer below adds a term of width^(-1/2) times the 64 inputs",
)
def features_blow_up_in_the_standard_one(scale: Scale) -> Measured:
    found = slopes(changes("standard", scale))
    return Measured(found[-1], unit="exponent", note="of the last hidden layer")


@claim(
    paper="A Spectral Condition for Feature Learning",
    method=optim.spectral_groups,
    says="the best step size of SGD moves by at most one point of a grid of factor 2 between the widths",
    at_most=1.0,
)
def the_step_size_transfers(scale: Scale) -> Measured:
    widths = scale(quick=(64, 256), full=(64, 256, 1024, 2048))
    grid = scale(quick=(-3, -2, -1, 0), full=tuple(range(-6, 3)))
    found = best_rates("spectral", widths, grid, scale(quick=1, full=3), scale(quick=40, full=100))
    powers = [power for power, _ in found.values()]
    note = ", ".join(f"{n}: 2^{p}, loss {min(losses):.3f}" for n, (p, losses) in found.items())
    return Measured(max(powers) - min(powers), unit="grid points", note=note)


@claim(
    paper="A Spectral Condition for Feature Learning",
    method=optim.spectral_init_,
    says="variances and step sizes have the exponents of the table of muP: the largest deviation",
    at_most=0.02,
)
def the_table_of_exponents(scale: Scale) -> Measured:
    small, large = 64, scale(quick=1024, full=4096)
    table = {  # standard deviation, SGD, Adam: of input, hidden matrix and readout
        "0.weight": (0.0, 1.0, 0.0),
        "2.weight": (-0.5, 0.0, -1.0),
        "4.weight": (-1.0, -1.0, -1.0),
    }

    def numbers(n: int) -> dict[str, tuple[float, ...]]:
        model = optim.spectral_init_(perceptron(n), generator=0)
        rates = [
            {name: g["lr"] for g in optim.spectral_groups(model, 1.0, kind) for name in g["names"]}
            for kind in ("sgd", "adam")
        ]
        return {name: (p.std().item(), *(r[name] for r in rates)) for name, p in model.named_parameters()}

    one, two = numbers(small), numbers(large)
    off = [
        abs(math.log(b / a) / math.log(large / small) - expected)
        for name, row in table.items()
        for a, b, expected in zip(one[name], two[name], row, strict=True)
    ]
    return Measured(max(off), unit="exponent", note="step sizes are exact, standard deviations are of a sample")


PLANTED = {"quick": (300, 50, 1.0), "full": (2000, 50, 1.0)}


@claim(
    paper="Feature Learning in Infinite-Width Neural Networks",
    method=optim.MuPLinearLimit,
    says="CBOW networks of finite width come to the limit as width^(-1/2): distance of the fitted exponent from -1/2",
    at_most=0.1,
)
def finite_networks_converge(scale: Scale) -> Measured:
    widths = scale(quick=(256, 1024), full=(256, 1024, 4096, 16384))
    size = scale(**PLANTED)
    far = {n: [sum(trained_network(n, seed, *size)[1] for seed in range(3)) / 3] for n in widths}
    slope = slopes(far)[0]
    note = f"slope {slope:.2f}; " + ", ".join(f"{n}: {far[n][0]:.2g}" for n in far)
    return Measured(abs(slope + 0.5), unit="exponent", note=note)


@claim(
    paper="Feature Learning in Infinite-Width Neural Networks",
    method=optim.MuPLinearLimit,
    says="analogies solved by the word vectors of the limit minus those of the widest finite network",
    at_least=0.0,
    full_miss="0.009 below width 16384 (0.54 against 0.55, the mean of three), a few of the analogies: by then the two are the same",
)
def the_limit_is_the_best_network(scale: Scale) -> Measured:
    size = scale(**PLANTED)
    n = scale(quick=1024, full=16384)
    limit = analogies(trained_limit(*size)[0].gram())
    finite = sum(analogies(trained_network(n, seed, *size)[0]) for seed in range(3)) / 3
    return Measured(limit - finite, unit="of all analogies", note=f"limit {limit:.2f}, width {n}: {finite:.2f}")


@claim(
    paper="Feature Learning in Infinite-Width Neural Networks",
    method=optim.MuPLinearLimit,
    says="analogies solved by the widest finite network under muP, over those of the kernel limit, whose vectors never move",
    at_least=2.0,
)
def kernels_learn_no_words(scale: Scale) -> Measured:
    size = scale(**PLANTED)
    n = scale(quick=1024, full=16384)
    finite = sum(analogies(trained_network(n, seed, *size)[0]) for seed in range(3)) / 3
    # Vectors as they were drawn: at infinite width orthonormal, so that every answer is a guess.
    kernel = analogies(torch.eye(WORDS, dtype=torch.float64))
    return Measured(finite / kernel, unit="x chance", note=f"width {n}: {finite:.2f}, kernel limit {kernel:.3f}")


@claim(
    paper="Feature Learning in Infinite-Width Neural Networks",
    method=optim.classify_parametrization,
    says="the share of random exponents (a, b, c) that trained networks of two widths put into the same class",
    at_least=1.0,
    full_miss="19 of 20: one loss that grows as width^(1/2) shows as 0.21 between the widths 64 and 1024, and as 0.33 up to 4096",
)
def the_classification_is_what_happens(scale: Scale) -> Measured:
    widths, seeds = scale(quick=((64, 512), 2), full=((64, 1024), 4))
    right, kinds = 0, set()
    count = scale(quick=8, full=20)
    for a, b, c in drawn(count):
        found = optim.classify_parametrization(a, b, c)
        expected = (found.stable, found.stable and found.trivial, found.feature_learning, found.kernel)
        kinds.add(expected)
        right += simulated(a, b, c, widths, seeds)[:4] == expected
    return Measured(right / count, unit="of all", note=f"{right} of {count}, {len(kinds)} classes among them")
