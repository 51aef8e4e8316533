"""JSON files, read in the time that a stand-in for a C program may take: `import json` costs as much as Python's start."""
from _json import make_scanner


class Json:
    """What CPython's scanner asks its decoder for; the values of json.JSONDecoder."""

    strict, object_hook, object_pairs_hook = True, None, None
    parse_float, parse_int, parse_constant = float, int, float
    memo = {}


scan = make_scanner(Json)


def load(path):
    """The value in a file that begins with it. Raises OSError, ValueError where the file is no JSON."""
    with open(path, encoding="utf-8") as file:
        text = file.read()
    try:
        return scan(text, 0)[0]
    except StopIteration:
        raise ValueError("%s holds no JSON" % path)
