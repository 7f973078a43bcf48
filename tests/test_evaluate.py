"""Evaluations against scores computed by hand."""

from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.spatial.distance import cdist

import scgraphvci as sgv
from scgraphvci.baselines import ContextShift, NoChange
from scgraphvci.datasets import simulate, truth
from scgraphvci.evaluate import Evaluation, evaluate

SETUP = {"categorical_covariate_keys": ["cell_type"], "split_key": "split"}
SIMPLE = ["no change", "train mean", "stratum mean", "control level", "context shift", "additive", "ridge pca"]
DUPLICATES = ["technical duplicate", "interpolated duplicate"]
QUICK = {"baselines": None, "duplicates": False, "n_bootstrap": 10}


@pytest.fixture(scope="module")
def adata():
    return simulate(n_cells=1200, n_genes=50, n_perturbations=5, n_donors=2, seed=0)


@pytest.fixture(scope="module")
def shift(adata):
    return ContextShift(adata, **SETUP)


class Oracle:
    """Predicts the truth, and is no predictor of this package."""

    def __init__(self, adata, known):
        self.start, self.known = NoChange(adata, **SETUP), known

    def predict(self, treatment, indices):
        predicted = self.start.predict(treatment, indices=indices)
        group = self.start.adata.obs["cell_type"].iloc[indices].to_numpy()
        predicted.X = self.known.stratum_mean(treatment).loc[group].to_numpy()
        return predicted


class Broken:
    """Predicts whatever it is told to."""

    def __init__(self, values, genes=None):
        self.values, self.genes = values, genes

    def predict(self, treatment, indices):
        values = self.values(len(indices))
        return values if self.genes is None else ad.AnnData(values, var=pd.DataFrame(index=self.genes))


def means_by_hand(adata):
    """Cells by cell type, treatment and split."""
    obs = adata.obs.reset_index(drop=True)
    return adata.X.toarray().astype(np.float64), obs["cell_type"], obs["perturbation"].astype(str), obs["split"]


def test_every_mean_score_by_hand(adata, shift):
    pairs = Evaluation({"shift": shift}, n_de=10, **QUICK).pairs()
    x, cell_type, treatment, split = means_by_hand(adata)
    held_out = adata.obs[adata.obs["split"] == "ood"].groupby(["perturbation", "cell_type"], observed=True).size()
    assert set(zip(pairs["treatment"], pairs["cell_type"], strict=True)) == set(held_out.index)
    treatments = [name for name in treatment.unique() if name != "control"]
    for row in pairs.itertuples():
        here = cell_type == row.cell_type
        treated = x[here & (treatment == row.treatment) & (split == "ood")]
        control = x[here & (treatment == "control") & (split != "ood")]
        rest = x[here & ~treatment.isin(["control", row.treatment])]
        sources = np.flatnonzero(here & (treatment == "control"))
        predicted = shift.predict(row.treatment, indices=sources).X.astype(np.float64).mean(axis=0)
        true, base = treated.mean(axis=0), control.mean(axis=0)
        trained = [x[here & (treatment == name) & (split == "train")] for name in treatments]
        perturbed = np.mean([cells.mean(axis=0) for cells in trained if len(cells)], axis=0)
        others = [x[here & (treatment == name)].mean(axis=0) for name in treatments if name != row.treatment]

        assert (row.n_cells, row.thin) == (len(treated), len(treated) < 5)
        assert row.r2 == pytest.approx(
            1 - ((true - predicted) ** 2).sum() / ((true - true.mean()) ** 2).sum(), abs=1e-5
        )
        assert row.mse == pytest.approx(((true - predicted) ** 2).mean(), abs=1e-6)
        assert row.mae == pytest.approx(np.abs(true - predicted).mean(), abs=1e-6)
        assert row.pearson_shift == pytest.approx(stats.pearsonr(true - base, predicted - base)[0], abs=1e-4)
        against = stats.pearsonr(true - perturbed, predicted - perturbed)[0]
        assert row.pearson_perturbed == pytest.approx(against, abs=1e-4)

        test = stats.ttest_ind(treated, control, equal_var=False)
        de = np.argsort(-np.abs(np.nan_to_num(test.statistic)))[:10]
        expected = 1 - ((true[de] - predicted[de]) ** 2).sum() / ((true[de] - true[de].mean()) ** 2).sum()
        assert row.r2_de == pytest.approx(expected, abs=1e-4)
        p_value = np.where(np.isnan(test.pvalue), 1, test.pvalue)
        assert row.n_significant == (stats.false_discovery_control(p_value) < 0.05).sum()

        t = np.abs(np.nan_to_num(stats.ttest_ind(treated, rest, equal_var=False).statistic))
        weights = ((t - t.min()) / (t.max() - t.min())) ** 2
        weights /= weights.sum()
        assert row.weighted_mse == pytest.approx(weights @ (true - predicted) ** 2, rel=1e-3)
        delta = true - perturbed
        spread = weights @ (delta - weights @ delta) ** 2
        assert row.weighted_r2 == pytest.approx(1 - weights @ (true - predicted) ** 2 / spread, abs=2e-3)
        distance = cdist([true, *others], [predicted])[:, 0]
        assert row.centroid_accuracy == pytest.approx(np.mean(distance[1:] > distance[0]))
        rank = np.sum(cdist([true - base, *(other - base for other in others)], [predicted - base], "cityblock")[1:, 0]
                      < np.abs(true - predicted).sum())  # fmt: skip
        assert row.discrimination_l1 == pytest.approx(1 - rank / (1 + len(others)))


