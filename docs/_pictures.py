"""Make the pictures of the page on plots, from a simulated screen: `python docs/_pictures.py`."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import matplotlib as mpl
import scanpy as sc

import scgraphvci as sgv

FOLDER = Path(__file__).parent / "_static" / "plots"
DPI = 80


def main() -> None:
    """Train once, and write every picture."""
    mpl.use("Agg")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning|scvi\.dataloaders")
    warnings.filterwarnings("ignore", message="Intervals of 'robust' can be too short")  # few genes fit the pictures
    sgv.settings.seed = 0
    FOLDER.mkdir(parents=True, exist_ok=True)

    adata = sgv.datasets.simulate(n_cells=2500, n_genes=120, n_perturbations=8, n_donors=4, n_ood_pairs=8, seed=0)
    covariates = ["cell_type", "donor"]
    sgv.tl.refine_grn(
        adata,
        split_key="split",
        categorical_covariate_keys=covariates,
        perturbation_key="perturbation",
        enable_progress_bar=False,
    )
    sgv.GraphVCI.setup_anndata(adata, categorical_covariate_keys=covariates, split_key="split", grn_key="grn_refined")
    model = sgv.GraphVCI(adata)
    model.train(max_epochs=60, enable_progress_bar=False)
    evaluation = sgv.Evaluation({"GraphVCI": model}, groupby="cell_type", n_de=20)
    effects = model.marginal_effect(groupby="cell_type", cluster_key="donor")

    pairs = evaluation.pairs().query("predictor == 'GraphVCI'")
    one = pairs.sort_values("n_significant", ascending=False).iloc[0]
    treatment, stratum = one["treatment"], {"cell_type": one["cell_type"]}
    genes = evaluation.genes().query("treatment == @treatment and cell_type == @stratum['cell_type']")
    moved = (genes["true"] - genes["reference"]).abs().nlargest(3).index
    ok = effects.overlap().query("status == 'ok'").nlargest(1, "n_treated").iloc[0]
    seen = {"treatment": ok["treatment"], "stratum": {"cell_type": ok["cell_type"]}}
    regulator = sgv.grn.get_grn(adata, "grn_refined")["source"].value_counts().index[0]
    truth = sgv.grn.get_grn(adata, "grn_true")
    curves = sgv.grn.precision_recall(
        {name: sgv.grn.get_grn(adata, key) for name, key in {"refined": "grn_refined", "prior": "grn"}.items()},
        truth,
        genes=adata.var_names,
    )
    adata.obsm["X_scgraphvci"] = model.get_latent_representation()
    sc.pp.neighbors(adata, use_rep="X_scgraphvci")
    sc.tl.umap(adata)

    predictors = ["GraphVCI", "context shift", "no change"]
    keep = {"show": False, "return_fig": True}
    pl = sgv.pl
    pictures = {
        "history": pl.history(model, **keep),
        "shift_scatter": pl.shift_scatter(evaluation, predictors=predictors, **keep),
        "mean_scatter": pl.mean_scatter(
            evaluation, treatment=treatment, stratum=stratum, predictors=predictors[:2], **keep
        ),
        "evaluation_bars": pl.evaluation_bars(evaluation, **keep),
        "counterfactual_violins": pl.counterfactual_violins(
            model, genes=genes.loc[moved, "gene"], treatments=treatment, stratum=stratum, **keep
        ),
        "umap": sc.pl.umap(adata, color=["perturbation", "cell_type"], wspace=0.4, **keep),
        "grn_adjacency": pl.grn_adjacency(adata, **keep),
        "grn_neighborhood": pl.grn_neighborhood(adata, regulator=regulator, n_targets=12, **keep),
        "grn_precision_recall": pl.grn_precision_recall(curves, **keep),
        "effects_volcano": pl.effects_volcano(effects, **seen, **keep),
        "effects_forest": pl.effects_forest(effects, **seen, genes=12, **keep),
        "effects_heatmap": pl.effects_heatmap(effects, stratum=seen["stratum"], genes=20, **keep),
        "effects_leakage": pl.effects_leakage(effects, **keep),
        "effects_sensitivity": pl.effects_sensitivity(effects, **seen, **keep),
    }
    for name, figure in pictures.items():
        figure.savefig(FOLDER / f"{name}.png", dpi=DPI, bbox_inches="tight")


if __name__ == "__main__":
    main()
