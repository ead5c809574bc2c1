#!/usr/bin/env python3
"""The same requests through a real nginx with a file, and through prusik with what it imports of it.

usage: imports.py PRUSIK
Needs: apt-get install nginx-light. Loopback only. Prints what differs; nothing but what is named as
left out below may, and all of that must.
"""
import http.client, http.server, json, pathlib, re, shutil, socket, subprocess, sys, tempfile
import threading, urllib.parse

from tiers import ROOT, free_port, wait_for

PRUSIK = sys.argv[1]
FILES = ROOT / "tests" / "import"

# What either adds of its own, and what they say of the connection to a server.
OWN = {"connection", "x-request-id", "accept-encoding", "content-length", "transfer-encoding"}

# `fields`: of requests that have more than others. `left_out`: what prusik answers by itself, by
# 403, 404 or 501, as the import says.
REQUESTS = {
    "chat": {
        "hosts": ["chat.test", "other.test"],
        "paths": ["/", "/chat", "/chat/", "/chatter", "/chat/ws", "/chat/ws/1?a=b", "/chat/wsx",
                  "/health", "/healthy", "/chat//x", "/chat/../chat/y", "/%63hat"],
        "upgrades": ["/chat/ws"],
    },
    "spa": {
        "hosts": ["app.test", "www.app.test", "x.preview.app.test", "admin.app.test", "who.test"],
        "paths": ["/api/", "/api", "/api?x=1", "/api/a/b?c=d", "/assets/a.png", "/assets", "/a.png",
                  "/api/a.SVG", "/socket", "/socketio", "/app", "/app/x", "/application",
                  "/old.html?q=1", "/old.html"],
        "upgrades": ["/socket/1"],
        # Files, and a handshake where nginx makes a plain request of it.
        "left_out": {"/old.html", "/old.html?q=1", "upgrade /socket/1"},
    },
    "edge": {
        "hosts": ["edge.test", "other.test"],
        "paths": ["/", "/x?y", "/login", "/login/x", "/internal/x", "/internal", "/.git/config",
                  "/a/.gitignore", "/sorry.html", "/ws/", "/ws", "/staff", "/staff/x"],
        "upgrades": ["/ws/1"],
        "fields": {"/staff/x": {"Authorization": "Basic YW5uYTp3cm9uZw=="}},
    },
    "socketio": {
        "hosts": ["io.test"],
        "paths": ["/socket.io/?EIO=4&transport=polling", "/static/a.js", "/statical", "/"],
        "upgrades": ["/socket.io/?EIO=4&transport=websocket"],
    },
    "sidecar": {
        "hosts": ["any.test"],
        "paths": ["/", "/x/y?z", "/verify", "/old/a/b?c", "/old", "/new/x", "/new", "/v1", "/v1/a?b",
                  "/users/7", "/users/7?x=1", "/users/x", "/private", "/private/x"],
        "upgrades": [],
        "fields": {"/private/x?y": {"Cookie": "session=1"}},
    },
}


class Servers:
    """Each answers with its port and with what it was asked."""

    def __init__(self, ports):
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                if self.headers.get("upgrade"):
                    self.send_response(101)
                    self.send_header("Upgrade", "websocket")
                    self.send_header("Connection", "Upgrade")
                    key = self.headers["sec-websocket-key"]
                    self.send_header("Sec-WebSocket-Accept", accept(key))
                    self.end_headers()
                    self.close_connection = True
                    return
                if self.path == "/session/check":
                    self.send_response(200 if self.headers.get("cookie") else 401)
                    self.send_header("Content-Length", "0")
                    self.send_header("X-User", "anna")
                    self.end_headers()
                    return
                fields = {name.lower(): value for name, value in self.headers.items()}
                seen = {"port": self.server.server_port, "path": self.path, "headers": fields}
                body = json.dumps(seen).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("X-Powered-By", "python")
                self.end_headers()
                self.wfile.write(body)

            do_HEAD = do_POST = do_GET

            def log_message(self, *_):
                pass

        for port in ports:
            server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
            threading.Thread(target=server.serve_forever, daemon=True).start()


