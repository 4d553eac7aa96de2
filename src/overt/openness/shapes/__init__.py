"""Which tensors a model must have, and of what shape, computed from its configuration.

`layouts.py` lists the tensors of each architecture by both names they go by (transformers and
llama.cpp); `plan.py` fills in the numbers of a ``config.json`` or a GGUF header and compares.
"""
