"""Images as clients send them: base64 or a ``data:`` URL, never an address to fetch.

A server that fetched what a client names would reach into the network it stands in (SSRF), so
``http://`` is refused with a word that says what to send instead. The kind of an image is read from
its first bytes, not from what the client says.
"""

import base64
import binascii

from overt.chat import ImagePart
from overt.protocols.base import BadBody


def from_base64(text: str, path: str = "") -> ImagePart:
    """An image sent as base64 (standard or URL-safe alphabet, RFC 4648); `path` is its field.

    Raises:
        BadBody: not base64, or not PNG, JPEG, GIF or WebP.
    """
    try:
        data = base64.b64decode(text.replace("-", "+").replace("_", "/") + "==", validate=False)
    except (binascii.Error, ValueError) as error:
        raise BadBody(f"the image is not valid base64: {error}", path) from None
    return from_bytes(data, path)


def from_url(url: str, path: str = "") -> ImagePart:
    """An image sent as ``data:image/png;base64,…`` (RFC 2397).

    Raises:
        BadBody: another kind of URL, or as `from_base64`.
    """
    head, comma, data = url.partition(",")
    if not head.startswith("data:") or not comma or not head.endswith(";base64"):
        raise BadBody(
            "an image is sent as a data: URL with base64; this server fetches no addresses", path
        )
    return from_base64(data, path)


def from_bytes(data: bytes, path: str = "") -> ImagePart:
    """An image as it is in a file.

    Raises:
        BadBody: not PNG, JPEG, GIF or WebP.
    """
    image = ImagePart.of(data)
    if image is None:
        raise BadBody("the image is not PNG, JPEG, GIF or WebP", path)
    return image
