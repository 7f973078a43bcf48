"""The source runs no code from data: no eval, no pickle, no shell. A reader of this table sees every exception."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import scgraphvci

ROOT = Path(scgraphvci.__file__).parent
FORBIDDEN = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "pickle.load", "pickle.loads",
    "pickle.Unpickler", "dill.load", "joblib.load", "cloudpickle.load", "shelve.open", "marshal.loads",
    "pd.read_pickle", "pandas.read_pickle", "yaml.load", "yaml.unsafe_load", "tempfile.mktemp",
    "zipfile.ZipFile", "tarfile.open", "shutil.unpack_archive",
}  # fmt: skip


def calls():
    """Every call in the source: file, its syntax tree and the dotted name of what is called."""
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                yield str(path.relative_to(ROOT)), node, ast.unparse(node.func)


def keyword(node, name):
    return next((one.value for one in node.keywords if one.arg == name), None)


def offences(found):
    """What is wrong with calls, as text."""
    for path, node, name in found:
        where = f"{path}:{node.lineno} {ast.unparse(node)[:80]}"
        allowed = (path, name) == ("_untrusted.py", "zipfile.ZipFile")  # looks at sizes
        if (
            (name in FORBIDDEN and not allowed)
            or name.endswith(".extractall")
            or name.startswith(("subprocess.", "os.spawn", "os.exec"))
        ):
            yield f"{where}: runs code or commands"
        shell, pickled = keyword(node, "shell"), keyword(node, "allow_pickle")
        if shell is not None or (pickled is not None and ast.literal_eval(pickled)):
            yield f"{where}: shell or pickle"
        safe = keyword(node, "weights_only")
        if name in ("torch.load", "torch.hub.load") and not (safe is not None and ast.literal_eval(safe)):
            yield f"{where}: loads more than tensors"
        verify = keyword(node, "verify")
        if verify is not None and name.startswith("requests."):
            yield f"{where}: certificates are not checked"
        if isinstance(node.args[0] if node.args else None, ast.Constant) and str(node.args[0].value).startswith(
            "http:"
        ):
            yield f"{where}: not encrypted"


def test_no_call_of_the_source_can_run_code_from_data():
    found = list(calls())
    assert len(found) > 3000  # so the walk saw the source
    assert not list(offences(found))


@pytest.mark.parametrize(
    "line",
    [
        "eval(text)", "exec(text)", "os.system('ls')", "pickle.load(file)", "subprocess.run(['ls'])",
        "torch.load(path)", "torch.load(path, weights_only=False)", "np.load(path, allow_pickle=True)",
        "run('ls', shell=True)", "pd.read_pickle(path)", "requests.get(url, verify=False)", "requests.get('http://host')",
        "zipfile.ZipFile(path)", "archive.extractall(folder)",
    ],
)  # fmt: skip
def test_the_table_would_notice(line):
    node = ast.parse(line).body[0].value
    assert list(offences([("file.py", node, ast.unparse(node.func))]))


def test_pickle_is_imported_for_its_errors_alone():
    for path in ROOT.rglob("*.py"):
        used = {
            ast.unparse(node)
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pickle"
        }
        assert used <= {"pickle.UnpicklingError"}, path


def test_every_class_that_loads_does_so_without_pickle():
    from scgraphvci.model._saving import SafeSavingMixin

    classes = [
        thing
        for room in (scgraphvci, scgraphvci.baselines, scgraphvci.model)
        for thing in vars(room).values()
        if isinstance(thing, type) and hasattr(thing, "load")
    ]
    assert len(set(classes)) >= 3
    for one in classes:
        assert one.load.__func__ is SafeSavingMixin.load.__func__, one
        assert one.save is SafeSavingMixin.save, one


def test_addresses_of_public_files_are_encrypted():
    from scgraphvci.datasets import _kang, _l008, _marson, _osf, _sciplex
    from scgraphvci.datasets._preparation import Preparation

    prepared = [
        thing
        for room in (_kang, _l008, _marson, _sciplex)
        for thing in vars(room).values()
        if isinstance(thing, Preparation)
    ]
    assert len(prepared) == 4
    assert _osf.OSF_API.startswith("https://")
    for file in [file for one in prepared for file in one.files]:
        assert all(url.startswith("https://") for url in (file.home, *file.urls)), file.name
        assert Path(file.name).name == file.name  # stays in the folder of downloads
