"""The compiler: who calls it and when, what is kept of it, and what happens without one."""

import fnmatch
import importlib.resources
import multiprocessing
import os
import stat
import tempfile
import warnings
from pathlib import Path

import pytest
import setuptools
import torch

from tests.axes import in_turn
from tokennet import Window, attend, explain
from tokennet.ops.edge_plans import edge_plan
from tokennet.ops.kernels.cpu import build, edges
from tokennet.ops.kernels.fused_op import fused_attention
from tokennet.ops.kernels.problem import Problem
from tokennet.ops.terms import Terms

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="kernels are loaded in children")
ROOT = Path(__file__).parents[2]
GRAPH = Window(6, 1)
NUMBERS = (torch.arange(6.0)[:, None, None] / 7 - 0.3).expand(6, 1, 2).contiguous()
PROBLEM = Problem(*3 * (NUMBERS[None],), Terms(), 0.5, 0.0, edge_plan(GRAPH))
KIND = edges.kind(PROBLEM.q.dtype, PROBLEM.q, PROBLEM.v, PROBLEM.terms.edge_attr, additive=False)
EXPECTED = attend(*3 * (NUMBERS,), GRAPH, scale=0.5, backend="reference")
FOLDER = Path("tokennet", "kernels")


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    """No kernel is loaded, no compiler known to be missing, no folder chosen."""
    monkeypatch.setattr(build, "_FLAGS", ["-std=c++17", "-O0", "-fPIC"])  # sooner done
    remembered = (build._load, build._give_notice, build._hanging, build.cache_folder)
    for function in remembered:
        function.cache_clear()
    yield
    for function in remembered:
        function.cache_clear()


def work(barrier, queue):
    torch.set_num_threads(1)  # a forked process has no other
    barrier.wait(60)
    queue.put(fused_attention(PROBLEM)[0].tolist())


def in_children(count=1):
    """Run the kernel in new processes, all at once: a file that is broken may end them."""
    context = multiprocessing.get_context("fork")
    barrier, queue = context.Barrier(count), context.Queue()
    given = {"target": work, "args": (barrier, queue), "daemon": True}
    children = [context.Process(**given) for _ in range(count)]
    for child in children:
        child.start()
    for child in children:
        child.join(120)
    assert [child.exitcode for child in children] == [0] * count
    for _ in children:
        torch.testing.assert_close(torch.tensor(queue.get(timeout=60))[0], EXPECTED)


def names(folder):
    return sorted(path.name for path in (folder / FOLDER).iterdir())


def test_processes_that_build_at_once_all_have_it_and_leave_one_complete_file(cache):
    in_children(4)
    (name,) = names(cache)
    assert build._is_complete(cache / FOLDER / name)


