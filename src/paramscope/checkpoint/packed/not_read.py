"""Quantisations that are known by name and not read: their codes are refused, with the method.

Only tensors of integers whose name is one that the method gives its codes, and that have two
dimensions or more; all others are left as they are.

Source: the modules that hold the weights in aqlm, auto-round, eetq, hqq, optimum-quanto,
spqr_quant, vptq and transformers (`integrations/`).
"""

from __future__ import annotations

from collections.abc import Iterator

from paramscope.checkpoint import PackedTensor, refused_tensor
from paramscope.checkpoint.packed.groups import method_of
from paramscope.checkpoint.packed.leftover import Leftover

# What a method's codes are called, by `quant_method`.
_CODES: dict[str, tuple[str, ...]] = {
    "aqlm": (".codes",),
    "auto-round": (".qweight",),
    "bitnet": (".weight",),
    "eetq": (".weight",),
    "exl2": (".q_weight",),
    "exl3": (".trellis",),
    "fp_quant": (".qweight",),
    "higgs": (".weight",),
    "hqq": (".W_q",),
    "quanto": (".weight._data",),
    "quip": (".Qidxs",),
    "sinq": (".W_q",),
    "spqr": (".dense_weights",),
    "vptq": (".indices", ".res_indices", ".outlier_indices"),
}
_ANY_METHOD = (".qweight",)


def find(leftover: Leftover) -> Iterator[PackedTensor]:
    """Codes of the method that the configuration names, where no other scheme has claimed them."""
    method = method_of(leftover.quantization)
    if not method:
        return
    for _, _, tensor in leftover.ending(*_CODES.get(method, _ANY_METHOD)):
        if tensor.dtype.kind == "integer" and len(tensor.shape) >= 2:
            yield refused_tensor(
                tensor, f"{tensor.dtype.name} codes of the method {method:.40}, which is not read"
            )
