"""The mechanism behind simulated perturbation screens: draw one, then draw cells from it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse

from scgraphvci.data._simulation_parameters import SimulationParameters

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

CONTROL = "control"
BLOCK_SIZE = 512
"""Cells are drawn in blocks of this many, each with a seed of its own, so that neither the number of cells asked
for nor the way blocks are consumed changes any cell."""
SATURATION = 3.0
"""Largest absolute shift of a log rate. Combinations are additive in the log rate up to this buffering."""
STATE_SHARE = 0.3
"""Share of genes that move with the cell state."""
HALF_DOSE = 0.5
"""Share of the largest dose at which a response saturating as d / (d + HALF_DOSE) is half of its limit."""


class Network(NamedTuple):
    """A signed acyclic GRN as an edge list, with one multiplier per cell type and edge."""

    regulators: IntArray  # genes, ascending
    source: IntArray
    target: IntArray
    weight: FloatArray
    gates: FloatArray  # (n_cell_types, n_edges)


class Cells(NamedTuple):
    """What the mechanism knows of each cell besides its treatment."""

    cell_type: IntArray
    donor: IntArray
    state: FloatArray
    activity: FloatArray  # (n, n_regulators)

    def take(self, rows: IntArray | slice) -> Cells:
        """Return some of the cells."""
        return Cells(self.cell_type[rows], self.donor[rows], self.state[rows], self.activity[rows])


class Block(NamedTuple):
    """A block of simulated cells."""

    cells: Cells
    treatment: IntArray  # 0 is the control
    dose: FloatArray  # shared by the members of a combination; 0 for the control, 1 in a screen without doses
    library: FloatArray
    log_normaliser: FloatArray
    split_draw: FloatArray  # uniform on [0, 1)
    counts: sparse.csr_matrix


@dataclass(frozen=True)
class Mechanism:
    """Log rates of cells under any treatment.

    The log rate of gene j in a cell of type x is ``profile[x, j] + donor[d, j] + state * loading[j]`` plus the cell's
    regulator activities and the pushes of its treatment, both carried along the GRN of its type by
    ``propagation[x] = (I - A_x)^-1 D_x``. A_x holds the gated weights among regulators, D_x those from regulators to
    all genes with the identity at the regulators themselves. The GRN is acyclic, so this sums every path.

    Attributes
    ----------
    profile
        Log share of an average control cell, (n_cell_types, n_genes).
    donor
        (n_donors, n_genes).
    loading
        Effect of the cell state, (n_genes,).
    propagation
        (n_cell_types, n_regulators, n_genes).
    sensitivity
        How the cell state modulates the response to a push of each regulator, (n_regulators,).
    effect_strength
        Fall of a knocked-down regulator's log rate at full dose in a cell of neutral state.
    """

    profile: FloatArray
    donor: FloatArray
    loading: FloatArray
    propagation: FloatArray
    sensitivity: FloatArray
    effect_strength: float

    def control_log_rate(self, cells: Cells) -> FloatArray:
        """Log rate under control up to the cell's normaliser, (n, n_genes)."""
        base = self.profile[cells.cell_type] + self.donor[cells.donor] + np.outer(cells.state, self.loading)
        return base + self._propagate(cells.cell_type, cells.activity)

    def shift(self, cells: Cells, push: FloatArray) -> FloatArray:
        """Shift of the log rate from control by pushes in [0, 1], (n or 1, n_regulators) -> (n, n_genes)."""
        active = np.flatnonzero(push.any(axis=0))
        # 2 sigmoid(.) has mean 1 over the symmetric state: modulation leaves the average log response as it is.
        gain = 2 / (1 + np.exp(-np.outer(cells.state, self.sensitivity[active])))
        raw = self._propagate(cells.cell_type, -self.effect_strength * push[:, active] * gain, active)
        return SATURATION * np.tanh(raw / SATURATION)

    def _propagate(self, cell_type: IntArray, push: FloatArray, active: IntArray | None = None) -> FloatArray:
        out = np.zeros((len(cell_type), self.profile.shape[1]))
        for x in np.unique(cell_type):
            rows = cell_type == x
            out[rows] = push[rows] @ (self.propagation[x] if active is None else self.propagation[x][active])
        return out


