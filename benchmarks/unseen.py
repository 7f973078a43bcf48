"""Treatments that no training cell received: foretold responses against baselines, on screens with known truth.

``python benchmarks/unseen.py --help`` lists the options. Responses are those of the model of stratum means, which
predictions of unseen treatments start from; ``--model`` trains GraphVCI itself on one fold of every screen. Every
treatment is held out once. ``--coverage N`` measures conformal intervals on N small screens.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
from _common import console, parser, real_data, save_table
from scipy import sparse
from scipy.stats import binomtest
from sklearn.ensemble import RandomForestRegressor
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsRegressor

import scgraphvci as sgv
from scgraphvci.data import Network, cell_residuals, stratum_moments
from scgraphvci.data._mean_model import fit_mean_model
from scgraphvci.data._unseen import Genes, Seen, fit_unseen

SCREEN = {"n_cells": 6000, "n_genes": 400, "n_perturbations": 40, "n_regulators": 50, "n_donors": 1, "n_ood_pairs": 0}
SMALL = {"n_cells": 1500, "n_genes": 60, "n_perturbations": 30, "n_regulators": 30, "n_donors": 1, "n_ood_pairs": 0}
N_FOLDS = 5
N_COMPONENTS = 20
N_TRUTH = 500  # cells that true effects are averaged over
METRICS = ["pearson", "weighted_mse", "weighted_r2", "centroid_accuracy"]
Fit = Callable[[np.ndarray], Callable[[int], np.ndarray]]
"""Given which treatments are seen, returns what foretells the response to one."""


class Truth:
    """True effects averaged over cell types, of a sample of cells."""

    def __init__(self, adata: Any) -> None:
        self._truth = sgv.datasets.truth(adata[:N_TRUTH])
        self._control = self._truth.stratum_mean("control")

    def effect(self, treatment: str) -> np.ndarray:
        """Effect of a treatment, shape ``(n_genes,)``."""
        return (self._truth.stratum_mean(treatment) - self._control).to_numpy().mean(axis=0)


class Screen(NamedTuple):
    """What the predictors see of a screen, and the truth: one row per treatment."""

    adata: Any
    names: list[str]
    seen: Seen
    genes: Genes
    scale: np.ndarray
    truth: Truth | None
    effects: np.ndarray


def load(seed: int, **sizes: Any) -> Screen:
    """Simulate a screen and fit the model of stratum means to all its cells: treatments do not share any."""
    adata = sgv.datasets.simulate(seed=seed, **sizes)
    truth = Truth(adata)
    return prepare(adata, "cell_type", sgv.grn.get_grn(adata, "grn"), truth)


def prepare(adata: Any, covariate: str, net: pd.DataFrame, truth: Truth | None) -> Screen:
    """Fit the model of stratum means to log-normalised data; without truth, what it measures stands for it."""
    names = ["control", *sorted(set(adata.obs["perturbation"]) - {"control"})]
    stratum = pd.factorize(adata.obs[covariate], sort=True)[0]
    condition = pd.Categorical(adata.obs["perturbation"], categories=names).codes.astype(np.int64)
    n_strata = int(stratum.max()) + 1
    moments = stratum_moments(adata.X, stratum, condition, n_strata, len(names), np.arange(adata.n_obs))
    strata = np.arange(n_strata)[:, None]
    fit = fit_mean_model(moments, np.eye(len(names))[:, 1:], strata, [n_strata], log=False)
    controls = cell_residuals(adata.X, stratum, condition, moments, np.flatnonzero(condition == 0))
    gene = adata.var_names.get_indexer(names[1:])
    seen = Seen(fit.pooled(strata) / fit.scale, fit.noise, gene, np.zeros(gene.size))
    level = np.maximum(fit.level(strata).mean(axis=0) / fit.scale, 0)
    measured = seen.response * fit.scale
    effects = measured if truth is None else np.stack([truth.effect(name) for name in names[1:]])
    genes = Genes(level, 1 / fit.scale, controls, network(adata, net))
    return Screen(adata, names[1:], seen, genes, fit.scale, truth, effects)


def network(adata: Any, net: pd.DataFrame) -> Network:
    """A network of a screen by positions of genes."""
    ends = [adata.var_names.get_indexer(net[end]) for end in ("source", "target")]
    return Network(np.stack(ends), np.abs(net["weight"].to_numpy(dtype=np.float32)))


def subset(seen: Seen, rows: np.ndarray) -> Seen:
    """Some treatments."""
    return Seen(*(None if part is None else part[rows] for part in seen))


def ours(screen: Screen, net: Network | None = None, gene: np.ndarray | None = None) -> Fit:
    """The predictor of the package, with another network or other target genes if given."""
    genes = screen.genes if net is None else screen.genes._replace(network=net)
    targets = screen.seen.gene if gene is None else gene

    def fit(rows: np.ndarray) -> Callable[[int], np.ndarray]:
        model = fit_unseen(subset(screen.seen._replace(gene=targets), rows), genes, screen.scale, log=False)
        return lambda t: model.predict(targets[t]).shift

    return fit


def described(screen: Screen, x: np.ndarray) -> Fit:
    """The predictor of the package with descriptors alone: treatments are not named after genes."""

    def fit(rows: np.ndarray) -> Callable[[int], np.ndarray]:
        nameless = np.full(len(screen.names), -1)
        seen = subset(screen.seen._replace(gene=nameless, features=x), rows)
        model = fit_unseen(seen, screen.genes, screen.scale, log=False)
        return lambda t: model.predict(features=x[t]).shift

    return fit


def hidden_descriptors(screen: Screen, rng: np.random.Generator) -> np.ndarray:
    """Descriptors as of drugs: mixtures of what the treatments truly do, with noise and columns of noise alone."""
    effects = screen.effects - screen.effects.mean(axis=0)
    u, singular, _ = np.linalg.svd(effects, full_matrices=False)
    told = (u * singular)[:, :10]
    told = told / told.std()
    mixed = told @ rng.normal(size=(10, 10)) / np.sqrt(10)
    return np.concatenate([mixed + 0.5 * rng.normal(size=mixed.shape), rng.normal(size=mixed.shape)], axis=1)


def train_mean(screen: Screen) -> Fit:
    """The mean over seen treatments."""
    return lambda rows: lambda t: screen.seen.response[rows].mean(axis=0) * screen.scale


def regression(screen: Screen, x: np.ndarray, make: Callable[[], Any], *, components: bool = False) -> Fit:
    """A regression of responses, or of their first ten components, on descriptors of treatments."""

    def fit(rows: np.ndarray) -> Callable[[int], np.ndarray]:
        y = screen.seen.response[rows]
        mean = y.mean(axis=0)
        axes = np.linalg.svd(y - mean, full_matrices=False)[2][: 10 if components else None]
        model = make().fit(x[rows], (y - mean) @ axes.T)
        return lambda t: (mean + model.predict(x[[t]])[0] @ axes) * screen.scale

    return fit


def descriptors(screen: Screen, net: Network) -> np.ndarray:
    """Principal components of each target's regulon and of its coexpression with all genes among control cells."""
    n_genes = screen.scale.size
    regulon = sparse.csr_array((net.edge_weight, tuple(net.edge_index)), shape=(n_genes, n_genes)).toarray()
    controls = screen.genes.controls
    cells = controls.score @ controls.axes.T
    both = np.concatenate([regulon, np.corrcoef(cells.T)], axis=1)[screen.seen.gene]
    both = (both - both.mean(axis=0)) / (both.std(axis=0) + 1e-6)
    u, singular, _ = np.linalg.svd(both, full_matrices=False)
    scores = (u * singular)[:, :N_COMPONENTS]
    return scores / scores.std(axis=0)


