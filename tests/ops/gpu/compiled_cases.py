"""The kernels compiled for sm_90 without a device; run by `test_kernels.py`, not collected.

Calls are made as on a device, on small tensors of a CPU, and stop short of the launch. So
types, alignment and constants are what Triton itself finds in the arguments of a call.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from tests.ops.gpu.problems import as_problem, hubs, run, tensors
from tokennet import Edges, TokenGraph
from tokennet.ops.kernels.cuda import launch, segments
from tokennet.ops.kernels.problem import Wanted

WIDE = {"bf16": torch.bfloat16, "fp32": torch.float32}
KINDS = ["dot", "dot_bias", "dot_features", "additive", "additive_features_bias"]
CASES: dict[str, tuple[str, tuple[int, int, int], torch.dtype]] = {
    f"{kind} {name}": (kind, (8, 16, 16), dtype) for kind in KINDS for name, dtype in WIDE.items()
}
CASES |= {
    "wide bf16": ("dot", (4, 64, 64), torch.bfloat16),
    "odd fp16": ("additive_bias", (5, 20, 36), torch.float16),
    "dot fp64": ("dot_features", (2, 8, 8), torch.float64),
    "dot of fixed edges": ("dot_features_bias", (8, 16, 16), torch.bfloat16),
    "additive of fixed edges": ("additive_features_bias", (8, 16, 16), torch.float32),
}
ALIGNED = [name for name, (_, shape, _) in CASES.items() if shape[1] % 8 == 0]
KERNELS = {
    "forward_targets", "merge_parts", "backward_targets", "backward_sources", "add_parts",
}  # fmt: skip


class NoDevice:
    """What Triton asks of a driver before it launches."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


@pytest.fixture(autouse=True, scope="module")
def _no_device():
    """Not on import: in search of doctests this file is imported beside tests on a device."""
    driver.set_active(NoDevice())


@cache
def compiled(case: str) -> dict[str, Any]:
    torch.manual_seed(0)
    return launched(hubs(), *CASES[case], Wanted(*2 * ["fixed" not in case]))


def launched(
    graph: TokenGraph,
    kind: str,
    shape: tuple[int, int, int],
    dtype: torch.dtype,
    wanted: Wanted,
    batch: tuple[int, ...] = (),
) -> dict[str, Any]:
    """All kernels that a call, forward and backward, would have launched, by name."""
    found: dict[str, Any] = {}

    def stop_short(self, grid):
        def call(*args, **options):
            found[self.__name__] = self.run(*args, grid=grid, warmup=True, **options)

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JITFunction, "__getitem__", stop_short)
        patch.setattr(segments, "STEPS", 1)
        given = {name: x.detach() for name, x in tensors(graph, kind, shape, batch, dtype).items()}
        problem = run(as_problem, graph, given)
        out = launch.forward(problem)
        launch.backward(problem, [torch.empty_like(x) for x in out], out, wanted)
    return found


def in_loops(ttgir: str) -> str:
    """The lines of the loops over edges."""
    loops = re.finditer(r"^( *)\S[^\n]*scf\.for (.*?)^\1}", ttgir, re.DOTALL | re.MULTILINE)
    return "\n".join(loop[2] for loop in loops)


def resources(ptx: str) -> dict[str, int]:
    """Registers and bytes spilled, as the assembler reports them."""
    target = re.search(r"\.target (\w+)", ptx)[1]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.ptx"
        path.write_text(ptx)
        told = subprocess.run(
            [triton.knobs.nvidia.ptxas.path, "-v", f"--gpu-name={target}", path.name],
            capture_output=True, text=True, check=True, cwd=folder,
        ).stderr  # fmt: skip
    return {
        "registers": int(re.search(r"Used (\d+) registers", told)[1]),
        "spilled": sum(int(n) for n in re.findall(r"(\d+) bytes spill", told)),
    }


def test_every_kernel_is_compiled():
    names = {name for case in CASES for name in compiled(case)}
    assert names == KERNELS
    for case in CASES:
        assert set(compiled(case)) == KERNELS, case


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("tokens", "batch"), [(0, ()), (0, (2,)), (6, (0,))])
def test_nothing_is_launched_for_nothing(kind, tokens, batch):
    graph = Edges(torch.arange(tokens).repeat(2, 1), tokens)
    found = launched(graph, kind, (2, 4, 4), torch.float32, Wanted(True, True), batch)
    assert found == {}


@pytest.mark.parametrize("case", CASES)
def test_no_atomics(case):
    for name, kernel in compiled(case).items():
        assert "st.global" in kernel.asm["ptx"]
        assert not re.findall(r"^.*\b(?:atom|red)\..*$", kernel.asm["ptx"], re.MULTILINE), name


@pytest.mark.parametrize("case", ALIGNED)
def test_rows_are_read_16_bytes_at_a_time(case):
    for name in KERNELS - {"merge_parts", "add_parts"}:
        ptx = compiled(case)[name].asm["ptx"]
        loads = re.findall(r"ld\.global(?:\.\w+)*\.(?:v2\.b64|v4\.b32)", ptx)
        assert len(loads) >= 8, name


@pytest.mark.parametrize("case", ["dot_bias bf16", "additive_features_bias fp32"])
def test_offsets_of_rows_are_int64(case):
    """Numbers of rows are multiplied by their width, 8 x 16, as int64."""
    for name in KERNELS - {"add_parts"}:
        ttir = compiled(case)[name].asm["ttir"]
        assert re.search(r"dense<128> : tensor<[\dx]+xi64>", ttir), name
        assert not re.search(r"dense<128> : tensor<[\dx]+xi32>", ttir), name


@pytest.mark.parametrize("case", [case for case in CASES if "odd" not in case])
def test_tiles_stay_with_their_threads(case):
    """No tile of edges x heads x channels goes through shared memory from thread to thread."""
    for name, kernel in compiled(case).items():
        loops = in_loops(kernel.asm["ttgir"])
        assert "tt.load" in loops, name
        assert not re.findall(r"convert_layout.*: (tensor<(?:\d+x){3}(?!1x)\d+x\S+)", loops), name


@pytest.mark.parametrize("case", CASES)
def test_registers(case):
    """Without features of edges, nothing is spilled to memory."""
    if not Path(triton.knobs.nvidia.ptxas.path).exists():
        pytest.skip("Triton brought no ptxas")
    for name, kernel in compiled(case).items():
        used = resources(kernel.asm["ptx"])
        print(f"\n{case:28}{name:18}", *(f"{what} {n:4}" for what, n in used.items()), end="")
        allowed = 0 if "features" not in CASES[case][0] else 512
        assert used["spilled"] <= allowed or "fp64" in case, name
