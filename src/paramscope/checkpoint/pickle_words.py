"""What the names in a PyTorch pickle stand for: a table of inert records, and nothing else.

A pickle names functions and classes and asks for them to be called. Here a name is looked up in
`_WORDS`; what is "called" is a function of this module that makes a record. Nothing is imported,
and a name that is not in the table refuses the file.

Source of the names: `torch/_weights_only_unpickler.py`, `torch/_utils.py` and
`torch/storage.py` of github.com/pytorch/pytorch, 2.13.
"""

from __future__ import annotations

from collections.abc import Callable

from paramscope.checkpoint.dtypes import DTYPES, Dtype
from paramscope.checkpoint.pickle_records import (
    BrokenError,
    Items,
    Opaque,
    Pairs,
    SavedTensor,
    Storage,
    StorageType,
    Unreadable,
    Word,
)

# Nothing here may take longer for a pickle that hands the same million things to every call.
MOST_ARGUMENTS = 16
_LONGEST_KEY = 64


def _unread(name: str, bits: int, code: str) -> Dtype:
    return Dtype(name, bits, code, "unknown")


# By the name after `torch.`; the last have no name in safetensors and are counted, not read.
_TORCH_DTYPES = {
    "float64": DTYPES["F64"],
    "float32": DTYPES["F32"],
    "float16": DTYPES["F16"],
    "bfloat16": DTYPES["BF16"],
    "float8_e4m3fn": DTYPES["F8_E4M3"],
    "float8_e5m2": DTYPES["F8_E5M2"],
    "float8_e4m3fnuz": DTYPES["F8_E4M3FNUZ"],
    "float8_e5m2fnuz": DTYPES["F8_E5M2FNUZ"],
    "float8_e8m0fnu": DTYPES["F8_E8M0"],
    "int64": DTYPES["I64"],
    "int32": DTYPES["I32"],
    "int16": DTYPES["I16"],
    "int8": DTYPES["I8"],
    "uint64": DTYPES["U64"],
    "uint32": DTYPES["U32"],
    "uint16": DTYPES["U16"],
    "uint8": DTYPES["U8"],
    "bool": DTYPES["BOOL"],
    "complex64": DTYPES["C64"],
    "complex128": _unread("C128", 128, "<c16"),
    "complex32": _unread("C32", 32, "<u4"),
    "float4_e2m1fn_x2": _unread("F4_X2", 8, "u1"),
    "bits8": _unread("BITS8", 8, "u1"),
    "bits16": _unread("BITS16", 16, "<u2"),
    "bits1x8": _unread("BITS1X8", 8, "u1"),
    "bits2x4": _unread("BITS2X4", 8, "u1"),
    "bits4x2": _unread("BITS4X2", 8, "u1"),
    "qint8": _unread("QINT8", 8, "u1"),
    "quint8": _unread("QUINT8", 8, "u1"),
    "qint32": _unread("QINT32", 32, "<i4"),
}
_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "QInt8Storage": "qint8",
    "QUInt8Storage": "quint8",
    "QInt32Storage": "qint32",
    "UntypedStorage": "uint8",
}

# What training runs put beside their weights: read as "something", whatever its state.
_NO_WEIGHTS = (
    "argparse.Namespace",
    "builtins.complex",
    "datetime.datetime",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
    "numpy.ndarray",
    "pathlib.PosixPath",
    "pathlib.PurePosixPath",
    "pathlib.WindowsPath",
    "torch.Tensor",
    "torch.device",
    "torch.nn.parameter.Buffer",
    "torch.serialization._get_layout",
    "torch.per_channel_affine",
    "torch.per_channel_affine_float_qparams",
    "torch.per_channel_symmetric",
    "torch.per_tensor_affine",
    "torch.per_tensor_symmetric",
)

# Tensors that have no plain elements, by the function that would rebuild them.
_UNREADABLE = {
    "_rebuild_sparse_tensor": "sparse",
    "_rebuild_nested_tensor": "nested",
    "_rebuild_meta_tensor_no_storage": "on the meta device, without values",
    "_rebuild_wrapper_subclass": "of a class that keeps its values elsewhere",
    "_rebuild_device_tensor_from_numpy": "from an XLA device, stored as a NumPy object",
    "_rebuild_xla_tensor": "from an XLA device, stored as a NumPy object",
}


def word(module: str, name: str) -> object:
    """The record that a name stands for.

    Raises:
        BrokenError: the name is not in the table; the message repeats it.
    """
    try:
        return _WORDS[f"{_RENAMED.get(module, module)}.{name}"]
    except KeyError:
        wanted = ascii(f"{module}.{name}")[1:-1]
        raise BrokenError(
            f"refused: its pickle wants {wanted:.200}, which is no tensor. "
            "Nothing of it was run. Where you trust the file, load it with its own program and "
            "save the weights alone, best as safetensors."
        ) from None


