#!/usr/bin/env python3
"""Two tiers under mixed load: requests, sessions opened, talking and closed.

usage: soak.py PRUSIK [MINUTES]
Fails on any error, and when memory or descriptors of a tier at the end are above 1.05 times those
after the first minute. Needs: pip install websockets. Servers are Python's own, on free ports.
"""
import asyncio, random, statistics, sys, time
from collections import Counter
from tiers import Tier, free_port
import websockets

PRUSIK = sys.argv[1]
MINUTES = float(sys.argv[2]) if len(sys.argv) > 2 else 10
TALKERS, VISITORS, READERS = 60, 6, 6
done, errors = Counter(), []


async def echo_server(ws):
    async for message in ws:
        await ws.send(message)


async def page_server(reader, writer):
    """Answers every request head with 16 KiB, keeps the connection."""
    body = b"p" * 16384
    try:
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 16384\r\n\r\n" + body)
            await writer.drain()
    except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
        pass  # the client has gone, or the soak is over
    finally:
        writer.close()


async def talk(ws, messages, pause):
    for _ in range(messages):
        text = "m" * random.choice([16, 200, 7168])
        await ws.send(text)
        if await asyncio.wait_for(ws.recv(), 20) != text:
            raise AssertionError("another echo than what was sent")
        done["messages"] += 1
        await asyncio.sleep(random.random() * pause)


async def talker(url, end):
    """A long session that talks now and then."""
    async with websockets.connect(url, ping_interval=None) as ws:
        while time.monotonic() < end:
            await talk(ws, 10, 1.0)


async def visitor(url, end):
    """Short sessions, one behind the other."""
    while time.monotonic() < end:
        async with websockets.connect(url, ping_interval=None) as ws:
            done["sessions"] += 1
            await talk(ws, 5, 0.05)


async def reader(port, end):
    """Requests on one kept connection, a new one now and then."""
    while time.monotonic() < end:
        stream, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(200):
            writer.write(b"GET /IMS/page HTTP/1.1\r\nHost: soak\r\n\r\n")
            head = await asyncio.wait_for(stream.readuntil(b"\r\n\r\n"), 20)
            if not head.startswith(b"HTTP/1.1 200"):
                raise AssertionError(head)
            await stream.readexactly(16384)
            done["requests"] += 1
            await asyncio.sleep(random.random() * 0.02)
        writer.close()


async def watched(work):
    try:
        await work
    except Exception as error:
        errors.append(repr(error))


def sample(tiers):
    return [(tier.rss_kib(), tier.descriptors()) for tier in tiers]


async def settled(tiers, seconds=10):
    """The median over some seconds: one moment's load must not decide."""
    samples = []
    for _ in range(seconds):
        samples.append(sample(tiers))
        await asyncio.sleep(1)
    return [tuple(statistics.median(s[i][k] for s in samples) for k in (0, 1))
            for i in range(len(tiers))]


async def main():
    ports = {port: free_port() for port in (9090, 9091, 7080, 8080, 9080, 9081)}
    servers = [await websockets.serve(echo_server, "127.0.0.1", ports[p], ping_interval=None)
               for p in (9080, 9081)]
    pages = [await asyncio.start_server(page_server, "127.0.0.1", ports[p]) for p in (7080, 8080)]
    tiers = [Tier(PRUSIK, "client-lb.yaml", ports), Tier(PRUSIK, "server-lb.yaml", ports)]
    try:
        url = f"ws://127.0.0.1:{ports[9090]}/IMS_SVR/websocket/echo"
        end = time.monotonic() + MINUTES * 60
        load = [talker(url, end) for _ in range(TALKERS)]
        load += [visitor(url, end) for _ in range(VISITORS)]
        load += [reader(ports[9090], end) for _ in range(READERS)]
        tasks = [asyncio.create_task(watched(work)) for work in load]
        await asyncio.sleep(60)
        first = await settled(tiers)
        print("after the first minute (RSS KiB, descriptors):", first, flush=True)
        await asyncio.sleep(max(0, end - time.monotonic() - 12))
        last = await settled(tiers)
        await asyncio.gather(*tasks)
        print("at the end:", last)
        print("done:", dict(done), "errors:", len(errors), errors[:5])
        assert not errors
        for tier, (rss0, fd0), (rss1, fd1) in zip(("client LB", "server LB"), first, last):
            print(f"{tier}: memory x {rss1 / rss0:.3f}, descriptors x {fd1 / fd0:.3f}")
            assert rss1 <= 1.05 * rss0 and fd1 <= 1.05 * fd0, tier
        for tier in tiers:
            bad = [line for line in tier.stderr().splitlines() if "ERROR" in line or "panic" in line]
            assert not bad, bad[:5]
        print("soak: passed")
    finally:
        for tier in tiers:
            tier.stop()
        for server in servers + pages:
            server.close()


asyncio.run(main())
