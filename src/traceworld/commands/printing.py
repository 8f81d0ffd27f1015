"""What commands print: JSON on standard output, or a table or tree for people."""

from __future__ import annotations

import json as jsonlib
import sys


def emit(result: object, as_json: bool, table=None) -> None:
    """Print a result: JSON on standard output, or a table for people."""
    if as_json:
        sys.stdout.write(jsonlib.dumps(result, indent=1, default=str, allow_nan=False) + "\n")
        return
    from rich.console import Console

    Console().print(table if table is not None else result)


def table(title: str, rows: list[dict], columns: list[str] | None = None):
    from rich.table import Table

    columns = columns or (list(rows[0]) if rows else [])
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*[cell(row.get(column, "")) for column in columns])
    return table


def cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def tree(title: str, value: object):
    from rich.markup import escape
    from rich.tree import Tree

    def said(item) -> str:
        return escape(cell(item))  # a model's words may look like markup

    def grow(branch, item):
        if isinstance(item, dict):
            for key, inner in item.items():
                nested = isinstance(inner, (dict, list)) and bool(inner)
                grow(
                    branch.add(f"[bold]{key}[/]" if nested else f"[bold]{key}[/] {said(inner)}"),
                    inner if nested else None,
                )
        elif isinstance(item, list):
            for inner in item[:20]:
                nested = isinstance(inner, (dict, list))
                grow(branch.add("•" if nested else said(inner)), inner if nested else None)
            if len(item) > 20:
                branch.add(f"… and {len(item) - 20} more (use --json)")

    root = Tree(title)
    grow(root, value)
    return root
