"""Figure 5: counterfactual and observed expression."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import wasserstein_distance

from scgraphvci import datasets
from scgraphvci._reproduce import FigureReport, UsageError, reproduce_fig5
from scgraphvci._reproduce._experiment import FAST_SCREEN
from scgraphvci._reproduce._fig5 import N_GENES, N_TREATMENTS


@pytest.fixture(scope="module")
def one_model(tiny):
    return replace(tiny, models=("GraphVCI",), n_seeds=1)


@pytest.fixture(scope="module")
def fig5(one_model) -> FigureReport:
    return reproduce_fig5(one_model)


@pytest.fixture(scope="module")
def adata():
    return datasets.simulate(**FAST_SCREEN, seed=0)


def test_treatments_of_most_held_out_cells(fig5, adata):
    counts = adata.obs.loc[adata.obs["split"] == "ood", "perturbation"].value_counts()
    numbers = fig5.report.numbers["fig5"]
    assert list(dict.fromkeys(numbers["treatment"])) == counts.index[:N_TREATMENTS].tolist()
    assert (numbers.groupby("treatment").size() == N_GENES).all()
    first = numbers.drop_duplicates("treatment").set_index("treatment")
    assert (first["gene"] == first.index).all()  # the gene that the treatment is named after


def test_numbers_are_those_of_the_cells(fig5, adata):
    numbers, values = fig5.report.numbers["fig5"], fig5.report.numbers["fig5_cells"]
    obs = adata.obs.astype(str)
    for _, row in numbers.iterrows():
        gene = adata[:, row["gene"]].to_df().iloc[:, 0]
        held_out = (obs["perturbation"] == row["treatment"]) & (obs["split"] == "ood")
        stratum = obs.loc[held_out, "cell_type"].unique()
        assert row["stratum"] == stratum[0] and len(stratum) == 1
        here = obs["cell_type"] == stratum[0]
        control = gene[here & (obs["perturbation"] == "control")]
        observed = gene[here & (obs["perturbation"] == row["treatment"])]
        assert (row["n_control"], row["n_observed"]) == (len(control), len(observed))
        np.testing.assert_allclose(
            [row["mean_control"], row["mean_observed"], row["sd_observed"]],
            [control.mean(), observed.mean(), observed.std(ddof=0)],
            rtol=1e-5,
        )
        assert row["distance_control"] == pytest.approx(wasserstein_distance(control, observed), rel=1e-5)
        drawn = values.query("panel == @row.treatment and gene == @row.gene and kind == 'counterfactual'")["value"]
        assert len(drawn) == row["n_counterfactual"] == len(control)
        assert row["mean_counterfactual"] == pytest.approx(drawn.mean())
        assert row["distance_counterfactual"] == pytest.approx(wasserstein_distance(drawn, observed), rel=1e-5)


def test_genes_differ_most_from_control(fig5, adata):
    numbers = fig5.report.numbers["fig5"]
    treatment = numbers["treatment"].iloc[0]
    obs = adata.obs.astype(str)
    held_out = (obs["perturbation"] == treatment) & (obs["split"] == "ood")
    here = obs["cell_type"] == obs.loc[held_out, "cell_type"].iloc[0]
    frame = adata.to_df()
    a, b = frame[held_out], frame[here & (obs["perturbation"] == "control") & (obs["split"] != "ood")]
    t = (a.mean() - b.mean()).abs() / np.sqrt(a.var() / len(a) + b.var() / len(b))
    expected = [gene for gene in t.nlargest(N_GENES).index if gene != treatment][: N_GENES - 1]
    assert numbers.loc[numbers["treatment"] == treatment, "gene"].tolist() == [treatment, *expected]


def test_figure_and_files(fig5, tmp_path):
    numbers = fig5.report.numbers["fig5"]
    drawn = [ax.get_title() for ax in fig5.figure.axes]
    assert drawn == numbers["gene"].tolist()
    assert all("held out" in ax.get_xticklabels()[1].get_text() for ax in fig5.figure.axes)
    names = [path.name for path in fig5.write(tmp_path, "fig5")]
    assert names == ["fig5.png", "fig5.md", "fig5.csv", "fig5_cells.csv"]
    pd.testing.assert_series_equal(pd.read_csv(tmp_path / "fig5.csv")["gene"], numbers["gene"])
    notes = " ".join(fig5.report.notes)
    for words in ("without the cells drawn as observed", "largest responses, not typical ones"):
        assert words in notes


def test_what_is_asked_for(one_model, fig5, adata):
    treatment = fig5.report.numbers["fig5"]["treatment"].iloc[-1]
    genes = tuple(adata.var_names[[5, 2]])
    report = reproduce_fig5(replace(one_model, treatments=(treatment,), genes=genes)).report
    assert report.numbers["fig5"][["treatment", "gene"]].to_numpy().tolist() == [[treatment, gene] for gene in genes]
    assert "Treatments: as asked for. Genes: as asked for." in report.notes


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"treatments": ("nothing",)}, r"Treatments \['nothing'\] are not held out in this run. Held out: \["),
        ({"genes": ("nothing",)}, r"Genes \['nothing'\] are not in the data"),
    ],
)
def test_what_is_not_there(one_model, asked, message):
    with pytest.raises(UsageError, match=message):
        reproduce_fig5(replace(one_model, **asked))
