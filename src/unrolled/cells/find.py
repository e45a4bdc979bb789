"""From the text of a command line to a cell."""

import difflib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path

from unrolled.cell import EquationCell
from unrolled.errors import CellError
from unrolled.options import read_call


def find(text: str, cells: Mapping[str, EquationCell], variants: Mapping[str, str]) -> EquationCell:
    """The cell that `text` names, among `cells`, `variants` of them, or in a Python file."""
    name, options = read_call(text)
    if name in variants:
        found = find(variants[name], cells, variants)
    elif name in cells:
        found = cells[name]
    elif ":" in name:
        found = _from_file(*name.rsplit(":", 1))
    else:
        near = difflib.get_close_matches(name, [*cells, *variants], n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join([*cells, *variants])}"
        raise CellError(f"no cell {name!r}: {hint} (a cell of your own is FILE.py:NAME)")
    return found.with_options(**options) if options else found


def _from_file(file: str, name: str) -> EquationCell:
    path = Path(file)
    if not path.is_file():
        raise CellError(f"no file {file!r} to take the cell {name!r} from")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise CellError(f"{file!r} is not a Python file: a cell of your own is FILE.py:NAME")
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(path.stem)
    sys.modules[path.stem] = module  # dataclasses look their module up there
    try:
        spec.loader.exec_module(module)
    except CellError:
        raise
    except (Exception, SystemExit) as error:
        raise CellError(f"{file} does not run: {type(error).__name__}: {error}") from error
    finally:
        if before is None:
            del sys.modules[path.stem]
        else:
            sys.modules[path.stem] = before
    found = getattr(module, name, None)
    if not isinstance(found, EquationCell):
        there = [key for key, value in vars(module).items() if isinstance(value, EquationCell)]
        raise CellError(
            f"{file} has no cell {name!r}; it has {', '.join(there) or 'none (use @unrolled.cell)'}"
        )
    return found
