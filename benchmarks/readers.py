"""Reading shuffled minibatches from disk: the package's own loader beside annbatch's, on the same files.

Needs Python 3.12 and ``pip install annbatch``. ``python benchmarks/readers.py --help`` lists the options.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import anndata as ad
import numpy as np
import pandas as pd
import torch
import zarr
from _common import parser, save_table
from annbatch import Loader, write_sharded
from scipy import sparse
from torch.utils.data import DataLoader

import scgraphvci as sgv
from scgraphvci.train._loader import BufferedCells

BATCH = 512
DENSITY = 0.15
ANNBATCH = [(128, 128), (512, 32)]  # cells in a chunk x chunks in memory: our own, and annbatch's defaults
NOTES = """
{cells:,} cells x {genes:,} genes, {density:.0%} of the values not 0, minibatches of 512 dense cells of all of the file,
second of two passes. Chunks of neighbouring cells are drawn, and 16,384 cells shuffled in memory, so that larger chunks
mix less. Seconds of processor time.
"""


def main() -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--cells", type=int, default=60_000)
    options.add_argument("--genes", type=int, default=2_000)
    args = options.parse_args()
    with TemporaryDirectory() as folder:
        paths = write(screen(args.cells, args.genes), Path(folder))
        rows = [row for _ in range(2) for row in read_all(paths)]
    table = pd.DataFrame(rows[len(rows) // 2 :]).set_index(["file", "loader", "chunk"])
    notes = NOTES.format(cells=args.cells, genes=args.genes, density=DENSITY)
    save_table(table, "Loaders", args.out, "readers", notes)


def screen(n_cells: int, n_genes: int) -> ad.AnnData:
    """Sparse random expression with treatments and cell types."""
    rng = np.random.default_rng(0)
    labels = {
        "perturbation": np.where(rng.random(n_cells) < 0.2, "control", rng.integers(50, size=n_cells).astype(str)),
        "cell_type": rng.integers(4, size=n_cells).astype(str),
    }
    values = sparse.random(n_cells, n_genes, density=DENSITY, format="csr", dtype=np.float32, random_state=0)
    obs = pd.DataFrame(labels, index=np.arange(n_cells).astype(str)).astype("category")
    return ad.AnnData(values, obs=obs)


def write(adata: ad.AnnData, folder: Path) -> dict[str, Path]:
    """Write the data in each format."""
    paths = {"h5ad": folder / "screen.h5ad", "zarr": folder / "screen.zarr", "zarr, sharded": folder / "sharded.zarr"}
    adata.write_h5ad(paths["h5ad"])
    adata.write_zarr(paths["zarr"])
    write_sharded(zarr.open_group(paths["zarr, sharded"], mode="w"), adata)
    return paths


def read_all(paths: dict[str, Path]) -> Iterable[dict[str, str | float]]:
    """Time one pass of every loader over every file it can read."""
    for name, path in paths.items():
        ours = buffered(path)
        yield {"file": name, "loader": "scgraphvci", "chunk": f"{ours.chunk}", "seconds": seconds(own, ours)}
        if path.suffix == ".zarr":
            for chunk, n_chunks in ANNBATCH:
                taken = seconds(annbatch, path, chunk, n_chunks)
                yield {"file": name, "loader": "annbatch", "chunk": f"{chunk}", "seconds": taken}


def seconds(read: Callable[..., None], *arguments: object) -> float:
    """Processor time of a pass."""
    start = time.process_time()
    read(*arguments)
    return time.process_time() - start


def buffered(path: Path) -> BufferedCells:
    """Cells of a file, as training reads them."""
    if path.suffix == ".h5ad":
        adata = ad.read_h5ad(path, backed="r")
    else:
        group = zarr.open_group(path, mode="r")
        parts = {name: ad.io.read_elem(group[name]) for name in ("obs", "var")}
        adata = ad.AnnData(X=ad.io.sparse_dataset(group["X"]), **parts)
    sgv.GraphVCI.setup_anndata(adata, categorical_covariate_keys=["cell_type"])
    model = sgv.GraphVCI(adata)
    return BufferedCells(model.adata_manager, np.arange(adata.n_obs), BATCH, lambda: torch.Generator().manual_seed(0))


def own(cells: BufferedCells) -> None:
    """Read an epoch."""
    for _ in DataLoader(cells, sampler=cells, batch_size=None):
        pass


def annbatch(path: Path, chunk: int, n_chunks: int) -> None:
    """Read an epoch with annbatch."""
    group = zarr.open_group(path, mode="r")
    loader = Loader(
        shuffle=True, batch_size=BATCH, chunk_size=chunk, preload_nchunks=n_chunks, to="torch", preload_to_gpu=False,
        rng=np.random.default_rng(0),
    )  # fmt: skip
    loader.add_dataset(ad.io.sparse_dataset(group["X"]), obs=ad.io.read_elem(group["obs"]))
    for batch in loader:
        batch["X"].to_dense()


if __name__ == "__main__":
    main()
