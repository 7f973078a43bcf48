"""Violins of counterfactual and observed cells."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba

import scgraphvci as sgv
from scgraphvci import pl
from scgraphvci.pl._base import BLUE, GREY, ORANGE
from scgraphvci.pl._counterfactual_cells import counterfactual_cells

COLOUR = {"control": GREY, "observed": ORANGE, "counterfactual": BLUE}


def trained(adata, likelihood="normal", **setup):
    sgv.GraphVCI.setup_anndata(adata, categorical_covariate_keys=["cell_type"], split_key="split", **setup)
    model = sgv.GraphVCI(adata, likelihood=likelihood, n_hidden=8, n_latent=4)
    model.train(max_epochs=2, accelerator="cpu", enable_progress_bar=False)
    return model


@pytest.fixture(scope="module")
def adata():
    return sgv.datasets.simulate(n_cells=500, n_genes=40, n_perturbations=4, n_ood_pairs=3, seed=0)


@pytest.fixture(scope="module")
def model(adata):
    return trained(adata)


@pytest.fixture(scope="module")
def held_out(adata):
    """A treatment held out of a cell type."""
    obs = adata.obs[adata.obs["split"] == "ood"]
    return str(obs["perturbation"].iloc[0]), {"cell_type": str(obs["cell_type"].iloc[0])}


def means(axis) -> dict[tuple[str, float], float]:
    """Height of every dash, by what it is and the violin it belongs to."""
    found = {}
    for line in axis.collections:
        if str(line.get_label()).startswith("mean, "):
            ((left, height), (right, _)) = line.get_segments()[0]
            found[line.get_label().removeprefix("mean, "), round((left + right) / 2)] = height
    return found


def test_artists_are_of_the_cells(adata, model, held_out):
    treatment, stratum = held_out
    other = next(name for name in adata.obs["perturbation"].cat.categories if name not in ("control", treatment))
    genes = adata.var_names[[3, 7]].tolist()
    axes = pl.counterfactual_violins(model, genes=genes, treatments=[treatment, other], stratum=stratum, show=False)
    here = (adata.obs["cell_type"] == stratum["cell_type"]).to_numpy()
    received = adata.obs["perturbation"].astype(str).to_numpy()
    control = np.flatnonzero(here & (received == "control"))
    for axis, gene in zip(axes, genes, strict=True):
        values = np.asarray(adata[:, gene].X.todense() if hasattr(adata.X, "todense") else adata[:, gene].X).ravel()
        expected = {("control", 0): values[control].mean()}
        for position, name in enumerate([treatment, other], start=1):
            draws = model.sample(name, indices=control, seed=0)[:, gene].X
            expected["observed", position] = values[here & (received == name)].mean()
            expected["counterfactual", position] = np.asarray(draws, dtype=float).mean()
        drawn = means(axis)
        assert drawn.keys() == expected.keys()
        np.testing.assert_allclose(list(drawn.values()), [expected[key] for key in drawn], rtol=1e-5)
        assert axis.get_title() == gene
        labels = [text.get_text() for text in axis.get_xticklabels()]
        n_treated = [int((here & (received == name)).sum()) for name in (treatment, other)]
        assert labels[0] == f"control\nn = {control.size}"
        assert labels[1] == f"{treatment}\nn = {n_treated[0]}\nheld out"
        assert labels[2].startswith(f"{other}\nn = {n_treated[1]}")


def test_halves_lie_side_by_side(adata, model, held_out):
    treatment, stratum = held_out
    (axis,) = pl.counterfactual_violins(
        model, genes=adata.var_names[3], treatments=treatment, stratum=stratum, show=False
    )
    bodies = {body.get_label(): body for body in axis.collections if body.get_label() in COLOUR}
    assert set(bodies) == set(COLOUR)
    for kind, body in bodies.items():
        np.testing.assert_allclose(body.get_facecolor()[0][:3], to_rgba(COLOUR[kind])[:3])
    x = {kind: body.get_paths()[0].vertices[:, 0] for kind, body in bodies.items()}
    assert x["observed"].max() <= 1.0 <= x["counterfactual"].min()
    assert x["observed"].min() < 0.9 and x["counterfactual"].max() > 1.1
    legend = [text.get_text() for text in axis.get_legend().get_texts()]
    assert legend == list(COLOUR)


def test_few_cells_are_points(adata, held_out):
    treatment, stratum = held_out
    held = ((adata.obs["perturbation"] == treatment) & (adata.obs["cell_type"] == stratum["cell_type"])).to_numpy()
    keep = ~held | (np.cumsum(held) <= 4)
    few = adata[keep].copy()
    model = trained(few)
    (axis,) = pl.counterfactual_violins(
        model, genes=few.var_names[3], treatments=treatment, stratum=stratum, show=False
    )
    (points,) = (part for part in axis.collections if part.get_label() == "observed")
    heights = np.asarray(points.get_offsets())[:, 1]
    cells = (few.obs["perturbation"] == treatment) & (few.obs["cell_type"] == stratum["cell_type"])
    expected = few[cells.to_numpy(), few.var_names[3]].to_df().iloc[:, 0]
    np.testing.assert_allclose(np.sort(heights), np.sort(expected), rtol=1e-6)


def test_treatments_nobody_measured_have_no_observed_half(adata, held_out):
    treatment, stratum = held_out
    cells = (adata.obs["perturbation"] == treatment) & (adata.obs["cell_type"] == stratum["cell_type"])
    model = trained(adata[~cells.to_numpy()].copy())
    (axis,) = pl.counterfactual_violins(
        model, genes=adata.var_names[0], treatments=treatment, stratum=stratum, show=False
    )
    assert set(means(axis)) == {("control", 0), ("counterfactual", 1)}
    assert axis.get_xticklabels()[1].get_text() == f"{treatment}\nn = 0"


def test_treatments_the_data_never_showed():
    adata = sgv.datasets.simulate(n_cells=500, n_genes=40, n_perturbations=8, n_regulators=10, seed=0)
    model = trained(adata)
    new = sorted(set(adata.uns["simulation"]["regulators"]) - set(adata.obs["perturbation"]))[0]
    with pytest.warns(UserWarning, match="extrapolated"):
        (axis,) = pl.counterfactual_violins(model, genes=new, treatments=new, show=False)
    assert set(means(axis)) == {("control", 0), ("counterfactual", 1)}
    with pytest.raises(ValueError, match="Unknown treatment 'nothing'"):
        pl.counterfactual_violins(model, genes=new, treatments="nothing", show=False)


def test_counts_are_log_normalised(adata, held_out):
    treatment, stratum = held_out
    counts = adata.copy()
    counts.X = np.random.default_rng(0).poisson(np.expm1(np.asarray(adata.to_df()).clip(0)) + 0.1).astype(np.float32)
    model = trained(counts, "nb")
    size = float(model.module.library_size)
    cells = counterfactual_cells(model, [counts.var_names[5]], [treatment], stratum, None, 0)
    here = (counts.obs["cell_type"] == stratum["cell_type"]).to_numpy()
    control = np.flatnonzero(here & (counts.obs["perturbation"] == "control").to_numpy())
    library = counts.X.sum(axis=1)
    np.testing.assert_allclose(
        cells.control.iloc[:, 0], np.log1p(counts.X[control, 5] / library[control] * size), rtol=1e-5
    )
    draws = np.asarray(model.sample(treatment, indices=control, seed=0, library="observed").X)[:, 5]
    np.testing.assert_allclose(
        cells.counterfactual[treatment].iloc[:, 0], np.log1p(draws / library[control] * size), rtol=1e-5
    )


def test_frame_holds_every_value(adata, model, held_out):
    treatment, stratum = held_out
    cells = counterfactual_cells(model, adata.var_names[:2].tolist(), [treatment], stratum, None, 0)
    frame = cells.to_frame()
    assert frame.columns.tolist() == ["treatment", "kind", *adata.var_names[:2]]
    sizes = frame.groupby("kind").size()
    assert sizes.to_dict() == {
        "control": len(cells.control), "counterfactual": len(cells.control), "observed": len(cells.observed[treatment])
    }  # fmt: skip
    pd.testing.assert_series_equal(
        frame.query("kind == 'observed'")[adata.var_names[0]].reset_index(drop=True),
        cells.observed[treatment][adata.var_names[0]],
    )


def test_what_cannot_draw_predicts(adata, held_out):
    treatment, stratum = held_out
    shift = sgv.baselines.ContextShift(adata, categorical_covariate_keys=["cell_type"], split_key="split")
    cells = counterfactual_cells(shift, [adata.var_names[2]], [treatment], stratum, None, 0)
    here = (adata.obs["cell_type"] == stratum["cell_type"]).to_numpy()
    control = np.flatnonzero(here & (adata.obs["perturbation"] == "control").to_numpy())
    predicted = shift.predict(treatment, indices=control.tolist()).to_df()[adata.var_names[2]]
    np.testing.assert_allclose(cells.counterfactual[treatment].iloc[:, 0], predicted, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"genes": ["nope"]}, KeyError, r"Genes \['nope'\] are not in the data"),
        ({"treatments": "nope"}, ValueError, "Unknown treatment 'nope'"),
        ({"stratum": {"nope": "A"}}, KeyError, "No column 'nope' in obs"),
        ({"stratum": {"cell_type": "nope"}}, ValueError, "no control cell"),
    ],
)
def test_errors(adata, model, held_out, change, error, message):
    arguments = {"genes": adata.var_names[0], "treatments": held_out[0], "stratum": held_out[1], **change}
    with pytest.raises(error, match=message):
        pl.counterfactual_violins(model, **arguments, show=False)
    with pytest.raises(TypeError, match="no model or baseline of this package"):
        pl.counterfactual_violins(object(), genes="a", treatments="b")
