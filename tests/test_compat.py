"""What `compat` promises about checkpoints, LPIPS, ffmpeg, the list of external methods and the viewer."""

import asyncio
import inspect
import io
import math
import pickle
import socket
import urllib.error
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock, patch

import numpy as np
import pytest
import torch
import torchmetrics.image.lpip as lpip
import websockets
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.configs import external_methods
from nerfstudio.configs.base_config import ViewerConfig
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanager, FullImageDatamanagerConfig
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.field_components.spatial_distortions import SceneContraction
from nerfstudio.models.base_model import Model
from nerfstudio.models.nerfacto import NerfactoModelConfig
from nerfstudio.utils import install_checks, rich_utils
from websockets.asyncio.client import connect as connect_async
from websockets.sync.client import connect

from pds_nerfstudio import compat, deferred_lpips, quiet

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
    monkeypatch.setattr(lpip, deferred_lpips.LPIPS_CLASS, fail)
    monkeypatch.setattr(deferred_lpips.DeferredLpips, "failed", None)


def test_the_built_in_nerfacto_is_built_without_network(offline):
    proposal = {"hidden_dim": 4, "log2_hashmap_size": 4, "num_levels": 1, "max_res": 16, "use_linear": False}
    config = NerfactoModelConfig(
        implementation="torch", num_levels=1, log2_hashmap_size=4, proposal_net_args_list=[proposal]
    )
    model = config.setup(scene_box=SceneBox(torch.tensor([[-1.0] * 3, [1.0] * 3])), num_train_data=2)
    assert isinstance(model.lpips, deferred_lpips.DeferredLpips)
    assert not [name for name in model.state_dict() if "lpips" in name]
    image = torch.rand(1, 3, 8, 8)
    assert math.isnan(model.lpips(image, image))


def test_a_missing_lpips_is_reported_once(offline, capsys):
    images = torch.rand(2, 1, 3, 8, 8)
    values = [deferred_lpips.DeferredLpips(normalize=True)(*images) for _ in range(3)]
    assert all(math.isnan(value) for value in values)
    assert capsys.readouterr().out.count("LPIPS is left out") == 1


def test_lpips_is_loaded_with_its_settings_when_it_is_first_asked_for(monkeypatch):
    class Metric(torch.nn.Module):
        def __init__(self, normalize):
            super().__init__()
            self.normalize, self.weight = normalize, torch.nn.Parameter(torch.ones(1))

        def forward(self, prediction, target):
            return (prediction - target).abs().mean() * self.weight.detach()[0] if self.normalize else None

    monkeypatch.setattr(lpip, deferred_lpips.LPIPS_CLASS, Metric)
    monkeypatch.setattr(deferred_lpips.DeferredLpips, "failed", None)
    metric = deferred_lpips.DeferredLpips(normalize=True)
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


def ask(port: int, path: str, **headers: str) -> bytes:
    """The raw answer to one HTTP request, its path sent as it is."""
    lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "Connection: close"]
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.fixture(scope="module")
def viewer():
    import viser

    server = viser.ViserServer(host=ViewerConfig().websocket_host, port=17123, verbose=False)
    yield server
    server.stop()


def test_viewers_listen_on_loopback_unless_asked_otherwise(viewer):
    assert ViewerConfig().websocket_host == compat.LOOPBACK
    assert ViewerConfig(websocket_host="0.0.0.0").websocket_host == "0.0.0.0"
    assert {connection.laddr.ip for connection in listening(viewer.get_port())} == {compat.LOOPBACK}


def listening(port: int) -> list:
    import psutil

    return [c for c in psutil.Process().net_connections("tcp") if c.status == "LISTEN" and c.laddr.port == port]


def test_the_built_in_methods_viewers_listen_on_loopback_too():
    from nerfstudio.configs.method_configs import all_methods

    viewers = [config.viewer for config in all_methods.values() if hasattr(config, "viewer")]
    assert {viewer.websocket_host for viewer in viewers} == {compat.LOOPBACK}


@pytest.mark.parametrize("up", ["..", "%2e%2e", "%252e%252e", "..\\..", "a/.."])
def test_the_viewer_serves_no_file_outside_its_own(viewer, up):
    path = f"/{'/'.join([up] * 14)}/etc/hostname"
    answer = ask(viewer.get_port(), path, Host=f"localhost:{viewer.get_port()}")
    assert answer.startswith(b"HTTP/1.1 403")
    assert Path("/etc/hostname").read_bytes().strip() not in answer


def test_the_viewer_still_serves_its_page(viewer):
    answer = ask(viewer.get_port(), "/", Host=f"localhost:{viewer.get_port()}")
    assert answer.startswith(b"HTTP/1.1 200")


