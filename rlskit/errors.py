"""The exception tree: every error that rlskit raises on its own account.

::

    RlskitError                          .code  .hint
    ├─ RuleError (ValueError)            E100   the declaration is wrong
    │  ├─ UnknownColumnError             E101   a rule names a column that the table lacks
    │  ├─ UnsupportedRuleError           E102   a clear wish that PostgreSQL cannot enforce exactly
    │  └─ RuleFileError                  E103   the rule file is wrong: .path .table .key
    ├─ PlanError                         E200   the database cannot be brought to the rules
    │  ├─ StalePlanError                 E201   the database changed since the plan was made
    │  ├─ RuntimeVersionError            E202   the schema rlskit is missing, older or newer
    │  ├─ ForeignObjectError             E203   something that rlskit did not make undoes the rules
    │  └─ UnfillableError                E204   no row could be made up for a table
    ├─ IdentityError                     E300   who is asking cannot be told to the database
    │  ├─ InvalidIdentityError (ValueError)  E301
    │  ├─ MissingIdentityError           E302
    │  ├─ IdentityConflictError          E303
    │  ├─ TransactionInProgressError     E304
    │  ├─ BypassingRoleError             E305   row security does not bind this login
    │  ├─ SigningKeyError                E306   identities are to be signed, and there is no key for it
    │  ├─ BypassError                    E307   a bypass without a reason, inside another, too long, or of nothing
    │  └─ OpenCursorError                E308   a cursor of an earlier transaction is open
    ├─ ServerError (RuntimeError)        E400   no throwaway PostgreSQL could be had
    ├─ Denied (InsufficientPrivilege)    E500   the database refused: .table .operation .columns
    │  ├─ RowDenied                      E501   a row that the caller may not write
    │  ├─ ColumnDenied                   E502   a column that the caller may not write in this row
    │  └─ TableDenied                    E503   a privilege that the application's role lacks
    ├─ NotVisible (LookupError)          E600   no row came where one was expected
    └─ KitError                          E700   a test database cannot be made, or a test asks it for what proves nothing

Denied and its kinds are psycopg's exceptions too, so they stand in ``rlskit.denials``: nothing here needs a driver. What else the
database raises stays the driver's own. A message is one line, lower case, without a final period, with the user's words in backticks,
but where it is PostgreSQL's; it never holds a value of a row or a password. The way out is in ``.hint``.
"""

from __future__ import annotations

from typing import ClassVar


class RlskitError(Exception):
    """Base of all of them.

    ``code`` is stable and has a section in the documentation; ``hint`` says the way out in one line, or is empty.
    """

    code: ClassVar[str] = "E000"
    hint: str

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        """Errors come through to another process, as test runners send them."""
        return (_restored, (type(self), self.args, self.__dict__))

    @property
    def message(self) -> str:
        """What is wrong, without the way out."""
        return str(self.args[0])

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message


def _restored(kind: type[RlskitError], args: tuple[object, ...], attributes: dict[str, object]) -> RlskitError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(attributes)
    return error


class RuleError(RlskitError, ValueError):
    """A declaration that cannot be meant. ``key`` is the argument that is wrong, where that is only one of several."""

    code = "E100"

    def __init__(self, message: str, *, hint: str = "", key: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.key = key


class UnknownColumnError(RuleError):
    """A rule names a column that its table does not have."""

    code = "E101"


class UnsupportedRuleError(RuleError):
    """A declaration that is clear but that PostgreSQL cannot enforce exactly; it is never approximated."""

    code = "E102"


class RuleFileError(RuleError):
    """A mistake in a rule file, with its place.

    ``path`` is the file (or ``module:attribute``), ``table`` the key below ``tables`` or None, ``key`` the key inside it.
    """

    code = "E103"

    def __init__(
        self, message: str, *, path: str, table: str | None = None, key: str | None = None, hint: str = ""
    ) -> None:
        super().__init__(message, hint=hint, key=key)
        self.path, self.table = path, table

    @property
    def message(self) -> str:
        """The place and what is wrong there."""
        place = ".".join(part for part in ("tables" if self.table else None, self.table, self.key) if part)
        return f"{self.path}: {place}: {self.args[0]}" if place else f"{self.path}: {self.args[0]}"


class PlanError(RlskitError):
    """The database cannot be brought to what the rules ask for."""

    code = "E200"


class StalePlanError(PlanError):
    """The database is no longer the one that the plan was made for."""

    code = "E201"


class RuntimeVersionError(PlanError):
    """The schema ``rlskit`` is missing, older, or newer than this package."""

    code = "E202"


class ForeignObjectError(PlanError):
    """A policy or a privilege that rlskit did not make lets the role past the rules."""

    code = "E203"


class UnfillableError(PlanError):
    """No row could be made up that a table takes: some value has to be said."""

    code = "E204"


class IdentityError(RlskitError):
    """Who is asking cannot be told to the database."""

    code = "E300"


class InvalidIdentityError(IdentityError, ValueError):
    """A ``sub``, a ``username`` or a claim that could be taken for somebody else's."""

    code = "E301"


class MissingIdentityError(IdentityError):
    """Nobody was given where somebody is needed."""

    code = "E302"


class IdentityConflictError(IdentityError):
    """Another identity is already at work on this connection."""

    code = "E303"


class TransactionInProgressError(IdentityError):
    """The connection is already in a transaction, or the block's own transaction was ended inside it."""

    code = "E304"


class BypassingRoleError(IdentityError):
    """Row security does not bind this login, or the login could lift it."""

    code = "E305"


class SigningKeyError(IdentityError):
    """The key for signing identities is missing, is none, or is not accepted by this database."""

    code = "E306"


class BypassError(IdentityError):
    """A bypass of the rules that cannot be one: without a reason, inside another, longer than its time, or by a login that is bound."""

    code = "E307"


class OpenCursorError(IdentityError):
    """A cursor WITH HOLD of an earlier transaction is open, and would still give the rows of whoever opened it."""

    code = "E308"


class ServerError(RlskitError, RuntimeError):
    """No PostgreSQL server could be had or started."""

    code = "E400"


class NotVisible(RlskitError, LookupError):
    """No row came where one was expected. The database raises nothing then, and what expected the row raises this."""

    code = "E600"

    def __init__(
        self,
        message: str = "no such row, or none that the caller may reach",
        *,
        hint: str = "it is not there, or no rule that names the caller in it allows this: the database does not tell which",
    ) -> None:
        super().__init__(message, hint=hint)


class KitError(RlskitError):
    """A test database cannot be made, or a test asks the kit for something that would prove nothing."""

    code = "E700"
