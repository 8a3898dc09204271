"""The script that proves, on the server itself, that rows can be given away and that nobody sees more for it."""

from __future__ import annotations

from dataclasses import replace

from psycopg.sql import SQL, Literal

from rlskit import compiler, ddl, runtime
from rlskit.rules import Rules, TableRules, allow
from rlskit.state import Default, Policy, RowSecurity, Trigger

_TABLE = """\
set local search_path = pg_catalog, pg_temp;
-- It asks as people whom nobody signs for; what is required of others stays as it is.
do $$
begin
  if rlskit.is_signed() then
    call rlskit.require_signatures(false);
  end if;
end
$$;
create temporary table rlskit_canary (id int, owner text, owners text[]) on commit drop;
grant select, insert, update, delete on pg_temp.rlskit_canary to public;
select set_config('rlskit.canary_role', {}, true);
"""


def script(role: str, *, inside: bool = False) -> str:
    """One transaction, rolled back at its end; ``inside`` of another one, a savepoint of it.

    ``role`` is taken on where row security does not bind the connected user.

    It raises in the database, with a hint, where the proof fails. What is tried are the very policies that ``compile`` makes.
    """
    rules = TableRules("rlskit_canary", allow.owner(), allow.owners_defined_in("owners"), schema="pg_temp")
    parts = [ddl.text(SQL(_TABLE).format(Literal(role)))]
    for each in compiler.compile(Rules(rules, role=role)):
        if isinstance(each, Policy):
            each = replace(each, roles=("public",))
        if isinstance(each, Policy | RowSecurity | Default | Trigger):
            statements = ddl.create(each)
            marked = isinstance(each, ddl.Marked)  # what is gone in a moment needs no mark
            parts += [f"{ddl.text(statement)};\n" for statement in (statements[:1] if marked else statements)]
    begin, end = ("begin", "rollback")
    if inside:
        begin, end = ("savepoint rlskit_proof", "rollback to savepoint rlskit_proof;\nrelease savepoint rlskit_proof")
    return "".join([f"{begin};\n", *parts, runtime.script("canary.sql"), f"{end};\n"])
