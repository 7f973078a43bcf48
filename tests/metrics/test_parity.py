"""Parity with cell-eval and pertpy, where they are installed: ``pip install "scgraphvci[parity]"``.

Where definitions differ on purpose, the difference is undone here by its closed form, so that it is tested too.
"""

from __future__ import annotations

import numpy as np
import pytest
from anndata import AnnData

from scgraphvci.metrics import (
    centroid_accuracy,
    de_recovery,
    discrimination_score,
    energy_distance,
    mae,
    median_distance,
    mmd,
    mse,
    pearson_shift,
    r2,
)

TREATMENTS = [f"gene{i}" for i in range(9)]  # each targets the gene of its name
GENES = [f"gene{i}" for i in range(40)]
N_CELLS = 12
TOLERANCE = {"rel": 1e-6, "abs": 1e-6}


@pytest.fixture(scope="module")
def screen():
    """True and predicted cells by treatment; both sides have the control cells of the truth."""
    rng = np.random.default_rng(0)
    center = {name: rng.normal(1, 0.6, len(GENES)) for name in ["control", *TREATMENTS]}
    true = {name: mean + rng.normal(0, 1, (N_CELLS, len(GENES))) for name, mean in center.items()}
    wrong = {name: center[name] + rng.normal(0, 3, len(GENES)) for name in TREATMENTS}
    predicted = {name: mean + rng.normal(0, 1, (N_CELLS + 4, len(GENES))) for name, mean in wrong.items()}
    return true, {"control": true["control"], **predicted}


@pytest.fixture(scope="module")
def means(screen):
    true, predicted = ({name: cells.mean(axis=0) for name, cells in side.items()} for side in screen)
    return true, predicted


@pytest.fixture(scope="module")
def shifts(means):
    return [np.stack([side[name] - means[0]["control"] for name in TREATMENTS]) for side in means]


def screen_of(cells):
    adata = AnnData(np.concatenate(list(cells.values())))
    adata.var_names = GENES
    adata.obs["treatment"] = np.repeat(list(cells), [len(part) for part in cells.values()])
    return adata


@pytest.fixture(scope="module")
def pair(screen):
    types = pytest.importorskip("cell_eval._types")
    true, predicted = map(screen_of, screen)
    return types.PerturbationAnndataPair(real=true, pred=predicted, pert_col="treatment", control_pert="control")


@pytest.fixture(scope="module")
def cell_eval():
    return pytest.importorskip("cell_eval.metrics")


def test_errors_and_pearson_of_the_shift(pair, cell_eval, means):
    true, predicted = means
    reference = {"pearson_delta": lambda t: pearson_shift(true[t], predicted[t], true["control"])}
    reference |= {name: lambda t: mse(true[t], predicted[t]) for name in ("mse", "mse_delta")}
    reference |= {name: lambda t: mae(true[t], predicted[t]) for name in ("mae", "mae_delta")}
    for name, ours in reference.items():
        theirs = getattr(cell_eval, name)(pair)
        assert {t: ours(t) for t in TREATMENTS} == pytest.approx(theirs, **TOLERANCE), name


@pytest.mark.parametrize("metric", ["l1", "l2", "cosine"])
def test_discrimination_score(pair, cell_eval, shifts, metric):
    theirs = cell_eval.discrimination_score(pair, metric=metric, exclude_target_gene=False)
    ours = discrimination_score(*shifts, metric)
    assert len(set(ours)) > 2  # good and bad predictions
    assert dict(zip(TREATMENTS, ours, strict=True)) == pytest.approx(theirs, **TOLERANCE)
    theirs = cell_eval.discrimination_score(pair, metric=metric)  # as in the challenge, without the target
    ours = discrimination_score(*shifts, metric, target_genes=np.arange(len(TREATMENTS)))
    assert dict(zip(TREATMENTS, ours, strict=True)) == pytest.approx(theirs, **TOLERANCE)


