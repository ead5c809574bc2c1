#!/usr/bin/env python3
"""The status page in headless Chromium: the token, live figures, a drain, a close, reloads and an upgrade under
load; by keyboard, dark, on a phone, and when prusik is killed. With 500 servers and 10,000 sessions of a made-up API, too.

usage: status_page.py PRUSIK [FOLDER FOR SCREENSHOTS]
Needs: apt-get install chromium chromium-driver, pip install websockets. Loopback only.
"""
import asyncio, json, logging, os, pathlib, signal, statistics, subprocess, sys, tempfile, threading, time

from browser import Browser
from fake_api import FakeApi
from tiers import free_port, wait_for
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve

# A session that is told to go is no fault of the echo server.
logging.disable(logging.CRITICAL)

PRUSIK = str(pathlib.Path(sys.argv[1]).resolve())
SHOTS = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else None
SESSIONS = 40
# https://www.w3.org/TR/webdriver2/#keyboard-actions
ENTER, ESCAPE, TAB = "\ue007", "\ue00c", "\ue004"
CONFIG = """\
server: {{ drain: {{ window: 4s }} }}
access_log: off
admin: {{ listen: 127.0.0.1:{admin}, token_file: {token} }}
listeners: [{{ listen: 127.0.0.1:{port}, name: public }}]
upstreams:
  chat:
    balance: least_sessions
    servers: [127.0.0.1:{first}, 127.0.0.1:{second}]
    health_check: {{ type: tcp, interval: 500ms }}
routes: [{{ name: chat, match: {{ path_prefix: / }}, upstream: chat }}]
"""


class Chat:
    """Two echo servers and clients that talk and reconnect, in a thread of their own."""

    def __init__(self):
        self.first, self.second, self.port = free_port(), free_port(), free_port()
        self.ended = 0
        self.loop = asyncio.new_event_loop()
        self.stop = None
        self.thread = threading.Thread(target=lambda: self.loop.run_until_complete(self.run()))
        self.thread.start()

    async def run(self):
        async def echo(socket):
            async for message in socket:
                await socket.send(message)

        self.stop = asyncio.Event()
        async with serve(echo, "127.0.0.1", self.first), serve(echo, "127.0.0.1", self.second):
            clients = [asyncio.create_task(self.client(number)) for number in range(SESSIONS)]
            await self.stop.wait()
            for client in clients:
                client.cancel()
            await asyncio.gather(*clients, return_exceptions=True)

    async def client(self, number):
        path = f"ws://127.0.0.1:{self.port}/room/{number}?userId={number}&name=a'b"
        while True:
            try:
                async with connect(path) as socket:
                    while True:
                        await socket.send("hello")
                        await socket.recv()
                        await asyncio.sleep(0.2)
            except OSError:
                pass
            except Exception as end:
                self.ended += 1
                if isinstance(end, asyncio.CancelledError):
                    raise
            await asyncio.sleep(0.1)

    def end(self):
        self.loop.call_soon_threadsafe(self.stop.set)
        self.thread.join()


def main():
    chat = Chat()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        token, admin = folder / "token", free_port()
        token.write_text("a-token-for-the-status-page\n")
        token.chmod(0o600)
        config = folder / "chat-lb.yaml"
        config.write_text(CONFIG.format(admin=admin, token=token, port=chat.port, first=chat.first, second=chat.second))
        log = open(folder / "stderr.log", "w")
        prusik = subprocess.Popen([PRUSIK, "run", "--config", str(config)], stderr=log)
        browser = Browser(1280, 1100, SHOTS)
        try:
            look(browser, admin, chat, config)
            for servers, sessions in ((500, 10_000), (72, 1_000)):
                look_at_many(browser, servers, sessions)
        finally:
            browser.close()
            chat.end()
            stop(config, admin)
            prusik.wait()


def operate(config, admin, *command):
    """`prusik reload`, `prusik upgrade`, also while the file is wrong."""
    way = ["--admin", f"127.0.0.1:{admin}", "--token-file", str(config.parent / "token")]
    return subprocess.run([PRUSIK, *command, *way], capture_output=True, text=True)


