"""Upgrades and reloads in a row under load: no session, no byte, no request, no connect is lost.

    python tests/long/upgrades.py PRUSIK [SESSIONS] [UPGRADES]

Sequence-numbered messages go both ways in each session: the client's come back from the server in
their order, and the server counts its own beside them. The memory at the end is held against that
at the beginning: of five upgrades each the least, as what a process has just done shows in it.
"""

import asyncio
import json
import os
import pathlib
import resource
import socket
import subprocess
import sys
import tempfile
import time

import websockets

PRUSIK = os.path.abspath(sys.argv[1])
SESSIONS = int(sys.argv[2]) if len(sys.argv) > 2 else 2000
UPGRADES = int(sys.argv[3]) if len(sys.argv) > 3 else 20

CONFIG = """
server: {{ threads: 2 }}
admin: {{ listen: "unix:{folder}/admin.sock" }}
access_log: off
listeners: [{{ listen: "127.0.0.1:{port}" }}]
upstreams:
  chat: {{ servers: [127.0.0.1:{chat}], health_check: {{ type: tcp }} }}
  page: {{ servers: [127.0.0.1:{page}] }}
routes:
  - {{ name: chat, match: {{ path: /chat }}, upstream: chat }}
  - {{ name: page, upstream: page }}
"""

done = {"messages": 0, "requests": 0, "connects": 0}
errors = []


async def chat_server(session):
    """Each answer has the number of the server's own message and what was said."""
    number = 0
    async for said in session:
        await session.send(f"{number} {said}")
        number += 1


async def talk(session, over):
    number = 0
    while not over.is_set():
        said = f"{number} " + "x" * (number * 37 % 3000)
        await session.send(said)
        heard = await asyncio.wait_for(session.recv(), 30)
        if heard != f"{number} {said}":
            raise AssertionError(f"heard {heard[:40]!r} for {said[:40]!r}")
        number += 1
        done["messages"] += 1
        await asyncio.sleep(SESSIONS / 1000)


async def page_server(reader, writer):
    try:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
        writer.close()


async def keep_asking(port, over):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while not over.is_set():
        writer.write(b"GET /page HTTP/1.1\r\nHost: test\r\n\r\n")
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
        if not head.startswith(b"HTTP/1.1 200") or b"close" in head:
            raise AssertionError(head)
        await reader.readexactly(2)
        done["requests"] += 1
        await asyncio.sleep(0.005)
    writer.close()


async def keep_connecting(port, over):
    while not over.is_set():
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /page HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        answer = await asyncio.wait_for(reader.read(), 30)
        if not answer.startswith(b"HTTP/1.1 200"):
            raise AssertionError(answer)
        writer.close()
        done["connects"] += 1
        await asyncio.sleep(0.003)


async def watched(name, work):
    try:
        await work
    except Exception as error:
        errors.append(f"{name}: {error!r}")


async def operate(folder, *arguments):
    process = await asyncio.create_subprocess_exec(
        PRUSIK, *arguments, "--admin", f"unix:{folder}/admin.sock",
        stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    said, wrong = await process.communicate()
    assert process.returncode == 0, (arguments, wrong.decode())
    return said.decode()


def rss_kib(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])


def processes(folder):
    found = []
    for entry in pathlib.Path("/proc").glob("[0-9]*/cwd"):
        try:
            if os.readlink(entry) == folder:
                found.append(int(entry.parent.name))
        except OSError:
            pass
    return found


async def main():
    limit = min(65536, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    chat = await websockets.serve(chat_server, "127.0.0.1", 0, ping_interval=None, backlog=4096)
    page = await asyncio.start_server(page_server, "127.0.0.1", 0)
    folder = os.path.realpath(tempfile.mkdtemp())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (pathlib.Path(folder) / "prusik.yaml").write_text(CONFIG.format(
        folder=folder, port=port, chat=chat.sockets[0].getsockname()[1],
        page=page.sockets[0].getsockname()[1]))
    log = open(f"{folder}/log", "w")
    first = subprocess.Popen([PRUSIK, "run", "--config", "prusik.yaml"], cwd=folder, stderr=log)
    try:
        while "ready" not in pathlib.Path(f"{folder}/log").read_text():
            await asyncio.sleep(0.05)
        over = asyncio.Event()
        sessions = []
        while len(sessions) < SESSIONS:
            batch = min(100, SESSIONS - len(sessions))
            sessions += await asyncio.gather(*(
                websockets.connect(f"ws://127.0.0.1:{port}/chat", ping_interval=None,
                                   open_timeout=60) for _ in range(batch)))
        work = [talk(session, over) for session in sessions]
        work += [keep_asking(port, over) for _ in range(10)]
        work += [keep_connecting(port, over)]
        tasks = [asyncio.create_task(watched(coro.__name__, coro)) for coro in work]
        await asyncio.sleep(3)
        memory = []
        for number in range(1, UPGRADES + 1):
            before = done["messages"]
            started = time.monotonic()
            said = (await operate(folder, "upgrade")).strip()
            took = time.monotonic() - started
            first.poll()
            while done["messages"] < before + SESSIONS and not errors:
                await asyncio.sleep(0.1)
            await operate(folder, "reload")
            while len(processes(folder)) > 1:
                first.poll()
                await asyncio.sleep(0.05)
            [pid] = processes(folder)
            memory.append(rss_kib(pid))
            print(f"{number}: {took * 1000:.0f} ms, {said}; RSS {memory[-1]} KiB,"
                  f" {len(errors)} errors", flush=True)
            assert not errors, errors[:5]
        status = json.loads(await operate(folder, "status", "--json"))
        assert status["sessions"] == SESSIONS, status["sessions"]
        base, end = min(memory[:5]), min(memory[-5:])
        over.set()
        await asyncio.gather(*tasks)
        await asyncio.gather(*(session.close() for session in sessions))
        codes = {session.close_code for session in sessions}
        print("done:", done, "errors:", len(errors), "close codes:", codes)
        print(f"memory: {end} KiB, x {end / base:.3f} of that at the beginning")
        assert not errors and codes == {1000}
        assert end <= 1.05 * base
        print("upgrades: passed")
    finally:
        for pid in processes(folder):
            os.kill(pid, 15)
        first.wait()


asyncio.run(main())
