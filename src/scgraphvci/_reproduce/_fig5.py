"""Figure 5: counterfactual and observed expression where treatments were held out."""

from __future__ import annotations

from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.figure import Figure
from scipy.stats import wasserstein_distance

from scgraphvci import pl
from scgraphvci._constants import SPLITS
from scgraphvci._evaluation._screen import dense_rows
from scgraphvci._evaluation._welch import Group, welch
from scgraphvci._reproduce._experiment import Experiment, UsageError
from scgraphvci._reproduce._figures import FigureReport, first_split
from scgraphvci._reproduce._recipes import SPLIT_KEY, Recipe
from scgraphvci._reproduce._tables import Report, versions
from scgraphvci.pl._counterfactual_cells import CounterfactualCells, counterfactual_cells
from scgraphvci.pl._status import shorten

N_TREATMENTS = 2
N_GENES = 4
SHOWN = {
    "mean_control": "control",
    "mean_observed": "observed",
    "mean_counterfactual": "counterfactual",
    "distance_control": "distance of control",
    "distance_counterfactual": "of counterfactual",
}


class HeldOut(NamedTuple):
    """A treatment, the stratum that it was held out of, and what to look at.

    Attributes
    ----------
    treatment, dose
        The treatment, and the dose of most held-out cells where there are doses.
    stratum
        Levels of the covariates that all its held-out cells share; others are pooled.
    genes
        Genes to draw.
    """

    treatment: str
    dose: str | None
    stratum: dict[str, str]
    genes: list[str]


def reproduce_fig5(experiment: Experiment) -> FigureReport:
    """Train GraphVCI, and draw genes of held-out treatments: counterfactual draws against the cells held out.

    Parameters
    ----------
    experiment
        What to train. Its `treatments` and `genes` are drawn; if it names none, the held-out treatments of most cells,
        and of each the gene it is named after and those that differ most from control in the cells held out.

    Returns
    -------
    One row of panels per treatment, and a report with means and distances. Numbers: `fig5` (those, by treatment and
    gene) and `fig5_cells` (every value drawn).

    Raises
    ------
    UsageError
        If a treatment was not held out where there are control cells, or a gene is not in the data.
    """
    split = first_split(experiment)
    held_out = _held_out(experiment, split.adata)
    model, _ = experiment.fit(experiment.models[0], split)
    figure = _draw(model, held_out, split.seed)
    cells = [
        counterfactual_cells(model, one.genes, [one.treatment], one.stratum, one.dose, split.seed) for one in held_out
    ]
    model.deregister_manager(split.adata)
    numbers = [_compare(one, drawn) for one, drawn in zip(held_out, cells, strict=True)]
    values = [
        drawn.to_frame().melt(["treatment", "kind"], var_name="gene").assign(panel=one.treatment)
        for one, drawn in zip(held_out, cells, strict=True)
    ]
    report = Report(
        "Figure 5: counterfactual and observed expression",
        {_title(one): _table(frame) for one, frame in zip(held_out, numbers, strict=True)},
        _notes(experiment, split.name),
        {"fig5": pd.concat(numbers, ignore_index=True), "fig5_cells": pd.concat(values, ignore_index=True)},
    )
    return FigureReport(figure, report)


def _held_out(experiment: Experiment, adata: AnnData) -> list[HeldOut]:
    """What to draw, chosen before anything is trained."""
    unknown = [gene for gene in experiment.genes if gene not in adata.var_names]
    if unknown:
        msg = f"Genes {unknown} are not in the data, which hold such as {adata.var_names[:5].tolist()}."
        raise UsageError(msg)
    recipe = experiment.recipe
    treatment, split = (adata.obs[key].astype(str) for key in (recipe.perturbation_key, SPLIT_KEY))
    counts = treatment[(split == SPLITS.OOD) & (treatment != recipe.control)].value_counts()
    absent = [name for name in experiment.treatments if name not in counts]
    if absent or counts.empty:
        msg = f"Treatments {absent} are not held out in this run. Held out: {counts.index[:20].tolist()}."
        raise UsageError(msg)
    names = experiment.treatments or counts.index[:N_TREATMENTS]
    return [_describe(str(name), experiment, adata) for name in names]


