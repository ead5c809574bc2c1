"""How long a session stands still while it moves: the slowest echo of all, during upgrades.

    python tests/long/move_latency.py PRUSIK [SESSIONS] [UPGRADES]

Each session has one echo after the other, each sent a second after the one before at the earliest, so
that most of those which move have one under way or get one soon. Raw sockets and epoll, the origin in
a process of its own: what is measured is prusik, and two Python loops that take a tenth of their time.
The same is measured before the upgrade, for comparison.
"""

import heapq
import json
import os
import pathlib
import resource
import select
import socket
import subprocess
import sys
import tempfile
import time

from sessions import CONFIG, HANDSHAKE, SWITCHING

PRUSIK = os.path.abspath(sys.argv[1])
SESSIONS = int(sys.argv[2]) if len(sys.argv) > 2 else 9000
UPGRADES = int(sys.argv[3]) if len(sys.argv) > 3 else 5

# Between two echoes of one session, in seconds.
PACE = 2.0
# The slowest echo in milliseconds that may be.
BOUND = 100

UPGRADE = HANDSHAKE.format(number=0).encode()
SAID = b"\x81\x85\0\0\0\0hello"
HEARD = b"\x81\x05hello"


def origin(listener):
    """Answers handshakes, and each message by the same one."""
    epoll = select.epoll()
    epoll.register(listener, select.EPOLLIN)
    sessions = {}
    while True:
        for number, _ in epoll.poll():
            if number == listener.fileno():
                session, _ = listener.accept()
                session.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                epoll.register(session, select.EPOLLIN)
                sessions[session.fileno()] = [session, False]
                continue
            session, is_open = sessions[number]
            said = session.recv(65536)
            if not said:
                del sessions[number]
                session.close()
            elif not is_open:
                sessions[number][1] = True
                session.send(SWITCHING)
            else:
                session.send(HEARD * (len(said) // len(SAID)))


class Clients:
    def __init__(self, port):
        self.epoll = select.epoll()
        self.sessions = {}
        self.sent = {}
        self.due = []
        for _ in range(SESSIONS):
            session = socket.create_connection(("127.0.0.1", port))
            session.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            session.send(UPGRADE)
            head = session.recv(4096)
            assert head.startswith(b"HTTP/1.1 101"), head
            self.epoll.register(session, select.EPOLLIN)
            self.sessions[session.fileno()] = session
        now = time.monotonic()
        for place, number in enumerate(self.sessions):
            heapq.heappush(self.due, (now + PACE * place / SESSIONS, number))

    def run(self, is_over):
        """Returns all waits, in seconds, of echoes that were under way at some time."""
        waits = []
        while not is_over():
            now = time.monotonic()
            while self.due and self.due[0][0] <= now:
                _, number = heapq.heappop(self.due)
                self.sessions[number].send(SAID)
                self.sent[number] = time.monotonic()
            rest = self.due[0][0] - now if self.due else 0.01
            for number, _ in self.epoll.poll(max(0, min(rest, 0.01))):
                heard = self.sessions[number].recv(65536)
                now = time.monotonic()
                if heard != HEARD:
                    raise SystemExit(f"a session said {heard!r}")
                sent = self.sent.pop(number)
                waits.append(now - sent)
                heapq.heappush(self.due, (sent + PACE, number))
        return waits


def operate(folder, *arguments):
    return subprocess.Popen([PRUSIK, *arguments, "--admin", f"unix:{folder}/admin.sock"],
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def told(waits):
    waits = sorted(waits)
    half, most = waits[len(waits) // 2], waits[len(waits) * 999 // 1000]
    return (f"{len(waits):,} echoes: half within {half * 1000:.1f} ms, 99.9 % within {most * 1000:.1f} ms,"
            f" all within {waits[-1] * 1000:.0f} ms")


def main():
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    folder = os.path.realpath(tempfile.mkdtemp())
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    server = os.fork()
    if server == 0:
        origin(listener)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    file = pathlib.Path(folder) / "prusik.yaml"
    file.write_text(CONFIG.format(folder=folder, port=port, chat=listener.getsockname()[1]))
    log = open(f"{folder}/log", "w")
    first = subprocess.Popen([PRUSIK, "run", "--config", file], cwd=folder, stderr=log)
    pid = first.pid
    slowest = 0
    try:
        while "ready" not in pathlib.Path(f"{folder}/log").read_text():
            time.sleep(0.05)
        clients = Clients(port)
        print(f"{SESSIONS:,} sessions")
        start = time.monotonic()
        clients.run(lambda: time.monotonic() > start + PACE)
        for number in range(1, UPGRADES + 1):
            start = time.monotonic()
            print("  before:", told(clients.run(lambda: time.monotonic() > start + PACE)), flush=True)
            upgrade = operate(folder, "upgrade")
            waits = clients.run(lambda: upgrade.poll() is not None)
            took = time.monotonic() - start - PACE
            end = time.monotonic()
            # Whoever was on its way then is heard of by now.
            waits += clients.run(lambda: time.monotonic() > end + 0.5)
            said = upgrade.stdout.read().strip()
            print(f"{number}: {took * 1000:.0f} ms, {said}; {told(waits)}", flush=True)
            assert upgrade.returncode == 0 and f"{SESSIONS:,} sessions moved" in said
            status = operate(folder, "status", "--json")
            pid = json.loads(status.communicate()[0])["pid"]
            slowest = max(slowest, *waits)
        print(f"the slowest echo during {UPGRADES} upgrades: {slowest * 1000:.0f} ms (at most {BOUND})")
        assert slowest * 1000 <= BOUND
        print("move_latency: passed")
    finally:
        os.kill(pid, 15)
        os.kill(server, 9)
        first.wait()


if __name__ == "__main__":
    main()
