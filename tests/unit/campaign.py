"""Random bad input: no traceback, no hang, no lost file. `python -m tests.unit.campaign [cases] [first]`.

A case is a function of a random generator and an empty folder. It makes something in the folder and returns what to do
with it: the words of a command, which must end with a code of its own and one line of complaint at most, or a call of
the package, which may raise ValueError or TypeError with one sentence. Case number n is the same on every machine.
"""

from __future__ import annotations

import contextlib
import faulthandler
import hashlib
import io
import json
import os
import random
import resource
import shutil
import stat
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError

from tdas_ops import Preconditioner, _runs, cli, models
from tdas_ops._files import LOCK, read_bounded
from tdas_ops._record import read_record

Words = list[str]
Case = Callable[[random.Random, Path], Words | Callable[[], object]]

LIMIT = 600.0  # seconds for all of a campaign of a few hundred, on a machine that is busy with other things
MEMORY = 16 << 30  # bytes of address space, of which torch takes some: what asks for more is a fault
NAMES = [
    "a",
    "naïve 漢",
    "a\x1b[31mb",
    "a\nb",
    "\udcff",
    "-x",
    "'; rm -rf ~",
    "x" * 250,
    ".hidden",
    "%s{0}",
    "\u202egnp.exe",
]
VALUES: list[Any] = [
    None, True, -1, 0, 1, 2.5, 10**18, -(10**30), 1e308, float("nan"), float("inf"), 1 << 64,
    "", "\x1b[2J", "x" * 5000, "../../a", "plain", "1", "cuda", [], [[]], {}, {"a": 1}, [None],
]  # fmt: skip
NUMBERS = [
    "0",
    "1",
    "-1",
    "2",
    "1e18",
    "1000000000000000000",
    "nan",
    "inf",
    "-inf",
    "",
    "x",
    "1.5",
    "0x10",
    "9" * 400,
    "²",
]


def rubbish(rng: random.Random, path: Path) -> None:
    """Something that is not what is expected, in the place of `path`."""
    with contextlib.suppress(OSError):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
    kind = rng.choice(
        ["text", "bytes", "empty", "pipe", "folder", "dangling", "loop", "link", "device", "deep", "gone"]
    )
    with contextlib.suppress(FileExistsError):
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
            (path / "thesis.txt").write_text("mine")
        elif kind in ("dangling", "loop", "device"):
            path.symlink_to({"dangling": "nowhere", "loop": path.name, "device": "/dev/zero"}[kind])
        elif kind == "link":
            target = path.parent / f"precious {path.name}"[:200]
            target.write_text("mine")
            path.symlink_to(target)
        elif kind != "gone":
            path.write_bytes({"text": b"mine", "bytes": rng.randbytes(300), "empty": b"", "deep": b"[" * 10**5}[kind])


def broken(rng: random.Random, content: bytes) -> bytes:
    """A file with some bytes changed, left out, or cut off."""
    data = bytearray(content)
    for _ in range(rng.choice([0, 1, 3, 30])):
        data[rng.randrange(len(data))] = rng.randrange(256)
    if rng.random() < 0.4:
        del data[rng.randrange(len(data)) :]
    return bytes(data)


def replace_somewhere(rng: random.Random, value: Any) -> Any:
    """A JSON value with one of its parts replaced or removed."""
    if isinstance(value, dict | list) and value and rng.random() < 0.8:
        keys = list(value) if isinstance(value, dict) else range(len(value))
        key = rng.choice(list(keys))
        if rng.random() < 0.1:
            del value[key]
        else:
            value[key] = replace_somewhere(rng, value[key])
        return value
    return rng.choice(VALUES)


def common(rng: random.Random) -> Words:
    return ["--samples", "2", "--iterations", rng.choice(["1", "2"]), "--no-progress"]


def runs(rng: random.Random, folder: Path) -> Words:
    """A folder of runs in which others have worked."""
    out = folder / "out"
    quietly(["sample", "--samples", "2", "--iterations", "1", "--method", "plain", "--method", "tdas", "--no-progress",
             "--out", str(out)])  # fmt: skip
    # One thing of each kind, so that not all cases end at the first sentence.
    for what in rng.sample(["rubbish", "gone", "beside", "record", "partial", "moved", "new"], rng.randrange(1, 4)):
        there = [p for p in sorted(out.rglob("*")) if p.name != LOCK]
        victim = rng.choice(there) if there else out
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, IndexError):
            if what == "rubbish":
                rubbish(rng, victim)
            elif what == "gone":
                victim.unlink()
            elif what == "beside":
                (victim if victim.is_dir() else victim.parent).joinpath("thesis.txt").write_text("mine")
            elif what == "record":
                record = json.loads(read_bounded(out / "run.json", 1 << 20))
                (out / "run.json").write_text(json.dumps(replace_somewhere(rng, record)))
            elif what == "partial":
                name = str(json.loads(read_bounded(out / "run.json", 1 << 20))["partial"])
                rubbish(
                    rng, out / rng.choice([name, ".partial-0000000000000000", ".plain_2.partial", ".grid.partial.png"])
                )
            elif what == "moved":
                victim.rename(victim.with_name("moved"))
            else:
                rubbish(rng, out / rng.choice(["plain_2", "tdas_2", "grid.png", LOCK]))
    if rng.random() < 0.3:
        return [
            "sample",
            "--repeat",
            str(out / "run.json"),
            "--no-progress",
            "--out",
            str(rng.choice([out, folder / "b"])),
        ]
    words = [*common(rng), "--method", "plain", "--method", rng.choice(["tdas", "pds"]), "--out", str(out)]
    return ["sample", *words, "--seed", rng.choice(["0", "0", "0", "1"])]


