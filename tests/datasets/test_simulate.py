from __future__ import annotations

from itertools import pairwise

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse, stats

import scgraphvci.datasets as datasets
from scgraphvci.datasets._truth import expected_log1p

SMALL = {"n_cells": 300, "n_genes": 80, "n_perturbations": 6, "n_donors": 2}


@pytest.fixture(scope="module")
def adata() -> ad.AnnData:
    return datasets.simulate(**SMALL, n_combinations=2, doses=(0.1, 0.3, 1.0), seed=1)


def descendants(grn: pd.DataFrame, gene: str) -> set[str]:
    found, frontier = {gene}, {gene}
    while frontier:
        frontier = set(grn.loc[grn["source"].isin(frontier), "target"]) - found
        found |= frontier
    return found


def test_slots(adata):
    assert adata.shape == (300, 80)
    for matrix in (adata.X, adata.layers["counts"], adata.varp["grn"], adata.varp["grn_true"]):
        assert sparse.issparse(matrix)
        assert matrix.format == "csr"
        assert matrix.dtype == np.float32
    counts = adata.layers["counts"].toarray()
    assert (counts == counts.round()).all()
    assert counts.min() == 0
    scale = adata.uns["simulation"]["library"] / adata.obs["library"].to_numpy()
    np.testing.assert_allclose(adata.X.toarray(), np.log1p(counts * scale[:, None]), atol=1e-5)
    treatments = adata.obs["perturbation"].cat.categories
    assert treatments[0] == "control"
    members = {m for t in treatments[1:] for m in t.split("+")}
    assert members <= set(adata.var_names[adata.var["is_regulator"]])
    assert len(members) == 6
    assert list(adata.obs["split"].cat.categories) == ["train", "test", "ood"]
    control = adata.obs["perturbation"] == "control"
    assert (adata.obs.loc[control, "dose"] == "0").all()
    pairs = adata.obs.loc[adata.obs["perturbation"].str.contains("+", regex=False), "dose"]
    assert set(pairs) <= {"0.1+0.1", "0.3+0.3", "1+1"}


def test_ood_cells_are_whole_pairs():
    obs = datasets.simulate(n_cells=3000, n_genes=40, n_perturbations=4, n_ood_pairs=5, seed=2).obs
    by_pair = obs.groupby(["perturbation", "cell_type"], observed=True)["split"]
    assert set(by_pair.apply(lambda split: (split == "ood").mean())) == {0.0, 1.0}
    assert by_pair.apply(lambda split: (split == "ood").all()).sum() == 5
    seen = obs[obs["split"] != "ood"]["split"]
    assert (seen == "train").mean() == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize("scale", ["rate", "log1p"])
def test_truth_matches_redrawn_counts(adata, scale):
    truth = datasets.truth(adata)
    treatment = adata.obs["perturbation"].cat.categories[-1]
    rng = np.random.default_rng(0)
    cell = 17
    size = 1 / adata.uns["simulation"]["parameters"]["dispersion"]
    rate = truth.counterfactual_mean(treatment, [cell], scale="rate")[0] / truth.library
    library = adata.obs["library"].iloc[cell]
    n_draws = 40_000
    counts = rng.poisson(rng.gamma(size, rate * library / size, size=(n_draws, len(rate))))
    values = counts / library * truth.library
    values = np.log1p(values) if scale == "log1p" else values
    error = values.mean(axis=0) - truth.counterfactual_mean(treatment, [cell], scale=scale)[0]
    assert (np.abs(error) < 5 * values.std(axis=0) / np.sqrt(n_draws) + 1e-4).all()


def test_factual_cells_scatter_around_their_truth():
    """Residuals of the data from the truth of the treatments received are centred, with the variance of the model."""
    adata = datasets.simulate(n_cells=2000, n_genes=30, n_perturbations=3, doses=(0.5, 1.0), seed=5)
    truth = datasets.truth(adata)
    z, scaled = [], []
    for (treatment, dose), rows in adata.obs.groupby(["perturbation", "dose"], observed=True).indices.items():
        rate = truth.counterfactual_mean(treatment, rows, dose=dose, scale="rate") / truth.library
        mean = rate * adata.obs["library"].to_numpy()[rows, None]
        z.append((adata.layers["counts"].toarray()[rows] - mean) / np.sqrt(mean + 0.2 * mean**2))
        scaled.append(adata.X.toarray()[rows] - truth.counterfactual_mean(treatment, rows, dose=dose))
    z = np.concatenate(z)
    assert abs(z.mean()) < 0.02
    assert (z**2).mean() == pytest.approx(1.0, abs=0.05)
    assert np.abs(np.concatenate(scaled).mean(axis=0)).max() < 0.06


