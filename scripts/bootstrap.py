"""Make `.venv` and install the locked requirements and Overt in it. Needs Python and nothing else.

usage: python scripts/bootstrap.py run|dev

`run` is what Overt needs, `dev` adds what its tests and checks need. What was installed is kept in
`.venv/overt.json` by the hash of each lock, so that the next call returns at once. Where the
machine's Python has no ensurepip (Debian's bare python3), pip itself is fetched from the index that
the person's pip settings name and must have the sha256 of requirements/pip.txt.
"""

import base64
import configparser
import ctypes
import fcntl
import hashlib
import importlib.util
import json
import netrc
import os
import re
import shutil
import ssl
import subprocess
import sys
import tempfile
import urllib.error
import urllib.parse
import urllib.request
import venv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "overt.json"
LOCKS = {"run": ROOT / "requirements/run.txt", "dev": ROOT / "requirements/dev.txt"}
PIP_LOCK = ROOT / "requirements/pip.txt"
OPENMP_LOCK = ROOT / "requirements/openmp.txt"
TORCH = ROOT / "requirements/torch.txt"
DEFAULT_INDEX = "https://pypi.org/simple"
LARGEST_ANSWER = 32 << 20  # bytes; an index page or a pip wheel is far smaller

# A lock is whole, but for PyTorch that some of its packages ask for: see `add_torch`.
LOCKED = ("--no-deps", "--require-hashes", "--only-binary=:all:", "--requirement")

# Settings of pip that would install somewhere else than into `.venv`, or refuse to install Overt
# itself from this folder.
UNWANTED = (
    "PIP_PREFIX",
    "PIP_REQUIRE_HASHES",
    "PIP_ROOT",
    "PIP_TARGET",
    "PIP_USER",
    "PYTHONHOME",
    "PYTHONPATH",
)


class Trouble(Exception):
    """What went wrong and what to do about it, in one sentence."""


