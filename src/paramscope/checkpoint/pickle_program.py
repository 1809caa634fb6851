"""A pickle is a program for a small stack machine; this machine can only build plain data.

It knows the operations that `torch.save` writes, at protocols 2 to 5. Names go through
`pickle_words.word`, references to storages through `pickle_words.storage`; nothing else is
called and nothing is imported. Time and memory are bounded by the number of steps and by the
length of the program, whatever it says.

Source: `Lib/pickletools.py` of CPython, where every operation is described.
"""

from __future__ import annotations

import pickle as operations  # for the names of the operations; nothing of it is called
import struct
from collections.abc import Callable
from functools import partial

from paramscope.checkpoint.pickle_machine import Machine, damaged, text
from paramscope.checkpoint.pickle_records import BrokenError, Items, Opaque, Pairs, Word
from paramscope.checkpoint.pickle_words import MOST_ARGUMENTS, storage, word

MOST_BYTES = 64 * 2**20
# Steps: most operations are one. A tensor takes 50, so that there is room for 20,000 in a file;
# more would let a hostile file hold the reader up for longer than two seconds.
MOST_STEPS = 1_000_000
_STEPS_OF_TEXT = 1
_STEPS_OF_CALL = 4
_DEEPEST = 1_000
_LONGEST_NUMBER_BYTES = 255
_STOP = operations.STOP[0]


def run(machine: Machine) -> object:
    """The data that the next pickle of a machine's program describes.

    Raises:
        BrokenError: it wants something that is no data, or is damaged, or cut short.
    """
    machine.stack, machine.marked, machine.memo = [], [], {}
    code = _STOP
    try:
        while machine.left > 0:
            machine.left -= 1
            code = machine.number(1)
            if code == _STOP:
                return machine.stack.pop()
            _OPERATIONS[code](machine)
    except IndexError:
        raise damaged("an operation on an empty stack") from None
    except KeyError:
        raise BrokenError(_unknown(code, machine.at - 1)) from None
    raise BrokenError(
        "refused: its pickle has more operations than 20,000 tensors need in one file. "
        "Where you trust it, load it with its own program and save it as safetensors."
    )


def _unknown(code: int, at: int) -> str:
    import pickletools

    if code in _OPERATIONS:
        return "its pickle refers to an object that it has not made. The file is damaged."
    known = next((info for info in pickletools.opcodes if ord(info.code) == code), None)
    if known is None:
        return f"its pickle is damaged: no operation has the code {code}, at byte {at:,}."
    return (
        f"refused: its pickle has the operation {known.name} at byte {at:,}, which torch.save "
        "does not write. Nothing of it was run."
    )


def _push(machine: Machine, *, value: object) -> None:
    machine.stack.append(value)


def _push_new(machine: Machine, *, kind: Callable[[], object]) -> None:
    machine.stack.append(kind())


def _push_unsigned(machine: Machine, *, size_bytes: int) -> None:
    machine.stack.append(machine.number(size_bytes))


def _push_signed(machine: Machine) -> None:
    machine.stack.append(int.from_bytes(machine.take(4), "little", signed=True))


def _push_long(machine: Machine, *, size_bytes: int) -> None:
    length = machine.number(size_bytes)
    if length > _LONGEST_NUMBER_BYTES:
        raise damaged(f"a number of {length:,} bytes")
    machine.stack.append(int.from_bytes(machine.take(length), "little", signed=True))


def _push_float(machine: Machine) -> None:
    machine.stack.append(struct.unpack(">d", machine.take(8))[0])


def _push_bytes(machine: Machine, *, size_bytes: int) -> None:
    machine.stack.append(machine.take(machine.number(size_bytes)))


def _push_text(machine: Machine, *, size_bytes: int) -> None:
    machine.left -= _STEPS_OF_TEXT
    machine.stack.append(text(machine.take(machine.number(size_bytes))))


def _mark(machine: Machine) -> None:
    if len(machine.marked) >= _DEEPEST:
        raise BrokenError(f"refused: its pickle is nested more than {_DEEPEST:,} deep.")
    machine.marked.append(machine.stack)
    machine.stack = []


def _tuple(machine: Machine) -> None:
    items = tuple(machine.since_mark())
    machine.stack.append(items)


def _short_tuple(machine: Machine, *, length: int) -> None:
    stack = machine.stack
    items = tuple(stack[-length:])
    if len(items) < length:
        raise IndexError
    del stack[-length:]
    stack.append(items)


def _list(machine: Machine) -> None:
    items = machine.since_mark()
    machine.stack.append(items)


def _dict(machine: Machine) -> None:
    items = machine.since_mark()
    machine.stack.append(Items())
    _fill(machine, items)


def _append(machine: Machine) -> None:
    item = machine.stack.pop()
    _extend(machine, [item])


def _appends(machine: Machine) -> None:
    items = machine.since_mark()
    _extend(machine, items)


def _extend(machine: Machine, items: list[object]) -> None:
    target = machine.stack[-1]
    if type(target) is list:
        target.extend(items)
    elif not isinstance(target, Opaque):
        raise damaged("items for something that is no list")


def _set_item(machine: Machine) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    _fill(machine, [key, value])


def _set_items(machine: Machine) -> None:
    items = machine.since_mark()
    _fill(machine, items)