def stop(config, admin):
    """Whoever serves now, if that was not killed before."""
    status = operate(config, admin, "status", "--json").stdout
    if status:
        os.kill(json.loads(status)["pid"], signal.SIGINT)


def look(browser, admin, chat, config):
    def is_there():
        try:
            browser.call("POST", "/url", {"url": f"http://127.0.0.1:{admin}/"})
            return browser.text("state") is not None
        except RuntimeError:
            return False

    def rows(table):
        return browser.run("return [...document.querySelectorAll('#' + arguments[0] + ' tbody tr')]"
                           ".map(row => [...row.cells].map(cell => cell.textContent))", table)

    def press(key, answer):
        browser.run("document.querySelector(`[data-key='${arguments[0]}']`).click()", key)
        wait_for("the question", lambda: browser.run("return document.getElementById('confirm').open"), 5)
        browser.run("document.querySelector(`#confirm button[value='${arguments[0]}']`).click()", answer)

    def of(address):
        return next(row for row in rows("servers") if row[1] == address)

    wait_for("the page", is_there, 10)
    wait_for("it asks for the token", lambda: not browser.run("return document.getElementById('locked').hidden"), 10)
    browser.run("document.getElementById('token').value = 'a-token-for-the-status-page';"
                "document.querySelector('#unlock button').click()")
    wait_for("the sessions", lambda: len(rows("sessions")) == SESSIONS, 20)
    wait_for("both servers are up", lambda: [row[2] for row in rows("servers")] == ["up", "up"], 10)
    first, second = f"127.0.0.1:{chat.first}", f"127.0.0.1:{chat.second}"

    press(f"chat/{first}", "no")
    assert of(first)[2] == "up", "an answer of no drained it"
    press(f"chat/{first}", "yes")
    wait_for("the drain is half way", lambda: browser.run(
        "const bar = document.querySelector('#drain-list progress'); return bar && bar.value >= bar.max / 3"), 10)
    browser.shot("status-drain")
    wait_for("all are on the other", lambda: (of(first)[2], of(first)[5], of(second)[5]) == ("drained", "0", str(SESSIONS)), 20)
    press(f"chat/{first}", "yes")
    wait_for("it is used again", lambda: of(first)[2] == "up", 10)

    victim = browser.run("return document.querySelector('#sessions button').dataset.key")
    press(victim, "yes")
    wait_for("it is closed", lambda: not browser.run("return document.querySelector(`[data-key='${arguments[0]}']`)", victim), 10)
    wait_for("who ended it", lambda: "operator 1" in browser.text("ended"), 5)
    # A part of it is enough.
    browser.run("document.getElementById('server').value = arguments[0]", first[-5:])
    wait_for("the filter holds", lambda: rows("sessions") and all(row[1] == f"chat/{first}" for row in rows("sessions")), 10)
    browser.run("document.getElementById('server').value = ''")
    wait_for("the charts", lambda: browser.run("return document.querySelectorAll('polyline').length") == 8, 5)
    wait_for("messages of each server", lambda: all(float(row[8]) > 0 for row in rows("servers")), 10)
    # Also for who comes now: it is the process that remembers.
    browser.call("POST", "/refresh", {})
    wait_for("the history", lambda: rows("servers") and browser.run(
        "return [...document.querySelectorAll('.history')].map(one => one.getAttribute('aria-label').match(/[a-z]+(?= since)/g))")
        == [["up", "drained", "up", "unchecked"], ["up", "unchecked"]], 10)
    # Seconds of it are no hour.
    assert browser.run("const parts = [...document.querySelector('.history').children].map(one => one.getBoundingClientRect().width);"
                       "return parts[0] > 5 * parts.slice(1).reduce((sum, width) => sum + width)")
    tiers = browser.run("return [...document.querySelectorAll('#tiers > div')].map(one => one.textContent)")
    wait_for("the tiers", lambda: browser.text("tiers") and "2 of 2 servers usable" in browser.text("tiers"), 5)
    assert tiers[0].startswith("Listeners") and "connections" in tiers[0] and "chat" in tiers[1], tiers
    wait_for("all are back", lambda: len(rows("sessions")) == SESSIONS, 20)
    assert not browser.text("failure"), browser.text("failure")

    before, chat.ended = config.read_text(), 0
    config.write_text(before.replace("4s", "5s"))
    assert operate(config, admin, "reload").returncode == 0
    config.write_text(before.replace("upstream: chat }]", "upstream: chta }]"))
    assert operate(config, admin, "reload").returncode == 1
    config.write_text(before)
    done = operate(config, admin, "upgrade")
    assert done.returncode == 0, done.stderr
    wait_for("what was done is listed", lambda: [row[1] for row in rows("operations")][:3] == ["upgrade", "reload", "reload"], 10)
    assert [row[1] for row in rows("operations")][3:] == ["enable", "drain", "drain"], rows("operations")
    assert all(row[4].startswith("127.0.0.1:") and row[4].endswith("with the token") for row in rows("operations")), rows("operations")
    outcomes = [row[2] for row in rows("operations")]
    assert outcomes[0].startswith("version ") and "chta" in outcomes[1] and outcomes[2] == "server.drain changed", outcomes
    assert outcomes[1].startswith("refused: "), outcomes
    assert len(rows("sessions")) == SESSIONS and chat.ended == 0, f"{chat.ended} sessions fell"
    time.sleep(2.5)  # until the charts have something of the new process
    browser.shot("status-upgrade")

    browser.run("document.querySelector(`[data-key='${arguments[0]}']`).focus()", f"chat/{second}")
    browser.keys(ENTER)
    wait_for("the question", lambda: browser.run("return document.getElementById('confirm').open"), 5)
    browser.keys(ESCAPE)
    wait_for("no question", lambda: not browser.run("return document.getElementById('confirm').open"), 5)
    assert of(second)[2] == "up", "Escape drained it"
    # However often the rows change: the focus is where it was.
    browser.keys(TAB)
    wait_for("the next is a session's", lambda: browser.run("return document.activeElement.id") == "order", 5)

    browser.shot("status-light")
    browser.emulate("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    browser.shot("status-dark")
    browser.emulate("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=2, mobile=True)
    wide = browser.run("return document.documentElement.scrollWidth")
    assert wide <= 390, f"the page is {wide} pixels wide on a phone"
    clipped = browser.run("return [...document.querySelectorAll('.wide')].filter(one => one.scrollWidth > one.clientWidth).length")
    assert not clipped, f"{clipped} tables are clipped on a phone"
    browser.run("document.getElementById('servers').scrollIntoView()")
    browser.shot("status-phone")
    browser.emulate("Emulation.setDeviceMetricsOverride", width=1280, height=1100, deviceScaleFactor=1, mobile=False)
    wait_for("its buttons have names", lambda: browser.run(
        "return [...document.querySelectorAll('#servers button')].every(one => one.getAttribute('aria-label').includes('chat/'))"), 5)
    clipped = browser.run("return [...document.querySelectorAll('.wide')].filter(one => one.scrollWidth > one.clientWidth).length")
    assert not clipped, f"{clipped} tables are clipped at 1280 pixels"
    assert browser.run("return document.title") == "chat-lb · prusik · serving", browser.run("return document.title")

    os.kill(json.loads(operate(config, admin, "status", "--json").stdout)["pid"], signal.SIGKILL)
    wait_for("it says that nobody answers", lambda: "does not answer" in browser.text("failure"), 10)
    assert browser.text("state") == "no answer" and browser.run("return document.title").startswith("✗"), browser.text("state")
    assert browser.run("return Number(getComputedStyle(document.getElementById('content')).opacity)") < 0.5
    assert browser.run("return [...document.querySelectorAll('#content button')].every(one => one.disabled)")
    browser.run("scrollTo(0, 0)")
    browser.shot("status-dead")
    print("the status page does what it says")


def look_at_many(browser, servers, sessions):
    """Nothing is out of reach, a refresh holds nobody up, and every page of the tables can be turned to."""
    api = FakeApi(servers, sessions)
    try:
        for width, height, rows in ((1280, 1100, 50), (375, 812, 10)):
            browser.emulate("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500)
            browser.call("POST", "/url", {"url": f"http://127.0.0.1:{api.port}/"})
            wait_for("the sessions", lambda: len(cells(browser, "sessions")) == rows, 20)
            browser.run("const shown = show; window.took = [];"
                        "show = seen => { const begun = performance.now(); shown(seen); document.body.getBoundingClientRect(); took.push(performance.now() - begun); }")
            wait_for("refreshes", lambda: browser.run("return took.length") >= 5, 60)
            blocked = statistics.median(browser.run("return took"))
            # Real ones have less of a history: this is the most.
            sizes = {path.split("/")[-1]: f"{size / 1000:.0f} kB" for path, size in api.sizes.items()}
            print(f"{servers} servers, {sessions} sessions, {width} px: a refresh blocks the page for {blocked:.0f} ms; answers: {sizes}")
            assert blocked < 500, f"a refresh takes {blocked} ms"
            shape(browser, width)
            turn(browser, servers, sessions, rows)
            browser.run("scrollTo(0, 0)")
            browser.shot(f"status-{servers}-{width}")
            for table in ("servers", "sessions"):
                browser.run("document.getElementById(arguments[0]).closest('section').scrollIntoView()", table)
                browser.shot(f"status-{servers}-{width}-{table}")
    finally:
        api.close()


def cells(browser, table):
    return browser.run("return [...document.querySelectorAll('#' + arguments[0] + ' tbody tr')]"
                       ".map(row => [...row.cells].map(cell => cell.textContent))", table)


def shape(browser, width):
    wide = browser.run("return document.documentElement.scrollWidth")
    assert wide <= width, f"the page is {wide} pixels wide in a window of {width}"
    clipped = browser.run("return [...document.querySelectorAll('.wide')].filter(one => one.scrollWidth > one.clientWidth)"
                          ".map(one => [one.firstChild.id, one.scrollWidth, one.clientWidth])")
    assert not clipped, f"clipped at {width} pixels: {clipped}"
    # Words and figures have room: an address in IPv6 may take three lines, what is said of a server six.
    tall = browser.run("return [...document.querySelectorAll('.wide td')].filter(one => one.getBoundingClientRect().height > "
                       "7 * parseFloat(getComputedStyle(one).lineHeight) && !one.classList.contains('path')).map(one => one.textContent)")
    assert not tall or width > 500, f"squeezed at {width} pixels: {tall[:3]}"
    hidden = browser.run("return [...document.querySelectorAll('.wide td button')].filter(one => { const place = one.getBoundingClientRect();"
                         " return place.left < 0 || place.right > innerWidth || !place.width; }).length")
    assert not hidden, f"{hidden} buttons are out of sight at {width} pixels"


def turn(browser, servers, sessions, rows):
    def press(pages, way):
        browser.run("[...document.getElementById(arguments[0]).querySelectorAll('button')].find(one => one.textContent === arguments[1]).click()", pages, way)

    def is_over(pages):
        return browser.run("return [...document.getElementById(arguments[0]).querySelectorAll('button')].find(one => one.textContent === 'next').disabled", pages)

    seen, ways = set(), 0
    while True:
        first = ways * rows + 1
        said = f"{first} to {min(first + rows - 1, servers)} of {servers}"
        wait_for(said, lambda: said in browser.text("server-pages"), 10)
        seen.update((row[0], row[1]) for row in cells(browser, "servers"))
        if is_over("server-pages"):
            break
        press("server-pages", "next")
        ways += 1
    assert len(seen) == servers, f"{len(seen)} of {servers} servers are on a page"
    browser.run("const find = document.getElementById('find'); find.value = arguments[0]; find.dispatchEvent(new Event('input', { bubbles: true }))", "down")
    wait_for("only those", lambda: {row[2].split(",")[0] for row in cells(browser, "servers")} == {"down"}, 10)
    browser.run("const find = document.getElementById('find'); find.value = ''; find.dispatchEvent(new Event('input', { bubbles: true }))")
    for way, first in (("next", rows + 1), ("next", 2 * rows + 1), ("previous", rows + 1)):
        press("session-pages", way)
        wait_for("the page", lambda: browser.text("session-pages").endswith(f"{first} to {first + rows - 1} of {sessions:,}"), 10)


if __name__ == "__main__":
    main()
