"""Figure 4: the network before and after refinement."""

from __future__ import annotations

import pandas as pd

from scgraphvci import grn, pl
from scgraphvci._constants import SLOTS
from scgraphvci._reproduce._experiment import THRESHOLD, Experiment
from scgraphvci._reproduce._figures import FigureReport, as_figure, first_split
from scgraphvci._reproduce._recipes import SPLIT_KEY
from scgraphvci._reproduce._tables import Report, versions

STATUS = ("kept", "added", "dropped")


def reproduce_fig4(experiment: Experiment) -> FigureReport:
    """Refine the network with the training cells of the first run and split, and draw both as matrices.

    Parameters
    ----------
    experiment
        What to refine with; `max_epochs` are those of the refinement.

    Returns
    -------
    The figure and a report with numbers of edges by status. Numbers: `fig4` (those), and `fig4_edges`, one row for
    every edge of either network, as of :func:`scgraphvci.grn.to_frame`; where screens are simulated with `is_true`.
    """
    split = first_split(experiment)
    adata = split.adata
    experiment.refine(adata, split.seed, experiment.epochs)
    edges = grn.to_frame(adata, SLOTS.GRN_REFINED)
    if experiment.data is None:
        true = pd.MultiIndex.from_frame(experiment.true_edges(adata)[["source", "target"]])
        edges["is_true"] = pd.MultiIndex.from_frame(edges[["source", "target"]]).isin(true)
    counts = _counts(edges)
    text = counts.map("{:,.0f}".format)
    figure = pl.grn_adjacency(adata, keys=(SLOTS.GRN, SLOTS.GRN_REFINED), show=False, return_fig=True)
    notes = [
        experiment.recipe.note,
        f"Refined with the {int((adata.obs[SPLIT_KEY] == 'train').sum()):,} training cells of one run ({split.name}), "
        f"{adata.uns[SLOTS.GRN_REFINED]['params']['max_epochs']} epochs. Edges of the refined network have a "
        f"confidence above {THRESHOLD}. Self-loops are left out.",
        "kept: in both networks; added: in the refined one only; dropped: in the prior only."
        + (" true: in the network that the screen was simulated from." if "is_true" in edges else ""),
        versions(),
    ]
    report = Report(
        "Figure 4: prior and refined network", {"Edges": text}, notes, {"fig4": counts, "fig4_edges": edges}
    )
    return FigureReport(as_figure(figure), report)


def _counts(edges: pd.DataFrame) -> pd.DataFrame:
    """Numbers of edges, regulators, targets and, where known, true edges, by status and in each network."""
    parts = {name: edges[edges["status"] == name] for name in STATUS}
    parts["prior"] = edges[edges["status"] != "added"]
    parts["refined"] = edges[edges["status"] != "dropped"]
    rows = {
        name: {
            "edges": len(part),
            "regulators": part["source"].nunique(),
            "targets": part["target"].nunique(),
            **({"true": int(part["is_true"].sum())} if "is_true" in part else {}),
        }
        for name, part in parts.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("status")