def _fill(machine: Machine, items: list[object]) -> None:
    target = machine.stack[-1]
    if len(items) % 2:
        raise damaged("a key without a value")
    if type(target) is Items:
        target.extend(items)
    elif not isinstance(target, Opaque):
        raise damaged("keys and values for something that is no dict")


def _pop(machine: Machine) -> None:
    machine.stack.pop()


def _pop_mark(machine: Machine) -> None:
    machine.since_mark()


def _get(machine: Machine, *, size_bytes: int) -> None:
    machine.stack.append(machine.memo[machine.number(size_bytes)])


def _put(machine: Machine, *, size_bytes: int) -> None:
    machine.memo[machine.number(size_bytes)] = machine.stack[-1]


def _memoize(machine: Machine) -> None:
    machine.memo[len(machine.memo)] = machine.stack[-1]


def _skip(machine: Machine, *, size_bytes: int) -> None:
    machine.take(size_bytes)


def _global(machine: Machine) -> None:
    module = machine.line()
    machine.stack.append(word(module, machine.line()))


def _stack_global(machine: Machine) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    if not isinstance(module, str) or not isinstance(name, str):
        raise damaged("a name that is no text")
    machine.stack.append(word(module, name))


def _call(machine: Machine) -> None:
    """REDUCE and NEWOBJ: the record that a name with these arguments stands for."""
    machine.left -= _STEPS_OF_CALL
    args, called = machine.stack.pop(), machine.stack.pop()
    if not isinstance(called, Word) or not isinstance(args, tuple):
        raise damaged("a call of something that is no function")
    if len(args) > MOST_ARGUMENTS:
        raise damaged(f"a call with {len(args):,} arguments")
    machine.stack.append(called.make(args))


def _build(machine: Machine) -> None:
    """BUILD: the attributes of a dict or of something that is no weight are left out."""
    machine.stack.pop()
    if not isinstance(machine.stack[-1], (Items, Opaque, Pairs)):
        raise damaged("attributes for something that has none")


def _persistent(machine: Machine) -> None:
    machine.left -= _STEPS_OF_CALL
    found = storage(machine.stack.pop())
    machine.storages.setdefault(found.key, found)
    machine.stack.append(found)


_OPERATIONS: dict[int, Callable[[Machine], None]] = {
    operations.PROTO[0]: partial(_skip, size_bytes=1),
    operations.FRAME[0]: partial(_skip, size_bytes=8),
    operations.NONE[0]: partial(_push, value=None),
    operations.NEWTRUE[0]: partial(_push, value=True),
    operations.NEWFALSE[0]: partial(_push, value=False),
    operations.EMPTY_TUPLE[0]: partial(_push, value=()),
    operations.EMPTY_LIST[0]: partial(_push_new, kind=list),
    operations.EMPTY_SET[0]: partial(_push_new, kind=list),
    operations.EMPTY_DICT[0]: partial(_push_new, kind=Items),
    operations.BININT[0]: _push_signed,
    operations.BININT1[0]: partial(_push_unsigned, size_bytes=1),
    operations.BININT2[0]: partial(_push_unsigned, size_bytes=2),
    operations.LONG1[0]: partial(_push_long, size_bytes=1),
    operations.LONG4[0]: partial(_push_long, size_bytes=4),
    operations.BINFLOAT[0]: _push_float,
    operations.SHORT_BINUNICODE[0]: partial(_push_text, size_bytes=1),
    operations.BINUNICODE[0]: partial(_push_text, size_bytes=4),
    operations.BINUNICODE8[0]: partial(_push_text, size_bytes=8),
    operations.SHORT_BINSTRING[0]: partial(_push_text, size_bytes=1),
    operations.BINSTRING[0]: partial(_push_text, size_bytes=4),
    operations.SHORT_BINBYTES[0]: partial(_push_bytes, size_bytes=1),
    operations.BINBYTES[0]: partial(_push_bytes, size_bytes=4),
    operations.BINBYTES8[0]: partial(_push_bytes, size_bytes=8),
    operations.BYTEARRAY8[0]: partial(_push_bytes, size_bytes=8),
    operations.MARK[0]: _mark,
    operations.TUPLE[0]: _tuple,
    operations.TUPLE1[0]: partial(_short_tuple, length=1),
    operations.TUPLE2[0]: partial(_short_tuple, length=2),
    operations.TUPLE3[0]: partial(_short_tuple, length=3),
    operations.FROZENSET[0]: _tuple,
    operations.LIST[0]: _list,
    operations.DICT[0]: _dict,
    operations.APPEND[0]: _append,
    operations.APPENDS[0]: _appends,
    operations.ADDITEMS[0]: _appends,
    operations.SETITEM[0]: _set_item,
    operations.SETITEMS[0]: _set_items,
    operations.POP[0]: _pop,
    operations.POP_MARK[0]: _pop_mark,
    operations.BINGET[0]: partial(_get, size_bytes=1),
    operations.LONG_BINGET[0]: partial(_get, size_bytes=4),
    operations.BINPUT[0]: partial(_put, size_bytes=1),
    operations.LONG_BINPUT[0]: partial(_put, size_bytes=4),
    operations.MEMOIZE[0]: _memoize,
    operations.GLOBAL[0]: _global,
    operations.STACK_GLOBAL[0]: _stack_global,
    operations.REDUCE[0]: _call,
    operations.NEWOBJ[0]: _call,
    operations.BUILD[0]: _build,
    operations.BINPERSID[0]: _persistent,
}