def storage(persistent_id: object) -> Storage:
    """The storage that a persistent id of `torch.save` stands for.

    Args:
        persistent_id: ("storage", type, key, location, elements), and in the old format a sixth
            item: None, or (key, offset, elements) of a part.

    Raises:
        BrokenError: it is anything else.
    """
    match persistent_id:
        case ("storage", StorageType(dtype), str() | int() as name, _, int(numel)) | (
            "storage",
            StorageType(dtype),
            str() | int() as name,
            _,
            int(numel),
            None,
        ) if len(str(name)) <= _LONGEST_KEY:
            return Storage(str(name), dtype, numel, 0, numel)
        case (
            "storage",
            StorageType(dtype),
            str() | int() as name,
            _,
            int(numel),
            (_, int(start), int(part)),
        ) if len(str(name)) <= _LONGEST_KEY and min(start, part) >= 0 and start + part <= numel:
            return Storage(str(name), dtype, numel, start, part)
    raise BrokenError(
        "its pickle refers to something outside it that is no storage of a tensor. "
        "The file is damaged, or not of torch.save."
    )


def _tensor(args: tuple[object, ...]) -> object:
    """`_rebuild_tensor(storage, offset, size, stride)`; v2 adds gradients, hooks and metadata."""
    match args:
        case (Storage() as stored, offset, tuple() as shape, tuple() as strides, *rest):
            if len(rest) < 3 or not _negated(rest[2]):
                return SavedTensor(stored, offset, shape, strides, stored.dtype)
            return Unreadable("stored without its sign")
    raise _wrong("_rebuild_tensor_v2")


def _tensor_v3(args: tuple[object, ...]) -> object:
    """`_rebuild_tensor_v3`: the storage is bytes, and the dtype a seventh argument."""
    match args:
        case (Storage() as stored, offset, tuple() as shape, tuple() as strides, _, _, dtype, *_):
            if isinstance(dtype, Dtype):
                return SavedTensor(stored, offset, shape, strides, dtype)
    raise _wrong("_rebuild_tensor_v3")


def _quantised(args: tuple[object, ...]) -> object:
    """`_rebuild_qtensor(storage, offset, size, stride, quantizer, …)`: codes, listed as such."""
    return _tensor(args[:4])


def _same_tensor(args: tuple[object, ...]) -> object:
    """A parameter, or a tensor of another device: the tensor that it is made from."""
    match args:
        case (SavedTensor() | Unreadable() as tensor, *_):
            return tensor
    raise _wrong("_rebuild_parameter")


def _with_state(args: tuple[object, ...]) -> object:
    """`_rebuild_from_type_v2(function, type, args, state)`: attributes are left out."""
    match args:
        case (Word(name, make), _, tuple() as inner, *_) if (
            name in _PLAIN_REBUILDS and len(inner) <= MOST_ARGUMENTS
        ):
            return make(inner)
    raise _wrong("_rebuild_from_type_v2")


def _items(args: tuple[object, ...]) -> object:
    """`OrderedDict()`, `Counter({…})`, `defaultdict(type)`; no copy is made."""
    match args:
        case (Items() as items, *_):
            return items
        case (list() as pairs, *_):
            return Pairs(pairs)
    return Items()


def _first(args: tuple[object, ...]) -> object:
    """`torch.Size(tuple)`, `set(list)`, `bytearray(bytes)`, …: what they are made from."""
    return args[0] if args else ()


def _always(record: object) -> Callable[[tuple[object, ...]], object]:
    return lambda args: record


def _negated(metadata: object) -> bool:
    if not isinstance(metadata, Items):
        return False
    return len(metadata) > MOST_ARGUMENTS or any(
        key == "neg" and value is True
        for key, value in zip(metadata[::2], metadata[1::2], strict=True)
    )


def _wrong(name: str) -> BrokenError:
    return BrokenError(
        f"its pickle gives {name} other arguments than torch.save does. The file is damaged; "
        "download it again."
    )


_RENAMED = {
    "__builtin__": "builtins",
    "torch.tensor": "torch._tensor",
    "torch.cuda": "torch",
    "torch.storage": "torch",
}
_REBUILDS: dict[str, Callable[[tuple[object, ...]], object]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_qtensor": _quantised,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _same_tensor,
    "torch._utils._rebuild_parameter": _same_tensor,
    "torch._utils._rebuild_parameter_with_state": _same_tensor,
    "torch.nn.parameter.Parameter": _same_tensor,
}
_PLAIN_REBUILDS = frozenset(_REBUILDS)
_MADE: dict[str, Callable[[tuple[object, ...]], object]] = {
    **_REBUILDS,
    "torch._tensor._rebuild_from_type_v2": _with_state,
    "torch._tensor._rebuild_from_type": _with_state,
    "collections.OrderedDict": _items,
    "collections.Counter": _items,
    "collections.defaultdict": _items,
    "torch.Size": _first,
    "_codecs.encode": _first,
    "builtins.bytearray": _first,
    "builtins.set": _first,
    "builtins.frozenset": _first,
    "builtins.list": _first,
    "builtins.dict": _items,
    "builtins.int": _first,
    "builtins.float": _first,
    "builtins.str": _first,
}
_WORDS: dict[str, object] = {
    **{f"torch.{name}": dtype for name, dtype in _TORCH_DTYPES.items()},
    **{f"torch.{name}": StorageType(_TORCH_DTYPES[key]) for name, key in _STORAGES.items()},
    **{path: Word(path, make) for path, make in _MADE.items()},
    **{path: Word(path, _always(Opaque(path))) for path in _NO_WEIGHTS},
    **{
        f"torch._utils.{name}": Word(name, _always(Unreadable(what)))
        for name, what in _UNREADABLE.items()
    },
}
