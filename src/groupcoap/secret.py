"""Bytes that never show themselves in repr, logs or tracebacks."""

from __future__ import annotations

from typing import Final


class Secret:
    """Key material. `reveal()` returns the bytes; everything else shows only the length."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value: Final = bytes(value)

    def reveal(self) -> bytes:
        """The bytes themselves, for a cryptographic primitive or a file of mode 0600."""
        return self._value

    def __len__(self) -> int:
        return len(self._value)

    def __repr__(self) -> str:
        return f"<secret of {len(self._value)} bytes>"

    __str__ = __repr__

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a secret is not pickled")
