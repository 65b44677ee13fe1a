"""Real runs, as small as they can be, a real capture, and `ns-*` commands."""

import importlib.util
import io
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from itertools import pairwise
from pathlib import Path
from textwrap import indent
from types import ModuleType

import hypothesis
import in_process
import pytest
from distorted import write_capture

from pds_nerfstudio import compat

compat.apply()  # as the method table does for every ns-* command
hypothesis.settings.register_profile("untimed", deadline=None)  # how fast an example is says nothing about it
hypothesis.settings.load_profile("untimed")

BIN = Path(sys.executable).parent

if "PYTEST_XDIST_WORKER" not in os.environ and ("-m", "gpu") not in pairwise(sys.argv):
    # Bits and counts are compared, for which every machine has to be the same: only `pytest -m gpu` sees a GPU.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(scope="session")
def toy_scene(tmp_path_factory) -> Path:
    """A toybox edit (can to cone) of a dozen 32-pixel views."""
    from pds_nerfstudio.toybox.dataset import write_edit
    from pds_nerfstudio.toybox.spec import find_edit

    folder = tmp_path_factory.mktemp("toy") / "scene"
    write_edit(find_edit("can-to-cone"), folder, train_views=12, test_views=2, size=32, num_points=400)
    return folder


@pytest.fixture(scope="session")
def toy_splats(toy_scene) -> Path:
    """`config.yml` of a splat run of it; never written to."""
    from pds_nerfstudio.evaluation.trial import reconstruct

    return reconstruct("splatfacto", toy_scene / "source", toy_scene.parent / "splats", steps=60, seed=0)


@pytest.fixture(scope="session")
def toy_nerf(toy_scene) -> Path:
    """`config.yml` of a NeRF run of it; never written to."""
    from pds_nerfstudio.evaluation.trial import reconstruct

    return reconstruct(
        "nerfacto", toy_scene / "source", toy_scene.parent / "nerf", 20, seed=0, changes=in_process.FEW_SAMPLES
    )


@pytest.fixture(scope="session")
def run_command() -> Callable[..., subprocess.CompletedProcess]:
    """Run a console script of this environment: `run_command("ns-train", …, fails=False)`; its output is text."""

    def run(name: str, *args: object, fails: bool = False, timeout: float = 600) -> subprocess.CompletedProcess:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
        command = [str(BIN / name), *map(str, args)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment)
        output = done.stdout + done.stderr
        assert (done.returncode != 0) == fails, f"{' '.join(command)} ended with {done.returncode}:\n{output[-4000:]}"
        return done

    return run


@pytest.fixture(scope="session")
def run_here() -> Callable[..., str]:
    """`run_here("pds", …)` or `run_here("ns-train", …)`: the same in this process; what it printed."""
    commands = {"pds": in_process.pds, "ns-train": in_process.ns_train}

    def run(name: str, *args: object) -> str:
        with pytest.MonkeyPatch.context() as patched, redirect_stdout(io.StringIO()) as printed:
            patched.setenv("COLUMNS", "200")
            commands[name](*args)
        return printed.getvalue()

    return run


@pytest.fixture(scope="session")
def script() -> Callable[[str], ModuleType]:
    """`script(name)`: data_scripts/name.py as a module."""

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[1] / "data_scripts" / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="session")
def refused_lightly(run_command) -> Callable[..., None]:
    """`refused_lightly(code, *libraries)`: the code is refused in one sentence, and loads none of these for it."""

    def run(code: str, *libraries: str) -> None:
        program = (
            "import sys; from pathlib import Path; from pds_nerfstudio.errors import UserError\n"
            f"try:\n{indent(code, '    ')}\n"
            f"except (UserError, SystemExit): sys.exit(', '.join({set(libraries)} & set(sys.modules)) or 0)\n"
            "sys.exit('nothing was refused')\n"
        )
        run_command(sys.executable, "-c", program)

    return run


@pytest.fixture(scope="session")
def distorted(tmp_path_factory) -> Path:
    """A capture with lens distortion: the one that `PDS_FOX` names or that lies beside the repository, else our own."""
    beside = Path(__file__).parents[2] / "shared/data/fox"
    folder = Path(os.environ.get("PDS_FOX", beside))
    return (
        folder if (folder / "transforms.json").is_file() else write_capture(tmp_path_factory.mktemp("own") / "capture")
    )
