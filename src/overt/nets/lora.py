"""Low-rank adapters on a frozen net: learnt here, and written and read as peft does.

The forward and backward of an adapted layer are one function of autograd's. It keeps the input and
the few numbers of A x, never W x or a copy; layers that share an input share one sum of its
gradients; and the gradient of an input that nobody asks for is not computed.
"""

# ruff: noqa: TID253 - whoever imports this module wants torch
# mypy: disallow-subclassing-any=False
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from overt.errors import FormatError, Unsupported
from overt.nets.adapter import CONFIG, PREFIX, WEIGHTS, Adapter
from overt.nets.transformer import Transformer

__all__ = [
    "CONFIG",
    "WEIGHTS",
    "Adapted",
    "Frozen",
    "adapted",
    "add",
    "draw",
    "load",
    "off",
    "place",
    "save",
    "state",
]


class Frozen(Protocol):
    """A linear layer that does not learn."""

    bias: Tensor | None

    def matrix(self, dtype: Any) -> Tensor:
        """(outputs, inputs)."""
        ...


class Adapted(nn.Module):
    """A frozen linear layer and its adapter.

    Attributes:
        lora_A, lora_B: (rank, inputs) and (outputs, rank), float32.
        active: False: only the base is computed.
        draw: seeds the next dropout; the loop sets it, so that the same batch always draws the
            same, whatever ran before.
    """

    def __init__(self, base: nn.Module, adapter: Adapter, device: Any) -> None:
        super().__init__()
        self.base, self.scale, self.dropout = base, adapter.scale, adapter.dropout
        inputs, outputs = cast("int", base.in_features), cast("int", base.out_features)
        self.lora_A = nn.Parameter(torch.zeros(adapter.rank, inputs, device=device))
        self.lora_B = nn.Parameter(torch.zeros(outputs, adapter.rank, device=device))
        self.active, self.draw = True, 0

    def matrix(self, dtype: Any) -> Tensor:
        base = self.base
        if isinstance(base, nn.Linear):
            return base.weight.to(dtype)
        return cast("Frozen", base).matrix(dtype)

    def dtype(self) -> Any:
        """Of the products: the frozen matrix's; of a quantized one, what it was told."""
        return getattr(self.base, "product", None) or cast("Tensor", self.base.weight).dtype

    def forward(self, x: Tensor) -> Tensor:
        return self.together(x, (self,))[0] if self.active else cast("Tensor", self.base(x))

    def together(self, x: Tensor, layers: Sequence[nn.Module]) -> tuple[Tensor, ...]:
        """The outputs of several layers for one input (..., inputs)."""
        if not all(isinstance(layer, Adapted) and layer.active for layer in layers):
            return tuple(layer(x) for layer in layers)
        adapted = cast("Sequence[Adapted]", layers)
        flat = x.reshape(-1, x.shape[-1]).to(self.dtype())
        keep = None
        if self.dropout and self.training:
            chance = torch.Generator().manual_seed(self.draw)
            mask = torch.rand(flat.shape, generator=chance) >= self.dropout
            keep = mask.to(flat) / (1 - self.dropout)
        pairs = [part for layer in adapted for part in (layer.lora_A, layer.lora_B)]
        outputs = _Adapted.apply(flat, keep, adapted, *pairs)
        return tuple(part.view(*x.shape[:-1], -1) for part in outputs)


class _Adapted(torch.autograd.Function):
    """y = x W' + s (x A') B' + bias, of several layers with one x (N, inputs)."""

    @staticmethod
    def forward(
        context: Any, x: Tensor, keep: Tensor | None, layers: Sequence[Adapted], *pairs: Tensor
    ) -> tuple[Tensor, ...]:
        down = torch.cat([a.to(x.dtype) for a in pairs[::2]])
        low = (x if keep is None else x * keep) @ down.t()
        outputs, first = [], 0
        for layer, b in zip(layers, pairs[1::2], strict=True):
            last = first + b.shape[1]
            outputs.append(_sum(x, low[:, first:last], layer, b))
            first = last
        context.save_for_backward(x, keep, low, *pairs)
        context.layers = layers
        return tuple(outputs)

    @staticmethod
    def backward(context: Any, *ups: Tensor) -> tuple[Tensor | None, ...]:
        x, keep, low, *pairs = context.saved_tensors
        layers, dtype, first = context.layers, x.dtype, 0
        low_ups, grads = [], []
        for layer, up, b in zip(layers, ups, pairs[1::2], strict=True):
            last = first + b.shape[1]
            low_ups.append((up @ b.to(dtype)).mul_(layer.scale))
            # the sum over tokens is float32 where products are rounded
            grads.append((low[:, first:last].t() @ up).t().to(b.dtype).mul_(layer.scale))
            first = last
        low_up = torch.cat(low_ups, 1)
        inputs = x if keep is None else x * keep
        downs = (low_up.t() @ inputs).to(pairs[0].dtype).split([b.shape[1] for b in pairs[1::2]])
        grad = None
        if context.needs_input_grad[0]:
            grad = low_up @ torch.cat([a.to(dtype) for a in pairs[::2]])
            if keep is not None:
                grad.mul_(keep)
            for layer, up in zip(layers, ups, strict=True):
                grad.addmm_(up, layer.matrix(dtype))
        both = [part for pair in zip(downs, grads, strict=True) for part in pair]
        return grad, None, None, *both


