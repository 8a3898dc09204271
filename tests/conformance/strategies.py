"""What the differential test draws: people with awkward names, tables with rules, and statements that people try on them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import count
from typing import Any, ClassVar, Protocol, TypeVar
from uuid import UUID

from hypothesis import strategies as st

from rlskit import Identity, Open, Rule, Rules, TableRules, allow, compile
from rlskit.errors import InvalidIdentityError, RuleError, UnsupportedRuleError
from rlskit.names import QualifiedName
from rlskit.vocabulary import OPERATIONS, REASSIGN, Operation

ORDINARY = ("content", "title", "price", "note")
OWNERS = ("owner", "author", "payer")
LISTS = ("editors",)
COLUMNS = ("id", *ORDINARY, *OWNERS, *LISTS)

Row = Mapping[str, Any]
Draw = st.DrawFn
T = TypeVar("T")


# --- choices: they shrink to the first one, and to fewer ones ------------------------------------------


@cache
def below(number: int) -> st.SearchStrategy[int]:
    return st.integers(0, number - 1)


def pick(draw: Draw, options: Sequence[T]) -> T:
    return options[draw(below(len(options)))]


def one_in(draw: Draw, number: int) -> bool:
    return draw(below(number)) == number - 1


def some(draw: Draw, options: Collection[T], *, least: int = 0, most: int = 3) -> list[T]:
    """A few of them, each once."""
    left = list(dict.fromkeys(options))
    most = min(most, len(left))
    least = min(least, most)
    return [left.pop(draw(below(len(left)))) for _ in range(least + draw(below(most - least + 1)))]


# --- people --------------------------------------------------------------------------------------------

NAMES = (
    *("alice", "bob", "Alice", "ALICE", "alic", "alicea", "alice bob", " alice", "alice ", "0", "-1", "a1f0", "b2e1"),
    *("O'Brien", "''", '"alice"', "back\\slash", "\\", "\\x41", "{alice}", "{", "}", "{}", '{"a","b"}', "a,b", ",", "(,)"),
    *("100%", "%s", "%(x)s", "$1", "$$", "NULL", "null", "default", "--", "/*", ";", "a:b", "a:b:c", "auth0|5d1c", "a@b.example"),
    *("zo\u00eb", "zoe\u0308", "\u00c5", "A\u030a", "\u212b", "ß", "SS", "İ", "ı", "ﬀ", "日本", "👩‍👧", "\U0010ffff"),
    *("\ufeffalice", "\u0430lice", "\u202ealice", "a\u00adlice", "a\u200blice", "\u200b", "\u2028x", "\u00a0x"),
    *(str(UUID(int=7)), str(UUID(int=8)), str(UUID(int=10)).upper(), "x" * 256, "x" * 255 + "y", "日" * 256),
)  # fmt: skip
BLANKS = ("", " ", "\t\n\v\f\r ", "\x1f", "\x85", "\u00a0", "\u2003", "\u3000")
STRANGERS = (
    "nobody",
    "a1f0::bob",
    "alice::",
    "::alice",
    "::",
    " ",
    "alice::alice::alice",
    "NULL",
    "{}",
    "ALICE::alice",
)
ANY_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=6)


def is_accepted(sub: str, username: str | None) -> bool:
    try:
        Identity(sub=sub, username=username)
    except InvalidIdentityError:
        return False
    return True


SUBS = tuple(name for name in NAMES if is_accepted(name, None))
USERNAMES = tuple(name for name in NAMES if is_accepted("a", name))


@st.composite
def people(draw: Draw) -> tuple[Identity, ...]:
    """Two to four. One's name may be another's claim, and one's sub another's username."""
    found: list[Identity] = []
    for _ in range(2 + draw(below(3))):
        taken = [name for each in found for name in everything_called(each)]
        sub = draw(ANY_TEXT) if one_in(draw, 8) else pick(draw, SUBS)
        sub = sub if is_accepted(sub, None) else SUBS[0]
        username = (
            pick(draw, (*taken, *USERNAMES)) if one_in(draw, 2) else pick(draw, (*USERNAMES, sub, None, None, None))
        )
        if username is not None and not is_accepted(sub, username):
            username = USERNAMES[0]
        claims = {}
        for claim in some(draw, ("email", "sub", "username", "é'\"")) if one_in(draw, 3) else ["email"]:
            values = pick(draw, (NAMES, BLANKS, taken))
            claims[claim] = pick(draw, values) if values else draw(ANY_TEXT)
        found.append(Identity(sub=sub, username=username, claims=claims))
    return tuple(found)


def everything_called(who: Identity | None) -> list[str]:
    """Everything that somebody might write for this person, whether a rule compares it or not."""
    return list(filter(None, (*who.spellings, who.sub, who.username, *who.claims.values()))) if who else []


def stored_name(rule: Rule, who: Identity | None) -> str | None:
    """The name that the rule writes into its column for this person."""
    if who is None:
        return None
    if rule.claim is None:
        return next(iter(who.spellings), None)
    value = {**who.claims, "sub": who.sub, "username": who.username}.get(rule.claim)
    return value if value and value.strip(" \t\n\r\f\v") else None


# --- tables and their rules ----------------------------------------------------------------------------

# Where a key comes from when an INSERT leaves it out.
KEYS = ("nowhere", "serial", "identity", "uuid")


@dataclass(frozen=True)
class Declaration:
    """A table: its rules, where its key comes from, and whether it is left to rlskit to add the owner columns."""

    rules: TableRules
    key: str = "nowhere"
    adds: bool = False

    @property
    def owner_rules(self) -> list[Rule]:
        table = self.rules.allow if isinstance(self.rules.allow, tuple) else ()
        given = [*table, *(rule for _, rules in self.rules.columns for rule in rules)]
        return [rule for rule in given if rule.column is not None]


WRITES: tuple[Operation, ...] = ("create", "update", "delete")
MATCHES = (("any",), ("full",), ("full", "sub"), ("full", "username"))


@st.composite
def declarations(draw: Draw) -> Declaration:
    key, adds = pick(draw, KEYS), one_in(draw, 2)
    if one_in(draw, 15):
        return Declaration(TableRules(Open(reason="drawn", to=tuple(operations(draw)))), key, adds)
    return Declaration(owner_rules(draw), key, adds)


def operations(draw: Draw, among: Sequence[Operation] = OPERATIONS) -> list[Operation]:
    """Most of them, and never none; and read with those that PostgreSQL cannot have without it."""
    left_out = some(draw, among, most=len(among) - 1 if one_in(draw, 4) else 1)
    writes = {"update", "delete"} & {*among} - {*left_out}
    return [each for each in among if each not in left_out or (each == "read" and writes)]


def person(draw: Draw) -> Rule:
    """A rule without operations: whom it names."""
    column = pick(draw, (*OWNERS, *LISTS, *LISTS))
    rule = (allow.owners_defined_in if column in LISTS else allow.owner_defined_in)(column)
    if claim := pick(draw, (None, None, "email", "sub", "username")):
        return rule.identity_claim(claim)
    return rule.match(pick(draw, MATCHES)) if one_in(draw, 2) else rule


def owner_rules(draw: Draw) -> TableRules:
    """One to three rules, and up to three columns with rules of their own. Who may write a column may depend on the row."""
    named = list({each.person: each for each in (person(draw) for _ in range(pick(draw, (1, 2, 3, 3))))}.values())
    columns = {name: column_rules(draw, named) for name in some(draw, (*ORDINARY, *OWNERS, *LISTS, "id"))}
    # Whoever may update or delete has to read.
    writers = {rule.person for given in columns.values() for rule in given if {"update", "delete"} & {*rule.operations}}
    table = []
    for each in named:
        given = {*(OPERATIONS if one_in(draw, 2) else operations(draw))} | (
            {"read"} if each.person in writers else set()
        )
        table.append(each.to(*(operation for operation in OPERATIONS if operation in given)))
    match, reassign = pick(draw, (None, None, *MATCHES)), pick(draw, ("plain", *REASSIGN))
    while True:
        try:
            rules = TableRules(*table, columns=columns, match=match, reassign=reassign)
            compile(Rules(rules.at(QualifiedName("public", "item")), role="app"))
        except (RuleError, UnsupportedRuleError):
            # Rarely: two rules come to the same, or who may read a column depends on the row.
            columns.popitem() if columns else table.pop()
        else:
            return rules


def column_rules(draw: Draw, named: Sequence[Rule]) -> list[Rule]:
    """The table's people with fewer operations, nobody, or some of the people; who reads must not depend on the row."""
    same = allow.same().to(operations(draw))
    few = some(draw, named, least=1, most=max(1, len(named) - 1))
    match pick(draw, ("same", "same", "same", "nobody", "own", "own and read", "own and same", "stranger")):
        case "nobody":
            return []
        case "own" if len(named) == 1:
            return [few[0].to(operations(draw))]
        case "own":
            return [each.to(operations(draw, WRITES)) for each in few]
        case "own and read":
            return [*(each.to(operations(draw, WRITES)) for each in few), allow.same().to("read")]
        case "own and same":
            return [*(each.to(operations(draw, WRITES)) for each in few), same]
        case "stranger":
            return [person(draw).to("create"), same]
    return [same]


