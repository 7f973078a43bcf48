"""AE: an autoencoder whose treatment input is swapped."""

from __future__ import annotations

from scgraphvci.baselines._deep_model import DeepBaseline
from scgraphvci.baselines._deep_module import ConditionalAutoencoder


class AE(DeepBaseline):
    """Autoencoder with treatment and covariates as further inputs; a counterfactual decodes with another treatment.

    The baseline of the same name in Wu et al. (ICLR 2023): latent z = encoder(y, t, x), outcome = decoder(z, t), both
    deterministic, trained to reconstruct. Nothing keeps treatment out of the latent, so that the swap changes less than
    the treatment does. Nothing keeps the cell out of it either: individuality is judged by that of this model.

    Parameters
    ----------
    adata
        AnnData or MuData registered with :meth:`setup_anndata` or :meth:`setup_mudata`.
    registry
        Registry of an earlier set-up, to build a model without data.
    **module_kwargs
        `n_latent` (32), `n_hidden` (128), `n_layers` (2), `n_treatment_embedding` (32), `n_covariate_embedding` (16),
        `dropout_rate` (0).

    Examples
    --------
    >>> import scgraphvci as sgv
    >>> from scgraphvci.baselines import AE
    >>> adata = sgv.datasets.simulate(n_cells=300, n_genes=40, n_perturbations=4, seed=0)
    >>> AE.setup_anndata(adata, categorical_covariate_keys=["cell_type"], split_key="split")
    >>> model = AE(adata, n_latent=8)
    >>> model.train(max_epochs=2, accelerator="cpu", enable_progress_bar=False)
    >>> model.predict(adata.obs["perturbation"].cat.categories[1], indices=[0, 1]).shape
    (2, 40)
    """

    _module_cls = ConditionalAutoencoder
