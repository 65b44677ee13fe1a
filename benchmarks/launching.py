"""What a step's predictions and encoding cost the processor, whatever the GPU: the time until its work is launched.

    python benchmarks/launching.py

Networks as deep as Stable Diffusion 1.5's and 32 channels wide, on pictures of 64 pixels: what they compute costs next
to nothing, so that the rest shows. Beside them diffusers' own calls alone, the least that a step can cost.
"""

import math
import time
from collections.abc import Callable

import torch
from random_prior import random_prior

from pds_nerfstudio.objectives import Query

SIZE = 64
STEPS = 40


def milliseconds(*parts: Callable[[], object]) -> list[float]:
    """Processor time of each call, the least of many: other work only adds to it. The calls take turns."""
    least = [math.inf] * len(parts)
    for _ in range(STEPS):
        for i, part in enumerate(parts):
            start = time.process_time()
            part()
            least[i] = min(least[i], 1000 * (time.process_time() - start))
    return least


def main() -> None:
    torch.set_num_threads(1)
    prior = random_prior("sd15", "cpu", torch.float32, small=True)
    image = torch.rand(1, 3, SIZE, SIZE, requires_grad=True)
    latent, t = prior.encode(image).detach(), torch.tensor([500])
    pair = [Query(latent, t, prompt, 100.0) for prompt in ("a man", "a man raising his arms")]
    noisy = latent.expand(4, -1, -1, -1)
    texts = torch.stack([prior.embed(prompt) for query in pair for prompt in prior.halves(query)])

    @torch.no_grad()
    def bare() -> None:
        prior.unet(noisy, t.expand(4), encoder_hidden_states=texts)

    rows = {
        "PDS's two predictions": (bare, lambda: prior.predict_noise(pair)),
        "encoding a picture": (lambda: prior.vae.encode(image), lambda: prior.encode(image)),
    }
    print("| milliseconds of processor time | diffusers' call | this package's |\n|---|---:|---:|")
    for name, calls in rows.items():
        theirs, ours = milliseconds(*calls)
        print(f"| {name} | {theirs:.1f} | {ours:.1f} |")


if __name__ == "__main__":
    main()
