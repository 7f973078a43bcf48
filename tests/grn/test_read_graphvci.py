from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch_geometric.data import Data

from scgraphvci.grn import read_graphvci

GENES = [f"G{i:02d}" for i in range(12)]


def write(path: Path, net: pd.DataFrame, **changes) -> Path:
    """Write a network as the authors do: node features and sources x targets, in the order of the AnnData's genes."""
    genes = pd.Index(GENES)
    edges = np.stack([genes.get_indexer(net["source"]), genes.get_indexer(net["target"])])
    parts = {"x": torch.zeros(12, 8), "edge_index": torch.from_numpy(edges).long(), **changes}
    torch.save(Data(**parts), path)
    return path


def test_round_trip(known_net: pd.DataFrame, tmp_path: Path) -> None:
    found = read_graphvci(write(tmp_path / "grn_8.pth", known_net), GENES)
    pd.testing.assert_frame_equal(found, known_net.assign(weight=1.0))
    weight = torch.from_numpy(known_net["weight"].to_numpy(np.float32))
    for edge_attr in (weight, weight[:, None]):
        found = read_graphvci(write(tmp_path / "grn_8.pth", known_net, edge_attr=edge_attr), GENES)
        pd.testing.assert_frame_equal(found, known_net, rtol=1e-6)


def test_dense_matrix_of_sources_and_targets(known_net: pd.DataFrame, tmp_path: Path) -> None:
    square = known_net.pivot(index="source", columns="target", values="weight").reindex(index=GENES, columns=GENES)
    dense = torch.from_numpy(square.fillna(0.0).to_numpy(np.float32))
    path = write(tmp_path / "grn.pth", known_net, edge_index=dense)
    pd.testing.assert_frame_equal(read_graphvci(path, GENES), known_net, rtol=1e-6)


def test_runs_no_code_from_the_file(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "pwned",))

    torch.save({"edge_index": Attack()}, tmp_path / "grn.pth")
    with pytest.raises(ValueError, match="nothing was loaded"):
        read_graphvci(tmp_path / "grn.pth", GENES)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    ("changes", "names", "match"),
    [
        ({}, GENES[:-1], "12 nodes, but there are 11 `var_names`"),
        ({}, ["G00"] * 12, "`var_names` repeat, such as 'G00'"),
        ({"edge_index": None}, GENES, "not a graph of torch_geometric with an edge_index"),
        ({"edge_index": torch.tensor([[0, 1], [2, 40]])}, GENES, "beyond its 12 nodes"),
        ({"edge_index": torch.zeros(3, 5)}, GENES, r"edge_index \(3, 5\)"),
        ({"edge_attr": torch.ones(3)}, GENES, "one weight for each edge"),
        ({"edge_index": torch.zeros(2, 0)}, GENES, "no edges"),
    ],
)
def test_malformed(known_net: pd.DataFrame, tmp_path: Path, changes, names, match) -> None:
    with pytest.raises(ValueError, match=match):
        read_graphvci(write(tmp_path / "grn.pth", known_net, **changes), names)


def test_other_files(tmp_path: Path) -> None:
    torch.save(torch.ones(3), tmp_path / "tensor.pth")
    with pytest.raises(ValueError, match="holds a Tensor, not a graph"):
        read_graphvci(tmp_path / "tensor.pth", GENES)
    (tmp_path / "text.pth").write_text("source,target")
    with pytest.raises(ValueError, match="damaged"):
        read_graphvci(tmp_path / "text.pth", GENES)
