"""One fully convolutional denoiser of photographs, at 64, 256 and 1024 pixels."""
