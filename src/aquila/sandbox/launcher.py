"""Starts a sandbox's first process: gives up root, then becomes bubblewrap or, without namespaces, the warden itself.

Run by box.py as a program of its own, because what it does to its process cannot be undone. When it is root, folders
that only root can reach (an interpreter in /root) are bound into a stage, in a mount namespace that nobody else sees.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from aquila.sandbox.inside import kernel

NOBODY = 65534
CODE = "aquila/sandbox/inside"
BWRAP_ROOT = "bubblewrap"  # a bind that is for starting it only
_BOOT = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from aquila.sandbox.inside.warden import main; sys.path.pop(0); main(int(sys.argv[2]))"
)
_ETC = ("/etc/alternatives", "/etc/ld.so.cache")
_SYSTEM = ("/bin", "/lib", "/lib64", "/sbin")


def main(order: str) -> None:
    """Never returns.

    Args:
        order: JSON: `mode`; `binds`, [source, name inside] for each; `stage`, an empty folder, or null; `python`, the
            interpreter's path below its bind; `bwrap`; `control`, a descriptor. The bind `code` is the folder inside/.
    """
    plan = json.loads(order)
    sources = (
        _stage(plan["stage"], plan["binds"]) if plan["stage"] else {name: source for source, name in plan["binds"]}
    )
    if os.geteuid() == 0 and plan["mode"] != "none":
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    if plan["mode"] == "namespaces":
        os.execve(_bwrap(plan, sources), _bwrap_command(plan, sources), {})
    kernel.forbid_new_privileges()
    code = str(Path(sources["code"]).parents[2])  # of aquila/sandbox/inside
    command = [f"{sources['python']}/{plan['python']}", *_python_arguments(plan, code)]
    os.execve(command[0], command, {"PYTHONHASHSEED": "0", "LANG": "C.UTF-8"})


def _bwrap(plan: dict[str, Any], sources: dict[str, str]) -> str:
    """Where bubblewrap can be reached now: a wheel's program loads libraries that lie beside it."""
    root, path = sources.get(BWRAP_ROOT), Path(plan["bwrap"])
    return f"{root}/{'/'.join(path.parts[-3:])}" if root else str(path)


def _python_arguments(plan: dict[str, Any], code: str) -> list[str]:
    return ["-S", "-P", "-B", "-c", _BOOT, code, str(plan["control"])]


def _stage(stage: str, binds: list[list[str]]) -> dict[str, str]:
    """Binds every source below `stage`, and tells where each lies now."""
    kernel.unshare(kernel.CLONE_NEWNS)
    kernel.mount("", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
    descriptors = [os.open(source, os.O_PATH) for source, _ in binds]
    kernel.mount("tmpfs", stage, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "size=1m,mode=755")
    places = {}
    for descriptor, (_, name) in zip(descriptors, binds, strict=True):
        place = Path(stage) / ("code/" + CODE if name == "code" else name)
        place.mkdir(parents=True)
        kernel.mount(f"/proc/self/fd/{descriptor}", str(place), "", kernel.MS_BIND | kernel.MS_REC)
        places[name] = str(place)
        os.close(descriptor)
    return places


def _bwrap_command(plan: dict[str, Any], sources: dict[str, str]) -> list[str]:
    command = [
        *("bwrap", "--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"),
        *("--unshare-cgroup-try", "--disable-userns", "--new-session", "--clearenv", "--hostname", "sandbox"),
        *("--uid", str(NOBODY), "--gid", str(NOBODY)),
        # for the warden, over the namespaces of the sandbox: to make a job's own, and to give up capabilities in them
        *("--cap-drop", "ALL", "--cap-add", "CAP_SYS_ADMIN", "--cap-add", "CAP_SETPCAP"),
        *("--ro-bind", "/usr", "/usr"),
    ]
    for path in _SYSTEM:
        if os.path.islink(path):
            command += ["--symlink", os.readlink(path), path]
        elif os.path.isdir(path):
            command += ["--ro-bind", path, path]
    java = [str(path) for path in Path("/etc").glob("java*")]  # where Debian keeps a JDK's configuration
    for path in (*_ETC, *java):
        command += ["--ro-bind-try", path, path]
    for name, source in sources.items():
        if name == BWRAP_ROOT:
            continue
        command += ["--ro-bind", source, f"/opt/code/{CODE}" if name == "code" else f"/opt/{name}"]
    command += ["--proc", "/proc", "--dev", "/dev", "--dir", "/box", "--dir", "/tmp", "--dir", "/space"]
    command += ["--remount-ro", "/dev", "--remount-ro", "/"]
    command += ["--setenv", "PYTHONHASHSEED", "0", "--setenv", "LANG", "C.UTF-8", "--"]
    return [*command, f"/opt/python/{plan['python']}", *_python_arguments(plan, "/opt/code")]


if __name__ == "__main__":
    main(sys.argv[1])
