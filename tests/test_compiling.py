"""Functions outside of compilation: what `torch.compiler` does, without loading it on import."""

import subprocess
import sys

import pytest
import torch

from tokennet._compiling import constant_result, outside_compilation

SEEN = []


@outside_compilation("the reason is told")
def looked_up(x: torch.Tensor) -> torch.Tensor:
    SEEN.append(torch.compiler.is_compiling())
    return inner(x)


def inner(x: torch.Tensor) -> torch.Tensor:
    SEEN.append(type(x))
    return x + 1


@constant_result
def size() -> int:
    return len(SEEN) + 5


@pytest.fixture(autouse=True)
def _fresh():
    SEEN.clear()
    torch._dynamo.reset()


def test_a_compiled_graph_breaks_and_the_function_runs_as_it_is():
    compiled = torch.compile(lambda x: looked_up(2 * x) * 3, backend="eager")
    counter = torch._dynamo.utils.counters
    counter.clear()
    for _ in range(2):
        torch.testing.assert_close(compiled(torch.ones(2)), torch.full((2,), 9.0))
    assert [False, torch.Tensor] * 2 == SEEN
    assert sum(counter["graph_break"].values()) == 1


def test_a_full_graph_is_refused_with_the_reason():
    compiled = torch.compile(lambda x: looked_up(x), backend="eager", fullgraph=True)
    with pytest.raises(torch._dynamo.exc.Unsupported, match="the reason is told"):
        compiled(torch.ones(2))


def test_a_constant_is_asked_for_once():
    compiled = torch.compile(lambda x: x * size(), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(torch.ones(2)), torch.full((2,), 5.0))
    SEEN.append(None)
    torch.testing.assert_close(compiled(torch.ones(2)), torch.full((2,), 5.0))


def test_no_compiler_is_loaded():
    script = (
        "import sys, torch\n"
        "from tokennet._compiling import outside_compilation\n"
        "assert outside_compilation('')(abs)(-1) == 1\n"
        "print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
