"""How often intervals and bands of marginal effects hold the truth, and what a leak does to them.

``python benchmarks/interval_coverage.py`` writes four tables to ``benchmarks/results``. All data are simulated here,
all predictions are made here: no model is trained. Replicates are strata of one call of `marginal_effects`, a batch of
them at a time. 50 genes share 5 factors.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from _common import save_table
from scipy.spatial import cKDTree

from scgraphvci.estimate import EffectSums, Groups, MarginalEffects, marginal_effects
from scgraphvci.model._folds import assign_folds

N_GENES = 50
N_FACTORS = 5
NOISE = 0.5
CELLS_AT_ONCE = 40_000
DONORS = [(50,) * 3, (50,) * 6, (50,) * 12, (10,) * 3 + (100,) * 3, (5,) * 6 + (60,) * 6]
"""Cells of every donor, by design."""


@dataclass(frozen=True)
class Setting:
    """One row of a table.

    Parameters
    ----------
    n_cells
        Cells of a replicate, half of the genes with an effect.
    share
        Share of them treated.
    counts
        Negative binomial instead of normal outcomes, means of genes from .2 to 20.
    donors
        Cells of every donor, among which the arms are balanced; none for independent cells.
    icc
        Variance between donors over all variance, once for the level of a gene and once more for its effect.
    leak
        Share of the effect of the treatment received that is in a cell's predictions.
    """

    n_cells: int = 2000
    share: float = 0.3
    counts: bool = False
    donors: tuple[int, ...] = ()
    icc: float = 0.0
    leak: float = 0.0


def genes() -> tuple[np.ndarray, np.ndarray]:
    """Loadings on factors ``(n_factors, n_genes)`` and effects of half of the genes ``(n_genes,)``, always the same."""
    rng = np.random.default_rng(0)
    loading = 0.4 * rng.normal(size=(N_FACTORS, N_GENES))
    return loading, np.where(np.arange(N_GENES) % 2 == 0, rng.normal(size=N_GENES), 0.0)


def simulate(
    setting: Setting, n_replicates: int, rng: np.random.Generator
) -> tuple[EffectSums, np.ndarray, np.ndarray]:
    """Sums of a batch of replicates; true effects and means under the reference, each ``(n_genes,)``."""
    n = setting.n_cells
    replicate = np.repeat(np.arange(n_replicates), n)
    order = np.argsort(rng.random((n_replicates, n)), axis=1)
    treated = (order < round(setting.share * n)).ravel()
    loading, effect = genes()
    state = rng.normal(size=(n * n_replicates, N_FACTORS)) @ loading + rng.normal(size=(n * n_replicates, N_GENES))
    donor, cluster = None, None
    deviation = np.zeros(N_GENES)
    if setting.donors:
        sizes = np.array(setting.donors)
        donor = np.tile(np.repeat(np.arange(len(sizes)), sizes), n_replicates)
        # Arms are drawn within donors: the rank of a cell among the cells of its donor decides.
        by_donor = np.lexsort((rng.random(len(donor)), donor, replicate))
        rank = np.empty(len(donor), dtype=int)
        rank[by_donor] = np.tile(np.concatenate([np.arange(size) for size in sizes]), n_replicates)
        treated = rank < np.rint(setting.share * sizes)[donor]
        cluster = replicate * len(sizes) + donor
        variance = setting.icc / (1 - setting.icc) * (state.var(axis=0) + NOISE**2)
        level, deviation = np.sqrt(variance) * rng.normal(size=(2, n_replicates * len(sizes), N_GENES))
        state += level[cluster]
        deviation = deviation[cluster]
    if setting.counts:
        reference_mean = np.geomspace(0.2, 20, N_GENES)
        log_fold = 0.5 * effect
        spread = 0.3 * state
        predicted_reference = reference_mean * np.exp(spread)
        predicted = predicted_reference * np.exp(log_fold)
        mean = np.where(treated[:, None], predicted, predicted_reference)
        outcome = rng.poisson(mean * rng.gamma(5.0, 1 / 5.0, size=mean.shape)).astype(float)
        sd = 0.3 * np.sqrt((loading**2).sum(axis=0) + 1)
        baseline = reference_mean * np.exp(sd**2 / 2)
        effect = baseline * (np.exp(log_fold) - 1)
    else:
        outcome = state + treated[:, None] * (effect + deviation) + NOISE * rng.normal(size=state.shape)
        predicted_reference = state + setting.leak * treated[:, None] * effect
        predicted = predicted_reference + effect
        baseline = np.zeros(N_GENES)
    groups, group = Groups.from_codes(replicate, donor, seed=int(rng.integers(2**31)))
    sums = EffectSums(groups, N_GENES)
    sums.update(outcome, predicted, predicted_reference, treated, ~treated, group)
    return sums, effect, baseline


def batches(
    setting: Setting, n_replicates: int, estimator: str, **options: float
) -> Iterator[tuple[MarginalEffects, np.ndarray, np.ndarray]]:
    """Effects of batches of replicates, with true effects and means under the reference."""
    rng = np.random.default_rng([setting.n_cells, round(100 * setting.share), len(setting.donors)])
    size = max(1, min(n_replicates, CELLS_AT_ONCE // setting.n_cells))
    for start in range(0, n_replicates, size):
        n_here = min(size, n_replicates - start)
        sums, effect, baseline = simulate(setting, n_here, rng)
        strata, names = pd.DataFrame({"replicate": range(n_here)}), [f"g{g}" for g in range(N_GENES)]
        yield (
            marginal_effects([("a", sums)], strata=strata, genes=names, estimator=estimator, **options),
            effect,
            baseline,
        )


def coverage(setting: Setting, n_replicates: int, estimator: str) -> dict[str, float]:
    """Coverage of pointwise intervals and joint bands, with its Monte-Carlo error.

    For counts: of the genes that have intervals with ``min_counts=100``, and of all genes without that bound.
    """
    least = {"min_counts": 100.0} if setting.counts else {}
    row = _coverage(setting, n_replicates, estimator, **least)
    if setting.counts:
        every = _coverage(setting, n_replicates, estimator)
        row |= {"pointwise_all": every["pointwise"], "joint_all": every["joint"]}
    return row


def _coverage(setting: Setting, n_replicates: int, estimator: str, **options: float) -> dict[str, float]:
    covered, joint, known, methods = [], [], [], []
    for effects, truth, _ in batches(setting, n_replicates, estimator, **options):
        known.append(effects.std_error[0] > 0)
        covered.append((effects.ci_low[0] <= truth) & (truth <= effects.ci_high[0]))
        low, high, method = effects.joint_bands()
        methods += list(method[0][known[-1].any(axis=1)])
        joint.append((((low[0] <= truth) & (truth <= high[0])) | ~known[-1]).all(axis=1)[known[-1].any(axis=1)])
    if not methods:
        unknown = dict.fromkeys(["pointwise", "pointwise_mc", "joint", "joint_mc"], np.nan)
        return {"genes": 0.0, **unknown, "bands": "none"}
    tested, inside, together = np.concatenate(known), np.concatenate(covered), np.concatenate(joint)
    by_replicate = (inside & tested).sum(axis=1)[tested.any(axis=1)] / tested.sum(axis=1)[tested.any(axis=1)]
    return {
        "genes": tested.sum(axis=1).mean(),
        "pointwise": (inside & tested).sum() / tested.sum(),
        "pointwise_mc": by_replicate.std() / np.sqrt(len(by_replicate)),
        "joint": together.mean(),
        "joint_mc": np.sqrt(together.var() / len(together)),
        "bands": pd.Series(methods).mode().iloc[0],
    }


def leak_row(setting: Setting, n_replicates: int) -> dict[str, float]:
    """What a leak does to `robust`, and what the reports say of it."""
    rows = []
    for effects, truth, _ in batches(setting, n_replicates, "robust"):
        hit = truth != 0
        leaks = effects.leaks
        bound = 0.1 * np.abs(effects.plugin)
        error = (effects.robust - truth)[0][:, hit]
        gene_p = effects.leakage().to_frame()["p_value"].to_numpy().reshape(len(effects.strata), -1)[:, hit]
        rows.append(pd.DataFrame({
            "bias_over_effect": (error * np.sign(truth[hit])).sum(axis=1) / np.abs(truth[hit]).sum(),
            "cover": ((effects.ci_low <= truth) & (truth <= effects.ci_high))[0][:, hit].mean(axis=1),
            "cover_max_leak_0.1": (
                (effects.ci_low - bound <= truth) & (truth <= effects.ci_high + bound)
            )[0][:, hit].mean(axis=1),
            "se_over_observed": np.sqrt((error**2).mean(axis=1))
            / np.sqrt((((effects.observed - truth)[0][:, hit]) ** 2).mean(axis=1)),
            "gene_test_rejects": (gene_p <= 0.05).mean(axis=1),
            "leak_detected": leaks.p_value[0] <= 0.05,
            "share_found": leaks.share[0],
            "share_detectable": effects.leakage().summary()["share_detectable"],
        }))  # fmt: skip
    found = pd.concat(rows).rename(columns={"se_over_observed": "rmse_over_observed"})
    return found.astype(float).mean().to_dict()


def memorising(n_folds: int, n_replicates: int, n_cells: int = 400) -> dict[str, float]:
    """What `robust` is worth with a predictor that memorises: the outcome of the nearest cell of an arm.

    Nearness is in two covariates that know nothing of the treatment, so nothing leaks. A cell of the arm is nearest to
    itself, unless folds (0 for none) keep it from its own predictor.
    """
    rng, strata = np.random.default_rng(n_folds), pd.DataFrame({"replicate": range(n_replicates)})
    stratum = np.repeat(np.arange(n_replicates), n_cells)
    treated = np.tile(np.arange(n_cells) % 10 < 3, n_replicates)
    covariate = rng.normal(size=(len(stratum), 2))
    outcome = covariate @ rng.normal(size=(2, N_GENES)) + treated[:, None] + rng.normal(size=(len(stratum), N_GENES))
    fold = assign_folds(n_folds, stratum, treated, None, seed=0) if n_folds else np.zeros(len(stratum), dtype=int)
    predicted = np.empty((2, *outcome.shape))
    for x, k in np.ndindex(n_replicates, max(n_folds, 1)):
        here = (stratum == x).nonzero()[0]
        mine = here[fold[here] == k]
        seen = here[fold[here] != k] if n_folds else here
        for arm in (0, 1):
            of_arm = seen[treated[seen] == arm]
            nearest = cKDTree(covariate[of_arm]).query(covariate[mine])[1]
            predicted[arm, mine] = outcome[of_arm[nearest]]
    groups, group = Groups.from_codes(stratum, seed=1)
    sums = EffectSums(groups, N_GENES)
    sums.update(outcome, predicted[1], predicted[0], treated, ~treated, group)
    effects = marginal_effects([("a", sums)], strata=strata, genes=range(N_GENES), keep_influence=True)
    inside = ((effects.ci_low <= 1) & (effects.ci_high >= 1))[0]
    low, high, _ = effects.joint_bands()
    return {
        "pointwise": inside.mean(),
        "pointwise_mc": inside.mean(axis=1).std() / np.sqrt(n_replicates),
        "joint": ((low <= 1) & (high >= 1))[0].all(axis=1).mean(),
        "error_stated_over_true": np.sqrt((effects.std_error**2).mean() / ((effects.robust - 1) ** 2).mean()),
        "p_fitted_below_.05": (effects.leakage().summary()["p_fitted"] <= 0.05).mean(),
    }


def run(out: Path, n_replicates: int) -> None:
    """Write the tables."""
    note = f"{n_replicates} replicates, {N_GENES} genes with 5 common factors; *_mc is the Monte-Carlo error."
    rows = []
    for estimator in ("observed", "robust"):
        for counts in (False, True):
            for share in (0.05, 0.3):
                for n_cells in (200, 2000):
                    setting = Setting(n_cells, share, counts)
                    key = {
                        "estimator": estimator,
                        "outcome": "NB" if counts else "normal",
                        "share": share,
                        "n": n_cells,
                    }
                    rows.append(key | coverage(setting, n_replicates, estimator))
    table = pd.DataFrame(rows).set_index(["estimator", "outcome", "share", "n"])
    save_table(table, "Coverage of 95 % intervals, independent cells", out, "coverage_cells", note
               + " `genes` is the number of genes with an interval: for NB those with `min_counts=100`, cells of the "
               "smaller arm times the mean over both arms; the others have the status `too_few_cells`. `*_all` is over "
               "all genes without that bound.")  # fmt: skip

    rows = []
    for estimator in ("observed", "robust"):
        for donors in DONORS:
            cells = " + ".join(f"{donors.count(size)} x {size}" for size in sorted(set(donors)))
            for icc in (0.0, 0.05, 0.2):
                setting = Setting(sum(donors), 0.3, donors=donors, icc=icc)
                key = {"estimator": estimator, "donors x cells": cells, "icc": icc}
                rows.append(key | coverage(setting, n_replicates, estimator))
    table = pd.DataFrame(rows).set_index(["estimator", "donors x cells", "icc"])
    save_table(table, "Coverage of 95 % intervals, donors as clusters", out, "coverage_clusters", note)

    rows = []
    for share in (0.05, 0.3):
        for leak in (0.0, 0.05, 0.1, 0.25, 0.5):
            setting = Setting(2000, share, leak=leak)
            rows.append({"share": share, "leak": leak} | leak_row(setting, n_replicates))
    table = pd.DataFrame(rows).set_index(["share", "leak"])
    save_table(table, "A leak and the robust estimate (2,000 cells, genes with an effect)", out, "coverage_leak", note)

    rows = {"none": memorising(0, n_replicates), "5 folds": memorising(5, n_replicates)}
    table = pd.DataFrame(rows).T.rename_axis("cross-fitting")
    save_table(table, "Coverage of `robust` with a predictor that memorises (400 cells, 30 % treated)", out,
               "coverage_cross_fit", note)  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replicates", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    run(arguments.out, arguments.replicates)
