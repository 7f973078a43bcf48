"""Warnings name the user's line, however deep in the package or its engines they are given."""

from __future__ import annotations

import textwrap

import pytest

from scgraphvci import _warn


def called_through(*modules):
    """Functions that call one another, the first of them `warn`, each in a module of that name."""
    call = _warn.warn
    for module in modules:
        space = {"__name__": module, "inner": call}
        exec(textwrap.dedent("def call(text):\n    inner(text)\n"), space)
        call = space["call"]
    return call


@pytest.mark.parametrize(
    "modules",
    [
        (),
        ("scgraphvci.model._checks",),
        ("scgraphvci.model._unseen", "scgraphvci.model._predict"),
        ("scgraphvci.train._checkpoint", "lightning.pytorch.trainer", "scvi.train._trainrunner", "scgraphvci.model"),
        ("scgraphvci.model._unseen", "torch.utils._contextlib", "scgraphvci.model._predict"),
    ],
)
def test_the_line_is_that_of_the_caller(modules):
    with pytest.warns(UserWarning, match="^extrapolated$") as caught:
        called_through(*modules)("extrapolated")
    assert caught[0].filename == __file__


def test_only_whole_names_count():
    with pytest.warns(UserWarning, match="mine") as caught:
        called_through("scgraphvci_of_mine", "__main__")("mine")
    assert caught[0].filename == "<string>"
