"""Every private name of scvi-tools that this package uses, each with the reason it cannot be avoided.

Checked against scvi-tools 1.4.2 and 1.5.1. When an upgrade breaks something, look here first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

# `AnnDataManager.view_setup_method_args` uses `rich.pretty` without importing it.
import rich.pretty  # noqa: F401

# The identifier of an AnnData among those a model has seen, needed to let go of one of them (see `forget_manager`).
from scvi.data._constants import _SCVI_UUID_KEY as UUID_KEY

# Keys of the registry: the setup method and its arguments must be replayed when a saved model is loaded.
from scvi.data._constants import _SETUP_ARGS_KEY as SETUP_ARGS_KEY
from scvi.data._constants import _SETUP_METHOD_NAME as SETUP_METHOD_NAME

# `accelerator` and `device` of `load` must mean what they mean in every other model.
from scvi.model._utils import parse_device_args

# File names inside a save directory: `adata.h5ad`, `mdata.h5mu` and the pickled `model.pt`.
from scvi.model.base._constants import SAVE_KEYS

# `initialize_model` replays constructor arguments exactly as `BaseModelClass._get_init_params` recorded them;
# `validate_var_names` gives scvi-tools' own warning about other genes, for AnnData and for MuData.
from scvi.model.base._save_load import _initialize_model as initialize_model
from scvi.model.base._save_load import _validate_var_names as validate_var_names

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData
    from scvi.model.base import BaseModelClass

__all__ = [
    "SAVE_KEYS",
    "SETUP_ARGS_KEY",
    "SETUP_METHOD_NAME",
    "UUID_KEY",
    "forget_manager",
    "initialize_model",
    "parse_device_args",
    "validate_var_names",
]


def forget_manager(model: BaseModelClass, adata: AnnData | MuData) -> None:
    """Let a model go of data that were transferred to it; `deregister_manager` only knows data that were set up."""
    model._per_instance_manager_store.get(model.id, {}).pop(adata.uns.get(UUID_KEY), None)
