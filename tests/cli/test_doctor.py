"""What `pds doctor` says of machines that lack something, and the check that splats make before they load."""

import inspect
import json
import re
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from pds_nerfstudio import estimates, machine
from pds_nerfstudio.cli.doctor import PRIOR, Doctor
from pds_nerfstudio.errors import UserError
from pds_nerfstudio.scenes import kernels


@pytest.fixture
def able(monkeypatch, tmp_path):
    """A machine on which everything works: kernels, a prior, room on the disk, and no hub."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(machine, "ROOM", 0)
    monkeypatch.setattr(machine, "has_nvidia_card", lambda: False)
    monkeypatch.setattr("pds_nerfstudio.priors.check.local_folder", lambda name: tmp_path)


def test_an_able_machine_ends_with_exit_code_0(able, capsys):
    Doctor().run()
    page = capsys.readouterr().out
    assert "An edit can run." in page
    assert all(
        name in page for name in ("python", "torch", "gsplat", "nvcc", "hub", "LPIPS", "disk", "toybox-flow", "studio")
    )
    assert len(page.splitlines()) < 60


def test_estimates_are_called_counted_and_compared_with_what_a_card_has_free(able, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (8 * 2**30, 12 * 2**30))
    monkeypatch.setattr(machine, "splats_obstacle", lambda device: None)
    Doctor(json=True).run()
    (lines,) = (v for k, v in json.loads(capsys.readouterr().out).items() if "counted, not measured" in k)
    assert {name for name, line in lines.items() if "more than cuda:0 has free" in line} >= {
        "piva-edit",
        "piva-edit-splat",
    }
    assert "more than" not in lines["pds-edit-splat"]


def test_estimates_are_made_of_what_the_documentation_counts():
    page = (Path(__file__).parents[2] / "docs" / "performance.md").read_text()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("|")]
    prior = {row[1]: row for row in rows if row[0] == "SD 1.5"}
    counted = [row for row in rows if len(row) == 10 and re.fullmatch(r"[\d.]+", row[1])]
    # The first table is Stable Diffusion 1.5's.
    memory = {name: float(row[1]) for row in reversed(counted) for name in row[0].split(", ")}
    (nerf,) = (row for row in rows if row[0] == "nerfacto" and row[-1].isdigit())
    assert sum(map(float, nerf[1:4])) == pytest.approx(estimates.NERF_WORK)
    found = estimates.estimates()
    for name, counted in estimates.METHODS.items():
        short = name.removesuffix("-edit")
        assert float(prior[short.replace("pnr", "pds")][6]) == counted.work
        assert found[f"{name}-splat"].memory == pytest.approx(memory[short], abs=0.06)
    (measured,) = (row for row in rows if row[0].startswith("nerfacto (torch implementation), our lookup"))
    step = estimates.METHODS["pds-edit"].work / estimates.RATE + estimates.NERF_SECONDS
    assert step == pytest.approx(float(measured[1].replace(",", "")) / 1000, abs=0.05)
    hours = (step + estimates.NERF_WORK / estimates.RATE) * 16_000 / 3600
    assert str(found["pnr-edit"]).endswith(f"16000 steps: {hours:.1f} h on an H100")


def test_json_says_the_same(able, capsys):
    Doctor(json=True).run()
    found = json.loads(capsys.readouterr().out)
    assert found["can_run"] is True
    assert found["mends"] == []
    assert {"packages", "graphics", "defaults", "models", "disk"} < found.keys()


def test_a_missing_prior_without_a_hub_is_a_mend_and_exit_code_1(able, monkeypatch, capsys):
    monkeypatch.setattr("pds_nerfstudio.priors.check.local_folder", lambda name: None)
    with pytest.raises(SystemExit) as end:
        Doctor().run()
    assert end.value.code == 1
    page = capsys.readouterr().out
    assert f"{PRIOR} is not here and the hub is not asked (HF_HUB_OFFLINE is set)" in page
    assert "(--prior toybox), everything can run here.\nNext:\n  pds demo" in page
    monkeypatch.setattr(machine, "ROOM", 2**90)
    with pytest.raises(SystemExit):
        Doctor().run()
    assert "toybox), everything" not in capsys.readouterr().out


def test_a_full_disk_and_a_card_that_torch_does_not_see_are_mends(able, monkeypatch):
    monkeypatch.setattr(machine, "ROOM", 2**80)
    monkeypatch.setattr(machine, "has_nvidia_card", lambda: True)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    mends = " ".join(machine.examine(Path.cwd(), PRIOR).mends)
    assert "make room" in mends
    assert "torch cannot use" in mends


@pytest.mark.parametrize(
    ("told_not_to", "cached", "kept"), [(False, False, True), (True, True, True), (True, False, False)]
)
def test_what_makes_every_start_slow_is_named(able, monkeypatch, tmp_path, told_not_to, cached, kept):
    compiled = tmp_path / "torch.pyc"
    if cached:
        compiled.touch()
    monkeypatch.setattr(sys, "dont_write_bytecode", told_not_to)
    monkeypatch.setattr(machine, "find_spec", lambda name: SimpleNamespace(cached=str(compiled)))
    assert machine.bytecode_is_kept() == kept
    found = machine.examine(Path.cwd(), PRIOR)
    assert ("PYTHONDONTWRITEBYTECODE" in str(found.sections["packages"])) != kept
    assert found.can_run


@pytest.mark.parametrize(
    ("device", "compiled", "nvcc", "works"),
    [
        ("cuda", None, None, False),
        ("cuda:1", None, None, False),
        ("cuda", None, "/usr/bin/nvcc", True),
        ("cuda", "csrc.so", None, True),
        ("cpu", None, None, True),
    ],
)
def test_splats_on_a_gpu_need_kernels_or_a_compiler(monkeypatch, device, compiled, nvcc, works):
    monkeypatch.setattr(kernels, "gsplat_kernels", lambda: compiled)
    monkeypatch.setattr("shutil.which", lambda name: nvcc)
    if works:
        kernels.require_splats(device)
    else:
        with pytest.raises(UserError, match="install the CUDA toolkit or a prebuilt gsplat wheel"):
            kernels.require_splats(device)


def test_a_hub_that_never_answers_costs_two_seconds(monkeypatch):
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: time.sleep(30))
    begin = time.monotonic()
    assert machine.hub_state() == "not reachable within 2 seconds"
    assert time.monotonic() - begin < 5


@pytest.mark.slow
def test_what_the_doctor_repeats_is_what_the_package_uses():
    from pds_nerfstudio.evaluation import measure
    from pds_nerfstudio.methods import METHODS
    from pds_nerfstudio.pipelines.edit_config import EditConfig

    assert EditConfig().prior == PRIOR
    assert {n: e.steps for n, e in estimates.estimates().items()}.items() <= {
        name: method.config.max_num_iterations for name, method in METHODS.items()
    }.items()
    assert machine.CLIPS == measure.CLIPS
    pinned = Path(inspect.getfile(machine)).parents[1].joinpath("constraints.txt").read_text().splitlines()
    for name, version in machine.TESTED.items():
        assert any(line.split(" ;")[0] == f"{name}=={version}" for line in pinned), name


@pytest.mark.slow
def test_a_splat_run_on_a_gpu_without_kernels_ends_before_anything_is_loaded(monkeypatch, capfd, tmp_path):
    from pds_nerfstudio.methods import METHODS
    from pds_nerfstudio.pipelines import scene_trainer

    monkeypatch.setattr(kernels, "gsplat_kernels", lambda: None)
    monkeypatch.setattr("shutil.which", lambda name: None)
    trainer = object.__new__(scene_trainer.SceneTrainer)
    trainer.config, trainer.device = METHODS["source-splatfacto"].config, "cuda:0"
    trainer.base_dir = tmp_path
    with pytest.raises(SystemExit):
        trainer.setup()
    assert "no nvcc on the path" in capfd.readouterr().err
