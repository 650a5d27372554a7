"""What a process says of the build that it runs: what was built and why, and, once, that it runs slower than it could.

The situations of an installation are folders made for the purpose: copies of the package with and without an extension,
which may be a Python file where it is only to be refused.
"""

from __future__ import annotations

import json
import shutil
import sys
import threading
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fresh import python

import tdas_ops
from tdas_ops import NoiseStream, Preconditioner, SlowPathWarning, _backends, _extension, _remedy, cli

ROOT = Path(__file__).parents[2]
needs_extension = pytest.mark.skipif(_extension.load() is None, reason=str(_extension.reason()))
M = Preconditioner.radial(lambda k: 1 / (1 + k), (1, 8, 8), method="pds")


def draw() -> torch.Tensor:
    return tdas_ops.noise(M, (1, 1, 8, 8), NoiseStream(0))


def test_info_says_what_was_built_and_why(monkeypatch, capsys: pytest.CaptureFixture[str]):
    def info() -> str:
        with pytest.raises(SystemExit):
            cli.main(["info"])
        return capsys.readouterr().out

    gpu = dict.fromkeys(("name", "capability", "multiprocessors", "memory_gib", "l2_mib"))
    monkeypatch.setattr(cli, "machine_info", lambda: tdas_ops.machine_info() | {"gpus": [gpu]})
    extension = SimpleNamespace(build_info=lambda: {"cuda": None, "cpu_instruction_set": "avx2"})
    monkeypatch.setattr(_extension, "record", lambda: {"asked": "auto", "cuda_kernels": "no: nvcc is not found"})
    monkeypatch.setattr(_extension, "_load", lambda: (extension, None))
    printed = info()
    assert "asked auto; cuda_kernels no: nvcc is not found; cuda none; cpu_instruction_set avx2\n" in printed
    assert "built without its CUDA part (nvcc is not found); rebuild it with `TDAS_OPS_BUILD=cuda " in printed
    monkeypatch.setattr(_extension, "_load", lambda: (None, "it is not there"))
    assert "cuda_kernels no: nvcc is not found; missing it is not there\n" in info()


# The situations

OPS = """
import json, sys, warnings
sys.prefix = {prefix!r}
sys.meta_path = [finder for finder in sys.meta_path if "Editable" not in repr(finder)]
import torch, tdas_ops
torch.set_num_threads(1)
draw = lambda dtype: tdas_ops.noise(tdas_ops.Preconditioner.identity((1, 4, 4)), (1, 1, 4, 4),
                                    tdas_ops.NoiseStream(seed=0), dtype=dtype)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    with tdas_ops.use_backend("reference"):
        draw(torch.float32), draw(torch.float64)
    before = len(caught)
    draw(torch.float32), draw(torch.float32)
assert all(w.category is tdas_ops.SlowPathWarning and w.filename == "<string>" for w in caught)
print(json.dumps([before, [str(w.message) for w in caught], tdas_ops.backend_info()["paths"]["cpu"]["normals"]]))
"""


class Place:
    """A source tree and a folder of installed packages, and what a Python that is started there says of its ops."""

    def __init__(self, folder: Path) -> None:
        self.tree, self.site, self.prefix = folder / "tree", folder / "site", folder / "prefix"
        self.prefix.mkdir(parents=True)

    def clone(self) -> Path:
        (self.tree / "csrc").mkdir(parents=True)
        (self.tree / "setup.py").touch()
        return self._copy(self.tree)

    def install(self, installer: str = "pip", **origin: object) -> Path:
        """The package with the metadata that an installer leaves."""
        metadata = self.site / f"tdas_ops-{tdas_ops.__version__}.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: tdas-ops\nVersion: {tdas_ops.__version__}\n")
        (metadata / "INSTALLER").write_text(f"{installer}\n")
        (metadata / "direct_url.json").write_text(json.dumps(origin))
        return self._copy(self.site)

    def _copy(self, folder: Path) -> Path:
        ignored = shutil.ignore_patterns("*.so", "_build.json", "__pycache__", "*.safetensors")
        return Path(shutil.copytree(ROOT / "tdas_ops", folder / "tdas_ops", ignore=ignored))

    def says(self, cwd: Path | None = None, **environment: str) -> tuple[list[str], str]:
        """The warnings of two ops in float32, and what the second ran; nothing comes before these two."""
        environment = {"TDAS_OPS_BACKEND": "", "PYTHONPATH": str(self.site), **environment}
        done = python(OPS.format(prefix=str(self.prefix)), cwd=cwd or self.prefix, **environment)
        assert done.returncode == 0, done.stderr
        before, said, path = json.loads(done.stdout)
        assert before == 0
        return said, path


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


