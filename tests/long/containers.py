"""Processes of prusik that follow each other in one folder, some of them as PID 1 of a container, for the scripts
beside this. Each container has a PID and a mount namespace of its own, and shares network and folder."""

import os
import pathlib
import signal
import subprocess
import time

from sessions import processes

CONTAINER = ["unshare", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc"]
READY = "lifecycle::run] ready\n"


class Containers:
    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.log = open(self.folder / "log", "w")
        self.started = []

    def spawn(self, command, **more):
        """Whatever brings the next one about."""
        self.ready_before = self.text().count(READY)
        self.started.append(subprocess.Popen(command, cwd=self.folder, stdout=self.log, stderr=self.log, **more))
        return self.started[-1]

    def text(self):
        return pathlib.Path(self.log.name).read_text()

    def may_end(self):
        """Whether what was spawned may end before the next one is ready."""
        return False

    def wait_ready(self, spawned):
        patience = time.monotonic() + 30
        while self.text().count(READY) == self.ready_before:
            code = spawned.poll()
            assert code is None or code == 0 and self.may_end(), f"it does not start: {self.text()[-2000:]}"
            assert time.monotonic() < patience, "it is not ready"
            time.sleep(0.02)

    def pids(self):
        """Of the prusiks, as this namespace has them."""
        for spawned in self.started:
            spawned.poll()
        found = []
        for pid in processes(str(self.folder)):
            try:
                if pathlib.Path(f"/proc/{pid}/comm").read_text() != "unshare\n":
                    found.append(pid)
            except OSError:
                continue
        return found

    def wait_alone(self):
        patience = time.monotonic() + 60
        while len(self.pids()) != 1:
            assert time.monotonic() < patience, f"{self.pids()} are there"
            time.sleep(0.02)
        return self.pids()[0]

    def wait_for(self, other):
        """When the victim is no more: those that are left, `other` or nobody."""
        patience = time.monotonic() + 30
        while (left := self.pids()) and left != [other]:
            assert time.monotonic() < patience, f"{left} are there, {other} was expected"
            time.sleep(0.02)
        return left

    def kill(self):
        for pid in self.pids():
            os.kill(pid, signal.SIGKILL)
        for spawned in self.started:
            spawned.wait()


def memory(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("RssAnon")).split()[1])
