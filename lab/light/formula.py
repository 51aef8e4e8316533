"""Runs a rendered formula as qubesctl would: our own states from where they were staged, Salt's own ones (file, pkg) as far as the
templates use them. In the process of the agent, so it ends with it, as the real one does (salt/agent/runner.py).
"""
import hashlib
import json
import os
import types

import yaml


def run(process, argv, stop):
    """(status, stdout, stderr, why) as runner.Ended has it."""
    reach = lambda name: process.ask("reach", step=name)  # noqa: E731
    common = process.product["common"]
    sls = argv[argv.index("state.sls") + 1].replace(".", "/")
    process.sleep(3)  # until salt-call has started
    killed = reach("salt.begun").get("kill")
    text = common.read_text("%s/%s/init.sls" % (common.FORMULA, sls)) or common.read_text("%s/%s.sls" % (common.FORMULA, sls))
    if text is None or not text.startswith("#!yaml"):
        return 1, json.dumps({"local": ["No matching sls found for '%s' in env 'user'" % sls]}).encode(), b"", "exit"
    states = States(process)
    results, failed = {}, set()
    for number, (name, body) in enumerate((yaml.safe_load(text) or {}).items()):
        if killed:
            return 137, b"", b"Killed", "exit"
        if stop and stop.is_set():
            return 143, b"", b"", "stop"
        (function, arguments), = body.items()
        given = {key: value for part in arguments for key, value in part.items()}
        required = [ident for part in given.pop("require", []) for ident in part.values()]
        given.pop("failhard", None)
        title = given.pop("name", name)
        if any(ident in failed for ident in required):
            result = {"result": False, "comment": "One or more requisite failed", "changes": {}}
        else:
            result = states.call(function, title, given)
        if result["result"] is False:
            failed.add(name)
        module, _, verb = function.partition(".")
        results["%s_|-%s_|-%s_|-%s" % (module, name, title, verb)] = dict(result, __id__=name, __run_num__=number)
        process.sleep(0.5)
        killed = reach("salt.state").get("kill")
        if result["result"] is False and body[function] and {"failhard": True} in arguments:
            break
    if killed:
        return 137, b"", b"Killed", "exit"
    return 2 if failed else 0, json.dumps({"local": results}).encode(), b"", "exit"


class States:
    def __init__(self, process):
        self.process, self.common = process, process.product["common"]
        self.modules = {}

    def call(self, function, name, given):
        own = getattr(self, function.replace(".", "_"), None)
        if own:
            return own(name, **given)
        module, _, verb = function.partition(".")
        return getattr(self.module(module), verb)(name, **given)

    def module(self, name):
        if name not in self.modules:
            path = "%s/_states/%s.py" % (self.common.SALT, name)
            module = types.ModuleType(name)
            utils = {}
            for util in ("qubes_admin", "grub", "policy_lines"):
                found = self.process.product[util]
                utils.update({"%s.%s" % (util, each): getattr(found, each) for each in dir(found) if not each.startswith("_")})
            module.__dict__.update(
                __utils__=utils, __opts__={"test": False}, __salt__=Functions(self.process), __env__="user", __file__=self.common.path(path)
            )
            exec(compile(self.common.read_text(path), path, "exec"), module.__dict__)
            module.ROOT = self.common.ROOT
            self.modules[name] = module
        return self.modules[name]

    # --- Salt's own

    def file_managed(self, name, source, mode="0644", makedirs=False, check_cmd=None):
        text = self.common.read_text("%s/%s" % (self.common.FORMULA, source[len("salt://") :].partition("?")[0]))
        if text is None:
            return {"result": False, "comment": "Source file %s not found in saltenv 'user'" % source, "changes": {}}
        now = self.common.read_file(name)
        wanted = {"content": text, "mode": "%04o" % int(str(mode), 8)}
        if now and {key: now[key] for key in wanted} == wanted:
            return {"result": True, "comment": "File %s is in the correct state" % name, "changes": {}}
        folder = os.path.dirname(self.common.path(name))
        if makedirs:
            os.makedirs(folder, exist_ok=True)
        # Written beside it first, and not synced (salt.utils.files.copyfile).
        begun = self.common.path(name) + hashlib.sha256(name.encode()).hexdigest()[:8]
        try:
            with open(begun, "w", encoding="utf-8", errors="surrogateescape") as file:
                file.write(text)
            if check_cmd:
                code, out, err = self.process.ask("run", argv=check_cmd.split() + [begun])
                if code:
                    os.unlink(begun)
                    return {"result": False, "comment": "check_cmd execution failed\n" + out + err, "changes": {}}
            self.process.ask("reach", step="salt.file")
            os.chmod(begun, int(wanted["mode"], 8))
            os.rename(begun, self.common.path(name))
        except OSError as error:
            return {"result": False, "comment": "Unable to manage file: %s" % error, "changes": {}}
        self.process.ask("unsynced", path=name)
        return {"result": True, "comment": "File %s updated" % name, "changes": {"diff": "…"}}

    def file_absent(self, name):
        if self.common.read_file(name) is None:
            return {"result": True, "comment": "File %s is not present" % name, "changes": {}}
        os.unlink(self.common.path(name))
        return {"result": True, "comment": "Removed file %s" % name, "changes": {"removed": name}}

    def pkg_installed(self, name, pkgs):
        return self._packages(["qubes-dom0-update", "-y"] + pkgs)

    def pkg_removed(self, name, pkgs):
        return self._packages(["dnf", "-y", "remove"] + pkgs)

    def _packages(self, argv):
        self.process.sleep(5)
        code, out, err = self.process.ask("run", argv=argv)
        return {"result": code == 0, "comment": out + err, "changes": {}}


class Functions(dict):
    """__salt__"""

    def __init__(self, process):
        def run_all(command, python_shell=False, **_):
            argv = command if isinstance(command, list) else command.split()
            code, out, err = process.ask("run", argv=argv)
            return {"retcode": code, "stdout": out, "stderr": err, "pid": 0}

        super().__init__({"cmd.run_all": run_all, "cmd.retcode": lambda c, **k: run_all(c)["retcode"], "cmd.run": lambda c, **k: run_all(c)["stdout"]})
