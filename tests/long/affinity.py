#!/usr/bin/env python3
"""Real clients that must come back to their server: socket.io, SockJS, SignalR, MCP.

usage: affinity.py PRUSIK NODE_MODULES
By a cookie: two nodes with one key_file before two servers; each connection of a client goes to the
other node than the one before. 16 of 16 clients keep their server, and without affinity they do not.
By a header: MCP sessions through a reload and two upgrades.
"""
import asyncio, json, os, secrets, signal, socket, subprocess, sys, tempfile, time

PRUSIK, MODULES = map(os.path.abspath, sys.argv[1:3])
HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "affinity")
CLIENTS = 16
CONFIG = """
access_log: off
admin: {{ listen: "127.0.0.1:{admin}" }}
listeners: [{{ listen: "127.0.0.1:{port}" }}]
upstreams: {{ app: {{ servers: [{servers}], balance: two_choices{affinity} }} }}
routes: [{{ upstream: app, timeouts: {{ response: 100s, idle: 100s }} }}]
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(port):
    for _ in range(400):
        try:
            return socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.05)
    raise AssertionError(f"nobody listens on {port}")


class Node:
    """One prusik, on a port of its own."""

    def __init__(self, folder, servers, affinity):
        self.port, self.admin = free_port(), free_port()
        self.file = os.path.join(folder, f"{self.port}.yaml")
        self.servers = ", ".join(f"127.0.0.1:{server}" for server in servers)
        self.write(affinity)
        self.process = subprocess.Popen([PRUSIK, "run", "--config", self.file], stderr=subprocess.DEVNULL)
        wait_for(self.port)

    def write(self, affinity):
        affinity = affinity and f", affinity: {affinity}"
        text = CONFIG.format(port=self.port, admin=self.admin, servers=self.servers, affinity=affinity)
        with open(self.file, "w") as file:
            file.write(text)

    def order(self, command):
        order = [PRUSIK, command, "--admin", f"127.0.0.1:{self.admin}"]
        done = subprocess.run(order, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def stop(self):
        status = [PRUSIK, "status", "--json", "--admin", f"127.0.0.1:{self.admin}"]
        pid = json.loads(subprocess.run(status, capture_output=True, text=True).stdout)["pid"]
        # Now: streams of clients that are gone would have a minute.
        os.kill(pid, signal.SIGINT)
        self.process.wait(30)


class InTurn:
    """Sends each connection to the next node, as a balancer of connections does."""

    def __init__(self, nodes):
        self.nodes, self.number = nodes, 0

    async def __aenter__(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self.server.close()

    async def serve(self, reader, writer):
        self.number += 1
        node = self.nodes[self.number % len(self.nodes)]
        there = await asyncio.open_connection("127.0.0.1", node.port)
        await asyncio.gather(self.copy(reader, there[1]), self.copy(there[0], writer))

    @staticmethod
    async def copy(reader, writer):
        try:
            while part := await reader.read(65536):
                writer.write(part)
                await writer.drain()
        except OSError:
            pass
        writer.close()


async def by_cookie(folder, kind, transport, affinity):
    env = {**os.environ, "NODE_PATH": MODULES}
    command = ["node", os.path.join(HERE, "server.cjs"), kind]
    servers = [subprocess.Popen([*command, number], env=env, stdout=subprocess.PIPE, text=True) for number in "12"]
    nodes = []
    try:
        ports = [int(server.stdout.readline()) for server in servers]
        nodes = [Node(folder, ports, affinity) for _ in range(2)]
        async with InTurn(nodes) as front:
            command = ["node", os.path.join(HERE, "clients.cjs"), kind, str(CLIENTS), str(front.port), transport]
            pipe = asyncio.subprocess.PIPE
            clients = await asyncio.create_subprocess_exec(*command, env=env, stdout=pipe, stderr=pipe)
            said, failures = await asyncio.wait_for(clients.communicate(), 300)
            return json.loads(said), front.number, failures.decode()
    finally:
        for node in nodes:
            node.stop()
        for server in servers:
            server.kill()
            server.wait()


async def mcp_session(port, questions):
    """The answers of one session; `questions` yields between them."""
    from mcp import ClientSession
    from mcp.client.streamable_http import streamable_http_client

    async with streamable_http_client(f"http://127.0.0.1:{port}/mcp") as streams:
        async with ClientSession(streams[0], streams[1]) as session:
            await session.initialize()
            answers = []
            async for _ in questions:
                result = await session.call_tool("who", {})
                assert not result.isError, result
                answers.append(result.content[0].text)
            return answers


async def by_header(folder):
    ports = [free_port(), free_port()]
    script = os.path.join(HERE, "mcp_server.py")
    servers = [subprocess.Popen([sys.executable, script, str(port), str(number)], stderr=subprocess.DEVNULL)
               for number, port in enumerate(ports, 1)]
    affinity = "{ header: { response: Mcp-Session-Id } }"
    node = None
    try:
        for port in ports:
            wait_for(port)
        node = Node(folder, ports, affinity)
        arrived, go_on = 0, [asyncio.Event() for _ in range(3)]

        async def questions():
            nonlocal arrived
            for step in range(4):
                for _ in range(3):
                    yield
                if step < 3:
                    arrived += 1
                    await go_on[step].wait()

        sessions = [asyncio.create_task(mcp_session(node.port, questions())) for _ in range(CLIENTS)]
        for step, order in enumerate(["reload", "upgrade", "upgrade"]):
            while arrived < CLIENTS * (step + 1):
                broken = [session for session in sessions if session.done()]
                assert not broken, [session.exception() for session in broken]
                await asyncio.sleep(0.05)
            if order == "reload":
                node.write("{ header: { response: Mcp-Session-Id, max: 5000 } }")
            await asyncio.to_thread(node.order, order)
            go_on[step].set()
        answers = await asyncio.wait_for(asyncio.gather(*sessions), 120)
        used = set()
        for heard in answers:
            number = heard[0].split()[0]
            assert heard == [f"{number} {count}" for count in range(1, 13)], heard
            used.add(number)
        assert used == {"1", "2"}, used
        print(f"MCP: {len(answers)} of {CLIENTS} sessions kept their server over a reload and two upgrades", flush=True)
    finally:
        if node:
            node.stop()
        for server in servers:
            server.kill()
            server.wait()


async def main():
    with tempfile.TemporaryDirectory() as folder:
        key = os.path.join(folder, "affinity.key")
        with open(key, "wb") as file:
            file.write(secrets.token_bytes(32))
        cookie = f'{{ cookie: prusik, key_file: "{key}" }}'
        for kind, transport, needs_it in [
            ("socketio", "", True),
            ("sockjs", "xhr-polling", True),
            ("sockjs", "xhr-streaming", True),
            ("sockjs", "websocket", False),
            ("signalr", "LongPolling", True),
            ("signalr", "WebSockets", True),
        ]:
            name = f"{kind} {transport}".strip()
            result, connections, failures = await by_cookie(folder, kind, transport, cookie)
            assert result["good"] == CLIENTS, f"{name}: {result}\n{failures}"
            assert result["servers"] == ["1", "2"], f"{name}: {result}"
            line = f"{name}: {result['good']} of {CLIENTS} by {connections} connections to two nodes"
            if needs_it:
                result, _, _ = await by_cookie(folder, kind, transport, "")
                assert result["good"] < CLIENTS, f"{name} does not need affinity: {result}"
                line += f"; {result['good']} without affinity"
            print(line, flush=True)
        await by_header(folder)


asyncio.run(main())
