#!/usr/bin/env python3
"""Scrapes with as many live sessions as the machine has descriptors for, up to 100,000, beside talk.

usage: scrape.py PRUSIK [SESSIONS]
A scrape of /metrics must take less than 50 ms (the median of 40), and while they go on an echo's
99th percentile may be 50 ms longer than without. A session takes four descriptors here: one in the
origin, one in the client, two in prusik, which takes no more than half of its own for clients.
Needs: cc, pip install websockets.
"""
import asyncio, http.client, pathlib, re, resource, statistics, subprocess, sys, tempfile, time
from tiers import ROOT, free_port, wait_for
import websockets

PRUSIK = str(pathlib.Path(sys.argv[1]).resolve())
WANTED = int(sys.argv[2]) if len(sys.argv) > 2 else 100_000
GROUP = 15_000  # sessions for one pair of client and origin: there are 28,000 ports
SCRAPES, TALK = 40, 2000
MOST = 0.050

hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
SESSIONS = min(WANTED, (hard - 400) // 2)


class Load:
    """benches/load.c, which answers each line with a line."""

    def __init__(self, binary, *arguments):
        self.process = subprocess.Popen([binary, *map(str, arguments)], text=True, bufsize=1,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def line(self):
        line = self.process.stdout.readline()
        assert line, f"it has ended with {self.process.wait()}"
        return line

    def order(self, words):
        self.process.stdin.write(words + "\n")
        return self.line()

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def scrape(admin):
    started = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", admin, timeout=30)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    took = time.monotonic() - started
    active = re.findall(r"^prusik_sessions_active\{.*\} (\d+)$", text, re.M)
    return took, sum(map(int, active))


async def talk(ws, until):
    """Latencies of echoes, one after the other."""
    took = []
    while not until(len(took)):
        text = f"{len(took)} ".ljust(64, "x")
        started = time.monotonic()
        await ws.send(text)
        assert await ws.recv() == text
        took.append(time.monotonic() - started)
        await asyncio.sleep(0.001)
    return sorted(took)


def percentile(values, part):
    return values[min(len(values) - 1, int(len(values) * part))]


async def echo(ws):
    async for message in ws:
        await ws.send(message)


async def measure(port, talk_port, admin):
    async with (websockets.serve(echo, "127.0.0.1", talk_port, ping_interval=None),
                websockets.connect(f"ws://127.0.0.1:{port}/talk", ping_interval=None) as ws):
        alone = await talk(ws, lambda count: count == TALK)
        over = asyncio.Event()
        talking = asyncio.create_task(talk(ws, lambda _: over.is_set()))
        scrapes = []
        for _ in range(SCRAPES):
            scrapes.append(await asyncio.to_thread(scrape, admin))
            await asyncio.sleep(0.02)
        over.set()
        return alone, await talking, scrapes


def main():
    groups = -(-SESSIONS // GROUP)
    sizes = [SESSIONS // groups + (number < SESSIONS % groups) for number in range(groups)]
    running = []
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        subprocess.run(["cc", "-O2", "-o", folder / "load", ROOT / "benches/load.c"], check=True)
        try:
            origins = []
            for _ in sizes:
                running.append(Load(folder / "load", "origin"))
                origins.append(int(running[-1].line().split()[0]))
            ports, admin, talk_port = [free_port() for _ in sizes], free_port(), free_port()
            listeners = "".join(f"  - {{ listen: '127.0.0.1:{port}', name: p{port} }}\n" for port in ports)
            upstreams = "".join(f"  u{port}: {{ servers: ['127.0.0.1:{origin}'] }}\n"
                                for port, origin in zip(ports, origins))
            routes = "".join(f"  - {{ match: {{ listener: p{port} }}, upstream: u{port} }}\n" for port in ports)
            config = folder / "prusik.yaml"
            config.write_text(f"admin: {{ listen: '127.0.0.1:{admin}' }}\naccess_log: off\n"
                              f"listeners:\n{listeners}upstreams:\n  talk: {{ servers: ['127.0.0.1:{talk_port}'] }}\n{upstreams}"
                              f"routes:\n  - {{ match: {{ path: /talk }}, upstream: talk }}\n{routes}")
            prusik = subprocess.Popen([PRUSIK, "run", "--config", config], stderr=subprocess.PIPE, text=True)
            for line in prusik.stderr:
                if "ready" in line:
                    break
            started = time.monotonic()
            for size, port in zip(sizes, ports):
                running.append(Load(folder / "load", "client", port))
                running[-1].order(f"open {size}")
            print(f"{SESSIONS} sessions opened in {time.monotonic() - started:.1f} s"
                  + ("" if SESSIONS == WANTED else f" ({hard} descriptors allow no more)"), flush=True)
            alone, beside, scrapes = asyncio.run(measure(ports[0], talk_port, admin))
            took = sorted(seconds for seconds, _ in scrapes)
            counted = {count for _, count in scrapes}
            print(f"{len(took)} scrapes: median {statistics.median(took) * 1000:.1f} ms, "
                  f"longest {took[-1] * 1000:.1f} ms")
            for name, values in [("without scrapes", alone), ("beside them", beside)]:
                print(f"an echo {name}: median {percentile(values, .5) * 1000:.2f} ms, "
                      f"p99 {percentile(values, .99) * 1000:.2f} ms, of {len(values)}")
            assert counted == {SESSIONS + 1}, counted
            assert statistics.median(took) < MOST
            assert percentile(beside, .99) < percentile(alone, .99) + MOST
        finally:
            for load in reversed(running):
                load.end()
            prusik.terminate()
            prusik.wait()
    print("scrape: all of it holds")


main()
