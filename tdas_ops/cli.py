"""The command line: `tdas-ops sample | demo | filter | tune | info`."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import torch
import typer
from safetensors import SafetensorError

from tdas_ops import _filters, _report, _request, _runs, _tables, _tune
from tdas_ops._files import shown
from tdas_ops._folder import default_folder
from tdas_ops._machine import machine_info
from tdas_ops._record import BATCH, ITERATIONS, SAMPLES, THREADS, Settings, read_record, run_of
from tdas_ops._version import __version__
from tdas_ops.integrations import distributed

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Target-distribution-aware sampling of score-based generative models (TDAS, PDS).",
)

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130


def _speaks() -> bool:
    """Whether this is the first process of a run, the one that prints; one without a usable rank has to complain."""
    rank = os.environ.get("RANK", "")
    return os.environ.get("WORLD_SIZE", "1") == "1" or not rank.isdecimal() or int(rank) == 0


def _say(line: str, err: bool = False) -> None:
    """One line on stdout. Names of files come from anywhere: what would steer a terminal is escaped."""
    if _speaks():
        typer.echo(shown(line), err=err)


def _complain(sentence: str) -> None:
    """One line on stderr, as `_say`."""
    _say(f"tdas-ops: {sentence}", err=True)


def _show(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on stdout."""
    if _speaks():
        typer.echo(_tables.written(head, rows, sys.stdout))


def _print_version(asked: bool) -> None:
    if asked:
        _say(f"tdas-ops {__version__}")
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Say the version and leave.")
    ] = False,
) -> None:
    pass


_SAME = {"name": "model", "images": "folder"}  # of a function of the package, and of a command


def _as_typed(sentence: str, context: typer.Context) -> str:
    """A sentence about an argument of a function as one about the option that it comes from."""
    word, got, rest = sentence.partition(": got ")
    for parameter in context.command.params:
        if got and parameter.name in (word, _SAME.get(word)):
            return f"{max(parameter.opts, key=len)}{got}{rest}"
    return sentence


@contextmanager
def _checked_input(context: typer.Context) -> Iterator[None]:
    """Input that a command refuses: one sentence on stderr, exit code 2. Errors elsewhere are defects and stay loud."""
    try:
        yield
    except OSError as error:
        _complain(f"got {error.filename} ({error.strerror or error}), expected a place that can be read and written")
        raise typer.Exit(BAD_INPUT) from None
    except (ValueError, TypeError, SafetensorError) as error:
        _complain(_as_typed(str(error), context))
        raise typer.Exit(BAD_INPUT) from None


def _execute(context: typer.Context, study: _runs.Study, progress: bool, title: str = "") -> None:
    """Makes the runs of a study and reports them; under torchrun all processes make them, and the first reports."""
    with _checked_input(context):
        study.world = distributed.world()
    try:
        if study.world.rank:
            study.follow()
            return
        with study.world.leading(), ExitStack() as stack:
            with _checked_input(context):
                stack.enter_context(study.opened())
            records = study.execute(_say, progress, title)
    except KeyboardInterrupt:
        _complain(f"interrupted; {_state(study)}")
        raise typer.Exit(INTERRUPTED) from None
    except (FloatingPointError, distributed.RankError) as error:
        _complain(str(error))
        raise typer.Exit(FAILED) from None
    except BrokenPipeError:
        raise
    except (_runs.FolderError, OSError) as error:
        _complain(f"{error}; {_state(study)}")
        raise typer.Exit(FAILED) from None
    _show(_report.HEAD, _report.rows(records))
    _say(f"{study.out / 'grid.png'}: the samples; {study.out / 'run.json'}: every setting")


def _state(study: _runs.Study) -> str:
    done = sum(study.finished(run) is not None for run in study.runs)
    return f"{done} of {len(study.runs)} runs are complete in {study.out}, and the same command makes the rest"


