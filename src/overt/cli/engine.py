"""`overt engine`: which builds of llama.cpp there are, and one made for this very processor."""

from typing import TYPE_CHECKING

import click

from overt.cli.options import verb
from overt.cli.output import Output, duration, size, table
from overt.settings import Settings

if TYPE_CHECKING:
    from overt.runtime.native_build.build import Build
    from overt.runtime.native_build.compile import BuildProgress


@click.group("engine", short_help="build llama.cpp for this very processor")
def command() -> None:
    """The llama.cpp that models run on.

    The installed one runs on any processor with AVX2 (or any 64-bit Arm), so it leaves newer
    instructions unused. `overt engine build` compiles the same version for this processor; models
    then run on it (`--engine wheel` takes the installed one all the same).
    """


@command.command("build", short_help="compile llama.cpp for this processor")
@verb
def build(out: Output, settings: Settings) -> None:
    """Compile llama.cpp for this processor: five to ten minutes on two cores, and a compiler.

    The sources are those of the installed version, from your package index, checked against a
    SHA-256. A build that was stopped goes on where it was; one that is whole is left as it is.
    """
    from overt.runtime.native_build import compile as compiling
    from overt.runtime.native_build.build import native_path

    if native_path(settings.home) is None:
        compiling.check_machine()
        out.note(
            f"compiling llama.cpp with {compiling.jobs()} jobs at low priority; "
            "this takes about ten minutes on two cores"
        )
    made = compiling.build(settings, _BuildLines(out))
    out.result(
        as_json(made),
        lambda: (
            f"models run on the native build now: {' '.join(made.features)}\n"
            f"{made.path} ({size(made.size)})"
        ),
    )


@command.command("list", short_help="the builds and the instructions they use")
@verb
def show(out: Output, settings: Settings) -> None:
    """The builds on this machine and the instructions each uses; the last usable one is taken."""
    from overt.runtime.native_build.build import builds

    all_builds = builds(settings.home)
    rows = [
        (
            each.name,
            each.version,
            size(each.size),
            each.problem
            or ("not chosen" if each is not _build_in_use(all_builds, settings) else "in use"),
            " ".join(each.features),
        )
        for each in all_builds
    ]
    out.result(
        {
            "engines": [
                {**as_json(each), "used": each is _build_in_use(all_builds, settings)}
                for each in all_builds
            ]
        },
        lambda: table(("build", "version", "size", "state", "instructions"), rows),
        lambda: "\n".join(each.name for each in all_builds if each.problem is None),
    )


@command.command("remove", short_help="delete the native build")
@click.argument("name", type=click.Choice(["native"]))
@verb
def remove(out: Output, settings: Settings, name: str) -> None:
    """Delete the native build; models run on the installed one again."""
    from overt.runtime.native_build import build as engines

    freed = engines.remove(settings.home)
    out.result({"removed": name, "bytes_freed": freed}, lambda: f"removed {name}: {size(freed)}")


def as_json(build: "Build") -> dict[str, object]:
    return {
        "name": build.name,
        "version": build.version,
        "path": str(build.path) if build.path else None,
        "instructions": list(build.features),
        "size": build.size,
        "problem": build.problem,
    }


def _build_in_use(all_builds: "list[Build]", settings: Settings) -> "Build | None":
    """The build a model would run on now."""
    names = ("wheel", "native") if settings.engine == "auto" else (settings.engine,)
    usable = [each for each in all_builds if each.problem is None and each.name in names]
    return usable[-1] if usable else None


class _BuildLines:
    """Progress on a terminal as a moving line, elsewhere as a line for every tenth."""

    def __init__(self, out: Output) -> None:
        self._out = out
        self._tenth = -1

    def __call__(self, progress: "BuildProgress") -> None:
        left = progress.seconds_left
        text = f"{progress.fraction:4.0%}  {progress.what}"
        if left is not None:
            text += f", about {duration(left)} left"
        if self._out.progress:
            self._out.status(text)
        elif int(progress.fraction * 10) > self._tenth:
            self._tenth = int(progress.fraction * 10)
            self._out.note(text)
