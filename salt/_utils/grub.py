"""
The texts that decide what a machine boots, as pure functions (text in, text out): /etc/default/grub,
grub.cfg, our block in custom.cfg, grubenv. For the agent, the guard and our Salt state
(`__utils__["grub.…"]`). Python 3.8+, standard library only.

A *token* is one word of the kernel line, but for lists: of `rd.qubes.hide_pci=A,B` and of
`xen-pciback.hide=(A)(B)` each part is a token of its own, `rd.qubes.hide_pci=A`, `xen-pciback.hide=(A)`.
Of several such arguments the last one alone counts (dracut's getarg; a parameter of a module), so parts
are added to and taken from that one.

Whatever is not ours stays as it is, byte for byte; to add tokens and take them away again gives the
same text as before.
"""

import re

HIDE, PCIBACK = "rd.qubes.hide_pci=", "xen-pciback.hide="
TOKEN = re.compile(r"[A-Za-z0-9_.=:@/+()-]+")  # needs no quoting in GRUB; in a shell "(" and ")" do
BEGIN, END = "# guidomain: begin", "# guidomain: end"
RESCUE, TRIAL = "guidomain-rescue", "guidomain-trial"
TRY = "guidomain_try"  # set in grubenv by a boot that has not been verified yet
ADDED = " # guidomain"  # marks a line of /etc/default/grub that was not there before


# -- words of a kernel line


class _List:
    """An argument that names several things. `sep`: what stands between its parts."""

    def __init__(self, name, sep, pattern):
        self.name, self.sep, self.pattern = name, sep, re.compile(pattern)

    def parts(self, word):
        """Of a word that is such an argument; whatever it holds, joined by `sep` they are the same."""
        value = word[len(self.name) :]
        return value.split(self.sep) if self.sep else re.findall(r"\([^()]*\)|[^()]+|[()]", value)


LISTS = (
    _List(HIDE, ",", r"rd\.qubes\.hide_pci="),
    _List(PCIBACK, "", r"xen[-_]pciback\.hide="),  # the kernel takes either of "-" and "_"
)


def _list(word):
    """The _List that this word is an argument of, or None."""
    return next((one for one in LISTS if one.pattern.match(word)), None)


def tokens(words):
    """What a list of words means: hide lists taken apart, of several of one name only the last."""
    last = {_list(word): i for i, word in enumerate(words)}
    found = []
    for i, word in enumerate(words):
        kind = _list(word)
        if kind is None:
            found.append(word)
        elif last[kind] == i:
            found += [kind.name + part for part in kind.parts(word) if part]
    return found


def check(names):
    for token in names:
        if not TOKEN.fullmatch(token):
            raise ValueError("not a word of a kernel line: %r" % token)
    return list(names)


class _Text:
    """A piece of text as [source, character] pairs, so that words can be edited in it whatever
    quoting it has. A quote is a pair without a character; an expansion is one odd character."""

    def __init__(self, units, spell):
        self.units, self.spell = units, spell  # `spell(at, char)`: its source at a place

    def words(self):
        """[(begin, end)] of the runs of units between blanks."""
        found, begin = [], None
        for i, (_, char) in enumerate(self.units + [("", " ")]):
            if char.isspace():
                if begin is not None and any(c for _, c in self.units[begin:i]):
                    found.append((begin, i))
                begin = None
            elif begin is None:
                begin = i
        return found

    def word(self, place):
        return "".join(char for _, char in self.units[place[0] : place[1]])

    def source(self):
        return "".join(source for source, _ in self.units)

    def add(self, token):
        kind = _list(token)
        lists = [place for place in self.words() if kind and _list(self.word(place)) is kind]
        if lists:
            begin, end = lists[-1]
            end = max(i for i in range(begin, end) if self.units[i][1]) + 1
            sep = "" if len(self.word(lists[-1])) == len(kind.name) else kind.sep
            self._insert(end, sep + token[len(kind.name) :])
            return
        closed = self.units[-1:] in ([("'", "")], [('"', "")])
        blank = " " if any(char for _, char in self.units) else ""
        self._insert(len(self.units) - closed, blank + token)

    def _insert(self, at, text):
        self.units[at:at] = [(self.spell(at, char), char) for char in text]

    def remove(self, token):
        kind = _list(token)
        for begin, end in reversed(self.words()):
            chars = [i for i in range(begin, end) if self.units[i][1]]
            word = self.word((begin, end))
            if word == token:
                self._cut(chars)
            elif kind and _list(word) is kind:
                parts, part, sep = kind.parts(word), token[len(kind.name) :], len(kind.sep)
                while part in parts:
                    at = parts.index(part)
                    start = len(kind.name) + sum(len(p) + sep for p in parts[:at])
                    gone = chars[start : start + len(part)]
                    # with the comma before it, else with the one behind
                    comma = chars[start - sep : start] if at else chars[start + len(part) :][:sep]
                    for i in sorted(gone + comma, reverse=True):
                        del self.units[i]
                    chars = [i for i in range(begin, end - len(gone + comma)) if self.units[i][1]]
                    end -= len(gone + comma)
                    del parts[at]
                if not parts and len(word) != len(kind.name):
                    self._cut(chars)

    def _cut(self, chars):
        """Takes these units out, with the one blank before them, else with the one behind."""
        before, behind = chars[0] - 1, chars[-1] + 1
        if before >= 0 and self.units[before][1].isspace():
            chars = [before] + chars
        elif behind < len(self.units) and self.units[behind][1].isspace():
            chars = chars + [behind]
        for i in sorted(chars, reverse=True):
            del self.units[i]


