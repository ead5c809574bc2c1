#!/usr/bin/env python3
"""Small files of nginx, each with something that no route of prusik says in the same way.

usage: imports_keep_out.py PRUSIK
Needs: apt-get install nginx-light. Loopback only. For each request: whom nginx keeps out must not
reach a server through prusik, whatever the import says; and what else differs must have been named
as left out (exit 1).
"""
import pathlib, re, subprocess, sys, tempfile

from imports import PRUSIK, Imported, Servers, ask, is_open
from tiers import free_port, wait_for

# PASS is a proxy_pass to the server. Hosts stand before a path: a.test/x. `+Name=value` is a field, POST before it a method.
HOST = "proxy_set_header Host $host;"
CASES = {
    "a @name that keeps out": (
        "server { listen PORT; location / { try_files /none @app; } location @app { deny all; PASS } }",
        ["/", "/x"]),
    "a @name that answers": (
        "server { listen PORT; location / { try_files /none @app; } location @app { return 403; } }",
        ["/", "/x"]),
    "a @name for who has a password": (
        "server { listen PORT; location / { try_files /none @app; }"
        " location @app { auth_basic x; auth_basic_user_file FOLDER/users; PASS } }",
        ["/", "/ +Authorization=Basic YW5uYTp4"]),
    "look-ahead": (
        "server { listen PORT; location ~ ^/(?!open)[a-z]+ { deny all; } location / { PASS } }",
        ["/admin", "/open", "/", "/9"]),
    "a group once more": (
        "server { listen PORT; location ~ ^/(a|b)\\1 { deny all; } location / { PASS } }",
        ["/aa", "/ab", "/c"]),
    "within an expression": (
        "server { listen PORT; location ~ ^/a { location ~ b$ { deny all; } PASS } location / { PASS } }",
        ["/ab", "/ac", "/b"]),
    "an expression within a prefix": (
        "server { listen PORT; location /x/ { location ~ ^/x/a$ { PASS } PASS }"
        " location ~ (/|y)secret$ { deny all; } location / { PASS } }",
        ["/x/secret", "/x/a", "/secret", "/x/ysecret", "/open"]),
    "names by an expression": (
        "server { listen PORT; server_name a.test; location / { PASS } }"
        " server { listen PORT; server_name ~^admin; deny all; }",
        ["a.test/", "admin.test/", "other.test/"]),
    "names by their beginning": (
        "server { listen PORT; server_name a.test; location / { PASS } }"
        " server { listen PORT; server_name www.*; location / { return 401; } }",
        ["a.test/", "www.b.test/"]),
    "two servers of a name": (
        "server { listen PORT; server_name a.test; location / { PASS } }"
        " server { listen PORT; server_name a.test b.test; return 403; }",
        ["a.test/", "b.test/", "c.test/"]),
    "to a page where they log in": (
        "map $cookie_session $needs { default 0; \"\" 1; }"
        " server { listen PORT; location / { if ($needs) { return 302 /login; } PASS }"
        " location = /login { return 200 hello; } }",
        ["/", "/ +Cookie=session=1", "/login"]),
    "no field": (
        "server { listen PORT; if ($http_authorization = \"\") { rewrite ^ /login redirect; }"
        " location / { PASS } }",
        ["/x", "/x +Authorization=a"]),
    "a longer prefix beside": (
        "server { listen PORT; location /a/ { location = /a/b { PASS } PASS } location /a/b { deny all; } }",
        ["/a/b", "/a/bc", "/a/c"]),
    "the whole path": (
        "server { listen PORT; location / { set $up http://127.0.0.1:BACK; proxy_pass $up/y; " + HOST + " } }",
        ["/x", "/x?a=b"]),
    "the path by a group": (
        "server { listen PORT; location ~ ^/u/(\\d+)$ { proxy_pass http://127.0.0.1:BACK/v/$1; "
        "set $keep 1; } location ~ ^/w/(\\d+)$ { set $up 127.0.0.1:BACK; proxy_pass "
        "http://$up/v/$1$is_args$args; " + HOST + " } }",
        ["/u/7", "/u/7?a=b", "/w/7", "/w/7?a=b", "/u/x"]),
    "the path as it came": (
        "server { listen PORT; location / { set $up 127.0.0.1:BACK; rewrite ^/a/(.*)$ /b/$1 break; "
        "proxy_pass http://$up$request_uri; " + HOST + " } }",
        ["/a/x?y=z", "/c"]),
    "a rewrite and a path": (
        "server { listen PORT; location /a/ { rewrite ^/a/x/(.*)$ /x/$1 break; "
        "proxy_pass http://127.0.0.1:BACK/b/; " + HOST + " } }",
        ["/a/x/1", "/a/y"]),
    "a query that is dropped": (
        "server { listen PORT; location / { rewrite ^/a/(.*)$ /b/$1? break; PASS } }",
        ["/a/x?y=z", "/a/x"]),
    "a query that is another": (
        "server { listen PORT; location / { set $args a=b; PASS } }", ["/x", "/x?y=z"]),
    "a variable set twice": (
        "server { listen PORT; location ~ ^/(.*)$ { set $x a; set $x $1; proxy_set_header X $x; PASS } }",
        ["/b"]),
    "the path behind a rewrite": (
        "server { listen PORT; location / { rewrite ^/a/(.*)$ /b/$1 break; proxy_set_header X $uri; PASS } }",
        ["/a/x"]),
    "a name in another case": (
        "upstream App { server 127.0.0.1:BACK; } server { listen PORT; location / "
        "{ proxy_pass http://app; " + HOST + " } }",
        ["/x"]),
    "a variable by a table": (
        "map $http_x $arg_user { default map; } server { listen PORT; location / "
        "{ proxy_set_header X $arg_user; PASS } }",
        ["/x?user=anna"]),
    "names that are encoded": (
        "server { listen PORT; location /@admin { deny all; } location /a,b { deny all; }"
        " location \"/c d\" { deny all; } location / { PASS } }",
        ["/@admin", "/%40admin", "/a,b", "/a%2Cb", "/c%20d", "/open"]),
    "methods in small letters": (
        "server { listen PORT; location / { limit_except get { deny all; } PASS } }", ["/", "POST /"]),
    "an exact location within and beside": (
        "server { listen PORT; location / { location = /a { PASS } PASS } location = /a { deny all; } }",
        ["/a", "/b"]),
    "the same prefix within": (
        "server { listen PORT; location /a/ { PASS location /a/ { deny all; PASS } } }", ["/a/x"]),
    "an expression with branches": (
        "server { listen PORT; location /o/ { location ~ ^/o/a$ { PASS } PASS }"
        " location ~ ^/adm(in)|secret { deny all; } location ~ \\.git|/private { deny all; } location / { PASS } }",
        ["/o/secret", "/o/private", "/o/a", "/o/b", "/admin"]),
    "bytes that come encoded": (
        "server { listen PORT; location ~ ^/.$ { deny all; } location ~ ^/café { deny all; }"
        " location ~ '^/c d' { deny all; } location ~ '^/a;b' { deny all; } location '/e;f' { deny all; }"
        " location / { PASS } }",
        ["/%20", "/caf%C3%A9", "/c%20d", "/a%3Bb", "/a;b", "/e%3Bf", "/open"]),
    "locations that no path has": (
        "server { listen PORT; location /a//b { PASS } location /c/../d { PASS } location / { deny all; } }",
        ["/a/b", "/d", "/"]),
    "an auth server behind conditions": (
        "server { listen PORT; location / { auth_request /auth; PASS }"
        " location = /auth { internal; if ($cookie_s = '') { return 401; } proxy_pass http://127.0.0.1:BACK/ok; } }",
        ["/", "/ +Cookie=s=1"]),
    "the last address of the field": (
        "set_real_ip_from 127.0.0.0/8; real_ip_header X-Forwarded-For;"
        " server { listen PORT; location / { allow 10.1.1.1; deny all; PASS } }",
        ["/ +X-Forwarded-For=10.1.1.1, 127.0.0.5", "/"]),
    "another field for the address": (
        "set_real_ip_from 127.0.0.1; real_ip_header X-Real-IP;"
        " server { listen PORT; location / { allow 127.0.0.1; deny all; PASS } }",
        ["/ +X-Real-IP=8.8.8.8", "/"]),
    "methods and conditions of a @name": (
        "server { listen PORT; location / { try_files /none @app; }"
        " location @app { limit_except GET { deny all; } if ($host = b.test) { return 403; } PASS } }",
        ["/", "POST /", "b.test/"]),
    "files that are not inherited": (
        "server { listen PORT; location / { try_files /none @app; location /up/ { } } location @app { PASS } }",
        ["/up/x", "/x"]),
    "files or nothing": (
        "server { listen PORT; location ~ \\.php$ { try_files /none =404; PASS } }", ["/a.php"]),
    "a redirect of an expression": (
        "server { listen PORT; location ~ ^/old { rewrite ^/old/x$ /login permanent; PASS }"
        " location / { rewrite ^/(v|t)$ /login redirect; PASS } }",
        ["/old/x", "/old/y", "/v", "/w"]),
    "some paths, and then the others": (
        "server { listen PORT; location / { if ($host = a.test) { rewrite ^/x$ /y redirect; return 403; } PASS } }",
        ["a.test/", "a.test/x", "b.test/"]),
    "no host at all": (
        "server { listen PORT; server_name a.test; location / { PASS } }"
        " server { listen PORT; server_name ''; return 403; }",
        ["a.test/"]),
    "a rewrite to a closed location": (
        "server { listen PORT; rewrite ^/a/(.*)$ /secret/$1 last; location / { PASS }"
        " location /b/ { rewrite ^/b/(.*)$ /secret/$1 last; PASS } location /secret/ { deny all; } }",
        ["/a/x", "/b/x", "/c"]),
    "conditions on what is asked for": (
        "server { listen PORT; location /u { if ($request_uri ~ secret) { return 403; } PASS }"
        " location /m { if ($request_method ~* ^(post|put)$) { return 405; } PASS }"
        " location /q { if ($arg_debug) { return 403; } PASS } }",
        ["/u/secret", "/u/x", "POST /m", "/m", "/q?debug=1", "/q"]),
    "a login by a variable": (
        "server { listen PORT; set $login 1; if ($cookie_session) { set $login 0; }"
        " location / { if ($login) { return 302 /login; } PASS } location = /login { return 200 hello; } }",
        ["/", "/ +Cookie=session=1", "/login"]),
    "a field that cannot be made": (
        "map $http_x_token $role { default guest; s3cret admin; }"
        " server { listen PORT; location / { proxy_set_header X $role; PASS } }",
        ["/ +X=admin"]),
    "names that keep out by a redirect": (
        "server { listen PORT; server_name a.test; location / { PASS } }"
        " server { listen PORT; server_name ~^admin; return 302 https://sso.test/; }",
        ["admin.test/", "a.test/"]),
    "any of two": (
        "server { listen PORT; location / { satisfy ANY; deny all; auth_basic x; "
        "auth_basic_user_file FOLDER/users; PASS } }",
        ["/"]),
    "methods": (
        "server { listen PORT; location / { limit_except GET { deny all; } PASS } }", ["/"]),
}


