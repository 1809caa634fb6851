"""A token of a vocabulary as text that people can read."""

from __future__ import annotations

import codecs
from functools import cache

SPACE = "␣"


def readable(token: str, *, byte_level: bool) -> str:
    """The token as it would appear, with what is invisible made visible.

    Args:
        token: as the vocabulary has it.
        byte_level: whether its characters stand for bytes, as in GPT-2's vocabulary.

    Returns:
        A space is `␣`, a line feed `\\n`, a tab `\\t`; bytes that are no complete character are
        `<0xE4>`, other invisible characters `<U+200B>`. The marks `▁` and `##` stay.
    """
    if byte_level:
        data = token_bytes(token)
        if data is not None:
            token = data.decode("utf-8", errors="paramscope.hex")
    return "".join(map(_visible, token))


def token_bytes(token: str) -> bytes | None:
    """The bytes for which a byte-level token stands; None where it holds other characters."""
    table = _byte_of_character()
    try:
        return bytes(table[character] for character in token)
    except KeyError:
        return None


def _visible(character: str) -> str:
    if character == " ":
        return SPACE
    if character in _ESCAPES:
        return _ESCAPES[character]
    return character if character.isprintable() else f"<U+{ord(character):04X}>"


_ESCAPES = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}


@cache
def _byte_of_character() -> dict[str, int]:
    """GPT-2's table: printable Latin-1 stands for itself, the other bytes for U+0100 onwards."""
    kept = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): byte for byte in kept}
    others = (byte for byte in range(256) if byte not in set(kept))
    table.update({chr(0x100 + number): byte for number, byte in enumerate(others)})
    return table


def _hex(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    wrong = error.object[error.start : error.end]
    return "".join(f"<0x{byte:02X}>" for byte in wrong), error.end


codecs.register_error("paramscope.hex", _hex)
