"""What the tensors of a file add up to, type by type; the same for every format."""

from collections.abc import Iterable
from typing import NamedTuple, Protocol


class Share(NamedTuple):
    """What the tensors of one type add up to."""

    tensors: int
    parameters: int
    bytes: int


class CountedTensor(Protocol):
    """A tensor, as far as it is counted."""

    @property
    def type(self) -> str: ...

    @property
    def parameters(self) -> int: ...

    @property
    def size(self) -> int: ...


def mix(tensors: Iterable[CountedTensor]) -> dict[str, Share]:
    """Tensors, parameters and bytes of each type, the largest share of bytes first."""
    shares: dict[str, Share] = {}
    for tensor in tensors:
        old = shares.get(tensor.type, Share(0, 0, 0))
        shares[tensor.type] = Share(
            old.tensors + 1, old.parameters + tensor.parameters, old.bytes + tensor.size
        )
    return dict(sorted(shares.items(), key=lambda item: -item[1].bytes))
