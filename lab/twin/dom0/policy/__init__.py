"""qrexec policy: parser, loader of the two folders with rules, evaluator (qubes-cli-formats.md §9,
qubes-host.md (f)).
"""

import os
import re
import string

POLICY = "/etc/qubes/policy.d"
# Gone with the boot; a file here hides the one of the same name in POLICY (seen on real core-qrexec
# 4.3: policy/parser.py, load_policy_dirs).
RUNTIME_POLICY = "/run/qubes/policy.d"
OLD_POLICY = "/etc/qubes-rpc/policy"
RPC_CHARACTERS = set(string.ascii_letters + string.digits + "+-._")
FILE_CHARACTERS = set(string.digits + string.ascii_lowercase + "_.-")
DOM0 = ("@adminvm", "dom0", "uuid:00000000-0000-0000-0000-000000000000")

# Where each token may stand.
EXACT = {
    "*": ("source", "target"),
    "@adminvm": ("source", "target", "redirect", "intendedtarget"),
    "@anyvm": ("source", "target"),
    "@default": ("target", "intendedtarget"),
    "@dispvm": ("target", "redirect", "intendedtarget"),
}
PREFIXES = {
    "@type:": ("source", "target"),
    "@tag:": ("source", "target"),
    "@dispvm:": ("source", "target", "redirect", "intendedtarget"),
    "@dispvm:@tag:": ("source", "target"),
}
ACTIONS = {
    "allow": ("target", "user", "notify", "autostart"),
    "ask": ("target", "default_target", "user", "notify", "autostart"),
    "deny": ("notify",),
}


class PolicySyntaxError(Exception):
    """A line that cannot be parsed; the whole policy then cannot be loaded."""

    def __init__(self, path, line, text):
        super().__init__("%s:%s: %s" % (path, line, text))
        self.text = text


class AccessDenied(Exception):
    """A call that is not allowed, with the reason that goes into the journal."""


# A traceback names them as the real ones.
PolicySyntaxError.__module__ = AccessDenied.__module__ = "qrexec.exc"


def token(text, place):
    """Checks what stands for qubes at a place of a line; raises ValueError with the linter's words.
    """
    if not text:
        raise ValueError("invalid empty %s token" % place)
    if not text.startswith("@") and text != "*" or place in EXACT.get(text, ()):
        return text
    for prefix, places in PREFIXES.items():
        if place in places and text.startswith(prefix):
            if text == prefix:
                raise ValueError("invalid empty %s token: %r" % (prefix, text))
            if not text[len(prefix) :].startswith("@"):
                return text
    raise ValueError("invalid %s token: %r" % (place, text))


def check_call(service, argument):
    """(service, argument) of a line, None for "any"; raises ValueError."""
    service = None if service == "*" else service
    argument = None if argument == "*" else argument
    if service is not None:
        wrong = tuple(sorted(set(service) - (RPC_CHARACTERS - {"+"})))
        if wrong:
            raise ValueError("service %r contains invalid characters: %r" % (service, wrong))
    if argument is not None:
        wrong = tuple(sorted(set(argument) - RPC_CHARACTERS))
        if wrong:
            raise ValueError("argument %r contains invalid characters: %r" % (argument, wrong))
        if not argument.startswith("+"):
            raise ValueError("argument %r does not start with +" % argument)
        if service is None:
            raise ValueError("only * argument allowed for * service")
    return service, argument


class Rule:
    def __init__(self, service, argument, source, target, action, params, path, line):
        self.path, self.line = path, line
        self.service, self.argument = check_call(service, argument)
        self.source, self.target = token(source, "source"), token(target, "target")
        if action not in ACTIONS:
            raise ValueError("invalid action: %s" % action)
        self.action = action
        self.params = {}
        for param in params:
            key, equals, value = param.partition("=")
            if not equals:
                raise ValueError("invalid action parameter syntax: %r" % param)
            if key in self.params:
                raise ValueError("parameter given twice: %r" % key)
            self.params[key] = value
        for key in ("notify", "autostart"):
            if self.params.get(key, "yes") not in ("yes", "no"):
                raise ValueError(
                    "%r is %r, but can be only 'yes' or 'no'" % (key, self.params[key])
                )
        if not set(self.params) <= set(ACTIONS[action]):
            raise ValueError(
                "invalid parameters for action %s: %s" % (action.capitalize(), list(params))
            )
        for key in ("target", "default_target"):
            if key in self.params:
                token(self.params[key], "redirect")
        if target == "@default" and action == "allow" and "target" not in self.params:
            raise ValueError("allow action for @default rule must specify target= option")

    def fits(self, call):
        return self.fits_but_target(call) and matches(self.target, call.target, call)

    def fits_but_target(self, call):
        return (
            self.service in (None, call.service)
            and self.argument in (None, call.argument)
            and matches(self.source, call.source, call)
        )

    def __str__(self):
        return "%s:%s" % (self.path, self.line)


