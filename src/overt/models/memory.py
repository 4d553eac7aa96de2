"""Will it fit: the memory a model takes at its peak, from its header alone, against what is free.

The terms are those of llama.cpp b11549 on a CPU, in the configuration the engine runs it with
(one stream of cells a slot, flash attention, no prompt cache beyond the slots, `CHECKPOINTS`):

- weights: the file's tensor data, mapped and wholly resident, and once more those tensors that the
  CPU backend stores in another order for its own kernels (ggml-cpu/repack.cpp);
- cache: keys and values of each cell (llama-kv-cache.cpp; windowed layers as in
  llama-kv-cache-iswa.cpp), recurrent state, and the checkpoints the server keeps of what cannot be
  rolled back (server-context.cpp);
- compute: the largest graph's buffers and the logits;
- overhead: the process, its libraries, the vocabulary and what each slot keeps of it.

Buffer sizes follow from the sources; the constants of the overhead were measured
(tests/models/test_fit.py measures the whole again).
"""

import functools
import platform
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import psutil

from overt.errors import BadSetting, OutOfMemory
from overt.formats.ggml import TYPES
from overt.formats.gguf import MAX_BLOCKS, Array, GgufHeader

CHECKPOINTS: Final = 2
"""Checkpoints a slot keeps of windowed or recurrent layers; the engine is told the same."""
MIN_CONTEXT: Final = 512
STEP: Final = 256
"""llama.cpp rounds a context up to this many cells."""

_MIB: Final = 1 << 20
_PROCESS: Final = 36 * _MIB  # Python, xllamacpp's pages and what both allocate before a model
_TOKEN: Final = 225  # bytes of heap for each token of the vocabulary
_MERGE: Final = 298  # and for each merge of a byte-pair tokenizer
_SLOT: Final = int(1.6 * _MIB)  # a slot's task, sampler and thread
_CANDIDATE: Final = 12  # llama_token_data, one for each token in each slot
_SPARE: Final = 0.9  # the share of free memory that a context chosen here may use
_UNSTATED_CONTEXT: Final = 4096

# Windowed layers where the file does not list them: of each `period` layers one sees everything,
# the first or the last; and the window where the file does not state it. From src/models/*.cpp.
_WINDOWS: Final[dict[str, tuple[int, bool, int]]] = {
    "afmoe": (4, False, 0),
    "cohere2": (4, False, 0),
    "cohere2moe": (4, True, 0),
    "exaone-moe": (4, False, 128),
    "gemma2": (2, False, 4096),
    "gemma3": (6, False, 0),
    "gemma3n": (5, False, 0),
    "gpt-oss": (2, False, 0),
    "laguna": (4, True, 0),
    "llama4": (4, False, 8192),
    "mellum": (4, False, 0),
    "muse-glimmer": (4, False, 0),
    "olmo2": (4, False, 0),
    "plamo3": (8, False, 0),
    "smallthinker": (4, True, 0),
}
_HYBRIDS: Final = ("qwen3next", "qwen35", "qwen35moe")  # every fourth layer is attention


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Bytes of resident memory at the peak, for `parallel` slots of `context` tokens each."""

    weights: int
    kv_cache: int
    compute: int
    overhead: int
    context: int
    parallel: int

    @property
    def total(self) -> int:
        return self.weights + self.kv_cache + self.compute + self.overhead


@dataclass(frozen=True, slots=True)
class ContextFit:
    """A context that fits; `reduced_from` is the model's own where that would not."""

    context: int
    need: MemoryNeed
    reduced_from: int | None = None


# ---- how much ------------------------------------------------------------------------------


def need(
    header: GgufHeader,
    context: int,
    parallel: int = 1,
    batch: int = 128,
    kv_type: str = "f16",
    *,
    projector: int = 0,
    native: bool = False,
) -> MemoryNeed:
    """The worker's peak memory in bytes.

    `projector` is the size in bytes of the file that reads images, where there is one; `native`
    says that the engine was built for this very CPU, which stores more types of tensor twice.

    Raises:
        BadSetting: `kv_type` is no type the cache can have.
    """
    full, windowed = _cells(header, context, batch)
    slot_cache, slot_state = _cache(header, full, windowed, kv_type)
    vocabulary = header.vocabulary_size or 0
    merges = header.metadata.get("tokenizer.ggml.merges")
    return MemoryNeed(
        weights=header.file_size - header.data_offset + _repacked(header, native) + projector,
        kv_cache=parallel * (slot_cache + CHECKPOINTS * slot_state),
        compute=_compute(header, batch, parallel, full, windowed),
        overhead=_PROCESS
        + _TOKEN * vocabulary
        + _MERGE * (len(merges) if isinstance(merges, (Array, tuple)) else 0)
        + parallel * (_SLOT + _CANDIDATE * vocabulary),
        context=context,
        parallel=parallel,
    )


