"""Embeddings and ranking: small random BERTs against numpy, SmolLM2, and workers that lie."""

import asyncio
import base64
import json
import math
import struct
from collections.abc import AsyncGenerator
from operator import mul
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loaded import answered, loaded

import bert_writer
from overt.chat import EmbedRequest, Message, Request, RerankRequest, ScoreRequest
from overt.engine import Capabilities
from overt.errors import BadRequest, ContextExceeded, EngineFailed, OvertError, Unsupported
from overt.runtime import registry
from overt.runtime.llamacpp.embed import LlamaCppEmbedder

pytestmark = pytest.mark.anyio
TEXTS = ("The cats sat on a mat.", "a dog", "the sea is blue")


class Says:
    """A worker that answers every call with `reply`, and keeps what it was asked."""

    def __init__(self, *replies: bytes) -> None:
        self.replies = list(replies)
        self.asked: list[dict] = []

    async def call(self, kind: str, body: bytes) -> AsyncGenerator[bytes, None]:
        self.asked.append(json.loads(body))
        yield self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]

    async def ask(self, path: str, body: bytes) -> bytes:
        raise Unsupported("this system has no UNIX sockets")

    async def stop(self) -> None: ...


def embedder(*replies: object) -> LlamaCppEmbedder:
    raw = [said if isinstance(said, bytes) else json.dumps(said).encode() for said in replies]
    return LlamaCppEmbedder(Says(*raw), Capabilities(context=64))


def vectors(*rows: tuple[float, ...]) -> dict:
    packed = [base64.b64encode(struct.pack(f"{len(row)}f", *row)).decode() for row in rows]
    data = [{"index": at, "embedding": text} for at, text in enumerate(packed)]
    return {"data": data[::-1], "usage": {"prompt_tokens": 3 * len(rows)}}


def embed(engine: LlamaCppEmbedder, *inputs, **fields):
    return asyncio.run(engine.embed(EmbedRequest("m", inputs, **fields)))


# ---- without a model -----------------------------------------------------------------------


def test_vectors_come_in_order_and_have_length_one():
    engine = embedder(vectors((3.0, 4.0, 0.0), (0.0, 0.0, 2.0)))
    found = embed(engine, "a", (1, 2))
    assert found.vectors == ((0.6, 0.8, 0.0), (0.0, 0.0, 1.0))
    assert found.tokens == 6
    assert engine._worker.asked == [{"input": ["a", [1, 2]], "encoding_format": "base64"}]


def test_the_first_dimensions_are_scaled_again():
    engine = embedder(vectors((3.0, 4.0, 100.0)))
    assert embed(engine, "a", dimensions=2).vectors == ((0.6, 0.8),)
    for wrong in (0, 4):
        with pytest.raises(BadRequest, match=f"dimensions is {wrong}; this model's go from 1 to 3"):
            embed(engine, "a", dimensions=wrong)


def test_many_inputs_go_a_few_at_a_time():
    engine = embedder(vectors(*[(1.0,)] * 16), vectors(*[(1.0,)] * 2), vectors((1.0,)))
    found = embed(engine, *["x"] * 17, "y" * 5000, "z" * 5000)
    assert [len(asked["input"]) for asked in engine._worker.asked] == [16, 2, 1]
    assert (len(found.vectors), found.tokens) == (19, 57)


@pytest.mark.parametrize(
    ("said", "tokens", "most"),
    [
        ("input (99 tokens) is too large to process. increase the physical batch size "
         "(current batch size: 64)", 99, 64),
        ("input (99 tokens) is larger than the max context size (64 tokens). skipping", 99, 64),
        ("request (99 tokens) exceeds the available context size (64 tokens), try increasing it",
         99, 63),
    ],
)  # fmt: skip
def test_too_long_is_told_with_both_numbers(said, tokens, most):
    engine = embedder({"error": {"message": said, "type": "server_error"}})
    with pytest.raises(ContextExceeded) as caught:
        embed(engine, "a")
    assert (caught.value.tokens, caught.value.context) == (tokens, most)
    with pytest.raises(ContextExceeded):
        asyncio.run(engine.rerank(RerankRequest("m", "q", ("d",))))
    with pytest.raises(Unsupported):  # to cut a text it has to be asked for tokens
        embed(engine, "a", truncate=True)


