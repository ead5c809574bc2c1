"""Upgrades, in each of which one of the two processes is killed at a random moment, under load.

    python tests/long/upgrade_kills.py PRUSIK [SESSIONS] [UPGRADES] [SEED]

The victim is stopped first, for as long as it takes to see which sockets it has: only sessions that it
holds may be lost, all others go on. Origin and clients know every byte that must come next, in both
directions: one that is lost, or that two processes carry, is noticed at once. After each upgrade every
session that is left must have an answer to all it has said, and the process that is left must count
as many sessions as there are.
"""

import collections
import json
import os
import pathlib
import random
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time

from sessions import CONFIG, Load, Origin, processes
from tiers import free_port

PRUSIK = os.path.abspath(sys.argv[1])
SESSIONS = int(sys.argv[2]) if len(sys.argv) > 2 else 600
UPGRADES = int(sys.argv[3]) if len(sys.argv) > 3 else 50
SEED = int(sys.argv[4]) if len(sys.argv) > 4 else random.randrange(1 << 32)


def sockets(pid):
    """The inodes of all that it has."""
    found = set()
    for entry in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(entry)
        except OSError:
            continue
        if target.startswith("socket:["):
            found.add(target[8:-1])
    return found


def stop(pid):
    """Returns when none of its threads runs any more: until then it goes on taking sessions."""
    os.kill(pid, signal.SIGSTOP)
    while True:
        states = []
        for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
            try:
                states.append((task / "stat").read_text().rsplit(")", 1)[1].split()[0])
            except OSError:
                continue
        if set(states) <= {"T", "Z", "X"}:
            return
        time.sleep(0.001)


def inodes_by_client(port):
    """Which socket of a prusik each client's port is connected to."""
    found = {}
    for line in pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        local, remote = (int(words[place].split(":")[1], 16) for place in (1, 2))
        if local == port and remote:
            found[remote] = words[9]
    return found


def end(pid):
    """Returns when it is no more."""
    dead = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    # Its number may be too great for select.
    ended = select.poll()
    ended.register(dead, select.POLLIN)
    ended.poll()
    os.close(dead)


def operate(folder, *arguments):
    return subprocess.Popen([PRUSIK, *arguments, "--admin", f"unix:{folder}/admin.sock"],
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def start(file, log):
    before = pathlib.Path(log.name).read_text().count("ready\n")
    process = subprocess.Popen([PRUSIK, "run", "--config", file], cwd=file.parent, stderr=log)
    while pathlib.Path(log.name).read_text().count("ready\n") == before:
        assert process.poll() is None, "prusik does not start"
        time.sleep(0.05)
    return process


def status(folder):
    patience = time.monotonic() + 15
    while True:
        asked = operate(folder, "status", "--json")
        said, _ = asked.communicate()
        if asked.returncode == 0:
            return json.loads(said)
        if time.monotonic() > patience:
            raise SystemExit(f"nobody answers operators: {said}")
        time.sleep(0.05)


def upgrade_in_peace(folder):
    started = time.monotonic()
    asked = operate(folder, "upgrade")
    assert asked.wait(30) == 0, asked.stdout.read()
    return time.monotonic() - started


def main():
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    folder = os.path.realpath(tempfile.mkdtemp())
    origin = Origin()
    port = free_port()
    file = pathlib.Path(folder) / "prusik.yaml"
    file.write_text(CONFIG.format(folder=folder, port=port, chat=origin.port))
    log = open(f"{folder}/log", "w")
    first = start(file, log)
    dice = random.Random(SEED)
    print(f"seed {SEED}, log {folder}/log")
    counts = collections.Counter()
    try:
        load = Load(port, SESSIONS, SEED)
        load.refill()
        load.start()
        pid = first.pid
        # How long an upgrade takes that nobody meets.
        usual = upgrade_in_peace(folder)
        while counts.total() < UPGRADES:
            pid = status(folder)["pid"]
            time.sleep(0.3)
            upgrade = operate(folder, "upgrade")
            time.sleep(dice.random() * usual)
            there = processes(folder)
            if len(there) != 2 or pid not in there:
                # It has not begun, or is over: whoever is alone has all sessions.
                upgrade.wait(30)
                continue
            [new] = set(there) - {pid}
            if f"starts as {new}\n" not in pathlib.Path(log.name).read_text():
                # The process between the two, in the moment before it is known as that: nobody may miss it.
                os.kill(new, signal.SIGKILL)
                upgrade.wait(30)
                load.settle()
                bad = origin.wrong()
                assert not load.wrong and not load.lost and not bad, (load.wrong[:3], load.lost, bad)
                counts["holder"] += 1
                print(f"{counts.total()}: holder killed: 0 lost", flush=True)
                continue
            side = dice.choice(["old", "new"])
            victim, other = (pid, new) if side == "old" else (new, pid)
            stop(victim)
            with load.lock:
                by_client = inodes_by_client(port)
                ports = {session.port for session in load.live.values()}
            held, elsewhere = sockets(victim), sockets(other)
            end(victim)
            upgrade.wait(30)
            patience = time.monotonic() + 15
            while (left := processes(folder)) and left != [other]:
                first.poll()
                if time.monotonic() > patience:
                    raise SystemExit(f"{left} are there, {other} was expected")
                time.sleep(0.02)
            if not left:
                # The old one was done, and about to end anyway.
                assert side == "new", "the new one has ended with the old one"
                first = start(file, log)
                load.lost.clear()
                load.refill()
                continue
            load.settle()
            lost = {session.port for session in load.lost}
            load.lost.clear()
            may_go = {client for client in ports if by_client.get(client) in held}
            in_both = {client for client in may_go if by_client.get(client) in elsewhere}
            now = status(folder)
            counts[side] += 1
            print(f"{counts.total()}: {side} killed with {len(may_go)} sessions, {len(in_both)} of them on"
                  f" their way: {len(lost)} lost, {len(lost & in_both)} of those on their way;"
                  f" {now['sessions']} left", flush=True)
            bad = origin.wrong()
            assert not load.wrong and not bad, (load.wrong[:3], bad)
            assert lost <= may_go, f"{len(lost - may_go)} sessions were lost that the other one carried"
            assert now["pid"] == other and now["sessions"] == len(load.live), (now, len(load.live))
            load.refill()
        print(f"{dict(counts)}, seed {SEED}")
        print("upgrade_kills: passed")
    finally:
        for left in processes(folder):
            os.kill(left, signal.SIGKILL)
        origin.kill()
        first.wait()


if __name__ == "__main__":
    main()
