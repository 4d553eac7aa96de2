"""How far two engines are apart on one text: log-probabilities by torch and by llama.cpp.

    python scripts/torch_difference.py smollm2 --tokens 300

Prints, for the model's file and for the same weights as F32 and F16, the largest and the mean
|difference| of a token's log-probability, and how often both find the same token likeliest.
llama.cpp rounds a prompt to 8 bits where the weights are quantized, and to 16 bits in its cache of
keys and values; torch rounds nothing.
"""

import argparse
import asyncio
import json
import tempfile
from dataclasses import replace
from pathlib import Path

from overt.chat import ScoreRequest, TokenLogprob
from overt.gateway.exchange import Exchange
from overt.lab.merge.weights import Tensors, encoded, stored, write
from overt.models import pull
from overt.settings import Settings, load

TEXT = (
    "The sea was calm and the little boat went out before the sun had come over the hills. Maria "
    "held the oars while her father looked at the nets. In 1848 a man named James Marshall found "
    "gold in a river of California, and within two years more than three hundred thousand people "
    "had come. Water boils at one hundred degrees Celsius at the level of the sea; on a high "
    "mountain it boils sooner, since the air presses less. def area(width, height): return width * "
    "height. The committee decided on Tuesday that the library would stay open until nine in the "
    "evening, although several members had asked for ten. To bake bread you need flour, water, "
    "salt and yeast, some patience and a hot oven. She asked whether the train to Vienna would "
    "leave on time, and the man behind the window shrugged. Light takes a little more than eight "
    "minutes from the sun to the earth. If all roses are flowers and some flowers fade quickly, it "
    "does not follow that some roses fade quickly. He wrote three letters, tore two of them up and "
    "sent the last without reading it again. "
)


async def words(ref: str, settings: Settings, count: int) -> tuple[int, ...]:
    exchange = Exchange(replace(settings, engine="wheel"))
    try:
        return (await exchange.tokenize(ref, TEXT * 3))[:count]
    finally:
        await exchange.close()


async def scored(ref: str, settings: Settings, ids: tuple[int, ...]) -> list[TokenLogprob]:
    exchange = Exchange(settings)
    try:
        return list(await exchange.score(ScoreRequest(ref, ids, 1)))
    finally:
        await exchange.close()


def compared(ref: str, settings: Settings, ids: tuple[int, ...]) -> dict[str, float | int]:
    by = [
        asyncio.run(scored(ref, replace(settings, engine=engine), ids))[1:]
        for engine in ("torch", "wheel")
    ]
    apart = [abs((a.logprob or 0) - (b.logprob or 0)) for a, b in zip(*by, strict=True)]
    same = sum(a.top[0][0] == b.top[0][0] for a, b in zip(*by, strict=True))
    return {
        "tokens": len(apart),
        "max": max(apart),
        "mean": sum(apart) / len(apart),
        "same_likeliest": same / len(apart),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("ref")
    parser.add_argument("--tokens", type=int, default=300)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    settings = load(flags={"threads": asked.threads})
    source = Tensors(pull.find(asked.ref, settings).weights, asked.ref)
    ids = asyncio.run(words(asked.ref, settings, asked.tokens))
    with tempfile.TemporaryDirectory() as folder:
        files = {"as it is": asked.ref}
        for type in ("f32", "f16"):
            path = Path(folder) / f"{type}.gguf"
            write(
                path,
                source,
                type,
                lambda one, type=type: encoded(
                    source.read(one.name), stored(one, source.header, type), one.name
                ),
                lambda *_: None,
            )
            files[type] = str(path)
        for label, ref in files.items():
            found = compared(ref, settings, ids)
            print(json.dumps({"model": asked.ref, "weights": label, **found}))


if __name__ == "__main__":
    main()
