"""qvm-unpause."""

from .qvm_pause import each


def main():
    return each("admin.vm.Unpause", "unpause a domain")
