from __future__ import annotations

from dataclasses import replace

import anndata as ad
import matplotlib
import numpy as np
import pandas as pd
import pytest
import scanpy as sc

from scgraphvci.estimate import marginal_effects

COLUMNS = [
    *("treatment", "cell_type", "donor", "gene", "estimate", "std_error", "ci_low", "ci_high", "p_value"),
    *("p_value_adj", "robust", "observed", "plugin"),
    *("n_treated", "n_reference", "n_stratum", "n_clusters", "status"),
]
GENE_ARRAYS = ("estimate", "std_error", "ci_low", "ci_high", "p_value", "p_value_adj", "robust", "observed", "plugin")


@pytest.fixture
def effects(make_cells):
    first, second = make_cells(seed=1), make_cells(seed=2)
    second.treatment[(second.stratum == 1) & (second.treatment == 0)] = 2
    return marginal_effects(
        [("STAT1", first.sums()), ("A/B", second.sums())],
        strata=pd.DataFrame({"cell_type": pd.Categorical(["B", "T", "B"]), "donor": ["1", "1", "2"]}),
        genes=["g0", "g1", "g2", "g3"],
        params={"perturbation_key": "perturbation", "cluster_key": None, "scale": "log1p"},
    )


def test_frame_has_a_row_per_treatment_stratum_and_gene(effects):
    frame = effects.to_frame()
    assert frame.columns.tolist() == COLUMNS
    assert len(frame) == 2 * 3 * 4
    for t, treatment in enumerate(effects.treatments):
        for x, (cell_type, donor) in enumerate([("B", "1"), ("T", "1"), ("B", "2")]):
            for g, gene in enumerate(effects.genes):
                hit = (frame.treatment == treatment) & (frame.cell_type == cell_type) & (frame.donor == donor)
                (row,) = frame[hit & (frame.gene == gene)].to_dict("records")
                for name in GENE_ARRAYS:
                    np.testing.assert_equal(row[name], getattr(effects, name)[t, x, g])
                for name in ("n_treated", "n_reference", "n_stratum", "n_clusters", "status"):
                    assert row[name] == getattr(effects, name)[t, x]


def test_frame_can_be_filtered_without_changing_a_number(effects):
    whole = effects.to_frame()
    part = effects.to_frame(treatments="A/B", strata={"cell_type": "B", "donor": ["2"]}, genes=["g3", "g0"])
    expected = whole[(whole.treatment == "A/B") & (whole.cell_type == "B") & (whole.donor == "2")]
    expected = expected.set_index("gene").loc[["g3", "g0"]].reset_index()[COLUMNS]
    pd.testing.assert_frame_equal(part, expected)


def test_select_keeps_the_order_asked_for(effects):
    chosen = effects.select(["A/B", "STAT1"], {"donor": "1"})
    assert chosen.treatments.tolist() == ["A/B", "STAT1"]
    assert chosen.strata["cell_type"].tolist() == ["B", "T"]
    np.testing.assert_array_equal(chosen.estimate, effects.estimate[[1, 0]][:, [0, 1]])
    np.testing.assert_array_equal(chosen.status, effects.status[[1, 0]][:, [0, 1]])


@pytest.mark.parametrize(("wanted", "rows"), [("T", [1]), (["T", "B"], [0, 1]), ({"cell_type": "B"}, [0])])
def test_levels_of_a_single_key_need_no_key(effects, wanted, rows):
    single = effects.select(strata={"donor": "1"})
    single = replace(single, strata=single.strata[["cell_type"]])
    np.testing.assert_array_equal(single.select(strata=wanted).estimate, single.estimate[:, rows])
    assert single.to_frame(strata=wanted)["cell_type"].nunique() == len(rows)
    with pytest.raises(KeyError, match="'NK'"):
        single.select(strata="NK")
    with pytest.raises(TypeError, match="named by its keys and levels.*got 'B'"):
        effects.select(strata="B")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"treatments": "STAT3"}, "STAT3"),
        ({"genes": ["g0", "g9"]}, "g9"),
        ({"strata": {"batch": "1"}}, "batch"),
        ({"strata": {"donor": ["1", "7"]}}, "7"),
    ],
)
def test_what_is_not_there_is_named(effects, arguments, message):
    with pytest.raises(KeyError, match=message):
        effects.to_frame(**arguments)


def test_adata_holds_the_same_numbers(effects, tmp_path):
    adata = effects.to_adata()
    assert adata.shape == (6, 4)
    assert adata.obs["treatment"].tolist() == ["STAT1"] * 3 + ["A/B"] * 3
    assert adata.obs["cell_type"].tolist() == ["B", "T", "B"] * 2
    assert adata.obs_names[0] == "STAT1 | B | 1"
    np.testing.assert_array_equal(adata.X, effects.estimate.reshape(6, 4))
    for name in GENE_ARRAYS[1:]:
        np.testing.assert_array_equal(adata.layers[name], getattr(effects, name).reshape(6, 4))
    adata.write_h5ad(tmp_path / "effects.h5ad")
    again = ad.read_h5ad(tmp_path / "effects.h5ad")
    np.testing.assert_array_equal(again.layers["std_error"], adata.layers["std_error"])
    assert again.uns["marginal_effects"]["estimator"] == "robust"
    assert again.obs["status"].tolist() == ["ok", "ok", "ok", "ok", "extrapolated", "ok"]


def test_adata_can_be_plotted_by_scanpy(effects):
    matplotlib.use("Agg")
    axes = sc.pl.matrixplot(effects.to_adata(), ["g0", "g2"], groupby="treatment", show=False)
    assert "mainplot_ax" in axes
    matplotlib.pyplot.close("all")


def test_without_stratum_keys(make_cells):
    result = marginal_effects(
        [("a", make_cells(n_strata=1).sums())], strata=pd.DataFrame(index=[0]), genes=list("wxyz")
    )
    assert result.to_frame().columns.tolist() == [name for name in COLUMNS if name not in ("cell_type", "donor")]
    assert result.to_adata().obs_names.tolist() == ["a"]


def test_a_stratum_key_must_not_hide_a_column(make_cells):
    with pytest.raises(ValueError, match="treatment"):
        marginal_effects(
            [("a", make_cells().sums())], strata=pd.DataFrame({"treatment": list("abc")}), genes=list("wxyz")
        )


def test_repr_counts_rows_by_status(effects):
    assert "2 treatments x 3 strata x 4 genes" in repr(effects)
    assert "extrapolated 1, ok 5" in repr(effects)
    assert "difference to 'control'" in repr(effects)
    assert "<table" in effects._repr_html_()
    assert "<th" not in effects._repr_html_()  # names stand in the first column: no header, no row numbers


def test_overlap_counts_what_estimates_rest_on(effects):
    report = effects.overlap()
    assert len(report) == 6
    for t, treatment in enumerate(effects.treatments):
        for x in range(3):
            row = report.iloc[3 * t + x]
            assert row["treatment"] == treatment
            assert row["propensity"] == effects.n_treated[t, x] / effects.n_stratum[t, x]
            a, b = int(effects.n_treated[t, x]), int(effects.n_reference[t, x])
            assert row["n_effective"] == pytest.approx(2 * a * b / (a + b))
            assert row["status"] == effects.status[t, x]
    assert report.loc[4, ["n_treated", "n_effective", "propensity"]].tolist() == [0, 0, 0]
