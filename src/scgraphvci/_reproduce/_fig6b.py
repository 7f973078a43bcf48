"""Figure 6b: precision and recall of refined edges against true ones."""

from __future__ import annotations

import logging

import pandas as pd
from anndata import AnnData

from scgraphvci import grn, pl
from scgraphvci._constants import SLOTS
from scgraphvci._reproduce._experiment import Experiment
from scgraphvci._reproduce._figures import FigureReport, as_figure, first_split
from scgraphvci._reproduce._recipes import SPLIT_KEY
from scgraphvci._reproduce._tables import Report, versions

logger = logging.getLogger(__name__)

ANY_CONFIDENCE = 1e-9
POOLED = "all"  # of grn.evaluate
SCOPES = {"all": "all pairs", "within": "in the prior", "outside": "not in the prior"}
SHOWN = {"auprc": "AUPRC", "auprc_ratio": "ratio", "early_precision": "early precision", "auroc": "AUROC"}


def reproduce_fig6b(experiment: Experiment) -> FigureReport:
    """Rank edges by refined confidence, by the prior and by correlation, and compare the rankings with true edges.

    The network is refined with the training cells of the first run and split, from which correlations are computed too.
    Candidates are all pairs of a regulator of the true network and another gene.

    Parameters
    ----------
    experiment
        What to refine with; `max_epochs` are those of the refinement.

    Returns
    -------
    Curves for each of ``experiment.regulators`` in the data and for all regulators pooled, and a report with the scores
    of :func:`scgraphvci.grn.evaluate`. Numbers: `fig6b` (those scores), and `fig6b_curves`.

    Raises
    ------
    UsageError
        If no true edge joins two genes of the data, a regulator has no true edge, or none of them has one here.
    """
    split = first_split(experiment)
    adata = split.adata
    truth = experiment.true_edges(adata)
    experiment.refine(adata, split.seed, experiment.epochs, threshold=ANY_CONFIDENCE)
    nets = _networks(experiment, adata, truth)
    one_by_one = bool(experiment.regulators)
    curves = grn.precision_recall(nets, truth, genes=adata.var_names, per_regulator=one_by_one)
    scores = grn.evaluate(
        nets, truth, prior=SLOTS.GRN, adata=adata, baselines=[], per_regulator=one_by_one, seed=split.seed
    )
    known = set(curves["regulator"])
    shown = [*(name for name in experiment.regulators if name in known), POOLED]
    absent = [name for name in experiment.regulators if name not in known]
    curves, scores = (frame[frame["regulator"].isin(shown)].reset_index(drop=True) for frame in (curves, scores))
    figure = pl.grn_precision_recall(curves, regulators=shown, show=False, return_fig=True)
    report = Report(
        "Figure 6b: recovery of true edges",
        {_heading(name): _table(scores[scores["regulator"] == name]) for name in shown},
        [*_notes(experiment, split.name, adata, truth), *_absent(absent), versions()],
        {"fig6b": scores.drop(columns="kind"), "fig6b_curves": curves},
    )
    return FigureReport(as_figure(figure), report)


def _networks(experiment: Experiment, adata: AnnData, truth: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Edges with the scores to rank them by."""
    regulators, recipe = truth["source"].unique().tolist(), experiment.recipe
    return {
        "refined": grn.get_grn(adata, SLOTS.GRN_REFINED),
        "prior": grn.get_grn(adata, SLOTS.GRN),
        "correlation": grn.score_edges(adata, "pearson", regulators, split_key=SPLIT_KEY),
        "residual correlation": grn.score_edges(
            adata,
            "residual_pearson",
            regulators,
            perturbation_key=recipe.perturbation_key,
            categorical_covariate_keys=recipe.covariates,
            split_key=SPLIT_KEY,
        ),
    }


def _heading(regulator: str) -> str:
    return "All regulators" if regulator == POOLED else regulator


def _table(scores: pd.DataFrame) -> pd.DataFrame:
    """Scores as text: among all candidates, then within and outside of the prior."""
    parts = [scores[scores["scope"] == scope].assign(scope=text) for scope, text in SCOPES.items()]
    rows = pd.concat(parts)
    columns = {"pairs": rows["n_candidates"].map("{:,}".format), "true": rows["n_true"].map("{:,}".format)}
    columns |= {text: rows[name].map("{:.3f}".format, na_action="ignore") for name, text in SHOWN.items()}
    index = pd.Index(rows["predictor"] + ", " + rows["scope"], name="ranking, among")
    return pd.DataFrame(columns).fillna("n/a").set_axis(index)


def _notes(experiment: Experiment, name: str, adata: AnnData, truth: pd.DataFrame) -> list[str]:
    """What was ranked and compared."""
    known = set(truth["source"]) & set(adata.var_names)
    with_edges = known & set(grn.get_grn(adata, SLOTS.GRN)["source"])
    table = "the network that the screen was simulated from"
    return [
        experiment.recipe.note,
        f"Truth: {table if experiment.true_network is None else experiment.true_network.name}. Candidates: pairs of "
        f"one of its {len(known)} regulators among {adata.n_vars:,} genes with any other gene; its regulators are kept "
        f"where variable genes are selected. {len(with_edges)} of them have edges in the prior, and the refined "
        "network has none of the others.",
        f"Refined with the {int((adata.obs[SPLIT_KEY] == 'train').sum()):,} training cells of one run ({name}), "
        f"{adata.uns[SLOTS.GRN_REFINED]['params']['max_epochs']} epochs; ranked by all confidences. correlation: "
        "absolute, over the same cells; residual: after the means of treatment and stratum are removed.",
        "ratio: AUPRC over the share of true pairs, which random scores reach (dashed in the figure). Early precision: "
        "share of true pairs among as many of the best as there are true ones. Pairs that a ranking does not list tie.",
    ]


def _absent(regulators: list[str]) -> list[str]:
    """Say which regulators are not shown."""
    if not regulators:
        return []
    note = f"Not shown, for they have no true edge to a gene of the data: {', '.join(regulators)}."
    logger.warning(note)
    return [note]
