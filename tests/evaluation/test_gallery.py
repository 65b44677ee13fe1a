"""`pds gallery`: edits of one run by name, resumed and filmed again; and its page in Chromium.

A screenshot is kept in outputs/gallery/ (or PDS_ARTEFACTS), to be looked at.
"""

import json
import os
import re
import shlex
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tyro

from pds_nerfstudio.cli.gallery import PAGE, RECORDS, Gallery, _folder_of, _line_without
from pds_nerfstudio.errors import UserError
from pds_nerfstudio.evaluation import workers
from pds_nerfstudio.evaluation.cells import check_records, plan_cells, prepare
from pds_nerfstudio.evaluation.gallery import OwnRun, OwnSettings, edits_of, lines_of
from pds_nerfstudio.evaluation.measure import TRAINING
from pds_nerfstudio.evaluation.suite import Suite
from pds_nerfstudio.scenes.run_config import load_config
from pds_nerfstudio.scenes.source import fingerprint

ARTEFACTS = Path(os.environ.get("PDS_ARTEFACTS", Path(__file__).parents[2] / "outputs" / "gallery"))
SOURCE, TARGETS = "a photo of a red can", ("a photo of a red cone", "a photo of a blue can")
CHAIN = "pds-edit[pipeline.objective.guidance_scale=3.0]+sdedit-refine[max_num_iterations=2,pipeline.num_steps=1]"
OF_THE_EDIT = ("src_prompt", "tgt_prompt", "prior", "num_steps")
"""Settings of pipelines that a line has to bring back."""


def here(task: Any, cells: Iterable[Any], workers: int = 1) -> Iterator:
    """In place of `workers.each`: everything in this process."""
    from pds_nerfstudio.evaluation.workers import guarded

    return ((cell, guarded(task, cell)) for cell in cells)


@pytest.fixture(scope="module")
def made(toy_splats, tmp_path_factory) -> Iterator[tuple[Gallery, Path, str]]:
    """A gallery of two prompts by one method, its folder, and the fingerprint of the run before it."""
    out, before = tmp_path_factory.mktemp("gallery"), fingerprint(toy_splats.parent)
    line = Gallery(toy_splats.parent, TARGETS, SOURCE, ("pds-edit",), prior="toybox", edit_steps=2, out=out, frames=8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "each", here)
        patch.setattr("sys.argv", ["pds", "gallery", "RUN", "--seeds", "1"])
        line.run()
        yield line, out, before


def names(*targets: str, src_prompt: str = SOURCE, out: Path | None = None) -> list[str]:
    return [edit.name for edit in edits_of(src_prompt, targets, out)]


def test_edits_are_named_by_what_their_prompts_add():
    assert names(*TARGETS) == ["cone", "blue-can"]
    assert names("a photo of a red can beside a tree", "a photo of a polar bear") == ["beside-a-tree", "polar-bear"]
    arms = "a photo of a man raising his arms"
    assert names(arms, src_prompt="a photo of a man") == ["raising-his-arms"]


LONG = "a photo of a red can " + "very " * 12
SAME_WORDS = (
    TARGETS[0],
    *("a photo of a Red cone", "a photo of a red cone!", "a photo of a cone", "a photo of a red can cone"),
    *("a photo of the cone", f"{LONG}old", f"{LONG}new", "…", "!", "edit", "a photo of a red can, blue"),
)


def test_the_name_of_an_edit_is_its_prompts_alone():
    alone = [names(prompt)[0] for prompt in SAME_WORDS]
    assert len(set(alone)) == len(SAME_WORDS)
    assert names(*SAME_WORDS) == alone
    assert names(*reversed(SAME_WORDS)) == alone[::-1]


def test_edits_that_a_gallery_has_keep_their_names(tmp_path):
    first, second = SAME_WORDS[3], TARGETS[0]
    was = names(second)[0]
    for name, prompt, file in (("cone", first, "record.json"), ("blue-can", TARGETS[1], "edited.json")):
        kept = tmp_path / "cells" / f"{name}.pds-edit.0" / file
        kept.parent.mkdir(parents=True)
        kept.write_text(json.dumps({"target": prompt}))
    assert was == "cone"
    assert names(first, TARGETS[1], out=tmp_path) == ["cone", "blue-can"]
    (numbered,) = names(second, out=tmp_path)
    assert re.fullmatch("cone-[0-9a-f]{6}", numbered)
    shutil.move(tmp_path / "cells" / "cone.pds-edit.0", tmp_path / "cells" / f"{numbered}.pds-edit.0")
    assert names(second, out=tmp_path) == [numbered]


