from __future__ import annotations

from dataclasses import replace

import anndata as ad
import matplotlib
import numpy as np
import pandas as pd
import pytest
import scanpy as sc

from scgraphvci.estimate import EffectSums, Groups, marginal_effects
from scgraphvci.tl._rank_effects import rank_effects

matplotlib.use("Agg")

TREATMENTS = ["STAT1", "A/B"]
GENES = [f"gene{i}" for i in range(30)]


@pytest.fixture
def adata():
    rng = np.random.default_rng(0)
    n_cells = 240
    perturbation = np.tile(["control", *TREATMENTS], n_cells // 3)
    shift = {"control": 0.0, "STAT1": np.linspace(-1, 1, 30), "A/B": np.linspace(1, -1, 30)}
    x = np.abs(rng.normal(2, 0.5, size=(n_cells, 30)) + np.stack([np.broadcast_to(shift[p], 30) for p in perturbation]))
    x[:, 4] = 0.0
    obs = pd.DataFrame(
        {"perturbation": pd.Categorical(perturbation), "cell_type": np.repeat(["B", "T"], n_cells // 2)},
        index=[f"cell{i}" for i in range(n_cells)],
    )
    return ad.AnnData(x, obs=obs, var=pd.DataFrame(index=GENES))


def estimate(adata, *, keep=lambda adata, treatment: np.ones(adata.n_obs, dtype=bool), scale="log1p", **options):
    options = {"estimator": "observed", "reference": "control", "p_adjust": "holm", **options}
    with_reference = options["reference"] is not None
    groups, group = Groups.from_codes(pd.factorize(adata.obs["cell_type"])[0])
    zero = np.zeros(adata.shape)
    pairs = []
    for treatment in TREATMENTS:
        sums = EffectSums(groups, adata.n_vars, with_reference=with_reference)
        in_arm = (adata.obs["perturbation"] == treatment).to_numpy() & keep(adata, treatment)
        in_reference = (adata.obs["perturbation"] == "control").to_numpy()
        if with_reference:
            sums.update(adata.X, zero, zero, in_arm, in_reference, group)
        else:
            sums.update(adata.X, zero, None, in_arm, None, group)
        pairs.append((treatment, sums))
    params = {"perturbation_key": "perturbation", "scale": scale}
    strata = pd.DataFrame({"cell_type": ["B", "T"]})
    return marginal_effects(pairs, strata=strata, genes=adata.var_names, params=params, **options)


def test_the_frame_of_scanpy_has_our_numbers(adata):
    effects = estimate(adata)
    assert rank_effects(adata, effects, stratum={"cell_type": "T"}) is None
    for treatment in TREATMENTS:
        ranked = sc.get.rank_genes_groups_df(adata, group=treatment, key="rank_effects")
        ours = effects.to_frame(treatment, {"cell_type": "T"}).set_index("gene").loc[ranked["names"]]
        assert ranked["scores"].is_monotonic_decreasing
        tested = (ours["std_error"] > 0).to_numpy()
        ranked, ours, untested = ranked[tested], ours[tested], ranked[~tested]
        np.testing.assert_allclose(ranked["scores"], ours["estimate"] / ours["std_error"], rtol=1e-5)
        np.testing.assert_allclose(ranked["logfoldchanges"], ours["estimate"] / np.log(2), rtol=1e-5)
        np.testing.assert_array_equal(ranked["pvals"], ours["p_value"])
        np.testing.assert_array_equal(ranked["pvals_adj"], ours["p_value_adj"])
        assert untested[["names", "scores", "pvals", "pvals_adj"]].to_numpy().tolist() == [["gene4", 0.0, 1.0, 1.0]]


def test_the_structure_is_that_of_scanpy(adata):
    rank_effects(adata, estimate(adata), stratum={"cell_type": "B"})
    sc.tl.rank_genes_groups(adata, "perturbation", reference="control", method="t-test", groups=TREATMENTS)
    ours, theirs = adata.uns["rank_effects"], adata.uns["rank_genes_groups"]
    assert set(theirs) <= set(ours)
    assert set(theirs["params"]) <= set(ours["params"])
    for name in ("names", "scores", "logfoldchanges", "pvals", "pvals_adj"):
        assert {field: kind[0] for field, kind in ours[name].dtype.fields.items()} == {
            field: kind[0] for field, kind in theirs[name].dtype.fields.items()
        }
    assert ours["params"]["groupby"] == "perturbation"
    assert ours["params"]["reference"] == "control"
    assert ours["params"]["corr_method"] == "holm"
    assert ours["params"]["stratum"] == {"cell_type": "B"}


PLOTS = ["", "_heatmap", "_dotplot", "_matrixplot", "_violin", "_stacked_violin", "_tracksplot"]
WITHOUT_AB_IN_T = {"keep": lambda adata, t: (t != "A/B") | (adata.obs["cell_type"] == "B").to_numpy()}


def drawn_text():
    axes = matplotlib.pyplot.gcf().axes
    text = {label.get_text() for axis in axes for label in axis.findobj(matplotlib.text.Text)}
    matplotlib.pyplot.close("all")
    return text


@pytest.mark.parametrize("groups", [None, ["STAT1"]])
@pytest.mark.parametrize("some", [{}, WITHOUT_AB_IN_T], ids=["all", "some"])
@pytest.mark.parametrize("plot", PLOTS)
def test_the_plots_of_scanpy_work(adata, plot, some, groups):
    """With all treatments, and where one was left out: its cells are drawn, its genes are not."""
    rank_effects(adata, estimate(adata, **some), stratum="T")
    draw = getattr(sc.pl, f"rank_genes_groups{plot}")
    draw(adata, groups=groups, key="rank_effects", n_genes=3, show=False)
    names = adata.uns["rank_effects"]["names"]
    assert names.dtype.names == (("STAT1",) if some else ("STAT1", "A/B"))
    last = "STAT1" if groups or some else "A/B"  # violins of one treatment after the other are figures of their own
    assert names[last][0] in drawn_text()


@pytest.mark.parametrize("values", ["logfoldchanges", "scores", "log10_pvals_adj"])
@pytest.mark.parametrize("some", [{}, WITHOUT_AB_IN_T], ids=["all", "some"])
@pytest.mark.parametrize("plot", ["dotplot", "matrixplot"])
def test_values_are_drawn_for_the_cells_of_the_treatments_ranked(adata, plot, some, values):
    """The call that the notes give. On all cells scanpy looks the reference up in vain, in its own results too."""
    draw = getattr(sc.pl, f"rank_genes_groups_{plot}")
    options = {"values_to_plot": values, "n_genes": 3, "show": False, "dendrogram": False}
    rank_effects(adata, estimate(adata, **some), stratum="T")
    ranked = adata.uns["rank_effects"]["names"]
    cells = adata[adata.obs["perturbation"].isin(ranked.dtype.names)].copy()
    draw(cells, key="rank_effects", **options)
    assert ranked["STAT1"][0] in drawn_text()


def test_scanpy_looks_the_reference_up_in_vain(adata):
    """Why the notes give that call. A scanpy in which its own results are drawn would make it needless."""
    rank_effects(adata, estimate(adata), stratum="T")
    sc.tl.rank_genes_groups(adata, "perturbation", reference="control", method="t-test", groups=TREATMENTS)
    for key in ("rank_effects", "rank_genes_groups"):
        with pytest.raises(KeyError, match="control"):
            sc.pl.rank_genes_groups_dotplot(adata, key=key, values_to_plot="scores", show=False)
    drawn_text()


def test_it_survives_a_file(adata, tmp_path):
    rank_effects(adata, estimate(adata), stratum={"cell_type": "B"})
    adata.write_h5ad(tmp_path / "data.h5ad")
    again = ad.read_h5ad(tmp_path / "data.h5ad")
    for treatment in TREATMENTS:
        pd.testing.assert_frame_equal(
            sc.get.rank_genes_groups_df(again, group=treatment, key="rank_effects"),
            sc.get.rank_genes_groups_df(adata, group=treatment, key="rank_effects"),
        )


def test_copy_leaves_the_data_alone(adata):
    written = rank_effects(adata, estimate(adata), stratum={"cell_type": "B"}, key_added="ranks", copy=True)
    assert "ranks" in written.uns
    assert not adata.uns


def test_treatments_without_an_error_are_left_out(adata, caplog):
    effects = estimate(adata, **WITHOUT_AB_IN_T)
    rank_effects(adata, effects, stratum={"cell_type": "T"})
    assert adata.uns["rank_effects"]["names"].dtype.names == ("STAT1",)
    assert "A/B" in caplog.text
    with pytest.raises(ValueError, match="extrapolated"):
        rank_effects(adata, effects.select("A/B"), stratum={"cell_type": "T"})


def test_no_fold_changes_off_the_log_scale(adata):
    rank_effects(adata, estimate(adata, scale="rate"), stratum={"cell_type": "B"})
    assert np.isnan(adata.uns["rank_effects"]["logfoldchanges"]["STAT1"]).all()


@pytest.mark.parametrize("stratum", [None, {}])
def test_the_stratum_must_be_unique(adata, stratum):
    with pytest.raises(ValueError, match="fits 2 strata.*'cell_type': 'B'"):
        rank_effects(adata, estimate(adata), stratum=stratum)


def test_effects_must_fit_the_data(adata):
    effects = estimate(adata)
    with pytest.raises(KeyError, match="gene29"):
        rank_effects(adata[:, :29].copy(), effects, stratum={"cell_type": "B"})
    del adata.obs["perturbation"]
    with pytest.raises(KeyError, match="'perturbation'"):
        rank_effects(adata, effects, stratum={"cell_type": "B"})


def test_means_cannot_be_ranked(adata):
    with pytest.raises(ValueError, match="reference"):
        rank_effects(adata, estimate(adata, reference=None), stratum={"cell_type": "B"})


def test_fold_changes_are_passed_on_and_ratios_refused(adata):
    effects = estimate(adata, scale="counts", estimand="log_fold_change", pseudocount=0.1)
    rank_effects(adata, effects, stratum={"cell_type": "B"})
    ranked = sc.get.rank_genes_groups_df(adata, group="STAT1", key="rank_effects")
    ours = effects.to_frame("STAT1", {"cell_type": "B"}).set_index("gene").loc[ranked["names"], "estimate"]
    np.testing.assert_allclose(ranked["logfoldchanges"], ours, rtol=1e-5)
    ratios = estimate(adata, scale="counts", estimand="ratio", pseudocount=0.1)
    with pytest.raises(ValueError, match="Estimate with `estimand='log_fold_change'`"):
        rank_effects(adata, ratios, stratum={"cell_type": "B"})


def test_a_level_is_enough_where_there_is_one_key(adata):
    effects = estimate(adata)
    rank_effects(adata, effects, stratum="T")
    assert adata.uns["rank_effects"]["params"]["stratum"] == {"cell_type": "T"}
    with pytest.raises(KeyError, match=r"\['C'\] are not levels of 'cell_type'. Choose from \['B', 'T'\]"):
        rank_effects(adata, effects, stratum="C")
    two = replace(effects, strata=effects.strata.assign(donor=["1", "2"]))
    with pytest.raises(TypeError, match=r"such as \{'cell_type': 'B'\}, got 'B'"):
        rank_effects(adata, two, stratum="B")
