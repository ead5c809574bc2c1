#!/usr/bin/env python3
"""When a source address has no port left for a server, the next one is used; when none has, clients
get 502, the server is not blamed, and it goes on when ports are free again.

usage: ports.py PRUSIK
Runs in a network namespace of its own with 20 local ports an address (root, util-linux, iproute2).
"""
import json, os, pathlib, socket, subprocess, sys, tempfile, threading
from tiers import wait_for

PRUSIK = sys.argv[1]
PORTS = 20
SERVER, PROXY = ("127.0.0.1", 9080), ("127.0.0.1", 9090)
HANDSHAKE = (b"GET / HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
             b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
SWITCH = (b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
          b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")


def serve(listener, peers):
    def one(connection):
        if connection.recv(4096):
            connection.sendall(SWITCH)
            # Until the other side ends.
            while connection.recv(4096):
                pass
        # Not the side that waits: its port would stay in use for a minute.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        connection.close()
    while True:
        connection, peer = listener.accept()
        peers.append(peer[0])
        threading.Thread(target=one, args=(connection,), daemon=True).start()


def shake(number):
    """A session from a source port of the client's own, so that it takes none of the 20."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    client.bind(("127.0.1.1", 40000 + number))
    client.settimeout(10)
    client.connect(PROXY)
    client.sendall(HANDSHAKE)
    return client, int(client.recv(4096).split()[1])


def main():
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    last = 30000 + PORTS - 1
    pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range").write_text(f"30000 {last}")
    listener, peers = socket.create_server(SERVER, backlog=200), []
    threading.Thread(target=serve, args=(listener, peers), daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        log, errors = pathlib.Path(folder, "access.log"), pathlib.Path(folder, "stderr")
        file = pathlib.Path(folder, "prusik.yaml")
        file.write_text(f"""
listeners: [{{ listen: "127.0.0.1:9090" }}]
access_log: {{ path: {log} }}
upstreams:
  backend:
    servers: ["127.0.0.1:9080"]
    source: [127.0.0.2, 127.0.0.3]
    health_check: {{ type: tcp, interval: 100ms, fall: 1, rise: 1 }}
    eject: {{ failures: 1, within: 1m, for: 1m }}
routes: [{{ upstream: backend }}]
""")
        process = subprocess.Popen([PRUSIK, "run", "--config", str(file)], stderr=errors.open("w"))
        try:
            wait_for("ready", lambda: "ready" in errors.read_text(), 10)
            sessions, refused = [], 0
            for number in range(3 * PORTS):
                client, status = shake(number)
                if status == 101:
                    sessions.append(client)
                else:
                    assert status == 502, status
                    refused += 1
                    client.close()
            # Health checks have a few of the ports in their TIME_WAIT.
            assert PORTS < len(sessions) <= 2 * PORTS, len(sessions)
            assert refused > 0 and {"127.0.0.2", "127.0.0.3"} <= set(peers)
            said = errors.read_text()
            assert "ip_local_port_range" in said, said
            assert " is down" not in said and "ejected" not in said, said
            lines = [json.loads(line) for line in log.read_text().splitlines()]
            assert any("ip_local_port_range" in line.get("error", "") for line in lines)
            print(f"{len(sessions)} sessions over {2 * PORTS} ports, {refused} told 502")
            for client in sessions:
                client.close()
            number = iter(range(3 * PORTS, 10000))

            def works():
                client, status = shake(next(number))
                client.close()
                return status == 101
            took = wait_for("a session once ports are free", works, 90)
            print(f"a session again after {took:.1f} s")
        finally:
            process.kill()
            process.wait()


if os.environ.get("PRUSIK_PORTS_INSIDE"):
    main()
else:
    inside = {**os.environ, "PRUSIK_PORTS_INSIDE": "1"}
    sys.exit(subprocess.run(["unshare", "--net", sys.executable, *sys.argv], env=inside).returncode)
