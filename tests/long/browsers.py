#!/usr/bin/env python3
"""Upgrades under a page in Chromium and in Firefox, by https: neither browser notices.

usage: browsers.py PRUSIK [UPGRADES]

The page has a WebSocket with numbered messages both ways and an EventSource with numbered events. After
each upgrade the old process must have ended, so that what still runs has moved. The WebSocket must be
the same one from first to last. The EventSource too, if the binary moves event streams; if not, it must
come back by itself and ask for what follows the event that it had last. Nothing is lost, nothing is
doubled, in either case.
Needs: apt-get install chromium chromium-driver firefox-esr. Loopback only.
"""
import http.server, itertools, json, os, pathlib, subprocess, sys, tempfile, threading, time

import websockets
from websockets.sync.server import serve

from browser import Browser
from firefox import Firefox
from tiers import ROOT, free_port, wait_for

PRUSIK = os.path.abspath(sys.argv[1])
UPGRADES = int(sys.argv[2]) if len(sys.argv) > 2 else 3

# Between two messages of one direction, and two events, in seconds; how many of each between upgrades.
PACE, BETWEEN = 0.01, 100

CONFIG = """
server: {{ threads: 2, drain: {{ window: 1s, deadline: 3s }} }}
admin: {{ listen: "unix:{folder}/admin.sock" }}
access_log: off
listeners:
  - listen: 127.0.0.1:{port}
    tls:
      certificates: [{{ cert: {tls}/chat.example.com.pem, key: {tls}/chat.example.com.key }}]
      http2: false  # its connections do not move
upstreams:
  socket: {{ servers: [127.0.0.1:{socket}] }}
  page: {{ servers: [127.0.0.1:{page}] }}
routes:
  - {{ match: {{ path: /socket }}, upstream: socket }}
  - {{ upstream: page }}
"""

PAGE = """<!DOCTYPE html>
<title>upgrades</title>
<script>
const socket = {opens: 0, closes: 0, errors: 0, sent: 0, echoes: 0, own: 0};
const stream = {opens: 0, errors: 0, events: 0};
const wrong = [];
const expect = (what, due, came) => { if (String(due) !== came) wrong.push(`${what} ${came} for ${due}`); };

const connection = new WebSocket(`wss://${location.host}/socket`);
connection.onopen = () => {
  socket.opens++;
  setInterval(() => connection.send(String(socket.sent++)), PACE);
};
connection.onclose = () => socket.closes++;
connection.onerror = () => socket.errors++;
connection.onmessage = ({data}) => {
  const [kind, number] = data.split(" ");
  expect(kind, kind === "echo" ? socket.echoes++ : socket.own++, number);
};

const source = new EventSource("/events");
source.onopen = () => stream.opens++;
source.onerror = () => stream.errors++;
source.onmessage = ({data, lastEventId}) => {
  expect("event", stream.events, data);
  expect("event id", stream.events++, lastEventId);
};
</script>
""".replace("PACE", str(PACE * 1000)).encode()


class Servers:
    """What is behind prusik, and what the servers saw of one browser."""

    def __init__(self):
        self.sessions, self.resumed_after, self.wrong = 0, [], []
        self.sockets = serve(self.session, "127.0.0.1", 0, compression=None)
        self.pages = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self.handler())
        self.pages.daemon_threads = True
        self.socket_port = self.sockets.socket.getsockname()[1]
        self.page_port = self.pages.server_address[1]
        for server in (self.sockets, self.pages):
            threading.Thread(target=server.serve_forever, daemon=True).start()

    def session(self, connection):
        """Echoes, with numbers of its own in between."""
        self.sessions += 1
        threading.Thread(target=self.say_numbers, args=[connection], daemon=True).start()
        for due in itertools.count():
            try:
                said = connection.recv()
                connection.send(f"echo {said}")
            except websockets.ConnectionClosed:
                return
            if said != str(due):
                self.wrong.append(f"the server got message {said} for {due}")

    @staticmethod
    def say_numbers(connection):
        try:
            for number in itertools.count():
                connection.send(f"own {number}")
                time.sleep(PACE)
        except websockets.ConnectionClosed:
            pass

    def handler(servers):
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                if self.path == "/events":
                    self.events()
                else:
                    self.begin("text/html", ("Content-Length", str(len(PAGE))))
                    self.wfile.write(PAGE)

            def events(self):
                last = self.headers.get("Last-Event-ID")
                servers.resumed_after.append(last)
                self.begin("text/event-stream", ("Transfer-Encoding", "chunked"))
                try:
                    for number in itertools.count(0 if last is None else int(last) + 1):
                        event = f"id: {number}\ndata: {number}\n\n"
                        self.wfile.write(f"{len(event):x}\r\n{event}\r\n".encode())
                        time.sleep(PACE)
                except ConnectionError:
                    self.close_connection = True

            def begin(self, kind, framing):
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header(*framing)
                self.end_headers()

            def log_message(self, *_):
                pass

        return Handler

    def stop(self):
        self.sockets.shutdown()
        self.pages.shutdown()