@pytest.mark.slow
def test_a_page_of_one_file_shows_every_edit_and_the_run_is_only_read(made, toy_splats):
    _, out, before = made
    text = (out / PAGE).read_text()
    assert fingerprint(toy_splats.parent) == before
    assert f"Edits of “{SOURCE}”" in text
    assert all(f"“{target}”" in text for target in TARGETS)
    assert text.count("<video") == 2 * len(TARGETS)
    files = json.loads(re.search(r"<script type=application/json id=files>(.*?)</script>", text)[1])  # type: ignore[index]
    assert sorted(kind for kind, _ in files.values()).count("video/mp4") == 1 + len(TARGETS)  # before is there once
    assert not re.search(r"(src|href)=['\"]?(https?:|file:|/)", text)
    links = re.findall(r"href='([^']+)'", text)
    assert len(links) == len(TARGETS)
    assert all((out / link).read_bytes().startswith(b"ply") for link in links)
    records = json.loads((out / RECORDS).read_text())
    assert [record["target"] for record in records] == list(TARGETS)
    assert all({"psnr", "clip_score", "directional_similarity"} <= set(record["metrics"]) for record in records)


@pytest.mark.slow
def test_a_page_says_which_views_its_numbers_are_of(made):
    line, out, _ = made
    page = (out / PAGE).read_text()
    assert "over held-out views" in page
    looks = {file: file.read_text() for file in out.glob("cells/*/look.json")}
    assert len(looks) == len(TARGETS)
    for file, text in looks.items():
        file.write_text(text.replace("held-out views", TRAINING))
    replace(line, only_page=True).run()
    assert f"over {TRAINING}" in (out / PAGE).read_text()
    for file, text in looks.items():
        file.write_text(text)
    (out / PAGE).write_text(page)


@pytest.mark.slow
def test_the_same_line_repeats_nothing_another_look_no_edit_and_another_run_is_refused(made, toy_splats, tmp_path):
    line, out, _ = made

    def times(name: str) -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in out.rglob(name)}

    records, edits = times("record.json"), times("edited.json")
    line.run()
    assert times("record.json") == records
    replace(line, frames=6).run()
    assert times("edited.json") == edits
    assert all(time != records[path] for path, time in times("record.json").items())
    line.run()
    other = Path(shutil.copytree(toy_splats.parent, tmp_path / "other"))
    with pytest.raises(UserError, match=r"made with another settings .* give another --out"):
        replace(line, run_folder=other).run()


@pytest.mark.slow
def test_the_lines_of_an_edit_make_it_again(toy_splats, tmp_path):
    """ns-train reads them as what the cell has run, link by link."""
    from nerfstudio.configs.method_configs import AnnotatedBaseConfigUnion

    from pds_nerfstudio.evaluation.cells import make

    settings = OwnSettings(edit_steps=2, prior="toybox", run=str(toy_splats), step=59)
    benchmark = OwnRun("splatfacto", settings)
    (cell,) = plan_cells(Suite("gallery", edits_of(SOURCE, TARGETS[:1])), (CHAIN,), benchmark, 1, tmp_path)
    refined = make(cell)
    edited = make(cell.first(1))
    for line, scene in zip(lines_of(cell), (edited.scene, refined.scene), strict=True):
        read, ran = tyro.cli(AnnotatedBaseConfigUnion, args=shlex.split(line)[1:]), load_config(scene)
        assert read.method_name == ran.method_name
        assert read.max_num_iterations == ran.max_num_iterations == 2
        assert read.pipeline.run.seed == ran.pipeline.run.seed
        assert all(getattr(read.pipeline, n, None) == getattr(ran.pipeline, n, None) for n in OF_THE_EDIT)
    assert load_config(edited.scene).pipeline.objective.guidance_scale == 3.0
    assert shlex.split(lines_of(cell)[1])[2:4] == ["--load-dir", str(edited.scene.parent)]


