"""Words of the command line, and the experiment they describe."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from scgraphvci._reproduce._experiment import EFFECT_MODELS, MODELS, RANDOM, REFINED, Experiment
from scgraphvci._reproduce._recipes import RECIPES, Recipe, Splits, hold_out_category

SIMULATED = "simulated"
TABLES = ("table1", "table2")
RESULTS = (*TABLES, "fig4", "fig5", "fig6a", "fig6b")
DEFAULT_MODELS = {
    "table1": ("AE", "CEVAE", "GANITE", "CPA", "VCI", "GraphVCI", RANDOM),
    "table2": ("GraphVCI",),
    "fig4": (REFINED,),
    "fig5": ("GraphVCI",),
    "fig6a": ("GraphVCI", REFINED, RANDOM),
    "fig6b": (REFINED,),
}
REPEATED = (*TABLES, "fig6a")  # over seeds
GOES_WITH = {
    "models": (*TABLES, "fig5"),
    "refine": TABLES,
    "seeds": REPEATED,
    "truth": ("fig6b",),
    "regulators": ("fig6b",),
    "treatments": ("fig5",),
    "genes": ("fig5",),
}
N_SEEDS = 5
N_HARDEST = 20


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `scgraphvci reproduce`."""
    parser.add_argument(
        "result", choices=RESULTS,
        help="accuracy on held-out strata; estimators during training; prior beside refined network; counterfactual "
        "beside held-out cells; training with either network; precision and recall of the refined network",
    )  # fmt: skip
    parser.add_argument(
        "--data", required=True, metavar=f"FILE|{SIMULATED}", help="an .h5ad file, or simulated screens"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("results"),
        metavar="DIR",
        help="folder to write to; made if missing (default: %(default)s)",
    )
    parser.add_argument(
        "--preset",
        choices=[name for name in RECIPES if name != SIMULATED],
        help="columns and splits of a known data set",
    )
    parser.add_argument("--grn", type=Path, metavar="FILE", help="network: .csv or .tsv with source, target[, weight]")
    parser.add_argument(
        "--truth", type=Path, metavar="FILE", help="fig6b: true edges, .csv or .tsv with source, target"
    )
    parser.add_argument("--regulators", nargs="+", metavar="GENE", help="fig6b: regulators to draw one by one")
    parser.add_argument("--treatments", nargs="+", metavar="NAME", help="fig5: held-out treatments to draw")
    parser.add_argument("--genes", nargs="+", metavar="GENE", help="fig5: genes to draw")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), metavar="NAME", help=f"of {', '.join(MODELS)}")
    parser.add_argument("--refine", action="store_true", help=f"add {REFINED}: the network refined in each run")
    parser.add_argument("--protocol", choices=("matched", "paper"), default="matched", help="how predictions start")
    parser.add_argument("--seeds", type=int, metavar="N", help=f"number of runs (default: {N_SEEDS})")
    parser.add_argument(
        "--max-epochs", type=int, metavar="N",
        help="epochs of every model (fig4, fig6b: of the refinement); its own default if left out",
    )  # fmt: skip
    parser.add_argument(
        "--fast", action="store_true", help="only try it: one run, one split, two epochs, tiny simulation"
    )
    columns = parser.add_argument_group("columns of obs", "needed without --preset; with it they replace its own")
    columns.add_argument("--perturbation-key", metavar="COLUMN")
    columns.add_argument("--control", metavar="LEVEL")
    columns.add_argument("--covariates", nargs="+", metavar="COLUMN")
    columns.add_argument("--dose-key", metavar="COLUMN")
    columns.add_argument("--combination-sep", metavar="TEXT", help="joins the members of a combination")
    columns.add_argument(
        "--held-out-category",
        nargs="+",
        metavar="COLUMN=LEVEL",
        help="where treatments are held out, such as line=MCF7",
    )
    columns.add_argument(
        "--n-hardest", type=int, metavar="N",
        help=f"treatments to hold out of --held-out-category (default: {N_HARDEST})",
    )  # fmt: skip