def edit_line(line, add, remove):
    """A kernel line (no quoting of interest) with tokens added at its end and removed. Tokens that
    are there already are not added."""
    text = _Text([(c, c) for c in line], lambda _, char: char)
    for token in remove:
        text.remove(token)
    for token in add:
        if token not in tokens([text.word(place) for place in text.words()]):
            text.add(token)
    return text.source()


# -- /etc/default/grub

ASSIGNMENT = re.compile(r"^[ \t]*(?:export[ \t]+)?GRUB_CMDLINE_LINUX(\+?)=", re.MULTILINE)
OPAQUE = "\0"
SELF = re.compile(r"\$(?:GRUB_CMDLINE_LINUX(?![A-Za-z0-9_])|\{GRUB_CMDLINE_LINUX\})")


def _value(text, at):
    """The shell word at `at`: ([(source, char)], end). Understands quotes and backslashes; an
    expansion is OPAQUE."""
    units, quote = [], ""
    while at < len(text):
        rest, char = text[at:], text[at]
        if quote == "'":
            units.append((char, "" if char == "'" else char))
            quote = "" if char == "'" else quote
            at += 1
            continue
        if char in "'\"" and not (char == "'" and quote):
            units.append((char, ""))
            quote = "" if quote else char
            at += 1
        elif char == "\\" and rest[1:2] == "\n":
            units.append((rest[:2], ""))
            at += 2
        elif char == "\\" and rest[1:] and (not quote or rest[1] in '$`"\\'):
            units.append((rest[:2], rest[1]))
            at += 2
        elif char in "$`":
            found = re.match(r"\$\{[^}]*\}|\$\([^)]*\)|\$[A-Za-z_]\w*|\$[0-9@*#?$!-]|`[^`]*`", rest)
            length = found.end() if found else 1
            units.append((rest[:length], OPAQUE))
            at += length
        elif not quote and (char.isspace() or char in ";&|#()<>"):
            break
        else:
            units.append((char, char))
            at += 1
    return units, at


def _assignments(text):
    """Those whose value reaches the end of the file: the last one and what it builds on.
    [[begin, end, units]], first to last."""
    chain = []
    for found in ASSIGNMENT.finditer(text):
        units, end = _value(text, found.end())
        builds = found.group(1) or any(SELF.fullmatch(source) for source, _ in units)
        chain = (chain if builds else []) + [[found.end(), end, units]]
    return chain


def _spelled(units):
    """How a character is spelled at a place in these units: as it is inside quotes."""

    def spell(at, char):
        quote = ""
        for source, one in units[:at]:
            if one == "" and source in ("'", '"'):
                quote = "" if quote else source
        return char if quote or char not in " ()" else "\\" + char

    return spell


def default_words(text):
    """The words of GRUB_CMDLINE_LINUX as the file leaves it."""
    words = []
    for _, _, units in _assignments(text):
        value = _Text(units, None)
        own = [value.word(place) for place in value.words()]
        words += [word for word in own if OPAQUE not in word]
    return words


def default_tokens(text):
    return tokens(default_words(text))


def edit_default(text, add, remove):
    """/etc/default/grub with tokens of GRUB_CMDLINE_LINUX added and removed."""
    for token in check(remove):
        for begin, end, units in reversed(_assignments(text)):
            value = _Text(units, _spelled(units))
            value.remove(token)
            text = text[:begin] + value.source() + text[end:]
    text = re.sub(
        r'(\n?)^GRUB_CMDLINE_LINUX=""%s(\n?)' % ADDED, _unadded, text, count=1, flags=re.MULTILINE
    )
    for token in check(add):
        if token in default_tokens(text):
            continue
        chain = _assignments(text)
        if not chain:
            before = "" if not text or text.endswith("\n") else "\n"
            after = "" if before else "\n"
            text += '%sGRUB_CMDLINE_LINUX="%s"%s%s' % (before, token, ADDED, after)
            continue
        kind = _list(token)
        lists = [a for a in chain if kind and any(_list(w) is kind for w in _words(a[2]))]
        begin, end, units = lists[-1] if lists else chain[-1]
        value = _Text(units, _spelled(units))
        value.add(token)
        text = text[:begin] + value.source() + text[end:]
    return text