def files(folder, text, ports):
    (folder / "users").write_text("anna:$apr1$abcdefgh$h9FWgUz3n9YxylKLlR5SQ/\n")
    text = text.replace("PASS", f"proxy_pass http://127.0.0.1:BACK; {HOST}")
    text = text.replace("PORT", f"127.0.0.1:{ports[0]}").replace("BACK", str(ports[1]))
    text = text.replace("FOLDER", str(folder))
    file = folder / "nginx.conf"
    file.write_text(f"user root;\npid {folder}/nginx.pid;\nevents {{}}\nhttp {{ access_log off; {text} }}\n")
    return file


class Nginx:
    def __init__(self, file):
        command = ["nginx", "-p", str(file.parent), "-c", str(file), "-g", "daemon off;"]
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL)

    def stop(self):
        self.process.terminate()
        self.process.wait()


def answers(port, requests):
    found = {}
    for request in requests:
        target, *fields = request.split(" +")
        method, _, target = target.rpartition(" ")
        host, slash, path = target.partition("/")
        fields = dict(field.split("=", 1) for field in fields)
        found[request] = ask(port, False, host or "any.test", slash + path, fields, method or "GET")
    return found


def what_came(answer):
    """The path, and the field that the cases look at."""
    seen = answer.get("seen")
    return seen and (seen["path"], seen["headers"].get("x"))


