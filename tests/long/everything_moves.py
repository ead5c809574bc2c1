"""Sessions by TLS and in plain text, event streams and keep-alive connections, through upgrades and take-overs.

    python tests/long/everything_moves.py PRUSIK [SESSIONS] [ROUNDS] [SEED]

So many sessions (half of them by wss, of TLS 1.2 and 1.3; half of all go on to a server by wss), a quarter as many
event streams, and requests over a kept connection by TLS all the time. ROUNDS upgrades by exec in peace: nothing is
closed, wrong, refused or failed, one process is left, and it has at most 1.05 times the memory that it had after the
second. Then ROUNDS more with a kill of a random side at a random moment in each: only what the killed process held
may be lost. Then both by `run --take-over`, each process as PID 1 of a container. With a debug build every nonce is
noted, and none comes twice.
"""

import collections
import os
import pathlib
import random
import resource
import select
import signal
import socket
import ssl
import sys
import tempfile
import threading
import time

from containers import CONTAINER, Containers, memory
from sessions import Load, Origin, Session
from tiers import free_port
from upgrade_kills import end, inodes_by_client, sockets, status, stop

PRUSIK = os.path.abspath(sys.argv[1])
SESSIONS = int(sys.argv[2]) if len(sys.argv) > 2 else 2000
ROUNDS = int(sys.argv[3]) if len(sys.argv) > 3 else 20
SEED = int(sys.argv[4]) if len(sys.argv) > 4 else random.randrange(1 << 32)

SHIPPED = pathlib.Path(__file__).resolve().parent.parent / "shipped" / "tls"
CERT, KEY = (SHIPPED / f"chat.example.com.{end}" for end in ("pem", "key"))
CONFIG = """
server:
  threads: 2
  hand_over: "unix:{folder}/hand-over.sock"
  drain: {{ window: 1s, deadline: 20s }}
admin: {{ listen: "unix:{folder}/admin.sock" }}
access_log: {{ path: "{folder}/access.log", format: json }}
listeners:
  - {{ listen: "127.0.0.1:{plain}" }}
  - {{ listen: "127.0.0.1:{secure}", tls: {{ certificates: [{{ cert: "{cert}", key: "{key}" }}] }} }}
upstreams:
  chat: {{ servers: ["127.0.0.1:{chat}"] }}
  secure: {{ servers: ["127.0.0.1:{secure_chat}"], tls: {{ verify: false }} }}
  events: {{ servers: ["127.0.0.1:{events}"] }}
routes:
  - {{ match: {{ path_prefix: /events }}, upstream: events }}
  - {{ match: {{ path: /alive }}, respond: {{ status: 200, body: alive }} }}
  - {{ match: {{ path_regex: "[02468]$" }}, upstream: chat, websocket: {{ idle: 1h }} }}
  - {{ upstream: secure, websocket: {{ idle: 1h }} }}
"""
PACE = 0.5


def client_context(version=None):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if version:
        context.minimum_version = context.maximum_version = version
    return context


def server_context():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERT, KEY)
    return context


