import lightning
import pytest
import torch
from lightning import Trainer, seed_everything

from lit_vlm.callbacks.resumption import Resumption
from lit_vlm.command_line.doctor import StopAfter
from lit_vlm.health.resume_exactness import Workshop, resume_exactness

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval.*"),
    pytest.mark.filterwarnings("ignore:.*dataloader is not resumable.*"),
]


class Line(lightning.LightningModule):
    """Fits a line; on request it remembers something that no checkpoint holds."""

    def __init__(self, forgetful: bool) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3))
        self.forgetful = forgetful
        self.seen = 0

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.1)

    def training_step(self, batch, batch_idx):
        self.seen += 1
        scale = self.seen if self.forgetful else 1
        return ((self.weight * batch[0]).sum() - scale) ** 2


class Points(lightning.LightningDataModule):
    """Serves points that are the same, or that differ, in which case a loader that begins anew shows."""

    def __init__(self, differ: bool) -> None:
        super().__init__()
        self.differ = differ

    def train_dataloader(self):
        return torch.utils.data.DataLoader([torch.full((3,), 0.1 + 0.1 * place * self.differ) for place in range(8)])


def workshop(folder, forgetful=False, differ=False) -> Workshop:
    def build():
        seed_everything(0, verbose=False)
        return Line(forgetful), Points(differ)

    def trainer(steps, stop, save_to):
        return Trainer(
            accelerator="cpu",
            devices=1,
            max_steps=steps,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[Resumption(), StopAfter(stop, save_to)],
            default_root_dir=folder,
        )

    return Workshop(build, trainer)


def test_a_run_whose_state_is_all_saved_passes(tmp_path):
    found = resume_exactness(workshop(tmp_path), tmp_path)
    assert found.status == "pass", found.told
    assert "same bits" in found.told


def test_a_loader_that_begins_anew_fails(tmp_path):
    assert resume_exactness(workshop(tmp_path, differ=True), tmp_path).status == "fail"


def test_a_run_that_forgets_fails(tmp_path):
    found = resume_exactness(workshop(tmp_path, forgetful=True), tmp_path)
    assert found.status == "fail"
    assert "the first weight" in found.told
    assert "state_dict" in found.mend
