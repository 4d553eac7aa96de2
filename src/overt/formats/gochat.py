"""What Ollama hands to its chat templates, and the Jinja that makes it of a server's messages.

Read in Ollama's template/template.go: the names of the values (`FIELDS`), how neighbouring messages
are joined (`COLLATE`), and how a template without messages is run once a turn (`TURNS`).
"""

FIELDS: dict[str, dict[str, tuple[str, str]]] = {
    "root": {
        "System": ("system", "str"),
        "Prompt": ("prompt", "str"),
        "Response": ("response", "str"),
        "Suffix": ("suffix", "str"),
        "Messages": ("messages", "list message"),
        "Tools": ("tools", "list tool"),
        "Think": ("think", "bool"),
        "ThinkLevel": ("think_level", "str"),
        "IsThinkSet": ("think_set", "bool"),
    },
    "message": {
        "Role": ("role", "str"),
        "Content": ("content", "str"),
        "Thinking": ("reasoning", "str"),
        "Images": ("images", "list any"),
        "ToolCalls": ("tool_calls", "list call"),
        "ToolName": ("tool_name", "str"),
        "ToolCallID": ("tool_call_id", "str"),
    },
    "call": {"ID": ("id", "str"), "Function": ("function", "called")},
    "called": {
        "Index": ("index", "int"),
        "Name": ("name", "str"),
        "Arguments": ("arguments", "map any"),
    },
    "tool": {
        "Type": ("type", "str"),
        "Items": ("items", "any"),
        "Function": ("function", "function"),
    },
    "function": {
        "Name": ("name", "str"),
        "Description": ("description", "str"),
        "Parameters": ("parameters", "schema"),
    },
    "schema": {
        "Type": ("type", "str"),
        "Defs": ("$defs", "any"),
        "Items": ("items", "any"),
        "Required": ("required", "list str"),
        "Properties": ("properties", "map property"),
    },
    "property": {
        "Type": ("type", "types"),
        "AnyOf": ("anyOf", "list property"),
        "Items": ("items", "any"),
        "Description": ("description", "str"),
        "Enum": ("enum", "list any"),
        "Properties": ("properties", "map property"),
        "Required": ("required", "list str"),
    },
}
"""What each kind of value has: Go's name, the key in our Jinja, the kind of what is there."""


START = (
    '{%- set ns = namespace(system="", joined="", prompt="", response="", suffix="", text="", '
    "messages=[], turns=[], last=none) -%}"
)
# Only where they are used: what a model can do is read from the words in its template.
TOOLS = "{%- set ns.tools = [] -%}{%- if tools -%}{%- set ns.tools = tools -%}{%- endif -%}"
THINK = (
    "{%- set ns.think = false -%}{%- set ns.think_set = false -%}"
    "{%- if enable_thinking is defined -%}{%- set ns.think_set = true -%}"
    "{%- if enable_thinking -%}{%- set ns.think = true -%}{%- endif -%}{%- endif -%}"
)
THINK_LEVEL = (
    '{%- set ns.think_level = "" -%}'
    "{%- if reasoning_effort is defined and reasoning_effort -%}"
    "{%- set ns.think_level = reasoning_effort -%}{%- endif -%}"
)
# Neighbours of one role become one message, except the results of tools; the texts of all system
# messages are joined beside, and stay among the messages too.
COLLATE = (
    "{%- for m in messages -%}"
    '{%- set ns.text = "" -%}'
    '{%- if m["content"] is string -%}{%- set ns.text = m["content"] -%}'
    '{%- elif m["content"] -%}{%- for part in m["content"] -%}'
    '{%- if part["text"] is string -%}{%- set ns.text = ns.text ~ part["text"] -%}{%- endif -%}'
    "{%- endfor -%}{%- endif -%}"
    '{%- if m["role"] == "system" -%}'
    '{%- set ns.joined = (ns.joined ~ "\\n\\n" ~ ns.text) if ns.joined else ns.text -%}'
    "{%- endif -%}"
    '{%- if ns.messages and ns.last["role"] == m["role"] and m["role"] != "tool" -%}'
    '{%- set ns.last = {"role": m["role"], "content": ns.last["content"] ~ "\\n\\n" ~ ns.text, '
    '"reasoning": ns.last["reasoning"], "tool_calls": ns.last["tool_calls"], "images": [], '
    '"tool_name": ns.last["tool_name"], "tool_call_id": ns.last["tool_call_id"]} -%}'
    "{%- set ns.messages = ns.messages[:-1] + [ns.last] -%}"
    "{%- else -%}"
    '{%- set ns.last = {"role": m["role"], "content": ns.text, '
    '"reasoning": m["reasoning_content"] or "", "tool_calls": m["tool_calls"] or [], "images": [], '
    '"tool_name": m["name"] or "", "tool_call_id": m["tool_call_id"] or ""} -%}'
    "{%- set ns.messages = ns.messages + [ns.last] -%}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- set ns.system = ns.joined -%}"
)
_TURN = '{%- set ns.turns = ns.turns + [{"s": ns.system, "p": ns.prompt, "r": ns.response}] -%}'
_RESET = '{%- set ns.system = "" -%}{%- set ns.prompt = "" -%}{%- set ns.response = "" -%}'
TURNS = (
    '{%- set ns.system = "" -%}'
    "{%- for m in ns.messages -%}"
    '{%- if m["role"] == "system" -%}'
    f"{{%- if ns.prompt or ns.response -%}}{_TURN}{_RESET}{{%- endif -%}}"
    '{%- set ns.system = m["content"] -%}'
    '{%- elif m["role"] == "user" -%}'
    f"{{%- if ns.response -%}}{_TURN}{_RESET}{{%- endif -%}}"
    '{%- set ns.prompt = m["content"] -%}'
    '{%- elif m["role"] == "assistant" -%}{%- set ns.response = m["content"] -%}'
    "{%- endif -%}{%- endfor -%}"
    f"{_TURN}"
    "{%- for turn in ns.turns -%}"
    '{%- set ns.system = turn["s"] -%}{%- set ns.prompt = turn["p"] -%}'
    '{%- set ns.response = turn["r"] -%}{%- if not loop.last -%}'
)
LAST = "{%- else -%}"
END = "{%- endif -%}{%- endfor -%}"
