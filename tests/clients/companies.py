"""Three companies and a server beside them, as strict as they are: aimock behind a judge.

aimock's answers go through; what a company signs is noted, and a request is refused that gives it
a signature of somebody else, a result without its call, or a field it has not: in the company's own
words and with its status. aimock itself looks at none of that. Each request is kept.

A text of the user's with ``fail 429`` (500, 401, long) is answered with that error, and one with
``hang`` begins an answer that never ends. The model ``broken`` is nowhere.
"""

import http.client
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

BASES = {"openai": "/openai/v1", "anthropic": "/anthropic", "gemini": "/gemini", "http": "/http/v1"}
SIGNED_CALL = "c2lnbmF0dXJlIG9mIGEgY2FsbA=="
"""Gemini's signature of a call; aimock has none."""
SKIP = "skip_thought_signature_validator"
_HOP = ("host", "connection", "content-length", "accept-encoding")
_TELLS = {
    "429": (429, "rate_limit_error", "RESOURCE_EXHAUSTED", "Slow down."),
    "500": (500, "api_error", "INTERNAL", "Something broke."),
    "401": (401, "authentication_error", "UNAUTHENTICATED", "Wrong key."),
    "broken": (404, "not_found_error", "NOT_FOUND", "There is no such model."),
    "long": (400, "invalid_request_error", "INVALID_ARGUMENT", "too long"),
}  # fmt: skip
_LONG = {
    "openai": "This model's maximum context length is 200000 tokens. However, your messages "
              "resulted in 300000 tokens. Please reduce the length of the messages.",
    "anthropic": "prompt is too long: 300000 tokens > 200000 maximum",
    "gemini": "The input token count (300000) exceeds the maximum number of tokens allowed "
              "(200000).",
}  # fmt: skip


@dataclass
class Got:
    """One request, and what became of it."""

    company: str
    path: str
    body: Any
    headers: dict[str, str]
    raw: str
    refused: str = ""
    hung_up: threading.Event = field(default_factory=threading.Event)


@dataclass
class Companies:
    """`got` is every request since the last `forget`; `signed` what each company signed."""

    url: str
    aimock: str
    got: list[Got] = field(default_factory=list)
    signed: dict[str, set[str]] = field(default_factory=lambda: {name: set() for name in BASES})
    retry_after: str = "1"

    def environ(self) -> dict[str, str]:
        """What the server that asks them is started with."""
        return {
            "OPENAI_BASE_URL": self.url + BASES["openai"], "OPENAI_API_KEY": "sk-openai-0123456789",
            "ANTHROPIC_BASE_URL": self.url + BASES["anthropic"],
            "ANTHROPIC_API_KEY": "sk-ant-0123456789",
            "GOOGLE_GEMINI_BASE_URL": self.url + BASES["gemini"],
            "GEMINI_API_KEY": "gemini-key-0123456789",
        }  # fmt: skip

    def forget(self) -> None:
        self.got.clear()

    def refused(self) -> list[str]:
        return [f"{one.company}: {one.refused}" for one in self.got if one.refused]


