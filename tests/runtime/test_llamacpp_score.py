"""Log-probabilities of a text: against the answers of the other binding, and workers that lie."""

import asyncio
import json
import math
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loaded import answered, loaded

import adapter_writer
import gguf_writer
from overt.chat import Answer, Message, Request, Sampling, ScoreRequest, TokenLogprob
from overt.engine import Capabilities, Engine
from overt.errors import BadRequest, ContextExceeded, EngineFailed, OvertError, Unsupported
from overt.runtime import registry
from overt.runtime.llamacpp.score import LlamaCppScorer

pytestmark = pytest.mark.anyio
GREEDY = Sampling(temperature=0, seed=1)
needed = pytest.mark.skipif(
    not registry.find_spec("llama_cpp_py_sync"), reason="llama-cpp-py-sync is not on this machine"
)


class Says:
    def __init__(self, *chunks: bytes) -> None:
        self.chunks = chunks
        self.asked: dict = {}

    async def call(self, kind: str, body: bytes) -> AsyncGenerator[bytes, None]:
        self.asked = {"kind": kind} | json.loads(body)
        for chunk in self.chunks:
            yield chunk

    async def stop(self) -> None: ...


def scorer(*chunks: object) -> LlamaCppScorer:
    raw = [said if isinstance(said, bytes) else json.dumps(said).encode() for said in chunks]
    return LlamaCppScorer(Says(*raw), Capabilities(context=64))


def score(engine: LlamaCppScorer, prompt: str | tuple[int, ...] = "x", top: int = 0):
    return asyncio.run(engine.score(ScoreRequest("m", prompt, top)))


# ---- without a model -----------------------------------------------------------------------


def test_pieces_become_tokens():
    euro = {"id": 5, "raw": "4oI=", "logprob": -1.5}  # two of the three bytes of a euro sign
    other = {"id": 6, "raw": "YQ==", "logprob": -0.5}
    engine = scorer(
        {"tokens": [{"id": 1, "raw": "YQ==", "logprob": None}]},
        {"tokens": [euro | {"top": [other, euro]}]},
    )
    assert score(engine, (1, 5), top=2) == (
        TokenLogprob("a", None, (), 1, None),
        TokenLogprob("\ufffd", -1.5, (("a", -0.5), ("\ufffd", -1.5)), 5, b"\xe2\x82"),
    )
    assert engine._worker.asked == {"kind": "score", "prompt": [1, 5], "top": 2}


def test_how_a_text_begins_is_asked_once():
    engine = scorer({"ids": [7, 1]})
    assert asyncio.run(engine.tokenize("a", around=True)) == (7, 1)
    assert engine._worker.asked == {
        "kind": "tokenize", "text": "a", "special": True, "around": True,
    }  # fmt: skip
    engine._worker.chunks = ()
    assert asyncio.run(engine.tokenize("a", around=True)) == (7, 1)
    assert asyncio.run(engine.tokenize("b", around=True)) == ()


@pytest.mark.parametrize(
    ("problem", "kind", "words"),
    [
        ({"kind": "too_long", "tokens": 9, "context": 4}, ContextExceeded, "is 9 tokens"),
        ({"kind": "bad_token", "message": "7 is no token"}, BadRequest, "7 is no token"),
        ({"kind": "failed", "message": "boom"}, EngineFailed, "could not be scored: boom"),
    ],
)
def test_problems_of_the_worker_become_ours(problem, kind, words):
    with pytest.raises(kind, match=words):
        score(scorer({"error": problem}))


@given(st.binary(max_size=20), st.integers(0, 60), st.integers(0, 20))
def test_no_chunk_of_a_hostile_worker_escapes_the_error_tree(noise, at, cut):
    good = b'{"tokens":[{"id":1,"raw":"YQ==","logprob":-1.5,"top":[]}],"ids":[1],"text":"a"}'
    engine = scorer(good[:at] + noise + good[at + cut :])
    for question in (engine.score(ScoreRequest("m", "x")), engine.tokenize("x"),
                     engine.detokenize([1])):  # fmt: skip
        try:
            asyncio.run(question)
        except OvertError:
            continue


def test_it_does_not_answer_and_has_bounds():
    with pytest.raises(Unsupported, match="does not answer"):
        asyncio.run(answered(scorer(), Request("m", (Message.of("user", "x"),))))
    for top in (-1, 21):
        with pytest.raises(BadRequest, match="it goes from 0 to 20"):
            score(scorer(), top=top)


def test_a_missing_package_is_told_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    monkeypatch.setattr(registry.platform, "machine", lambda: "x86_64")
    with pytest.raises(Unsupported, match="make lab"):
        registry.available("score")
    monkeypatch.setattr(registry.platform, "machine", lambda: "aarch64")
    with pytest.raises(Unsupported, match=r"not made for 64-bit Arm Linux$"):
        registry.available("score")
    registry.available("answer")


# ---- with one ------------------------------------------------------------------------------


async def greedy(engine: Engine, prompt: tuple[int, ...], count: int) -> Answer:
    request = Request(
        "m", prompt=prompt, sampling=GREEDY, max_tokens=count, logprobs=5, deterministic=True
    )
    return await answered(engine, request)


