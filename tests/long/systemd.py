#!/usr/bin/env python3
"""The shipped units under a real systemd: start, reload, upgrade, restart, kill -9, watchdog, stop.

usage: systemd.py PRUSIK [WORKDIR] [RELEASE]
WORKDIR keeps the Debian that is booted (default target/systemd); RELEASE: which (default bookworm).
Boots systemd in a container on the host's network (root; systemd-container and debootstrap are
installed if missing). The servers and clients are here, prusik is in there. The shipped files are
used with other ports, a shorter drain window and a shorter watchdog.
Needs: pip install websockets.
"""
import asyncio, http, logging, os, pathlib, re, shutil, signal, socket, subprocess, sys
import threading, time
from tiers import ROOT, free_port, wait_for
import websockets

PRUSIK = pathlib.Path(sys.argv[1]).resolve()
WORKDIR = pathlib.Path(sys.argv[2] if len(sys.argv) > 2 else ROOT / "target/systemd").resolve()
RELEASE = sys.argv[3] if len(sys.argv) > 3 else "bookworm"
BASE, MACHINE = WORKDIR / RELEASE, WORKDIR / "machine"
BINARY, CONFIG = "usr/local/bin/prusik", "etc/prusik/prusik.yaml"
COMMAND = f"/{BINARY}"
ADMIN = "--admin", "unix:/run/prusik/admin.sock"
WATCHDOG = 2  # seconds
SLOW = 8  # seconds that /slow takes


def shown(what):
    print(f"ok  {what}", flush=True)


class Machine:
    """A Debian with systemd as its process 1."""

    def __init__(self):
        missing = [package for command, package in
                   [("systemd-nspawn", "systemd-container"), ("debootstrap", "debootstrap")]
                   if not shutil.which(command)]
        if missing:
            subprocess.run(["apt-get", "update", "-qq"], check=True)
            subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing],
                           check=True, stdout=subprocess.DEVNULL)
        WORKDIR.mkdir(parents=True, exist_ok=True)
        if not BASE.exists():
            print("building a Debian, once", flush=True)
            shutil.rmtree(WORKDIR / "building", ignore_errors=True)
            subprocess.run(["debootstrap", "--variant=minbase",
                            "--include=systemd,systemd-sysv,dbus,procps", RELEASE,
                            WORKDIR / "building"], check=True, stdout=subprocess.DEVNULL)
            (WORKDIR / "building").rename(BASE)
        shutil.rmtree(MACHINE, ignore_errors=True)
        subprocess.run(["cp", "-a", "--reflink=auto", BASE, MACHINE], check=True)

    def boot(self):
        self.console = open(WORKDIR / "console.log", "w")
        self.nspawn = subprocess.Popen(
            ["systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit",
             "--console=pipe", "--link-journal=no", "--resolv-conf=off", "--timezone=off",
             f"--directory={MACHINE}", f"--machine=prusik{os.getpid()}"],
            stdin=subprocess.DEVNULL, stdout=self.console, stderr=subprocess.STDOUT)
        self.leader = None
        wait_for("process 1 of the container", self.find_leader, 20)
        wait_for("the container's systemd", lambda: self.run(
            "systemctl", "is-system-running", check=False).stdout.strip()
            in ("running", "degraded"), 60)

    def find_leader(self):
        assert self.nspawn.poll() is None, (WORKDIR / "console.log").read_text()
        parents, inits = {}, []
        for path in pathlib.Path("/proc").glob("[0-9]*/status"):
            try:
                fields = dict(line.split(":\t", 1) for line in path.read_text().splitlines()
                              if ":\t" in line)
            except OSError:
                continue
            pid = int(fields["Pid"])
            parents[pid] = int(fields["PPid"])
            if fields["Name"] == "systemd" and fields["NSpid"].split()[1:] == ["1"]:
                inits.append(pid)
        for pid in inits:
            ancestor = pid
            while ancestor in parents:
                ancestor = parents[ancestor]
                if ancestor == self.nspawn.pid:
                    self.leader = pid
        return self.leader

    def run(self, *command, check=True, text=None):
        done = subprocess.run(
            ["nsenter", "-t", str(self.leader), "-a", *map(str, command)], input=text,
            stdin=subprocess.DEVNULL if text is None else None, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=180)
        if check and done.returncode:
            raise AssertionError(f"{command} failed with {done.returncode}:\n{done.stdout}"
                                 f"{done.stderr}\n{self.journal()}")
        return done

    def show(self, unit="prusik.service"):
        """Main process, state and number of restarts, and the rest of what systemd knows."""
        lines = self.run("systemctl", "show", unit).stdout.splitlines()
        return dict(line.split("=", 1) for line in lines)

    def pid(self):
        return int(self.show()["MainPID"])

    def is_there(self, pid):
        return self.run("test", "-e", f"/proc/{pid}", check=False).returncode == 0

    def journal(self, lines=40):
        return self.run("journalctl", "-u", "prusik.service", "-o", "cat", "-n", lines,
                        check=False).stdout

    def put(self, name, text):
        (MACHINE / name).parent.mkdir(parents=True, exist_ok=True)
        (MACHINE / name).write_text(text)

    def power_off(self):
        if self.leader:
            os.kill(self.leader, signal.SIGRTMIN + 4)
        else:
            self.nspawn.terminate()
        try:
            self.nspawn.wait(60)
        except subprocess.TimeoutExpired:
            os.kill(self.leader or self.nspawn.pid, signal.SIGKILL)
            self.nspawn.wait()
        self.console.close()


