"""The command line: `tdas-ops sample | demo | calibrate | info`."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import torch
import typer

from tdas_ops import _extension, _pictures, _runs, models
from tdas_ops._backends import backend_info
from tdas_ops.calibrate import PC, predict
from tdas_ops.preconditioner import Preconditioner

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Target-distribution-aware sampling of score-based generative models (TDAS, PDS).",
)

BAD_INPUT, INTERRUPTED = 2, 130


@contextmanager
def _checked_input() -> Iterator[None]:
    """Input that a command refuses: one sentence on stderr, exit code 2. Errors elsewhere are defects and stay loud."""
    try:
        yield
    except (ValueError, TypeError, OSError) as error:
        typer.echo(f"tdas-ops: {error}", err=True)
        raise typer.Exit(BAD_INPUT) from None


def _seed_list(text: str) -> tuple[int, ...]:
    """Seeds from "3,5,8" or "0-15", mixed at will."""
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()) or (dash and int(last) < int(first)):
            raise ValueError(f"--seeds: got {text!r}, expected seeds such as 3,5,8 or 0-15")
        seeds += range(int(first), int(last if dash else first) + 1)
    return tuple(seeds)


def _iteration_counts(iterations: Sequence[int], speedups: Sequence[float], native: int) -> list[int]:
    for speedup in speedups:
        if not 0 < speedup <= native:
            raise ValueError(f"--speedup: got {speedup:g}, expected a number above 0 and up to {native} (native)")
    return [*iterations, *(max(1, round(native / speedup)) for speedup in speedups)] or [native]


def _prediction(study: _runs.Study) -> str:
    """What the Gaussian model expects of the runs that are still to be made; nothing where there are none."""
    model, parts = study.model, []
    for run in study.runs:
        if study.finished(run) is None:
            filters = study.filters[run]
            sequence = [filters] if isinstance(filters, Preconditioner) else filters
            alone = [Preconditioner(M.shape, M.freq, skew=M.skew, method=M.method) for M in sequence]
            one_or_all = alone[0] if isinstance(filters, Preconditioner) else alone
            expected = predict(one_or_all, model.target, PC(model.sde, run[1], snr=study.snr)).distance
            parts.append(f"{run[0]} {run[1]}: {expected:.3g}")
    if not parts:
        return ""
    return f"expected error of the spectrum, frequency masks alone (docs/calibration.md): {', '.join(parts)}"


def _execute(study: _runs.Study, progress: bool, title: str = "") -> None:
    """Says what is expected of the runs of a study, makes them and reports them."""
    expected = _prediction(study)
    if expected:
        typer.echo(expected)
    try:
        records = study.execute(typer.echo, progress, title)
    except KeyboardInterrupt:
        done = sum(study.finished(run) is not None for run in study.runs)
        typer.echo(
            f"tdas-ops: interrupted; {done} of {len(study.runs)} runs are complete in {study.out}, "
            "and the same command makes the rest",
            err=True,
        )
        raise typer.Exit(INTERRUPTED) from None
    except FloatingPointError as error:
        typer.echo(f"tdas-ops: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(_runs.table(records))
    typer.echo(f"{study.out / 'grid.png'}: the samples; {study.out / 'run.json'}: every setting")


@app.command()
def sample(
    context: typer.Context,
    model: Annotated[str, typer.Option(help="Embedded model.")] = "digits",
    method: Annotated[
        list[str] | None, typer.Option(help="plain, tdas, pds or schedule; may be repeated.  [default: plain]")
    ] = None,
    iterations: Annotated[
        list[int] | None, typer.Option(min=1, help="Iterations; may be repeated.  [default: native]")
    ] = None,
    speedup: Annotated[
        list[float] | None, typer.Option(help="Native iterations / R, beside --iterations; may be repeated.")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Samples a run.")] = 16,
    batch: Annotated[int, typer.Option(min=1, help="Samples sampled at once.")] = 64,
    seed: Annotated[int, typer.Option(help="Seed of all samples.")] = 0,
    seeds: Annotated[
        str | None, typer.Option(help="One seed a sample, such as 3,5,8 or 0-15: each can be made again alone.")
    ] = None,
    snr: Annotated[
        float | None, typer.Option(help="Signal-to-noise ratio of the corrector.  [default: model's]")
    ] = None,
    norm: Annotated[
        str | None,
        typer.Option(help="Norms of the step size: batch or sample.  [default: batch; with --seeds sample]"),
    ] = None,
    alpha: Annotated[
        float | None, typer.Option(help="Strength of the filter, > 1, near 1 is strong.  [default: model's]")
    ] = None,
    filter: Annotated[
        str | None, typer.Option(metavar="FILE", help="A saved filter (tdas-ops calibrate) instead of the model's.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 is PyTorch's choice.")] = 0,
    distance: Annotated[bool, typer.Option(help="Measure the Frechet distance to held-out images.")] = True,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the pictures and run.json go.")] = Path("samples"),
    repeat: Annotated[
        Path | None, typer.Option(metavar="run.json", help="Make the runs of an earlier run.json again.")
    ] = None,
    progress: Annotated[bool, typer.Option(help="Show a progress bar in a terminal.")] = True,
) -> None:
    """Sample from an embedded model: a labelled grid, single PNG files, and run.json with every setting.

    All runs of one command use the same seed, so that they differ by method and iterations alone. The same command with
    the same --out continues an interrupted one.

    \b
    Examples:
      tdas-ops sample --method plain --method tdas --speedup 20 --samples 64
      tdas-ops sample --method pds --iterations 50 --seeds 0-15 --out pds50
      tdas-ops sample --seeds 7 --iterations 50 --out again
      tdas-ops sample --repeat samples/run.json --out copy
    """
    with _checked_input():
        if repeat is not None:
            allowed = {"repeat", "out", "progress"}
            given = [name for name in context.params if _given(context, name) and name not in allowed]
            if given:
                raise ValueError(f"--repeat: got --{given[0]} beside it, expected only --out and --progress")
            settings, runs = _runs.read_record(repeat)
        else:
            listed = None if seeds is None else _seed_list(seeds)
            if listed is not None and _given(context, "seed"):
                raise ValueError("--seeds: got --seed beside it, expected one of the two")
            if listed is not None and not _given(context, "samples"):
                samples = len(listed)
            if filter is not None and alpha is not None:
                raise ValueError("--filter: got --alpha beside it, expected one of the two")
            loaded = None if filter is None else _runs.load_filter(filter)
            settings = _runs.Settings(
                model=model,
                samples=samples,
                batch=batch,
                seed=seed if listed is None else None,
                seeds=listed,
                snr=snr,
                norm=norm or ("batch" if listed is None else "sample"),
                alpha=alpha,
                filter=None if filter is None else os.path.abspath(filter),
                filter_sha256=None if loaded is None else _runs.filter_digest(loaded),
                device=device,
                threads=threads,
                distance=distance,
            )
            native = models.load(model).sde.native_iterations
            named: Sequence[str | None] = method or ["plain" if loaded is None else loaded.method]
            methods = [models.method_named(name) for name in named]
            counts = _iteration_counts(iterations or [], speedup or [], native)
            runs = [(name, count) for count in counts for name in methods]
        study = _runs.Study(settings, runs, out)
    _execute(study, progress)


@app.command()
def demo(
    samples: Annotated[int, typer.Option(min=1, help="Samples a run.")] = 128,
    speedup: Annotated[
        list[float] | None, typer.Option(help="Native count / R; may be repeated.  [default: 1, 5, 10 and 20]")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of all samples.")] = 0,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 is PyTorch's choice.")] = 0,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the pictures and run.json go.")] = Path("demo"),
    progress: Annotated[bool, typer.Option(help="Show a progress bar in a terminal.")] = True,
) -> None:
    """Handwritten digits without and with filters, at the native iteration count and accelerated, with distances.

    \b
    Examples:
      tdas-ops demo
      tdas-ops demo --samples 4 --speedup 20 --out quick
    """
    with _checked_input():
        settings = _runs.Settings(samples=samples, seed=seed, threads=threads)
        counts = _iteration_counts([], speedup or [1, 5, 10, 20], models.load("digits").sde.native_iterations)
        study = _runs.Study(settings, [(method, count) for count in counts for method in models.METHODS], out)
    _execute(study, progress, f"Digits: {samples} samples a run, seed {seed}; Frechet distance to held-out digits")


@app.command()
def calibrate(
    folder: Annotated[Path, typer.Argument(help="Folder of pictures of the target data, sub-folders included.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The filter file.")] = Path(
        "filter.safetensors"
    ),
    alpha: Annotated[float, typer.Option(help="Strength, > 1; near 1 is strong.")] = 5.0,
    method: Annotated[str, typer.Option(help="tdas or pds.")] = "pds",
    size: Annotated[
        tuple[int, int] | None, typer.Option(metavar="H W", help="Crop and scale the pictures to this size.")
    ] = None,
    grey: Annotated[bool, typer.Option("--grey", help="One channel instead of three.")] = False,
    space: Annotated[bool, typer.Option(help="Make a space mask.")] = True,
    freq: Annotated[bool, typer.Option(help="Make a frequency mask.")] = True,
    progress: Annotated[bool, typer.Option(help="Show a progress bar in a terminal.")] = True,
) -> None:
    """Make a filter file, and its picture beside it, from a folder of pictures; a few hundred are enough.

    \b
    Examples:
      tdas-ops calibrate faces/ --size 64 64 -o faces.safetensors
      tdas-ops calibrate digits/ --grey --method tdas --alpha 2 --no-space -o digits.safetensors
    """
    with _checked_input():
        if size is not None and min(size) < 1:
            raise ValueError(f"--size: got {size[0]} {size[1]}, expected two positive numbers")
        if output.suffix != ".safetensors" or output.is_dir() or not output.absolute().parent.is_dir():
            raise ValueError(f"--output: got {output}, expected a file FOLDER/NAME.safetensors in a folder that exists")
        made = Preconditioner.from_images(
            folder,
            alpha,
            method,  # type: ignore[arg-type]
            freq=freq,
            space=space,
            size=size,
            grey=grey,
            progress=progress,
        )
        sheet = output.with_suffix(".png")
        _pictures.write_whole(sheet, made.picture)
        _pictures.write_whole(output, made.save)
    pictures = made.provenance["images"]
    typer.echo(f"{output}: {made.method} filter of shape {made.shape} from {pictures} pictures; {sheet} shows it")


@app.command()
def info() -> None:
    """Versions, build and hardware: the text that a bug report needs.

    \b
    Example:
      tdas-ops info
    """
    try:
        import triton
    except ImportError:
        triton_version = "not installed"
    else:
        triton_version = triton.__version__
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] or ["none"]
    environment = _runs.environment()
    lines = {
        "tdas_ops": environment["tdas_ops"],
        "torch": environment["torch"],
        "triton": triton_version,
        "python": environment["python"],
        "system": platform.platform(),
        "cpu": f"{torch.backends.cpu.get_cpu_capability()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "gpu": "; ".join(gpus),
        "build": json.dumps(_extension.description()),
        "backends": json.dumps(backend_info(), indent=1),
    }
    for name, value in lines.items():
        typer.echo(f"{name + ':':<10}{value}")


def _given(context: typer.Context, name: str) -> bool:
    """Whether an option was on the command line."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script; exits with 0, 2 (bad input), 130 (interrupted) or 1."""
    try:
        code = app(args=list(sys.argv[1:] if arguments is None else arguments) or ["--help"], standalone_mode=False)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception as error:
        # Usage errors of the command-line library; which module they live in depends on its version.
        message = getattr(error, "format_message", None)
        if message is None:
            if type(error).__name__ != "Abort":
                raise
            sys.exit(INTERRUPTED)
        text = " ".join(message().split())
        typer.echo(f"tdas-ops: {text} (tdas-ops --help lists what there is)" if text else "", err=True)
        code = getattr(error, "exit_code", BAD_INPUT)
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
