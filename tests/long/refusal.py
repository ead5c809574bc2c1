#!/usr/bin/env python3
"""Chromium reads the code and the reason of a refused handshake (`refusal: close`), whether the page
offers subprotocols or not, by http, by https and by HTTP/2. Without it, it sees 1006 and nothing else.

usage: refusal.py PRUSIK
Needs: apt-get install chromium chromium-driver. Loopback only.
"""
import http.server, os, pathlib, subprocess, sys, tempfile, threading

from browser import Browser
from tiers import ROOT, free_port, wait_for

PRUSIK = os.path.abspath(sys.argv[1])

CONFIG = """
access_log: off
listeners:
  - listen: 127.0.0.1:{plain}
  - listen: 127.0.0.1:{secure}
    tls:
      certificates: [{{ cert: {tls}/chat.example.com.pem, key: {tls}/chat.example.com.key }}]
      http2: {http2}
upstreams:
  page: {{ servers: [127.0.0.1:{page}] }}
  none: {{ servers: [127.0.0.1:{none}] }}
routes:
  - {{ match: {{ path: /status }}, upstream: page, deny: [127.0.0.0/8] }}
  - {{ match: {{ path: /denied }}, upstream: page, deny: [127.0.0.0/8], websocket: {{ refusal: close }} }}
  - {{ match: {{ path: /origin }}, upstream: page, websocket: {{ refusal: close, origins: ["https://elsewhere.test"] }} }}
  - {{ match: {{ path: /none }}, upstream: none, websocket: {{ refusal: close }} }}
  - {{ upstream: page }}
"""

ASK = """
const [path, protocols, done] = arguments;
const url = location.origin.replace("http", "ws") + path;
const socket = protocols ? new WebSocket(url, protocols) : new WebSocket(url);
let opened = null;
socket.onopen = () => opened = socket.protocol;
socket.onclose = ({code, reason, wasClean}) => done({code, reason, wasClean, opened});
"""

LATER = "retry in 2 s"
CASES = [("/denied", 4403, "this address may not come in here"), ("/origin", 4403, "this Origin is not admitted"),
         ("/none", 1013, LATER)]


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!DOCTYPE html><title>refused</title>")

    def log_message(self, *_):
        pass


def ask(browser, path, protocols):
    return browser.call("POST", "/execute/async", {"script": ASK, "args": [path, protocols]})


def watch(browser, origin):
    browser.call("POST", "/url", {"url": origin})
    for protocols in [None, ["chat", "superchat"], "bearer"]:
        first = protocols if isinstance(protocols, str) else protocols[0] if protocols else ""
        for path, code, reason in CASES:
            seen = ask(browser, path, protocols)
            wanted = {"code": code, "reason": reason, "wasClean": True, "opened": first}
            assert seen == wanted, f"{origin}{path} with {protocols}: {seen} for {wanted}"
            print(f"{origin}{path}, subprotocols {protocols}: {code} {reason!r}")
    told = ask(browser, "/status", None)
    assert (told["code"], told["reason"]) == (1006, ""), told


def main():
    pages = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=pages.serve_forever, daemon=True).start()
    for http2 in ["false", "true"]:
        plain, secure = free_port(), free_port()
        with tempfile.TemporaryDirectory() as folder:
            file, log = (pathlib.Path(folder, name) for name in ("prusik.yaml", "stderr.log"))
            file.write_text(CONFIG.format(plain=plain, secure=secure, tls=ROOT / "tests/shipped/tls", http2=http2,
                                          page=pages.server_address[1], none=free_port()))
            with open(log, "w") as stderr:
                process = subprocess.Popen([PRUSIK, "run", "--config", file], stderr=stderr)
            browser = None
            try:
                wait_for("prusik", lambda: "ready" in log.read_text(), 10)
                browser = Browser(800, 600, more_arguments=["--ignore-certificate-errors"])
                watch(browser, f"http://127.0.0.1:{plain}")
                watch(browser, f"https://127.0.0.1:{secure}")
            finally:
                if browser:
                    browser.close()
                process.kill()
                process.wait()
    pages.shutdown()
    print("Chromium read every code and reason")


main()
