"""Perturbations of real screens that no training cell received, alone and in combinations, against baselines.

Every perturbation is left out once, with all cells that received it, and foretold from the others. Schraivogel et al.
(TAP-seq, 14 perturbations, 13 of them of measured genes) is foretold from target genes; the K562 cells of the
perturbench file (Norman et al., 31 activated genes, combinations of two), whose targets are not among the measured
genes, from descriptors: principal components of what regulates each target in a motif prior.
``python benchmarks/unseen_real.py --help`` lists the options.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from _common import console, motif_prior, parser, real_data, save_table
from _unseen_screens import (
    METRICS,
    N_COMPONENTS,
    Fit,
    Screen,
    baselines,
    described,
    descriptors,
    network,
    ours,
    prepare,
    shift_scores,
    subset,
)
from scipy import sparse
from scipy.stats import binomtest

import scgraphvci as sgv
from scgraphvci.data._unseen_fit import fit_unseen

ALPHA = 0.2
Entrants = Callable[[Screen, pd.DataFrame, int], dict[str, Fit]]
"""Given a screen, a random network and a seed, returns the predictors."""


def schraivogel() -> tuple[Any, pd.DataFrame]:
    """Counts normalised to the median and log-transformed, and the network among the measured genes."""
    adata = ad.read_h5ad(real_data("schraivogel20_k562_72genes.h5ad"))
    total = np.asarray(adata.X.sum(axis=1)).ravel()
    adata.X = (sparse.diags_array(np.median(total) / np.maximum(total, 1)) @ sparse.csr_array(adata.X)).log1p()
    net = pd.read_csv(real_data("collectri_human.tsv.gz"), sep="\t")
    return adata, net[net["source"].isin(adata.var_names) & net["target"].isin(adata.var_names)]


def perturbench() -> tuple[Any, pd.DataFrame]:
    """The K562 cells, and a motif prior of all genes."""
    adata = ad.read_h5ad(real_data("perturbench_devel_500genes.h5ad"))
    return adata[adata.obs["cell_type"] == "K562"].copy(), motif_prior()


def regulated_by(net: pd.DataFrame, names: list[str]) -> np.ndarray:
    """Principal components of what regulates each gene and what it regulates, over all genes of a network."""
    parts = []
    for own, other in (("target", "source"), ("source", "target")):
        mine = net[net[own].isin(names)]
        table = pd.crosstab(mine[own], mine[other]).reindex(names, fill_value=0)
        parts.append(table.to_numpy(dtype=float).clip(max=1))
    both = np.concatenate(parts, axis=1)
    u, singular, _ = np.linalg.svd(both - both.mean(axis=0), full_matrices=False)
    kept = min(N_COMPONENTS, int((singular > 1e-9 * singular[0]).sum()))
    scores = (u * singular)[:, :kept]
    return scores / scores.std(axis=0)


def by_target(screen: Screen, random: pd.DataFrame, seed: int) -> dict[str, Fit]:
    """Predictors that know which gene is targeted."""
    shuffled = np.random.default_rng(seed).permutation(screen.seen.gene)
    return {
        "GraphVCI": ours(screen),
        "GraphVCI, random graph": ours(screen, network(screen.adata, random)),
        "GraphVCI, shuffled targets": ours(screen, gene=shuffled),
        **baselines(screen, descriptors(screen, screen.genes.network)),
    }


def by_descriptors(net: pd.DataFrame, names: list[str]) -> Entrants:
    """Predictors that know descriptors of targets."""

    def entrants(screen: Screen, random: pd.DataFrame, seed: int) -> dict[str, Fit]:
        x = regulated_by(net, names)
        return {
            "GraphVCI": described(screen, x),
            "GraphVCI, random graph": described(screen, regulated_by(random, names)),
            "GraphVCI, shuffled descriptors": described(screen, np.random.default_rng(seed).permutation(x)),
            **baselines(screen, x),
        }

    return entrants


def left_out(adata: Any, covariate: str, net: pd.DataFrame) -> Iterator[tuple[str, Screen, np.ndarray]]:
    """Each perturbation, the screen without cells that received it, and which perturbations are seen there."""
    names = members(adata)
    for name in names:
        holds = np.array([name in level.split("+") for level in adata.obs["perturbation"]])
        screen = prepare(adata[~holds], covariate, net, None, names)
        yield name, screen, np.flatnonzero(np.isfinite(screen.seen.noise))


def members(adata: Any) -> list[str]:
    """Single perturbations."""
    return sorted({name for level in set(adata.obs["perturbation"]) for name in level.split("+")} - {"control"})


def measured(adata: Any, covariate: str, net: pd.DataFrame) -> Screen:
    """Shifts of all treatments, combinations as one."""
    whole = adata.copy()
    whole.obs["perturbation"] = [level.replace("+", "_") for level in adata.obs["perturbation"]]
    screen = prepare(whole, covariate, net, None)
    return screen._replace(names=[name.replace("_", "+") for name in screen.names])


def compare(adata: Any, covariate: str, net: pd.DataFrame, entrants: Entrants, random: pd.DataFrame) -> pd.DataFrame:
    """Foretell every treatment that holds a perturbation left out, and score it against its measured shift."""
    truth, rows = measured(adata, covariate, net), []
    for seed, (name, screen, seen) in enumerate(left_out(adata, covariate, net)):
        predictors = {label: fit(seen) for label, fit in entrants(screen, random, seed).items()}
        predictors["no change"] = lambda t: np.zeros(adata.n_vars)
        for level in truth.names:
            parts = [screen.names.index(member) for member in level.split("+")]
            if name not in level.split("+"):
                continue
            known = [t for t in parts if t in seen]
            kind = "alone" if len(parts) == 1 else f"together, {len(known)} seen"
            for label, predict in predictors.items():
                shifts = [screen.seen.response[t] * screen.scale if t in known else predict(t) for t in parts]
                rows.append((kind, label, level, np.sum(shifts, axis=0)))
    return score(truth, rows)


def intervals(adata: Any, covariate: str, net: pd.DataFrame) -> str:
    """How many measured shifts 80 % intervals of treatments left out hold."""
    truth, inside = measured(adata, covariate, net), []
    for name, screen, seen in left_out(adata, covariate, net):
        model = fit_unseen(subset(screen.seen, seen), screen.genes, screen.scale, log=False)
        t = truth.names.index(name)
        effect = model.predict(truth.seen.gene[t])
        sd = np.hypot(effect.sd, np.sqrt(truth.seen.noise[t]) * screen.scale)
        inside.append(np.abs(effect.shift - truth.effects[t]) <= model.margin(ALPHA) * sd)
    hits, n = int(np.sum(inside)), int(np.size(inside))
    low, high = binomtest(hits, n).proportion_ci()
    return f"80 % intervals hold {hits} of {n} shifts, {hits / n:.3f} [{low:.3f}, {high:.3f}] were they independent."


def score(whole: Screen, rows: list[tuple[str, str, str, np.ndarray]]) -> pd.DataFrame:
    """Mean scores by kind of treatment and predictor, against measured shifts."""
    scored = []
    frame = pd.DataFrame(rows, columns=["treatment", "predictor", "level", "shift"])
    for (kind, label), group in frame.groupby(["treatment", "predictor"], sort=False):
        true = np.stack([whole.effects[whole.names.index(level)] for level in group["level"]])
        guess = np.stack(list(group["shift"]))
        row = {"treatment": kind, "predictor": label, "n": len(group), "1000 mse": 1000 * ((true - guess) ** 2).mean()}
        scored.append(row | shift_scores(whole, true, guess))
    return pd.DataFrame(scored).set_index(["treatment", "predictor"])[["n", *METRICS, "1000 mse"]]


def main() -> None:
    """Run the benchmark."""
    args = parser(__doc__).parse_args()
    warnings.filterwarnings("ignore", message="Singular matrix")  # of kernels of genes without regulators, all alike
    adata, net = schraivogel()
    note = intervals(adata, "sample", net)
    console.print(note)
    table = compare(adata, "sample", net, by_target, sgv.grn.degree_matched_random(net, 0))
    save_table(table, "Unseen treatments of Schraivogel et al.", args.out, "unseen_schraivogel", note)
    adata, net = perturbench()
    entrants, random = by_descriptors(net, members(adata)), sgv.grn.degree_matched_random(net, 0)
    within = net[net["source"].isin(adata.var_names) & net["target"].isin(adata.var_names)]
    table = compare(adata, "cell_type", within, entrants, random)
    save_table(table, "Unseen treatments of the perturbench file", args.out, "perturbench_unseen", "K562 cells.")


if __name__ == "__main__":
    main()
