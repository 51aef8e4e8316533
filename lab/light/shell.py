"""A shell that is just large enough for the checks that a plan sends (src/plan/verify.ts): words, quotes, globs, variables before a
command, pipes, &&, ||, !, "$@", the status that is expected (…; test $? -eq 1) and waiting (until …; do sleep 1; done). It runs no program: commands are functions, files are a `Files`. What it does not know ends the run of
the laboratory, since a check that fails only here would pass for a finding.
"""
import fnmatch
import glob
import os
import re
import shlex


WAITING = re.compile(r"until (.+); do sleep 1; done(.*)")

EXPECTING = re.compile(r"(.+); test \$\? -eq (\d+)")


class Unknown(Exception):
    """The laboratory lacks something; no matter of the host."""


class Disk:
    """Files below a folder."""

    def __init__(self, root):
        self.root = root

    def exists(self, path):
        return os.path.exists(self.root + path)

    def read(self, path):
        """Text, or None."""
        try:
            with open(self.root + path, errors="replace") as file:
                return file.read()
        except OSError:
            return None

    def glob(self, pattern):
        return sorted(name[len(self.root) :] for name in glob.glob(self.root + pattern))


class Tree(Disk):
    """Files of a qube: {path: text}."""

    def __init__(self, files):
        self.files = files

    def exists(self, path):
        return path in self.files or any(name.startswith(path.rstrip("/") + "/") for name in self.files)

    def read(self, path):
        return self.files.get(path)

    def glob(self, pattern):
        parts = pattern.count("/")
        return sorted(name for name in self.files if name.count("/") == parts and fnmatch.fnmatchcase(name, pattern))


def run(text, commands, files):
    """(exit status, output) of a line. `commands(argv, env, stdin)` → (status, output)."""
    waiting = WAITING.fullmatch(text)
    if waiting:
        # Nothing changes while it waits, but that its time runs out (exit status of a timeout).
        code, out = run(waiting.group(1), commands, files)
        if code:
            return 124, out
        if not waiting.group(2):
            return 0, out
        code, more = run("true " + waiting.group(2), commands, files)
        return code, out + more
    expecting = EXPECTING.fullmatch(text)
    if expecting:
        code, out = run(expecting.group(1), commands, files)
        return int(code != int(expecting.group(2))), out
    lexer = shlex.shlex(text, posix=True, punctuation_chars="|&;")
    lexer.whitespace_split = True
    words, code, out, joint = list(lexer), 0, "", ";"
    if any(mark in words for mark in (";", "&")):
        raise Unknown("shell: %s" % text)
    while words:
        end = next((i for i, word in enumerate(words) if word in ("&&", "||")), len(words))
        line, following = words[:end], words[end : end + 1]
        if joint == ";" or (joint == "&&") == (code == 0):
            negates = line[0] == "!"
            code, said = pipe(line[negates:], commands, files)
            code = int(not code) if negates else code
            out += said
        joint, words = (following or [";"])[0], words[end + 1 :]
    return code, out


def pipe(words, commands, files):
    code, out = 0, ""
    while words:
        end = words.index("|") if "|" in words else len(words)
        argv, env = words[:end], {}
        while argv and re.match(r"\A[A-Z_]+=", argv[0]):
            name, _, value = argv.pop(0).partition("=")
            env[name] = value
        argv = [found for word in argv for found in (expanded(word, files))]
        code, out = simple(argv, env, out, commands, files)
        words = words[end + 1 :]
    return code, out


def expanded(word, files):
    """A pattern that fits nothing stays as it is."""
    return word.startswith("/") and "*" in word and files.glob(word) or [word]


def simple(argv, env, stdin, commands, files):
    name = argv[0]
    if name == "grep":
        return grep(argv[1:], stdin, files)
    if name in ("test", "["):
        words = [word for word in argv[1:] if word != "]"]
        if len(words) == 2 and words[0] in ("-e", "-f", "-d"):
            return (0 if files.exists(words[1]) else 1), ""
        raise Unknown("test %s" % words)
    if name in ("true", "false"):
        return int(name == "false"), ""
    if name in ("sh", "/bin/sh") and argv[1:2] == ["-c"]:
        return run(argv[2].replace('"$@"', shlex.join(argv[4:])), commands, files)
    return commands(argv, env, stdin)


def grep(words, stdin, files):
    flags = "".join(word[1:] for word in words if word.startswith("-") and word != "-")
    if set(flags) - set("qxEFihs"):
        raise Unknown("grep -%s" % flags)
    pattern, *names = [word for word in words if not word.startswith("-")]
    expression = re.escape(pattern) if "F" in flags else pattern
    found, missing = [], False
    for text in [stdin] if not names else [files.read(name) for name in names]:
        missing |= text is None
        for line in (text or "").splitlines():
            if re.fullmatch(expression, line) if "x" in flags else re.search(expression, line):
                found.append(line)
    code = 0 if found else 2 if missing else 1
    return code, "" if "q" in flags else "".join(line + "\n" for line in found)
