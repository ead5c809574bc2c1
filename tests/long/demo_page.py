#!/usr/bin/env python3
"""The demo's page in headless Chromium: connects, chats, kills its server, is back on the other.

usage: demo_page.py PRUSIK [FOLDER FOR SCREENSHOTS]
Needs: apt-get install chromium chromium-driver. Loopback only.
"""
import http.client, pathlib, random, socket, subprocess, sys, time

from browser import Browser
from tiers import wait_for

PRUSIK = sys.argv[1]
SHOTS = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else None

def main():
    port = free_ports()
    demo = subprocess.Popen([PRUSIK, "demo", "--port", str(port)], stdout=subprocess.DEVNULL)
    browser = Browser(1280, 1000, SHOTS)
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


def free_ports():
    """A port that is free with the demo's others, below those that the kernel gives to connections."""
    while True:
        port = random.randrange(10_000, 31_000)
        if all(is_free(port + offset) for offset in (0, 1, 810, 811)):
            return port


def is_free(port):
    with socket.socket() as s:
        try:
            s.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def is_served(port):
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", "/IMS/")
        return connection.getresponse().status == 200
    except OSError:
        return False


main()
