"""How a client names the model it means: by a query, or by a reference it was given."""

from typing import Any

import msgspec

from overt.protocols.lmstudio import instances
from overt.protocols.lmstudio.instances import Instance, NoModel
from overt.protocols.lmstudio.model_info import domain
from overt.protocols.lmstudio.port import Context


class Query(msgspec.Struct):
    domain: str | None = None
    identifier: str | None = None
    path: str | None = None
    vision: bool | None = None

    def asked(self) -> dict[str, Any]:
        values = msgspec.structs.asdict(self)
        return {name: value for name, value in values.items() if value is not None}


class ByQuery(msgspec.Struct, tag_field="type", tag="query"):
    query: Query


class ByReference(msgspec.Struct, tag_field="type", tag="instanceReference", rename="camel"):
    instance_reference: str


Specifier = ByQuery | ByReference


async def chosen(context: Context, specifier: Specifier) -> Instance:
    """The instance that is meant; a model of that name that is not loaded is loaded by its request.

    Raises:
        NoModel, Gone: there is none.
        WrongDomain: it is an embedding model, and one that writes is needed, or the other way.
    """
    all_instances = instances.of(context.services)
    if isinstance(specifier, ByReference):
        instance = all_instances.by_reference(context.services, specifier.instance_reference)[0]
        instances.check_domain(instance.card, context.domain)
        return instance
    name = specifier.query.identifier or specifier.query.path
    if name:
        return await instances.resolve(context.services, context.caller, name, context.domain)
    return _any(context, specifier.query)


def _any(context: Context, query: Query) -> Instance:
    wanted = context.domain or query.domain
    for instance, _ in instances.of(context.services).loaded(context.services):
        card = instance.card
        if wanted is not None and domain(card) != wanted:
            continue
        if query.vision is not None and (card.kind == "vlm") != query.vision:
            continue
        return instance
    names = instances.of(context.services).names(context.services)
    raise NoModel("no model is loaded that fits", query.asked(), names)
