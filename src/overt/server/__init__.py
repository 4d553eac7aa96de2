"""What other programs and machines reach over HTTP.

``app.py`` runs a list of doors on one port behind one guard (``guard.py``: Host header, token). A
door gives a response to a request, or None where the path is not its own. ``mirror.py`` and
``artefacts.py`` are two doors to the same shelf of stored models (``shelf.py``).
"""
