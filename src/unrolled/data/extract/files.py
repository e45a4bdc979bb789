"""The files of a package, one of them or many, as they are."""

from collections.abc import Callable, Mapping

from unrolled.data.archives import bundle


def bundled(below: str, *, without: str = "\0") -> Callable[[Mapping[str, bytes]], bytes]:
    """A zip of the files below a folder, by their paths there, without what begins with a certain path."""

    def extract(members: Mapping[str, bytes]) -> bytes:
        inside = {path.partition(below)[2]: data for path, data in members.items()}
        return bundle({path: data for path, data in inside.items() if not path.startswith(without)})

    return extract


def single(members: Mapping[str, bytes]) -> bytes:
    """The one file there is."""
    (data,) = members.values()
    return data
