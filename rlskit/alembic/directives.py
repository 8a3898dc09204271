"""What a revision says: the directives of ``op``, each an Alembic operation that holds PostgreSQL objects before and after."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

from alembic.operations import MigrateOperation, Operations
from alembic.util import CommandError

from rlskit import ddl
from rlskit.alembic.suspension import suspended
from rlskit.names import QualifiedName
from rlskit.state import Check, Command, Default, Grant, Index, Policy, RowSecurity, TableObject, Trigger, Usage

_Directive = TypeVar("_Directive", bound=type)
_registered: list[str] = []


def directives() -> tuple[str, ...]:
    """The names that rlskit adds to ``op``."""
    return tuple(_registered)


def _registers(*names: str) -> Any:
    """Add the class methods of these names to ``op``. Raises CommandError where another library has the name."""

    def register(operation: _Directive) -> _Directive:
        for name in names:
            if hasattr(Operations, name):
                raise CommandError(f"another library has registered `op.{name}` already: rlskit does not replace it")
            Operations.register_operation(name)(operation)
            _registered.append(name)
        return operation

    return register


def _table(name: str, schema: str | None) -> QualifiedName:
    return QualifiedName(schema or "public", name)


@dataclass(frozen=True)
class ObjectOp(MigrateOperation):
    """One object of a table: ``before`` becomes ``after``; None on one side means that it is made, or taken away."""

    before: TableObject | None
    after: TableObject | None

    noun = ""

    @property
    def some(self) -> TableObject:
        """The object, in the newest form that is known."""
        found = self.after or self.before
        assert found is not None
        return found

    @property
    def verb(self) -> str:
        """What is done, in a word."""
        if ddl.is_renamed(self.before, self.after):
            return "rename"
        return "create" if self.before is None else "drop" if self.after is None else "alter"

    @property
    def directive(self) -> str:
        """The name in ``op``."""
        return f"{self.verb}_{self.noun}"

    def reverse(self) -> ObjectOp:
        """The way back, to exactly what was there."""
        return replace(self, before=self.after, after=self.before)

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """For ``alembic check``: the directive, the table, the object's own name."""
        return (self.directive, str(self.some.table), *self.some.key[3:])


@_registers("enable_rls", "disable_rls")
class RowSecurityOp(ObjectOp):
    """ENABLE and FORCE ROW LEVEL SECURITY."""

    @property
    def directive(self) -> str:
        """The name in ``op``."""
        return "enable_rls" if isinstance(self.after, RowSecurity) and self.after.enabled else "disable_rls"

    @classmethod
    def enable_rls(
        cls, operations: Operations, table_name: str, *, force: bool = True, schema: str | None = None
    ) -> None:
        """Switch row level security on. ``force`` binds the table's owner too. Without policies nobody sees a row."""
        table = _table(table_name, schema)
        operations.invoke(cls(None, RowSecurity(table=table, enabled=True, forced=force)))

    @classmethod
    def disable_rls(
        cls, operations: Operations, table_name: str, *, force: bool = False, schema: str | None = None
    ) -> None:
        """Switch row level security off: whoever has privileges on the table reaches every row. ``force`` leaves FORCE for a later day."""
        table = _table(table_name, schema)
        operations.invoke(cls(None, RowSecurity(table=table, enabled=False, forced=force)))


