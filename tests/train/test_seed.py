from __future__ import annotations

import numpy as np
import pytest
import torch

from scgraphvci.train._seed import mix_seed


def test_seeds_of_neighbouring_epochs_and_ranks_differ():
    seeds = {mix_seed(seed, epoch, rank) for seed in range(5) for epoch in range(50) for rank in range(4)}
    assert len(seeds) == 5 * 50 * 4
    assert all(0 <= seed < 2**63 for seed in seeds)
    firsts = []
    for epoch in range(200):
        torch.manual_seed(mix_seed(0, epoch, 0))
        firsts.append(torch.rand(()).item())
    assert np.mean(firsts) == pytest.approx(0.5, abs=0.1)
    assert abs(np.corrcoef(firsts[:-1], firsts[1:])[0, 1]) < 0.25
