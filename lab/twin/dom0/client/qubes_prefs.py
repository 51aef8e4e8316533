"""qubes-prefs: the global properties (qubes-cli-formats.md §3)."""

from .qvm_prefs import act, make_parser


def main():
    parser = make_parser(None)
    return act(parser, parser.parse(), "dom0", "admin.property")