def _sum(x: Tensor, low: Tensor, layer: Adapted, b: Tensor) -> Tensor:
    """x W' + s low B' + bias.

    In few bits both products are one, so that the sum is rounded once: what an adapter adds is
    often less than half the last place of x W', and would be lost behind it.
    """
    weight, bias = layer.matrix(x.dtype), cast("Tensor | None", layer.base.bias)
    if x.dtype == torch.float32:
        y = x @ weight.t() if bias is None else torch.addmm(bias, x, weight.t())
        return y.addmm_(low, b.t(), alpha=layer.scale)
    both = torch.cat([weight, (b * layer.scale).to(x.dtype)], 1)
    bias = None if bias is None else bias.to(x.dtype)
    return functional.linear(torch.cat([x, low], 1), both, bias)


def add(net: Transformer, adapter: Adapter, seed: int) -> None:
    """Freeze the net and put an adapter on every layer that `adapter` targets.

    A is drawn as peft draws it, B is zero: the net computes what it did before.

    Raises:
        Unsupported: a target that the net has not.
    """
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    chance = torch.Generator().manual_seed(seed)
    names = set()
    for path, layer in list(net.named_modules()):
        name = path.rpartition(".")[2]
        if name not in adapter.targets or not hasattr(layer, "in_features"):
            continue
        names.add(name)
        adapted = Adapted(layer, adapter, net.device)
        bound = cast("int", layer.in_features) ** -0.5
        drawn = torch.rand(adapted.lora_A.shape, generator=chance) * 2 * bound - bound
        adapted.lora_A.data.copy_(drawn)
        _set_module(net, path, adapted)
    if missing := sorted(set(adapter.targets) - names):
        raise Unsupported(
            f"this net has no layer called {missing[0][:60]!r}",
            "layers are called q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj",
        )


def adapted(net: Transformer) -> Iterator[tuple[str, Adapted]]:
    """The adapted layers by transformers' names, in the net's order."""
    for path, layer in net.named_modules():
        if isinstance(layer, Adapted):
            yield path, layer


def draw(net: Transformer, seed: int) -> None:
    """Say what the next forward and its backward draw from."""
    for index, (_, layer) in enumerate(adapted(net)):
        layer.draw = (seed * 1_000_003 + index) % 2**63


@contextmanager
def off(net: Transformer) -> Iterator[None]:
    """The base alone, as long as this lasts."""
    layers = [layer for _, layer in adapted(net)]
    for layer in layers:
        layer.active = False
    try:
        yield
    finally:
        for layer in layers:
            layer.active = True


def state(net: Transformer) -> dict[str, Tensor]:
    """The adapter's tensors by peft's names."""
    return {
        f"{PREFIX}{path}.{name}.weight": part.detach()
        for path, layer in adapted(net)
        for name, part in (("lora_A", layer.lora_A), ("lora_B", layer.lora_B))
    }


def save(net: Transformer, adapter: Adapter, folder: Path, base: str = "") -> None:
    """Write what peft reads: ``adapter_config.json`` and ``adapter_model.safetensors``."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_bytes(adapter.config(base))
    tensors = {name: part.contiguous().cpu() for name, part in sorted(state(net).items())}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def load(net: Transformer, folder: Path) -> Adapter:
    """Put a saved adapter on the net, where its file has tensors.

    Raises:
        FormatError: a file that is no adapter, or one of another net.
        Unsupported: an adapter of another kind than LoRA.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    adapter = Adapter.of_config((folder / CONFIG).read_bytes())
    try:
        tensors = load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise FormatError(f"{WEIGHTS} cannot be read: {str(error)[:120]}") from None
    place(net, adapter, tensors)
    return adapter


def place(net: Transformer, adapter: Adapter, tensors: Mapping[str, Tensor]) -> None:
    """Put an adapter's tensors on the net, by peft's names."""
    layers = dict(net.named_modules())
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    for name in sorted(tensors):
        path, _, which = name.removeprefix(PREFIX).removesuffix(".weight").rpartition(".")
        layer = layers.get(path)
        if which not in ("lora_A", "lora_B") or not hasattr(layer or object(), "in_features"):
            raise FormatError(f"the adapter's tensor {name[:100]!r} fits no layer of this model")
        base = cast("Any", layer)
        wanted = (
            (adapter.rank, base.in_features)
            if which == "lora_A"
            else (base.out_features, adapter.rank)
        )
        if tuple(tensors[name].shape) != wanted:
            raise FormatError(
                f"the adapter's tensor {name[:100]!r} is {tuple(tensors[name].shape)}, "
                f"and this model takes {wanted}"
            )
    for path in sorted({name.removeprefix(PREFIX).rpartition(".lora_")[0] for name in tensors}):
        pair = [tensors.get(f"{PREFIX}{path}.lora_{which}.weight") for which in "AB"]
        if pair[0] is None or pair[1] is None:
            raise FormatError(f"the adapter of {path[:100]!r} lacks one of its two tensors")
        new = Adapted(layers[path], adapter, net.device)
        new.lora_A.data.copy_(pair[0])
        new.lora_B.data.copy_(pair[1])
        _set_module(net, path, new)


def _set_module(net: nn.Module, path: str, layer: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(net.get_submodule(parent), name, layer)
