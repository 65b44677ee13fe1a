"""A configuration is read as nerfstudio reads it, and no file makes it run code."""

import contextlib
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from nerfstudio.configs.method_configs import all_methods
from nerfstudio.engine.trainer import TrainerConfig

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.scenes.run_config import load_config

TRAINED = [name for name, config in all_methods.items() if isinstance(config, TrainerConfig)]
OBJECT, APPLY, NAME = "!!python/object:", "!!python/object/apply:", "!!python/name:"
SPLATS = yaml.dump(all_methods["splatfacto"])


def written(folder: Path, text: str) -> Path:
    path = folder / "config.yml"
    path.write_text(text, encoding="utf8")
    return path


@pytest.mark.parametrize("method", TRAINED)
def test_every_methods_configuration_is_read_as_nerfstudio_reads_it(method, tmp_path):
    text = yaml.dump(all_methods[method])
    loaded = load_config(written(tmp_path, text))
    assert yaml.dump(loaded) == yaml.dump(yaml.load(text, Loader=yaml.Loader)) == text


HOSTILE = {
    "a call": f"{APPLY}os.system [touch MARK]",
    "a call in a field": SPLATS.replace("seed: 42", f"seed: {APPLY}os.system [touch MARK]"),
    "a call of nerfstudio's": f"{APPLY}nerfstudio.utils.scripts.run_command ['touch MARK']",
    "a dataclass that is called": f"{APPLY}nerfstudio.engine.trainer.TrainerConfig []",
    "new": "!!python/object/new:os.system [touch MARK]",
    "new with a state": "!!python/object/new:type {args: [z, !!python/tuple [], {}], state: {a: 1}}",
    "a module": "!!python/module:os",
    "a function as a target": SPLATS.replace(
        f"{NAME}nerfstudio.engine.trainer.Trainer ''", f"{NAME}nerfstudio.utils.scripts.run_command ''"
    ),
    "a target of another package": SPLATS.replace(
        f"{NAME}nerfstudio.engine.trainer.Trainer ''", f"{NAME}subprocess.Popen ''"
    ),
    "a target that nerfstudio has imported": SPLATS.replace(
        f"{NAME}nerfstudio.engine.trainer.Trainer ''", f"{NAME}nerfstudio.scripts.downloads.download_data.zipfile ''"
    ),
    "a target that is a text": SPLATS.replace(f"{NAME}nerfstudio.engine.trainer.Trainer ''", "os.system", 1),
    "no target": SPLATS.replace(f"_target: {NAME}nerfstudio.engine.trainer.Trainer ''", "_target: null", 1),
    "a method that is replaced": SPLATS.replace(
        "data: null", f"data: null\nsetup: {NAME}nerfstudio.engine.trainer.Trainer ''", 1
    ),
    "a class that is replaced": SPLATS.replace(
        "data: null", f"data: null\n__class__: {NAME}nerfstudio.engine.trainer.Trainer ''", 1
    ),
    "an object of another package": f"{OBJECT}subprocess.Popen {{args: touch MARK}}",
    "an object that is no dataclass": f"{OBJECT}nerfstudio.engine.trainer.Trainer {{config: null}}",
    "an index that is a call": f"{APPLY}_operator.getitem [{{a: 1}}, a]",
    "a member that no enum has": SPLATS.replace("Train Iter (time)", "nothing"),
    "a path of numbers": f"{APPLY}pathlib.PosixPath [1, 2]",
    "bytes": "!!python/bytes 'YQ=='",
    "an unknown tag": "!something {a: 1}",
    "a list": "[1, 2]",
    "nothing": "",
    "not YAML": "a: [",
    "nested without end": "[" * 5000,
    "nested in one line": "- " * 1_000_000,
    "nested in one key": "? " * 1_000_000,
    "nested over many lines": "[\n" * 1_000_000,
    "a pipeline of another type": SPLATS[: SPLATS.index("pipeline:")] + "pipeline: 3\n",
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_strangers_configuration_runs_no_code(case, tmp_path):
    mark = tmp_path / "mark"
    with pytest.raises(UserError, match="config"):
        load_config(written(tmp_path, HOSTILE[case].replace("MARK", str(mark))))
    assert not mark.exists()


def test_what_yaml_loader_would_run_is_not_run(tmp_path):
    """The attack works where the loader is nerfstudio's."""
    mark = tmp_path / "mark"
    yaml.load(f"{APPLY}os.system [touch {mark}]", Loader=yaml.Loader)
    assert mark.exists()


def test_the_sentence_names_the_file_the_line_and_what_it_asked_for(tmp_path):
    path = written(tmp_path, SPLATS.replace("seed: 42", f"seed: {APPLY}os.system [ls]"))
    line = path.read_text().splitlines().index(f"  seed: {APPLY}os.system [ls]") + 1
    with pytest.raises(UserError) as refused:
        load_config(path)
    assert str(path) in str(refused.value)
    assert f"line {line}" in str(refused.value)
    assert "os.system" in str(refused.value)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("config")


@settings(max_examples=60)
@given(st.integers(0, len(SPLATS) - 1), st.integers(0, 40), st.text(max_size=12))
def test_a_damaged_configuration_is_an_answer_or_a_sentence(scratch, start, length, put):
    text = SPLATS[:start] + put + SPLATS[start + length :]
    try:
        path = written(scratch, text)
    except UnicodeEncodeError:
        return
    with contextlib.suppress(UserError):
        assert isinstance(load_config(path), TrainerConfig)
