"""Programs in a Python that has imported torch, which takes seconds and is done once, and nothing of the package."""

from __future__ import annotations

import atexit
import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
SERVER = """
import json, os, sys
import torch
own = sys.path[1:]
for line in sys.stdin:
    code, arguments, cwd, environment, outputs = json.loads(line)
    child = os.fork()
    if child:
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    for number, path in enumerate(outputs, 1):
        os.dup2(os.open(path, os.O_WRONLY), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.argv[1:] = arguments
    sys.path[:] = ["", *filter(None, environment.get("PYTHONPATH", "").split(":")), *own]
    exec(code, {"__name__": "__main__"})
    sys.exit()
"""


@functools.cache
def server() -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", SERVER]
    started = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(started.communicate)  # it ends with its input
    return started


def python(code: str, *arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """As `python -c CODE ARGUMENT...` in a folder, with more or other variables of the environment."""
    with tempfile.NamedTemporaryFile("r") as out, tempfile.NamedTemporaryFile("r") as err:
        request = [code, arguments, str(cwd), {**os.environ, **environment}, [out.name, err.name]]
        print(json.dumps(request), file=server().stdin, flush=True)
        status = int(server().stdout.readline())
        return subprocess.CompletedProcess(code, status, out.read(), err.read())
