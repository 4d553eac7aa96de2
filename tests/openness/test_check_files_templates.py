"""Chat templates of a release: ways out, breaks, and words left out."""

from check_files_case import found, only, results, subject

import tiny_models

CHECK = "template_escape"
PLAIN = tiny_models.CHAT_TEMPLATE


def released(folder, template, **files):
    return subject(
        tiny_models.release(
            folder, tokenizer_config={"chat_template": template}, files=files or None
        )
    )


def test_a_plain_one_passes_as_executed(tmp_path):
    one = only(CHECK, released(tmp_path, PLAIN))
    assert (one.result, one.strength.word) == ("pass", "executed")
    assert f"{len(PLAIN)} characters" in one.observed


def test_ways_out_are_quoted(tmp_path):
    for number, trick in enumerate(
        (
            "{{ messages.__class__ }}",
            "{{ messages|attr('_' ~ '_class_' ~ '_') }}",
            "{% include 'x' %}",
            "{% for i in range(10**9) %}{% endfor %}",
        )
    ):
        one = only(CHECK, released(tmp_path / str(number), PLAIN + trick))
        assert one.result == "fail", trick
        assert one.component == "chat_template"


def test_one_that_leaves_out_what_is_said(tmp_path):
    one = only(CHECK, released(tmp_path, "{% for m in messages %}<s>{{ m['role'] }}{% endfor %}"))
    assert one.result == "fail"
    assert "without what the user said" in one.observed


def test_broken_and_refusing_ones_are_told_apart(tmp_path):
    broken = only(CHECK, released(tmp_path / "a", "{% for m in messages %}{{ m.content }"))
    assert broken.result == "fail"
    assert broken.expected == "a template in Jinja"
    refusing = only(CHECK, released(tmp_path / "b", "{{ raise_exception('tools only') }}"))
    assert refusing.result == "inconclusive"
    assert "tools only" in refusing.reason
    other = only(CHECK, released(tmp_path / "c", "{% vision %}" + PLAIN))
    assert other.result == "inconclusive"


def test_an_address_in_the_output_is_told(tmp_path):
    one = only(CHECK, released(tmp_path, PLAIN + "See https://example.org/x"))
    assert one.result == "inconclusive"
    assert "https://" in one.reason


def test_equal_texts_are_tried_once_and_others_up_to_eight(tmp_path):
    same = subject(tiny_models.release(tmp_path / "a", files={"chat_template.jinja": PLAIN}))
    one = only(CHECK, same)
    assert "1 more of the same text" in one.observed
    assert one.inputs[0][0] in ("chat_template.jinja", "tokenizer_config.json")
    names = {f"x{n}.jinja": f"{PLAIN}{n}" for n in range(9)}
    many = subject(tiny_models.release(tmp_path / "b", files=names))
    pieces = found(CHECK, many)
    assert [e.result for e in pieces] == ["pass"] * 8 + ["not_run"]
    assert "of 10 templates the first 8" in pieces[-1].reason


def test_two_defaults_settle_nothing(tmp_path):
    one = subject(tiny_models.release(tmp_path, files={"chat_template.jinja": PLAIN + "x"}))
    assert results(CHECK, one) == ["pass", "pass", "inconclusive"]


def test_of_a_gguf_header(tmp_path):
    trick = {"tokenizer.chat_template": PLAIN + "{{ ''.__class__ }}"}
    tiny_models.gguf(tmp_path / "a.gguf", metadata=trick)
    one = only(CHECK, subject(tmp_path, place=False))
    assert one.result == "fail"
    assert one.observed.startswith("a.gguf: default: line 1")


def test_nothing_without_templates(tmp_path):
    tiny_models.release(tmp_path, tokenizer_config={"chat_template": None})
    assert results(CHECK, subject(tmp_path)) == []
