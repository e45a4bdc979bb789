"""Pictures of pixels on a page."""

import base64
import re

import pytest

from unrolled import InputError
from unrolled.report.page import Picture, Section, page

PNG = b"\x89PNG\r\n\x1a\n and so on"


def test_a_picture_is_in_the_page_itself():
    item = Picture("Best <1>", "How to read it.", PNG, 'a "cat" & a dog', wide=True)
    text = page("Captions", "of a run", [], [Section("Best", "Some.", [item])])
    (image,) = re.findall(r'<img class="picture" alt="([^"]*)" src="data:image/png;base64,([^"]*)">', text)
    assert image[0] == "a &quot;cat&quot; &amp; a dog"
    assert base64.b64decode(image[1]) == PNG
    assert 'class="card wide"><h3>Best &lt;1&gt;</h3>' in text
    assert "img-src data:" in text


def test_what_is_no_picture_is_refused():
    with pytest.raises(InputError, match="'Best' is no PNG"):
        Picture("Best", "", b"GIF89a", "")
