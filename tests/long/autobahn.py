#!/usr/bin/env python3
"""The Autobahn cases straight to a server and through prusik: the same result, case by case.

usage: autobahn.py PRUSIK FOLDER [--all]

The server is npm's ws, the cases are PyPI's kosoku, both in FOLDER or in this Python. 319 cases, in
which permessage-deflate is in the variants 12.1; --all runs 517. What is compared is each case's
verdict, that on its closing handshake, and the close code that the client saw.
"""
import argparse, collections, json, shutil, subprocess, sys, tempfile
from pathlib import Path

from tiers import free_port, wait_for

HERE = Path(__file__).resolve().parent
SHORT = ["12.2.*", "12.3.*", "12.4.*", "12.5.*", "13.*"]
CONFIG = """\
access_log: off
listeners:
  - listen: 127.0.0.1:{port}
upstreams:
  echo: {{ servers: [127.0.0.1:{origin}] }}
routes:
  - upstream: echo
"""


def results(name, port, excluded, folder):
    """{case: (verdict, verdict on its close, close code)}"""
    out = folder / name
    shutil.rmtree(out, ignore_errors=True)
    kosoku = [str(Path(sys.executable).parent / "kosoku"), "-m", "fuzzingclient", f"ws://127.0.0.1:{port}",
              "-o", str(out), "-p", "4"]
    done = subprocess.run(kosoku + [word for case in excluded for word in ("-x", case)],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    index = out / "index.json"
    if not index.exists():
        raise SystemExit(f"{name}: kosoku made no report:\n{done.stdout[-2000:]}")
    (cases,) = json.loads(index.read_text()).values()
    return {case: (found["behavior"], found["behaviorClose"], found["remoteCloseCode"])
            for case, found in cases.items()}


def main():
    options = argparse.ArgumentParser(usage=__doc__.split("\n\n")[1].removeprefix("usage: "))
    options.add_argument("prusik", type=Path)
    options.add_argument("folder", type=Path)
    options.add_argument("--all", action="store_true")
    options = options.parse_args()
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "node_modules" / "ws").exists():
        subprocess.run(["npm", "install", "--silent", "--prefix", str(folder), "ws@8"], check=True)
    shutil.copy(HERE / "autobahn" / "echo.mjs", folder)

    excluded = [] if options.all else SHORT
    expected = 517 if options.all else 319
    with subprocess.Popen(["node", folder / "echo.mjs"], text=True,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as echo, \
            tempfile.TemporaryDirectory() as scratch:
        try:
            origin, port = int(echo.stdout.readline()), free_port()
            config, log = Path(scratch) / "prusik.yaml", Path(scratch) / "stderr.log"
            config.write_text(CONFIG.format(port=port, origin=origin))
            with open(log, "w") as err:
                prusik = subprocess.Popen([options.prusik.resolve(), "run", "--config", config], stderr=err)
            try:
                wait_for("prusik ready", lambda: "ready" in log.read_text(), 10)
                straight = results("straight", origin, excluded, folder)
                through = results("through", port, excluded, folder)
            finally:
                prusik.terminate()
                prusik.wait()
        finally:
            echo.stdin.close()

    if len(straight) != expected or straight.keys() != through.keys():
        raise SystemExit(f"{len(straight)} cases ran straight, {len(through)} through prusik, not {expected}")
    others = {case: (straight[case], through[case]) for case in straight if straight[case] != through[case]}
    for case, (alone, behind) in sorted(others.items()):
        print(f"{case}: {alone} straight, {behind} through prusik")
    verdicts = collections.Counter(verdict for verdict, _, _ in through.values())
    print(f"{len(through) - len(others)} of {len(through)} cases are the same; through prusik: "
          + ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common()))
    sys.exit(1 if others else 0)


if __name__ == "__main__":
    main()
