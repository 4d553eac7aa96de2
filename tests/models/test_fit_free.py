"""How much memory there is, control groups included, and how sizes are written."""

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from overt.models import memory
from overt.models.memory import human
from overt.settings import bytes_of

# ---- free memory -----------------------------------------------------------------------------


@pytest.fixture
def eight_gib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=8 << 30))


def group(root: Path, path: str, **files: object) -> None:
    folder = root / path
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")


def in_group(root: Path, lines: str) -> None:
    group(root, "proc/self", cgroup=lines)


@pytest.mark.usefixtures("eight_gib")
def test_without_control_groups(tmp_path: Path):
    assert memory.free_memory(tmp_path) == 8 << 30


@pytest.mark.usefixtures("eight_gib")
def test_version_2_counts_each_group_above(tmp_path: Path):
    in_group(tmp_path, "0::/user.slice/run.scope")
    group(tmp_path, "sys/fs/cgroup/user.slice/run.scope", memory__max="max", memory__current=0)
    group(
        tmp_path, "sys/fs/cgroup/user.slice", memory__max=2 << 30, memory__current=3 << 29,
        memory__stat=f"anon 5\ninactive_file {1 << 29}",
    )  # fmt: skip
    assert memory.free_memory(tmp_path) == 1 << 30


@pytest.mark.usefixtures("eight_gib")
def test_version_1(tmp_path: Path):
    in_group(tmp_path, "5:cpu,cpuacct:/a\n4:memory:/docker/0123\n0::/")
    group(
        tmp_path, "sys/fs/cgroup/memory/docker/0123", memory__limit_in_bytes=1 << 30,
        memory__usage_in_bytes=1 << 29, memory__stat=f"total_inactive_file {1 << 28}",
    )  # fmt: skip
    assert memory.free_memory(tmp_path) == 3 << 28


@pytest.mark.usefixtures("eight_gib")
@pytest.mark.parametrize(
    ("lines", "folder", "total"), [("0::/a", "", ""), ("4:memory:/a", "memory", "total_")]
)
def test_files_in_use_count_as_free_for_who_counts_models_itself(
    tmp_path: Path, lines: str, folder: str, total: str
):
    in_group(tmp_path, lines)
    new = {"memory__max": 1 << 30, "memory__current": 1 << 29}
    old = {"memory__limit_in_bytes": 1 << 30, "memory__usage_in_bytes": 1 << 29}
    stat = f"{total}inactive_file {1 << 27}\n{total}active_file {1 << 28}"
    group(tmp_path, f"sys/fs/cgroup/{folder}/a", memory__stat=stat, **(old if folder else new))
    assert memory.free_memory(tmp_path) == (1 << 29) + (1 << 27)
    assert memory.free_memory(tmp_path, mapped=True) == (1 << 29) + (1 << 27) + (1 << 28)


@pytest.mark.usefixtures("eight_gib")
def test_a_container_that_sees_only_its_own_group(tmp_path: Path):
    in_group(tmp_path, "0::/kubepods/pod1/../../elsewhere")
    group(tmp_path, "sys/fs/cgroup", memory__max=1 << 30, memory__current=1 << 20)
    assert memory.free_memory(tmp_path) == (1 << 30) - (1 << 20)


@pytest.mark.usefixtures("eight_gib")
@pytest.mark.parametrize("text", ["", "nonsense", "0::", "memory:memory", "4:memory:/x\n0::/y"])
def test_odd_control_groups_are_passed_over(text: str, tmp_path: Path):
    in_group(tmp_path, text)
    assert memory.free_memory(tmp_path) == 8 << 30


@pytest.mark.usefixtures("eight_gib")
def test_a_group_over_its_limit_has_nothing_free(tmp_path: Path):
    in_group(tmp_path, "0::/")
    group(tmp_path, "sys/fs/cgroup", memory__max=1 << 20, memory__current=1 << 21)
    assert memory.free_memory(tmp_path) == 0


def test_this_machine_has_memory():
    assert 0 < memory.free_memory() <= psutil.virtual_memory().total


# ---- sizes in words --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"), (999, "999 bytes"), (1024, "1.0 KiB"), (1023 * 1024, "1023 KiB"),
        (1024 * 1024 - 1, "1.0 MiB"), (98_362_432, "94 MiB"), (253_113_024, "241 MiB"),
        (1_300_000_000, "1.2 GiB"), (70 << 30, "70 GiB"), (3 << 40, "3.0 TiB"),
    ],
)  # fmt: skip
def test_sizes_in_words(size: int, text: str):
    assert human(size) == text


@given(st.integers(1024, 1 << 50))
def test_settings_read_what_is_shown(size: int):
    assert bytes_of(human(size)) == pytest.approx(size, rel=0.051)