def test_predicting_the_reference_has_no_direction(shift):
    """Rounding of single-precision means is no shift."""
    summary = Evaluation({"shift": shift}, n_bootstrap=10, duplicates=False).summary()
    assert summary.loc["no change", ("pearson_shift", "mean")] == 0
    assert summary.loc["no change", ("de_direction", "mean")] == 0.5
    assert np.isnan(summary.loc["no change", ("mean_pairwise_correlation", "mean")])


def test_distributions_are_compared_in_a_basis_of_training_cells(adata, shift):
    evaluation = Evaluation({"shift": shift}, **QUICK)
    x, cell_type, treatment, split = means_by_hand(adata)
    train = x[split == "train"]
    components = np.linalg.svd(train - train.mean(axis=0), full_matrices=False)[2][:20]
    row = evaluation.pairs().iloc[0]
    here = cell_type == row["cell_type"]
    true = x[here & (treatment == row["treatment"]) & (split == "ood")]
    sources = np.flatnonzero(here & (treatment == "control"))
    predicted = shift.predict(row["treatment"], indices=sources).X.astype(np.float64)
    assert max(len(true), len(predicted)) <= 200, "all cells are looked at"
    a, b = true @ components.T, predicted @ components.T
    within = [cdist(cells, cells).sum() / (len(cells) * (len(cells) - 1)) for cells in (a, b)]
    assert row["energy_distance"] == pytest.approx(2 * cdist(a, b).mean() - sum(within), rel=1e-3)
    ratio = predicted.var(axis=0, ddof=1) / np.where(true.var(axis=0) > 0, true.var(axis=0, ddof=1), np.nan)
    assert row["variance_ratio"] == pytest.approx(np.nanmedian(ratio), rel=1e-4)


def test_an_oracle_is_perfect_and_controls_are_added(adata, shift):
    known = truth(adata)
    evaluation = Evaluation({"oracle": Oracle(adata, known), "shift": shift}, truth=known, n_bootstrap=50)
    summary = evaluation.summary()
    assert summary.index.tolist() == ["oracle", "shift", *SIMPLE, *DUPLICATES]
    perfect = ["r2", "r2_de", "pearson_shift", "pearson_perturbed", "weighted_r2", "centroid_accuracy"]
    means = summary.xs("mean", axis=1, level="statistic")
    np.testing.assert_allclose(means.loc["oracle", perfect].astype(float), 1, atol=1e-5)
    np.testing.assert_allclose(means.loc["oracle", ["mse", "weighted_mse"]].astype(float), 0, atol=1e-6)
    assert means.loc["oracle", "variance_ratio"] == pytest.approx(0, abs=1e-6)
    assert means.loc["oracle", "nearest_own"] == 1
    pd.testing.assert_series_equal(summary.loc["shift"], summary.loc["context shift"], check_names=False)
    assert means.loc["context shift", "r2_de"] > means.loc["no change", "r2_de"] + 0.1
    kinds = evaluation.pairs().drop_duplicates("predictor").set_index("predictor")["kind"]
    assert kinds[["oracle", "shift"]].tolist() == ["model", "model"]
    assert set(kinds[SIMPLE]) == {"baseline"}
    assert set(kinds[DUPLICATES]) == {"duplicate"}


