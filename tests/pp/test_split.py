"""The paper's split."""

from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import scgraphvci as sgv
from scgraphvci.pp import split_ood
from scgraphvci.pp._split import split_hash

OPTIONS = {"perturbation_key": "perturbation", "control": "control", "covariate_key": "cell_type"}


def naive_distances(adata: ad.AnnData) -> dict[str, float]:
    """Distance of every treatment's mean to the mean of all other cells, one by one."""
    values, received = np.asarray(adata.X, dtype=np.float64), adata.obs["perturbation"].to_numpy()
    return {
        name: float(np.linalg.norm(values[received == name].mean(axis=0) - values[received != name].mean(axis=0)))
        for name in set(received) - {"control"}
    }


def test_hardest_treatments_are_held_out_of_the_category(screen):
    before = screen.copy()
    split_ood(screen, **OPTIONS, category="NK", n_hardest=2)
    distances = naive_distances(screen)
    hardest = sorted(distances, key=distances.get, reverse=True)[:2]
    held_out = screen.uns["split"]["held_out"]
    assert held_out["perturbation"].tolist() == hardest
    np.testing.assert_allclose(held_out["distance"], [distances[name] for name in hardest], rtol=1e-6)
    expected = screen.obs["perturbation"].isin(hardest) & (screen.obs["cell_type"] == "NK")
    assert ((screen.obs["split"] == "ood") == expected).all()
    assert held_out["n_cells"].tolist() == [
        int((expected & (screen.obs["perturbation"] == name)).sum()) for name in hardest
    ]
    np.testing.assert_array_equal(screen.X, before.X)
    assert set(screen.obs) == set(before.obs)


def test_rest_is_four_to_one_and_seeded(make_screen):
    adata = make_screen(n_cells=4000)
    split_ood(adata, **OPTIONS, category="NK", n_hardest=1)
    rest = adata.obs["split"][adata.obs["split"] != "ood"]
    assert abs((rest == "test").mean() - 0.2) < 4 * np.sqrt(0.16 / len(rest))
    again, other = make_screen(n_cells=4000), make_screen(n_cells=4000)
    split_ood(again, **OPTIONS, category="NK", n_hardest=1)
    split_ood(other, **OPTIONS, category="NK", n_hardest=1, seed=1)
    assert (again.obs["split"] == adata.obs["split"]).all()
    assert again.uns["split"]["sha256"] == adata.uns["split"]["sha256"] != other.uns["split"]["sha256"]
    assert ((other.obs["split"] == "ood") == (adata.obs["split"] == "ood")).all()


def test_hash_follows_cells_not_their_order(screen):
    split_ood(screen, **OPTIONS, category="NK", n_hardest=1)
    shuffled = screen[np.random.default_rng(0).permutation(screen.n_obs)]
    assert split_hash(shuffled.obs["split"].to_numpy(), shuffled.obs_names) == screen.uns["split"]["sha256"]


def test_joint_category(screen):
    split_ood(screen, "perturbation", "control", ["cell_type", "donor"], ["NK", "d2"], n_hardest=1)
    held_out = screen.obs[screen.obs["split"] == "ood"]
    assert len(held_out)
    assert set(held_out["cell_type"]) == {"NK"}
    assert set(held_out["donor"]) == {"d2"}


def test_treatments_seen_nowhere_else_are_no_candidates(screen):
    screen = screen[~((screen.obs["perturbation"] == "A") & (screen.obs["cell_type"] != "NK"))].copy()
    with pytest.raises(ValueError, match="n_hardest=3, but 2 treatments have cells both in 'NK' and outside"):
        split_ood(screen, **OPTIONS, category="NK", n_hardest=3)
    split_ood(screen, **OPTIONS, category="NK", n_hardest=2)
    assert "A" not in screen.uns["split"]["held_out"]["perturbation"].tolist()


@pytest.mark.parametrize("kind", ["csr", "csc", "layer", "float64", "integer categories"])
def test_formats_agree(screen, kind):
    expected = screen.copy()
    split_ood(expected, **OPTIONS, category="NK", n_hardest=1)
    options = dict(OPTIONS)
    category: object = "NK"
    if kind == "layer":
        screen.layers["log"], screen.X = screen.X, np.zeros_like(screen.X)
        options["layer"] = "log"
    elif kind == "float64":
        screen.X = screen.X.astype(np.float64)
    elif kind == "integer categories":
        screen.obs["cell_type"] = screen.obs["cell_type"].cat.codes
        category = int(expected.obs["cell_type"].cat.categories.get_loc("NK"))
    else:
        screen.X = sparse.csr_matrix(screen.X) if kind == "csr" else sparse.csc_matrix(screen.X)
    split_ood(screen, **options, category=category, n_hardest=1)
    assert (screen.obs["split"] == expected.obs["split"]).all()


