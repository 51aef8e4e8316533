"""Salt in the qube that is configured, as what salt-ssh sends there runs: run.py FOLDER, where FOLDER/job.json is {id, command, roots, out}
and FOLDER/srv what dom0's /srv was. Prints one line of JSON on stdout, {text, retcode}, once Salt has ended.
"""
import json
import os
import shutil
import sys

sys.path.insert(0, "/.guest/site")
folder = sys.argv[1]
answer = os.dup(1)
os.dup2(2, 1)  # whatever a module prints is not the answer

with open(folder + "/job.json") as file:
    job = json.load(file)

import salt.client  # noqa: E402
import salt.config  # noqa: E402
import salt.exceptions  # noqa: E402
import salt.output  # noqa: E402
import salt.utils.args  # noqa: E402

opts = salt.config.minion_config(None, minion_id=job["id"])
opts.update(
    {
        "id": job["id"],
        "root_dir": folder,
        "cachedir": folder + "/cache",
        "pki_dir": folder + "/pki",
        "sock_dir": folder + "/sock",
        "extension_modules": folder + "/srv/_extmods",
        "log_file": "/dev/null",
        "file_client": "local",
        "file_roots": {env: [folder + root for root in roots] for env, roots in job["roots"].items()},
        "pillar_roots": {"base": [folder + "/srv/pillar"]},
        "module_dirs": [os.path.dirname(os.path.abspath(__file__)) + "/modules"],
        "providers": {"pkg": "guest_pkg"},
        "disable_modules": ["git", "linux_shadow"],
        "enable_gpu_grains": False,
        "enable_fqdns_grains": False,
        "systemd.scope": False,
        "hash_type": "sha256",
        "color": False,
        "output_file": None,
    }
)


def work():
    """(what Salt answers, its outputter, exit status)"""
    function, words = job["command"][0], job["command"][1:]
    args, kwargs = salt.utils.args.parse_input(words, condition=False)
    functions = salt.client.Caller(mopts=opts).sminion.functions
    if function not in functions:
        return "'%s' is not available." % function, "nested", 1
    try:
        found = functions[function](*args, **kwargs)
    except salt.exceptions.SaltException as error:
        return "Error running '%s': %s" % (function, error), "nested", 1
    kind = getattr(functions[function], "__outputter__", "nested")
    code = functions.pack["__context__"].get("retcode", 0)
    return found, kind if isinstance(kind, str) else "nested", code


found, kind, code = work()
text = salt.output.out_format({job["id"]: found}, job["out"] or kind, opts)
os.write(answer, json.dumps({"text": text, "retcode": code}).encode() + b"\n")
os.close(answer)
shutil.rmtree(folder, ignore_errors=True)  # salt-ssh --wipe
os._exit(0)
