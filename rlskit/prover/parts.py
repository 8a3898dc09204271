"""What is asked of a table's partitions and children by their own names: nobody has a privilege on them, and no policy opens them. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from rlskit.attempts import Attempt
from rlskit.names import QualifiedName
from rlskit.prover.cells import Probe
from rlskit.prover.ground import Ground
from rlskit.prover.people import Person, introduced

_WHY = "a part of a table is reached through the table, where its rules stand"


def probes(ground: Ground) -> Iterator[Probe]:
    """Everything that is asked of the parts of one table."""
    stored = ground.stored[0]
    owner = introduced("owner, naming a part", stored.scene.cast.owner)
    above = Person("the table's owner, naming a part", login="owner")
    for part in ground.parts:
        new = Attempt(
            "create", part, values={**ground.new, **{each.column: stored.row[each.column] for each in ground.named}}
        )
        yield _probe("a new row", part, owner, new)
        yield _probe("the rows", part, owner, Attempt("read", part, columns=ground.columns))
        yield _probe(
            "the rows",
            part,
            owner,
            Attempt("update", part, values={name: stored.row[name] for name in ground.writable[:1]}, of_no_row=True),
        )
        yield _probe("the rows", part, owner, Attempt("delete", part, of_no_row=True))
        # Needs no row that is there: where row security is not forced, it is the bounds at most that refuse it.
        yield _probe("a new row", part, above, new)


def _probe(what: str, part: QualifiedName, person: Person, attempt: Attempt) -> Probe:
    return Probe(f"{what} of part {part.name}", person, attempt, "refused", _WHY)
