"""Rules are put into the text of Alembic's env.py, by the places of its syntax tree, so that all else stays as it is written."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable

_CONFIGURE = ("context.configure", "alembic.context.configure")
_END_OF_LINE = re.compile(rb"[ \t]*(#[^\r\n]*)?[\r\n]*")


def splice(source: bytes, binding: Callable[[str], Iterable[str]], metadata: str | None = None) -> bytes:
    """The text of an env.py that gives Alembic the rules, all else untouched; as it is where it gives them already.

    ``binding`` gives the lines that bind the rules to a name, for a name that is free there. ``metadata``, such as ``Base.metadata``, takes the place of
    the None that the templates have for it. Raises SyntaxError or ValueError for a text that is not as Alembic's templates have it: without a
    ``context.configure(name=…)``, for one.
    """
    tree = ast.parse(source.decode())
    calls = [each for each in ast.walk(tree) if isinstance(each, ast.Call) and ast.unparse(each.func) in _CONFIGURE]
    told = [any(each.arg == "rls_rules" for each in call.keywords) for call in calls]
    if calls and all(told):
        return source
    if not calls or any(told) or any(call.args or not call.keywords for call in calls):
        raise ValueError
    imports = [each for each in tree.body if isinstance(each, ast.Import | ast.ImportFrom)]
    taken = {each.id for each in ast.walk(tree) if isinstance(each, ast.Name)}
    taken |= {alias.asname or alias.name for each in imports for alias in each.names}
    name = next(each for each in ("rules", "rls_rules", "") if each not in taken)
    if not name or not imports or (metadata and metadata.partition(".")[0] in taken):
        raise ValueError
    lines = source.splitlines(keepends=True)
    newline = b"\r\n" if lines[0].endswith(b"\r\n") else b"\n"
    insertions = [_argument(lines, call.keywords[-1], f"rls_rules={name}".encode(), newline) for call in calls]
    last = imports[-1]
    if not _ends(lines, last):  # something else stands on the line
        raise ValueError
    added = b"".join(each.encode() + newline for each in binding(name))
    insertions.append((last.end_lineno or 0, 0, added))
    if metadata:
        for none in _missing_metadata(tree):
            line, column = none.lineno - 1, none.col_offset
            lines[line] = lines[line][:column] + metadata.encode() + lines[line][none.end_col_offset or 0 :]
    for line, column, text in sorted(insertions, reverse=True):
        if line == len(lines):
            lines.append(b"")
        lines[line] = lines[line][:column] + text + lines[line][column:]
    changed = b"".join(lines)
    compile(changed, "env.py", "exec", dont_inherit=True)
    return changed


def _missing_metadata(tree: ast.Module) -> list[ast.expr]:
    """The None of ``target_metadata = None``."""
    return [
        each.value
        for each in tree.body
        if isinstance(each, ast.Assign) and ast.unparse(each) == "target_metadata = None"
    ]


def _argument(lines: list[bytes], last: ast.keyword, text: bytes, newline: bytes) -> tuple[int, int, bytes]:
    """Where the argument goes, after the last one: on a line of its own where that one has its own, with a comma at its end."""
    end, column = (last.end_lineno or 1) - 1, last.end_col_offset or 0
    before, after = lines[last.lineno - 1][: last.col_offset], lines[end][column:]
    if not before.strip() and after.startswith(b",") and _END_OF_LINE.fullmatch(after[1:]):
        return end + 1, 0, before + text + b"," + newline
    return end, column, b", " + text


def _ends(lines: list[bytes], node: ast.stmt) -> bool:
    return bool(_END_OF_LINE.fullmatch(lines[(node.end_lineno or 1) - 1][node.end_col_offset or 0 :]))
