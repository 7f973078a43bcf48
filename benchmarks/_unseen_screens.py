"""Screens, predictors and scores that the benchmarks of unseen treatments share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.ensemble import RandomForestRegressor
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsRegressor

import scgraphvci as sgv
from scgraphvci.data import Network, Residuals, cell_residuals, stratum_moments
from scgraphvci.data._kriging import told_apart
from scgraphvci.data._mean_model import MeanModel, fit_mean_model
from scgraphvci.data._unseen import Genes, Seen
from scgraphvci.data._unseen_fit import fit_unseen

SCREEN = {"n_cells": 6000, "n_genes": 400, "n_perturbations": 40, "n_regulators": 50, "n_donors": 1, "n_ood_pairs": 0}
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

    def by_stratum(self, treatment: str) -> np.ndarray:
        """Effect of a treatment in every cell type, in alphabetical order, shape ``(n_strata, n_genes)``."""
        return (self._truth.stratum_mean(treatment) - self._control).sort_index().to_numpy()

    def effect(self, treatment: str) -> np.ndarray:
        """Effect of a treatment, shape ``(n_genes,)``."""
        return self.by_stratum(treatment).mean(axis=0)


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


def prepare(
    adata: Any, covariate: str, net: pd.DataFrame, truth: Truth | None, names: list[str] | None = None
) -> Screen:
    """Fit the model of stratum means to log-normalised data; without truth, what it measures stands for it."""
    names = sorted(set(adata.obs["perturbation"]) - {"control"}) if names is None else names
    fit, controls = mean_model(adata, covariate, names)
    strata = np.arange(adata.obs[covariate].nunique())[:, None]
    gene = adata.var_names.get_indexer(names)
    noise = np.where(told_apart(fit.regression[0].blocks, len(names)), fit.noise, np.inf)
    seen = Seen(fit.pooled(strata) / fit.scale, noise, gene, np.zeros(gene.size))
    level = np.maximum(fit.level(strata).mean(axis=0) / fit.scale, 0)
    measured = seen.response * fit.scale
    effects = measured if truth is None else np.stack([truth.effect(name) for name in names])
    genes = Genes(level, 1 / fit.scale, controls, network(adata, net))
    return Screen(adata, names, seen, genes, fit.scale, truth, effects)


def mean_model(adata: Any, covariate: str, names: list[str]) -> tuple[MeanModel, Residuals]:
    """The model of stratum means by perturbations, alone and in combinations, and residuals of control cells."""
    stratum, levels = pd.factorize(adata.obs[covariate], sort=True)
    found = ["control", *sorted(set(adata.obs["perturbation"]) - {"control"})]
    condition = pd.Categorical(adata.obs["perturbation"], categories=found).codes.astype(np.int64)
    moments = stratum_moments(adata.X, stratum, condition, len(levels), len(found), np.arange(adata.n_obs))
    design = np.array([[name in one.split("+") for name in names] for one in found], dtype=np.float64)
    fit = fit_mean_model(moments, design, np.arange(len(levels))[:, None], [len(levels)], log=False)
    return fit, cell_residuals(adata.X, stratum, condition, moments, np.flatnonzero(condition == 0))


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
    neighbors = [k for k in (1, 3, 5, 10, 20) if k <= len(screen.names) / 2]
    searches = {
        "kNN": (KNeighborsRegressor(), {"n_neighbors": neighbors}),
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
    return shift_scores(screen, *(np.stack([values[name] for name in truth]) for values in (truth, predicted)))


def shift_scores(screen: Screen, true: np.ndarray, guess: np.ndarray) -> dict[str, float]:
    """Mean scores over shifts (n_treatments, n_genes)."""
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