def test_backed_and_written_to_file(screen, tmp_path):
    split_ood(screen, **OPTIONS, category="NK", n_hardest=2)
    screen.write_h5ad(tmp_path / "screen.h5ad")
    backed = ad.read_h5ad(tmp_path / "screen.h5ad", backed="r")
    pd.testing.assert_frame_equal(
        backed.uns["split"]["held_out"], screen.uns["split"]["held_out"], check_dtype=False, check_index_type=False
    )
    assert backed.uns["split"]["sha256"] == screen.uns["split"]["sha256"]
    split_ood(backed, **OPTIONS, category="NK", n_hardest=2, key_added="again")
    assert (backed.obs["again"] == screen.obs["split"]).all()


def test_copy_and_view_leave_the_original_alone(screen):
    before = screen.obs["split"].copy()
    result = split_ood(screen, **OPTIONS, category="NK", n_hardest=1, copy=True)
    assert (screen.obs["split"] == before).all()
    assert "split" not in screen.uns
    assert (result.obs["split"] == "ood").any()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"perturbation_key": "drug"}, KeyError, "column 'drug' not found"),
        ({"control": "DMSO"}, ValueError, "Control 'DMSO' has no cells"),
        ({"covariate_key": "tissue"}, KeyError, "column 'tissue' not found"),
        ({"category": "lung"}, ValueError, "No cell has 'lung' in obs\\['cell_type'\\]. Levels: \\['B cell'"),
        ({"category": ["NK", "d1"]}, ValueError, "one category for each covariate"),
        ({"n_hardest": 0}, ValueError, "n_hardest=0.*Choose from 1 to 3"),
        ({"n_hardest": 4}, ValueError, "n_hardest=4"),
        ({"test_share": 1.0}, ValueError, "test_share=1.0"),
        ({"layer": "logs"}, KeyError, "Layer 'logs' not found"),
    ],
)
def test_bad_input_writes_nothing(screen, change, error, message):
    before = screen.obs.copy()
    with pytest.raises(error, match=message):
        split_ood(screen, **{**OPTIONS, "category": "NK", "n_hardest": 1, **change})
    pd.testing.assert_frame_equal(screen.obs, before)
    assert not screen.uns


def test_bad_values(screen):
    missing = screen.copy()
    missing.obs.loc["cell3", "cell_type"] = np.nan
    with pytest.raises(ValueError, match="1 missing values"):
        split_ood(missing, **OPTIONS, category="NK", n_hardest=1)
    screen.X[0, 0] = np.inf
    with pytest.raises(ValueError, match="NaN or infinite"):
        split_ood(screen, **OPTIONS, category="NK", n_hardest=1)


def test_category_without_controls_warns(screen, caplog):
    screen = screen[~((screen.obs["perturbation"] == "control") & (screen.obs["cell_type"] == "NK"))].copy()
    split_ood(screen, **OPTIONS, category="NK", n_hardest=1)
    assert "No control cells in NK" in caplog.text


def test_raw_counts_warn_and_name_the_next_step(screen):
    counts = np.random.default_rng(0).poisson(20, size=screen.shape).astype(np.float32)
    screen.layers["counts"] = sparse.csr_matrix(counts)
    largest = int(counts.max())
    with pytest.warns(UserWarning, match=rf"'counts' looks like raw counts \(whole numbers up to {largest}\).*log1p"):
        split_ood(screen, **OPTIONS, category="NK", n_hardest=1, layer="counts")
    assert (screen.obs["split"] == "ood").any()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        split_ood(screen, **OPTIONS, category="NK", n_hardest=1)


def test_nothing_to_hold_out_of_a_single_stratum():
    adata = sgv.datasets.simulate(n_cells=200, n_genes=20, n_perturbations=3, n_cell_types=2, n_donors=1, seed=0)
    adata.obs["all"] = "one"
    with pytest.raises(ValueError, match="Nothing can be held out of 'one': all cells are in it, and"):
        sgv.pp.split_ood(adata, "perturbation", "control", "all", "one", n_hardest=1)
    treatment = adata.obs["perturbation"].astype(str)
    adata.obs["own"] = np.where(treatment == "control", "0", treatment)
    with pytest.raises(ValueError, match="no treatment has cells both in it and outside of it"):
        sgv.pp.split_ood(adata, "perturbation", "control", "own", adata.obs["own"].max(), n_hardest=1)
