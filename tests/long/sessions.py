"""Sessions that know every byte which must come next, in both directions, for the scripts beside this.

A byte that is lost or comes twice, because two processes carry its session, is noticed at once: by the
origin, which writes what is wrong to a pipe, or by the client.
"""

import collections
import os
import pathlib
import random
import select
import socket
import ssl
import threading
import time

# For `format`: where its files go, and the ports of listener and origin.
CONFIG = """
server: {{ threads: 2 }}
admin: {{ listen: "unix:{folder}/admin.sock" }}
access_log: off
listeners: [{{ listen: "127.0.0.1:{port}" }}]
upstreams: {{ chat: {{ servers: [127.0.0.1:{chat}] }} }}
routes: [{{ upstream: chat, websocket: {{ idle: 1h }} }}]
"""

# Between two messages of one session, in seconds.
PACE = 0.15

HANDSHAKE = ("GET /{number} HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
             "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
SWITCHING = (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
             b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")


def message(session, number, is_masked):
    """Message `number` of a session, as a frame; the client's with a mask of zeros."""
    said = f"{session}:{number}:".encode() + b"x" * ((session * 31 + number * 37) % 2000)
    mask, zeros = (0x80, bytes(4)) if is_masked else (0, b"")
    if len(said) < 126:
        return bytes([0x81, mask | len(said)]) + zeros + said
    return bytes([0x81, mask | 126]) + len(said).to_bytes(2, "big") + zeros + said


def origin(listener, wrong, context=None):
    """Echoes, and looks that each session's bytes are those which must come next. By TLS with a context."""
    epoll = select.epoll()
    epoll.register(listener, select.EPOLLIN)
    sessions = {}
    while True:
        for place, _ in epoll.poll():
            if place == listener.fileno():
                accepted, _ = listener.accept()
                if context:
                    try:
                        accepted = context.wrap_socket(accepted, server_side=True)
                    except OSError:
                        continue
                    accepted.setblocking(False)
                epoll.register(accepted, select.EPOLLIN)
                # Socket, session, next message, bytes of it that are there.
                sessions[accepted.fileno()] = [accepted, None, 0, b""]
                continue
            state = sessions[place]
            try:
                said = state[0].recv(65536)
            except ssl.SSLWantReadError:
                # No data, but a part of a record, or a message of TLS itself.
                continue
            except OSError:
                said = b""
            if not said:
                sessions.pop(place)[0].close()
                continue
            state[3] += said
            try:
                if state[1] is None:
                    if b"\r\n\r\n" in state[3]:
                        state[1] = int(state[3].split(b" ")[1][1:])
                        state[3] = b""
                        state[0].sendall(SWITCHING)
                    continue
                while True:
                    due = message(state[1], state[2], True)
                    if not due.startswith(state[3][:len(due)]):
                        os.write(wrong, f"session {state[1]}, message {state[2]}: the server got"
                                        f" {state[3][:40]!r} for {due[:40]!r}\n".encode())
                        sessions.pop(place)[0].close()
                        break
                    if len(state[3]) < len(due):
                        break
                    state[3] = state[3][len(due):]
                    state[0].sendall(message(state[1], state[2], False))
                    state[2] += 1
            except ConnectionError:
                sessions.pop(place)[0].close()


class Origin:
    """In a process of its own."""

    def __init__(self, context=None):
        listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.port = listener.getsockname()[1]
        self.heard, wrong = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            origin(listener, wrong, context)
        listener.close()
        os.close(wrong)

    def wrong(self):
        """What it has to say, if it has."""
        is_there, _, _ = select.select([self.heard], [], [], 0)
        return os.read(self.heard, 65536).decode() if is_there else ""

    def kill(self):
        os.kill(self.pid, 9)
        os.waitpid(self.pid, 0)


class Session:
    def __init__(self, port, number, context=None):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.number, self.port = number, self.socket.getsockname()[1]
        # Two connections to different ports may come from the same port.
        self.ends = (port, self.port)
        if context:
            self.socket = context.wrap_socket(self.socket, server_hostname="chat.example.com")
        self.sent, self.heard, self.why = 0, 0, "it has ended"
        # What is left of a message that was sent in two parts, and what is due from the server.
        self.rest, self.due = b"", b""

    def open(self, handshake=HANDSHAKE):
        self.socket.sendall(handshake.format(number=self.number).encode())
        head = b""
        while b"\r\n\r\n" not in head:
            more = self.socket.recv(4096)
            if not more:
                raise ConnectionError("no answer to a handshake")
            head += more
        assert head.startswith(b"HTTP/1.1 101"), head


class Load(threading.Thread):
    """All sessions. Those that are lost are taken note of, and stay away until `refill`."""

    def __init__(self, port, count, seed):
        super().__init__(daemon=True)
        self.address, self.count, self.next = port, count, 0
        self.epoll, self.lock = select.epoll(), threading.Lock()
        self.live, self.lost, self.wrong = {}, [], []
        self.is_quiet, self.random = False, random.Random(seed)
        self.ticks = collections.deque()

    def refill(self):
        # Those that talk would keep those that begin waiting for minutes.
        before, self.is_quiet = self.is_quiet, True
        while len(self.live) < self.count:
            session = self.another()
            self.next += 1
            session.socket.setblocking(False)
            with self.lock:
                self.live[session.socket.fileno()] = session
                self.ticks.append((time.monotonic(), session))
                self.epoll.register(session.socket, select.EPOLLIN)
        self.is_quiet = before

    def another(self):
        session = Session(self.address, self.next)
        session.open()
        return session

    def run(self):
        while True:
            with self.lock:
                self.turn()
            time.sleep(0.0005)

    def turn(self):
        now = time.monotonic()
        while self.ticks and self.ticks[0][0] <= now:
            _, session = self.ticks.popleft()
            if self.live.get(session.socket.fileno()) is session:
                self.say(session)
                self.ticks.append((now + PACE, session))
        for place, _ in self.epoll.poll(0):
            if place in self.live:
                self.hear(self.live[place])

    def say(self, session):
        if session.rest:
            whole, session.rest = session.rest, b""
        elif self.is_quiet:
            return
        else:
            whole = message(session.number, session.sent, True)
            session.sent += 1
            cut = self.random.randrange(len(whole)) if self.random.random() < 0.3 else 0
            if cut:
                whole, session.rest = whole[:cut], whole[cut:]
        try:
            session.socket.send(whole)
        except OSError as error:
            session.why = repr(error)
            self.lose(session)

    def hear(self, session):
        try:
            heard = session.socket.recv(65536)
        except ssl.SSLWantReadError:
            return
        except OSError as error:
            heard, session.why = b"", repr(error)
        if not heard:
            self.lose(session)
            return
        while heard:
            if not session.due:
                session.due = message(session.number, session.heard, False)
            part, heard = heard[:len(session.due)], heard[len(session.due):]
            if not session.due.startswith(part):
                self.wrong.append(f"session {session.number}: the client got {part[:40]!r}"
                                  f" for {session.due[:40]!r}")
                self.lose(session)
                return
            session.due = session.due[len(part):]
            session.heard += not session.due

    def lose(self, session):
        self.epoll.unregister(session.socket)
        del self.live[session.socket.fileno()]
        session.socket.close()
        self.lost.append(session)

    def settle(self):
        """Nothing more is said; returns when all has been answered."""
        self.is_quiet = True
        patience = time.monotonic() + 20
        while True:
            with self.lock:
                open_ends = [session.number for session in self.live.values()
                             if session.rest or session.heard < session.sent]
            if not open_ends:
                break
            if time.monotonic() > patience:
                raise SystemExit(f"{len(open_ends)} sessions got no answer within 20 s: {open_ends[:5]}")
            time.sleep(0.02)
        self.is_quiet = False


def processes(folder):
    found = []
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(entry / "cwd") == folder:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if b"run" in words:
                    found.append(int(entry.name))
        except OSError:
            pass
    return found
