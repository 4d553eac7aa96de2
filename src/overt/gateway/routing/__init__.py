"""Which of several models answers a request, and why: rules first, then a ladder.

`route.py` says what a route is and reads one, `run.py` and `cascade.py` carry one out,
`checks.py` and `command.py` judge answers. See docs/routes.md.
"""

from pathlib import Path

from overt.gateway.aliases import Aliases
from overt.gateway.routing.cascade import Ask, RouteContext
from overt.gateway.routing.route import Route, read, read_mapping
from overt.gateway.routing.run import answer

__all__ = ["Ask", "Route", "RouteContext", "aliases", "answer", "read", "read_mapping"]


def aliases(home: Path) -> Aliases[Route]:
    """The aliases of an OVERT_HOME, whose `find` answers with a ref, a `Route` or None."""
    return Aliases(home, read_mapping)
