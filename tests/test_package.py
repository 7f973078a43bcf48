"""What holds for the package as a whole."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import pytest

import scgraphvci

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "scgraphvci"
MODULES = sorted(SOURCE.rglob("*.py"))
ROOMS = [name for _, name, is_package in pkgutil.iter_modules([str(SOURCE)]) if is_package]
# Rooms that users call; the others are reached through them.
USER_ROOMS = [room for room in ROOMS if room in {"baselines", "datasets", "grn", "metrics", "pl", "pp", "tl"}]


def room_names(room: str) -> list[str]:
    return list(getattr(importlib.import_module(f"scgraphvci.{room}"), "__all__", []))


def module_id(path: Path) -> str:
    return str(path.relative_to(SOURCE))


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imported_names(tree: ast.AST) -> list[str]:
    """Dotted names of everything that a module imports, at any depth."""
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def public_objects() -> list[tuple[str, object]]:
    """Every name in ``__all__`` of the package and its rooms, with the public methods of our own classes."""
    found: list[tuple[str, object]] = []
    for module in [scgraphvci, *(importlib.import_module(f"scgraphvci.{room}") for room in ROOMS)]:
        for name in getattr(module, "__all__", []):
            obj = getattr(module, name)
            found.append((f"{module.__name__}.{name}", obj))
            if inspect.isclass(obj):
                found += [(f"{module.__name__}.{name}.{key}", method) for key, method in own_methods(obj)]
    return found


def own_methods(cls: type) -> list[tuple[str, object]]:
    return [
        (key, member)
        for key, member in inspect.getmembers(cls)
        if not key.startswith("_")
        and (inspect.isfunction(member) or inspect.ismethod(member))
        and member.__module__.startswith("scgraphvci")
    ]


IMPORT_PROBE = """
import importlib, logging, pkgutil, random, sys, warnings

# What the dependencies do when they are imported is theirs.
import anndata, lightning, matplotlib.pyplot, mudata, numpy, pandas, rich, safetensors.torch, scanpy, scipy
import scvi.data, scvi.dataloaders, scvi.external, scvi.model, scvi.module, scvi.train, torch, torch_geometric.nn

def state():
    return {
        "warning filters": list(warnings.filters),
        "root handlers": list(logging.getLogger().handlers),
        "root level": logging.getLogger().level,
        "random": random.getstate(),
        "numpy random": [part.tolist() if hasattr(part, "tolist") else part for part in numpy.random.get_state()],
        "torch random": torch.get_rng_state().tolist(),
        "torch dtype": torch.get_default_dtype(),
        "torch threads": torch.get_num_threads(),
        "scvi seed": scvi.settings.seed,
        "plot settings": dict(matplotlib.rcParams),
    }

before = state()
import scgraphvci
for module in pkgutil.walk_packages(scgraphvci.__path__, "scgraphvci."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
after = state()
changed = [key for key in before if before[key] != after[key]]
own_handlers = [name for name, logger in logging.root.manager.loggerDict.items()
                if name.startswith("scgraphvci") and getattr(logger, "handlers", [])]
sys.exit(f"changed on import: {changed}; handlers: {own_handlers}" if changed or own_handlers else 0)
"""


def test_import_has_no_side_effects():
    run = subprocess.run([sys.executable, "-c", IMPORT_PROBE], capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr[-2000:]


def test_version_is_that_of_the_installed_package():
    assert scgraphvci.__version__ == version("scgraphvci")
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"^version: (.+)$", citation, re.MULTILINE)[1] == scgraphvci.__version__


def test_type_marker_is_shipped():
    assert (files("scgraphvci") / "py.typed").is_file()


def test_public_names_are_documented():
    undocumented = [
        name
        for name, obj in public_objects()
        if (inspect.isclass(obj) or inspect.isroutine(obj)) and not (inspect.getdoc(obj) or "").strip()
    ]
    assert undocumented == []


def test_public_names_exist_once():
    for room in [scgraphvci, *(importlib.import_module(f"scgraphvci.{name}") for name in ROOMS)]:
        names = list(getattr(room, "__all__", []))
        assert len(names) == len(set(names)), room.__name__
        assert [name for name in names if not hasattr(room, name)] == [], room.__name__


def test_public_names_have_a_page():
    pages = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "api").glob("*.md"))
    listed = set(re.findall(r"^   ([A-Za-z][\w.]*)$", pages, re.MULTILINE))
    top = {name: getattr(scgraphvci, name) for name in scgraphvci.__all__}
    models = {name for name, obj in top.items() if inspect.isclass(obj) or inspect.isfunction(obj)}
    rooms = {f"{room}.{name}" for room in USER_ROOMS for name in room_names(room)}
    assert models | rooms <= listed, "name them in docs/api"


def test_readme_starts_with_the_two_commands():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```$", readme, re.DOTALL | re.MULTILINE)
    demo, tests = blocks[:2]
    for block in (demo, tests):
        assert "python3 -m venv .venv" in block
        assert "pip install -e" in block
    assert demo.rstrip().splitlines()[-1].startswith("scgraphvci demo --out ")
    assert tests.rstrip().splitlines()[-1].startswith("pytest")


@pytest.mark.parametrize("path", MODULES, ids=module_id)
def test_source_avoids_what_libraries_must_not_do(path):
    tree = parse(path)
    for node in ast.walk(tree):
        where = f"{module_id(path)}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in {"print", "eval", "exec"}, f"{where} calls {node.func.id}"
        assert not isinstance(node, ast.Assert), f"{where} validates with assert: raise an exception instead"
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{where} catches everything"
            assert not all(isinstance(part, ast.Pass) for part in node.body), f"{where} hides an error"


@pytest.mark.parametrize("path", MODULES, ids=module_id)
def test_private_names_of_scvi_are_imported_in_one_place(path):
    if path.name == "_compat.py":
        pytest.skip("this is the place")
    private = [
        name
        for name in imported_names(parse(path))
        if name.startswith("scvi.") and any(part.startswith("_") for part in name.split("."))
    ]
    assert private == [], "import private names in scgraphvci/_compat.py, with the reason"


@pytest.mark.parametrize(
    ("room", "forbidden"),
    [
        ("estimate", {"torch", "scvi", "scanpy", "mudata"}),
        ("grn", {"torch", "scvi"}),
        ("metrics", {"scvi"}),
    ],
)
def test_rooms_stay_free_of_what_they_do_not_need(room, forbidden):
    for path in (SOURCE / room).rglob("*.py"):
        roots = {name.split(".")[0] for name in imported_names(parse(path))}
        assert roots & forbidden == set(), module_id(path)


def test_only_the_top_and_the_tools_import_models():
    allowed = {"model", "tl", "baselines", "_reproduce"}
    for path in MODULES:
        room = path.relative_to(SOURCE).parts[0]
        if room in allowed or path.parent == SOURCE:
            continue
        users = [name for name in imported_names(parse(path)) if name.startswith("scgraphvci.model")]
        assert users == [], module_id(path)
