"""What an edit with default settings asks of a GPU, from counted parts; hours are those of an H100.

    memory = UNCOUNTED · (the prior's part of a step + COPIES · scene) + CONTEXT
    work   = U-Net + encoder, forward and back + rendering, in each step
    time   = U-Net + encoder at RATE + a NeRF's rendering as it was measured, in each step

Stable Diffusion 1.5 at 512×512, U-Net and text encoder in float16, VAE in float32. Counted by
`benchmarks/expected_memory.py` and `benchmarks/step_cost.py`, see docs/performance.md. An edit counts anew for its own
prior and views (`pipelines.memory_plan`).
"""

from dataclasses import dataclass

GIB = 2**30
UNCOUNTED = 1.2
"""Factor for a GPU's workspaces, gaps, and what rendering keeps, none of which is counted."""
CONTEXT = 0.6 * GIB
"""Bytes that a process takes on a GPU before anything is on it."""
COPIES = 5
"""Of the scene: its weights, their gradient, Adam's two moments, and the source until all of its latents are there."""
PRIOR = 5.35 * GIB
"""Bytes of the networks (2.14), what the encoder keeps for its backward pass (2.96), and predictions."""
NERF = 4 * 19_410_683
"""Bytes of nerfacto's parameters."""
SPLATS = 4 * 59 * 500_000
"""Bytes of 500,000 Gaussians with three bands of harmonics."""
NERF_WORK = 0.319 + 0.319 + 0.638
"""TFLOP of rendering a picture of nerfacto in each step: forward, again in backward, backward."""
RATE = 50
"""TFLOP a second that hours are given for: what an H100 reached in PDS steps of 200,000 splats (5.48 TFLOP in 109 ms,
docs/performance.md). Another card's is for `benchmarks/step_time.py`."""
NERF_SECONDS = 2.7
"""Of a step's rendering of nerfacto by torch's hash grids, there and back, on an H100: 2.82 s, measured, less the
prior's part. By what is counted (`NERF_WORK`) it would be 0.03."""


@dataclass(frozen=True)
class Counted:
    """What a method asks of the prior."""

    work: float
    """TFLOP of one step of Stable Diffusion 1.5 at 512x512."""
    adapters_keep: float
    """GiB that passes through its adapters keep, with fused attention."""
    steps: int
    rows: int = 4
    """Predictions that its formula needs in a step, two for each that is guided."""
    lessons: int = 0
    """Those of them that an adapter learns from."""

    @property
    def formula(self) -> tuple[int, int]:
        """Predictions and lessons, as `priors.work.Work.of_step` takes them."""
        return self.rows, self.lessons


METHODS = {
    "sds-edit": Counted(3.874, 0, 30_000, rows=2),
    "dds-edit": Counted(5.481, 0, 30_000),
    "pds-edit": Counted(5.481, 0, 30_000),
    "pnr-edit": Counted(5.481, 0, 16_000),
    "ssd-edit": Counted(5.481, 0, 30_000),
    "dvrf-edit": Counted(5.481, 0, 30_000),
    "dreamcatalyst-edit": Counted(5.481, 0, 3_000),
    "vsd-edit": Counted(5.599, 0.72, 30_000, rows=2, lessons=1),
    "piva-edit": Counted(9.048, 1.44, 30_000, rows=3, lessons=2),
}
"""By method for NeRFs. Those for splats ask the same of the prior; pnr-edit's perceptual loss is not counted."""


@dataclass(frozen=True)
class Estimate:
    """What one edit asks of a GPU."""

    memory: float
    """GiB."""
    work: float
    """TFLOP of one step."""
    steps: int
    rendering: float = 0.0
    """Seconds of one step that go into rendering."""

    def __str__(self) -> str:
        seconds = self.work / RATE + self.rendering
        memory = f"{self.memory:.1f} GiB{', and chunks of rays' if self.rendering else ''}"
        work = f"{self.work:.1f} TFLOP a step, {self.steps:d} steps"
        return f"{memory}; {work}: {seconds * self.steps / 3600:.1f} h on an H100"


def estimates() -> dict[str, Estimate]:
    """By method, first on NeRFs and then on splats."""
    found = {}
    for ending, scene, work, seconds in (("", NERF, NERF_WORK, NERF_SECONDS), ("-splat", SPLATS, 0.0, 0.0)):
        for name, counted in METHODS.items():
            held = PRIOR + counted.adapters_keep * GIB + COPIES * scene
            memory = (UNCOUNTED * held + CONTEXT) / GIB
            found[name + ending] = Estimate(memory, counted.work + work, counted.steps, seconds)
    return found