@contextmanager
def companies(aimock: str) -> Iterator[Companies]:
    """Running companies, whose answers come from the aimock at that URL."""

    class Handler(_Handler):
        pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    Handler.there = Companies(f"http://127.0.0.1:{server.server_port}", aimock)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield Handler.there
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    there: Companies

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("content-length") or 0))
        company = self.path.split("/")[1]
        got = Got(company, self.path.removeprefix(f"/{company}"), json.loads(raw),
                  {k.lower(): v for k, v in self.headers.items()}, raw.decode())  # fmt: skip
        self.there.got.append(got)
        said = _last_of_the_user(got.body)
        if got.body.get("model") == "broken":
            self._refuse(got, *_TELLS["broken"])
        elif told := re.search(r"fail (\w+)", said):
            self._refuse(got, *_TELLS[told[1]])
        elif wrong := fault(got, self.there.signed[company]):
            got.refused = wrong
            self._refuse(got, 400, "invalid_request_error", "INVALID_ARGUMENT", wrong)
        else:
            self._answer(got, raw, hang="hang" in said)

    def _refuse(self, got: Got, status: int, kind: str, word: str, message: str) -> None:
        long = message == "too long"
        if long:
            message = _LONG.get(got.company, _LONG["openai"])
        body: Any = {"error": {"type": kind, "message": message, "code": None, "param": None}}
        if got.company == "anthropic":
            body = {"type": "error", "error": {"type": kind, "message": message}}
        elif got.company == "gemini":
            body = {"error": {"code": status, "status": word, "message": message}}
        elif long:
            body["error"]["code"] = "context_length_exceeded"
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        if status == 429:
            self.send_header("retry-after", self.there.retry_after)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _answer(self, got: Got, raw: bytes, *, hang: bool) -> None:
        headers = {k: v for k, v in got.headers.items() if k not in _HOP}
        connection = http.client.HTTPConnection(urlsplit(self.there.aimock).netloc, timeout=20)
        try:
            path = got.path.replace("/v1/models/", "/v1beta/models/")  # all that aimock has
            connection.request("POST", path, raw, headers)
            answer = connection.getresponse()
            self.send_response(answer.status)
            self.send_header("content-type", answer.headers["content-type"])
            self.send_header("connection", "close")
            self.end_headers()
            self.close_connection = True
            begun = False
            for line in answer:
                self.wfile.write(self._noted(got, line))
                begun = begun or "Grüße".encode() in line
                if hang and begun and not line.strip():
                    break
            self.wfile.flush()
            if hang:
                self._wait_for_the_end(got)
        finally:
            connection.close()

    def _noted(self, got: Got, line: bytes) -> bytes:
        """`line`, whose signatures are remembered; Gemini's calls get one."""
        signed = self.there.signed[got.company]
        if got.company == "gemini" and b'"functionCall"' in line:
            head, brace, rest = line.partition(b"{")
            body = json.loads(brace + rest)
            _each(body, _sign_call)
            line = head + json.dumps(body).encode() + b"\n"
            line = line.replace(b'"FUNCTION_CALL"', b'"STOP"')  # no word of Google's
        text = line.decode()
        signed.update(re.findall(r'"(?:signature|thoughtSignature)": ?"([^"]+)"', text))
        signed.update(re.findall(r'"encrypted_content": ?"([^"]+)"', text))
        return line

    def _wait_for_the_end(self, got: Got) -> None:
        self.connection.settimeout(20)
        try:
            if self.connection.recv(1) == b"":
                got.hung_up.set()
        except TimeoutError:
            pass
        except OSError:
            got.hung_up.set()


def _each(value: Any, do: Any) -> None:
    if isinstance(value, dict):
        do(value)
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            _each(one, do)


def _sign_call(part: dict[str, Any]) -> None:
    if "functionCall" in part:
        part["thoughtSignature"] = SIGNED_CALL


def _last_of_the_user(body: Any) -> str:
    turns = body.get("messages") or body.get("input") or body.get("contents") or []
    if isinstance(turns, str):
        return turns
    said = [turn for turn in turns if turn.get("role") == "user"]
    return json.dumps(said[-1]) if said else ""


# ---- what a company refuses ------------------------------------------------------------------


def fault(got: Got, signed: set[str]) -> str:
    """Why the company refuses it; "" where it does not."""
    if got.company == "anthropic":
        return _of_anthropic(got.body, signed)
    if got.company == "gemini":
        return _of_gemini(got.body, signed)
    if got.path.endswith("/responses"):
        return _of_responses(got.body, signed)
    return _of_chat(got.body, strict=got.company == "openai")


