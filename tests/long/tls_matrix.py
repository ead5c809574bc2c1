"""TLS sessions that move, against TLS that nobody here wrote: OpenSSL and Java.

    python tests/long/tls_matrix.py PRUSIK [UPGRADES]

TLS 1.2 and 1.3, each with AES-128-GCM, AES-256-GCM and ChaCha20-Poly1305; as the server of OpenSSL's and Java's
clients, and as the client of OpenSSL's and Java's servers: 24 sessions, through so many upgrades. OpenSSL is told to
update keys (`K`, `k`) before and after each, Java does so by itself every 64 KiB. What clients send comes to prusik
in pieces of 1 to 40 bytes. Each message must come back. With a debug build every nonce is noted, and none comes twice.
Without Java (Debian's default-jdk-headless) its half is left out, and that is said.
"""

import os
import pathlib
import random
import select
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time

from sessions import HANDSHAKE, SWITCHING, Origin, processes
from tiers import free_port

PRUSIK = os.path.abspath(sys.argv[1])
UPGRADES = int(sys.argv[2]) if len(sys.argv) > 2 else 6

HERE = pathlib.Path(__file__).resolve().parent
SHIPPED = HERE.parent / "shipped" / "tls"
CERT, KEY = (SHIPPED / f"chat.example.com.{end}" for end in ("pem", "key"))

# Each suite's name for OpenSSL and for Java.
SUITES = [
    ("1.3", "TLS_AES_128_GCM_SHA256", "TLS_AES_128_GCM_SHA256"),
    ("1.3", "TLS_AES_256_GCM_SHA384", "TLS_AES_256_GCM_SHA384"),
    ("1.3", "TLS_CHACHA20_POLY1305_SHA256", "TLS_CHACHA20_POLY1305_SHA256"),
    ("1.2", "ECDHE-{kind}-AES128-GCM-SHA256", "TLS_ECDHE_{kind}_WITH_AES_128_GCM_SHA256"),
    ("1.2", "ECDHE-{kind}-AES256-GCM-SHA384", "TLS_ECDHE_{kind}_WITH_AES_256_GCM_SHA384"),
    ("1.2", "ECDHE-{kind}-CHACHA20-POLY1305", "TLS_ECDHE_{kind}_WITH_CHACHA20_POLY1305_SHA256"),
]
CONFIG = """
server: {{ threads: 2 }}
admin: {{ listen: "unix:{folder}/admin.sock" }}
access_log: off
listeners:
  - {{ listen: "127.0.0.1:{plain}" }}
  - {{ listen: "127.0.0.1:{secure}", tls: {{ certificates: [{{ cert: "{cert}", key: "{key}" }}] }} }}
upstreams:
  plain: {{ servers: ["127.0.0.1:{echo}"] }}
{upstreams}
routes:
{routes}
  - {{ upstream: plain }}
"""
KEY_LIMITS = "jdk.tls.keyLimits=AES/GCM/NoPadding KeyUpdate 2^16, ChaCha20-Poly1305 KeyUpdate 2^16\n"


def frame(payload, is_masked):
    mask, zeros = (0x80, bytes(4)) if is_masked else (0, b"")
    if len(payload) < 126:
        return bytes([0x81, mask | len(payload)]) + zeros + payload
    return bytes([0x81, mask | 126]) + len(payload).to_bytes(2, "big") + zeros + payload


def echo(listener):
    """A plain WebSocket server that echoes what frames carry; their masks are of zeros."""
    def serve(connection):
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.recv(4096)
        connection.sendall(SWITCHING)
        rest = head.split(b"\r\n\r\n", 1)[1]
        while more := connection.recv(65536):
            rest += more
            while len(rest) >= 2:
                length, at = rest[1] & 127, 2
                if length == 126:
                    if len(rest) < 4:
                        break
                    length, at = int.from_bytes(rest[2:4], "big"), 4
                if len(rest) < at + 4 + length:
                    break
                connection.sendall(frame(rest[at + 4:at + 4 + length], False))
                rest = rest[at + 4 + length:]
    while True:
        accepted, _ = listener.accept()
        threading.Thread(target=serve, args=(accepted,), daemon=True).start()


def crumble(listener, port):
    """What comes goes on in small pieces; what comes back, as it comes."""
    dice = random.Random(1)

    def pump(source, to, most):
        try:
            while said := source.recv(65536):
                while said:
                    piece = dice.randrange(1, most) if most else len(said)
                    to.sendall(said[:piece])
                    said = said[piece:]
        except OSError:
            pass

    while True:
        client, _ = listener.accept()
        server = socket.create_connection(("127.0.0.1", port))
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for arguments in ((client, server, 41), (server, client, 0)):
            threading.Thread(target=pump, args=arguments, daemon=True).start()