SLOWER = "ops run slower than they could, often many times: "


@needs_extension
def test_a_source_tree_uses_the_extension_of_an_install_of_the_same_sources(place: Place):
    """As after `git clone; cd; pip install .`."""
    place.clone()
    installed = place.install()
    module = Path(_extension.load().__file__)
    for file in (module, module.with_name(_extension.LIBRARY)):
        shutil.copy(file, installed)
    said, path = place.says(cwd=place.tree)
    assert said == [] and path.startswith("cpp")


def test_a_source_tree_before_an_install_of_other_sources(place: Place, monkeypatch):
    tree, installed = place.clone(), place.install()
    monkeypatch.setattr(_remedy, "PACKAGE", tree)
    monkeypatch.setattr(sys, "path", [str(place.tree), str(place.site), *sys.path])
    assert _remedy.installed_copy() == installed and _remedy.same_sources(installed)
    (tree / "sde.py").write_text("changed = True\n")
    said = _extension._not_built()
    assert said.startswith(f"tdas_ops comes from the source tree {place.tree}, where tdas_ops._C is not built")
    assert f"not from the installed {installed}, whose sources differ: for those start Python in another folder" in said
    assert "for the tree type `" in said and said.endswith(f"pip install -e {place.tree}`")


@needs_extension
@pytest.mark.parametrize("broken", ["a library that lacks a symbol", "a module without its library"])
def test_what_does_not_load_says_so(place: Place, broken: str):
    """As beside a torch older than 2.11, or after a copy of half of it."""
    place.tree.mkdir()
    installed = place.install(url=place.tree.as_uri(), dir_info={})
    shutil.copy(_extension.load().__file__, installed)
    if broken.startswith("a library"):
        (installed / _extension.LIBRARY).write_text("")
    [said], path = place.says()
    assert path == "reference" and said.startswith(
        f"{SLOWER}tdas_ops._C does not load beside torch {torch.__version__} ("
    )
    options = "--force-reinstall --no-deps --no-cache-dir"
    assert _extension.LIBRARY in said and said.endswith(f"pip install {options} {place.tree}`")


def test_a_source_tree_that_nobody_built(place: Place, monkeypatch):
    tree = place.clone()
    [said], path = place.says(cwd=place.tree, CXX="false")
    assert path == "reference" and said.startswith(f"{SLOWER}tdas_ops._C is not built: type `")
    assert said.endswith(f"install -e {place.tree}`")
    monkeypatch.setattr(_remedy, "PACKAGE", tree)
    monkeypatch.setenv("CXX", "no-such-compiler -m64")
    said = "not built, and no C++ compiler is found: install one (Debian and Ubuntu: apt install g++), then type `"
    assert said in _extension._not_built()
    monkeypatch.setenv("CXX", "false")
    (tree / "_C.cpython-30-none.so").touch()
    assert "was built for another Python (_C.cpython-30-none.so): type `" in _extension._not_built()


def test_a_build_without_kernels_was_wanted_and_is_quiet(place: Place):
    """Also from a source tree of the same sources, which was not built because the install was not."""
    (place.install() / "_build.json").write_text('{"asked": "none"}')
    place.clone()
    assert place.says(cwd=place.tree) == ([], "reference")


# The command


