"""Conversations in other programs' formats: one file a format, all with the same four names.

``NAME`` and ``ABOUT`` say what it is, ``looks(member, value)`` whether a decoded JSON value is of
that format, ``read(value, archive, lost)`` makes `Conversation`s of it, and ``write(conversations,
lost)`` the bytes of a file. What a format has no place for is counted in `lost` and never dropped
without a word.
"""
