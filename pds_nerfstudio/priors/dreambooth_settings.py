"""What a DreamBooth training is, and whether it can work: said before torch or any weight is touched."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.files import is_vacant, read_json
from pds_nerfstudio.priors.check import lora_folder
from pds_nerfstudio.ranges import Guidance, LearningRate, Pixels, Seed, Steps, Weight, check_ranges

LEARNING_RATE = {"lora": 1e-4, "full": 5e-6}
CHECKPOINT = "training/checkpoint.pt"
SETTINGS = "training/settings.json"
CARD = "README.md"
CLASS_IMAGES = "training/class_images"
EMPTY_IMAGES = "training/empty_images"
SAMPLES = "training/samples"
MAY_CHANGE = ("steps", "save_every", "sample_every", "validation_prompt", "recompute")
"""Settings that a training may be continued with others of."""


@dataclass(frozen=True)
class DreamBooth:
    """How a prior learns a subject."""

    instance_prompt: str = ""
    """What the photographs show, with the rare word: "a photo of a sks man"."""
    class_prompt: str = ""
    """What the photographs show, without the rare word: "a photo of a man". Its meaning is preserved."""
    token: str = "sks"
    """The rare word that stands for the subject."""
    prior: str = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    """What to start from: a hub id, a local diffusers folder, "toybox" or "studio"."""
    train: Literal["lora", "full"] = "lora"
    """Low-rank changes of the U-Net (small, gentle), or all of its weights."""
    rank: Annotated[int, Ge(1), Le(1024)] = 16
    """Rank of the low-rank changes."""
    layers: Literal["attention", "all"] = "attention"
    """Which layers get low-rank changes: those of attention, or of all blocks, which learn a new look faster."""
    train_text_encoder: bool = False
    """Let the text encoder learn too."""
    steps: Steps = 800
    """Steps of the optimiser."""
    batch_size: Annotated[int, Ge(1), Le(1024)] = 1
    """Photographs in a batch, and as many class images; of each process."""
    accumulate: Annotated[int, Ge(1), Le(1024)] = 1
    """Batches whose gradients make one step."""
    learning_rate: LearningRate | None = None
    """Learning rate of AdamW; by default 1e-4 for low-rank changes and 5e-6 for all weights."""
    class_images: Annotated[int, Ge(0), Le(1_000_000)] = 200
    """How many pictures of the class the prior draws before it learns; 0 for no prior preservation."""
    empty_images: Annotated[int, Ge(0), Le(1_000_000)] = 0
    """How many it draws under the empty prompt, whose meaning is then preserved as well: guidance subtracts it."""
    class_weight: Weight = 1.0
    """λ, the weight of prior preservation."""
    resolution: Pixels | None = None
    """Shorter side in pixels; by default the size the prior was trained at."""
    precision: Literal["auto", "fp32", "fp16", "bf16"] = "auto"
    """Precision of the computation; auto is bf16 on GPUs that have it, fp16 on others, and fp32 elsewhere. What is
    learned is kept in fp32."""
    recompute: bool = False
    """Gradient checkpointing: less memory for about a third more time."""
    adam_8bit: bool = False
    """AdamW with 8-bit state, of bitsandbytes."""
    validation_prompt: str = ""
    """One more prompt for the sample sheets, beside those of instance and class."""
    sample_every: Annotated[int, Ge(0), Le(10_000_000)] = 200
    """Steps between sample sheets; 0 for none but the last."""
    save_every: Steps = 200
    """Steps between two checkpoints."""
    guidance_scale: Guidance = 7.5
    """Guidance of the samples on the sheets."""
    class_guidance_scale: Guidance = 7.5
    """Guidance of the pictures of the class."""
    sample_steps: Annotated[int, Ge(1), Le(1000)] = 25
    """DDIM steps of each sample and class image."""
    seed: Seed = 0
    """Seed of the order of photographs, noise and timesteps."""

    def __post_init__(self) -> None:
        check_ranges(self)

    @property
    def prompts(self) -> list[str]:
        """What sample sheets show."""
        return list(dict.fromkeys(filter(None, (self.instance_prompt, self.class_prompt, self.validation_prompt))))


def check_settings(settings: DreamBooth) -> None:
    """Raise a UserError of one sentence for settings that cannot work. Loads nothing."""
    if not settings.instance_prompt.strip():
        raise UserError(
            'The instance prompt is empty: say what the photographs show, --instance-prompt "a photo of a '
            f'{settings.token} man".'
        )
    if settings.class_images and not settings.class_prompt.strip():
        raise UserError(
            'The class prompt is empty: say what the photographs show without the rare word, --class-prompt "a photo '
            'of a man", or give --class-images 0 to do without prior preservation.'
        )
    if settings.class_prompt.strip() == settings.instance_prompt.strip():
        raise UserError(
            "The class prompt is the instance prompt, so preserving one would undo learning the other: leave the rare "
            f"word {settings.token!r} out of the class prompt."
        )
    if settings.adam_8bit and find_spec("bitsandbytes") is None:
        raise UserError("--adam-8bit needs bitsandbytes, which is not installed: pip install bitsandbytes")
    if settings.train == "lora" and lora_folder(settings.prior) is not None:
        raise UserError(
            f"{settings.prior} is a LoRA, and low-rank changes need a whole prior under them: give its base to "
            "--prior, or --train full."
        )


def check_out(out: Path, settings: DreamBooth, photographs: Sequence[Path]) -> None:
    """Raise a UserError unless `out` is new, empty, or holds the same training, which is then continued."""
    if is_vacant(out):
        return
    path = out / SETTINGS
    if not path.is_file():
        raise UserError(f"--out {out} is not empty: give a folder that is new.")
    before = read_json(path, dict, "The training's record", "give --out a folder that is new")
    now = record(settings, photographs)
    other = [name for name in now if name not in MAY_CHANGE and before.get(name) != now[name]]
    if other:
        raise UserError(
            f"--out {out} holds a training with another {', '.join(other).replace('_', ' ')}: give a folder that is "
            "new, or the same settings to continue it."
        )


def record(settings: DreamBooth, photographs: Sequence[Path]) -> dict[str, Any]:
    """What a training is told apart by, as JSON takes it."""
    values = {field.name: getattr(settings, field.name) for field in fields(DreamBooth)}
    return values | {"photographs": [str(path.resolve()) for path in photographs]}
