"""A systemd of its own for a test: process 1 of fresh namespaces, over a copy of the files here.

Nothing that runs inside can change the machine: the files lie under an overlay in memory, and the
process namespace ends with the test. Needs root, overlayfs and cgroup version 2.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

__all__ = ["Guest", "systemd_guest"]

_SYSTEMD = "/lib/systemd/systemd"
_BOOT = """
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
cd "$1/root"
mount -t proc proc proc
mount -t sysfs sysfs sys
mountpoint -q sys/fs/cgroup || mount -t tmpfs tmpfs sys/fs/cgroup
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
mount --rbind /dev dev
mkdir -p run/systemd/system
printf '[Unit]\\n' > run/systemd/system/test.target
# Not chroot: a process with a changed root may not make a user namespace (PrivateUsers=).
mkdir -p old
pivot_root . old
umount -l /old
exec /usr/bin/env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin \
  /lib/systemd/systemd --system --unit=test.target --log-target=console --show-status=no
"""


class Guest:
    """A running systemd, and a way to run commands beside it."""

    def __init__(self, process: int) -> None:
        self._enter = ["nsenter", "--target", str(process), "--mount", "--pid", "--ipc", "--uts"]
        self._enter += ["--root", "--wd"]

        self._process = process

    def path(self, inside: str) -> Path:
        """Returns the path of a file inside, for this process."""
        return Path(f"/proc/{self._process}/root{inside}")

    def run(self, *command: str, text: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Runs a command inside."""
        return subprocess.run(
            [*self._enter, *command], input=text, capture_output=True, timeout=60, check=False
        )

    def put(self, path: str, content: bytes, mode: int = 0o644) -> None:
        """Writes a file inside."""
        folder = str(Path(path).parent)
        script = f"mkdir -p {folder} && cat > {path} && chmod {mode:o} {path}"
        result = self.run("/bin/sh", "-c", script, text=content)
        assert result.returncode == 0, result.stderr

    def start(self, unit: str) -> None:
        """Starts a unit and waits until that is done."""
        result = self.run("systemctl", "start", unit)
        assert result.returncode == 0, (result.stderr, self.run("systemctl", "status", unit).stdout)


@contextlib.contextmanager
def systemd_guest() -> Iterator[Guest]:
    """Boots systemd in namespaces of its own and ends it afterwards."""
    assert shutil.which(_SYSTEMD), "systemd is not installed; `make setup` names what tests need"
    folder = tempfile.mkdtemp(prefix="bitnet-systemd-")
    log = Path(folder + ".log")
    with log.open("wb") as output:
        outer = subprocess.Popen(
            ["unshare", "--mount", "--pid", "--cgroup", "--uts", "--ipc", "--net", "--fork",
             "--kill-child", "/bin/sh", "-c", _BOOT, "boot", folder],
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while True:
            assert outer.poll() is None and time.monotonic() < deadline, log.read_text()
            children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split()
            if children and os.readlink(f"/proc/{children[0]}/exe").endswith("/systemd"):
                guest = Guest(int(children[0]))
                if guest.run("systemctl", "is-active", "test.target").stdout == b"active\n":
                    break
            time.sleep(0.05)
        yield guest
    finally:
        outer.send_signal(signal.SIGKILL)
        outer.wait()
        with contextlib.suppress(OSError):
            os.rmdir(folder)
        log.unlink()
