"""Saving and loading of scvi-tools models without pickle."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata
import mudata
import torch
from anndata import AnnData
from mudata import MuData
from scvi.data import AnnDataManager
from scvi.model.base import BaseModelClass
from scvi.module.base import PyroBaseModuleClass

from scgraphvci import _archive
from scgraphvci._compat import (
    SAVE_KEYS,
    SETUP_ARGS_KEY,
    initialize_model,
    parse_device_args,
    validate_var_names,
)
from scgraphvci._untrusted import read_h5ad, read_h5mu
from scgraphvci._warn import warn
from scgraphvci.model._model_file import (
    check_class,
    check_depth,
    data_file,
    model_path,
    read_model,
    setup_method,
    unreadable,
)
from scgraphvci.train._checkpoint import TrainRunner

if TYPE_CHECKING:
    from typing import Self

# The base class is named for the type checker only: at run time this is a mixin, to be placed first.
_Base: Any = BaseModelClass if TYPE_CHECKING else object


class SafeSavingMixin(_Base):
    """Save a model as one safetensors file that cannot run code when it is loaded.

    Place it before every other base, as in ``class GraphVCI(SafeSavingMixin, BaseModelClass)``. The model keeps
    scvi-tools' contract: a constructor taking `adata` and `registry`, `init_params_`, and state in attributes that end
    with an underscore. `{prefix}model.safetensors` holds the weights and every numeric array, and in its header, as
    JSON, the registry, the constructor arguments, gene names and all attributes that end with an underscore.

    Pickle is read and written only with `legacy=True`. Load such files only from people you trust.
    """

    _train_runner_cls = TrainRunner
    _saved_var_names: Any = None

    def save(
        self,
        dir_path: str | Path,
        prefix: str | None = None,
        overwrite: bool = False,
        save_anndata: bool = False,
        *,
        legacy: bool = False,
        **anndata_write_kwargs: Any,
    ) -> None:
        """Save the model, and its data if asked to.

        Files appear only when complete: an interrupted save leaves an older model in place.

        Parameters
        ----------
        dir_path
            Directory to save into; made if missing.
        prefix
            Put before every file name.
        overwrite
            Allow an existing directory. A model saved there under the same prefix is replaced, pickled or not.
        save_anndata
            Also write the data, as `adata.h5ad` or `mdata.h5mu`.
        legacy
            Write scvi-tools' pickled `model.pt` instead.
        **anndata_write_kwargs
            Passed on to the writer of the data, or with `legacy=True` to scvi-tools' `save`.

        Raises
        ------
        ValueError
            If the directory exists and `overwrite` is false, or `save_anndata` is true and the model has no data.
        TypeError
            If an attribute is not plain data; the message names it. Nothing is written then.
        OSError
            If the system refuses to write, as on a full disk. An older model stays in place.
        """
        directory, prefix = Path(dir_path), prefix or ""
        safe_path = directory / f"{prefix}{_archive.MODEL_FILE}"
        pickle_path = directory / f"{prefix}{SAVE_KEYS.MODEL_FNAME}"
        if legacy:
            super().save(
                str(dir_path), prefix=prefix, overwrite=overwrite, save_anndata=save_anndata, **anndata_write_kwargs
            )
            safe_path.unlink(missing_ok=True)
            return
        if directory.exists() and not overwrite:
            msg = f"{directory} already exists. Name another directory, or pass `overwrite=True`."
            raise ValueError(msg)
        if save_anndata and self.adata is None:
            msg = "The model was loaded without data: there is nothing to write for `save_anndata=True`."
            raise ValueError(msg)
        archive = _archive.pack(self._saved_contents(), self.module.state_dict())
        directory.mkdir(parents=True, exist_ok=True)
        with _archive.replacing(safe_path) as temporary:
            _archive.write(archive, temporary)
            if save_anndata:
                with _archive.replacing(directory / data_file(self.registry, prefix)) as temporary_data:
                    _write_data(self.adata, temporary_data, **anndata_write_kwargs)
        pickle_path.unlink(missing_ok=True)

    @classmethod
    def load(
        cls,
        dir_path: str | Path,
        adata: AnnData | MuData | bool | None = None,
        accelerator: str = "auto",
        device: int | str = "auto",
        prefix: str | None = None,
        *,
        legacy: bool = False,
        allowed_classes_names_list: list[str] | None = None,
    ) -> Self:
        """Load a saved model.

        Parameters
        ----------
        dir_path
            Directory it was saved into.
        adata
            Data like those it was trained on; `setup_anndata` need not have been run. None looks for data saved with
            the model, and loads without data, with a warning, if there are none. False loads without data.
        accelerator, device
            Where to put the model; as in scvi-tools.
        prefix
            As given to `save`.
        legacy
            Read scvi-tools' `model.pt`. **This runs whatever code the file holds**: only for files you trust.
        allowed_classes_names_list
            Names of other classes whose files may be loaded.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If the file is damaged, of a newer format, or of another class; or as `setup_anndata` raises for `adata`.
        """
        if legacy:
            allowed = allowed_classes_names_list
            return super().load(
                str(dir_path), adata, accelerator, device, prefix=prefix, allowed_classes_names_list=allowed
            )
        _, _, torch_device = parse_device_args(
            accelerator=accelerator, devices=device, return_device="torch", validate_single_device=True
        )
        contents, weights = read_model(dir_path, prefix)
        path = model_path(dir_path, prefix)
        check_class(contents["class_name"], (cls.__name__, *(allowed_classes_names_list or [])))
        registry = contents["attributes"].pop("registry_")
        cls._check_saved(path, registry, contents, weights)
        if adata is None:
            adata = _saved_data(path.with_name(data_file(registry, prefix or "")))
        if adata is not False:
            if isinstance(contents["var_names"], dict) and isinstance(adata, AnnData):
                msg = (
                    f"{path} has gene names by modality, and `adata` is an AnnData. Pass the MuData that the model was "
                    "set up with, or one like it."
                )
                raise ValueError(msg)
            validate_var_names(adata, contents["var_names"])
            setup = getattr(cls, setup_method(registry))
            setup(adata, source_registry=registry, **registry[SETUP_ARGS_KEY])
        model = cls._rebuilt(None if adata is False else adata, registry, contents, weights)
        model.to_device(torch_device)
        model.module.eval()
        if adata is not False:
            model._validate_anndata(adata)
        return model

    @classmethod
    def _rebuilt(
        cls, data: AnnData | MuData | None, registry: dict, contents: dict[str, Any], weights: dict[str, torch.Tensor]
    ) -> Self:
        """Return the model that a file holds."""
        model = initialize_model(cls, data, registry, dict(contents["attributes"]), None)
        model._saved_var_names = contents["var_names"]
        model.module.on_load(model, pyro_param_store=None)
        model.module.load_state_dict(weights)
        return model

    @classmethod
    def _check_saved(
        cls, path: Path, registry: dict[str, Any], contents: dict[str, Any], weights: dict[str, torch.Tensor]
    ) -> None:
        """Raise a ValueError if the set-up, the states of its fields, arguments and weights are not those of one model.

        The model is built of shapes alone, so that widths which the weights do not have cost nothing.
        """
        fields: list[Any] = []
        if hasattr(cls, "_fields"):  # the states of other fields are scvi-tools' concern
            with unreadable(path, "its set-up is damaged"):
                fields = cls._fields(registry[SETUP_ARGS_KEY])
        for field in fields:
            with unreadable(path, f"its registry of {field.registry_key!r} is damaged"):
                field.check_saved(registry["field_registries"])
        with unreadable(path, f"no {cls.__name__} can be built of its arguments and weights"):
            check_depth(contents["attributes"]["init_params_"], len(weights))
            with torch.device("meta"):
                cls._rebuilt(None, registry, contents, {name: weight.to("meta") for name, weight in weights.items()})

    @staticmethod
    def load_registry(dir_path: str | Path, prefix: str | None = None) -> dict[str, Any]:
        """Return the registry of a saved model, without loading the model.

        Raises
        ------
        FileNotFoundError, ValueError
            As `load`.
        """
        return read_model(dir_path, prefix)[0]["attributes"]["registry_"]

    @staticmethod
    def view_setup_args(dir_path: str | Path, prefix: str | None = None) -> None:
        """Print the arguments of `setup_anndata` of a saved model."""
        AnnDataManager.view_setup_method_args(SafeSavingMixin.load_registry(dir_path, prefix))

    def get_var_names(self, legacy_mudata_format: bool = False) -> Any:
        """Return gene names: those of the data, or, without data, those saved with the model."""
        if self.adata is None and self._saved_var_names is not None and not legacy_mudata_format:
            return self._saved_var_names
        return super().get_var_names(legacy_mudata_format=legacy_mudata_format)

    def _saved_contents(self) -> dict[str, Any]:
        """Return everything that is saved beside the weights."""
        setup_method(self.registry)
        if isinstance(self.module, PyroBaseModuleClass):
            msg = "Pyro modules keep their parameters outside the module: save them with `legacy=True`."
            raise NotImplementedError(msg)
        return {
            "class_name": type(self).__name__,
            "package_version": version("scgraphvci"),
            "var_names": self.get_var_names(),
            "attributes": {name: value for name, value in self._get_user_attributes() if name.endswith("_")},
        }


def _write_data(adata: AnnData | MuData, path: Path, **kwargs: Any) -> None:
    """Write data by function: the methods of the same names would point backed data to the new file."""
    if isinstance(adata, MuData):
        mudata.write_h5mu(path, adata, **kwargs)
    else:
        anndata.io.write_h5ad(path, adata, **kwargs)


def _saved_data(path: Path) -> AnnData | MuData | bool:
    if path.is_file():
        return read_h5mu(path) if path.suffix == ".h5mu" else read_h5ad(path)
    msg = f"No data were passed and none were saved at {path}: the model is loaded without data."
    warn(msg)
    return False
