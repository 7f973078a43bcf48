from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from mudata import MuData
from scipy import sparse

from scgraphvci.model._refiner import GRNRefiner

QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
N_REGULATORS, N_GENES, N_CELLS = 12, 80, 900


@pytest.fixture(scope="module")
def screen() -> ad.AnnData:
    """A linear network with signed edges, a common cause of regulators, strata, and a prior half of which is false."""
    rng = np.random.default_rng(0)
    effect = np.zeros((N_GENES, N_GENES))
    for target in range(N_REGULATORS, N_GENES):
        effect[rng.choice(N_REGULATORS, 2, replace=False), target] = rng.choice([-0.5, 0.5], 2)
    stratum = rng.integers(3, size=N_CELLS)
    expression = rng.normal(size=(N_CELLS, N_GENES))
    expression[:, :N_REGULATORS] += 0.7 * rng.normal(size=(N_CELLS, 1))
    expression += expression @ effect + rng.normal(size=(3, N_GENES))[stratum]
    true = effect != 0
    prior = true & (rng.random(true.shape) < 0.75)
    absent = np.argwhere(~true[:N_REGULATORS] & ~np.eye(N_GENES, dtype=bool)[:N_REGULATORS])
    chosen = absent[rng.choice(len(absent), int(prior.sum()), replace=False)]
    prior[chosen[:, 0], chosen[:, 1]] = True
    adata = ad.AnnData(sparse.csr_matrix(expression.astype(np.float32)))
    adata.var_names = [f"G{i}" for i in range(N_GENES)]
    adata.obs["cell_type"] = pd.Categorical(stratum.astype(str))
    adata.obs["split"] = pd.Categorical(rng.choice(["train", "test", "ood"], N_CELLS, p=[0.7, 0.2, 0.1]))
    adata.varp["grn"] = sparse.csr_matrix(prior.astype(np.float32))
    adata.varp["grn_true"] = sparse.csr_matrix(effect)
    return adata


def fit(adata: ad.AnnData, max_epochs: int = 20, split_key: str | None = "split", train=None, **kwargs) -> GRNRefiner:
    adata = adata.copy()
    GRNRefiner.setup_anndata(adata, split_key=split_key, categorical_covariate_keys=["cell_type"])
    torch.manual_seed(0)
    model = GRNRefiner(adata, **kwargs)
    model.train(max_epochs=max_epochs, batch_size=64, **{**QUIET, **(train or {})})
    return model


@pytest.fixture(scope="module")
def model(screen: ad.AnnData) -> GRNRefiner:
    return fit(screen)


def scored(model: GRNRefiner, screen: ad.AnnData) -> pd.DataFrame:
    frame = model.get_refined_grn()
    index = screen.var_names.get_indexer(frame["source"]), screen.var_names.get_indexer(frame["target"])
    return frame.assign(effect=np.asarray(screen.varp["grn_true"][index]).ravel())


def auroc(truth: pd.Series, score: pd.Series) -> float:
    rank = score.rank()
    positive = truth.sum()
    return (rank[truth].sum() - positive * (positive + 1) / 2) / (positive * (~truth).sum())


def test_separates_true_from_false_edges(model: GRNRefiner, screen: ad.AnnData) -> None:
    frame = scored(model, screen)
    prior = frame[frame["in_prior"]]
    assert auroc(prior["effect"] != 0, prior["weight"]) > 0.95
    kept, added = frame[frame["status"] == "kept"], frame[frame["status"] == "added"]
    assert (kept["effect"] != 0).mean() >= 0.85 and len(kept) > 0.8 * (prior["effect"] != 0).sum()
    missing = screen.varp["grn_true"].nnz - (prior["effect"] != 0).sum()
    assert (added["effect"] != 0).mean() > 0.9 and len(added) > 0.3 * missing
    every = model.get_refined_grn(1e-5)
    outside = every[~every["in_prior"]]
    index = screen.var_names.get_indexer(outside["source"]), screen.var_names.get_indexer(outside["target"])
    true = pd.Series(np.asarray(screen.varp["grn_true"][index]).ravel() != 0, index=outside.index)
    assert true.sum() > 0.9 * missing
    assert auroc(true, outside["weight"]) > 0.95
    assert (np.sign(kept["effect"]) == kept["sign"])[kept["effect"] != 0].mean() > 0.98


