"""What of this machine could change the bytes that a step makes, without naming the machine."""

import os
import platform
from collections.abc import Mapping
from importlib import metadata

from overt.errors import lacking
from overt.provenance.steps import RecipeStep
from overt.runtime.native_build.build import cpu_fingerprint, instruction_sets, native_path
from overt.settings import Settings

_COMPUTING = ("torch", "llama-cpp-py-sync", "xllamacpp")  # packages that choose kernels by the CPU
_WIDE = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "avx_vnni",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
    "sve2",
)
CHOOSING = (
    "ATEN_CPU_CAPABILITY",
    "ONEDNN_MAX_CPU_ISA",
    "DNNL_MAX_CPU_ISA",
    "MKL_ENABLE_INSTRUCTIONS",
    "MKL_CBWR",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "DNNL_DEFAULT_FPMATH_MODE",
    "GLIBC_TUNABLES",
    "NVIDIA_TF32_OVERRIDE",
    "CUBLAS_WORKSPACE_CONFIG",
)
"""Variables that other programs choose their kernels by."""


def current(step: RecipeStep, settings: Settings, device: str = "cpu") -> dict[str, str]:
    """Versions, instruction set and system that `step` would run with now.

    Args:
        device: what the step computes on; of a GPU its kind and driver count too.

    Raises:
        Unsupported: a package that the step needs is not installed.
    """
    versions = {name: _version(name, step.name) for name in step.packages}
    versions["python"] = ".".join(platform.python_version_tuple()[:2])
    versions["system"] = f"{platform.system()} {platform.machine()}"
    if set(step.packages) & set(_COMPUTING):
        versions["instructions"] = instructions(torch="torch" in step.packages)
        versions |= {name.lower(): os.environ[name] for name in CHOOSING if os.environ.get(name)}
    if "xllamacpp" in step.packages:
        native = native_path(settings.home) is not None
        versions["llama.cpp"] = f"native {cpu_fingerprint()}" if native else "wheel"
    if device.startswith("cuda"):
        versions |= _gpu()
    return versions


def instructions(*, torch: bool) -> str:
    """The instruction sets that kernels are chosen by.

    Args:
        torch: ask PyTorch which of its kernels it takes here, which means to import it.
    """
    there = [name for name in instruction_sets() if name in _WIDE]
    if torch:
        from torch.backends.cpu import get_cpu_capability

        there.insert(0, str(get_cpu_capability()))
    return " ".join(there) or "unknown"


def differences(recorded: Mapping[str, str], now: Mapping[str, str]) -> dict[str, list[str | None]]:
    """What is not the same: each name with what was recorded and what is here.

    Recipes of before names like ``system`` were recorded are only held to what they name.
    """
    names = {*recorded, *now} if "system" in recorded else set(recorded)
    return {
        name: [recorded.get(name), now.get(name)]
        for name in sorted(names)
        if recorded.get(name) != now.get(name)
    }


def _version(package: str, step: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        raise lacking(f"the step {step}", package) from None


def _gpu() -> dict[str, str]:
    import torch

    if not torch.cuda.is_available():
        return {"gpu": "none"}
    major, minor = torch.cuda.get_device_capability()
    return {
        "cuda": str(torch.version.cuda),
        "cudnn": str(torch.backends.cudnn.version()),
        "gpu": f"{torch.cuda.get_device_name()} {major}.{minor}",
    }