def baselines(screen: Screen, x: np.ndarray) -> dict[str, Fit]:
    """Baselines on descriptors; what they leave open is chosen by cross-validation within the seen treatments."""
    searches = {
        "kNN": (KNeighborsRegressor(), {"n_neighbors": [1, 3, 5, 10, 20]}),
        "kernel ridge": (KernelRidge(kernel="rbf"), {"alpha": [0.1, 1, 10, 100], "gamma": [0.003, 0.01, 0.03, 0.1]}),
    }
    found = {
        name: regression(
            screen, x, lambda one=one, grid=grid: GridSearchCV(one, grid, scoring="neg_mean_squared_error")
        )
        for name, (one, grid) in searches.items()
    }
    ridge = regression(screen, x, lambda: RidgeCV(np.logspace(-1, 5, 13)), components=True)
    forest = regression(screen, x, lambda: RandomForestRegressor(100, min_samples_leaf=3, random_state=0))
    return {"train mean": train_mean(screen), "ridge PCA": ridge, **found, "random forest": forest}


def folds(n: int, seed: int) -> Iterator[np.ndarray]:
    """Treatments that are held out, each once."""
    fold = np.random.default_rng(seed).permutation(n) % N_FOLDS
    yield from (np.flatnonzero(fold == k) for k in range(N_FOLDS))


