"""Small screens and a tiny trained model that tests of all rooms share."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scvi
import torch
from scipy import sparse

import scgraphvci as sgv

TREATMENTS = ("control", "A", "B", "A+B")
CELL_TYPES = ("B cell", "T cell", "NK")
DONORS = ("d1", "d2")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors of these tests are small: a second thread only costs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def draw_screen(n_cells: int = 240, n_genes: int = 12, seed: int = 0) -> ad.AnnData:
    """Draw a screen whose means are known: log-normal-like X, counts, two covariates, a split and a network.

    A is held out in B cells ("ood"). No value depends on anything but the arguments.
    """
    rng = np.random.default_rng(seed)
    obs = pd.DataFrame(
        {
            "perturbation": pd.Categorical(rng.choice(TREATMENTS, n_cells, p=[0.4, 0.25, 0.2, 0.15])),
            "cell_type": pd.Categorical(rng.choice(CELL_TYPES, n_cells)),
            "donor": pd.Categorical(rng.choice(DONORS, n_cells)),
            "age": rng.normal(40, 10, n_cells),
            "split": np.where(rng.random(n_cells) < 0.8, "train", "test"),
        },
        index=[f"cell{i}" for i in range(n_cells)],
    )
    obs.loc[(obs["perturbation"] == "A") & (obs["cell_type"] == "B cell"), "split"] = "ood"
    has = np.column_stack([obs["perturbation"].str.contains(name, regex=False) for name in ("A", "B")])
    shift, level = rng.normal(0, 0.6, (2, n_genes)), rng.normal(0, 0.5, (len(CELL_TYPES), n_genes))
    log_mean = 1 + has @ shift + level[obs["cell_type"].cat.codes] + rng.normal(0, 0.3, (n_cells, 1))
    counts = rng.poisson(np.exp(log_mean)).astype(np.float32)
    network = sparse.random_array((n_genes, n_genes), density=0.2, rng=rng, dtype=np.float32, format="csr")
    return ad.AnnData(
        X=np.log1p(counts),
        obs=obs,
        var=pd.DataFrame(index=[f"gene{j}" for j in range(n_genes)]),
        layers={"counts": sparse.csr_matrix(counts)},
        varp={"grn": sparse.csr_matrix(network)},
    )


@pytest.fixture
def make_screen() -> Callable[..., ad.AnnData]:
    """Factory of small screens: `make_screen(n_cells=240, n_genes=12, seed=0)`."""
    return draw_screen


@pytest.fixture
def screen() -> ad.AnnData:
    """A small screen; the test may change it."""
    return draw_screen()


@pytest.fixture(scope="session")
def simulated() -> ad.AnnData:
    """A small simulated screen with known truth. Copy it before changing it."""
    return sgv.datasets.simulate(n_cells=300, n_genes=40, n_perturbations=4, n_cell_types=2, n_donors=2, seed=0)


@pytest.fixture(scope="session")
def trained(simulated: ad.AnnData) -> sgv.GraphVCI:
    """A model trained for two epochs on a copy of `simulated`, which is `trained.adata`. Not to be trained further."""
    before = scvi.settings.seed
    scvi.settings.seed = 0
    adata = simulated.copy()
    sgv.GraphVCI.setup_anndata(
        adata, categorical_covariate_keys=["cell_type", "donor"], split_key="split", grn_key="grn"
    )
    model = sgv.GraphVCI(adata, n_latent=4, n_hidden=16)
    model.train(max_epochs=2, accelerator="cpu", enable_progress_bar=False)
    scvi.settings.seed = before
    return model
