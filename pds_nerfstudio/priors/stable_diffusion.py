"""A latent diffusion prior of the Stable Diffusion 1.x/2.x type, from any diffusers folder (Rombach et al. 2022).

    x⁰ = (E(2I − 1) − shift) · scale          E(·): mean of the VAE's posterior; scale, shift from its configuration
    ε̂  = ε_∅ + ω(ε_y − ε_∅)                   every prediction of a step in one U-Net batch

The network's dialect (ε, v or x⁰) is translated to ε once, here: nothing outside this file knows of it. Guidance comes
before the translation, which is affine with weights that sum to one over the two halves, so the order does not matter.

Precision. The U-Net and the text encoder run in `dtype`; their outputs are guided and translated in float32, since the
differences that distillation feeds on are far smaller than the predictions. The VAE runs in float32 whatever `dtype`
is: Stable Diffusion's overflows in float16. bfloat16 halves its memory, keeps two to three decimal digits and is a
choice of its own. Autocast is switched off inside, because nerfstudio's trainer runs its step under float16 autocast.

Devices. Whoever asks may be on another device than the networks: whatever is returned lies where the images, latents or
queries came from.

The trap: a prior here is a plain object. As an nn.Module attribute of a pipeline it would end up in every checkpoint.
"""

import re
import shutil
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from pds_nerfstudio.errors import UserError, first_line
from pds_nerfstudio.files import private_folder
from pds_nerfstudio.objectives import Latents, NoiseSchedule, Query, guided
from pds_nerfstudio.objectives.cameras import Viewpoints
from pds_nerfstudio.priors.adapters import Adapters
from pds_nerfstudio.priors.check import LORA_WEIGHTS, camera_layout, lora_folder, prior_folder, reads_framing
from pds_nerfstudio.priors.extras import LoraFile, lora_file
from pds_nerfstudio.priors.lora import fuse_lora
from pds_nerfstudio.priors.parts import load_part, load_scheduler
from pds_nerfstudio.priors.tiny import load_tiny
from pds_nerfstudio.priors.words import add_word

try:
    from diffusers import AutoencoderKL, UNet2DConditionModel  # pyright: ignore[reportPrivateImportUsage]
    from transformers import CLIPTextModel, CLIPTokenizer
except (ImportError, RuntimeError) as error:  # RuntimeError: their lazy imports wrap whatever went wrong inside
    raise UserError(
        f"The diffusion prior needs diffusers and transformers, which do not import here "
        f"({first_line(error)}): pip install --upgrade diffusers transformers"
    ) from error

# Axis names of their own: `height` and `width` are those of latents.
Images = Float[Tensor, "batch 3 image_height image_width"]