def scores(screen: Screen, predicted: dict[str, np.ndarray], truth: dict[str, np.ndarray]) -> dict[str, float]:
    """Mean scores over treatments."""
    names = list(truth)
    true, guess = (np.stack([values[name] for name in names]) for values in (truth, predicted))
    spread = screen.scale + np.median(screen.scale)
    reference = screen.effects.mean(axis=0)
    rows = []
    for t, p in zip(true, guess, strict=True):
        weights = sgv.metrics.signal_weights((t - reference) / spread)
        rows.append(
            [
                sgv.metrics.pearson_shift(t, p, np.zeros_like(t)),
                sgv.metrics.weighted_mse(t, p, weights),
                sgv.metrics.weighted_r2(t, p, reference, weights),
            ]
        )
    accuracy = sgv.metrics.centroid_accuracy(true, guess).mean()
    return dict(zip(METRICS, [*np.mean(rows, axis=0), accuracy], strict=True))


def run(seed: int) -> pd.DataFrame:
    """Scores of all predictors on one screen, for unseen treatments and for pairs with one or two unseen members."""
    screen = load(seed, **SCREEN)
    rng = np.random.default_rng(seed)
    prior = sgv.grn.get_grn(screen.adata, "grn")
    nets = {"prior": screen.genes.network, "true": network(screen.adata, sgv.grn.get_grn(screen.adata, "grn_true"))}
    random = network(screen.adata, sgv.grn.degree_matched_random(prior, seed))
    entrants: dict[tuple[str, str], Fit] = {}
    for label, net in nets.items():
        entrants[label, "GraphVCI"] = ours(screen, net)
        entrants.update({(label, name): fit for name, fit in baselines(screen, descriptors(screen, net)).items()})
    drug = hidden_descriptors(screen, rng)
    entrants["descriptors", "GraphVCI"] = described(screen, drug)
    entrants["descriptors", "shuffled descriptors"] = described(screen, rng.permutation(drug))
    entrants.update({("descriptors", name): fit for name, fit in baselines(screen, drug).items()})
    entrants["control", "random graph"] = ours(screen, random)
    entrants["control", "no graph"] = ours(screen._replace(genes=screen.genes._replace(network=None)))
    entrants["control", "shuffled targets"] = ours(screen, gene=rng.permutation(screen.seen.gene))
    held_out = list(folds(len(screen.names), seed))
    pairs = [_pairs(screen, held, rng) for held in held_out]
    rows = []
    for (label, name), fit in entrants.items():
        tables: dict[str, dict[str, np.ndarray]] = {"single": {}, "pair, 1 seen": {}, "pair, 0 seen": {}}
        truths: dict[str, dict[str, np.ndarray]] = {key: {} for key in tables}
        for held, of_fold in zip(held_out, pairs, strict=True):
            predict = fit(np.setdiff1d(np.arange(len(screen.names)), held))
            for t in held:
                tables["single"][screen.names[t]], truths["single"][screen.names[t]] = predict(t), screen.effects[t]
            for kind, a, b, true in of_fold:
                other = predict(b) if b in held else screen.seen.response[b] * screen.scale
                tables[kind][f"{a}+{b}"], truths[kind][f"{a}+{b}"] = predict(a) + other, true
        for kind, table in tables.items():
            rows.append(
                {"task": kind, "network": label, "predictor": name, "seed": seed} | scores(screen, table, truths[kind])
            )
    console.print({"seed": seed, "done": True})
    return pd.DataFrame(rows)


