#!/usr/bin/env python3
"""The load that `make pgo` shows to prusik: what it does most, so that the compiler sees it.

usage: train.py PRUSIK

Echoes of several sizes, handshakes and GETs, plain and by TLS on one side or both, over a configuration with what
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
  chat-tls:
    servers: [127.0.0.1:{origin_tls}]
    tls: {{ verify: false }}
routes:
  - match: {{ path_prefix: /tls/ }}
    upstream: chat-tls
  - match: {{ host: chat.example.com, path_prefix: /chat }}
    upstream: chat
  - match: {{ path_prefix: /echo }}
    upstream: chat
    headers: {{ request: {{ set: {{ X-User: $arg_userId }} }} }}
  - match: {{ path_prefix: / }}
    upstream: pages
"""
SECONDS = 3


def steps(transport):
    """What each client of its own does, a list of commands each."""
    for size in (64, 1024, 16384):
        yield ["open 50", f"echo {size} {SECONDS}", "close"]
    seconds = 1 if transport else SECONDS
    yield [f"handshakes {compare.HANDSHAKE_WORKERS} {seconds}"]
    yield [f"get {compare.GET_CONNECTIONS} {seconds}"]


def main():
    prusik = Path(sys.argv[1]).resolve()
    has_tls = compare.prepare()
    kind = Kind("train", CONFIG, [str(prusik), "run", "--config", "CONFIG"], "")
    transports = [compare.PLAIN, compare.TLS, compare.TLS_TWICE] if has_tls else [compare.PLAIN]
    with compare.Origin(has_tls) as origin, Proxy(kind, origin, compare.SCRATCH, compare.PROXY_CORE) as proxy:
        for transport in transports:
            for commands in steps(transport):
                with compare.client(proxy, transport) as load:
                    for command in commands:
                        load.ask(command)
    (compare.SCRATCH / "train.log").unlink()


if __name__ == "__main__":
    main()
