"""Mitsuba 3, where it is installed: which of its variants runs here, and scenes as it wants them.

Mitsuba compiles its kernels by LLVM where there is one that can; its scalar variant runs everywhere, about half as
fast. An LLVM that is too old ends the process instead of raising an error, so it is never tried.
"""

import os
import re
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.studio.atlas import Pixels, atlas
from pds_nerfstudio.studio.looks import Look
from pds_nerfstudio.studio.rooms import Lamp
from pds_nerfstudio.studio.surfaces import Mesh, Surface

LEAST_LLVM = 19
"""Mitsuba 3.9 ended the process with LLVM 15 and 16 ("Cannot select: fminimum") and ran with 19."""
LLVM_PLACES = (
    *("/usr/lib/*/libLLVM*", "/usr/lib64/libLLVM*", "/usr/lib/libLLVM*", "/usr/lib/llvm-*/lib/libLLVM*"),
    *("/opt/homebrew/opt/llvm*/lib/libLLVM*", "/usr/local/opt/llvm*/lib/libLLVM*"),
)
NEEDED = (
    "Pictures of studio are rendered by Mitsuba: install it with `pip install '.[studio]'` in this package's checkout."
)


def newest_llvm() -> Path | None:
    """The newest LLVM library of this machine that Mitsuba runs with."""
    found = [path for place in LLVM_PLACES for path in Path("/").glob(place.lstrip("/"))]
    able = [(version, path) for path in found if (version := llvm_version(path.name)) >= LEAST_LLVM]
    return max(able)[1] if able else None


def llvm_version(name: str) -> int:
    """Of a library by its file's name, such as libLLVM-19.so or libLLVM.so.19.1; 0 for any other file."""
    match = re.fullmatch(r"libLLVM(?:-|\.so\.)(\d+)[\d.]*(?:\.(?:so|dylib).*)?", name)
    return int(match[1]) if match else 0


@cache
def load() -> Any:
    """The module, its variant chosen.

    Raises:
        UserError: it is not installed; the sentence names the extra.
    """
    if "DRJIT_LIBLLVM_PATH" not in os.environ and (library := newest_llvm()):
        os.environ["DRJIT_LIBLLVM_PATH"] = str(library)
    try:
        import mitsuba as mi
    except ImportError as error:
        raise UserError(NEEDED) from error
    mi.set_variant("llvm_ad_rgb" if "DRJIT_LIBLLVM_PATH" in os.environ else "scalar_rgb")
    return mi


def use_threads(count: int) -> None:
    """Render by so many threads; 0 for as many as there are cores. After `load`."""
    import drjit

    drjit.set_thread_count(count or os.cpu_count() or 1)


def described() -> str:
    """A sentence's subject on what renders: the variant and, for LLVM, its library. After `load`."""
    mi = load()
    if mi.variant().startswith("llvm"):
        return f"Mitsuba {mi.__version__} renders by {Path(os.environ['DRJIT_LIBLLVM_PATH']).name}"
    return (
        f"Mitsuba {mi.__version__} renders without LLVM, about half as fast as with it "
        f"(libLLVM {LEAST_LLVM} or newer was not found)"
    )


def write_mesh(shape: Mesh, path: Path) -> None:
    """A binary PLY with normals and texture coordinates."""
    names = ("x", "y", "z", "nx", "ny", "nz", "u", "v")
    vertices = np.concatenate([shape.vertices, shape.normals, shape.uv], axis=1).astype("<f4")
    faces = np.empty(len(shape.faces), dtype=[("count", "u1"), ("index", "<i4", 3)])
    faces["count"], faces["index"] = 3, shape.faces
    header = [
        *("ply", "format binary_little_endian 1.0", f"element vertex {len(vertices)}"),
        *(f"property float {name}" for name in names),
        *(f"element face {len(faces)}", "property list uchar int vertex_indices", "end_header"),
    ]
    path.write_bytes(("\n".join(header) + "\n").encode() + vertices.tobytes() + faces.tobytes())


def bsdf(mi: Any, look: Look, colours: Pixels | None, relief: Pixels | None) -> dict[str, Any]:
    """A look as one of Mitsuba's materials, with the textures of its atlas."""

    def picture(pixels: np.ndarray) -> dict[str, Any]:
        return {"type": "bitmap", "bitmap": mi.Bitmap(np.ascontiguousarray(pixels)), "raw": True}

    if callable(look.colour):
        assert colours is not None
        colour = picture(colours)
    else:
        colour = {"type": "rgb", "value": list(look.colour)}
    if look.roughness > 0.8 and not look.lacquer and not look.metallic:
        material = {"type": "diffuse", "reflectance": colour}
    else:
        material = {"type": "principled", "base_color": colour, "roughness": look.roughness}
        material |= {"metallic": look.metallic} if look.metallic else {}
        material |= {"anisotropic": look.anisotropic} if look.anisotropic else {}
        material |= {"clearcoat": look.lacquer, "clearcoat_gloss": 0.93} if look.lacquer else {}
    if relief is not None:
        material = {"type": "bumpmap", "arbitrary": picture(relief), "scale": look.depth * 30, "bsdf": material}
    return {"type": "twosided", "bsdf": material}


def shapes(mi: Any, parts: list[tuple[Surface, Look]], detail: float = 1.0) -> dict[str, Any]:
    """Surfaces as shapes of a scene, one shape a look: the fewer materials, the faster Mitsuba is.

    Args:
        detail: factor on the density of textures.
    """
    looks = {id(look): look for _, look in parts}
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, (key, look) in enumerate(looks.items()):
            surfaces = [surface for surface, own in parts if id(own) == key]
            joined, colours, relief = atlas(surfaces, look, detail)
            path = Path(folder) / f"{number}.ply"
            write_mesh(joined, path)
            material = bsdf(mi, look, colours, relief)
            found[f"part_{number}"] = mi.load_dict({"type": "ply", "filename": str(path), "bsdf": material})
    return found


def rectangle(mi: Any, lamp: Lamp) -> dict[str, Any]:
    """A lamp as a shape of a scene."""
    corner, along, up = (np.asarray(v, float) for v in (lamp.corner, lamp.along, lamp.up))
    normal = np.cross(along, up)
    matrix = np.eye(4)
    matrix[:3] = np.stack([along / 2, up / 2, normal / np.linalg.norm(normal), corner + (along + up) / 2], axis=1)
    emitter = {"type": "area", "radiance": {"type": "rgb", "value": list(lamp.radiance)}}
    return {"type": "rectangle", "to_world": mi.ScalarTransform4f(matrix), "emitter": emitter}
