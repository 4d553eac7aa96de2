"""Claimed parameters and claimed quantization."""

import pytest
from weights_cases import findings, only, results, subject

import tiny_models as tiny
from overt.openness.checks import parameters, quantization

# name, parameters of the published weights, those of the input embedding, of an output of its own
MODELS = [
    ("Llama-2-7b", 6_738_415_616, 131_072_000, 131_072_000),
    ("Llama-2-13b", 13_015_864_320, 163_840_000, 163_840_000),
    ("Llama-2-70b", 68_976_648_192, 262_144_000, 262_144_000),
    ("Llama-3.1-8B", 8_030_261_248, 525_336_576, 525_336_576),
    ("Llama-3.2-1B", 1_235_814_400, 262_668_288, 0),
    ("Llama-3.2-3B", 3_212_749_824, 394_002_432, 0),
    ("Llama-3.1-70B", 70_553_706_496, 1_050_673_152, 1_050_673_152),
    ("Mistral-7B", 7_241_732_096, 131_072_000, 131_072_000),
    ("Mistral-Nemo-12B", 12_247_782_400, 671_088_640, 671_088_640),
    ("OLMo-2-0425-1B", 1_484_916_736, 205_520_896, 205_520_896),
    ("OLMo-2-1124-7B", 7_298_617_344, 411_041_792, 411_041_792),
    ("gemma-2b", 2_506_172_416, 524_288_000, 0),
    ("gemma-7b", 8_537_680_896, 786_432_000, 0),
    ("gemma-2-2b", 2_614_341_888, 589_824_000, 0),
    ("gemma-2-9b", 9_241_705_984, 917_504_000, 0),
    ("gemma-3-270m", 268_098_176, 167_772_160, 0),
    ("gemma-3-1b", 999_885_952, 301_989_888, 0),
    ("SmolLM2-135M", 134_515_008, 28_311_552, 0),
    ("SmolLM2-360M", 361_821_120, 47_185_920, 0),
    ("SmolLM2-1.7B", 1_711_376_384, 100_663_296, 0),
    ("pythia-70m", 70_426_624, 25_755_648, 25_755_648),
    ("pythia-160m", 162_322_944, 38_633_472, 38_633_472),
    ("pythia-410m", 405_334_016, 51_511_296, 51_511_296),
    ("pythia-1b", 1_011_781_632, 103_022_592, 103_022_592),
    ("pythia-2.8b", 2_775_208_960, 128_778_240, 128_778_240),
    ("pythia-12b", 11_846_072_320, 259_522_560, 259_522_560),
    ("Qwen2.5-0.5B", 494_032_768, 136_134_656, 0),
    ("Qwen2.5-7B", 7_615_616_512, 544_997_376, 544_997_376),
    ("Qwen2.5-14B", 14_770_033_664, 778_567_680, 778_567_680),
    ("Qwen2.5-32B", 32_763_876_352, 778_567_680, 778_567_680),
    ("Qwen3-0.6B", 751_632_384, 155_582_464, 155_582_464),
    ("Qwen3-4B", 4_022_468_096, 388_956_160, 0),
    ("gpt2-124M", 124_439_808, 38_597_376, 0),
    ("TinyLlama-1.1B", 1_100_048_384, 65_536_000, 65_536_000),
]


def _agrees(name: str, ways: tuple[int, ...]) -> bool:
    told = [one for found in parameters._in_names(name, "its name") for one in found]
    counted = parameters.ParameterCounts(ways[0], ways, 0, 0)
    return any(parameters._agrees(one, counted) for one in told)


@pytest.mark.parametrize(("name", "total", "inputs", "outputs"), MODELS)
def test_the_name_of_a_published_model_holds(name, total, inputs, outputs):
    ways = (total, total - inputs, total - outputs, total - inputs - outputs)
    assert _agrees(name, ways)


@pytest.mark.parametrize(
    ("name", "total"),
    [("Tiny-7B", 1_235_814_400), ("x-1B", 7_000_000_000), ("x-13B", 7_241_732_096),
     ("x-7B", 8_537_680_896), ("x-8B", 7_000_000_000), ("x-1.1B", 1_711_376_384),
     ("x-135M", 361_821_120), ("x-70B", 34_000_000_000), ("x-3B", 2_300_000_000)],
)  # fmt: skip
def test_the_name_of_another_size_does_not_hold(name, total):
    assert not _agrees(name, (total,))


def test_experts_may_be_counted_in_three_ways():
    mixtral = parameters.ParameterCounts(
        46_702_792_704, (46_702_792_704, 12_879_925_248), 7_241_732_096, 8
    )
    stated = [found[0] for name in ("Mixtral-8x7B", "x-47B", "x-13B-active", "x-16x7B", "x-8x22B")
              for found in parameters._in_names(name, "its name")]  # fmt: skip
    assert [parameters._agrees(one, mixtral) for one in stated] == [True, True, True, False, False]


def test_numbers_that_are_no_size_are_not_read():
    for name in ("step-1431k-3T", "x-128k", "8k-lc100k", "gemma-3n-E4B", "Qwen3-A3B", "tokens5B",
                 "Q4_K_M", "v1.5", "2026B1"):  # fmt: skip
        assert not list(parameters._in_names(name, "its name")), name