@pytest.fixture
def logging_compiler(tmp_path, monkeypatch):
    """A compiler that writes down its calls; gives a function to read and forget them."""
    script, log = tmp_path / "compiler", tmp_path / "log"
    script.write_text(f'#!/bin/sh\necho "$@" >> {log}\nexec {" ".join(build._compiler())} "$@"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CXX", str(script))

    def calls():
        said = log.read_text().splitlines()
        log.write_text("")
        return [line for line in said if line != "--version"]

    return calls


def test_a_second_process_does_not_compile(cache, logging_compiler):
    in_children()
    compiled, linked = logging_compiler()
    assert "-DCHANNELS=2" in compiled
    assert "-shared" in linked
    before = names(cache)
    in_children()
    assert logging_compiler() == []
    assert names(cache) == before


def test_a_file_cut_short_is_built_again(cache, logging_compiler):
    in_children()
    (name,) = names(cache)
    path = cache / FOLDER / name
    whole, _ = path.read_bytes(), logging_compiler()
    for kept in (0, 1000, len(whole) - 1, len(whole) // 2):
        path.write_bytes(whole[:kept])
        assert not build._is_complete(path)
    in_children()
    assert len(logging_compiler()) == 2
    assert build._is_complete(path)
    assert names(cache) == [name]


def test_a_file_that_does_not_load_is_built_again(cache, logging_compiler):
    path = cache / FOLDER / f"edges-{build._fingerprint(KIND)}.so"
    path.parent.mkdir(parents=True)
    content = b"built for another machine"
    path.write_bytes(content + build.hashlib.sha256(content).digest())
    assert build._is_complete(path)
    in_children()
    assert len(logging_compiler()) == 2
    assert path.stat().st_size > 1000


def test_where_no_openmp_is_in_sight_it_is_linked(cache, monkeypatch, logging_compiler):
    load, tried = build.ctypes.CDLL, []

    def strict(path):
        tried.append(path)
        if len(tried) == 1:
            raise OSError("undefined symbol: GOMP_parallel")
        return load(path)

    monkeypatch.setattr(build.ctypes, "CDLL", strict)
    in_children()
    links = [call for call in logging_compiler() if "-shared" in call]
    assert ["-fopenmp" in call for call in links] == [False, True]


def script(folder, text):
    path = folder / "compiler"
    path.write_bytes(b"#!/bin/sh\n" + text)
    path.chmod(0o700)
    return str(path)


BROKEN = {
    "fails": (lambda folder: "/bin/false", "/bin/false failed with exit code 1: it said nothing"),
    "is_not_there": (lambda folder: str(folder / "none"), "No such file or directory"),
    "has_no_name": (lambda folder: 'g++ "', "No closing quotation"),
    "says_why": (
        lambda folder: script(folder, b"echo before; echo 'x: error: no \xff' >&2; exit 3"),
        "failed with exit code 3: x: error: no \N{REPLACEMENT CHARACTER}",
    ),
    "hangs": (lambda folder: script(folder, b"exec sleep 60"), "did not answer within 0.3 seconds"),
    "starts_others_that_hang": (
        lambda folder: script(folder, b"sleep 60"),
        "did not answer within 0.3 seconds",
    ),
    "reads": (lambda folder: script(folder, b"cat; exit 3"), "exit code 3: it said nothing"),
    "makes_nothing": (lambda folder: "/bin/true", "No such file or directory"),
}


@pytest.mark.parametrize(("make", "reason"), BROKEN.values(), ids=BROKEN)
def test_a_compiler_that(make, reason, cache, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", make(tmp_path))
    monkeypatch.setattr(build, "_SECONDS", 0.3 if "not answer" in reason else 60)
    without_a_kernel(reason)
    assert not (cache / FOLDER).exists() or names(cache) == []


def test_a_compiler_that_hangs_is_waited_for_once(cache, tmp_path, monkeypatch):
    log = tmp_path / "log"
    monkeypatch.setenv("CXX", script(tmp_path, f"echo >> {log}; exec sleep 60".encode()))
    monkeypatch.setattr(build, "_SECONDS", 0.3)
    with pytest.warns(RuntimeWarning, match="did not answer within 0.3 seconds"):
        reasons = [build.problem(KIND._replace(heads=heads)) for heads in range(1, 6)]
    assert all("did not answer" in reason for reason in reasons)
    assert log.read_text() == "\n"


def test_a_compiler_that_answers_but_does_not_compile_is_waited_for_once(
    cache, tmp_path, monkeypatch
):
    log = tmp_path / "log"
    answers = f'[ "$1" = --version ] && exit; echo >> {log}; exec sleep 60'
    monkeypatch.setenv("CXX", script(tmp_path, answers.encode()))
    monkeypatch.setattr(build, "_SECONDS", 0.5)
    with pytest.warns(RuntimeWarning, match="did not answer within 0.5 seconds"):
        reasons = [build.problem(KIND._replace(heads=heads)) for heads in range(1, 4)]
    assert all("did not answer" in reason for reason in reasons)
    assert log.read_text() == "\n"


def test_no_compiler_at_all(cache, tmp_path, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    without_a_kernel("no C++ compiler was found (c++, g++, clang++, or the variable CXX)")


def without_a_kernel(reason):
    """`attend` goes on, with one warning; `explain` and a named backend say why."""
    given = (*3 * (NUMBERS.clone(),), Window(6, 1))  # without remembered choices
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            torch.testing.assert_close(attend(*given, scale=0.5), EXPECTED)
            torch.testing.assert_close(attend(*given, scale=0.5, backend="sparse"), EXPECTED)
            with pytest.raises(RuntimeError) as refused:
                attend(*given, scale=0.5, backend="fused")
        prospects = {prospect.backend: prospect for prospect in explain(*given).prospects}
    said = [str(warning.message) for warning in caught if warning.category is RuntimeWarning]
    assert len(said) == 1
    message = str(refused.value)
    assert message.startswith("backend 'fused' cannot run this call: no kernel could be compiled: ")
    for text in (said[0], message, prospects["fused"].reason):
        assert reason in text
    with pytest.raises(build.BuildError, match="no kernel could be compiled"):
        build.library(KIND)


@pytest.mark.parametrize("place", ["a_file", "proc", "no_home"])
def test_a_cache_that_cannot_be_written_to_is_done_without(place, tmp_path, monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    (tmp_path / "file").touch()
    root = {"a_file": str(tmp_path / "file"), "proc": "/proc/self", "no_home": ""}[place]
    monkeypatch.setenv("XDG_CACHE_HOME", root)
    if place == "no_home":
        monkeypatch.setattr(Path, "home", no_home)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        in_children()
        folder = build.cache_folder()
    assert folder.is_relative_to(tempfile.gettempdir())
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert build.cache_folder() is folder


@pytest.fixture
def foreign(cache):
    """A library of the right name that someone else could have put there; it does not load."""
    path = cache / FOLDER / f"edges-{build._fingerprint(KIND)}.so"
    path.parent.mkdir(parents=True, mode=0o700)
    content = b"foreign"
    path.write_bytes(content + build.hashlib.sha256(content).digest())
    path.chmod(0o700)
    assert build._is_complete(path)
    return path


@pytest.fixture
def loaded(monkeypatch):
    """What is loaded, as (path, content)."""
    load, found = build.ctypes.CDLL, []

    def logged(path):
        found.append((Path(path), Path(path).read_bytes()))
        return load(path)

    monkeypatch.setattr(build.ctypes, "CDLL", logged)
    return found


def was_loaded(loaded):
    return any(content.startswith(b"foreign") for _, content in loaded)


def test_a_private_library_is_loaded(foreign, loaded):
    """So that the tests below can fail."""
    assert build.problem(KIND) is None
    assert was_loaded(loaded)


@in_turn(mode=[0o720, 0o702, 0o777], of=["file", "folder"])
def test_a_library_that_others_can_write_is_never_loaded(of, mode, foreign, loaded):
    (foreign if of == "file" else foreign.parent).chmod(mode)
    assert build.problem(KIND) is None
    assert not was_loaded(loaded)
    assert [path for path, _ in loaded] == [foreign]  # built anew
    for path in (foreign, foreign.parent):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_a_library_in_a_folder_of_another_user_is_never_loaded(foreign, loaded, monkeypatch):
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    assert not build._is_private(foreign)
    assert build.problem(KIND) is None
    assert not was_loaded(loaded)
    assert not build.cache_folder().is_relative_to(foreign.parent)
    assert foreign.read_bytes().startswith(b"foreign")  # what is not ours is left alone


@pytest.mark.parametrize("of", ["file", "folder"])
def test_a_link_is_not_followed_to_a_library(of, foreign, loaded, tmp_path):
    link = foreign if of == "file" else foreign.parent
    link.rename(tmp_path / "elsewhere")
    link.symlink_to(tmp_path / "elsewhere")
    assert build.problem(KIND) is None
    assert not was_loaded(loaded)


def test_the_folder_and_the_libraries_are_made_private(cache):
    before = os.umask(0)
    try:
        assert build.problem(KIND) is None
    finally:
        os.umask(before)
    (name,) = names(cache)
    for path in (cache / FOLDER, cache / FOLDER / name):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_a_relative_cache_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    with pytest.warns(RuntimeWarning, match="XDG_CACHE_HOME must be an absolute path, got 'cache'"):
        assert "absolute path, got 'cache'" in build.problem(KIND)
    assert attend(*3 * (NUMBERS,), Window(6, 1), scale=0.5).allclose(EXPECTED)
    assert list(tmp_path.iterdir()) == []


def test_the_fingerprint_depends_on_all_that_a_kernel_depends_on(tmp_path, monkeypatch):
    kind = KIND
    marks = [build._fingerprint(kind)]
    assert build._fingerprint(kind) == marks[0]
    for field in kind._fields:
        other = kind._replace(
            **{field: "double" if field == "scalar" else 1 + getattr(kind, field)}
        )
        marks.append(build._fingerprint(other))
        assert len({*kind.defines(), *other.defines()}) == len(kind) + 1
    files = (build._SOURCE, *build._HEADERS)
    assert len(files) == 5
    for place, file in enumerate(files):
        changed = tmp_path / file.name
        changed.write_text(file.read_text() + "\n")
        source, *headers = (*files[:place], changed, *files[place + 1 :])
        with monkeypatch.context() as patch:
            patch.setattr(build, "_SOURCE", source)
            patch.setattr(build, "_HEADERS", tuple(headers))
            marks.append(build._fingerprint(kind))
    for name, value in (("__version__", "0"), ("_FLAGS", []), ("_processor", lambda: "6502")):
        with monkeypatch.context() as patch:
            patch.setattr(build, name, value)
            marks.append(build._fingerprint(kind))
    monkeypatch.setenv("CXX", "/bin/echo")
    marks.append(build._fingerprint(kind))
    assert len(set(marks)) == len(marks)


def test_the_sources_are_installed_with_the_package(monkeypatch):
    package = importlib.resources.files("tokennet.ops.kernels.cpu")
    sources = {file.name for file in package.iterdir() if file.name.endswith((".cpp", ".h"))}
    assert {file.name for file in (build._SOURCE, *build._HEADERS)} <= sources
    assert all((package / name).read_text(encoding="ascii") for name in sources)
    monkeypatch.chdir(ROOT)
    distribution = setuptools.Distribution()
    distribution.parse_config_files(["setup.cfg"])
    assert "tokennet.ops.kernels.cpu" in distribution.packages
    patterns = distribution.package_data["tokennet.ops.kernels.cpu"]
    for name in sources:
        assert any(fnmatch.fnmatch(name, pattern) for pattern in patterns)
    assert importlib.resources.files("tokennet.ops").joinpath("constants.json").is_file()
    assert distribution.package_data["tokennet.ops"] == ["*.json"]
