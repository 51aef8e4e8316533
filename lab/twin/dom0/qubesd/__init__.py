"""The twin's qubesd: a model of a Qubes 4.3 dom0 (model), its Admin API (api) and the socket it
listens on (server).
"""

# What qubesd and libvirt keep for a qube with a device model beside its own memory, MiB. Here, not in
# model, because xl needs it and the model takes longer to load than `xl info` to run.
STUBDOM_MEMORY = 144
