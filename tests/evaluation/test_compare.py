"""The same requests to several models: what is asked, what is measured, and the page of it."""

import asyncio
import json
import re
import tempfile
from collections.abc import AsyncGenerator
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overt.chat import Done, Event, Failed, Progress, Request, Routed, Sampling, Text, Usage
from overt.errors import BadRequest, ModelNotFound, OvertError, ProviderFailed
from overt.evaluation import compare, compare_page, openness_summary, timing
from overt.evaluation import prompts as asks
from overt.evaluation.compare import Comparison, ComparisonPlan, ComparisonRow
from overt.runtime.loader import ModelFacts
from overt.settings import load

# ---- requests from files -------------------------------------------------------------------


def _read(name: str, text: str, system: str | None = None) -> list[tuple[str, str]]:
    found = asks.of_file(Path(name), text.encode(), system)
    return [(one.system, one.prompt) for one in found]


@pytest.mark.parametrize(
    ("name", "text", "read"),
    [
        ("q.txt", "\ufeffOne question\nof two lines\n", [("", "One question\nof two lines")]),
        ("q.jsonl", '{"prompt": "a"}\n\n{"prompt": "b", "system": "s"}\n', [("", "a"), ("s", "b")]),
        (
            "q.jsonl",
            '{"messages": [{"role": "developer", "content": "s"}, {"role": "user", "content": '
            '[{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]}',
            [("s", "ab")],
        ),
        (
            "q.JSONL",
            '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},'
            ' {"role": "user", "content": "c"}]}',
            [("", "user: a\n\nassistant: b\n\nuser: c")],
        ),
        ("q.csv", 'prompt,id\n"a, b",1\n\nc,2\n', [("", "a, b"), ("", "c")]),
        ("q.csv", "id,system,prompt\r\n1,s,a\r\n", [("s", "a")]),
    ],
)
def test_requests_are_read_from_every_form(
    name: str, text: str, read: list[tuple[str, str]]
) -> None:
    assert _read(name, text) == read


def test_a_system_text_is_for_requests_that_have_none() -> None:
    text = '{"prompt": "a"}\n{"prompt": "b", "system": "own"}\n'
    assert _read("q.jsonl", text, "given") == [("given", "a"), ("own", "b")]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("q.txt", b"\n", "the prompt is empty"),
        ("q.txt", b"\xff", "q.txt is not UTF-8 text (byte 0)"),
        ("q.jsonl", b"\n", "q.jsonl has no request in it"),
        ("q.jsonl", b'{"prompt": "a"}\n{', "line 2 of q.jsonl is not JSON"),
        ("q.jsonl", b"[" * 100_000, "line 1 of q.jsonl is not JSON (nested too deeply)"),
        ("q.jsonl", b"[]", "line 1 of q.jsonl is no JSON object"),
        ("q.jsonl", b'{"prompt": 1}', "the prompt in line 1 of q.jsonl is no text"),
        ("q.jsonl", b'{"prompt": "\\ud800"}', "the prompt in line 1 of q.jsonl holds half"),
        ("q.jsonl", b'{"question": "a"}', "needs either a prompt or messages"),
        ("q.jsonl", b'{"messages": []}', "no list of 1 to 1000"),
        ("q.jsonl", b'{"messages": [{"role": ["user"], "content": ""}]}', "not of system, user"),
        ("q.jsonl", b'{"messages": [{"role": "system", "content": ""}]}', "is not the user's"),
        ("q.jsonl", b'{"messages": [{"role": "user", "content": [{"type": "image"}]}]}', "no text"),
        ("q.csv", b"question\na\n", "q.csv has no column named prompt"),
        ("q.csv", b"prompt,id\n,1\n", "line 2 of q.csv has an empty prompt"),
        ("q.csv", b"prompt\n" + b"a" * 200_000, "q.csv is not CSV after line 1"),
    ],
)
def test_a_file_that_is_none_says_where(name: str, data: bytes, message: str) -> None:
    with pytest.raises(BadRequest, match=re.escape(message)):
        asks.of_file(Path(name), data)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["prompt", "messages", "system", "role", "content", "type", "text"]),
            inner,
        )
    ),
    max_leaves=10,
)


