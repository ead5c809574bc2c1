"""Take-overs between real containers: podman, host networking, a folder that they share.

    python tests/long/podman.py PRUSIK [SESSIONS] [TAKE_OVERS]

Each container is started with the same command (`run --take-over`). The one before must end by itself with exit
code 0, and no session may notice. Where podman cannot run, this says so and ends well.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

from sessions import CONFIG, Load, Origin
from tiers import free_port

PRUSIK = os.path.abspath(sys.argv[1])
SESSIONS = int(sys.argv[2]) if len(sys.argv) > 2 else 200
TAKE_OVERS = int(sys.argv[3]) if len(sys.argv) > 3 else 5
IMAGE = "localhost/prusik:long"
# The machine may not let anybody raise these.
LIMITS = ["--ulimit", "nofile=10000:10000", "--ulimit", "nproc=1000:1000"]


def podman(*arguments, **named):
    # Debian's crun takes no mixed hierarchy of control groups.
    runtime = ["--runtime", "runc"] if shutil.which("runc") else []
    return subprocess.run(["podman", *runtime, *arguments], capture_output=True, text=True, **named)


def image(folder):
    """Of the binary and what it is linked with."""
    root = pathlib.Path(folder) / "root"
    for name in ("bin", "etc", "tmp", "proc", "sys", "dev", "run"):
        (root / name).mkdir(parents=True)
    shutil.copy(PRUSIK, root / "bin" / "prusik")
    linked = subprocess.run(["ldd", PRUSIK], capture_output=True, text=True, check=True).stdout
    for word in linked.split():
        if word.startswith("/"):
            there = root / word.removeprefix("/")
            there.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(word, there)
    packed = subprocess.run(["tar", "-C", root, "-c", "."], capture_output=True, check=True).stdout
    done = subprocess.run(["podman", "import", "-", IMAGE], input=packed, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def start(folder, name):
    mount = f"{folder}:{folder}"
    done = podman("run", "--detach", "--name", name, "--network", "host", *LIMITS, "--volume", mount, IMAGE,
                  "/bin/prusik", "run", "--take-over", "--config", f"{folder}/prusik.yaml")
    assert done.returncode == 0, done.stderr
    patience = time.monotonic() + 30
    while "run] ready" not in (said := podman("logs", name).stderr):
        assert time.monotonic() < patience, said
        time.sleep(0.05)


def main():
    if not shutil.which("podman"):
        return print("podman: skipped, it is not installed")
    folder = os.path.realpath(tempfile.mkdtemp())
    image(folder)
    can = podman("run", "--rm", "--network", "host", *LIMITS, IMAGE, "/bin/prusik", "--version")
    if can.returncode != 0:
        return print(f"podman: skipped, no container runs here: {can.stderr.strip()}")
    origin, port = Origin(), free_port()
    config = CONFIG.format(folder=folder, port=port, chat=origin.port)
    hand_over = f"server: {{ hand_over: \"unix:{folder}/hand-over.sock\", "
    pathlib.Path(folder, "prusik.yaml").write_text(config.replace("server: {", hand_over, 1))
    names = [f"prusik-{os.getpid()}-{number}" for number in range(TAKE_OVERS + 1)]
    try:
        start(folder, names[0])
        load = Load(port, SESSIONS, 1)
        load.refill()
        load.start()
        for before, name in zip(names, names[1:]):
            time.sleep(0.5)
            start(folder, name)
            code = podman("wait", before, timeout=60).stdout.strip()
            load.settle()
            bad = origin.wrong()
            assert not load.wrong and not load.lost and not bad, (load.wrong[:3], len(load.lost), bad)
            asked = [PRUSIK, "status", "--json", "--admin", f"unix:{folder}/admin.sock"]
            now = json.loads(subprocess.run(asked, capture_output=True, check=True).stdout)
            assert code == "0" and now["sessions"] == SESSIONS, (code, now["sessions"])
            print(f"{name}: has {now['sessions']} sessions, the one before ended with {code}", flush=True)
        print("podman: passed")
    finally:
        podman("rm", "--force", "--time", "0", *names)
        podman("rmi", "--force", IMAGE)
        origin.kill()


if __name__ == "__main__":
    main()
