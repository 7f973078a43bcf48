"""Scores by interventions against scipy, one pair at a time."""

from __future__ import annotations

import anndata as ad
import networkx as nx
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from scipy.stats import mannwhitneyu, norm, wasserstein_distance

from scgraphvci.grn import _interventions as interventions
from scgraphvci.grn import degree_matched_random, evaluate_interventions

GENES = list("ABCDEFGH")


@pytest.fixture(scope="module")
def adata() -> ad.AnnData:
    rng = np.random.default_rng(0)
    n = 400
    treatment = rng.choice(["NTC", "A", "B", "C+D", "E", "other"], n, p=[0.4, 0.2, 0.2, 0.09, 0.01, 0.1])
    obs = pd.DataFrame({"treatment": treatment, "type": rng.choice(["u", "v"], n)})
    obs.index = obs.index.astype(str)
    values = rng.poisson(1.5, size=(n, 8)).astype(np.float32)
    values[:, 2] += 2 * (treatment == "A") + 3 * (obs["type"] == "u")
    values[:, 3] -= np.minimum(values[:, 3], treatment == "B")
    return ad.AnnData(values, obs=obs, var=pd.DataFrame(index=GENES))


@pytest.fixture
def net() -> pd.DataFrame:
    edges = [("A", "C", 1.0), ("C", "D", -1.0), ("B", "D", 0.5), ("A", "A", 1.0), ("E", "F", 1.0), ("B", "H", 0.0)]
    return pd.DataFrame([*edges, ("A", "C", 2.0), ("B", "Q", 1.0)], columns=["source", "target", "weight"])


def naive(adata: ad.AnnData, source: str, target: str) -> tuple[float, float]:
    values = adata[:, target].X.ravel().astype(float)
    treated, control = (values[(adata.obs["treatment"] == name).to_numpy()] for name in (source, "NTC"))
    test = mannwhitneyu(treated, control, use_continuity=False, method="asymptotic")
    return wasserstein_distance(treated, control), test.pvalue


@pytest.mark.parametrize("layout", [np.asarray, sparse.csr_matrix])
def test_edges_and_omissions_against_scipy(adata, net, layout) -> None:
    data = ad.AnnData(layout(adata.X), obs=adata.obs, var=adata.var)
    table = evaluate_interventions(net, data, "treatment", "NTC", n_pairs=10_000).set_index("predictor")
    possible = [(s, t) for s in "AB" for t in GENES if s != t]  # too few cells received E
    edges = [("A", "C"), ("B", "D")]
    graph = nx.DiGraph(net.loc[net["weight"] != 0, ["source", "target"]].itertuples(index=False))
    reached = {source: nx.descendants(graph, source) for source in "AB"}
    assert reached["A"] == {"C", "D"}
    omitted = [(s, t) for s, t in possible if t not in reached[s]]
    found = {pair: naive(adata, *pair) for pair in possible}
    row = table.loc["network"]
    assert row["n_edges"] == 2 and row["n_omitted"] == len(omitted)
    assert row["mean_wasserstein"] == pytest.approx(np.mean([found[pair][0] for pair in edges]), rel=1e-6)
    assert row["share_shifted"] == np.mean([found[pair][1] < 0.05 for pair in edges]) == 1.0
    assert row["false_omission_rate"] == pytest.approx(np.mean([found[pair][1] < 0.05 for pair in omitted]))
    everything = table.loc["all pairs"]
    assert everything["n_edges"] == len(possible)
    assert everything["mean_wasserstein"] == pytest.approx(np.mean([distance for distance, _ in found.values()]))
    assert everything["share_shifted"] == pytest.approx(np.mean([p < 0.05 for _, p in found.values()]))


def test_p_values_against_scipy(adata) -> None:
    shifts = interventions._shifts(adata, "treatment", "NTC", None, [], 10)
    assert [GENES[i] for i in shifts.sources] == ["A", "B"]
    expected = [[naive(adata, source, target)[1] for target in GENES] for source in "AB"]
    np.testing.assert_allclose(shifts.p_value, expected, rtol=1e-6)