def test_evaluate_is_the_summary(adata, shift):
    pd.testing.assert_frame_equal(evaluate(shift, **QUICK), Evaluation({"ContextShift": shift}, **QUICK).summary())


def test_shifts_carry_the_scores(shift):
    evaluation = Evaluation(shift, **QUICK)
    pairs, shifts = evaluation.pairs(), evaluation.shifts()
    assert shifts["predictor"].unique().tolist() == ["ContextShift"]
    assert {"treatment", "dose", "cell_type", "n_cells", "gene", "true", "predicted"} <= set(shifts)
    for (treatment, cell_type), part in shifts.groupby(["treatment", "cell_type"]):
        row = pairs[(pairs["treatment"] == treatment) & (pairs["cell_type"] == cell_type)].iloc[0]
        assert row["pearson_shift"] == pytest.approx(stats.pearsonr(part["true"], part["predicted"])[0], abs=1e-5)


def test_the_same_seed_gives_the_same_scores(shift):
    first, second, other = (Evaluation(shift, seed=seed, n_bootstrap=20) for seed in (3, 3, 4))
    pd.testing.assert_frame_equal(first.pairs(), second.pairs())
    pd.testing.assert_frame_equal(first.summary(), second.summary())
    assert not first.pairs()["r2"].equals(other.pairs()["r2"]), "halves of duplicates are drawn"


def test_permuted_treatments_carry_no_information():
    """Fitted on labels shuffled within strata, a predictor scores what no information scores."""
    adata = simulate(n_cells=4000, n_genes=60, n_perturbations=12, n_cell_types=3, n_donors=2, seed=1)
    shuffled = adata.copy()
    rng = np.random.default_rng(0)
    labels = adata.obs["perturbation"].astype(str).to_numpy()
    train = (adata.obs["split"] == "train").to_numpy() & (labels != "control")
    for cell_type in adata.obs["cell_type"].unique():
        cells = np.flatnonzero(train & (adata.obs["cell_type"] == cell_type).to_numpy())
        labels[cells] = labels[rng.permutation(cells)]
    shuffled.obs["perturbation"] = labels
    right, wrong = ContextShift(adata, **SETUP), ContextShift(shuffled, **SETUP)
    wrong.adata = adata
    known = truth(adata)
    means = Evaluation({"right": right, "wrong": wrong}, truth=known, split="test", **QUICK).summary()
    means = means.xs("mean", axis=1, level="statistic")
    assert abs(means.loc["wrong", "pearson_perturbed"]) < 0.15
    assert means.loc["wrong", "weighted_r2"] < 0.05
    assert means.loc["wrong", "centroid_accuracy"] == pytest.approx(0.5, abs=0.08)
    assert means.loc["right", "pearson_perturbed"] > 0.5
    assert means.loc["right", "centroid_accuracy"] > 0.9


def test_held_out_cells_are_no_source(adata):
    """Held-out cells enter as truth alone: other controls among them change nothing."""
    other = adata.copy()
    control = (other.obs["perturbation"] == "control").to_numpy()
    hidden = control & (np.arange(other.n_obs) % 3 == 0)
    other.obs.loc[hidden, "split"] = "ood"
    before = Evaluation(NoChange(other, **SETUP), **QUICK).pairs()
    values = other.X.toarray()
    values[hidden] = 50.0
    other.X = values
    after = Evaluation(NoChange(other, **SETUP), **QUICK).pairs()
    np.testing.assert_allclose(before["r2"], after["r2"], atol=1e-6)


