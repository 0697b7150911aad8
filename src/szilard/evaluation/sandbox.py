"""Running model-written programs: in a process of their own, poor in every resource, and killed on time.

A program counts as passed only if it runs to its end: then, as its last act, it writes a secret to a pipe that it does
not know of. So `os._exit(0)`, `sys.exit()` and a crash after the tests are failures, not passes.

What holds a program back: its own session (the whole group is killed), limits on memory, processor time, file size,
open files and processes, an empty environment, a working folder of its own that is removed, closed standard input, and
output of which only the first part is read. Run as root it also loses root (it becomes `nobody`, who cannot change your
files) and, where the kernel allows it, the network. Run as another user it keeps that user's rights, so it could delete
files, and no limit of processes can be set: `capabilities()` says what holds on this machine. It is a guard against the
accidents of a model, not against an attacker.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import secrets
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

_KEPT_OUTPUT = 10_000  # bytes
_NOBODY = 65534
_CLONE_NEWNET, _CLONE_NEWNS = 0x40000000, 0x00020000
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 0x40000
_PROCESSES = 16
_RUN = (
    "import os,sys\n"
    "fd,path=int(sys.argv[1]),sys.argv[2]\n"
    "token=sys.stdin.buffer.read()\n"  # before the program: it finds nothing left to read
    "sys.argv=[path]\n"
    "scope={'__name__':'__main__','__file__':path}\n"
    "exec(compile(open(path,encoding='utf-8').read(),'program.py','exec'),scope)\n"
    "os.write(fd,token)\n"
)


@dataclass(frozen=True)
class Outcome:
    """What became of a program.

    Attributes:
        passed: it ran to its end without an error.
        reason: "passed", "timed out", or the last line that it left (an exception), or how it ended.
        output: the beginning of what it printed.
        seconds: wall time.
    """

    passed: bool
    reason: str
    output: str
    seconds: float


def run_program(source: str, *, timeout: float = 10.0, memory_mb: int = 1024, file_mb: int = 16) -> Outcome:
    """Run Python source in a limited process.

    Args:
        source: the program, tests included: it passes if it raises nothing.
        timeout: wall-clock seconds, after which it and all its children are killed.
        memory_mb: address space.
        file_mb: largest file it may write.
    """
    folder = Path(tempfile.mkdtemp(prefix="szilard-run-"))
    started = time.monotonic()
    read_end, write_end = os.pipe()
    try:
        program = folder / "program.py"
        program.write_text(source, encoding="utf-8", errors="surrogatepass" if _has_surrogates(source) else "strict")
        if os.geteuid() == 0:
            (folder / "python").mkdir()
            for path in (folder, program):
                os.chown(path, _NOBODY, _NOBODY)
        token = secrets.token_bytes(16)
        with subprocess.Popen(
            [_interpreter(folder), "-I", "-B", "-c", _RUN, str(write_end), str(program)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={"HOME": str(folder), "TMPDIR": str(folder), "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
            pass_fds=(write_end,),
            start_new_session=True,
            preexec_fn=lambda: _confine(folder, timeout, memory_mb, file_mb),
        ) as process:
            os.close(write_end)
            write_end = -1
            output, in_time = _watch(process, token, started + timeout)
        said = _read_ready(read_end)
        passed = in_time and said == token
        return Outcome(passed, _reason(passed, in_time, process.returncode, output), output, time.monotonic() - started)
    except UnicodeEncodeError:
        return Outcome(False, "the program is not text", "", time.monotonic() - started)
    finally:
        os.close(read_end)
        if write_end >= 0:
            os.close(write_end)
        shutil.rmtree(folder, ignore_errors=True)


def run_many(sources: Sequence[str], *, workers: int | None = None, **limits: Any) -> list[Outcome]:
    """`run_program` for each, several at a time, in order."""
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        return list(pool.map(lambda source: run_program(source, **limits), sources))


@cache
def capabilities() -> dict[str, bool]:
    """What holds a program back on this machine beside the resource limits."""
    return {
        "other_user": _way() != "own",
        "no_network": _try_unshare(),
    }


def _confine(folder: Path, timeout: float, memory_mb: int, file_mb: int) -> None:
    """Runs in the child before the program."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None)
        libc.unshare(_CLONE_NEWNET)  # where it may not, the network stays
        if _way() == "bound":
            _bind(libc, sys.base_prefix, str(folder / "python"))
    limits = {
        resource.RLIMIT_CPU: int(timeout) + 1,
        resource.RLIMIT_AS: memory_mb << 20,
        resource.RLIMIT_FSIZE: file_mb << 20,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NPROC: _PROCESSES,  # of the user, not the program: set where the user is `nobody`
    }
    for kind, limit in limits.items():
        if kind == resource.RLIMIT_NPROC and _way() == "own":
            continue
        resource.setrlimit(kind, (limit, limit))
    if _way() != "own":
        _become_nobody()