_Model = Annotated[str, typer.Option(metavar="NAME", help="Embedded model.")]
_Samples = Annotated[int, typer.Option(metavar="N", min=1, max=SAMPLES, help="Samples a run.")]
_Seed = Annotated[int, typer.Option(metavar="N", help="Seed of all noise.")]
_Device = Annotated[str, typer.Option(metavar="NAME", help="cpu, cuda or cuda:N.")]
_Threads = Annotated[int, typer.Option(metavar="N", min=0, max=THREADS, help="CPU threads; 0 is PyTorch's choice.")]
_Progress = Annotated[bool, typer.Option(help="Show a progress bar in a terminal.")]


@app.command()
def sample(
    context: typer.Context,
    model: _Model = "digits",
    sampler: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="pc, dpmpp, ancestral, heun or probability_flow; may be repeated.  [default: pc]"
        ),
    ] = None,
    evaluations: Annotated[
        list[int] | None,
        typer.Option(
            metavar="N",
            min=1,
            max=ITERATIONS,
            help="Evaluations of the network; may be repeated.  [default: 8; heun 9; pc native]",
        ),
    ] = None,
    order: Annotated[
        int | None, typer.Option(metavar="N", min=1, max=3, help="Of dpmpp: 1 (DDIM), 2 or 3.  [default: 2]")
    ] = None,
    eta: Annotated[
        float | None,
        typer.Option(
            metavar="X", help="Noise of dpmpp and ancestral, from 0 (ODE) to 1 (SDE).  [default: 0; ancestral 1]"
        ),
    ] = None,
    ladder: Annotated[
        str, typer.Option(metavar="NAME", help="Noise levels of all samplers but pc: karras, geometric, snr or time.")
    ] = "karras",
    start: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="What they begin with: none (white noise), mean (image) or gaussian (mean, spectrum)."
        ),
    ] = "none",
    sigma: Annotated[
        float | None,
        typer.Option(metavar="X", help="Noise level they begin at.  [default: highest; with a start the model's]"),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Of pc: plain, tdas, pds or schedule; may be repeated.  [default: plain]"),
    ] = None,
    iterations: Annotated[
        list[int] | None,
        typer.Option(
            metavar="N",
            min=1,
            max=ITERATIONS,
            help="Of pc, two evaluations each: instead of --evaluations; may be repeated.",
        ),
    ] = None,
    speedup: Annotated[
        list[float] | None,
        typer.Option(metavar="R", help="Of pc: native iterations / R, beside --iterations; may be repeated."),
    ] = None,
    samples: _Samples = 16,
    batch: Annotated[int, typer.Option(metavar="N", min=1, max=BATCH, help="Samples sampled at once.")] = 64,
    seed: _Seed = 0,
    seeds: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="One seed a sample, such as 3,5,8 or 0-15: each can be made again alone."),
    ] = None,
    snr: Annotated[
        float | None,
        typer.Option(metavar="X", help="Of pc: signal-to-noise ratio of the corrector.  [default: model's]"),
    ] = None,
    norm: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Of pc: norms of the step size, batch or sample.  [default: batch; with --seeds sample]",
        ),
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option(metavar="X", help="Of pc: strength of the filter, > 1, near 1 is strong.  [default: model's]"),
    ] = None,
    filter: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Of pc: a saved filter (tdas-ops filter) instead of the model's."),
    ] = None,
    device: _Device = "cpu",
    threads: _Threads = 0,
    distance: Annotated[bool, typer.Option(help="Measure the Frechet distance to held-out images.")] = True,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Where the pictures and run.json go.  [default: samples, or samples-2 and so on beside other runs]",
        ),
    ] = None,
    repeat: Annotated[
        Path | None, typer.Option(metavar="run.json", help="Make the runs of an earlier run.json again.")
    ] = None,
    progress: _Progress = True,
) -> None:
    """Sample pictures from an embedded model.

    Makes a labelled grid, single PNG files, and run.json with every setting, and prints a table of the runs. All runs
    of one command use the same seed, so that they differ by sampler, filter and count alone. The same command continues
    an interrupted one. Files that no run of the folder has written are never replaced.

    \b
    Examples:
      tdas-ops sample --sampler dpmpp --start gaussian --evaluations 5 --evaluations 8 --samples 64
      tdas-ops sample --sampler ancestral --sampler dpmpp --eta 1 --evaluations 20
      tdas-ops sample --method plain --method tdas --speedup 20 --samples 64
      tdas-ops sample --method pds --iterations 50 --seeds 0-15 --out pds50
      tdas-ops sample --seeds 7 --iterations 50 --out again
      tdas-ops sample --repeat samples/run.json --out copy
    """
    with _checked_input(context):
        if repeat is not None:
            allowed = {"repeat", "out", "progress"}
            given = [name for name in context.params if _given(context, name) and name not in allowed]
            if given:
                raise ValueError(f"--repeat: got --{given[0]} beside it, expected only --out and --progress")
            settings, record = read_record(repeat)
            runs = [run_of(entry) for entry in record["runs"]]
        else:
            listed = None if seeds is None else _request.seed_list(seeds)
            if listed is not None and _given(context, "seed"):
                raise ValueError("--seeds: got --seed beside it, expected one of the two")
            if listed is not None and not _given(context, "samples"):
                samples = len(listed)
            if filter is not None and alpha is not None:
                raise ValueError("--filter: got --alpha beside it, expected one of the two")
            if filter is not None and set(method or ()) == {"plain"}:
                raise ValueError("--filter: got --method plain beside it, expected another method or none")
            loaded = None if filter is None else _filters.load_filter(filter)
            settings = Settings(
                model=model,
                samples=samples,
                batch=batch,
                seed=seed if listed is None else None,
                seeds=listed,
                snr=snr,
                norm=norm or ("batch" if listed is None else "sample"),
                alpha=alpha,
                filter=None if filter is None else os.path.abspath(filter),
                filter_sha256=None if loaded is None else _filters.filter_digest(loaded),
                device=device,
                threads=threads,
                distance=distance,
            )
            runs = _request.runs(
                _request.Request(
                    samplers=sampler or ["pc"],
                    evaluations=evaluations or [],
                    order=order,
                    eta=eta,
                    ladder=ladder,
                    start=start,
                    sigma=sigma,
                    methods=method or ["plain" if loaded is None or loaded.method is None else loaded.method],
                    iterations=iterations or [],
                    speedups=speedup or [],
                ),
                model,
                [name for name in context.params if _given(context, name)],
            )
        study = _runs.Study(settings, runs, out or default_folder("samples", settings, repeat))
    _execute(context, study, progress)


