"""What a saved model's file must hold before anything is built of it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scgraphvci import _archive
from scgraphvci._compat import SAVE_KEYS, SETUP_ARGS_KEY, SETUP_METHOD_NAME

if TYPE_CHECKING:
    import torch

_SETUP_METHODS = ("setup_anndata", "setup_mudata")


def model_path(dir_path: str | Path, prefix: str | None) -> Path:
    """Return where a model lies that was saved into a directory under a prefix."""
    return Path(dir_path) / f"{prefix or ''}{_archive.MODEL_FILE}"


def read_model(dir_path: str | Path, prefix: str | None) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Read a file and check that it has the parts of a model, each of the right kind.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is damaged, of a newer format or of another kind, or a part is missing or not of its kind.
    """
    path = model_path(dir_path, prefix)
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
    return value is None or isinstance(value, str) or not (name in ("layer", "modality") or name.endswith("_key"))


def check_class(name: str, allowed: tuple[str, ...]) -> None:
    """Raise a ValueError if a file holds a model of none of the classes allowed."""
    if name not in allowed:
        msg = (
            f"The file holds a {name}, not a {allowed[0]}. Load it with `{name}.load`, or pass "
            f"`allowed_classes_names_list=[{name!r}]` if the classes fit."
        )
        raise ValueError(msg)


def setup_method(registry: dict[str, Any]) -> str:
    """Return the name of the setup method; a name from a file is called, so it must be one of two."""
    method = registry.get(SETUP_METHOD_NAME, _SETUP_METHODS[0])
    if method not in _SETUP_METHODS:
        msg = f"The model was set up by {method!r}; only {' and '.join(_SETUP_METHODS)} are supported without pickle."
        raise ValueError(msg)
    return method


def data_file(registry: dict[str, Any], prefix: str) -> str:
    """Return the name of the file with the data of a model."""
    is_mudata = setup_method(registry) == "setup_mudata"
    return f"{prefix}{SAVE_KEYS.MDATA_FNAME if is_mudata else SAVE_KEYS.ADATA_FNAME}"


@contextmanager
def unreadable(path: Path, what: str) -> Iterator[None]:
    """Say of a file why it is not one of ours, whatever reading it raises."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        msg = f"{path} is not a readable model file: {what} ({type(error).__name__}: {error})."
        raise ValueError(msg) from error


def check_depth(arguments: Any, n_weights: int) -> None:
    """Raise a ValueError if an argument asks for more layers than there are weights: even empty ones take time."""
    for name, value in arguments.items() if isinstance(arguments, dict) else ():
        if str(name).endswith("_layers") and value is not None and not (type(value) is int and value <= n_weights):
            msg = f"{name}={value!r:.50} for {n_weights} weights"
            raise ValueError(msg)
        check_depth(value, n_weights)
