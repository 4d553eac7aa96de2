"""Measuring models: suites, audits, comparisons, routers."""