@st.composite
def stored_rows(draw: Draw, declaration: Declaration, who: Sequence[Identity]) -> list[Row]:
    """Rows that an administrator has put there, of these people and of nobody."""
    everything = [name for each in who for name in everything_called(each)]
    fitting = {column: fitting_names(declaration, who, column) or everything for column in (*OWNERS, *LISTS)}
    rows: list[Row] = []
    for key in range(1, 1 + draw(below(8))):
        row: dict[str, Any] = {"id": key, "content": pick(draw, ("a", "b"))}
        row |= {
            column: pick(draw, everything if one_in(draw, 5) else fitting[column])
            for column in OWNERS
            if not one_in(draw, 3)
        }
        row |= {column: some(draw, fitting[column]) for column in LISTS if not one_in(draw, 3)}
        rows.append(row)
    return rows


def fitting_names(declaration: Declaration, who: Sequence[Identity | None], column: str) -> list[str]:
    """These people as the rules would write them into the column."""
    rules = [rule for rule in declaration.owner_rules if rule.column == column]
    return [name for each in who for rule in rules if (name := stored_name(rule, each))]


# --- statements ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Word:
    """What stands in the place of a value; ``reads`` says whether it reads the column that it is written to."""

    text: str
    reads: bool = False
    name: str | None = None

    def __repr__(self) -> str:
        return self.text.upper() if self.name is None else f"{self.text}({self.name!r})"


