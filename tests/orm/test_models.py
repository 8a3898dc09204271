"""Rules beside models: what may be said where, what it comes to, and what is refused with its place. No server is asked."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import (
    ARRAY,
    Boolean,
    Column,
    FetchedValue,
    ForeignKey,
    Integer,
    MetaData,
    Sequence,
    Table,
    Text,
    Uuid,
    func,
    select,
)
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    MappedAsDataclass,
    column_property,
    declarative_base,
    declared_attr,
    mapped_column,
    registry,
    relationship,
)

from rlskit import Open, Rules, TableRules, Unmanaged, allow, compile, load
from rlskit.errors import RlskitError, RuleError, UnknownColumnError, UnsupportedRuleError
from rlskit.sqlalchemy import column_rules, readable_columns, rules_from, writable_columns

ROLE = "app_user"


def new_base() -> Any:
    return declarative_base()


def todo(rls: Any, /, base: Any = None, **columns: Any) -> Any:
    """The class `app.models.Todo` for the table `todo`, or one of another name, with a key and these attributes."""
    base = base or new_base()
    body = {"__tablename__": "todo", "__module__": "app.models", "id": mapped_column(Integer, primary_key=True)}
    return type(
        columns.get("__tablename__", "todo").title(),
        (base,),
        body | ({} if rls is None else {"__rls__": rls}) | columns,
    )


def text(*given: Any, **options: Any) -> Any:
    return mapped_column(*given, Text, **options)


def rules_of(model: Any, **options: Any) -> Rules:
    return rules_from(model.registry, role=ROLE, **options)


def python(*tables: TableRules, **options: Any) -> Rules:
    return Rules(*tables, role=ROLE, **options)


# --- where rules are said --------------------------------------------------------------------------------------------

OWNER = TableRules("todo", allow.owner())
SAID = {
    "a rule": (allow.owner(), OWNER),
    "a tuple": ((allow.owner(), allow.owners_defined_in("editors")), TableRules("todo", allow.owner(), allow.owners_defined_in("editors"))),
    "a list": ([allow.owner()], OWNER),
    "table rules": (TableRules(allow.owner(), match="full"), TableRules("todo", allow.owner(), match="full")),
    "table rules that name it": (OWNER, OWNER),
    "and its schema": (TableRules("public.todo", allow.owner()), OWNER),
    "open": (Open(reason="reference data"), TableRules("todo", Open(reason="reference data"))),
    "unmanaged": (Unmanaged(reason="its own"), TableRules("todo", Unmanaged(reason="its own"))),
}  # fmt: skip


@pytest.mark.parametrize("what", SAID)
def test_a_class_says_its_rules(what: str) -> None:
    said, expected = SAID[what]

    assert rules_of(todo(said)) == python(expected)


@pytest.mark.parametrize("what", SAID)
def test_a_table_says_them_in_its_info(what: str) -> None:
    said, expected = SAID[what]
    metadata = MetaData()
    Table("todo", metadata, Column("id", Integer, primary_key=True), info={"rls": said})

    assert rules_from(metadata, role=ROLE) == python(expected)


def test_a_base_class_a_registry_and_a_metadata_are_the_same() -> None:
    model = todo(allow.owner())

    assert (
        rules_from(model.__base__, role=ROLE)
        == rules_from(model.registry, role=ROLE)
        == rules_from(model.metadata, role=ROLE)
    )


def test_the_options_are_those_of_rules() -> None:
    options: dict[str, Any] = {"bypass_role": "support", "mode": "signed", "schema": "app"}

    assert rules_of(todo(allow.owner()), **options) == python(OWNER, **options)


def test_a_column_says_its_own() -> None:
    model = todo(
        allow.owner(), title=text(info=column_rules(allow.same().to("read"))), secret=text(info=column_rules())
    )

    assert rules_of(model) == python(
        TableRules("todo", allow.owner(), columns={"title": allow.same().to("read"), "secret": []})
    )


def test_what_a_column_says_is_matched_as_its_table_is() -> None:
    rule = allow.owner_defined_in("editor").to("create")
    model = todo(
        TableRules(allow.owner(), match="full"),
        id=text(primary_key=True),
        title=text(info=column_rules(allow.owner(), rule)),
        editor=text(),
    )
    columns = {"title": [allow.owner(), rule]}

    assert rules_of(model) == python(TableRules("todo", allow.owner(), columns=columns, match="full"))


def test_a_mixin_and_an_abstract_base_say_them_for_all_who_inherit() -> None:
    class Base(DeclarativeBase):
        pass

    class Owned:
        __rls__ = allow.owner()

    class Shared(Base):
        __abstract__ = True

        @declared_attr.directive
        def __rls__(cls) -> Any:
            return allow.owners_defined_in(f"{cls.__name__.lower()}s")

    class One(Owned, Base):
        __tablename__ = "one"
        id: Mapped[int] = mapped_column(primary_key=True)

    class Two(Shared):
        __tablename__ = "two"
        id: Mapped[int] = mapped_column(primary_key=True)

    assert rules_from(Base, role=ROLE) == python(
        TableRules("one", allow.owner()), TableRules("two", allow.owners_defined_in("twos"))
    )


def test_a_class_that_is_mapped_imperatively_says_them_itself_or_its_table() -> None:
    mapped = registry()
    table = Table("todo", mapped.metadata, Column("id", Integer, primary_key=True), Column("who", Text))

    class Todo:
        __rls__ = allow.owner_defined_in("author")

    mapped.map_imperatively(Todo, table, properties={"author": table.c.who})
    table.info["rls"] = allow.owner_defined_in("author")

    assert rules_from(mapped, role=ROLE) == python(TableRules("todo", allow.owner_defined_in("who")))


def test_tables_of_several_schemas_are_named_with_theirs() -> None:
    base = new_base()
    model = todo(allow.owner(), base)
    ledger = todo(allow.owner(), base, __tablename__="ledger", __table_args__={"schema": "app"})
    both = python(TableRules("shop.todo", allow.owner()), TableRules("app.ledger", allow.owner()), schema="shop")

    assert rules_of(model, schema="shop") == both
    assert rules_of(ledger, schemas=["app"]) == python(TableRules("app.ledger", allow.owner()))


def test_tables_that_say_nothing_may_be_passed_over() -> None:
    base = new_base()
    model, _ = todo(allow.owner(), base), todo(None, base, __tablename__="other")

    assert rules_of(model, require_all=False) == rules_from(base, role=ROLE, require_all=False) == python(OWNER)


def draw(dice: random.Random) -> tuple[dict[str, Any], list[TableRules], Any]:
    """One declaration in three ways, its columns' names changed for attributes' in the models, its column rules here or there."""
    attributes = {"author": "author_name", "editors": "editors", "title": "heading", "note": "note"}
    operations = ["create", "read", "update", "delete"]

    def rule(column_rule: bool, everything: bool = False) -> tuple[dict[str, Any], Any, Any]:
        kind, name = dice.choice([("owner", "owner"), ("owner", "author"), ("owners", "editors")])
        given: dict[str, Any] = {} if column_rule and dice.random() < 0.5 else {kind: name}
        make = {"owner": allow.owner_defined_in, "owners": allow.owners_defined_in}
        ours, theirs = (
            (make[kind](name), make[kind](attributes.get(name, name))) if given else (allow.same(), allow.same())
        )
        if not everything and dice.random() < 0.5:
            given["to"] = [each for each in operations if each == "read" or dice.random() < 0.6]
            ours, theirs = ours.to(given["to"]), theirs.to(given["to"])
        if given.keys() & {"owner", "owners"} and dice.random() < 0.3:
            word, value = dice.choice([("match", "full"), ("identity_claim", "email")])
            given[word] = value
            ours, theirs = getattr(ours, word)(value), getattr(theirs, word)(value)
        return given, ours, theirs

    table = [rule(False, number == 0) for number in range(dice.choice([1, 1, 2]))]  # somebody reads the key
    columns = {
        name: [rule(True) for _ in range(dice.choice([0, 1, 1, 2]))]
        for name in ("title", "note")
        if dice.random() < 0.6
    }
    options: dict[str, Any] = {"reassign": dice.choice(["plain", "explicit", "never"])}
    options |= {"match": dice.choice(["full", ["full", "sub"]])} if dice.random() < 0.5 else {}
    content = {"allow": [each[0] for each in table], "columns": {name: [each[0] for each in rules] for name, rules in columns.items()}, **options}  # fmt: skip
    beside = {name for name in columns if dice.random() < 0.5}

    def built(way: int) -> TableRules:
        names = [] if way == 2 else ["todo"]
        word = attributes.get if way == 2 else lambda name: name
        inside = {str(word(name)): [each[way] for each in rules] for name, rules in columns.items() if way == 1 or name not in beside}  # fmt: skip
        return TableRules(*names, *(each[way] for each in table), columns=inside, **options)

    def model() -> Any:
        info = {name: column_rules(*(each[2] for each in columns[name])) for name in beside}
        body = {attributes[name]: text(name, info=info.get(name)) for name in ("title", "note", "author")}
        body["editors"] = mapped_column(ARRAY(Text))
        return todo(built(2), id=mapped_column(Text, primary_key=True), **body)

    return content, lambda: built(1), model  # type: ignore[return-value]


def outcome(make: Callable[[], Rules]) -> object:
    """The rules, or the kind of the refusal."""
    try:
        rules = make()
        compile(rules)
    except RlskitError as error:
        return type(error)
    return rules


@pytest.mark.parametrize("seed", range(4))
def test_three_doors_lead_to_equal_rules(seed: int) -> None:
    dice = random.Random(seed)
    accepted = 0
    for _ in range(40):
        content, declaration, model = draw(dice)
        ways = [
            outcome(lambda: load({"role": ROLE, "tables": {"todo": content}})),  # noqa: B023
            outcome(lambda: python(declaration())),  # type: ignore[operator] # noqa: B023
            outcome(lambda: rules_of(model())),  # noqa: B023
        ]
        if isinstance(ways[0], type):
            assert all(isinstance(each, type) and issubclass(each, RuleError) for each in ways)
        else:
            accepted += 1
            assert ways[0] == ways[1] == ways[2]

    assert accepted > 5  # the others are refused by all three


# --- what is mapped --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("configured", [False, True], ids=["before the mappers are configured", "after"])
def test_a_missing_owner_column_is_mapped_for_the_user(configured: bool) -> None:
    model = todo((allow.owner(), allow.owners_defined_in("editors")), done=mapped_column(Boolean))
    if configured:
        model.registry.configure()
    first = rules_of(model)
    owner, editors = model.__table__.c.owner, model.__table__.c.editors

    assert rules_of(model) == first
    assert (type(owner.type), type(editors.type.item_type), owner.nullable) == (Text, Text, True)
    assert isinstance(owner.server_default, FetchedValue)
    assert str(select(model.id).where(model.owner == "x", model.editors.contains(["x"]))).endswith(
        "WHERE todo.owner = :owner_1 AND todo.editors @> :editors_1"
    )
    assert model(owner="x").owner == "x"


def test_a_dataclass_gets_it_too() -> None:
    class Base(MappedAsDataclass, DeclarativeBase):
        pass

    class Todo(Base):
        __tablename__ = "todo"
        __rls__ = allow.owner()
        id: Mapped[int] = mapped_column(primary_key=True, init=False)
        content: Mapped[str]

    rules_from(Base, role=ROLE)

    assert Todo(content="milk").owner is None  # type: ignore[attr-defined]


def test_a_plain_table_gets_the_column() -> None:
    metadata = MetaData()
    table = Table("todo", metadata, Column("id", Integer, primary_key=True), info={"rls": allow.owner()})
    rules_from(metadata, role=ROLE)

    assert table.c.keys() == ["id", "owner"]


def hierarchy(*, single: bool, child_first: bool = False) -> tuple[Any, Any]:
    base = new_base()
    parent = todo(
        allow.owner(),
        base,
        kind=text(nullable=False),
        __mapper_args__={"polymorphic_on": "kind", "polymorphic_identity": "todo"},
    )
    body: dict[str, Any] = {"__mapper_args__": {"polymorphic_identity": "child"}, "__module__": "app.models"}
    if not single:
        body |= {
            "__tablename__": "child",
            "__rls__": allow.owner(),
            "id": mapped_column(ForeignKey(parent.id), primary_key=True),
        }
        body |= {"owner": text("owner")} if child_first else {}
    return parent, type("Child", (parent,), body)


def test_classes_that_share_a_table_share_its_owner() -> None:
    parent, child = hierarchy(single=True)

    assert rules_of(parent) == python(OWNER)
    assert str(select(child.owner)).startswith("SELECT todo.owner \nFROM todo")


@pytest.mark.parametrize("declares", [False, True], ids=["which is missing", "which is declared"])
def test_a_child_with_a_table_of_its_own_has_an_owner_of_its_own(declares: bool) -> None:
    parent, child = hierarchy(single=False, child_first=declares)

    assert rules_of(parent) == python(OWNER, TableRules("child", allow.owner()))
    assert str(select(child.id).where(child.owner == "x")).endswith("WHERE child.owner = :owner_1")
    assert [str(each) for each in child.__mapper__.attrs.owner.columns] == ["child.owner", "todo.owner"]
    assert [str(each) for each in parent.__mapper__.attrs.owner.columns] == ["todo.owner"]


def test_a_concrete_child_has_nothing_of_its_parents() -> None:
    parent = todo(allow.owner())
    body = {"__tablename__": "child", "__rls__": allow.owner(), "__mapper_args__": {"concrete": True}, "owner": text()}
    child = type("Child", (parent,), {**body, "id": mapped_column(Integer, primary_key=True)})

    assert rules_of(parent) == python(OWNER, TableRules("child", allow.owner()))
    assert [str(each) for each in child.__mapper__.attrs.owner.columns] == ["child.owner"]
    assert str(select(parent.owner)) == "SELECT todo.owner \nFROM todo"


def test_a_default_of_the_models_own_is_left_alone() -> None:
    model = todo(allow.owner(), owner=text(server_default=func.current_user()))
    rules_of(model)

    assert str(model.__table__.c.owner.server_default.arg) == "CURRENT_USER"


# --- what may be read and written ------------------------------------------------------------------------------------


def test_columns_that_may_be_read_and_written() -> None:
    model = todo(
        TableRules(allow.owner(), columns={"owner": allow.same().to("read", "delete")}),
        heading=text("title"),
        secret=text(info=column_rules(allow.same().to("create", "delete"))),
        total=mapped_column(Integer, FetchedValue()),
    )
    rules, table = rules_of(model), model.__table__

    assert [each.key for each in readable_columns(model, rules)] == ["id", "heading", "total", "owner"]
    assert readable_columns(table, rules) == (table.c.id, table.c.title, table.c.total, table.c.owner)
    assert writable_columns(model, rules, "create") == {"id", "heading", "secret", "total"}
    assert writable_columns(model, rules, "update") == {"id", "heading", "total"}
    assert writable_columns(table, rules, "update") == {"id", "title", "total"}


def test_of_an_open_table_what_is_open_and_of_an_unmanaged_one_everything() -> None:
    base = new_base()
    country = todo(Open(reason="reference data"), base)
    other = todo(Unmanaged(reason="its own"), base, __tablename__="other")
    rules = rules_from(base, role=ROLE)

    assert (readable_columns(country, rules), writable_columns(country, rules, "create")) == ((country.id,), set())
    assert (readable_columns(other, rules), writable_columns(other, rules, "create")) == ((other.id,), {"id"})


def test_of_what_the_rules_do_not_name_nothing_is_said() -> None:
    with pytest.raises(RuleError, match=r"^the rules do not name table `public\.todo`"):
        readable_columns(todo(None), python(TableRules("todos", allow.owner())))
    with pytest.raises(RuleError, match=r"is no mapped class"):
        readable_columns(int, python(OWNER))
    with pytest.raises(RuleError, match=r"^`delete` writes no columns"):
        writable_columns(todo(None), python(OWNER), "delete")  # type: ignore[arg-type]


# --- what is refused -------------------------------------------------------------------------------------------------


class Foreign:
    """What another library means by `__rls__`."""


MESSAGE = TableRules(allow.owner_defined_in("sender").to("create"), allow.owner_defined_in("recipient").to("read"))
PARTS = allow.owner(), allow.owners_defined_in("editors")
OWNERS_ALONE = column_rules(allow.owner(), allow.owners_defined_in("editors").to("read"))

DECLARATIONS: dict[str, tuple[Callable[[], Any], type[RuleError], str, str]] = {
    "another library's": (
        lambda: todo([Foreign()]), RuleError,
        f"class `app.models.Todo`: `__rls__` holds a `{__name__}.Foreign`, which is no rule of rlskit's", "begin with `allow.`",
    ),
    "nothing at all": (lambda: todo(()), RuleError, "class `app.models.Todo`: the table has no rule", "Open(reason=…)"),
    "another table's": (
        lambda: todo(TableRules("app.todo", allow.owner())), RuleError,
        "class `app.models.Todo` is table `public.todo`, and its rules name table `app.todo`", "leave the name out",
    ),
    "a word that nobody knows": (
        lambda: todo(TableRules(allow.owner(), columns={"headin": []}), heading=text("title")), UnknownColumnError,
        "class `app.models.Todo`: there is no column `headin`, which a column rule names", "did you mean `heading`?",
    ),
    "an owner that is misspelt": (
        lambda: todo(allow.owner_defined_in("autor"), author=text()), UnknownColumnError,
        "class `app.models.Todo`: there is no column `autor`, which allow.owner_defined_in(\"autor\") names", "did you mean `author`?",
    ),
    "two columns of one word": (
        lambda: todo(allow.owner_defined_in("a"), a=text("b"), c=text("a")), RuleError,
        "class `app.models.Todo`: `a` could be the columns `a` and `b`", "name the attribute otherwise",
    ),
    "two words for one column": (
        lambda: todo((allow.owner_defined_in("a").to("read"), allow.owner_defined_in("b")), a=text("b")), RuleError,
        "class `app.models.Todo`: column `b` has two names in these rules, `a` and `b`", "write one of them",
    ),
    "column rules in two places": (
        lambda: todo(TableRules(allow.owner(), columns={"a": []}), a=text(info=column_rules())), RuleError,
        "class `app.models.Todo`: column `a` has rules beside it and in `columns`", "keep the one",
    ),
    "column rules without a table's": (
        lambda: todo(None, a=text(info=column_rules())), RuleError, "class `app.models.Todo` has rules for column `a` and none", "`__rls__`",
    ),
    "a column that is open": (
        lambda: todo(Open(reason="reference data"), a=text(info=column_rules())), RuleError,
        "class `app.models.Todo`: table `public.todo` is open to read: reference data; it takes neither", "owner rules",
    ),
    "a class and its table at odds": (
        lambda: todo(allow.owner(), __table_args__={"info": {"rls": allow.owner().to("read")}}), RuleError,
        "the info of table `public.todo` says other rules than class `app.models.Todo`, for the same table", "one place",
    ),
    "an attribute that is no column": (
        lambda: todo(allow.owner(), owner=property(lambda self: "me")), RuleError,
        "class `app.models.Todo`: `app.models.Todo.owner` is no column", "name another column",
    ),
    "a child at odds with the table's": (
lambda: type("Other", (hierarchy(single=True)[0],), {"__rls__": allow.owner().to("read"), "__mapper_args__": {"polymorphic_identity": "x"}, "__module__": "app.models"}), RuleError,
        "class `app.models.Other` says other rules than class `app.models.Todo`, for the same table", "one place",
    ),
    "nobody may read the key": (
        lambda: todo(TableRules(allow.owner(), columns={"id": allow.same().to("create", "delete")})), UnsupportedRuleError,
        "class `app.models.Todo`: nobody may read column `id`, of the primary key", "with read",
    ),
    "an expression of what nobody may read": (
        lambda: todo(allow.owner(), a=(a := text(info=column_rules(allow.same().to("create")))), b=column_property(a + "!")), UnsupportedRuleError,
        "`app.models.Todo.b` is loaded with every row and reads a column that nobody may read", "leave the column out",
    ),
    "a default of what nobody may set": (
        lambda: todo(allow.owner(), a=text(default="x", info=column_rules(allow.same().to("read")))), UnsupportedRuleError,
        "class `app.models.Todo`: nobody may set column `a`, and the model does it every time, by `default`", "`server_default`",
    ),
    "a sequence of what nobody may set": (
        lambda: todo(TableRules(allow.owner(), columns={"id": allow.same().to("read")}), id=mapped_column(Integer, Sequence("ids"), primary_key=True)), UnsupportedRuleError,
        "class `app.models.Todo`: nobody may set column `id`", "`server_default`",
    ),
    "an update of what nobody may update": (
        lambda: todo(allow.owner(), a=text(onupdate=func.now(), info=column_rules(allow.same().to("create", "read")))), UnsupportedRuleError,
        "class `app.models.Todo`: nobody may update column `a`, and the model does it every time, by `onupdate`", "trigger",
    ),
    "a default that only some may set": (
        lambda: todo(PARTS, a=text(default="x", info=OWNERS_ALONE)), UnsupportedRuleError,
        "class `app.models.Todo`: not everybody who may create a row may set column `a`", "`server_default`",
    ),
    "a version that nobody may write": (
        lambda: todo(allow.owner(), version=(version := mapped_column(Integer, info=column_rules(allow.same().to("create", "read")))), __mapper_args__={"version_id_col": version}), UnsupportedRuleError,
        "class `app.models.Todo`: nobody may update column `version`, and the model does it every time, by `version_id_col`", "trigger",
    ),
    "a version that nobody may read": (
        lambda: todo(allow.owner(), version=(version := mapped_column(Integer, info=column_rules(allow.same().to("create", "update")))), __mapper_args__={"version_id_col": version}), UnsupportedRuleError,
        "class `app.models.Todo`: nobody may read column `version`, the version counter", "with read",
    ),
    "a kind that nobody may set": (
        lambda: todo(allow.owner(), kind=(kind := text(info=column_rules(allow.same().to("read")))), __mapper_args__={"polymorphic_on": kind, "polymorphic_identity": "x"}), UnsupportedRuleError,
        "class `app.models.Todo`: nobody may set column `kind`", "without a rule of its own",
    ),
    "not null, and nobody may set it": (
        lambda: todo(allow.owner(), a=text(nullable=False, info=column_rules(allow.same().to("read")))), UnsupportedRuleError,
        "class `app.models.Todo`: nobody may set column `a`, which is NOT NULL and has no default", "add create",
    ),
    "create without read": (
        lambda: todo(MESSAGE), UnsupportedRuleError,
        "class `app.models.Todo`: not everybody who may create a row may read it, and the key `id` comes from the server", "default=uuid4",
    ),
    "create without read, the key by SQL": (
        lambda: todo(Open(reason="contact form", to=("create",)), id=mapped_column(Uuid, primary_key=True, default=func.gen_random_uuid())), UnsupportedRuleError,
        "class `app.models.Todo`: not everybody who may create a row may read it", "default=uuid4",
    ),
    "create in a spelling that is not read": (
        lambda: todo((allow.owner().to("create"), allow.owner_defined_in("author").match("full").to("read"))), UnsupportedRuleError,
        "class `app.models.Todo`: not everybody who may create a row may read it", "give read",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", DECLARATIONS)
def test_a_declaration_is_refused_with_its_place(what: str) -> None:
    make, kind, message, hint = DECLARATIONS[what]
    model = make()
    columns = list(model.__table__.c.keys())
    with pytest.raises(RuleError) as caught:
        rules_of(model)

    assert (type(caught.value), caught.value.message[: len(message)]) == (kind, message)
    assert hint in caught.value.hint
    assert list(model.__table__.c.keys()) == columns


def test_tables_that_say_nothing_are_refused_all_in_one() -> None:
    base = new_base()
    model = todo(None, base)
    Table("link", base.metadata, Column("id", Integer, primary_key=True))
    with pytest.raises(RuleError) as caught:
        rules_of(model)

    assert (
        caught.value.message == "nothing says who may do what to `public.link`, `public.todo` (class `app.models.Todo`)"
    )
    assert "Open(reason=…) or Unmanaged(reason=…)" in caught.value.hint


def test_a_child_with_a_table_of_its_own_does_not_inherit_its_parents_rules() -> None:
    parent = todo(allow.owner())
    body = {"__tablename__": "child", "__module__": "app.models"}
    type("Child", (parent,), body | {"id": mapped_column(ForeignKey(parent.id), primary_key=True)})
    with pytest.raises(
        RuleError,
        match=r"`public\.child` \(class `app\.models\.Child`, which has a table of its own and does not inherit the rules of `app\.models\.Todo`\)",
    ):
        rules_of(parent)


def test_a_class_over_a_join_says_no_rules() -> None:
    base = new_base()
    one, two = todo(allow.owner(), base), todo(allow.owner(), base, __tablename__="two")
    joined = one.__table__.join(two.__table__, one.__table__.c.id == two.__table__.c.id)
    key = column_property(one.__table__.c.id, two.__table__.c.id)
    both = type("Both", (base,), {"__table__": joined, "__rls__": allow.owner(), "__module__": "app.models", "id": key})
    with pytest.raises(RuleError, match=r"class `app\.models\.Both` is mapped to no table of its own"):
        rules_of(both)


@pytest.mark.parametrize("given", [None, "models", 3], ids=repr)
def test_what_has_no_tables_is_refused(given: Any) -> None:
    with pytest.raises(RuleError, match="has no tables"):
        rules_from(given, role=ROLE)


def test_a_schema_without_a_table_is_refused() -> None:
    with pytest.raises(RuleError) as caught:
        rules_of(todo(allow.owner()), schemas=["pulbic"])

    assert (caught.value.message, caught.value.hint) == ("no table is in schema `pulbic`", "did you mean `public`?")


def test_what_is_no_rule_is_refused_beside_a_column() -> None:
    with pytest.raises(RuleError, match="is no rule"):
        column_rules("read")  # type: ignore[arg-type]


# --- what is like it and not refused ---------------------------------------------------------------------------------

ACCEPTED: dict[str, Callable[[], Any]] = {
    "the model makes the key of what it cannot read": lambda: todo(MESSAGE, id=mapped_column(Uuid, primary_key=True, default=uuid4)),
    "a key of the application's own": lambda: todo(MESSAGE, id=text(primary_key=True)),
    "defaults of what may be set": lambda: todo(allow.owner(), a=text(default="x", onupdate=func.now())),
    "a server's default of what nobody may set": lambda: todo(allow.owner(), a=text(server_default="x", nullable=False, info=column_rules(allow.same().to("read")))),
    "an owner that is not null": lambda: todo(TableRules(allow.owner(), columns={"owner": allow.same().to("read")}), owner=text(nullable=False)),
    "a key of the server's that nobody may set": lambda: todo(TableRules(allow.owner(), columns={"id": allow.same().to("read")})),
    "a version of the server's": lambda: todo(allow.owner(), v=(v := mapped_column(Integer, FetchedValue(), info=column_rules(allow.same().to("read")))), __mapper_args__={"version_id_col": v, "version_id_generator": False}),
    "a relationship beside it": lambda: todo(allow.owner_defined_in("who"), parent_id=mapped_column(ForeignKey("todo.id")), owner=relationship("Todo")),
    "no other name is like it": lambda: todo(allow.owner(), owned=mapped_column(Boolean)),
}  # fmt: skip


@pytest.mark.parametrize("what", ACCEPTED)
def test_what_works_is_not_refused(what: str) -> None:
    assert rules_of(ACCEPTED[what]()).tables
