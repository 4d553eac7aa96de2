"""What other programs and machines reach over HTTP.

``app.py`` runs a list of `MirrorProtocol` on one port behind one guard (``guard.py``: Host header,
token). Each gives a response to a request, or None where the path is not its own.
``mirror/hub.py`` and ``mirror/oci.py`` serve the same stored models (``mirror/catalogue.py``).
"""
