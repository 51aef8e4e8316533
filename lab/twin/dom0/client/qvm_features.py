"""qvm-features (qubes-cli-formats.md §4)."""

from .admin import Parser, QubesException, call, feature, features, print_table


def main():
    parser = Parser(qubes=1, description="manage domain's features")
    parser.add_argument("feature", metavar="FEATURE", nargs="?")
    parser.add_argument("value", metavar="VALUE", nargs="?")
    parser.add_argument(
        "--unset", "--default", "--delete", "-D", dest="delete", action="store_true"
    )
    args = parser.parse()
    name = args.qubes[0]
    if args.delete and args.feature is None:
        parser.error("--unset requires a feature")
    if args.delete and args.value is not None:
        parser.error("cannot both set and unset a value")
    try:
        if args.feature is None:
            print_table(features(name))
        elif args.delete:
            unset(name, args.feature)
        elif args.value is not None:
            call("admin.vm.feature.Set", name, args.feature, args.value.encode())
        else:
            value = feature(name, args.feature)
            if value is None:
                return 1
            print(value)
    except QubesException as error:
        parser.fail(error)
    return 0


def unset(name, key):
    """Unsetting what is not set is fine."""
    try:
        call("admin.vm.feature.Remove", name, key)
    except QubesException as error:
        if error.kind != "QubesFeatureNotFoundError":
            raise
