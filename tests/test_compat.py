"""What `compat` promises about checkpoints, LPIPS, ffmpeg and the list of external methods."""

import inspect
import io
import math
import pickle
import urllib.error

import numpy as np
import pytest
import torch
import torchmetrics.image.lpip as lpip
from nerfstudio.configs import external_methods
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.models.base_model import Model
from nerfstudio.models.nerfacto import NerfactoModelConfig
from nerfstudio.utils import install_checks

from pds_nerfstudio import compat

compat.apply()


class Unknown:
    """Something that no checkpoint of nerfstudio contains."""


def saved(value, **options) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def test_safe_loading_reads_the_numpy_scalars_of_a_scheduler_state():
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam(model.parameters())
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: np.float64(0.5))
    state = {
        "schedulers": scheduler.state_dict(),
        "lr": np.float32(0.25),
        "step": np.int64(3),
        "kind": np.dtype("float64"),
    }
    loaded = torch.load(io.BytesIO(saved(state)), weights_only=True)
    assert loaded["schedulers"]["_last_lr"] == scheduler.state_dict()["_last_lr"]
    assert (loaded["lr"], loaded["step"]) == (0.25, 3)


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_safe_loading_reads_checkpoints_written_under_either_numpy(module):
    written_here = np.float64(1).__reduce__()[0].__module__
    data = saved(np.float64(0.125), _use_new_zipfile_serialization=False)
    data = data.replace(f"c{written_here}\n".encode(), f"c{module}\n".encode())
    assert f"c{module}\n".encode() in data
    assert torch.load(io.BytesIO(data), weights_only=True) == 0.125


def test_safe_loading_stays_on():
    with pytest.raises(pickle.UnpicklingError):
        torch.load(io.BytesIO(saved(Unknown())), weights_only=True)


def test_applying_twice_is_applying_once():
    before = (Model.__init__, install_checks.check_ffmpeg_installed, external_methods.inspect)
    compat.apply()
    assert (Model.__init__, install_checks.check_ffmpeg_installed, external_methods.inspect) == before


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No AlexNet on disk, and a download that fails as it does without network."""

    def fail(**settings):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(lpip, compat.LPIPS_CLASS, fail)
    monkeypatch.setattr(compat.DeferredLpips, "failed", None)


def test_the_built_in_nerfacto_is_built_without_network(offline):
    proposal = {"hidden_dim": 4, "log2_hashmap_size": 4, "num_levels": 1, "max_res": 16, "use_linear": False}
    config = NerfactoModelConfig(
        implementation="torch", num_levels=1, log2_hashmap_size=4, proposal_net_args_list=[proposal]
    )
    model = config.setup(scene_box=SceneBox(torch.tensor([[-1.0] * 3, [1.0] * 3])), num_train_data=2)
    assert isinstance(model.lpips, compat.DeferredLpips)
    assert not [name for name in model.state_dict() if "lpips" in name]
    image = torch.rand(1, 3, 8, 8)
    assert math.isnan(model.lpips(image, image))


def test_a_missing_lpips_is_reported_once(offline, capsys):
    images = torch.rand(2, 1, 3, 8, 8)
    values = [compat.DeferredLpips(normalize=True)(*images) for _ in range(3)]
    assert all(math.isnan(value) for value in values)
    assert capsys.readouterr().out.count("LPIPS is left out") == 1


def test_lpips_is_loaded_with_its_settings_when_it_is_first_asked_for(monkeypatch):
    class Metric(torch.nn.Module):
        def __init__(self, normalize):
            super().__init__()
            self.normalize, self.weight = normalize, torch.nn.Parameter(torch.ones(1))

        def forward(self, prediction, target):
            return (prediction - target).abs().mean() * self.weight.detach()[0] if self.normalize else None

    monkeypatch.setattr(lpip, compat.LPIPS_CLASS, Metric)
    monkeypatch.setattr(compat.DeferredLpips, "failed", None)
    metric = compat.DeferredLpips(normalize=True)
    assert metric(torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 4, 4)) == 1
    assert not metric.state_dict()


def test_a_packaged_ffmpeg_is_used_where_none_is_on_the_path(monkeypatch):
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    import mediapy

    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(mediapy._config, "ffmpeg_name_or_path", "ffmpeg")
    install_checks.check_ffmpeg_installed()
    assert mediapy._config.ffmpeg_name_or_path == imageio_ffmpeg.get_ffmpeg_exe()


def test_external_methods_are_listed_without_a_look_at_every_module(monkeypatch):
    monkeypatch.delattr(inspect, "getmodule")
    methods, descriptions = external_methods.get_external_methods()
    assert "in2n" in methods
    assert methods.keys() == descriptions.keys()


def test_an_external_method_that_is_chosen_still_says_how_to_install_it(capsys):
    method = external_methods.ExternalMethod("install it so", configurations=[])
    with pytest.raises(SystemExit):
        external_methods.ExternalMethodDummyTrainerConfig(method_name="x", method=method)
    assert "install it so" in capsys.readouterr().out
