"""Templates to Markdown."""

from __future__ import annotations

import json
import re

from jinja2 import Environment, PackageLoader, StrictUndefined

from bench.words import counted
from reports.table import escape


def render(template: str, **values: object) -> str:
    """Fill a template of `reports/templates`."""
    environment = Environment(
        loader=PackageLoader("reports"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        # Markdown, not HTML: the `md` filter and `Table.to_markdown` escape what users named.
        autoescape=False,
    )
    environment.filters["md"] = escape
    environment.filters["counted"] = counted
    environment.filters["literal"] = json.dumps
    return re.sub(r"\n{3,}", "\n\n", environment.get_template(template).render(**values))
