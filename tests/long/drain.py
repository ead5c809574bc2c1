"""A thousand sessions told to go over ten seconds, and a gibibyte for a client that reads nothing.

    python tests/long/drain.py PRUSIK
"""

import asyncio
import collections
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time

import websockets

PRUSIK = os.path.abspath(sys.argv[1])
SESSIONS = 1000
WINDOW = 10

CONFIG = """
server: {{ threads: 1, drain: {{ window: {window}s, code: 1012 }} }}
access_log: off
listeners: [{{ listen: "127.0.0.1:{port}" }}]
upstreams: {{ chat: {{ servers: [127.0.0.1:{chat}] }} }}
routes: [{{ upstream: chat }}]
"""

closed_at_server = collections.Counter()
heard = 0


async def chat_server(session):
    global heard
    if session.request.path == "/flood":
        async def flood():
            for _ in range(1024):
                await session.send(bytes(1 << 20))
        flooding = asyncio.create_task(flood())
        try:
            async for _ in session:
                heard += 1
        except websockets.ConnectionClosed:
            pass
        flooding.cancel()
        return
    await session.wait_closed()
    closed_at_server[session.close_code] += 1


def anonymous_kib(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("RssAnon")).split()[1])


async def flood(port, pid):
    async with websockets.connect(f"ws://127.0.0.1:{port}/", ping_interval=None):
        before = anonymous_kib(pid)
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
        writer.write(b"GET /flood HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\n"
                     b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                     b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
        writer.transport.pause_reading()
        most = 0
        for number in range(1, 101):
            writer.write(b"\x81\x85\0\0\0\0hello")
            while heard < number:
                await asyncio.sleep(0.01)
            most = max(most, anonymous_kib(pid) - before)
            await asyncio.sleep(0.03)
        print(f"a client that takes nothing of a gibibyte costs {most} KiB at most;"
              f" {heard} of its messages passed meanwhile")
        assert most < 256
        writer.transport.abort()


async def drain(port, process):
    async def ended(session):
        await session.wait_closed()
        return time.monotonic(), session.close_code

    sessions = []
    for _ in range(SESSIONS // 100):
        sessions += await asyncio.gather(*(
            websockets.connect(f"ws://127.0.0.1:{port}/", ping_interval=None, open_timeout=30)
            for _ in range(100)))
    waiting = [asyncio.create_task(ended(session)) for session in sessions]
    closed_at_server.clear()
    started = time.monotonic()
    process.terminate()
    endings = await asyncio.gather(*waiting)
    buckets = collections.Counter(int(at - started) for at, _ in endings)
    codes = collections.Counter(code for _, code in endings)
    print("ended in each second:", [buckets[second] for second in range(WINDOW)], dict(codes))
    assert codes == {1012: SESSIONS}, codes
    assert all(50 <= buckets[second] <= 150 for second in range(WINDOW))
    status = await asyncio.to_thread(process.wait, 10)
    print(f"the process ended with {status} after {time.monotonic() - started:.1f} s")
    assert status == 0
    while sum(closed_at_server.values()) < SESSIONS:
        await asyncio.sleep(0.05)
    print("the server saw:", dict(closed_at_server))
    assert closed_at_server == {1012: SESSIONS}


async def main():
    chat = await websockets.serve(chat_server, "127.0.0.1", 0, ping_interval=None, backlog=4096)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = pathlib.Path(tempfile.mkdtemp())
    file = folder / "prusik.yaml"
    file.write_text(CONFIG.format(port=port, chat=chat.sockets[0].getsockname()[1], window=WINDOW))
    with open(folder / "log", "w") as log:
        process = subprocess.Popen([PRUSIK, "run", "--config", str(file)], stderr=log)
    try:
        while "ready" not in (folder / "log").read_text():
            await asyncio.sleep(0.05)
        await flood(port, process.pid)
        await drain(port, process)
        print("drain: passed")
    finally:
        process.kill()
        process.wait()


asyncio.run(main())
