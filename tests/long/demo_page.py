#!/usr/bin/env python3
"""The demo's page in headless Chromium: connects, chats, kills its server, is back on the other.

usage: demo_page.py PRUSIK [FOLDER FOR SCREENSHOTS]
Needs: apt-get install chromium chromium-driver. Loopback only.
"""
import base64, http.client, json, pathlib, subprocess, sys, tempfile, time
from tiers import free_port, wait_for

PRUSIK = sys.argv[1]
SHOTS = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else None
ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync"]


class Browser:
    """As much of WebDriver (https://www.w3.org/TR/webdriver2/) as this needs."""

    def __init__(self, width, height):
        self.port = free_port()
        self.driver = subprocess.Popen(["chromedriver", f"--port={self.port}"],
                                       stdout=subprocess.DEVNULL)
        self.profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        arguments = ARGUMENTS + [f"--user-data-dir={self.profile.name}",
                                 f"--window-size={width},{height}"]
        options = {"args": arguments, "binary": "/usr/bin/chromium"}
        wait_for("chromedriver", self.is_ready, 20)
        answer = self.call("POST", "", {"capabilities": {"alwaysMatch": {
            "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}}})
        self.session = answer["sessionId"]

    def is_ready(self):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
            connection.request("GET", "/status")
            return json.load(connection.getresponse())["value"]["ready"]
        except OSError:
            return False

    def call(self, method, path, body=None):
        session = f"/session/{self.session}" if hasattr(self, "session") else "/session"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, session + path, json.dumps(body) if body is not None else None)
        value = json.load(connection.getresponse())["value"]
        if isinstance(value, dict) and "error" in value:
            raise RuntimeError(value["message"])
        return value

    def run(self, script, *arguments):
        return self.call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def text(self, element):
        return self.run("return document.getElementById(arguments[0]).textContent", element)

    def click(self, element):
        self.run("document.getElementById(arguments[0]).click()", element)

    def shot(self, name):
        if SHOTS:
            SHOTS.mkdir(parents=True, exist_ok=True)
            (SHOTS / f"{name}.png").write_bytes(base64.b64decode(self.call("GET", "/screenshot")))

    def close(self):
        self.call("DELETE", "")
        self.driver.terminate()
        self.driver.wait()


def main():
    port = free_port()
    demo = subprocess.Popen([PRUSIK, "demo", "--port", str(port)], stdout=subprocess.DEVNULL)
    browser = Browser(1280, 1000)
    try:
        wait_for("the demo", lambda: is_served(port), 10)
        browser.call("POST", "/url", {"url": f"http://127.0.0.1:{port}/IMS/"})
        wait_for("connected", lambda: browser.text("state").startswith("connected"), 10)
        first = browser.text("server")
        browser.run("document.getElementById('message').value = 'hello from a browser'")
        browser.click("send")
        wait_for("the message", lambda: "hello from a browser" in browser.text("messages"), 10)
        browser.click("send7k")
        wait_for("a heartbeat", lambda: "ms" in browser.text("rtt"), 10)
        browser.shot("connected")
        browser.click("kill")
        wait_for("another server",
                 lambda: browser.text("server") not in (first, "–")
                 and browser.text("state").startswith("connected"), 10)
        assert browser.text("reconnects").strip() == "1", browser.text("reconnects")
        print(f"killed {first}, back on {browser.text('server')}: {browser.text('story')}")
        browser.shot("moved")
        # The browser itself logs the dropped connection; the page must add nothing to that.
        log = browser.call("POST", "/se/log", {"type": "browser"})
        errors = [line["message"] for line in log
                  if line["level"] == "SEVERE" and "WebSocket connection" not in line["message"]]
        assert not errors, errors
        browser.call("POST", "/window/rect", {"width": 400, "height": 900})
        time.sleep(0.5)
        browser.shot("phone")
        wide = browser.run("return document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0, f"{wide} px too wide on a phone"
        print("demo page: passed")
    finally:
        browser.close()
        demo.kill()
        demo.wait()


def is_served(port):
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", "/IMS/")
        return connection.getresponse().status == 200
    except OSError:
        return False


main()
