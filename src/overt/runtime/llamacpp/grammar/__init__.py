"""JSON schemas, regular expressions and grammars as GBNF."""
