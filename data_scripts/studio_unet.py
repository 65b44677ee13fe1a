"""The U-Net of the studio prior with its text encoder: trained on single views, views with cameras, and four at once.

Everything of toybox's two editions in one: the same networks, from scratch, in the batches of view_training.py.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from long_training import LongTraining, Pace
from studio_photographs import IMAGE_SIZE, Photographs, as_floats
from studio_start import begin_as
from studio_words import build_tokenizer, random_caption
from torch import Tensor, nn
from torchvision.utils import save_image
from toybox_networks import make_scheduler, make_unet, text_config, token_ids, write_prior
from transformers import CLIPTextModel, CLIPTokenizer
from view_groups import VIEWS
from view_training import Process, Sampler, ViewData, note_errors, validate, with_cameras, write_unet

from pds_nerfstudio.priors.check import STUDIO
from pds_nerfstudio.priors.load import load_prior
from pds_nerfstudio.studio.spec import EDITS

CHANNELS, TEXT_WIDTH, TEXT_LAYERS = (64, 96, 128), 96, 3
SHEET_STEPS, SHEET_GUIDANCE = 25, 4.0


def load_vae(folder: Path, device: str) -> AutoencoderKL:
    """What the stage `vae` made, or the packaged one. Raises FileNotFoundError where FOLDER/vae is not there."""
    if not (folder / "vae" / "config.json").exists():
        raise FileNotFoundError(f"{folder} holds no vae: run data_scripts/train_studio_prior.py vae first.")
    return AutoencoderKL.from_pretrained(folder / "vae").to(device).requires_grad_(False).eval()


def plain_unet(vae: AutoencoderKL) -> UNet2DConditionModel:
    """Toybox's, for the VAE's latents of a photograph; without cameras."""
    side = IMAGE_SIZE // 2 ** (len(vae.config.block_out_channels) - 1)
    return make_unet(CHANNELS, TEXT_WIDTH, side, vae.config.latent_channels)


@torch.no_grad()
def encoded(vae: AutoencoderKL, photographs: Photographs, device: str) -> ViewData:
    """Photographs as latents in half precision, on that device."""
    parts = [
        (vae.encode(2 * as_floats(part, device) - 1).latent_dist.mode() * vae.config.scaling_factor).half()
        for part in photographs.images.flatten(0, 1).split(64)
    ]
    latents = torch.cat(parts).unflatten(0, (-1, VIEWS))
    return ViewData(latents, photographs.cameras, photographs.specs, photographs.shards)


class Shards:
    """Latents of the shards of a folder; each is encoded once."""

    def __init__(self, vae: AutoencoderKL, views: Path, device: str) -> None:
        self.vae, self.views, self.device = vae, views, device
        self.known: dict[str, ViewData] = {}

    def load(self) -> ViewData:
        """All that there are by now."""
        for path in sorted(self.views.glob("views_*.pt")):
            if path.name not in self.known:
                self.known[path.name] = encoded(self.vae, Photographs.load(self.views, path.name), self.device)
        if not self.known:
            Photographs.load(self.views)  # which says what is missing
        parts = self.known.values()
        joined = (torch.cat([getattr(part, name) for part in parts]) for name in ("latents", "cameras", "specs"))
        return ViewData(*joined, len(parts))


def write_studio_prior(
    folder: Path, tokenizer: CLIPTokenizer, vae: AutoencoderKL, unet: UNet2DConditionModel, text: CLIPTextModel
) -> None:
    """FOLDER/prior in diffusers' layout with the camera's embedding beside it, in half precision."""
    write_prior(folder, tokenizer, vae, plain_unet(vae), text)
    write_unet(unet, folder / "prior")


def train_unet(folder: Path, views: Path, singles: int, groups: int, pace: Pace, from_package: bool) -> None:
    """Noise prediction as toybox's second edition, and the text encoder with it; FOLDER/prior has the average."""
    torch.manual_seed(pace.seed)
    vae = load_vae(folder, pace.device)
    tokenizer = build_tokenizer(folder / "tokenizer")
    unet = with_cameras(plain_unet(vae)).to(pace.device)
    text = CLIPTextModel(text_config(tokenizer, TEXT_WIDTH, TEXT_LAYERS)).to(pace.device)
    if from_package:
        packaged = load_prior("studio", pace.device)
        unet.load_state_dict(with_cameras(packaged.unet).state_dict())
        begin_as(text, packaged.text_encoder, tokenizer, STUDIO / "tokenizer")
    training = LongTraining(
        "modules", folder / "unet_training", nn.ModuleDict({"unet": unet, "text_encoder": text}), pace
    )
    process = Process.diffusion(make_scheduler().alphas_cumprod.to(pace.device))
    shards = Shards(vae, views, pace.device)
    embed = embedding_by(text, tokenizer, pace.device)
    sampler = Sampler(shards.load(), random_caption, embed, pace.device)
    held_out = encoded(vae, Photographs.load(views, "valid.pt"), pace.device)
    valid = replace_data(sampler, held_out)

    def loss() -> Tensor:
        batch = sampler.draw(singles, groups)
        return (process.weights[batch.t] * batch.errors(unet, process)).mean()

    def note(seconds: float) -> None:
        sampler.data = shards.load()  # there may be more by now
        with training.averaged():
            note_errors(training, seconds, sampler.data.shards, validate(unet, valid, process))
            write_studio_prior(folder, tokenizer, vae, unet, text)
        sample_sheet(folder, pace.device)

    training.run(loss, note)


def embedding_by(text: CLIPTextModel, tokenizer: CLIPTokenizer, device: str) -> Callable[[list[str]], Tensor]:
    """Captions to what the U-Net is told, in bfloat16 where that helps; gradients reach the text encoder."""
    known: dict[str, Tensor] = {}

    def ids(caption: str) -> Tensor:
        if caption not in known:
            known[caption] = token_ids(tokenizer, [caption], "cpu")[0]
        return known[caption]

    def embed(captions: list[str]) -> Tensor:
        tokens = torch.stack([ids(caption) for caption in captions]).to(device)
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            return text(tokens)[0]

    return embed


def replace_data(sampler: Sampler, data: ViewData) -> Sampler:
    """A sampler of other data with the same captions and text encoder."""
    return Sampler(data, sampler.caption, sampler.embed, sampler.device)


def sample_sheet(folder: Path, device: str) -> None:
    """FOLDER/samples.png: DDIM samples of the edits' targets, which no training saw."""
    pipe = StableDiffusionPipeline.from_pretrained(folder / "prior", safety_checker=None).to(device)
    pipe.set_progress_bar_config(disable=True)
    images = pipe(
        [edit.target.prompt() for edit in EDITS],
        num_inference_steps=SHEET_STEPS,
        guidance_scale=SHEET_GUIDANCE,
        generator=torch.Generator().manual_seed(0),
        output_type="pt",
    ).images
    save_image(images, folder / "samples.png", nrow=6)