def load_prior(
    name: str,
    device: torch.device | str,
    dtype: torch.dtype | None = None,
    vae_dtype: torch.dtype = torch.float32,
    recompute_encoder: bool = False,
    encoder: str | None = None,
    channels_last: bool = False,
    compiled: bool = False,
    edits_pictures: bool = False,
    loras: Sequence[str] = (),
    embeddings: Sequence[Path] = (),
) -> "StableDiffusionPrior":
    """Load the prior `name`: `toybox`, a local diffusers folder, one file of a whole model (converted once), a hub id
    (downloaded once), or a LoRA's folder.

    A folder whose U-Net takes cameras gives a `MultiViewPrior`.

    Only safetensors are read, no code of the folder is run, and no safety checker is loaded. A LoRA
    is added to its prior's weights in float32.

    Args:
        dtype: precision of U-Net and text encoder; None is float16 on CUDA and float32 elsewhere.
        vae_dtype: precision of the VAE, float32 or bfloat16.
        recompute_encoder: see `StableDiffusionPrior`.
        encoder: a tiny encoder in place of the VAE's (see `priors.tiny`).
        channels_last: lay images out with their channels last, which half-precision convolutions on GPUs like.
        compiled: torch.compile U-Net and encoder; their first calls then take minutes.
        edits_pictures: expect the U-Net of an InstructPix2Pix (see `priors.instruct`).
        loras: further ones, PATH[:weight] each, added in this order (see `priors.extras`).
        embeddings: files of textual inversions, whose names prompts may then hold.

    Raises:
        UserError: `name` cannot be loaded (see `check_prior`), or the VAE is asked to run in float16.
    """
    if vae_dtype == torch.float16:
        raise UserError("vae_dtype is float16, in which Stable Diffusion's VAE overflows: use float32 or bfloat16.")
    device = torch.device(device)
    if dtype is None:
        dtype = torch.float16 if device.type == "cuda" else torch.float32
    folder, lora = prior_folder(name, edits_pictures), lora_folder(name)
    added = [] if lora is None else [LoraFile(lora / LORA_WEIGHTS, 1.0)]
    added += [lora_file(named) for named in loras]
    exact = torch.float32 if added else dtype
    kind: Any = StableDiffusionPrior
    if edits_pictures or camera_layout(folder) is None:
        unet = load_part(UNet2DConditionModel, folder, "unet", torch_dtype=exact)
    else:
        # After the check of diffusers above; the second builds upon this module.
        from pds_nerfstudio.priors.camera_unet import load_unet
        from pds_nerfstudio.priors.multi_view import MultiViewPrior

        kind, unet = partial(MultiViewPrior, framing=reads_framing(folder)), load_unet(folder, exact)
    prior = kind(
        vae=load_part(AutoencoderKL, folder, "vae", torch_dtype=vae_dtype).to(device),
        unet=unet.to(device),
        text_encoder=load_part(CLIPTextModel, folder, "text_encoder").to(device=device, dtype=exact),
        tokenizer=CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer", local_files_only=True),
        scheduler=load_scheduler(folder),
        recompute_encoder=recompute_encoder,
    )
    for file in added:
        fuse_lora(prior, file.path, file.weight)
    for path in embeddings:
        add_word(prior, path.expanduser())
    if dtype != exact:
        prior.unet.to(dtype)
        prior.text_encoder.to(dtype)
    if encoder is not None:
        prior.tiny = load_tiny(encoder, device, vae_dtype, prior.latent_stride, prior.latent_channels)
    for network in (prior.unet, (prior.tiny or prior.vae).encoder):
        if channels_last:
            network.to(memory_format=torch.channels_last)
        if compiled:
            network.compile()
    return prior


