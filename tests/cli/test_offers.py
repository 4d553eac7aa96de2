"""`overt pull --list`, the limits of a pull, and what `show` says of what could run."""

import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import OvertCli
from gguf_writer import write_llama
from servers import Hub, Server, serving
from servers import gguf as random_gguf


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    with serving() as found:
        monkeypatch.setenv("HF_ENDPOINT", found.url)
        yield found


def tiny(folder: Path, kind: str, **metadata: str) -> bytes:
    path = folder / f"{kind}.gguf"
    write_llama(path, type=kind, embedding=256, metadata=metadata)
    return path.read_bytes()


def test_a_listing_says_what_there_is_and_what_fits(
    server: Server, tmp_path: Path, overt_cli: OvertCli
) -> None:
    files = {f"m-{kind}.gguf": tiny(tmp_path, kind) for kind in ("Q4_0", "Q8_0", "F32")}
    Hub(server, server, "org/m", {**files, "run_me.py": b"x"}, frozenset(files))
    ran = overt_cli("pull", "--list", "--memory", "8g", "hf:org/m")
    assert ran.code == 0, ran.stderr
    rows = ran.stdout.splitlines()
    assert rows[0].split() == ["TYPE", "SIZE", "BITS", "MEMORY", "HERE", "FILE"]
    assert rows[1].split()[:2] == ["*", "Q4_0"]
    assert [row.split()[-1] for row in rows[1:4]] == ["m-Q4_0.gguf", "m-Q8_0.gguf", "m-F32.gguf"]
    assert all("fits" in row for row in rows[1:4])
    assert "8.0 GiB of memory is free, for a context of 512 tokens" in ran.stdout
    assert "code in it, never fetched and never run: run_me.py" in ran.stdout
    ran = overt_cli("pull", "--list", "--json", "--memory", "8m", "hf:org/m")
    found = json.loads(ran.stdout)
    assert found["best"] is None
    assert found["code"] == ["run_me.py"]
    assert [(one["name"], one["fits"]) for one in found["models"]] == [
        (name, False) for name in ("m-Q4_0.gguf", "m-Q8_0.gguf", "m-F32.gguf")
    ]
    ran = overt_cli("pull", "--list", "--quiet", "hf:org/m")
    assert ran.stdout.split() == ["m-Q4_0.gguf", "m-Q8_0.gguf", "m-F32.gguf"]


def test_a_listing_of_what_is_no_hub_or_holds_nothing_is_one_sentence(
    server: Server, overt_cli: OvertCli
) -> None:
    assert overt_cli("pull", "--list", "smollm2").code == 2
    Hub(server, server, "org/m", {"README.md": b"x"})
    ran = overt_cli("pull", "--list", "hf:org/m")
    assert (ran.code, ran.stdout) == (3, "")
    assert "holds no GGUF or safetensors weights" in ran.stderr


def test_nothing_that_fits_ends_with_exit_code_4(
    server: Server, tmp_path: Path, overt_cli: OvertCli
) -> None:
    files = {f"m-{kind}.gguf": tiny(tmp_path, kind) for kind in ("Q8_0", "F32")}
    Hub(server, server, "org/m", files, frozenset(files))
    ran = overt_cli("pull", "--memory", "8m", "hf:org/m")
    assert ran.code == 4
    assert "none of the 2 models of hf:org/m fits" in ran.stderr
    ran = overt_cli("pull", "--memory", "8m", "hf:org/m#Q8_0")
    assert ran.code == 0, ran.stderr


def test_a_bandwidth_limit_is_kept(server: Server, overt_cli: OvertCli) -> None:
    files = {f"m-{n:05}-of-00002.gguf": random_gguf(n, 1_000_000) for n in (1, 2)}
    Hub(server, server, "org/m", files, frozenset(files))
    begun = time.monotonic()
    ran = overt_cli("pull", "--bandwidth", "1m", "--downloads", "2", "hf:org/m")
    assert ran.code == 0, ran.stderr
    assert time.monotonic() - begun > 1.7  # 2 000 000 bytes at 1 MiB/s
    assert overt_cli("pull", "--bandwidth", "fast", "hf:org/m").code == 2
    assert overt_cli("pull", "--downloads", "0", "hf:org/m").code == 2


EVIL = "{{ ''.__class__.__mro__[1].__subclasses__() }}"


def test_show_names_what_a_template_tries_and_the_code_nobody_runs(
    server: Server, tmp_path: Path, overt_cli: OvertCli
) -> None:
    body = tiny(tmp_path, "F32", **{"tokenizer.chat_template": EVIL})
    files = {"m.gguf": body, "modeling_m.py": b"raise SystemExit('never')"}
    Hub(server, server, "org/m", files, frozenset({"m.gguf"}))
    assert overt_cli("pull", "hf:org/m").code == 0
    ran = overt_cli("show", "hf:org/m")
    assert ran.code == 0, ran.stderr
    assert "TRIES TO LEAVE ITS SANDBOX: line 1 reads the inner attribute __" in ran.stdout
    assert "modeling_m.py: never fetched and never run" in ran.stdout
    found = json.loads(overt_cli("show", "--json", "hf:org/m").stdout)
    assert not found["templates"]["default"]["ok"]
    assert found["code"] == {"files": "modeling_m.py", "auto_map": {}}
    assert not [seen for seen in server.seen if seen.path.endswith(".py")]


def test_show_names_the_remote_code_a_configuration_asks_for(
    server: Server, overt_cli: OvertCli
) -> None:
    header = b'{"t":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}}'
    weights = len(header).to_bytes(8, "little") + header + bytes(8)
    config = {"model_type": "x", "auto_map": {"AutoModel": "modeling_x.X"}}
    files = {
        "model.safetensors": weights,
        "config.json": json.dumps(config).encode(),
        "chat_template.jinja": b"{% include 'x' %}",
        "modeling_x.py": b"raise SystemExit('never')",
    }
    Hub(server, server, "org/x", files, frozenset({"model.safetensors"}))
    assert overt_cli("pull", "hf:org/x").code == 0
    ran = overt_cli("show", "--json", "hf:org/x")
    assert ran.code == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert found["format"] == "safetensors"
    assert found["code"] == {"files": "modeling_x.py", "auto_map": {"AutoModel": "modeling_x.X"}}
    assert found["templates"]["chat_template.jinja"]["escapes"] == ["line 1 loads another template"]
    assert "asks for modeling_x.X, which is never run" in overt_cli("show", "hf:org/x").stdout
    digest = hashlib.sha256(files["modeling_x.py"]).hexdigest()
    assert digest not in json.dumps(found)


def test_show_looks_at_the_template_that_is_in_force(tmp_path: Path, overt_cli: OvertCli) -> None:
    proper = "{% for m in messages %}{{ m.content }}{% endfor %}"
    tiny(tmp_path, "F32", **{"tokenizer.chat_template": proper})
    (tmp_path / "Modelfile").write_text(
        f'FROM {tmp_path}/F32.gguf\nTEMPLATE """{EVIL}{{% if 1 %}}x{{% endif %}}"""\n'
    )
    ran = overt_cli("create", "mine", "-f", tmp_path / "Modelfile")
    assert ran.code == 0, ran.stderr
    found = json.loads(overt_cli("show", "--json", "mine").stdout)["templates"]
    assert found["default"]["ok"]
    assert any("__subclasses__" in escape for escape in found["in force"]["escapes"])
