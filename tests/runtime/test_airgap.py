"""The proof that a worker cannot get out, on every rung of the sandbox, as root and as a user.

The rungs are real: a seccomp filter above the parent makes the kernel refuse the wall in question,
as a container or an old kernel does. With isolation off the same attempts must get through, else
they would prove nothing.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from overt.errors import NoIsolation
from overt.runtime.sandbox import airgap, walls
from overt.runtime.sandbox.airgap import prove

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is Linux's"),
]

EPERM, EINVAL, ENOSYS = 1, 22, 38
NETWORK = {"unshare": EPERM}
LANDLOCK = {"landlock_create_ruleset": ENOSYS}
SECCOMP = {"seccomp": EINVAL}
WHO = [0, 12345] if os.name == "posix" and os.getuid() == 0 else [os.getuid()]

INTERNET = {
    "TCP to 127.0.0.1", "UDP to 127.0.0.1", "TCP to 127.0.0.9 port 443",
    "UDP to 127.0.0.9 port 53 (DNS)", "look up example.com",
    "an internet socket inherited from the parent", "the parent's memory",
    "go back to the parent's network", "raw socket", "packet socket",
}  # fmt: skip
FILES = {"read a file of yours", "write a file outside its own folder"}
# What only seccomp stops.
CALLS = {
    "UNIX socket by path", "message to a UNIX socket by path", "netlink socket", "vsock socket",
    "io_uring", "make a user namespace",
}  # fmt: skip


def prove_as(user: int, **given: Any) -> dict[str, Any]:
    command = [sys.executable, str(Path(__file__).with_name("as_somebody.py"))]
    change = {"user": user} if user != os.getuid() else {}
    ran = subprocess.run(
        [*command, json.dumps(change | given)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"TMPDIR": "/tmp"},
    )
    assert ran.returncode == 0, ran.stderr
    proof: dict[str, Any] = json.loads(ran.stdout)
    assert proof["user"] == user
    return proof


def let_through(proof: dict[str, Any]) -> set[str]:
    return {one["what"] for one in proof["attempts"] if not one["denied"]}


@pytest.mark.parametrize("user", WHO)
def test_every_wall(user: int):
    proof = prove_as(user)
    assert let_through(proof) == set()
    assert proof["ok"] is True
    assert proof["isolation"] == [list(walls.LAYERS), []]
    assert {one["what"] for one in proof["attempts"]} > INTERNET | FILES | CALLS
    status, network, heard = proof["evidence"]
    assert "NoNewPrivs: 1" in status
    assert "Seccomp: 2" in status
    assert "CapEff: 0000000000000000" in status
    assert network.endswith("shows only lo")
    assert heard == "the parent's own listeners heard nothing"


@pytest.mark.parametrize("user", WHO)
def test_without_namespaces_as_in_a_container(user: int):
    proof = prove_as(user, deny=NETWORK)
    assert let_through(proof) == set()
    assert proof["ok"] is True
    assert proof["isolation"][1] == [
        "network namespace (user namespaces are not allowed here, as in most containers)"
    ]


@pytest.mark.parametrize("user", WHO)
def test_without_namespaces_and_landlock(user: int):
    proof = prove_as(user, deny=NETWORK | LANDLOCK)
    # Without capabilities root's worker may not look into root's parent; a plain user's may.
    also = {"read /etc/shadow"} if user == 0 else {"the parent's environment"}
    assert let_through(proof) == FILES | also
    assert proof["ok"] is False
    assert [why.split(" (")[0] for why in proof["isolation"][1]] == [
        "network namespace",
        "landlock",
    ]


@pytest.mark.parametrize("user", WHO)
def test_without_seccomp(user: int):
    proof = prove_as(user, deny=SECCOMP)
    assert let_through(proof) == CALLS
    assert proof["ok"] is False
    assert proof["isolation"][1] == ["seccomp (this kernel does not have it)"]
    how = {one["what"]: one["how"] for one in proof["attempts"]}
    assert how["UDP to 127.0.0.1"] == "Network is unreachable (ENETUNREACH)"  # lo is down
    assert how["UNIX socket by name"] == "Connection refused (ECONNREFUSED)" or (
        how["UNIX socket by name"] == "Operation not permitted (EPERM)"  # by landlock 6
    )


@pytest.mark.parametrize("user", WHO)
def test_without_any_of_the_three_nothing_is_hidden(user: int):
    proof = prove_as(user, deny=NETWORK | LANDLOCK | SECCOMP)
    assert proof["ok"] is False
    expected = {"TCP to 127.0.0.1", "UDP to 127.0.0.1", *FILES, *CALLS} - {"make a user namespace"}
    assert expected <= let_through(proof)
    assert proof["isolation"][0] == ["no new privileges", "no capabilities"]
    assert len(proof["isolation"][1]) == 3
    assert "TCP 127.0.0.1" in proof["evidence"][-1]


@pytest.mark.parametrize("user", WHO)
def test_the_control_every_attempt_can_fail(user: int):
    """With isolation off: what this machine itself allows gets through, and the parent hears it."""
    proof = prove_as(user, isolation="off")
    assert proof["ok"] is False
    assert proof["isolation"][0] == []
    root = {
        "raw socket", "packet socket", "read /etc/shadow", "go back to the parent's network",
    } if user == 0 else set()  # fmt: skip
    expected = {
        "TCP to 127.0.0.1", "UDP to 127.0.0.1", "UNIX socket by name", "the parent's environment",
        "TCP to 127.0.0.9 port 443", "UDP to 127.0.0.9 port 53 (DNS)",
        "signal the parent", "run /bin/sh", "execve", *FILES, *CALLS, *root,
    }  # fmt: skip
    assert expected <= let_through(proof)
    heard = proof["evidence"][-1]
    for way in ("TCP 127.0.0.1", "UDP 127.0.0.1", "UNIX socket", "UNIX message"):
        assert way in heard


async def test_full_refuses_where_a_wall_is_missing(network: None):
    layers = tuple(name for name in walls.LAYERS if name != walls.LANDLOCK)
    with pytest.raises(NoIsolation) as refused:
        await prove("full", layers)
    assert str(refused.value) == (
        "full isolation cannot be had here: landlock (left out); "
        "allow what there is with --isolation best"
    )


async def test_full_runs_where_none_is(network: None):
    assert (await prove("full")).ok


async def test_silence_is_not_taken_for_denial(network: None, monkeypatch: pytest.MonkeyPatch):
    """A proof without attempts, or with one that got through, is none."""
    monkeypatch.setattr(airgap, "_attempt", lambda _: {"what": "x", "denied": False, "how": ""})
    assert not (await prove("best")).ok
