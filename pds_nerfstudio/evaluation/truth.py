"""An edit beside what it should have become, on views whose right answer is known, in numbers and in pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pds_nerfstudio.evaluation.benchmark import Edit
from pds_nerfstudio.evaluation.measure import Distance
from pds_nerfstudio.evaluation.metrics import (
    ClipScorer,
    directional_similarity,
    psnr,
    saturation,
    sharpness,
    ssim,
    target_probability,
)
from pds_nerfstudio.pictures import Images, contact_sheet, heat
from pds_nerfstudio.toybox.dataset import change_mask

SUCCESS_SHARE = 0.9
"""An edit succeeded where so many of its held-out views are, in the change mask, closer to the target than to the
source."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """An edit beside what it should have become, on the held-out views."""

    edit: Edit
    source: Images
    """Renderings before."""
    edited: Images
    """Renderings after."""
    truth: Images
    """The ground truth of the edited scene, from the same cameras."""
    numbers: dict[str, float]

    def sheet(self, path: Path) -> None:
        """Contact sheet: source, edited, ground truth, and where they differ."""
        rows = {
            "source": self.source,
            "edited": self.edited,
            "ground truth": self.truth,
            "change": heat(self.edited, self.source),
            "error": heat(self.edited, self.truth),
        }
        contact_sheet(rows, path, f"{self.edit.source_prompt}   to   {self.edit.target_prompt}   (held-out views)")


@dataclass(frozen=True, eq=False)
class Pictures:
    """Renderings before and after an edit, and the photographs of both scenes from the same cameras."""

    before: Images
    after: Images
    source: Images
    """Photographs of the scene as it was."""
    target: Images
    """Photographs of the scene as it should be."""

    @property
    def changed(self) -> Images:
        """The change mask: 1 where the photographs differ, [views H W]."""
        return change_mask(self.source.movedim(1, -1), self.target.movedim(1, -1))

    def numbers(self, objects: Images, distance: Distance | None) -> dict[str, float]:
        """What the pictures say by themselves.

        Args:
            objects: share of the target's object in each pixel, [views H W].
            distance: perceptual, where a network for it is there.
        """
        before, after, source, target, changed = self.before, self.after, self.source, self.target, self.changed
        closer = psnr(after, target, changed) > psnr(after, source, changed)
        found = {
            "psnr_source_reconstruction": float(psnr(before, source).mean()),
            "psnr_to_target_before": float(psnr(before, target).mean()),
            "psnr_to_target_after": float(psnr(after, target).mean()),
            "psnr_to_target_in_change_mask_before": float(psnr(before, target, changed).mean()),
            "psnr_to_target_in_change_mask_after": float(psnr(after, target, changed).mean()),
            "background_psnr": float(psnr(after, before, 1 - changed).mean()),
            "closer_to_target": float(closer.float().mean()),
            "success": float(closer.float().mean() >= SUCCESS_SHARE),
            "saturation_drift": float((saturation(after, objects) - saturation(target, objects)).mean()),
            "sharpness": float(sharpness(after).mean()),
            "sharpness_of_truth": float(sharpness(target).mean()),
            "ssim_to_target": float(ssim(after, target).mean()),
            "ssim_to_target_in_change_mask": float(ssim(after, target, changed).mean()),
        }
        if distance is not None:
            within = target + changed[:, None] * (after - target)
            found["distance_to_target"] = _mean(distance, after, target)
            found["distance_to_target_in_change_mask"] = _mean(distance, within, target)
        return found

    def by_words(self, scorer: ClipScorer, edit: Edit, prompts: Sequence[str]) -> dict[str, float]:
        """What CLIP makes of them.

        Args:
            prompts: the target's among what else the scene could have become.
        """
        shown = scorer.probabilities(self.after, list(prompts))[:, list(prompts).index(edit.target_prompt)]
        direction = directional_similarity(scorer, self.before, self.after, edit.source_prompt, edit.target_prompt)
        return {
            "target_probability_before": target_probability(scorer, self.before, edit.target_prompt, list(prompts)),
            "target_probability_after": float(shown.mean()),
            "target_recognised": float((shown > 0.5).float().mean()),
            "clip_score": float(scorer.similarity(self.after, [edit.target_prompt]).mean()),
            "directional_similarity": float(direction.mean()),
        }


def _mean(distance: Distance, images: Images, reference: Images) -> float:
    return sum(distance(a, b) for a, b in zip(images, reference, strict=True)) / len(images)
