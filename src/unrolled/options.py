"""Options: the keyword-only arguments of a cell's function, and how a command line writes them.

What an option takes is read from its annotation (`bool`, `float`, `int`, `str` or a `Literal` of strings), or
from its default where it has none.
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from unrolled.errors import CellError, InputError

_CALL = re.compile(r"(?P<name>.+?)\s*(?:\((?P<options>[^()]*)\))?")
_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


@dataclass(frozen=True)
class Option:
    """One option: its name, its default, and its kind or the words it may be."""

    name: str
    default: Any
    kind: type
    choices: tuple[str, ...] = ()

    @property
    def takes(self) -> str:
        """What it takes, in words."""
        if self.choices:
            return " | ".join(self.choices)
        return {bool: "true | false", float: "a number", int: "a whole number"}.get(self.kind, "text")

    def read(self, value: Any, owner: str) -> Any:
        """The value this option takes for what was given; text is read as on the command line.

        Raises:
            CellError: it does not take such a value.
        """
        if isinstance(value, str) and self.kind is not str:
            try:
                value = _WORDS[value.lower()] if self.kind is bool else self.kind(value)
            except (KeyError, ValueError):
                raise self._refusal(value, owner) from None
        if self.kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if type(value) is not self.kind or (self.choices and value not in self.choices):
            raise self._refusal(value, owner)
        return value

    def _refusal(self, value: Any, owner: str) -> CellError:
        return CellError(f"option {self.name} of cell {owner!r} cannot be {value!r}; it takes {self.takes}")


def options_of(function: Callable[..., Any]) -> dict[str, Option]:
    """The options of a cell's function by name.

    Raises:
        CellError: an option has no default.
    """
    hints = typing.get_type_hints(function)
    found = {}
    for p in inspect.signature(function).parameters.values():
        if p.kind is not p.KEYWORD_ONLY:
            continue
        if p.default is p.empty:
            raise CellError(f"option {p.name} of cell {function.__name__!r} needs a default value")
        hint = hints.get(p.name, type(p.default))
        choices = typing.get_args(hint) if typing.get_origin(hint) is Literal else ()
        if not choices and hint not in (bool, int, float, str):
            raise CellError(
                f"option {p.name} of cell {function.__name__!r} must be a bool, int, float, str "
                f"or a Literal of strings, not {getattr(hint, '__name__', hint)}"
            )
        found[p.name] = Option(p.name, p.default, str if choices else hint, choices)
    return found


def read_call(text: str) -> tuple[str, dict[str, str]]:
    """The name and the options in text such as `lstm(peepholes=vector, forget_bias=1)` or `narx(lags=1,2,5)`.

    Raises:
        InputError: the text is not of this form.
    """
    match = _CALL.fullmatch(text.strip())
    parts = [part for part in (match["options"] or "").split(",") if part.strip()] if match else []
    for k in range(len(parts) - 1, 0, -1):
        if "=" not in parts[k]:  # a value may be a list, as in lags=1,2,5
            parts[k - 1] += "," + parts.pop(k)
    pairs = [part.split("=") for part in parts]
    if match is None or any(len(pair) != 2 for pair in pairs):
        raise InputError(f"cannot read {text!r}; write NAME or NAME(option=value, option=value)")
    options = {name.strip(): value.strip() for name, value in pairs}
    if len(options) != len(pairs):
        raise InputError(f"{text!r} gives an option twice")
    return match["name"], options
