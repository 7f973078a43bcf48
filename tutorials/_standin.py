"""Simulated stand-ins for public screens: their columns and conditions, with made-up expression.

What comes out of a stand-in says nothing about the screen it stands for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from anndata import AnnData

import scgraphvci as sgv

DRUGS = [
    "Abexinostat", "Belinostat", "Dacinostat", "Flavopiridol", "Givinostat", "Nutlin-3a", "Panobinostat",
    "Pracinostat", "Quisinostat", "Tacedinaline", "Trametinib", "YM155",
]  # fmt: skip
ACTIVATED = ["CD28", "EOMES", "FOXP3", "GATA3", "IL2RA", "LTBR", "OTUD7B", "TBX21", "TNFRSF9", "VAV1"]
KNOCKED_OUT = ["IFNAR1", "IFNGR1", "IFNGR2", "IRF1", "IRF9", "JAK1", "JAK2", "STAT1", "STAT2", "TYK2"]
INDUCED = ["ISG15", "IFI6", "IFIT1", "IFIT3", "ISG20"]


def sciplex(n_cells: int = 3000, n_genes: int = 300) -> AnnData:
    """Three cell lines under 12 drugs at four doses; 4 drugs held out of MCF7."""
    strata = pd.DataFrame({"cell_type": ["A549", "K562", "MCF7"]})
    sizes = {"n_cells": n_cells, "n_genes": n_genes, "doses": (0.001, 0.01, 0.1, 1.0)}
    adata = _screen(DRUGS, "Vehicle", strata, "replicate", ["rep1", "rep2"], **sizes)
    adata.obs["dose_nM"] = adata.obs["dose"] * 10_000
    sgv.pp.split_ood(adata, "perturbation", "Vehicle", "cell_type", "MCF7", n_hardest=4)
    return adata


def marson(n_cells: int = 3000, n_genes: int = 300) -> AnnData:
    """CD4 and CD8 T cells of two donors, at rest and stimulated; 3 of 10 targets held out of stimulated CD8 cells.

    The simulator knocks targets down, where the real screen activates them.
    """
    strata = pd.DataFrame({"cell_type": ["CD4", "CD4", "CD8", "CD8"], "stim": ["Resting", "Re-stimulated"] * 2})
    sizes = {"n_cells": n_cells, "n_genes": n_genes, "targets": True}
    adata = _screen(ACTIVATED, "NTC", strata, "donor", ["Donor1", "Donor2"], **sizes)
    held_out = ["stim", "cell_type"], ["Re-stimulated", "CD8"]
    sgv.pp.split_ood(adata, "perturbation", "NTC", *held_out, n_hardest=3)
    return adata


def l008(n_cells: int = 3000, n_genes: int = 150) -> AnnData:
    """CD4 T cells of two donors in three states; 3 of 10 knock-outs held out of `restim`.

    ``varp["grn"]`` is the prior network, ``varp["grn_true"]`` the one behind the data.
    """
    strata = pd.DataFrame({"cell_type": ["IFNg+", "restim", "stim"]})
    sizes = {"n_cells": n_cells, "n_genes": n_genes, "targets": True}
    adata = _screen(KNOCKED_OUT, "ctrl", strata, "donor", ["Donor#1", "Donor#2"], **sizes)
    sgv.pp.split_ood(adata, "perturbation", "ctrl", "cell_type", "restim", n_hardest=3)
    return adata


def kang(n_cells: int = 2000, n_genes: int = 150) -> AnnData:
    """Seven types of blood cells with and without interferon, which is held out of CD14+ monocytes."""
    types = ["B", "CD4T", "CD8T", "CD14+Mono", "Dendritic", "FCGR3A+Mono", "NK"]
    sizes = {"n_cells": n_cells, "n_genes": n_genes, "control_share": 0.5}
    adata = _screen(["IFNb"], "control", pd.DataFrame({"cell_type": types}), "donor", ["1", "2"], **sizes)
    strongest = abs(adata[adata.obs["perturbation"] == "IFNb"].X.mean(0) - adata.X.mean(0)).A1.argsort()[::-1]
    names = adata.var_names.to_numpy(copy=True)
    names[strongest[: len(INDUCED)]] = INDUCED
    adata.var_names = names
    sgv.pp.split_ood(adata, "perturbation", "control", "cell_type", "CD14+Mono", n_hardest=1)
    return adata


def _screen(
    treatments: Sequence[str],
    control: str,
    strata: pd.DataFrame,
    donor_key: str,
    donors: Sequence[str],
    *,
    targets: bool = False,
    **sizes: Any,
) -> AnnData:
    """Simulate a screen, and name its conditions.

    Parameters
    ----------
    treatments, control
        Names of the levels of `perturbation`.
    strata
        One row per simulated cell type, with the columns it becomes.
    donor_key, donors
        Column that the simulated donors become, and their names.
    targets
        Treatments are genes, whose names the perturbed regulators get.
    **sizes
        Arguments of ``sgv.datasets.simulate``.
    """
    adata = sgv.datasets.simulate(
        n_perturbations=len(treatments), n_cell_types=len(strata), n_donors=len(donors), n_ood_pairs=0, **sizes
    )
    made = adata.obs
    names = dict(zip(made["perturbation"].cat.categories, [control, *treatments], strict=True))
    if targets:
        adata.var_names = [names.get(gene, gene) for gene in adata.var_names]
    rows = strata.astype("category").iloc[made["cell_type"].cat.codes].set_index(made.index)
    adata.obs = rows.assign(perturbation=made["perturbation"].cat.rename_categories(names))
    adata.obs[donor_key] = made["donor"].cat.rename_categories(list(donors))
    if "dose" in made:
        adata.obs["dose"] = made["dose"]
    del adata.uns["simulation"]  # the names in it no longer hold
    for slot in (adata.obsm, adata.varm):
        slot.clear()
    return adata
