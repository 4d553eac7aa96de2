"""What is done with whole models: making them out of others, and setting them beside each other.

Making: convert.py, and one file for each architecture (bert.py). Setting beside each other:
compare.py asks several models the same, votes.py adds up what people preferred, evaluate/ scores
them on tasks. router.py and conformal.py learn from such scores which model a request needs.
"""
