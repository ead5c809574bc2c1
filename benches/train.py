#!/usr/bin/env python3
"""The load that `make pgo` shows to prusik: what it does most, so that the compiler sees it.

usage: train.py PRUSIK

Echoes of several sizes, handshakes and GETs, plain and by TLS, over a configuration with what
operators have in theirs: several routes, header rules, an access log, two servers with checks.
"""
import sys
from pathlib import Path

sys.dont_write_bytecode = True
import compare
from proxies import Kind, Proxy, write_certificate

CONFIG = """\
server: {{ threads: 1 }}
access_log: {{ path: {dir}/train.log }}
listeners:
  - listen: 127.0.0.1:{port}
  - listen: 127.0.0.1:{tls_port}
    tls: {{ certificates: [{{ cert: {dir}/bench.pem, key: {dir}/bench.key }}] }}
upstreams:
  pages: {{ servers: [127.0.0.1:{origin}] }}
  chat:
    balance: least_sessions
    servers: [127.0.0.1:{origin}, "localhost:{origin}"]
    health_check: {{ type: tcp }}
routes:
  - match: {{ host: chat.example.com, path_prefix: /chat }}
    upstream: chat
  - match: {{ path_prefix: /echo }}
    upstream: chat
    headers: {{ request: {{ set: {{ X-User: $arg_userId }} }} }}
  - match: {{ path_prefix: / }}
    upstream: pages
"""
SECONDS = 3


def steps(by_tls):
    """What each client of its own does, a list of commands each."""
    for size in (64, 1024, 16384):
        yield ["open 50", f"echo {size} {SECONDS}", "close"]
    seconds = 1 if by_tls else SECONDS
    yield [f"handshakes {compare.HANDSHAKE_WORKERS} {seconds}"]
    yield [f"get {compare.GET_CONNECTIONS} {seconds}"]


def main():
    prusik = Path(sys.argv[1]).resolve()
    has_tls = compare.prepare()
    kind = Kind("train", CONFIG, [str(prusik), "run", "--config", "CONFIG"], "")
    with compare.Origin() as origin, Proxy(kind, origin.port, compare.SCRATCH, compare.PROXY_CORE) as proxy:
        for by_tls in (False, True) if has_tls else (False,):
            for commands in steps(by_tls):
                with compare.client(proxy, by_tls) as load:
                    for command in commands:
                        load.ask(command)
    (compare.SCRATCH / "train.log").unlink()


if __name__ == "__main__":
    main()
