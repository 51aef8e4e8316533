"""qvm-create (qubes-cli-formats.md §5)."""

import argparse
import sys

from .admin import Parser, QubesException, call, features, properties


class Preset(argparse.Action):
    """Options and the name all end in one map of properties."""

    def __call__(self, parser, namespace, values, option_string=None):
        if values is None:
            return
        if self.metavar == "NAME=VALUE":
            name, equals, values = values.partition("=")
            if not equals:
                parser.error("invalid property token: %r" % name)
        else:
            name = self.dest
        namespace.properties = dict(namespace.properties, **{name: values})


def make_parser():
    parser = Parser()
    parser.set_defaults(properties={})
    parser.add_argument("--class", "-C", dest="cls", default="AppVM")
    parser.add_argument("--standalone", action="store_true")
    parser.add_argument("--disp", action="store_true")
    parser.add_argument(
        "--property", "--prop", action=Preset, metavar="NAME=VALUE", default=argparse.SUPPRESS
    )
    parser.add_argument("--pool", "-p", action="append", metavar="VOLUME_NAME=POOL_NAME")
    parser.add_argument("-P", metavar="POOL_NAME", dest="one_pool", default="")
    parser.add_argument(
        "--template", "-t", action=Preset, metavar="VALUE", default=argparse.SUPPRESS
    )
    parser.add_argument("--label", "-l", action=Preset, metavar="VALUE", default=argparse.SUPPRESS)
    parser.add_argument("--help-classes", action="store_true")
    root = parser.add_mutually_exclusive_group()
    root.add_argument("--root-copy-from", "-r", metavar="FILENAME")
    root.add_argument("--root-move-from", "-R", metavar="FILENAME")
    parser.add_argument(
        "name", metavar="VMNAME", action=Preset, nargs="?", default=argparse.SUPPRESS
    )
    return parser


def clone(source, name, label):
    """A standalone of a template: a copy of its properties, features and root volume."""
    call(
        "admin.vm.Create.StandaloneVM",
        arg="",
        payload=("name=%s label=%s" % (name, label)).encode(),
    )
    for prop, (default, _, text) in properties(source).items():
        if not default and prop not in ("name", "qid", "uuid", "label", "installed_by_rpm"):
            call("admin.vm.property.Set", name, prop, text.encode())
    for key, text in features(source):
        call("admin.vm.feature.Set", name, key, text.encode())
    for volume in ("root", "private"):
        token = call("admin.vm.volume.CloneFrom", source, volume)
        call("admin.vm.volume.CloneTo", name, volume, token.encode())


def main():
    parser = make_parser()
    args = parser.parse()
    values = dict(args.properties)
    if args.help_classes:
        print(call("admin.vmclass.List"), end="")
        return 0
    if args.disp:
        values.setdefault("label", "red")
        args.cls = "DispVM"
    if args.standalone:
        args.cls = "StandaloneVM"
    if "label" not in values:
        parser.error("--label option is mandatory")
    if "name" not in values:
        parser.error("VMNAME is mandatory")
    if args.root_copy_from or args.root_move_from or args.pool or args.one_pool:
        parser.error("the twin has no volumes of its own: pools and root images are not simulated")
    labels = call("admin.label.List").splitlines()
    if values["label"] not in labels:
        parser.error("no such label: %r; available: %s" % (values["label"], ", ".join(labels)))
    if args.cls not in call("admin.vmclass.List").splitlines():
        parser.error("no such domain class: %r" % args.cls)
    name, label, template = values.pop("name"), values.pop("label"), values.pop("template", "")
    try:
        if args.cls == "StandaloneVM" and template:
            clone(template, name, label)
        else:
            call(
                "admin.vm.Create." + args.cls,
                arg=template,
                payload=("name=%s label=%s" % (name, label)).encode(),
            )
    except QubesException as error:
        print("app: Error creating VM: %s" % error, file=sys.stderr)
        return 1
    code = 0
    for prop, value in values.items():
        try:
            call("admin.vm.property.Set", name, prop, value.encode())
        except QubesException as error:
            print(
                "app: Error setting property %s (but VM created): %s" % (prop, error),
                file=sys.stderr,
            )
            code = 2
    return code