def test_centroid_accuracy_is_the_rank_without_the_own_centroid(pair, cell_eval, means, shifts):
    n = len(TREATMENTS)
    theirs = cell_eval.discrimination_score(pair, metric="l2", exclude_target_gene=False)
    ours = centroid_accuracy(*(np.stack([side[name] for name in TREATMENTS]) for side in means))
    assert ours == pytest.approx([(n * theirs[name] - 1) / (n - 1) for name in TREATMENTS], **TOLERANCE)


def comparison(shifts, significant, predicted_fdr):
    polars = pytest.importorskip("polars")
    types = pytest.importorskip("cell_eval._types")
    shape = len(TREATMENTS), len(GENES)
    index = {"target": np.repeat(TREATMENTS, len(GENES)), "feature": np.tile(GENES, len(TREATMENTS))}
    true, predicted = (
        polars.DataFrame(
            {
                **index,
                "log2_fold_change": shift.ravel(),
                "p_value": np.zeros(shape).ravel(),
                "fdr": np.broadcast_to(fdr, shape).ravel(),
            }
        )
        for shift, fdr in zip(shifts, (np.where(significant, 0.01, 1.0), predicted_fdr), strict=True)
    )
    return types.initialize_de_comparison(true, predicted)


def test_recovery_of_significant_genes(cell_eval, shifts):
    true, predicted = shifts
    significant = np.abs(true) > 0.7
    ours = [de_recovery(*parts) for parts in zip(true, predicted, significant, strict=True)]
    # Every predicted gene is called significant: which ones are is no matter of the mean shift.
    called = comparison(shifts, significant, 0.0)
    # Predicted p-values that order genes as the size of their shift does.
    ordered = comparison(shifts, significant, 10.0 ** -(9 * np.abs(predicted) / np.abs(predicted).max()))
    theirs = {
        "overlap": cell_eval.de_overlap_metric(called, k=None),
        "direction": cell_eval.DEDirectionMatch()(called),
        "spearman": cell_eval.DESpearmanLFC()(called),
        "auprc": cell_eval.compute_pr_auc(ordered),
    }
    for name, values in theirs.items():
        expected = [values[treatment] for treatment in TREATMENTS]
        assert [getattr(found, name) for found in ours] == pytest.approx(expected, **TOLERANCE), name


@pytest.fixture(scope="module")
def distance():
    return pytest.importorskip("pertpy.tools").Distance


@pytest.fixture(scope="module")
def cells(screen):
    true, predicted = screen
    return true[TREATMENTS[0]], predicted[TREATMENTS[0]]


def test_distances_of_means(distance, cells):
    means = [side.mean(axis=0) for side in cells]
    ours = {
        "mse": mse(*means),
        "mean_absolute_error": mae(*means),
        "r2_distance": 1 - r2(*means),
        "pearson_distance": 1 - pearson_shift(*means, np.zeros(len(GENES))),
    }
    theirs = {name: float(distance(name)(*cells)) for name in ours}
    assert ours == pytest.approx(theirs, **TOLERANCE)


def test_energy_distance_less_the_pairs_of_a_cell_with_itself(distance, cells):
    within = [float(distance("mean_pairwise")(side, side)) for side in cells]  # with those pairs
    excess = sum(mean / (len(side) - 1) for mean, side in zip(within, cells, strict=True))
    assert energy_distance(*cells) == pytest.approx(distance("edistance")(*cells) - excess, **TOLERANCE)


def test_mmd_less_the_pairs_of_a_cell_with_itself(distance, cells):
    width = median_distance(cells[0])
    metric = distance("mmd").metric_fct
    kernel = {"kernel": "rbf", "gamma": 1 / (2 * width**2)}
    within = [metric.compute_within_distance(side, **kernel) for side in cells]
    excess = sum((1 - mean) / (len(side) - 1) for mean, side in zip(within, cells, strict=True))
    theirs = distance("mmd")(*cells, **kernel)
    assert mmd(*cells, bandwidth=width) == pytest.approx(theirs - excess, **TOLERANCE)
