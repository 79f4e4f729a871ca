"""Tasks from arrays, datasets and folders: their tokens, their targets, their tests."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch_geometric.data import Data
from torch_geometric.datasets import KarateClub
from torch_geometric.utils import erdos_renyi_graph

from tests.axes import spread
from tokennet.compare import TASKS, Budget, compare, load_task, task_from
from tokennet.compare.from_data.arrays import split_of
from tokennet.compare.from_data.graph_data import area_under_roc


def graphs(count=30, floats=False):
    generator = torch.Generator().manual_seed(0)
    found = []
    for number in range(count):
        n = 3 + number % 4
        y = torch.tensor([number / 10 if floats else number % 3])
        x = torch.randn(n, 2, generator=generator)
        found.append(Data(x=x, edge_index=erdos_renyi_graph(n, 0.5), y=y))
    return found


def pictures(folder, channels=3, splits=("",)):
    generator = np.random.default_rng(0)
    for split in splits:
        for kind in ("cat", "dog", "owl"):
            (folder / split / kind).mkdir(parents=True)
            for number in range(6):
                shape = (9, 12, 3) if channels == 3 else (9, 12)
                pixels = generator.integers(255, size=shape, dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / kind / f"{number}.png")
    return folder


class FakeDataset:
    """As a `Dataset` of Hugging Face: columns by name."""

    def __init__(self, **columns):
        self.columns = columns
        self.features = {name: SimpleNamespace(dtype="?") for name in columns}
        self.column_names = list(columns)

    def __getitem__(self, name):
        return self.columns[name]

    def __len__(self):
        return len(next(iter(self.columns.values())))


class FakeDict(dict):
    """As a `DatasetDict`."""

    column_names = property(lambda self: {name: part.column_names for name, part in self.items()})


random = np.random.default_rng(0).random
TEXTS = ["to be or not", "to be", "that is", "the question"] * 8
DATA = {
    "table": lambda: ((torch.randn(40, 4), torch.arange(40) % 3), {}),
    "numbers": lambda: ((random((40, 4)), random(40)), {}),
    "series": lambda: ((torch.randn(40, 6, 2), torch.arange(40) % 3), {}),
    "images": lambda: ((random((40, 10, 12)), np.arange(40) % 3), {"images": True}),
    "sets": lambda: (([random((2 + n % 3, 2)) for n in range(40)], np.arange(40) % 2), {}),
    "torch": lambda: (torch.utils.data.TensorDataset(torch.randn(40, 3), torch.arange(40) % 2), {}),
    "nodes": lambda: (KarateClub()[0], {}),
    "one graph": lambda: (KarateClub(), {}),
    "links": lambda: (KarateClub()[0], {"level": "link"}),
    "graphs": lambda: (graphs(), {}),
    "numbers of graphs": lambda: (graphs(floats=True), {}),
    "texts": lambda: (FakeDataset(text=TEXTS, label=[len(text) % 2 for text in TEXTS]), {}),
    "vectors": lambda: (FakeDataset(x=random((30, 4)).tolist(), label=["a", "b"] * 15), {}),
}


@pytest.mark.parametrize("name", spread(DATA, every=3))
def test_a_task_in_a_line(name, tmp_path):
    data, options = DATA[name]()
    task = task_from(data, **options)
    quick = Budget(epochs=1, size=12_000)
    result = compare(task, nets=task.nets[:1], seeds=1, budget=quick, out=tmp_path)
    assert result.rows[0].score is not None
    assert task.metrics[0].name in next(iter(result.baselines)).scores
    splits = task.splits(0)
    every = torch.cat([*splits.values()])
    assert len(every.unique()) == len(every)
    for net in task.nets:
        spec = task.parse(net)
        batch = task.batch(splits["train"][:3], spec.graph)
        assert batch.target.shape[0] == 3


def test_columns_of_a_table_are_tokens_standardized_by_the_training():
    x = torch.randn(50, 3) * torch.tensor([1.0, 10.0, 100.0]) + 7
    task = task_from((x, torch.arange(50) % 2))
    train = task.splits(0)["train"]
    assert task.z.shape == (50, 3, 1)
    torch.testing.assert_close(task.z[train].mean(0), torch.zeros(3, 1), atol=1e-5, rtol=0)
    torch.testing.assert_close(task.z[train].std(0), torch.ones(3, 1))


def test_images_of_arrays_come_back_whole():
    x = torch.randint(255, (12, 3, 9, 12), dtype=torch.uint8)
    task = task_from((x, torch.arange(12) % 2), patch=4)
    assert (task.interface.num_tokens, task.interface.grid) == (9, (3, 3))
    batch = task.batch(torch.arange(2), "grid")
    torch.testing.assert_close(task.to_images(batch.tokens), x[:2].float() / 255)
    assert batch.tokens.pos[4].tolist() == [1, 1]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_folder_for_each_class(channels, tmp_path):
    task = task_from(pictures(tmp_path / "pets", channels))
    assert task.name == "pets"
    assert task.target.tolist() == [0] * 6 + [1] * 6 + [2] * 6
    image = task.to_images(task.batch(torch.tensor([7]), "full").tokens)[0]
    pixels = torch.tensor(np.asarray(Image.open(tmp_path / "pets" / "dog" / "1.png")))
    expected = pixels[None] if channels == 1 else pixels.permute(2, 0, 1)
    torch.testing.assert_close(image, expected.float() / 255)
    assert task_from(tmp_path / "pets", size=6).size == (6, 6)


def test_folders_of_splits(tmp_path):
    task = task_from(pictures(tmp_path / "pets", splits=("train", "valid", "test")))
    sizes = {name: len(index) for name, index in task.splits(0).items()}
    assert sizes == {"train": 18, "val": 18, "test": 18}
    assert set(task.target[task.splits(0)["test"]].tolist()) == {0, 1, 2}


def test_splits_of_a_dataset_dict_are_kept():
    parts = {"train": 20, "validation": 5, "test": 7, "unsupervised": 3}
    data = FakeDict(
        {name: FakeDataset(text=TEXTS[:n], label=[n % 2] * n) for name, n in parts.items()}
    )
    task = task_from(data, length=3)
    assert {name: len(index) for name, index in task.splits(0).items()} == {
        "train": 20, "val": 5, "test": 7,
    }  # fmt: skip
    assert task.target[task.splits(0)["val"]].tolist() == [1] * 5
    assert task.interface.ids
    assert task.batch(torch.arange(2), "full").tokens.z.shape[-2] <= 6


def test_nodes_have_the_split_of_their_masks():
    data = KarateClub()[0]
    task = task_from(data)
    splits = task.splits(0)
    assert torch.equal(splits["train"], data.train_mask.nonzero().flatten())
    assert len(splits["train"]) + len(splits["test"]) == 34
    masks = torch.zeros(34, 2, dtype=torch.bool)
    masks[:5, 0] = masks[5:9, 1] = True
    data.train_mask = data.test_mask = masks
    assert [len(task_from(data).splits(seed)["train"]) for seed in (0, 1, 2)] == [5, 4, 5]
    graph = task.on["edges"]
    assert graph.num_edges == data.num_edges + 34


def test_links_of_the_test_are_not_in_the_graph():
    data = KarateClub()[0]
    task = task_from(data, level="link")
    target, parts = task.target, task.parts
    seen = task.on["edges"].dense()
    linked = torch.zeros(34, 34, dtype=torch.bool)
    linked[data.edge_index[0], data.edge_index[1]] = True
    assert torch.equal(linked[target[:, 0], target[:, 1]], target[:, 2] == 1)
    for split, index in parts.items():
        row, column, label = target[index].T
        known = seen[row, column] & seen[column, row]
        assert torch.equal(known, (label == 1) & (split == "train")), split
        assert label.double().mean() == pytest.approx(0.5, abs=0.06)


def test_the_area_under_the_curve_is_that_of_sklearn():
    from sklearn.metrics import roc_auc_score

    scores = torch.randint(6, (40,)).double()
    linked = (torch.rand(40) > 0.4).double()
    found = area_under_roc(torch.stack([scores, linked], dim=1))
    assert found == pytest.approx(roc_auc_score(linked, scores))


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (lambda: 3, {}, "data must be a pair of arrays, a dataset of torch"),
        (lambda: "no folder", {}, "data must be a folder of images, got 'no folder'"),
        (lambda: (torch.zeros(9, 2), torch.zeros(8)), {}, "the same number of them, got 9 and 8"),
        (lambda: (torch.zeros(9, 2), -torch.arange(9)), {}, "y must be classes from 0, got -8"),
        (lambda: (torch.zeros(9), torch.arange(9)), {}, "x must have 2, 3 or 4 dimensions"),
        (lambda: KarateClub(), {"level": "edge"}, "level must be one of node, graph, link"),
        (lambda: graphs(3), {"level": "node"}, "level must be graph for 3 graphs, got 'node'"),
        (lambda: FakeDataset(text=["a"], y=[0]), {"label": "z"}, "label must be one of text, y"),
        (lambda: FakeDict(a=FakeDataset(x=[0], y=[0])), {}, "the splits train and test, got a"),
    ],
)
def test_data_that_are_of_no_kind_are_refused(data, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        task_from(data(), **options)


def test_splits_hold_each_example_at_most_once():
    assert {n: i.tolist() for n, i in split_of(3, {"train": [0, 2], "test": [1]}).items()} == {
        "train": [0, 2], "test": [1],
    }  # fmt: skip
    for wrong in ({"train": [0], "test": [0]}, {"train": [0], "test": [3]}):
        with pytest.raises(ValueError, match=r"each of 0 \.\. 2 at most once"):
            split_of(3, wrong)
    with pytest.raises(ValueError, match="splits must be train, test and perhaps val, got train"):
        split_of(3, {"train": [0]})


two_arrays = (torch.randn(40, 3), torch.arange(40) % 2)


def test_data_by_name_in_the_shell(tokennet, tmp_path):
    pets = pictures(tmp_path / "pets")
    cases = {
        f"images:{pets}": ("--set", "patch=6"),
        "tests.compare.test_from_data:two_arrays": ("--set", "name=two"),
        "pyg:KarateClub": ("--set", "level=link"),
    }
    for name, options in cases.items():
        quick = ("--nets", "none", "--epochs", 1, "--seeds", 1, "--size", 3_000)
        done = tokennet("compare", name, *options, *quick, "--out", tmp_path / "out")
        assert done.returncode == 0, done.stderr
    assert load_task("pyg:KarateClub", TASKS, {"level": "link"}).source == {
        "name": "pyg:KarateClub", "arguments": {"level": "link"},
    }  # fmt: skip
    with pytest.raises(ValueError, match="task pyg must be one of .*did you mean KarateClub"):
        load_task("pyg:Karate", TASKS)


def test_datasets_that_are_not_installed_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match="datasets"):
        load_task("hf:imdb", TASKS)


def test_a_dataset_of_hugging_face_on_the_disk(tmp_path, monkeypatch):
    found = FakeDict(train=FakeDataset(text=TEXTS, label=[0, 1] * 16))
    found["test"] = found["train"]
    read = SimpleNamespace(load_from_disk=lambda path: found if path == str(tmp_path) else None)
    monkeypatch.setitem(sys.modules, "datasets", read)
    task = load_task(f"hf:{tmp_path}", TASKS)
    assert {name: len(index) for name, index in task.splits(0).items()} == {"train": 32, "test": 32}
    assert task.name == tmp_path.name
