"""A headless Firefox, driven by WebDriver BiDi (https://w3c.github.io/webdriver-bidi), which it speaks itself."""
import itertools, json, pathlib, re, subprocess, tempfile

from websockets.sync.client import connect

from tiers import wait_for


class Firefox:
    """One page in a profile of its own. It takes any certificate."""

    def __init__(self):
        self.profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self.log = pathlib.Path(self.profile.name, "stderr.log")
        command = ["firefox-esr", "--headless", "--no-remote", "--profile", self.profile.name,
                   "--remote-debugging-port=0", "about:blank"]
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)
        try:
            wait_for("Firefox", self.address, 30)
            self.socket = connect(f"{self.address()}/session", compression=None)
            self.numbers = itertools.count()
            self.call("session.new", capabilities={"alwaysMatch": {"acceptInsecureCerts": True}})
            self.page = self.call("browsingContext.getTree")["contexts"][0]["context"]
        except BaseException:
            self.end()
            raise

    def address(self):
        said = re.search(r"BiDi listening on (ws://\S+)", self.log.read_text())
        return said and said[1]

    def call(self, method, **parameters):
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self.socket.recv(timeout=60))
            # What is no answer is an event that nobody asked for.
            if answer.get("id") != number:
                continue
            if answer["type"] == "error":
                raise RuntimeError(answer["message"])
            return answer["result"]

    def open(self, url):
        self.call("browsingContext.navigate", context=self.page, url=url, wait="complete")

    def value(self, expression):
        """Of an expression in the page, by way of JSON."""
        answer = self.call("script.evaluate", expression=f"JSON.stringify({expression})",
                           target={"context": self.page}, awaitPromise=False)
        if answer["type"] == "exception":
            raise RuntimeError(answer["exceptionDetails"]["text"])
        return json.loads(answer["result"]["value"])

    def close(self):
        self.call("browser.close")
        self.socket.close()
        self.end()

    def end(self):
        try:
            self.process.wait(10 if hasattr(self, "page") else 0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.profile.cleanup()
