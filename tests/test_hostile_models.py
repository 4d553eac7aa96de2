"""Mutated GGUF files: each is loaded or refused with one sentence; nothing else happens.

The whole path is real: our header reader, the fit check, and llama.cpp in its sandboxed worker,
with a memory limit. OVERT_MUTATIONS sets how many files (docs/engine.md records a run of 10 000).
"""

import asyncio
import os
import random
import resource
import time
from collections import Counter
from pathlib import Path

import pytest

import gguf_writer
from conftest import repeats
from overt import settings
from overt.chat import Answer, Message, Request, Sampling
from overt.errors import OvertError
from overt.gateway.exchange import Exchange

MUTATIONS = int(os.environ.get("OVERT_MUTATIONS") or repeats(60, 300))


def mutate(data: bytes, pick: random.Random, header: int) -> bytes:
    """Flip, splice, stretch or cut, mostly where the header is."""
    out = bytearray(data)
    kind = pick.random()
    at = pick.randrange(header if pick.random() < 0.9 else len(out))
    if kind < 0.45:
        for _ in range(pick.choice((1, 1, 2, 8))):
            out[pick.randrange(header)] ^= 1 << pick.randrange(8)
    elif kind < 0.65:  # a whole integer, the size fields' own shape
        value = pick.choice((0, 1, 2**31, 2**32 - 1, 2**40, 2**63, 2**64 - 1))
        out[at : at + 8] = value.to_bytes(8, "little")
    elif kind < 0.8:
        out[at : at + 4] = pick.randbytes(4)
    elif kind < 0.9:
        del out[at:]
    else:
        out[at:at] = pick.randbytes(pick.randrange(1, 32))
    return bytes(out)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_mutated_model_is_loaded_or_refused_with_a_sentence(home: Path, tmp_path: Path):
    good = tmp_path / "good.gguf"
    header = gguf_writer.write_llama(good)
    data = good.read_bytes()
    chosen = settings.load({"OVERT_HOME": str(home)}, {"context": 128, "threads": 1})
    outcomes: Counter[str] = Counter()

    async def attempt(path: Path) -> str:
        exchange = Exchange(chosen)
        try:
            answer = Answer()
            request = Request(
                str(path), (Message.of("user", "hi"),), sampling=Sampling(seed=1), max_tokens=2
            )
            async with asyncio.timeout(60):
                async for event in exchange.stream(request):
                    answer.add(event)
            if answer.failed:
                return sentence(answer.failed.message)
            return "answered"
        except OvertError as error:
            return sentence(error.message, type(error).__name__)
        finally:
            await exchange.close()

    def sentence(message: str, name: str = "Failed") -> str:
        assert message.strip()
        assert "\n" not in message
        assert len(message) < 600
        assert "Traceback" not in message
        return name

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    worst = 0.0
    for number in range(MUTATIONS):
        path = tmp_path / "mutated.gguf"
        path.write_bytes(mutate(data, random.Random(number), header))
        start = time.monotonic()
        outcomes[asyncio.run(attempt(path))] += 1
        worst = max(worst, time.monotonic() - start)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(dict(outcomes), f"slowest {worst:.1f} s, parent grew {grown // 1024} MB")
    assert grown < 200 * 1024  # KiB: no allocation of the parent follows a number in the file
    assert worst < 60
    assert outcomes["answered"]
    assert sum(outcomes.values()) == MUTATIONS
