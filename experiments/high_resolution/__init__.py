"""High resolution without training: a public denoiser draws from a start that has the colours of photographs."""