def of_size(
    need: MemoryNeed, header: GgufHeader, size: int, quantization: str, projector: int = 0
) -> MemoryNeed:
    """About what another quantization of the same model needs: a file (or files) of `size` bytes.

    `found` is the need of `header`, the quantization that was read. How much of the other file the
    CPU backend stores twice is judged by its name: of a K mix such as Q4_K_M three quarters.
    """
    twice = 0.0
    kind = quantization.removeprefix("UD-")
    if any(kind.startswith(name) for name in _repacked_types(False)):
        twice = 0.75 if kind.endswith(("_M", "_L", "_XL")) else 1.0
        untied = header.tensor("output.weight") is not None
        embedding = header.tensor("token_embd.weight") if untied else None
        if embedding and header.parameters:
            twice *= 1 - embedding.parameters / header.parameters
    return replace(need, weights=int(size * (1 + twice)) + projector)


def _cells(header: GgufHeader, context: int, batch: int) -> tuple[int, int]:
    """Cells of a slot in layers that see everything, and in windowed layers (0 without any)."""
    full = _up(context)
    window = _window(header)
    return full, _up(min(full, window + batch)) if window else 0


def _cache(header: GgufHeader, full: int, windowed: int, kv_type: str) -> tuple[int, int]:
    """A slot's cache in bytes, and how much of it a checkpoint copies."""
    key, value = header.key_length or 0, header.value_length or 0
    short_key = header.number(f"{header.architecture}.attention.key_length_swa") or key
    short_value = header.number(f"{header.architecture}.attention.value_length_swa") or value
    if header.number(f"{header.architecture}.attention.key_length_mla"):
        value = short_value = 0  # latent attention: the values are a view of the keys
    cache = state = 0
    in_window = _windowed_layers(header) if windowed else ()
    for layer, heads in enumerate(_cached_heads(header)):
        if layer < len(in_window) and in_window[layer]:
            row = _bytes_of(heads * (short_key + short_value), kv_type)
            size = windowed * row
            state += min(full, _window(header)) * row  # what has left the window is not copied
        else:
            size = full * _bytes_of(heads * (key + value), kv_type)
        cache += size
    recurrent = _recurrent_state(header)
    return cache + recurrent, state + recurrent


def _cached_heads(header: GgufHeader) -> tuple[int, ...]:
    """Key heads of each layer that has a cache of its own, 0 for the others."""
    own = header.architecture
    heads = header.kv_head_counts
    layers = len(heads) - (header.number(f"{own}.nextn_predict_layers") or 0)
    shared = header.number(f"{own}.attention.shared_kv_layers") or 0
    if own == "gemma3n":
        layers = min(layers, 20)
    every = header.number(f"{own}.full_attention_interval") or (4 if own in _HYBRIDS else 1)
    return tuple(
        count if layer < layers - shared and (layer + 1) % every == 0 else 0
        for layer, count in enumerate(heads)
    )


def _recurrent_state(header: GgufHeader) -> int:
    """Bytes of a slot's convolution and state-space rows (f32), in layers without attention."""
    own = header.architecture
    inner, state = header.number(f"{own}.ssm.inner_size"), header.number(f"{own}.ssm.state_size")
    if not inner or not state:
        return 0
    groups = header.number(f"{own}.ssm.group_count") or 0
    steps = max((header.number(f"{own}.ssm.conv_kernel") or 1) - 1, 0)
    layers = min(header.block_count or 0, MAX_BLOCKS) - sum(
        1 for heads in _cached_heads(header) if heads
    )
    return 4 * layers * (steps * (inner + 2 * groups * state) + state * inner)


def _window(header: GgufHeader) -> int:
    own = header.architecture
    if header.metadata.get(f"{own}.attention.sliding_window") == 0:
        return 0
    if not any(_windowed_layers(header)):
        return 0
    return header.sliding_window or _WINDOWS.get(own, (0, False, 0))[2]


