"""Tutorials: what is stored is executed and clean, and all of it still runs, in a short form."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "tutorials"
NAMES = [
    "bring_your_own_grn", "downstream", "kang", "l008", "marson", "quickstart", "sciplex", "tuning_and_scaling",
]  # fmt: skip
STAND_INS = ["kang", "l008", "marson", "sciplex"]
MAX_BYTES = 1_500_000
# The short forms have so few genes that effects are warned of: the warning and the line of source below it.
OF_FEW_GENES = re.compile(r"^.*UserWarning: Intervals of 'robust' can be too short with .*\n(?:  .*\n?)?", re.MULTILINE)
PATH_OF_A_MACHINE = re.compile(r"/(?:home|root|tmp|work|Users|private|opt)/|[A-Z]:\\|site-packages")


def cells_of(name: str) -> list[dict]:
    """Code cells of a stored notebook."""
    notebook = json.loads((FOLDER / f"{name}.ipynb").read_text())
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def texts(output: dict) -> str:
    """Everything of an output that a reader sees as text."""
    shown = [*output.get("text", []), *output.get("traceback", [])]
    for kind, data in output.get("data", {}).items():
        shown += data if kind.startswith("text/") else []
    return "".join(shown)


def complaints(outputs: list[dict]) -> list[str]:
    """Outputs that are errors, warnings or messages on stderr."""
    return [
        texts(output)
        for output in outputs
        if output["output_type"] == "error" or output.get("name") == "stderr" or "Warning" in texts(output)
    ]


def test_every_notebook_is_tested():
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_stored_notebook_is_executed_and_clean(name):
    path, cells = FOLDER / f"{name}.ipynb", cells_of(name)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert complaints(outputs) == []
    assert any("image/png" in output.get("data", {}) for output in outputs)
    written = ["".join(cell["source"]) for cell in cells] + [texts(output) for output in outputs]
    assert PATH_OF_A_MACHINE.findall("\n".join(written)) == []
    metadata = json.loads(path.read_text())["metadata"]
    assert metadata["kernelspec"]["name"] == "python3"
    assert path.stat().st_size < MAX_BYTES


@pytest.mark.parametrize("name", NAMES)
def test_the_short_form_is_asked_for_in_a_tagged_cell(name):
    tagged = [cell for cell in cells_of(name) if "parameters" in cell["metadata"].get("tags", [])]
    assert len(tagged) == 1
    assert "SCGRAPHVCI_FAST" in "".join(tagged[0]["source"])


@pytest.mark.parametrize("name", STAND_INS)
def test_first_cell_says_which_data_are_used(name):
    assert texts(cells_of(name)[0]["outputs"][0]).startswith("Data: ")


@pytest.mark.parametrize("name", STAND_INS)
def test_every_figure_says_which_data_are_used(name):
    drawn = [
        cell for cell in cells_of(name) if any("image/png" in output.get("data", {}) for output in cell["outputs"])
    ]
    assert drawn
    assert ["".join(cell["source"]) for cell in drawn if "DATA" not in "".join(cell["source"])] == []


@pytest.fixture(scope="module")
def execution() -> ModuleType:
    """The script that executes tutorials."""
    spec = importlib.util.spec_from_file_location("_execute", FOLDER / "_execute.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_notebook_runs(name, execution, monkeypatch, tmp_path):
    monkeypatch.setenv("SCGRAPHVCI_FAST", "1")
    monkeypatch.delenv("MPLBACKEND", raising=False)  # figures are outputs
    notebook = execution.execute(FOLDER / f"{name}.ipynb")
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert [texts(output) for output in outputs if output.output_type == "error"] == []
    assert [left for one in complaints(outputs) if (left := OF_FEW_GENES.sub("", one).strip())] == []
    assert any("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kang"])
def test_notebook_runs_without_real_data(name, execution, monkeypatch):
    monkeypatch.setenv("SCGRAPHVCI_FAST", "1")
    monkeypatch.delenv("MPLBACKEND", raising=False)
    monkeypatch.delenv("SCGRAPHVCI_REAL_DATA", raising=False)
    monkeypatch.delenv("SCGRAPHVCI_DATA_DIR", raising=False)
    notebook = execution.execute(FOLDER / f"{name}.ipynb")
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    assert "STAND-IN" in texts(first.outputs[0])
