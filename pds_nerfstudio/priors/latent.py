"""What every latent diffusion prior shares: image <-> latent through its VAE, and ε̂ of a step's queries in one batch.

    x⁰ = (E(2I − 1) − shift) · scale          E(·): mean of the VAE's posterior; scale, shift from its configuration
    ε̂  = ε_∅ + ω(ε_y − ε_∅)                   every prediction of a step in one batch of the denoiser

A family adds three things: what its text encoders make of prompts, how its denoiser (a U-Net or a transformer) is
called, and how it is saved. The network's dialect (ε, v, x⁰ or a flow's velocity) is translated to ε by `dialect`:
nothing outside the priors knows of it.

Precision. Denoiser and text encoders run in `dtype`; their outputs are guided and translated in float32, since the
differences that distillation feeds on are far smaller than the predictions. The VAE runs in float32 whatever `dtype`
is: Stable Diffusion's overflow in float16. bfloat16 halves its memory, keeps two to three decimal digits and is a
choice of its own. Autocast is switched off inside, because nerfstudio's trainer runs its step under float16 autocast.

Devices. Whoever asks may be on another device than the networks: whatever is returned lies where the images, latents or
queries came from.

The trap: a prior here is a plain object. As an nn.Module attribute of a pipeline it would end up in every checkpoint.
"""

import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from pds_nerfstudio.files import private_folder
from pds_nerfstudio.objectives import Latents, NoiseSchedule, Query, guided
from pds_nerfstudio.objectives.cameras import Viewpoints
from pds_nerfstudio.priors.adapters import Adapters
from pds_nerfstudio.priors.autoencoders import (
    as_input,
    features_of,
    latents_of,
    recompute_encoder,
    scaled,
    stride_of,
    unscaled,
)
from pds_nerfstudio.priors.dialect import Dialect, Times
from pds_nerfstudio.priors.placement import device_of, dtype_of
from pds_nerfstudio.priors.text_encoders import Text

# Axis names of their own: `height` and `width` are those of latents.
Images = Float[Tensor, "batch 3 image_height image_width"]
Answers = Float[Tensor, "batch answered height width"]
"""What a denoiser says of noisy latents; those of an InstructPix2Pix have more channels than its answer."""


PIXELS_AT_ONCE = 512 * 512
"""Of pictures that the VAE is given together where nothing else says how many."""


