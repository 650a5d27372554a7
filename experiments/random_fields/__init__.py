"""Posterior sampling of photographs: denoising, inpainting, deblurring."""