@pytest.mark.slow
def test_the_page_fits_a_screen_and_its_films_run_together_under_a_slider(made):
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip("NO BROWSER, THE PAGE IS NOT TESTED: install Chromium (Debian and Ubuntu: apt install chromium)")
    from playwright.sync_api import sync_playwright

    _, out, _ = made
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        wrong: list[str] = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto((out / PAGE).as_uri())
        page.wait_for_function("films.length == 4 && films.every(film => film.readyState >= 2)", timeout=60_000)
        page.wait_for_function("films[0].currentTime > 0 && films[1].currentTime > 0", timeout=60_000)
        page.click(".bar button")
        page.locator(".bar input").fill("0.5")
        page.wait_for_function("films.slice(0, 2).every(film => film.paused && !film.seeking)", timeout=60_000)
        page.wait_for_function("Math.abs(films[0].currentTime - films[0].duration / 2) < .01", timeout=60_000)
        first, second = page.evaluate("films.slice(0, 2).map(film => film.currentTime)")
        assert first == pytest.approx(second, abs=1e-3)
        slider = page.locator(".slider").first
        slider.locator("input").fill("20")
        shown = slider.locator("video.after").evaluate("film => getComputedStyle(film).clipPath")
        assert shown == "inset(0px 0px 0px 20%)"
        page.locator("details").evaluate_all("all => all.forEach(one => one.open = true)")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        ARTEFACTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=ARTEFACTS / "page.png")
        browser.close()
    assert not wrong


def test_the_line_of_a_page_is_the_one_that_was_typed(monkeypatch):
    monkeypatch.setattr("sys.argv", ["pds", "gallery", "--only_page", "RUN", "--to", "a cone", "--seeds", "2"])
    assert _line_without() == ["pds", "gallery", "RUN", "--to", "a cone", "--seeds", "2"]
    assert _line_without("--seeds") == ["pds", "gallery", "RUN", "--to", "a cone"]


@pytest.mark.parametrize("name", ["../../elsewhere", "/elsewhere", "", None])
def test_a_strangers_run_does_not_say_where_its_gallery_goes(name):
    run: Any = SimpleNamespace(config={"experiment_name": name}, config_path=Path("config.yml"), folder=Path("run"))
    with pytest.raises(UserError, match="gives its gallery no name"):
        _folder_of(run)


def test_galleries_of_two_runs_of_one_name_lie_apart(tmp_path):
    def name(place: str) -> str:
        folder = tmp_path / place
        run: Any = SimpleNamespace(config={"experiment_name": "edit"}, folder=folder, config_path=folder / "config.yml")
        return _folder_of(run).name

    assert name("a/run").startswith("edit-run-")
    assert name("a/run") != name("b/run")
    assert name("a/2026-01-02_030405_cone") == "edit-2026-01-02_030405_cone"


def test_a_gallery_edits_no_scene_of_another_run(tmp_path, monkeypatch):
    monkeypatch.setattr(OwnRun, "prepare", lambda self, *_: Path(self.settings.run))

    def cell(run: str, target: str, step: int = 59):
        (tmp_path / run).touch()
        benchmark = OwnRun("splatfacto", OwnSettings(prior="toybox", run=str(tmp_path / run), step=step))
        return plan_cells(Suite("gallery", edits_of(SOURCE, [target])), ("pds-edit",), benchmark, 1, tmp_path / "out")[
            0
        ]

    first = cell("a.yml", TARGETS[0])
    assert prepare(first) == tmp_path / "a.yml"
    check_records([first, cell("a.yml", TARGETS[1])])
    for other in (cell("b.yml", TARGETS[1]), cell("a.yml", TARGETS[1], step=99)):
        for refuses in (prepare, lambda cell: check_records([cell])):
            with pytest.raises(UserError, match=r"made with another (run|step) .* give another --out"):
                refuses(other)
    first.source_file.write_text(json.dumps({"config": str(tmp_path / "a.yml")}))  # as 0.1.0 wrote it
    assert prepare(first) == tmp_path / "a.yml"


def test_a_gallery_that_is_there_under_its_runs_plain_name_goes_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "run"
    run: Any = SimpleNamespace(config={"experiment_name": "edit"}, folder=folder, config_path=folder / "config.yml")
    plain = Path("outputs/gallery/edit-run")
    assert _folder_of(run).name.startswith("edit-run-")
    record = tmp_path / plain / "cells" / "a" / "record.json"
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"settings": {"run": str(tmp_path / "another" / "config.yml")}}))
    assert _folder_of(run) != plain
    record.write_text(json.dumps({"settings": {"run": str(run.config_path)}}))
    assert _folder_of(run) == plain