def to_experiment(options: argparse.Namespace) -> Experiment:
    """Turn options into an experiment.

    Raises
    ------
    ValueError
        If options are missing, or do not go together.
    """
    for name in ("seeds", "max_epochs"):
        value = getattr(options, name)
        if value is not None and value < 1:
            msg = f"--{name.replace('_', '-')} must be at least 1, not {value}."
            raise ValueError(msg)
    for name, results in GOES_WITH.items():
        if getattr(options, name) and options.result not in results:
            msg = f"--{name} goes with {', '.join(results)}, not with {options.result}."
            raise ValueError(msg)
    if options.result == "fig6b" and options.data != SIMULATED and options.truth is None:
        msg = "fig6b needs --truth FILE, a .csv or .tsv of true edges with columns source, target."
        raise ValueError(msg)
    if options.result != "table1" and options.protocol != "matched":
        msg = f"--protocol {options.protocol} is about predictions of held-out treatments: it goes with table1 only."
        raise ValueError(msg)
    return Experiment(
        recipe=_recipe(options),
        data=None if options.data == SIMULATED else Path(options.data),
        network=options.grn,
        models=_models(options),
        n_seeds=1 if options.fast or options.result not in REPEATED else options.seeds or N_SEEDS,
        max_epochs=options.max_epochs,
        protocol=options.protocol,
        fast=options.fast,
        true_network=options.truth,
        regulators=tuple(options.regulators or ()),
        treatments=tuple(options.treatments or ()),
        genes=tuple(options.genes or ()),
    )


def _models(options: argparse.Namespace) -> tuple[str, ...]:
    """Names of the models to fit."""
    models = tuple(options.models or DEFAULT_MODELS[options.result])
    if options.refine and REFINED not in models:
        models += (REFINED,)
    without = [name for name in models if name not in EFFECT_MODELS]
    if options.result == "table2" and without:
        msg = f"{without} have no marginal effects: table2 takes {', '.join(EFFECT_MODELS)}."
        raise ValueError(msg)
    if options.result == "fig5" and len(models) > 1:
        msg = f"fig5 is drawn for one model, and --models names {len(models)}: {', '.join(models)}."
        raise ValueError(msg)
    return models


def _recipe(options: argparse.Namespace) -> Recipe:
    """The preset with what the options replace, or a recipe made of options."""
    given = {
        "perturbation_key": options.perturbation_key,
        "control": options.control,
        "covariates": None if options.covariates is None else tuple(options.covariates),
        "dose_key": options.dose_key,
        "combination_sep": options.combination_sep,
        "splits": _splits(options),
    }
    given = {name: value for name, value in given.items() if value is not None}
    if options.data == SIMULATED:
        if given or options.preset or options.grn or options.truth:
            msg = (
                "Simulated screens have their own columns, split and networks: leave --preset, --grn, --truth and "
                "columns out."
            )
            raise ValueError(msg)
        return RECIPES[SIMULATED]
    if options.preset:
        return replace(RECIPES[options.preset], **given)
    words = {"perturbation_key", "control", "covariates"} - set(given)
    missing = [f"--{word.replace('_', '-')}" for word in sorted(words)]
    missing += [] if "splits" in given else ["--held-out-category"]
    if missing:
        msg = f"Without --preset, {', '.join(missing)} must be given. Presets: {', '.join(RECIPES)}."
        raise ValueError(msg)
    return Recipe(**given, note=f"{Path(options.data).name}; held out of {', '.join(options.held_out_category)}.")


def _splits(options: argparse.Namespace) -> Splits | None:
    """The split by category that the options ask for, if they do."""
    if not options.held_out_category:
        if options.n_hardest is not None:
            msg = "--n-hardest goes with --held-out-category."
            raise ValueError(msg)
        return None
    category = {}
    for word in options.held_out_category:
        column, equals, level = word.partition("=")
        if not (column and equals and level):
            msg = f"--held-out-category {word!r} must look like COLUMN=LEVEL."
            raise ValueError(msg)
        category[column] = level
    return hold_out_category(category, N_HARDEST if options.n_hardest is None else options.n_hardest)
