"""Simulated perturbation screens in which every counterfactual is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt
import pandas as pd
from anndata import AnnData
from anndata.io import sparse_dataset, write_elem
from scipy import sparse

from scgraphvci._constants import SLOTS, SPLITS
from scgraphvci.data._simulation_parameters import SimulationParameters, check_whole
from scgraphvci.data._simulator import CONTROL, Block, Screen, draw_prior

TRAIN_SHARE = 0.8


def simulate(
    n_cells: int = 4000,
    n_genes: int = 500,
    n_perturbations: int = 20,
    n_cell_types: int = 3,
    n_donors: int = 3,
    *,
    n_regulators: int | None = None,
    n_combinations: int = 0,
    combination_sep: str = "+",
    doses: tuple[float, ...] | list[float] | None = None,
    control_share: float = 0.2,
    treatment_imbalance: float = 0.3,
    effect_strength: float = 3.0,
    interaction: float = 0.75,
    state_strength: float = 0.5,
    donor_strength: float = 0.15,
    activity_noise: float = 0.4,
    median_library: float = 2000.0,
    dispersion: float = 0.2,
    prior_missing: float = 0.3,
    prior_false: float = 1.0,
    n_ood_pairs: int | None = None,
    seed: int = 0,
) -> AnnData:
    r"""Simulate a single-cell perturbation screen from a known gene regulatory network.

    Regulators form an acyclic signed network of several layers above their targets. A perturbation knocks its
    regulator down; the change of log rates travels along all paths of the network as gated in the cell's type. With
    :math:`x` the type, :math:`d` the donor, :math:`z` the state and :math:`a` the regulator activities of a cell,

    .. math::
        \log r_j(t) = \mathrm{profile}_{xj} + \mathrm{donor}_{dj} + z\,\lambda_j + (a P_x)_j
        + S \tanh\Bigl(\tfrac{1}{S} \sum_r p_r(t)\, g_r(z)\, (P_x)_{rj}\Bigr) - \log N,

    where :math:`P_x = (I - A_x)^{-1} D_x` sums the paths, :math:`p_r(t) = -` `effect_strength` times the response to
    the dose, :math:`g_r(z) = 2\,\mathrm{sigmoid}(\pm 2\,\mathrm{state\_strength}\, z)` and :math:`S = 3`. :math:`N`
    makes the rates of the cell under control sum to 1. Counts are negative binomial with mean library x rate and
    variance mean + `dispersion` x mean². Cell type and donor are independent of all else; treatments are drawn given
    the cell type, so within a stratum they are independent of state, activities and library.

    Parameters
    ----------
    n_cells, n_genes, n_perturbations, n_cell_types, n_donors
        Sizes. A smaller `n_cells` gives the first cells of a larger one; only default doses of the truth may differ.
    n_regulators
        Number of regulators; by default a tenth of the genes, at least `n_perturbations`.
    n_combinations
        Number of pairs of perturbations given together, named ``"A+B"``. Their pushes add up in the log rate
        before the saturation :math:`S \tanh`, which buffers large shifts.
    combination_sep
        Joins the names of a combination.
    doses
        Positive doses, drawn uniformly for each treated cell and shared by the members of a combination. The response
        is :math:`1.5 u / (u + 0.5)` with :math:`u` the dose divided by the largest. None: no doses, all at full effect.
    control_share
        Share of control cells in every cell type.
    treatment_imbalance
        Standard deviation of the log frequency of a treatment in a cell type; 0 gives equal frequencies.
    effect_strength
        Fall of the log rate of a knocked-down regulator at full dose and neutral state.
    interaction
        In each cell type a random half of the edges has its weight multiplied by ``1 - interaction``: 0 gives the same
        response in all types, 1 switches those edges off.
    state_strength
        Standard deviation of the state's effect on the log rates of the 30 % of genes that follow it; also sets how
        far the state modulates responses. 0 switches both off.
    donor_strength
        Standard deviation of donor effects on log rates.
    activity_noise
        Standard deviation of a cell's regulator activities, which travel along the network as perturbations do.
    median_library
        Median of the log-normal library size, the expected number of counts of the cell under control. It is the
        scale to which expression is normalised.
    dispersion
        Dispersion of the negative binomial.
    prior_missing, prior_false
        Share of true edges missing from the prior network; number of false edges added to it per true edge.
    n_ood_pairs
        Number of treatment x cell type pairs whose cells are all "ood"; the rest is 4 : 1 "train" and "test". By
        default half of the treatments, each in one cell type.
    seed
        Same seed and options, same data.

    Returns
    -------
    AnnData of n_cells x n_genes with

    - ``layers["counts"]``: counts, and ``X``: log1p(counts / library * s), both CSR float32; s is `median_library`.
    - ``obs``: `perturbation` ("control" first; else named after the targeted genes), `cell_type`, `donor`,
      `cell_state`, `split`, `library` (the expected total, not the observed one) and, if asked for, `dose`: numbers,
      or text such as "0.5+0.5" where there are combinations.
    - ``var``: `is_regulator`.
    - ``varp["grn_true"]``: signed weights; ``varp["grn"]``: a noisy unsigned prior. Both CSR float32, row = regulator.
    - ``uns["simulation"]``, with s as `library`, and ``obsm``, ``varm``, ``obs`` entries named ``simulation_*``: what
      :func:`truth` needs.

    Raises
    ------
    ValueError
        If an option is out of range.

    Examples
    --------
    >>> import scgraphvci as sgv
    >>> adata = sgv.datasets.simulate(n_cells=300, n_genes=60, n_perturbations=4, seed=1)
    >>> adata.shape
    (300, 60)
    >>> truth = sgv.datasets.truth(adata)
    >>> treatment = adata.obs["perturbation"].cat.categories[1]
    >>> truth.counterfactual_mean(treatment, indices=[0, 5]).shape
    (2, 60)
    >>> bool(truth.effect(treatment)[treatment].lt(0).all())  # a knock-down, in every cell type
    True
    """
    check_whole("n_cells", n_cells, 1)
    parameters = SimulationParameters(
        n_genes=n_genes,
        n_perturbations=n_perturbations,
        n_cell_types=n_cell_types,
        n_donors=n_donors,
        n_regulators=n_regulators,
        n_combinations=n_combinations,
        combination_sep=combination_sep,
        doses=None if doses is None else tuple(doses),
        control_share=control_share,
        treatment_imbalance=treatment_imbalance,
        effect_strength=effect_strength,
        interaction=interaction,
        state_strength=state_strength,
        donor_strength=donor_strength,
        activity_noise=activity_noise,
        median_library=median_library,
        dispersion=dispersion,
        prior_missing=prior_missing,
        prior_false=prior_false,
        n_ood_pairs=n_ood_pairs,
        seed=seed,
    )
    screen = Screen.draw(parameters)
    blocks = list(screen.blocks(n_cells))
    names = _Names.of(screen)
    obs = pd.concat([_obs(screen, names, block) for block in blocks], ignore_index=True)
    obs.index = [f"cell{i}" for i in range(n_cells)]
    counts = sparse.vstack([block.counts for block in blocks], format="csr")
    adata = AnnData(
        X=_log_normalise(counts, obs["library"].to_numpy(), median_library),
        obs=obs,
        var=pd.DataFrame({"is_regulator": np.isin(np.arange(n_genes), screen.network.regulators)}, index=names.genes),
        layers={"counts": counts},
    )
    network = screen.network
    true = sparse.csr_matrix((network.weight, (network.source, network.target)), shape=(n_genes, n_genes))
    adata.varp[SLOTS.GRN_TRUE] = true.astype(np.float32)
    adata.varp[SLOTS.GRN] = draw_prior(screen)
    adata.obsm["simulation_activity"] = np.concatenate([block.cells.activity for block in blocks]).astype(np.float32)
    adata.varm["simulation_baseline"] = _stack(
        screen.mechanism.profile, screen.mechanism.donor, screen.mechanism.loading
    )
    adata.varm["simulation_propagation"] = _stack(*screen.mechanism.propagation)
    treatments, default_doses = _default_doses(adata.obs) if doses is not None else ([], [])
    adata.uns["simulation"] = {
        "parameters": parameters.as_dict(),
        "library": float(median_library),
        "cell_types": np.asarray(names.cell_types, dtype=object),
        "donors": np.asarray(names.donors, dtype=object),
        "regulators": np.asarray(names.genes, dtype=object)[network.regulators],
        "sensitivity": screen.mechanism.sensitivity,
        "treatments": np.asarray(treatments, dtype=object),
        "default_doses": np.asarray(default_doses, dtype=object),
    }
    return adata


def write_simulated(path: Path, n_cells: int, **options: Any) -> None:
    """Write what a model needs of a simulated screen to an .h5ad file, a block of cells at a time.

    Parameters
    ----------
    path
        The file, which is overwritten.
    n_cells, **options
        As in :func:`simulate`, of whose data the file holds `X`, `obs`, the names of genes and ``varp["grn"]``.
    """
    screen = Screen.draw(SimulationParameters(**options))
    names = _Names.of(screen)
    rows = []
    with h5py.File(path, "w") as file:
        stored = None
        for block in screen.blocks(n_cells):
            rows.append(_obs(screen, names, block))
            expression = _log_normalise(block.counts, block.library, screen.parameters.median_library)
            if stored is None:
                write_elem(file, "X", expression, dataset_kwargs={"indptr_dtype": np.int64})
                stored = sparse_dataset(file["X"])
            else:
                stored.append(expression)
        obs = pd.concat(rows, ignore_index=True)
        obs.index = [f"cell{i}" for i in range(n_cells)]
        parts = {"obs": obs, "var": pd.DataFrame(index=names.genes), "varp": {SLOTS.GRN: draw_prior(screen)}}
        for key, part in parts.items():
            write_elem(file, key, part)
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})


class _Names(NamedTuple):
    """Names of everything in a screen, in the order of its codes."""

    genes: list[str]
    cell_types: list[str]
    donors: list[str]
    treatments: list[str]

    @classmethod
    def of(cls, screen: Screen) -> _Names:
        p = screen.parameters
        width = max(4, len(str(p.n_genes - 1)))
        genes = [f"G{i:0{width}d}" for i in range(p.n_genes)]
        targets = [[genes[screen.network.regulators[m]] for m in row if m >= 0] for row in screen.members]
        return cls(
            genes=genes,
            cell_types=[f"type{i}" for i in range(p.n_cell_types)],
            donors=[f"donor{i}" for i in range(p.n_donors)],
            treatments=[p.combination_sep.join(t) if t else CONTROL for t in targets],
        )


def _obs(screen: Screen, names: _Names, block: Block) -> pd.DataFrame:
    rest = np.where(block.split_draw < TRAIN_SHARE, SPLITS.TRAIN, SPLITS.TEST)
    split = np.where(screen.held_out[block.cells.cell_type, block.treatment], SPLITS.OOD, rest)
    obs = pd.DataFrame(
        {
            "perturbation": pd.Categorical.from_codes(block.treatment, pd.Index(names.treatments)),
            "cell_type": pd.Categorical.from_codes(block.cells.cell_type, pd.Index(names.cell_types)),
            "donor": pd.Categorical.from_codes(block.cells.donor, pd.Index(names.donors)),
            "cell_state": block.cells.state,
            "split": pd.Categorical(split, categories=list(SPLITS)),
            "library": block.library,
            "simulation_log_normaliser": block.log_normaliser,
        }
    )
    if screen.parameters.doses is not None:
        obs["dose"] = _dose_column(screen, block)
    return obs


def _dose_column(screen: Screen, block: Block) -> npt.NDArray[Any]:
    if screen.parameters.n_combinations == 0:
        return block.dose
    n_members = np.maximum((screen.members >= 0).sum(axis=1), 1)[block.treatment]
    sep = screen.parameters.combination_sep
    return np.array([sep.join([f"{dose:g}"] * n) for dose, n in zip(block.dose, n_members, strict=True)], dtype=object)


def _default_doses(obs: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Treatments, and the dose most training cells of each received, as text; of equals, the one that appears first."""
    treated = obs[obs["perturbation"] != CONTROL]
    keys = [treated["perturbation"].astype(str), treated["dose"].astype(str)]
    n_train = (treated["split"] == SPLITS.TRAIN).groupby(keys, sort=False).sum()
    best = n_train.groupby(level=0, sort=False).idxmax()
    return [treatment for treatment, _ in best], [dose for _, dose in best]


def _log_normalise(counts: sparse.csr_matrix, library: npt.NDArray[np.float64], scale: float) -> sparse.csr_matrix:
    expression = counts.copy()
    expression.data = np.log1p(counts.data * np.repeat(scale / library, np.diff(counts.indptr))).astype(np.float32)
    return expression


def _stack(*rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Genes x everything, as ``varm`` holds it."""
    return np.vstack(rows).T.astype(np.float32)
