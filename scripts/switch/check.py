#!/usr/bin/env python3
import re
import sys

first = sys.stdin.read().strip().partition("\n")[0]
if not re.fullmatch(r"[A-D]-\d{4}", first):
    sys.exit("no order number")