def test_within_strata(adata) -> None:
    """Distances are averaged over strata; tests are combined as van Elteren does, here written out."""
    shifts = interventions._shifts(adata, "treatment", "NTC", None, ["type"], 10)
    for row, source in enumerate("AB"):
        for column, target in enumerate(GENES):
            values, u, variance, distance, total = adata[:, target].X.ravel().astype(float), 0.0, 0.0, 0.0, 0
            for level in "uv":
                arms = [
                    values[((adata.obs["treatment"] == name) & (adata.obs["type"] == level)).to_numpy()]
                    for name in (source, "NTC")
                ]
                n, m = map(len, arms)
                ties = np.unique(np.concatenate(arms), return_counts=True)[1].astype(float)
                big = n + m
                u += (mannwhitneyu(*arms).statistic - n * m / 2) / (big + 1)
                of_u = n * m / 12 * (big + 1 - (ties**3 - ties).sum() / (big * (big - 1)))
                variance += of_u / (big + 1) ** 2
                distance += n * wasserstein_distance(*arms)
                total += n
            assert shifts.distance[row, column] == pytest.approx(distance / total, rel=1e-6)
            z = u / np.sqrt(variance)
            assert shifts.p_value[row, column] == pytest.approx(2 * norm.sf(abs(z)), rel=1e-6)


def test_strata_remove_what_differs_between_them(adata) -> None:
    """Gene C differs by 3 between types: where arms are unbalanced that is a shift, within types it is none."""
    unbalanced = adata[~((adata.obs["treatment"] == "B") & (adata.obs["type"] == "v")).to_numpy()].copy()
    net = pd.DataFrame({"source": ["B"], "target": ["C"]})
    raw, within = (
        evaluate_interventions(net, unbalanced, "treatment", "NTC", categorical_covariate_keys=keys).iloc[0]
        for keys in (None, ["type"])
    )
    assert raw["mean_wasserstein"] > 1 and raw["share_shifted"] == 1
    assert within["mean_wasserstein"] < 0.5 and within["share_shifted"] == 0


def test_sampled_pairs_random_graph_and_blocks(adata, net, monkeypatch) -> None:
    table = evaluate_interventions({"net": net}, adata, "treatment", "NTC", n_pairs=5, seed=2)
    assert table["n_omitted"].tolist() == [5, 5, 0]
    pd.testing.assert_frame_equal(
        table, evaluate_interventions({"net": net}, adata, "treatment", "NTC", n_pairs=5, seed=2)
    )
    merged = net[net["weight"] != 0].drop_duplicates(["source", "target"])
    random = evaluate_interventions(degree_matched_random(merged, 2), adata, "treatment", "NTC", n_pairs=5, seed=2)
    columns = table.columns[1:]
    assert random.loc[0, columns].tolist() == table.loc[1, columns].tolist()
    monkeypatch.setattr(interventions, "BLOCK_VALUES", adata.n_obs * 3)
    again = evaluate_interventions({"net": net}, adata, "treatment", "NTC", n_pairs=5, seed=2)
    pd.testing.assert_frame_equal(table, again)


def test_network_without_perturbed_sources(adata) -> None:
    row = evaluate_interventions(pd.DataFrame({"source": ["G"], "target": ["H"]}), adata, "treatment", "NTC").iloc[0]
    assert row["n_edges"] == 0 and np.isnan(row["mean_wasserstein"]) and row["n_omitted"] == 14


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"control": "none"}, ValueError, "No cell has control='none'"),
        ({"perturbation_key": "drug"}, KeyError, "drug"),
        ({"categorical_covariate_keys": ["donor"]}, KeyError, "donor"),
        ({"layer": "none"}, KeyError, "Layer 'none' not found"),
        ({"min_cells": 1000}, ValueError, "min_cells=1000"),
    ],
)
def test_bad_input(adata, net, options, error, match) -> None:
    with pytest.raises(error, match=match):
        evaluate_interventions(net, adata, **{"perturbation_key": "treatment", "control": "NTC", **options})