def test_a_page_from_elsewhere_cannot_connect(viewer):
    port = viewer.get_port()
    foreign = ("http://evil.example", "http://localhost:1", "null", f"https://localhost.evil.example:{port}")
    for origin in foreign:
        with pytest.raises(websockets.exceptions.InvalidStatus) as refused:
            connect(f"ws://127.0.0.1:{port}", origin=origin)
        assert refused.value.response.status_code == 403


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_the_viewers_own_page_and_programs_can_connect(viewer, host):
    port = viewer.get_port()
    for origin in (f"http://{host}:{port}", None):
        with connect(f"ws://{host}:{port}", origin=origin, max_size=None) as page:
            assert page.recv(timeout=10)


def test_a_name_that_was_made_to_resolve_to_this_machine_is_refused(viewer):
    """DNS rebinding: the page's own site, by whose name it asks, has become 127.0.0.1."""
    answer = ask(viewer.get_port(), "/", Host="evil.example:17123", Origin="http://evil.example:17123")
    assert answer.startswith(b"HTTP/1.1 403")


def test_a_shared_viewer_is_reached_by_the_name_it_was_given(monkeypatch):
    page = ["x.share.viser.studio"], ["https://x.share.viser.studio"]
    assert compat.refused_request("/", *page, loopback=True)
    monkeypatch.setattr(compat, "shared_hosts", {"x.share.viser.studio"})
    assert compat.refused_request("/", *page, loopback=True) is None


def test_a_server_in_the_style_of_newer_websockets_is_guarded_as_well():
    """viser 1.0 serves by `websockets.asyncio`, whose requests are objects."""
    from websockets.asyncio.server import serve

    async def handler(connection):
        await connection.send(b"hello")

    async def nothing(connection, request):
        return None

    handler.__module__ = "viser.infra._infra"

    async def attempt(origin: str | None):
        async with serve(handler, "127.0.0.1", 0, process_request=nothing) as server:
            port = server.sockets[0].getsockname()[1]
            async with connect_async(f"ws://127.0.0.1:{port}", origin=origin) as page:
                return await page.recv()

    assert asyncio.run(attempt(None)) == b"hello"
    with pytest.raises(websockets.exceptions.InvalidStatus):
        asyncio.run(attempt("http://evil.example"))


def test_markdown_reads_no_picture_from_this_machines_disk(viewer, tmp_path):
    from PIL import Image

    Image.new("RGB", (2, 2)).save(tmp_path / "secret.png")
    handle = viewer.gui.add_markdown("", image_root=Path())
    with patch.object(viewer.gui._websock_interface, "queue_message") as sent:
        handle.content = f"![x]({tmp_path / 'secret.png'}) ![y](/dev/zero)"
    assert "data:" not in str(sent.call_args)


def test_what_nerfstudio_remarks_of_every_run_is_left_out_and_nothing_else(capsys):
    quiet.leave_out_remarks()
    rich_utils.CONSOLE.log("[yellow] Dataset is overriding train_indices to [0, 1]")
    rich_utils.CONSOLE.print("[NOTE] Not running eval iterations since only viewer is enabled.")
    rich_utils.CONSOLE.log("Auto image downscale factor of 2")
    rich_utils.CONSOLE.print()
    said = capsys.readouterr().out
    assert "overriding" not in said
    assert "NOTE" not in said
    assert "factor of 2" in said
    assert "test_compat.py" in said


def test_space_is_contracted_to_the_same_numbers_without_the_slow_norm(monkeypatch):
    contract = SceneContraction(order=math.inf)
    positions = (3 * torch.randn(500, 3, generator=torch.Generator().manual_seed(0))).requires_grad_()
    size = torch.linalg.norm(positions, ord=math.inf, dim=-1, keepdim=True)
    expected = torch.where(size < 1, positions, (2 - 1 / size) * (positions / size))
    monkeypatch.delattr(torch.linalg, "norm")
    assert torch.equal(contract(positions), expected)
    slopes = (torch.autograd.grad(value.square().sum(), positions)[0] for value in (contract(positions), expected))
    assert torch.equal(*slopes)


def test_photographs_kept_on_the_cpu_are_not_pinned_without_a_gpu(monkeypatch):
    def refused(_):
        raise RuntimeError("Cannot access accelerator device when none is available.")

    monkeypatch.setattr(torch.Tensor, "pin_memory", refused)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    camera = Cameras(torch.eye(4)[None, :3], 4.0, 4.0, 2.0, 2.0, 4, 4)
    image = torch.zeros(4, 4, 3)
    manager: Any = object.__new__(FullImageDatamanager)
    manager.config = FullImageDatamanagerConfig(cache_images="cpu")
    manager.device = "cpu"
    manager.train_dataset = MagicMock(cameras=camera, get_data=lambda *_, **__: {"image": image, "mask": image})
    manager.train_dataset.__len__.return_value = 1
    (kept,) = manager.cached_train
    assert kept["image"].device.type == "cpu"


def test_round_contractions_are_nerfstudios_own():
    far = torch.tensor([[3.0, 4.0, 0.0]])
    torch.testing.assert_close(SceneContraction()(far), (2 - 1 / 5) * far / 5)
