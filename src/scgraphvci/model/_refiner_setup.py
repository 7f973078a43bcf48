"""`setup_anndata` and `setup_mudata` of the refiner."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scvi.model.base import BaseModelClass

from scgraphvci.data import GraphField, InterventionField, OutcomeField, SplitField, StratumField
from scgraphvci.data._read import modality as modality_of
from scgraphvci.model._setup import ScreenManager

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData
    from mudata import MuData

_Base: Any = BaseModelClass if TYPE_CHECKING else object


class RefinerSetupMixin(_Base):
    """Registers expression, strata, split and the prior network."""

    @classmethod
    def setup_anndata(
        cls,
        adata: AnnData,
        layer: str | None = None,
        grn_key: str = "grn",
        split_key: str | None = None,
        categorical_covariate_keys: list[str] | None = None,
        gene_features_key: str | None = None,
        perturbation_key: str | None = None,
        control: str = "control",
        **kwargs: Any,
    ) -> None:
        """Register expression and the prior network.

        Parameters
        ----------
        adata
            Cells x genes.
        layer
            Layer with log-normalised expression; None for `adata.X`.
        grn_key
            Prior network in `adata.varp`, rows regulators, columns targets (see :func:`scgraphvci.grn.add_grn`).
        split_key
            Column with the values "train", "test" and "ood". Only "train" cells are learned from, "test" cells serve
            validation. None: 4 : 1 at random.
        categorical_covariate_keys
            Columns whose joint levels are the strata. Strata means are removed from expression, so that differences
            between, say, cell types or donors do not pass for regulation. Do not name the treatment here: what
            interventions do to targets is the best evidence there is.
        gene_features_key
            Features in `adata.varm`.
        perturbation_key
            Column with treatments. Those named by a gene of `adata` are taken for interventions on it: which genes
            shift where a regulator is perturbed is evidence for its edges. Other names, combinations of genes joined
            by a separator among them, are no evidence of this kind. None: no treatment is known.
        control
            The value of `perturbation_key` for cells without a treatment; unused without that.
        **kwargs
            For scvi-tools' own use when a saved set-up is replayed.

        Raises
        ------
        KeyError
            If a column, layer or network is missing.
        ValueError
            If values are missing or not finite, the network has no edges, or the control has no cells.

        Notes
        -----
        Writes `obs["_scgraphvci_stratum"]`, with `perturbation_key` also `obs["_scgraphvci_intervention"]`, and
        scvi-tools' identifiers in `uns`.
        """
        cls._register(adata, cls._get_setup_method_args(**locals()), **kwargs)

    @classmethod
    def setup_mudata(
        cls,
        mdata: MuData,
        modality: str = "rna",
        layer: str | None = None,
        grn_key: str = "grn",
        split_key: str | None = None,
        categorical_covariate_keys: list[str] | None = None,
        gene_features_key: str | None = None,
        perturbation_key: str | None = None,
        control: str = "control",
        **kwargs: Any,
    ) -> None:
        """Register expression and the prior network held in one modality of a MuData.

        All keys are read from ``mdata[modality]``. Columns that only ``mdata.obs`` holds are copied to it with
        ``mdata.push_obs()``. :func:`scgraphvci.grn.from_atac` makes a network from RNA and ATAC.

        Parameters
        ----------
        mdata
            The data.
        modality
            Name of the modality with expression.
        layer, grn_key, split_key, categorical_covariate_keys, gene_features_key, perturbation_key, control
            See :meth:`setup_anndata`.
        **kwargs
            For scvi-tools' own use when a saved set-up is replayed.

        Raises
        ------
        KeyError
            If the modality, a column, layer or network is missing.
        ValueError
            If values are missing or not finite, the network has no edges, the control has no cells, or the modality
            holds its cells in another order than the MuData.
        """
        setup_method_args = cls._get_setup_method_args(**locals())
        modality_of(mdata, modality)
        cls._register(mdata, setup_method_args, **kwargs)

    @classmethod
    def _fields(cls, setup_args: Mapping[str, Any]) -> list[Any]:
        """Return the fields that the arguments of a set-up ask for."""
        if setup_args["grn_key"] is None:
            msg = "`grn_key` is None, but refinement starts from a network. Add one with `scgraphvci.grn.add_grn`."
            raise ValueError(msg)
        mod_key = setup_args.get("modality")
        return [
            SplitField(setup_args["split_key"], mod_key=mod_key),
            GraphField(setup_args["grn_key"], setup_args["gene_features_key"], mod_key=mod_key),
            OutcomeField(setup_args["layer"], mod_key=mod_key),
            StratumField(setup_args["categorical_covariate_keys"], mod_key=mod_key),
            InterventionField(setup_args["perturbation_key"], setup_args["control"], mod_key=mod_key),
        ]

    @classmethod
    def _register(cls, data: AnnData | MuData, setup_method_args: dict, **kwargs: Any) -> None:
        manager = ScreenManager(
            fields=cls._fields(setup_method_args["setup_args"]), setup_method_args=setup_method_args
        )
        manager.register_fields(data, **kwargs)
        cls.register_manager(manager)