def _pairs(screen: Screen, held: np.ndarray, rng: np.random.Generator) -> list[tuple[str, int, int, np.ndarray]]:
    """Pairs of every held-out treatment with a seen one and with another held-out one, and their true effects."""
    seen = np.setdiff1d(np.arange(len(screen.names)), held)
    truth, found = Truth(screen.adata), []
    for position, a in enumerate(held):
        for kind, b in (("pair, 1 seen", rng.choice(seen)), ("pair, 0 seen", held[position - 1])):
            effect = truth.effect(f"{screen.names[a]}+{screen.names[b]}")
            found.append((kind, int(a), int(b), effect))
    return found


def coverage(n_screens: int) -> pd.DataFrame:
    """Share of true effects of held-out treatments inside their intervals, one row per screen and level."""
    rows = []
    for seed in range(n_screens):
        screen = load(1000 + seed, **SMALL)
        held = np.random.default_rng(seed).permutation(len(screen.names))[:6]
        model = fit_unseen(
            subset(screen.seen, np.setdiff1d(np.arange(len(screen.names)), held)), screen.genes, screen.scale, log=False
        )
        effects = [model.predict(screen.seen.gene[t]) for t in held]
        error = np.abs([effect.shift - screen.effects[t] for effect, t in zip(effects, held, strict=True)])
        sd = np.stack([effect.sd for effect in effects])
        noise = np.sqrt(screen.seen.noise[held])[:, None] * screen.scale
        observed = np.abs(
            [e.shift - screen.seen.response[t] * screen.scale for e, t in zip(effects, held, strict=True)]
        )
        moved = np.abs(screen.effects[held]) > 0.2
        for alpha in (0.05, 0.1, 0.2):
            reach = model.margin(alpha)
            inside = error <= reach * sd
            rows.append(
                {
                    "level": 1 - alpha,
                    "seed": seed,
                    "true effect": inside.mean(),
                    "true effects above .2": inside[moved].mean() if moved.any() else np.nan,
                    "observed shift": (observed <= reach * np.hypot(sd, noise)).mean(),
                    "half-width": (reach * sd).mean(),
                }
            )
    return pd.DataFrame(rows)


