"""Between images and latents: the autoencoder of a model, and the sizes of images that it and the denoiser take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from turbo_fetch.dreambooth.families.vae_tiling import can_tile, is_tiled, spare_memory
from turbo_fetch.errors import ModelError, SpecError
from turbo_fetch.spec.table import VaeTiling


@dataclass(frozen=True, slots=True)
class Posterior:
    """The Gaussian that the VAE makes of an image, in the scale of the denoiser: two tensors [B, C, h, w].

    In all families latents have this shape; those whose denoiser takes them in another one bring them into it in
    `predict`, and back.
    """

    mean: Tensor
    deviation: Tensor

    def sample(self, generator: torch.Generator) -> Tensor:
        """Return latents [B, C, h, w] drawn from it."""
        normals = torch.randn(self.mean.shape, generator=generator, device=generator.device)
        return self.mean + self.deviation * normals.to(self.mean)


@dataclass(frozen=True, slots=True)
class Sides:
    """Which widths and heights in pixels the images have that a model can make."""

    multiple: int
    largest: int | None = None

    def nearest(self, side: int) -> int:
        """Return the side nearest to one that is wanted."""
        rounded = max(self.multiple, (side + self.multiple // 2) // self.multiple * self.multiple)
        return rounded if self.largest is None else min(rounded, self.largest)


class LatentSpace:
    """What a model makes of images, and they of it; the part of a family that is about sizes."""

    denoiser_name: ClassVar[str]
    pipeline: Any
    vae_tiling: VaeTiling = "auto"

    def spare_memory(self) -> None:
        """Have the autoencoder take images one by one, and those in tiles that the spec says."""
        spare_memory(self.vae, self.vae_scale, lambda: self.vae_tiling)

    @property
    def denoiser(self) -> nn.Module:
        """The UNet or transformer."""
        module: nn.Module = getattr(self.pipeline, self.denoiser_name)
        return module

    @property
    def vae(self) -> Any:
        """The autoencoder, which is never trained."""
        return self.pipeline.vae

    def tile_vae(self, wish: VaeTiling, key: str = "vae_tiling") -> None:
        """Take images in tiles through the autoencoder as a spec says. Raises SpecError, naming the spec's `key`."""
        if wish is True and not can_tile(self.vae):
            raise SpecError(f'{key} = true, but a {type(self.vae).__name__} has no tiles; expected "auto"')
        self.vae_tiling = wish

    def tiles(self, width: int, height: int) -> bool:
        """Return whether images of this size go through the autoencoder in tiles."""
        return can_tile(self.vae) and is_tiled(self.vae_tiling, width * height)

    @property
    def image_side(self) -> int:
        """Width and height in pixels of the images that the model was made for. Raises ModelError if it says none."""
        config: Any = self.denoiser.config
        if not isinstance(config.sample_size, int):
            raise ModelError(
                f"the config.json of the model's {self.denoiser_name} has sample_size = {config.sample_size}; "
                "expected the side of its latents"
            )
        return config.sample_size * self.vae_scale

    @property
    def size_multiple(self) -> int:
        """Sides of an image in pixels are multiples of this."""
        blocks = getattr(self.denoiser.config, "down_block_types", ())
        return int(self.vae_scale * 2 ** max(len(blocks) - 1, 0))

    @classmethod
    def sides(cls, denoiser: Mapping[str, Any], vae: Mapping[str, Any]) -> Sides:
        """Return which images a model with these configs of its components can make."""
        return Sides(cls.scale_of(vae))

    @property
    def own_sides(self) -> Sides:
        """Which images this model can make."""
        config: Any = self.denoiser.config
        return self.sides(config, self.vae.config)

    @classmethod
    def scale_of(cls, vae: Mapping[str, Any]) -> int:
        """Return how many pixels along a side a VAE with this config makes one latent of."""
        return int(2 ** (len(vae["block_out_channels"]) - 1))

    @property
    def vae_scale(self) -> int:
        """Pixels per latent along a side."""
        return self.scale_of(self.vae.config)

    @property
    def latent_channels(self) -> int:
        """Channels of latents."""
        return int(self.vae.config.latent_channels)

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """Return the shape of the latents of an image."""
        return self.latent_channels, height // self.vae_scale, width // self.vae_scale

    @torch.no_grad()
    def encode_images(self, pixels: Tensor) -> Posterior:
        """Return the posterior of images [B, 3, H, W] between -1 and 1, in fp32."""
        posterior = self.vae.encode(pixels.to(self.vae.device, self.vae.dtype)).latent_dist
        shift = getattr(self.vae.config, "shift_factor", None) or 0.0
        scale = self.vae.config.scaling_factor
        return Posterior((posterior.mean.float() - shift) * scale, posterior.std.float() * scale)

    def decode(self, latents: Tensor) -> Tensor:
        """Return the images that the VAE makes of its own latents [B, C, h, w]."""
        images: Tensor = self.vae.decode(latents, return_dict=False)[0]
        return images
