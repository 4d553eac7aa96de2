"""Models of other machines made ready to answer: whose key, which server, and one way out.

All of them share one `HttpClient`, so that policy, retries and circuit breakers see everything that
leaves. Nothing is sent here: an engine is only put together.
"""

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING

from overt import ref as refs
from overt.chat import Event, Routed
from overt.errors import BadRef, NeedsAccess, NoEgress, Offline, OvertError, TimedOut
from overt.providers import registry
from overt.providers.base import Provider
from overt.ref import Ref
from overt.runtime.loader import ModelFacts, OpenedModel
from overt.security import credentials
from overt.settings import Settings, seconds_of

if TYPE_CHECKING:
    from overt.providers.http.client import HttpClient
    from overt.security.urls import Address

_MAX_ENGINES = 256  # engines kept; each is a few hundred bytes
_FRESH = 60.0  # seconds that a server's only model is taken to be its only one
_SHOWN = 20  # models of a server in one error


def server_of(ref: Ref, environ: Mapping[str, str] | None = None) -> "Address":
    """The server that text for `ref` would go to; no key is looked for.

    Raises:
        BadRef, BadSetting: an address that cannot be read.
    """
    from overt.security.urls import read

    return read(
        credentials.base(registry.login_name(ref), os.environ if environ is None else environ)
    )


def has_no_model(ref: str) -> bool:
    """Whether `ref` names a server and no model of it."""
    return ref.startswith(("http://", "https://")) and not refs.parse(ref).file


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
        self._upstream: HttpClient | None = None
        self._open: dict[str, tuple[OpenedModel, int]] = {}
        self._logins: dict[str, tuple[credentials.ProviderLogin, int]] = {}
        self._kept = settings.home / "logins.json"
        self._sole: dict[str, tuple[str, float]] = {}  # a server's only model, and until when

    @property
    def upstream(self) -> "HttpClient":
        """The one way out, made when it is first needed."""
        if self._upstream is None:
            from overt.providers.http.client import HttpClient

            self._upstream = HttpClient(self._settings, notice=self._notice)
        return self._upstream

    def open(self, ref: str) -> OpenedModel:
        """The engine that answers for `ref`. Looks for a key where none was found before.

        Raises:
            BadRef: no ref, or a server without a model.
            NeedsAccess: a provider that wants a key, and none is known.
            BadSetting, Refused: a key or an address that cannot be used as it is.
        """
        stamp = self._stamp()
        cached = self._open.get(ref)
        if cached is not None and cached[1] == stamp:
            return cached[0]
        parsed = refs.parse(ref)
        spoken = registry.dialect(parsed)
        name = registry.login_name(parsed)
        login = self._login(name, stamp)
        if not login.secret and login.base == credentials.official(name):
            raise NeedsAccess(
                f"no key for {name} is known, and nothing was sent",
                f"overt login {name}, or set {credentials.variables(name)[0]}",
            )
        to = registry.destination(parsed, spoken, login.base, login.secret, bearer=login.bearer)
        engine = registry.open(parsed, to, spoken, self.upstream, self._notice)
        host, context = server_of(parsed, self._environ).shown, engine.capabilities.context
        facts = ModelFacts(ref, "", spoken.name, build=host, context=context)
        opened = OpenedModel(engine, facts)
        if len(self._open) >= _MAX_ENGINES:
            self._open.clear()
        self._open[ref] = opened, stamp
        return opened

    def _login(self, name: str, stamp: int) -> credentials.ProviderLogin:
        """A key that was found is looked for again when one is kept or removed.

        Not for each model: clients may write any name, and a keyring may take seconds.
        """
        cached = self._logins.get(name)
        if cached is not None and cached[1] == stamp:
            return cached[0]
        login = credentials.find(name, self._settings, self._environ)
        if login.secret:
            if len(self._logins) >= _MAX_ENGINES:
                self._logins.clear()
            self._logins[name] = login, stamp
        return login

    def engine(self, ref: str) -> Provider:
        """`open`, as what it is."""
        engine = self.open(ref).engine
        assert isinstance(engine, Provider)
        return engine

    async def opened(self, ref: str) -> OpenedModel:
        """`open`, which also takes a server without a model where that has but one.

        Raises as `open` and `sole_model`.
        """
        if has_no_model(ref):
            ref = await self.sole_model(ref)
        return self.open(ref)

    async def sole_model(self, ref: str) -> str:
        """The ref of the one model of a server that `ref` names without a model.

        Raises:
            BadRef: it has several, which are named, or none, or does not list them.
            Offline, NoEgress, NeedsAccess, TimedOut: it was not asked, or did not answer.
        """
        there, until = self._sole.get(ref, ("", 0.0))
        if time.monotonic() < until:
            return there
        without = f"{ref} names a server and no model of it"
        try:
            names = await self.models(ref)
        except (Offline, NoEgress, NeedsAccess, TimedOut):
            raise
        except OvertError as error:
            raise BadRef(f"{without}; asked for a list: {error.message}", _write(ref)) from None
        if len(names) != 1:
            raise BadRef(without if names else f"{ref} lists no models", _write(ref, names))
        sole_ref = f"{ref}#{names[0]}"
        refs.parse(sole_ref)
        if len(self._sole) >= _MAX_ENGINES:
            self._sole.clear()
        self._sole[ref] = sole_ref, time.monotonic() + _FRESH
        return sole_ref

    async def models(self, ref: str) -> tuple[str, ...]:
        """The models that a server lists, asked within the setting `connect_timeout`.

        Raises:
            ProviderFailed, TimedOut …: it cannot be reached, or does not list them.
        """
        from overt.providers.openai import compatible

        parsed = refs.parse(ref)
        spoken, name = registry.dialect(parsed), registry.login_name(parsed)
        login = self._login(name, self._stamp())
        to = registry.destination(parsed, spoken, login.base, login.secret, bearer=login.bearer)
        patience = seconds_of(self._settings.connect_timeout)
        try:
            answer = self.upstream.ask(to, spoken.listing, spoken.failure)
            return compatible.listed(await asyncio.wait_for(answer, patience), to.label)
        except TimeoutError:
            raise TimedOut(
                f"{to.label} did not list its models within {patience:g} s", _write(ref)
            ) from None

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


def _write(ref: str, names: Sequence[str] = ()) -> str:
    if not names:
        return f"write {ref}#MODEL, as GET /models has it"
    more = f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"write {ref}#MODEL with one of: {', '.join(sorted(names)[:_SHOWN])}{more}"


async def with_route_info(
    events: AsyncGenerator[Event, None], model: str, why: str
) -> AsyncGenerator[Event, None]:
    """`events` with the word first of who answers, and why."""
    async with aclosing(events):
        begun = False
        async for event in events:
            if not begun:
                begun = True
                if isinstance(event, Routed):
                    yield replace(event, why=why)
                    continue
                yield Routed(model, why)
            yield event
