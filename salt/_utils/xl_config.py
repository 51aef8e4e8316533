"""
The configuration files of xl(1), read and edited as text. Pure. Python 3.8+, standard library only.

What is a setting is what xl's own parser takes (libxlutil 4.17), no more: names of small letters,
numbers as `[0-9][0-9a-fx]*`, both quotes, lists in lists, `+=`, `;`, and a comment only where a line
ends after it. Of several settings of one name the last counts; `+=` adds to the one before.

Whatever is not ours stays as it is, byte for byte. Ours stands in a block at the end; a setting of
somebody else that is taken out becomes a comment of ours. To set and unset, and to unset and set
again what was there, gives the same text as before.
"""

import json
import re

BEGIN, END = "# guidomain: begin", "# guidomain: end"
# The file did not end with a line end, which a comment needs.
BEGIN_LINE = BEGIN + " (and the line end before)"
OUT = "#guidomain: "  # in front of each line of a setting that was taken out

NAME = re.compile(r"[a-z][a-z0-9_.]*")
NUMBER = re.compile(r"[0-9][0-9a-fx]*")
STRING = re.compile(r"\"(?:[^\"\\\n]|\\[^\n])*\"|'(?:[^'\\\n]|\\[^\n])*'")
BLANK = re.compile(r"[ \t]+")
COMMENT = re.compile(r"#[^\n]*\n")
ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
ESCAPES.update({char: char for char in "\"'\\"})
ESCAPED = {char: letter for letter, char in ESCAPES.items() if char not in "'"}


class ConfigError(ValueError):
    """`line`: the number of the line that xl would not take, from 1."""

    def __init__(self, line, message):
        super().__init__("line %d: %s" % (line, message))
        self.line = line


class Setting:
    """One assignment; `text[begin:end]` is its source."""

    def __init__(self, name, adds, value, begin, end):
        self.name, self.adds, self.value, self.begin, self.end = name, adds, value, begin, end


# -- reading


class _Reader:
    def __init__(self, text):
        self.text, self.at = text, 0

    def fail(self, message):
        raise ConfigError(self.text.count("\n", 0, self.at) + 1, message)

    def take(self, pattern):
        found = pattern.match(self.text, self.at)
        if found:
            self.at = found.end()
        return found and found.group()

    def skip(self, lines):
        """Blanks; with `lines` comments and line ends as well."""
        while self.take(BLANK) or (lines and (self.take(COMMENT) or self.char("\n"))):
            pass

    def char(self, chars):
        if self.at < len(self.text) and self.text[self.at] in chars:
            self.at += 1
            return True
        return False

    def settings(self):
        found = []
        while True:
            self.skip(True)
            if self.at == len(self.text):
                return found
            if self.char(";"):
                continue
            found.append(self.setting())
            self.skip(False)
            if not (self.at == len(self.text) or self.char(";\n") or self.take(COMMENT)):
                self.fail("nothing may follow the value of %s here" % found[-1].name)

    def setting(self):
        begin, name = self.at, self.take(NAME)
        if name is None:
            self.fail("not a setting of xl")
        self.skip(False)
        adds = self.char("+")
        if not self.char("="):
            self.fail("%s: no = follows" % name)
        self.skip(False)
        value = self.value()
        return Setting(name, adds, value, begin, self.at)

    def value(self):
        if self.char("["):
            return self.list()
        number = self.take(NUMBER)
        if number is not None:
            return number
        string = self.take(STRING)
        if string is None:
            self.fail("neither a string, a number nor a list")
        return re.sub(r"\\(.)", lambda found: self.escape(found.group(1)), string[1:-1])

    def escape(self, char):
        if char not in ESCAPES:
            self.fail("xl takes no \\%s in a string" % char)
        return ESCAPES[char]

    def list(self):
        found = []
        self.skip(True)
        while not self.char("]"):
            found.append(self.value())
            self.skip(True)
            if self.char(","):
                self.skip(True)
            elif self.text[self.at : self.at + 1] != "]":
                self.fail("the list has no ] here, and no comma")
        return found


def parse(text):
    """Every Setting, in their order. ConfigError where xl would not take the text."""
    return _Reader(text).settings()


def values(text):
    """{name: value} as xl has them in the end: a string, or a list of strings and lists."""
    found = {}
    for one in parse(text):
        before = found.get(one.name) if one.adds else None
        if before is not None and isinstance(before, list) != isinstance(one.value, list):
            line = text.count("\n", 0, one.begin) + 1
            raise ConfigError(line, "%s: a list and a string cannot be added" % one.name)
        found[one.name] = one.value if before is None else before + one.value
    return found


# -- one value as text, and back


