"""
Single lines of a file of qrexec policy that others write to as well, such as Qubes'
include/admin-global-rwx. The agent's values and the Salt state speak of the same lines. Pure.
"""


def spelled(line):
    """Two spellings of one rule are the same; "$" and "," are those of Qubes 4.0, which files of
    !include-service may still have."""
    return " ".join(line.replace("$", "@").replace(",", " ").split())


def has(text, line):
    return spelled(line) in map(spelled, text.split("\n"))


def edit(text, add, remove):
    """`text` with those of `add` at its end that it does not have, and without those of `remove`. What
    is added and then taken away leaves no trace, not even an end of a last line that had none."""
    gone = {spelled(line) for line in remove}
    lines = [line for line in text.split("\n") if spelled(line) not in gone]
    there = set(map(spelled, lines))
    new = [line for line in add if spelled(line) not in there]
    end = len(lines) - 1 if lines and lines[-1] == "" else len(lines)
    return "\n".join(lines[:end] + new + lines[end:])