def _unadded(found):
    """What stays of a line of ours that has become empty: the line end before it, where it came
    with one of its own."""
    return found.group(1) if found.group(2) else ""


def _words(units):
    value = _Text(units, None)
    return [value.word(place) for place in value.words()]


# -- grub.cfg

ENTRY = re.compile(r"^[ \t]*(menuentry|submenu)[ \t]")
KERNEL = re.compile(r"^[ \t]*(?:module2?|linux(?:16|efi)?)[ \t]+(?:--\S+[ \t]+)*(\S+)")


def entries(text):
    """The menu: [{"id", "title", "path": [index, …], "begin", "end", "kernel", "sub"}], depth
    first. `begin`, `end`: lines of the entry; `kernel`: the line that names the kernel, or None."""
    lines = text.split("\n")
    found, stack, counts = [], [], [0]
    for number, line in enumerate(lines):
        kind = ENTRY.match(line)
        if line.rstrip().endswith("{") and not line.lstrip().startswith("#"):
            if not kind:
                stack.append(None)
                continue
            words = _menu_words(line[kind.end() :])
            ids = [words[i + 1] for i, word in enumerate(words[:-1]) if word in MENU_ID]
            title = words[0] if words else ""
            entry = {
                "id": ids[0] if ids else title,
                "title": title,
                "path": [*(e["path"][-1] for e in stack if e), counts[-1]],
                "begin": number,
                "end": number,
                "kernel": None,
                "sub": kind.group(1) == "submenu",
            }
            counts[-1] += 1
            counts.append(0)
            stack.append(entry)
            found.append(entry)
        elif line.strip() == "}" and stack:
            entry = stack.pop()
            if entry:
                counts.pop()
                entry["end"] = number
        elif stack and stack[-1] and not stack[-1]["sub"] and stack[-1]["kernel"] is None:
            kernel = KERNEL.match(line)
            if kernel and "initr" not in kernel.group(1):
                stack[-1]["kernel"] = number
    return found


MENU_ID = ("$menuentry_id_option", "--id")


def _menu_words(text):
    """Words of a menuentry line up to its brace; quotes as in GRUB's shell."""
    found = re.findall(r"((?:'[^']*'|\"(?:[^\"\\]|\\.)*\"|\\.|[^\s'\"\\])+)", text)
    return [
        re.sub(r"'([^']*)'|\"((?:[^\"\\]|\\.)*)\"|\\(.)", lambda m: m.group(m.lastindex), word)
        for word in found
    ]


def default_entry(text, env):
    """The entry that boots when nobody does anything; `env`: the values of grubenv. GRUB takes the
    first where what is named does not exist. None where there is no entry with a kernel."""
    menu = entries(text)
    named = re.findall(r"^[ \t]*set default=(\"[^\"\n]*\"|'[^'\n]*'|\S+)", text, re.MULTILINE)
    # In front of it stands the one for `next_entry`; further below, others for when boots fail.
    named = [name.strip("\"'") for name in named if "next_entry" not in name]
    wanted = named[0] if named else "0"
    if wanted in ("${saved_entry}", "$saved_entry"):
        wanted = env.get("saved_entry") or "0"
    level, path = menu, []
    for part in re.split("(?<!>)>(?!>)", wanted):
        part = part.replace(">>", ">")
        same = [e for e in level if len(e["path"]) == len(path) + 1]
        hit = [e for e in same if part in (e["id"], e["title"])]
        hit = hit or [e for e in same if part == str(e["path"][-1])]
        if not hit:
            break
        path = hit[0]["path"]
        level = [e for e in menu if e["path"][: len(path)] == path]
    else:
        while level and level[0]["sub"]:  # a submenu that is named itself: its first entry
            level = level[1:]
        if level and level[0]["kernel"] is not None:
            return level[0]
    plain = [e for e in menu if e["kernel"] is not None]
    return plain[0] if plain else None


def is_xen(text, entry):
    """Whether the entry loads Xen below its kernel."""
    lines = text.split("\n")[entry["begin"] : entry["end"]]
    return any(re.match(r"[ \t]*(?:multiboot2?|xen_hypervisor)[ \t]", line) for line in lines)


def entry_tokens(text, entry):
    """Tokens of an entry's kernel line, the command and the kernel left out."""
    return tokens(text.split("\n")[entry["kernel"]].split()[2:])


