"""Writes the frozen checkpoints of the installed version (see README.md)."""

from __future__ import annotations

import sys
from pathlib import Path

import anndata as ad
import numpy as np
import scvi
from scipy import sparse

import scgraphvci as sgv

SETUP = {
    "dose_key": "dose",
    "combination_sep": "+",
    "categorical_covariate_keys": ["cell_type", "donor"],
    "continuous_covariate_keys": ["cell_state"],
    "split_key": "split",
}
MODELS = {
    "graphvci": ({"grn_key": "grn"}, {"n_graph_hidden": 4, "decoder": "attention"}),
    "vci_nb": ({"layer": "counts"}, {"likelihood": "nb"}),
}


def small_screen() -> ad.AnnData:
    """60 cells, 16 genes, with nothing in it that the models do not need."""
    full = sgv.datasets.simulate(
        n_cells=60,
        n_genes=16,
        n_perturbations=3,
        n_cell_types=2,
        n_donors=2,
        n_combinations=1,
        doses=(0.5, 1.0),
        seed=0,
    )
    columns = ["perturbation", "dose", "cell_type", "donor", "cell_state", "split"]
    adata = ad.AnnData(sparse.csr_matrix(full.X), obs=full.obs[columns].copy(), var=full.var[[]].copy())
    adata.layers["counts"] = sparse.csr_matrix(full.layers["counts"])
    adata.varp["grn"] = full.varp["grn"]
    return adata


def expected(model: sgv.GraphVCI) -> dict[str, np.ndarray]:
    """Results that every later version must give from the same file."""
    treatment = model.treatments.perturbations[0]
    return {
        "latent": model.get_latent_representation(),
        "predicted": model.predict(treatment, source="all").X,
        "combination": model.predict("+".join(model.treatments.perturbations[:2]), dose="1+0.5").X,
        "robust": model.marginal_effect([treatment], groupby="cell_type", leak_guard=False).robust,
    }


def main(directory: Path) -> None:
    """Write every model, with its data and its results."""
    for name, (setup, arguments) in MODELS.items():
        adata = small_screen()
        sgv.GraphVCI.setup_anndata(adata, **SETUP, **setup)
        scvi.settings.seed = 0
        model = sgv.GraphVCI(
            adata, n_hidden=8, n_latent=3, n_layers=1, n_treatment_embedding=4, n_covariate_embedding=2, **arguments
        )
        model.train(max_epochs=3, accelerator="cpu", enable_progress_bar=False, logger=None)
        model.save(directory / name, save_anndata=True, overwrite=True, compression="gzip")
        np.savez_compressed(directory / name / "expected.npz", **expected(model))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
