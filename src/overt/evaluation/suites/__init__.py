"""Scoring models on tasks: suites are read (suite.py), asked (run.py), graded (runners/), kept.

No runner needs log-probabilities, so any engine can be scored, a provider's as well as a local
one. What comes out is a receipt (receipt.py), with intervals (intervals.py) and not bare means.
"""