def _describe(name: str, experiment: Experiment, adata: AnnData) -> HeldOut:
    """Where a treatment was held out, and the genes to draw."""
    recipe: Recipe = experiment.recipe
    obs = adata.obs.astype(dict.fromkeys((recipe.perturbation_key, SPLIT_KEY, *recipe.covariates), str))
    is_held_out = ((obs[recipe.perturbation_key] == name) & (obs[SPLIT_KEY] == SPLITS.OOD)).to_numpy()
    levels = obs.loc[is_held_out, list(recipe.covariates)]
    stratum = {key: levels[key].iloc[0] for key in levels if levels[key].nunique() == 1}
    control = ((obs[recipe.perturbation_key] == recipe.control) & (obs[SPLIT_KEY] != SPLITS.OOD)).to_numpy()
    for key, level in stratum.items():
        control = control & (obs[key] == level).to_numpy()
    if not control.any():
        msg = f"{name!r} was held out of {stratum}, where there is no control cell to start from. Name others."
        raise UsageError(msg)
    dose = None
    if recipe.dose_key is not None:
        dose = obs.loc[is_held_out, recipe.dose_key].astype(str).mode()[0]
        is_held_out = is_held_out & (obs[recipe.dose_key].astype(str) == dose).to_numpy()
    genes = list(experiment.genes)
    if not genes:
        treated, untreated = (
            Group.of(dense_rows(adata.X, np.flatnonzero(cells)).astype(np.float64)) for cells in (is_held_out, control)
        )
        order = adata.var_names[np.argsort(-np.abs(welch(treated, untreated)[0]), kind="stable")]
        named = [name] if name in adata.var_names else []
        genes = list(dict.fromkeys([*named, *order]))[:N_GENES]
    return HeldOut(name, dose, stratum, genes)


def _draw(model: Any, held_out: list[HeldOut], seed: int) -> Figure:
    """One row of panels for each treatment."""
    n = max(len(one.genes) for one in held_out)
    figure = plt.figure(figsize=(1.8 + 2.1 * n, 3.3 * len(held_out)), layout="constrained")
    rows = figure.subfigures(len(held_out), 1, squeeze=False)[:, 0]
    for row, one in zip(rows, held_out, strict=True):
        row.suptitle(_title(one), fontsize="medium")
        pl.counterfactual_violins(
            model, genes=one.genes, treatments=one.treatment, stratum=one.stratum, dose=one.dose, seed=seed,
            ax=row.subplots(1, len(one.genes), squeeze=False)[0], show=False,
        )  # fmt: skip
    return figure


def _title(one: HeldOut) -> str:
    """Name of a held-out treatment and its stratum."""
    what = shorten(one.treatment) + ("" if one.dose is None else f" @ {one.dose}")
    return f"{what} in {', '.join(one.stratum.values())}" if one.stratum else what


def _compare(one: HeldOut, cells: CounterfactualCells) -> pd.DataFrame:
    """Means, standard deviations and distances, one row per gene."""
    groups = {
        "control": cells.control,
        "observed": cells.observed[one.treatment],
        "counterfactual": cells.counterfactual[one.treatment],
    }
    rows = []
    for gene in one.genes:
        values = {kind: group[gene].to_numpy() for kind, group in groups.items()}
        rows.append(
            {
                "treatment": one.treatment, "dose": one.dose, "stratum": ", ".join(one.stratum.values()), "gene": gene,
                **{f"n_{kind}": len(group) for kind, group in groups.items()},
                **{f"mean_{kind}": group.mean() for kind, group in values.items()},
                **{f"sd_{kind}": group.std() for kind, group in values.items()},
                "distance_control": wasserstein_distance(values["control"], values["observed"]),
                "distance_counterfactual": wasserstein_distance(values["counterfactual"], values["observed"]),
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def _table(frame: pd.DataFrame) -> pd.DataFrame:
    """Numbers as text, one row per gene."""
    return pd.DataFrame(
        {text: list(map("{:.3f}".format, frame[name])) for name, text in SHOWN.items()},
        index=pd.Index(frame["gene"], name="gene"),
    )


def _notes(experiment: Experiment, name: str) -> list[str]:
    """What was trained and how genes and treatments were chosen."""
    chosen = "as asked for" if experiment.treatments else "those of most held-out cells"
    genes = (
        "as asked for"
        if experiment.genes
        else "the one the treatment is named after, and those that differ most from control in the held-out cells "
        "(Welch's t), so that these panels show the largest responses, not typical ones"
    )
    return [
        experiment.recipe.note,
        f"{experiment.models[0]}, one run ({name}), trained without the cells drawn as observed. Counterfactual: one "
        "draw for each control cell of the stratum. Columns are means, and 1-Wasserstein distances to the observed "
        "cells: the model tells more than control where that of the counterfactual is smaller.",
        f"Treatments: {chosen}. Genes: {genes}.",
        versions(),
    ]
