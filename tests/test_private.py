"""Private parts of other packages that tokennet uses: each is named here, and exists today.

A release that removes one fails here by its name and ours, not somewhere in a user's net.
"""

import ast
import importlib
import re
from importlib.metadata import version
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "tokennet"
USED = {
    "torch.Tensor._make_wrapper_subclass": "interop: a mask that knows its graph",
    "torch._C.DisableTorchFunctionSubclass": "interop: a mask that knows its graph",
    "torch._C._current_autograd_node": "testing: the statement whose gradient is computed; "
    "ops: the kernel that a second derivative is asked of",
    "torch._C._len_torch_function_stack": "graphs: kept tensors are built in no function mode",
    "torch.overrides._pop_mode": "graphs: kept tensors are built in no function mode",
    "torch.overrides._push_mode": "graphs: kept tensors are built in no function mode",
    "torch._C._dynamo.eval_frame": "marks of functions outside compilation, without the compiler",
    "torch._C._functorch.TransformType.Grad": "ops: grad is no reason to fall back",
    "torch._C._functorch.peek_interpreter_stack": "ops: the transform that a call runs under",
    "torch._C._are_functorch_transforms_active": "ops: compiled kernels do not run under them",
    "torch.autograd.forward_ad._current_level": "ops: whether forward mode is on",
    "torch._functorch.pyfunctorch.temporarily_clear_interpreter_stack": "graphs: kept tensors",
    "torch._native_multi_head_attention": "testing: a fast path that is given its mask",
    "torch._transformer_encoder_layer_fwd": "testing: a fast path that is given its mask",
    "torch._ops.OpOverload": "ops: the type of a registered operator",
    "torch.cuda._sleep": "bench: hides the time of launches",
    "torch.utils._python_dispatch.TorchDispatchMode": "testing: every operation of a run",
    "torch.utils._python_dispatch._disable_current_modes": "graphs: kept tensors are real ones",
    "torch.utils._pytree.GetAttrKey": "Tokens are a pytree",
    "torch.utils._pytree.register_pytree_node": "Tokens are a pytree",
    "torch.utils._pytree.tree_leaves": "testing: tensors of any output",
    "torch.utils._pytree.tree_map": "states of any layer",
    "torch.utils._pytree.tree_map_only": "states of any layer",
}
"""What is used, and where and for what. All are in torch 2.11 to 2.13."""
PRIVATE = re.compile(r"(torch|lightning|networkx|scipy)(\.\w+)*\._(?!_)\w+(\.\w+)*")


def _private_names(source):
    """Full names of private modules, functions and attributes of packages that a source uses."""
    tree = ast.parse(source)
    names, meaning = set(), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                names.add(full)
                meaning[alias.asname or alias.name] = full
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            first, _, rest = ast.unparse(node).partition(".")
            names.add(f"{meaning.get(first, first)}.{rest}")
    return {name for name in names if PRIVATE.fullmatch(name)}


def _use_of(name):
    """The entry of `USED` that covers a name: itself, or the module it comes from."""
    return next((use for use in USED if name == use or name.startswith(f"{use}.")), None)


def test_each_private_part_in_use_is_named_here():
    found = {
        name: file.relative_to(PACKAGE)
        for file in sorted(PACKAGE.rglob("*.py"))
        for name in _private_names(file.read_text())
    }
    unnamed = {
        f"{file}: {name}"
        for name, file in found.items()
        if not _use_of(name) and not any(use.startswith(f"{name}.") for use in USED)
    }
    assert not unnamed, "private parts of other packages: avoid them, or name them in USED"
    unused = USED.keys() - {_use_of(name) for name in found}
    assert not unused, "named in USED, used nowhere"


@pytest.mark.parametrize("name", USED)
def test_it_exists(name):
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        break
    for part in parts[end:]:
        assert hasattr(found, part), f"torch {version('torch')} has no {name}: {USED[name]}"
        found = getattr(found, part)


def test_private_parts_are_seen():
    source = "from torch._C import _x\nfrom torch import cuda\ncuda._sleep(_x.y)\ncuda.__name__"
    assert _private_names(source) == {"torch._C._x", "torch._C._x.y", "torch.cuda._sleep"}
