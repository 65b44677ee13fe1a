"""Real CLIP and LPIPS are taken where their weights lie on the machine: here in the right places, of small content."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torchvision.models import alexnet

from pds_nerfstudio.evaluation import measure
from pds_nerfstudio.evaluation.measure import CLIPS
from pds_nerfstudio.evaluation.metrics import TOYBOX_CLIP
from pds_nerfstudio.priors import load

ASK = """
import torch
from pds_nerfstudio.evaluation.measure import load_judges
judges = load_judges("auto", ["owner/some-prior"])
a, b = torch.rand(2, 3, 64, 80, generator=torch.Generator().manual_seed(0))
print(judges.clip_name, judges.distance_name, sep="|")
print(judges.distance(a, a), judges.distance(a, b), judges.clip.similarity(a[None], ["a photo"]).shape)
"""


def ask(home: Path) -> list[str]:
    env = os.environ | {"HF_HOME": str(home / "hf"), "TORCH_HOME": str(home / "torch"), "HF_HUB_OFFLINE": "1"}
    ended = subprocess.run([sys.executable, "-c", ASK], env=env, capture_output=True, text=True, check=True)
    return ended.stdout.splitlines()


@pytest.fixture
def home(tmp_path) -> Path:
    """A Hugging Face cache with a CLIP under a known name, and torchvision's download folder with an AlexNet."""
    repository = tmp_path / "hf" / "hub" / f"models--{CLIPS[2].replace('/', '--')}"
    shutil.copytree(TOYBOX_CLIP, repository / "snapshots" / "0")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0")
    torch.manual_seed(0)
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(alexnet(weights=None).state_dict(), folder / "alexnet-owt-7be5be79.pth")
    return tmp_path


def test_clip_and_lpips_on_disk_are_the_judges(home):
    names, numbers = ask(home)[-2:]
    assert names == f"{CLIPS[2]}|LPIPS (AlexNet)"
    same, different, shape = numbers.split(maxsplit=2)
    assert float(same) == 0
    assert float(different) > 0
    assert shape == "torch.Size([1, 1])"


def test_the_distance_of_a_priors_vae_loads_nothing_else_of_it(monkeypatch):
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    whole = load.load_prior("toybox", "cpu").features(image)
    monkeypatch.setattr(load, "load_prior", lambda *_, **__: pytest.fail("the whole prior is loaded"))
    for found, wanted in zip(measure._vae_features("toybox")(image), whole, strict=True):
        torch.testing.assert_close(found, wanted)
