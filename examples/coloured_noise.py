"""What M looks like: spectrum and masks of handwritten digits, and the noise that a filtered step draws.

    pip install . matplotlib
    python examples/coloured_noise.py

Prints how far the power of 4,096 draws is from what the masks say; draws noise.webp.
"""

import torch

from tdas_ops import NoiseStream, Preconditioner, models, noise


def filters(alpha=1.3):
    """The TDAS masks of the digits of the embedded model, stronger than usual so that one sees them."""
    freq, space, _ = models.load("digits").statistics
    return Preconditioner.from_statistics(freq, space, alpha=alpha, method="tdas"), freq


def power(x):
    """Mean power of a batch at every frequency, `[H, W // 2 + 1]`, over that of white noise of variance 1."""
    return torch.fft.rfft2(x.double(), norm="ortho").abs().square().mean((0, 1))


def expected(M):
    """`E |F M z|^2 = R^2 mean(A^2)`: a space mask makes the noise of a pixel stronger or weaker, and no colour."""
    R, A, _ = M.masks(torch.float64)
    return (R**2 * (A**2).mean((-2, -1), keepdim=True))[0]


def error(M, count=4096, seed=0):
    """Relative RMS error of the power of `count` draws; theory leaves count^-1/2, 0.016, and more where M z is real."""
    made = power(noise(M, (count, *M.shape), NoiseStream(seed)))
    return float((made / expected(M) - 1).square().mean().sqrt())


def rings(values):
    """Mean over rings of |k| of a half spectrum `[H, W // 2 + 1]`, from one cycle an image to H / 2."""
    height, half = values.shape
    k = torch.hypot(torch.fft.fftfreq(height, 1 / height)[:, None], torch.arange(half)[None]).round().long()
    return [float(values[k == radius].mean()) for radius in range(1, height // 2 + 1)]


def draw(path, seed=0):
    from matplotlib import pyplot

    M, freq = filters()
    R, A, _ = M.masks(torch.float64)
    R_whole = torch.cat([R[0], R[0].roll(-1, 0).flip(0, 1)[:, 1:-1]], 1)
    z = noise(Preconditioner.identity(M.shape), (64, *M.shape), NoiseStream(seed))
    coloured = noise(M, (64, *M.shape), NoiseStream(seed))
    panels = (
        (torch.fft.fftshift(freq[0]), "log(1 + mean |F x|²) of the data", "magma", (-16, 15, 15, -16)),
        (torch.fft.fftshift(R_whole), "frequency mask R", "magma", (-16, 15, 15, -16)),
        (A[0], "space mask A", "magma", None),
        (z[0, 0].clamp(-3, 3), "white noise z", "gray", None),
        (coloured[0, 0].clamp(-1.5, 1.5), "M z", "gray", None),
    )
    figure, axes = pyplot.subplots(2, 3, figsize=(7.5, 5), layout="constrained")
    for axis, (values, title, colours, cycles) in zip(axes.flat, panels, strict=False):
        figure.colorbar(axis.imshow(values, colours, extent=cycles), ax=axis, shrink=0.75)
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("pixels" if cycles is None else "cycles an image", fontsize=8)
    last = axes.flat[5]
    for values, label, line in ((power(z), "z", "-"), (power(coloured), "M z", "-"), (expected(M), "R² mean A²", "--")):
        last.semilogy(range(1, 17), rings(values), line, label=label)
    last.set_title("power of 64 draws", fontsize=9)
    last.set_xlabel("cycles an image", fontsize=8)
    last.legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=110, pil_kwargs={"quality": 70, "method": 6})


if __name__ == "__main__":
    print(f"power of 4,096 draws against the masks: {error(filters()[0]):.2%} RMS")
    draw("noise.webp")