DEFAULT = Word("default")
SAME = Word("same", reads=True)  # what the row has already
PROPOSED = Word("proposed", reads=True)  # in an upsert: what the INSERT would have written
SOURCE = Word("source")  # in a MERGE: the key that the source names


def added(name: str) -> Word:
    """The list with one more name."""
    return Word("added", reads=True, name=name)


def removed(name: str) -> Word:
    """The list without the name."""
    return Word("removed", reads=True, name=name)


@dataclass(frozen=True)
class Statement:
    kind: ClassVar[str]


@dataclass(frozen=True)
class Select(Statement):
    """Without columns only how many rows there are."""

    kind = "select"
    columns: tuple[str, ...] = ()
    locks: bool = False


@dataclass(frozen=True)
class Insert(Statement):
    """Every row names the same columns; one row without any is DEFAULT VALUES."""

    kind = "insert"
    rows: tuple[Row, ...]
    returning: tuple[str, ...] = ()


@dataclass(frozen=True)
class Upsert(Statement):
    """``changes`` are those of DO UPDATE, perhaps only where ``content`` is this; None is DO NOTHING, which may do without naming the key."""

    kind = "upsert"
    rows: tuple[Row, ...]
    changes: Row | None = None
    names_key: bool = True
    returning: tuple[str, ...] = ()
    content: str | None = None


@dataclass(frozen=True)
class Update(Statement):
    """Of the rows with these keys; None is an UPDATE without WHERE."""

    kind = "update"
    changes: Row
    ids: tuple[int, ...] | None = None
    returning: tuple[str, ...] = ()


@dataclass(frozen=True)
class Delete(Statement):
    """Of the rows with these keys; None is a DELETE without WHERE."""

    kind = "delete"
    ids: tuple[int, ...] | None = None
    returning: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reassign(Statement):
    """``rlskit.reassign``: an UPDATE at a cursor."""

    kind = "reassign"
    id: int
    column: str
    value: str | list[str] | None


@dataclass(frozen=True)
class Set:
    """In a MERGE: UPDATE SET."""

    changes: Row


@dataclass(frozen=True)
class Put:
    """In a MERGE: INSERT."""

    values: Row


REMOVE, PASS = "delete", "do nothing"
Action = Set | Put | str
Clauses = tuple[tuple[str | None, Action], ...]


@dataclass(frozen=True)
class Merge(Statement):
    """``source`` has keys, each with a word. What is done with a row is said for its word, or, as the last, for every other."""

    kind = "merge"
    source: tuple[tuple[int, str], ...]
    matched: Clauses = ()
    absent: Clauses = ()
    returning: tuple[str, ...] = ()