class Chromium(Browser):
    def __init__(self):
        super().__init__(1280, 1000, more_arguments=["--ignore-certificate-errors"])

    def open(self, url):
        self.call("POST", "/url", {"url": url})

    def value(self, expression):
        return self.run(f"return {expression}")


class Prusik:
    def __init__(self, servers):
        self.folder, self.port = tempfile.TemporaryDirectory(), free_port()
        self.file, self.log = (pathlib.Path(self.folder.name, name) for name in ("prusik.yaml", "stderr.log"))
        self.file.write_text(CONFIG.format(folder=self.folder.name, port=self.port, tls=ROOT / "tests/shipped/tls",
                                           socket=servers.socket_port, page=servers.page_port))
        with open(self.log, "w") as log:
            self.process = subprocess.Popen([PRUSIK, "run", "--config", self.file], stderr=log)
        wait_for("prusik", lambda: "ready" in self.log.read_text(), 10)
        self.pid = self.process.pid

    def ask(self, command, *more):
        done = subprocess.run([PRUSIK, command, "--config", self.file, *more], capture_output=True, text=True)
        assert done.returncode == 0, f"prusik {command}: {done.stdout}{done.stderr}"
        return done.stdout

    def upgrade(self):
        """Returns when the old process has ended, with what the command said."""
        said, old = self.ask("upgrade").strip(), self.pid
        self.pid = json.loads(self.ask("status", "--json"))["pid"]
        assert self.pid != old, f"still the same process: {said}"
        wait_for("the old process to end", lambda: self.has_ended(old), 10)
        return said

    def has_ended(self, pid):
        # The first one is this script's child: it stays as long as nobody waits for it.
        return self.process.poll() is not None if pid == self.process.pid else not os.path.exists(f"/proc/{pid}")

    def stop(self):
        if not self.has_ended(self.pid):
            os.kill(self.pid, 9)
        self.process.wait()
        self.folder.cleanup()


def counts(browser):
    return browser.value("({socket, stream, wrong})")


def go_on(browser, name):
    """Until so many more messages came both ways, and so many events."""
    def progress():
        seen = counts(browser)
        return [seen["socket"]["echoes"], seen["socket"]["own"], seen["stream"]["events"]]

    before = progress()
    try:
        wait_for("progress", lambda: all(b - a >= BETWEEN for a, b in zip(before, progress())), 30)
    except AssertionError as error:
        raise AssertionError(f"{name}: {counts(browser)}") from error


def judge(seen, servers, name):
    socket, stream = seen["socket"], seen["stream"]
    wrong = seen["wrong"] + servers.wrong
    assert not wrong, f"{name}: {wrong[:5]}"
    assert (socket["opens"], socket["closes"], socket["errors"]) == (1, 0, 0), f"{name}: {socket}"
    assert servers.sessions == 1, f"{name}: the server had {servers.sessions} sessions"
    # Each time that it came back it said what it had.
    assert servers.resumed_after[0] is None and None not in servers.resumed_after[1:], servers.resumed_after
    assert stream["opens"] == len(servers.resumed_after) == stream["errors"] + 1, f"{name}: {stream}"
    return "the stream too" if stream["errors"] == 0 else \
        f"the stream came back {stream['errors']} times by Last-Event-ID"


def watch(name, make_browser):
    servers = Servers()
    prusik = Prusik(servers)
    try:
        browser = make_browser()
        try:
            browser.open(f"https://127.0.0.1:{prusik.port}/")
            go_on(browser, name)
            for _ in range(UPGRADES):
                print(f"{name}: {prusik.upgrade()}")
                go_on(browser, name)
            seen = counts(browser)
        finally:
            browser.close()
    finally:
        prusik.stop()
        servers.stop()
    fate = judge(seen, servers, name)
    print(f"{name}: through {UPGRADES} upgrades the WebSocket stayed the same, {fate}; "
          f"{seen['socket']['echoes']} echoes, {seen['socket']['own']} messages, {seen['stream']['events']} events")


watch("Chromium", Chromium)
watch("Firefox", Firefox)