def schraivogel() -> pd.DataFrame:
    """Every treatment of Schraivogel et al. left out once, scored on its measured shift; and 80 % intervals."""
    adata = ad.read_h5ad(real_data("schraivogel20_k562_72genes.h5ad"))
    total = np.asarray(adata.X.sum(axis=1)).ravel()
    adata.X = (sparse.diags_array(np.median(total) / np.maximum(total, 1)) @ sparse.csr_array(adata.X)).log1p()
    net = pd.read_csv(real_data("collectri_human.tsv.gz"), sep="\t")
    net = net[net["source"].isin(adata.var_names) & net["target"].isin(adata.var_names)]
    screen = prepare(adata, "sample", net, None)
    rows, inside = [], []
    for t, name in enumerate(screen.names):
        rest = np.setdiff1d(np.arange(len(screen.names)), [t])
        model = fit_unseen(subset(screen.seen, rest), screen.genes, screen.scale, log=False)
        effect = model.predict(screen.seen.gene[t])
        true, mean = screen.effects[t], screen.seen.response[rest].mean(axis=0) * screen.scale
        sd = np.hypot(effect.sd, np.sqrt(screen.seen.noise[t]) * screen.scale)
        inside.append(np.abs(effect.shift - true) <= model.margin(0.2) * sd)
        for label, guess in (("GraphVCI", effect.shift), ("train mean", mean)):
            pearson = sgv.metrics.pearson_shift(true, guess, np.zeros_like(true))
            rows.append(
                {"treatment": name, "predictor": label, "pearson": pearson, "mse": np.mean((true - guess) ** 2)}
            )
        rows[-2]["covered at 80 %"] = inside[-1].mean()
    hits, n = int(np.sum(inside)), int(np.size(inside))
    low, high = binomtest(hits, n).proportion_ci()
    console.print(
        f"80 % intervals hold {hits} of {n} shifts, {hits / n:.3f} [{low:.3f}, {high:.3f}] were they independent"
    )
    return pd.DataFrame(rows)


def train_models(seed: int, epochs: int | None) -> pd.DataFrame:
    """Train GraphVCI with one fold of treatments held out; score it by `Evaluation` beside all simple baselines."""
    adata = sgv.datasets.simulate(seed=seed, **SCREEN)
    names = list(adata.obs["perturbation"].cat.categories)[1:]
    held = [names[t] for t in next(folds(len(names), seed))]
    is_held = adata.obs["perturbation"].isin(held).to_numpy()
    adata.obs["split"] = np.where(is_held, "ood", adata.obs["split"].astype(str))
    sgv.settings.seed = seed
    models = {}
    for label, key in (("GraphVCI, prior", "grn"), ("GraphVCI, true graph", "grn_true")):
        sgv.GraphVCI.setup_anndata(adata, categorical_covariate_keys=["cell_type"], split_key="split", grn_key=key)
        models[label] = sgv.GraphVCI(adata)
        models[label].train(max_epochs=epochs, accelerator="cpu", enable_progress_bar=False)
    evaluation = sgv.Evaluation(models, adata, truth=sgv.datasets.truth(adata), duplicates=False, seed=seed)
    return evaluation.pairs().assign(seed=seed)


def main() -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    options.add_argument("--coverage", type=int, default=0, help="number of small screens to measure intervals on")
    options.add_argument("--model", action="store_true", help="train GraphVCI on one fold of every screen")
    options.add_argument("--real", action="store_true", help="the file of Schraivogel et al.")
    args = options.parse_args()
    warnings.filterwarnings("ignore", message="No training cell received")
    sgv.settings.verbosity = logging.ERROR
    if args.coverage:
        table = coverage(args.coverage).drop(columns="seed").groupby("level").agg(["mean", "std"])
        save_table(
            table, "Conformal intervals of unseen treatments", args.out, "unseen_coverage", f"{args.coverage} screens."
        )
    elif args.real:
        table = schraivogel().set_index(["treatment", "predictor"])
        means = table.groupby("predictor", sort=False).mean()
        save_table(means, "Unseen treatments of Schraivogel et al.", args.out, "unseen_schraivogel")
    elif args.model:
        pairs = pd.concat([train_models(seed, args.epochs) for seed in args.seeds])
        columns = ["pearson_shift", "weighted_mse", "weighted_r2", "centroid_accuracy"]
        table = pairs.groupby("predictor", sort=False)[columns].mean()
        save_table(table, "GraphVCI on unseen treatments", args.out, "unseen_model", f"Seeds {args.seeds}.")
    else:
        frame = pd.concat([run(seed) for seed in args.seeds])
        table = frame.groupby(["task", "network", "predictor"], sort=False)[METRICS].agg(["mean", "std"])
        save_table(table, "Unseen treatments on simulated screens", args.out, "unseen", f"Seeds {args.seeds}.")


if __name__ == "__main__":
    main()