def test_frame(model: GRNRefiner, screen: ad.AnnData) -> None:
    frame = model.get_refined_grn()
    assert list(frame.columns) == ["source", "target", "weight", "sign", "in_prior", "status"]
    assert frame["weight"].is_monotonic_decreasing
    assert (frame["in_prior"] == frame["status"].isin(["kept", "dropped"])).all()
    assert ((frame["weight"] > 0.3) == frame["status"].isin(["kept", "added"])).all()
    assert frame["in_prior"].sum() == screen.varp["grn"].nnz
    assert not frame.duplicated(["source", "target"]).any()
    assert len(model.get_refined_grn(0.9)) <= len(frame)
    with pytest.raises(ValueError, match="threshold=1.0"):
        model.get_refined_grn(1.0)


def test_edges_and_ranking_settle(screen: ad.AnnData) -> None:
    """Null slot: four times the steps change neither the number of edges nor their order by much."""
    shorter, longer = (fit(screen, max_epochs=epochs, evidence_weight=0.02) for epochs in (5, 20))
    one, four = (m.get_refined_grn().set_index(["source", "target"]) for m in (shorter, longer))
    counts = [(f["status"] != "dropped").sum() for f in (one, four)]
    assert abs(counts[1] - counts[0]) < 0.1 * counts[0]
    joined = one[one["in_prior"]].join(four["weight"], rsuffix="_four")
    top = joined["weight"].nlargest(counts[0] // 2).index
    assert joined["weight"].corr(joined["weight_four"], method="spearman") > 0.85
    assert len(top.intersection(joined["weight_four"].nlargest(counts[0]).index)) > 0.9 * len(top)


def test_two_genes_pin_the_direction() -> None:
    rng = np.random.default_rng(0)
    source = rng.normal(size=400)
    adata = ad.AnnData(np.column_stack([source, 0.8 * source + 0.6 * rng.normal(size=400)]).astype(np.float32))
    adata.var_names = ["regulator", "target"]
    adata.varp["grn"] = sparse.csr_matrix(np.array([[0, 1], [0, 0]], dtype=np.float32))
    GRNRefiner.setup_anndata(adata)
    model = GRNRefiner(adata)
    model.train(max_epochs=10, **QUIET)
    frame = model.get_refined_grn()
    assert frame[["source", "target", "status"]].to_numpy().tolist() == [["regulator", "target", "kept"]]
    assert frame.loc[0, "weight"] > 0.7 and frame.loc[0, "sign"] == 1


@pytest.mark.parametrize("replace", [False, True])
def test_held_out_cells_are_invisible(screen: ad.AnnData, replace: bool) -> None:
    other = screen.copy()
    ood = np.flatnonzero(other.obs["split"] == "ood")
    matrix = other.X.toarray()
    matrix[ood] = 1e4 if replace else matrix[np.roll(ood, 1)]
    other.X = sparse.csr_matrix(matrix)
    expected, found = (fit(data, max_epochs=3).get_refined_grn() for data in (screen, other))
    pd.testing.assert_frame_equal(expected, found)


def test_same_seed_same_network(screen: ad.AnnData) -> None:
    first, second = (fit(screen, max_epochs=3).get_refined_grn() for _ in range(2))
    pd.testing.assert_frame_equal(first, second)
    third = fit(screen, max_epochs=3, train={"plan_kwargs": {"seed": 1}}).get_refined_grn()
    edges = ["source", "target"]
    joined = first.merge(third, on=edges, suffixes=("", "_third"))
    assert not np.allclose(joined["weight"], joined["weight_third"], atol=1e-6)


def test_history_and_early_stopping(screen: ad.AnnData) -> None:
    model = fit(screen, max_epochs=200, train={"early_stopping": True, "early_stopping_patience": 3})
    history = model.history
    assert {"train_loss", "validation_loss", "edge_penalty", "n_edges"} <= set(history)
    assert len(history["train_loss"]) < 200
    assert history["validation_loss"].iloc[-1, 0] < history["validation_loss"].iloc[0, 0]


def test_save_and_load(model: GRNRefiner, screen: ad.AnnData, tmp_path) -> None:
    model.save(tmp_path / "refiner")
    for adata in (screen.copy(), False):
        loaded = GRNRefiner.load(tmp_path / "refiner", adata=adata)
        pd.testing.assert_frame_equal(loaded.get_refined_grn(), model.get_refined_grn())


@pytest.fixture(scope="module")
def knocked(screen: ad.AnnData) -> ad.AnnData:
    """The screen with regulators G0 to G2 knocked out in cells of their own, which moves their targets a little."""
    rng = np.random.default_rng(1)
    treatment = rng.choice(["none", "G0", "G1", "G2", "G0+G1", "drug"], N_CELLS, p=[0.4, 0.15, 0.15, 0.15, 0.05, 0.1])
    adata = screen.copy()
    shift = np.sign(screen.varp["grn_true"].toarray())
    expression = screen.X.toarray()
    for gene in range(3):
        expression[treatment == f"G{gene}"] += 0.6 * shift[gene]
    adata.X = sparse.csr_matrix(expression.astype(np.float32))
    adata.obs["treatment"] = treatment
    return adata


def with_treatments(adata: ad.AnnData, key: str | None) -> pd.Series:
    adata = adata.copy()
    GRNRefiner.setup_anndata(
        adata, split_key="split", categorical_covariate_keys=["cell_type"], perturbation_key=key, control="none"
    )
    torch.manual_seed(0)
    model = GRNRefiner(adata)
    model.train(max_epochs=2, **QUIET)
    return model.get_refined_grn(1e-5).set_index(["source", "target"])["weight"]


def test_interventions_are_evidence_for_the_edges_of_their_regulator(knocked: ad.AnnData) -> None:
    without, found = with_treatments(knocked, None), with_treatments(knocked, "treatment")
    source, target = knocked.varp["grn_true"].nonzero()
    chosen = source < 3
    true = pd.MultiIndex.from_arrays([knocked.var_names[source[chosen]], knocked.var_names[target[chosen]]])
    true = true.intersection(found.index).intersection(without.index)
    gained = np.log(found / (1 - found))[true] - np.log(without / (1 - without))[true]
    assert len(true) > 15 and gained.median() > 1.0


def test_treatments_of_held_out_cells_are_invisible(knocked: ad.AnnData) -> None:
    other = knocked.copy()
    held_out = (other.obs["split"] != "train").to_numpy()
    other.obs["treatment"] = np.where(held_out, "G1", other.obs["treatment"])
    matrix = other.X.toarray()
    matrix[held_out] = 50.0
    other.X = sparse.csr_matrix(matrix)
    pd.testing.assert_series_equal(with_treatments(other, "treatment"), with_treatments(knocked, "treatment"))


@pytest.mark.parametrize("candidates", ["all", "frame"])
def test_candidates(screen: ad.AnnData, candidates: str) -> None:
    pairs = pd.DataFrame({"source": ["G70", "G0"], "target": ["G0", "G71"]})
    model = fit(screen, max_epochs=1, candidates=pairs if candidates == "frame" else "all")
    in_prior = np.asarray(screen.varp["grn"].toarray()) != 0
    expected = N_GENES * (N_GENES - 1) - in_prior.sum() if candidates == "all" else 2 - in_prior[0, 71]
    assert model.module.candidates.n_absent == expected


def test_paper_preset(screen: ad.AnnData) -> None:
    model = fit(screen, max_epochs=1, preset="paper", n_layers=2)
    module = model.module
    assert module.candidates.n_sources == N_GENES and not module.null_slot and not module.signed
    assert module.log_odds is None and set(module.state_dict()).isdisjoint({"log_odds", "pulled"})
    assert torch.all(module.edge_penalty == 20 / N_GENES) and torch.all(module.absent_penalty == 20 / N_GENES)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"candidates": "some"}, ValueError, "candidates='some'"),
        ({"candidates": pd.DataFrame({"source": ["G0"]})}, KeyError, "target"),
        ({"candidates": pd.DataFrame({"source": ["G0"], "target": ["?"]})}, ValueError, "first G0 -> \\?"),
        ({"preset": "none"}, ValueError, "Unknown preset 'none'"),
    ],
)
def test_bad_options(screen: ad.AnnData, options: dict, error, match: str) -> None:
    with pytest.raises(error, match=match):
        fit(screen, max_epochs=1, **options)


