"""Stable Diffusion XL: two CLIP text encoders, a UNet that is also told sizes (arXiv 2307.01952)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from turbo_fetch.dreambooth.families.family import Conditioning, tokens
from turbo_fetch.dreambooth.families.sd import StableDiffusion


class StableDiffusionXL(StableDiffusion):
    """See the module."""

    name = "sdxl"
    text_encoder_names = ("text_encoder", "text_encoder_2")

    def encode_captions(self, captions: Sequence[str]) -> Conditioning:
        """See Family."""
        hidden = []
        for name, encoder in self.text_encoders.items():
            ids = tokens(self.tokenizers[name], captions, encoder.device)
            output = encoder(ids, output_hidden_states=True)
            hidden.append(output.hidden_states[-2])
        # The second encoder's pooled projection is the one that the UNet was trained with.
        return {"hidden": torch.cat(hidden, dim=-1), "pooled": output[0]}

    def predict(self, noisy: Tensor, timesteps: Tensor, text: Mapping[str, Tensor], sizes: Tensor) -> Tensor:
        """See Family."""
        predicted: Tensor = self.pipeline.unet(
            noisy,
            timesteps,
            text["hidden"],
            added_cond_kwargs={"text_embeds": text["pooled"], "time_ids": sizes.to(noisy.dtype)},
            return_dict=False,
        )[0]
        return predicted