def test_expected_log1p_equals_exact_summation():
    mean = np.array([[1e-4, 0.02, 0.7, 5.0, 60.0, 900.0]] * 3)
    factor = np.array([0.2, 1.0, 6.0])
    for dispersion in (0.05, 0.2, 2.0):
        counts = np.arange(60_000)
        exact = np.empty_like(mean)
        for column, mu in enumerate(mean[0]):
            size = 1 / dispersion
            probability = stats.nbinom.pmf(counts, size, size / (size + mu))
            exact[:, column] = [probability @ np.log1p(f * counts) for f in factor]
        np.testing.assert_allclose(expected_log1p(mean, factor, dispersion), exact, atol=3e-5)


def test_knock_down_moves_only_descendants(adata):
    truth = datasets.truth(adata)
    control = np.log(truth.counterfactual_mean("control", scale="rate"))
    moved_further = 0
    for gene in adata.var_names[adata.var["is_regulator"]]:
        shift = np.log(truth.counterfactual_mean(gene, dose=1.0, scale="rate")) - control
        moved = set(adata.var_names[(np.abs(shift) > 1e-8).any(axis=0)])
        direct = set(truth.grn.loc[truth.grn["source"] == gene, "target"])
        # Paths may cancel or be gated off, so not every descendant has to move; targets in an open type do.
        assert {gene} | direct <= moved <= descendants(truth.grn, gene)
        assert (shift[:, adata.var_names.get_loc(gene)] < -0.5).mean() > 0.9
        moved_further += len(moved - direct - {gene})
    assert moved_further > 0


def test_sign_of_an_edge_without_other_paths():
    adata = datasets.simulate(**SMALL, n_regulators=6, interaction=0, state_strength=0, seed=3)
    truth = datasets.truth(adata)
    n_checked = 0
    for row in truth.grn.itertuples():
        others = truth.grn[(truth.grn["target"] == row.target) & (truth.grn["source"] != row.source)]
        if not set(others["source"]) & descendants(truth.grn, row.source):
            effect = truth.effect(row.source, scale="rate")[row.target]
            assert (np.sign(effect) == -np.sign(row.weight)).all()
            n_checked += 1
    assert n_checked > 20


def test_effect_grows_with_dose(adata):
    truth = datasets.truth(adata)
    target = adata.obs["perturbation"].cat.categories[1]
    levels = [
        truth.counterfactual_mean(target, dose=d, scale="rate")[:, adata.var_names.get_loc(target)]
        for d in (0.05, 0.1, 1)
    ]
    control = truth.counterfactual_mean("control", scale="rate")[:, adata.var_names.get_loc(target)]
    for higher, lower in pairwise([control, *levels]):
        assert (lower < higher).all()
    np.testing.assert_array_equal(
        truth.counterfactual_mean(target, dose=0), truth.counterfactual_mean("control", dose=0)
    )


def test_default_dose_is_the_most_frequent_in_training(adata):
    truth = datasets.truth(adata)
    for treatment in adata.obs["perturbation"].cat.categories[1:]:
        rows = (adata.obs["perturbation"] == treatment) & (adata.obs["split"] == "train")
        frequent = adata.obs.loc[rows, "dose"].value_counts()
        if len(frequent) > 1 and frequent.iloc[0] > frequent.iloc[1]:
            np.testing.assert_array_equal(
                truth.counterfactual_mean(treatment), truth.counterfactual_mean(treatment, dose=frequent.index[0])
            )


def test_combinations_add_up_to_the_saturation(adata):
    truth = datasets.truth(adata)
    combination = adata.obs["perturbation"].cat.categories[-1]
    members = combination.split("+")

    def unsaturated(treatment: str, dose: float | str) -> np.ndarray:
        shift = np.log(truth.counterfactual_mean(treatment, dose=dose, scale="rate"))
        shift -= np.log(truth.counterfactual_mean("control", scale="rate"))
        return 3 * np.arctanh(shift / 3)

    parts = unsaturated(members[0], 0.3) + unsaturated(members[1], 0.1)
    np.testing.assert_allclose(unsaturated(combination, "0.3+0.1"), parts, atol=1e-6)
    np.testing.assert_allclose(unsaturated("+".join(members[::-1]), "0.1+0.3"), parts, atol=1e-6)


def test_without_interaction_effects_are_additive_across_cell_types():
    common = {**SMALL, "state_strength": 0.0, "seed": 6}
    for interaction, additive in ((0.0, True), (0.75, False)):
        adata = datasets.simulate(**common, interaction=interaction)
        truth = datasets.truth(adata)
        treatment = adata.obs["perturbation"].cat.categories[1]
        log_rate = [np.log(truth.counterfactual_mean(t, scale="rate")) for t in (treatment, "control")]
        spread = np.ptp(log_rate[0] - log_rate[1], axis=0).max()
        assert (spread < 1e-6) == additive


