"""Where a job runs: its folders, what it sees of the system, and who it is.

With namespaces, one tmpfs of the job's own size backs its work folder, /tmp and /dev/shm; all of it is gone with the
job. Without, a scratch folder on the host is used, and Landlock keeps the job inside.
"""

import base64
import os
import shutil
import stat
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from aquila.sandbox.inside import kernel

NAMESPACES = kernel.CLONE_NEWNS | kernel.CLONE_NEWPID | kernel.CLONE_NEWIPC
WORK = "/box"
_SPACE = "/space"  # where the tmpfs is mounted while it is handed out
_SHARES = {"work": WORK, "tmp": "/tmp", "shm": "/dev/shm"}


@dataclass(frozen=True)
class Surroundings:
    """What steps of a job share.

    Attributes:
        mode: `namespaces`, `landlock` or `none`.
        work: the folder that steps start in.
        temporary: for TMPDIR and HOME.
        filter: seccomp instructions; empty for none.
        disk_bytes: that the job's folders may hold.
        max_inodes: files and folders in them.
        landlock_abi: of the kernel; 0 without Landlock.
        readable: folders that Landlock leaves readable besides the system's.
    """

    mode: str
    work: str
    temporary: str
    filter: bytes
    disk_bytes: int
    max_inodes: int
    landlock_abi: int = 0
    readable: list[str] = field(default_factory=list)

    @property
    def alone(self) -> bool:
        """Whether no other processes are in sight."""
        return self.mode == "namespaces"

    def is_full(self) -> bool:
        """Whether the folders hold more than they may; a tmpfs sees to that by itself."""
        if self.alone:
            return False
        num_bytes = count = 0
        try:
            for top in (self.work, self.temporary):
                for folder, folders, names in os.walk(top, onerror=_refuse_shut):
                    count += len(folders) + len(names)
                    if count > self.max_inodes:
                        return True
                    for name in names:
                        with suppress(OSError):
                            num_bytes += os.lstat(os.path.join(folder, name)).st_blocks * 512
        except PermissionError:
            return True  # a folder that is shut may hide anything
        return num_bytes > self.disk_bytes


def _refuse_shut(error: OSError) -> None:
    if isinstance(error, PermissionError):
        raise error


def make_scratch(base: str) -> str:
    return tempfile.mkdtemp(prefix="job-", dir=base)


def remove_scratch(path: str) -> None:
    """Removes a folder whatever its owner has done to the modes in it. Never follows a link."""
    for shut in (os.path.dirname(path), path):  # Landlock does not see chmod
        os.chmod(shut, stat.S_IRWXU)
    for folder, folders, _ in os.walk(path):
        for name in folders:
            inner = os.path.join(folder, name)
            if not os.path.islink(inner):
                os.chmod(inner, stat.S_IRWXU)
    shutil.rmtree(path, ignore_errors=True)


def enter(settings: dict[str, Any], job: dict[str, Any], scratch: str | None) -> Surroundings:
    """Makes the job's folders, writes its files, and gives up what the warden may and a job may not."""
    kernel.set_dumpable(False)
    instructions = bytes.fromhex(settings["filter"])
    space = job["disk_bytes"], job["max_inodes"]
    if scratch is None:
        _mount_folders(*space)
        kernel.drop_capabilities()
        surroundings = Surroundings("namespaces", WORK, "/tmp", instructions, *space)
    else:
        work, temporary = os.path.join(scratch, "work"), os.path.join(scratch, "tmp")
        os.mkdir(work)
        os.mkdir(temporary)
        abi, readable = settings["landlock_abi"], settings["readable"]
        surroundings = Surroundings(settings["mode"], work, temporary, instructions, *space, abi, readable)
    _write_files(surroundings.work, job["files"])
    return surroundings


def _mount_folders(disk_bytes: int, max_inodes: int) -> None:
    kernel.mount("", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
    closed = kernel.MS_NOSUID | kernel.MS_NODEV
    options = f"size={disk_bytes},nr_inodes={max_inodes},mode=700"
    kernel.mount("tmpfs", _SPACE, "tmpfs", closed, options)
    for name, target in _SHARES.items():
        os.mkdir(f"{_SPACE}/{name}")
        kernel.mount(f"{_SPACE}/{name}", target, "", kernel.MS_BIND)
    kernel.unmount(_SPACE)
    kernel.mount("proc", "/proc", "proc", closed | kernel.MS_NOEXEC)


def _write_files(work: str, files: dict[str, Any]) -> None:
    """Text as it is, and {"base64": text} for bytes."""
    for name, content in files.items():
        path = os.path.join(work, name)
        if "/" in name:
            os.makedirs(os.path.dirname(path), exist_ok=True)
        data = (
            content.encode("utf-8", "surrogatepass")
            if isinstance(content, str)
            else base64.b64decode(content["base64"])
        )
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o755)
        with open(descriptor, "wb") as file:
            file.write(data)
