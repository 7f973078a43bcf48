"""Targets drawn against the frame they come from."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scgraphvci import pl
from scgraphvci.pl._base import BLUE, GREY, RED

NET = pd.DataFrame(
    {
        "source": ["A", "A", "A", "A", "B"],
        "target": ["B", "C", "D", "A", "C"],
        "weight": [0.5, -2.0, 1.0, 9.0, 3.0],
    }
)


def names_of(ax) -> list[str]:
    return [label.get_text() for label in ax.get_yticklabels()]


def points_of(ax) -> dict[str, tuple]:
    """Weight, row, marker and colour by label."""
    return {
        line.get_label(): (line.get_xydata().tolist(), line.get_marker(), line.get_color())
        for line in ax.lines
        if not line.get_label().startswith("_")
    }


def test_signed_weights_the_strongest_on_top() -> None:
    ax = pl.grn_neighborhood(NET, regulator="A", show=False)
    assert names_of(ax) == ["C", "D", "B"]  # not A itself
    assert points_of(ax) == {
        "represses": ([[-2.0, 0]], "o", RED),
        "activates": ([[1.0, 1], [0.5, 2]], "o", BLUE),
    }
    stems = [segment[:, 0].tolist() for segment in ax.collections[0].get_segments()]
    assert stems == [[0, -2], [0, 1], [0, 0.5]]
    assert ax.get_title() == "A: 3 targets"
    few = pl.grn_neighborhood(NET, regulator="A", n_targets=2, show=False)
    assert (names_of(few), few.get_title()) == (["C", "D"], "A: 3 targets\n2 strongest")


def test_sign_column_and_support() -> None:
    net = NET.assign(weight=NET["weight"].abs(), sign=[-1, 1, 1, 1, 1], support=[0.25, 1.0, 0.5, 1, 1])
    ax = pl.grn_neighborhood(net, regulator="A", show=False)
    assert points_of(ax)["represses"][0] == [[-0.5, 2]]
    assert [text.get_text() for text in ax.texts] == ["support", "100%", "50%", "25%"]
    assert [text.xy[1] for text in ax.texts[1:]] == [0, 1, 2]


def test_what_became_of_edges_of_a_refined_network() -> None:
    adata = ad.AnnData(np.ones((2, 4)), var=pd.DataFrame(index=list("ABCD")))
    prior, refined = np.zeros((2, 4, 4))
    prior[0, [1, 2]], refined[0, [1, 3]] = 1, [0.6, 0.9]
    adata.varp["grn"], adata.varp["grn_refined"] = sparse.csr_matrix(prior), sparse.csr_matrix(refined)
    adata.uns["grn_refined"] = {"params": {"grn_key": "grn"}}
    assert names_of(pl.grn_neighborhood(adata, regulator="A", show=False)) == ["D", "B"]
    ax = pl.grn_neighborhood(adata, regulator="A", dropped=True, show=False)
    assert names_of(ax) == ["D", "B", "C"]
    drawn = points_of(ax)
    np.testing.assert_allclose([drawn["added"][0], drawn["kept"][0]], [[[0.9, 0]], [[0.6, 1]]], rtol=1e-6)
    assert [part[1:] for part in drawn.values()] == [("D", BLUE), ("o", BLUE), ("x", GREY)]
    assert drawn["dropped"][0] == [[0, 2]]
    assert ax.get_title() == "A: 3 targets (1 added, 1 kept, 1 dropped)"


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"regulator": "D"}, KeyError, r"'D' has no target in this network.*\['A', 'B'\]"),
        ({"regulator": "A", "n_targets": 0}, ValueError, "`n_targets` is 0"),
    ],
)
def test_bad_options(options, error, match) -> None:
    with pytest.raises(error, match=match):
        pl.grn_neighborhood(NET, **options)


def test_bad_networks() -> None:
    with pytest.raises(KeyError, match=r"no column \['weight'\]"):
        pl.grn_neighborhood(NET.drop(columns="weight"), regulator="A")
    with pytest.raises(KeyError, match="'grn_refined' not found in varp"):
        pl.grn_neighborhood(ad.AnnData(np.ones((2, 4))), regulator="A")