class Parser:
    """Turns text into rules. `include(path)` gives (path as named in messages, text) or raises
    ValueError; `compat(place of the directive)` gives Qubes 4.0's files.
    """

    def __init__(self, include, include_dir, compat):
        self.include, self.include_dir, self.compat = include, include_dir, compat
        self.rules = []

    def parse(self, path, text, service=None):
        """`service`: (service, argument) of an !include-service, whose files have lines without
        these two.
        """
        for number, line in enumerate(re.split("\r\n|\n|\r", text), 1):
            line = line.strip()
            if line and not line.startswith("#"):
                try:
                    self.parse_line(path, number, line, service)
                except ValueError as error:
                    raise PolicySyntaxError(path, number, error)

    def parse_line(self, path, number, line, service):
        if service:
            line = line.replace("$include:", "!include ").replace("$", "@").replace(",", " ")
        if line.startswith("!"):
            return self.directive(path, number, service, *line.split())
        fields = line.split()
        if len(fields) < (3 if service else 5):
            raise ValueError("wrong number of fields")
        if service:
            fields = ["*" if part is None else part for part in service] + fields
        self.rules.append(Rule(*fields[:5], fields[5:], path, number))

    def directive(self, path, number, service, name, *params):
        if name == "!include" and len(params) == 1:
            self.parse(*self.include(params[0]), service)
        elif service:
            raise ValueError(
                "invalid number of params" if name == "!include" else "invalid directive"
            )
        elif name == "!include-service" and len(params) == 3:
            inner = check_call(*params[:2])
            self.parse(*self.include(params[2]), inner)
        elif name == "!include-dir" and len(params) == 1:
            for included in self.include_dir(params[0]):
                self.parse(*included)
        elif name == "!compat-4.0" and not params:
            for *file, service, argument in self.compat("%s line %d" % (path, number)):
                self.parse(*file, (service, argument))
        elif name in ("!include", "!include-service", "!include-dir", "!compat-4.0"):
            raise ValueError("invalid number of params")
        else:
            raise ValueError("invalid directive")


# --- the policy on disk


def policy_files(folder):
    """Paths of the files that count, in their order. One name that is not allowed and nothing
    counts.
    """
    names = [
        name
        for name in sorted(os.listdir(folder))
        if name.endswith(".policy")
        and not name.startswith(".")
        and os.path.isfile(os.path.join(folder, name))
    ]
    for name in names:
        if not set(name) <= FILE_CHARACTERS:
            raise AccessDenied("invalid filename: %s" % os.path.join(folder, name))
    return [os.path.join(folder, name) for name in names]


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def load(folders=(RUNTIME_POLICY, POLICY), overrides=None, warn=lambda text: None):
    """The rules in force: of files with the same name, that of the first folder. `overrides` ({path:
    text or None for gone}) is how a change is tried before it is made. Raises PolicySyntaxError or
    AccessDenied.
    """
    try:
        return load_files(folders, overrides or {}, warn)
    except OSError as error:
        raise AccessDenied("failed to load %s file: %s" % (error.filename, error))


def load_files(folders, overrides, warn):
    folder = None  # of the file being read; what it includes is looked for there

    def include(name):
        path = os.path.normpath(os.path.join(folder, name))
        if path in overrides:
            if overrides[path] is None:
                raise ValueError("including a file that will be removed: %s" % path)
            return path, overrides[path]
        if not os.path.isfile(path):
            raise ValueError("not a file: %s" % path)
        return path, read(path)

    def include_dir(name):
        path = os.path.normpath(os.path.join(folder, name))
        if not os.path.isdir(path):
            raise ValueError("not a directory: %s" % path)
        return [(each, read(each)) for each in policy_files(path)]

    def compat(place):
        warn("!compat-4.0 directive in file %s is transitional and will be deprecated" % place)
        return old_files()

    parser = Parser(include, include_dir, compat)
    paths = {}  # by name
    for each in folders:
        paths = {**{os.path.basename(path): path for path in policy_files(each)}, **paths}
    for path, text in overrides.items():
        name = os.path.basename(path)
        if os.path.dirname(path) in folders:
            paths[name] = path
            if text is None:
                del paths[name]
    for _, path in sorted(paths.items()):
        folder = os.path.dirname(path)
        parser.parse(path, overrides[path] if path in overrides else read(path))
    return parser.rules


def old_files():
    """Files of Qubes 4.0, those with an argument first, each with the denial that was understood
    after it.
    """
    if not os.path.isdir(OLD_POLICY):
        return
    names = [
        name
        for name in os.listdir(OLD_POLICY)
        if re.fullmatch(r"[A-Za-z0-9+_-][A-Za-z0-9+._-]*", name)
        and not name.endswith((".rpmsave", ".rpmnew", ".swp"))
    ]
    for name in sorted(names, key=lambda name: ("+" not in name, name)):
        service, plus, argument = name.partition("+")
        path = os.path.join(OLD_POLICY, name)
        if os.path.isfile(path):
            yield path, read(path), service, plus + argument if plus else None
            if plus:
                yield path, "@anyvm @anyvm deny\n@anyvm @adminvm deny", service, plus + argument


# --- evaluation


