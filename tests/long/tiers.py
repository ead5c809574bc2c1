"""Two tiers of prusik from the shipped files, and what the long proofs need around them."""
import os, pathlib, re, socket, subprocess, tempfile, time

ROOT = pathlib.Path(__file__).resolve().parents[2]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(what, condition, limit):
    """Polls until the condition holds; says what was awaited when it doesn't. Returns the seconds."""
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > limit:
            raise AssertionError(f"{what}: not within {limit} s")
        time.sleep(0.02)
    return time.monotonic() - start


class Tier:
    """One prusik process, from a shipped file with some of its addresses replaced."""

    def __init__(self, binary, file, ports=None):
        text = (ROOT / "conf" / file).read_text()
        for old, new in (ports or {}).items():
            text = re.sub(rf"\b127\.0\.0\.1:{old}\b", f"127.0.0.1:{new}", text)
        self.dir = tempfile.TemporaryDirectory()
        config = pathlib.Path(self.dir.name) / file
        config.write_text(text)
        self.log = open(pathlib.Path(self.dir.name) / "access.log", "w+")
        self.err = open(pathlib.Path(self.dir.name) / "stderr.log", "w+")
        self.process = subprocess.Popen(
            [binary, "run", "--config", str(config)], stdout=self.log, stderr=self.err)
        wait_for(f"{file} ready", lambda: "ready" in self.stderr(), 10)

    def stderr(self):
        self.err.flush()
        return pathlib.Path(self.err.name).read_text()

    def access_log(self):
        return pathlib.Path(self.log.name).read_text().splitlines()

    def rss_kib(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1])

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.dir.cleanup()
