"""Models of other machines made ready to answer: whose key, which server, and one way out.

All of them share one `Upstream`, so that policy, retries and circuit breakers see everything that
leaves. Nothing is sent here: an engine is only put together.
"""

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from overt import logins
from overt import ref as refs
from overt.engines import remote
from overt.engines.provider import Provider
from overt.errors import NeedsAccess
from overt.placement import Facts, Opened
from overt.settings import Settings

if TYPE_CHECKING:
    from overt.engines.upstream import Upstream

_MOST = 256  # engines kept; each is a few hundred bytes


class Providers:
    """Refs of other machines and their engines, for one event loop."""

    def __init__(
        self,
        settings: Settings,
        notice: Callable[[str], None] = lambda _: None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._settings, self._notice = settings, notice
        self._environ = os.environ if environ is None else environ
        self._upstream: Upstream | None = None
        self._open: dict[str, tuple[Opened, int]] = {}
        self._kept = settings.home / "logins.json"

    @property
    def upstream(self) -> "Upstream":
        """The one way out, made when it is first needed."""
        if self._upstream is None:
            from overt.engines.upstream import Upstream

            self._upstream = Upstream(self._settings, notice=self._notice)
        return self._upstream

    def open(self, ref: str) -> Opened:
        """The engine that answers for `ref`. Looks for a key where none was found before.

        Raises:
            BadRef: no ref, or a server without a model.
            NeedsAccess: a provider that wants a key, and none is known.
            BadSetting, Refused: a key or an address that cannot be used as it is.
        """
        stamp = self._stamp()
        found = self._open.get(ref)
        if found is not None and found[1] == stamp:
            return found[0]
        parsed = refs.parse(ref)
        spoken = remote.dialect(parsed)
        name = remote.login_name(parsed)
        login = logins.find(name, self._settings, self._environ)
        if not login.secret and login.base == logins.official(name):
            raise NeedsAccess(
                f"no key for {name} is known, and nothing was sent",
                f"overt login {name}, or set {logins.variables(name)[0]}",
            )
        to = remote.destination(parsed, spoken, login.base, login.secret, bearer=login.bearer)
        engine = remote.open(parsed, to, spoken, self.upstream, self._notice)
        facts = Facts(ref, "", spoken.name, build=to.label, context=engine.capabilities.context)
        opened = Opened(engine, facts)
        if len(self._open) >= _MOST:
            self._open.clear()
        self._open[ref] = opened, stamp
        return opened

    def engine(self, ref: str) -> Provider:
        """`open`, as what it is."""
        engine = self.open(ref).engine
        assert isinstance(engine, Provider)
        return engine

    async def close(self) -> None:
        """Close every connection."""
        if self._upstream is not None:
            await self._upstream.close()

    def _stamp(self) -> int:
        """Changes when a key is kept or removed."""
        try:
            return os.stat(self._kept).st_mtime_ns  # noqa: PTH116 - asked for every request
        except OSError:
            return 0