def _of_anthropic(body: Any, signed: set[str]) -> str:
    thinks = (body.get("thinking") or {}).get("type") == "enabled"
    if thinks and body.get("temperature", 1) != 1:
        return "`temperature` may only be set to 1 when thinking is enabled."
    open_calls: set[str] = set()
    for at, turn in enumerate(body["messages"]):
        blocks = turn["content"] if isinstance(turn["content"], list) else []
        for block in blocks:
            kind = block["type"]
            if kind == "thinking" and block.get("signature") not in signed:
                return f"messages.{at}: Invalid `signature` in `thinking` block"
            if kind == "redacted_thinking" and block["data"] not in signed:
                return f"messages.{at}: Invalid `data` in `redacted_thinking` block"
            if kind == "tool_use" and not re.fullmatch(r"[a-zA-Z0-9_-]+", block["id"]):
                return f"messages.{at}: tool_use.id: String should match pattern"
            if kind == "tool_result" and block["tool_use_id"] not in open_calls:
                return f"messages.{at}: unexpected `tool_use_id` found in `tool_result` blocks"
        results = [block for block in blocks if block["type"] == "tool_result"]
        if open_calls and len(results) < len(open_calls):
            return f"messages.{at}: `tool_use` ids were found without `tool_result` blocks"
        open_calls = {block["id"] for block in blocks if block["type"] == "tool_use"}
        last = at == len(body["messages"]) - 2
        if thinks and last and open_calls and "thinking" not in blocks[0]["type"]:
            return f"messages.{at}: Expected `thinking`, but found `{blocks[0]['type']}`"
    return ""


def _of_gemini(body: Any, signed: set[str]) -> str:
    names: list[str] = []
    for at, turn in enumerate(body["contents"]):
        calls = [part for part in turn["parts"] if "functionCall" in part]
        if calls and "thoughtSignature" not in calls[0]:
            return f"Function call is missing a thought_signature in functionCall parts ({at})."
        for part in turn["parts"]:
            mark = part.get("thoughtSignature")
            if mark is not None and mark not in signed and mark != SKIP:
                return "Thought signature is not valid."
            if mark == SKIP and "functionCall" not in part:
                return "Thought signature is not valid."
            if "functionResponse" in part and part["functionResponse"]["name"] not in names:
                return "function response parts must follow function call parts"
        names = [part["functionCall"]["name"] for part in calls]
    return ""


_PREFIXES = {"message": "msg", "function_call": "fc", "reasoning": "rs"}


def _of_responses(body: Any, signed: set[str]) -> str:
    items = body["input"] if isinstance(body["input"], list) else []
    calls: set[str] = set()
    for at, item in enumerate(items):
        kind = item.get("type", "message")
        prefix = _PREFIXES.get(kind)
        if prefix and item.get("id") is not None and not item["id"].startswith(prefix):
            return f"Invalid 'input[{at}].id': Expected an ID that begins with '{prefix}'."
        if kind == "reasoning":
            if not item.get("encrypted_content"):
                return f"Item with id '{item.get('id')}' not found."
            if item["encrypted_content"] not in signed:
                return f"The encrypted content for item {item.get('id')} could not be verified."
            if at + 1 == len(items):
                return f"Item '{item['id']}' of type 'reasoning' was provided without its item."
        if kind == "function_call":
            if len(item["call_id"]) > 64:
                return f"Invalid 'input[{at}].call_id': string too long."
            calls.add(item["call_id"])
        if kind == "function_call_output" and item["call_id"] not in calls:
            return f"No tool call found for function call output with call_id {item['call_id']}."
    return "" if body.get("temperature", 1) == 1 else "Unsupported parameter: 'temperature'"


_FIELDS = {"role", "content", "name", "refusal", "tool_calls", "tool_call_id", "audio",
           "function_call", "annotations"}  # fmt: skip


def _of_chat(body: Any, *, strict: bool) -> str:
    if strict and "max_tokens" in body:
        return "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
    if strict and body.get("temperature", 1) != 1:
        return "Unsupported value: 'temperature' does not support it with this model."
    calls: set[str] = set()
    for at, turn in enumerate(body["messages"]):
        if strict and (more := turn.keys() - _FIELDS):
            return f"Unknown parameter: 'messages[{at}].{min(more)}'."
        if turn["role"] == "tool" and turn["tool_call_id"] not in calls:
            return "messages with role 'tool' must be a response to a preceding message"
        if strict and any(
            call.keys() - {"id", "type", "function"} for call in turn.get("tool_calls") or ()
        ):
            return f"Unknown parameter: 'messages[{at}].tool_calls[0]'."
        if turn["role"] == "assistant":
            calls = {call["id"] for call in turn.get("tool_calls") or ()}
            if any(len(one) > 40 for one in calls):
                return f"Invalid 'messages[{at}].tool_calls[0].id': string too long."
    return ""
