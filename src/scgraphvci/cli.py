"""The command `scgraphvci`."""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.logging import RichHandler

from scgraphvci import __version__
from scgraphvci._demo import run_demo
from scgraphvci._reproduce import (
    Experiment,
    FigureReport,
    Report,
    UsageError,
    add_options,
    reproduce_fig4,
    reproduce_fig5,
    reproduce_fig6a,
    reproduce_fig6b,
    reproduce_table1,
    reproduce_table2,
    to_experiment,
)

USAGE_ERROR = 2
RESULTS: dict[str, Callable[[Experiment], Report | FigureReport]] = {
    "table1": reproduce_table1,
    "table2": reproduce_table2,
    "fig4": reproduce_fig4,
    "fig5": reproduce_fig5,
    "fig6a": reproduce_fig6a,
    "fig6b": reproduce_fig6b,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    arguments
        Words after the program's name; those of the process if None.

    Returns
    -------
    Exit status: 0, or 2 if the arguments cannot be followed.

    Examples
    --------
    >>> from scgraphvci.cli import main
    >>> main(["demo", "--out", "/dev/null/demo"])
    2
    """
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    return command(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scgraphvci", description=sys.modules["scgraphvci"].__doc__)
    parser.add_argument("--version", action="version", version=f"scgraphvci {__version__}")
    commands = parser.add_subparsers(title="commands", required=True)
    demo = commands.add_parser(
        "demo",
        help="run the whole chain on simulated data",
        description="Simulate a screen whose truth is known, refine its network, train on part of it, predict "
        "treatments in strata where they were held out, and estimate effects. Prints how far all that is from the "
        "truth, and writes figures, tables and an .h5ad file.",
    )
    demo.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write to; made if missing")
    demo.add_argument("--seed", type=int, default=0, help="same seed, same result (default: %(default)s)")
    demo.set_defaults(command=_demo)
    reproduce = commands.add_parser(
        "reproduce",
        help="make a table or figure of the paper on any screen",
        description="Train the models of the paper and score them beside simple baselines on strata where treatments "
        "were held out (table1), compare estimators of average effects while a model trains (table2), draw the network "
        "before and after refinement (fig4) and counterfactuals beside held-out cells (fig5), train with either "
        "network (fig6a), or compare refined edges with true ones (fig6b). Writes csv, markdown, and figures as png.",
    )
    add_options(reproduce)
    reproduce.set_defaults(command=_reproduce)
    return parser


def _demo(options: argparse.Namespace) -> int:
    errors = Console(stderr=True, soft_wrap=True)
    if not 0 <= options.seed < 2**32:
        errors.print(f"scgraphvci demo: --seed must be from 0 to {2**32 - 1}, not {options.seed}.", markup=False)
        return USAGE_ERROR
    problem = _not_writable(options.out)
    if problem:
        errors.print(f"scgraphvci demo: cannot write to --out {options.out}: {problem}.", markup=False)
        return USAGE_ERROR
    run_demo(options.out, options.seed, Console())
    return 0


def _reproduce(options: argparse.Namespace) -> int:
    errors = Console(stderr=True, soft_wrap=True)
    try:
        experiment = to_experiment(options)
        experiment.check()
    except (KeyError, ValueError, OSError) as error:
        reason = error.args[0] if isinstance(error, KeyError) else error
        errors.print(f"scgraphvci reproduce: {reason}", markup=False)
        return USAGE_ERROR
    problem = _not_writable(options.out)
    if problem:
        errors.print(f"scgraphvci reproduce: cannot write to --out {options.out}: {problem}.", markup=False)
        return USAGE_ERROR
    try:
        with _progress(Console(stderr=True)):
            report = RESULTS[options.result](experiment)
    except UsageError as error:
        errors.print(f"scgraphvci reproduce: {error}", markup=False)
        return USAGE_ERROR
    console = Console()
    report.print(console)
    for path in report.write(options.out, options.result):
        console.print(f"Wrote {path}", markup=False, highlight=False)
    return 0


@contextmanager
def _progress(console: Console) -> Iterator[None]:
    """Show what the package logs; the logger is put back."""
    logger = logging.getLogger("scgraphvci")
    handler, level = RichHandler(console=console, show_path=False), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False  # else scvi-tools' handler shows everything once more
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = True


def _not_writable(folder: Path) -> str | None:
    """Make a folder and say why nothing can be written there, before minutes are spent on what to write."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return error.strerror or str(error)


if __name__ == "__main__":
    sys.exit(main())
