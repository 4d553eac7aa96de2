"""`overt doctor`: this machine, what Overt can use of it, and what would make it faster."""

import os
import platform
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from overt.cli.options import verb
from overt.cli.output import Output, pairs, size
from overt.errors import OvertError
from overt.settings import Settings

if TYPE_CHECKING:
    from overt.runtime.native_build.build import Build

_LITTLE_MEMORY = 1 << 30
_LITTLE_DISK = 2 << 30


@click.command("doctor", short_help="what is here, and what would be faster")
@verb
def command(out: Output, settings: Settings) -> int:
    """Look at this machine: processor, memory, disk, engines, sandbox, store, and which keys of
    providers are known.

    Ends with what would make it faster or safer, each with the command to type. Exit code 0 also
    where something could be better; 1 where no model could run.
    """
    out.status("looking at this machine")
    machine, engines = _machine(settings), _engines(settings)
    isolation = _isolation(settings)
    store, providers = _store(settings), _providers(settings)
    advice = _advice(settings, machine, engines, isolation, store)
    runs = any(engine["problem"] is None for engine in engines)
    out.clear()
    value: dict[str, Any] = {
        "ok": runs,
        "machine": machine,
        "engines": engines,
        "isolation": isolation,
        "store": store,
        "providers": providers,
        "advice": advice,
    }
    out.result(value, lambda: _human(value), lambda: "\n".join(item["do"] for item in advice))
    return 0 if runs else 1


def _machine(settings: Settings) -> dict[str, Any]:
    import psutil

    from overt.models.memory import free_memory
    from overt.runtime import cpu
    from overt.runtime.native_build.build import instruction_sets

    home = settings.home
    while not home.exists() and home != home.parent:
        home = home.parent
    disk = shutil.disk_usage(home)
    return {
        "system": f"{platform.system()} {platform.release()}",
        "processor": processor(),
        "architecture": platform.machine(),
        "instructions": instruction_sets(),
        "cores": os.cpu_count(),
        "cores_usable": cpu.usable(),
        "cores_free": round(cpu.free(window=0.5), 1),
        "memory": psutil.virtual_memory().total,
        "memory_free": free_memory(),
        "disk": disk.total,
        "disk_free": disk.free,
        "python": f"{platform.python_version()} ({sys.executable})",
    }


