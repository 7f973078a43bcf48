"""Figure 4: the network before and after refinement."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from scgraphvci import datasets, tl
from scgraphvci._reproduce import FigureReport, reproduce_fig4
from scgraphvci._reproduce._experiment import FAST_SCREEN
from scgraphvci._reproduce._fig4 import _counts


@pytest.fixture(scope="module")
def fig4(tiny) -> FigureReport:
    return reproduce_fig4(replace(tiny, models=("GraphVCI-refined",), n_seeds=1))


@pytest.fixture(scope="module")
def refined():
    """The same refinement through the public function."""
    adata = datasets.simulate(**FAST_SCREEN, seed=0)
    tl.refine_grn(
        adata,
        split_key="split",
        categorical_covariate_keys=["cell_type", "donor"],
        perturbation_key="perturbation",
        max_epochs=2,
        enable_progress_bar=False,
    )
    return adata


def off_diagonal(matrix) -> np.ndarray:
    dense = matrix.toarray() != 0
    np.fill_diagonal(dense, False)
    return dense


def test_counts_are_those_of_the_matrices(fig4, refined):
    prior, after, true = (off_diagonal(refined.varp[key]) for key in ("grn", "grn_refined", "grn_true"))
    masks = {
        "kept": prior & after, "added": after & ~prior, "dropped": prior & ~after, "prior": prior, "refined": after,
    }  # fmt: skip
    counts = fig4.report.numbers["fig4"]
    assert counts.index.tolist() == list(masks)
    for name, mask in masks.items():
        expected = [mask.sum(), mask.any(axis=1).sum(), mask.any(axis=0).sum(), (mask & true).sum()]
        assert counts.loc[name, ["edges", "regulators", "targets", "true"]].tolist() == expected
    assert (counts.loc[["kept", "dropped"], "edges"] > 0).all()
    assert fig4.report.tables["Edges"].loc["kept", "edges"] == f"{(prior & after).sum():,}"


def test_counts_by_hand():
    rows = [("A", "B", "kept"), ("A", "C", "added"), ("B", "C", "added"), ("B", "A", "dropped")]
    counts = _counts(pd.DataFrame(rows, columns=["source", "target", "status"]))
    assert counts.columns.tolist() == ["edges", "regulators", "targets"]
    assert counts.to_numpy().tolist() == [[1, 1, 1], [2, 2, 1], [1, 1, 1], [2, 2, 2], [3, 2, 2]]


def test_edges_hold_confidences_and_status(fig4, refined):
    edges = fig4.report.numbers["fig4_edges"]
    genes = refined.var_names
    row, column = genes.get_indexer(edges["source"]), genes.get_indexer(edges["target"])
    confidence = np.asarray(refined.varp["grn_refined"].toarray())[row, column]
    np.testing.assert_allclose(edges["weight"], confidence)
    np.testing.assert_array_equal(edges["status"] == "dropped", confidence == 0)
    np.testing.assert_array_equal(edges["is_true"], refined.varp["grn_true"].toarray()[row, column] != 0)
    assert edges["weight"].is_monotonic_decreasing


def test_figure_and_files(fig4, tmp_path):
    counts = fig4.report.numbers["fig4"]["edges"]
    titles = [ax.get_title() for ax in fig4.figure.axes[:2]]
    assert titles == [f"grn: {counts['prior']:,} edges", f"grn_refined: {counts['refined']:,} edges"]
    names = [path.name for path in fig4.write(tmp_path, "fig4")]
    assert names == ["fig4.png", "fig4.md", "fig4.csv", "fig4_edges.csv"]
    assert (tmp_path / "fig4.png").read_bytes().startswith(b"\x89PNG")
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "fig4.csv", index_col=0), fig4.report.numbers["fig4"])


def test_notes_say_what_was_refined(fig4):
    n_train = (datasets.simulate(**FAST_SCREEN, seed=0).obs["split"] == "train").sum()
    notes = " ".join(fig4.report.notes)
    for words in (f"{n_train} training cells", "2 epochs", "above 0.3", "simulated from"):
        assert words in notes