def _become_nobody() -> None:
    os.setgroups([])
    os.setgid(_NOBODY)
    os.setuid(_NOBODY)


def _bind(libc: Any, source: str, target: str) -> bool:
    """Show `source` at `target` too, in a view of the file system that only this process has."""
    if libc.unshare(_CLONE_NEWNS) or libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None):
        return False
    return libc.mount(source.encode(), target.encode(), None, _MS_BIND | _MS_REC, None) == 0


@cache
def _way() -> str:
    """How programs are started: as "nobody"; so, with the interpreter "bound" to where nobody may read; or as one's
    "own" user, where this process may not change users."""
    if os.geteuid() != 0:
        return "own"
    probe = ["-I", "-c", "import json"]
    interpreter = os.path.realpath(sys.executable)
    try:
        if subprocess.run([interpreter, *probe], check=False, cwd="/", preexec_fn=_become_nobody).returncode == 0:
            return "nobody"
    except (OSError, subprocess.SubprocessError):
        pass
    with tempfile.TemporaryDirectory(prefix="szilard-run-") as folder:
        target = Path(folder, "python")
        target.mkdir()
        os.chmod(folder, 0o755)

        def bound() -> None:
            if not _bind(ctypes.CDLL(None), sys.base_prefix, str(target)):
                raise OSError
            _become_nobody()

        try:
            command = [_below(target), *probe]
            ended = subprocess.run(command, check=False, cwd="/", preexec_fn=bound)
            return "bound" if ended.returncode == 0 else "own"
        except (OSError, subprocess.SubprocessError):
            return "own"


def _below(folder: Path) -> str:
    """The interpreter's path when its installation is shown at `folder`."""
    return str(folder / os.path.relpath(os.path.realpath(sys.executable), sys.base_prefix))


def _interpreter(folder: Path) -> str:
    return _below(folder / "python") if _way() == "bound" else os.path.realpath(sys.executable)


def _watch(process: subprocess.Popen[bytes], token: bytes, deadline: float) -> tuple[str, bool]:
    """Feed the token, read the output to its end or the deadline; then kill whatever is left of the group."""
    assert process.stdin is not None and process.stdout is not None
    kept, in_time = bytearray(), True
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(token)
        process.stdin.close()
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                in_time = False
                break
            if selector.select(min(left, 0.1)):
                chunk = os.read(process.stdout.fileno(), 65536)
                kept += chunk[: max(0, _KEPT_OUTPUT - len(kept))]
                if not chunk:
                    break
            elif process.poll() is not None:
                break  # ended; a child of it may still hold the pipe
    if in_time:
        try:
            process.wait(max(0.01, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            in_time = False
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return kept.decode("utf-8", "replace"), in_time


def _read_ready(descriptor: int) -> bytes:
    """What lies in a pipe now."""
    os.set_blocking(descriptor, False)
    try:
        return os.read(descriptor, 1024)
    except BlockingIOError:
        return b""


def _reason(passed: bool, in_time: bool, code: int | None, output: str) -> str:
    if passed:
        return "passed"
    if not in_time:
        return "timed out"
    last = output.strip().splitlines()[-1:] or [""]
    if code is not None and code < 0:
        return f"killed by signal {-code}"
    return last[0][:200] if code and last[0] else f"ended early with code {code}"


def _has_surrogates(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def _try_unshare() -> bool:
    if os.geteuid() != 0:
        return False
    probe = "import os,ctypes,sys; sys.exit(0 if ctypes.CDLL(None).unshare(0x40000000) == 0 else 1)"
    return subprocess.run([sys.executable, "-I", "-c", probe], check=False).returncode == 0