@app.command()
def demo(
    context: typer.Context,
    samples: _Samples = 256,
    evaluations: Annotated[
        list[int] | None,
        typer.Option(
            metavar="N",
            min=1,
            max=ITERATIONS,
            help="Evaluations of the network; may be repeated.  [default: 120 (native), 24, 8, 5]",
        ),
    ] = None,
    seed: _Seed = 0,
    threads: _Threads = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Where the pictures and run.json go.  [default: demo, or demo-2 and so on beside other runs]",
        ),
    ] = None,
    progress: _Progress = True,
) -> None:
    """Compare samplers on handwritten digits.

    At few evaluations of the network and at the native number: a table with Frechet distances, the pictures of every
    run in a folder of its own, and a grid of four of them.

    \b
    Examples:
      tdas-ops demo
      tdas-ops demo --samples 4 --evaluations 6 --out quick
    """
    with _checked_input(context):
        settings = Settings(samples=samples, seed=seed, threads=threads)
        runs = _request.demonstrated("digits", evaluations)
        study = _runs.Study(settings, runs, out or default_folder("demo", settings), _request.pictured(runs))
    title = f"Digits: {samples} samples a run, seed {seed}; Frechet distance to held-out digits"
    _execute(context, study, progress, title)


@app.command("filter")
@app.command("calibrate", hidden=True)
def make_filter(
    context: typer.Context,
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder of pictures of the target data, sub-folders included.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="The filter; only an earlier one is replaced.  [default: filter.safetensors, or filter-2 and so on]",
        ),
    ] = None,
    alpha: Annotated[float, typer.Option(metavar="X", help="Strength, > 1; near 1 is strong.")] = 5.0,
    method: Annotated[str, typer.Option(metavar="NAME", help="tdas or pds.")] = "pds",
    size: Annotated[
        tuple[int, int] | None, typer.Option(metavar="H W", help="Crop and scale the pictures to this size.")
    ] = None,
    grey: Annotated[bool, typer.Option("--grey", help="One channel instead of three.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse a picture that cannot be read.")] = False,
    space: Annotated[bool, typer.Option(help="Make a space mask.")] = True,
    freq: Annotated[bool, typer.Option(help="Make a frequency mask.")] = True,
    progress: _Progress = True,
) -> None:
    """Make a filter from a folder of pictures.

    The papers' masks as a file, with a picture of them beside it; a few hundred pictures are enough. Hidden
    files are left out; so are pictures that cannot be read, and a line says which.

    \b
    Examples:
      tdas-ops filter faces/ --size 64 64 -o faces.safetensors
      tdas-ops filter digits/ --grey --method tdas --alpha 2 --no-space -o digits.safetensors
    """
    if context.info_name == "calibrate":
        _complain("`tdas-ops calibrate` is called `tdas-ops filter` now; the old name goes with the next release")
    masks = {"alpha": alpha, "method": method, "freq": freq, "space": space}
    reading = {"grey": grey, "strict": strict, "progress": progress and sys.stderr.isatty()}
    with _checked_input(context):
        line, warned = _filters.make_filter(folder, output, size, **masks, **reading)
    for warning in warned:
        _complain(warning)
    _say(line)


