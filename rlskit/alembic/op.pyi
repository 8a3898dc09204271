"""Alembic's ``op`` with the directives of rlskit in it."""

# Written by tests/revisions/stubs.py out of directives.py.

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Literal

from alembic.op import *  # noqa: F403

from rlskit.state import Command

def enable_rls(
    table_name: str,
    *,
    force: bool = True,
    schema: str | None = None,
) -> None:
    """Switch row level security on. ``force`` binds the table's owner too. Without policies nobody sees a row."""

def disable_rls(
    table_name: str,
    *,
    force: bool = False,
    schema: str | None = None,
) -> None:
    """Switch row level security off: whoever has privileges on the table reaches every row. ``force`` leaves FORCE for a later day."""

def create_policy(
    policy_name: str,
    table_name: str,
    *,
    command: Command,
    to: str | Sequence[str],
    using: str | None = None,
    with_check: str | None = None,
    permissive: bool = True,
    comment: str | None = None,
    schema: str | None = None,
) -> None:
    """CREATE POLICY. ``using`` and ``with_check`` are SQL conditions; names in them are looked up in pg_catalog alone.

    Without ``comment`` the policy gets rlskit's mark: the rules then decide about it, and a later autogenerate drops what no rule asks for.
    A policy of your own is made with op.execute, or with a comment of your own.
    """

def alter_policy(
    policy_name: str,
    table_name: str,
    *,
    to: str | Sequence[str],
    using: str | None = None,
    with_check: str | None = None,
    comment: str | None = None,
    schema: str | None = None,
) -> None:
    """ALTER POLICY to this whole definition; what a policy is for, and whether it is permissive, cannot be altered."""

def drop_policy(
    policy_name: str,
    table_name: str,
    *,
    schema: str | None = None,
) -> None:
    """DROP POLICY."""

def set_default(
    table_name: str,
    column_name: str,
    expression: str,
    *,
    schema: str | None = None,
) -> None:
    """ALTER COLUMN … SET DEFAULT. ``expression`` is SQL, and goes to the server as it is; names in it are looked up in pg_catalog alone."""

def drop_default(
    table_name: str,
    column_name: str,
    *,
    schema: str | None = None,
) -> None:
    """ALTER COLUMN … DROP DEFAULT."""

def create_owner_check(
    constraint_name: str,
    table_name: str,
    condition: str,
    *,
    not_valid: bool = False,
    comment: str | None = None,
    schema: str | None = None,
) -> None:
    """ADD CONSTRAINT … CHECK, with rlskit's mark. ``not_valid`` leaves the rows that are there unchecked."""

def rename_owner_check(
    old_constraint_name: str,
    constraint_name: str,
    table_name: str,
    condition: str,
    *,
    comment: str | None = None,
    schema: str | None = None,
) -> None:
    """RENAME CONSTRAINT, after the column was renamed. ``condition`` is what the check says now, for rlskit's mark."""

def drop_owner_check(
    constraint_name: str,
    table_name: str,
    *,
    schema: str | None = None,
) -> None:
    """DROP CONSTRAINT."""

def create_row_trigger(
    trigger_name: str,
    table_name: str,
    *,
    before: Literal["insert", "update"],
    execute: str,
    of: Sequence[str] = (),
    when: str | None = None,
    arguments: Sequence[str] = (),
    enabled: Literal["O", "D", "R", "A"] = "O",
    comment: str | None = None,
    schema: str | None = None,
) -> None:
    """CREATE TRIGGER … BEFORE … FOR EACH ROW, with rlskit's mark. ``execute`` names a function of the schema rlskit, without it; ``of`` are the columns of UPDATE OF; ``enabled`` is PostgreSQL's letter."""

def drop_row_trigger(
    trigger_name: str,
    table_name: str,
    *,
    schema: str | None = None,
) -> None:
    """DROP TRIGGER."""

def create_owner_index(
    index_name: str,
    table_name: str,
    column_name: str,
    *,
    using: Literal["btree", "gin"] = "btree",
    concurrently: bool = False,
    schema: str | None = None,
) -> None:
    """CREATE INDEX, with rlskit's mark. ``concurrently`` belongs into ``with op.get_context().autocommit_block():``; what an interrupted build left is built anew."""

def rename_owner_index(
    old_index_name: str,
    index_name: str,
    table_name: str,
    *,
    schema: str | None = None,
) -> None:
    """ALTER INDEX … RENAME, after the table or the column was renamed."""

def drop_owner_index(
    index_name: str,
    table_name: str,
    *,
    schema: str | None = None,
) -> None:
    """DROP INDEX."""

def grant_privileges(
    table_name: str,
    *,
    to: str,
    select: bool | Sequence[str] = False,
    insert: bool | Sequence[str] = False,
    update: bool | Sequence[str] = False,
    references: bool | Sequence[str] = False,
    delete: bool = False,
    truncate: bool = False,
    trigger: bool = False,
    maintain: bool = False,
    schema: str | None = None,
) -> None:
    """GRANT privileges on these columns, or with True on the whole table, to one role."""

def revoke_privileges(
    table_name: str,
    *,
    role: str,
    select: bool | Sequence[str] = False,
    insert: bool | Sequence[str] = False,
    update: bool | Sequence[str] = False,
    references: bool | Sequence[str] = False,
    delete: bool = False,
    truncate: bool = False,
    trigger: bool = False,
    maintain: bool = False,
    schema: str | None = None,
) -> None:
    """REVOKE privileges on these columns, or with True on the whole table and each of its columns, from one role."""

def revoke_all(
    table_name: str,
    *,
    role: str,
    sequences: Sequence[str] = (),
    schema: str | None = None,
) -> None:
    """REVOKE ALL from one role, on a new table and on the sequences that its columns draw from: ALTER DEFAULT PRIVILEGES may have given it something."""

def grant_usage(
    *,
    to: str,
    sequence: str | None = None,
    privilege: str = "usage",
    schema: str | None = None,
) -> None:
    """GRANT USAGE on the schema, or on a sequence in it, to one role."""

def revoke_usage(
    *,
    role: str,
    sequence: str | None = None,
    privilege: str = "usage",
    schema: str | None = None,
) -> None:
    """REVOKE USAGE on the schema, or on a sequence in it, from one role."""

def install_rlskit(
    version: str,
) -> None:
    """Put the schema rlskit into the database, in this version or a later one that this package ships; what is there already is brought up to it."""

def uninstall_rlskit() -> None:
    """Take the schema rlskit away. Refused while a table rests on it."""

def require_signatures(
    required: bool = True,
) -> None:
    """Take signed identities only, or with False identities as they are. An application without a key is nobody from then on."""

def prove_reassignment(
    *,
    role: str,
) -> None:
    """Try on a temporary table whether rows can be given away on this server. Fails, and stops the migration, where they cannot."""

def rls_suspended(
    table_name: str,
    *,
    schema: str | None = None,
) -> AbstractContextManager[None]:
    """For a data migration: inside the ``with`` block row security does not bind the table's owner, who runs it.

    NO FORCE at its beginning and FORCE at its end, in the migration's one transaction and under a lock on the table: nobody else
    ever sees it lifted, and whatever ends the migration puts it back. A commit inside is refused.
    """
