"""The tokenizer against the embedding and the configuration."""

import json

import pytest
from weights_cases import only, results, subject

import tiny_models as tiny
from overt.openness.subject.subject import MAX_TOKENIZER

CHECK = "tokenizer_fits"


def _model(**changes):
    def edit(content):
        content["model"].update(changes)
        return content

    return edit


def _more(words):
    def edit(content):
        vocab = content["model"]["vocab"]
        for number in range(words):
            vocab[f"more{number}"] = len(vocab)
        return content

    return edit


def _renumbered(word, number):
    def edit(content):
        content["model"]["vocab"][word] = number
        return content

    return edit


def _added(**changes):
    def edit(content):
        content["added_tokens"][2].update(changes)
        return content

    return edit


@pytest.mark.parametrize("architecture", ["llama", "gpt_neox", "gemma3", "bert"])
def test_a_tokenizer_that_fits(tmp_path, architecture):
    one = subject(tiny.release(tmp_path / "r", architecture))
    assert only(CHECK, one).result == "pass"
    assert "112 tokens for 112 rows" in only(CHECK, one).observed
    padded = subject(tiny.release(tmp_path / "p", architecture, vocabulary=128))
    assert only(CHECK, padded).result == "pass"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"tokenizer": _more(1)}, "113 tokens"),
        ({"vocabulary": 96}, "112 tokens"),
        ({"vocabulary": 2048, "width": 8, "head": 8, "layers": 1}, "112 tokens"),
        ({"tokenizer": _renumbered("a", 40)}, "both token 40"),
        ({"tokenizer": _model(merges=[["q", "q"]])}, "'qq', which is no token"),
        ({"tokenizer": _model(merges=["t h", "zz a"])}, "'zz', which is no token"),
        ({"tokenizer": _added(id=50)}, "the added token '</s>' is 50"),
        ({"tokenizer": _added(content="the")}, "the added token 'the' is 2"),
        ({"config": {"eos_token_id": 500}}, "eos_token_id in config.json is 500"),
        ({"config": {"eos_token_id": [2, 900]}}, "eos_token_id in config.json is 900"),
        ({"config": {"bos_token_id": 60}}, "bos_token_id in config.json is 60, the word"),
        ({"generation": {"pad_token_id": 4000}}, "pad_token_id in generation_config.json is 4000"),
        ({"tokenizer_config": {"eos_token": "<|gone|>"}}, "eos_token is '<|gone|>'"),
        ({"files": {"tokenizer.json": "{not json"}}, "is not JSON"),
    ],
)
def test_one_that_does_not_fit(tmp_path, changes, told):
    found = only(CHECK, subject(tiny.release(tmp_path, **changes)))
    assert (found.component, found.result) == ("tokenizer", "fail")
    assert told in found.observed


@pytest.mark.parametrize(
    "changes",
    [
        {"config": {"pad_token_id": -1}},
        {"config": {"eos_token_id": [2, 3]}},
        {"config": {"eos_token_id": [2, 50]}},
        {"tokenizer_config": {"eos_token": {"content": "<pad>"}}},
        {"tokenizer": _model(merges=[["t", "h"]])},
        {"config": {"bos_token_id": None, "eos_token_id": None}},
    ],
)
def test_what_is_usual_raises_no_alarm(tmp_path, changes):
    assert results(CHECK, subject(tiny.release(tmp_path, **changes))) == {"pass"}


def test_the_size_stated_is_the_limit(tmp_path):
    one = tiny.release(tmp_path, files={"tokenizer.json": " " * (MAX_TOKENIZER + 1)})
    assert f"larger than {MAX_TOKENIZER >> 20} MiB" in only(CHECK, subject(one)).reason


def test_a_unigram_tokenizer(tmp_path):
    words = [[word, -1.0] for word in tiny.TOKENS]
    unigram = {"type": "Unigram", "vocab": words, "merges": None}
    one = tiny.release(tmp_path / "r", tokenizer=_model(**unigram))
    assert only(CHECK, subject(one)).result == "pass"
    twice = {"type": "Unigram", "vocab": [*words[:-1], words[10]], "merges": None}
    one = tiny.release(tmp_path / "s", tokenizer=_model(**twice))
    assert "is there twice" in only(CHECK, subject(one)).observed


def test_a_kind_of_tokenizer_that_is_not_known_settles_nothing(tmp_path):
    one = tiny.release(tmp_path, files={"tokenizer.json": json.dumps({"model": {"type": "New"}})})
    assert only(CHECK, subject(one)).result == "inconclusive"


@pytest.mark.parametrize(
    ("metadata", "told"),
    [
        ({"tokenizer.ggml.tokens": [*tiny.TOKENS, "more"]}, "113 tokens"),
        ({"tokenizer.ggml.tokens": list(tiny.TOKENS[:100])}, "100 entries"),
        ({"tokenizer.ggml.scores": [0.0] * 111}, "111 entries in tokenizer.ggml.scores"),
        ({"tokenizer.ggml.eos_token_id": 112}, "the eos token is 112"),
        ({"llama.vocab_size": 32000}, "112 tokens"),
        ({"tokenizer.ggml.tokens": [*tiny.TOKENS[:-1], "a"]}, "twice"),
        ({"tokenizer.ggml.merges": ["t h", "q q"]}, "'qq', which is no token"),
    ],
)
def test_a_gguf_whose_words_do_not_fit(tmp_path, metadata, told):
    if told == "100 entries":
        metadata = {**metadata, "tokenizer.ggml.token_type": [1] * 99}
        told = "99 entries in tokenizer.ggml.token_type"
    found = only(CHECK, subject(tiny.gguf(tmp_path / "m.gguf", metadata=metadata)))
    assert found.result == "fail"
    assert told in found.observed


def test_the_real_ones_fit(smollm2_gguf, gemma3_gguf):
    for path in (smollm2_gguf, gemma3_gguf):
        assert only(CHECK, subject(path, name="m.gguf")).result == "pass"