class Mixed(Load):
    """Of four sessions in a row: plain, wss by TLS 1.3, plain, wss by TLS 1.2. Odd numbers go on by wss."""

    def __init__(self, plain, secure, count, seed):
        super().__init__(plain, count, seed)
        self.secure = secure
        self.contexts = [client_context(ssl.TLSVersion.TLSv1_3), client_context(ssl.TLSVersion.TLSv1_2)]

    def another(self):
        kind = self.next // 2 % 4
        if kind % 2 == 0:
            session = Session(self.address, self.next)
        else:
            session = Session(self.secure, self.next, self.contexts[kind // 2])
        session.open()
        return session


def event(number):
    return f"id: {number}\ndata: {number} {'x' * (number * 37 % 500)}\n\n".encode()


def event_origin(listener):
    """Numbered events to everybody who asks, each in two chunks."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    listener.setblocking(False)
    streams = []
    while True:
        while True:
            try:
                accepted, _ = listener.accept()
            except BlockingIOError:
                break
            accepted.setblocking(True)
            asked = b""
            while b"\r\n\r\n" not in asked and (more := accepted.recv(4096)):
                asked += more
            accepted.sendall(head)
            streams.append([accepted, 0])
        for stream in list(streams):
            said = event(stream[1])
            cut = 1 + stream[1] % (len(said) - 1)
            try:
                for part in (said[:cut], said[cut:]):
                    stream[0].sendall(b"%x\r\n%s\r\n" % (len(part), part))
                stream[1] += 1
            except OSError:
                streams.remove(stream)
        time.sleep(PACE)


class Streams(threading.Thread):
    """Reads event streams, half of them by TLS. Those that are lost are taken note of."""

    ASK = "GET /events/{number} HTTP/1.1\r\nHost: test\r\nAccept: text/event-stream\r\n\r\n"

    def __init__(self, plain, secure, count):
        super().__init__(daemon=True)
        self.plain, self.secure, self.count, self.next = plain, secure, count, 0
        self.epoll, self.lock = select.epoll(), threading.Lock()
        self.live, self.lost, self.wrong = {}, [], []
        self.context = client_context()
        self.events = 0

    def refill(self):
        while len(self.live) < self.count:
            is_secure = self.next % 2
            stream = Session(self.secure if is_secure else self.plain, self.next,
                             self.context if is_secure else None)
            self.next += 1
            stream.socket.sendall(self.ASK.format(number=stream.number).encode())
            stream.raw, stream.content, stream.has_head = b"", b"", False
            stream.socket.setblocking(False)
            with self.lock:
                self.live[stream.socket.fileno()] = stream
                self.epoll.register(stream.socket, select.EPOLLIN)

    def run(self):
        while True:
            for place, _ in self.epoll.poll(0.05):
                with self.lock:
                    if place in self.live:
                        self.hear(self.live[place])

    def hear(self, stream):
        try:
            heard = stream.socket.recv(65536)
        except (ssl.SSLWantReadError, BlockingIOError):
            return
        except OSError as error:
            heard, stream.why = b"", repr(error)
        if not heard:
            return self.lose(stream)
        stream.raw += heard
        if not stream.has_head:
            if b"\r\n\r\n" not in stream.raw:
                return None
            head, stream.raw = stream.raw.split(b"\r\n\r\n", 1)
            if not head.startswith(b"HTTP/1.1 200"):
                self.wrong.append(f"stream {stream.number}: {head[:60]!r}")
                return self.lose(stream)
            stream.has_head = True
        while b"\r\n" in stream.raw:
            line, rest = stream.raw.split(b"\r\n", 1)
            size = int(line, 16)
            if len(rest) < size + 2:
                break
            stream.content += rest[:size]
            stream.raw = rest[size + 2:]
        while True:
            due = event(stream.heard)
            if len(stream.content) < len(due):
                break
            if not stream.content.startswith(due):
                self.wrong.append(f"stream {stream.number}: {stream.content[:40]!r} for {due[:40]!r}")
                return self.lose(stream)
            stream.content = stream.content[len(due):]
            stream.heard += 1
            self.events += 1
        return None

    def lose(self, stream):
        self.epoll.unregister(stream.socket)
        del self.live[stream.socket.fileno()]
        stream.socket.close()
        self.lost.append(stream)


class Kept(threading.Thread):
    """Asks over a connection by TLS again and again, and comes back with its ticket after some requests."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self.port, self.context = port, client_context()
        self.asked, self.failed, self.resumed, self.may_fail = 0, [], 0, False
        self.session = None

    def run(self):
        connection = None
        while True:
            try:
                if connection is None:
                    connection = self.connect()
                connection.sendall(b"GET /alive HTTP/1.1\r\nHost: test\r\n\r\n")
                answer = b""
                while not answer.endswith(b"alive"):
                    more = connection.recv(4096)
                    if not more:
                        raise ConnectionError("the connection has ended")
                    answer += more
                assert answer.startswith(b"HTTP/1.1 200"), answer
                self.asked += 1
                self.session = connection.session or self.session
                if self.asked % 25 == 0:
                    connection.close()
                    connection = None
            except Exception as error:
                if not self.may_fail:
                    self.failed.append(repr(error))
                connection = None
                time.sleep(0.05)
            time.sleep(0.02)

    def connect(self):
        raw = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        connection = self.context.wrap_socket(raw, server_hostname="chat.example.com", session=self.session)
        if self.session and not connection.session_reused and not self.may_fail:
            self.failed.append("its ticket is worth nothing")
        self.resumed += connection.session_reused
        return connection


class Site(Containers):
    def __init__(self):
        super().__init__(os.path.realpath(tempfile.mkdtemp()))
        self.is_exec = True
        self.origins = [Origin(), Origin(server_context())]
        events = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.events = os.fork()
        if self.events == 0:
            event_origin(events)
        self.plain, self.secure = free_port(), free_port()
        (self.folder / "prusik.yaml").write_text(CONFIG.format(
            folder=self.folder, plain=self.plain, secure=self.secure, cert=CERT, key=KEY,
            chat=self.origins[0].port, secure_chat=self.origins[1].port, events=events.getsockname()[1]))
        events.close()

    def road(self):
        return "upgrades by exec" if self.is_exec else "take-overs"

    def may_end(self):
        """The command of an upgrade ends when that is done."""
        return self.is_exec

    def begin(self):
        """An upgrade, or a process that takes over as PID 1 of a container; the first one if there is none."""
        run = [PRUSIK, "run", "--config", self.folder / "prusik.yaml"]
        if not self.is_exec:
            command = [*CONTAINER, *run, "--take-over"]
        elif self.pids():
            command = [PRUSIK, "upgrade", "--admin", f"unix:{self.folder}/admin.sock"]
        else:
            command = run
        environment = {**os.environ, "PRUSIK_NONCE_AUDIT": str(self.folder / "nonces")}
        return self.spawn(command, env=environment)

    def story(self, session, by_ends):
        """What is known of a session that should live."""
        log = (self.folder / "access.log").read_text().splitlines()
        lines = [line for line in log if f'"path":"/{session.number}"' in line]
        was_there = session.ends in by_ends
        return f"{kind_of(session)} {session.number}: {session.why}; a connection then: {was_there}; {lines}"

    def kill(self):
        super().kill()
        for origin in self.origins:
            origin.kill()
        os.kill(self.events, signal.SIGKILL)
        os.waitpid(self.events, 0)


def judge(site, load, streams):
    load.settle()
    bad = [origin.wrong() for origin in site.origins]
    assert not load.wrong and not streams.wrong and not any(bad), (load.wrong[:3], streams.wrong[:3], bad)


def in_peace(site, load, streams, kept):
    kept.may_fail = False
    kib, times = [], []
    for number in range(1, ROUNDS + 1):
        began = time.monotonic()
        site.wait_ready(site.begin())
        pid = site.wait_alone()
        times.append(time.monotonic() - began)
        before = streams.events
        judge(site, load, streams)
        while streams.events < before + len(streams.live):
            time.sleep(0.02)
        assert not load.lost and not streams.lost and not kept.failed, (
            len(load.lost), len(streams.lost), kept.failed[:3], site.text()[-2000:])
        count = status(site.folder)["sessions"]
        assert count == len(load.live) + len(streams.live), (count, len(load.live), len(streams.live))
        kib.append(memory(pid))
    print(f"{ROUNDS} {site.road()}: {len(load.live)} sessions and {len(streams.live)} streams, none lost; {kept.asked}"
          f" requests by TLS, {kept.resumed} times resumed; KiB {kib[1]} after the second, {kib[-1]} after the last", flush=True)
    assert kib[-1] <= 1.05 * kib[1], kib
    return sorted(times)[len(times) // 2]


def with_kills(site, load, streams, kept, dice, usual):
    kept.may_fail = True
    counts = collections.Counter()
    while counts.total() < ROUNDS:
        old = site.wait_alone()
        time.sleep(0.3)
        begun = site.begin()
        time.sleep(dice.random() * usual)
        there = site.pids()
        if len(there) != 2 or old not in there:
            site.wait_ready(begun)
            continue
        [new] = set(there) - {old}
        side = dice.choice(["old", "new"])
        victim, other = (old, new) if side == "old" else (new, old)
        stop(victim)
        with load.lock, streams.lock:
            by_ends = {(port, client): inode for port in (site.plain, site.secure)
                       for client, inode in inodes_by_client(port).items()}
            ends = {session.ends for one in (load, streams) for session in one.live.values()}
        held = sockets(victim)
        end(victim)
        if not site.wait_for(other):
            counts[f"{side}, and the other one ended"] += 1
            site.wait_ready(site.begin())
            load.settle()
            for one in (load, streams):
                one.lost.clear()
                one.refill()
            continue
        judge(site, load, streams)
        time.sleep(2 * PACE)
        lost = [session for one in (load, streams) for session in one.lost]
        may_go = {one for one in ends if by_ends.get(one) in held}
        counts[side] += 1
        print(f"{counts.total()}: {side} killed with {len(may_go)}: {len(lost)} lost", flush=True)
        wrong = [one for all_lost in (load.lost, streams.lost) for one in all_lost if one.ends not in may_go]
        now = status(site.folder)["sessions"]
        assert now == len(load.live) + len(streams.live), (now, len(load.live), len(streams.live))
        assert not wrong, "\n".join(site.story(one, by_ends) for one in wrong[:20])
        for one in (load, streams):
            one.lost.clear()
            one.refill()
    print(f"{site.road()} with kills: {dict(counts)}, seed {SEED}")


def kind_of(session):
    if hasattr(session, "raw"):
        return f"stream, {'wss' if session.number % 2 else 'plain'}"
    sides = ("plain", "TLS 1.3", "plain", "TLS 1.2")
    return f"{sides[session.number // 2 % 4]} to {'wss' if session.number % 2 else 'plain'}"


def judge_nonces(site):
    noted = site.folder / "nonces"
    if not noted.exists():
        print("no nonces are noted: it is a release build")
        return
    lines = noted.read_text().splitlines()
    assert len(lines) == len(set(lines)), f"{len(lines) - len(set(lines))} nonces were used twice"
    print(f"{len(lines)} nonces, none twice")


def main():
    # A thread that has opened a session waits so long for one that talks.
    sys.setswitchinterval(0.0005)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    site = Site()
    print(f"seed {SEED}, log {site.folder}/log")
    try:
        site.wait_ready(site.begin())
        load = Mixed(site.plain, site.secure, SESSIONS, SEED)
        streams = Streams(site.plain, site.secure, SESSIONS // 4)
        load.refill()
        streams.refill()
        kept = Kept(site.secure)
        for one in (load, streams, kept):
            one.start()
        time.sleep(2)
        dice = random.Random(SEED)
        for is_exec in (True, False):
            site.is_exec = is_exec
            usual = in_peace(site, load, streams, kept)
            with_kills(site, load, streams, kept, dice, usual)
        judge_nonces(site)
        print("everything_moves: passed")
    finally:
        site.kill()


if __name__ == "__main__":
    main()
