"""The zoo: cells by name, equations only, one file a family.

`CELLS` holds every cell; `VARIANTS` names option settings that the literature names. `find` reads what the
command line calls a cell: `lstm`, `lstm_nfg`, `lstm(peepholes=vector)` or `mycells.py:mine`.
"""

from typing import Final

from unrolled.cell import EquationCell
from unrolled.cells.find import find as _find
from unrolled.cells.gru import gru, gru_cho, gru_chung, mgu
from unrolled.cells.layer_norm import layer_norm_lstm, layer_norm_rnn
from unrolled.cells.lstm import lstm, lstm_fgr
from unrolled.cells.mut import mut1, mut2, mut3
from unrolled.cells.narx import delayed_rnn, narx
from unrolled.cells.residual import highway, residual, rhn
from unrolled.cells.rnn import indrnn, rnn

CELLS: Final[dict[str, EquationCell]] = {
    cell.base_name: cell
    for cell in (
        rnn, indrnn, lstm, lstm_fgr, gru, gru_cho, gru_chung, mut1, mut2, mut3, mgu,
        highway, residual, rhn, narx, delayed_rnn, layer_norm_rnn, layer_norm_lstm,
    )
}  # fmt: skip

VARIANTS: Final[dict[str, str]] = {
    "gated": "highway",
    "irnn": "rnn(activation=relu, identity=true)",
    "lstm_peephole": "lstm(peepholes=vector)",
    "lstm_cifg": "lstm(peepholes=vector, coupled=true)",
    "lstm_nig": "lstm(peepholes=vector, input_gate=false)",
    "lstm_nfg": "lstm(peepholes=vector, forget_gate=false)",
    "lstm_nog": "lstm(peepholes=vector, output_gate=false)",
    "lstm_niaf": "lstm(peepholes=vector, input_activation=false)",
    "lstm_noaf": "lstm(peepholes=vector, output_activation=false)",
}


def find(text: str) -> EquationCell:
    """The cell that `text` names: a name of the zoo, with options in brackets, or `FILE.py:NAME`.

    Raises:
        CellError: there is no such cell, file, name or option; the message says what there is.
    """
    return _find(text, CELLS, VARIANTS)


__all__ = [
    "CELLS", "VARIANTS", "delayed_rnn", "find", "gru", "gru_cho", "gru_chung", "highway", "indrnn",
    "layer_norm_lstm", "layer_norm_rnn", "lstm", "lstm_fgr", "mgu", "mut1", "mut2", "mut3", "narx",
    "residual", "rhn", "rnn",
]  # fmt: skip
