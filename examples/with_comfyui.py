"""A NOISE node for ComfyUI: coloured noise for SamplerCustomAdvanced, the same for a seed in any batch.

Copy this file into ComfyUI/custom_nodes. The filter is one that Preconditioner.save wrote, of the channels and size of
the latents, for example Preconditioner.radial(lambda k: (k + 0.05) ** -0.2, (4, 64, 64)).
"""

from tdas_ops import ColouredNoise, Preconditioner


class ColouredNoiseNode:
    RETURN_TYPES, FUNCTION, CATEGORY = ("NOISE",), "get_noise", "sampling/custom_sampling/noise"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"filter": ("STRING", {}), "noise_seed": ("INT", {"min": 0, "max": 2**64 - 1})}}

    def get_noise(self, filter, noise_seed):
        return (ColouredNoise(Preconditioner.load(filter).unit_variance(), noise_seed),)


NODE_CLASS_MAPPINGS = {"TDAS coloured noise": ColouredNoiseNode}