@dataclass(frozen=True)
class Screen:
    """A drawn screen: the mechanism, the network behind it and the design of the experiment.

    Attributes
    ----------
    members
        Positions in ``network.regulators`` of each treatment's targets, (n_treatments + 1, 2); -1 where there is none.
        Row 0 is the control.
    treatment_probability
        (n_cell_types, n_treatments + 1).
    held_out
        Whether a treatment is "ood" in a cell type, (n_cell_types, n_treatments + 1).
    """

    parameters: SimulationParameters
    network: Network
    mechanism: Mechanism
    members: IntArray
    treatment_probability: FloatArray
    held_out: npt.NDArray[np.bool_]

    @classmethod
    def draw(cls, parameters: SimulationParameters) -> Screen:
        """Draw the GRN, baselines and design. The same parameters give the same screen."""
        rng = np.random.default_rng(parameters.seed)
        network = _draw_network(rng, parameters)
        mechanism = _draw_mechanism(rng, parameters, network)
        members = _draw_treatments(rng, parameters, network)
        weights = np.exp(
            parameters.treatment_imbalance * rng.normal(size=(parameters.n_cell_types, parameters.n_treatments))
        )
        treated = (1 - parameters.control_share) * weights / weights.sum(axis=1, keepdims=True)
        probability = np.column_stack([np.full(parameters.n_cell_types, parameters.control_share), treated])
        return cls(parameters, network, mechanism, members, probability, _draw_held_out(rng, parameters))

    def blocks(self, n_cells: int) -> Iterator[Block]:
        """Draw `n_cells` cells, a block at a time."""
        for number, start in enumerate(range(0, n_cells, BLOCK_SIZE)):
            yield self._draw_block(number, min(BLOCK_SIZE, n_cells - start))

    def _draw_block(self, number: int, n: int) -> Block:
        p = self.parameters
        # A spawn key keeps block streams apart from the screen's own, which uses the bare seed.
        rng = np.random.default_rng(np.random.SeedSequence(p.seed, spawn_key=(number,)))
        cell_type = rng.integers(p.n_cell_types, size=BLOCK_SIZE)
        donor = rng.integers(p.n_donors, size=BLOCK_SIZE)
        state = rng.normal(size=BLOCK_SIZE)
        activity = _stored(p.activity_noise * rng.normal(size=(BLOCK_SIZE, len(self.network.regulators))))
        library = p.median_library * np.exp(0.35 * rng.normal(size=BLOCK_SIZE))
        cumulative = self.treatment_probability.cumsum(axis=1)[cell_type]
        treatment = (rng.random(BLOCK_SIZE)[:, None] >= cumulative[:, :-1]).sum(axis=1)
        dose = np.where(treatment > 0, rng.choice(p.doses or (1.0,), size=BLOCK_SIZE), 0.0)
        split_draw = rng.random(BLOCK_SIZE)

        cells = Cells(cell_type, donor, state, activity).take(slice(n))
        log_rate = self.mechanism.control_log_rate(cells)
        log_normaliser = np.log(np.exp(log_rate).sum(axis=1))
        log_rate += self.mechanism.shift(cells, self._push(treatment[:n], dose[:n]))
        mean = np.exp(log_rate + (np.log(library[:n]) - log_normaliser)[:, None])
        size = 1 / p.dispersion
        counts = sparse.csr_matrix(rng.negative_binomial(size, size / (size + mean)).astype(np.float32))
        return Block(cells, treatment[:n], dose[:n], library[:n], log_normaliser, split_draw[:n], counts)

    def _push(self, treatment: IntArray, dose: FloatArray) -> FloatArray:
        push = np.zeros((len(treatment), len(self.network.regulators)))
        response = dose_response(dose, max(self.parameters.doses or (1.0,)))
        for member in range(self.members.shape[1]):
            rows = np.flatnonzero(self.members[treatment, member] >= 0)
            push[rows, self.members[treatment[rows], member]] = response[rows]
        return push


def dose_response(dose: FloatArray, largest: float) -> FloatArray:
    """Saturating response to a dose (Hill, exponent 1): 0 at dose 0, 1 at the largest dose, increasing throughout."""
    relative = dose / largest
    return relative * (1 + HALF_DOSE) / (relative + HALF_DOSE)


def _stored(values: npt.NDArray[np.floating]) -> FloatArray:
    # What an AnnData holds is float32: drawing with the rounded values makes the stored truth exact.
    return values.astype(np.float32).astype(np.float64)


def _draw_network(rng: np.random.Generator, p: SimulationParameters) -> Network:
    n_regulators = p.regulator_count
    regulators = np.sort(rng.choice(p.n_genes, n_regulators, replace=False))
    hierarchy = rng.permutation(n_regulators)  # regulators may regulate only those further down: no cycles
    rank = np.full(p.n_genes, n_regulators)
    rank[regulators[hierarchy]] = np.arange(n_regulators)
    popularity = rng.lognormal(sigma=1.0, size=n_regulators)  # a few hubs, many regulators with few targets
    in_degree = np.minimum(1 + rng.poisson(1.5, size=p.n_genes), rank)
    sources, targets = [], []
    for gene in np.flatnonzero(in_degree):
        upstream = hierarchy[: rank[gene]]
        chance = popularity[upstream] / popularity[upstream].sum()
        sources.append(regulators[rng.choice(upstream, in_degree[gene], replace=False, p=chance)])
        targets.append(np.full(in_degree[gene], gene))
    source = np.concatenate(sources)
    sign = np.where(rng.random(len(source)) < 0.7, 1.0, -1.0)
    target = np.concatenate(targets)
    # Shrunk inputs of regulators keep their variance from growing down the hierarchy.
    shrinkage = np.where(np.isin(target, regulators), np.sqrt(in_degree[target]), 1)
    weight = _stored(sign * rng.uniform(0.5, 1.3, size=len(source)) / shrinkage)
    closed = rng.random((p.n_cell_types, len(source))) < 0.5
    return Network(regulators, source, target, weight, np.where(closed, 1 - p.interaction, 1.0))


