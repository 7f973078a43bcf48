"""P-values of comparisons in which nothing differs, and of some in which predictions do."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from scgraphvci.estimate import Calibration, EffectSums, Groups, marginal_effects

N_GENES = 1000


def compared(leak: float = 0.0, difference: float = 0.0, n_splits: int = 4) -> Calibration:
    """Random halves of 400 cells in two strata; a `leak` shifts predictions of one half, a `difference` outcomes."""
    rng = np.random.default_rng(0)
    stratum = np.arange(400) % 2
    state = rng.normal(size=(400, N_GENES))
    groups, group = Groups.from_codes(stratum, n_blocks=0)
    made = []
    for split in range(n_splits):
        half = rng.permutation(400) % 2 == 0
        sums = EffectSums(groups, N_GENES)
        predicted = 0.7 * state + leak * half[:, None]
        outcome = state + difference * half[:, None] + 0.5 * rng.normal(size=state.shape)
        sums.update(outcome, predicted, predicted, half, ~half, group)
        made.append((f"split {split}", sums))
    strata, genes = pd.DataFrame({"cell_type": ["B", "T"]}), [f"g{i}" for i in range(N_GENES)]
    return Calibration(
        *(marginal_effects(made, strata=strata, genes=genes, estimator=e) for e in ("robust", "observed"))
    )


def test_uniform_where_nothing_differs():
    calibration = compared()
    summary = calibration.summary()
    assert len(summary) == 2 * 4 * 2
    for _, part in summary.groupby("estimator"):
        assert part["inflation"].mean() == pytest.approx(1.0, abs=0.1)
        assert part["share_significant"].mean() == pytest.approx(0.05, abs=0.02)
    frame = calibration.to_frame()
    assert stats.kstest(frame["p_robust"], "uniform").pvalue > 0.01
    assert stats.kstest(frame["p_observed"], "uniform").pvalue > 0.01


def test_a_leak_inflates_robust_alone_and_a_difference_both():
    leaking = compared(leak=0.3).summary().groupby("estimator")
    assert leaking["inflation"].min()["robust"] > 3
    assert leaking["ks_p_value"].max()["robust"] < 1e-6
    assert leaking["inflation"].mean()["observed"] == pytest.approx(1.0, abs=0.1)
    differing = compared(difference=0.5).summary().groupby("estimator")
    assert (differing["inflation"].min() > 3).all()


def test_summary_equals_a_naive_computation():
    calibration = compared(n_splits=1)
    row = calibration.summary().query("estimator == 'observed' and cell_type == 'T'").iloc[0]
    frame = calibration.to_frame().query("cell_type == 'T'")
    p = frame["p_observed"].to_numpy()
    z = stats.norm.isf(p / 2)
    assert row["inflation"] == pytest.approx(np.median(z**2) / 0.4549, rel=1e-3)
    assert row["share_significant"] == (p <= 0.05).mean()
    # The largest distance between the empirical distribution and the diagonal.
    ordered, steps = np.sort(p), np.arange(N_GENES + 1) / N_GENES
    assert row["ks_statistic"] == pytest.approx(max((steps[1:] - ordered).max(), (ordered - steps[:-1]).max()))
    assert row["n_genes"] == N_GENES
    assert "inflation" in repr(calibration)


def test_rows_without_an_error_have_no_inflation():
    calibration = compared(n_splits=1)
    calibration.robust.std_error[0, 0] = np.nan
    row = calibration.summary().iloc[0]
    assert row["n_genes"] == 0
    assert np.isnan(row["inflation"])
    with pytest.raises(ValueError, match="shapes"):
        Calibration(calibration.robust, calibration.observed.select(strata={"cell_type": "B"}))
