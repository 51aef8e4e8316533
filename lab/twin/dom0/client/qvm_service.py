"""qvm-service: services are features `service.NAME` (qubes-cli-formats.md §4)."""

from .admin import Parser, QubesException, call, feature, features, print_table
from .qvm_features import unset

ON, OFF = ("1", "yes", "true", "on"), ("0", "no", "false", "off")


def main():
    parser = Parser(qubes=1, description="manage domain's services")
    parser.add_argument("service", metavar="SERVICE", nargs="?")
    parser.add_argument("value", metavar="VALUE", nargs="?")
    parser.add_argument(
        "--unset", "--default", "--delete", "-D", dest="delete", action="store_true"
    )
    parser.add_argument("--list", "-l", action="store_true")
    parser.add_argument("--enable", "-e", action="store_const", dest="switch", const="on")
    parser.add_argument("--disable", "-d", action="store_const", dest="switch", const="off")
    args = parser.parse()
    name = args.qubes[0]
    value = args.switch or args.value
    if args.delete and args.service is None:
        parser.error("--unset requires a feature")
    if args.delete and value is not None:
        parser.error("cannot both set and unset a value")
    key = "service.%s" % args.service
    try:
        if args.service is None:
            found = [
                (key[len("service.") :], text)
                for key, text in features(name)
                if key.startswith("service.")
            ]
            print_table([(service, "on" if text else "off") for service, text in found])
        elif args.delete:
            unset(name, key)
        elif value is not None:
            if value.lower() not in ON + OFF:
                raise QubesException("Invalid literal for boolean value: %r" % value)
            call("admin.vm.feature.Set", name, key, b"1" if value.lower() in ON else b"")
        else:
            text = feature(name, key)
            if text is None:
                return 1
            print("on" if text else "off")
    except QubesException as error:
        parser.fail(error)
    return 0
