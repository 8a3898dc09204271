"""Writes `rlskit/alembic/op.pyi`, the types of the directives, out of their source: python -m tests.revisions.stubs"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import rlskit

FOLDER = Path(rlskit.__file__).parent / "alembic"

HEAD = '''\
"""Alembic's ``op`` with the directives of rlskit in it."""

# Written by tests/revisions/stubs.py out of directives.py.

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Literal

from alembic.op import *  # noqa: F403

from rlskit.state import Command
'''


def stub() -> str:
    """The text of the file."""
    tree = ast.parse((FOLDER / "directives.py").read_text(encoding="utf-8"))
    return HEAD + "".join(map(_function, _methods(tree)))


def _methods(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    for kind in tree.body:
        if isinstance(kind, ast.ClassDef):
            for method in kind.body:
                if isinstance(method, ast.FunctionDef) and "classmethod" in map(ast.unparse, method.decorator_list):
                    yield method


def _function(method: ast.FunctionDef) -> str:
    assert method.returns is not None
    given = method.args
    given.args = given.args[2:]  # cls, operations
    positional = [(each, None) for each in given.args]
    defaults = [None] * (len(given.args) - len(given.defaults)) + given.defaults
    lines = [_argument(each, default) for (each, _), default in zip(positional, defaults, strict=True)]
    if given.kwonlyargs:
        lines.append("*")
        lines += [_argument(each, default) for each, default in zip(given.kwonlyargs, given.kw_defaults, strict=True)]
    arguments = "".join(f"    {line},\n" for line in lines)
    head = f"(\n{arguments})" if lines else "()"
    first, *others = (ast.get_docstring(method) or "").splitlines()
    said = "\n".join([first, *(f"    {line}".rstrip() for line in others), *(["    "] if others else [])])
    return f'\ndef {method.name}{head} -> {ast.unparse(method.returns)}:\n    """{said}"""\n'


def _argument(argument: ast.arg, default: ast.expr | None) -> str:
    assert argument.annotation is not None
    annotation = ast.unparse(argument.annotation).replace("'", '"')
    text = f"{argument.arg}: {annotation}"
    return text if default is None else f"{text} = {ast.unparse(default)}".replace("'", '"')


if __name__ == "__main__":
    (FOLDER / "op.pyi").write_text(stub(), encoding="utf-8")