@given(
    st.sampled_from(["q.jsonl", "q.csv", "q.txt"]),
    st.binary(max_size=100) | _JSON.map(lambda content: json.dumps(content).encode()),
)
def test_any_file_is_requests_or_one_clear_error(name: str, data: bytes) -> None:
    try:
        found = asks.of_file(Path(name), data)
    except BadRequest:
        return
    assert found
    assert all(one.messages[-1].role == "user" for one in found)
    assert all(one.digest.startswith("sha256:") for one in found)


# ---- asking --------------------------------------------------------------------------------


class Exchange:
    """Models by name: what each says. An error is raised, a float is slept."""

    def __init__(self, **models: list[Event | OvertError | float]) -> None:
        self.models = {name.replace("_", ":"): said for name, said in models.items()}
        self.asked: list[Request] = []
        self.busy = self.most = 0

    def first(self, name: str) -> str:
        return "smollm2" if name == "writer" else name

    resolve = first

    async def open(self, ref: str) -> Any:
        if ref not in self.models:
            raise ModelNotFound(f"{ref} is not here", "pull it")
        return SimpleNamespace(capabilities=SimpleNamespace(local=not ref.startswith("openai")))

    def facts(self, ref: str) -> ModelFacts:
        shut_in = () if ref.startswith("openai") else ("network namespace", "seccomp")
        return ModelFacts(ref, "", "llamacpp", isolation=shut_in)

    async def stream(self, request: Request) -> AsyncGenerator[Event, None]:
        self.asked.append(request)
        self.busy += 1
        self.most = max(self.most, self.busy)
        try:
            for event in self.models[request.model]:
                if isinstance(event, OvertError):
                    raise event
                if isinstance(event, float):
                    await asyncio.sleep(event)
                else:
                    yield event
        finally:
            self.busy -= 1


SAID: list[Event | OvertError | float] = [
    Progress(3, 3), Text("four "), Text("words"), Usage(3, 2, decode_seconds=0.5), Done("stop"),
]  # fmt: skip
SENT: list[Event | OvertError | float] = [
    Routed("openai:gpt-5", "", "req_1", 812), 0.0, Text("paid"), Usage(9, 4), Done("length"),
]  # fmt: skip


@pytest.fixture(autouse=True)
def _prices(monkeypatch: pytest.MonkeyPatch) -> None:
    from overt import prices

    def cost(ref: str, usage: Usage, settings: Any) -> prices.Cost:
        if ref != "openai:gpt-5":
            return prices.Cost(None, False, "", "2026-11-01", "nobody set it")
        return prices.Cost(0.02, True, "genai-prices", "2026-11-01")

    monkeypatch.setattr(prices, "cost", cost)


def _plan(*models: str, prompts: int = 1, **given: Any) -> ComparisonPlan:
    return ComparisonPlan(
        models, tuple(asks.of_text(f"question {n}") for n in range(prompts)), **given
    )


def _asked(exchange: Exchange, plan: ComparisonPlan) -> Comparison:
    comparison = Comparison(exchange, plan, load())  # type: ignore[arg-type]
    asyncio.run(comparison.run())
    return comparison


