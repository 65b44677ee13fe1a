"""`pds check` opens nothing, and says what a run holds."""

import shutil

import pytest
import torch

from pds_nerfstudio.cli.check import Check
from pds_nerfstudio.errors import UserError

pytestmark = pytest.mark.slow


@pytest.fixture
def copied(toy_splats, tmp_path):
    shutil.copytree(toy_splats.parent, tmp_path / "run")
    return tmp_path / "run"


class Evil:
    """What a pickle may hold."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return open, (str(self.mark), "w")


def test_a_run_without_code_is_described(toy_splats, capsys):
    Check(toy_splats.parent).run()
    said = capsys.readouterr().out
    assert "settings of source-splatfacto, no code" in said
    assert "step 59" in said


def test_a_copy_says_where_nerfstudio_would_look(copied, toy_splats, capsys):
    Check(copied).run()
    assert str(toy_splats.parent) in capsys.readouterr().out


def test_code_in_the_configuration_is_found_and_not_run(copied, tmp_path):
    text = (copied / "config.yml").read_text()
    mark = tmp_path / "mark"
    (copied / "config.yml").write_text(text.replace("seed: 0", f"seed: !!python/object/apply:os.mkdir [{mark}]", 1))
    with pytest.raises(UserError, match=r"os\.mkdir"):
        Check(copied).run()
    assert not mark.exists()


def test_code_in_a_checkpoint_is_found_and_not_run(copied, tmp_path):
    mark = tmp_path / "mark"
    (checkpoint,) = copied.glob("nerfstudio_models/*.ckpt")
    torch.save({"pipeline": {}, "step": Evil(mark)}, checkpoint)
    with pytest.raises(UserError, match="could run code"):
        Check(copied).run()
    assert not mark.exists()


def test_damage_is_found(copied):
    (checkpoint,) = copied.glob("nerfstudio_models/*.ckpt")
    whole = checkpoint.read_bytes()
    for content in (b"", whole[: len(whole) // 2], b"text"):
        checkpoint.write_bytes(content)
        with pytest.raises(UserError, match="damaged"):
            Check(copied).run()
    for state in ({"pipeline": "text"}, {"pipeline": {"a": 1}}):
        torch.save(state, checkpoint)
        with pytest.raises(UserError, match="not a checkpoint of nerfstudio"):
            Check(copied).run()
    torch.save({"step": 1, "pipeline": {"means": torch.tensor([1.0, float("nan")])}}, checkpoint)
    with pytest.raises(UserError, match="not finite, in means"):
        Check(copied).run()
