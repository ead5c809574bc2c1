"""Take-overs between processes that are each PID 1 of a container of their own, under load.

    python tests/long/take_overs.py PRUSIK [SESSIONS] [TAKE_OVERS] [SEED]

First so many in peace: no session is lost, one process is left, and it has no more memory than after the
second. Then so many in each of which one of the two is killed at a random moment, as in upgrade_kills.py: only
what the killed one held may be lost. Each has a PID and a mount namespace of its own; they share the network
and the folder of the socket `server.hand_over`, as containers with host networking do.
"""

import collections
import os
import pathlib
import random
import resource
import signal
import subprocess
import tempfile
import time

from sessions import CONFIG, Load, Origin, processes
from tiers import free_port
from upgrade_kills import PRUSIK, SEED, SESSIONS, UPGRADES, end, inodes_by_client, sockets, status, stop

CONTAINER = ["unshare", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc"]
READY = "lifecycle::run] ready\n"


class Containers:
    def __init__(self, folder, port, chat):
        self.folder = pathlib.Path(folder)
        self.file = self.folder / "prusik.yaml"
        server = f"hand_over: \"unix:{folder}/hand-over.sock\""
        config = CONFIG.format(folder=folder, port=port, chat=chat)
        assert "server: {" in config
        self.file.write_text(config.replace("server: {", "server: { " + server + ", ", 1))
        self.log = open(f"{folder}/log", "w")
        self.started = []

    def begin(self):
        self.ready_before = self.text().count(READY)
        command = [*CONTAINER, PRUSIK, "run", "--take-over", "--config", self.file]
        self.started.append(subprocess.Popen(command, cwd=self.folder, stderr=self.log))
        return self.started[-1]

    def text(self):
        return pathlib.Path(self.log.name).read_text()

    def wait_ready(self, container):
        patience = time.monotonic() + 30
        while self.text().count(READY) == self.ready_before:
            assert container.poll() is None, f"it does not start: {self.text()[-2000:]}"
            assert time.monotonic() < patience, "it is not ready"
            time.sleep(0.02)

    def pids(self):
        """Of the prusiks, as this namespace has them."""
        for container in self.started:
            container.poll()
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

    def kill(self):
        for pid in self.pids():
            os.kill(pid, signal.SIGKILL)
        for container in self.started:
            container.wait()


def memory(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("RssAnon")).split()[1])


def judge(load, origin):
    load.settle()
    bad = origin.wrong()
    assert not load.wrong and not bad, (load.wrong[:3], bad)


def in_peace(containers, load, origin):
    times, kib = [], []
    for number in range(1, UPGRADES + 1):
        began = time.monotonic()
        containers.wait_ready(containers.begin())
        times.append(time.monotonic() - began)
        pid = containers.wait_alone()
        judge(load, origin)
        assert not load.lost, f"{len(load.lost)} sessions were lost"
        count = status(containers.folder)["sessions"]
        assert count == len(load.live), (count, len(load.live))
        kib.append(memory(pid))
    print(f"{UPGRADES} take-overs, {len(load.live)} sessions: none lost, ready after {max(times):.2f} s at the most,"
          f" KiB {kib[1]} after the second, {kib[-1]} after the last", flush=True)
    assert kib[-1] <= 1.05 * kib[1], kib
    return sorted(times)[len(times) // 2]


def with_kills(containers, load, origin, port, usual, dice):
    counts = collections.Counter()
    while counts.total() < UPGRADES:
        old = containers.wait_alone()
        time.sleep(0.3)
        container = containers.begin()
        time.sleep(dice.random() * 1.5 * usual)
        there = containers.pids()
        if len(there) != 2 or old not in there:
            # It has not begun, or is over: whoever is alone has all sessions.
            containers.wait_ready(container)
            continue
        [new] = set(there) - {old}
        side = dice.choice(["old", "new"])
        victim, other = (old, new) if side == "old" else (new, old)
        stop(victim)
        with load.lock:
            by_client = inodes_by_client(port)
            ports = {session.port for session in load.live.values()}
        held = sockets(victim)
        end(victim)
        patience = time.monotonic() + 30
        while (left := containers.pids()) and left != [other]:
            assert time.monotonic() < patience, f"{left} are there, {other} was expected"
            time.sleep(0.02)
        if not left:
            # The old one was done and about to end, or the new one had not been given anything yet.
            counts[f"{side}, and the other one ended"] += 1
            containers.wait_ready(containers.begin())
            load.settle()
            load.lost.clear()
            load.refill()
            continue
        judge(load, origin)
        lost = {session.port for session in load.lost}
        load.lost.clear()
        may_go = {client for client in ports if by_client.get(client) in held}
        now = status(containers.folder)
        counts[side] += 1
        print(f"{counts.total()}: {side} killed with {len(may_go)} sessions: {len(lost)} lost;"
              f" {now['sessions']} left", flush=True)
        assert lost <= may_go, f"{len(lost - may_go)} sessions were lost that the other one carried"
        assert now["sessions"] == len(load.live), (now["sessions"], len(load.live))
        load.refill()
    print(f"{dict(counts)}, seed {SEED}")


def main():
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    folder = os.path.realpath(tempfile.mkdtemp())
    origin = Origin()
    port = free_port()
    containers = Containers(folder, port, origin.port)
    print(f"seed {SEED}, log {folder}/log")
    try:
        containers.wait_ready(containers.begin())
        load = Load(port, SESSIONS, SEED)
        load.refill()
        load.start()
        usual = in_peace(containers, load, origin)
        with_kills(containers, load, origin, port, usual, random.Random(SEED))
        print("take_overs: passed")
    finally:
        containers.kill()
        origin.kill()


if __name__ == "__main__":
    main()
