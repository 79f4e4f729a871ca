"""A clock that passes only in the steps of made-up peers, for tests of what is measured."""

import torch

from tokennet.bench.setting import Peer


class Clock:
    """Time passes only in the steps of peers made here."""

    def __init__(self):
        self.now, self.steps, self.hosts = 0.0, [], set()

    def timer(self, step, host_ms=0.0):
        self.hosts.add(host_ms)
        start = self.now
        step()
        return self.now - start

    def peer(self, name, *milliseconds, backward=True, factor=2.0):
        """Takes these times in its steps one after the other, then the last again."""
        given = (torch.ones(1, requires_grad=True),)
        taken = list(milliseconds)

        def run(x):
            assert given[0].grad is None
            self.now += taken.pop(0) if len(taken) > 1 else taken[0]
            self.steps.append(name)
            return factor * x

        return Peer(run, given, torch.ones(1) if backward else None)
