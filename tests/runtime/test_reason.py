"""Why a worker failed: the one line, out of what llama.cpp really prints."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overt.runtime.worker import crash_reason

# Printed by xllamacpp 2026.10.11549 for damaged files; paths changed.
LOG = """\
0.00.002.000 I llama_model_loader: loaded meta data, 2 unknown keys
0.00.003.034 E read: string length 7955997339208032452 exceeds maximum 1073741824
0.00.003.308 E gguf_init_from_reader: failed to read key-value pairs
0.00.003.501 E llama_model_load: error loading model: llama_model_loader: failed to load model
0.00.003.614 E cmn  common_init_: failed to load model '/home/me/.overt/blobs/ab/abcd'
"""


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", ""),
        ("all is well\nloading\n", ""),
        (LOG, "string length 7955997339208032452 exceeds maximum 1073741824"),
        (
            LOG + "/build/ggml/src/ggml.c:1644: GGML_ASSERT(ctx->mem_buffer != NULL) failed\n",
            "ggml.c:1644: GGML_ASSERT(ctx->mem_buffer != NULL) failed",
        ),
        (
            "0.00.005.568 E srv    load_model: failed to load model, '/a b/c.gguf'\n",
            "failed to load model, 'c.gguf'",
        ),
        (
            "loading\nterminate called after throwing an instance of 'std::bad_alloc'\n",
            "terminate called after throwing an instance of 'std::bad_alloc'",
        ),
        ("f: cannot open C:\\Users\\me\\m.gguf at (0x7ffe12345678).\n", "cannot open m.gguf at"),
        ("\x1b[31merror: red\x07 \u202etext\x1b[0m\n", "error: red text"),
        ("0.00.001.000 W load: invalid token\nRuntimeError: no\n", "RuntimeError: no"),
    ],
)
def test_the_telling_line(text: str, line: str):
    assert crash_reason.telling(text) == line


@given(st.text())
def test_any_text_ends_in_one_short_printable_line(text: str):
    for line in (crash_reason.telling(f"{text}\nerror: {text}"), crash_reason.clean(text)):
        assert len(line) <= 240
        assert line == "" or len(line.splitlines()) == 1
        assert not any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 or c == "\u202e" for c in line)


@given(st.lists(st.binary(max_size=200_000), max_size=4))
def test_the_ring_keeps_the_end(pieces: list[bytes]):
    ring = crash_reason.LogRing()
    for piece in pieces:
        ring.write(piece)
    assert ring.text == b"".join(pieces)[-crash_reason.MAX_LOG_BYTES :].decode("utf-8", "replace")


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (0, "ended with status 0"),
        (3, "ended with status 3"),
        (-6, "was killed by SIGABRT"),
        (-63, "was killed by signal 63"),
    ],
)
def test_how_a_process_ended(status: int, words: str):
    assert crash_reason.how(status) == words


def test_a_shortage_of_memory_is_seen():
    assert crash_reason.short_of_memory("E alloc: failed to allocate buffer of size 188743680000")
    assert crash_reason.short_of_memory("GGML_ASSERT(ctx->mem_buffer != NULL) failed")
    assert not crash_reason.short_of_memory(LOG)
