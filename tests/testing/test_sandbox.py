"""The sandbox: the state of a model is restored, whatever the model does in a run."""

import functools
import random
import sys
import time
import types
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils.parametrize import cached as parametrize_cached

from tests.axes import in_turn
from tokennet.testing.engine.reach import module_names, modules_of, reached
from tokennet.testing.engine.sandbox import moved_to, remembered_contents, sandboxed
from tokennet.testing.example.values import cast

X = torch.linspace(-1, 1, 6).reshape(2, 3)
Pair = namedtuple("Pair", ["cos", "sin"])


@pytest.fixture(autouse=True)
def default_dtype():
    before = torch.get_default_dtype()
    yield
    torch.set_default_dtype(before)


class Doing(nn.Module):
    """A module whose forward does something to it."""

    def __init__(self, action, **attributes):
        super().__init__()
        self.net = nn.Linear(3, 3)
        self.register_buffer("steps", torch.zeros(2))
        for name, value in attributes.items():
            setattr(self, name, value)
        self.action = action

    def forward(self, x):
        self.action(self)
        return self.net(x)


def run(model, **options):
    with sandboxed(model, **options):
        return model(X.to(options.get("dtype", torch.float64)))


class Helper:
    """A plain object that builds tables at first use."""

    def __init__(self):
        self.cache = {}

    def table(self, n):
        if n not in self.cache:
            self.cache[n] = torch.linspace(0, 1, n)
        return self.cache[n]


CONTAINERS = {
    "tensor written in place": ([torch.zeros(1)], lambda m: m.it[0].add_(1)),
    "list in a dict": ({"h": []}, lambda m: m.it["h"].append(1)),
    "dict in a list": ([{}], lambda m: m.it[0].update(a=1)),
    "list in a tuple": (([0],), lambda m: m.it[0].append(1)),
    "tensor in a tuple": ((torch.zeros(1),), lambda m: m.it[0].add_(1)),
    "tensor in a named tuple": (Pair(torch.zeros(1), 2), lambda m: m.it.cos.add_(1)),
    "set": ({1}, lambda m: m.it.add(2)),
    "deque": (deque([1, 2], maxlen=2), lambda m: m.it.append(3)),
    "tensor in a deque": (deque([torch.zeros(1)]), lambda m: m.it[0].add_(1)),
    "ordered dict": (OrderedDict(a=1, b=2), lambda m: m.it.move_to_end("a")),
    "default dict": (defaultdict(list), lambda m: m.it["a"].append(1)),
    "counter": (Counter("aab"), lambda m: m.it.update("c")),
    "array": (np.zeros(2), lambda m: m.it.__iadd__(1)),
    "attribute of an object": (types.SimpleNamespace(n=0), lambda m: setattr(m.it, "n", 1)),
    "new attribute": (types.SimpleNamespace(n=0), lambda m: setattr(m.it, "new", 1)),
    "deep": ([[{"a": [types.SimpleNamespace(n=[0])]}]], lambda m: m.it[0][0]["a"][0].n.append(1)),
    "generator of torch": (
        torch.Generator().manual_seed(0),
        lambda m: torch.rand(1, generator=m.it),
    ),
    "generator of NumPy": (np.random.default_rng(0), lambda m: m.it.random()),
    "generator of Python": (random.Random(0), lambda m: m.it.random()),
}


def content(value):
    """Content and identity of all that a value holds, in a form that can be compared."""
    if isinstance(value, torch.Tensor | np.ndarray):
        return id(value), value.tolist(), str(value.dtype)
    if isinstance(value, dict):
        return id(value), [(key, content(item)) for key, item in value.items()]
    if isinstance(value, list | tuple | set | deque):
        return id(value), [content(item) for item in value]
    if isinstance(value, torch.Generator):
        return id(value), value.get_state().tolist()
    if isinstance(value, np.random.Generator):
        return id(value), repr(value.bit_generator.state)
    if isinstance(value, random.Random):
        return id(value), value.getstate()
    if hasattr(value, "__dict__"):
        return id(value), content(vars(value))
    return value


@pytest.mark.parametrize("name", CONTAINERS)
def test_containers_and_objects_are_restored(name):
    it, action = CONTAINERS[name]
    model = Doing(action, it=it)
    before = content(it)
    run(model)
    assert model.it is it
    assert content(it) == before
    action(model)  # the action is one that can be seen
    assert content(it) != before


