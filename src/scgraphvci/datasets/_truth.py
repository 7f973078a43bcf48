"""What a simulated screen knows: counterfactual means of its cells, means and effects of strata, the network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scgraphvci._constants import SLOTS
from scgraphvci.data._simulator import BLOCK_SIZE, CONTROL, Cells, Mechanism, dose_response
from scgraphvci.data._treatments import Dose, parse_dose, split_combination

FloatArray = npt.NDArray[np.float64]
Scale = Literal["log1p", "rate"]


def truth(adata: AnnData) -> Truth:
    """Return the truth behind a simulated screen.

    Parameters
    ----------
    adata
        What :func:`simulate` returned, also after subsetting or reordering cells or genes, or a round trip through a
        file. Expression, and the columns `perturbation`, `split` and `dose`, are not read.

    Raises
    ------
    ValueError
        If `adata` was not simulated, or parts of the truth were removed.

    Examples
    --------
    >>> import scgraphvci as sgv
    >>> adata = sgv.datasets.simulate(n_cells=100, n_genes=40, n_perturbations=3, n_donors=2)
    >>> truth = sgv.datasets.truth(adata[::2])
    >>> truth.counterfactual_mean("control", scale="rate").sum(axis=1).round(3)[:3]
    array([2000., 2000., 2000.])
    """
    needed = {
        "uns": ["simulation"],
        "obs": ["cell_type", "donor", "cell_state", "library", "simulation_log_normaliser"],
        "obsm": ["simulation_activity"],
        "varm": ["simulation_baseline", "simulation_propagation"],
        "varp": [SLOTS.GRN_TRUE],
    }
    missing = [f"{slot}[{key!r}]" for slot, keys in needed.items() for key in keys if key not in getattr(adata, slot)]
    if missing:
        msg = (
            f"No truth: {', '.join(missing)} missing. `truth` needs an AnnData made by `scgraphvci.datasets.simulate`."
        )
        raise ValueError(msg)
    return Truth(adata)


@dataclass(frozen=True)
class _Setting:
    """Scalars and names of a simulation, as ``uns["simulation"]`` stores them."""

    regulators: pd.Index
    combination_sep: str
    max_dose: float | None
    default_dose: dict[str, str]
    dispersion: float


class Truth:
    """Truth behind a simulated screen; made by :func:`truth`.

    Attributes
    ----------
    obs
        Observations of the screen, one row per cell.
    genes
        Gene names.
    library
        Library size s to which expression is normalised.
    grn
        Frame of the true network: `source`, `target`, signed `weight`.
    """

    def __init__(self, adata: AnnData) -> None:
        stored = adata.uns["simulation"]
        parameters = stored["parameters"]
        cell_types, donors = list(stored["cell_types"]), list(stored["donors"])
        n_types, n_donors, n_genes = len(cell_types), len(donors), adata.n_vars
        baseline = np.asarray(adata.varm["simulation_baseline"], dtype=np.float64).T
        propagation = np.asarray(adata.varm["simulation_propagation"], dtype=np.float64).T
        self.obs = adata.obs.copy()
        self.genes = adata.var_names.copy()
        self.library = float(stored["library"])
        self.grn = _edges(adata.varp[SLOTS.GRN_TRUE], self.genes)
        self._setting = _Setting(
            regulators=pd.Index(list(stored["regulators"])),
            combination_sep=str(parameters["combination_sep"]),
            max_dose=float(np.max(parameters["doses"])) if "doses" in parameters else None,
            default_dose=dict(zip(stored["treatments"], stored["default_doses"], strict=True)),
            dispersion=float(parameters["dispersion"]),
        )
        self._mechanism = Mechanism(
            profile=baseline[:n_types],
            donor=baseline[n_types : n_types + n_donors],
            loading=baseline[-1],
            propagation=propagation.reshape(n_types, -1, n_genes),
            sensitivity=np.asarray(stored["sensitivity"], dtype=np.float64),
            effect_strength=float(parameters["effect_strength"]),
        )
        self._cells = Cells(
            cell_type=pd.Index(cell_types).get_indexer(self.obs["cell_type"].astype(str)),
            donor=pd.Index(donors).get_indexer(self.obs["donor"].astype(str)),
            state=self.obs["cell_state"].to_numpy(dtype=np.float64),
            activity=np.asarray(adata.obsm["simulation_activity"], dtype=np.float64),
        )

    def __repr__(self) -> str:
        return f"Truth of {len(self.obs)} cells x {len(self.genes)} genes, {len(self.grn)} edges"

    def counterfactual_mean(
        self,
        treatment: str,
        indices: Sequence[int] | npt.NDArray[Any] | None = None,
        dose: Dose = None,
        scale: Scale = "log1p",
    ) -> FloatArray:
        """Expected expression of cells under a treatment, given their own type, donor, state, activities and library.

        Parameters
        ----------
        treatment
            "control", any regulator, or a combination; also such as no cell received.
        indices
            Positions or a boolean mask of cells; all by default.
        dose
            A number, or one per member such as "1+0.5". By default the most frequent training dose of the treatment.
        scale
            "rate": expected counts at library size s. "log1p": E[log1p(counts / library * s)] under the negative
            binomial at the cell's own library size, which is the expectation of ``X``.

        Returns
        -------
        (n_cells, n_genes).

        Raises
        ------
        ValueError
            If the treatment is unknown, or the dose or scale does not fit.
        """
        rows = np.arange(len(self.obs))
        if indices is not None:
            rows = rows[np.asarray(indices, dtype=None if len(indices) else np.int64)]
        out = np.empty((len(rows), len(self.genes)))
        for block, values in self._blocks(rows, treatment, dose, scale):
            out[block] = values
        return out

    def stratum_mean(
        self, treatment: str, groupby: str | Sequence[str] = "cell_type", dose: Dose = None, scale: Scale = "log1p"
    ) -> pd.DataFrame:
        """Mean of the counterfactual means over all cells of each stratum, whatever they received.

        Parameters
        ----------
        treatment, dose, scale
            As in :meth:`counterfactual_mean`.
        groupby
            Columns of `obs` whose joint levels are the strata.

        Returns
        -------
        Frame of strata (present in `obs`) x genes.

        Raises
        ------
        ValueError
            If `groupby` names no column of `obs`, or as in :meth:`counterfactual_mean`.
        """
        keys = [groupby] if isinstance(groupby, str) else list(groupby)
        unknown = [key for key in keys if key not in self.obs]
        if unknown or not keys:
            msg = f"groupby={groupby!r} must name columns of obs: {', '.join(self.obs.columns)}."
            raise ValueError(msg)
        grouped = self.obs.groupby(keys[0] if len(keys) == 1 else keys, observed=True)
        size = grouped.size()
        code = grouped.ngroup().to_numpy()
        total = np.zeros((len(size), len(self.genes)))
        for block, values in self._blocks(np.arange(len(self.obs)), treatment, dose, scale):
            member = sparse.csr_matrix(
                (np.ones(len(values)), (code[block], np.arange(len(values)))), (len(size), len(values))
            )
            total += member @ values
        return pd.DataFrame(total / size.to_numpy()[:, None], index=size.index, columns=self.genes)

    def effect(
        self,
        treatment: str,
        reference: str = CONTROL,
        groupby: str | Sequence[str] = "cell_type",
        dose: Dose = None,
        reference_dose: Dose = None,
        scale: Scale = "log1p",
    ) -> pd.DataFrame:
        """Average effect of a treatment against a reference in each stratum; see :meth:`stratum_mean`."""
        treated = self.stratum_mean(treatment, groupby, dose, scale)
        return treated - self.stratum_mean(reference, groupby, reference_dose, scale)

    def _blocks(
        self, rows: npt.NDArray[np.int64], treatment: str, dose: Dose, scale: Scale
    ) -> Iterator[tuple[slice, FloatArray]]:
        if scale not in ("log1p", "rate"):
            msg = f"scale={scale!r} must be 'log1p' or 'rate'."
            raise ValueError(msg)
        push = self._push(treatment, dose)
        library = self.obs["library"].to_numpy(dtype=np.float64)
        normaliser = self.obs["simulation_log_normaliser"].to_numpy(dtype=np.float64)
        for start in range(0, len(rows), BLOCK_SIZE):
            chosen = rows[start : start + BLOCK_SIZE]
            cells = self._cells.take(chosen)
            log_rate = self._mechanism.control_log_rate(cells) + self._mechanism.shift(cells, push)
            rate = np.exp(log_rate - normaliser[chosen, None])
            if scale == "rate":
                values = rate * self.library
            else:
                own = library[chosen]
                values = expected_log1p(rate * own[:, None], self.library / own, self._setting.dispersion)
            yield slice(start, start + len(chosen)), values

    def _push(self, treatment: str, dose: Dose) -> FloatArray:
        """Pushes of a treatment on each regulator, (1, n_regulators)."""
        setting = self._setting
        members = split_combination(treatment, CONTROL, setting.combination_sep)
        position = setting.regulators.get_indexer(pd.Index(members, dtype=object))
        if (position < 0).any():
            some = ", ".join(setting.regulators[:5])
            msg = f"treatment={treatment!r} is not 'control', a regulator ({some}, ...) or a combination of regulators."
            raise ValueError(msg)
        push = np.zeros((1, len(setting.regulators)))
        if setting.max_dose is None or not members:
            if dose is not None and not (members == [] and setting.max_dose is not None and dose == 0):
                msg = f"dose={dose!r} was given, but {treatment!r} has no dose in this screen. Leave it at None."
                raise ValueError(msg)
            push[0, position] = 1.0
        else:
            given = self._default_dose(treatment, members) if dose is None else dose
            amounts = parse_dose(given, len(members), setting.combination_sep, treatment)
            push[0, position] = dose_response(np.array(amounts), setting.max_dose)
        return push

    def _default_dose(self, treatment: str, members: list[str]) -> str:
        default = self._setting.default_dose
        if treatment in default:
            return default[treatment]
        return self._setting.combination_sep.join(default.get(m, str(self._setting.max_dose)) for m in members)


def expected_log1p(mean: FloatArray, factor: FloatArray, dispersion: float) -> FloatArray:
    r"""E[log1p(factor * C)] for negative binomial counts C, to about 1e-5.

    With :math:`\log(1 + y) = \int_0^\infty e^{-u} (1 - e^{-uy})\, du / u` and the probability generating function G
    of C, the expectation is :math:`\int_0^\infty e^{-w / f} (1 - G(e^{-w}))\, dw / w`. On a logarithmic grid of w the
    trapezoid rule converges geometrically, and cells (through f) and means (through G) separate: a table of cells x
    means is one matrix product, then read by linear interpolation in the log mean.

    Parameters
    ----------
    mean
        Means of the counts, (n_cells, n_genes).
    factor
        Factor of each cell, (n_cells,).
    dispersion
        Variance is mean + dispersion * mean².

    Returns
    -------
    (n_cells, n_genes).
    """
    step = 0.25
    log_w = np.arange(-28.0, np.log(40 * factor.max()) + step, step)
    w = np.exp(log_w)
    grid = np.linspace(np.log(1e-6), np.log(1e6), 2000)
    not_zero = -np.expm1(-np.log1p(dispersion * np.outer(-np.expm1(-w), np.exp(grid))) / dispersion)
    table = step * (np.exp(-w / factor[:, None]) @ not_zero)
    position = np.clip((np.log(mean) - grid[0]) / (grid[1] - grid[0]), 0, len(grid) - 1.001)
    left = position.astype(np.int64)
    lower, upper = np.take_along_axis(table, left, axis=1), np.take_along_axis(table, left + 1, axis=1)
    return np.asarray(lower + (position - left) * (upper - lower))


def _edges(matrix: sparse.csr_matrix, genes: pd.Index) -> pd.DataFrame:
    edges = sparse.coo_matrix(matrix)
    return pd.DataFrame(
        {"source": genes[edges.row], "target": genes[edges.col], "weight": edges.data.astype(np.float64)}
    )
