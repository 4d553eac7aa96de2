"""Whether a value fits a JSON Schema: the process of runners/schema.py."""

import sys
from typing import Any

from overt.formats import subprocess_reader


def check(question: Any) -> str:
    """Nothing where the value fits, else why not; ``schema:…`` where the schema does not hold."""
    from jsonschema.exceptions import SchemaError, ValidationError
    from jsonschema.validators import Draft202012Validator, validator_for
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    schema = question["schema"]
    kind = validator_for(schema, default=Draft202012Validator)
    try:
        kind.check_schema(schema)
        first = next(kind(schema, registry=Registry()).iter_errors(question["value"]), None)
    except (SchemaError, Unresolvable, ValidationError, RecursionError) as error:
        return "schema:" + str(getattr(error, "message", error))[:200]
    except Exception as error:  # noqa: BLE001 - jsonschema wraps Unresolvable, and re.error passes
        return "schema:" + f"{type(error).__name__}: {error}"[:200]
    if first is None:
        return ""
    where = first.json_path
    return f"{where}: {first.message}"[:300]


if __name__ == "__main__":
    # jsonschema imports them for formats, which are not checked here; the first takes a second.
    for name in ("rfc3987_syntax", "rfc3987", "isoduration"):
        sys.modules[name] = None  # type: ignore[assignment]
    # Now, as no file can be opened once the limits are in force.
    from jsonschema.validators import Draft202012Validator

    Draft202012Validator({}).is_valid(1)
    subprocess_reader.serve(check)