def _draw_mechanism(rng: np.random.Generator, p: SimulationParameters, network: Network) -> Mechanism:
    # Clipped: panels leave out genes that are never seen, and no gene takes the whole library.
    base = np.clip(rng.normal(scale=2.5, size=p.n_genes), -3.5, 5.5)
    base[network.regulators] = np.maximum(base[network.regulators], 0)  # a knock-down needs something to knock down
    marker = rng.random((p.n_cell_types, p.n_genes)) < 0.3
    log_profile = base + marker * rng.normal(scale=0.8, size=marker.shape)
    profile = log_profile - np.log(np.exp(log_profile).sum(axis=1, keepdims=True))
    donor = p.donor_strength * rng.normal(size=(p.n_donors, p.n_genes))
    loading = p.state_strength * rng.normal(size=p.n_genes) * (rng.random(p.n_genes) < STATE_SHARE)
    n_regulators = len(network.regulators)
    sensitivity = 2 * p.state_strength * np.where(rng.random(n_regulators) < 0.5, -1.0, 1.0)
    propagation = np.stack([_propagation(network, gate, p.n_genes) for gate in network.gates])
    return Mechanism(
        _stored(profile), _stored(donor), _stored(loading), _stored(propagation), sensitivity, p.effect_strength
    )


def _propagation(network: Network, gate: FloatArray, n_genes: int) -> FloatArray:
    n_regulators = len(network.regulators)
    direct = np.zeros((n_regulators, n_genes))
    direct[np.searchsorted(network.regulators, network.source), network.target] = network.weight * gate
    among = direct[:, network.regulators].copy()
    direct[:, network.regulators] = np.eye(n_regulators)
    return np.asarray(np.linalg.solve(np.eye(n_regulators) - among, direct))


def _draw_treatments(rng: np.random.Generator, p: SimulationParameters, network: Network) -> IntArray:
    # Screens target regulators that do something: chosen in proportion to their number of targets.
    n_targets = np.bincount(np.searchsorted(network.regulators, network.source), minlength=p.regulator_count) + 0.1
    chance = n_targets / n_targets.sum()
    single = np.sort(rng.choice(p.regulator_count, p.n_perturbations, replace=False, p=chance))
    pairs = np.array(list(combinations(single, 2)), dtype=np.int64).reshape(-1, 2)
    chosen = pairs[np.sort(rng.choice(len(pairs), p.n_combinations, replace=False))] if p.n_combinations else pairs[:0]
    singles = np.column_stack([single, np.full_like(single, -1)])
    return np.concatenate([np.full((1, 2), -1), singles, chosen])


def _draw_held_out(rng: np.random.Generator, p: SimulationParameters) -> npt.NDArray[np.bool_]:
    held_out = np.zeros((p.n_cell_types, p.n_treatments + 1), dtype=bool)
    order = rng.permutation(p.n_treatments)
    first_type = rng.integers(p.n_cell_types, size=p.n_treatments)
    for k in range(p.ood_pair_count):
        # Every treatment is held out in one type before any is in a second, and never in all.
        turn, treatment = k // p.n_treatments, order[k % p.n_treatments]
        held_out[(first_type[treatment] + turn) % p.n_cell_types, treatment + 1] = True
    return held_out


def draw_prior(screen: Screen) -> sparse.csr_matrix:
    """Draw a noisy unsigned prior of the GRN, as motif scanning gives.

    Returns
    -------
    (n_genes, n_genes), row = regulator: a share ``prior_missing`` of the true edges is absent, ``prior_false`` false
    edges per true edge are added, and the positive weights say nothing of which are true.
    """
    p, network = screen.parameters, screen.network
    rng = np.random.default_rng(np.random.SeedSequence(p.seed, spawn_key=(0, 0)))
    true = network.source * p.n_genes + network.target
    possible = (network.regulators[:, None] * p.n_genes + np.arange(p.n_genes)).ravel()
    loops = network.regulators * (p.n_genes + 1)
    candidates = np.setdiff1d(possible, np.concatenate([true, loops]))
    n_false = min(round(p.prior_false * len(true)), len(candidates))
    false = rng.choice(candidates, n_false, replace=False)
    edges = np.concatenate([true[rng.random(len(true)) >= p.prior_missing], false])
    score = rng.uniform(0.2, 1.0, size=len(edges)).astype(np.float32)
    return sparse.csr_matrix((score, (edges // p.n_genes, edges % p.n_genes)), shape=(p.n_genes, p.n_genes))