def _windowed_layers(header: GgufHeader) -> tuple[bool, ...]:
    """For each layer whether it looks back a window only. An unknown architecture has none."""
    own = header.architecture
    blocks = min(header.block_count or 0, MAX_BLOCKS)
    listed = header.metadata.get(f"{own}.attention.sliding_window_pattern")
    if isinstance(listed, tuple):
        return tuple(bool(item) for item in listed[:blocks])
    period, dense_first, _ = _WINDOWS.get(own, (1, False, 0))
    if own in _WINDOWS and isinstance(listed, int):
        period = int(listed)
    if period == 0:
        return (True,) * blocks
    dense = 0 if dense_first else period - 1
    return tuple(layer % period != dense for layer in range(blocks))


def _compute(header: GgufHeader, batch: int, parallel: int, full: int, windowed: int) -> int:
    """The buffers of the largest graph, and the logits handed out.

    The graph holds the attention masks (f16), five rows of the model's width for each token of the
    batch, and the wider of the feed-forward part and the logits (f32).
    """
    own = header.architecture
    width = max(header.feed_forward_lengths, default=0)
    expert = header.number(f"{own}.expert_feed_forward_length") or 0
    shared = header.number(f"{own}.expert_shared_feed_forward_length") or 0
    width = max(width, expert * (header.number(f"{own}.expert_used_count") or 0) + shared)
    logits = 4 * parallel * (header.vocabulary_size or 0)
    masks = 2 * batch * (full + windowed)
    rows = 4 * batch * 5 * (header.embedding_length or 0)
    return masks + rows + max(4 * batch * 3 * width, logits) + logits


def _repacked(header: GgufHeader, native: bool) -> int:
    types = _repacked_types(native)
    tied = header.tensor("output.weight") is None
    return sum(
        tensor.size
        for tensor in header.tensors
        if tensor.type in types
        and 2 <= len(tensor.shape) <= 3
        and tensor.shape[1] % 8 == 0
        and tensor.name.endswith(".weight")
        and ("embd" not in tensor.name or (tied and tensor.name == "token_embd.weight"))
    )


@functools.cache
def _repacked_types(native: bool) -> frozenset[str]:
    """Types the CPU backend reorders (ggml_repack_get_optimal_repack_type)."""
    machine = platform.machine().lower()
    if machine in ("x86_64", "amd64"):
        types = {"Q4_0", "Q4_K", "IQ4_NL", "MXFP4"}  # the wheel is built for AVX2
        return frozenset(types | {"Q2_K"} if native and "avx512f" in _cpu_flags() else types)
    if machine in ("aarch64", "arm64") and (native or platform.system() == "Darwin"):
        return frozenset({"Q4_0", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "MXFP4", "Q8_0", "Q1_0"})
    return frozenset()


def _cpu_flags() -> frozenset[str]:
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:
        return frozenset()
    line = next((line for line in text.splitlines() if line.startswith("flags")), "")
    return frozenset(line.partition(":")[2].split())


def _bytes_of(elements: int, kv_type: str) -> int:
    for kind in TYPES.values():
        if kind.name == kv_type.upper():
            return elements * kind.bytes // kind.block
    raise BadSetting(f"the cache cannot have the type {kv_type!r}", "use f16 or q8_0")


