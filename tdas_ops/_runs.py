"""The runs behind `tdas-ops sample`: a folder of runs of one model that differ in method and iteration count alone.

A folder holds `run.json` (every setting and every finished run), `grid.png`, and one folder of PNG files a run. A run
is written when it is finished, its folder first and its record in `run.json` last, each in one step; so whatever
stops the program, the folder describes finished runs only and the same command continues it.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shlex
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from tqdm import tqdm

from tdas_ops import _pictures, models, samplers
from tdas_ops._backends import backend_info
from tdas_ops._version import __version__
from tdas_ops.noise import NoiseStream
from tdas_ops.preconditioner import Preconditioner

_FORMAT = "tdas_ops runs/1"
Run = tuple[models.Method, int]
"""Method and iteration count."""


@dataclass(frozen=True)
class Settings:
    """What all runs of a folder share: `seed` or `seeds` (one a sample), `filter` a file."""

    model: str = "digits"
    samples: int = 16
    batch: int = 64
    seed: int | None = 0
    seeds: tuple[int, ...] | None = None
    snr: float | None = None
    norm: str = "batch"
    alpha: float | None = None
    filter: str | None = None
    filter_sha256: str | None = None
    device: str = "cpu"
    threads: int = 0
    distance: bool = True


def load_filter(path: str, device: torch.device | str = "cpu") -> Preconditioner:
    """A saved filter.

    Raises:
        ValueError: the file does not exist or is of another kind.
    """
    expected = "expected a file that `tdas-ops calibrate` or Preconditioner.save wrote"
    if not Path(path).is_file():
        raise ValueError(f"--filter: got {path}, which is no file, {expected}")
    try:
        return Preconditioner.load(path, device)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"--filter: got {path} ({error}), {expected}") from None


def filter_digest(M: Preconditioner) -> str:
    """SHA-256 of method and masks: equal for equal filters, whatever file they came from."""
    digest = hashlib.sha256(repr((M.method, M.shape)).encode())
    for mask in (M.freq, M.space, M.skew):
        digest.update(b"absent" if mask is None else mask.numpy().tobytes())
    return digest.hexdigest()


def read_record(path: Path) -> tuple[Settings, list[Run]]:
    """The settings and runs of a `run.json`.

    Raises:
        ValueError: the file is not such a file.
    """
    try:
        record = json.loads(path.read_text())
        if record["format"] != _FORMAT:
            raise ValueError
        given = {f.name: record["settings"][f.name] for f in fields(Settings)}
        seeds = given.pop("seeds")
        settings = Settings(**given, seeds=None if seeds is None else tuple(seeds))
        return settings, [(run["method"], run["iterations"]) for run in record["runs"]]
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(f"run.json: got {path}, expected a file that `tdas-ops sample` wrote") from None


class Study:
    """A model, the shared settings, and the folder where finished runs are kept.

    Making one checks everything and writes nothing.

    Raises:
        ValueError: one sentence about what is wrong with the settings or the folder.
    """

    def __init__(self, settings: Settings, runs: Sequence[Run], out: Path) -> None:
        self.settings, self.out = settings, out
        device = _device(settings.device)
        if settings.seeds is not None and len(settings.seeds) != settings.samples:
            raise ValueError(f"--seeds: got {len(settings.seeds)}, expected one for each of {settings.samples} samples")
        NoiseStream(settings.seed) if settings.seeds is None else NoiseStream(seeds=settings.seeds)
        if settings.norm not in ("batch", "sample"):
            raise ValueError(f"--norm: got {settings.norm!r}, expected 'batch' or 'sample'")
        self.model = models.load(settings.model, device)
        self.snr = self.model.snr if settings.snr is None else settings.snr
        if not 0 < self.snr < float("inf"):
            raise ValueError(f"--snr: got {self.snr}, expected a finite number greater than 0")
        self.filters = {run: self._filter(*run) for run in dict.fromkeys(runs)}
        # Few iterations first: the first result comes soon, and an interrupted folder has something in it.
        self.runs = sorted(self.filters, key=lambda run: (run[1], models.METHODS.index(run[0])))
        self.record = self._earlier()

    def _filter(self, method: models.Method, iterations: int) -> samplers.Filters:
        if self.settings.filter is None or method == "plain":
            return self.model.filters(method, iterations, self.settings.alpha, self.snr)
        loaded = load_filter(self.settings.filter, self.model.device)
        if filter_digest(loaded) != self.settings.filter_sha256:
            raise ValueError(
                f"--filter: got {self.settings.filter}, which has changed, expected the filter of the run.json"
            )
        if loaded.shape != self.model.shape:
            raise ValueError(
                f"--filter: got a filter of shape {loaded.shape}, expected {self.model.shape} as the model has it"
            )
        if loaded.method != method:
            raise ValueError(f"--filter: got a filter of method {loaded.method!r}, expected {method!r} (--method)")
        return loaded

    def _earlier(self) -> dict[str, Any]:
        """The record of the folder, or a new one."""
        new = {"format": _FORMAT, "settings": json.loads(json.dumps(asdict(self.settings))), "runs": []}
        if self.out.exists() and not self.out.is_dir():
            raise ValueError(f"--out: got {self.out}, which is a file, expected a folder")
        path = self.out / "run.json"
        if not path.exists():
            return new
        read_record(path)
        record: dict[str, Any] = json.loads(path.read_text())
        for name, value in new["settings"].items():  # type: ignore[attr-defined]
            if record["settings"][name] != value:
                raise ValueError(
                    f"--out: got {self.out}, which holds runs with {name} {record['settings'][name]!r}, "
                    f"expected {value!r} or another folder"
                )
        return record

    def finished(self, run: Run) -> dict[str, Any] | None:
        """The record of a run that is complete in the folder."""
        for record in self.record["runs"]:
            if (record["method"], record["iterations"]) == run:
                return record if all((self.out / name).is_file() for name in record["pictures"]) else None
        return None

    def sample(self, run: Run, progress: bool) -> Tensor:
        """The samples of a run, `[N, C, H, W]` float32 on the CPU.

        Raises:
            FloatingPointError: the state became non-finite.
        """
        method, iterations = run
        parts = []
        batches = list(self._streams())
        hidden = None if progress else True  # None: tqdm itself looks whether it writes to a terminal
        with tqdm(total=iterations * len(batches), desc=f"{method} {iterations}", disable=hidden) as bar:
            for stream, size in batches:
                samples = samplers.pc(
                    self.model.score,
                    (size, *self.model.shape),
                    self.model.sde,
                    self.filters[run],
                    noise=stream,
                    iterations=iterations,
                    snr=self.snr,
                    norm=self.settings.norm,  # type: ignore[arg-type]
                    callback=lambda state: bar.update(),
                    check_finite=True,
                    progress=False,
                )
                parts.append(samples.cpu())
        return torch.cat(parts)

    def _streams(self) -> Iterator[tuple[NoiseStream, int]]:
        """The noise stream and the size of each batch."""
        s = self.settings
        for first in range(0, s.samples, s.batch):
            size = min(s.batch, s.samples - first)
            if s.seeds is None:
                yield NoiseStream(s.seed, first_sample=first), size
            else:
                yield NoiseStream(seeds=s.seeds[first : first + size]), size

    def execute(self, say: Callable[[str], None], progress: bool = True, title: str = "") -> list[dict[str, Any]]:
        """Makes every run that the folder does not hold yet, then the grid; returns the records of all of them."""
        if self.settings.threads:
            torch.set_num_threads(self.settings.threads)
        self.out.mkdir(parents=True, exist_ok=True)
        for run in self.runs:
            if self.finished(run):
                say(f"{run[0]}, {run[1]} iterations: finished before, kept")
                continue
            started = time.perf_counter()
            samples = self.sample(run, progress)
            self._keep(run, samples, time.perf_counter() - started)
        self.draw(title)
        done = [self.finished(run) for run in self.runs]
        return [record for record in done if record is not None]

    def _keep(self, run: Run, samples: Tensor, seconds: float) -> None:
        """Writes one finished run."""
        method, iterations = run
        sde, s = self.model.sde, self.settings
        measured = self.model.evaluator(samples) if s.distance and len(samples) > 1 else None
        folder = self.out / f"{method}_{iterations}"
        partial = self.out / f".{folder.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            names = []
            for index, levels in enumerate(self.model.pictures(samples)):
                name = f"{index:04d}.png" if s.seeds is None else f"{index:04d}_seed{s.seeds[index]}.png"
                _pictures.picture(levels).save(partial / name)
                names.append(f"{folder.name}/{name}")
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        record = {
            "method": method,
            "iterations": iterations,
            "speedup": sde.native_iterations / iterations,
            "filter": describe_filter(method, self.filters[run]),
            "sde": {"type": type(sde).__name__, **asdict(sde), "end_time": sde.end_time(iterations)},
            "snr": self.snr,
            "network_evaluations": 2 * iterations,
            "seconds": round(seconds, 3),
            "frechet": None if measured is None else asdict(measured),
            "pictures": names,
            "command": self.command([run]),
            "environment": environment(),
        }
        kept = [r for r in self.record["runs"] if (r["method"], r["iterations"]) != run]
        self.record["runs"] = [*kept, record]
        text = json.dumps(self.record, indent=1) + "\n"
        _pictures.write_whole(self.out / "run.json", lambda path: _write_text(path, text))

    def draw(self, title: str = "") -> None:
        """Draws every finished run of the folder into `grid.png`, many iterations first."""
        order = sorted(self.record["runs"], key=lambda r: (-r["iterations"], models.METHODS.index(r["method"])))
        rows = [
            (describe(record), [_pictures.read_picture(self.out / name) for name in record["pictures"][:16]])
            for record in order
            if all((self.out / name).is_file() for name in record["pictures"])
        ]
        if rows:
            sheet = _pictures.grid(rows, title or f"{self.settings.model}, {self.settings.samples} samples a run")
            _pictures.write_whole(self.out / "grid.png", sheet.save)

    def command(self, runs: Sequence[Run]) -> str:
        """The command line that makes these runs, every setting spelled out."""
        s = self.settings
        words = ["tdas-ops", "sample", "--model", s.model, "--samples", str(s.samples), "--batch", str(s.batch)]
        for method in dict.fromkeys(method for method, _ in runs):
            words += ["--method", method]
        for iterations in dict.fromkeys(iterations for _, iterations in runs):
            words += ["--iterations", str(iterations)]
        words += ["--seed", str(s.seed)] if s.seeds is None else ["--seeds", ",".join(map(str, s.seeds))]
        words += ["--snr", str(self.snr), "--norm", s.norm, "--device", s.device]
        for name, value in (("--alpha", s.alpha), ("--filter", s.filter), ("--threads", s.threads or None)):
            words += [] if value is None else [name, str(value)]
        return shlex.join([*words, "--distance" if s.distance else "--no-distance"])


def describe_filter(method: models.Method, M: samplers.Filters) -> dict[str, Any]:
    """What is recorded of the filter of a run."""
    if not isinstance(M, Preconditioner):
        return {"source": "schedule", "method": M[0].method}
    if method == "plain":
        return M.provenance
    return {**M.provenance, "freq": M.freq is not None, "space": M.space is not None}


def describe(record: dict[str, Any]) -> list[str]:
    """The label of a run in the grid."""
    speedup, measured = record["speedup"], record["frechet"]
    share = f" (native / {speedup:.3g})" if speedup != 1 else ""
    lines = [record["method"], f"{record['iterations']} iterations{share}"]
    if measured is not None:
        lines.append(f"Frechet distance {measured['distance']:.2f}, n = {measured['count']}")
        lines.append(f"real images: {measured['floor']:.2f} ± {measured['floor_scatter']:.2f}")
    return lines


def table(records: Sequence[dict[str, Any]]) -> str:
    """Runs as aligned plain text."""
    head = ("method", "iterations", "speed-up", "alpha", "seconds", "Frechet distance", "of real images", "n")
    rows = [head]
    for r in records:
        m = r["frechet"]
        figures = (
            ("-", "-", "-")
            if m is None
            else (f"{m['distance']:.2f}", f"{m['floor']:.2f} ± {m['floor_scatter']:.2f}", str(m["count"]))
        )
        alpha = r["filter"].get("alpha", "-")
        cost = (str(r["iterations"]), f"{r['speedup']:.3g}", str(alpha), f"{r['seconds']:.1f}")
        rows.append((r["method"], *cost, *figures))
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    padded = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    return "\n".join("  ".join(row).rstrip() for row in padded)


def environment() -> dict[str, Any]:
    """Versions and machine, as plain values."""
    return {
        "tdas_ops": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "backends": backend_info(),
    }


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"--device: got {name!r}, expected 'cpu', 'cuda' or 'cuda:N'") from None
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"--device: got {name!r}, expected 'cpu', 'cuda' or 'cuda:N'")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"--device: got {name!r}, expected 'cpu' or one of {torch.cuda.device_count()} CUDA devices")
    return device


def _write_text(path: Path, text: str) -> None:
    path.write_text(text)
