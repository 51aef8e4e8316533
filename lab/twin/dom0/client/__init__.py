"""dom0's client commands. They know the system only through /run/qubesd.sock (qubes-cli-formats.md
§1 to §6).
"""
