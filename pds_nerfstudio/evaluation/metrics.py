"""Metrics of an edit, as functions of images [views 3 height width], RGB in [0, 1]; one number per view.

C(·) is CLIP's embedding as a unit vector, of an image or of a prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pds_nerfstudio.errors import UserError, first_line
from pds_nerfstudio.pictures import Images
from pds_nerfstudio.toybox.spec import SceneSpec

TOYBOX_CLIP, STUDIO_CLIP = (
    Path(__file__).resolve().parents[1] / world / "weights" / "clip" for world in ("toybox", "studio")
)
AT_ONCE = 16
"""Pictures that CLIP is shown at once."""


def psnr(
    images: Images, reference: Images, mask: Float[Tensor, "views height width"] | None = None
) -> Float[Tensor, " views"]:
    """10·log₁₀(1 / mean squared error) of each view in dB, over the pixels where `mask` is 1, or over all of them.

    Equal images give infinity, a view without any such pixel NaN.
    """
    error = (images - reference).square().mean(dim=1)
    weight = torch.ones_like(error) if mask is None else mask
    return -10 * ((error * weight).sum((1, 2)) / weight.sum((1, 2))).log10()


def saturation(images: Images, mask: Float[Tensor, "views height width"]) -> Float[Tensor, " views"]:
    """HSV saturation (max − min) / max of a pixel's RGB, in [0, 1]: its mean over the mask of each view."""
    high, low = images.amax(dim=1), images.amin(dim=1)
    value = (high - low) / high.clamp(min=1e-6)
    return (value * mask).sum((1, 2)) / mask.sum((1, 2))


def sharpness(images: Images) -> Float[Tensor, " views"]:
    """Variance of the 4-neighbour Laplacian of each view's grey image."""
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])[None, None]
    return F.conv2d(images.mean(1, keepdim=True), kernel).var((1, 2, 3))


@dataclass(eq=False)
class ClipScorer:
    """A CLIP model as judge: images and prompts in one space."""

    model: Any
    """transformers' CLIPModel."""
    tokenizer: Any
    """transformers' CLIPTokenizer."""
    mean: Float[Tensor, "3"]
    std: Float[Tensor, "3"]

    @classmethod
    def load(cls, folder: Path | str = TOYBOX_CLIP, device: torch.device | str = "cpu") -> "ClipScorer":
        """A CLIP folder in transformers' layout, or a hub id in the local cache; by default the toybox world's own.

        It runs on `device`, wherever what it is shown is; what it says is on the CPU.

        Raises:
            UserError: the folder is missing or incomplete.
        """
        from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()

        try:
            model = CLIPModel.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, torch_dtype=torch.float32
            )
            tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
            processor = CLIPImageProcessor.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise UserError(
                f"The CLIP model {folder} cannot be loaded ({first_line(error)}): give a folder with its "
                "config.json, weights and tokenizer."
            ) from error
        mean, std = torch.tensor(processor.image_mean), torch.tensor(processor.image_std)
        torch.nn.Module.to(model, device)
        return cls(model.eval().requires_grad_(False), tokenizer, mean.to(device), std.to(device))

    @torch.no_grad()
    def embed_images(self, images: Images) -> Float[Tensor, "views width"]:
        """Unit vectors; images are resized to the model's size and normalised as it was trained."""
        return torch.cat([self._embed(part) for part in images.split(AT_ONCE)])

    def _embed(self, images: Images) -> Float[Tensor, "part width"]:
        size = self.model.config.vision_config.image_size
        images = images.to(self.mean.device, torch.float32)
        images = F.interpolate(images, (size, size), mode="bicubic", align_corners=False, antialias=True)
        images = (images.clamp(0, 1) - self.mean[:, None, None]) / self.std[:, None, None]
        features = self.model.visual_projection(self.model.vision_model(images).pooler_output)
        return F.normalize(features, dim=-1).cpu()

    @torch.no_grad()
    def embed_prompts(self, prompts: Sequence[str]) -> Float[Tensor, "prompts width"]:
        """Unit vectors."""
        batch = self.tokenizer(
            list(prompts),
            padding="max_length",
            max_length=self.model.config.text_config.max_position_embeddings,
            truncation=True,
            return_tensors="pt",
        )
        ids = batch.input_ids.to(self.mean.device)
        features = self.model.text_projection(self.model.text_model(input_ids=ids).pooler_output)
        return F.normalize(features, dim=-1).cpu()

    def similarity(self, images: Images, prompts: Sequence[str]) -> Float[Tensor, "views prompts"]:
        """cos(CLIP_I(image), CLIP_T(prompt)); its mean over views is the papers' CLIP score."""
        return self.embed_images(images) @ self.embed_prompts(prompts).T

    def probabilities(self, images: Images, prompts: Sequence[str]) -> Float[Tensor, "views prompts"]:
        """Softmax of the similarities over the prompts at CLIP's own temperature: which of them is shown?"""
        return (self.model.logit_scale.exp() * self.similarity(images, prompts)).softmax(dim=-1)


