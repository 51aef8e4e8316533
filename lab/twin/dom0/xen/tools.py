"""xenstore-read, -write, -ls, -list, -rm, -exists, -chmod (tools/xenstore/xenstore_client.c), on a Store."""


def xenstore(store, words):
    """(status, stdout, stderr) of `xenstore-VERB ARGUMENT…`."""
    verb, options = words[0], [word for word in words[1:] if word.startswith("-") and word != "-"]
    names = [word for word in words[1:] if word not in options]
    out, err, code = [], [], 0
    if verb == "write":
        for path, value in zip(names[::2], names[1::2]):
            store.write(path, value)
    elif verb == "read":
        for path in names:
            value = store.read(path)
            if value is None:
                err.append("xenstore-read: couldn't read path %s" % path)
                code = 1
                break
            out.append(("%s: " % path if "-p" in options else "") + value)
    elif verb == "list":
        for path in names:
            if not store.exists(path):
                err.append("xenstore-list: could not list path %s" % path)
                code = 1
                break
            out += store.children(path)
    elif verb == "ls":
        for path in names or ["/"]:
            if not store.exists(path):
                err.append("xenstore-ls: xs_directory (%s): No such file or directory" % path)
                code = 1
                break
            out += tree(store, path, "-f" in options)
    elif verb == "rm":
        for path in names:
            if not store.remove(path):
                err.append("xenstore-rm: could not remove path %s" % path)
                code = 1
                break
    elif verb == "exists":
        code = 0 if all(store.exists(path) for path in names) else 1
    elif verb != "chmod":
        err.append("xenstore-%s: the twin does not know it" % verb)
        code = 1
    return code, "".join(line + "\n" for line in out), "".join(line + "\n" for line in err)


def tree(store, path, full, depth=0):
    found = []
    for name in store.children(path):
        below = path.rstrip("/") + "/" + name
        value = (store.read(below) or "").replace("\\", "\\\\").replace('"', '\\"')
        found.append('%s = "%s"' % (below, value) if full else '%s%s = "%s"' % (" " * depth, name, value))
        found += tree(store, below, full, depth + 1)
    return found