# ---- the environment -----------------------------------------------------------------------


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or arguments[0] not in LOCKS:
        print("usage: python scripts/bootstrap.py run|dev", file=sys.stderr)
        return 2
    try:
        with only_one():
            prepare(arguments[0])
    except Trouble as trouble:
        print(f"bootstrap: {trouble}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bootstrap: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def prepare(kind: str) -> None:
    """Bring `.venv` to the state the locks ask for; nothing is done where it has it already.

    Raises:
        Trouble: pip could not be had, or an installation failed.
    """
    base = {
        "root": str(ROOT),  # a moved environment is made anew: its scripts hold absolute paths
        "python": "{}.{}".format(*sys.version_info[:2]),
        "project": digest(ROOT / "pyproject.toml"),
    }
    done = installed()
    if not PYTHON.exists() or any(done.get(key) != value for key, value in base.items()):
        done = {}
    # `dev` holds every requirement of `run` in the same versions, so either one is enough for it.
    wanted = {kind: digest(LOCKS[kind])}
    if wanted.items() <= done.items():
        return
    if kind == "run" and done.get("dev") == digest(LOCKS["dev"]):
        return
    if not done or any(done[name] != digest(LOCKS[name]) for name in LOCKS if name in done):
        done = base
        make_venv()
    say(f"installing {count(LOCKS[kind])} locked packages into .venv (once, about a minute)")
    pip("install", *LOCKED, str(LOCKS[kind]))
    if sys.platform == "linux" and not loads("libgomp.so.1"):
        # A bare Debian has none, and the wheel of llama.cpp needs it: see
        # overt/runtime/native_build/openmp.py.
        say("this system has no libgomp: installing the one of cmeel-libomp into .venv")
        pip("install", *LOCKED, str(OPENMP_LOCK))
    if kind == "dev":
        add_torch()
    pip("install", "--no-deps", "--no-build-isolation", "--editable", str(ROOT))
    record({**done, **wanted})


def add_torch() -> None:
    """PyTorch of the build that the person's pip settings lead to, under the lock's constraints.

    It is in no lock: its builds for a processor and for each CUDA have one name and different
    files, and a lock would force PyPI's, of 3 GB, on a machine that has no GPU.
    """
    say("installing PyTorch, which the tests of the lab need")
    pip("install", "--only-binary=:all:", "--requirement", str(TORCH))


def make_venv() -> None:
    """A new `.venv` with pip in it, whatever was there before removed."""
    say(f"making .venv with Python {sys.version.split()[0]}")
    shutil.rmtree(VENV, ignore_errors=True)
    with_pip = importlib.util.find_spec("ensurepip") is not None
    builder = venv.EnvBuilder(symlinks=True, with_pip=with_pip)
    try:
        builder.create(VENV)
    except (OSError, subprocess.CalledProcessError) as error:
        raise Trouble(f".venv cannot be made: {error}; is {ROOT} writable?") from None
    if not with_pip:
        with tempfile.TemporaryDirectory() as folder:
            wheel = fetch_pip(Path(folder))
            # A wheel of pip runs straight from its file, here to install itself.
            run([f"{wheel}/pip", "install", "--quiet", "--no-index", "--no-deps", str(wheel)])


def installed() -> dict[str, str]:
    try:
        found = json.loads(STAMP.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def record(done: Mapping[str, str]) -> None:
    """Written last and whole: an interrupted installation is never taken for a finished one."""
    partial = STAMP.with_suffix(".partial")
    partial.write_text(json.dumps(done, indent=1) + "\n", "utf-8")
    partial.replace(STAMP)


@contextmanager
def only_one() -> Iterator[None]:
    """Two `make` at the same moment take turns."""
    cache = ROOT / ".cache"
    try:
        cache.mkdir(exist_ok=True)
        lock = (cache / "bootstrap.lock").open("w")
    except OSError as error:
        raise Trouble(
            f"{ROOT} cannot be written: {error.strerror}; copy it to a folder you own"
        ) from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def pip(command: str, *arguments: str) -> None:
    run(["-m", "pip", command, "--disable-pip-version-check", "--no-input", "--quiet", *arguments])


def run(arguments: list[str]) -> None:
    environ = {name: value for name, value in os.environ.items() if name not in UNWANTED}
    status = subprocess.run([str(PYTHON), *arguments], env=environ, cwd=ROOT).returncode
    if status:
        raise Trouble(
            f"pip ended with exit status {status}, for the reason it gives above; "
            "once that is put right, the same command goes on from here"
        )


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def count(lock: Path) -> int:
    return len(set(re.findall(r"^([a-z0-9._-]+)==", lock.read_text("utf-8"), re.MULTILINE)))


def say(text: str) -> None:
    print(f"bootstrap: {text}", file=sys.stderr, flush=True)


# ---- pip, where Python came without it -----------------------------------------------------


def fetch_pip(folder: Path) -> Path:
    """The locked pip wheel from the person's own index, saved in `folder`.

    Raises:
        Trouble: no index delivered the locked bytes; each index and its reason is named.
    """
    name, digests = locked_pip(PIP_LOCK.read_text("utf-8"))
    settings = pip_settings(os.environ)
    indexes = [
        settings.get("index-url", DEFAULT_INDEX),
        *settings.get("extra-index-url", "").split(),
    ]
    say(f"this Python has no ensurepip: fetching {name}")
    reasons = []
    for index in indexes:
        page = f"{index.rstrip('/')}/pip/"
        try:
            body, address = get(page, settings, login_for(page))
            link = links(body, address).get(name)
            if link is None:
                reasons.append(f"{without_login(page)} does not list {name}")
                continue
            same = urllib.parse.urlsplit(link).netloc == urllib.parse.urlsplit(address).netloc
            wheel, _ = get(link, settings, login_for(page if same else link))
        except (OSError, ValueError) as error:
            reasons.append(f"{without_login(page)}: {error}")
            continue
        if hashlib.sha256(wheel).hexdigest() in digests:
            path = folder / name
            path.write_bytes(wheel)
            return path
        reasons.append(f"{without_login(link)} has not the sha256 of requirements/pip.txt")
    raise Trouble(
        f"pip could not be fetched ({'; '.join(reasons)}): set PIP_INDEX_URL to an index that can "
        "be reached, or install your system's package with ensurepip (Debian: python3-venv)"
    )


def locked_pip(lock: str) -> tuple[str, set[str]]:
    """The wheel's file name and its allowed sha256 digests."""
    version = re.search(r"^pip==([0-9][0-9.]*)", lock, re.MULTILINE)
    if not version:
        raise Trouble("requirements/pip.txt names no version of pip; run `make lock`")
    digests = set(re.findall(r"--hash=sha256:([0-9a-f]{64})", lock))
    return f"pip-{version[1]}-py3-none-any.whl", digests


def pip_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """The person's pip settings, read from where pip reads them, in its order: later wins."""
    home = Path.home()
    files = [
        *(
            Path(folder) / "pip/pip.conf"
            for folder in environ.get("XDG_CONFIG_DIRS", "/etc/xdg").split(":")
        ),
        Path("/Library/Application Support/pip/pip.conf"),
        Path("/etc/pip.conf"),
        home / ".pip/pip.conf",
        home / "Library/Application Support/pip/pip.conf",
        Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "pip/pip.conf",
    ]
    special = environ.get("PIP_CONFIG_FILE")
    if special == os.devnull:
        files = []
    elif special:
        files.append(Path(special))
    found: dict[str, str] = {}
    for file in files:
        parser = configparser.RawConfigParser()
        try:
            parser.read(file, "utf-8")
        except (configparser.Error, OSError, UnicodeDecodeError) as error:
            raise Trouble(f"{file} cannot be read: {error}; correct it or delete it") from None
        for section in ("global", "install"):
            if parser.has_section(section):
                found.update({key.replace("_", "-"): value for key, value in parser.items(section)})
    for name, value in environ.items():
        if name.startswith("PIP_") and value:
            found[name.removeprefix("PIP_").lower().replace("_", "-")] = value
    return found


def get(url: str, settings: Mapping[str, str], login: str | None) -> tuple[bytes, str]:
    """The body behind `url` and the address it came from in the end.

    Raises:
        OSError: not delivered. ValueError: no address, or an answer without bounds.
    """
    parts = urllib.parse.urlsplit(url)
    host = parts.hostname or ""
    request = urllib.request.Request(
        urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])),
        headers={"Accept": "application/vnd.pypi.simple.v1+json, text/html;q=0.5, */*;q=0.1"},
    )
    if login:  # "unredirected": it is not sent on to another host
        token = base64.b64encode(login.encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {token}")
    context = ssl.create_default_context(cafile=settings.get("cert"))
    if host in settings.get("trusted-host", "").split():
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    handlers: list[urllib.request.BaseHandler] = [urllib.request.HTTPSHandler(context=context)]
    if "proxy" in settings:
        proxy = settings["proxy"]
        handlers.append(urllib.request.ProxyHandler({"http": proxy, "https": proxy}))
    seconds = float(settings.get("timeout") or settings.get("default-timeout") or 60)
    with urllib.request.build_opener(*handlers).open(request, timeout=seconds) as answer:
        body = answer.read(LARGEST_ANSWER + 1)
        if len(body) > LARGEST_ANSWER:
            raise ValueError(f"the answer is larger than {LARGEST_ANSWER} bytes")
        return body, answer.url


def login_for(url: str) -> str | None:
    """ "user:password" from the address, else from the person's ~/.netrc."""
    parts = urllib.parse.urlsplit(url)
    if parts.username:
        user, password = parts.username, parts.password or ""
        return f"{urllib.parse.unquote(user)}:{urllib.parse.unquote(password)}"
    try:
        found = netrc.netrc().authenticators(parts.hostname or "")
    except (OSError, netrc.NetrcParseError):
        return None
    return f"{found[0]}:{found[2]}" if found else None


def without_login(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    return urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def links(page: bytes, address: str) -> dict[str, str]:
    """File name -> address, of a project's page in JSON (PEP 691) or HTML (PEP 503)."""
    text = page.decode("utf-8", "replace")
    if text.lstrip().startswith("{"):
        files = json.loads(text).get("files", [])
        found = [(file["filename"], file["url"]) for file in files]
    else:
        reader = Anchors()
        reader.feed(text)
        found = [
            (urllib.parse.unquote(Path(urllib.parse.urlsplit(link).path).name), link)
            for link in reader.found
        ]
    return {name: urllib.parse.urljoin(address, link) for name, link in found}


class Anchors(HTMLParser):
    """Collects the targets of all links."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for key, value in attrs if (tag, key) == ("a", "href") and value]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
