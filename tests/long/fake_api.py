"""As much of the admin API as the status page asks for, of as many servers and sessions as are wanted.

Real ones would need as many processes and descriptors; what the page makes of the answers is the same.
"""
import datetime, http.server, json, pathlib, threading, time, urllib.parse, uuid

PAGE = pathlib.Path(__file__).parents[2] / "src/admin/page.html"
STATES = ["up"] * 20 + ["down", "ejected", "drained", "draining", "unchecked"]
# As many as a process remembers of a server (src/upstream/history.rs).
CHANGES = 20


class FakeApi:
    def __init__(self, servers, sessions):
        self.began = time.time()
        self.servers = [self.server(number) for number in range(servers)]
        self.sessions = [self.session(number, servers) for number in range(sessions)]
        # Bytes of the last answers, by path.
        self.sizes = {}
        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self.handler())
        self.port = self.http.server_address[1]
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    @staticmethod
    def address(number):
        if number % 10 == 9:
            return f"[2001:db8:85a3:8d3:1319:8a2e:370:{number:x}]:19080"
        return f"10.{number // 250}.{number % 250}.{100 + number % 100}:19080"

    @staticmethod
    def group(number):
        return f"chat-backend-{'frankfurt' if number % 2 else 'singapore'}-{number % 8}"

    def server(self, number):
        def time_of(minutes):
            then = datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=minutes)
            return then.isoformat().replace("+00:00", "Z")

        state = STATES[number % len(STATES)]
        changes = [{"since": time_of(3 * (CHANGES - i)), "state": "down" if i % 2 else "up"} for i in range(CHANGES)]
        changes[-1]["state"] = state
        failure = "no answer within 1s (connection timed out)" if state == "down" else None
        return {"address": self.address(number), "state": state, "weight": 1 + number % 3, "backup": number % 50 == 7,
                "sessions": 0, "requests": number % 7, "handshakes": 0, "messages": 0, "history": changes,
                "usable": state in ("up", "unchecked"), "limit": 20000 if number % 4 == 0 else None,
                "connect_errors": 12345 if state == "down" else 0, "last_check": {"at": time_of(0), "failure": failure}}

    def session(self, number, servers):
        server = number % servers
        return {"id": str(uuid.UUID(int=(0x0190AAAA00007000 << 64) + number)), "listener": "public", "route": f"path prefix /room/{number % 20}",
                "upstream": self.group(server), "server": self.address(server), "client": f"2001:db8::{number:x}" if number % 3 == 0 else f"192.0.2.{number % 256}",
                "host": "chat.example.com", "path": f"/IMS_SVR/websocket?userId={number}&room={number % 977}&token=" + "x" * (number % 90),
                "user_agent": "Mozilla/5.0", "age_ms": 86_400_000 - number, "bytes_in": 123_456 + number, "bytes_out": 7_654_321 + number,
                "messages_in": 1234 + number, "messages_out": 56_789 + number}

    def status(self):
        # All rates move, so that every row changes each time.
        passed = time.time() - self.began
        groups = {}
        for number, server in enumerate(self.servers):
            server["sessions"] = len(self.sessions) // max(1, len(self.servers))
            server["handshakes"] = int(passed * (number % 5))
            server["messages"] = int(passed * (100 + number))
            groups.setdefault(self.group(number), []).append(server)
        return {"version": "0.2.0", "pid": 1, "uptime_ms": int(passed * 1000), "state": "serving", "config": "/etc/prusik/chat-lb.yaml",
                "listeners": [{"name": "public", "listen": "0.0.0.0:443", "connections": len(self.sessions)}],
                "routes": [{"name": f"path prefix /room/{number}", "upstream": self.group(number), "sessions": 500} for number in range(120)],
                "upstreams": [{"name": name, "balance": "least_sessions", "servers": servers} for name, servers in groups.items()],
                "sessions": len(self.sessions), "connections": 12, "drains": [], "operations": [], "bytes": int(passed * 1e6), "ended": {"client": 98765, "server": 432},
                "counts": {"reloads_done": 3, "reloads_refused": 0, "upgrades_done": 1, "upgrades_failed": 0}}

    def page_of(self, query):
        words = query.get("search", [""])[0].lower().split()
        found = [one for one in self.sessions if all(
            any(word in one[key].lower() for key in ("id", "client", "path", "upstream", "server", "route")) for word in words)]
        if query.get("order") == ["newest"]:
            found.reverse()
        limit, after = int(query.get("limit", ["1000"])[0]), query.get("after", [None])[0]
        start = next((at + 1 for at, one in enumerate(found) if one["id"] == after), 0)
        shown = found[start:start + limit]
        return {"sessions": shown, "next": shown[-1]["id"] if start + limit < len(found) else None, "total": len(found)}

    def handler(api):
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                url = urllib.parse.urlsplit(self.path)
                if url.path == "/":
                    return self.answer("text/html", PAGE.read_bytes())
                if url.path == "/api/v1/status":
                    answer = api.status()
                elif url.path == "/api/v1/sessions":
                    answer = api.page_of(urllib.parse.parse_qs(url.query))
                else:
                    return self.send_error(404)
                body = json.dumps(answer, separators=(",", ":")).encode()
                api.sizes[url.path] = len(body)
                self.answer("application/json", body)

            def answer(self, kind, body):
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        return Handler

    def close(self):
        self.http.shutdown()
        self.http.server_close()
