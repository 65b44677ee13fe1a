"""--pipeline.region WORDS: what they name may change, and nothing else; also after a resume."""

from pathlib import Path

import pytest
import torch

from pds_nerfstudio.evaluation.before_after import load_run
from pds_nerfstudio.pictures import read_images
from pds_nerfstudio.pipelines.settings import ViewSettings
from pds_nerfstudio.pipelines.shown import shown_views
from pds_nerfstudio.pipelines.source_views import SourceViews
from pds_nerfstudio.pipelines.word_region import WordSearch, together
from pds_nerfstudio.priors.load import load_prior
from pds_nerfstudio.prompts import sought
from pds_nerfstudio.scenes.families import render
from pds_nerfstudio.scenes.region import hull_of_views
from pds_nerfstudio.scenes.source import find_run, load_source_state
from pds_nerfstudio.scenes.views import eval_views, train_views

from .conftest import PROMPTS
from .test_edit import TOYBOX


def test_a_hull_by_words_is_the_object_in_held_out_views(toy_splats, toy_scene):
    run, prior = load_run(toy_splats), load_prior("toybox", "cpu")
    views, held_out = train_views(run.datamanager), eval_views(run.datamanager)
    sources = SourceViews(lambda: run.model, False, "cpu")
    shown = shown_views(views, ViewSettings(), None, 0, sources.scene, prior, 64)
    search = WordSearch(prior, shown, sought("the can", PROMPTS[1]), "both")
    hull = hull_of_views(
        run.model,
        views,
        lambda _: (64, 64),
        lambda index, *_: search.mask(sources.view(prior, shown, index, 64, 64)),
        "where the can is",
    )
    names = [Path(name).name for name in held_out.names]
    truth = read_images([toy_scene / "source" / "object_masks" / name for name in names])[:, 0] > 0.5
    with torch.no_grad():
        cameras = [held_out.camera(i, *held_out.size(i)) for i in range(len(held_out))]
        found = torch.stack([render(run.model, each, within=hull).accumulation[0, 0] for each in cameras]) > 0.5
    assert (found & truth).sum() / (found | truth).sum() > 0.8


def test_attention_that_contradicts_the_difference_does_not_count():
    difference = torch.rand(8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(together(difference, -difference), together(difference, torch.zeros(8, 8)))
    torch.testing.assert_close(together(difference, 3 * difference), 2 * together(difference, -difference))


@pytest.mark.slow
@pytest.mark.parametrize("by", ["both", "difference"])
def test_nothing_but_what_the_words_name_changes_also_after_a_resume(ns_train, toy_splats, by):
    named = ("--pipeline.region", "the can", "--pipeline.region-by", by, "--pipeline.resolution", 64)
    first = ns_train(
        *("pds-edit-splat", "--load-dir", toy_splats.parent, *PROMPTS, *TOYBOX[:4], *named),
        *("--max-num-iterations", 4),
    )
    resumed = ns_train("pds-edit-splat", "--load-dir", first.get_base_dir(), "--max-num-iterations", 6)
    assert resumed.pipeline.region.region == "the can"
    folders = toy_splats, first.get_base_dir(), resumed.get_base_dir()
    source, edited, again = (load_source_state(find_run(folder)) for folder in folders)
    held = edited["_scene.frozen"]
    assert 0.3 < held.float().mean() < 0.98
    assert torch.equal(again["_scene.frozen"], held)
    for name in (name for name in source if "gauss_params" in name and source[name].numel()):
        assert torch.equal(again[name][held], source[name][held]), name
        assert not torch.equal(again[name][~held], source[name][~held]), name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "flags", "message"),
    [
        ("pds-edit-splat", ("--pipeline.region", " "), "is empty"),
        ("pds-edit-splat", ("--pipeline.region-by", "attention"), "give them with --pipeline.region"),
        ("idu-edit-splat", ("--pipeline.region", "the can"), "InstructPix2Pix is none"),
    ],
)
def test_what_cannot_be_looked_for_is_refused(ns_train, toy_splats, capfd, method, flags, message):
    prompts = PROMPTS if method.startswith("pds") else PROMPTS[2:]
    with pytest.raises(SystemExit):
        ns_train(method, "--load-dir", toy_splats.parent, *prompts, "--pipeline.prior", "toybox", *flags)
    assert message in capfd.readouterr().err