def processor() -> str:
    """The processor's name, as its maker wrote it; "unknown" where the system does not tell."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def _engines(settings: Settings) -> list[dict[str, Any]]:
    from overt.runtime.native_build.build import builds, native_path

    native = None if settings.engine in ("wheel", "torch") else native_path(settings.home)
    return [
        {
            "name": build.name,
            "version": build.version,
            "features": list(build.features),
            "size": build.size,
            "path": str(build.path) if build.path else None,
            "problem": build.problem,
            "used": _is_used(build, native, settings),
        }
        for build in builds(settings.home)
    ]


def _is_used(build: "Build", native: Path | None, settings: Settings) -> bool:
    if build.path is None:
        return native is None and settings.engine not in ("native", "torch")
    return build.path == native


def _isolation(settings: Settings) -> dict[str, Any]:
    """The walls a worker gets here; tried on a real one."""
    import asyncio

    from overt.runtime.sandbox.airgap import prove

    try:
        proof = asyncio.run(prove("best"))
    except OvertError as error:
        return {"ok": False, "layers": [], "missing": [], "problem": str(error), "tried": 0}
    return {
        "ok": proof.ok,
        "layers": list(proof.isolation.layers),
        "missing": list(proof.isolation.missing),
        "problem": None,
        "tried": len(proof.attempts),
    }


def _store(settings: Settings) -> dict[str, Any]:
    from overt.models.store import Store

    entries = Store(settings.home).names()
    digests = {file.digest: file.size for entry in entries for file in entry.manifest.files}
    return {
        "home": str(settings.home),
        "models": [str(entry.ref) for entry in entries],
        "bytes": sum(digests.values()),
    }


def _providers(settings: Settings) -> dict[str, Any]:
    """Whose keys are known and where they are, and where text may go. Never a key, nor a part."""
    from overt.security import credentials

    try:
        rows, problem = credentials.list_keys(settings, os.environ), None
    except OvertError as error:
        rows, problem = [], str(error)
    return {
        "keys": [{"name": name, "place": place} for name, place, _ in rows],
        "problem": problem,
        "egress": settings.egress,
        "offline": settings.offline,
    }


def _advice(
    settings: Settings,
    machine: dict[str, Any],
    engines: list[dict[str, Any]],
    isolation: dict[str, Any],
    store: dict[str, Any],
) -> list[dict[str, str]]:
    """What would be better, most useful first: why, and what to do."""
    advice: list[tuple[str, str]] = []
    if not any(engine["problem"] is None for engine in engines):
        advice.append(("no engine can be loaded", "pip install --force-reinstall xllamacpp"))
    if not store["models"]:
        advice.append(("no model is here yet", "overt pull smollm2"))
    if settings.engine == "wheel":
        advice.append(("only the generic build is used (engine = wheel)", "unset OVERT_ENGINE"))
    elif not any(engine["name"] == "native" and not engine["problem"] for engine in engines):
        unused = _unused(machine["instructions"], engines)
        why = (
            f"the generic build leaves {', '.join(unused)} unused"
            if unused
            else ("a build for this very processor can be faster than the generic one")
        )
        advice.append((why, "overt engine build"))
    if machine["cores_free"] < machine["cores_usable"] / 2:
        advice.append(
            (
                f"only {machine['cores_free']} of {machine['cores_usable']} cores are free",
                "close what keeps the others busy (see top)",
            )
        )
    if machine["memory_free"] < _LITTLE_MEMORY:
        advice.append(
            (
                f"only {size(machine['memory_free'])} of memory is free",
                "close something, or overt stop --all",
            )
        )
    if machine["disk_free"] < _LITTLE_DISK:
        advice.append(
            (
                f"only {size(machine['disk_free'])} of disk is free",
                "overt rm, or set OVERT_HOME elsewhere",
            )
        )
    if isolation["missing"] or not isolation["ok"]:
        why = isolation["problem"] or f"not in force: {'; '.join(isolation['missing'])}"
        advice.append(
            (f"workers are less shut in than they could be: {why}", "overt airgap --prove")
        )
    return [{"why": why, "do": do} for why, do in advice]


_FAST = {  # /proc/cpuinfo's name -> llama.cpp's, for instructions that speed up its kernels
    "avx512f": "AVX512",
    "avx512_vnni": "AVX512_VNNI",
    "avx512_bf16": "AVX512_BF16",
    "avx_vnni": "AVX_VNNI",
    "amx_int8": "AMX_INT8",
    "asimddp": "DOTPROD",
    "i8mm": "MATMUL_INT8",
    "sve": "SVE",
}


def _unused(instructions: list[str], engines: list[dict[str, Any]]) -> list[str]:
    """Fast instructions this processor has and no usable engine is built for."""
    built = {name for engine in engines if not engine["problem"] for name in engine["features"]}
    return [ours for kernel, ours in _FAST.items() if kernel in instructions and ours not in built]


def _human(value: dict[str, Any]) -> str:
    machine, isolation, store = value["machine"], value["isolation"], value["store"]
    parts = [
        pairs(
            {
                "system": f"{machine['system']}, {machine['architecture']}",
                "processor": machine["processor"],
                "cores": f"{machine['cores_usable']} usable of {machine['cores']}, "
                f"{machine['cores_free']} free now",
                "instructions": _fast_first(machine["instructions"]),
                "memory": f"{size(machine['memory_free'])} free of {size(machine['memory'])}",
                "disk": f"{size(machine['disk_free'])} free of {size(machine['disk'])}",
                "python": machine["python"],
                "store": f"{store['home']}: {len(store['models'])} models, {size(store['bytes'])}",
                "providers": _about_providers(value["providers"]),
                "isolation": ", ".join(isolation["layers"]) or "none",
                "not in force": "\n".join(isolation["missing"]) or None,
                "airgap": f"{isolation['tried']} ways out tried, "
                + ("all denied" if isolation["ok"] else "NOT all denied"),
            }
        ),
        "engines\n" + "\n".join(_engine(engine) for engine in value["engines"]),
    ]
    if value["advice"]:
        lines = [f"  {item['why']}\n    {item['do']}" for item in value["advice"]]
        parts.append("what would make it better\n" + "\n".join(lines))
    else:
        parts.append("nothing to improve")
    return "\n\n".join(parts)


def _about_providers(providers: dict[str, Any]) -> str:
    names = [f"{key['name']} ({key['place']})" for key in providers["keys"]]
    keys = providers["problem"] or f"keys: {', '.join(names) or 'none'}"
    where = {"any": "any server", "none": "no other machine"}.get(
        providers["egress"], providers["egress"]
    )
    return (
        f"{keys}; text may go to {'no other machine (offline)' if providers['offline'] else where}"
    )


def _engine(engine: dict[str, Any]) -> str:
    mark = "used" if engine["used"] else "    "
    text = f"  {mark}  llamacpp {engine['name']} {engine['version']}, {size(engine['size'])}"
    if engine["problem"]:
        return f"{text}: {engine['problem']}"
    return f"{text}: {' '.join(engine['features']) or 'features unknown'}"


def _fast_first(names: list[str]) -> str:
    known = [name for name in names if name in (*_FAST, "avx", "avx2", "fma", "f16c", "sse4_2")]
    return " ".join(known) or f"{len(names)} kinds"
