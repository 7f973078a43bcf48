"""Seconds and memory of a step of GRN refinement by number of genes, beside a dense implementation.

The dense one has a logit for every ordered pair of genes, and in every step draws a hard mask of that shape, takes the
softmax of full rows, multiplies full matrices and gives all logits to Adam: the formulation of Wu et al. (ICLR 2023),
for their network and for our default one. Every row runs in a process of its own, so that peak memory, of the whole
process and set-up included, is its own. ``python benchmarks/refinement_time.py --help`` lists the options.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from _common import RESULTS, console, save_table
from anndata import AnnData
from scipy import sparse
from torch import Tensor, nn

import scgraphvci as sgv
from scgraphvci.module._refine import RefineModule
from scgraphvci.train._refine_plan import RefinePlan

N_CELLS, BATCH, EDGES_PER_GENE, SHARE_REGULATORS = 2048, 64, 20, 0.08
NETWORKS: dict[str, dict[str, Any]] = {
    "default": {},
    "default, all pairs": {"candidates": "all"},
    "paper": {"preset": "paper"},
}
MOST_GENES = {"default": 18_000, "default, all pairs": 5000, "paper": 5000}
NOTES = f"""
One step with {BATCH} cells on one thread: least processor time of several steps, as other programs run on the machine.
Simulated expression, {EDGES_PER_GENE} prior edges for each gene, {SHARE_REGULATORS:.0%} of genes regulators. "default"
takes all pairs with a regulator for candidates. "set-up" is the model, statistics and evidence of {N_CELLS:,} cells.
Memory is the largest resident size of the process, of which the libraries take about 0.6 GiB. The dense implementation
was run up to the number of genes that has a time here.
"""


def main() -> None:
    """Run the benchmark, or with --row one part of it."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--genes", type=int, nargs="+", default=[500, 2000, 5000, 18_000])
    options.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    options.add_argument("--most-dense", type=int, default=5000, help="most genes of the dense implementation")
    options.add_argument("--steps", type=int, default=10)
    options.add_argument("--out", type=Path, default=RESULTS)
    options.add_argument("--row", nargs=3, metavar=("WHAT", "NETWORK", "GENES"), help="for the benchmark's own use")
    args = options.parse_args()
    if args.row:
        what, network, genes = args.row
        console.print_json(json.dumps(measure(what, network, int(genes), args.steps)))
        return
    rows = []
    for network in args.networks:
        for genes in [n for n in args.genes if n <= MOST_GENES[network]]:
            row = {"network": network, "genes": genes, **in_new_process("ours", network, genes, args.steps)}
            if genes <= args.most_dense:
                steps = 2 if network == "paper" else args.steps
                dense = in_new_process("dense", network, genes, steps)
                row |= {f"dense {name}": dense[name] for name in ("step (ms)", "memory (GiB)")}
                row["dense / ours"] = dense["step (ms)"] / row["step (ms)"]
            console.print(row)
            rows.append(row)
    frame = pd.DataFrame(rows).set_index(["network", "genes"])
    save_table(frame, "Time and memory of refinement", args.out, "refinement_time", NOTES)


def in_new_process(what: str, network: str, genes: int, steps: int) -> dict[str, float]:
    """Measure in a process of its own."""
    command = [sys.executable, __file__, "--steps", str(steps), "--row", what, network, str(genes)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{what}, {network}, {genes} genes: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout[done.stdout.index("{") :])


