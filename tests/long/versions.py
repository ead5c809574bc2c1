"""An upgrade from another version's binary and one back to it, with live sessions, again and again.

    python tests/long/versions.py PRUSIK OTHER [SESSIONS] [ROUNDS]

The binary is replaced where it lies, as a package does it, and `prusik upgrade` is that of the new one.
No session may be lost, nor any byte of one.
"""

import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import tempfile
import time

from sessions import CONFIG, Load, Origin, processes
from tiers import free_port

PRUSIK, OTHER = map(os.path.abspath, sys.argv[1:3])
SESSIONS = int(sys.argv[3]) if len(sys.argv) > 3 else 500
ROUNDS = int(sys.argv[4]) if len(sys.argv) > 4 else 3


class Binary:
    """Where it lies; `run` and `upgrade` are of whatever lies there."""

    def __init__(self, folder):
        self.folder, self.path = folder, f"{folder}/prusik"

    def put(self, binary):
        shutil.copy(binary, f"{self.path}.new")
        os.rename(f"{self.path}.new", self.path)

    def ask(self, *arguments):
        asked = subprocess.run([self.path, *arguments, "--admin", f"unix:{self.folder}/admin.sock"],
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
        assert asked.returncode == 0, asked.stdout
        return asked.stdout.strip()


def main():
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    folder = os.path.realpath(tempfile.mkdtemp())
    origin, port, binary = Origin(), free_port(), Binary(folder)
    file = pathlib.Path(folder) / "prusik.yaml"
    file.write_text(CONFIG.format(folder=folder, port=port, chat=origin.port))
    binary.put(OTHER)
    log = open(f"{folder}/log", "w")
    first = subprocess.Popen([binary.path, "run", "--config", file], cwd=folder, stderr=log)
    try:
        while "ready" not in pathlib.Path(f"{folder}/log").read_text():
            assert first.poll() is None, "it does not start"
            time.sleep(0.05)
        load = Load(port, SESSIONS, 0)
        load.refill()
        load.start()
        for number in range(1, ROUNDS + 1):
            for name, next_binary in ("from the other", PRUSIK), ("back to it", OTHER):
                time.sleep(1)
                binary.put(next_binary)
                said = binary.ask("upgrade")
                while len(left := processes(folder)) != 1:
                    first.poll()
                    time.sleep(0.02)
                load.settle()
                status = json.loads(binary.ask("status", "--json"))
                print(f"{number}, {name}: {said}; {status['sessions']} sessions", flush=True)
                assert status["pid"] == left[0] and status["sessions"] == SESSIONS, status
                wrong = origin.wrong()
                assert not load.wrong and not load.lost and not wrong, (load.wrong[:3], wrong)
        print("versions: passed")
    finally:
        for left in processes(folder):
            os.kill(left, 15)
        origin.kill()
        first.wait()


if __name__ == "__main__":
    main()
