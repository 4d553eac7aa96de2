"""`lab/tokenizer.py`: a vocabulary and a template in a sandboxed worker, as the engine has them."""

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from overt.errors import BadRequest, EngineFailed, FormatError
from overt.lab.tokenizer import VocabularyWorker
from overt.settings import Settings, load


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return load(environ={}, flags={"home": str(tmp_path_factory.mktemp("words"))})


@pytest.fixture(scope="module")
def words(smollm2_gguf: Path, settings: Settings) -> Iterator[VocabularyWorker]:
    with VocabularyWorker(smollm2_gguf, settings) as opened:
        yield opened


def test_texts_come_back(words: VocabularyWorker) -> None:
    texts = ["Hello", "", "a  b\n", "wörld 🙂", "<|im_end|>"]
    ids = words.encode(texts)
    assert [words.decode(one) for one in ids] == texts
    assert ids[4] == [words.eos]
    assert words.encode(["<|im_end|>"], special=False)[0] != [words.eos]
    assert words.size == 49152
    assert words.eos in words.ends


def test_many_texts_go_in_batches(words: VocabularyWorker) -> None:
    ids = words.encode(["hello there " * 400] * 300)
    assert len(ids) == 300
    assert len({tuple(one) for one in ids}) == 1


def test_large_values_are_rendered_some_at_a_time(
    words: VocabularyWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call takes 64 MiB: what many rows with long chats would be in one."""
    sent: list[int] = []
    call = VocabularyWorker._call

    def counted(self: VocabularyWorker, kind: str, asked: str) -> list[object]:
        sent.append(len(asked))
        return call(self, kind, asked)

    monkeypatch.setattr("overt.lab.tokenizer._BATCH", 2000)
    monkeypatch.setattr(VocabularyWorker, "_call", counted)
    values = [{"text": f"{at} " + "ю" * 600} for at in range(20)]
    assert words.render("{{ text }}!", values) == [f"{one['text']}!" for one in values]
    assert len(sent) == 7
    assert max(sent) < 2100, "letters go over as they are, not as six bytes each"
    assert words.render("{{ text }}", []) == []


def test_a_beginning_where_the_model_has_one(gemma3_gguf: Path, settings: Settings) -> None:
    with VocabularyWorker(gemma3_gguf, settings) as opened:
        assert opened.begins
        assert opened.encode(["Hi"], begin=True)[0] == [opened.bos, *opened.encode(["Hi"])[0]]
        assert opened.decode(opened.encode(["Hi you"])[0]) == "Hi you"


def test_ids_that_are_none(words: VocabularyWorker) -> None:
    with pytest.raises(BadRequest, match="49152 is no token: this model has 49152, from 0"):
        words.decode([49152])


def test_templates_are_rendered_and_confined(words: VocabularyWorker) -> None:
    values = [{"messages": [{"content": "a"}]}, {"messages": 3}]
    text = "{% for one in messages %}{{ one.content }}!{% endfor %}"
    found = words.render(text, values)
    assert found[0] == "a!"
    assert isinstance(found[1], FormatError)
    for escape in ("{{ ''.__class__ }}", "{% include 'x' %}", "{{ strftime_now('%Y') }}", "{% if"):
        (refused,) = words.render(escape, [{}])
        assert isinstance(refused, FormatError), escape


def test_no_vocabulary(tmp_path: Path, settings: Settings) -> None:
    empty = tmp_path / "empty.gguf"
    empty.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 0))
    with pytest.raises(FormatError, match=r"the words of empty\.gguf cannot be read"):
        VocabularyWorker(empty, settings).__enter__()


def test_outside_of_with(smollm2_gguf: Path, settings: Settings) -> None:
    with pytest.raises(EngineFailed, match="is not running"):
        VocabularyWorker(smollm2_gguf, settings).encode(["a"])


def test_a_template_without_end_is_stopped(
    smollm2_gguf: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("overt.lab.tokenizer._PATIENCE", 0.5)
    many = "{% for a in range(99999) %}"
    endless = many * 3 + "{% endfor %}" * 3
    with (
        VocabularyWorker(smollm2_gguf, settings) as opened,
        pytest.raises(FormatError, match="the chat template was stopped"),
    ):
        opened.render(endless, [{}])
