"""Saving and loading of scvi-tools models without pickle."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata
import mudata
from anndata import AnnData
from mudata import MuData
from scvi.data import AnnDataManager
from scvi.model.base import BaseModelClass
from scvi.module.base import PyroBaseModuleClass

from scgraphvci import _archive
from scgraphvci._compat import (
    SAVE_KEYS,
    SETUP_ARGS_KEY,
    SETUP_METHOD_NAME,
    initialize_model,
    parse_device_args,
    validate_var_names,
)
from scgraphvci._untrusted import read_h5ad, read_h5mu
from scgraphvci.data._screen_field import DamagedStateError
from scgraphvci.train._checkpoint import TrainRunner

if TYPE_CHECKING:
    from typing import Self

    import torch

# The base class is named for the type checker only: at run time this is a mixin, to be placed first.
_Base: Any = BaseModelClass if TYPE_CHECKING else object

_SETUP_METHODS = ("setup_anndata", "setup_mudata")


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
                with _archive.replacing(directory / _data_file(self.registry, prefix)) as temporary_data:
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
        contents, weights = _read_model(dir_path, prefix)
        _check_class(contents["class_name"], (cls.__name__, *(allowed_classes_names_list or [])))
        attributes = contents["attributes"]
        registry = attributes.pop("registry_")
        if adata is None:
            adata = _saved_data(Path(dir_path) / _data_file(registry, prefix or ""))
        if adata is not False:
            if isinstance(contents["var_names"], dict) and isinstance(adata, AnnData):
                msg = (
                    f"{_model_path(dir_path, prefix)} has gene names by modality, and `adata` is an AnnData. Pass the "
                    "MuData that the model was set up with, or one like it."
                )
                raise ValueError(msg)
            validate_var_names(adata, contents["var_names"])
            setup = getattr(cls, _setup_method(registry))
            try:
                setup(adata, source_registry=registry, **registry[SETUP_ARGS_KEY])
            except DamagedStateError as error:
                msg = f"{_model_path(dir_path, prefix)} is not a readable model file: {error}."
                raise ValueError(msg) from error

        try:
            model = initialize_model(cls, None if adata is False else adata, registry, attributes, None)
            model._saved_var_names = contents["var_names"]
            model.module.on_load(model, pyro_param_store=None)
            model.module.load_state_dict(weights)
        except (TypeError, AttributeError, LookupError, OverflowError, MemoryError, RuntimeError) as error:
            msg = (
                f"{_model_path(dir_path, prefix)} is not a readable model file: no "
                f"{cls.__name__} can be built of its arguments and weights ({error})."
            )
            raise ValueError(msg) from error
        model.to_device(torch_device)
        model.module.eval()
        if adata is not False:
            model._validate_anndata(adata)
        return model

    @staticmethod
    def load_registry(dir_path: str | Path, prefix: str | None = None) -> dict[str, Any]:
        """Return the registry of a saved model, without loading the model.

        Raises
        ------
        FileNotFoundError, ValueError
            As `load`.
        """
        return _read_model(dir_path, prefix)[0]["attributes"]["registry_"]

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
        _setup_method(self.registry)
        if isinstance(self.module, PyroBaseModuleClass):
            msg = "Pyro modules keep their parameters outside the module: save them with `legacy=True`."
            raise NotImplementedError(msg)
        return {
            "class_name": type(self).__name__,
            "package_version": version("scgraphvci"),
            "var_names": self.get_var_names(),
            "attributes": {name: value for name, value in self._get_user_attributes() if name.endswith("_")},
        }


def _model_path(dir_path: str | Path, prefix: str | None) -> Path:
    return Path(dir_path) / f"{prefix or ''}{_archive.MODEL_FILE}"


def _read_model(dir_path: str | Path, prefix: str | None) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Read a file and check that it has the parts of a model, each of the right kind."""
    path = _model_path(dir_path, prefix)
    if not path.is_file():
        msg = f"No saved model at {path}. Check `dir_path` and `prefix`."
        pickled = path.with_name(f"{prefix or ''}{SAVE_KEYS.MODEL_FNAME}")
        if pickled.is_file():
            msg += f" There is a pickled model at {pickled}: pass `legacy=True` to load it, if you trust its source."
        raise FileNotFoundError(msg)
    contents, weights = _archive.read(path)
    attributes = contents.get("attributes")
    attributes = attributes if isinstance(attributes, dict) else {}
    registry, init_params = attributes.get("registry_"), attributes.get("init_params_")
    complete = {"class_name", "var_names"} <= contents.keys() and isinstance(init_params, dict)
    parts = (SETUP_ARGS_KEY, "field_registries")
    if not (complete and isinstance(registry, dict) and all(isinstance(registry.get(part), dict) for part in parts)):
        msg = f"{path} is not a readable model file: class, gene names, registry or constructor arguments are missing."
        raise ValueError(msg)
    wrong = [name for name, value in registry[SETUP_ARGS_KEY].items() if not _is_argument(name, value)]
    if wrong:
        msg = (
            f"{path} is not a readable model file: arguments {wrong[:5]} of its set-up are not the names they must be."
        )
        raise ValueError(msg)
    # Attributes are set by name, so a name from a file must be of the only kind that `save` writes.
    wrong = [name for name in attributes if not (str(name).isidentifier() and name.endswith("_")) or name[:2] == "__"]
    if wrong:
        msg = f"{path} is not a readable model file: {wrong[:5]} are not attributes of a saved model."
        raise ValueError(msg)
    wrong = [name for name, weight in weights.items() if weight.is_complex() or not weight.isfinite().all()]
    if wrong:
        msg = f"{path} holds weights that are not finite numbers: {wrong[:5]}. Its training failed, or it was changed."
        raise ValueError(msg)
    return contents, weights


def _is_argument(name: str, value: Any) -> bool:
    """Whether a saved argument of the set-up names what is looked up by it, where it is one that does."""
    if name.endswith("_keys"):
        return value is None or (isinstance(value, Collection) and all(isinstance(key, str) for key in value))
    return value is None or isinstance(value, str) or not (name == "layer" or name.endswith("_key"))


def _check_class(name: str, allowed: tuple[str, ...]) -> None:
    if name not in allowed:
        msg = (
            f"The file holds a {name}, not a {allowed[0]}. Load it with `{name}.load`, or pass "
            f"`allowed_classes_names_list=[{name!r}]` if the classes fit."
        )
        raise ValueError(msg)


def _setup_method(registry: dict[str, Any]) -> str:
    """Return the name of the setup method; a name from a file is called, so it must be one of two."""
    method = registry.get(SETUP_METHOD_NAME, _SETUP_METHODS[0])
    if method not in _SETUP_METHODS:
        msg = f"The model was set up by {method!r}; only {' and '.join(_SETUP_METHODS)} are supported without pickle."
        raise ValueError(msg)
    return method


def _data_file(registry: dict[str, Any], prefix: str) -> str:
    is_mudata = _setup_method(registry) == "setup_mudata"
    return f"{prefix}{SAVE_KEYS.MDATA_FNAME if is_mudata else SAVE_KEYS.ADATA_FNAME}"


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
    warnings.warn(msg, UserWarning, stacklevel=3)
    return False
