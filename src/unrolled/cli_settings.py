"""What the commands that train have in common."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from unrolled.errors import InputError


def with_settings(command: Callable[..., int], config: type, fixed: dict[str, Any]) -> Callable[..., int]:
    """Give a command one option for each field of a configuration, with the text beside it as its help: first
    its own, then those that it inherits.

    An option that is not given is None, so that the configuration's own default stands.
    """
    hints = typing.get_type_hints(config, include_extras=True)
    parameters = [
        inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for key, (annotation, default) in fixed.items()
    ]
    for field in sorted(
        dataclasses.fields(config), key=lambda field: field.name not in config.__annotations__
    ):
        kind, help_text = typing.get_args(hints[field.name])
        if typing.get_origin(kind) in (typing.Union, types.UnionType):
            kind = next(part for part in typing.get_args(kind) if part is not type(None))
        if typing.get_origin(kind) is tuple:
            kind = list[str]
        if field.default not in (None, ()):
            help_text = f"{help_text} [{field.default}]"
        annotation: Any = Annotated[kind | None, typer.Option(help=help_text)]
        parameters.append(
            inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        )
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


def tensorboard_observer() -> Callable[[Path], Any]:
    """What writes events into a folder.

    Raises:
        InputError: TensorBoard is not installed.
    """
    try:
        from unrolled.report.tensorboard import TensorBoardObserver
    except ModuleNotFoundError:
        raise InputError("--tensorboard needs TensorBoard: pip install 'unrolled[logging]'") from None
    return TensorBoardObserver
