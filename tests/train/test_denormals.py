from __future__ import annotations

import pytest
import torch
from lightning.pytorch.callbacks import Callback

import scgraphvci as sgv
from scgraphvci.train._denormals import flushed_denormals

pytestmark = pytest.mark.skipif(not torch.set_flush_denormal(False), reason="this processor cannot flush denormals")


def flushed():
    return torch.tensor(1e-38).mul(0.1).item() == 0


@pytest.mark.parametrize("before", [False, True])
def test_are_put_back(before):
    torch.set_flush_denormal(before)
    try:
        with flushed_denormals():
            assert flushed()
        assert flushed() == before
        with pytest.raises(KeyError), flushed_denormals():
            raise KeyError
        assert flushed() == before
    finally:
        torch.set_flush_denormal(False)


class Watch(Callback):
    """Notes at which points of a step denormals are flushed."""

    def __init__(self):
        self.seen = {}

    def on_train_batch_start(self, *args):
        self.seen["batch"] = flushed()

    def on_before_backward(self, *args):
        self.seen["backward"] = flushed()

    def on_before_optimizer_step(self, *args):
        self.seen["optimizer"] = flushed()


def test_training_flushes_them_in_steps_only():
    adata = sgv.datasets.simulate(200, 20, 3, seed=0)
    sgv.GraphVCI.setup_anndata(adata)
    watch = Watch()
    model = sgv.GraphVCI(adata, n_hidden=8, n_latent=3)
    model.train(max_epochs=1, accelerator="cpu", enable_progress_bar=False, callbacks=[watch])
    assert watch.seen == {"batch": False, "backward": True, "optimizer": True}
    assert not flushed()
