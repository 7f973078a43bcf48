"""What a model is, and how far it was trained, at a glance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
from scvi.model.base import BaseModelClass

_Base: Any = BaseModelClass if TYPE_CHECKING else object


class SummaryMixin(_Base):
    """A summary of a model, trained or not."""

    def summary(self) -> pd.Series:
        """Return sizes of the data the model was set up with, and how it was trained.

        Returns
        -------
        `class`; numbers of the set-up, such as `cells`, `vars` (genes) and `grn_edges`; `parameters`, those that are
        trained; and of a trained model `training_cells`, `validation_cells`, `epochs` and, if there was validation, the
        lowest `validation_loss`.

        Examples
        --------
        >>> import scgraphvci as sgv
        >>> adata = sgv.datasets.simulate(n_cells=300, n_genes=60, n_perturbations=4, seed=0)
        >>> sgv.GraphVCI.setup_anndata(adata, categorical_covariate_keys=["cell_type"], split_key="split")
        >>> summary = sgv.GraphVCI(adata).summary()
        >>> summary["class"], int(summary["cells"]), int(summary["vars"])
        ('GraphVCI', 300, 60)
        """
        rows: dict[str, Any] = {"class": type(self).__name__}
        rows |= {str(name).removeprefix("n_"): number for name, number in self.summary_stats.items()}
        rows["parameters"] = sum(weights.numel() for weights in self.module.parameters() if weights.requires_grad)
        if self.is_trained_:
            rows["training_cells"], rows["validation_cells"] = len(self.train_indices), len(self.validation_indices)
            history = self.history or {}
            rows["epochs"] = max(map(len, history.values()), default=0)
            if "validation_loss" in history:
                rows["validation_loss"] = float(history["validation_loss"].iloc[:, 0].astype(float).min())
        return pd.Series(rows, name="summary", dtype=object)