def _up(context: int) -> int:
    return -(-context // STEP) * STEP


# ---- how much there is -----------------------------------------------------------------------


def free_memory(root: Path = Path("/"), *, mapped: bool = False) -> int:
    """Bytes that could be taken now without pushing out others; limits of control groups count.

    `root` is where ``/proc`` and ``/sys`` are looked for. With `mapped` the pages of files in use
    count as free too, as they do for the whole machine anyway: for who counts the files of loaded
    models by itself.
    """
    return max(0, min([int(psutil.virtual_memory().available), *_group_rooms(root, mapped)]))


def _group_rooms(root: Path, mapped: bool) -> list[int]:
    """What each limited control group this process is in has left, caches it can drop included."""
    kinds: tuple[str, ...] = ("inactive_file", "active_file") if mapped else ("inactive_file",)
    try:
        lines = (root / "proc/self/cgroup").read_text("utf-8").splitlines()
    except (OSError, ValueError):
        return []
    rooms = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            base, names = root / "sys/fs/cgroup", ("memory.max", "memory.current")
            droppable = kinds
        elif "memory" in controllers.split(","):
            base = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
            droppable = tuple(f"total_{kind}" for kind in kinds)
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", ".", "..")]
        for depth in range(len(parts), -1, -1):
            room = _group_room(base.joinpath(*parts[:depth]), *names, droppable)
            if room is not None:
                rooms.append(room)
    return rooms


def _group_room(group: Path, most: str, used: str, droppable: Iterable[str]) -> int | None:
    try:
        limit = int((group / most).read_text("ascii"))
        taken = int((group / used).read_text("ascii"))
    except (OSError, ValueError):  # no such group, or "max"
        return None
    try:
        stat = dict(
            line.split() for line in (group / "memory.stat").read_text("ascii").splitlines()
        )
        taken -= sum(int(stat.get(kind, 0)) for kind in droppable)
    except (OSError, ValueError):
        pass
    return max(0, limit - max(0, taken))


# ---- what to do about it ---------------------------------------------------------------------


def choose(
    header: GgufHeader,
    *,
    context: int,
    parallel: int,
    free: int,
    batch: int = 128,
    kv_type: str = "f16",
    projector: int = 0,
    native: bool = False,
    label: str = "the model",
) -> ContextFit:
    """A context that fits in `free` bytes.

    `context` 0 asks for the model's own, reduced to what fits in nine tenths of `free` (the
    estimate is good to a tenth). `label` names the model in messages.

    Raises:
        OutOfMemory: the context asked for does not fit, or not even the smallest does; the hint
            holds choices that would, each computed.
    """

    def takes(tokens: int, slots: int = parallel) -> MemoryNeed:
        return need(header, tokens, slots, batch, kv_type, projector=projector, native=native)

    if context:
        taken = takes(context)
        if taken.total <= free:
            return ContextFit(context, taken)
        raise _too_big(taken, free, takes, label)
    own = header.context_length or _UNSTATED_CONTEXT
    spared = int(free * _SPARE)
    for most in (spared, free):
        best = _largest(own, most, takes)
        if best:
            return ContextFit(best, takes(best), own if best < own else None)
    raise _too_big(takes(min(own, MIN_CONTEXT)), free, takes, label)


def _largest(limit: int, free: int, takes: Callable[[int], MemoryNeed]) -> int:
    """The largest multiple of `STEP` below `limit`, or `limit` itself, that fits; else 0."""
    if takes(limit).total <= free:
        return limit
    low, high = MIN_CONTEXT // STEP, (limit - 1) // STEP
    if high < low or takes(low * STEP).total > free:
        return 0
    while low < high:
        middle = (low + high + 1) // 2
        if takes(middle * STEP).total <= free:
            low = middle
        else:
            high = middle - 1
    return low * STEP


def _too_big(
    need: MemoryNeed, free: int, takes: Callable[[int, int], MemoryNeed], label: str
) -> OutOfMemory:
    slots = f" for each of {need.parallel} requests at once" if need.parallel > 1 else ""
    message = (
        f"{label} needs {human(need.total)} of memory with a context of {need.context} "
        f"tokens{slots} and {human(free)} is free"
    )
    choices = _choices(need, free, takes)
    file = _largest_file(need, free)
    if choices:
        return OutOfMemory(message, "use " + ", or ".join(choices + ([file] if file else [])))
    file = _largest_file(takes(min(MIN_CONTEXT, need.context), 1), free)
    hint = f"its weights alone take {human(need.weights)}: free some memory"
    return OutOfMemory(message, f"{hint}, or use {file}" if file else hint)


def _choices(need: MemoryNeed, free: int, takes: Callable[[int, int], MemoryNeed]) -> list[str]:
    """A smaller context, or fewer slots, or else both; each with what it would take."""
    slots = need.parallel
    choices = []
    context = _largest(need.context - 1, free, lambda tokens: takes(tokens, slots))
    if context:
        choices.append(f"--context {context} ({human(takes(context, slots).total)})")
    fewer = next((n for n in range(slots - 1, 0, -1) if takes(need.context, n).total <= free), 0)
    if fewer:
        choices.append(f"--parallel {fewer} ({human(takes(need.context, fewer).total)})")
    if not choices and slots > 1:
        context = _largest(need.context - 1, free, lambda tokens: takes(tokens, 1))
        if context:
            size = human(takes(context, 1).total)
            choices.append(f"--parallel 1 --context {context} ({size})")
    return choices


def _largest_file(need: MemoryNeed, free: int) -> str:
    """The file that would fit in place of this one, where a smaller one could help."""
    room = free - (need.total - need.weights)
    return f"a file of at most {human(room)}" if 0 < room < need.weights else ""


def human(size: int) -> str:
    """``1.2 GiB``, ``241 MiB``: the one way Overt writes sizes; `settings.bytes_of` reads it."""
    value = float(size)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if value < 1023.5:
            return f"{size} bytes" if unit == "bytes" else _three(value, unit)
        value /= 1024
    return _three(value, "TiB")


def _three(value: float, unit: str) -> str:
    return f"{value:.1f} {unit}" if value < 9.95 else f"{value:.0f} {unit}"
