"""xl.cfg(5), as xl reads it: tools/libs/util/libxlu_cfg_l.l and libxlu_cfg_y.y of Xen 4.17. The twin's own, no part of the product.

    parse(text, "/etc/xen/a.cfg") → {"name": "a", "memory": "192", "pci": ["00:06.0,permissive=1"]}
"""
import re

TOKEN = re.compile(
    r"(?P<blank>[ \t]+)|(?P<newline>\n|#[^\n]*\n)|(?P<ident>[a-z][._0-9a-z]*)|(?P<number>[0-9][0-9a-fx]*)"
    r"|(?P<string>'(?:[^'\\\n]|\\.)*'|\"(?:[^\"\\\n]|\\.)*\")|(?P<add>\+=)|(?P<mark>[,\[\]=;])"
)
ESCAPES = {"n": "\n", "a": "\a", "b": "\b", "f": "\f", "r": "\r", "t": "\t", "v": "\v"}


class Unreadable(Exception):
    """What xl prints of a file that it cannot read."""


def dequote(text, place):
    """libxlu_cfg.c, xlu__cfgl_dequote."""

    def one(found):
        rest = found.group(1)
        if rest[0] in "xX01234567":
            try:
                return chr(int(rest[1:], 16) if rest[0] in "xX" else int(rest, 8))
            except ValueError:
                raise Unreadable("%s: error in escape sequence" % place)
        return ESCAPES.get(rest, rest)

    return re.sub(r"\\(x[0-9a-fA-F]{1,2}|X[0-9a-fA-F]{1,2}|[0-7]{1,3}|.)", one, text[1:-1])


def tokens(text, source):
    """[(kind, text, line)]; raises Unreadable where the lexer gives up."""
    found, at, line = [], 0, 1
    text += "" if text.endswith("\n") else "\n"  # xlu__cfg_yylex is given one, and a comment needs it
    while at < len(text):
        match = TOKEN.match(text, at)
        if not match:
            word = re.match(r"[^ \t\n]*", text[at:]).group() or text[at]
            python = " (looks like Python)" if word[0] in "+-.():" else ""
            raise Unreadable("%s:%d: config parsing error near `%s': lexical error%s" % (source, line, word, python))
        kind, word = match.lastgroup, match.group()
        if kind != "blank":
            value = dequote(word, "%s:%d" % (source, line)) if kind == "string" else word
            found.append((word if kind in ("mark", "add") else "atom" if kind in ("string", "number") else kind, value, line))
        line += word.count("\n")
        at = match.end()
    return found


class Reader:
    def __init__(self, text, source):
        self.source, self.tokens, self.at = source, tokens(text, source), 0

    def peek(self):
        return self.tokens[self.at] if self.at < len(self.tokens) else ("end", "", 0)

    def take(self, *kinds):
        kind, value, line = self.peek()
        if kind not in kinds:
            raise Unreadable("%s:%d: config parsing error near `%s': syntax error" % (self.source, line, value.strip() or "end"))
        self.at += 1
        return value

    def newlines(self):
        while self.peek()[0] == "newline":
            self.at += 1

    def settings(self):
        found = {}
        while self.peek()[0] != "end":
            if self.peek()[0] in ("newline", ";"):
                self.at += 1
                continue
            name = self.take("ident")
            adds = self.take("=", "+=") == "+="
            value = self.value()
            if self.peek()[0] != "end":
                self.take("newline", ";")
            if adds and name in found:
                if isinstance(found[name], list) != isinstance(value, list):
                    raise Unreadable("%s: can't add %s to `%s'" % (self.source, "a list" if isinstance(value, list) else "a string", name))
                value = found[name] + value
            found[name] = value
        return found

    def value(self):
        if self.peek()[0] != "[":
            return self.take("atom")
        self.take("[")
        self.newlines()
        found = []
        while self.peek()[0] != "]":
            found.append(self.value())
            self.newlines()
            if self.peek()[0] == ",":
                self.at += 1
                self.newlines()
            elif self.peek()[0] != "]":
                self.take("]")
        self.take("]")
        return found


def parse(text, source):
    return Reader(text, source).settings()


def number(value, base=0):
    """A number as strtol(…, 0) takes it; None for what is none."""
    try:
        return int(value, 8) if re.match(r"\A0[0-7]+\Z", value) else int(value, base)
    except (ValueError, TypeError):
        return None


# --- PCI (tools/libs/util/libxlu_pci.c)


class Malformed(Exception):
    pass


def parse_bdf(text):
    """(sbdf with "*" where all functions are meant, what follows it); raises Malformed."""
    head = re.match(r"[0-9a-fA-F:]*", text).group()
    shapes = {1: r"([0-9a-fA-F]+):([0-9a-fA-F]+)\.", 2: r"([0-9a-fA-F]+):([0-9a-fA-F]+):([0-9a-fA-F]+)\."}
    found = re.match(shapes.get(head.count(":"), r"(?!)"), text)
    if not found:
        raise Malformed
    parts = [int(each, 16) for each in found.groups()]
    segment, bus, slot = parts if len(parts) == 3 else [0] + parts
    rest = text[found.end() :]
    if segment > 0xFFFF or bus > 0xFF or slot > 0x1F:
        raise Malformed
    if rest[:1] == "*":
        return "%04x:%02x:%02x.*" % (segment, bus, slot), rest[1:]
    last = re.match(r"[0-9a-fA-F]+", rest)
    if not last or int(last.group(), 16) > 7:
        raise Malformed
    return "%04x:%02x:%02x.%x" % (segment, bus, slot, int(last.group(), 16)), rest[last.end() :]


FLAGS = ("permissive", "msitranslate", "seize", "power_mgmt")


def parse_spec(text):
    """One entry of `pci`: {"sbdf", "vslot", "permissive", "seize", …}; raises Malformed, with a word where xl has one."""
    found = {"sbdf": None, "vslot": None, "name": None, "rdm_policy": None}
    try:
        found["sbdf"], rest = parse_bdf(text)
        if rest[:1] == "@":
            slot = re.match(r"@([0-9a-fA-F]+)", rest)
            if not slot or int(slot.group(1), 16) > 0x1F:
                raise Malformed("")
            found["vslot"], rest = int(slot.group(1), 16), rest[slot.end() :]
        if rest[:1] not in (",", ""):
            raise Malformed("")
        rest = rest[1:]
    except Malformed:
        if found["sbdf"]:
            raise
        rest = text
    while rest:
        key, equals, rest = rest.partition("=")
        if not equals:
            raise Malformed("")
        value, _, rest = rest.partition(",")
        if key == "bdf":
            found["sbdf"] = parse_bdf(value)[0]
        elif key == "vslot":
            found["vslot"] = int(value, 16)
        elif key in FLAGS:
            found[key] = bool(number(value) or 0)
        elif key == "name":
            found["name"] = value
        elif key == "rdm_policy":
            if value not in ("strict", "relaxed"):
                raise Malformed("Unknown RDM policy: " + value)
            found[key] = value
        else:
            raise Malformed("Unknown PCI_SPEC_STRING option: " + key)
    if bool(found["sbdf"]) == bool(found["name"]):
        raise Malformed("")
    return found