def test_state_modulates_the_response(adata):
    truth = datasets.truth(adata)
    for treatment in adata.var_names[adata.var["is_regulator"]][:3]:
        log_rate = [np.log(truth.counterfactual_mean(t, scale="rate")) for t in (treatment, "control")]
        shift = (log_rate[0] - log_rate[1])[:, adata.var_names.get_loc(treatment)]
        assert abs(stats.spearmanr(shift, adata.obs["cell_state"]).statistic) > 0.99


def test_stratum_means_average_cells(adata):
    truth = datasets.truth(adata)
    treatment, keys = adata.obs["perturbation"].cat.categories[2], ["cell_type", "donor"]
    frame = truth.stratum_mean(treatment, keys)
    cells = pd.DataFrame(truth.counterfactual_mean(treatment), index=adata.obs_names, columns=adata.var_names)
    expected = cells.groupby([adata.obs[key] for key in keys], observed=True).mean()
    pd.testing.assert_frame_equal(frame, expected, check_names=False)
    assert list(frame.index.names) == keys
    effect = truth.effect(treatment, groupby=keys)
    pd.testing.assert_frame_equal(effect, frame - truth.stratum_mean("control", keys))
    assert truth.stratum_mean("control").index.name == "cell_type"


def test_truth_survives_file_subset_and_reorder(adata, tmp_path):
    adata.write_h5ad(tmp_path / "screen.h5ad")
    read = ad.read_h5ad(tmp_path / "screen.h5ad")
    rng = np.random.default_rng(0)
    cells, genes = rng.permutation(adata.n_obs)[:50], rng.permutation(adata.n_vars)[:30]
    part = read[cells, genes].copy()
    part.obs["cell_type"] = part.obs["cell_type"].cat.reorder_categories(["type2", "type0", "type1"])
    treatment = adata.obs["perturbation"].cat.categories[-1]
    for scale in ("rate", "log1p"):
        whole = datasets.truth(adata).counterfactual_mean(treatment, scale=scale)
        np.testing.assert_array_equal(datasets.truth(read).counterfactual_mean(treatment, scale=scale), whole)
        np.testing.assert_allclose(
            datasets.truth(part).counterfactual_mean(treatment, scale=scale), whole[np.ix_(cells, genes)], rtol=1e-12
        )
    mask = np.arange(adata.n_obs) < 3
    assert datasets.truth(adata).counterfactual_mean(treatment, mask).shape == (3, 80)
    assert datasets.truth(adata).counterfactual_mean(treatment, []).shape == (0, 80)


def test_same_seed_same_data():
    first, again, other = (datasets.simulate(**SMALL, seed=seed) for seed in (7, 7, 8))
    assert (first.X != again.X).nnz == 0
    assert (first.varp["grn"] != again.varp["grn"]).nnz == 0
    pd.testing.assert_frame_equal(first.obs, again.obs)
    assert (first.X != other.X).nnz > 0


def test_realistic_magnitudes():
    adata = datasets.simulate(n_cells=1500, seed=0)
    counts = adata.layers["counts"]
    assert 1500 < np.median(np.asarray(counts.sum(axis=1))) < 4000
    assert 0.55 < 1 - counts.nnz / np.prod(counts.shape) < 0.85
    truth = datasets.truth(adata)
    held_out = adata.obs.loc[adata.obs["split"] == "ood", ["perturbation", "cell_type"]].drop_duplicates()
    pearson, r2 = [], []
    for treatment, cell_type in held_out.to_numpy():
        effect, control = truth.effect(treatment), truth.stratum_mean("control").loc[cell_type]
        own = effect.loc[cell_type]
        pearson.append(np.corrcoef(own, effect.drop(index=cell_type).mean())[0, 1])
        r2.append(1 - (own**2).sum() / ((control + own) - (control + own).mean()).pow(2).sum())
    assert 0.6 < np.mean(pearson) < 0.9
    assert 0.85 < np.mean(r2) < 0.97


def test_bad_questions_are_refused(adata):
    truth = datasets.truth(adata)
    target = adata.obs["perturbation"].cat.categories[1]
    with pytest.raises(ValueError, match="nobody"):
        truth.counterfactual_mean("nobody")
    with pytest.raises(ValueError, match="scale='counts'"):
        truth.counterfactual_mean("control", scale="counts")
    with pytest.raises(ValueError, match="site"):
        truth.stratum_mean("control", ["site"])
    with pytest.raises(ValueError, match="-1"):
        truth.counterfactual_mean(target, dose=-1)
    with pytest.raises(ValueError, match="2.0"):
        truth.counterfactual_mean("control", dose=2.0)
    with pytest.raises(ValueError, match="n_cells=0"):
        datasets.simulate(n_cells=0)
    with pytest.raises(ValueError, match="simulation"):
        datasets.truth(ad.AnnData(np.zeros((2, 2))))
    plain = datasets.simulate(n_cells=20, n_genes=20, n_perturbations=2, seed=0)
    with pytest.raises(ValueError, match="dose=1.0"):
        datasets.truth(plain).counterfactual_mean(plain.obs["perturbation"].cat.categories[1], dose=1.0)