def test_conditions_that_cannot_be_scored_are_listed(adata):
    other = adata.copy()
    obs = other.obs
    (gone, thin), (lost_type, thin_type) = obs["perturbation"].cat.categories[1:3], ["type0", "type1"]
    split = np.where(np.arange(other.n_obs) % 5, "train", "test").astype(object)
    split[(obs["perturbation"] == gone) & (obs["cell_type"] == lost_type)] = "ood"
    few = (obs["perturbation"] == thin) & (obs["cell_type"] == thin_type)
    split[few] = "ood"
    obs["split"] = split
    without = (obs["perturbation"] == "control") & (obs["cell_type"] == lost_type)
    kept = ~without & ~(few & (few.cumsum() > 1))
    evaluation = Evaluation(ContextShift(other[kept].copy(), **SETUP), n_bootstrap=10)
    assert evaluation.skipped[["treatment", "cell_type"]].to_numpy().tolist() == [[gone, lost_type]]
    assert evaluation.skipped["reason"].str.contains("no control cells").all()
    assert (evaluation.skipped["n_cells"] > 0).all()
    pairs = evaluation.pairs()
    assert set(zip(pairs["treatment"], pairs["cell_type"], strict=True)) == {(thin, thin_type)}
    row = pairs.set_index("predictor")
    assert row["thin"].all()
    assert (row["n_cells"] == 1).all()
    assert row.loc["ContextShift", ["r2", "pearson_shift", "weighted_mse"]].notna().all()
    assert row.loc[["ContextShift"], ["energy_distance", "mmd", "variance_ratio"]].isna().all(axis=None)
    assert row.loc[DUPLICATES, ["r2", "energy_distance"]].isna().all(axis=None)
    size = evaluation.summary()["size"].loc["ContextShift"]
    assert size.tolist() == [1, 1, 1]
    assert "1 of them thin" in repr(evaluation)


def test_one_treatment_has_no_perturbed_reference(adata):
    """With one treatment, as in Kang 2018, metrics that need others are undefined and the rest is not."""
    name = adata.obs.loc[adata.obs["split"] == "ood", "perturbation"].iloc[0]
    one = adata[adata.obs["perturbation"].isin(["control", name])].copy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        summary = Evaluation({"mine": ContextShift(one, **SETUP)}, n_bootstrap=20, n_de=10).summary()
    for metric in ("pearson_perturbed", "weighted_r2", "centroid_accuracy"):
        assert summary.loc["mine", (metric, "n")] == 0
        assert np.isnan(summary.loc["mine", (metric, "mean")])
    for metric in ("r2", "pearson_shift", "weighted_mse", "energy_distance"):
        assert summary.loc["mine", (metric, "n")] > 0
        assert np.isfinite(summary.loc["mine", (metric, "mean")])
    assert np.isfinite(summary.loc["technical duplicate", ("r2", "mean")])
    assert np.isnan(summary.loc["interpolated duplicate", ("r2", "mean")])


def test_paper_protocol_starts_from_all_strata(adata, shift):
    pairs = Evaluation({"shift": shift}, protocol="paper", **QUICK).pairs()
    sources = np.flatnonzero((adata.obs["perturbation"] == "control") & (adata.obs["split"] != "ood"))
    for row in pairs.itertuples():
        moved = adata[sources].copy()
        moved.obs["cell_type"] = row.cell_type
        predicted = shift.predict(row.treatment, adata=moved).X.astype(np.float64).mean(axis=0)
        held_out = (adata.obs["perturbation"] == row.treatment) & (adata.obs["cell_type"] == row.cell_type)
        true = adata.X.toarray()[(held_out & (adata.obs["split"] == "ood")).to_numpy()].mean(axis=0)
        expected = 1 - ((true - predicted) ** 2).sum() / ((true - true.mean()) ** 2).sum()
        assert row.r2 == pytest.approx(expected, abs=1e-4)
    assert not np.allclose(pairs["r2"], Evaluation({"shift": shift}, **QUICK).pairs()["r2"])


def test_strata_may_be_coarser_or_absent(adata):
    setup = {**SETUP, "categorical_covariate_keys": ["cell_type", "donor"]}
    coarse = Evaluation(ContextShift(adata, **setup), groupby="cell_type", truth=truth(adata), **QUICK).pairs()
    fine = Evaluation(ContextShift(adata, **setup), **QUICK).pairs()
    assert "donor" in fine
    assert "donor" not in coarse
    assert coarse["n_cells"].sum() == fine["n_cells"].sum()
    without = Evaluation(ContextShift(adata, split_key="split"), truth=truth(adata), **QUICK).pairs()
    assert len(without) == without["treatment"].nunique()
    assert without["n_cells"].sum() == fine["n_cells"].sum()


