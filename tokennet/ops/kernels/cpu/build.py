"""Compile the kernel for one kind of call, keep it on disk, and load it."""

from __future__ import annotations

import atexit
import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import signal
import stat
import subprocess
import tempfile
import warnings
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tokennet.ops.kernels.cache import cache_root
from tokennet.version import __version__

_SOURCE = Path(__file__).with_name("edges.cpp")
_HEADERS = tuple(sorted(Path(__file__).parent.glob("*.h")))
_FLAGS = ["-std=c++17", "-O3", "-march=native", "-fPIC", "-fno-math-errno", "-fno-trapping-math"]
if platform.machine() in ("x86_64", "AMD64"):
    _FLAGS.append("-mprefer-vector-width=512")
_SECONDS = 60
"""How long a compiler is waited for."""
_PROCESSOR = ("model name", "flags", "Features", "CPU implementer", "CPU part")
_DIGEST = hashlib.sha256().digest_size


class Kind(NamedTuple):
    """What the compiler must know of a call."""

    scalar: str
    """float, double or bf16."""
    heads: int
    kv_heads: int
    """Of keys and values; divides `heads`."""
    channels: int
    values: int
    features: int
    """Of an edge, or 0."""
    additive: bool

    def defines(self) -> list[str]:
        return [
            f"-D{name.upper()}={value:d}"
            for name, value in zip(self._fields[1:], self[1:], strict=True)
        ] + [f"-DSCALAR={self.scalar}"]


class BuildError(RuntimeError):
    """There is no kernel, and this is why."""


def library(kind: Kind) -> ctypes.CDLL:
    """Return the kernel for this kind of call, compiled within seconds if it was never before.

    Raises:
        BuildError: there is no compiler, or it failed.
    """
    found = _load(kind)
    if isinstance(found, str):
        raise BuildError(found)
    return found


def problem(kind: Kind) -> str | None:
    """Why there is no kernel for this kind of call, or None if there is one."""
    found = _load(kind)
    return found if isinstance(found, str) else None


@cache
def _load(kind: Kind) -> ctypes.CDLL | str:
    try:
        return _loaded(kind)
    except (BuildError, OSError, ValueError, subprocess.SubprocessError) as error:
        reason = f"no kernel could be compiled: {error}"
        _give_notice(reason)
        return reason


@cache
def _give_notice(reason: str) -> None:
    warnings.warn(
        f"attention on sparse graphs takes the slower path without a compiler ({reason})",
        RuntimeWarning,
        stacklevel=2,
    )


def _loaded(kind: Kind) -> ctypes.CDLL:
    path = cache_folder() / f"edges-{_fingerprint(kind)}.so"
    if _is_private(path) and _is_complete(path):
        with suppress(OSError):  # it may have been built where another library was
            return ctypes.CDLL(str(path))
    try:
        return ctypes.CDLL(str(_compile(kind, path, link=[])))
    except OSError:
        # PyTorch's OpenMP is not in sight of other libraries here; the compiler's own must do.
        path.unlink(missing_ok=True)
        return ctypes.CDLL(str(_compile(kind, path, link=["-fopenmp"])))


def _is_private(path: Path) -> bool:
    """Whether only this user can write to a file or folder: code of others is never loaded.

    A link is not followed, since it may be to a folder of others.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    if stat.S_ISLNK(found.st_mode):
        return False
    if not hasattr(os, "geteuid"):  # Windows keeps the folders of users apart
        return True
    return found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _is_complete(path: Path) -> bool:
    """Whether a file ends as `_compile` ends it. One cut short would end the process instead."""
    if not path.exists():
        return False
    content = path.read_bytes()
    return hashlib.sha256(content[:-_DIGEST]).digest() == content[-_DIGEST:]


def _compile(kind: Kind, path: Path, link: list[str]) -> Path:
    """Compile into a folder of our own and move the result, so that processes may race.

    OpenMP is left to be found at loading, among what PyTorch has loaded: two runtimes in one
    process would have two sets of threads, each waiting in the other's way.
    """
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        object_file, library = Path(folder) / "edges.o", Path(folder) / path.name
        options = [*_FLAGS, "-fopenmp", *kind.defines()]
        _run([*options, "-c", str(_SOURCE), "-o", str(object_file)])
        _run(["-shared", *link, str(object_file), "-o", str(library)])
        digest = hashlib.sha256(library.read_bytes()).digest()
        with library.open("ab") as file:
            file.write(digest)
        library.chmod(0o700)
        os.replace(library, path)
    return path


@cache
def _hanging() -> set[str]:
    """Compilers that did not answer in time: each is waited for once, not for each kind of call."""
    return set()


def _start(options: list[str]) -> tuple[int, str, str]:
    """Call the compiler; return its exit code, output and errors.

    Raises:
        BuildError: it does not answer within a minute.
    """
    command = _compiler()
    told = f"{shlex.join(command)} did not answer within {_SECONDS} seconds"
    if shlex.join(command) in _hanging():
        raise BuildError(told)
    with subprocess.Popen(
        [*command, *options], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, errors="replace",  # it may speak in any encoding
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            out, errors = process.communicate(timeout=_SECONDS)
        except BaseException as error:
            _kill(process)
            if isinstance(error, subprocess.TimeoutExpired):
                _hanging().add(shlex.join(command))
                raise BuildError(told) from error
            raise
    return process.returncode, out, errors


def _kill(process: subprocess.Popen[str]) -> None:
    """End the compiler and what it started, which would keep its output open."""
    with suppress(ProcessLookupError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()


def _run(options: list[str]) -> None:
    code, out, errors = _start(options)
    if code:
        lines = (errors or out).strip().splitlines() or ["it said nothing"]
        error = next((line for line in lines if "error" in line), lines[-1])
        raise BuildError(f"{_compiler()[0]} failed with exit code {code}: {error}")


def _compiler() -> list[str]:
    """The command in the environment variable CXX, or the first compiler found."""
    named = os.environ.get("CXX")
    if named:
        return shlex.split(named)
    for name in ("c++", "g++", "clang++"):
        if shutil.which(name):
            return [name]
    raise BuildError("no C++ compiler was found (c++, g++, clang++, or the variable CXX)")


def _fingerprint(kind: Kind) -> str:
    """Changes with the source, the kind, the compiler, the processor and the version."""
    _, told, _ = _start(["--version"])
    parts = [__version__, repr(kind), *_compiler(), told, *_FLAGS, _processor()]
    text = "\n".join([*(file.read_text() for file in (_SOURCE, *_HEADERS)), *parts])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine() + platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(_PROCESSOR)}))


@cache
def cache_folder() -> Path:
    """Where kernels are kept: the user's cache, or if that is not to be used, for this process.

    It is not used where it cannot be written to, or another user could have put a library there.
    """
    try:
        folder = cache_root() / "kernels"
        folder.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        if not _is_private(folder):
            _close(folder)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except (OSError, RuntimeError):  # RuntimeError: the user has no home
        temporary = tempfile.mkdtemp(prefix="tokennet-")
        atexit.register(shutil.rmtree, temporary, ignore_errors=True)
        return Path(temporary)


def _close(folder: Path) -> None:
    """Close a folder to others, and delete what may be theirs.

    Raises:
        OSError: it is not a folder of this user.
    """
    if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
        raise PermissionError(f"{folder} must be a folder of this user")
    folder.chmod(0o700)
    for path in folder.glob("*.so"):
        path.unlink()
