import io

import numpy as np
import pytest

from unrolled.data.extract.texts import as_printed, in_utf8, numbers, plays, verses

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


def test_files_become_a_text_in_utf8():
    assert in_utf8(as_printed)({"a": "é \n".encode()}) == "é\n".encode()


def array(values: np.ndarray) -> bytes:
    """A file of NumPy's."""
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def test_arrays_become_a_number_a_line():
    members = {"b.npy": array(np.array([[0.1], [1e-7]])), "a.npy": array(np.array([3, -255, 2**40]))}
    assert numbers(members) == b"3\n-255\n1099511627776\n0.1\n1e-07\n"


def test_no_object_is_made_of_an_array():
    with pytest.raises(ValueError, match="allow_pickle"):
        numbers({"a.npy": array(np.array([{}], dtype=object))})
