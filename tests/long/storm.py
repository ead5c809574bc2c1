#!/usr/bin/env python3
"""A reconnect storm: ten thousand clients come in one second, to two servers that fall over when they get
too many at once. With prusik none falls, and all are in soon after the servers' own minimum; nginx and
HAProxy are shown beside it in the same run.

usage: storm.py PRUSIK [CLIENTS] [AT_ONCE]

A server works on AT_ONCE handshakes at a time (50) and takes 20 ms for each; further ones wait in it, and
with 200 it falls over. The minimum is the time that the servers need for all clients if they never idle:
by arithmetic, and as measured here, with the clients at servers that bear any number.
HAProxy's `maxconn` of a server would hold clients back too, but it counts sessions to their end, and so
would be the number of sessions that the server can have at all.
Needs: a C compiler; nginx and haproxy are left out if they are not installed. Loopback only.
"""
import json, pathlib, shutil, subprocess, sys, tempfile

from tiers import free_port, wait_for

PRUSIK = sys.argv[1]
CLIENTS = int(sys.argv[2]) if len(sys.argv) > 2 else 10_000
AT_ONCE = int(sys.argv[3]) if len(sys.argv) > 3 else 50
FALLS_AT, WORK, SECONDS = 200, 0.020, 1.0
MINIMUM = max(CLIENTS / 2 * WORK / AT_ONCE, SECONDS)

FILES = {"prusik": """
server: {{ threads: 2 }}
access_log: off
listeners: [{{ listen: "127.0.0.1:{port}" }}]
upstreams: {{ chat: {{ servers: [127.0.0.1:{one}, 127.0.0.1:{two}] }} }}
routes: [{{ upstream: chat }}]
""", "nginx": """
worker_processes 2;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/nginx.error.log;
events {{ worker_connections 19000; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  upstream chat {{ server 127.0.0.1:{one}; server 127.0.0.1:{two}; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    proxy_http_version 1.1;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Connection upgrade;
    location / {{ proxy_pass http://chat; }}
  }}
}}
""", "haproxy": """
global
  nbthread 2
  maxconn 9500
defaults
  mode http
  timeout connect 5s
  timeout client 1m
  timeout server 1m
  timeout tunnel 1h
frontend public
  bind 127.0.0.1:{port} backlog 4096
  default_backend chat
backend chat
  server one 127.0.0.1:{one}
  server two 127.0.0.1:{two}
"""}
COMMANDS = {"prusik": [PRUSIK, "run", "--config"], "nginx": ["nginx", "-c"], "haproxy": ["haproxy", "-f"]}


def is_open(port):
    return subprocess.run(["python3", "-c", f"import socket; socket.create_connection(('127.0.0.1', {port}), 1)"],
                          stderr=subprocess.DEVNULL).returncode == 0


def come(program, *ports):
    asked = [program, "clients", str(CLIENTS), str(SECONDS), *map(str, ports)]
    return json.loads(subprocess.run(asked, capture_output=True, text=True, check=True).stdout)


def measured_minimum(program):
    """The same clients at the same servers, which now do not fall over."""
    servers = subprocess.Popen([program, "servers", str(AT_ONCE), str(2 * CLIENTS)], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, text=True)
    seen = come(program, *servers.stdout.readline().split())
    servers.stdin.close()
    servers.wait()
    assert seen["in"] == CLIENTS, seen
    return seen["all_in"]


def storm(program, name):
    """What the clients and the servers saw of it."""
    servers = subprocess.Popen([program, "servers", str(AT_ONCE), str(FALLS_AT)], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, text=True)
    one, two = servers.stdout.readline().split()
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder, f"{name}.conf")
        file.write_text(FILES[name].format(port=port, one=one, two=two, folder=folder))
        with open(pathlib.Path(folder, "log"), "w+") as log:
            proxy = subprocess.Popen([*COMMANDS[name], str(file)], stdout=log, stderr=log)
            try:
                wait_for(name, lambda: is_open(port), 10)
                seen = come(program, port)
                servers.stdin.write("\n")
                servers.stdin.flush()
                seen["servers"] = json.loads(servers.stdout.readline())
            finally:
                proxy.terminate()
                proxy.wait()
                servers.stdin.close()
                servers.wait()
    return seen


def show(name, seen):
    refused = ", ".join(f"{count} × {status}" for status, count in seen["refused"].items()) or "none"
    servers = ", ".join(f"{'fell over' if one['fell'] else 'stood'} (most {one['most']})" for one in seen["servers"])
    took = f"in {seen['all_in']:.2f} s, p50 {seen['p50']:.2f} s, p99 {seen['p99']:.2f} s" if seen["in"] else "-"
    print(f"{name:8}: {seen['in']} of {CLIENTS} in ({took}); refused {refused}; {seen['lost']} lost, "
          f"{seen['waiting']} without an answer; servers {servers}", flush=True)


def main():
    program = pathlib.Path(tempfile.mkdtemp()) / "storm"
    source = pathlib.Path(__file__).with_suffix(".c")
    subprocess.run(["cc", "-O2", "-Wall", "-Werror", "-o", program, source], check=True)
    print(f"{CLIENTS} clients in {SECONDS} s; two servers with {AT_ONCE} at once, {WORK * 1000:.0f} ms each, "
          f"that fall over with {FALLS_AT}: at least {MINIMUM:.2f} s")
    minimum = max(MINIMUM, measured_minimum(program))
    print(f"the servers alone, if they bore any number: {minimum:.2f} s")
    for name in ["nginx", "haproxy"]:
        if shutil.which(name):
            show(name, storm(program, name))
    seen = storm(program, "prusik")
    show("prusik", seen)
    print(f"prusik: {seen['all_in'] / minimum:.2f} × the minimum")
    assert seen["in"] == CLIENTS and not any(one["fell"] for one in seen["servers"]), seen
    assert seen["all_in"] <= 1.2 * minimum, f"{seen['all_in']:.2f} s for a minimum of {minimum:.2f} s"
    shutil.rmtree(program.parent)


main()
