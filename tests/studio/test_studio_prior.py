"""The prior of studio's world that comes with the package, and the CLIP that judges it."""

import pytest
import torch
import torch.nn.functional as F

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.evaluation.measure import load_judges
from pds_nerfstudio.evaluation.metrics import STUDIO_CLIP, ClipScorer, psnr
from pds_nerfstudio.pictures import read_images
from pds_nerfstudio.priors.check import STUDIO
from pds_nerfstudio.priors.folder import trained_size
from pds_nerfstudio.priors.load import load_prior
from pds_nerfstudio.prompts import require_known, unknown_words
from pds_nerfstudio.studio.captures import PACKAGED
from pds_nerfstudio.studio.spec import STILLS, THING_WORDS, THINGS, StudioSpec

SIDE = 128


@pytest.fixture(scope="module")
def prior():
    return load_prior("studio", "cpu")


def test_it_is_small():
    sizes = [sum(file.stat().st_size for file in folder.rglob("*")) for folder in (STUDIO, STUDIO_CLIP)]
    assert sizes[0] < 12e6
    assert sizes[1] < 3e6


def test_it_takes_cameras_and_pictures_of_its_size(prior):
    assert prior.takes_cameras
    assert trained_size(STUDIO) == prior.trained_size == SIDE
    assert (prior.latent_stride, prior.latent_channels) == (8, 8)


def test_its_vae_gives_photographs_back(prior):
    paths = sorted(PACKAGED.glob("*/source/images/test_*.jpg"))
    photographs = F.interpolate(read_images(paths), (SIDE, SIDE), mode="bilinear", antialias=True)
    with torch.no_grad():
        again = prior.decode(prior.encode(photographs))
    assert len(paths) == 6 * len(STILLS)
    assert float(psnr(again, photographs).mean()) > 30


@pytest.mark.slow
def test_it_draws_the_object_that_it_is_told(prior):
    things = [thing for thing in THINGS if not unknown_words("studio", THING_WORDS[thing])]
    assert things == ["vase", "bottle", "bowl", "mug", "teapot"]  # it has not been taught the others yet
    specs = [StudioSpec(thing, "green", room="backdrop") for thing in things]
    generator = torch.Generator().manual_seed(0)
    images = prior.sample([spec.prompt() for spec in specs], SIDE, SIDE, 20, 4.0, generator)
    scorer = ClipScorer.load(STUDIO_CLIP)
    captions = [spec.prompt(room=False, light=False) for spec in specs]
    assert [int(scorer.similarity(image[None], captions).argmax()) for image in images] == list(range(len(things)))


def test_words_that_it_does_not_know_are_named():
    assert not unknown_words("studio", "a photo of a marble vase")
    told = unknown_words("studio", "a photo of a marble dragon")
    assert "The studio prior does not know 'dragon'" in told
    assert "teapot" in told
    with pytest.raises(UserError, match="the studio prior knows none of these words"):
        require_known("studio", "dragon", "--words")


def test_its_edits_are_judged_by_its_own_clip():
    assert load_judges("auto", ["studio"]).clip_name == "studio's own CLIP"
    assert load_judges("studio", ["toybox"]).clip_name == "studio's own CLIP"
    assert load_judges("auto", ["toybox", "toybox-flow"]).clip_name == "toybox's own CLIP"
    assert load_judges("auto", ["studio", "toybox"]).clip_name != "studio's own CLIP"
