"""Which tensor network fits a tensor: its edges, its ranks and its inner nodes, found one step after the other."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.factor.network import TensorNetwork
from resolvent.factor.structure_batch import Fit, Graph, Point
from resolvent.factor.structure_enumeration import Enumeration, joined
from resolvent.factor.structure_fit import Entries, Loss
from resolvent.factor.structure_state import Edge, Structure
from resolvent.factor.tensor import tensor_of, without_gradient
from resolvent.operators.arrays import Kind, give_back_array
from resolvent.random import GeneratorLike, as_generator


class Step(NamedTuple):
    """One change of the network.

    Attributes
    ----------
    change : "start", "edge", "split" or "merge"; "fit" of an enumeration
    edge : the pair of nodes whose edge grew, or None
    parameters : numbers in all cores after it
    error : relative error, or loss, after it
    """

    change: str
    edge: Edge | None
    parameters: int
    error: float


class StructureSearch(NamedTuple):
    """The network that was found.

    Attributes
    ----------
    network : `TensorNetwork` with one core for each axis of the tensor, and the inner nodes after them
    ranks : of the edges above 1, by pairs of nodes
    error : relative error over the entries that count; of a loss, its value
    history : the `Step` s in order; of an enumeration, one for each structure that was fitted
    evaluations : how many candidates were fitted
    visits : of an enumeration, how many candidates each round looked at, those fitted before included
    """

    network: TensorNetwork
    ranks: dict[Edge, int]
    error: float
    history: tuple[Step, ...]
    evaluations: int
    visits: tuple[int, ...] = ()

    @property
    def parameters(self) -> int:
        """Numbers in all cores."""
        return self.network.parameters


def structure_search(
    target: Any,
    dims: Sequence[int] | None = None,
    *,
    method: Literal["greedy", "alternating_enumeration", "local_sampling"] = "greedy",
    mask: Any = None,
    rtol: float | None = None,
    budget: int | None = None,
    step: int = 1,
    split_nodes: bool = True,
    choose: Literal["rate", "error", "random"] = "rate",
    trial: int = 3,
    sweeps: int = 200,
    restarts: int = 1,
    topology: Literal["ring", "train", "full"] | Sequence[Edge] = "ring",
    max_rank: int = 7,
    permute: bool = True,
    weight: float = 200.0,
    radius: tuple[int, int] = (2, 1),
    coarse: int = 2,
    rounds: int = 30,
    patience: int = 5,
    starts: int = 3,
    samples: int = 60,
    generator: GeneratorLike = None,
) -> StructureSearch:
    r"""A small tensor network for a tensor, or for a loss, whose graph and ranks are found on the way.

    Parameters
    ----------
    target : (I_1, ..., I_N) real tensor, N at least 2; or a function from such a tensor to a number, differentiable in
        torch, for which `dims` are needed
    dims : (I_1, ..., I_N) of the tensors that a function takes; they are float64
    method : "greedy" begins with a product of vectors and adds ranks to one edge after the other.
        "alternating_enumeration" takes a graph and tries the ranks of one edge after the other, and exchanges of two
        axes, each time with all cores fitted anew; "local_sampling", its baseline, draws neighbours at random. These two
        need a tensor and `rtol`; what belongs to them is from `topology` to `samples`, beside `sweeps` and `restarts`
    mask : bool tensor like `target`: only entries that are True count (completion)
    rtol : stop at this relative error; for a function, at this part of its value for the best product of vectors
    budget : stop where the next step would hold more numbers than this; at least sum(I). Give `rtol`, `budget` or both.
        An enumeration stops at the first network within `rtol` and `budget`
    step : ranks that are added at a time
    split_nodes : also divide cores by their singular values where that saves numbers, which makes inner nodes, and put
        inner nodes back where they save none
    choose : the edge with the largest decrease of the squared error (loss) for each number that it costs, "rate"; or
        with the smallest error whatever it costs, "error", as in the paper; or any edge, "random", to compare with
    trial : sweeps over the two cores of an edge by which it is judged
    sweeps : over all cores after every step, at most; they end when one gains less than 1e-4 of the error
    restarts : fits from random cores after every step, beside the one that goes on, where the edges close a loop;
        in an enumeration, one less than the fits of every structure, of which the best counts: 9 for rings whose ranks
        are as large as their dimensions, where one fit in ten finds what was planted
    topology : places joined in a "ring", in a "train", all with all ("full"), or the pairs of places that are joined
    max_rank : of every edge
    permute : also search which axis stands at which place
    weight : of the squared relative error beyond `rtol`, against the share of numbers; 200 in the paper
    radius : how far up and down ranks are tried, in the first `coarse` rounds and after them. In the first, beyond 1,
        only the ends and the middle are fitted, with the squared error interpolated
    coarse, rounds : round trips over all variables from one start; `rounds` holds for "local_sampling" too
    patience : rounds without gain after which a start is given up
    starts : random structures to begin with, one after the other; the paper has one and much patience
    samples : candidates in a round of "local_sampling"
    generator : randomness of the start and of new slices

    Returns
    -------
    StructureSearch : (network, ranks, error, history, evaluations, visits), the cores of the kind and dtype of `target`

    Raises
    ------
    ValueError : neither `rtol` nor `budget`, a complex tensor, a mask that does not fit, a loss that is not finite, NaN,
        or a gradient is wanted: there is none
    ConvergenceError : no step within `budget` reaches `rtol`; carries the best network

    Notes
    -----
    Every pair of nodes may have an edge. A candidate takes over all weights: the new slices are zeros at one end and
    random at the other, so the error starts where it was and never grows; loops have local optima, so they are also
    fitted from random cores, which the paper does not do. Cores are fitted by alternating least squares
    in float64, each as a correction of the last one; a loss by L-BFGS, where the paper takes Adam. Trains, rings and
    other graphs of few edges come out as they were planted; the search is greedy and may stop at a larger network. A
    step costs, for each of the N^2 / 2 pairs, `trial` times two least-squares problems.

    An enumeration minimises numbers / entries + weight * squared error. A round goes forth and back over the variables
    in the neighbourhood of the best point so far: with K edges it looks at 2 sum_k (ranks in the window of k) + 1 +
    N (N - 1) / 2 structures, a sum and not a product; it ends early where all variables confirm that point. Each
    structure is fitted once. A round without gain is followed by one from a random point of the neighbourhood: this is
    what leaves local optima. Numbers are affine in each single rank, so with straight lines between errors the coarse
    rounds take only ranks that were fitted. The smallest network within `rtol` of all that were fitted comes back.

    References
    ----------
    "Adaptive Learning of Tensor Network Structures"
    "Alternating Local Enumeration (TnALE): Solving Tensor Network Structure Search with Fewer Evaluations"

    Examples
    --------
    >>> train = TensorNetwork([torch.randn(4, r, generator=torch.Generator().manual_seed(r)) for r in (2, 2)], ["ia", "ja"])
    >>> found = structure_search(train.contract(), rtol=1e-6, generator=0)
    >>> found.ranks, found.parameters
    ({(0, 1): 2}, 16)
    """
    objective, shape, kind, dtype, device, unit = _target(target, dims, mask)
    _check(method, choose, rtol, budget, sum(shape))
    positive = {
        "step": step,
        "trial": trial,
        "sweeps": sweeps,
        "max_rank": max_rank,
        "rounds": rounds,
        "starts": starts,
    }
    for name, value in (positive | {"samples": samples}).items():
        _at_least(value, 1, name)
    for name, value in {"restarts": restarts, "coarse": coarse, "patience": patience}.items():
        _at_least(value, 0, name)
    source = as_generator(generator, device)
    visits: list[int] = []
    with torch.no_grad():
        if method == "greedy":
            search = _Greedy(objective, source, step, trial, sweeps, restarts, choose)
            start = Structure.of_ranks(shape, {}, torch.float64, device, source)
            state, error, reached = search.run(start, rtol, budget, split_nodes)
            history, evaluations = search.history, search.evaluations
        else:
            if not isinstance(objective, Entries) or rtol is None:
                raise ValueError(f"method {method!r} needs a tensor as target, and rtol")
            space = _Space(joined(topology, len(shape)), max_rank, permute, weight, sweeps, restarts)
            enumeration = space.enumeration(objective, shape, rtol, budget, source)
            if method == "local_sampling":
                enumeration.repeat(starts, lambda: enumeration.sampling(samples, rounds, patience))
            else:
                radii = _radii(radius)
                enumeration.repeat(starts, lambda: enumeration.alternating(radii, coarse, rounds, patience))
            error, state = enumeration.smallest()
            reached = error <= rtol and (budget is None or state.parameters <= budget)
            visits, evaluations = enumeration.visits, len(enumeration.found)
            history = [Step("fit", None, fit.state.parameters, fit.error) for fit in enumeration.found.values()]
    state.cores = [core.to(dtype) for core in state.cores]
    if dtype != torch.float64:
        # What the caller gets is rounded, and so is its error.
        error = objective.error(Structure([core.double() for core in state.cores], state.axes))
        reached = reached and (rtol is None or error <= rtol)
    state.cores[0] = state.cores[0] * unit
    network = state.network()
    if kind == "numpy":
        network = TensorNetwork([give_back_array(c, kind) for c in network.cores], network.labels, network.output)
    found = StructureSearch(network, state.ranks, error, tuple(history), evaluations, tuple(visits))
    if not reached:
        wanted = f"rtol={rtol:.1e}" + ("" if budget is None else f" and budget={budget}")
        message = f"structure_search: reached {error:.1e} with {state.parameters} numbers, asked for {wanted}"
        raise ConvergenceError(message, best=found, error=error)
    return found


class _Space(NamedTuple):
    """The structures that an enumeration is over, and how each is fitted."""

    edges: tuple[Edge, ...]
    max_rank: int
    permute: bool
    weight: float
    sweeps: int
    restarts: int

    def enumeration(
        self, objective: Entries, shape: tuple[int, ...], rtol: float, budget: int | None, source: torch.Generator
    ) -> Enumeration:
        weight = self.weight
        if not isinstance(weight, int | float) or isinstance(weight, bool) or not 0 < weight < math.inf:
            raise ValueError(f"weight must be positive, got {weight!r}")
        graph = Graph(objective.t, self.edges, objective.mask)

        def fit(points: list[Point]) -> list[Fit]:
            return graph.fit(points, self.restarts + 1, self.sweeps, rtol, source)

        return Enumeration(fit, shape, self.edges, self.max_rank, float(weight), rtol, budget, self.permute, source)


def _radii(radius: tuple[int, int]) -> tuple[int, int]:
    if not isinstance(radius, Sequence) or len(radius) != 2:
        raise ValueError(f"radius must be two ints of at least 1, got {radius!r}")
    for r in radius:
        _at_least(r, 1, "radius")
    return radius[0], radius[1]


def _at_least(value: Any, least: int, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be an int of at least {least}, got {value!r}")


def _target(
    target: Any, dims: Any, mask: Any
) -> tuple[Entries | Loss, tuple[int, ...], Kind, torch.dtype, torch.device, float]:
    if callable(target) and not isinstance(target, Tensor):
        if dims is None or mask is not None:
            raise ValueError("a function as target needs dims, and takes no mask")
        shape = tuple(int(d) for d in dims)
        if len(shape) < 2 or min(shape) < 1:
            raise ValueError(f"dims must be at least two sizes of at least 1, got {dims!r}")
        return Loss(target), shape, "torch", torch.float64, torch.device("cpu"), 1.0
    t, kind = tensor_of(target, "target")
    if t.is_complex() or t.ndim < 2 or dims is not None:
        raise ValueError(
            f"target must be real with at least two axes, without dims; got {t.dtype} of shape {tuple(t.shape)}"
        )
    t = without_gradient(t, "structure_search")
    known = None
    if mask is not None:
        known = torch.as_tensor(mask, device=t.device)
        if known.dtype != torch.bool or known.shape != t.shape or not bool(known.any()):
            raise ValueError(f"mask must be bool of shape {tuple(t.shape)} with an entry that is True")
    # Squares of very small or large entries would be zero or infinite; a power of two rounds nothing.
    largest = float(t.abs().max() if known is None else t[known].abs().max())
    unit = 2.0 ** min(1000, max(-1000, math.frexp(largest)[1])) if largest > 0 else 1.0
    scaled = t.double() / unit
    return Entries(scaled, known), tuple(t.shape), kind, t.dtype, t.device, unit


def _check(method: str, choose: str, rtol: Any, budget: Any, smallest: int) -> None:
    if method not in ("greedy", "alternating_enumeration", "local_sampling"):
        raise ValueError(f"method must be greedy, alternating_enumeration or local_sampling, got {method!r}")
    if choose not in ("rate", "error", "random"):
        raise ValueError(f"choose must be rate, error or random, got {choose!r}")
    if rtol is None and budget is None:
        raise ValueError("give rtol, budget or both")
    if rtol is not None and (not isinstance(rtol, int | float) or not 0 < rtol < 1):
        raise ValueError(f"rtol must be between 0 and 1, got {rtol!r}")
    if budget is not None and (isinstance(budget, bool) or not isinstance(budget, int) or budget < smallest):
        raise ValueError(f"budget must be an int of at least sum(dims) = {smallest}, got {budget!r}")


class _Greedy:
    """The loop of the greedy search."""

    # A sweep that gains less than this part of the error ends a fit: larger ones take a swamp for an optimum.
    gain = 1e-4
    # A step that gains less ends the search: all that is left is rounding, or an optimum that no edge leaves.
    least = 1e-9

    def __init__(
        self,
        objective: Entries | Loss,
        generator: torch.Generator,
        step: int,
        trial: int,
        sweeps: int,
        restarts: int,
        choose: str,
    ) -> None:
        self.objective, self.generator = objective, generator
        self.step, self.trial, self.sweeps, self.choose = step, trial, sweeps, choose
        self.restarts = restarts
        self.history: list[Step] = []
        self.evaluations = 0

    def run(
        self, state: Structure, rtol: float | None, budget: int | None, split_nodes: bool
    ) -> tuple[Structure, float, bool]:
        """Grow until the error or the budget is met: the network, its error, and whether the error was met."""
        error = self.objective.fit(state, self.sweeps, self.gain)
        self._note("start", None, state, error)
        relative = isinstance(self.objective, Entries)
        bound = -math.inf if rtol is None else rtol if relative else rtol * abs(error)
        while error > bound:
            found = self._best_edge(state, error, budget)
            if found is None:
                break
            edge, grown = found
            before = error
            state, error = self._fitted(grown)
            self._note("edge", edge, state, error)
            if split_nodes:
                state, error = self._reshaped(state, error, bound)
            if self.choose != "random" and before - error <= self.least * abs(before):
                break
        return state, error, rtol is None or error <= bound

    def _best_edge(self, state: Structure, error: float, budget: int | None) -> tuple[Edge, Structure] | None:
        room = math.inf if budget is None else budget - state.parameters
        pairs = itertools.combinations(range(state.nodes), 2)
        edges = [e for e in pairs if state.can_grow(e, self.step) and state.cost(e, self.step) <= room]
        if self.choose == "random" and edges:
            device = self.generator.device
            edges = [edges[int(torch.randint(len(edges), (), generator=self.generator, device=device))]]
        best: tuple[float, Edge, Structure] | None = None
        for edge in edges:
            grown = state.grown(edge, self.step, self.generator)
            self.evaluations += 1
            after = self.objective.fit(grown, self.trial, 0.0, edge)
            value = -after
            if self.choose == "rate":
                value = (self._measure(error) - self._measure(after)) / state.cost(edge, self.step)
            if best is None or value > best[0]:
                best = (value, edge, grown)
        return None if best is None else best[1:]

    def _fitted(self, state: Structure) -> tuple[Structure, float]:
        """From the weights that it has and, as loops have local optima, from random ones too."""
        error = self.objective.fit(state, self.sweeps, self.gain)
        for _ in range(self.restarts if state.has_cycle else 0):
            other = state.renewed(self.generator)
            found = self.objective.fit(other, self.sweeps, self.gain)
            if found < error:
                state, error = other, found
        return state, error

    def _measure(self, error: float) -> float:
        return error * error if isinstance(self.objective, Entries) else error

    def _reshaped(self, state: Structure, error: float, bound: float) -> tuple[Structure, float]:
        """Cores divided, and put together again, as long as numbers are saved."""
        while True:
            joined = state.merged()
            change = "merge" if joined is not None else "split"
            # Singular values well below the error that is left, or wanted, are what the fit has not learned.
            new = joined if joined is not None else state.split(0.5 * bound if bound > 0 else 0.05 * min(error, 1.0))
            if new is None:
                return state, error
            after = self.objective.fit(new, self.sweeps, self.gain)
            if after > max(bound, error + 0.02 * abs(error)):
                return state, error
            state, error = new, after
            self._note(change, None, state, error)

    def _note(self, change: str, edge: Edge | None, state: Structure, error: float) -> None:
        self.history.append(Step(change, edge, state.parameters, error))
