"""Triton kernels: for GPUs where only torch and Triton are installed. Imported on first use, never with the package."""