@dataclass(eq=False)
class StableDiffusionPrior:
    """A frozen text-to-image latent diffusion model: image <-> latent, and (latent, t, prompt) -> noise.

    Satisfies `pds_nerfstudio.objectives.Prior`. The networks are frozen and put into evaluation mode on construction.
    """

    takes_cameras: ClassVar[bool] = False
    """Whether queries may say where their samples are seen from."""

    # diffusers annotates its configurations as plain dicts and its outputs as tuples, which they are not: hence Any.
    vae: Any
    """diffusers' AutoencoderKL."""
    unet: Any
    """diffusers' UNet2DConditionModel."""
    text_encoder: Any
    """transformers' CLIPTextModel."""
    tokenizer: Any
    """transformers' CLIPTokenizer."""
    scheduler: Any
    """diffusers' DDIMScheduler with the folder's noise schedule and prediction type."""
    adapters: Adapters | None = field(default=None, init=False)
    """What `add_adapters` made."""
    controlnet: Any | None = None
    """diffusers' ControlNetModel, which queries with a control picture are asked under (see `priors.control`)."""
    recompute_encoder: bool = False
    """Keep only block inputs of the VAE encoder and run each block again in the backward pass: less memory, the same
    gradients, one more encoder pass of time."""
    tiny: Any = None
    """An AutoencoderTiny that encodes in place of the VAE."""
    negative_prompt: str = ""
    """What guidance leads away from, in place of the empty prompt: ε_∅ is then the prediction for it."""
    framing: bool = False
    """Of a U-Net that takes cameras, whether it was trained with what the last row of their matrices says of aim and
    distance. Others are told of a camera that looks straight at its subject, as MVDream's were."""
    schedule: NoiseSchedule = field(init=False, repr=False)
    """ᾱ of the folder's scheduler, in float64."""
    words: dict[str, str] = field(init=False, repr=False, default_factory=dict)
    """Names of textual inversions, and the tokens that each stands for."""
    _texts: dict[str, Tensor] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        networks = (self.vae, self.unet, self.text_encoder, self.controlnet)
        for network in filter(None, networks):
            network.requires_grad_(False).eval()
        if self.recompute_encoder:
            self.vae.enable_gradient_checkpointing()
        else:
            self.vae.disable_gradient_checkpointing()
        # From β and not from the scheduler's float32 ᾱ, whose rounding is 1e-5 of the β that PDS takes from it.
        self.schedule = NoiseSchedule.from_alphas_cumprod(torch.cumprod(1 - self.scheduler.betas.double(), dim=0))

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.unet.device

    @property
    def latent_stride(self) -> int:
        """Pixels per latent: images must be multiples of it. 8 for Stable Diffusion, 4 for the toybox prior."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def latent_channels(self) -> int:
        """Channels of a latent, 4 for Stable Diffusion."""
        return self.vae.config.latent_channels

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
                latents = self.tiny.encode((2 * images - 1).to(self.tiny.device, self.tiny.dtype)).latents
            return latents.float().to(images.device)
        with self._own_precision():
            posterior = self.vae.encode((2 * images - 1).to(self.vae.device, self.vae.dtype)).latent_dist
            latents = posterior.mean if generator is None else posterior.sample(generator)
        return ((latents.float() - self._shift) * self.vae.config.scaling_factor).to(images.device)

    def features(self, images: Images) -> list[Float[Tensor, "batch width feature_height feature_width"]]:
        """What the VAE's encoder makes of images, RGB in [0, 1], at each resolution; with the graph back to them."""
        with self._own_precision():
            hidden = self.vae.encoder.conv_in((2 * images - 1).to(self.vae.device, self.vae.dtype))
            features = []
            for block in self.vae.encoder.down_blocks:
                hidden = block(hidden)
                features.append(hidden.to(images.device))
        return features

    @torch.no_grad()
    def decode(self, latents: Latents) -> Images:
        """Latents to RGB, clipped to [0, 1], float32, without a graph."""
        scaled = latents / self.vae.config.scaling_factor + self._shift
        with self._own_precision():
            images = self.vae.decode(scaled.to(self.vae.device, self.vae.dtype)).sample
        return (images.float() / 2 + 0.5).clamp(0, 1).to(latents.device)

    def predict_noise(self, queries: Sequence[Query]) -> list[Latents]:
        """ε̂ of every query under its own guidance, all in one U-Net batch, without a graph.

        Queries may differ in batch size, prompt, t and guidance, not in latent height and width. A guidance scale of 1
        costs no unconditional half, one of 0 no conditional one.

        Returns:
            one prediction per query, each in its query's shape, dtype and device.

        Raises:
            ValueError: a query names an adapter, or the latents differ in size.
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
        """One picture per prompt by diffusers' DDIM (Song et al. 2021, η = 0), RGB in [0, 1].

        The starting noise is drawn on the generator's device, hence the same on every machine for a CPU generator.

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
        self.scheduler.set_timesteps(num_steps, device=self.device)
        for t in self.scheduler.timesteps:
            queries = [
                Query(
                    latents[rows],
                    t.expand(together),
                    prompts[rows.start],
                    guidance_scale,
                    cameras=None if cameras is None else Viewpoints(cameras.matrices[rows], together),
                )
                for rows in groups
            ]
            latents = self.scheduler.step(torch.cat(self._predict(queries)), t, latents).prev_sample
        return self.decode(latents)

    def embed(self, prompt: str) -> Float[Tensor, "tokens width"]:
        """The text encoder's features of a prompt, computed once per prompt."""
        if prompt not in self._texts:
            self._texts[prompt] = self._embed(prompt)
        return self._texts[prompt]

    def forget_texts(self) -> None:
        """Let prompts be computed anew, by a text encoder that has learned since."""
        self._texts.clear()

    def token_ids(self, prompt: str) -> Integer[Tensor, "1 tokens"]:
        """What the text encoder reads: as many tokens as it can, the prompt's and then padding."""
        for word, known in self.words.items():
            prompt = re.sub(rf"(?<!\w){re.escape(word)}(?!\w)", known, prompt)
        length = self.tokenizer.model_max_length
        tokens = len(self.tokenizer(prompt, verbose=False).input_ids)
        if tokens > length:
            warnings.warn(
                f"The prompt has {tokens} tokens and the prior reads {length}: its end is ignored ({prompt!r}).",
                stacklevel=2,
            )
        ids = self.tokenizer(prompt, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        return ids.input_ids.to(self.device)

    @torch.no_grad()
    def _embed(self, prompt: str) -> Tensor:
        ids = self.token_ids(prompt)
        with self._own_precision():
            return self.text_encoder(ids).last_hidden_state[0]

    def pipeline(self) -> Any:
        """The same networks as diffusers' StableDiffusionPipeline."""
        from diffusers import StableDiffusionPipeline  # pyright: ignore[reportPrivateImportUsage]

        return StableDiffusionPipeline(
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            unet=self.unet,
            scheduler=self.scheduler,
            safety_checker=None,  # pyright: ignore[reportArgumentType]
            feature_extractor=None,  # pyright: ignore[reportArgumentType]
            requires_safety_checker=False,
        )

    def save(self, folder: Path) -> None:
        """Write a diffusers folder, which `load_prior` reads: each part of it whole or absent, its index the last."""
        with private_folder(folder / "prior") as partial:
            self.pipeline().save_pretrained(partial, safe_serialization=True)
            for part in sorted(partial.iterdir(), key=lambda path: path.name == "model_index.json"):
                if part.is_dir():
                    shutil.rmtree(folder / part.name, ignore_errors=True)
                part.replace(folder / part.name)

    def add_adapters(self, names: Sequence[str], rank: int, seed: int = 0) -> Adapters:
        """Give the U-Net fresh LoRA adapters, which queries may then name (see `Adapters`)."""
        self.adapters = Adapters(self.unet, names, rank, seed)
        return self.adapters

    def predict_with_graph(self, queries: Sequence[Query]) -> list[Latents]:
        """ε̂ of queries that all name the same adapter, with the graph of its parameters, in one U-Net batch.

        Raises ValueError if they name none, or several.
        """
        names = {query.adapter for query in queries}
        if len(names) != 1 or None in names:
            raise ValueError(f"The queries name {sorted(map(str, names))}: they must all name the one that learns.")
        predictions = self._forward(queries, queries[0].adapter)
        return [self._to_epsilon(query, p) for query, p in zip(queries, predictions, strict=True)]

    @torch.no_grad()
    def _predict(self, queries: Sequence[Query]) -> list[Latents]:
        """What the U-Net predicts, in its own dialect, guided: one forward pass for each adapter that is named."""
        sizes = {tuple(query.noisy_latents.shape[1:]) for query in queries}
        if len(sizes) > 1:
            raise ValueError(f"Queries of one step have latents of sizes {sorted(sizes)}: give them one size.")
        answers: dict[int, Latents] = {}
        for adapter in dict.fromkeys(query.adapter for query in queries):
            chosen = [i for i, query in enumerate(queries) if query.adapter == adapter]
            answers |= dict(zip(chosen, self._forward([queries[i] for i in chosen], adapter), strict=True))
        return [answers[i] for i in range(len(queries))]

    def _forward(self, queries: Sequence[Query], adapter: str | None) -> list[Latents]:
        """One U-Net batch of queries that share an adapter."""
        if adapter is not None and self.adapters is None:
            raise ValueError(f"A query names the adapter {adapter!r}: this prior has none, leave adapter at None.")
        latents, times, texts = [], [], []
        pictures = [query.control for query in queries for _ in self.halves(query)]
        for query in queries:
            for prompt in self.halves(query):
                latents.append(query.noisy_latents.to(self.device, self.unet.dtype))
                times.append(query.t.to(self.device))
                texts.append(self.embed(prompt).expand(len(query.noisy_latents), -1, -1))
        switched = nullcontext() if self.adapters is None else self.adapters.using(adapter)
        with self._own_precision(), switched:
            inputs = torch.cat(latents), torch.cat(times), torch.cat(texts).to(self.unet.dtype)
            placed = self._placed(queries)
            output = self.unet(*inputs, **self._controlled(inputs, pictures, placed), **placed).sample
        rows = iter(output.float().split([len(part) for part in latents]))
        return [
            next(rows) if query.guidance_scale in (0, 1) else guided(next(rows), next(rows), query.guidance_scale)
            for query in queries
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
        """What the U-Net has to be given besides for a batch of so many rows that are seen from anywhere."""
        return {}

    def _placed(self, queries: Sequence[Query]) -> dict[str, Any]:
        """What tells the U-Net where its rows are seen from: nothing, for a prior that takes no cameras."""
        if any(query.cameras is not None for query in queries):
            raise ValueError("A query has cameras and this prior takes none: leave cameras at None.")
        return {}

    def _controlled(
        self, inputs: tuple[Tensor, ...], pictures: Sequence[Tensor | None], placed: Mapping[str, Any]
    ) -> dict[str, Any]:
        """What the ControlNet adds to the U-Net's features, as the U-Net takes it; nothing without pictures.

        One that was made of a U-Net which takes cameras is told them too.
        """
        given = [picture for picture in pictures if picture is not None]
        if not given:
            return {}
        if self.controlnet is None:
            raise ValueError("A query has a control picture and this prior no ControlNet: leave control at None.")
        if len(given) < len(pictures):
            raise ValueError("Some queries of an adapter have a control picture and others none: give it to all.")
        picture = torch.cat(given).to(self.device, self.unet.dtype)
        with torch.no_grad():
            labels = placed.get("class_labels") if self.controlnet.config.class_embed_type else None
            down, mid = self.controlnet(*inputs, controlnet_cond=picture, class_labels=labels, return_dict=False)
        return {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}

    def _to_epsilon(self, query: Query, prediction: Latents) -> Latents:
        x_t = query.noisy_latents.detach()
        prediction = prediction.to(x_t.device)
        exact = x_t.to(torch.promote_types(x_t.dtype, torch.float32))
        match self.scheduler.config.prediction_type:
            case "epsilon":
                epsilon = prediction
            case "v_prediction":
                epsilon = self.schedule.velocity_to_epsilon(exact, query.t, prediction)
            case "sample":
                epsilon = self.schedule.sample_to_epsilon(exact, query.t, prediction)
            case other:
                raise ValueError(f"prediction_type is {other!r}: it must be epsilon, v_prediction or sample.")
        return epsilon.to(x_t.dtype)

    @property
    def _shift(self) -> float:
        return getattr(self.vae.config, "shift_factor", None) or 0.0

    def _own_precision(self) -> AbstractContextManager[object]:
        kind = self.device.type
        # torch's meta device, on which costs are counted, knows no autocast.
        return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()

    def _check_size(self, height: int, width: int) -> None:
        if height % self.latent_stride or width % self.latent_stride:
            raise ValueError(
                f"The picture is {height}x{width} pixels: height and width must be multiples of the latent stride "
                f"{self.latent_stride}, as images.working_size gives them."
            )