@_registers("create_policy", "alter_policy", "drop_policy")
class PolicyOp(ObjectOp):
    """A row security policy."""

    noun = "policy"

    @classmethod
    def create_policy(
        cls,
        operations: Operations,
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
        operations.invoke(
            cls(
                None,
                Policy(
                    table=_table(table_name, schema),
                    name=policy_name,
                    command=command,
                    roles=_roles(to),
                    using=using,
                    with_check=with_check,
                    permissive=permissive,
                    mark=comment,
                ),
            )
        )

    @classmethod
    def alter_policy(
        cls,
        operations: Operations,
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
        after = Policy(
            table=_table(table_name, schema),
            name=policy_name,
            command="",
            roles=_roles(to),
            using=using,
            with_check=with_check,
            mark=comment,
        )
        operations.invoke(cls(after, after))

    @classmethod
    def drop_policy(
        cls, operations: Operations, policy_name: str, table_name: str, *, schema: str | None = None
    ) -> None:
        """DROP POLICY."""
        operations.invoke(cls(Policy(table=_table(table_name, schema), name=policy_name, command="", roles=()), None))


@_registers("set_default", "drop_default")
class DefaultOp(ObjectOp):
    """A column's DEFAULT."""

    @property
    def directive(self) -> str:
        """The name in ``op``."""
        return "set_default" if self.after is not None else "drop_default"

    @classmethod
    def set_default(
        cls, operations: Operations, table_name: str, column_name: str, expression: str, *, schema: str | None = None
    ) -> None:
        """ALTER COLUMN … SET DEFAULT. ``expression`` is SQL, and goes to the server as it is; names in it are looked up in pg_catalog alone."""
        operations.invoke(
            cls(None, Default(table=_table(table_name, schema), column=column_name, expression=expression))
        )

    @classmethod
    def drop_default(
        cls, operations: Operations, table_name: str, column_name: str, *, schema: str | None = None
    ) -> None:
        """ALTER COLUMN … DROP DEFAULT."""
        operations.invoke(cls(Default(table=_table(table_name, schema), column=column_name, expression=""), None))


@_registers("create_owner_check", "rename_owner_check", "drop_owner_check")
class CheckOp(ObjectOp):
    """The CHECK constraint that keeps names which would be nobody's out of an owner column."""

    noun = "owner_check"

    @classmethod
    def create_owner_check(
        cls,
        operations: Operations,
        constraint_name: str,
        table_name: str,
        condition: str,
        *,
        not_valid: bool = False,
        comment: str | None = None,
        schema: str | None = None,
    ) -> None:
        """ADD CONSTRAINT … CHECK, with rlskit's mark. ``not_valid`` leaves the rows that are there unchecked."""
        after = Check(
            table=_table(table_name, schema),
            name=constraint_name,
            expression=condition,
            validated=not not_valid,
            mark=comment,
        )
        operations.invoke(cls(None, after))

    @classmethod
    def rename_owner_check(
        cls,
        operations: Operations,
        old_constraint_name: str,
        constraint_name: str,
        table_name: str,
        condition: str,
        *,
        comment: str | None = None,
        schema: str | None = None,
    ) -> None:
        """RENAME CONSTRAINT, after the column was renamed. ``condition`` is what the check says now, for rlskit's mark."""
        table = _table(table_name, schema)
        operations.invoke(
            cls(
                Check(table=table, name=old_constraint_name, expression=condition),
                Check(table=table, name=constraint_name, expression=condition, mark=comment),
            )
        )

    @classmethod
    def drop_owner_check(
        cls, operations: Operations, constraint_name: str, table_name: str, *, schema: str | None = None
    ) -> None:
        """DROP CONSTRAINT."""
        operations.invoke(cls(Check(table=_table(table_name, schema), name=constraint_name, expression=""), None))


@_registers("create_row_trigger", "drop_row_trigger")
class TriggerOp(ObjectOp):
    """A BEFORE … FOR EACH ROW trigger that calls a function of the runtime."""

    noun = "row_trigger"

    @classmethod
    def create_row_trigger(
        cls,
        operations: Operations,
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
        after = Trigger(
            table=_table(table_name, schema),
            name=trigger_name,
            event=before,
            columns=tuple(of),
            function=QualifiedName("rlskit", execute),
            arguments=tuple(arguments),
            when=when,
            enabled=enabled,
            mark=comment,
        )
        operations.invoke(cls(None, after))

    @classmethod
    def drop_row_trigger(
        cls, operations: Operations, trigger_name: str, table_name: str, *, schema: str | None = None
    ) -> None:
        """DROP TRIGGER."""
        before = Trigger(
            table=_table(table_name, schema), name=trigger_name, event="", columns=(), function=QualifiedName("", "")
        )
        operations.invoke(cls(before, None))


@_registers("create_owner_index", "rename_owner_index", "drop_owner_index")
@dataclass(frozen=True)
class IndexOp(ObjectOp):
    """The index on one owner column. ``concurrently``: built while others write, outside of any transaction."""

    concurrently: bool = False

    noun = "owner_index"

    def reverse(self) -> IndexOp:
        """The way back; dropping takes a moment, and stays in the transaction."""
        return IndexOp(self.after, self.before)

    @classmethod
    def create_owner_index(
        cls,
        operations: Operations,
        index_name: str,
        table_name: str,
        column_name: str,
        *,
        using: Literal["btree", "gin"] = "btree",
        concurrently: bool = False,
        schema: str | None = None,
    ) -> None:
        """CREATE INDEX, with rlskit's mark. ``concurrently`` belongs into ``with op.get_context().autocommit_block():``; what an interrupted build left is built anew."""
        after = Index(table=_table(table_name, schema), name=index_name, column=column_name, method=using)
        operations.invoke(cls(None, after, concurrently=concurrently))

    @classmethod
    def rename_owner_index(
        cls,
        operations: Operations,
        old_index_name: str,
        index_name: str,
        table_name: str,
        *,
        schema: str | None = None,
    ) -> None:
        """ALTER INDEX … RENAME, after the table or the column was renamed."""
        table = _table(table_name, schema)
        operations.invoke(
            cls(
                Index(table=table, name=old_index_name, column="", method=""),
                Index(table=table, name=index_name, column="", method=""),
            )
        )

    @classmethod
    def drop_owner_index(
        cls, operations: Operations, index_name: str, table_name: str, *, schema: str | None = None
    ) -> None:
        """DROP INDEX."""
        operations.invoke(cls(Index(table=_table(table_name, schema), name=index_name, column="", method=""), None))


@_registers("grant_privileges", "revoke_privileges")
@dataclass(frozen=True)
class PrivilegesOp(MigrateOperation):
    """Privileges of one role on one table, given or taken."""

    given: bool
    grants: tuple[Grant, ...]

    @property
    def directive(self) -> str:
        """The name in ``op``."""
        return "grant_privileges" if self.given else "revoke_privileges"

    def reverse(self) -> PrivilegesOp:
        """The way back."""
        return replace(self, given=not self.given)

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """For ``alembic check``: the directive, the table, the role, each privilege with its columns."""
        listed = tuple((each.privilege, each.columns) for each in self.grants)
        return (self.directive, str(self.grants[0].table), self.grants[0].role, *listed)

    @classmethod
    def grant_privileges(
        cls,
        operations: Operations,
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
        operations.invoke(
            cls(
                True,
                _grants(
                    _table(table_name, schema),
                    to,
                    select=select,
                    insert=insert,
                    update=update,
                    references=references,
                    delete=delete,
                    truncate=truncate,
                    trigger=trigger,
                    maintain=maintain,
                ),
            )
        )

    @classmethod
    def revoke_privileges(
        cls,
        operations: Operations,
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
        operations.invoke(
            cls(
                False,
                _grants(
                    _table(table_name, schema),
                    role,
                    select=select,
                    insert=insert,
                    update=update,
                    references=references,
                    delete=delete,
                    truncate=truncate,
                    trigger=trigger,
                    maintain=maintain,
                ),
            )
        )


@_registers("revoke_all")
@dataclass(frozen=True)
class RevokeAllOp(MigrateOperation):
    """What one role was given with a new table. On the way back the table goes, and there is nothing to give."""

    table: QualifiedName
    role: str
    sequences: tuple[str, ...] = ()
    forwards: bool = True

    directive = "revoke_all"

    def reverse(self) -> RevokeAllOp:
        """The way back."""
        return replace(self, forwards=not self.forwards)

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """For ``alembic check``: the directive, the table, the role."""
        return (self.directive, str(self.table), self.role)

    @classmethod
    def revoke_all(
        cls,
        operations: Operations,
        table_name: str,
        *,
        role: str,
        sequences: Sequence[str] = (),
        schema: str | None = None,
    ) -> None:
        """REVOKE ALL from one role, on a new table and on the sequences that its columns draw from: ALTER DEFAULT PRIVILEGES may have given it something."""
        operations.invoke(cls(_table(table_name, schema), role, tuple(sequences)))


@_registers("grant_usage", "revoke_usage")
@dataclass(frozen=True)
class UsageOp(MigrateOperation):
    """USAGE of a schema, or of a sequence that a column draws from."""

    given: bool
    usage: Usage

    @property
    def directive(self) -> str:
        """The name in ``op``."""
        return "grant_usage" if self.given else "revoke_usage"

    def reverse(self) -> UsageOp:
        """The way back."""
        return replace(self, given=not self.given)

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """For ``alembic check``: the directive, the schema or sequence, the role."""
        return (self.directive, str(self.usage.sequence or self.usage.table.schema), self.usage.role)

    @classmethod
    def grant_usage(
        cls,
        operations: Operations,
        *,
        to: str,
        sequence: str | None = None,
        privilege: str = "usage",
        schema: str | None = None,
    ) -> None:
        """GRANT USAGE on the schema, or on a sequence in it, to one role."""
        operations.invoke(cls(True, _usage(to, sequence, privilege, schema)))

    @classmethod
    def revoke_usage(
        cls,
        operations: Operations,
        *,
        role: str,
        sequence: str | None = None,
        privilege: str = "usage",
        schema: str | None = None,
    ) -> None:
        """REVOKE USAGE on the schema, or on a sequence in it, from one role."""
        operations.invoke(cls(False, _usage(role, sequence, privilege, schema)))


@_registers("install_rlskit", "uninstall_rlskit")
@dataclass(frozen=True)
class RuntimeOp(MigrateOperation):
    """The schema rlskit, from version ``before`` to ``after``; None: not there."""

    before: str | None
    after: str | None

    @property
    def directive(self) -> str:
        """The name in ``op``."""
        return "install_rlskit" if self.after is not None else "uninstall_rlskit"

    def reverse(self) -> RuntimeOp:
        """The way back: to nothing where nothing was. A newer runtime serves older policies, and stays."""
        return RuntimeOp(self.after, self.before)

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """For ``alembic check``."""
        return (self.directive, self.before, self.after)

    @classmethod
    def install_rlskit(cls, operations: Operations, version: str) -> None:
        """Put the schema rlskit into the database, in this version or a later one that this package ships; what is there already is brought up to it."""
        operations.invoke(cls(None, version))

    @classmethod
    def uninstall_rlskit(cls, operations: Operations) -> None:
        """Take the schema rlskit away. Refused while a table rests on it."""
        operations.invoke(cls("", None))


@_registers("require_signatures")
@dataclass(frozen=True)
class SignaturesOp(MigrateOperation):
    """Whether identities have to be signed in this database."""

    required: bool

    directive = "require_signatures"

    def reverse(self) -> SignaturesOp:
        """The way back."""
        return SignaturesOp(not self.required)

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """For ``alembic check``."""
        return (self.directive, self.required)

    @classmethod
    def require_signatures(cls, operations: Operations, required: bool = True) -> None:
        """Take signed identities only, or with False identities as they are. An application without a key is nobody from then on."""
        operations.invoke(cls(required))


@_registers("prove_reassignment")
@dataclass(frozen=True)
class ProofOp(MigrateOperation):
    """The proof that this server lets rows be given away, and shows nobody more for it. On the way back there is nothing to prove."""

    role: str
    forwards: bool = True

    directive = "prove_reassignment"

    def reverse(self) -> ProofOp:
        """The way back."""
        return replace(self, forwards=not self.forwards)

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """For ``alembic check``."""
        return (self.directive, self.role)

    @classmethod
    def prove_reassignment(cls, operations: Operations, *, role: str) -> None:
        """Try on a temporary table whether rows can be given away on this server. Fails, and stops the migration, where they cannot."""
        operations.invoke(cls(role))


@_registers("rls_suspended")
class Suspension(MigrateOperation):
    """A stretch of a migration in which row security does not bind the table's owner."""

    @classmethod
    def rls_suspended(
        cls, operations: Operations, table_name: str, *, schema: str | None = None
    ) -> AbstractContextManager[None]:
        """For a data migration: inside the ``with`` block row security does not bind the table's owner, who runs it.

        NO FORCE at its beginning and FORCE at its end, in the migration's one transaction and under a lock on the table: nobody else
        ever sees it lifted, and whatever ends the migration puts it back. A commit inside is refused.
        """
        return suspended(operations, _table(table_name, schema))


def _roles(to: str | Sequence[str]) -> tuple[str, ...]:
    return (to,) if isinstance(to, str) else tuple(to)


def _grants(table: QualifiedName, role: str, **privileges: bool | Sequence[str]) -> tuple[Grant, ...]:
    made = tuple(
        Grant(table=table, role=role, privilege=privilege, columns=None if columns is True else tuple(columns or ()))
        for privilege, columns in privileges.items()
        if columns is True or columns
    )
    if not made:
        raise CommandError(f"no privilege is named for `{role}` on table `{table}`")
    return made


def _usage(role: str, sequence: str | None, privilege: str, schema: str | None) -> Usage:
    place = _table("", schema)
    return Usage(
        table=place,
        role=role,
        sequence=QualifiedName(place.schema, sequence) if sequence is not None else None,
        privilege=privilege,
    )
