#!/usr/bin/env python3
"""The PROXY protocol with real peers: nginx and HAProxy before prusik and behind it.

usage: proxy_protocol.py PRUSIK
Each of them that is installed sends prusik versions 1 and 2 (nginx only knows 1), is sent both by
it, and says who the client is. The shipped two-tier variant runs too.
"""
import contextlib, http.client, http.server, os, pathlib, shutil, socket, subprocess, sys, tempfile
import threading, time
from tiers import Tier, free_port, wait_for

PRUSIK = os.path.abspath(sys.argv[1])


class Telling(http.server.BaseHTTPRequestHandler):
    """A server that says whom it was told of."""
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = (self.headers.get("X-Real-IP") or "nobody").encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def listens(port):
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def running(command, folder, port):
    log = open(folder / f"{port}.log", "w+")
    process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    try:
        wait_for(f"{command[0]} on {port}", lambda: listens(port), 10)
        yield
    except AssertionError:
        print((folder / f"{port}.log").read_text(), file=sys.stderr)
        raise
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def prusik(folder, listener, upstream, top="", route=""):
    port = free_port()
    file = folder / f"prusik-{port}.yaml"
    file.write_text(f"""
{top}
listeners: [{{ listen: "127.0.0.1:{port}"{listener} }}]
access_log: off
upstreams: {{ backend: {{ {upstream} }} }}
routes: [{{ upstream: backend{route} }}]
""")
    with running([PRUSIK, "run", "--config", str(file)], folder, port):
        yield port


def nginx(folder, port, server, location):
    file = folder / f"nginx-{port}.conf"
    file.write_text(f"""
daemon off; pid {folder}/nginx-{port}.pid; error_log {folder}/nginx-{port}.err;
events {{}}
stream {{ server {{ listen 127.0.0.1:{port}; {server} }} }}
""" if location is None else f"""
daemon off; pid {folder}/nginx-{port}.pid; error_log {folder}/nginx-{port}.err;
events {{}}
http {{
  access_log off;
  client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{ listen 127.0.0.1:{port} {server}; location / {{ {location} }} }}
}}
""")
    return running(["nginx", "-p", str(folder), "-c", str(file)], folder, port)


def haproxy(folder, port, bind, backend):
    file = folder / f"haproxy-{port}.cfg"
    file.write_text(f"""
defaults
  mode http
  timeout connect 5s
  timeout client 5s
  timeout server 5s
frontend front
  bind 127.0.0.1:{port} {bind}
  {backend}
""")
    return running(["haproxy", "-db", "-f", str(file)], folder, port)


def get(port, source="127.0.0.5"):
    """What is said to a client at this address."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=10, source_address=(source, 0))
    client.request("GET", "/IMS_SVR/websocket")
    answer = client.getresponse()
    said = answer.read().decode().strip()
    client.close()
    return answer.status, said


def expect(what, found, wanted):
    assert found == wanted, f"{what}: {found}, not {wanted}"
    print(f"{what}: {found[1]}")


def main():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Telling)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    telling = server.server_port
    seen = 0
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = pathlib.Path(name)
        os.chmod(folder, 0o755)
        behind = stack.enter_context(prusik(
            folder, ", proxy_protocol: required", f'servers: ["127.0.0.1:{telling}"]',
            "trusted_proxies: [127.0.0.1]"))
        if shutil.which("haproxy"):
            for option in ("send-proxy", "send-proxy-v2"):
                port = free_port()
                backend = f"default_backend b\nbackend b\n  server s 127.0.0.1:{behind} {option} check"
                with haproxy(folder, port, "", backend):
                    expect(f"HAProxy {option} to prusik", get(port), (200, "127.0.0.5"))
                    seen += 1
            for version in ("v1", "v2"):
                port = free_port()
                echo = 'http-request return status 200 content-type text/plain lf-string "%[src]"'
                with haproxy(folder, port, "accept-proxy", echo):
                    upstream = (f'servers: ["127.0.0.1:{port}"], proxy_protocol: {version}, '
                                "health_check: { type: http, path: /, interval: 200ms }")
                    with prusik(folder, "", upstream) as front:
                        expect(f"prusik {version} to HAProxy", get(front), (200, "127.0.0.5"))
                        time.sleep(1)  # some rounds of checks
                        expect("… after health checks", get(front), (200, "127.0.0.5"))
                        seen += 1
        if shutil.which("nginx"):
            port = free_port()
            modules = pathlib.Path("/usr/lib/nginx/modules/ngx_stream_module.so")
            if modules.exists():
                with nginx(folder, port, f"proxy_pass 127.0.0.1:{behind}; proxy_protocol on;", None):
                    expect("nginx to prusik", get(port), (200, "127.0.0.5"))
                    seen += 1
            for version in ("v1", "v2"):
                port = free_port()
                with nginx(folder, port, "proxy_protocol", 'return 200 "$proxy_protocol_addr";'):
                    upstream = (f'servers: ["127.0.0.1:{port}"], proxy_protocol: {version}, '
                                "health_check: { type: http, path: /, interval: 200ms }")
                    with prusik(folder, "", upstream) as front:
                        expect(f"prusik {version} to nginx", get(front), (200, "127.0.0.5"))
                        time.sleep(1)  # some rounds of checks
                        expect("… after health checks", get(front), (200, "127.0.0.5"))
                        seen += 1
        ports = {9090: free_port(), 9091: free_port(), 9080: telling, 9081: telling}
        second = Tier(PRUSIK, "server-lb-proxy.yaml", {9091: ports[9091], 9080: telling, 9081: 1})
        first = Tier(PRUSIK, "client-lb-proxy.yaml", {9090: ports[9090], 9091: ports[9091]})
        try:
            expect("the shipped tiers", get(ports[9090]), (200, "127.0.0.5"))
        finally:
            first.stop()
            second.stop()
    assert seen >= 2, "neither nginx nor HAProxy is installed"


main()