def test_a_helper_that_caches_tables_is_restored():
    class Rope(nn.Module):
        def __init__(self):
            super().__init__()
            self.rope, self.project = Helper(), nn.Linear(3, 3)

        def forward(self, x):
            return self.project(self.rope.table(3) * x)

    model = Rope()
    assert run(model).dtype == torch.float64
    assert model.rope.cache == {}
    assert model(X).dtype == torch.float32
    table = model.rope.cache[3]
    assert run(model).dtype == torch.float64
    assert model.rope.cache == {3: table}
    assert model(X).dtype == torch.float32


def test_a_shared_tensor_stays_shared():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("steps", torch.zeros(1))
            self.log = [self.steps, {"steps": self.steps}]

        def forward(self, x):
            self.log[0].add_(1)
            assert self.steps is self.log[0] is self.log[1]["steps"]
            return x + self.steps

    model = Shared()
    assert torch.equal(run(model), X.double() + 1)
    assert model.steps is model.log[0]
    assert model.steps.item() == 0


def test_cycles_end():
    model = Doing(lambda m: m.it.append(1), it=[])
    model.it += [model.it, model, types.SimpleNamespace(back=model.it)]
    run(model)
    assert len(model.it) == 3
    assert model.it[0] is model.it


def test_long_containers_are_restored():
    model = Doing(lambda m: m.it.append(0), it=list(range(100_000)))
    run(model)
    assert len(model.it) == 100_000


def test_a_weak_dictionary_is_restored():
    keys = [Helper(), Helper()]
    model = Doing(lambda m: m.it.update({keys[1]: torch.zeros(1)}), it=WeakKeyDictionary())
    model.it[keys[0]] = table = torch.ones(1)
    run(model)
    assert list(model.it) == [keys[0]]
    assert model.it[keys[0]] is table


# Which modules are found


NET = nn.Linear(3, 3)


def through_a_global(x):
    return NET(x)


class Names(nn.Module):
    def forward(self, x):
        return self.inner(x)

    def inner(self, x):
        return NET(x)


def ways():
    net = nn.Linear(3, 3)
    trainer = Helper()
    trainer.model = net
    inner = Doing(lambda m: None, t=[net])

    def decorated(x):
        return trainer.model(x)

    return [
        (net, lambda x: trainer.model(x)),
        (net, functools.wraps(decorated)(lambda x: decorated(x))),
        (net, lambda x: [trainer.model(y) for y in x]),
        (net, inner),
        (net, Doing(lambda m: None, t=(net,))),
        (net, Doing(lambda m: None, t={"a": [net]})),
        (net, functools.partial(lambda model, x: model(x), net)),
        (net, functools.lru_cache(lambda x: net(x))),
        (net, net.forward),
        (NET, through_a_global),
        (NET, Names()),
    ]


@pytest.mark.parametrize("way", range(len(ways())))
def test_modules_are_found(way):
    net, f = ways()[way]
    net.train()
    weight, data = net.weight, net.weight.data_ptr()
    with sandboxed(f, jitter=0):
        assert not net.training
        assert net.weight.dtype == torch.float64
        assert (net.weight.data_ptr(), net.weight is weight) != (data, False)
    assert net.training
    assert net.weight is weight
    assert net.weight.data_ptr() == data
    assert module_names(f)[id(net)].endswith("Linear)") or module_names(f)[id(net)] == "Linear"


def test_submodules_come_in_the_order_of_torch():
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, batch_first=True), 2)
    assert [id(m) for m in modules_of(model)] == [id(m) for m in model.modules()]


def test_a_model_beside_large_objects_is_found_fast(request):
    trainer = Helper()
    trainer.model, trainer.request, trainer.modules = nn.Linear(3, 3), request, sys.modules
    trainer.rows = [(torch.zeros(1), {"a": n}) for n in range(100_000)]
    started = time.perf_counter()
    assert modules_of(lambda x: trainer.model(x)) == [trainer.model]
    run(lambda x: trainer.model(x))
    assert time.perf_counter() - started < 2


# Cached functions


@functools.lru_cache
def table(n):
    return torch.linspace(0, 1, n).exp()


@functools.cache
def pair(n):
    return Pair(table(n).cos(), table(n).sin())


tables = types.ModuleType("tables")
tables.table = table


@functools.cache
def loaded():
    return nn.Linear(3, 3)