def test_needs_a_network(screen: ad.AnnData) -> None:
    with pytest.raises(ValueError, match="starts from a network"):
        GRNRefiner.setup_anndata(screen.copy(), grn_key=None)
    with pytest.raises(KeyError, match="add_grn"):
        GRNRefiner.setup_anndata(screen.copy(), grn_key="nothing")
    with pytest.raises(ValueError, match="Control 'control' has no cells"):
        GRNRefiner.setup_anndata(screen.copy(), perturbation_key="cell_type")


@pytest.mark.filterwarnings("ignore::FutureWarning:mudata")
def test_mudata_and_anndata_give_the_same_model(screen: ad.AnnData, tmp_path) -> None:
    expected = fit(screen, max_epochs=2).get_refined_grn()
    peaks = ad.AnnData(
        np.ones((N_CELLS, 2)), obs=screen.obs[[]].copy(), var=pd.DataFrame(index=["chr1:1-9", "chr2:1-9"])
    )
    mdata = MuData({"atac": peaks, "rna": screen.copy()})
    GRNRefiner.setup_mudata(mdata, split_key="split", categorical_covariate_keys=["cell_type"])
    torch.manual_seed(0)
    model = GRNRefiner(mdata)
    model.train(max_epochs=2, batch_size=64, **QUIET)
    pd.testing.assert_frame_equal(model.get_refined_grn(), expected, check_exact=True)
    model.save(tmp_path / "m", save_anndata=True)
    for loaded in (GRNRefiner.load(tmp_path / "m"), GRNRefiner.load(tmp_path / "m", mdata.copy())):
        pd.testing.assert_frame_equal(loaded.get_refined_grn(), expected, check_exact=True)


@pytest.mark.filterwarnings("ignore::FutureWarning:mudata")
def test_mudata_that_cannot_be_registered(screen: ad.AnnData) -> None:
    rna = screen[:50].copy()
    before = list(rna.obs)
    with pytest.raises(KeyError, match=r"Modality 'gex' not found. Modalities: \['rna'\]"):
        GRNRefiner.setup_mudata(MuData({"rna": rna}), modality="gex")
    with pytest.raises(TypeError, match="setup_anndata"):
        GRNRefiner.setup_mudata(rna)
    with pytest.raises(TypeError, match="setup_mudata"):
        GRNRefiner.setup_anndata(MuData({"rna": rna}))
    with pytest.raises(ValueError, match="`grn_key` is None"):
        GRNRefiner.setup_mudata(MuData({"rna": rna}), grn_key=None)
    other = ad.AnnData(np.ones((50, 2)), obs=pd.DataFrame(index=rna.obs_names[::-1]))
    with pytest.raises(ValueError, match="in another order"):
        GRNRefiner.setup_mudata(MuData({"other": other, "rna": rna}))
    assert list(rna.obs) == before
