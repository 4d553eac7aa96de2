"""Run the airgap probe as a plain user, or where the kernel refuses walls: a program for tests.

``python as_somebody.py '{"user": 12345, "deny": {"unshare": 1}, "isolation": "best"}'`` prints the
proof as JSON. `deny` puts a seccomp filter over this program that answers those calls with an error
number, which is how a container, or a kernel built without them, looks from inside.
"""

import asyncio
import ctypes
import dataclasses
import json
import os
import sys
from pathlib import Path

from overt.runtime.sandbox import seccomp, walls
from overt.runtime.sandbox.airgap import prove

_NEWNS, _BIND, _MOVE, _PRIVATE = 0x20000, 0x1000, 0x2000, 0x44000


def main() -> None:
    given = json.loads(sys.argv[1])
    if given.get("user"):
        become(given.pop("user"), json.dumps(given))
    # seccomp itself last: without it no further filter can be put up.
    for name, error in sorted(given.get("deny", {}).items(), key=lambda one: one[0] == "seccomp"):
        walls._prctl(38, 1)
        seccomp.install(seccomp.denying(seccomp.machine(), (name,), error))
    layers = tuple(given.get("layers", walls.LAYERS))
    # Where nothing is denied the probe gets through, so no test names a real address outside.
    proof = asyncio.run(prove(given.get("isolation", "best"), layers, outside="127.0.0.9"))
    print(json.dumps({"user": os.getuid(), **dataclasses.asdict(proof)}))


def become(user: int, rest: str) -> None:
    """Go on as `user`, who may reach Python even where it lies in root's own folder."""
    needed = {Path(sys.base_prefix), Path(sys.prefix), Path(__file__).parent}
    needed |= {Path(path) for path in sys.path if path and Path(path).exists()}
    closed = sorted({a for path in needed for a in path.parents if not a.stat().st_mode & 1})
    if closed:
        uncover(closed[0], sorted(path for path in needed if closed[0] in path.parents))
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    # A new program: the kernel does not let a process that changed its user be looked at.
    os.execv(sys.executable, [sys.executable, __file__, rest])


def uncover(folder: Path, needed: list[Path]) -> None:
    """In a mount namespace of our own, lay an open folder over `folder` with `needed` inside."""
    library = ctypes.CDLL(None, use_errno=True)

    def mount(source: str, target: str, kind: str | None, flags: int, data: str | None) -> None:
        words = [None if word is None else word.encode() for word in (source, target, kind, data)]
        if library.mount(*words[:3], ctypes.c_ulong(flags), words[3]) != 0:
            raise OSError(ctypes.get_errno(), f"mount {source} {target}")

    if library.unshare(_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    mount("none", "/", None, _PRIVATE, None)
    outer = [path for path in needed if not any(other in path.parents for other in needed)]
    aside = Path(f"/tmp/overt-aside-{os.getpid()}")
    aside.mkdir(exist_ok=True)
    mount("none", str(aside), "tmpfs", 0, "mode=755")
    for number, path in enumerate(outer):
        (aside / str(number)).mkdir()
        mount(str(path), str(aside / str(number)), None, _BIND, None)
    mount("none", str(folder), "tmpfs", 0, "mode=755")
    for number, path in enumerate(outer):
        path.mkdir(parents=True)
        mount(str(aside / str(number)), str(path), None, _MOVE, None)
    library.umount2(str(aside).encode(), 2)  # MNT_DETACH
    aside.rmdir()


if __name__ == "__main__":
    main()