@dataclass(eq=False, kw_only=True)
class LatentPrior(ABC):
    """A frozen text-to-image latent diffusion model: image <-> latent, and (latent, t, prompt) -> noise.

    Satisfies `pds_nerfstudio.objectives.Prior`. The networks are frozen and put into evaluation mode on construction.
    """

    takes_cameras: ClassVar[bool] = False
    """Whether queries may say where their samples are seen from."""
    denoiser_part: ClassVar[str]
    """What a diffusers folder of this family calls the network that predicts: unet or transformer."""

    # diffusers annotates its configurations as plain dicts and its outputs as tuples, which they are not: hence Any.
    vae: Any
    """diffusers' autoencoder."""
    scheduler: Any
    """diffusers' scheduler that samples, with the folder's noise schedule and prediction type."""
    adapters: Adapters | None = field(default=None, init=False)
    """What `add_adapters` made."""
    controlnet: Any | None = None
    """diffusers' ControlNetModel, which queries with a control picture are asked under (see `priors.control`); of
    Stable Diffusion 1.x and 2.x alone."""
    framing: bool = False
    """Of a U-Net that takes cameras, whether it was trained with what the last row of their matrices says of aim and
    distance. Others are told of a camera that looks straight at its subject, as MVDream's were."""
    recompute_encoder: bool = False
    """Keep only block inputs of the VAE encoder and run each block again in the backward pass: less memory, the same
    gradients, one more encoder pass of time."""
    tiny: Any = None
    """An AutoencoderTiny that encodes in place of the VAE."""
    negative_prompt: str = ""
    """What guidance leads away from, in place of the empty prompt: ε_∅ is then the prediction for it."""
    dialect: Dialect = field(init=False, repr=False)
    """What the denoiser is shown and what it answers."""
    _texts: dict[str, Text] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        for network in self._networks():
            network.requires_grad_(False).eval()
        if self.recompute_encoder:
            recompute_encoder(self.vae)
        else:
            self.vae.disable_gradient_checkpointing()
        self.dialect = Dialect.of(self.scheduler)

    # What a family adds.

    @abstractmethod
    def text_parts(self) -> dict[str, Any]:
        """The text encoders, by the names that a diffusers folder has for them."""

    @abstractmethod
    def readers(self) -> list[tuple[Any, int]]:
        """The tokenizers, and how many tokens of a prompt its text encoders read of each."""

    @abstractmethod
    def read(self, prompts: Sequence[str]) -> list[Text]:
        """What the text encoders make of prompts, on `device`."""

    @abstractmethod
    def pipeline(self) -> Any:
        """The same networks as diffusers' pipeline of this family."""

    @abstractmethod
    def ask(self, network: Any, noisy: Latents, times: Times, texts: Text, **more: Any) -> Answers:
        """The denoiser's own prediction for a batch, in its precision.

        Args:
            network: the denoiser, or what wraps it.
            noisy, times: as `dialect.shown` gives them, in the denoiser's precision and place.
            texts: of the batch's rows.
            more: passed on to the network.
        """

    def _networks(self) -> list[Any]:
        """All that are frozen."""
        return [self.vae, self.denoiser, *self.text_parts().values()]

    # What is common.

    @property
    def denoiser(self) -> Any:
        """The network that predicts: diffusers' U-Net or transformer."""
        return getattr(self, self.denoiser_part)

    def parts(self) -> dict[str, Any]:
        """What LoRAs change: the denoiser and the text encoders, by their names in a diffusers folder."""
        return {self.denoiser_part: self.denoiser, **self.text_parts()}

    @property
    def schedule(self) -> NoiseSchedule:
        """ᾱ of the folder's scheduler, in float64."""
        return self.dialect.schedule

    @property
    def device(self) -> torch.device:
        """Where the denoiser is."""
        return device_of(self.denoiser)

    @property
    def dtype(self) -> torch.dtype:
        """The denoiser's precision."""
        return dtype_of(self.denoiser)

    @property
    def latent_stride(self) -> int:
        """Pixels per latent: 8 for Stable Diffusion, 4 for the toybox prior, 32 for SANA."""
        return stride_of(self.vae.config)

    @property
    def latent_channels(self) -> int:
        """Channels of a latent, 4 for Stable Diffusion."""
        return self.vae.config.latent_channels

    @property
    def size_multiple(self) -> int:
        """What height and width of a picture have to be multiples of, in pixels."""
        return self.latent_stride

    @property
    def trained_size(self) -> int:
        """Pixels a side of the pictures that it was trained with."""
        return self.denoiser.config.sample_size * self.latent_stride

    def encode(self, images: Images, generator: torch.Generator | None = None) -> Latents:
        """x⁰, with the graph back to the images.

        Args:
            images: RGB in [0, 1], height and width multiples of the latent stride.
            generator: None for the posterior's mean, or the tiny encoder's latents; a generator for a sample of the
                posterior, which the release of Koo et al. 2024 uses: noise that the gradient then fights.

        Returns:
            latents in float32, of about unit variance over natural images.

        Raises:
            ValueError: height or width is not a multiple of the latent stride.
        """
        self._check_size(*images.shape[-2:])
        if self.tiny is not None and generator is None:
            with self._own_precision():
                latents = self.tiny.encode(as_input(images, self.tiny)).latents
            return latents.float().to(images.device)
        with self._own_precision():
            encoded = self.vae.encode(as_input(images, self.vae))
            latents = latents_of(encoded, generator)
        return scaled(latents, self.vae.config).to(images.device)

    def features(self, images: Images) -> list[Float[Tensor, "batch width feature_height feature_width"]]:
        """What the VAE's encoder makes of images, RGB in [0, 1], at each resolution; with the graph back to them."""
        with self._own_precision():
            return features_of(self.vae, images)

    @staticmethod
    def pictures_at_once(height: int, width: int) -> int:
        """How many pictures of that size the VAE has at once where nothing else says so: as much as one of 512².

        Its decoder takes 0.75 GiB for that in float32, and 3 GiB for one of 1024² (counted).
        """
        return max(1, PIXELS_AT_ONCE // (height * width))

    @torch.no_grad()
    def decode(self, latents: Latents) -> Images:
        """Latents to RGB, clipped to [0, 1], float32, without a graph."""
        taken = unscaled(latents, self.vae.config).to(device_of(self.vae), dtype_of(self.vae))
        at_once = self.pictures_at_once(*(side * self.latent_stride for side in latents.shape[-2:]))
        with self._own_precision():
            images = torch.cat([self.vae.decode(part).sample for part in taken.split(at_once)])
        return (images.float() / 2 + 0.5).clamp(0, 1).to(latents.device)

    def predict_noise(self, queries: Sequence[Query]) -> list[Latents]:
        """ε̂ of every query under its own guidance, all in one batch of the denoiser, without a graph.

        Queries may differ in batch size, prompt, t and guidance, not in latent height and width. A guidance scale of 1
        costs no unconditional half, one of 0 no conditional one.

        Returns:
            one prediction per query, each in its query's shape, dtype and device.

        Raises:
            ValueError: a query names an adapter that there is not, or the latents differ in size.
        """
        return [
            self._to_epsilon(query, prediction)
            for query, prediction in zip(queries, self._predict(queries), strict=True)
        ]

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[str],
        height: int,
        width: int,
        num_steps: int = 50,
        guidance_scale: float = 7.5,
        generator: torch.Generator | None = None,
        cameras: Viewpoints | None = None,
    ) -> Images:
        """One picture per prompt by diffusers' own sampler, RGB in [0, 1].

        DDIM (Song et al. 2021, η = 0); of a flow Euler's steps. The starting noise is drawn on the generator's device,
        hence the same on every machine for a CPU generator.

        Args:
            cameras: where the pictures are seen from, for a prior that takes cameras. Views that belong together are
                drawn together, under the first prompt of their group.

        Raises:
            ValueError: height or width is not a multiple of the latent stride.
        """
        self._check_size(height, width)
        together = 1 if cameras is None else cameras.together
        groups = [slice(i, i + together) for i in range(0, len(prompts), together)]
        shape = (len(prompts), self.latent_channels, height // self.latent_stride, width // self.latent_stride)
        source = generator.device if generator is not None else self.device
        latents = torch.randn(shape, generator=generator, device=source).to(self.device)
        self._begin_sampling(num_steps)
        for time in self.scheduler.timesteps:
            queries = [
                Query(
                    latents[rows],
                    torch.zeros(together, dtype=torch.int64),  # a sampler's times lie between the schedule's steps
                    prompts[rows.start],
                    guidance_scale,
                    cameras=None if cameras is None else Viewpoints(cameras.matrices[rows], together),
                )
                for rows in groups
            ]
            shown = [(query.noisy_latents, time.expand(together)) for query in queries]
            latents = self.scheduler.step(torch.cat(self._forward(queries, None, shown)), time, latents).prev_sample
        return self.decode(latents)

    def text(self, prompt: str) -> Text:
        """What the text encoders make of a prompt, computed once per prompt."""
        if prompt not in self._texts:
            self._read_all([prompt])
        return self._texts[prompt]

    def embed(self, prompt: str) -> Float[Tensor, "tokens width"]:
        """The text encoders' features of a prompt, one for each token."""
        return self.text(prompt).features

    def forget_texts(self) -> None:
        """Let prompts be computed anew, by a text encoder that has learned since."""
        self._texts.clear()

    @torch.no_grad()
    def _read_all(self, prompts: Iterable[str]) -> None:
        """Read together what has not been read yet: large encoders are brought in once for all of it."""
        unread = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._texts]
        if unread:
            with self._own_precision():
                self._texts |= dict(zip(unread, self.read(unread), strict=True))

    def save(self, folder: Path) -> None:
        """Write a diffusers folder, which `load_prior` reads: each part of it whole or absent, its index the last."""
        with private_folder(folder / "prior") as partial:
            self.pipeline().save_pretrained(partial, safe_serialization=True)
            for part in sorted(partial.iterdir(), key=lambda path: path.name == "model_index.json"):
                if part.is_dir():
                    shutil.rmtree(folder / part.name, ignore_errors=True)
                part.replace(folder / part.name)

    def add_adapters(self, names: Sequence[str], rank: int, seed: int = 0) -> Adapters:
        """Give the denoiser fresh LoRA adapters, which queries may then name (see `Adapters`)."""
        self.adapters = Adapters(self.denoiser, names, rank, seed)
        return self.adapters

    def predict_with_graph(self, queries: Sequence[Query]) -> list[Latents]:
        """ε̂ of queries that all name the same adapter, with the graph of its parameters, in one batch.

        Raises ValueError if they name none, or several.
        """
        names = {query.adapter for query in queries}
        if len(names) != 1 or None in names:
            raise ValueError(f"The queries name {sorted(map(str, names))}: they must all name the one that learns.")
        predictions = self._forward(queries, queries[0].adapter)
        return [self._to_epsilon(query, p) for query, p in zip(queries, predictions, strict=True)]

    @torch.no_grad()
    def _predict(self, queries: Sequence[Query]) -> list[Latents]:
        """What the denoiser predicts, in its own dialect, guided: one forward pass for each adapter that is named."""
        sizes = {tuple(query.noisy_latents.shape[1:]) for query in queries}
        if len(sizes) > 1:
            raise ValueError(f"Queries of one step have latents of sizes {sorted(sizes)}: give them one size.")
        answers: dict[int, Latents] = {}
        for adapter in dict.fromkeys(query.adapter for query in queries):
            chosen = [i for i, query in enumerate(queries) if query.adapter == adapter]
            answers |= dict(zip(chosen, self._forward([queries[i] for i in chosen], adapter), strict=True))
        return [answers[i] for i in range(len(queries))]

    def _forward(
        self, queries: Sequence[Query], adapter: str | None, shown: Sequence[tuple[Latents, Times]] | None = None
    ) -> list[Latents]:
        """One batch of queries that share an adapter.

        Args:
            shown: the denoiser's inputs for each query; None takes those of its x_t and t.
        """
        if adapter is not None and self.adapters is None:
            raise ValueError(f"A query names the adapter {adapter!r}: this prior has none, leave adapter at None.")
        self._read_all(prompt for query in queries for prompt in self.halves(query))
        latents, times, texts = [], [], []
        for i, query in enumerate(queries):
            noisy, time = self.dialect.shown(query.noisy_latents, query.t) if shown is None else shown[i]
            for prompt in self.halves(query):
                latents.append(noisy.to(self.device, self.dtype))
                times.append(time.to(self.device))
                texts += [self._texts[prompt]] * len(noisy)
        switched = nullcontext() if self.adapters is None else self.adapters.using(adapter)
        with self._own_precision(), switched:
            inputs = torch.cat(latents), torch.cat(times), Text.stack(texts, self.dtype)
            output = self.ask(self.denoiser, *inputs, **self._besides(queries, *inputs))
        rows = iter(output.float().split([len(part) for part in latents]))
        answers = ([next(rows) for _ in self.halves(query)] for query in queries)
        return [
            guided(answer[0], answer[1], query.guidance_scale) if len(answer) == 2 else answer[0]
            for query, answer in zip(queries, answers, strict=True)
        ]

    def halves(self, query: Query) -> tuple[str, ...]:
        """The prompts that a query is asked under, one for each of its parts of the U-Net's batch."""
        match query.guidance_scale:
            case 0:
                return (self.negative_prompt,)
            case 1:
                return (query.prompt,)
            case _:
                return self.negative_prompt, query.prompt

    def without_cameras(self, rows: int) -> dict[str, Any]:
        """What the denoiser has to be given besides for a batch of so many rows that are seen from anywhere."""
        return {}

    def _besides(self, queries: Sequence[Query], noisy: Latents, times: Times, texts: Text) -> Mapping[str, Any]:
        """What else the denoiser is given for a batch: nothing, for a prior that takes no cameras or control pictures.

        Raises:
            ValueError: a query has some.
        """
        if any(query.cameras is not None for query in queries):
            raise ValueError("A query has cameras and this prior takes none: leave cameras at None.")
        if any(query.control is not None for query in queries):
            raise ValueError("A query has a control picture and this prior no ControlNet: leave control at None.")
        return {}

    def _begin_sampling(self, num_steps: int) -> None:
        self.scheduler.set_timesteps(num_steps, device=self.device)

    def _to_epsilon(self, query: Query, prediction: Latents) -> Latents:
        x_t = query.noisy_latents.detach()
        return self.dialect.to_epsilon(x_t, query.t, prediction.to(x_t.device))

    def _own_precision(self) -> AbstractContextManager[object]:
        kind = self.device.type
        # torch's meta device, on which costs are counted, knows no autocast.
        return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()

    def _check_size(self, height: int, width: int) -> None:
        if height % self.size_multiple or width % self.size_multiple:
            raise ValueError(
                f"The picture is {height}x{width} pixels: height and width must be multiples of the latent stride "
                f"{self.size_multiple}, as images.working_size gives them."
            )
