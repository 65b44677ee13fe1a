"""Do gsplat's kernels compile against the torch that is installed? No GPU is needed.

    python benchmarks/compile_gsplat.py                      # for compute capability 8.6
    python benchmarks/compile_gsplat.py --archs "8.0;9.0" --folder /tmp/gsplat     # goes on where it was stopped

The compiler that belongs to torch's own CUDA comes from the package index into a temporary folder and is put together
with the headers that torch's wheels bring. Then gsplat builds itself, as it does at its first render.
"""

import os
import subprocess
import sys
import tempfile
import time
import zipfile
from importlib.util import find_spec
from pathlib import Path

import torch
import tyro

COMPILER = ("nvidia-cuda-nvcc", "nvidia-cuda-crt", "nvidia-nvvm", "nvidia-cuda-cccl")
BUILD = "from gsplat.cuda._backend import _C; print(len([n for n in dir(_C) if n[0] != '_']), 'names in the extension')"


def toolkit(folder: Path, version: str) -> Path:
    """A CUDA_HOME of this version ("13.2") in `folder`, unless it is there."""
    wheels, unpacked, home = folder / "wheels", folder / "unpacked", folder / "cuda"
    if home.exists():
        return home
    names = [f"{name}=={version}.*" for name in COMPILER]
    subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", wheels, *names], check=True)
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(unpacked)
    name = f"cu{version.split('.')[0]}"
    (from_torch,) = (Path(place) / name for place in find_spec("nvidia").submodule_search_locations)  # pyright: ignore
    for part in (unpacked / "nvidia" / name, from_torch):
        for path in filter(Path.is_file, part.rglob("*")):
            place = home / path.relative_to(part)
            place.parent.mkdir(parents=True, exist_ok=True)
            if not place.exists():
                place.symlink_to(path)
    for library in list((home / "lib").glob("*.so.*")):  # wheels have no names for the linker
        (library.parent / f"{library.name.split('.so.')[0]}.so").symlink_to(library)
    (home / "lib64").symlink_to(home / "lib")
    for part in ("bin", "nvvm/bin"):
        for program in (home / part).glob("*"):
            program.resolve().chmod(0o755)
    return home


def main(archs: str = "8.6", jobs: int = 1, folder: Path | None = None) -> None:
    """Build in a folder of its own and print how it went.

    Args:
        archs: compute capabilities, as TORCH_CUDA_ARCH_LIST has them.
        jobs: compilers at a time.
        folder: where to build, and to go on building; by default a temporary one.
    """
    version = torch.version.cuda
    if version is None:
        raise SystemExit("This torch is a CPU build: there is no CUDA to compile for.")
    with tempfile.TemporaryDirectory(prefix="compile_gsplat_") as temporary:
        name = str(folder or temporary)
        home = toolkit(Path(name), version)
        environment = os.environ | {
            "CUDA_HOME": str(home),
            "PATH": f"{home / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "TORCH_CUDA_ARCH_LIST": archs,
            "TORCH_EXTENSIONS_DIR": str(Path(name) / "build"),
            "MAX_JOBS": str(jobs),
        }
        print(f"torch {torch.__version__}, CUDA {version}, compute capability {archs}", flush=True)
        start = time.perf_counter()
        status = subprocess.run([sys.executable, "-c", BUILD], env=environment, check=False).returncode
        print(f"{'built and loaded' if status == 0 else 'FAILED'} after {time.perf_counter() - start:.0f} seconds")
        raise SystemExit(status)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
