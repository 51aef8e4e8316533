"""How programs in dom0 reach process 1 (units) and the machine below (power). One JSON line there, one back."""
import json
import socket
import time

INIT, POWER = "/run/systemd/twin", "/run/twin/power"


def ask(path, request):
    """The answer; raises OSError where nobody is there."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        client.sendall(json.dumps(request).encode() + b"\n")
        data = _line(client)
    return json.loads(data.decode() or "null")


def serve(connection, answer):
    """The other side of `ask`: one request, answered by `answer(request)`, whose errors are its own to tell."""
    with connection:
        data = _line(connection)
        if not data.endswith(b"\n"):
            return  # who asked is gone
        reply = answer(data.decode())
        try:
            connection.sendall(json.dumps(reply).encode() + b"\n")
        except OSError:
            pass


def _line(connection):
    """The bytes up to a line's end, or to where the other side has ended."""
    data = b""
    while not data.endswith(b"\n"):
        part = connection.recv(65536)
        if not part:
            break
        data += part
    return data


def power(what, why=""):
    """What happens to the host: hang, reset, power, reboot, poweroff, suspend, or only to its line or to programs in it: cut-line,
    kill-agent, kill-guard, kill-salt. After the others but a sleep this does not return: the host is stopped or gone.
    """
    ask(POWER, {"do": what, "why": why})
    while not what.startswith(("cut-", "kill-", "suspend")):
        time.sleep(60)