def test_doses_and_combinations_are_conditions():
    adata = simulate(
        n_cells=1500, n_genes=40, n_perturbations=3, n_donors=2, doses=(0.1, 1.0), n_combinations=2, seed=0
    )
    setup = {**SETUP, "dose_key": "dose", "combination_sep": "+"}
    evaluation = Evaluation(ContextShift(adata, **setup), truth=truth(adata), **QUICK)
    pairs = evaluation.pairs()
    observed = (
        adata.obs[adata.obs["split"] == "ood"].groupby(["perturbation", "cell_type", "dose"], observed=True).size()
    )
    assert pairs["n_cells"].sum() == observed.sum()
    assert len(pairs) == len(observed)
    assert pairs["dose"].nunique() > 1
    real = evaluation.to_cell_eval("ContextShift")[1]
    names = {f"{row.treatment}@{row.dose}" for row in pairs.itertuples()} | {"non-targeting"}
    assert set(real.obs["target"]) == names


def test_data_of_another_object_reach_the_predictor(adata, shift):
    """Cells are those of `adata`, whichever object the model holds."""
    half = adata[::2].copy()
    scores = Evaluation({"shift": shift}, half, **QUICK).pairs()
    own = Evaluation({"shift": ContextShift(half, **SETUP)}, **QUICK).pairs()
    assert scores["n_cells"].tolist() == own["n_cells"].tolist()
    row = scores.iloc[0]
    obs = half.obs
    here = ((obs["perturbation"] == "control") & (obs["cell_type"] == row["cell_type"])).to_numpy()
    predicted = shift.predict(row["treatment"], indices=np.flatnonzero(here), adata=half).X.mean(axis=0)
    treated = (obs["perturbation"] == row["treatment"]) & (obs["cell_type"] == row["cell_type"])
    true = half.X.toarray()[(treated & (obs["split"] == "ood")).to_numpy()].mean(axis=0)
    assert row["mse"] == pytest.approx(((true - predicted) ** 2).mean(), rel=1e-3)


def test_genes_carry_the_scores(adata, shift):
    evaluation = Evaluation({"shift": shift}, n_de=10, **QUICK)
    genes = evaluation.genes().merge(
        evaluation.shifts(),
        on=["treatment", "dose", "cell_type", "gene"],
        validate="one_to_one",
        suffixes=("", "_shift"),
    )
    keys = ["treatment", "cell_type"]
    pairs = evaluation.pairs().set_index(keys)
    assert len(genes) == len(pairs) * adata.n_vars
    for key, part in genes.groupby(keys):
        row, error = pairs.loc[key], (part["true_shift"] - part["predicted"]).to_numpy()
        assert row["weighted_mse"] == pytest.approx(part["weight"] @ error**2, rel=1e-4)
        true = part.loc[part["is_de"], "true"]
        assert len(true) == 10
        r2_de = 1 - (error[part["is_de"]] ** 2).sum() / ((true - true.mean()) ** 2).sum()
        assert row["r2_de"] == pytest.approx(r2_de, abs=1e-4)
        assert row["n_significant"] == part["is_significant"].sum()
        np.testing.assert_allclose(part["true"] - part["reference"], part["true_shift"])


def test_too_many_de_genes_are_warned_of(adata, shift):
    with pytest.warns(UserWarning, match="`r2_de` counts 13 of 50 genes"):
        Evaluation(shift, n_de=13, **QUICK)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Evaluation(shift, n_de=12, **QUICK)


def test_denoised_controls_score_without_any_knowledge():
    """The reason why shifts from control have no fixed value without information."""
    adata = simulate(n_cells=2000, n_genes=100, n_perturbations=10, n_donors=6, seed=1)
    setup = {**SETUP, "categorical_covariate_keys": ["cell_type", "donor"]}
    score = Evaluation(NoChange(adata, **setup), duplicates=False, n_bootstrap=1).summary()
    score = score.xs("mean", axis=1, level="statistic")
    assert score.loc["control level", "pearson_shift"] > 0.1
    assert score.loc["control level", "pearson_shift"] > score.loc["no change", "pearson_shift"] == 0
    assert score.loc["no change", "pearson_perturbed"] > 0.3
    for name in ("pearson_shift", "pearson_perturbed", "de_spearman", "de_direction"):
        assert sgv.metrics.METRICS[name].no_information is None


