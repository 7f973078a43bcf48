"""Error of estimated effects on simulated screens, by size of the arm, beside the best that Eq. 4 can do.

``python benchmarks/effect_error.py`` trains the default model on screens of four sizes and five seeds and writes
``effect_error``. With ``--model "covariate_weight=0.5" --model "epochs=0.25"``, any number of times, every one is a row
of a second table, ``effect_error_variants``, averaged over screens: arguments of `GraphVCI`, and `epochs` as a multiple
of the default. With ``--genes 60 150 250 --cells 4000 --seeds 0 1`` panels of so many genes are compared, in
``effect_error_panels``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import scvi
from _common import keyword_arguments, parser, save_table

import scgraphvci as sgv
from scgraphvci._quiet import quiet_training
from scgraphvci.estimate import EffectSums, Groups, MarginalEffects, marginal_effects
from scgraphvci.train._schedule import default_epochs

STRATA = ["cell_type", "donor"]
SCREEN = {"n_perturbations": 8, "n_donors": 2}
N_GENES = 300
N_POPULATION = 30_000
"""Cells of the same simulation that the true effects are averaged over; its first cells are the screen."""
LARGE = 0.5
"""Natural log fold change from which on an effect is called large."""
SIZES = [0, 20, 60, 160, 10_000]
NOTES = f"""
Effects on log1p expression in strata of cell type and donor ({SCREEN["n_perturbations"]} perturbations), against means
over {N_POPULATION:,} cells. Squared errors are means over genes, treatments and strata, divided by that of `observed`;
`oracle` is Eq. 4 with each cell's true expected expression under the treatment in place of predictions; `robust` has
the default guard against leaks, `states` is `robust` with `leak_guard="states"`, `cross-fit` with `cross_fit=2`,
`unguarded` with `leak_guard=False`; `gap closed` is what an estimator gains on `observed` over what the oracle gains.
Coverage of 95 % intervals is over genes of arms with at least 10 cells; "large" over genes with a true effect above
{LARGE}. Genes whose outcome does not vary in either arm have none.
"""


def main() -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--cells", type=int, nargs="+", default=[800, 2400, 8000, 20000], help="sizes of the screens")
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    options.add_argument("--genes", type=int, nargs="+", help="panels of so many genes, compared with one another")
    options.add_argument("--model", action="append", metavar="KEY=VALUE,...", help="a model of the second table")
    args = options.parse_args()
    variants = {text: keyword_arguments(text) for text in args.model or [""]}
    runs = pd.concat(frame for name, kwargs in variants.items() for frame in run(name, kwargs, args))
    if args.genes:
        notes = f"{NOTES}Screens of {args.cells} cells, seeds {args.seeds}."
        save_table(summarise(runs, "genes"), "Effects in panels", args.out, "effect_error_panels", notes)
        return
    sizes = ", ".join(f"{n:,}" for n in args.cells)
    seeds = f"{N_GENES} genes, screens of {sizes} cells, seeds {', '.join(map(str, args.seeds))}."
    if args.model:
        title = "Leak and error of estimated effects, by model"
        save_table(summarise(runs, "model"), title, args.out, "effect_error_variants", NOTES + seeds)
        return
    runs["treated cells"] = pd.cut(runs["n_treated"], SIZES).map(lambda size: f"{size.left + 1}-{size.right}")
    save_table(
        summarise(runs, "treated cells"), "Error of estimated effects, by size of the arm", args.out, "effect_error",
        NOTES + seeds,
    )  # fmt: skip


def run(name: str, kwargs: dict[str, Any], args: argparse.Namespace) -> Iterator[pd.DataFrame]:
    """Train a model on every screen; a row for each treatment and stratum."""
    for n_genes, n_cells, seed in product(args.genes or [N_GENES], args.cells, args.seeds):
        screen = {"n_genes": n_genes, "seed": seed, **SCREEN}
        adata = sgv.datasets.simulate(n_cells=n_cells, **screen)
        population = sgv.datasets.truth(sgv.datasets.simulate(n_cells=N_POPULATION, **screen))
        with quiet_training(seed):
            sgv.GraphVCI.setup_anndata(adata, categorical_covariate_keys=STRATA, split_key="split", grn_key="grn")
            settings = dict(kwargs)
            times = settings.pop("epochs", None)
            model = sgv.GraphVCI(adata, **settings)
            epochs = args.epochs if times is None else _epochs(adata, times)
            model.train(max_epochs=epochs, accelerator="cpu", enable_progress_bar=False)
        frame = compare(model, adata, population, cross_fit=bool(args.genes))
        yield frame.assign(model=name or "default", genes=n_genes, cells=n_cells, seed=seed)


def compare(model: sgv.GraphVCI, adata: Any, population: Any, *, cross_fit: bool = False) -> pd.DataFrame:
    """Squared errors and coverage of every estimator, averaged over genes, for each treatment and stratum."""
    effects = {
        "robust": model.marginal_effect(keep_influence=False),
        "states": model.marginal_effect(keep_influence=False, leak_guard="states"),
        "unguarded": model.marginal_effect(keep_influence=False, leak_guard=False),
        "observed": model.marginal_effect(estimator="observed", keep_influence=False),
        "plugin": model.marginal_effect(estimator="plugin", keep_influence=False),
    }
    if cross_fit:
        effects["cross-fit"] = model.marginal_effect(keep_influence=False, cross_fit=2)
    like = effects["robust"]
    effects["oracle"] = oracle(adata, like)
    truth = np.stack([population.effect(t, groupby=STRATA).loc[_rows(like)].to_numpy() for t in like.treatments])
    large = np.abs(truth) > LARGE
    columns = {}
    for name, one in effects.items():
        columns[name] = ((one.estimate - truth) ** 2).mean(axis=2)
        if name != "plugin":
            known = np.isfinite(one.std_error)
            inside = (one.ci_low <= truth) & (truth <= one.ci_high) & known
            with np.errstate(invalid="ignore"):
                columns[f"{name} cover"] = inside.sum(axis=2) / known.sum(axis=2)
            columns[f"{name} large"] = (inside & large).sum(axis=2)
            columns["n_large"] = (known & large).sum(axis=2)
    columns["n_treated"] = like.n_treated
    for name in ("robust", "states"):
        columns[f"{name} flagged"] = (effects[name].status == "leak_detected").astype(np.float64)
    columns["arm variance"] = np.full(like.n_treated.shape, like.params["arm_variance"])
    frame = pd.DataFrame({name: values.ravel() for name, values in columns.items()})
    return frame[(like.n_treated > 0).ravel() & (like.n_reference > 0).ravel()]


def oracle(adata: Any, like: MarginalEffects) -> MarginalEffects:
    """Eq. 4 on the same cells, with true expected expression in place of predictions."""
    truth = sgv.datasets.truth(adata)
    used = np.flatnonzero(adata.obs["split"].to_numpy() != "ood")
    obs = adata.obs.iloc[used]
    rows = _rows(like)
    stratum = pd.MultiIndex.from_frame(obs[STRATA].astype(str)).map({row: i for i, row in enumerate(rows)}).to_numpy()
    groups, group = Groups.from_codes(stratum, n_strata=len(rows), n_blocks=0)
    received = obs["perturbation"].astype(str).to_numpy()
    outcome = adata[used].X.toarray()
    control = truth.counterfactual_mean("control", used)
    sums = []
    for treatment in like.treatments:
        one = EffectSums(groups, adata.n_vars)
        predicted = truth.counterfactual_mean(treatment, used)
        one.update(outcome, predicted, control, received == treatment, received == "control", group)
        sums.append((treatment, one))
    return marginal_effects(sums, strata=like.strata, genes=like.genes)


def summarise(runs: pd.DataFrame, by: str) -> pd.DataFrame:
    """Ratios of mean squared errors to that of `observed`, and mean coverage."""
    with_errors = [one for one in ("robust", "states", "cross-fit", "unguarded", "oracle") if one in runs]
    estimators = [*with_errors, "plugin"]
    rows = {}
    for name, part in runs.groupby(by, sort=False, observed=True):
        error = part[["observed", *estimators]].mean()
        row = {"arms": len(part), **{f"{one} / observed": error[one] / error["observed"] for one in estimators}}
        row["gap closed"] = (error["observed"] - error["robust"]) / (error["observed"] - error["oracle"])
        per_seed = part.groupby("seed")[["observed", "robust", "oracle"]].mean()
        gain = (per_seed["observed"] - per_seed["robust"]) / (per_seed["observed"] - per_seed["oracle"])
        row["gap closed sd"] = gain.std()
        for one in ("robust", "states"):
            unflagged = part[part[f"{one} flagged"] == 0]
            row[f"{one} / observed, ok"] = unflagged[one].mean() / unflagged["observed"].mean()
        row["gap closed, states"] = (error["observed"] - error["states"]) / (error["observed"] - error["oracle"])
        for one in ("observed", *with_errors):
            row[f"{one} covers"] = part[f"{one} cover"].mean()
        for one in ("observed", *with_errors):
            row[f"{one} covers, large"] = part[f"{one} large"].sum() / max(part["n_large"].sum(), 1)
        row |= {f"{one} leak_detected": part[f"{one} flagged"].mean() for one in ("robust", "states")}
        row |= {"arm variance": part["arm variance"].mean()}
        rows[name] = row
    return pd.DataFrame(rows).T.rename_axis(by)


def _epochs(adata: Any, times: float) -> int:
    """Return a multiple of the default number of epochs."""
    return max(1, round(times * default_epochs(int((adata.obs["split"] == "train").sum()), scvi.settings.batch_size)))


def _rows(effects: MarginalEffects) -> list[tuple[str, ...]]:
    return [tuple(row) for row in effects.strata[STRATA].astype(str).itertuples(index=False)]


if __name__ == "__main__":
    main()
