#!/usr/bin/env python3
"""CPU seconds of prusik for one large body, down and up, for each binary in turn.

usage: bodies.py PRUSIK [PRUSIK ..]

256 MiB each, one worker, three rounds, everything on loopback. Compare binaries of one run only.
"""
import os, socket, subprocess, sys, tempfile, time

SIZE, ROUNDS, PART = 256 << 20, 3, b"x" * (1 << 20)
HEAD = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
CONFIG = """
server: {{ threads: 1 }}
access_log: off
listeners: [{{ listen: "127.0.0.1:{port}", limits: {{ body_size: 1GiB }} }}]
upstreams: {{ files: {{ servers: ["127.0.0.1:{origin}"] }} }}
routes: [{{ upstream: files }}]
"""


def send(connection):
    for _ in range(SIZE // len(PART)):
        connection.sendall(PART)


def take(connection, left):
    while left > 0:
        got = len(connection.recv(1 << 20))
        assert got, "the body is cut short"
        left -= got


def origin(listener):
    while True:
        connection, _ = listener.accept()
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.recv(65536)
        if head.startswith(b"POST"):
            take(connection, SIZE - len(head.split(b"\r\n\r\n", 1)[1]))
            connection.sendall(HEAD % 0)
        else:
            connection.sendall(HEAD % SIZE)
            send(connection)
        connection.close()


def cpu(pid):
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def connect(port):
    for _ in range(100):
        try:
            return socket.create_connection(("127.0.0.1", port))
        except OSError:
            time.sleep(0.05)
    raise SystemExit("prusik does not listen")


def measure(binary, origin_port):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(CONFIG.format(port=port, origin=origin_port))
        file.flush()
        prusik = subprocess.Popen([binary, "run", "--config", file.name], stderr=subprocess.DEVNULL)
        try:
            before = cpu(prusik.pid)
            client = connect(port)
            client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            take(client, SIZE)
            between = cpu(prusik.pid)
            client = connect(port)
            client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % SIZE)
            send(client)
            assert client.recv(100).startswith(b"HTTP/1.1 200")
            return between - before, cpu(prusik.pid) - between
        finally:
            prusik.kill()
            prusik.wait()


def main():
    listener = socket.create_server(("127.0.0.1", 0))
    child = os.fork()
    if child == 0:
        origin(listener)
    try:
        for _ in range(ROUNDS):
            for binary in sys.argv[1:]:
                down, up = measure(binary, listener.getsockname()[1])
                print(f"{binary}: {down:.2f} s down, {up:.2f} s up", flush=True)
    finally:
        os.kill(child, 9)


main()