@needed
async def test_exact_weights_give_the_numbers_of_the_other_binding(home: Path, tmp_path: Path):
    """Weights of 32 bits: nothing is rounded, so two builds of llama.cpp agree."""
    weights = tmp_path / "llama.gguf"
    gguf_writer.write_llama(weights)
    async with (
        loaded("answer", weights, home / "run", chat=False) as one,
        loaded("score", weights, home / "run") as other,
    ):
        prompt = tuple(range(270, 300))
        answer = await greedy(one, prompt, 20)
        ids = tuple(token.id for token in answer.logprobs)
        found = await other.score(ScoreRequest("m", prompt + ids, 5))
        assert tuple(token.id for token in found) == prompt + ids
        for ours, theirs in zip(found[len(prompt) :], answer.logprobs, strict=True):
            assert ours.logprob == pytest.approx(theirs.logprob, abs=1e-3)
            assert [a for _, a in ours.top] == pytest.approx([b for _, b in theirs.top], abs=1e-3)


@needed
@pytest.mark.model
@pytest.mark.parametrize("batch", [3, 128])
async def test_smollm2_finds_its_own_answer_as_likely_as_it_said(
    smollm2_gguf: Path, home: Path, batch: int
):
    async with (
        loaded("answer", smollm2_gguf, home / "run") as one,
        loaded("score", smollm2_gguf, home / "run", batch=batch) as other,
    ):
        text = "The capital of France is"
        prompt = await one.tokenize(text)
        answer = await greedy(one, prompt, 20)
        ids = tuple(token.id for token in answer.logprobs)
        found = await other.score(ScoreRequest("m", text + answer.text, 5))
        assert tuple(token.id for token in found) == prompt + ids
        assert "".join(token.token for token in found) == text + answer.text
        first, *rest = found
        assert (first.logprob, first.top) == (None, ())
        for token in rest:
            assert len(token.top) == 5
            assert token.logprob <= token.top[0][1] <= 0
            assert sorted(token.top, key=lambda one: -one[1]) == list(token.top)
        differences = [
            abs(ours.logprob - theirs.logprob)
            for ours, theirs in zip(found[len(prompt) :], answer.logprobs, strict=True)
        ]
        # Two builds round the activations of Q4_1 differently (docs/engine.md): exact for the
        # first tokens, and close on the whole.
        assert max(differences[:8]) < 1e-3
        assert sum(differences) / len(differences) < 0.05


@needed
@pytest.mark.model
async def test_probabilities_of_all_words_add_up_to_less_than_one(smollm2_gguf: Path, home: Path):
    async with loaded("score", smollm2_gguf, home / "run") as one:
        for token in (await one.score(ScoreRequest("m", "Once upon a time", 20)))[1:]:
            assert 0.2 < sum(math.exp(logprob) for _, logprob in token.top) < 1


@needed
@pytest.mark.model
async def test_words_limits_and_one_after_another(smollm2_gguf: Path, home: Path):
    async with loaded("score", smollm2_gguf, home / "run", context=256, batch=32) as one:
        first = await one.score(ScoreRequest("m", "the sea " * 40))
        assert len(first) > 64  # several batches
        crowd = await asyncio.gather(
            *(one.score(ScoreRequest("m", text)) for text in ("the sea " * 40, "A", "", "b c"))
        )
        assert crowd[0] == first  # nothing of one text is left for the next
        assert [len(tokens) for tokens in crowd[1:]] == [1, 0, 2]
        with pytest.raises(ContextExceeded) as caught:
            await one.score(ScoreRequest("m", "word " * 300))
        assert (caught.value.tokens, caught.value.context) == (301, 256)
        with pytest.raises(BadRequest, match="49152 is no token: this model has 49152, from 0"):
            await one.score(ScoreRequest("m", (5, 49152)))
        tokens = await one.tokenize("hi <|im_end|>")
        assert tokens[-1] == 2
        assert await one.detokenize(tokens) == "hi <|im_end|>"
        assert 2 not in await one.tokenize("hi <|im_end|>", special=False)


@needed
@pytest.mark.model
async def test_gemma_scores_with_the_token_it_puts_first(gemma3_gguf: Path, home: Path):
    async with loaded("score", gemma3_gguf, home / "run") as one:
        found = await one.score(ScoreRequest("m", "The sea", 1))
        assert [(token.token, token.id) for token in found[:1]] == [("<bos>", 2)]
        assert found[1].token == "The"
        assert found[1].logprob is not None


@needed
@pytest.mark.model
async def test_an_adapter_changes_what_is_likely(smollm2_gguf: Path, home: Path, tmp_path: Path):
    adapter = tmp_path / "adapter.gguf"
    adapter_writer.write(adapter, layers=30, width=576, scale=4.0)
    found = []
    for adapters in ((), (adapter,)):
        async with loaded("score", smollm2_gguf, home / "run", adapters=adapters) as one:
            found.append(await one.score(ScoreRequest("m", "Once upon a time")))
    assert [t.id for t in found[0]] == [t.id for t in found[1]]
    assert [t.logprob for t in found[0]] != [t.logprob for t in found[1]]
