"""Error and coverage of estimated effects on real screens, against the cells left out.

From every arm of Kang 2018 and Schraivogel 2020 few cells are drawn, the default model is trained on these, and the
effects it estimates are compared with the observed effects of all other cells. Needs the folder named by
SCGRAPHVCI_REAL_DATA. ``python benchmarks/left_out_cells.py`` writes ``left_out_cells_kang`` and
``left_out_cells_schraivogel``.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from _common import parser, real_data, save_table
from scipy import stats

import scgraphvci as sgv
from scgraphvci._quiet import quiet_training
from scgraphvci._reproduce import RECIPES
from scgraphvci.estimate import MarginalEffects

FILES = {"kang": "kang18_merged_counts.h5ad", "schraivogel": "schraivogel20_k562_72genes.h5ad"}
CONTROLS = {"kang": 1, "schraivogel": 4}
"""Control cells drawn for each treated cell of an arm."""
FEWEST_LEFT = 40
LARGE, LARGE_IN_ERRORS = 0.3, 4.0
GUARDS: dict[str, dict[str, Any]] = {
    "robust": {"leak_guard": "share"},
    "cross-fit": {"leak_guard": "share", "cross_fit": 2},
    "states": {"leak_guard": "states"},
    "unguarded": {"leak_guard": False},
    "observed": {"estimator": "observed"},
}
NOTES = f"""
Default model without a network. Rows are treatments in strata with all cells drawn that were asked for in the treated
arm and at least as many, and {FEWEST_LEFT}, left out in both. Squared errors are means over genes, less that of the
observed effect in the cells left out, divided by that of `observed`; intervals allow for its error, too. Large effects
are above {LARGE} and {LARGE_IN_ERRORS:g} of its standard errors.
"""


def main() -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--seeds", type=int, nargs="+", default=[3, 4])
    options.add_argument("--cells", type=int, nargs="+", default=[15, 40, 120], help="treated cells of each arm")
    options.add_argument("--data", nargs="+", choices=list(FILES), default=list(FILES))
    args = options.parse_args()
    for name in args.data:
        runs = [measure(name, n_cells, seed, args.epochs) for n_cells, seed in product(args.cells, args.seeds)]
        title = f"Error of estimated effects against the cells left out, {name}"
        notes = f"{NOTES}Seeds: {args.seeds}."
        save_table(summarise(pd.concat(runs)), title, args.out, f"left_out_cells_{name}", notes)


def measure(name: str, n_cells: int, seed: int, epochs: int | None) -> pd.DataFrame:
    """Train on few cells of each arm; a row for each treatment and stratum."""
    recipe = RECIPES[name]
    full = recipe.prepare(ad.read_h5ad(real_data(FILES[name])))
    keys = [*recipe.covariates, recipe.perturbation_key]
    rng = np.random.default_rng(1000 * seed + n_cells)
    drawn = np.zeros(full.n_obs, dtype=bool)
    for arm, cells in full.obs[keys].astype(str).groupby(keys).indices.items():
        wanted = n_cells * (CONTROLS[name] if arm[-1] == recipe.control else 1)
        drawn[rng.choice(cells, min(wanted, len(cells) // 2), replace=False)] = True
    adata, left = full[drawn].copy(), full[~drawn]
    outcome = left.X.toarray().astype(np.float64)
    truth = {arm: outcome[cells] for arm, cells in left.obs[keys].astype(str).groupby(keys).indices.items()}
    with quiet_training(seed):
        setup = {key: value for key, value in recipe.setup.items() if key != "split_key"}
        sgv.GraphVCI.setup_anndata(adata, **setup)
        model = sgv.GraphVCI(adata)
        model.train(max_epochs=epochs, accelerator="cpu", enable_progress_bar=False)
    effects = {guard: model.marginal_effect(keep_influence=False, **kwargs) for guard, kwargs in GUARDS.items()}
    rows = compare(effects, truth, recipe.control, n_cells)
    return pd.DataFrame(rows).assign(cells=n_cells, seed=seed)


def compare(
    effects: dict[str, MarginalEffects], truth: dict[tuple[str, ...], np.ndarray], control: str, n_cells: int
) -> list[dict[str, float]]:
    """Squared errors and coverage of every estimator."""
    rows = []
    like = effects["robust"]
    for i, j in np.ndindex(*like.n_treated.shape):
        stratum = tuple(str(level) for level in like.strata.iloc[j])
        arms = truth.get((*stratum, like.treatments[i])), truth.get((*stratum, control))
        if like.n_treated[i, j] < n_cells or any(arm is None or len(arm) < max(n_cells, FEWEST_LEFT) for arm in arms):
            continue
        effect = arms[0].mean(axis=0) - arms[1].mean(axis=0)
        variance = sum(arm.var(axis=0, ddof=1) / len(arm) for arm in arms)
        df = min(len(arm) for arm in arms) - 1
        large = np.abs(effect) > np.maximum(LARGE, LARGE_IN_ERRORS * np.sqrt(variance))
        row = {"by chance": float(np.mean(variance))}
        for name, one in effects.items():
            known, own = one.std_error[i, j] > 0, one.std_error[i, j] ** 2
            total = own + variance
            both = total**2 / (own**2 / one.df[i, j] + variance**2 / df)
            distance = np.abs(one.estimate[i, j] - effect)
            inside = known & (distance <= stats.t.ppf(0.975, both) * np.sqrt(total))
            row |= {name: float(np.mean(distance**2)), f"{name} cover": inside.sum() / known.sum()}
            row |= {f"{name} large": (inside & large).sum(), "n_large": (known & large).sum()}
        for name in ("robust", "states"):
            row[f"{name} flagged"] = float(effects[name].status[i, j] == "leak_detected")
        rows.append(row)
    return rows


def summarise(runs: pd.DataFrame) -> pd.DataFrame:
    """Ratios of squared errors to that of `observed`, and coverage."""
    rows = {}
    for cells, part in runs.groupby("cells"):
        error = part[[*GUARDS]].mean() - part["by chance"].mean()
        row = {"rows": len(part)} | {f"{one} / observed": error[one] / error["observed"] for one in [*GUARDS][:-1]}
        row |= {f"{one} covers": part[f"{one} cover"].mean() for one in GUARDS}
        row |= {f"{one} covers, large": part[f"{one} large"].sum() / max(part["n_large"].sum(), 1) for one in GUARDS}
        row |= {f"{one} leak_detected": part[f"{one} flagged"].mean() for one in ("robust", "states")}
        rows[cells] = row
    return pd.DataFrame(rows).T.rename_axis("treated cells")


if __name__ == "__main__":
    main()