NOTHING = vectors()
BAD = [
    b"", b"[]", {"data": "x"}, NOTHING, vectors((1.0,), (1.0,)), vectors(()),
    vectors((math.nan,)), vectors((math.inf, 1.0)),
    {"data": [{"index": 0, "embedding": "!!!!"}]}, {"data": [{"index": 0, "embedding": "AAA="}]},
    {"data": [{"index": 7, "embedding": "AAAAAA=="}]},
]  # fmt: skip


@pytest.mark.parametrize("reply", BAD)
def test_what_is_no_embedding_is_an_engine_that_failed(reply):
    with pytest.raises(EngineFailed):
        embed(embedder(reply), "a")


@given(st.binary(max_size=30), st.integers(0, 120), st.integers(0, 30))
def test_no_reply_of_a_hostile_worker_escapes_the_error_tree(noise, at, cut):
    good = json.dumps(vectors((1.0, 2.0)) | {"results": [{"index": 0, "relevance_score": 1.0}]})
    reply = good.encode()[:at] + noise + good.encode()[at + cut :]
    for question in (
        lambda engine: engine.embed(EmbedRequest("m", ("a",))),
        lambda engine: engine.rerank(RerankRequest("m", "q", ("d",))),
    ):
        try:
            asyncio.run(question(embedder(reply)))
        except OvertError:
            continue


def test_scores_come_in_the_order_of_the_documents():
    results = [{"index": 1, "relevance_score": 0.5}, {"index": 0, "relevance_score": -2.0}]
    engine = embedder({"results": results, "usage": {"prompt_tokens": 9}})
    ranking = asyncio.run(engine.rerank(RerankRequest("m", "q", ("a", "b"))))
    assert (ranking.scores, ranking.tokens) == ((-2.0, 0.5), 9)
    with pytest.raises(EngineFailed, match="did not score every document"):
        asyncio.run(engine.rerank(RerankRequest("m", "q", ("a", "b", "c"))))


def test_nothing_to_do_is_refused():
    with pytest.raises(BadRequest, match="nothing to embed"):
        embed(embedder(NOTHING))
    with pytest.raises(BadRequest, match="nothing to rank"):
        asyncio.run(embedder(NOTHING).rerank(RerankRequest("m", "q", ())))


def test_it_does_not_answer():
    request = Request("m", (Message.of("user", "x"),))
    with pytest.raises(Unsupported, match="does not answer"):
        asyncio.run(answered(embedder(NOTHING), request))
    with pytest.raises(Unsupported, match="does not score"):
        asyncio.run(embedder(NOTHING).score(ScoreRequest("m", "x")))


# ---- what a worker is told -----------------------------------------------------------------


def test_the_batch_of_an_encoder_is_its_context():
    assert registry.batch("embed", 512, 128, causal=False) == 512
    assert registry.batch("rerank", 512, 128, causal=False) == 512
    assert registry.batch("embed", 512, 128, causal=True) == 128
    assert registry.batch("answer", 512, 128, causal=False) == 128


def test_parameters_by_purpose():
    def of(purpose, **more):
        return registry.parameters(
            purpose, weights=Path("w"), context=9, parallel=4, batch=8, threads=1,
            prompt_threads=2, **more,
        )  # fmt: skip

    assert (of("answer")["embedding"], of("answer")["pooling"]) == (False, "")
    embeds = of("embed", pooling="last")
    assert (embeds["embedding"], embeds["pooling"]) == (True, "last")
    assert of("rerank", pooling="last")["pooling"] == "rank"
    assert (of("score")["parallel"], of("embed")["parallel"]) == (1, 4)


# ---- with one ------------------------------------------------------------------------------


