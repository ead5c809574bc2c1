#!/usr/bin/env python3
"""PyJWT as the issuer, `websockets` as the client: tokens of every algorithm, from a JWKS and from PEM, let a
request and a session in, whichever way they are sent; those that are changed, expired or for others do not.

usage: jwt_issuers.py PRUSIK
Needs the packages pyjwt, cryptography and websockets.
"""
import asyncio, http.client, http.server, json, pathlib, subprocess, sys, tempfile, threading, time

import jwt
import websockets
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import get_default_algorithms

from tiers import free_port, wait_for

PRUSIK = sys.argv[1]
SECRET = b"a secret of at least sixty-four bytes, because HS512 wants that many of them"


def issuers():
    """Each algorithm with its private key, its public one, and the latter as a JWK."""
    of_rsa, algorithms = rsa.generate_private_key(65537, 2048), get_default_algorithms()
    keys = {"RS": of_rsa, "PS": of_rsa, "HS": SECRET, "ES256": ec.generate_private_key(ec.SECP256R1()),
            "ES384": ec.generate_private_key(ec.SECP384R1()), "EdDSA": ed25519.Ed25519PrivateKey.generate()}
    for name in ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA",
                 "HS256", "HS384", "HS512"]:
        private = keys.get(name) or keys[name[:2]]
        public = private if private is SECRET else private.public_key()
        jwk = json.loads(algorithms[name].to_jwk(public))
        yield name, private, public, {**jwk, "kid": name, "alg": name}


class Server(http.server.BaseHTTPRequestHandler):
    """Says what it was asked, and who that is."""
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = json.dumps({"path": self.path, "user": self.headers.get("X-User")}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


async def echo(connection):
    async for message in connection:
        await connection.send(message)


def get(port, route, token=None, query=""):
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    client.request("GET", f"/{route}{query}", headers={"Authorization": f"Bearer {token}"} if token else {})
    answer = client.getresponse()
    return answer.status, answer.read()


def choose(_, offered):
    assert set(offered) <= {"chat"}, offered
    return "chat" if offered else None


async def sessions(port, chat, tokens):
    # As `new WebSocket(url, ["bearer", token])` does; `websockets` refuses an answer that it has not offered.
    async with websockets.serve(echo, "127.0.0.1", chat, select_subprotocol=choose):
        for name, token in tokens.items():
            for offer, chosen in [(["bearer", token], "bearer"), (["bearer", token, "chat"], "chat")]:
                url = f"ws://127.0.0.1:{port}/ws"
                async with websockets.connect(url, subprotocols=offer, proxy=None) as session:
                    assert session.subprotocol == chosen, (name, session.subprotocol)
                    await session.send("hello")
                    assert await session.recv() == "hello"


def main():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port, chat, all_issuers = free_port(), free_port(), list(issuers())
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "jwks.json").write_text(json.dumps({"keys": [jwk for *_, jwk in all_issuers]}))
        rules = "issuer: https://id.test, audience: chat"
        routes = [f"  - {{ match: {{ path: /jwks }}, upstream: pages, headers: {{ request: {{ set: {{ X-User: $jwt_sub }} }} }},\n"
                  f"      auth: {{ jwt: {{ keys: {folder}/jwks.json, from: [bearer, \"query:t\"], {rules} }} }} }}",
                  f"  - {{ match: {{ path: /ws }}, upstream: chat, auth: {{ jwt: {{ keys: {folder}/jwks.json, from: [subprotocol] }} }} }}"]
        for name, _, public, _ in all_issuers:
            if public is not SECRET:
                pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
                (folder / f"{name}.pem").write_bytes(pem)
                routes.append(f"  - {{ match: {{ path: /{name} }}, upstream: pages, auth: {{ jwt: {{ keys: {folder}/{name}.pem }} }} }}")
        file, errors = folder / "prusik.yaml", folder / "stderr"
        file.write_text(f"""
listeners: [{{ listen: "127.0.0.1:{port}" }}]
access_log: off
upstreams:
  pages: {{ servers: ["127.0.0.1:{server.server_port}"] }}
  chat: {{ servers: ["127.0.0.1:{chat}"] }}
routes:
""" + "\n".join(routes) + "\n")
        process = subprocess.Popen([PRUSIK, "run", "--config", str(file)], stderr=errors.open("w"))
        try:
            wait_for("ready", lambda: "ready" in errors.read_text(), 10)
            good = {"iss": "https://id.test", "aud": ["chat"], "sub": "alice", "exp": time.time() + 600}
            tokens = {}
            for name, private, public, _ in all_issuers:
                sign = lambda claims: jwt.encode(claims, private, name, headers={"kid": name})
                tokens[name] = token = sign(good)
                status, body = get(port, "jwks", token)
                assert (status, json.loads(body)["user"]) == (200, "alice"), (name, status, body)
                status, body = get(port, "jwks", query=f"?t={token}&x=1")
                assert json.loads(body)["path"] == "/jwks?x=1", (name, body)
                if public is not SECRET:
                    assert get(port, name, token)[0] == 200, f"{name} by PEM"
                for what, claims in [("expired", {**good, "exp": time.time() - 1}),
                                     ("not yet", {**good, "nbf": time.time() + 60}),
                                     ("another audience", {**good, "aud": "mail"}),
                                     ("another issuer", {**good, "iss": "https://evil.test"})]:
                    assert get(port, "jwks", sign(claims))[0] == 401, (name, what)
                other = tokens.get("RS256" if name != "RS256" else "none", "x.y.z")
                mixed = ".".join(token.split(".")[:2] + other.split(".")[2:])
                assert get(port, "jwks", mixed)[0] == 401, (name, "the signature of another")
            asyncio.run(sessions(port, chat, tokens))
        finally:
            process.terminate()
            process.wait(30)
    print(f"{len(tokens)} algorithms of PyJWT {jwt.__version__}: let in by JWKS, by PEM, in the query and as a subprotocol")


main()