def shown(value):
    """A string as it is, a list as compact JSON."""
    if isinstance(value, str):
        return value
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def meant(text):
    """What `shown` shows: JSON lists of strings are lists, anything else is a string."""
    if text.startswith("["):
        try:
            value = json.loads(text)
        except ValueError:
            return text
        if _is_list(value):
            return value
    return text


def _is_list(value):
    return isinstance(value, list) and all(isinstance(v, str) or _is_list(v) for v in value)


def literal(value):
    """As xl's grammar writes it. ValueError for characters that no string of xl can hold."""
    if isinstance(value, list):
        return "[%s]" % ", ".join(map(literal, value))
    if re.fullmatch(r"[0-9]+|0x[0-9a-f]+", value):
        return value
    quoted = "".join("\\" + ESCAPED[char] if char in ESCAPED else char for char in value)
    if re.search("[\0-\x1f]", quoted):
        raise ValueError("xl's files cannot hold %r" % value)
    return '"%s"' % quoted


# -- editing

_BLOCK = re.compile(
    r"(^|\n)(%s|%s)\n(.*?)^%s(?:\n|\Z)" % (re.escape(BEGIN_LINE), BEGIN, END), re.DOTALL | re.MULTILINE
)


def split(text):
    """(the text without our block, {name: (value, note)} of our block)."""
    found = _BLOCK.search(text)
    if found is None:
        return text, {}
    before, after = text[: found.start()] + found.group(1), text[found.end() :]
    if found.group(2) == BEGIN_LINE and not after:
        before = text[: found.start()]
    body, ours = found.group(3), {}
    for one in parse(body):
        note = re.match(r"[ \t]*#[ \t]*([^\n]*)", body[one.end :])
        ours[one.name] = (one.value, note.group(1) if note else "")
    return before + after, ours


def _join(theirs, ours):
    ended = not theirs or theirs.endswith("\n")
    # A comment of ours in the last line of theirs needs a line end too.
    if not ours and (ended or not theirs.rpartition("\n")[2].startswith(OUT)):
        return theirs
    lines = [BEGIN if ended else BEGIN_LINE]
    for name, (value, note) in ours.items():
        lines.append("%s = %s%s" % (name, literal(value), " # " + note if note else ""))
    return theirs + ("" if ended else "\n") + "\n".join(lines + [END]) + "\n"


def put(text, name, value, note=""):
    """The text with `name` set. `note` (one line) stands behind it, where the line is ours."""
    parse(text)
    theirs, ours = split(text)
    ours.pop(name, None)
    theirs = _back(theirs, name)
    if values(_ended(theirs)).get(name) != value:
        ours[name] = (value, note)
    return _join(theirs, ours)


def take(text, name):
    """The text without `name`. ConfigError where it shares a line with another setting."""
    parse(text)
    theirs, ours = split(text)
    ours.pop(name, None)
    return _join(_out(_back(theirs, name), name), ours)


def _ended(text):
    """As xl would read it with our block behind it: a last line may be a comment of ours."""
    return text if text.endswith("\n") else text + "\n"


def _out(text, name):
    """Makes comments of the settings of this name."""
    for one in reversed([one for one in parse(_ended(text)) if one.name == name]):
        begin = text.rfind("\n", 0, one.begin) + 1
        end = text.find("\n", one.end)
        end = len(text) if end < 0 else end
        alone = not text[begin : one.begin].strip()
        if not alone or not re.fullmatch(r"[ \t;]*(#.*)?", text[one.end : end]):
            line = text.count("\n", 0, one.begin) + 1
            raise ConfigError(line, "%s shares its line: put it on one of its own" % name)
        text = text[:begin] + re.sub("^", OUT, text[begin:end], flags=re.MULTILINE) + text[end:]
    return text


def _back(text, name):
    """Makes settings of those comments again."""
    runs = re.compile("(?:^%s.*(?:\n|\\Z))+" % re.escape(OUT), re.MULTILINE)

    def restored(found):
        lines = found.group()
        plain = re.sub("^" + re.escape(OUT), "", lines, flags=re.MULTILINE)
        kept = []
        try:
            settings = parse(_ended(plain))
        except ConfigError:
            return lines  # somebody wrote in them
        at = 0
        for one in settings:
            end = plain.find("\n", one.end) + 1 or len(plain)
            piece = plain[at:end]
            other = "".join(OUT + line for line in piece.splitlines(True))
            kept.append(piece if one.name == name else other)
            at = end
        return "".join(kept) + plain[at:]

    return runs.sub(restored, text)


def note(text, name):
    """What was noted behind our line of this name; "" where there is none."""
    return split(text)[1].get(name, ("", ""))[1]