@pytest.mark.parametrize(
    ("installer", "made_by_uv", "active", "command"),
    [
        ("pip", False, True, "pip install"),
        ("pip", True, False, f"{sys.executable} -m pip install"),
        ("uv", False, False, f"uv pip install --python {sys.executable}"),
        ("conda", True, True, "uv pip install"),
        ("conda", False, True, "pip install"),
    ],
)
def test_the_command_is_that_of_the_installer(place: Place, monkeypatch, installer, made_by_uv, active, command):
    monkeypatch.setattr(sys, "path", [str(place.site), *sys.path])
    monkeypatch.setattr(_remedy, "PACKAGE", place.install(installer))
    monkeypatch.setattr(sys, "prefix", str(place.prefix))
    (place.prefix / "pyvenv.cfg").write_text(f"home = /usr/bin\n{'uv = 0.9.1' if made_by_uv else ''}\n")
    monkeypatch.setenv("VIRTUAL_ENV", str(place.prefix) if active else "/elsewhere")
    folder = Path(sys.executable).parent if active else Path("/elsewhere")
    monkeypatch.setattr(shutil, "which", lambda name: str(folder / name))
    assert _remedy.install("triton>=3.6") == f'{command} "triton>=3.6"'
    by_uv = command[0] == "u"
    options = "--reinstall-package tdas-ops --no-cache" if by_uv else "--force-reinstall --no-deps --no-cache-dir"
    assert _remedy.reinstall() == f"{command} {options} . # in the source tree"


def test_the_command_installs_from_where_it_came(place: Place, monkeypatch):
    commit = {"vcs": "git", "commit_id": "12ab"}
    monkeypatch.setattr(_remedy, "PACKAGE", place.install(url="https://example.org/tdas_ops.git", vcs_info=commit))
    monkeypatch.setattr(sys, "path", [str(place.site), *sys.path])
    assert _remedy.reinstall().endswith(" git+https://example.org/tdas_ops.git@12ab")


# On a GPU, which is not there


@pytest.fixture
def gpu(monkeypatch):
    from torch._subclasses.fake_tensor import FakeTensorMode

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(_backends, "_warned", set())
    monkeypatch.setattr(_extension, "left_out", lambda: False)

    def kernel(backends: tuple[str, ...], failure: str | None = None, size: int = 64) -> list[str]:
        monkeypatch.setattr(_backends, "_INSTALLED", ("reference", *backends))
        monkeypatch.setattr(_backends, "_installed", lambda backend: backend in ("reference", *backends))
        monkeypatch.setattr(_backends, "_triton_failure", lambda: failure)
        extension = SimpleNamespace(build_info=lambda: {"cuda": "cuda" in backends})
        loaded = (extension, None) if "cpp" in backends else (None, "there is no extension")
        monkeypatch.setattr(_extension, "_load", lambda: loaded)
        _backends._fill()
        with FakeTensorMode(), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(2):
                x = torch.empty(1, 1, size, size, device="cuda")
                found = _backends.kernel("step", x, torch.empty(1))
        return [found.name().split(".")[1], *(str(w.message).removeprefix(SLOWER) for w in caught)]

    yield kernel
    monkeypatch.undo()
    _backends._fill()


def test_a_gpu_says_what_it_lacks(gpu):
    assert gpu(("cpp", "triton", "cuda")) == ["cuda"]
    assert gpu(("cpp", "triton", "cuda"), size=48) == ["triton"]
    assert gpu(("cpp", "triton")) == ["triton"]  # what a build without nvcc is for
    assert gpu(("cpp", "cuda"), "old") == ["cuda"]
    assert gpu(("cpp", "triton", "cuda"), "Triton is too old", 48) == ["cuda_fft", "Triton is too old"]
    assert gpu(("triton",)) == ["triton", "there is no extension"]
    found, said = gpu(("cpp",))
    assert found == "reference" and said.startswith("Triton is not installed; without it, sizes")
    assert 'install "triton>=3.6"); tdas_ops._C was built without its CUDA part (' in said


def test_devices_without_kernels_are_named(monkeypatch):
    monkeypatch.setattr(_backends, "_warned", set())
    said = "there are kernels for the CPU and for GPUs of device type 'cuda', and none for 'xpu'"
    with pytest.warns(SlowPathWarning, match=said):
        _backends.kernel("step", SimpleNamespace(is_cpu=False, is_cuda=False, device=torch.device("xpu")), None)


# Once, and what else keeps the fast path


