#!/usr/bin/env python3
"""The two-tier scenario with the shipped files, as they are, against four real Tomcats.

usage: scenario.py PRUSIK TOMCATS DIR   TOMCATS: the script that starts and stops them in DIR
Needs: apt-get install tomcat10-user tomcat10-examples; pip install websockets. Loopback only.
"""
import asyncio, http.client, os, signal, subprocess, sys, time
from collections import Counter
from tiers import Tier, wait_for
import websockets

PRUSIK, TOMCATS, DIR = sys.argv[1:4]
ECHO = "ws://127.0.0.1:9090/IMS_SVR/websocket/echoAnnotation"


def get(path, port=9090):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path)
    answer = connection.getresponse()
    return answer.status, answer.read().decode(errors="replace"), answer.headers


def kill(port):
    subprocess.run([sys.executable, TOMCATS, "stop", DIR, str(port)], check=True)


def start(port):
    subprocess.run([sys.executable, TOMCATS, "start", DIR, str(port)], check=True)


def server_of(tier, known):
    """The servers of sessions opened since `known` lines were in the log."""
    import json
    lines = [json.loads(line) for line in tier.access_log()[known:]]
    return [line["server"] for line in lines if line["kind"] == "session_open"]


async def echo(ws, text):
    await ws.send(text)
    return await asyncio.wait_for(ws.recv(), 10) == text


async def main():
    client_lb, server_lb = Tier(PRUSIK, "client-lb.yaml"), Tier(PRUSIK, "server-lb.yaml")
    try:
        await scenario(client_lb, server_lb)
    finally:
        client_lb.stop()
        server_lb.stop()


async def scenario(client_lb, server_lb):
    wait_for("all four servers up", lambda: get("/IMS/whoami.txt")[0] == 200, 10)
    pages = Counter(get("/IMS/whoami.txt")[1].strip() for _ in range(20))
    print("pages come from", dict(pages))
    assert len(pages) == 2 and set(pages.values()) == {10}

    headers = get("/IMS/servlets/servlet/RequestHeaderExample")[1]
    for wanted in ["127.0.0.1:9090", "remote_addr", "x-real-ip", "x-forwarded-for"]:
        assert wanted in headers.lower(), wanted
    print("the client application sees Host, Remote_Addr, X-Real-IP, X-Forwarded-For")

    status, _, _ = get("/nowhere")
    assert status == 404, status
    print("unknown path: 404")

    known = len(server_lb.access_log())
    sessions = [await websockets.connect(ECHO) for _ in range(20)]
    wait_for("20 sessions in the log", lambda: len(server_of(server_lb, known)) == 20, 5)
    where = server_of(server_lb, known)
    print("sessions on", dict(Counter(where)))
    assert set(Counter(where).values()) == {10}

    big = "7" * 7168
    for _ in range(10):
        assert all(await asyncio.gather(*(echo(ws, big) for ws in sessions)))
        assert get("/IMS/whoami.txt")[0] == 200
    print("7 KiB messages echo 10 times on each session while pages are reloaded")

    quiet = await websockets.connect(ECHO, ping_interval=None)
    started = time.monotonic()

    # A server dies.
    killed = time.monotonic()
    kill(9081)
    doomed = [ws for ws, server in zip(sessions, where) if server.endswith(":9081")]
    ends = await asyncio.gather(*(asyncio.wait_for(ws.wait_closed(), 5) for ws in doomed))
    print(f"{len(ends)} sessions of the killed server ended within "
          f"{time.monotonic() - killed:.2f} s")
    known = len(server_lb.access_log())
    again = [await websockets.connect(ECHO) for _ in doomed]
    assert all(await asyncio.gather(*(echo(ws, "back") for ws in again)))
    print("every client reconnected at its first try;", Counter(server_of(server_lb, known)))
    wait_for("9081 is out", lambda: ":9081 is down" in server_lb.stderr(), 2.5)
    print(f"out of the balancing {time.monotonic() - killed:.2f} s after the kill (interval 2 s)")
    rest = [ws for ws, server in zip(sessions, where) if server.endswith(":9080")]
    assert all(await asyncio.gather(*(echo(ws, "still here") for ws in rest)))
    print(f"the other server's {len(rest)} sessions noticed nothing")
    quiet_died = quiet.state.name != "OPEN"

    # It comes back.
    start(9081)
    back = time.monotonic()
    wait_for("9081 is back", lambda: "9081 is up again" in server_lb.stderr(), 10)
    known = len(server_lb.access_log())
    more = [await websockets.connect(ECHO) for _ in range(10)]
    wait_for("10 sessions", lambda: len(server_of(server_lb, known)) == 10, 5)
    share = Counter(server_of(server_lb, known))
    print(f"back {time.monotonic() - back:.1f} s after its start, share of 10: {dict(share)}")
    assert share["127.0.0.1:9081"] == 5
    for ws in more + again + rest:
        await ws.close()

    # No error at all while servers of the client application come and go.
    statuses = Counter()
    for port in (7080, 8080):
        kill(port)
        end = time.monotonic() + 4
        while time.monotonic() < end:
            statuses[get("/IMS/whoami.txt")[0]] += 1
        start(port)
        wait_for(f"{port} is back", lambda: f"{port} is up again" in client_lb.stderr(), 10)
    print("requests while each client application was killed and restarted:", dict(statuses))
    assert set(statuses) == {200}

    # Nobody left.
    kill(7080)
    kill(8080)
    wait_for("503", lambda: get("/IMS/whoami.txt")[0] == 503, 5)
    retry = get("/IMS/whoami.txt")[2]["Retry-After"]
    print("no server left: 503, Retry-After:", retry)
    assert retry
    start(7080)
    start(8080)

    if not quiet_died:
        while time.monotonic() - started < 66:
            await asyncio.sleep(1)
    else:
        quiet = await websockets.connect(ECHO, ping_interval=None)
        await asyncio.sleep(66)
    assert await echo(quiet, "after the quiet")
    print("a session idle for 65 s lives")
    await quiet.close()
    for tier in (client_lb, server_lb):
        panics = [line for line in tier.stderr().splitlines() if "panic" in line]
        assert not panics, panics
    print("scenario: all of it holds")


asyncio.run(main())
