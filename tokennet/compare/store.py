"""Finished runs, each in a file named by a hash of all that determined it."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from tokennet.compare.train import Run


def run_key(config: dict[str, Any]) -> str:
    """A hash of (task, net, widths, recipe, seed, version): equal if and only if they are."""
    text = json.dumps(config, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class RunStore:
    """Runs under `folder/runs`. A file is complete or absent, however a run ended."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "runs"

    def load(self, config: dict[str, Any]) -> Run | None:
        path = self._path(config)
        if not path.exists():
            return None
        try:
            return Run(**json.loads(path.read_text())["run"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} holds no run ({error}); delete it to run again") from error

    def shown(self, config: dict[str, Any]) -> Path:
        """The folder of what a run has to show, beside its file."""
        return self._path(config).with_suffix("")

    def save(self, config: dict[str, Any], run: Run) -> None:
        path = self._path(config)
        write_text(path, json.dumps({"config": config, "run": run.to_dict()}, indent=1))

    def _path(self, config: dict[str, Any]) -> Path:
        return self.folder / f"{run_key(config)}.json"


def write_text(path: Path, text: str) -> None:
    """Write a file so that it is never seen half written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    partial.write_text(text)
    partial.replace(path)
