"""The most correlated pairs against a correlation of each pair by itself."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from scipy.stats import pearsonr

import scgraphvci as sgv
from scgraphvci.grn import _top_correlated as module
from scgraphvci.grn import top_correlated

GENES = list("ABCDEFGHI")
CONSTANT = "H"


@pytest.fixture(scope="module")
def adata() -> ad.AnnData:
    rng = np.random.default_rng(0)
    obs = pd.DataFrame({"type": rng.choice(["u", "v"], 150), "split": rng.choice(["train", "test", "ood"], 150)})
    obs.index = obs.index.astype(str)
    values = rng.normal(size=(150, 9)) @ rng.normal(size=(9, 9)) + 3.0 * (obs["type"] == "u").to_numpy()[:, None]
    values[:, GENES.index(CONSTANT)] = 1.5
    return ad.AnnData(values.astype(np.float32), obs=obs, var=pd.DataFrame(index=GENES))


def naive(adata: ad.AnnData, regulators: list[str], k: int, split: str | None) -> list[tuple[str, str, float]]:
    frame = adata.to_df().astype(float)
    chosen = adata.obs["split"] == split if split else pd.Series(True, index=frame.index)
    frame = frame[chosen]
    frame = frame - frame.groupby(adata.obs["type"][chosen]).transform("mean")
    out = []
    for target in GENES:
        pairs = [
            (source, target, abs(pearsonr(frame[source], frame[target])[0]))
            for source in regulators
            if source != target and CONSTANT not in (source, target)
        ]
        out += sorted(pairs, key=lambda pair: -pair[2])[:k]
    return out


@pytest.mark.parametrize("block", [2, 4, 1024])
@pytest.mark.parametrize("k", [1, 3, 20])
@pytest.mark.parametrize("regulators", [None, ["E", "A", "H", "C", "elsewhere"]])
def test_equals_naive(adata, block, k, regulators, monkeypatch) -> None:
    monkeypatch.setattr(module, "BLOCK_GENES", block)
    other = ad.AnnData(sparse.csr_matrix(adata.X), obs=adata.obs, var=adata.var)
    found = top_correlated(other, k, regulators, categorical_covariate_keys=["type"], split_key="split")
    expected = naive(adata, GENES if regulators is None else regulators[:-1], k, "train")
    assert found[["source", "target"]].to_records(index=False).tolist() == [pair[:2] for pair in expected]
    np.testing.assert_allclose(found["weight"], [pair[2] for pair in expected], atol=1e-6)


def test_held_out_cells_do_not_matter(adata) -> None:
    other = adata.copy()
    other.X[(adata.obs["split"] != "train").to_numpy()] = 1e4
    one, two = (top_correlated(data, 3, split_key="split") for data in (adata, other))
    pd.testing.assert_frame_equal(one, two)


def test_no_block_is_larger_than_asked(adata, monkeypatch) -> None:
    monkeypatch.setattr(module, "BLOCK_GENES", 2)
    sizes = []
    standardised = module.Expression.standardised

    def counted(self, genes, **options):
        sizes.append(len(genes))
        return standardised(self, genes, **options)

    monkeypatch.setattr(module.Expression, "standardised", counted)
    top_correlated(adata, 3)
    assert max(sizes) == 2 and len(sizes) == 5 + 25


def test_refinement_takes_it_as_candidates() -> None:
    adata = sgv.datasets.simulate(n_cells=300, n_genes=60, n_perturbations=4, seed=0)
    pairs = top_correlated(adata, 5, split_key="split")
    options = {"split_key": "split", "max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False}
    sgv.tl.refine_grn(adata, threshold=1e-9, model_kwargs={"candidates": pairs}, **options)
    assert adata.uns["grn_refined"]["params"]["candidates"] == f"{len(pairs)} pairs"
    named = set(zip(pairs["source"], pairs["target"], strict=True))
    refined = sgv.grn.get_grn(adata, "grn_refined")
    added = refined[~refined["in_prior"]]
    assert 0 < len(added) and set(zip(added["source"], added["target"], strict=True)) <= named


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"k": 0}, ValueError, "k=0 must be"),
        ({"regulators": ["x"]}, ValueError, "None of the 1 regulators"),
        ({"layer": "x"}, KeyError, "Layer 'x' not found"),
        ({"split_key": "x"}, KeyError, "x"),
    ],
)
def test_errors(adata, options, error, match) -> None:
    with pytest.raises(error, match=match):
        top_correlated(adata, **options)
