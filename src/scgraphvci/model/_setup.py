"""`setup_anndata` and `setup_mudata`, the registration that models of this package share."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from scvi.data import AnnDataManager
from scvi.model.base import BaseModelClass
from torch.utils.data import Subset

from scgraphvci._constants import KEYS
from scgraphvci._warn import warn
from scgraphvci.data import (
    ContinuousField,
    DescriptorField,
    GraphField,
    OutcomeField,
    SizeFactorField,
    SplitField,
    StratumField,
    TreatmentField,
    TreatmentTable,
)
from scgraphvci.data._fields import stratum_levels
from scgraphvci.data._read import modality as modality_of
from scgraphvci.data._rows import by_rows
from scgraphvci.train._loader import ScreenDataset
from scgraphvci.train._splitter import not_held_out

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import pandas as pd
    from anndata import AnnData
    from mudata import MuData

_Base: Any = BaseModelClass if TYPE_CHECKING else object


class ScreenSetupMixin(_Base):
    """Registers a perturbation screen: expression, treatment, covariates, split and network."""

    @property
    def treatments(self) -> TreatmentTable:
        """The treatments of the screen the model was set up with."""
        return TreatmentTable.from_state(self.get_state_registry(KEYS.TREATMENT))

    @classmethod
    def setup_anndata(
        cls,
        adata: AnnData,
        perturbation_key: str = "perturbation",
        control: str = "control",
        layer: str | None = None,
        dose_key: str | None = None,
        combination_sep: str | None = None,
        categorical_covariate_keys: list[str] | None = None,
        continuous_covariate_keys: list[str] | None = None,
        size_factor_key: str | None = None,
        split_key: str | None = None,
        grn_key: str | None = None,
        gene_features_key: str | None = None,
        treatment_features: pd.DataFrame | str | None = None,
        perturbation_direction: str | Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        """Register a screen.

        Parameters
        ----------
        adata
            Cells x genes. Expression is dense, sparse, in memory or backed.
        perturbation_key
            Column of `adata.obs` with the treatment each cell received.
        control
            Level of that column that is the control.
        layer
            Layer with expression; None for `adata.X`. Log-normalised for ``likelihood="normal"``, counts for NB, ZINB.
        dose_key
            Column with the dose: a number, or one per member of a combination joined by `combination_sep`. Control's
            dose is 0 whatever the column says.
        combination_sep
            What joins the members of a combination, such as "+" in "A+B". None: levels are never split.
        categorical_covariate_keys
            Columns whose joint levels are the strata, such as cell type and donor. A numeric column of more than 20
            values must have 10 cells for each on average.
        continuous_covariate_keys
            Numeric columns that enter the network only.
        size_factor_key
            Column with library sizes or size factors, for counts; the row sum of counts if None.
        split_key
            Column with the values "train", "test" and "ood". Whatever learns sees "train" cells only, early stopping
            sees "test" cells, "ood" cells are invisible. None: 4 : 1 at random.
        grn_key
            Network in `adata.varp`, rows regulators, columns targets (see :func:`scgraphvci.grn.add_grn`). None gives
            VCI, the model without a graph.
        gene_features_key
            Features in `adata.varm`.
        treatment_features
            What is known of treatments, so that :class:`GraphVCI` can predict treatments that no training cell
            received: a frame of single treatments (index) x numeric features, or the name of one in `adata.uns`. Rows
            of treatments that the data never show are welcome, those of training treatments must be there. Treatments
            named after genes need none.
        perturbation_direction
            "knockout", "interference" or "activation", for all perturbations or a dict with one for each: what they do
            to the gene they are named after. Needed only where a screen has several of them.
        **kwargs
            For scvi-tools' own use when a saved set-up is replayed.

        Raises
        ------
        KeyError
            If a column, layer or network is missing.
        ValueError
            If values are missing, not finite, or not among those allowed.

        Notes
        -----
        Writes `obs["_scgraphvci_treatment"]`, `obs["_scgraphvci_stratum"]`, with continuous covariates
        `obsm["_scgraphvci_continuous"]`, and scvi-tools' identifiers in `uns`.
        """
        cls._register(adata, cls._get_setup_method_args(**locals()), **kwargs)

    @classmethod
    def setup_mudata(
        cls,
        mdata: MuData,
        modality: str = "rna",
        perturbation_key: str = "perturbation",
        control: str = "control",
        layer: str | None = None,
        dose_key: str | None = None,
        combination_sep: str | None = None,
        categorical_covariate_keys: list[str] | None = None,
        continuous_covariate_keys: list[str] | None = None,
        size_factor_key: str | None = None,
        split_key: str | None = None,
        grn_key: str | None = None,
        gene_features_key: str | None = None,
        treatment_features: pd.DataFrame | str | None = None,
        perturbation_direction: str | Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        """Register a screen held in one modality of a MuData.

        Parameters are those of :meth:`setup_anndata`; all keys are read from ``mdata[modality]``. Columns that only
        ``mdata.obs`` holds are copied to it with ``mdata.push_obs()``.

        Parameters
        ----------
        mdata
            The data.
        modality
            Name of the modality with expression.
        perturbation_key, control, layer, dose_key, combination_sep, categorical_covariate_keys
            See :meth:`setup_anndata`.
        continuous_covariate_keys, size_factor_key, split_key, grn_key, gene_features_key, treatment_features
            See :meth:`setup_anndata`.
        perturbation_direction
            See :meth:`setup_anndata`.
        **kwargs
            For scvi-tools' own use when a saved set-up is replayed.
        """
        setup_method_args = cls._get_setup_method_args(**locals())
        modality_of(mdata, modality)
        cls._register(mdata, setup_method_args, **kwargs)

    @classmethod
    def _fields(cls, setup_args: Mapping[str, Any]) -> list[Any]:
        """Return the fields that the arguments of a set-up ask for."""
        arguments = dict(setup_args)
        return screen_fields(mod_key=arguments.pop("modality", None), **arguments)

    @classmethod
    def _register(cls, data: AnnData | MuData, setup_method_args: dict, **kwargs: Any) -> None:
        fields = cls._fields(setup_method_args["setup_args"])
        manager = ScreenManager(fields=fields, setup_method_args=setup_method_args)
        is_new = kwargs.get("source_registry") is None
        if not is_new:  # other new data may lack controls, but not those a model is loaded with
            next(field for field in fields if isinstance(field, TreatmentField)).require_control(data)
        manager.register_fields(data, **kwargs)
        if is_new:
            _warn_without_control(manager)
        cls.register_manager(manager)


class ScreenManager(AnnDataManager):
    """Registers all fields or, if one of them finds fault with the data, none; reads cells whatever holds them."""

    def register_fields(self, adata: AnnData | MuData, source_registry: dict | None = None, **kwargs: Any) -> None:
        """Register fields, or transfer them from a saved registry; leave the data as they were if one fails."""
        with _unchanged_on_error(adata, self.fields):
            _check_order_of_cells(adata, self.fields[0].mod_key)
            super().register_fields(adata, source_registry, **kwargs)

    def get_from_registry(self, registry_key: str) -> Any:
        """Return registered data; expression as something that can be read by rows."""
        data = super().get_from_registry(registry_key)
        return by_rows(data) if registry_key == KEYS.OUTCOME else data

    def create_torch_dataset(
        self, indices: Any = None, data_and_attributes: Any = None, load_sparse_tensor: bool = False
    ) -> Any:
        """Return a dataset of some cells, or of all."""
        if load_sparse_tensor:
            return super().create_torch_dataset(indices, data_and_attributes, load_sparse_tensor)
        dataset = ScreenDataset(self, data_and_attributes)
        return dataset if indices is None else Subset(dataset, indices)


def _check_order_of_cells(adata: AnnData | MuData, mod_key: str | None) -> None:
    """Check that a modality holds the cells of its MuData in the same order: indices mean both."""
    if mod_key is not None and not adata.obs_names.equals(modality_of(adata, mod_key).obs_names):
        msg = (
            f"Modality {mod_key!r} holds other cells than the MuData, or in another order. Take cells that all "
            f"modalities have, in one order, with `mdata = mdata[mdata[{mod_key!r}].obs_names].copy()`."
        )
        raise ValueError(msg)


@contextmanager
def _unchanged_on_error(adata: AnnData | MuData, fields: list[Any]) -> Iterator[None]:
    """Put back the columns that our fields write if registration fails half-way."""
    own = [field for field in fields if str(field.attr_key).startswith("_scgraphvci")]
    before = []
    for field in own:
        annotation, key = getattr(modality_of(adata, field.mod_key), field.attr_name), field.attr_key
        before.append((annotation, key, annotation[key].copy() if key in annotation else None))
    try:
        yield
    except Exception:
        for annotation, key, value in before:
            if value is not None:
                annotation[key] = value
            elif key in annotation:
                del annotation[key]
        raise


def _warn_without_control(manager: AnnDataManager) -> None:
    """Warn of strata without control cells: nothing can be estimated against control there."""
    stratum = np.asarray(manager.get_from_registry(KEYS.STRATUM)).ravel()
    condition = np.asarray(manager.get_from_registry(KEYS.TREATMENT)).ravel()
    cells = not_held_out(manager)
    lacking = np.setdiff1d(stratum[cells], stratum[cells][condition[cells] == 0]).astype(int)
    if lacking.size == 0:
        return
    state = manager.get_state_registry(KEYS.STRATUM)
    codes, levels = np.asarray(state["strata"])[lacking], list(stratum_levels(state).values())
    names = [", ".join(level[code] for level, code in zip(levels, row, strict=True)) for row in codes[:10]]
    msg = (
        f"{lacking.size} strata have no control cells outside the held-out ones: {'; '.join(names)}. Their effects "
        "will have status 'no_reference'; fewer `categorical_covariate_keys` would pool them with others."
    )
    warn(msg)


def screen_fields(
    *,
    mod_key: str | None,
    perturbation_key: str,
    control: str,
    layer: str | None,
    dose_key: str | None,
    combination_sep: str | None,
    categorical_covariate_keys: list[str] | None,
    continuous_covariate_keys: list[str] | None,
    size_factor_key: str | None,
    split_key: str | None,
    grn_key: str | None,
    gene_features_key: str | None,
    treatment_features: pd.DataFrame | str | None = None,
    perturbation_direction: str | Mapping[str, str] | None = None,
) -> list[Any]:
    """Return the fields of a screen. Those that check most cheaply come first."""
    _check_keys("categorical_covariate_keys", categorical_covariate_keys, perturbation_key)
    _check_keys("continuous_covariate_keys", continuous_covariate_keys, perturbation_key)
    if combination_sep == "":
        msg = "`combination_sep` is empty. Name what joins members, such as '+'; None never splits a treatment."
        raise ValueError(msg)
    fields: list[Any] = [
        SplitField(split_key, mod_key=mod_key),
        GraphField(grn_key, gene_features_key, mod_key=mod_key),
        SizeFactorField(size_factor_key, mod_key=mod_key),
        OutcomeField(layer, mod_key=mod_key),
        ContinuousField(continuous_covariate_keys, split_key, mod_key=mod_key),
        StratumField(categorical_covariate_keys, mod_key=mod_key),
        TreatmentField(perturbation_key, control, dose_key, combination_sep, split_key, mod_key=mod_key),
    ]
    if treatment_features is not None or perturbation_direction is not None:
        fields.append(
            DescriptorField(
                treatment_features, perturbation_direction, perturbation_key, control, combination_sep, split_key,
                mod_key=mod_key,
            )
        )  # fmt: skip
    return fields


def _check_keys(argument: str, keys: list[str] | None, perturbation_key: str) -> None:
    """Check that covariate keys are a list of different columns, and none of them the treatment."""
    if isinstance(keys, str):
        msg = f"`{argument}` must be a list, such as [{keys!r}]."
        raise TypeError(msg)
    repeated = sorted({key for key in keys or [] if list(keys or []).count(key) > 1})
    if repeated:
        msg = f"`{argument}` names {repeated} twice. Name every column once."
        raise ValueError(msg)
    if perturbation_key in (keys or []):
        msg = (
            f"`{argument}` names {perturbation_key!r}, which is the treatment: a covariate is measured before it. "
            "Leave it out."
        )
        raise ValueError(msg)