class Call:
    """service, argument ("+…"), source, target, and what is known of the qubes: {name: {type, tags,
    power_state, template_for_dispvms, default_dispvm, internal}}.
    """

    def __init__(self, service, argument, source, target, qubes):
        self.service, self.argument, self.source, self.qubes = service, argument, source, qubes
        self.target = self.verify(token(target or "@default", "intendedtarget"))

    def verify(self, target):
        if target.startswith("@dispvm:"):
            name = target[len("@dispvm:") :]
            if not self.qubes.get(name, {}).get("template_for_dispvms"):
                raise AccessDenied("not a template for dispvm: %s" % name)
        elif not target.startswith("@") and target not in self.qubes:
            return "@default"  # what does not exist is asked for by nobody
        return target

    def disposable_of(self, source):
        """The @dispvm: that a plain @dispvm stands for, None where the source has none."""
        name = self.qubes.get(source, {}).get("default_dispvm")
        return "@dispvm:" + name if name else None

    def is_internal(self, target):
        name = target[len("@dispvm:") :] if target.startswith("@dispvm:") else target
        return bool(self.qubes.get(name, {}).get("internal"))


def matches(pattern, name, call):
    """Whether what stands in a line means a qube, or one of the tokens that a caller may use."""
    qube = call.qubes.get(name, {})
    if pattern == "*":
        return True
    if pattern in DOM0:
        return name in DOM0
    if pattern == "@anyvm":
        return name not in DOM0
    if pattern.startswith("@type:"):
        return qube.get("type") == pattern[len("@type:") :]
    if pattern.startswith("@tag:"):
        return pattern[len("@tag:") :] in qube.get("tags", ())
    if pattern.startswith("@dispvm:"):
        given = call.disposable_of(call.source) if name == "@dispvm" else name
        if not given or not given.startswith("@dispvm:"):
            return False
        template = call.qubes.get(given[len("@dispvm:") :], {})
        if pattern.startswith("@dispvm:@tag:"):
            return (
                bool(template.get("template_for_dispvms"))
                and pattern[len("@dispvm:@tag:") :] in template["tags"]
            )
        return pattern == given
    return pattern == name


def evaluate(rules, call):
    """("allow", target, user) or ("ask", targets, user); raises AccessDenied."""
    rule = next((rule for rule in rules if rule.fits(call)), None)
    if rule is None:
        raise AccessDenied("no matching rule found")
    if rule.action == "deny":
        raise AccessDenied("denied by policy %s" % rule)
    if rule.action == "ask":
        return "ask", ask_targets(rules, rule, call), rule.params.get("user")
    target = call.verify(rule.params.get("target") or call.target)
    if target == "@default":
        raise AccessDenied(
            "policy define 'allow' action at %s but no target is specified by caller or policy"
            % rule
        )
    if target == "@dispvm":
        target = call.disposable_of(call.source)
        if target is None:
            raise AccessDenied(
                "policy define 'allow' action to @dispvm at %s "
                "but no DispVM base is set for this VM"
                % rule
            )
    target = "dom0" if target in DOM0 else target
    if rule.params.get("autostart") == "no" and not runs(target, call):
        raise AccessDenied("target %s is denied because it would require autostart" % target)
    return "allow", target, rule.params.get("user")


def goes_to(source, service, argument, target, qubes, folders=(RUNTIME_POLICY, POLICY)):
    """Where the policy of these folders lets a call go without a question; None for nowhere."""
    try:
        outcome = evaluate(load(folders), Call(service, argument, source, target, qubes))
    except (AccessDenied, PolicySyntaxError, ValueError):
        return None
    return outcome[1] if outcome[0] == "allow" and outcome[1] != source else None


def runs(target, call):
    return target in DOM0 or call.qubes.get(target, {}).get("power_state") == "Running"


def ask_targets(rules, rule, call):
    if "target" in rule.params:
        target = rule.params["target"]
        found = {"dom0" if target in DOM0 else target}
    else:
        found = set()
        for each in reversed([each for each in rules if each.fits_but_target(call)]):
            meant = set(expand(each.params.get("target") or each.target, call))
            found = found - meant if each.action == "deny" else found | meant
        if "@dispvm" in found:
            found.remove("@dispvm")
            found.add(call.disposable_of(call.source))
        found = {"dom0" if name in DOM0 else name for name in found}
        found -= {call.source, None}
        found = {name for name in found if not call.is_internal(name)}
    if rule.params.get("autostart") == "no":
        found = {target for target in found if runs(target, call)}
    if not found:
        raise AccessDenied(
            "policy define 'ask' action at %s but no target is available to choose from" % rule
        )
    return sorted(found)


def expand(pattern, call):
    """The qubes that a target of a line may mean, for a person to choose from."""
    if pattern == "@adminvm":  # a denial of it does not take away what is spelled dom0
        yield pattern
        return
    if pattern in ("*", "@anyvm", "@dispvm"):
        yield "@dispvm"
    for name, qube in call.qubes.items():
        if matches(pattern, name, call):
            yield "dom0" if name in DOM0 else name
        if qube.get("template_for_dispvms") and matches(pattern, "@dispvm:" + name, call):
            yield "@dispvm:" + name
