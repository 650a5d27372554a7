"""NCSN++ networks of the published sizes with random weights, from `diffusers`, for measurements of time and memory.

Progressive input is diffusers' skip blocks, as in its NCSN++ of FFHQ-1024; the published network of CIFAR-10 adds its
input by residual blocks instead, which diffusers lacks.

Source: Song et al., arXiv 2011.13456, appendix H, and the configurations of its code.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch


class Network(NamedTuple):
    """What makes an NCSN++ network, and the batch it is measured with, `(B, C, H, W)`."""

    shape: tuple[int, int, int, int]
    channels: tuple[int, ...]
    residual_blocks: int
    attention: int  # side of the feature maps with attention


NETWORKS = {
    "CIFAR-10": Network((128, 3, 32, 32), (128, 256, 256, 256), 4, 16),
    "FFHQ-1024": Network((4, 3, 1024, 1024), (16, 32, 64, 128, 256, 512, 512, 512), 1, 16),
    "tiny": Network((2, 3, 32, 32), (32, 32), 1, 16),
}


def ncsnpp(network: Network) -> Any:
    """The network, in evaluation mode: `network(x, sigma).sample`."""
    from diffusers import UNet2DModel

    side = network.shape[-1]
    attentive = [side >> level == network.attention for level in range(len(network.channels))]
    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=side,
        block_out_channels=network.channels,
        layers_per_block=network.residual_blocks,
        down_block_types=["AttnSkipDownBlock2D" if here else "SkipDownBlock2D" for here in attentive],
        up_block_types=["AttnSkipUpBlock2D" if here else "SkipUpBlock2D" for here in reversed(attentive)],
        time_embedding_type="fourier",
        mid_block_scale_factor=2**0.5,
        norm_eps=1e-6,
        norm_num_groups=None,
        attention_head_dim=None,
    ).eval()