def test_combinations_seen_in_the_stratum_are_known_to_the_baselines():
    """Among validation cells the training mean of the very pair must stand beside a model."""
    adata = simulate(n_cells=3000, n_genes=40, n_perturbations=3, n_donors=1, n_combinations=3, seed=0)
    setup = {**SETUP, "combination_sep": "+"}
    pairs = Evaluation(NoChange(adata, **setup), split="test", duplicates=False, n_bootstrap=1).pairs()
    rows = pairs[(pairs["predictor"] == "additive") & pairs["treatment"].str.contains("+", regex=False)]
    assert len(rows)
    x, cell_type, treatment, split = means_by_hand(adata)
    for row in rows.itertuples():
        here = (cell_type == row.cell_type).to_numpy()
        train, test = (here & (treatment == row.treatment) & (split == part) for part in ("train", "test"))
        control = here & (treatment == "control")
        shift = x[train].mean(axis=0) - x[control & (split == "train")].mean(axis=0)
        guess = x[control & (split != "ood")].mean(axis=0) + shift
        assert row.mse == pytest.approx(((x[test].mean(axis=0) - guess) ** 2).mean(), rel=1e-3)


def test_bad_input(adata, shift):
    with pytest.raises(ValueError, match="how the screen is set up"):
        Evaluation({"oracle": Oracle(adata, None)}, adata)
    with pytest.raises(ValueError, match="Unknown baselines 'all'"):
        Evaluation(shift, baselines="all")
    with pytest.raises(ValueError, match="Unknown split 'train'"):
        Evaluation(shift, split="train")
    with pytest.raises(ValueError, match="Unknown protocol 'native'"):
        Evaluation(shift, protocol="native")
    with pytest.raises(ValueError, match="no split column"):
        Evaluation(ContextShift(adata))
    with pytest.raises(ValueError, match="must be at least 1"):
        Evaluation(shift, min_cells=0)
    with pytest.raises(ValueError, match="`n_bootstrap` must be at least 1"):
        Evaluation(shift, n_bootstrap=0)
    known = adata.copy()
    known.obs["split"] = "train"
    with pytest.raises(ValueError, match="no cell of a treatment is 'ood'"):
        Evaluation(ContextShift(known, **SETUP))
    with pytest.raises(ValueError, match="'nan' predicts NaN"):
        Evaluation({"shift": shift, "nan": Broken(lambda n: np.full((n, 50), np.nan), adata.var_names)}, **QUICK)
    with pytest.raises(ValueError, match="'few' predicts 1 cells x 50 genes"):
        Evaluation({"shift": shift, "few": Broken(lambda n: np.zeros((1, 50)), adata.var_names)}, **QUICK)
    with pytest.raises(ValueError, match="Unknown predictor 'nobody'"):
        Evaluation(shift, **QUICK).to_pertpy("nobody")


class Permuted:
    """Predicts as another, and returns genes in another order."""

    def __init__(self, other, order):
        self.other, self.order = other, order

    def predict(self, treatment, indices):
        return self.other.predict(treatment, indices=indices)[:, self.order]


def test_genes_are_compared_by_name(adata, shift):
    order = np.random.default_rng(0).permutation(adata.n_vars)
    pairs = Evaluation({"shift": shift, "permuted": Permuted(shift, order)}, **QUICK).pairs()
    first, second = (pairs[pairs["predictor"] == name].iloc[:, 2:] for name in ("shift", "permuted"))
    pd.testing.assert_frame_equal(first.reset_index(drop=True), second.reset_index(drop=True))
    with pytest.raises(ValueError, match=f"'part' predicts 49 genes.*1 are missing, such as .'{adata.var_names[-1]}'"):
        Evaluation({"shift": shift, "part": Permuted(shift, np.arange(49))}, **QUICK)
    other = adata.var_names[:-1].append(pd.Index(["ACTB"]))
    with pytest.raises(ValueError, match="'other' predicts 50 genes that are not the 50.*'ACTB'"):
        Evaluation({"shift": shift, "other": Broken(lambda n: np.zeros((n, 50)), other)}, **QUICK)


