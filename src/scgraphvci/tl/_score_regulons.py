"""Activity of regulators, read from the expression of their targets."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from scgraphvci.grn import get_grn

METHODS = ("ulm", "mlm", "waggr", "zscore", "viper", "aucell")


def score_regulons(
    adata: ad.AnnData,
    grn_key: str = "grn",
    layer: str | None = None,
    *,
    key_added: str | None = None,
    method: str = "ulm",
    min_targets: int = 5,
    copy: bool = False,
) -> ad.AnnData | None:
    """Score the activity of every regulator in every cell, observed or counterfactual, with decoupler.

    Score `layer=None` and a layer that :meth:`scgraphvci.GraphVCI.add_counterfactuals` wrote, and compare: differences
    are changes in regulator activity that the model expects of a treatment.

    Parameters
    ----------
    adata
        Cells x genes with log-normalised expression and a network. Signs of weights matter: a repressed target speaks
        for activity where it is low. A network without signs takes every edge for an activation.
    grn_key
        Network in `adata.varp`, rows regulators, columns targets. Self-loops are left out.
    layer
        Layer with expression; None for `adata.X`. Cells with NaN, for which a counterfactual was not asked, and cells
        without counts get NaN.
    key_added
        Key to write under; "regulons" or, for a layer, "regulons_<layer>" if None.
    method
        Method of decoupler (Badia-i-Mompel et al., Bioinformatics Advances 2:vbac016, 2022): "ulm" (univariate linear
        model, the t-value of weights as predictor of the cell's expression), "mlm", "waggr", "zscore", "viper" or
        "aucell".
    min_targets
        Regulators with fewer targets are left out.
    copy
        Write to a copy and return it.

    Returns
    -------
    None, or the copy. Writes

    * `obsm[key_added]`: data frame of scores, one row per cell and one column per regulator
    * `uns[key_added]`: dict with `params` (the arguments)

    Raises
    ------
    KeyError
        If there is no such network or layer.
    ValueError
        If the method is unknown, no regulator has enough targets, or no cell has expression.

    Examples
    --------
    >>> import scgraphvci as sgv
    >>> adata = sgv.datasets.simulate(n_cells=300, n_genes=60, n_perturbations=4, seed=0)
    >>> sgv.tl.score_regulons(adata, "grn_true")
    >>> adata.obsm["regulons"].shape[0]
    300
    """
    import decoupler as dc  # takes seconds to import, and only this tool needs it

    if method not in METHODS:
        msg = f"Unknown method {method!r}. Choose one of {list(METHODS)}."
        raise ValueError(msg)
    net = get_grn(adata, grn_key)[["source", "target", "weight"]]
    if layer is not None and layer not in adata.layers:
        msg = f"Layer {layer!r} not found. Layers: {list(adata.layers)}; `layer=None` uses X."
        raise KeyError(msg)
    net = net[net["source"] != net["target"]]
    largest = int(net["source"].value_counts().max()) if len(net) else 0
    if largest < min_targets:
        msg = (
            f"No regulator has min_targets={min_targets} targets; the largest number is {largest}. Lower `min_targets`."
        )
        raise ValueError(msg)
    matrix = adata.X if layer is None else adata.layers[layer]
    cells = _scorable(matrix)
    if not cells.any():
        msg = f"No cell has expression in {'X' if layer is None else f'layer {layer!r}'}: all are NaN or constant."
        raise ValueError(msg)
    expression = ad.AnnData(
        X=sparse.csr_matrix(matrix[np.flatnonzero(cells)]),
        obs=pd.DataFrame(index=adata.obs_names[cells].astype(str)),
        var=pd.DataFrame(index=adata.var_names.astype(str)),
    )
    getattr(dc.mt, method)(expression, net, tmin=min_targets, empty=False)
    found = expression.obsm[f"score_{method}"]
    scores = pd.DataFrame(np.nan, index=adata.obs_names, columns=found.columns)
    scores.iloc[np.flatnonzero(cells)] = found.to_numpy()

    adata = adata.copy() if copy else adata
    key = key_added or ("regulons" if layer is None else f"regulons_{layer}")
    adata.obsm[key] = scores
    params = {"grn_key": grn_key, "layer": layer, "method": method, "min_targets": min_targets}
    adata.uns[key] = {"params": {name: value for name, value in params.items() if value is not None}}
    return adata if copy else None


def _scorable(matrix: np.ndarray | sparse.csr_matrix) -> np.ndarray:
    """Which cells have no NaN, and genes that differ: without, their activity is not defined."""
    total, high, low = (
        np.asarray(part.toarray() if sparse.issparse(part) else part).ravel()
        for part in (matrix.sum(axis=1), matrix.max(axis=1), matrix.min(axis=1))
    )
    return np.isfinite(total) & (high > low)
