"""Today."""

import os
from datetime import UTC, date, datetime

from overt.errors import BadSetting


def today() -> date:
    """The day in UTC; ``SOURCE_DATE_EPOCH`` (reproducible-builds.org) sets another."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "").strip()
    try:
        moment = datetime.fromtimestamp(int(epoch), UTC) if epoch else datetime.now(UTC)
    except (ValueError, OverflowError, OSError):
        raise BadSetting(
            f"SOURCE_DATE_EPOCH is {epoch[:40]!r}", "set it to seconds since 1970, or unset it"
        ) from None
    return moment.date()
