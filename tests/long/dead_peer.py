#!/usr/bin/env python3
"""A client and a server that vanish without a word are noticed, though their sessions are idle.

usage: dead_peer.py PRUSIK
Makes a network namespace of its own (root, iproute2), puts a client and a server into it, opens a
session with each, takes the link down, and waits for both sessions to be given up.
Needs: pip install websockets.
"""
import json, os, pathlib, subprocess, sys, tempfile, time
from tiers import free_port, wait_for

PRUSIK = sys.argv[1]
NAME = f"prusik{os.getpid()}"
NEAR, FAR = "10.231.7.1", "10.231.7.2"
LIMIT = 75  # 30 s of silence, three probes 10 s apart, and some

SERVER = """
import asyncio, sys, websockets
async def echo(ws):
    async for message in ws: await ws.send(message)
async def main():
    async with websockets.serve(echo, sys.argv[1], int(sys.argv[2]), ping_interval=None):
        await asyncio.Future()
asyncio.run(main())
"""
CLIENT = """
import asyncio, sys, websockets
async def main():
    async with websockets.connect(sys.argv[1], ping_interval=None) as ws:
        await ws.send("hello"); await ws.recv()
        await asyncio.Future()
asyncio.run(main())
"""


def ip(*words):
    subprocess.run(["ip", *words], check=True)


def python(script, *arguments, far=False):
    inside = ["ip", "netns", "exec", NAME] if far else []
    return subprocess.Popen([*inside, sys.executable, "-c", script, *map(str, arguments)])


def main():
    ip("netns", "add", NAME)
    children = []
    try:
        near, far = f"{NAME}a"[-15:], f"{NAME}b"[-15:]
        ip("link", "add", near, "type", "veth", "peer", "name", far, "netns", NAME)
        ip("addr", "add", f"{NEAR}/30", "dev", near)
        ip("link", "set", near, "up")
        ip("-n", NAME, "addr", "add", f"{FAR}/30", "dev", far)
        ip("-n", NAME, "link", "set", far, "up")
        public, near_port, far_port = free_port(), free_port(), free_port()
        children.append(python(SERVER, "127.0.0.1", near_port))
        children.append(python(SERVER, FAR, far_port, far=True))
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            log = folder / "access.log"
            (folder / "prusik.yaml").write_text(f"""
listeners: [{{ listen: "0.0.0.0:{public}" }}]
access_log: {{ path: {log} }}
upstreams:
  near: {{ servers: ["127.0.0.1:{near_port}"] }}
  far: {{ servers: ["{FAR}:{far_port}"] }}
routes:
  - {{ match: {{ path_prefix: /near }}, upstream: near }}
  - {{ match: {{ path_prefix: /far }}, upstream: far }}
""")
            children.append(subprocess.Popen(
                [PRUSIK, "run", "--config", str(folder / "prusik.yaml")]))
            time.sleep(2)
            children.append(python(CLIENT, f"ws://{NEAR}:{public}/near", far=True))
            children.append(python(CLIENT, f"ws://127.0.0.1:{public}/far"))

            def count(kind):
                lines = log.read_text().splitlines() if log.exists() else []
                return sum(json.loads(line)["kind"] == kind for line in lines)

            wait_for("two sessions", lambda: count("session_open") == 2, 20)
            time.sleep(1)
            ip("link", "set", near, "down")
            # Without the route there would be an error at once; a dead peer is silence.
            took = wait_for("both given up", lambda: count("session_close") == 2, LIMIT)
            for line in log.read_text().splitlines():
                entry = json.loads(line)
                if entry["kind"] == "session_close":
                    print(entry["route"], "given up after", round(entry["duration_ms"] / 1000), "s",
                          "closed_by", entry["closed_by"])
            print(f"dead peers: passed, {took:.0f} s after the link went down")
    finally:
        for child in reversed(children):
            child.kill()
            child.wait()
        ip("netns", "del", NAME)


main()
