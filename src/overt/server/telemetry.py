"""Spans of OpenTelemetry for calls of models, where the standard variables ask for them.

https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/ names the attributes. Prompts and
answers are never recorded. A span is made when its call is over, from numbers that were kept
anyway, so an answer being streamed costs nothing more.
"""

import os
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from overt.errors import BadSetting
from overt.server.request_log import GenerationRecord, RequestRecord

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")


def exporters(environ: Mapping[str, str] = os.environ) -> list[str]:
    """Where spans are to go by the standard variables: ``otlp``, ``console``, or nowhere.

    Raises:
        BadSetting: a variable asks for what is not here.
    """
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return []
    named = environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if not named:
        return ["otlp"] if any(environ.get(name) for name in _ENDPOINTS) else []
    names = list(dict.fromkeys(name.strip() for name in named.split(",")))
    if "none" in names:
        return []
    for exporter_name in names:
        if exporter_name not in ("otlp", "console"):
            raise BadSetting(
                f"OTEL_TRACES_EXPORTER is {exporter_name!r}", "set it to otlp, console or none"
            )
    protocol = next((environ[name] for name in _PROTOCOLS if environ.get(name)), "http/protobuf")
    if "otlp" in names and protocol.strip() != "http/protobuf":
        raise BadSetting(
            f"spans cannot be sent by {protocol[:40]!r}",
            "set OTEL_EXPORTER_OTLP_PROTOCOL to http/protobuf",
        )
    return names


def spans(environ: Mapping[str, str] = os.environ) -> "Spans | None":
    """What makes spans of calls; None where none are asked for.

    Raises:
        BadSetting: a variable asks for what is not here, or packages are missing.
    """
    names = exporters(environ)
    if not names:
        return None
    try:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor

        made = [(name, _exporter(name)) for name in names]
    except ImportError:
        raise BadSetting(
            "the variables of OpenTelemetry are set and its packages are not installed",
            "pip install 'overt[otel]', or set OTEL_SDK_DISABLED=true",
        ) from None
    about = {"service.version": metadata.version("overt")}
    if not environ.get("OTEL_SERVICE_NAME") and "service.name=" not in environ.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    ):
        about["service.name"] = "overt"
    provider = TracerProvider(resource=Resource.create(about))
    for name, exporter in made:
        processor = SimpleSpanProcessor if name == "console" else BatchSpanProcessor
        provider.add_span_processor(processor(exporter))
    return Spans(provider)


class Spans:
    """A sink of `Watch` that makes a span of every call of a model."""

    def __init__(self, provider: "TracerProvider") -> None:
        from opentelemetry.trace import SpanKind, Status, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("overt", metadata.version("overt"))
        self._kind = SpanKind.INTERNAL
        self._failed: Callable[[str], Any] = lambda code: Status(StatusCode.ERROR, code)
        self._parent = TraceContextTextMapPropagator().extract
        self._server: dict[str, str | int] = {}

    def serving_at(self, url: str) -> None:
        """The address that spans are to name; a port is known only once it is bound."""
        parts = urlsplit(url)
        self._server = {"server.address": parts.hostname or "", "server.port": parts.port or 0}

    def request(self, seen: RequestRecord) -> None:
        pass

    def generation(self, work: GenerationRecord, seen: RequestRecord) -> None:
        carried = {"traceparent": seen.traceparent} if seen.traceparent else {}
        span = self._tracer.start_span(
            f"{work.operation} {work.model}",
            context=self._parent(carried),
            kind=self._kind,
            start_time=work.began,
            attributes={**self._server, **_attributes(work, seen)},
        )
        if work.error:
            span.set_status(self._failed(work.error))
        span.end(work.began + int(work.seconds * 1e9))

    def close(self) -> None:
        """Send what has not been sent yet, for as long as the exporter's own timeout."""
        self._provider.shutdown()


def _attributes(work: GenerationRecord, seen: RequestRecord) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "gen_ai.operation.name": work.operation,
        "gen_ai.provider.name": "overt",
        "gen_ai.request.model": work.model,
        "gen_ai.response.model": work.answered,
        "overt.request.id": seen.id,
    }
    if work.tokens_in:
        attributes["gen_ai.usage.input_tokens"] = work.tokens_in
        attributes["gen_ai.usage.cache_read.input_tokens"] = work.tokens_cached
    if work.tokens_out:
        attributes["gen_ai.usage.output_tokens"] = work.tokens_out
    if work.finish:
        attributes["gen_ai.response.finish_reasons"] = [work.finish]
    if work.first is not None:
        attributes["gen_ai.response.time_to_first_chunk"] = work.first
    if work.error:
        attributes["error.type"] = work.error
    return attributes


def _exporter(name: str) -> "SpanExporter":
    if name == "console":
        import sys

        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        # stdout carries the result of the verb
        return ConsoleSpanExporter(out=sys.stderr, formatter=lambda span: span.to_json(None) + "\n")
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter()
