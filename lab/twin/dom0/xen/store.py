"""xenstore: a tree of strings. Paths are "/local/domain/3/name"; a domain's own are relative to its folder."""


class Store:
    def __init__(self):
        self.nodes = {"/": ""}

    def write(self, path, value):
        path = clean(path)
        parts = path.strip("/").split("/")
        for at in range(1, len(parts)):
            self.nodes.setdefault("/" + "/".join(parts[:at]), "")
        self.nodes[path] = str(value)

    def read(self, path):
        """None where there is no such node."""
        return self.nodes.get(clean(path))

    def exists(self, path):
        return clean(path) in self.nodes

    def remove(self, path):
        """The node with all below it; False where there is none."""
        path = clean(path)
        if path not in self.nodes:
            return False
        for each in [each for each in self.nodes if each == path or each.startswith(path + "/")]:
            del self.nodes[each]
        return True

    def children(self, path):
        """Names, in the order in which they came."""
        start = clean(path).rstrip("/") + "/"
        found = {}
        for each in self.nodes:
            if each.startswith(start) and each != start:
                found.setdefault(each[len(start) :].split("/")[0])
        return list(found)


def clean(path):
    return "/" + path.strip("/") if path.startswith("/") else "/local/domain/0/" + path.strip("/")
