"""Spans, as a collector on loopback receives them by OTLP over HTTP."""

import gzip
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from overt.chat import Done, Failed, Text, Usage
from overt.errors import BadSetting
from overt.server import telemetry
from overt.server.request_log import Watch, generation

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@dataclass
class Collector:
    """What arrived, decoded."""

    url: str = ""
    paths: list[str] = field(default_factory=list)
    requests: list[ExportTraceServiceRequest] = field(default_factory=list)

    def spans(self) -> list[Any]:
        return [
            span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def resource(self) -> dict[str, Any]:
        return attributes(self.requests[0].resource_spans[0].resource)


@contextmanager
def collecting() -> Iterator[Collector]:
    found = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            found.paths.append(self.path)
            found.requests.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found.url = f"http://127.0.0.1:{server.server_port}"
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield found
        server.shutdown()
        thread.join()


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with collecting() as found:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.url)
        yield found


def attributes(of: Any) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        kind = value.WhichOneof("value")
        found = getattr(value, kind)
        return [plain(one) for one in found.values] if kind == "array_value" else found

    return {pair.key: plain(pair.value) for pair in of.attributes}


def test_a_call_is_a_span_by_the_conventions(collector: Collector) -> None:
    spans = telemetry.spans()
    assert spans is not None
    spans.serving_at("http://127.0.0.1:11435")
    one = Watch(spans)
    seen = one.begin("req_1", traceparent=PARENT)
    work = generation("chat", "smollm2")
    work.answers("smollm2:135m")
    for event in (Text("secret answer"), Usage(7, 4, 3), Done("length")):
        work.event(event)
    work.end()
    seen.end(200)
    spans.close()
    assert collector.paths == ["/v1/traces"]
    (span,) = collector.spans()
    found = attributes(span)
    assert 0 < found.pop("gen_ai.response.time_to_first_chunk") < 60
    assert found == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "overt",
        "gen_ai.request.model": "smollm2",
        "gen_ai.response.model": "smollm2:135m",
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.cache_read.input_tokens": 3,
        "gen_ai.usage.output_tokens": 4,
        "gen_ai.response.finish_reasons": ["length"],
        "server.address": "127.0.0.1",
        "server.port": 11435,
        "overt.request.id": "req_1",
    }
    assert span.name == "chat smollm2"
    assert span.trace_id.hex() == PARENT[3:35]
    assert span.parent_span_id.hex() == PARENT[36:52]
    assert 0 < span.end_time_unix_nano - span.start_time_unix_nano < 60e9
    assert span.status.code == 0
    assert b"secret" not in collector.requests[0].SerializeToString()
    assert collector.resource()["service.name"] == "overt"


def test_what_fails_says_so_and_bad_parents_are_none(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
    spans = telemetry.spans()
    assert spans is not None
    one = Watch(spans)
    for parent in (None, "", "nonsense", "00-0-0-0", PARENT[:-1] + "\xff"):
        one.begin("req_1", traceparent=parent)
        work = generation("embeddings", "m")
        work.event(Failed("worker_died", "it died of something"))
        work.end()
    spans.close()
    found = collector.spans()
    assert len(found) == 5
    for span in found:
        assert span.parent_span_id == b""
        assert attributes(span)["error.type"] == span.status.message == "worker_died"
        assert span.status.code == 2
        assert "gen_ai.usage.output_tokens" not in attributes(span)
    assert collector.resource()["service.name"] == "mine"


CASES: tuple[tuple[dict[str, str], list[str]], ...] = (
    ({}, []),
    ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, ["otlp"]),
    ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x"}, ["otlp"]),
    ({"OTEL_TRACES_EXPORTER": "otlp"}, ["otlp"]),
    ({"OTEL_TRACES_EXPORTER": "otlp, console"}, ["otlp", "console"]),
    ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, []),
    ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_SDK_DISABLED": "TRUE"}, []),
    ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_SDK_DISABLED": "false"}, ["otlp"]),
)


def test_the_standard_variables_decide() -> None:
    for environ, expected in CASES:
        assert telemetry.exporters(environ) == expected, environ
    assert telemetry.spans({}) is None
    for environ, message in (
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER is 'zipkin'"),
        (
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "spans cannot be sent by 'grpc'; set OTEL_EXPORTER_OTLP_PROTOCOL",
        ),
    ):
        with pytest.raises(BadSetting, match=message):
            telemetry.exporters(environ)


def test_without_the_packages_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    with pytest.raises(BadSetting, match=r"pip install 'overt\[otel\]'"):
        telemetry.spans({"OTEL_TRACES_EXPORTER": "otlp"})


def test_nothing_of_it_is_loaded_unless_asked_for() -> None:
    code = (
        "import sys; from overt.server import assembly, telemetry\n"
        "assert telemetry.spans({}) is None\n"
        "assert not [one for one in sys.modules if one.startswith('opentelemetry')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