def compare(name, text, requests, back):
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        file = files(pathlib.Path(folder), text, (port, back))
        imports = subprocess.run([PRUSIK, "import", "nginx", str(file)], capture_output=True, text=True)
        found = []
        for kind in (Nginx, Imported):
            served = kind(file)
            try:
                wait_for(f"{kind.__name__} with {name}", lambda: is_open(port), 20)
                found.append(answers(port, requests))
            finally:
                served.stop()
            wait_for("the port is free", lambda: not is_open(port), 20)
    faults = []
    for request in requests:
        by_nginx, by_prusik = (answers[request] for answers in found)
        came = what_came(by_nginx), what_came(by_prusik)
        if came[1] and not came[0]:
            faults.append(f"{request}: nginx {by_nginx['status']}, and prusik lets it in")
        elif came[0] != came[1] and imports.returncode == 0:
            faults.append(f"{request}: nginx {came[0]}, prusik {came[1]}, and nothing was said")
    said = len(re.findall(": left out: ", imports.stderr))
    print(f"{name}: {len(requests)} requests, {said} left out" + "".join(f"\n  FAULT {one}" for one in faults))
    return len(faults)


def main():
    back = free_port()
    Servers([back])
    faults = sum(compare(name, *case, back) for name, case in CASES.items())
    assert faults == 0, f"{faults} faults"
    print("nobody comes in whom nginx keeps out, and nothing differs unsaid")


if __name__ == "__main__":
    main()