class Method(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(3, 3)

    @functools.lru_cache  # noqa: B019
    def table(self, n):
        return torch.linspace(0, 1, n).exp()

    @property
    def scale(self):
        return self.table(3)

    def forward(self, x):
        return self.net(x * self.scale)


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(3, 3)

    def forward(self, x):
        return self.net(x * table(3))


class Derived(Base):
    def forward(self, x):
        return super().forward(x)


def in_closure():
    @functools.cache
    def own(n):
        return torch.linspace(0, 1, n).exp()

    net = nn.Linear(3, 3)
    return lambda x: net(x * own(3))


class Acting(nn.Module):
    def __init__(self, act):
        super().__init__()
        self.net, self.act = nn.Linear(3, 3), act

    def forward(self, x):
        return self.net(self.act(x))


USERS = {
    "forward": Base,
    "inherited": Derived,
    "attribute": lambda: Acting(lambda x: x * table(3)),
    "through a function": lambda: Acting(lambda x: x * pair(3).cos),
    "in a comprehension": lambda: Acting(lambda x: x * sum([table(n) for n in (3,)])),
    "in a Python module": lambda: Acting(lambda x: x * tables.table(3)),
    "closure": in_closure,
    "method": Method,
}


@pytest.mark.parametrize("name", USERS)
def test_cached_tables_have_the_precision_of_the_model(name):
    f = USERS[name]()
    exact = run(f)
    assert f(X).dtype == torch.float32
    assert torch.equal(run(f), exact)
    assert f(X).dtype == torch.float32


def test_a_cached_module_stays_cached():
    net = loaded()
    f = lambda x: loaded()(x)  # noqa: E731
    assert run(f).dtype == torch.float64
    assert loaded() is net
    assert net.weight.dtype == torch.float32


# Complex numbers


def test_complex_tensors_take_the_precision():
    class Complex(nn.Module):
        def __init__(self):
            super().__init__()
            self.p = nn.Parameter(torch.ones(3, 3, dtype=torch.complex64))
            self.register_buffer("b", torch.ones(3, dtype=torch.complex64))
            self.t = [torch.ones(3, dtype=torch.complex64)]

        def forward(self, x):
            self.seen = {t.dtype for t in (self.p, self.b, self.t[0], x.cfloat(), x.cdouble())}
            asked = torch.zeros(3, dtype=torch.complex64).to(torch.complex64)
            return x @ self.p + self.b + self.t[0] + asked

    model = Complex()
    x = X.to(torch.complex64)
    for dtype, expected in [
        (torch.float64, torch.complex128),
        (torch.float32, torch.complex64),
    ]:
        with sandboxed(model, dtype=dtype):
            assert model(cast(x, dtype)).dtype == expected
            assert model.p.dtype == model.b.dtype == model.t[0].dtype == expected
    assert model.p.dtype == model.b.dtype == model.t[0].dtype == torch.complex64
    assert cast(x.to(torch.complex128), torch.float32).dtype == torch.complex64
    assert cast(x, torch.bfloat16).dtype == torch.complex64


# Modules that cannot be sandboxed


@pytest.mark.parametrize("lazy", [nn.LazyLinear(3), nn.LazyBatchNorm1d(affine=False)])
def test_lazy_modules_are_named(lazy):
    model = nn.Sequential(nn.Linear(3, 3), lazy)
    state = torch.get_rng_state()
    message = rf"model must have run once: 1 \({type(lazy).__name__}\) is not initialized"
    for context in (sandboxed(model), moved_to("cpu", model)):
        with pytest.raises(ValueError, match=message), context:
            pass
    assert model.training
    assert model[0].weight.dtype == torch.float32
    assert torch.equal(torch.get_rng_state(), state)
    model(X)
    assert run(model).dtype == torch.float64


# The state of a module


def replace_parameter(m):
    m.net.weight = nn.Parameter(torch.zeros(3, 3, dtype=torch.float64))


def write_gradients(m):
    for p in m.parameters():
        p.grad = torch.ones_like(p)
    m.net(torch.ones(1, 3, dtype=torch.float64)).sum().backward()


ACTIONS = {
    "buffer in place": lambda m: m.steps.add_(1),
    "buffer replaced": lambda m: setattr(m, "steps", m.steps + 1),
    "buffer of None": lambda m: setattr(m, "steps", None),
    "buffer registered": lambda m: m.register_buffer("new", torch.zeros(1), persistent=False),
    "parameter in place": lambda m: m.net.weight.data.add_(1),
    "parameter replaced": replace_parameter,
    "parameter deleted": lambda m: delattr(m.net, "bias"),
    "module replaced": lambda m: setattr(m, "net", nn.Linear(3, 3)),
    "module added": lambda m: m.add_module("new", nn.Linear(3, 3)),
    "requires_grad": lambda m: m.requires_grad_(False),
    "gradients": write_gradients,
    "zero_grad": lambda m: m.zero_grad(set_to_none=False),
    "mode": lambda m: m.train(),
    "hook": lambda m: m.net.register_forward_hook(lambda *_: None),
    "hook before": lambda m: m.net.register_forward_pre_hook(lambda *_: None),
    "hook of backward": lambda m: m.net.register_full_backward_hook(lambda *_: None),
    "attribute": lambda m: setattr(m, "count", 1),
    "default dtype": lambda m: torch.set_default_dtype(torch.bfloat16),
    "error": lambda m: 1 / 0,
}


def state(model):
    parameters = [
        (name, content(p.detach()), id(p), p.data_ptr(), p.requires_grad, p._version, p.grad_fn)
        for name, p in model.named_parameters(remove_duplicate=False)
    ]
    gradients = [p.grad if p.grad is None else content(p.grad) for p in model.parameters()]
    buffers = [(name, content(b), b.data_ptr()) for name, b in model.named_buffers()]
    modules = [
        (name, id(m), m.training, list(vars(m)), set(m._non_persistent_buffers_set))
        for name, m in model.named_modules(remove_duplicate=False)
    ]
    hooks = [
        [dict(m._forward_hooks), dict(m._forward_pre_hooks), dict(m._backward_hooks)]
        for m in model.modules()
    ]
    own = [(name, id(value)) for m in model.modules() for name, value in vars(m).items()]
    random_states = torch.get_rng_state().tolist(), random.getstate(), repr(np.random.get_state())  # noqa: NPY002
    parameters = [(name, value[1:], *rest) for name, value, *rest in parameters]
    dtype = torch.get_default_dtype()
    return parameters, gradients, buffers, modules, hooks, own, random_states, dtype


@in_turn(name=ACTIONS, dtype=[torch.float64, torch.float32, torch.bfloat16])
def test_modules_are_restored(name, dtype):
    model = Doing(lambda m: None)
    model.other = nn.Sequential(nn.Dropout(), nn.LayerNorm(3).eval())
    model.twice = model.net  # parameters with two names
    model.net.bias.requires_grad_(False)
    model(X).square().sum().backward()
    model.action = ACTIONS[name]
    before = state(model)
    try:
        with sandboxed(model, dtype=dtype, jitter=3):
            assert model.net.weight.dtype == dtype
            random.random(), np.random.rand(1), torch.rand(1)  # noqa: NPY002
            model.action(model)
            raise KeyError
    except (KeyError, ZeroDivisionError, RuntimeError):
        pass
    assert state(model) == before


def test_nested_sandboxes():
    model = Doing(lambda m: m.steps.add_(1), it=[torch.zeros(1)])
    before = state(model)
    with sandboxed(model):
        weight = model.net.weight.data_ptr()
        with sandboxed(model, dtype=torch.float32, jitter=1), sandboxed(model):
            model(X.double())
        assert model.net.weight.data_ptr() == weight
        assert model.steps.tolist() == [0, 0]
        assert torch.get_default_dtype() == torch.float64
        with moved_to("cpu", model):
            model(X.double())
    assert state(model) == before


def test_zeros_are_moved_by_what_keeps_the_size_of_a_signal():
    convolution = nn.Conv1d(4, 6, 9)
    nn.init.zeros_(convolution.weight)
    with sandboxed(convolution, jitter=0):
        moved = convolution.weight.detach().abs() * (4 * 9) ** 0.5  # 36 entries meet in a sum
        assert 0.05 <= float(moved.min()) <= float(moved.max()) <= 0.15


def written_to(module):
    """What a run may leave behind, in tensors, containers and attributes."""
    module.steps.add_(1)
    module.net.weight.data.mul_(2)
    module.tables.append(torch.ones(1))
    module.new = torch.ones(2)


def test_remembered_contents_give_each_run_the_same_model():
    model = Doing(written_to, tables=[torch.zeros(1)], pair=Pair(torch.ones(1), torch.ones(1)))
    before, alone = state(model), run(model, jitter=3)
    other = run(model, jitter=4)
    with remembered_contents():
        for _ in range(4):
            assert torch.equal(run(model, jitter=3), alone)
            assert torch.equal(run(model, jitter=4), other)
            assert state(model) == before
        with sandboxed(model, jitter=3):
            model(X.double())
            kept = model.net.weight.clone()
            assert torch.equal(run(model, jitter=3, dtype=torch.float64), run(model, jitter=3))
            assert torch.equal(model.net.weight, kept)
        assert torch.equal(run(model, jitter=3), alone)
    assert state(model) == before


made, trained = [], []


def made_later(x):
    if not made:
        made.append(nn.Dropout())
    trained.append(made[0].training)
    return x


def test_a_module_that_the_first_run_makes_is_found_by_the_next(monkeypatch):
    searches = []
    monkeypatch.setattr(
        "tokennet.testing.engine.sandbox.reached",
        lambda roots, refers: searches.append(roots) or reached(roots, refers),
    )
    with remembered_contents():
        for _ in range(6):
            run(made_later)
    assert trained == [True, *[False] * 5]
    assert len(searches) == 2 * 3  # none, then one, and then the same


def test_backward_through_an_earlier_run_still_works():
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 1))
    seen = []
    model[0].weight.register_hook(lambda grad: seen.append(grad.dtype))
    expected = torch.autograd.grad(model(X).sum(), list(model.parameters()))
    output = model(X).sum()
    run(model, jitter=0)
    output.backward()
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), expected, strict=True))
    assert set(seen) == {torch.float32}


