"""Training of the models of folds, here or in other processes."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import anndata as ad
from scvi.utils import track

from scgraphvci._archive import MODEL_FILE
from scgraphvci._compat import initialize_model
from scgraphvci._parallel import call_each, n_processes
from scgraphvci._quiet import quiet_training

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pandas as pd

    from scgraphvci.model._graphvci import GraphVCI


@dataclass(frozen=True)
class FoldScreen:
    """The data of a fold's model: expression and network are shared with the user's, `obs` is its own.

    Attributes
    ----------
    obs
        Columns of the set-up.
    parts
        Other arguments of the AnnData; for data backed by a file its path, as no other process can have the open file.
    """

    obs: pd.DataFrame
    parts: dict[str, Any] | Path

    def open(self) -> ad.AnnData:
        """Return the data."""
        if isinstance(self.parts, dict):
            return ad.AnnData(obs=self.obs, **self.parts)
        screen = ad.read_h5ad(self.parts, backed="r")
        screen.obs = self.obs
        return screen


@dataclass(frozen=True)
class Recipe:
    """How a model was set up, built and trained.

    Attributes
    ----------
    cls
        Its class.
    setup
        Arguments of `setup_anndata`.
    init_params
        Arguments of its constructor, as scvi-tools keeps them.
    training
        Arguments of `train`.
    """

    cls: type[GraphVCI]
    setup: dict[str, Any]
    init_params: dict[str, Any]
    training: dict[str, Any]

    def train(self, screen: ad.AnnData, seed: int) -> GraphVCI:
        """Train a model so, and let go of what only training needs."""
        self.cls.setup_anndata(screen, **self.setup)
        with quiet_training(seed):
            model: GraphVCI = initialize_model(
                self.cls, screen, None, {"init_params_": copy.deepcopy(self.init_params)}, None
            )
            model.train(**{**self.training, "enable_progress_bar": False})
        model.trainer = None
        return model


def train_models(
    recipe: Recipe, screens: Sequence[FoldScreen], seeds: Sequence[int]
) -> Iterator[tuple[GraphVCI, ad.AnnData]]:
    """Train a model on each screen, and return them one by one with their data.

    Parameters
    ----------
    recipe
        How they are trained.
    screens, seeds
        Of each model.
    """
    calls = list(zip(screens, seeds, strict=True))
    if n_processes() == 1:
        silent = not recipe.training.get("enable_progress_bar", True)
        for one, seed in track(calls, description="Cross-fitting", disable=silent):
            screen = one.open()
            yield recipe.train(screen, seed), screen
        return
    saved = call_each(_train_and_save, [(recipe, *call) for call in calls])
    for content, one in zip(saved, screens, strict=True):
        screen = one.open()
        with TemporaryDirectory() as folder:
            Path(folder, MODEL_FILE).write_bytes(content)
            yield recipe.cls.load(folder, screen, recipe.training.get("accelerator", "auto")), screen


def _train_and_save(recipe: Recipe, one: FoldScreen, seed: int) -> bytes:
    """Train a model in another process; its file, unlike the object, comes without the data."""
    screen = one.open()
    model = recipe.train(screen, seed)
    with TemporaryDirectory() as folder:
        model.save(folder, overwrite=True)
        model.deregister_manager(screen)
        return Path(folder, MODEL_FILE).read_bytes()
