"""The inside of a qube, as far as checks and set-ups look at it: see content.py (what there is) and
room.py (where it runs).
"""