@pytest.mark.parametrize("name", ["spectral_norm", "orthogonal", "weight_norm"])
def test_parametrized_modules(name):
    model = nn.Sequential(getattr(parametrizations, name)(nn.Linear(3, 3)), nn.Linear(3, 3))
    model(X)
    expected, before = model.eval()(X), state(model.train())
    with parametrize_cached():
        assert run(model, jitter=0).dtype == torch.float64
    assert state(model) == before
    assert torch.equal(model.eval()(X), expected)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["spectral_norm", "weight_norm"])
def test_modules_normed_by_the_old_functions(name):
    model = nn.Sequential(getattr(nn.utils, name)(nn.Linear(3, 3)))
    expected, before = model.eval()(X), state(model.train())
    assert run(model, jitter=0).dtype == torch.float64
    assert state(model) == before
    assert torch.equal(model.eval()(X), expected)


def test_recurrent_modules():
    model = nn.LSTM(3, 3)
    expected = model(X)[0]
    run(model)
    assert torch.equal(model(X)[0], expected)
    assert all(a is b for a, b in zip(model._flat_weights, model.parameters(), strict=True))


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(3, 3)
        self.register_buffer("steps", torch.zeros(1))
        self.register_buffer("last", torch.zeros(1))

    def forward(self, x):
        self.steps.add_(1)
        self.last = self.steps + 1
        return self.net(x) + self.steps


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_script_modules():
    model = torch.jit.script(Counting())
    model.net.eval()
    outer = nn.Sequential(model)
    weight, values = model.net.weight, model.net.weight.clone()
    pointers = [p.data_ptr() for p in [*model.parameters(), *model.buffers()]]
    attributes = dict(vars(model))
    with sandboxed(outer):
        assert not model.training
        assert outer(X.double()).dtype == torch.float64
    assert vars(model) == attributes
    assert [p.data_ptr() for p in [*model.parameters(), *model.buffers()]] == pointers
    assert model.net.weight is weight
    assert torch.equal(weight, values)
    assert (model.steps.item(), model.last.item()) == (0, 0)
    assert (model.training, model.net.training) == (True, False)
    assert model(X).dtype == torch.float32
    assert torch.equal(model.steps, torch.ones(1))


