"""Triton kernels: for sizes without a CUDA kernel, and for GPUs where only torch and Triton are installed.

Imported on first use, never with the package; the constants here need no Triton.
"""

MINIMUM = (3, 6)  # the release of Triton that belongs to the oldest torch of the package
LIMIT = 1 << 31  # the elements of a sample that the kernels cannot take