class Scene(Protocol):
    """Where a statement is tried."""

    declaration: Declaration
    people: Sequence[Identity]
    rows: dict[int, Row]
    major: int  # of the server

    @property
    def who(self) -> Identity | None: ...
    @property
    def permitted(self) -> Mapping[str, Sequence[str]]: ...  # operation to the columns that somebody may name
    def visible(self) -> dict[int, Row]: ...


@st.composite
def statements(draw: Draw, choose: Callable[[Draw, Scene], T]) -> T:
    """For a state machine that has a ``scene``."""
    return choose(draw, draw(st.runner()).scene)


def names(scene: Scene, column: str) -> list[str]:
    """The caller's names first of all, then others' and nobody's; mostly as a rule would have them."""
    mine = [*fitting_names(scene.declaration, [scene.who], column), *everything_called(scene.who)]
    others = fitting_names(scene.declaration, scene.people, column)
    everybody = [name for each in scene.people for name in everything_called(each)]
    return [*mine, *mine, *others, *others, *everybody, *STRANGERS]


def value(draw: Draw, scene: Scene, column: str) -> Any:
    """For an owner column mostly a name, sometimes what is none at all."""
    if column == "price":
        return pick(draw, (1, 0, 2, -5, None, DEFAULT))
    if column in OWNERS:
        return pick(draw, ("", None, DEFAULT)) if one_in(draw, 6) else pick(draw, names(scene, column))
    if column in LISTS:
        odd: list[Any] = [[], None, DEFAULT, [None], [""]]
        if any(rule.column == column for rule in scene.declaration.owner_rules):
            odd.append([[pick(draw, names(scene, column))]])
        return pick(draw, odd) if one_in(draw, 6) else some(draw, names(scene, column), least=1)
    return pick(draw, ("a", "untitled", "b", "NULL", "{}", "", None, DEFAULT))


def columns(draw: Draw, scene: Scene, operation: Operation, least: int = 0) -> list[str]:
    """Mostly such as somebody may name."""
    permitted = scene.permitted[operation]
    return some(draw, COLUMNS if len(permitted) < least or one_in(draw, 10) else permitted, least=least)


def returning(draw: Draw, scene: Scene) -> tuple[str, ...]:
    return tuple(columns(draw, scene, "read")) if one_in(draw, 3) else ()


def keys(draw: Draw, scene: Scene, most: int = 3) -> tuple[int, ...]:
    """Mostly of rows that the caller sees; now and then of others', or of none."""
    seen = list(scene.visible())
    return tuple(some(draw, seen if seen and not one_in(draw, 3) else [*scene.rows, 1, 2], least=1, most=most))


def new_rows(draw: Draw, scene: Scene, *, taken: int) -> list[Row]:
    """Rows for an INSERT; one key in ``taken`` is of a row that is there."""
    named = [column for column in columns(draw, scene, "create") if column != "id"]
    has_default = scene.declaration.key != "nowhere"
    leaves_out = has_default and not one_in(draw, 3)
    free = (key for key in count(1) if key not in scene.rows)
    rows: list[Row] = []
    for _ in range(1 + draw(below(3)) if one_in(draw, 3) else 1):
        row = {column: value(draw, scene, column) for column in named}
        if not leaves_out:
            row["id"] = keys(draw, scene, most=1)[0] if one_in(draw, taken) else next(free)
            if has_default and one_in(draw, 3):
                row["id"] = DEFAULT
        rows.append(row)
    return rows if rows[0] else rows[:1]


def changes(draw: Draw, scene: Scene) -> dict[str, Any]:
    named = columns(draw, scene, "update", least=1)
    owners = givable(scene)
    if owners and one_in(draw, 6):
        return {column: somebody_elses(draw, scene, column) for column in some(draw, owners, least=1)}
    if owners and one_in(draw, 2):
        named.append(pick(draw, owners))
    found: dict[str, Any] = {}
    for column in named:
        if column == "id" or one_in(draw, 6):
            found[column] = SAME
        elif column in LISTS and one_in(draw, 2):
            found[column] = pick(draw, (added, removed))(pick(draw, names(scene, column)))
        else:
            found[column] = value(draw, scene, column)
    return found


def givable(scene: Scene) -> list[str]:
    """The owner columns that somebody may update."""
    return [column for column in (*OWNERS, *LISTS) if column in scene.permitted["update"]]


def somebody_elses(draw: Draw, scene: Scene, column: str) -> Any:
    """A value for an owner column that does not name the caller."""
    mine = everything_called(scene.who)
    others = [name for name in names(scene, column) if name not in mine]
    if one_in(draw, 3):
        return None
    return some(draw, others, most=2) if column in LISTS else pick(draw, others)


