"""What is made of models, and models set beside each other.

Making is a step with a recipe (steps.py, make.py; replay.py does it again, history.py and attest.py
tell of it): convert.py and export.py for formats, adapter.py and merge.py, quantize/, finetune/.
Setting beside each other: compare.py asks several models the same, votes.py adds up what people
preferred, evaluate/ scores them on tasks, audit/ looks for harm. router.py and conformal.py learn
from such scores which model a request needs.
"""