def ssim(
    images: Images, reference: Images, mask: Float[Tensor, "views height width"] | None = None
) -> Float[Tensor, " views"]:
    """Structural similarity (Wang et al. 2004), 11-pixel Gaussian window, as torchmetrics computes it.

    With a mask, the mean of its map where that is 1, NaN for a view where it nowhere is: windows look across the
    mask's border.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    # In float64: in float32 equal images come out at 0.999996, by the cancellation in its variances.
    pair = images.double(), reference.double()
    scores = structural_similarity_index_measure(
        *pair, data_range=1.0, reduction="none", return_full_image=mask is not None
    )
    if mask is None:
        assert isinstance(scores, Tensor)
        return scores.reshape(-1).float()
    of_pixel = scores[1].mean(dim=1).float()
    return (of_pixel * mask).sum((1, 2)) / mask.sum((1, 2))


def directional_similarity(
    scorer: ClipScorer, before: Images, after: Images, src_prompt: str, tgt_prompt: str
) -> Float[Tensor, " views"]:
    """cos(C(after) − C(before), C(y_tgt) − C(y_src)) of each view (Gal et al. 2022); 0 where one of them is zero."""
    source, target = scorer.embed_prompts([src_prompt, tgt_prompt])
    change = scorer.embed_images(after) - scorer.embed_images(before)
    return cosine(change, (target - source).expand_as(change))


def directional_consistency(scorer: ClipScorer, before: Images, after: Images) -> Float[Tensor, " pairs"]:
    """cos(C(aᵢ) − C(bᵢ), C(aᵢ₊₁) − C(bᵢ₊₁)) of neighbouring frames i, i + 1 of one path, b before and a after.

    After Haque et al. 2023; which formula theirs is has been disputed, so this one is printed with the number.
    """
    change = scorer.embed_images(after) - scorer.embed_images(before)
    return cosine(change[:-1], change[1:])


def cosine(a: Float[Tensor, "rows width"], b: Float[Tensor, "rows width"]) -> Float[Tensor, " rows"]:
    """cos(a, b) of each row; 0 where either is shorter than 1e-6, which has no direction: nothing changed."""
    lengths = a.norm(dim=-1), b.norm(dim=-1)
    directed = (lengths[0] > 1e-6) & (lengths[1] > 1e-6)
    return torch.where(directed, (a * b).sum(-1) / (lengths[0] * lengths[1]).clamp(min=1e-12), 0.0)


def target_probability(scorer: ClipScorer, images: Images, target: str, prompts: Sequence[str]) -> float:
    """How surely the judge picks the target among the prompts, as a mean over views in [0, 1]."""
    return float(scorer.probabilities(images, prompts)[:, list(prompts).index(target)].mean())


def share_right(scorer: ClipScorer, images: Images, specs: Sequence[SceneSpec], field: str, values: Sequence) -> float:
    """Share of the images whose own caption is the likeliest among those with every value of `field`."""
    right = 0
    for image, spec in zip(images, specs, strict=True):
        prompts = [replace(spec, **{field: value}).prompt(floor=False) for value in values]
        right += int(scorer.similarity(image[None], prompts).argmax()) == list(values).index(getattr(spec, field))
    return right / len(specs)
