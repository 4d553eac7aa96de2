"""Audits: what a model does that a score on tasks does not show, each figure with its interval.

`probe` is the contract, `probes/` has one file a probe, `run` asks a model, `record` keeps what
came of it, `page` shows it. Data sets are not part of Overt: `sets.toml` says where they are from.
"""
