"""Overt as a program of its own, so that its memory and time are its own: started by sides.py.

Reads one JSON object a line (``{"prompts": […], "max_tokens": n, "limit": seconds}``), asks all the
prompts at once through the exchange, and answers with one JSON line: a list of `sides.Timing`
fields in order. The first line it writes, unasked, says what was opened.
"""

import asyncio
import json
import sys
import time
from dataclasses import asdict
from typing import Any

from overt import settings
from overt.chat import Failed, Message, Request, Sampling, Text, Usage
from overt.gateway.exchange import Exchange


async def ask(exchange: Exchange, ref: str, prompt: str, job: dict[str, Any]) -> dict[str, Any]:
    """One request; seconds are counted from here."""
    request = Request(
        ref,
        (Message.of("user", prompt),),
        sampling=Sampling(temperature=0, seed=1),
        max_tokens=job["max_tokens"],
    )
    begin = time.perf_counter()
    first, pieces, usage, failed = None, 0, None, None
    try:
        async with asyncio.timeout(job["limit"]):
            async for event in exchange.stream(request):
                if isinstance(event, Text):
                    first = first or time.perf_counter() - begin
                    pieces += 1
                elif isinstance(event, Usage):
                    usage = event
                elif isinstance(event, Failed):
                    failed = event.message
    except TimeoutError:
        failed = f"cut off after {job['limit']} s"
    return {
        "first": first,
        "total": time.perf_counter() - begin,
        "tokens_in": usage.tokens_in if usage else 0,
        "tokens_cached": usage.tokens_cached if usage else 0,
        "tokens_out": usage.tokens_out if usage else pieces,
        "failed": failed,
    }


async def main(ref: str, flags: dict[str, Any]) -> None:
    notices: list[str] = []
    exchange = Exchange(settings.load(flags=flags), notices.append)
    await exchange.open(ref)
    facts = asdict(exchange.facts(ref))
    print(json.dumps({**facts, "notices": notices}), flush=True)
    try:
        while line := await asyncio.to_thread(sys.stdin.readline):
            job = json.loads(line)
            asked = (ask(exchange, ref, prompt, job) for prompt in job["prompts"])
            print(json.dumps(await asyncio.gather(*asked)), flush=True)
    finally:
        await exchange.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], json.loads(sys.argv[2])))
