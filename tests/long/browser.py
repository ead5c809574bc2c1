"""A headless Chromium, driven by its driver."""
import base64, http.client, json, subprocess, tempfile

from tiers import free_port, wait_for

ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync"]


class Browser:
    """As much of WebDriver (https://www.w3.org/TR/webdriver2/) as this needs."""

    def __init__(self, width, height, shots=None, more_arguments=()):
        self.shots = shots
        self.port = free_port()
        self.driver = subprocess.Popen(["chromedriver", f"--port={self.port}"],
                                       stdout=subprocess.DEVNULL)
        self.profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        arguments = [*ARGUMENTS, *more_arguments, f"--user-data-dir={self.profile.name}",
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

    def keys(self, *keys):
        """Pressed one after the other, wherever the focus is."""
        strokes = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self.call("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": strokes}]})

    def shot(self, name):
        if self.shots:
            self.shots.mkdir(parents=True, exist_ok=True)
            (self.shots / f"{name}.png").write_bytes(base64.b64decode(self.call("GET", "/screenshot")))

    def emulate(self, command, **parameters):
        """Of Chromium's own protocol: media features, sizes."""
        self.call("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def close(self):
        self.call("DELETE", "")
        self.driver.terminate()
        self.driver.wait()
