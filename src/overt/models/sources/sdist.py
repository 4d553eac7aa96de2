"""A package's source archive on the person's own index: where it is, never what it holds."""

import sys
from urllib.parse import urljoin

from packaging.utils import canonicalize_name, parse_sdist_filename
from packaging.version import Version

from overt.errors import NotFound, SourceFailed
from overt.models.sources.download import Download, Network, shown
from overt.models.sources.index import ACCEPT, PackageIndex, configured, rows


def source_archive(name: str, version: str, sha256: str, network: Network) -> Download:
    """The archive of exactly this version; `sha256` (64 hex) is what its bytes must be.

    Raises:
        NotFound: no index lists it.
        SourceFailed, NeedsAccess, Offline: as the network says.
    """
    configuration = configured(network.environ, sys.prefix)
    network.certificates = configuration.certificates
    for index in configuration.indexes:
        listed = _listed(index, name, version, network)
        if listed is not None:
            url, size = listed
            return Download(
                url=url,
                name=f"{canonicalize_name(name)}-{version}.tar.gz",
                size=size,
                sha256=sha256,
                headers=index.headers(url),
                access="check the credentials in pip's configuration",
            )
    places = ", ".join(shown(index.url) for index in configuration.indexes)
    raise NotFound(
        f"{places} has no source archive of {name} {version}",
        "allow that package on your index, or set PIP_INDEX_URL to one that has it",
    )


def _listed(
    index: PackageIndex, name: str, version: str, network: Network
) -> tuple[str, int | None] | None:
    url = urljoin(index.url, f"{canonicalize_name(name)}/")
    headers = {"Accept": ACCEPT, **index.headers(url)}
    try:
        page = network.page(url, headers, "check the credentials in pip's configuration")
    except NotFound:
        return None
    for filename, place, _, size, _ in rows(page.url, page.media_type, page.body):
        try:
            name_and_version = parse_sdist_filename(filename)
        except ValueError:  # a wheel, or a name nobody understands
            continue
        if name_and_version == (canonicalize_name(name), Version(version)) and filename.endswith(
            ".tar.gz"
        ):
            if not place.startswith(("http://", "https://")):
                raise SourceFailed(f"{shown(page.url)} lists {filename} at no web address")
            return place, size
    return None
