"""What `ns-train METHOD --help` says before nerfstudio's page of some 700 lines: the flags that are used most."""

from typing import Any

from pds_nerfstudio.pipelines.command_line import flag_names

OF_EDITS = {
    "load-dir": "nerfstudio_models folder of the run to edit or to resume (`pds runs` lists them)",
    "pipeline.src-prompt": 'what the scene shows now, "a photo of a man"',
    "pipeline.tgt-prompt": 'what the scene should show, "a photo of a man raising his arms"',
    "pipeline.recipe": "settings to start from: colour, addition, shape, style, object; quick, quality; low-vram",
    "pipeline.prior": "the diffusion model: hub id, folder, .safetensors, toybox",
    "pipeline.objective.guidance-scale": "how strongly the prompts pull",
    "pipeline.guidance-scale": "how strongly the prompts pull",
    "pipeline.eta": "how far the scene is perturbed before the edit",
    "pipeline.box": "change only what lies in this box",
    "pipeline.region": 'change only what these words name, "the ball"',
    "pipeline.click": "change only the object at this pixel of a training view: VIEW COLUMN ROW",
    "pipeline.masks": "change only what is white in these masks",
    "max-num-iterations": "total number of steps",
    "pipeline.fit": "how many GiB of GPU memory the edit may take",
    "vis": "viewer, tensorboard, wandb, comet",
    "output-dir": "where runs go",
    "verbose": "True prints every setting",
}
OF_RECONSTRUCTIONS = {
    "data": "the dataset",
    "max-num-iterations": "steps",
    "load-dir": "nerfstudio_models folder of a run to resume (`pds runs` lists them)",
    "vis": "viewer, tensorboard, wandb, comet",
    "output-dir": "where runs go",
    "verbose": "True prints every setting",
}


def most_used(config: Any) -> dict[str, str]:
    """The flags of a method that are used most, without dashes, and what they are for."""
    known = OF_EDITS if hasattr(config.pipeline, "tgt_prompt") else OF_RECONSTRUCTIONS
    names = flag_names(config)
    return {flag: purpose for flag, purpose in known.items() if flag in names}


def most_used_page(config: Any) -> str:
    """The same, as lines to print."""
    flags = most_used(config)
    width = max(map(len, flags))
    lines = [f"  --{flag:{width}}  {purpose}" for flag, purpose in flags.items()]
    return "\n".join([f"ns-train {config.method_name}: most used", *lines, "", "All flags:"])
