#!/usr/bin/env python3
"""A client sends 30 MB while the server sends them back at once: all of 200 such exchanges end, whole.

usage: both_ways.py PRUSIK
Four at a time; each has a minute.
"""
import hashlib, os, socket, subprocess, sys, tempfile, threading, time

EXCHANGES, AT_A_TIME, SIZE = 200, 4, 30_000_000
BODY = os.urandom(SIZE)
WHOLE = hashlib.sha256(BODY).digest()
CONFIG = """
access_log: off
listeners: [{{ listen: "127.0.0.1:{port}", limits: {{ body_size: 1GiB }} }}]
upstreams: {{ echo: {{ servers: ["127.0.0.1:{server}"] }} }}
routes: [{{ upstream: echo, timeouts: {{ idle: 20s }} }}]
"""


def read_head(connection):
    head = b""
    while b"\r\n\r\n" not in head:
        part = connection.recv(65536)
        assert part, f"the head is cut short: {head}"
        head += part
    return head.split(b"\r\n\r\n", 1)


def echo(listener):
    def one(connection):
        with connection:
            _, rest = read_head(connection)
            connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % SIZE)
            left = SIZE
            while left > 0:
                connection.sendall(rest)
                left -= len(rest)
                # Behind the head, which may come alone.
                rest = connection.recv(1 << 18) if left > 0 else b""
                if not rest and left > 0:
                    break
    while True:
        threading.Thread(target=one, args=(listener.accept()[0],), daemon=True).start()


def exchange(port):
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % SIZE
        sending = threading.Thread(target=lambda: client.sendall(head + BODY), daemon=True)
        sending.start()
        head, part = read_head(client)
        assert head.startswith(b"HTTP/1.1 200"), head
        back, left = hashlib.sha256(part), SIZE - len(part)
        while left > 0:
            part = client.recv(min(left, 1 << 18))
            assert part, f"{left} bytes are missing"
            back.update(part)
            left -= len(part)
        sending.join(60)
        assert back.digest() == WHOLE, "other bytes than were sent"


def main():
    listener = socket.create_server(("127.0.0.1", 0), backlog=100)
    threading.Thread(target=echo, args=(listener,), daemon=True).start()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    numbers, lock, times, failures = iter(range(EXCHANGES)), threading.Lock(), [], []

    def work():
        while True:
            with lock:
                if next(numbers, None) is None:
                    return
            began = time.monotonic()
            try:
                exchange(port)
                times.append(time.monotonic() - began)
            except (OSError, AssertionError) as error:
                failures.append(error)

    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(CONFIG.format(port=port, server=listener.getsockname()[1]))
        file.flush()
        prusik = subprocess.Popen([sys.argv[1], "run", "--config", file.name], stderr=subprocess.DEVNULL)
        try:
            for _ in range(200):
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except OSError:
                    time.sleep(0.05)
            workers = [threading.Thread(target=work) for _ in range(AT_A_TIME)]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
        finally:
            prusik.kill()
            prusik.wait()
    print(f"{len(times)} of {EXCHANGES} ended whole, the slowest after {max(times, default=0):.1f} s")
    if len(times) < EXCHANGES:
        sys.exit(f"failed: {failures[:5]}")


main()
