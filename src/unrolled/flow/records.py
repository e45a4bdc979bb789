"""What every measurement returns: a frozen record that can be read, drawn and written down."""

from __future__ import annotations

import base64
import html
import io
import math
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from unrolled.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Record:
    """Base of frozen dataclasses. A subclass says in words what it holds (`summary`), and draws it (`_draw`).

    Printing a record prints its summary; a notebook shows the drawing too.
    """

    def summary(self) -> str:
        """A few lines for a reader."""
        raise NotImplementedError

    def _draw(self, ax: Axes) -> None:
        raise NotImplementedError

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw it.

        Args:
            ax: where; a new figure's if not given.

        Raises:
            InputError: matplotlib is not there.
        """
        if ax is None:
            try:
                from matplotlib.figure import Figure
            except ModuleNotFoundError:
                raise InputError("drawing needs matplotlib: pip install 'unrolled[figures]'") from None
            ax = Figure(figsize=(7, 4), dpi=120, layout="constrained").add_subplot()
        self._draw(ax)
        ax.spines[["top", "right"]].set_visible(False)
        return ax

    def to_dict(self) -> dict[str, Any]:
        """Plain data that JSON can hold; what is no finite number becomes None."""
        return {field.name: plain(getattr(self, field.name)) for field in fields(self)}  # type: ignore[arg-type]

    def __repr__(self) -> str:
        return self.summary()

    def png(self) -> bytes:
        """The drawing as a file.

        Raises:
            InputError: matplotlib is not there.
        """
        figure: Any = self.plot().figure
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
        return buffer.getvalue()

    def _repr_html_(self) -> str:
        text = f"<pre>{html.escape(self.summary())}</pre>"
        try:
            picture = base64.b64encode(self.png()).decode()
        except InputError:  # no matplotlib
            return text
        return f'<img src="data:image/png;base64,{picture}">{text}'


def plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, Record):
        return value.to_dict()
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Tensor):
        return plain(value.tolist())
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def number(value: float | Tensor) -> str:
    """A number as summaries write it."""
    return f"{float(value):.3g}"
