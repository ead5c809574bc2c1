#!/usr/bin/env python3
"""How fast the admin API answers while the one worker thread has more requests than it can serve.

usage: admin.py PRUSIK
Loopback only; needs cc.
"""
import statistics, subprocess, sys, tempfile, time, urllib.request
from pathlib import Path

sys.dont_write_bytecode = True
from compare import Load, Origin, prepare
from proxies import accepts, free_port

CONFIG = """\
server: {{ threads: 1 }}
access_log: off
admin: {{ listen: 127.0.0.1:{admin} }}
listeners: [{{ listen: 127.0.0.1:{port} }}]
upstreams: {{ origin: {{ servers: [127.0.0.1:{origin}] }} }}
routes: [{{ upstream: origin }}]
"""


def ask(admin, seconds):
    """The milliseconds of each answer, one call after the other."""
    took, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        begun = time.perf_counter()
        urllib.request.urlopen(f"http://127.0.0.1:{admin}/api/v1/status").read()
        took.append((time.perf_counter() - begun) * 1000)
    return took


def say(when, took):
    ordered = sorted(took)
    print(f"{when}: median {statistics.median(took):.1f} ms, p99 {ordered[len(ordered) * 99 // 100]:.1f}, "
          f"most {ordered[-1]:.1f}, of {len(took)}")


def main():
    prepare()
    admin, port = free_port(), free_port()
    with tempfile.TemporaryDirectory() as folder, Origin(has_tls=False) as origin:
        config = Path(folder) / "prusik.yaml"
        config.write_text(CONFIG.format(admin=admin, port=port, origin=origin.port))
        prusik = subprocess.Popen([sys.argv[1], "run", "--config", config], stderr=subprocess.DEVNULL)
        try:
            while not accepts(admin) and prusik.poll() is None:
                time.sleep(0.02)
            say("idle", ask(admin, 2))
            with Load("client", port) as load:
                load.process.stdin.write("get 200 6\n")
                time.sleep(1)
                say("under load", ask(admin, 4))
                figures = load.line()
                print(f"the load: {figures['ops'] / figures['seconds']:.0f} GET/s, p50 {figures['p50_us'] / 1000:.0f} ms")
        finally:
            prusik.terminate()
            prusik.wait()


if __name__ == "__main__":
    main()
