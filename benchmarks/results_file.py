"""Where a benchmark's figures are kept, if `--out` asked for a file."""

from __future__ import annotations

import argparse
import datetime
import json
from collections.abc import Mapping

_PATHS = ("data", "pictures", "out")  # they say where things lay, which is nobody's business


def write_result(options: argparse.Namespace, result: Mapping[str, object]) -> None:
    """Write figures as JSON to `options.out`, with the other options and the day."""
    if options.out is None:
        return
    given = {name: str(value) for name, value in vars(options).items() if name not in _PATHS}
    document = {**result, "options": given, "date": datetime.date.today().isoformat()}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(document, indent=2) + "\n")