def copy_entry(text, entry, entry_id, title, add, remove):
    """The entry as text, under another name and with another kernel line."""
    lines = text.split("\n")[entry["begin"] : entry["end"] + 1]
    kernel = entry["kernel"] - entry["begin"]
    lines[kernel] = edit_line(lines[kernel], check(add), remove)
    options = re.findall(r"--(?:class|users)\s+\S+|--unrestricted", lines[0])
    lines[0] = " ".join(["menuentry '%s'" % title, *options, "--id", entry_id, "{"])
    return "\n".join(lines) + "\n"


def edit_config(text, add, remove, of=None):
    """grub.cfg with tokens added to and removed from the kernel lines of all its entries that boot
    the same way as the default one, i.e. with the same root; other systems' are left alone."""
    lines = text.split("\n")
    for entry in entries(text):
        number = entry["kernel"]
        if number is None or entry["id"] in (RESCUE, TRIAL):
            continue
        words = lines[number].split()
        if of is None or _root(words) == _root(text.split("\n")[of["kernel"]].split()):
            lines[number] = edit_line(lines[number], check(add), check(remove))
    return "\n".join(lines)


def _root(words):
    return [word for word in words if word.startswith("root=")][-1:]


# -- custom.cfg


def ours(text):
    """What stands between our marks in custom.cfg; None without them."""
    found = re.search(_BLOCK, text or "", re.DOTALL | re.MULTILINE)
    return found and found.group(1)


_BLOCK = r"^%s\n(.*?)^%s(?:\n|\Z)" % (BEGIN, END)


def with_block(text, block):
    """custom.cfg with our block made this, or gone where it is ""; the rest stays as it is."""
    marked = "%s\n%s%s\n" % (BEGIN, block, END) if block else ""
    if ours(text) is not None:
        return re.sub(_BLOCK, lambda _: marked, text, count=1, flags=re.DOTALL | re.MULTILINE)
    # Before the rest: a `set default` of a person's own, after ours, still wins.
    return marked + text


def block(config, env, tokens_of_ours, trial=None, count=False):
    """
    The block: the rescue entry (the default one without any token of ours), the trial's entry
    (`trial`: {"add", "remove"}), and with `count` the way into the rescue entry after one boot that
    nobody verified. None where the default entry cannot be found.
    """
    entry = default_entry(config, env)
    if entry is None:
        return None
    text = copy_entry(config, entry, RESCUE, "guidomain: the screen with dom0", [], tokens_of_ours)
    if trial:
        title = "guidomain: trial"
        text += copy_entry(config, entry, TRIAL, title, trial["add"], trial["remove"])
    if count:
        text += (
            'if [ "${boot_once}" != "true" ]; then\n'
            '  if [ "${%s}" = "1" ]; then\n'
            "    set default=%s\n"
            "  else\n"
            "    set %s=1\n"
            "    save_env %s\n"
            "  fi\n"
            "fi\n"
        ) % (TRY, RESCUE, TRY, TRY)
    return text


# -- grubenv: a signature and NAME=VALUE lines in exactly 1024 bytes, filled up with "#"

ENV_SIZE = 1024
ENV_HEAD = b"# GRUB Environment Block\n"


def read_env(data):
    """{name: value}; ValueError where this is no environment block."""
    if len(data) != ENV_SIZE or not data.startswith(ENV_HEAD):
        raise ValueError("not an environment block of GRUB")
    values = {}
    for line in re.split(rb"(?<!\\)\n", data[len(ENV_HEAD) :]):
        name, equals, value = line.partition(b"=")
        if equals and not line.startswith(b"#"):
            text = re.sub(rb"\\(.)", rb"\1", value, flags=re.DOTALL)
            values[name.decode("utf-8", "surrogateescape")] = text.decode(
                "utf-8", "surrogateescape"
            )
    return values


def edit_env(data, changes):
    """The block with {name: value or None (not set)}; lines of others stay as they are."""
    read_env(data)
    lines = re.split(rb"(?<!\\)\n", data[len(ENV_HEAD) :].rstrip(b"#"))
    kept = [
        line
        for line in lines
        if line and line.partition(b"=")[0].decode("utf-8", "surrogateescape") not in changes
    ]
    for name, value in changes.items():
        if value is not None:
            text = re.sub(r"([\\\n])", r"\\\1", value)
            kept.append(("%s=%s" % (name, text)).encode("utf-8", "surrogateescape"))
    body = ENV_HEAD + b"".join(line + b"\n" for line in kept)
    if len(body) > ENV_SIZE:
        raise ValueError("no room in GRUB's environment block")
    return body + b"#" * (ENV_SIZE - len(body))
