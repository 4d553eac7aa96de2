"""Sums of squared activations, taken in the engine while it reads: what an importance matrix is of.

llama.cpp calls back before and after each node of its graph. Of a multiplication with a model's
matrix (``blk.…``) the second source is what goes in, and its squares are summed up by channel; of
experts, by the expert that each row was sent to; of other stacks of matrices, such as those of
latent attention with one for each head, by the matrix. That is what tools/imatrix of llama.cpp
collects (Kawrakow 2024, llama.cpp pull request 4861).

The CFFI of llama-cpp-py-sync declares ``ggml_tensor`` without its fields. They are declared here,
and checked against the library's own functions before the first number is taken from them.
"""

import re
from pathlib import Path
from typing import Any

_FIELDS = """
struct overt_tensor {
    int32_t type; void * buffer; int64_t ne[4]; size_t nb[4]; int32_t op; int32_t op_params[16];
    int32_t flags; struct ggml_tensor * src[10]; void * view_src; size_t view_offs; void * data;
    char name[64]; void * extra; char padding[8];
};
const char * ggml_get_name(const struct ggml_tensor * tensor);
void * ggml_get_data(const struct ggml_tensor * tensor);
const char * ggml_op_desc(const struct ggml_tensor * tensor);
size_t ggml_nbytes(const struct ggml_tensor * tensor);
int64_t ggml_nelements(const struct ggml_tensor * tensor);
"""
_F32, _I32 = 0, 26
_PLAIN, _EXPERTS = "MUL_MAT", "MUL_MAT_ID"
_OUTER = re.compile(r"[^#]*#([^#]+)#?.*")
MAX_VALUES = 1 << 28  # elements of all sums together: 2 GiB in 64 bits


class Collector:
    """Collects while a context decodes; `callback` is its ``cb_eval``.

    Attributes:
        sums: by the tensor's name, the sums of squares (matrices, channels) in 64 bits, and how
            many rows each is of (matrices): one for each expert or other matrix of a stack.
        problem: why there is nothing more, or "". An exception cannot leave the callback.
    """

    def __init__(self, ffi: Any) -> None:
        import llama_cpp_py_sync as package

        self._ffi = ffi
        ffi.cdef(_FIELDS)
        libraries = sorted(map(str, Path(package.__file__).parent.glob("*ggml-base.*")))
        if not libraries:
            raise RuntimeError("llama-cpp-py-sync came without its ggml-base library")
        self._lib = ffi.dlopen(libraries[0])
        self.callback = ffi.callback("bool(struct ggml_tensor *, bool, void *)", self._called)
        self.sums: dict[str, tuple[Any, Any]] = {}
        self.problem = ""
        self._checked = False
        self._values = 0

    def _called(self, tensor: Any, asks: bool, _: Any) -> bool:
        try:
            return self._seen(tensor, asks)
        except Exception as error:  # noqa: BLE001 (it must not reach C)
            self.problem = self.problem or f"{type(error).__name__}: {error}"
            return not asks

    def _seen(self, tensor: Any, asks: bool) -> bool:
        if self.problem:
            return not asks
        node = self._fields(tensor)
        kind = self._ffi.string(self._lib.ggml_op_desc(tensor)).decode("ascii", "replace")
        if kind not in (_PLAIN, _EXPERTS):
            return not asks
        name = self._name(node.src[0])
        if not name.startswith("blk."):
            return not asks
        if not asks:
            self._add(name, node, experts=kind == _EXPERTS)
        return True

    def _fields(self, tensor: Any) -> Any:
        node = self._ffi.cast("struct overt_tensor *", tensor)
        if not self._checked:
            named = self._ffi.cast("char *", self._lib.ggml_get_name(tensor))
            elements = node.ne[0] * node.ne[1] * node.ne[2] * node.ne[3]
            same = (
                named == self._ffi.addressof(node, "name", 0)
                and node.data == self._lib.ggml_get_data(tensor)
                and elements == self._lib.ggml_nelements(tensor)
            )
            if not same:
                raise RuntimeError("this build of llama.cpp lays its tensors out another way")
            self._checked = True
        return node

    def _name(self, tensor: Any) -> str:
        name = self._ffi.string(self._lib.ggml_get_name(tensor)).decode("utf-8", "replace")
        outer = _OUTER.fullmatch(name)
        return outer[1] if outer else name

    def _array(self, tensor: Any, kind: int) -> Any:
        """A tensor as an array in C order: its dimensions come back to front."""
        import numpy as np

        node = self._ffi.cast("struct overt_tensor *", tensor)
        if node.type != kind:
            raise RuntimeError(f"what goes into a matrix has the type {node.type}")
        size = self._lib.ggml_nbytes(tensor)
        buffer = self._ffi.buffer(self._lib.ggml_get_data(tensor), size)
        shape = tuple(node.ne[at] for at in (3, 2, 1, 0))
        steps = tuple(node.nb[at] for at in (3, 2, 1, 0))
        return np.ndarray(shape, np.float32 if kind == _F32 else np.int32, buffer, 0, steps)

    def _add(self, name: str, node: Any, *, experts: bool) -> None:
        import numpy as np

        inputs = self._array(node.src[1], _F32)
        width = inputs.shape[3]
        matrix = self._ffi.cast("struct overt_tensor *", node.src[0])
        stacks, layers = (1 if experts else int(matrix.ne[3])), int(matrix.ne[2])
        count = stacks * layers
        if name not in self.sums:
            self._values += count * width
            if self._values > MAX_VALUES:
                raise RuntimeError(f"an importance matrix of over {MAX_VALUES} values")
            self.sums[name] = np.zeros((count, width)), np.zeros(count, np.int64)
        sums, counts = self.sums[name]
        if sums.shape != (count, width):
            raise RuntimeError(f"{name} is multiplied with rows of {width} elements now")
        if not experts:
            # ggml sends neighbours to one matrix where there are fewer matrices than rows' groups
            upper, lower = inputs.shape[0] // stacks, inputs.shape[1] // layers
            for at in range(count):
                stack, layer = divmod(at, layers)
                mine = inputs[
                    stack * upper : (stack + 1) * upper, layer * lower : (layer + 1) * lower
                ]
                rows = mine.reshape(-1, width).astype(np.float64)
                sums[at] += np.einsum("ij,ij->j", rows, rows)
                counts[at] += len(rows)
            return
        chosen = self._array(node.src[2], _I32)[0, 0]  # (tokens, experts used)
        rows = inputs[0]  # (tokens, 1 or experts used, width)
        for place in range(chosen.shape[1]):
            part = rows[:, place % rows.shape[1]].astype(np.float64)
            for expert in np.unique(chosen[:, place]):
                mine = part[chosen[:, place] == expert]
                sums[expert] += np.einsum("ij,ij->j", mine, mine)
                counts[expert] += len(mine)