def outs(rng: random.Random, folder: Path) -> Words:
    """Places that cannot be written, or that are somebody's."""
    (folder / "file").write_text("mine")
    (folder / "loop").symlink_to("loop")
    (folder / "dangling").symlink_to("nowhere")
    (folder / "link").symlink_to(folder)
    name = rng.choice(NAMES)
    with contextlib.suppress(OSError):
        (folder / name).mkdir()
        for inside in rng.sample(["run.json", "grid.png", "plain_1", "plain_2", LOCK, "notes"], 3):
            rubbish(rng, folder / name / inside)
    out = rng.choice(
        [name, name, f"{name}/sub/sub", "file", "file/sub", "loop", "dangling", "dangling/sub", "link", "new/new"]
    )
    place = rng.choice([str(folder / out), str(folder / out), "/proc/self/x", "/sys/x", "/dev/null", "/dev/null/x"])
    return [rng.choice(["sample", "demo"]), *(["--samples", "1", "--no-progress", "--out", place])]


def pictures(rng: random.Random, folder: Path) -> Words:
    """A folder of pictures, whole and broken, with what else lies in such folders."""
    data = folder / "data"
    data.mkdir()
    levels = np.frombuffer(rng.randbytes(6 * 8 * 3), np.uint8).reshape(6, 8, 3)
    modes = rng.sample(["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "I;16", "I", "F", "YCbCr", "LAB"], 3)
    for index in range(rng.randrange(1, 6)):
        name, kind = rng.choice([("png", "PNG"), ("jpg", "JPEG"), ("tif", "TIFF"), ("gif", "GIF"), ("bmp", "BMP"),
                                 ("webp", "WEBP"), ("ppm", "PPM")])  # fmt: skip
        file = io.BytesIO()
        with contextlib.suppress(OSError, ValueError, KeyError):
            size = rng.choice([(8, 6), (8, 6), (8, 6), (5, 9)])
            Image.fromarray(levels).resize(size).convert(rng.choice([*modes, "RGB", "L"])).save(file, kind)
        where = data / rng.choice(["", "cats", "cats/.thumbnails"])
        where.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(OSError):
            path = where / f"{rng.choice([*NAMES, str(index)])}.{rng.choice([name, name, 'png'])}"
            path.write_bytes(
                broken(rng, file.getvalue()) if file.getvalue() and rng.random() < 0.4 else file.getvalue()
            )
    for _ in range(rng.randrange(3)):
        rubbish(rng, data / f"{rng.choice(['._x', 'y', 'cats', 'dogs'])}{rng.choice(['', '.png', '.tif'])}")
    with contextlib.suppress(OSError):
        (data / "up").symlink_to(rng.choice([data, folder, Path("/proc/self/fd")]))
    target = rng.choice(["f.safetensors", "new.safetensors", "data/g.safetensors", "f", "no/f.safetensors"])
    if rng.random() < 0.5:
        rubbish(rng, folder / rng.choice(["f.safetensors", "f.png"]))
    elif rng.random() < 0.5:
        Preconditioner.identity((1, 2, 2)).save(folder / "f.safetensors")
    options = rng.sample(
        ["--grey", "--strict", "--no-space", "--no-freq", "--alpha=2", "--method=tdas", "--alpha=nan"], 2
    )
    size = rng.choice([[], ["--size", "4", "4"], ["--size", rng.choice(NUMBERS), rng.choice(NUMBERS)]])
    return ["filter", str(data), "--no-progress", *options, *size, "-o", str(folder / target)]


def filters(rng: random.Random, folder: Path) -> Words:
    """A filter file that something happened to."""
    file = folder / f"{rng.choice(NAMES)}.safetensors"
    try:
        about = rng.choice([{}, {"alpha": rng.choice(VALUES)}, {"a": json.loads("[" * 200 + "]" * 200)}])
        ones = torch.ones(1, 32, rng.choice([32, 32, 8]), dtype=torch.float64)
        Preconditioner(ones.shape, space=ones, method=rng.choice(["tdas", "pds"]), provenance=about).save(file)
        if rng.random() < 0.6:
            file.write_bytes(broken(rng, file.read_bytes()))
        if rng.random() < 0.2:
            rubbish(rng, file)
    except (OSError, SafetensorError):
        pass  # a name that is too long
    return ["sample", *common(rng), "--filter", str(file), "--out", str(folder / "out")]


def options(rng: random.Random, folder: Path) -> Words:
    """Numbers and words that no option expects."""
    names = ["--samples", "--batch", "--seed", "--seeds", "--snr", "--alpha", "--threads", "--iterations", "--speedup",
             "--norm", "--method", "--model", "--device", "--filter", "--repeat", "--colour", "--sampler",
             "--evaluations", "--order", "--eta", "--ladder", "--start", "--sigma"]  # fmt: skip
    words = [
        "--samples",
        "1",
        "--iterations",
        "1",
        "--method",
        rng.choice(["plain", "tdas", "schedule"]),
        "--no-progress",
    ]
    for name in rng.sample(names, rng.randrange(1, 3)):
        words += [name, rng.choice([*NUMBERS, *NAMES, "0-99999999999999999999", "3,,5", "7-3"])]
    return ["sample", *words, "--out", str(folder / "out")]


CASES: list[Case] = [runs, runs, outs, pictures, pictures, filters, options]


def snapshot(folder: Path) -> dict[Path, tuple[int, object]]:
    """Everything below a folder: links with their targets, files with the digest of their bytes."""
    found: dict[Path, tuple[int, object]] = {}
    for place, names, files in os.walk(folder):
        for path in (Path(place) / name for name in [*names, *files]):
            mode = path.lstat().st_mode
            content: object = None
            if stat.S_ISLNK(mode):
                content = os.readlink(path)
            elif stat.S_ISREG(mode):
                content = hashlib.sha256(path.read_bytes()).hexdigest()
            found[path] = (stat.S_IFMT(mode), content)
    return found


def own(folder: Path, before: dict[Path, tuple[int, object]]) -> set[Path]:
    """What the records in a folder list as it is: the program may replace it."""
    found: set[Path] = set()
    for path in [p for p, (kind, _) in before.items() if p.name == "run.json" and kind == stat.S_IFREG]:
        with contextlib.suppress(ValueError):
            _, record = read_record(path)
            found |= {path, path.parent / LOCK}
            for name, digest in record.get("files", {}).items():
                if before.get(path.parent / name) == (stat.S_IFREG, digest):
                    found |= {path.parent / name, (path.parent / name).parent}
            partial = path.parent / record.get("partial", "-")
            found |= {p for p in before if partial in (p, *p.parents) and before[partial][0] == stat.S_IFDIR}
    return found


def quietly(words: Words) -> tuple[object, str, str]:
    """The exit code of a command and what it said."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main(words)
        except SystemExit as stop:
            return stop.code, out.getvalue(), err.getvalue()
    raise AssertionError("the command came back")


def fault(action: Words | Callable[[], object], folder: Path) -> str:
    """What is wrong with what an action does; nothing where all is well."""
    before = snapshot(folder)
    replaceable = own(folder, before)
    try:
        if callable(action):
            try:
                action()
            except (ValueError, TypeError) as error:
                if not str(error).isprintable() or "expected" not in str(error):
                    return f"no sentence: {error}"
        else:
            code, said, complained = quietly(action)
            lines = complained.splitlines()
            if code not in (0, 1, 2) or (code == 2 and len(lines) != 1):
                return f"code {code}: {complained}"
            if not all(line.isprintable() for line in [*lines, *said.splitlines()]) or "Traceback" in complained:
                return f"unprintable: {complained!r} {said!r}"
    except Exception:
        return traceback.format_exc()
    after = snapshot(folder)
    lost = [path for path in before if path not in replaceable and after.get(path) != before[path]]
    left = [path for path in after if path not in before and path.name.startswith(".") and path.name != LOCK]
    return f"lost {lost}" if lost else f"left {left}" if left else ""


@contextlib.contextmanager
def at_once() -> Iterator[None]:
    """Samples of nothing, without their time."""

    def sample(study: _runs.Study, run: _runs.Run, *more: object) -> torch.Tensor:
        return torch.full((study.settings.samples, *study.model.shape), run[1] / 10)

    model, load = models.load("digits"), models.load
    with (
        mock.patch.object(_runs.Study, "sample", sample),
        mock.patch.object(models, "load", lambda name, device="cpu": model if name == "digits" else load(name, device)),
    ):
        yield


def campaign(count: int, first: int = 0) -> list[str]:
    """The faults of cases number `first` to `first + count - 1`."""
    faults = []
    faulthandler.dump_traceback_later(LIMIT, exit=True)
    with at_once(), mock.patch.object(torch, "set_num_threads"):
        for number in range(first, first + count):
            rng = random.Random(number)
            case = CASES[number % len(CASES)]
            with tempfile.TemporaryDirectory() as name:
                action = case(rng, Path(name))
                found = fault(action, Path(name))
            if found:
                faults.append(f"case {number}, {case.__name__}: {action}\n{found}")
    faulthandler.cancel_dump_traceback_later()
    return faults


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    numbers = [int(word) for word in sys.argv[1:]] or [400]
    faults = campaign(*numbers)
    print(*faults, f"{numbers[0]} cases, {len(faults)} faults", sep="\n")
    sys.exit(bool(faults))