class Callers:
    """Connects again and again, each time for one request, and counts how that ends."""

    def __init__(self, port):
        self.port, self.counts, self.over = port, {}, threading.Event()
        self.thread = threading.Thread(target=self.call)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()

    def call(self):
        while not self.over.wait(0.002):
            end = one_request(self.port)
            self.counts[end] = self.counts.get(end, 0) + 1


def one_request(port, path="/", timeout=30):
    try:
        with socket.create_connection(("127.0.0.1", port), timeout) as s:
            try:
                s.sendall(f"GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
                          .encode())
                answer = s.makefile("rb").read()
                return int(answer.split()[1]) if answer else "cut"
            except ConnectionError:
                return "cut"
    except ConnectionRefusedError:
        return "refused"
    except OSError as error:
        return repr(error)


def ask_again(kept):
    """One more request on a connection that is kept."""
    kept.sendall(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
    answer = b""
    while not answer.endswith(b"served\n"):
        some = kept.recv(4096)
        assert some, f"the connection ended after {answer}"
        answer += some
    assert answer.startswith(b"HTTP/1.1 200 "), answer


class Session:
    """A WebSocket that echoes all the time."""

    @classmethod
    async def open(cls, port):
        session = cls()
        session.ws = await websockets.connect(f"ws://127.0.0.1:{port}/ws", ping_interval=None)
        session.echoes, session.fault, session.longest = 0, None, 0
        session.task = asyncio.create_task(session.talk())
        return session

    async def talk(self):
        try:
            while True:
                text = f"message {self.echoes}"
                began = time.monotonic()
                await self.ws.send(text)
                assert await asyncio.wait_for(self.ws.recv(), 10) == text
                self.longest = max(self.longest, time.monotonic() - began)
                self.echoes += 1
                await asyncio.sleep(0.005)
        except Exception as error:
            self.fault = error

    async def told_to_go(self):
        await asyncio.wait_for(self.task, 10)
        return self.ws.close_code

    async def goes_on(self):
        before = self.echoes
        end = time.monotonic() + 20
        while self.echoes < before + 20:
            assert self.fault is None and time.monotonic() < end, f"the session: {self.fault!r}"
            await asyncio.sleep(0.01)
        return self.echoes

    async def close(self):
        self.task.cancel()
        await self.ws.close()


async def serve(port):
    """Echoes, answers requests, and takes its time on /slow."""
    async def echo(ws):
        async for message in ws:
            await ws.send(message)

    async def answer(connection, request):
        if "Upgrade" not in request.headers:
            if request.path == "/slow":
                await asyncio.sleep(SLOW)
            return connection.respond(http.HTTPStatus.OK, "served\n")

    # A health check is a connect without a handshake: nothing to report.
    logging.getLogger("websockets.server").setLevel(logging.CRITICAL)
    async with websockets.serve(echo, "127.0.0.1", port, process_request=answer,
                                ping_interval=None, open_timeout=60):
        await asyncio.Future()


def install(machine, port, server_port):
    """As `make install` does, but for the ports, the drain's window and the watchdog."""
    def copy(source, name, **replaced):
        text = (ROOT / source).read_text()
        for old, new in replaced.values():
            assert old in text, f"{source} has no {old}"
            text = text.replace(old, new)
        machine.put(name, text)

    install_binary()
    listen = ("0.0.0.0:8080", f"0.0.0.0:{port}")
    copy("conf/prusik.yaml", CONFIG, listen=listen, window=("window: 30s", "window: 1s"),
         server=("127.0.0.1:9080", f"127.0.0.1:{server_port}"))
    copy("systemd/prusik.socket", "usr/local/lib/systemd/system/prusik.socket", listen=listen)
    copy("systemd/prusik.service", "usr/local/lib/systemd/system/prusik.service")
    copy("systemd/prusik.sysusers", "usr/lib/sysusers.d/prusik.conf")
    machine.put("etc/systemd/system/prusik.service.d/test.conf",
                f"[Service]\nWatchdogSec={WATCHDOG}\n")


def install_binary(source=PRUSIK):
    """A new file at the old path, as install(1) and package managers do it."""
    path = MACHINE / BINARY
    shutil.copy2(source, path.with_suffix(".new"))
    path.with_suffix(".new").rename(path)


async def call(function, *arguments, **named):
    """Waits without holding up the sessions."""
    return await asyncio.to_thread(function, *arguments, **named)


async def main():
    port, server_port = free_port(), free_port()
    # Apart from the clients: they may wait for it.
    threading.Thread(target=asyncio.run, args=(serve(server_port),), daemon=True).start()
    machine = await call(Machine)
    install(machine, port, server_port)
    try:
        await call(machine.boot)
        version = (await call(machine.run, "systemctl", "--version")).stdout.split("\n")[0]
        print(f"{version} is process 1 of a container, prusik listens on {port}", flush=True)
        await call(machine.run, "systemd-sysusers")
        await call(machine.run, "systemctl", "daemon-reload")
        await starts(machine, port)
        await reloads(machine, port)
        await upgrades(machine, port)
        await fails_to_upgrade(machine, port)
        await restarts(machine, port)
        await restarts_with_a_wrong_file(machine, port)
        await restarts_into_a_program_that_crashes(machine, port)
        await restarts_without_a_store(machine, port)
        await watchdog(machine, port)
        await stops(machine, port)
        await stops_as_late_as_the_file_says(machine, port)
        await refuses_a_wrong_file(machine, port)
        await socket_activation(machine, port)
        await a_wrong_file_behind_the_socket(machine, port)
        for count in (1, 5):
            await holds_sessions_after_upgrades(machine, port, count)
        await stops_after_an_upgrade(machine, port)
        await leaves_systemd_its_files(machine, port)
        await hangs_after_an_upgrade(machine, port)
        await crashes_after_an_upgrade(machine, port)
    except BaseException:
        if machine.leader:
            print(machine.journal(), flush=True)
        raise
    finally:
        await call(machine.power_off)
    print("systemd: all of it holds")


async def starts(machine, port):
    for _ in range(3):
        assert one_request(port) == "refused"
        await call(machine.run, "systemctl", "start", "prusik")
        # The very first request: no second try.
        answer = await call(one_request, port)
        assert answer == 200, answer
        assert (await call(machine.show))["ActiveState"] == "active"
        await call(machine.run, "systemctl", "stop", "prusik")
    await call(machine.run, "systemctl", "start", "prusik")
    shown("start returns when it serves: 3 times the first request after it got 200")

    pid = await call(machine.pid)
    await call(assert_confined, machine, pid)
    shown("it runs as prusik, with CAP_NET_BIND_SERVICE alone, no new privileges and a filter on "
          "system calls")
    assert "cannot tell systemd" not in await call(machine.journal)


def assert_confined(machine, pid):
    status = machine.run("cat", f"/proc/{pid}/status").stdout
    uid = machine.run("id", "-u", "prusik").stdout.strip()
    fields = dict(line.split(":\t", 1) for line in status.splitlines())
    wanted = {"CapEff": "0000000000000400", "CapBnd": "0000000000000400",
              "CapAmb": "0000000000000400", "NoNewPrivs": "1", "Seccomp": "2"}
    found = {name: fields[name] for name in wanted}
    assert found == wanted and fields["Uid"].split() == [uid] * 4, (found, fields["Uid"])


async def reloads(machine, port):
    session = await Session.open(port)
    before = await call(machine.pid)
    good = (MACHINE / CONFIG).read_text()
    machine.put(CONFIG, good.replace("path_prefix: /ws", "path_prefix: /ws/"))
    await call(machine.run, "systemctl", "reload", "prusik")
    assert "reload done: " in await call(machine.journal)
    shown("reload takes the file")
    machine.put(CONFIG, good.replace("upstream: app", "upstream: ap"))
    refused = await call(machine.run, "systemctl", "reload", "prusik", check=False)
    assert refused.returncode == 1, refused
    said = await call(machine.journal)
    reason = re.search(r"\S+prusik.yaml:\d+:\d+: .*", said)
    assert reason and "did you mean" in said, said
    now = await call(machine.show)
    assert (now["ActiveState"], int(now["MainPID"])) == ("active", before), now
    assert one_request(port) == 200
    machine.put(CONFIG, good)
    await call(machine.run, "systemctl", "reload", "prusik")
    await session.goes_on()
    await session.close()
    shown(f"reload of a bad file fails, and the journal says why: {reason[0]}")
    shown("the service and its session go on, and a good file is taken again")


async def upgrades(machine, port):
    session = await Session.open(port)
    slow = asyncio.create_task(call(one_request, port, "/slow"))
    await asyncio.sleep(0.3)
    with Callers(port) as callers:
        for turn in (1, 2):
            before = await call(machine.pid)
            install_binary()
            started = time.monotonic()
            report = await call(machine.run, COMMAND, "upgrade", *ADMIN)
            took = time.monotonic() - started
            now = await call(machine.show)
            assert int(now["MainPID"]) not in (0, before), (now["MainPID"], before)
            assert (now["ActiveState"], now["NRestarts"]) == ("active", "0"), now
            echoes = await session.goes_on()
            shown(f"upgrade {turn}: MainPID went from {before} to {now['MainPID']} in {took:.1f} s, "
                  f"active, NRestarts=0; the session is at echo {echoes}")
            print(f"      {report.stdout.strip()}")
            if turn == 1:
                assert await call(machine.is_there, before), "the old process did not wait"
                assert await slow == 200
                shown("a request that was under way at the old process got its answer")
            await call(wait_for, "the old process's end", lambda: not machine.is_there(before), SLOW)
            await call(assert_confined, machine, int(now["MainPID"]))
            exe = (await call(machine.run, "readlink", f"/proc/{now['MainPID']}/exe")).stdout
            assert exe.strip() == COMMAND, exe
        await asyncio.sleep(2 * WATCHDOG)
        await session.goes_on()
    now = await call(machine.show)
    assert (now["ActiveState"], now["NRestarts"]) == ("active", "0"), now
    assert set(callers.counts) == {200}, callers.counts
    await session.close()
    shown(f"requests on connections of their own through both upgrades: {callers.counts}")
    shown(f"the new process runs the new file, as confined as the first, and feeds the watchdog "
          f"({2 * WATCHDOG} s after the old one's end, WatchdogSec={WATCHDOG})")


async def fails_to_upgrade(machine, port):
    session = await Session.open(port)
    before = await call(machine.pid)
    good = (MACHINE / CONFIG).read_text()

    async def refused():
        done = await call(machine.run, f"{COMMAND}-before", "upgrade", *ADMIN, check=False)
        assert done.returncode == 1, done
        now = await call(machine.show)
        assert (now["ActiveState"], int(now["MainPID"])) == ("active", before), now
        assert one_request(port) == 200
        await session.goes_on()
        return (done.stdout + done.stderr).strip().splitlines()[0]

    shutil.copy2(MACHINE / BINARY, MACHINE / f"{BINARY}-before")
    install_binary(MACHINE / "bin/false")
    shown(f"upgrade to a program that is no prusik changes nothing: {await refused()}")
    install_binary()
    machine.put(CONFIG, good + "nonsense: 1\n")
    shown(f"upgrade with a bad file changes nothing: {await refused()}")
    machine.put(CONFIG, good)
    await asyncio.sleep(2 * WATCHDOG)
    now = await call(machine.show)
    assert (int(now["MainPID"]), now["NRestarts"]) == (before, "0"), now
    await session.close()


async def restarts(machine, port):
    sessions = await asyncio.gather(*(Session.open(port) for _ in range(200)))
    idle = socket.create_connection(("127.0.0.1", port), 30)
    with Callers(port) as callers:
        for turn in (1, 2, 3):
            before = await call(machine.pid)
            await call(ask_again, idle)
            for session in sessions:
                session.longest = 0
            started = time.monotonic()
            await call(machine.run, "systemctl", "restart", "prusik")
            took = time.monotonic() - started
            await asyncio.gather(*(session.goes_on() for session in sessions))
            await call(ask_again, idle)
            now = await call(machine.show)
            assert int(now["MainPID"]) not in (0, before), (now["MainPID"], before)
            assert (now["ActiveState"], now["NRestarts"]) == ("active", "0"), now
            assert now["NFileDescriptorStore"] == "0", now["NFileDescriptorStore"]
            pause = max(session.longest for session in sessions)
            shown(f"restart {turn}: {len(sessions)} sessions and a keep-alive connection go on; it took "
                  f"{took:.2f} s, the longest echo {pause:.2f} s")
    assert set(callers.counts) == {200}, callers.counts
    shown(f"{callers.counts[200]} connects during the restarts, none refused or cut")
    report = await call(machine.run, COMMAND, "status", *ADMIN)
    assert "200" in report.stdout, report.stdout
    started = time.monotonic()
    await call(machine.run, "systemctl", "stop", "prusik")
    took = time.monotonic() - started
    codes = {await session.told_to_go() for session in sessions}
    assert codes == {1012}, codes
    now = await call(machine.show)
    assert (now["Result"], now["ActiveState"]) == ("success", "inactive"), now
    assert now["NFileDescriptorStore"] == "0", now["NFileDescriptorStore"]
    shown(f"a stop after that still drains: each got Close 1012 within {took:.1f} s")
    await call(machine.run, "systemctl", "start", "prusik")


async def restarts_with_a_wrong_file(machine, port):
    session = await Session.open(port)
    good = (MACHINE / CONFIG).read_text()
    machine.put(CONFIG, good.replace("upstream: app", "upstream: ap"))
    failed = await call(machine.run, "systemctl", "restart", "prusik", check=False)
    assert failed.returncode == 1, failed
    assert await session.told_to_go() == 1012
    said = await call(machine.journal)
    assert "with this file no process would start, so sessions are told to go" in said, said
    assert "did you mean" in said, said
    machine.put(CONFIG, good)
    await call(machine.run, "systemctl", "reset-failed", "prusik")
    await call(machine.run, "systemctl", "start", "prusik")
    shown("a restart with a wrong file: the session got Close 1012, and the journal says why")


async def restarts_into_a_program_that_crashes(machine, port):
    session = await Session.open(port)
    path = MACHINE / BINARY
    crashes = path.with_suffix(".crashes")
    crashes.write_text(f"#!/bin/sh\n[ $1 = keep ] && exec {COMMAND}.good \"$@\"\nkill -SEGV $$\n")
    crashes.chmod(0o755)
    path.rename(path.with_suffix(".good"))
    crashes.rename(path)
    restarting = asyncio.create_task(
        call(machine.run, "systemctl", "restart", "prusik", check=False))
    await call(wait_for, "two crashes", lambda: int(machine.show()["NRestarts"]) >= 2, 20)
    stored = (await call(machine.show))["NFileDescriptorStore"]
    path.with_suffix(".good").rename(path)
    await call(wait_for, "a process that serves", lambda:
               machine.show()["ActiveState"] == "active", 20)
    await restarting
    await session.goes_on()
    await session.close()
    now = await call(machine.show)
    assert now["NFileDescriptorStore"] == "0", now["NFileDescriptorStore"]
    shown(f"a program that crashes at each start: systemd held {stored} descriptors over "
          f"{now['NRestarts']} restarts, and the session goes on with the mended program")
    await call(machine.run, "systemctl", "reset-failed", "prusik")


async def restarts_without_a_store(machine, port):
    """Of a unit of one's own, or where systemd has no room."""
    drop_in = MACHINE / "etc/systemd/system/prusik.service.d/store.conf"
    machine.put(drop_in.relative_to(MACHINE), "[Service]\nFileDescriptorStoreMax=0\n")
    await call(machine.run, "systemctl", "daemon-reload")
    session = await Session.open(port)
    await call(machine.run, "systemctl", "restart", "prusik")
    assert await session.told_to_go() == 1012
    assert "FileDescriptorStoreMax= of the unit is missing" in await call(machine.journal)
    drop_in.unlink()
    await call(machine.run, "systemctl", "daemon-reload")
    assert await call(one_request, port) == 200
    shown("without FileDescriptorStoreMax= a restart tells the session to go, and the journal says why")


async def watchdog(machine, port):
    now = await call(machine.show)
    assert now["WatchdogUSec"] == f"{WATCHDOG}s", now["WatchdogUSec"]
    started = time.monotonic()
    await asyncio.sleep(3 * WATCHDOG)
    still = await call(machine.show)
    assert (still["MainPID"], still["NRestarts"]) == (now["MainPID"], "0"), still
    shown(f"up for {time.monotonic() - started:.0f} s with WatchdogSec={WATCHDOG}")
    await call(machine.run, "kill", "-STOP", now["MainPID"])
    took = await call(wait_for, "a restart by the watchdog", lambda: (
        machine.show()["NRestarts"] == "1" and one_request(port, timeout=1) == 200), 30)
    assert "watchdog" in await call(machine.journal, 200)
    shown(f"a process that hangs is killed and replaced: served again after {took:.1f} s")


async def stops(machine, port):
    session = await Session.open(port)
    await session.goes_on()
    started = time.monotonic()
    await call(machine.run, "systemctl", "stop", "prusik")
    took = time.monotonic() - started
    await asyncio.wait_for(session.task, 5)
    assert session.ws.close_code == 1012, (session.ws.close_code, session.fault)
    now = await call(machine.show)
    assert (now["Result"], now["ActiveState"], now["ExecMainStatus"]) == ("success", "inactive", "0")
    assert now["TimeoutStopUSec"] == "1min 30s" and took < 60, (now["TimeoutStopUSec"], took)
    assert (await call(machine.run, "ls", "/run/prusik")).stdout == ""
    shown(f"stop: the session got Close 1012, Result=success after {took:.1f} s "
          f"(TimeoutStopSec=90), no socket is left in /run/prusik")


async def stops_as_late_as_the_file_says(machine, port):
    good = (MACHINE / CONFIG).read_text()
    short = "etc/systemd/system/prusik.service.d/short.conf"
    machine.put(CONFIG, good.replace("deadline: 60s", "delay: 6s\n    deadline: 60s"))
    machine.put(short, "[Service]\nTimeoutStopSec=2s\n")
    await call(machine.run, "systemctl", "daemon-reload")
    await call(machine.run, "systemctl", "start", "prusik")
    session = await Session.open(port)
    started = time.monotonic()
    stopping = asyncio.create_task(call(machine.run, "systemctl", "stop", "prusik"))
    await asyncio.sleep(4)
    await session.goes_on()
    await stopping
    took = time.monotonic() - started
    assert await session.told_to_go() == 1012, session.fault
    now = await call(machine.show)
    assert (now["Result"], now["TimeoutStopUSec"]) == ("success", "2s") and took > 6, (now["Result"], took)
    (MACHINE / short).unlink()
    machine.put(CONFIG, good)
    await call(machine.run, "systemctl", "daemon-reload")
    shown(f"a stop with a delay of 6 s and TimeoutStopSec=2: Close 1012, success after {took:.1f} s")


async def refuses_a_wrong_file(machine, port):
    good = (MACHINE / CONFIG).read_text()
    machine.put(CONFIG, good.replace("upstream: app", "upstream: ap"))
    done = await call(machine.run, "systemctl", "start", "prusik", check=False)
    assert done.returncode != 0
    await asyncio.sleep(2)
    now = await call(machine.show)
    found = {name: now[name] for name in
             ("ActiveState", "SubState", "Result", "ExecMainStatus", "NRestarts")}
    assert found == {"ActiveState": "failed", "SubState": "failed", "Result": "exit-code",
                     "ExecMainStatus": "78", "NRestarts": "0"}, found
    machine.put(CONFIG, good)
    await call(machine.run, "systemctl", "reset-failed", "prusik")
    shown("a wrong file: start fails, ExecMainStatus=78, NRestarts=0 two seconds later")


async def kill_without_a_refusal(machine, port, restarts):
    before = await call(machine.pid)
    with Callers(port) as callers:
        await asyncio.sleep(0.5)
        await call(machine.run, "kill", "-KILL", before)
        took = await call(wait_for, "the restart", lambda: (
            machine.show()["NRestarts"] == restarts
            and machine.show()["ActiveState"] == "active"), 20)
        await asyncio.sleep(1)
    now = await call(machine.show)
    assert int(now["MainPID"]) != before and now["NRestarts"] == restarts, now
    assert "refused" not in callers.counts and callers.counts.get(200, 0) > 100, callers.counts
    assert set(callers.counts) <= {200, "cut"} and callers.counts.get("cut", 0) <= 2, callers.counts
    session = await Session.open(port)
    await session.goes_on()
    await session.close()
    return took, callers.counts


async def socket_activation(machine, port):
    await call(machine.run, "systemctl", "start", "prusik.socket")
    assert (await call(machine.show))["ActiveState"] == "inactive"
    assert await call(one_request, port) == 200
    assert (await call(machine.show))["ActiveState"] == "active"
    shown("with prusik.socket the first connect starts it, and is served")
    for restarts in ("1", "2"):
        took, counts = await kill_without_a_refusal(machine, port, restarts)
        shown(f"kill -9: restarted after {took:.1f} s (NRestarts={restarts}); connects: {counts}")
    with Callers(port) as callers:
        session = await Session.open(port)
        await session.goes_on()
        before = await call(machine.pid)
        await call(machine.run, COMMAND, "upgrade", *ADMIN)
        assert await call(machine.pid) != before
        await session.goes_on()
        await call(machine.run, "systemctl", "restart", "prusik.service")
        await session.goes_on()
    assert set(callers.counts) == {200}, callers.counts
    await session.close()
    # The restart has set the count back.
    took, counts = await kill_without_a_refusal(machine, port, "1")
    shown(f"upgrade and restart with prusik.socket ({callers.counts}), and kill -9 of the new process: "
          f"restarted after {took:.1f} s; connects: {counts}")


async def a_wrong_file_behind_the_socket(machine, port):
    await call(machine.run, "systemctl", "stop", "prusik.socket", "prusik.service")
    good = (MACHINE / CONFIG).read_text()
    machine.put(CONFIG, good.replace("upstream: app", "upstream: ap"))
    await call(machine.run, "systemctl", "start", "prusik.socket")
    answer = await call(one_request, port)
    assert answer != 200, answer
    await call(wait_for, "the socket's end", lambda:
               machine.show("prusik.socket")["ActiveState"] == "failed", 20)
    assert one_request(port) == "refused"
    result = (await call(machine.show, "prusik.socket"))["Result"]
    machine.put(CONFIG, good)
    await call(machine.run, "systemctl", "reset-failed", "prusik.socket", "prusik.service")
    await call(machine.run, "systemctl", "start", "prusik.socket", "prusik.service")
    assert await call(one_request, port) == 200
    await call(machine.run, "systemctl", "stop", "prusik.socket", "prusik.service")
    now = await call(machine.show)
    assert (now["Result"], now["ActiveState"]) == ("success", "inactive"), now
    assert one_request(port) == "refused"
    shown(f"a wrong file behind the socket ends in a refusal, not in a loop ({result}); "
          f"mended, it starts, and stops with its socket")


async def upgrade_with_work_left(machine, port):
    """A request keeps the old process at work. Returns both processes and the request."""
    await call(machine.run, "systemctl", "start", "prusik.service")
    old = await call(machine.pid)
    slow = asyncio.create_task(call(one_request, port, "/slow"))
    await asyncio.sleep(0.3)
    await call(machine.run, COMMAND, "upgrade", *ADMIN)
    new = await call(machine.pid)
    assert new != old and await call(machine.is_there, old)
    return old, new, slow


async def stops_after_an_upgrade(machine, port):
    await call(machine.run, "systemctl", "start", "prusik.service")
    session = await Session.open(port)
    old, new, slow = await upgrade_with_work_left(machine, port)
    await session.goes_on()
    await call(machine.run, "systemctl", "stop", "prusik")
    await asyncio.wait_for(session.task, 5)
    assert session.ws.close_code == 1012, (session.ws.close_code, session.fault)
    assert await slow == 200
    now = await call(machine.show)
    assert (now["Result"], now["ActiveState"]) == ("success", "inactive"), now
    assert not await call(machine.is_there, old) and not await call(machine.is_there, new)
    shown("stop just after an upgrade, the old process still at work: the session got Close 1012, "
          "the old process's request its answer, Result=success")


async def holds_sessions_after_upgrades(machine, port, count):
    """Reload, restart and stop are what they were, of a process that systemd has not started."""
    await call(machine.run, "systemctl", "start", "prusik.service")
    sessions = [await Session.open(port) for _ in range(20)]
    for _ in range(count):
        before = await call(machine.pid)
        await call(machine.run, COMMAND, "upgrade", *ADMIN)
        await call(wait_for, "the old process's end", lambda: not machine.is_there(before), 10)
    main = await call(machine.pid)
    status = await call(machine.run, "cat", f"/proc/{main}/status")
    assert "PPid:\t1\n" in status.stdout, status.stdout
    await call(machine.run, "systemctl", "reload", "prusik")
    assert await call(machine.pid) == main
    for session in sessions:
        await session.goes_on()
    await call(machine.run, "systemctl", "restart", "prusik.service")
    for session in sessions:
        await session.goes_on()
    assert not await call(machine.is_there, main)
    await call(machine.run, COMMAND, "upgrade", *ADMIN)
    main = await call(machine.pid)
    started = time.monotonic()
    await call(machine.run, "systemctl", "stop", "prusik.service")
    took = time.monotonic() - started
    codes = [await session.told_to_go() for session in sessions]
    assert codes == [1012] * 20, codes
    assert not await call(machine.is_there, main)
    now = await call(machine.show)
    assert (now["Result"], now["ActiveState"]) == ("success", "inactive"), now
    shown(f"after {count} upgrades the main process is systemd's own child; 20 sessions go on through "
          f"a reload, a restart and one more upgrade, and each gets Close 1012 at a stop ({took:.1f} s)")


async def leaves_systemd_its_files(machine, port):
    """A unix socket that systemd has bound outlives the service, and one that prusik has doesn't."""
    drop_in = MACHINE / "etc/systemd/system/prusik.socket.d/test.conf"
    machine.put(drop_in.relative_to(MACHINE), "[Socket]\nListenStream=/run/prusik/admin.sock\n"
                "SocketUser=prusik\nSocketMode=0600\n")
    await call(machine.run, "systemctl", "daemon-reload")
    for turn in ("a stop", "an upgrade and a stop"):
        await call(machine.run, "systemctl", "start", "prusik.socket", "prusik.service")
        if "upgrade" in turn:
            await call(machine.run, COMMAND, "upgrade", *ADMIN)
        await call(machine.run, "systemctl", "stop", "prusik.service")
        # It starts the service, as every connect does.
        status = await call(machine.run, COMMAND, "status", *ADMIN, check=False)
        assert status.returncode == 0, f"after {turn}: {status.stderr}"
    await call(machine.run, "systemctl", "stop", "prusik.socket", "prusik.service")
    shown("an admin socket that systemd has bound is still there after a stop, and after an "
          "upgrade and a stop")
    drop_in.unlink()
    await call(machine.run, "systemctl", "daemon-reload")
    await call(machine.run, "rm", "-f", "/run/prusik/admin.sock")


async def hangs_after_an_upgrade(machine, port):
    """The old process must not feed the watchdog in the new one's name."""
    _, new, slow = await upgrade_with_work_left(machine, port)
    await call(machine.run, "kill", "-STOP", new)
    took = await call(wait_for, "the watchdog's kill", lambda: machine.pid() != new,
                      2 * WATCHDOG + 1)
    await slow
    shown(f"a process that hangs just after an upgrade is killed after {took:.1f} s")
    await call(machine.run, "systemctl", "stop", "prusik")


async def crashes_after_an_upgrade(machine, port):
    """The old process still has something to do: it serves again, and systemd knows."""
    old, new, slow = await upgrade_with_work_left(machine, port)
    await call(machine.run, "kill", "-KILL", new)
    took = await call(wait_for, "the old process", lambda: (
        machine.pid() == old and one_request(port, timeout=1) == 200), SLOW - 2)
    await slow
    show = machine.show()
    assert show["ActiveState"] == "active" and show["NRestarts"] == "0", show
    shown("kill -9 just after an upgrade, the old process still at work: it serves again after "
          f"{took:.1f} s and is the main process")
    await call(machine.run, "systemctl", "stop", "prusik")


asyncio.run(main())
