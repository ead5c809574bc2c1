#!/usr/bin/env python3
"""Scrapes with as many live sessions as the machine has descriptors for, up to 100,000, beside talk.

usage: scrape.py PRUSIK [SESSIONS]
A scrape of /metrics must take less than 50 ms (the median), and the 99th percentile of the echoes
that met one may be 50 ms longer than without. Afterwards every session must still echo. A session
takes four descriptors here: one in the origin, one in the client, two in prusik, which takes no more
than half of its own for clients. Who may (CAP_SYS_RESOURCE) raises the hard limit first.
Needs: cc, pip install websockets.
"""
import asyncio, http.client, json, pathlib, re, resource, statistics, subprocess, sys, tempfile, time
from tiers import ROOT, free_port
import websockets

PRUSIK = str(pathlib.Path(sys.argv[1]).resolve())
WANTED = int(sys.argv[2]) if len(sys.argv) > 2 else 100_000
GROUP = 15_000  # sessions for one pair of client and origin: there are 28,000 ports
SCRAPES, TALK = 400, 2000
MOST = 0.050

hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
try:
    hard = max(hard, 2 * WANTED + 400)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
except (ValueError, OSError):
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
    ended = time.monotonic()
    active = re.findall(r"^prusik_sessions_active\{.*\} (\d+)$", text, re.M)
    return started, ended, sum(map(int, active))


async def talk(ws, until):
    """When each echo was asked for and came, one after the other. None may be lost."""
    took = []
    while not until(len(took)):
        text = f"{len(took)} ".ljust(64, "x")
        started = time.monotonic()
        await ws.send(text)
        assert await asyncio.wait_for(ws.recv(), 10) == text
        took.append((started, time.monotonic()))
        await asyncio.sleep(0.001)
    return took


def that_met(scrapes, echoes):
    """The echoes during which a scrape was under way."""
    return [(asked, came) for asked, came in echoes
            if any(asked < ended and started < came for started, ended, _ in scrapes)]


def latencies(echoes):
    return sorted(came - asked for asked, came in echoes)


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
        beside = that_met(scrapes, await talking)
        return latencies(alone), latencies(beside), scrapes


def main():
    groups = -(-SESSIONS // GROUP)
    sizes = [SESSIONS // groups + (number < SESSIONS % groups) for number in range(groups)]
    running, clients, prusik = [], [], None
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
            said = []
            for line in prusik.stderr:
                said.append(line)
                if "ready" in line:
                    break
            else:
                raise AssertionError("".join(said))
            started = time.monotonic()
            for size, port in zip(sizes, ports):
                clients.append(Load(folder / "load", "client", port))
                running.append(clients[-1])
                clients[-1].order(f"open {size}")
            print(f"{SESSIONS} sessions opened in {time.monotonic() - started:.1f} s"
                  + ("" if SESSIONS == WANTED else f" ({hard} descriptors allow no more)"), flush=True)
            alone, beside, scrapes = asyncio.run(measure(ports[0], talk_port, admin))
            took = sorted(ended - started for started, ended, _ in scrapes)
            counted = {count for *_, count in scrapes}
            print(f"{len(took)} scrapes: median {statistics.median(took) * 1000:.1f} ms, "
                  f"longest {took[-1] * 1000:.1f} ms")
            for name, values in [("without scrapes", alone), ("that meets one", beside)]:
                print(f"an echo {name}: median {percentile(values, .5) * 1000:.2f} ms, "
                      f"p99 {percentile(values, .99) * 1000:.2f} ms, of {len(values)}")
            # The one that talks is among them.
            assert counted == {SESSIONS + 1}, counted
            assert len(beside) >= 100, "too few echoes met a scrape to say anything"
            assert statistics.median(took) < MOST
            assert percentile(beside, .99) < percentile(alone, .99) + MOST
            for size, client in zip(sizes, clients):
                assert json.loads(client.order("once 64"))["ops"] == size
                assert json.loads(client.order("close"))["ops"] == size
            print(f"all {SESSIONS} sessions still echo, and end by their Close")
        finally:
            for load in reversed(running):
                load.end()
            if prusik:
                prusik.terminate()
                prusik.wait()
    print("scrape: all of it holds")


main()