class Talk:
    """Something that says numbered words and hears them again."""

    number = 0

    def word(self):
        self.number += 1
        # Java's programs read lines and frames of at most 64 KB; a long one goes over several records.
        length = 60_000 if self.number % 9 == 0 else self.number * 577 % 9000
        return f"word {self.number} " + "x" * length + f" end {self.number}."

    def check(self):
        word = self.word()
        self.say(word)
        self.hear(word.rsplit(" ", 2)[1] + f" {self.number}.")

    def update_key(self, letter):
        pass


class Piped(Talk):
    """A program whose output is searched for what must come."""

    def __init__(self, *command):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.heard = b""

    def write(self, said):
        self.process.stdin.write(said)
        self.process.stdin.flush()
        # OpenSSL sees commands at the beginning of what it reads at a time.
        time.sleep(0.02)

    def hear(self, words):
        patience = time.monotonic() + 30
        while words.encode() not in self.heard:
            left = patience - time.monotonic()
            assert left > 0 and select.select([self.process.stdout], [], [], left)[0], (
                self.name, words, self.heard[-300:])
            more = os.read(self.process.stdout.fileno(), 65536)
            assert more, (self.name, "ended", self.heard[-600:])
            self.heard += more
        self.heard = self.heard[self.heard.index(words.encode()) + len(words):]

    def end(self):
        self.process.kill()
        self.process.wait()


class OpensslClient(Piped):
    def __init__(self, port, version, suite):
        option = "-ciphersuites" if version == "1.3" else "-cipher"
        super().__init__("openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-tls" + version.replace(".", "_"),
                         option, suite)
        self.name, self.version = f"OpenSSL's client, {suite}", version
        self.hear("Verify return code")
        self.write(HANDSHAKE.format(number="plain").encode())
        self.hear("\r\n\r\n")

    def say(self, word):
        self.write(frame(word.encode(), True))

    def update_key(self, letter):
        if self.version == "1.3":
            self.write(letter + b"\n")


class JavaClient(Piped):
    def __init__(self, java, port, version, suite):
        super().__init__(*java, "client", str(port), f"TLSv{version}", suite)
        self.name = f"Java's client, {suite}"

    def say(self, word):
        self.write(word.encode() + b"\n")


class Client(Talk):
    """In plain text, of a server by TLS."""

    def __init__(self, port, path, name):
        self.name = name
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.socket.sendall(HANDSHAKE.format(number=path).encode())
        self.heard = b""

    def opened(self):
        self.hear("\r\n\r\n")

    def say(self, word):
        self.socket.sendall(frame(word.encode(), True))

    def hear(self, words):
        while words.encode() not in self.heard:
            more = self.socket.recv(65536)
            assert more, (self.name, "ended", self.heard[-200:])
            self.heard += more
        self.heard = self.heard[self.heard.index(words.encode()) + len(words):]


class OpensslServer(Piped):
    """Plays a WebSocket server by hand: what its client says is said again."""

    def __init__(self, version, suite):
        self.port = free_port()
        option = "-ciphersuites" if version == "1.3" else "-cipher"
        super().__init__("openssl", "s_server", "-accept", f"127.0.0.1:{self.port}", "-cert", CERT, "-key", KEY,
                         "-tls" + version.replace(".", "_"), option, suite, "-naccept", "1")
        self.name, self.version = f"OpenSSL's server, {suite}", version

    def opened(self, client):
        self.client = client
        self.hear("\r\n\r\n")
        self.write(SWITCHING)
        client.opened()

    def check(self):
        word = self.word()
        self.client.say(word)
        last = f" end {self.number}."
        self.hear(last)
        self.write(frame(word.encode(), False))
        self.client.hear(last)

    def update_key(self, letter):
        if self.version == "1.3":
            self.write(letter + b"\n")


class Pair(Talk):
    """A plain client, and Java's server, which echoes by itself."""

    def __init__(self, client):
        self.client, self.name = client, client.name

    def check(self):
        self.client.check()


def key_kind():
    text = subprocess.run(["openssl", "x509", "-in", CERT, "-noout", "-text"], capture_output=True, text=True).stdout
    return "ECDSA" if "id-ecPublicKey" in text else "RSA"