def leaving(draw: Draw, scene: Scene) -> Update | None:
    """The caller writes himself out of a row, wherever it names him."""
    seen = scene.visible()
    mine = everything_called(scene.who)
    if not seen or not mine:
        return None
    key = pick(draw, list(seen))
    held = {column: seen[key][column] if column in LISTS else [seen[key][column]] for column in givable(scene)}
    naming = [column for column, names in held.items() if any(name in (names or ()) for name in mine)]
    return Update({column: somebody_elses(draw, scene, column) for column in naming}, (key,)) if naming else None


def gives_away(scene: Scene, changes: Row) -> bool:
    """Whether a row may be given away by them; then PostgreSQL lets new rows of the same owner, later in the statement, be returned as well."""
    return scene.declaration.rules.reassign == "plain" and bool(changes.keys() & {*givable(scene)})


def an_insert(draw: Draw, scene: Scene) -> Insert:
    return Insert(tuple(new_rows(draw, scene, taken=6)), returning(draw, scene))


def an_update(draw: Draw, scene: Scene) -> Update:
    if one_in(draw, 4) and (left := leaving(draw, scene)) is not None:
        return replace(left, returning=returning(draw, scene))
    ids = None if one_in(draw, 8) else keys(draw, scene)
    changed = changes(draw, scene)
    if "id" in changed and ids is not None and len(ids) == 1 and one_in(draw, 2):
        changed["id"] = 1 + draw(below(9))
    return Update(changed, ids, returning(draw, scene))


def an_upsert(draw: Draw, scene: Scene) -> Upsert:
    rows: dict[object, Row] = {}
    for number, row in enumerate(new_rows(draw, scene, taken=2)):
        # A key that is proposed twice is a mistake of its own, whoever asks.
        rows[number if row.get("id", DEFAULT) is DEFAULT else str(row["id"])] = row
    proposed = tuple(rows.values())
    if one_in(draw, 4):
        return Upsert(proposed, None, one_in(draw, 2), returning(draw, scene))
    changed = {
        column: PROPOSED if column == "id" or one_in(draw, 3) else new for column, new in changes(draw, scene).items()
    }
    if gives_away(scene, changed):
        proposed = proposed[:1]
    content = pick(draw, ("a", "b")) if one_in(draw, 4) else None
    return Upsert(proposed, changed, True, returning(draw, scene), content)


def a_merge(draw: Draw, scene: Scene) -> Merge:
    source = tuple((key, pick(draw, "abc")) for key in keys(draw, scene))
    words: tuple[tuple[str | None, ...], ...] = ((None,), (None,), (), ("a",), ("a", None), ("a", "b", None))
    matched = tuple((word, _change(draw, scene)) for word in pick(draw, words))
    absent = tuple((word, _addition(draw, scene, len(source))) for word in pick(draw, words))
    gives = any(isinstance(action, Set) and gives_away(scene, action.changes) for _, action in matched)
    shown = returning(draw, scene) if scene.major >= 17 and not (gives and absent) else ()
    return Merge(source, matched if matched or absent else ((None, PASS),), absent, shown)


def _change(draw: Draw, scene: Scene) -> Action:
    return pick(draw, (REMOVE, PASS)) if one_in(draw, 4) else Set(changes(draw, scene))


def _addition(draw: Draw, scene: Scene, rows: int) -> Action:
    if one_in(draw, 6):
        return PASS
    row = {column: value(draw, scene, column) for column in columns(draw, scene, "create") if column != "id"}
    # Which of several rows gets which key from the default, nobody knows.
    leaves_out = scene.declaration.key != "nowhere" and rows == 1 and one_in(draw, 3)
    return Put(row if leaves_out else {"id": SOURCE} | row)


def a_delete(draw: Draw, scene: Scene) -> Delete:
    return Delete(None if one_in(draw, 15) else keys(draw, scene, most=2), returning(draw, scene))


def a_select(draw: Draw, scene: Scene) -> Select:
    shown = tuple(columns(draw, scene, "read"))
    return Select(shown, locks=bool(shown) and one_in(draw, 2))


def a_reassign(draw: Draw, scene: Scene) -> Reassign:
    column = pick(draw, givable(scene) or ["owner"])
    given = value(draw, scene, column)
    return Reassign(keys(draw, scene, most=1)[0], column, None if given is DEFAULT else given)


def another(draw: Draw, scene: Scene) -> Statement:
    return pick(draw, (a_select, a_delete, a_reassign))(draw, scene)
