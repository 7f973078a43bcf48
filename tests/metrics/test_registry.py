from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from scgraphvci import metrics
from scgraphvci.metrics import METRICS

PAGE = Path(__file__).parents[2] / "docs" / "api" / "metrics.md"
N, N_GENES = 10, 40  # treatments of a simulated stratum, and genes


class Stratum:
    """A stratum with `N` treatments, whose true effects are a shared response and a specific one."""

    def __init__(self, rng):
        self.control = rng.normal(2, 1, N_GENES)
        self.true = self.control + rng.normal(0, 0.5, N_GENES) + rng.normal(0, 0.5, (N, N_GENES))
        self.perturbed = self.true.mean(axis=0)
        self.weights = metrics.signal_weights(self.true[0] - self.perturbed)
        self.significant = np.abs(self.true[0] - self.control) > 0.8
        self.cells = self.true[0] + rng.normal(0, 1, (30, N_GENES))

    def score(self, name, predicted, cells):
        """Score of predicted means of all treatments, or of predicted cells, of the first treatment."""
        true, guess, shift = self.true[0], predicted[0], predicted[0] - self.control
        shifts = self.true - self.control, predicted - self.control
        if name.startswith("de_"):
            found = metrics.de_recovery(true - self.control, shift, self.significant)
            return getattr(found, name.removeprefix("de_"))
        calls = {
            "pearson_perturbed": lambda f: f(true, guess, self.perturbed),
            "pearson_shift": lambda f: f(true, guess, self.control),
            "weighted_r2": lambda f: f(true, guess, self.perturbed, self.weights),
            "weighted_mse": lambda f: f(true, guess, self.weights),
            "centroid_accuracy": lambda f: f(self.true, predicted)[0],
            "energy_distance": lambda f: f(self.cells, cells),
            "mmd": lambda f: f(self.cells, cells),
            "interval_coverage": lambda f: f(true, guess - 1, guess + 1).coverage,
            "variance_ratio": lambda f: f(self.cells, cells),
            "mean_pairwise_correlation": lambda f: f(shifts[1]),
            **{f"discrimination_{d}": lambda f, d=d: f(*shifts, d)[0] for d in ("l1", "l2", "cosine")},
            **dict.fromkeys(("r2", "r2_de", "mse", "mae"), lambda f: f(true, guess)),
        }
        return calls[name](METRICS[name].function)


def perfect(rng):
    stratum = Stratum(rng)
    return stratum, stratum.true, stratum.true[0] + rng.normal(0, 1, (30, N_GENES))


def ignorant(rng):
    """Profiles that know the stratum, but neither its treatments nor what they share."""
    stratum = Stratum(rng)
    guess = stratum.control + rng.normal(0, 0.7, (N, N_GENES))
    return stratum, guess, stratum.control + rng.normal(0, 1, (30, N_GENES))


def expected_score(name, predictor, n=400):
    rng = np.random.default_rng(7)
    scores = [stratum.score(name, *rest) for stratum, *rest in (predictor(rng) for _ in range(n))]
    return np.mean(scores), np.std(scores) / np.sqrt(n)


# `de_overlap` and `de_auprc` of these effects are perfect too: significance is a threshold on the true shift.
WITH_PERFECT = [name for name, info in METRICS.items() if not np.isnan(info.perfect)]
WITHOUT_INFORMATION = [name for name, info in METRICS.items() if info.no_information is not None]


@pytest.mark.parametrize("name", WITH_PERFECT)
def test_a_perfect_prediction_scores_perfect(name):
    mean, error = expected_score(name, perfect, n=100)
    tolerance = 0.1 if name == "variance_ratio" else 1e-9  # a median of ratios of two random variances
    assert mean == pytest.approx(METRICS[name].perfect, abs=4 * error + tolerance)


@pytest.mark.parametrize("name", WITHOUT_INFORMATION)
def test_a_prediction_without_information_scores_what_is_said(name):
    mean, error = expected_score(name, ignorant)
    expected = METRICS[name].no_information
    if name == "weighted_r2":  # 0 is reached by the reference itself, noise around it costs
        assert mean < expected
        return
    if name.startswith("discrimination"):
        expected += 0.5 / N  # the own rank counts: vanishes with many treatments
    assert mean == pytest.approx(expected, abs=4 * error)


@pytest.mark.parametrize("name", WITH_PERFECT)
def test_directions_hold(name):
    good, bad = expected_score(name, perfect, n=100)[0], expected_score(name, ignorant, n=100)[0]
    if METRICS[name].higher_is_better is not None:
        assert (good > bad) == METRICS[name].higher_is_better


def test_every_metric_is_listed_under_its_name_with_a_public_function():
    assert [info.name for info in METRICS.values()] == list(METRICS)
    for info in METRICS.values():
        assert getattr(metrics, info.function.__name__) is info.function
    roles = [info.role for info in METRICS.values()]
    assert roles == sorted(roles, key=["primary", "parity", "monitor"].index)


def test_the_register_cannot_be_changed():
    with pytest.raises(TypeError):
        METRICS["r2"] = METRICS["mse"]
    with pytest.raises(AttributeError):
        METRICS["r2"].perfect = 0


def cells_of(info):
    """What the table of the documentation says of a metric."""
    direction = {True: "higher", False: "lower", None: "at its best value"}[info.higher_is_better]
    best = "" if np.isnan(info.perfect) else f"{info.perfect:g}"
    ignorant = "baselines tell" if info.no_information is None else f"{info.no_information:g}"
    return [f"`{info.name}`", info.role, info.formula, direction, best, ignorant]


def test_the_table_of_the_documentation_is_the_register():
    rows = re.findall(
        r"^\| (`\w+` \| (?:primary|parity|monitor) .*) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE
    )
    table = [[cell.strip().replace(r"\|", "|") for cell in row.split(" | ")] for row in rows]
    assert table == [cells_of(info) for info in METRICS.values()]