def test_each_answer_has_a_row_with_all_that_the_contract_names() -> None:
    exchange = Exchange(smollm2=SAID, openai_gpt=SENT)
    rows = _asked(exchange, _plan("smollm2", "openai:gpt", max_tokens=7)).rows
    assert [row.text for row in rows] == ["four words", "paid"]
    contract = {
        "model", "step", "licence", "text", "seconds_to_first_token", "tokens_per_second",
        "tokens_in", "tokens_out", "cost", "cost_known", "bytes_out", "error",
    }  # fmt: skip
    local, remote = (row.as_json() for row in rows)
    assert contract <= local.keys()
    assert (local["tokens_in"], local["tokens_out"], local["tokens_per_second"]) == (3, 2, 4.0)
    assert (local["cost"], local["cost_known"], local["bytes_out"]) == (None, False, 0)
    assert local["cost_why"] == "nobody set it"
    assert local["where"] == "stayed on this machine (no network: network namespace, seccomp)"
    assert local["seconds_to_first_token"] >= 0
    assert local["load_seconds"] >= 0
    assert (remote["cost"], remote["cost_known"], remote["cost_day"]) == (0.02, True, "2026-11-01")
    assert (remote["bytes_out"], remote["request_id"]) == (812, "req_1")
    assert remote["where"] == "went to api.openai.com; 812 bytes; request req_1"
    assert (remote["answered"], remote["finish"]) == ("openai:gpt-5", "length")
    assert remote["load_seconds"] is None
    assert [one.deterministic for one in exchange.asked] == [True, False]
    assert {one.max_tokens for one in exchange.asked} == {7}


def test_a_model_that_fails_says_so_and_the_others_go_on() -> None:
    broken: list[Event | OvertError | float] = [
        Text("half an "), Failed("provider_failed", "it hung up", "try again"),
    ]  # fmt: skip
    busy: list[Event | OvertError | float] = [ProviderFailed("it is\ndown", "wait")]
    exchange = Exchange(broken=broken, busy=busy, smollm2=SAID)
    rows = _asked(exchange, _plan("nosuch", "broken", "busy", "smollm2")).rows
    assert [(row.model, row.text, row.error) for row in rows] == [
        ("nosuch", "", "nosuch is not here; pull it"),
        ("broken", "half an ", "it hung up; try again"),
        ("busy", "", "it is down; wait"),
        ("smollm2", "four words", None),
    ]
    assert rows[0].tokens_in is None, "what nobody counted is not 0"
    lines = compare.summary(("nosuch", "smollm2"), rows)
    assert [(one["errors"], one["tokens_out"]) for one in lines] == [(1, None), (0, 2)]


def test_the_order_of_models_moves_on_with_every_round() -> None:
    plan = _plan("a", "b", "c", prompts=2, repeat=2)
    assert [(ask, again, "".join(models)) for ask, again, models in plan.rounds()] == [
        (0, 0, "abc"), (0, 1, "bca"), (1, 0, "cab"), (1, 1, "abc"),
    ]  # fmt: skip