def test_treatments_without_training_cells_are_marked(adata):
    other = adata.copy()
    obs = other.obs
    gone = obs["perturbation"].cat.categories[-1]
    gone = gone if gone != "control" else obs["perturbation"].cat.categories[-2]
    obs["split"] = np.where(obs["perturbation"] == gone, "ood", obs["split"].astype(str))
    evaluation = Evaluation(ContextShift(other, **SETUP), n_bootstrap=10)
    pairs = evaluation.pairs()
    assert (pairs["unseen"] == (pairs["treatment"] == gone)).all()
    n_unseen = pairs[pairs["predictor"] == "ContextShift"]["unseen"].sum()
    assert 0 < n_unseen < evaluation.summary()["size", "n_conditions"].iloc[0]
    assert (evaluation.headline()["n_unseen"] == n_unseen).all()
    assert "unseen" not in evaluation.shifts()


def test_combinations_of_seen_perturbations_are_not_unseen():
    adata = simulate(n_cells=1500, n_genes=40, n_perturbations=3, n_donors=1, n_combinations=2, seed=0)
    obs = adata.obs
    pair = next(name for name in obs["perturbation"].unique() if "+" in name)
    alone = pair.split("+")[0]
    setup = {**SETUP, "combination_sep": "+"}
    with_member = {name for name in obs["perturbation"].unique() if alone in name.split("+")}
    for hidden, expected in (({pair}, False), (with_member, True)):
        obs["split"] = np.where(obs["perturbation"].isin(hidden), "ood", "train")
        pairs = Evaluation(NoChange(adata, **setup), **QUICK).pairs()
        assert (pairs.loc[pairs["treatment"] == pair, "unseen"] == expected).all()


def test_truth_is_read_by_gene(adata, shift):
    known = truth(adata)
    permuted = adata[:, np.random.default_rng(0).permutation(adata.n_vars)].copy()
    first = Evaluation({"shift": shift}, truth=known, **QUICK).pairs()
    second = Evaluation({"shift": ContextShift(permuted, **SETUP)}, truth=known, **QUICK).pairs()
    np.testing.assert_allclose(second["r2"], first["r2"], rtol=1e-5)
    renamed = adata.copy()
    renamed.var_names = [f"other{name}" for name in adata.var_names]
    with pytest.raises(ValueError, match="`truth` does not know the genes"):
        Evaluation({"shift": ContextShift(renamed, **SETUP)}, truth=known, **QUICK)


def test_what_is_no_predictor(adata, shift):
    class NoIndices:
        def predict(self, treatment):
            return treatment

    class Keywords(NoChange):
        def predict(self, treatment, **kwargs):
            return super().predict(treatment, **kwargs)

    with pytest.raises(TypeError, match="`predict` of 'array' returned ndarray. It must return an AnnData"):
        Evaluation({"shift": shift, "array": Broken(lambda n: np.zeros((n, 50)))}, **QUICK)
    with pytest.raises(TypeError, match=r"`predict` of 'mine' takes \['treatment'\], and must take `indices`"):
        Evaluation({"shift": shift, "mine": NoIndices()})
    with pytest.raises(TypeError, match="'mine' is str, which cannot `predict`"):
        Evaluation({"shift": shift, "mine": "model"})
    with pytest.raises(TypeError, match="'mine' is the class ContextShift"):
        Evaluation({"shift": shift, "mine": ContextShift})
    with pytest.raises(TypeError, match=r"`models` must be a dict \{name: model\}, or one predictor, not list"):
        Evaluation([shift])
    with pytest.raises(ValueError, match="`models` is empty"):
        Evaluation({})
    with pytest.raises(ValueError, match=r"sgv.baselines.ContextShift\(adata, perturbation_key="):
        Evaluation({"own": Oracle(adata, None)}, adata)
    assert len(Evaluation(Keywords(adata, **SETUP), **QUICK).pairs())


def test_public_names():
    assert sgv.Evaluation is Evaluation
    assert callable(sgv.evaluate)