@app.command()
def tune(
    context: typer.Context,
    model: _Model = "digits",
    evaluations: Annotated[
        int, typer.Option(metavar="N", min=1, max=ITERATIONS, help="Evaluations of the network that sampling takes.")
    ] = 8,
    images: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Pictures of the data.  [default: samples of a long run]")
    ] = None,
    samples: Annotated[int, typer.Option(metavar="N", min=16, max=SAMPLES, help="Samples a trial.")] = 256,
    calls: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Evaluations of the network in all, on a batch.  [default: enough for all trials]"
        ),
    ] = None,
    seed: _Seed = 0,
    device: _Device = "cpu",
    threads: _Threads = 0,
    progress: _Progress = True,
) -> None:
    """Find the settings that suit a model.

    Tries samplers, ladders, noise, starts and filters at a number of evaluations: a table, the best first.

    \b
    Examples:
      tdas-ops tune --evaluations 8
      tdas-ops tune --evaluations 5 --images digits/ --samples 512
    """
    with _checked_input(context):
        _tune.tune_model(
            model,
            evaluations,
            images=images,
            samples=samples,
            calls=calls,
            seed=seed,
            device=device,
            threads=threads,
            progress=progress and sys.stderr.isatty(),
            say=_say,
            show=_show,
        )


@app.command()
def info(as_json: Annotated[bool, typer.Option("--json", help="All that is known, for programs.")] = False) -> None:
    """Say what this machine and this build are.

    Versions, hardware, and what runs where: the text that a bug report needs.

    \b
    Example:
      tdas-ops info
    """
    machine = machine_info()
    if as_json:
        _say(json.dumps(machine))
    else:
        _show((), [(f"{name}:" if name else "", value) for name, value in _report.machine_rows(machine)])


def _given(context: typer.Context, name: str) -> bool:
    """Whether an option was on the command line."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script; exits with 0, 2 (bad input), 130 (interrupted) or 1."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # stderr is so by itself
    try:
        words = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
        code = app(args=words, prog_name="tdas-ops", standalone_mode=False)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output is gone; without this Python would try to write the rest of it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = FAILED
    except (MemoryError, torch.OutOfMemoryError):
        _complain("got more than fits into memory, expected a smaller --batch or --size")
        code = FAILED
    except Exception as error:
        # Usage errors of the command-line library; which module they live in depends on its version.
        message = getattr(error, "format_message", None)
        if message is None:
            if type(error).__name__ != "Abort":
                raise
            sys.exit(INTERRUPTED)
        text = " ".join(message().split())
        if text:
            command = getattr(getattr(error, "ctx", None), "command_path", "tdas-ops")
            _complain(f"{text} ({command} --help lists what there is)")
        code = getattr(error, "exit_code", BAD_INPUT)
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
