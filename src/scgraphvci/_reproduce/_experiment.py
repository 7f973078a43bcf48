"""What tables and figures share: data by seed and split, and models fitted by name."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import pandas as pd
from anndata import AnnData

from scgraphvci import datasets, grn, tl
from scgraphvci._constants import SLOTS
from scgraphvci._quiet import quiet_training
from scgraphvci._reproduce._recipes import SPLIT_KEY, HeldOutCategory, Recipe
from scgraphvci._untrusted import read_h5ad
from scgraphvci.baselines import AE, CEVAE, CPA, GANITE
from scgraphvci.baselines._base import ScreenCoder
from scgraphvci.datasets import Truth
from scgraphvci.grn._frame import check_columns, tidy
from scgraphvci.model import GraphVCI

logger = logging.getLogger(__name__)


class Contender(NamedTuple):
    """A model that can be asked for by name.

    Attributes
    ----------
    cls
        Its class.
    grn_key
        Network it reads from ``varp``, or None.
    options
        Arguments of the model.
    """

    cls: type[Any]
    grn_key: str | None = None
    options: Mapping[str, Any] = MappingProxyType({})


REFINED, RANDOM = "GraphVCI-refined", "GraphVCI-random"
RANDOM_KEY = "grn_random"  # slot of varp
MODELS: dict[str, Contender] = {
    "AE": Contender(AE),
    "CEVAE": Contender(CEVAE),
    "GANITE": Contender(GANITE),
    "CPA": Contender(CPA),
    "VCI": Contender(GraphVCI),
    "GraphVCI": Contender(GraphVCI, SLOTS.GRN),
    RANDOM: Contender(GraphVCI, RANDOM_KEY),
    REFINED: Contender(GraphVCI, SLOTS.GRN_REFINED),
    "GraphVCI-paper": Contender(GraphVCI, SLOTS.GRN, {"preset": "paper"}),
}
GRAPH_MODELS = [name for name, contender in MODELS.items() if contender.grn_key is not None]
EFFECT_MODELS = [name for name, contender in MODELS.items() if contender.cls is GraphVCI]
FAST_EPOCHS = 2
THRESHOLD = 0.3  # confidence above which an edge is in the refined network
FAST_SCREEN: dict[str, Any] = {"n_cells": 400, "n_genes": 80, "n_perturbations": 4, "n_cell_types": 2, "n_donors": 2}


class UsageError(ValueError):
    """Arguments that do not fit the data, which may show only once these are prepared."""


class Split(NamedTuple):
    """One run's data.

    Attributes
    ----------
    seed
        Of the run.
    name
        What is held out.
    adata
        Log-normalised data with ``obs["split"]``.
    truth
        Truth of a simulated screen.
    """

    seed: int
    name: str
    adata: AnnData
    truth: Truth | None


@dataclass(frozen=True)
class Experiment:
    """What to run.

    Attributes
    ----------
    recipe
        Columns, preparation and splits.
    data
        An .h5ad file; None to simulate.
    network
        Table with columns `source`, `target` and optionally `weight`; None if the data hold ``varp["grn"]``.
    models
        Names of models, of :data:`MODELS`.
    n_seeds
        Number of runs.
    max_epochs
        Of every model; their own defaults if None.
    protocol
        How predictions start, as in :class:`scgraphvci.Evaluation`.
    fast
        Check the machinery: two epochs, a tiny simulated screen, the first split only.
    true_network
        Table with columns `source`, `target` of true edges, to judge networks by; None where screens are simulated.
    regulators
        Those of the true network to show one by one.
    treatments, genes
        Held-out treatments and genes to show.
    """

    recipe: Recipe
    data: Path | None
    network: Path | None = None
    models: tuple[str, ...] = ("AE", "CEVAE", "GANITE", "CPA", "VCI", "GraphVCI", RANDOM)
    n_seeds: int = 5
    max_epochs: int | None = None
    protocol: Literal["matched", "paper"] = "matched"
    fast: bool = False
    true_network: Path | None = None
    regulators: tuple[str, ...] = ()
    treatments: tuple[str, ...] = ()
    genes: tuple[str, ...] = ()

    @property
    def epochs(self) -> int | None:
        """Epochs of every model, None for its default."""
        return FAST_EPOCHS if self.fast and self.max_epochs is None else self.max_epochs

    def check(self) -> None:
        """Find what is wrong with the columns or the network before anything large is read.

        Raises
        ------
        OSError
            If a file is missing or cannot be read.
        KeyError
            If a column is missing.
        ValueError
            If the control or category has no cells, or a model needs a network and there is none, or none of these
            genes; or as for :meth:`true_edges`.
        """
        if self.data is None:
            return
        for path in (self.data, self.network, self.true_network):
            if path is not None and not path.is_file():
                msg = f"No file {path}."
                raise FileNotFoundError(msg)
        shell, has_network = _read_shell(self.data)
        self._name_columns(shell)
        coder = {key: value for key, value in self.recipe.setup.items() if key != "split_key"}
        ScreenCoder(**coder, split_key=None).code(shell)
        if isinstance(self.recipe.splits, HeldOutCategory):
            self.recipe.splits.check(shell, self.recipe)
        if self.network is not None:
            grn.add_grn(shell, _read_network(self.network), SLOTS.GRN)
        needy = [name for name in self.models if name in GRAPH_MODELS]
        if needy and not has_network and self.network is None:
            msg = (
                f"{needy} read a network and varp[{SLOTS.GRN!r}] holds none. Give one with --grn; tables and fig5 can "
                "do without: --models VCI."
            )
            raise ValueError(msg)
        if self.true_network is not None:
            self.true_edges(shell)

    def true_edges(self, adata: AnnData) -> pd.DataFrame:
        """Return the true network: the table's, or that behind a simulated screen.

        Parameters
        ----------
        adata
            Whose genes must have true edges.

        Raises
        ------
        KeyError
            If the table has no column source or target.
        UsageError
            If no true edge joins two of the genes, a regulator has no true edge, or none of them has one here.
        """
        if self.true_network is None:
            edges = grn.get_grn(adata, SLOTS.GRN_TRUE)
        else:
            table, name = _read_network(self.true_network), self.true_network.name
            check_columns(table, ["source", "target"], name, "Rename them to source and target.")
            named = table.dropna(subset=["source", "target"])
            if len(named) < len(table):
                logger.warning("%d rows of %s without source or target are left out.", len(table) - len(named), name)
            edges = tidy(named, name)
            edges = edges[edges["weight"] != 0]
        genes = adata.var_names.astype(str)
        known = edges[edges["source"].isin(genes) & edges["target"].isin(genes) & (edges["source"] != edges["target"])]
        if known.empty:
            msg = (
                f"No true edge joins two genes of the data, such as {list(genes[:3])}. Use the same kind of identifier."
            )
            raise UsageError(msg)
        most = known["source"].value_counts().index
        unknown = [name for name in self.regulators if name not in set(edges["source"])]
        if unknown or (self.regulators and most.intersection(list(self.regulators)).empty):
            reason = "regulate nothing in the true network" if unknown else "have no true edge to a gene of the data"
            msg = f"Regulators {unknown or list(self.regulators)} {reason}. Those that do most: {most[:5].tolist()}."
            raise UsageError(msg)
        return edges

    def splits(self) -> Iterator[Split]:
        """Yield the data of every seed and split. The object stays the same where only the split differs."""
        full = None if self.data is None else self._read(self.data)
        for seed in range(self.n_seeds):
            adata = datasets.simulate(**FAST_SCREEN if self.fast else {}, seed=seed) if full is None else full
            truth = datasets.truth(adata) if full is None else None
            for name in self.recipe.splits(adata, self.recipe, seed):
                logger.info("Seed %d, held out: %s. %s", seed, name, describe(adata))
                if REFINED in self.models:
                    self.refine(adata, seed, FAST_EPOCHS if self.fast else None)
                if RANDOM in self.models:
                    net = grn.degree_matched_random(grn.get_grn(adata, SLOTS.GRN), seed)
                    grn.add_grn(adata, net, RANDOM_KEY)
                yield Split(seed, name, adata, truth)
                if self.fast:
                    break

    def fit(self, name: str, split: Split, **train_kwargs: Any) -> tuple[Any, float]:
        """Set up and train a model; return it with the seconds it took."""
        contender, setup = MODELS[name], self.recipe.setup
        if contender.grn_key is not None:
            setup["grn_key"] = contender.grn_key
        with quiet_training(split.seed):
            contender.cls.setup_anndata(split.adata, **setup)
            model = contender.cls(split.adata, **contender.options)
            start = time.perf_counter()
            model.train(max_epochs=self.epochs, enable_progress_bar=False, **train_kwargs)
        return model, time.perf_counter() - start

    def _true_regulators(self) -> set[str]:
        """Sources in the table of true edges, which selecting genes must not lose."""
        return set() if self.true_network is None else set(_read_network(self.true_network)["source"])

    def _name_columns(self, adata: AnnData) -> None:
        if self.recipe.name_columns is not None:
            adata.obs = self.recipe.name_columns(adata.obs)

    def _read(self, path: Path) -> AnnData:
        adata = read_h5ad(path)
        self._name_columns(adata)
        if self.recipe.prepare is not None:
            adata = self.recipe.prepare(adata, keep=self._true_regulators())
        if self.network is not None:
            report = grn.add_grn(adata, _read_network(self.network), SLOTS.GRN)
            logger.info("%s", report)
        return adata

    def refine(self, adata: AnnData, seed: int, max_epochs: int | None, threshold: float = THRESHOLD) -> None:
        """Refine the prior with the training cells of this split, to ``varp["grn_refined"]``."""
        start = time.perf_counter()
        with quiet_training(seed):
            tl.refine_grn(
                adata,
                split_key=SPLIT_KEY,
                categorical_covariate_keys=list(self.recipe.covariates),
                perturbation_key=self.recipe.perturbation_key,
                control=self.recipe.control,
                max_epochs=max_epochs,
                threshold=threshold,
                seed=seed,
                enable_progress_bar=False,
            )
        logger.info("Network refined in %.0f s", time.perf_counter() - start)


def _read_shell(path: Path) -> tuple[AnnData, bool]:
    """Read `obs` and `var` of a file, and whether it holds a network."""
    try:
        adata = read_h5ad(path, backed="r")
    except OSError as error:
        msg = f"{path} cannot be read as .h5ad."
        raise OSError(msg) from error
    has_network = SLOTS.GRN in adata.varp
    adata.file.close()
    return AnnData(obs=adata.obs, var=adata.var), has_network


def _read_network(path: Path) -> pd.DataFrame:
    """Read a table of edges."""
    return pd.read_csv(path, sep="\t" if ".tsv" in path.suffixes else ",")


def describe(adata: AnnData) -> str:
    """Return sizes of the data and the split."""
    parts = adata.obs[SPLIT_KEY].value_counts()
    counts = ", ".join(f"{parts[part]:,} {part}" for part in ("train", "test", "ood") if part in parts)
    return f"{adata.n_obs:,} cells x {adata.n_vars:,} genes ({counts})"