def test_the_first_token_is_the_first_and_the_end_is_the_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By a clock that moves on by one second whenever it is looked at."""
    seconds = iter(range(100))
    monkeypatch.setattr(timing, "time", SimpleNamespace(monotonic=lambda: float(next(seconds))))
    said = [Progress(1, 1), Text("one "), Text("two "), Text("three"), Usage(1, 3), Done("stop")]
    row = _asked(Exchange(smollm2=said), _plan("smollm2")).rows[0]
    assert (row.seconds_to_first_token, row.seconds) == (1.0, 3.0)
    assert row.tokens_per_second == 1.0, "by our clock, as the engine tells none"


@pytest.mark.parametrize(
    ("pieces", "step", "speed"), [(3, 0.004, None), (2, 1.0, None), (3, 0.01, 1950.0)]
)
def test_a_burst_has_no_speed(
    pieces: int, step: float, speed: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0

    def monotonic() -> float:
        nonlocal now
        now += step
        return now

    monkeypatch.setattr(timing, "time", SimpleNamespace(monotonic=monotonic))
    said = [*[Text("many words ")] * pieces, Usage(1, 40), Done("stop")]
    row = _asked(Exchange(smollm2=said), _plan("smollm2")).rows[0]
    assert row.tokens_per_second == (None if speed is None else pytest.approx(speed))


@pytest.mark.parametrize("told", [[], [Usage(0, 0)], [Usage(0, 4)], [Usage(9, 0)]])
def test_a_cost_is_unknown_where_no_tokens_were_told(told: list[Event | OvertError]) -> None:
    said = [Routed("openai:gpt-5"), Text("paid"), *told, Done("stop")]
    row = _asked(Exchange(openai_gpt=said), _plan("openai:gpt")).rows[0]
    assert (row.cost, row.cost_known) == (None, False)
    assert row.cost_why == "the tokens were not counted"
    assert (row.tokens_in, row.tokens_out) in ((None, None), (None, 4), (9, None))


def test_an_answer_that_broke_off_may_have_cost_more_than_was_counted() -> None:
    said = [Routed("openai:gpt-5"), Text("pa"), Usage(9, 1), Failed("provider_failed", "it broke")]
    rows = _asked(Exchange(openai_gpt=said), _plan("openai:gpt", "openai:none")).rows
    assert (rows[0].cost, rows[0].cost_known, rows[0].cost_least) == (None, False, 0.02)
    assert rows[0].cost_why == "it broke off, and may have cost more than was counted"
    assert rows[1].cost_why == "it failed, and the tokens were not counted"


def test_no_budget_asks_nobody() -> None:
    exchange = Exchange(openai_gpt=SENT, smollm2=SAID)
    done = _asked(exchange, _plan("openai:gpt", "smollm2", budget=0.0, together=True))
    assert (done.rows, exchange.asked) == ([], [])
    assert done.ended == "$0 were spent and the budget is $0: 2 requests were not asked"


def test_bytes_that_nobody_counted_are_not_zero() -> None:
    said = [Routed("openai:gpt-5"), *SAID]
    row = _asked(Exchange(openai_gpt=said), _plan("openai:gpt")).rows[0]
    assert (row.bytes_out, row.where) == (None, "went to api.openai.com")


def test_an_alias_is_told_as_what_it_stands_for() -> None:
    said = [Routed("smollm2", "writer is an alias of it"), *SAID]
    row = _asked(Exchange(writer=said), _plan("writer")).rows[0]
    assert (row.model, row.answered, row.bytes_out) == ("writer", "smollm2", 0)
    assert row.where.startswith("stayed on this machine")
    assert row.routed == {"model": "smollm2", "why": "writer is an alias of it"}


def test_a_route_that_tried_a_provider_first_did_not_stay_here() -> None:
    said = [Routed("smollm2", "the other failed", bytes_out=99, tried=("openai:gpt-5",)), *SAID]
    row = _asked(Exchange(smart=said), _plan("smart")).rows[0]
    assert (row.where, row.bytes_out) == ("went to api.openai.com; 99 bytes", 99)


def test_a_budget_ends_it_before_the_next_request() -> None:
    exchange = Exchange(openai_gpt=SENT, smollm2=SAID)
    done = _asked(exchange, _plan("openai:gpt", "smollm2", prompts=5, budget=0.03))
    assert sum(row.cost or 0 for row in done.rows) == 0.04
    assert len(done.rows) == 4
    assert done.ended == "$0.04 were spent and the budget is $0.03: 6 requests were not asked"
    paid_just = _asked(exchange, _plan("openai:gpt", budget=0.01))
    assert (len(paid_just.rows), paid_just.ended) == (1, ""), "there was nothing left to ask"


@pytest.mark.parametrize(("together", "most"), [(False, 1), (True, 2)])
def test_only_models_of_others_are_asked_at_once_and_only_on_request(
    together: bool, most: int
) -> None:
    exchange = Exchange(openai_a=[0.01, *SENT], openai_b=[0.01, *SENT], smollm2=[0.01, *SAID])
    plan = _plan("openai:a", "smollm2", "openai:b", together=together)
    assert len(_asked(exchange, plan).rows) == 3
    assert exchange.most == most


def test_a_stop_keeps_what_was_answered_and_the_part_that_came() -> None:
    exchange = Exchange(smollm2=SAID, slow=[Text("a part"), 60.0])
    comparison = Comparison(exchange, _plan("smollm2", "slow", prompts=2), load())  # type: ignore[arg-type]

    async def stopped() -> None:
        task = asyncio.create_task(comparison.run())
        while not (len(exchange.asked) == 2 and exchange.busy):
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(stopped())
    assert [(row.text, row.error) for row in comparison.rows] == [
        ("four words", None), ("a part", compare.STOPPED),
    ]  # fmt: skip
    assert exchange.busy == 0


def test_figures_are_medians_and_costs_are_sums_of_what_is_known() -> None:
    rows = [
        ComparisonRow(
            "m", "m", 0, n, seconds_to_first_token=first, tokens_per_second=speed, cost=cost
        )
        for n, (first, speed, cost) in enumerate(
            [(0.1, 10.0, 0.01), (0.2, 30.0, None), (9.0, 20.0, 0.02)]
        )
    ]
    rows.append(ComparisonRow("m", "m", 0, 3, seconds_to_first_token=50.0, error="it failed"))
    (line,) = compare.summary(("m",), rows)
    assert (line["seconds_to_first_token"], line["tokens_per_second"]) == (0.2, 20.0)
    assert (line["cost"], line["cost_unknown"], line["answers"], line["errors"]) == (0.03, 2, 3, 1)


# ---- openness and licence ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ref", "step", "licence"),
    [
        ("openai:gpt-5", "fully_closed", "openai-terms-of-use"),
        ("anthropic:claude-opus-4-5", "fully_closed", "anthropic-commercial-terms"),
        ("gemini:gemini-2.5-pro", "fully_closed", "gemini-api-terms"),
        ("openai:nobody-knows-it", None, None),
        ("http://127.0.0.1:1/v1#anything", None, None),
        ("echo:x", None, None),
        ("nosuch", None, None),
        ("not a ref", None, None),
    ],
)
def test_who_stands_where(ref: str, step: str | None, licence: str | None) -> None:
    found = openness_summary.of(ref, load())
    assert (found.step, found.licence) == (step, licence)
    assert found.basis == ("declared" if step else None)


def test_a_model_is_graded_by_its_files_once_they_were_looked_at(
    home: Path, smollm2_gguf: Path
) -> None:
    from overt.openness import assemble, day
    from overt.openness.subject import gather

    path = home / "smollm2.gguf"
    path.symlink_to(smollm2_gguf)
    before = openness_summary.of(str(path), load())
    assert (before.step, before.basis) == ("open_weights", "declared")
    assert before.licence == "Apache-2.0"
    assemble.assemble(gather.subject(str(path), load()), home, day.today())
    after = openness_summary.of(str(path), load())
    assert (after.step, after.basis, after.declared) == ("open_weights", "verified", "open_weights")


# ---- the page ------------------------------------------------------------------------------


class Page(HTMLParser):
    """Tags, attributes and text, with what is not closed as it was opened."""

    VOID = ("meta", "circle", "rect", "br")

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.wrong: list[str] = []
        self.said = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data):
        if "style" not in self.open:
            self.said += data


def _document(said: str = "an answer", **changed: Any) -> dict[str, Any]:
    exchange = Exchange(smollm2=[Text(said), Usage(1, 1), Done("stop")], openai_gpt=SENT)
    comparison = _asked(exchange, _plan("smollm2", "openai:gpt", repeat=2, sampling=Sampling(0.5)))
    compare.complete(comparison.rows, load())
    about = {"overt": "1.2", "machine": {"cores": "2 cores"}, "command": f"overt compare {said}"}
    made = compare.document(
        comparison, identifier="20261125-1", made="2026-11-25T12:00:00Z", about=about
    )
    return made | changed


HOSTILE = [
    "</style><script>alert(1)</script>",
    "</bdi></p></article><img src=https://evil.example/x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "<!-- <![CDATA[ ]]> -->",
    "\u202egnp.exe \x00\x1b[31m \ud800",
    "&lt;script&gt;",
]


@pytest.mark.parametrize("said", ["an answer", *HOSTILE])
def test_the_page_is_whole_and_loads_nothing_whatever_a_model_wrote(said: str) -> None:
    document = _document(said, ended=said)
    document["prompts"][0] |= {"prompt": said, "system": said}
    document["rows"][0] |= {"error": said, "thinking": said, "where": said}
    document["summary"][0] |= {"licence": said, "where": said}
    text = compare_page.render(document)
    text.encode()
    page = Page(text)
    assert (page.open, page.wrong) == ([], [])
    assert {tag for tag, _ in page.tags} <= {
        "html", "head", "meta", "title", "style", "body", "main", "header", "p", "h1", "h2", "h3",
        "div", "section", "article", "dl", "dt", "dd", "span", "bdi", "svg", "rect", "circle",
        "table", "thead", "tbody", "tr", "th", "td", "details", "summary", "footer", "code",
    }  # fmt: skip
    names = {name for _, attributes in page.tags for name in attributes}
    assert not names & {"src", "href", "style", "srcset", "data", "action"}
    assert not any(name.startswith("on") for name in names)
    assert re.findall(r"(?:https?:)?//[\w.]+", text.partition("</head>")[0]) == []
    policy = next(a["content"] for _, a in page.tags if "http-equiv" in a)
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'")
    if said == "an answer":
        assert "an answer" in page.said
    elif "script" in said:
        assert said in page.said


def test_the_page_says_what_is_not_known_and_never_zero() -> None:
    page = Page(compare_page.render(_document()))
    said = " ".join(page.said.split())
    assert "cost unknown" in said
    assert "went to api.openai.com; 812 bytes; request req_1" in said
    assert "fully closed (declared)" in said
    assert "2 times each, medians shown" in said
    assert "temperature 0.5" in said
    assert "Prices: genai-prices, 2026-11-01." in said
    assert "answered by openai:gpt-5" in said, "it was named openai:gpt"
    assert "$0.00" not in said


@pytest.mark.parametrize(
    ("value", "unknown", "said"),
    [
        (None, 0, "unknown"), (None, 3, "unknown"), (0.0, 0, "$0.00"),
        (1.5, 2, "$1.50 + 2 unknown"),
        (0.0042, 0, "$0.0042"), (0.0000031, 0, "$0.0000031"), (0.25, 0, "$0.25"),
        (0.0995, 0, "$0.100"), (1234.5, 0, "$1234.50"),
    ],
)  # fmt: skip
def test_money_for_people(value: float | None, unknown: int, said: str) -> None:
    assert compare_page.dollars(value, unknown) == said


def test_costs_below_each_other_have_as_many_places() -> None:
    lines = [{"cost": cost, "cost_unknown": unknown}
             for cost, unknown in ((0.0042, 0), (0.00031, 1), (12.5, 0), (None, 2))]  # fmt: skip
    assert compare_page.column(lines) == [
        "$0.00420",
        "$0.00031 + 1 unknown",
        "$12.50000",
        "unknown",
    ]


def test_the_page_is_named_after_its_models_and_marks_what_was_cut() -> None:
    document = _document()
    document["models"], document["rows"][0]["finish"] = ["a", "<b>", "c"], "length"
    document["rows"][0]["model"] = "a"
    text = compare_page.render(document)
    assert "<title>a, &lt;b&gt; and c, compared</title>" in text
    assert text.count("[ended by the limit]") == 1
    document["models"] = [f"a-model-with-a-long-name-{number}" for number in range(9)]
    assert "<title>9 models, 1 request, compared</title>" in compare_page.render(document)


def test_the_page_reads_the_same_from_what_is_kept() -> None:
    document = _document()
    with tempfile.TemporaryFile("w+") as file:
        json.dump(document, file)
        file.seek(0)
        assert compare_page.render(json.load(file)) == compare_page.render(document)


def test_a_long_comparison_shows_its_beginning_and_says_so() -> None:
    document = _document()
    document["prompts"] *= compare_page.MAX_PROMPTS + 5
    text = compare_page.render(document)
    assert "Request 200<" in text
    assert "Request 201<" not in text
    assert "all 205 requests" in text
