"""Every `ns-*` command imports our method table: it must be light, and survive a broken diffusion library."""

import subprocess
import sys

import pytest


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_method_table_brings_in_no_diffusion_library():
    loaded = python(
        "import sys, pds_nerfstudio.methods; print(sorted({'diffusers', 'transformers'} & set(sys.modules)))"
    )
    assert loaded.strip() == "[]"


def test_the_package_itself_imports_nothing_heavy():
    loaded = python("import sys, pds_nerfstudio; print(sorted({'torch', 'nerfstudio'} & set(sys.modules)))")
    assert loaded.strip() == "[]"


def test_registered_names_are_the_methods_own_and_no_built_in_is_replaced():
    from importlib.metadata import entry_points

    from nerfstudio.configs.method_configs import method_configs

    from pds_nerfstudio.methods import METHODS

    registered = {
        entry.name: entry.load()
        for entry in entry_points(group="nerfstudio.method_configs")
        if "pds_nerfstudio" in entry.value
    }
    assert {name: spec.config.method_name for name, spec in registered.items()} == {name: name for name in METHODS}
    assert not set(METHODS) & set(method_configs)


BREAK_DIFFUSERS = """
import sys
from importlib.machinery import ModuleSpec
class Broken:
    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self) if name.split(".")[0] in ("diffusers", "transformers") else None
    def create_module(self, spec):
        return None
    def exec_module(self, module):
        raise ImportError(f"{module.__name__} is broken")
sys.meta_path.insert(0, Broken())
"""


@pytest.mark.slow
def test_other_methods_survive_a_broken_diffusers():
    code = BREAK_DIFFUSERS + (
        "sys.argv = ['ns-train', 'nerfacto', '--help']\n"
        "from nerfstudio.scripts.train import entrypoint\n"
        "try:\n    entrypoint()\nexcept SystemExit as stop:\n    assert stop.code == 0\n"
    )
    assert "pipeline.datamanager" in python(code)


def test_ours_say_what_is_missing_where_diffusers_is_broken():
    code = BREAK_DIFFUSERS + (
        "from pds_nerfstudio.errors import UserError\n"
        "from pds_nerfstudio.priors.check import check_prior\n"
        "try:\n    check_prior('toybox')\n    from pds_nerfstudio.priors.load import load_prior\n"
        "except UserError as error:\n    print(error)\n"
    )
    assert "pip install" in python(code)