def java_command(folder):
    if not shutil.which("javac"):
        print("Java is left out: there is no javac")
        return None
    subprocess.run(["javac", "-d", folder, HERE / "TlsPeer.java"], check=True)
    (folder / "limits").write_text(KEY_LIMITS)
    subprocess.run(["openssl", "pkcs12", "-export", "-in", CERT, "-inkey", KEY, "-out", folder / "keys.p12",
                    "-passout", "pass:matrix"], check=True)
    return ["java", "-Xmx64m", "-XX:TieredStopAtLevel=1", f"-Djava.security.properties={folder}/limits",
            "-cp", str(folder), "TlsPeer"]


def upgrade(folder, talks):
    """While all of them talk, each with a thread of its own, in words that cross the move in pieces."""
    is_over, failed = threading.Event(), []

    def keep_talking(talk):
        try:
            while not is_over.is_set():
                talk.check()
        except Exception as error:
            failed.append(repr(error))

    talking = [threading.Thread(target=keep_talking, args=(talk,)) for talk in talks]
    for thread in talking:
        thread.start()
    time.sleep(0.2)
    command = [PRUSIK, "upgrade", "--admin", f"unix:{folder}/admin.sock"]
    done = subprocess.run(command, capture_output=True, text=True)
    time.sleep(0.2)
    is_over.set()
    for thread in talking:
        thread.join()
    assert not failed, failed
    assert f"{len(talks)} sessions moved, 0 told to go" in done.stdout, done
    return done.stdout


def main():
    folder = pathlib.Path(os.path.realpath(tempfile.mkdtemp()))
    java, kind = java_command(folder), key_kind()
    suites = [(version, *(name.format(kind=kind) for name in names)) for version, *names in SUITES]
    listeners = [socket.create_server(("127.0.0.1", 0), backlog=100) for _ in range(2)]
    plain, secure = free_port(), free_port()
    threading.Thread(target=echo, args=(listeners[0],), daemon=True).start()
    threading.Thread(target=crumble, args=(listeners[1], secure), daemon=True).start()
    crumbs = listeners[1].getsockname()[1]
    servers = {}
    for number, (version, openssl, javas) in enumerate(suites):
        servers[f"openssl{number}"] = OpensslServer(version, openssl)
        if java:
            server = Piped(*java, "server", f"TLSv{version}", javas, str(folder / "keys.p12"))
            server.name = f"Java's server, {javas}"
            server.port = int(server.process.stdout.readline())
            servers[f"java{number}"] = server
    upstreams = "\n".join(f'  {name}: {{ servers: ["127.0.0.1:{server.port}"], tls: {{ verify: false }} }}'
                          for name, server in servers.items())
    routes = "\n".join(f"  - {{ match: {{ path: /{name} }}, upstream: {name} }}" for name in servers)
    (folder / "prusik.yaml").write_text(CONFIG.format(
        folder=folder, plain=plain, secure=secure, cert=CERT, key=KEY, upstreams=upstreams, routes=routes,
        echo=listeners[0].getsockname()[1]))
    log = open(folder / "log", "w")
    environment = {**os.environ, "PRUSIK_NONCE_AUDIT": str(folder / "nonces")}
    first = subprocess.Popen([PRUSIK, "run", "--config", "prusik.yaml"], cwd=folder, stderr=log, env=environment)
    talks = []
    try:
        while "ready" not in (folder / "log").read_text():
            time.sleep(0.05)
        for number, (version, openssl, javas) in enumerate(suites):
            talks.append(OpensslClient(crumbs, version, openssl))
            server = servers[f"openssl{number}"]
            server.opened(Client(plain, f"openssl{number}", server.name))
            talks.append(server)
            if java:
                talks.append(JavaClient(java, crumbs, version, javas))
                client = Client(plain, f"java{number}", servers[f"java{number}"].name)
                client.opened()
                talks.append(Pair(client))
        for round_ in range(UPGRADES + 1):
            for letter in (b"K", b"k"):
                for talk in talks:
                    talk.update_key(letter)
                    talk.check()
            for talk in talks:
                for _ in range(10):
                    talk.check()
                talk.update_key(b"K")
            if round_ < UPGRADES:
                said = upgrade(folder, talks)
                first.poll()
                print(f"{round_ + 1}: {said.strip()}", flush=True)
        for talk in talks:
            print(f"{talk.name}: every word came back")
        noted = folder / "nonces"
        if noted.exists():
            lines = noted.read_text().splitlines()
            assert len(lines) == len(set(lines)), "a nonce was used twice"
            print(f"{len(lines)} nonces, none twice")
        print("tls_matrix: passed")
    finally:
        for pid in processes(str(folder)):
            os.kill(pid, signal.SIGKILL)
        for piped in [*talks, *servers.values()]:
            if isinstance(piped, Piped):
                piped.end()


if __name__ == "__main__":
    main()