def test_claims_come_from_everywhere(tmp_path):
    exact = tiny.gguf(tmp_path / "m.gguf", metadata={"general.parameter_count": 25_760,
                                                     "general.size_label": "26K"})  # fmt: skip
    assert only("parameters", subject(exact)).result == "pass"
    for metadata in ({"general.size_label": "7B"}, {"general.parameter_count": 30_000},
                     {"general.name": "Tiny 7B"}):  # fmt: skip
        made = tiny.gguf(tmp_path / "n.gguf", metadata=metadata)
        assert only("parameters", subject(made)).result == "fail"
    assert only("parameters", subject(exact, name="tiny-7b.gguf")).result == "fail"
    release = tiny.release(tmp_path / "r", body="# Tiny 7B\n")
    assert only("parameters", subject(release)).result == "fail"
    assert only("parameters", subject(tiny.release(tmp_path / "s"), parameters=7_000_000)).expected
    assert not findings("parameters", subject(tmp_path / "s"))
    told = tiny.release(tmp_path / "t", config={"num_parameters": 7_000_000_000})
    assert "num_parameters of config.json" in only("parameters", subject(told)).expected


# ---- quantization --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "told"),
    [("SmolLM2-135M-Instruct.Q4_1", "Q4_1"), ("gemma-3-270m-q4_k_m", "q4_k_m"),
     ("x-UD-IQ2_XXS", "UD-IQ2_XXS"), ("llama-f16", "f16"), ("m-bf16-00001-of-00002", "bf16"),
     ("model.Q8_0", "Q8_0"), ("x-IQ4_NL", "IQ4_NL"), ("Qwen-Q4_K_XL", "Q4_K_XL"),
     ("x-Q4_K_M-f16-output", "Q4_K_M"), ("x-fp16.Q5_0", "Q5_0")],
)  # fmt: skip
def test_a_file_name_names_a_type(text, told):
    found = quantization.claim(text, "the file's name")
    assert found is not None
    assert found.text == told


def test_a_name_without_a_type_claims_none():
    for text in ("model", "Qwen3-4B", "f1-score", "tinyQ4_0", ""):
        assert quantization.claim(text, "the file's name") is None


@pytest.mark.parametrize("real", ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "F16", "BF16", "F32"])
@pytest.mark.parametrize("said", ["Q8_0", "Q4_0", "Q5_1", "F16", "BF16", "Q4_K_M", "Q6_K", "Q2_K"])
def test_a_type_said_is_the_type_found(tmp_path, real, said):
    made = tiny.gguf(tmp_path / f"tiny-{said}.gguf", type=real, width=256, layers=1)
    assert results("quantization", subject(made)) == ({"pass"} if said == real else {"fail"})


def test_one_matrix_of_fewer_bits_is_named(tmp_path):
    types = {"blk.1.ffn_up.weight": "Q4_0"}
    made = tiny.gguf(tmp_path / "tiny-Q8_0.gguf", types=types)
    assert "blk.1.ffn_up.weight is Q4_0" in only("quantization", subject(made)).observed


def test_the_header_and_the_record_are_held_to_it_too(tmp_path):
    made = tiny.gguf(tmp_path / "tiny.gguf", "llama", "Q4_0", metadata={"general.file_type": 7})
    assert "Q8_0 by general.file_type" in only("quantization", subject(made)).expected
    made = tiny.gguf(tmp_path / "tiny.gguf", "llama", "Q4_0")
    assert only("quantization", subject(made, quantization="Q8_0")).result == "fail"
    assert only("quantization", subject(made, quantization="Q4_0")).result == "pass"


def test_the_dtype_of_a_configuration(tmp_path):
    for told, result in (("bfloat16", "pass"), ("float32", "fail"), ("float16", "fail")):
        one = subject(tiny.release(tmp_path / told, config={"torch_dtype": told}))
        assert only("quantization", one).result == result


def test_the_mixes_of_the_real_models(smollm2_gguf, gemma3_gguf):
    for path, name, real, other in (
        (smollm2_gguf, "SmolLM2-135M", "Q4_1", "Q4_0"),
        (gemma3_gguf, "gemma-3-270m", "Q4_K_M", "Q8_0"),
    ):
        assert only("quantization", subject(path, name=f"{name}-{real}.gguf")).result == "pass"
        assert only("quantization", subject(path, name=f"{name}-{other}.gguf")).result == "fail"
        assert only("parameters", subject(path, name=f"{name}.gguf")).result == "pass"
        assert only("parameters", subject(path, name="Other-7B.gguf")).result == "fail"


@pytest.mark.parametrize("width", [256, 320])
def test_no_mix_that_llama_cpp_makes_raises_an_alarm(tmp_path, width):
    bindings = pytest.importorskip("llama_cpp_py_sync._cffi_bindings")
    from overt.formats.ggml import FILE_TYPES

    ffi, library = bindings.get_ffi(), bindings.get_lib()
    source = tiny.gguf(tmp_path / "source.gguf", type="F32", width=width, inner=2 * width, layers=4)
    made = 0
    quiet = ffi.callback("void(enum ggml_log_level, const char *, void *)", lambda *_: None)
    library.llama_log_set(quiet, ffi.NULL)
    for number, name in FILE_TYPES.items():
        asked = library.llama_model_quantize_default_params()
        asked.ftype, asked.nthread = number, 1
        target = tmp_path / f"tiny-{name}.gguf"
        given = ffi.new("llama_model_quantize_params *", asked)
        if library.llama_model_quantize(str(source).encode(), str(target).encode(), given):
            continue  # needs an importance matrix, or is no type of this version
        made += 1
        assert only("quantization", subject(target)).result == "pass", name
    library.llama_log_set(ffi.NULL, ffi.NULL)
    assert made > 15


def test_rows_that_fill_no_block(tmp_path):
    def edit(arrays):
        return {n: a[..., :24] if a.ndim > 1 else a for n, a in arrays.items()}

    made = tiny.gguf(tmp_path / "tiny-Q8_0.gguf", edit_gguf=edit)
    assert only("quantization", subject(made)).result == "pass"
