"""What coexpression and the network tell of a stratum's responses: the mean model alone, on the simulated screens.

``python benchmarks/propagation.py --help`` lists the options. The mean model is fitted without deviations by cell type
or donor, with those that travel by coexpression, with those that travel along a network (the prior, a random one of its
degrees, the true one), and with both. No neural network is trained. Scores are against noise-free stratum means.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from _common import parser, save_table
from _screen_tables import JUDGED
from screens import COVARIATES, SETTINGS

import scgraphvci as sgv
from scgraphvci.baselines import Baseline
from scgraphvci.data import Network, cell_residuals, stratum_moments
from scgraphvci.data._mean_model import fit_mean_model

SETUP = {"categorical_covariate_keys": COVARIATES, "split_key": "split"}
NETWORKS = {"prior graph": "grn", "random graph": "grn_random", "true graph": "grn_true"}
NOTES = """
Means over held-out conditions, then over seeds. "deviates" is the share of screens in which deviations are used;
"seconds" is the time of the fit, residuals included.
"""


class MeanModelPredictor(Baseline):
    """Predicts the stratum means of the mean model, as GraphVCI does before its first step.

    Parameters
    ----------
    routes
        What deviations travel along, networks or None for coexpression; nothing for no deviations.
    """

    def __init__(self, adata: Any, routes: Sequence[Network | None]) -> None:
        super().__init__(adata, **SETUP)
        codes = self._codes
        where = {"stratum": codes.stratum, "condition": codes.condition}
        train = np.flatnonzero(self._coder.split(adata) == "train")
        levels = codes.strata.astype("category")
        self._strata = levels.apply(lambda column: column.cat.codes).to_numpy(dtype=np.int64)
        design = codes.table.design
        start = time.perf_counter()
        moments = stratum_moments(adata.X, **where, n_strata=len(self._strata), n_conditions=len(design), cells=train)
        residuals = cell_residuals(adata.X, **where, moments=moments, cells=train) if routes else None
        n_levels = [levels[key].cat.categories.size for key in levels]
        self._model = fit_mean_model(moments, design, self._strata, n_levels, residuals, routes, log=False)
        self.seconds = time.perf_counter() - start
        self.deviates = bool(self._model.deviation.shape[0])

    def profile(self, stratum: int, vector: np.ndarray) -> np.ndarray:
        """Return the mean of a stratum under a treatment."""
        where = self._strata[[stratum]]
        return (self._model.level(where) + self._model.response(vector[None], where))[0]


def main() -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    args = options.parse_args()
    runs = pd.concat([run(setting, seed) for setting in args.settings for seed in args.seeds])
    columns = [*JUDGED, "deviates", "seconds"]
    by_setting = runs.groupby(["setting", "predictor"], sort=False)[columns].mean()
    overall = by_setting.groupby("predictor", sort=False).mean()
    overall.index = pd.MultiIndex.from_product([["all"], overall.index], names=by_setting.index.names)
    seeds = f"Seeds {', '.join(map(str, args.seeds))}."
    save_table(pd.concat([by_setting, overall]), "Propagation of responses", args.out, "propagation", NOTES + seeds)


def run(setting: str, seed: int) -> pd.DataFrame:
    """Fit and score all predictors on one screen; one row for each."""
    adata = sgv.datasets.simulate(seed=seed, **SETTINGS[setting])
    sgv.grn.add_grn(adata, sgv.grn.degree_matched_random(sgv.grn.get_grn(adata, "grn"), seed), "grn_random")
    fitted = {"none": MeanModelPredictor(adata, []), "coexpression": MeanModelPredictor(adata, [None])}
    for name, key in NETWORKS.items():
        edges = adata.varp[key].tocoo()
        network = Network(np.stack(edges.coords), edges.data)
        fitted[name] = MeanModelPredictor(adata, [network])
        fitted[f"coexpression and {name}"] = MeanModelPredictor(adata, [None, network])
    predictors = {"context shift": sgv.baselines.ContextShift(adata, **SETUP), **fitted}
    truth = sgv.datasets.truth(adata)
    pairs = sgv.Evaluation(
        predictors, adata, baselines=None, truth=truth, duplicates=False, min_cells=1, seed=seed
    ).pairs()
    scores = pairs.groupby("predictor", sort=False)[JUDGED].mean()
    for column in ("deviates", "seconds"):
        scores[column] = pd.Series({name: float(getattr(model, column)) for name, model in fitted.items()})
    return scores.assign(setting=setting, seed=seed).reset_index()


if __name__ == "__main__":
    main()