def measure(what: str, network: str, genes: int, n_steps: int) -> dict[str, float]:
    """Time steps of one implementation in this process, and read its peak memory."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    adata, prior = screen(genes)
    if what == "dense":
        found = {"step (ms)": 1000 * least_seconds(dense_step(adata, prior, network), n_steps)}
    else:
        found = ours(adata, network, n_steps)
    return {**found, "memory (GiB)": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}


def screen(n_genes: int) -> tuple[AnnData, np.ndarray]:
    """Simulate expression and a prior network; the time of a step does not depend on their values."""
    rng = np.random.default_rng(0)
    expression = rng.standard_normal((N_CELLS, n_genes), dtype=np.float32)
    adata = AnnData(expression, obs=pd.DataFrame({"cell_type": rng.choice(list("abc"), N_CELLS)}, index=names(N_CELLS)))
    adata.var_names = names(n_genes)
    regulators = rng.choice(n_genes, max(2, round(SHARE_REGULATORS * n_genes)), replace=False)
    target = np.repeat(np.arange(n_genes), EDGES_PER_GENE)
    prior = np.unique(np.stack([rng.choice(regulators, target.size), target]), axis=1)
    prior = prior[:, prior[0] != prior[1]]
    adata.varp["grn"] = sparse.csr_matrix((np.ones(prior.shape[1], np.float32), prior), shape=(n_genes, n_genes))
    return adata, prior


def names(n: int) -> list[str]:
    """Names of cells or genes."""
    return [f"g{i}" for i in range(n)]


def ours(adata: AnnData, network: str, n_steps: int) -> dict[str, float]:
    """Time the steps of the training plan, and then make the refined network, which counts for the memory."""
    start = time.process_time()
    model = refiner(adata, network)
    seconds = time.process_time() - start
    plan = Plan(model.module, seed=0)
    plan.on_train_epoch_start()
    batch = first_batch(model)
    optimiser = torch.optim.Adam(model.module.parameters(), lr=3e-3)
    n_edges = []

    def step() -> None:
        optimiser.zero_grad()
        loss = plan.training_step(batch, 0)
        n_edges.append(len(plan._sampled[0].position))
        loss.backward()
        plan.on_after_backward()
        optimiser.step()

    least = least_seconds(step, n_steps)
    model.module.settle_logits(plan.logit_lr)
    model.is_trained_ = True
    model.get_refined_grn()
    return {
        "candidates": model.module.candidates.size,
        "edges of a step": round(float(np.mean(n_edges))),
        "set-up (s)": seconds,
        "step (ms)": 1000 * least,
        "step / edge (us)": 1e6 * least / float(np.mean(n_edges)),
    }


class Plan(RefinePlan):
    """The training plan outside of a trainer: there is nothing to log to, and the epoch is the first."""

    current_epoch = 0

    def _log(self, *args: Any, **kwargs: Any) -> None:
        pass


class DensePaper(nn.Module):
    """The paper's network with dense matrices: seven layers, plain softmax, features and covariates of cell and gene.

    Parameters
    ----------
    module
        Ours, for sizes and features.
    probability
        Of drawing each pair (target, source).
    """

    def __init__(self, module: RefineModule, probability: Tensor) -> None:
        super().__init__()
        self.module, self.probability = module, probability
        self.logit = nn.Parameter(torch.zeros_like(probability))
        n_inputs, width = 1 + len(module.context_weight), module.n_hidden
        self.layers = nn.ModuleList(nn.Linear(n, width, bias=False) for n in [n_inputs, *[width] * 6])

    def forward(self, residual: Tensor, covariates: Tensor) -> Tensor:
        """Predict residuals from those of neighbours."""
        weight = F.softmax(masked(self.logit, self.probability), dim=1).nan_to_num()
        n_genes, n_cells = residual.shape
        features = self.module.features[:, None].expand(-1, n_cells, -1)
        state = torch.cat([residual[:, :, None], features, covariates.expand(n_genes, -1, -1)], dim=2)
        for layer in self.layers:
            state = F.elu(layer((weight @ state.flatten(start_dim=1)).view_as(state)))
        return self.module._read_out(state.movedim(2, 0))

    def cost(self) -> Tensor:
        """Cost of edges, Eq. 13."""
        return 20 * torch.sigmoid(self.logit).mean()


class DenseDefault(nn.Module):
    """Our default network with dense matrices; all that does not involve edges is our own code.

    Parameters
    ----------
    module
        Ours, with its statistics.
    probability
        Of drawing each pair (target, source).
    """

    def __init__(self, module: RefineModule, probability: Tensor) -> None:
        super().__init__()
        self.module, self.probability = module, probability
        target, source = module.candidates.genes(torch.arange(module.candidates.size))
        self.log_odds = torch.full_like(probability, -12.0)
        self.log_odds[target, source] = module.log_odds
        self.sign = torch.zeros_like(probability)
        self.sign[target, source] = module.sign.float()
        self.logit = nn.Parameter(self.log_odds.clone())

    def forward(self, residual: Tensor, covariates: Tensor) -> Tensor:
        """Predict residuals from those of neighbours."""
        module, among = self.module, self.module.regulators
        weight = F.softmax(F.pad(masked(self.logit, self.probability), (1, 0)), dim=1)[:, 1:]
        signed = weight * self.sign
        own = module.precision @ residual[among]
        expression = signed @ residual.index_copy(0, among, own / module.own_scale[:, None])
        share = module.precision / module.precision.diagonal()[:, None] / module.own_scale
        back = (signed[among][:, among] * share.fill_diagonal_(0)).sum(dim=1)
        expression = expression.index_add(0, among, -back[:, None] * own)
        state = F.elu(module._widened(expression, weight @ module._features_and_ones(), covariates))
        return module._read_out(state)

    def cost(self) -> Tensor:
        """Cost of leaving the evidence."""
        return self.module.evidence_weight / 2 * ((self.logit - self.log_odds) ** 2).sum() / self.module.n_genes


def masked(logit: Tensor, probability: Tensor) -> Tensor:
    """Logits of a hard mask drawn afresh, minus infinity outside of it."""
    return logit.masked_fill(torch.rand_like(logit) >= probability, -torch.inf)


def dense_step(adata: AnnData, prior: np.ndarray, network: str) -> Callable[[], None]:
    """Return a function that makes one step of the dense implementation."""
    model = refiner(adata, network)
    module = model.module
    probability = torch.zeros(adata.n_vars, adata.n_vars)
    target, source = module.candidates.genes(torch.arange(module.candidates.size))
    probability[target, source] = module.p_add
    probability[prior[1], prior[0]] = module.p_keep
    probability.fill_diagonal_(module.p_keep if network == "paper" else 0.0)
    dense = (DensePaper if network == "paper" else DenseDefault)(module, probability)
    optimiser = torch.optim.Adam(dense.parameters(), lr=5e-3)
    batch = first_batch(model)

    def step() -> None:
        optimiser.zero_grad()
        inputs = module.inference(**module._get_inference_input(batch))
        loss = F.mse_loss(dense(**inputs), inputs["residual"]) + dense.cost()
        loss.backward()
        optimiser.step()

    return step


def refiner(adata: AnnData, network: str) -> sgv.GRNRefiner:
    """Build the model and give it its statistics."""
    sgv.GRNRefiner.setup_anndata(adata, categorical_covariate_keys=["cell_type"])
    model = sgv.GRNRefiner(adata, **NETWORKS[network])
    model._initialise(np.arange(N_CELLS))
    return model


def first_batch(model: sgv.GRNRefiner) -> dict[str, Tensor]:
    """Return cells as training sees them."""
    return next(iter(model._make_data_loader(adata=model.adata, indices=np.arange(BATCH), batch_size=BATCH)))


def least_seconds(function: Callable[[], None], n: int) -> float:
    """Least processor time of `n` calls after one that does not count."""
    times = []
    for _ in range(n + 1):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return min(times[1:])


if __name__ == "__main__":
    main()