def test_compiled_modules():
    plain = Counting()
    model = torch.compile(plain, backend="eager")
    expected = model(X) - plain.steps
    before = state(plain)
    assert run(model).dtype == torch.float64
    assert state(plain) == before
    assert model.training
    torch.testing.assert_close(model(X) - plain.steps, expected)


@dataclass(frozen=True)
class Settings:
    scale: torch.Tensor


def test_frozen_objects():
    settings = Settings(torch.ones(3))
    model = Doing(lambda m: m.settings.scale.add_(1), settings=settings)
    scale = settings.scale
    run(model)
    assert settings.scale is scale
    assert scale.tolist() == [1, 1, 1]


def test_constants_beside_trained_parameters_are_not_jittered():
    class Averages(nn.Module):
        def __init__(self):
            super().__init__()
            self.weights = nn.Parameter(torch.full((5, 5), 0.25), requires_grad=False)
            self.linear = nn.Linear(4, 4)

    model = Averages()
    with sandboxed(model, jitter=0):
        assert torch.equal(model.weights, torch.full((5, 5), 0.25).double())
        assert not torch.equal(model.linear.weight.float(), Averages().linear.weight)
    model.requires_grad_(False)
    with sandboxed(model, jitter=0):  # where nothing is trained, anything may hide a break
        assert not torch.equal(model.weights, torch.full((5, 5), 0.25).double())
