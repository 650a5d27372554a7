"""The runs behind `tdas-ops sample`: a folder of runs of one model that differ in sampler, filter, start and count.

A folder holds `run.json` (every setting and every finished run), `grid.png`, and one folder of PNG files a run. A run
is written when it is finished, so whatever stops the program, the folder describes finished runs only and the same
command continues it (`_folder`).
"""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from tdas_ops import _pictures, _report, models
from tdas_ops._batches import Batches
from tdas_ops._filters import filter_digest, load_filter
from tdas_ops._folder import Folder, FolderError
from tdas_ops._machine import machine_info
from tdas_ops._record import (
    BATCH,
    ITERATIONS,
    SAMPLES,
    SCHEDULED,
    THREADS,
    PCRun,
    Run,
    Settings,
    device_named,
    picture_names,
    run_of,
)
from tdas_ops.calibrate import PC, FewStep, Filtered
from tdas_ops.integrations.distributed import World
from tdas_ops.noise import NoiseStream
from tdas_ops.preconditioner import Preconditioner
from tdas_ops.samplers import Filters


class Study:
    """A model, the shared settings, and the folder where finished runs are kept.

    Making one checks everything and writes nothing.

    Attributes:
        world: the processes that sample together, by default this one alone.
        shown: the runs that the grid has a row of; by default every run of the folder.

    Raises:
        ValueError: one sentence about what is wrong with the settings or the folder.
    """

    def __init__(self, settings: Settings, runs: Sequence[Run], out: Path, shown: Sequence[Run] = ()) -> None:
        self.settings, self.out, self.world, self.shown = settings, out, World(), shown
        for name, highest in (("samples", SAMPLES), ("batch", BATCH), ("threads", THREADS)):
            if getattr(settings, name) > highest:
                raise ValueError(f"--{name}: got {getattr(settings, name)}, expected at most {highest}")
        for run in runs:
            highest = SCHEDULED if isinstance(run, PCRun) and run.method == "schedule" else ITERATIONS
            if not 1 <= run[1] <= highest:
                raise ValueError(f"--{run._fields[1]}: got {run[1]} for {run[0]}, expected 1 to {highest}")
        device = device_named(settings.device)
        if settings.seeds is not None and len(settings.seeds) != settings.samples:
            raise ValueError(f"--seeds: got {len(settings.seeds)}, expected one for each of {settings.samples} samples")
        NoiseStream(settings.seed) if settings.seeds is None else NoiseStream(seeds=settings.seeds)
        if settings.norm not in ("batch", "sample"):
            raise ValueError(f"--norm: got {settings.norm!r}, expected 'batch' or 'sample'")
        self.model = models.load(settings.model, device)
        self.snr = self.model.snr if settings.snr is None else settings.snr
        if not 0 < self.snr < float("inf"):
            raise ValueError(f"--snr: got {self.snr}, expected a finite number greater than 0")
        self.plans = {run: self._plan(run) for run in dict.fromkeys(runs)}
        # Few evaluations first: the first result comes soon, and an interrupted folder has something in it.
        self.runs = sorted(self.plans, key=lambda run: (run.network_evaluations, run.rank))
        self.folder = Folder(out, settings)
        self.folder.check(self.runs)
        if not self.folder.complete(self.runs):
            self._rows()  # the pictures that the grid will show can be read

    def _plan(self, run: Run) -> FewStep | Filtered:
        if isinstance(run, PCRun):
            filters = self._filter(*run)
            return Filtered(run.method, PC(self.model.sde, run.iterations, self.snr), filters)
        own = {name: value for name, value in run._asdict().items() if value is not None}
        return self.model.few_step(**own)

    def _filter(self, method: models.Method, iterations: int) -> Filters:
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

    def finished(self, run: Run) -> dict[str, Any] | None:
        """The record of a run that is complete in the folder."""
        return self.folder.finished(run)

    def sample(self, run: Run, progress: bool, kept: Batches) -> Tensor:
        """The samples of a run, `[N, C, H, W]` float32 on the CPU; each process makes its share, and the first has all.

        Batches that are kept are not made again; those that are made are kept until the run is finished.

        Raises:
            FloatingPointError: the state became non-finite.
            RankError: another process failed.
        """
        plan, parts = self.plans[run], []
        own = {"norm": self.settings.norm} if isinstance(plan, Filtered) else {}
        steps = plan.run.count if isinstance(plan, Filtered) else len(plan.levels) - 1
        batches = list(enumerate(self._streams()))[self.world.rank :: self.world.size]
        hidden = None if progress else True  # None: tqdm itself looks whether it writes to a terminal
        with self.world.together(), tqdm(total=steps * len(batches), desc=run.words, disable=hidden) as bar:
            for index, (stream, size) in batches:
                shape = (size, *self.model.shape)
                samples = kept.made(index, shape)
                if samples is None:
                    samples = plan.sample(
                        self.model.score,
                        shape,
                        stream.to(self.model.device),
                        callback=lambda state: bar.update(),
                        check_finite=True,
                        progress=False,
                        **own,
                    ).cpu()
                    kept.keep(index, samples)
                else:
                    bar.update(steps)
                parts.append(samples)
        shares = self.world.gathered(parts)
        if shares is None:
            return torch.empty(0, *self.model.shape)
        rounds = zip_longest(*shares)  # of batches, in the order of the ranks that made them
        return torch.cat([batch for each in rounds for batch in each if batch is not None])

    def follow(self) -> None:
        """Makes this process's share of every run that the first one, which executes the study, begins.

        Raises:
            RankError: another process failed.
        """
        self._set_threads()
        while (told := self.world.told(None)) is not None:
            index, batches = told
            self.sample(self.runs[index], False, Batches(Path(batches)))

    def _streams(self) -> Iterator[tuple[NoiseStream, int]]:
        """The noise stream and the size of each batch."""
        s = self.settings
        for first in range(0, s.samples, s.batch):
            size = min(s.batch, s.samples - first)
            if s.seeds is None:
                yield NoiseStream(s.seed, first_sample=first), size
            else:
                yield NoiseStream(seeds=s.seeds[first : first + size]), size

    def opened(self) -> AbstractContextManager[None]:
        """Holds the folder while the runs are made; touches nothing where all of them are finished.

        Raises:
            ValueError: one sentence about why the folder cannot be used.
        """
        pending = [run for run in self.runs if not self.finished(run)]
        if self.folder.complete(self.runs):
            return nullcontext()
        size, samples = math.prod(self.model.shape), self.settings.samples
        pictures = len(pending) * samples * (-(-(size + 1024) // 4096) * 4096 + 256)
        rows = len(self.folder.record["runs"]) + len(pending)
        unfinished = 4 * size * samples + 8192 * -(-samples // self.settings.batch)
        return self.folder.opened(pending, pictures + unfinished + rows * 16 * (size + (1 << 15)))

    def execute(self, say: Callable[[str], None], progress: bool = True, title: str = "") -> list[dict[str, Any]]:
        """Makes every run that the folder does not hold yet, then the grid; returns the records of all of them.

        To be called while the folder is `opened`.
        """
        self._set_threads()
        drawn = self.folder.complete(self.runs)
        machine = {} if drawn else machine_info()
        for index, run in enumerate(self.runs):
            if self.finished(run):
                say(f"{run.words}: finished before, kept")
                continue
            started = time.perf_counter()
            batches = self.folder.batches(run)
            batches.mkdir(parents=True, exist_ok=True)
            self.world.told((index, str(batches.absolute())))
            samples = self.sample(run, progress, Batches(batches))
            record = self._keep(run, samples, time.perf_counter() - started, machine)
            say(f"{run.words}: {run.network_evaluations} evaluations, {record['seconds']:.1f} s")
        if not drawn:
            self.draw(title)
        done = [self.finished(run) for run in self.runs]
        return [record for record in done if record is not None]

    def _keep(self, run: Run, samples: Tensor, seconds: float, machine: dict[str, Any]) -> dict[str, Any]:
        """Writes one finished run; returns what is recorded of it."""
        sde, s, plan = self.model.sde, self.settings, self.plans[run]
        measured = self.model.evaluator(samples) if s.distance and len(samples) > 1 else None
        names = picture_names(s, run)
        levels = self.model.pictures(samples)
        pictures = {name: _pictures.encoded(_pictures.picture(p)) for name, p in zip(names, levels, strict=True)}
        about: dict[str, Any] = {
            "speedup": PCRun("plain", sde.native_iterations).network_evaluations / run.network_evaluations,
            "sde": {"type": type(sde).__name__, **asdict(sde)},
            "network_evaluations": run.network_evaluations,
            "seconds": round(seconds, 3),
            "frechet": None if measured is None else asdict(measured),
            "command": self.command(run),
            "environment": machine,
        }
        if isinstance(plan, Filtered):
            about["sde"]["end_time"] = sde.end_time(plan.run.count)
            about |= {"filter": describe_filter(run[0], plan.M), "snr": self.snr}
        else:
            about["levels"] = plan.levels
        self.folder.keep(run, about, pictures)
        return about

    def _set_threads(self) -> None:
        if self.settings.threads:
            torch.set_num_threads(self.settings.threads)

    def draw(self, title: str = "") -> None:
        """Draws the finished runs of the folder, or those of them that are `shown`, into `grid.png`, many evaluations
        first.

        Raises:
            FolderError: a picture of an earlier run cannot be read.
        """
        rows = self._rows()
        if rows:
            sheet = _pictures.grid(rows, title or f"{self.settings.model}, {self.settings.samples} samples a run")
            self.folder.put_grid(_pictures.encoded(sheet))

    def _rows(self) -> list[tuple[list[str], list[Tensor]]]:
        """Label and first pictures of every finished run that the grid shows."""
        finished = [r for r in self.folder.record["runs"] if self.finished(run_of(r))]
        runs = _report.in_order(r for r in finished if not self.shown or run_of(r) in self.shown)
        read = _pictures.read_picture
        try:
            rows = [
                [read(self.out / name, self.model.shape) for name in run["pictures"][: _pictures.COLUMNS]]
                for run in runs
            ]
        except ValueError as error:
            raise FolderError(f"--out: {error}, or none to have it made again") from None
        return list(zip(map(_report.label, runs), rows, strict=True))

    def command(self, run: Run) -> str:
        """The command line that makes this run, every setting spelled out."""
        s = self.settings
        words = ["tdas-ops", "sample", "--model", s.model, "--samples", str(s.samples), "--batch", str(s.batch)]
        if isinstance(run, PCRun):
            options: dict[str, Any] = {"sampler": "pc", **run._asdict(), "snr": self.snr, "norm": s.norm}
            options |= {"alpha": s.alpha, "filter": s.filter}
        else:
            options = run._asdict()
        words += ["--seed", str(s.seed)] if s.seeds is None else ["--seeds", ",".join(map(str, s.seeds))]
        words += ["--device", s.device]
        for name, value in {**options, "threads": s.threads or None}.items():
            words += [] if value is None else [f"--{name}", str(value)]
        return shlex.join([*words, "--distance" if s.distance else "--no-distance"])


def describe_filter(method: str, M: Filters) -> dict[str, Any]:
    """What is recorded of the filter of a run."""
    if not isinstance(M, Preconditioner):
        return {"source": "schedule", "method": M[0].method}
    if method == "plain":
        return M.provenance
    return {**M.provenance, "freq": M.freq is not None, "space": M.space is not None}
