"""Overt: get an open model, see how open it is, run it privately on your own machine."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from overt.chat import Answer, Message, Request, Sampling
    from overt.client import Model, open
    from overt.errors import OvertError

__version__ = "0.1.0"
__all__ = ["Answer", "Message", "Model", "OvertError", "Request", "Sampling", "open"]

_WHERE = {
    "Answer": "chat",
    "Message": "chat",
    "Request": "chat",
    "Sampling": "chat",
    "OvertError": "errors",
    "Model": "client",
    "open": "client",
}


def __getattr__(name: str) -> Any:
    # Lazy, so that `import overt` (and with it `overt --help`) costs nothing.
    if name not in _WHERE:
        raise AttributeError(f"module 'overt' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"overt.{_WHERE[name]}"), name)
