"""Rules as the TOML of a rule file: it reads back as the same rules, whatever stands in their names."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlskit import Open, Rules, TableRules, Unmanaged, allow, load
from rlskit.errors import UnsupportedRuleError
from rlskit.importer.renderer import toml
from rlskit.names import QualifiedName
from rlskit.vocabulary import MODES
from tests.conformance.strategies import declarations

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12) | st.sampled_from(
    ["todo", "a.b", "a", "b", 'say "hi"', "new\nline", "tab\t", "#", "back\\slash", "\x7f", "\u2028", "ü", "1"]
)
WORDS = st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip)


@st.composite
def all_rules(draw: st.DrawFn) -> Rules:
    tables = {}
    for schema, name in draw(st.lists(st.tuples(NAMES, NAMES), max_size=4)):
        drawn = draw(declarations()).rules
        other = TableRules(
            draw(st.builds(Open, reason=WORDS) | st.builds(Unmanaged, reason=WORDS)),
            keep=draw(st.dictionaries(NAMES.map("policy {}".format), WORDS, max_size=2)),
        )
        named = TableRules(
            allow.owner_defined_in(draw(NAMES)).identity_claim("x").to("read"), columns={draw(NAMES): []}
        )
        tables[QualifiedName(schema, name)] = draw(st.sampled_from([drawn, other, named]))
    return Rules(
        *(rules.at(name) for name, rules in tables.items()),
        role=draw(NAMES.filter(lambda name: name.lower() not in ("public", "none"))),
        schema=draw(st.sampled_from(["public", *(name.schema for name in tables)])),
        mode=draw(st.sampled_from([None, *MODES])),
    )


@settings(deadline=None, max_examples=50)
@given(rules=all_rules(), words=st.text())
def test_what_is_written_reads_back_the_same(rules: Rules, words: str) -> None:
    try:
        text = toml(rules, head=[words], notes={table.name: [words] for table in rules.tables}, tail=[words])
    except UnsupportedRuleError:
        dotted = [table.name for table in rules.tables if "." in table.name.schema + table.name.name]
        assert dotted
        return

    assert load(tomllib.loads(text)) == rules


def test_a_name_with_a_dot_in_two_schemas_is_refused() -> None:
    rules = Rules(
        TableRules("a.b", allow.owner(), schema="x"), TableRules("a.b", allow.owner(), schema="y"), role="app"
    )

    with pytest.raises(UnsupportedRuleError, match=r"table `y\.a\.b` has a name for which the file's one key is taken"):
        toml(rules)


def test_rules_are_written_as_one_would() -> None:
    rules = Rules(
        TableRules("todo", allow.owner(), columns={"owner": allow.same().to("read", "delete"), "price": []}),
        TableRules(
            "app.note",
            allow.owner_defined_in("by"),
            allow.owners_defined_in("editors").to("read"),
            match="full",
            reassign="never",
        ),
        TableRules("country", Open(reason="reference data")),
        role="app_user",
        bypass_role="support",
    )

    assert toml(rules) == """\
role = "app_user"
bypass_role = "support"

[tables."app.note"]
allow = [{ owner = "by", match = ["full"] }, { owners = "editors", match = ["full"], to = ["read"] }]
reassign = "never"

[tables.country]
open = { reason = "reference data", to = ["read"] }

[tables.todo]
allow = [{ owner = "owner" }]
columns.owner = [{ to = ["read", "delete"] }]
columns.price = []
"""  # fmt: skip


def test_a_column_that_takes_more_spellings_than_its_table_says_so() -> None:
    rules = Rules(TableRules("todo", allow.owner().match("full"), columns={"owner": allow.owner().match("any")}), role="app")  # fmt: skip

    assert load(tomllib.loads(toml(rules))) == rules
