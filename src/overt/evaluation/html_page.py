"""What every page of ours is made of: its head, its colours and tables, and anybody's text in it.

No script, no font, no picture and no address is loaded or linked, and the page's own policy forbids
it. Text is escaped, shown with its unseen characters, and kept from turning the line around it.
"""

from html import escape
from typing import Final

from overt.openness.export.text import visible

_POLICY: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
)
_STYLE: Final = """
:root {
  color-scheme: light dark;
  --page: #fbfaf8; --card: #fff; --ink: #1b1d21; --soft: #4d535c; --line: #d9d6d0; --shade: #f1efeb;
  --bar: #0b5fa5; --best: #1b6e3c; --bad: #b3261e; --alarm: #fdecea;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #131518; --card: #1b1e23; --ink: #e9ebee; --soft: #b0b7c1; --line: #3a3f47;
    --shade: #23272d; --bar: #85bff5; --best: #74d394; --bad: #ff9c92; --alarm: #33191a;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink); overflow-wrap: anywhere;
  font: 1rem/1.5 system-ui, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", sans-serif;
}
main, footer { max-width: 80rem; margin: 0 auto; padding: 0 1.25rem; }
main { padding-top: 1.6rem; }
footer { padding: 1rem 1.25rem 3rem; color: var(--soft); font-size: .875rem; }
h1 { font-size: clamp(1.5rem, 4vw, 2.2rem); line-height: 1.15; margin: .2rem 0 .5rem; }
h2 { font-size: 1.25rem; margin: 2.2rem 0 .7rem; }
h3 { font-size: 1rem; margin: 0 0 .5rem; }
p { margin: .4rem 0; }
code, .figure { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: .875em; }
.over { text-transform: uppercase; letter-spacing: .08em; font-size: .8rem; color: var(--soft);
  margin: 0; }
.soft { color: var(--soft); }
.small { font-size: .875rem; }
.alarm { background: var(--alarm); border: 2px solid var(--bad); border-radius: .6rem;
  padding: .6rem 1rem; margin: 1rem 0; }
.said { white-space: pre-wrap; margin: 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; background: var(--card); font-size: .925rem;
  overflow-wrap: normal; }
tbody th { min-width: 9rem; max-width: 16rem; overflow-wrap: break-word; }
th, td { text-align: left; vertical-align: top; padding: .5rem .7rem;
  border-bottom: 1px solid var(--line); }
thead th { background: var(--shade); color: var(--soft); font-weight: 600; font-size: .85rem; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
details { margin-top: .6rem; } summary { cursor: pointer; color: var(--soft); font-size: .875rem; }
@media print {
  body { background: #fff; color: #000; font-size: 10pt; }
  tr { break-inside: avoid; } h2, h3 { break-after: avoid; }
}
"""


def head(title: str, style: str) -> str:
    """The page up to the content of ``main``; `style` is what it has beside what all pages have."""
    return (
        '<!doctype html>\n<html lang="en" dir="ltr">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>{escape(visible(title))}</title>\n"
        f"<style>{_STYLE}{style.lstrip()}</style>\n</head>\n<body>\n<main>\n"
    )


def text(content: object, most: int = 2000) -> str:
    """Text of anybody, escaped, in an element that isolates its direction."""
    full = str(content)
    cut = full if len(full) <= most else f"{full[:most]}… ({len(full) - most} characters more)"
    return f"<bdi>{escape(visible(cut))}</bdi>"
