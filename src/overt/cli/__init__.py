"""The command line: which verbs there are, and nothing else.

`VERBS` maps each verb to the module that holds its `command` and to the line `overt --help` shows,
so that the help imports no verb at all and a verb imports only what it uses. To add a verb: one
line here, one module with a click command called ``command``, one test in ``tests/cli``.
"""

from typing import NamedTuple


class Verb(NamedTuple):
    module: str
    group: str
    help: str


VERBS: dict[str, Verb] = {
    "run": Verb("overt.cli.run", "Talk", "ask a model once and print its answer"),
    "chat": Verb("overt.cli.chat", "Talk", "talk with a model in turns"),
    "compare": Verb("overt.cli.compare", "Talk", "ask several models the same, side by side"),
    "chats": Verb("overt.cli.chats", "Talk", "bring conversations in, and take them away"),
    "pull": Verb("overt.cli.pull", "Models", "fetch a model into the store"),
    "push": Verb("overt.cli.push", "Models", "send a model to an OCI registry"),
    "list": Verb("overt.cli.list", "Models", "models and aliases here, or the catalogue"),
    "show": Verb("overt.cli.show", "Models", "what is known of a model"),
    "adopt": Verb("overt.cli.adopt", "Models", "use other programs' models where they lie"),
    "export": Verb("overt.cli.export", "Models", "write a model to one signed file"),
    "import": Verb("overt.cli.import_", "Models", "take a model from such a file"),
    "create": Verb("overt.cli.create", "Models", "make a model from a Modelfile"),
    "convert": Verb("overt.cli.convert", "Models", "safetensors to GGUF and back"),
    "rm": Verb("overt.cli.rm", "Models", "remove models and free their bytes"),
    "verify": Verb("overt.cli.verify", "Models", "hash everything in the store again"),
    "quantize": Verb("overt.cli.quantize", "Yours", "make a model smaller, measure the cost"),
    "finetune": Verb("overt.cli.finetune", "Yours", "have a model learn from your own data"),
    "merge": Verb("overt.cli.merge", "Yours", "make one model of several, or with adapters"),
    "replay": Verb("overt.cli.replay", "Yours", "make a model again, and compare every tensor"),
    "history": Verb("overt.cli.history", "Yours", "how a model was made, back to its origin"),
    "jobs": Verb("overt.cli.jobs", "Yours", "work that was cut off, and how it goes on"),
    "dossier": Verb("overt.cli.dossier", "Openness", "how open a model is, by evidence"),
    "may": Verb("overt.cli.may", "Openness", "how you may use a model, by its licence"),
    "eval": Verb("overt.cli.eval", "Quality", "score models on tasks, yours or known ones"),
    "audit": Verb("overt.cli.audit", "Quality", "bias, refusals, robustness, memorisation"),
    "alias": Verb("overt.cli.alias", "Serve", "a name of yours for a model, or a route to several"),
    "login": Verb("overt.cli.login", "Serve", "keep the key of a provider"),
    "serve": Verb("overt.cli.serve", "Serve", "answer programs over HTTP, or be a mirror"),
    "keys": Verb("overt.cli.keys", "Serve", "make and revoke keys for the server"),
    "ps": Verb("overt.cli.ps", "Running", "models that are running now"),
    "stop": Verb("overt.cli.stop", "Running", "stop running models"),
    "doctor": Verb("overt.cli.doctor", "This machine", "what is here, and what would be faster"),
    "airgap": Verb("overt.cli.airgap", "This machine", "prove that a model has no network"),
    "engine": Verb("overt.cli.engine", "This machine", "build llama.cpp for this very processor"),
    "settings": Verb("overt.cli.settings", "This machine", "every setting and where it came from"),
    "help": Verb("overt.cli.help", "This machine", "help on a verb, on refs, on exit codes"),
}
