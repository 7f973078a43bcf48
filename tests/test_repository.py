"""Files for those who host, list and cite the project."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import scvi
import yaml

import scgraphvci

ROOT = Path(__file__).parents[1]
# scverse/ecosystem-packages, schema version 2.0
LISTED = {
    "name", "description", "project_home", "documentation_home", "install", "license", "tags", "version", "category",
    "contact",
}  # fmt: skip


def load(path: str):
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def test_ecosystem_entry_is_complete_and_agrees_with_the_package():
    entry = load(".github/ecosystem.yaml")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert entry.keys() >= LISTED
    assert (entry["name"], entry["version"]) == (project["name"], scgraphvci.__version__)
    assert entry["license"] == project["license"] == load("CITATION.cff")["license"]
    assert entry["install"] == {"pypi": project["name"]}
    assert entry["category"] == "ecosystem"


@pytest.mark.parametrize(
    "path", sorted(str(path.relative_to(ROOT)) for path in (ROOT / ".github" / "workflows").glob("*.yml"))
)
def test_workflows_have_jobs_without_more_rights_than_they_need(path):
    workflow = load(path)
    assert workflow["permissions"] == {"contents": "read"}
    for name, job in workflow["jobs"].items():
        assert job["runs-on"].startswith("ubuntu-"), name
        checkouts = [step for step in job["steps"] if step.get("uses", "").startswith("actions/checkout@")]
        assert all(step["with"]["persist-credentials"] is False for step in checkouts), name


def test_the_oldest_and_the_newest_python_are_tested():
    versions = [
        row["python"] for row in load(".github/workflows/test.yml")["jobs"]["test"]["strategy"]["matrix"]["include"]
    ]
    assert versions == ["3.11", "3.12", "3.13"]


def test_messages_go_to_the_logger_of_the_package(caplog):
    adata = scgraphvci.datasets.simulate(n_cells=200, n_genes=30, n_perturbations=3, seed=0)
    arguments = ("perturbation", "control", "cell_type", "type0", 1)
    with caplog.at_level("INFO", logger="scgraphvci"):
        scgraphvci.pp.split_ood(adata, *arguments)
    assert [record.name.split(".")[0] for record in caplog.records] == ["scgraphvci"]
    caplog.clear()
    with caplog.at_level("ERROR", logger="scgraphvci"):
        scgraphvci.pp.split_ood(adata, *arguments)
    assert caplog.records == []


def test_verbosity_of_scvi_tools_holds_for_messages_of_the_package(caplog):
    adata = scgraphvci.datasets.simulate(n_cells=200, n_genes=30, n_perturbations=3, seed=0)
    before, shown = scvi.settings.verbosity, {}
    try:
        for verbosity in ("INFO", "WARNING", "INFO"):
            scvi.settings.verbosity = verbosity
            caplog.clear()
            scgraphvci.pp.split_ood(adata, "perturbation", "control", "cell_type", "type0", 1)
            shown.setdefault(verbosity, []).append(len(caplog.records))
    finally:
        scvi.settings.verbosity = before
    assert shown == {"INFO": [1, 1], "WARNING": [0]}


@pytest.mark.parametrize(
    "page", ["README.md", "CHANGELOG.md", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").rglob("*.md"))]
)
def test_links_lead_to_files_or_to_encrypted_sites(page):
    text = re.sub(r"^```.*?^```|`[^`]*`", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    outside = [link for link in links if "://" in link]
    assert all(re.fullmatch(r"https://[\w.-]+\.\w+(/\S*)?", link) for link in outside), outside
    files = [link.split("#")[0] for link in links if "://" not in link and not link.startswith("#")]
    folders = [(ROOT / page).parent]
    if page.startswith("docs/tutorials/"):
        folders.append(ROOT / "tutorials")  # from where the build of the docs copies them
    assert [link for link in files if not any((folder / link).exists() for folder in folders)] == []


def test_issue_forms_can_be_filled_in():
    for name in ("bug_report", "feature_request"):
        form = load(f".github/ISSUE_TEMPLATE/{name}.yml")
        assert {"name", "description", "body"} <= form.keys()
        assert all(part["attributes"]["label"] for part in form["body"] if part["type"] == "textarea")


def test_pictures_of_the_docs_are_those_that_are_made():
    page = (ROOT / "docs" / "user_guide" / "plots.md").read_text(encoding="utf-8")
    script = (ROOT / "docs" / "_pictures.py").read_text(encoding="utf-8")
    pictures = sorted((ROOT / "docs" / "_static" / "plots").glob("*.png"))
    assert {path.stem for path in pictures} >= set(scgraphvci.pl.__all__)
    for path in pictures:
        assert f"](../_static/plots/{path.name})" in page, path.name
        assert f'"{path.stem}": ' in script, path.name
    for name in scgraphvci.pl.__all__:
        assert f"sgv.pl.{name}(" in page, name
