"""The demo: the whole chain on a simulated screen, beside simple baselines and the truth."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from rich.console import Console
from rich.table import Table

from scgraphvci import pl, tl
from scgraphvci._constants import SLOTS
from scgraphvci._quiet import quiet_training
from scgraphvci._reproduce._figures import save_figure
from scgraphvci.baselines import ContextShift, NoChange, Predictor
from scgraphvci.datasets import Truth, simulate, truth
from scgraphvci.estimate import MarginalEffects
from scgraphvci.evaluate import Evaluation
from scgraphvci.model import GraphVCI

COVARIATES = ["cell_type", "donor"]
MODEL = "GraphVCI"
METRICS = {
    "r2": "R2",
    "r2_de": "R2, 50 DE genes",
    "pearson_shift": "Pearson of the shift",
    "weighted_r2": "weighted R2",
    "centroid_accuracy": "centroid accuracy",
}


class Size(NamedTuple):
    """How much the demo does."""

    n_cells: int = 4000
    n_genes: int = 400
    n_perturbations: int = 16
    refine_epochs: int | None = None
    epochs: int | None = None


def run_demo(out: Path, seed: int, console: Console, size: Size | None = None) -> pd.DataFrame:
    """Simulate, refine, train, predict, estimate; print tables and write figures and data.

    Parameters
    ----------
    out
        Existing folder to write to.
    seed
        Of everything random.
    console
        Where to print.
    size
        How much to do.

    Returns
    -------
    Scores by predictor.
    """
    size = size or Size()
    start = time.perf_counter()
    with quiet_training(seed):
        console.rule("1  Simulate a screen from a known network")
        adata = simulate(n_cells=size.n_cells, n_genes=size.n_genes, n_perturbations=size.n_perturbations, seed=seed)
        known = truth(adata)
        console.print(_describe(adata), highlight=False)

        console.rule("2  Refine the prior network with the training cells")
        tl.refine_grn(
            adata,
            split_key="split",
            categorical_covariate_keys=COVARIATES,
            perturbation_key="perturbation",
            max_epochs=size.refine_epochs,
            seed=seed,
        )
        console.print(_network_table(adata))

        console.rule("3  Train GraphVCI with the refined network")
        GraphVCI.setup_anndata(
            adata, categorical_covariate_keys=COVARIATES, split_key="split", grn_key=SLOTS.GRN_REFINED
        )
        model = GraphVCI(adata)
        model.train(max_epochs=size.epochs)

        console.rule("4  Predict treatments in cell types where they were held out")
        predictors: dict[str, Predictor] = {
            MODEL: model,
            "context shift": ContextShift(adata, categorical_covariate_keys=COVARIATES, split_key="split"),
            "no change": NoChange(adata, categorical_covariate_keys=COVARIATES, split_key="split"),
        }
        evaluation = Evaluation(predictors, baselines=None, groupby="cell_type", truth=known, duplicates=False)
        pairs = evaluation.pairs()
        scores = pairs.groupby("predictor", sort=False)[list(METRICS)].mean()
        console.print(_score_table(scores, pairs))

        console.rule("5  Estimate effects, with intervals")
        treatment, cell_type = _largest_effect(pairs, known, adata)
        effects = model.marginal_effect(groupby="cell_type", cluster_key=None)
        console.print(_effects_table(effects, known, treatment, cell_type))

    _write(out, adata, model, effects, evaluation, treatment, cell_type)
    console.rule("Done")
    seconds = time.perf_counter() - start
    console.print(f"{seconds:.0f} seconds. Figures, tables and demo.h5ad are in {out}.", markup=False)
    return scores


def _describe(adata: AnnData) -> str:
    counts = adata.obs["split"].value_counts()
    n_treatments = adata.obs["perturbation"].nunique() - 1
    held_out = adata.obs.loc[adata.obs["split"] == "ood", ["perturbation", "cell_type"]].drop_duplicates()
    return (
        f"{adata.n_obs} cells x {adata.n_vars} genes, {n_treatments} perturbations, "
        f"{adata.obs['cell_type'].nunique()} cell types, {adata.obs['donor'].nunique()} donors. "
        f"{counts['train']} cells to train on, {counts['test']} to validate, {counts['ood']} held out: "
        f"{len(held_out)} perturbations, each in one cell type."
    )


def _network_table(adata: AnnData) -> Table:
    """How many edges of each network are true."""
    true = adata.varp[SLOTS.GRN_TRUE] != 0
    table = Table("network", "edges", "of them true", "share of true edges found")
    for name in (SLOTS.GRN, SLOTS.GRN_REFINED):
        network = adata.varp[name] != 0
        both = network.multiply(true).nnz
        table.add_row(name, f"{network.nnz:,}", f"{both / network.nnz:.2f}", f"{both / true.nnz:.2f}")
    return table


def _score_table(scores: pd.DataFrame, pairs: pd.DataFrame) -> Table:
    """Scores of the predictors, best in bold."""
    n_pairs = len(pairs) // len(scores)
    table = Table(
        "predictor", *METRICS.values(),
        title=f"Mean expression of {n_pairs} held-out pairs against the noise-free truth", title_justify="left",
    )  # fmt: skip
    best = scores.max()
    for name, row in scores.iterrows():
        cells = [f"[bold]{row[m]:.3f}[/bold]" if row[m] == best[m] else f"{row[m]:.3f}" for m in METRICS]
        table.add_row(str(name), *cells)
    return table


def _largest_effect(pairs: pd.DataFrame, known: Truth, adata: AnnData) -> tuple[str, str]:
    """Treatment and cell type, observed in training, with the largest true effect."""
    held_out = set(zip(pairs["treatment"], pairs["cell_type"], strict=True))
    size = {
        (name, str(cell_type)): float(np.linalg.norm(row))
        for name in adata.obs["perturbation"].cat.categories[1:]
        for cell_type, row in known.effect(name).iterrows()
        if (name, cell_type) not in held_out
    }
    return max(size, key=lambda pair: size[pair])


def _effects_table(effects: MarginalEffects, known: Truth, treatment: str, cell_type: str) -> Table:
    """The clearest effects of a treatment beside the truth."""
    frame = effects.to_frame(treatment, {"cell_type": cell_type})
    frame["truth"] = known.effect(treatment).loc[cell_type].reindex(frame["gene"]).to_numpy()
    inside = ((frame["ci_low"] <= frame["truth"]) & (frame["truth"] <= frame["ci_high"])).mean()
    level = 100 * (1 - effects.params["alpha"])
    table = Table(
        "gene", "effect", f"{level:g} % interval", "adjusted p", "observed", "truth",
        title=f"{treatment} against control in {cell_type}, {frame['n_treated'].iloc[0]} treated cells; "
        f"{100 * inside:.0f} % of the intervals of all {len(frame)} genes hold the truth",
        title_justify="left",
    )  # fmt: skip
    for row in frame.nsmallest(8, "p_value").itertuples():
        table.add_row(
            str(row.gene), f"{row.estimate:+.3f}", f"{row.ci_low:+.3f} to {row.ci_high:+.3f}", f"{row.p_value_adj:.1e}",
            f"{row.observed:+.3f}", f"{row.truth:+.3f}",
        )  # fmt: skip
    return table


def _write(
    out: Path,
    adata: AnnData,
    model: GraphVCI,
    effects: MarginalEffects,
    evaluation: Evaluation,
    treatment: str,
    cell_type: str,
) -> None:
    """Write tables, figures and the AnnData with everything in its slot."""
    evaluation.pairs().to_csv(out / "scores.csv", index=False)
    effects.to_frame().to_csv(out / "effects.csv", index=False)
    stratum = {"cell_type": cell_type}
    networks = (SLOTS.GRN, SLOTS.GRN_REFINED, SLOTS.GRN_TRUE)
    figures = {
        "history": pl.history(model, show=False, return_fig=True),
        "held_out_shifts": pl.shift_scatter(evaluation.shifts(), show=False, return_fig=True),
        "grn": pl.grn_adjacency(adata, keys=networks, show=False, return_fig=True),
        "effects_volcano": pl.effects_volcano(
            effects, treatment=treatment, stratum=stratum, show=False, return_fig=True
        ),
        "effects_forest": pl.effects_forest(effects, treatment=treatment, stratum=stratum, show=False, return_fig=True),
    }
    for name, figure in figures.items():
        save_figure(figure, out / f"{name}.png")
    adata.obsm[SLOTS.LATENT] = model.get_latent_representation()
    model.add_counterfactuals(treatment)
    here = effects.select(strata=stratum)
    with_error = np.flatnonzero(np.isfinite(here.std_error[:, 0]).any(axis=1))
    tl.rank_effects(adata, effects.select(here.treatments[with_error].tolist()), stratum=stratum)
    adata.write_h5ad(out / "demo.h5ad")
