"""What the encoders make of captions and pictures: kept where it can be, made on the way where each view is another.

What is kept is encoded by itself, one text or picture at a time, so that nothing depends on what it was batched with.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from ..job.schema import Cache
from ..pictures import images
from ..pictures.buckets import View
from ..pictures.picture import Picture
from ..system.distributed import World
from ..system.errors import UserError
from . import cache
from .fillcache import Progress, fill
from .models import Base

TOKENS = 77  # of CLIP's context; two of them are the marks of start and end
RECENT = 256  # texts that were not prepared are remembered so long; one takes 0.3 MB


@dataclass(frozen=True)
class Text:
    """An encoded text, on the CPU in the base's dtype.

    Attributes:
        context: [L, D], both encoders' last hidden states but one, side by side; L = 77 or, in chunks of 75 tokens, 152
            or 227.
        pooled: [P], the second encoder's projection.
        tokens: how many tokens the text has, its start and end among them; the encoders see L of them.
    """

    context: torch.Tensor
    pooled: torch.Tensor
    tokens: int


class Texts:
    """Final captions and prompts -> their encodings: `texts["a photo of a dog"]`."""

    def __init__(
        self, base: Base, device: torch.device, store: cache.Store, identity: str = "", trained: bool = False
    ) -> None:
        """Keeps what is encoded in `store`, by the text encoders' `identity`.

        Args:
            base: its text encoders are moved to the device when they are first needed.
            device: that they work on.
            store: of what is prepared.
            identity: of their weights, which a store on disk cannot do without.
            trained: whether they change from step to step: then nothing is kept.
        """
        assert identity or store.folder is None or trained, "a folder outlives the encoders"
        self._base, self._device, self._store, self._identity, self._trained = base, device, store, identity, trained
        self._recent: OrderedDict[str, dict[str, torch.Tensor]] = OrderedDict()

    def __getitem__(self, text: str) -> Text:
        """Returns the text's encoding, made now where it was not prepared; zeros where the base knows "" so.

        Raises:
            KeyError: it was not prepared, and the text encoders are gone.
        """
        held = self._encoded(text) if self._trained else self._kept(text)
        context, pooled = held["context"], held["pooled"]
        if not text and self._base.empty_is_zero:
            context, pooled = torch.zeros_like(context), torch.zeros_like(pooled)
        return Text(context, pooled, int(held["tokens"]))

    def prepare(self, texts: Iterable[str], world: World | None = None, progress: Progress | None = None) -> None:
        """Encodes what is not there yet; the processes of `world` share the work.

        Raises:
            UserError: an encoding is not finite.
        """
        if not self._trained:
            makers = {self._key(text): partial(self._encoded, text) for text in texts}
            fill(self._store, makers, world, progress)

    def release(self) -> None:
        """Lets the text encoders go: only what was prepared is there from now on."""
        for _, encoder in self._base.text:
            encoder.to("cpu")  # who still holds one shall not hold the device's memory
        self._base.text.clear()

    def length(self, text: str) -> int:
        """Returns how many tokens the text has, its start and end among them; the encoders must still be there."""
        return max(len(tokenizer(text).input_ids) for tokenizer, _ in self._base.text)

    @property
    def longest(self) -> int:
        """How many tokens of a text are seen, its start and end among them."""
        return (TOKENS - 2) * self._base.chunks + 2

    def notices(self) -> list[str]:
        """Returns what went wrong with the store and was got over."""
        return self._store.notices()

    def _kept(self, text: str) -> dict[str, torch.Tensor]:
        name = self._key(text)
        held = self._store.get(name) or self._recent.pop(text, None) or self._encoded(text)
        if not self._store.contains(name):
            self._recent[text] = held  # the newest
            if len(self._recent) > RECENT:
                self._recent.popitem(last=False)
        return held

    def _key(self, text: str) -> str:
        return cache.text_key(text, self._identity, dtype_name(self._base.dtype), self._base.chunks)

    @torch.no_grad()
    def _encoded(self, text: str) -> dict[str, torch.Tensor]:
        """Returns one text's context [L, D], pooled [P] and tokens [] int64, on the CPU; "" is not zeros yet."""
        if not self._base.text:
            raise KeyError(f"text {text!r}: not prepared, and the text encoders are gone")
        for _, encoder in self._base.text:
            encoder.to(self._device)
        context, pooled = states(self._base, [text], self._device)
        held = {"context": context[0].cpu(), "pooled": pooled[0].cpu()}
        if not all(made.isfinite().all() for made in held.values()):
            raise UserError(
                f'text "{text}": expected a finite encoding, got NaN or infinity in {dtype_name(self._base.dtype)}. '
                'Set [train] mixed_precision = "bf16" or "no".'
            )
        return {**held, "tokens": torch.tensor(self.length(text))}