def accept(key):
    import base64, hashlib
    return base64.b64encode(hashlib.sha1(
        (key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()).decode()


def moved(text, ports):
    return re.sub(r"\b(1[89]0\d\d)\b", lambda found: ports.setdefault(found[1], str(free_port())), text)


def prepare(name, folder, ports):
    """A folder with the file, its ports replaced, and all that it names."""
    folder.mkdir()
    for sub in ("edge.d", "pages", "tls"):
        (folder / sub).mkdir()
    (folder / "pages" / "sorry.html").write_text("sorry\n")
    (folder / "htpasswd").write_text("anna:$apr1$abcdefgh$h9FWgUz3n9YxylKLlR5SQ/\n")
    (folder / "mime.types").write_text("types { text/html html; }\n")
    (folder / "fastcgi_params").write_text("")
    for file in ("chat.example.com.pem", "chat.example.com.key"):
        shutil.copy(ROOT / "tests" / "shipped" / "tls" / file, folder / "tls" / file)
    (folder / "edge.d" / "backend.conf").write_text(
        moved((FILES / "edge.d" / "backend.conf").read_text(), ports))
    file = folder / f"{name}.conf"
    file.write_text(moved((FILES / f"{name}.conf").read_text(), ports))
    return file


def for_nginx(text, folder):
    """What stock nginx does not know or a test may not have is taken out."""
    text = re.sub(r"^\s*(check\w*|content_by_lua_block|proxy_cache) .*$", "", text, flags=re.M)
    text = text.replace("/run/nginx.pid", str(folder / "nginx.pid"))
    text = text.replace("https://secure.internal", "http://127.0.0.1:1")
    if "http {" not in text:
        text = "http {\n" + text + "\n}\n"
    if "events {" not in text:
        text = "events {}\n" + text
    if "pid " not in text:
        text = f"pid {folder}/nginx.pid;\n" + text
    return "user root;\n" + text


class Nginx:
    def __init__(self, file):
        folder = file.parent / "nginx"
        shutil.copytree(file.parent, folder, ignore=shutil.ignore_patterns("nginx"))
        own = folder / file.name
        own.write_text(for_nginx(own.read_text(), folder))
        for include in (folder / "edge.d").glob("*.conf"):
            include.write_text(re.sub(r"^\s*check.*$", "", include.read_text(), flags=re.M))
        self.process = subprocess.Popen(
            ["nginx", "-p", str(folder), "-c", str(own), "-g", "daemon off;"],
            stderr=subprocess.DEVNULL)

    def stop(self):
        self.process.terminate()
        self.process.wait()


class Imported:
    def __init__(self, file):
        made = subprocess.run([PRUSIK, "import", "nginx", str(file)], capture_output=True, text=True)
        assert made.stdout, made.stderr
        yaml = file.with_suffix(".yaml")
        yaml.write_text(made.stdout)
        subprocess.run([PRUSIK, "check", str(yaml)], check=True, stdout=subprocess.DEVNULL)
        self.process = subprocess.Popen([PRUSIK, "run", "--config", str(yaml)],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def stop(self):
        self.process.terminate()
        self.process.wait()


def is_open(port):
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", int(port))) == 0


def normal(path):
    """A path goes on in the form by which its route was found: docs/from-nginx.md says so."""
    path, question, query = path.partition("?")
    path = re.sub("/+", "/", urllib.parse.unquote(path))
    path = re.sub(r"/[^/]+/\.\.(?=/)", "", path)
    return path + question + query


def ask(port, is_tls, host, path, fields, method="GET"):
    import ssl
    context = ssl._create_unverified_context()
    connection = (http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=context)
                  if is_tls else http.client.HTTPConnection("127.0.0.1", port, timeout=10))
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in {"Host": host, "User-Agent": "t", **fields}.items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    if answer.status == 101:
        connection.close()
        return {"status": 101}
    body = answer.read()
    found = {"status": answer.status}
    if answer.getheader("location"):
        # nginx names the host of the request, prusik leaves it out: to a client both are the same.
        bare = re.escape(host.split(":")[0])
        found["location"] = re.sub(rf"^https?://{bare}(:{port})?(?=/)", "", answer.getheader("location"))
    for name in ("x-frame-options", "x-api", "cache-control", "x-powered-by", "www-authenticate"):
        found[name] = answer.getheader(name)
    # RFC 7617: prusik says how a name and a password become bytes.
    found["www-authenticate"] = (found["www-authenticate"] or "").removesuffix(', charset="UTF-8"')
    try:
        seen = json.loads(body)
        seen["path"] = normal(seen["path"])
        seen["headers"] = {k: v for k, v in seen["headers"].items() if k not in OWN}
        # Balancers begin with different servers.
        del seen["port"]
        found["seen"] = seen
    except (ValueError, KeyError, TypeError):
        if answer.status == 200:
            found["body"] = body.decode()
        # prusik's own answers are not to be kept.
        found["cache-control"] = None
    return found


HANDSHAKE = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
             "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}


def all_answers(ports, name):
    text = (FILES / f"{name}.conf").read_text()
    listens = re.findall(r"listen 127\.0\.0\.1:(\d+)( ssl)?", text)
    wanted = REQUESTS[name]
    answers = {}
    for listen, tls in sorted(set(listens)):
        port = int(ports[listen])
        for host in wanted["hosts"]:
            for path in wanted["paths"]:
                answers[listen, host, path] = ask(port, bool(tls), host, path, {})
            for path, fields in wanted.get("fields", {}).items():
                answers[listen, host, f"{path} with {', '.join(fields)}"] = ask(
                    port, bool(tls), host, path, fields)
            for path in wanted["upgrades"]:
                answers[listen, host, "upgrade " + path] = ask(port, bool(tls), host, path, HANDSHAKE)
    return answers


def compare(name):
    ports = {}
    with tempfile.TemporaryDirectory() as folder:
        file = prepare(name, pathlib.Path(folder) / name, ports)
        Servers(int(port) for old, port in ports.items() if old.startswith("18"))
        listens = [port for old, port in ports.items() if old.startswith("19")]
        found = {}
        for kind in (Nginx, Imported):
            served = kind(file)
            try:
                wait_for(f"{kind.__name__} with {name}", lambda: all(map(is_open, listens)), 20)
                found[kind] = all_answers(ports, name)
            finally:
                served.stop()
            wait_for("the ports are free", lambda: not any(map(is_open, listens)), 20)
    differences = 0
    expected = REQUESTS[name].get("left_out", set())
    left_out = set()
    for request, by_nginx in found[Nginx].items():
        by_prusik = found[Imported][request]
        if by_nginx == by_prusik:
            continue
        is_own = by_prusik["status"] in (403, 404, 501) and "seen" not in by_prusik
        if is_own and request[2] in expected:
            left_out.add(request[2])
            print(f"  left out: {' '.join(request)}: nginx {by_nginx['status']}, prusik {by_prusik['status']}")
            continue
        differences += 1
        print(f"  DIFFERS: {' '.join(request)}\n    nginx  {by_nginx}\n    prusik {by_prusik}")
    print(f"{name}: {len(found[Nginx])} requests, {differences} differ")
    assert left_out == expected, f"no longer left out: {expected - left_out}"
    return differences


def main():
    differences = sum(compare(name) for name in REQUESTS)
    assert differences == 0, f"{differences} requests differ"
    print("nginx and prusik answer the same")


if __name__ == "__main__":
    main()
