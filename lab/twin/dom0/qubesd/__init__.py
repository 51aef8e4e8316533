"""The twin's qubesd: a model of a Qubes 4.3 dom0 (model), its Admin API (api) and the socket it
listens on (server).
"""
