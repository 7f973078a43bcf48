"""The table of networks and baselines: scopes, candidates, cuts, and what each row is."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

import scgraphvci as sgv
from scgraphvci.grn import degree_matched_random, evaluate, get_grn, precision_recall, score_edges

KEYS = {"perturbation_key": "perturbation", "categorical_covariate_keys": ["cell_type"], "split_key": "split"}


@pytest.fixture(scope="module")
def adata():
    return sgv.datasets.simulate(n_cells=600, n_genes=80, n_perturbations=6, seed=1)


def frame(*edges: tuple) -> pd.DataFrame:
    return pd.DataFrame(edges, columns=["source", "target", "weight"])


def dense(net: pd.DataFrame, names: pd.Index, regulators: list[str]) -> np.ndarray:
    weight = {(s, t): abs(w) for s, t, w in net[["source", "target", "weight"]].itertuples(index=False)}
    return np.array([[weight.get((s, t), 0.0) for t in names if t != s] for s in regulators])


def test_pooled_and_per_regulator_numbers(adata) -> None:
    truth, prior = get_grn(adata, "grn_true"), get_grn(adata, "grn")
    regulators = list(adata.var_names[adata.var["is_regulator"]])
    net = score_edges(adata, "pearson", regulators)
    table = evaluate(net, truth, candidates=regulators, prior=prior, adata=adata, baselines=[], per_regulator=True)
    table = table.set_index(["scope", "regulator"])
    score, true = (dense(x, adata.var_names, regulators) for x in (net, truth))
    listed = dense(prior, adata.var_names, regulators) > 0
    for scope, mask in (("all", np.ones_like(listed)), ("within", listed), ("outside", ~listed)):
        row = table.loc[scope, "all"]
        assert row["auprc"] == pytest.approx(average_precision_score(true[mask] > 0, score[mask]))
        assert row["auroc"] == pytest.approx(roc_auc_score(true[mask] > 0, score[mask]))
        assert row["n_candidates"] == mask.sum()
    with_edges = [r for r, t in zip(regulators, true, strict=True) if t.any()]
    assert table.loc["all"].index[1:].tolist() == with_edges
    for regulator in with_edges[:3]:
        i = regulators.index(regulator)
        expected = average_precision_score(true[i] > 0, score[i])
        assert table.loc[("all", regulator), "auprc"] == pytest.approx(expected)


def test_baselines_are_what_they_say(adata) -> None:
    truth, prior = get_grn(adata, "grn_true"), get_grn(adata, "grn")
    table = evaluate({"net": prior}, truth, prior="grn", adata=adata, seed=3, **KEYS)
    assert table["kind"].unique().tolist() == ["network", "baseline"]
    sources = list(truth["source"].unique())
    nets = {"prior": prior, "random": degree_matched_random(prior, 3)}
    for method in ("pearson", "residual_spearman", "ridge", "ridge_prior", "prior_residual"):
        nets[method] = score_edges(adata, method, sources, prior=prior, **KEYS)
    direct = evaluate(nets, truth, prior=prior, adata=adata, baselines=[])
    index, metrics = ["predictor", "scope"], ["n_edges", "auprc", "early_precision", "auroc"]
    both = table[table["predictor"].isin(nets)].set_index(index)[metrics]
    pd.testing.assert_frame_equal(both.sort_index(), direct.set_index(index)[metrics].sort_index())
    assert set(table["predictor"]) == {"net", *nets, "spearman", "residual_pearson"}


def test_default_baselines_need_nothing_that_is_not_there(adata) -> None:
    table = evaluate(get_grn(adata, "grn"), get_grn(adata, "grn_true"), adata=adata)
    assert table["predictor"].tolist() == ["network", "pearson", "spearman", "ridge"]
    assert table["scope"].unique().tolist() == ["all"]


def test_candidates() -> None:
    truth = frame(("A", "B", 1), ("A", "C", -1), ("B", "C", 1), ("B", "B", 1), ("A", "D", 0))
    net = frame(("A", "B", -2), ("A", "A", 9), ("B", "A", 1), ("A", "Q", 5))
    by_truth = evaluate(net, truth).iloc[0]  # A, B -> A, B, C, D without loops
    assert (by_truth["n_candidates"], by_truth["n_true"], by_truth["n_edges"]) == (6, 3, 2)
    of_one = evaluate(net, truth, candidates=["A"]).iloc[0]
    assert (of_one["n_candidates"], of_one["n_true"], of_one["n_edges"]) == (3, 2, 1)
    pairs = evaluate(net, truth, candidates=frame(("A", "B", 1), ("B", "A", 1), ("B", "B", 1), ("A", "Q", 1))).iloc[0]
    assert (pairs["n_candidates"], pairs["n_true"], pairs["n_edges"]) == (2, 1, 2)
    assert pairs["auprc"] == 1.0


def test_duplicates_keep_the_largest_weight() -> None:
    truth = frame(("A", "B", 1), ("A", "C", 0), ("B", "C", 1))
    net = frame(("A", "B", 1), ("A", "C", 2), ("A", "B", -3))
    assert evaluate(net, truth, candidates=["A"])["auprc"].item() == 1.0


def test_same_number_of_edges(adata) -> None:
    truth, prior = get_grn(adata, "grn_true"), get_grn(adata, "grn")
    small = prior.nlargest(40, "weight")
    table = evaluate(
        {"small": small, "prior2": prior}, truth, adata=adata, baselines=["pearson", "ridge"], n_edges="matched"
    )
    listed = small["source"].isin(truth["source"]) & (small["source"] != small["target"])
    assert set(table["n_edges"]) == {int(listed.sum())}
    best = score_edges(adata, "pearson", list(truth["source"].unique())).head(int(listed.sum()))
    pearson = table.set_index("predictor").loc["pearson"]
    assert pearson["auprc"] == pytest.approx(evaluate(best, truth, adata=adata, baselines=[])["auprc"].item())
    assert set(evaluate(prior, truth, n_edges=7)["n_edges"]) == {7}


def test_precision_recall_curves(adata) -> None:
    truth, prior = get_grn(adata, "grn_true"), get_grn(adata, "grn")
    curves = precision_recall({"prior": prior, "truth": truth}, truth, genes=adata.var_names, per_regulator=True)
    scores = evaluate({"prior": prior, "truth": truth}, truth, adata=adata, baselines=[], per_regulator=True)
    for (name, regulator), part in curves.groupby(["predictor", "regulator"]):
        row = scores.set_index(["predictor", "regulator"]).loc[(name, regulator)]
        area = (np.diff(part["recall"]) * part["precision"].iloc[1:]).sum()
        assert area == pytest.approx(row["auprc"])
        assert set(part["density"]) == {row["density"]}


TRUTH = frame(("A", "B", 1), ("A", "C", 1))


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"nets": {}}, ValueError, "no network to judge"),
        ({"nets": [1]}, TypeError, "must be a data frame"),
        ({"candidates": "A"}, TypeError, "Use \\['A'\\]"),
        ({"candidates": ["Q"]}, ValueError, "no candidate edge"),
        ({"candidates": ["B"]}, ValueError, "No edge of `truth` is among the candidates"),
        ({"prior": "grn"}, ValueError, "there is no `adata`"),
        ({"baselines": ["pearson"]}, ValueError, "need `adata`"),
        ({"n_edges": 0}, ValueError, "n_edges=0"),
        ({"n_edges": "same"}, ValueError, "n_edges='same'"),
    ],
)
def test_bad_input(options, error, match) -> None:
    with pytest.raises(error, match=match):
        evaluate(**{"nets": TRUTH, "truth": TRUTH, **options})


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"baselines": ["nothing"]}, "Unknown baseline 'nothing'"),
        ({"baselines": ["prior"]}, "Baseline 'prior' needs `prior`"),
        ({"baselines": ["residual_pearson"]}, "needs `perturbation_key`"),
        ({"nets": {"pearson": TRUTH}, "baselines": ["pearson"]}, "names both a network and a baseline"),
    ],
)
def test_bad_baselines(adata, options, match) -> None:
    truth = get_grn(adata, "grn_true")
    with pytest.raises(ValueError, match=match):
        evaluate(**{"nets": truth, "truth": truth, "adata": adata, **options})
