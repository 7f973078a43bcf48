"""scGen, as pertpy has it, behind the interface of the predictors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from anndata import AnnData

MAX_EPOCHS = 100  # with the rest of the settings of pertpy's tutorial on these data


def import_scgen() -> type[Any]:
    """Return the class.

    Raises
    ------
    ImportError
        If pertpy or its JAX backend is not installed.
    """
    from pertpy.tools import Scgen

    return Scgen


class ScGen:
    """scGen trained on the cells that are not held out, its covariate the first one of the set-up.

    scGen draws the cells behind its latent shift without a seed, so that scores vary a little between runs.

    Parameters
    ----------
    adata
        Log-normalised data.
    setup
        Arguments of :meth:`scgraphvci.GraphVCI.setup_anndata`.
    seed
        Of the training.
    epochs
        At most so many.
    """

    def __init__(self, adata: AnnData, setup: dict[str, Any], seed: int, epochs: int | None) -> None:
        cls = import_scgen()
        self.adata, self._control = adata, setup["control"]
        seen = adata[(adata.obs[setup["split_key"]] != "ood").to_numpy()].copy()
        cls.setup_anndata(seen, batch_key=setup["perturbation_key"], labels_key=setup["categorical_covariate_keys"][0])
        self._model = cls(seen)
        self._model.train(
            max_epochs=MAX_EPOCHS if epochs is None else epochs,
            batch_size=32,
            train_size=0.8,
            early_stopping=True,
            early_stopping_patience=25,
            seed=seed,
        )

    def predict(
        self,
        treatment: str,
        source: str | None = None,
        indices: Sequence[int] | None = None,
        dose: None = None,
        adata: AnnData | None = None,
    ) -> AnnData:
        """Return the source cells, controls at these positions, with predictions in `X`."""
        cells = (self.adata if adata is None else adata)[indices].copy()
        return self._model.predict(ctrl_key=self._control, stim_key=treatment, adata_to_predict=cells)[0]