def encode_batch(base: Base, texts: list[str], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns context [B, L, D] and pooled [B, P] on the device, with gradients where the text encoders train."""
    context, pooled = states(base, texts, device)
    if base.empty_is_zero and not all(texts):
        there = torch.tensor([bool(text) for text in texts], device=device)
        context = torch.where(there[:, None, None], context, torch.zeros_like(context))
        pooled = torch.where(there[:, None], pooled, torch.zeros_like(pooled))
    return context, pooled


def states(base: Base, texts: list[str], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns what the encoders make of the texts: context [B, L, D] and pooled [B, P], an empty one no exception."""
    contexts, pooled = [], torch.empty(0)
    for tokenizer, encoder in base.text:
        length = min(TOKENS, encoder.config.max_position_embeddings)
        ids = token_chunks(tokenizer, texts, length, base.chunks)  # [B, chunks, 77]
        made = encoder(ids.flatten(0, 1).to(device), output_hidden_states=True)
        hidden = made.hidden_states[-2].unflatten(0, (-1, base.chunks))  # [B, chunks, 77, width]
        contexts.append(joined(hidden))
        pooled = made[0].unflatten(0, (-1, base.chunks))[:, 0]  # the second encoder's projection [B, P] is what stays
    return torch.cat(contexts, dim=-1), pooled  # [B, L, D]


def token_chunks(tokenizer: Any, texts: list[str], length: int, chunks: int) -> torch.Tensor:
    """Returns the texts' tokens in chunks that are each a text to the encoder, [B, chunks, length] int64.

    As kohya's sd-scripts cut them: each chunk has the mark of the start, the next `length - 2` tokens, and what the
    whole text ends in; one that ends in a word gets the mark of the end, and an empty one is the mark and then padding.
    """
    whole = chunks * (length - 2) + 2
    ids = tokenizer(texts, padding="max_length", max_length=whole, truncation=True, return_tensors="pt").input_ids
    if chunks == 1:
        return ids[:, None]
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    inner = ids[:, 1:-1].unflatten(1, (chunks, length - 2))
    first, last = (ids[:, place, None, None].expand(-1, chunks, 1) for place in (0, -1))
    word_at_the_end = (inner[..., -1:] != end) & (inner[..., -1:] != pad)
    last = torch.where(word_at_the_end, end, last)
    begin = torch.where(inner[..., :1] == pad, end, inner[..., :1])
    return torch.cat([first, begin, inner[..., 1:], last], dim=-1)


def joined(hidden: torch.Tensor) -> torch.Tensor:
    """Returns chunks' states [B, chunks, 77, width] as those of one text [B, L, width]: one start, one end."""
    if hidden.shape[1] == 1:
        return hidden[:, 0]
    return torch.cat([hidden[:, 0, :1], hidden[:, :, 1:-1].flatten(1, 2), hidden[:, -1, -1:]], dim=1)


class Latents:
    """Pictures -> their latents in a view."""

    def __init__(
        self, base: Base, device: torch.device, settings: Cache, store: cache.Store, identity: str = ""
    ) -> None:
        """Keeps what is encoded in `store`, by the VAE's `identity`, which a store on disk cannot do without."""
        assert identity or store.folder is None, "a folder outlives the VAE"
        self._base, self._device, self._settings = base, device, settings
        self._store, self._identity = store, identity
        self._on_the_way = not settings.cache_latents  # whether the VAE is at work while the run goes on

    def prepare(
        self, pictures: Iterable[Picture], world: World | None = None, progress: Progress | None = None
    ) -> None:
        """Encodes every picture that is always seen alike, mirrored too where it flips; the processes share the work.

        Raises:
            UserError: latents that are not finite, with the image named; or an image that changed meanwhile.
        """
        pictures = list(pictures)
        self._on_the_way = self._on_the_way or not all(map(cache.fixed_flips, pictures))
        if self._settings.cache_latents:
            views = ((picture, flipped) for picture in pictures for flipped in cache.fixed_flips(picture))
            makers = {self._key(picture, flipped): partial(self._fixed, picture, flipped) for picture, flipped in views}
            fill(self._store, makers, world, progress)

    def get(self, picture: Picture, view: View, generator: torch.Generator | None = None) -> torch.Tensor:
        """Returns the picture's latents in that view, as the UNet takes them: [4, h, w] float32 on the CPU.

        Args:
            picture: what is seen.
            view: how it is seen; encoded now where it is none that is kept.
            generator: of `sample_posterior`, on the CPU; None = the mean.
        """
        if view.offset is None and view.jitter is None and self._settings.cache_latents:
            name = self._key(picture, view.flipped)
            held = self._store.get(name)
            if held is None:
                held = self._fixed(picture, view.flipped)
                self._store.put(name, held)
        else:
            held = self._encoded(picture, view)
        latents = held["mean"]
        if "std" in held and generator is not None:
            latents = latents + held["std"] * torch.randn(latents.shape, generator=generator)
        shift, scale = latent_scale(self._base)
        return (latents - shift) * scale

    def release(self) -> None:
        """Frees the device of the VAE, unless it encodes as the run goes on."""
        if not self._on_the_way:
            self._base.vae.to("cpu")

    def _key(self, picture: Picture, flipped: bool) -> str:
        dtype, posterior = dtype_name(self._base.vae.dtype), self._settings.sample_posterior
        return cache.latents_key(picture, flipped, self._identity, dtype, posterior)

    def _fixed(self, picture: Picture, flipped: bool) -> dict[str, torch.Tensor]:
        """Returns the latents that are kept of a picture, whose digest they are kept by: another content is refused."""
        return self._encoded(picture, View(flipped))

    @torch.no_grad()
    def _encoded(self, picture: Picture, view: View) -> dict[str, torch.Tensor]:
        """Returns the VAE's mean [4, h, w] and, where it is drawn from, its std, float32 on the CPU, unscaled."""
        vae = self._base.vae.to(self._device)
        pixels = images.pixels(picture, view)[None].to(self._device, vae.dtype)  # [1, 3, H, W]
        with torch.autocast(self._device.type, enabled=False):
            drawn_from = vae.encode(pixels).latent_dist
        made = {"mean": drawn_from.mean[0].float().cpu()}
        if self._settings.sample_posterior:
            made["std"] = drawn_from.std[0].float().cpu()
        if not all(tensor.isfinite().all() for tensor in made.values()):
            remedy = "Name a VAE that is whole in [model] vae."
            if vae.dtype != torch.float32:
                remedy = 'Set [model] vae_dtype = "fp32".'
            raise UserError(
                f'image "{picture.path}": expected finite latents, got NaN or infinity in {dtype_name(vae.dtype)}. '
                f"{remedy}"
            )
        return made


def decode_latents(base: Base, latents: torch.Tensor) -> torch.Tensor:
    """Returns pixels [3, H, W] in about [-1, 1] of scaled latents [4, h, w]; the VAE is where it is."""
    shift, scale = latent_scale(base)
    unscaled = latents.float().cpu() / scale + shift
    return base.vae.decode(unscaled[None].to(base.vae.device, base.vae.dtype)).sample[0]


def latent_scale(base: Base) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the shift and the factor, [4, 1, 1] or [], that take the VAE's latents to the UNet's."""
    config = base.vae.config
    mean, deviation = config.get("latents_mean"), config.get("latents_std")
    if mean is None or deviation is None:
        return torch.tensor(0.0), torch.tensor(float(config.scaling_factor))
    return torch.tensor(mean).view(-1, 1, 1), config.scaling_factor / torch.tensor(deviation).view(-1, 1, 1)


def dtype_name(dtype: Any) -> str:
    """Returns a dtype as caches and messages write it, such as "float32"."""
    return str(dtype).removeprefix("torch.")