@pytest.fixture
def without_extension(monkeypatch):
    monkeypatch.setattr(_backends, "_INSTALLED", ("reference",))
    monkeypatch.setattr(_backends, "_installed", lambda backend: backend == "reference")
    monkeypatch.setattr(_backends, "_warned", set())
    monkeypatch.setattr(_extension, "left_out", lambda: False)
    monkeypatch.setattr(_extension, "_load", lambda: (None, "there is no extension"))
    _backends._fill()
    yield
    monkeypatch.undo()
    _backends._fill()


def test_as_an_error_every_op_raises_it_and_nothing_is_drawn(without_extension):
    stream = NoiseStream(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", SlowPathWarning)
        for _ in range(2):
            with pytest.raises(SlowPathWarning, match="there is no extension"):
                tdas_ops.noise(M, (1, 1, 8, 8), stream)
    assert int(stream.draw) == 0


def test_a_choice_is_quiet(without_extension, monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("error", SlowPathWarning)
        with tdas_ops.use_backend("reference"):
            draw()
        monkeypatch.setattr(_backends, "_requested", "reference")  # of TDAS_OPS_BACKEND
        _backends._fill()
        draw()


def test_compiling_warns_too(without_extension):
    torch._dynamo.reset()
    compiled = torch.compile(draw, fullgraph=True, backend="eager")
    with pytest.warns(SlowPathWarning, match="there is no extension") as said:
        assert torch.equal(compiled(), draw())
    assert len(said) == 1


X, Z = torch.randn(2, 2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
D, N = torch.tensor(0.125), torch.tensor(0.5)  # as compiled graphs take numbers, so that the bits are the same


def update(x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    return tdas_ops.step(x, x, M, D, noise_scale=N, noise=z)


@pytest.fixture(scope="module")
def bits() -> dict[str, torch.Tensor]:
    """What each backend makes of it; they differ in the last bits."""
    made = {}
    for backend in ("reference", "cpp"):
        with tdas_ops.use_backend(backend):
            made[backend] = update(X, Z)
    assert not torch.equal(made["reference"], made["cpp"])
    return made


@needs_extension
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_a_traced_function_keeps_its_backend(bits):
    """Its graph has names of ops alone, of which the first overload would be taken: the reference."""
    for backend in ("cpp", "reference"):
        with tdas_ops.use_backend(backend):
            traced = torch.jit.trace(update, (X, Z))
        assert f"tdas_ops::step_{backend}(" in str(traced.graph)
        assert torch.equal(traced(X, Z), bits[backend])


# Choices of threads


def in_another_thread(function):
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


def test_a_choice_is_that_of_its_thread():
    chosen = lambda: tdas_ops.backend_info()["chosen"]
    inside, leave = threading.Event(), threading.Event()

    def other() -> str:
        with tdas_ops.use_backend("reference"):
            inside.set()
            assert leave.wait(60)
            return chosen()

    before = _backends.kernel("step", torch.ones(1, 1, 8, 8), None)
    said = []
    thread = threading.Thread(target=lambda: said.append(other()))
    thread.start()
    assert inside.wait(60)
    try:
        assert chosen() == "automatic" and _backends.kernel("step", torch.ones(1, 1, 8, 8), None) is before
        with tdas_ops.use_backend("reference"):
            assert chosen() == "reference" and in_another_thread(chosen) == "automatic"
            leave.set()
            thread.join()
            assert chosen() == "reference"  # whoever leaves a block leaves those of others alone
    finally:
        leave.set()
    assert said == ["reference"] and chosen() == "automatic"
    assert not _backends._in_blocks


@needs_extension
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_what_is_compiled_follows_the_choice_where_it_runs(bits, backend):
    torch._dynamo.reset()
    compiled = torch.compile(update, fullgraph=True, backend=backend)
    ran = lambda: next(name for name, value in bits.items() if torch.equal(compiled(X, Z), value))
    assert ran() == "cpp"
    with tdas_ops.use_backend("reference"):
        assert ran() == "reference" and in_another_thread(ran) == "cpp"
        with tdas_ops.use_backend("cpp"):
            assert ran() == "cpp"
    assert ran() == "cpp"
