"""Take-overs between processes that are each PID 1 of a container of their own, under load.

    python tests/long/take_overs.py PRUSIK [SESSIONS] [TAKE_OVERS] [SEED]

First so many in peace: no session is lost, one process is left, and it has no more memory than after the
second. Then so many in each of which one of the two is killed at a random moment, as in upgrade_kills.py: only
what the killed one held may be lost. Each has a PID and a mount namespace of its own; they share the network
and the folder of the socket `server.hand_over`, as containers with host networking do.
"""

import collections
import os
import random
import resource
import tempfile
import time

from containers import CONTAINER, Containers, memory
from sessions import CONFIG, Load, Origin
from tiers import free_port
from upgrade_kills import PRUSIK, SEED, SESSIONS, UPGRADES, end, inodes_by_client, sockets, status, stop

class TakeOvers(Containers):
    def __init__(self, folder, port, chat):
        super().__init__(folder)
        self.file = self.folder / "prusik.yaml"
        server = f"hand_over: \"unix:{folder}/hand-over.sock\""
        config = CONFIG.format(folder=folder, port=port, chat=chat)
        assert "server: {" in config
        self.file.write_text(config.replace("server: {", "server: { " + server + ", ", 1))

    def begin(self):
        return self.spawn([*CONTAINER, PRUSIK, "run", "--take-over", "--config", self.file])


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
        if not containers.wait_for(other):
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
    containers = TakeOvers(folder, port, origin.port)
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