@pytest.mark.parametrize("parallel", [1, 3])
async def test_a_bert_computes_what_the_paper_says(home: Path, tmp_path: Path, parallel: int):
    bert = bert_writer.write(tmp_path / "bert.gguf")
    async with loaded(
        "embed", tmp_path / "bert.gguf", home / "run", context=64, batch=64, parallel=parallel
    ) as one:
        assert await one.around() == ((bert_writer.CLS,), (bert_writer.SEP,))
        found = await one.embed(EmbedRequest("m", TEXTS))
        count = 0
        for text, vector in zip(TEXTS, found.vectors, strict=True):
            tokens = (bert_writer.CLS, *await one.tokenize(text), bert_writer.SEP)
            count += len(tokens)
            assert await one.count(Request("m", prompt=text)) == len(tokens)
            assert float(bert.vector(tokens) @ vector) == pytest.approx(1, abs=1e-4)
            [same] = (await one.embed(EmbedRequest("m", (tokens,)))).vectors
            assert same == pytest.approx(vector, abs=1e-4)
        assert found.tokens == count


async def test_a_text_too_long_for_a_bert_is_refused_or_cut_before_its_last_mark(
    home: Path, tmp_path: Path
):
    bert = bert_writer.write(tmp_path / "bert.gguf")
    async with loaded("embed", tmp_path / "bert.gguf", home / "run", context=64, batch=64) as one:
        long = "cat " * 100
        with pytest.raises(ContextExceeded) as caught:
            await one.embed(EmbedRequest("m", ("dog", long)))
        assert (caught.value.tokens, caught.value.context) == (102, 64)
        found = await one.embed(EmbedRequest("m", ("dog", long), truncate=True))
        assert found.tokens == 3 + 64
        [cat] = await one.tokenize("cat")
        kept = (bert_writer.CLS, *[cat] * 62, bert_writer.SEP)
        assert float(bert.vector(kept) @ found.vectors[1]) == pytest.approx(1, abs=1e-4)
        with pytest.raises(BadRequest, match="beyond this model's vocabulary"):
            await one.embed(EmbedRequest("m", ((10**6,),)))


async def test_a_bert_with_a_classifier_ranks_as_the_paper_says(home: Path, tmp_path: Path):
    bert = bert_writer.write(tmp_path / "bert.gguf", reranks=True)
    async with loaded(
        "rerank", tmp_path / "bert.gguf", home / "run", context=64, batch=64, parallel=2
    ) as one:
        query, documents = "the cat", TEXTS * 7
        ranking = await one.rerank(RerankRequest("m", query, documents))
        asked = await one.tokenize(query)
        pairs = [
            (bert_writer.CLS, *asked, bert_writer.SEP, *await one.tokenize(text))
            for text in documents
        ]
        assert ranking.tokens == sum(map(len, pairs))
        assert ranking.scores == pytest.approx([bert.score(pair) for pair in pairs], abs=0.01)
        with pytest.raises(ContextExceeded):
            await one.rerank(RerankRequest("m", query, ("cat " * 100,)))


@pytest.mark.model
async def test_smollm2_embeds_by_its_last_token(smollm2_gguf: Path, home: Path):
    async with loaded(
        "embed", smollm2_gguf, home / "run", context=256, parallel=2, pooling="last"
    ) as one:
        texts = ("A cat sleeps on the sofa.", "A kitten naps on the couch.", "Taxes rose in 2009.")
        found = await one.embed(EmbedRequest("m", texts))
        assert [len(vector) for vector in found.vectors] == [576] * 3
        for vector in found.vectors:
            assert math.hypot(*vector) == pytest.approx(1)
        first, second, third = found.vectors
        assert sum(map(mul, first, second)) > sum(map(mul, first, third))
        with pytest.raises(ContextExceeded) as caught:
            await one.embed(EmbedRequest("m", ("word " * 300,)))
        assert (caught.value.tokens, caught.value.context) == (301, 255)
        cut = await one.embed(EmbedRequest("m", ("word " * 300,), truncate=True))
        assert cut.tokens == 255
        with pytest.raises(BadRequest, match="leave out empty texts"):
            await one.embed(EmbedRequest("m", ("",)))
        with pytest.raises(Unsupported):
            await one.rerank(RerankRequest("m", "q", ("d",)))


@pytest.mark.model
async def test_a_model_loaded_to_answer_does_not_embed(smollm2_gguf: Path, home: Path):
    async with loaded("answer", smollm2_gguf, home / "run", context=128) as one:
        with pytest.raises(Unsupported, match="makes no embeddings"):
            await one.embed(EmbedRequest("m", ("x",)))
