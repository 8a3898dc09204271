"""The pages of the documentation, executed: each example on a database of its own, each answer compared to the letter.

A page holds, in fences:

    ```ts        Amplify's declaration, for the reader
    ```python    Python that is run; before the first `##` it holds for every example of the page. An assignment to `rules` is planned and
                 applied by the owner of the tables. Code above lines `#> …` raises what they say, and nothing else.
    ```toml      the last `rules` again, as a rule file
    ```sql       beginning with a line `-- WHO`: statements, each asked by WHO, each with its answer in lines `--> …`. WHO is `table owner`
                 (whose statements may do without an answer), `nobody`, or an Identity that the page's Python has named so.
                 Otherwise: statements that stand so in the plan's SQL.
    ```console   `$ rlskit plan`, perhaps with `| grep WORD`, and what it prints; before the first `##` commands for the reader
"""

from __future__ import annotations

import asyncio
import json
import re
import tomllib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import sqlalchemy
from psycopg.conninfo import conninfo_to_dict

from rlskit import Identity, Plan, Rules, as_nobody, as_user, load, plan
from rlskit.errors import RlskitError
from tests.support import Database

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "docs" / "tutorial.md", ROOT / "docs" / "differences.md"]
GUIDES = [ROOT / "docs" / "how-to" / "sqlalchemy.md"]  # Python alone: it asserts what it says
HOW_TO = sorted((ROOT / "docs" / "how-to").glob("*.md"))

LANGUAGES = {"ts", "python", "toml", "sql", "console"}
TABLE_OWNER, NOBODY = "table owner", "nobody"
ROLE = "app_user"


# --- reading a page --------------------------------------------------------------------------------------------------


class PageError(Exception):
    """The page itself is not written as the convention above says."""


@dataclass(frozen=True)
class Block:
    """What stands in one fence; ``line`` is that of its first line in the page."""

    page: str
    line: int
    language: str
    lines: tuple[str, ...]

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def is_asked(self) -> bool:
        return self.language == "sql" and self.lines[0].startswith("-- ")


@dataclass(frozen=True)
class Example:
    """What stands under one heading, after what the page says before its first `##`."""

    page: str
    title: str
    preamble: tuple[Block, ...]
    blocks: tuple[Block, ...]

    @property
    def statements(self) -> int:
        """How many statements its people perform."""
        return sum(len(list(statements(block))) for block in self.blocks if block.is_asked)

    @property
    def raises(self) -> int:
        """How many declarations it refuses."""
        return sum(bool(answer) for block in self.blocks for _, _, answer in code(block) if block.language == "python")


@dataclass(frozen=True)
class Statement:
    """What somebody asks; without an answer where the page gives none."""

    line: int
    who: str
    text: str
    answer: tuple[str, ...]


def read_page(page: str, text: str) -> list[Example]:
    """The page's examples, in order. Raises PageError."""
    titles: list[str | None] = [None]
    blocks: list[list[Block]] = [[]]
    opened: tuple[int, str] | None = None
    inside: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        if opened is None and (heading := re.match(r"##+ (.+)", line)):
            titles.append(heading[1])
            blocks.append([])
        elif opened is None and line.startswith("```"):
            opened, inside = (number + 1, line[3:].strip()), []
            if opened[1] not in LANGUAGES:
                raise PageError(f"{page}:{number}: a fence of `{opened[1]}` is none that is executed or checked")
        elif opened is not None and line == "```":
            if not inside:
                raise PageError(f"{page}:{number}: an empty fence")
            blocks[-1].append(Block(page, *opened, tuple(inside)))
            opened = None
        elif opened is not None:
            inside.append(line)
    if opened is not None:
        raise PageError(f"{page}:{opened[0]}: a fence without an end")
    preamble, *rest = map(tuple, blocks)
    examples = [Example(page, str(title), preamble, each) for title, each in zip(titles[1:], rest, strict=True) if each]
    for example in examples:
        _ = example.statements  # reads them all, and raises
    return examples


def statements(block: Block) -> Iterator[Statement]:
    """The statements of a block, with who asks and the answer. Raises PageError."""
    who, found, text, answer, begin = "", False, [], [], 0
    for number, line in enumerate((*block.lines, "-- "), block.line):
        if line.startswith("--> "):
            if not found:
                raise PageError(f"{block.page}:{number}: an answer to no statement")
            answer.append(line[4:])
            continue
        if found:
            if not answer and who != TABLE_OWNER:
                raise PageError(f"{block.page}:{number}: a statement of {who} has no answer")
            yield Statement(begin, who, "\n".join(text), tuple(answer))
            found, text, answer = False, [], []
        if line.startswith("-- ") and not text:
            who = line[3:]
        elif line or text:
            begin = begin if text else number
            text.append(line)
            found = line.endswith(";")
    if text:
        raise PageError(f"{block.page}:{begin}: a statement without an end")


def code(block: Block) -> Iterator[tuple[int, str, str]]:
    """The Python of a block, in parts: the line, the code, and what it has to raise, or nothing."""
    begin, source, answer = block.line, [], []
    for number, line in enumerate(block.lines, block.line):
        if answer and not line.startswith("#> "):
            yield begin, "\n".join(source), "\n".join(answer)
            begin, source, answer = number, [], []
        (answer if line.startswith("#> ") else source).append(line.removeprefix("#> "))
    yield begin, "\n".join(source), "\n".join(answer)


# --- performing an example -------------------------------------------------------------------------------------------


@dataclass
class Performance:
    """One example at work on one fresh database. ``wrong`` holds what was not as the page says."""

    example: Example
    database: Database
    performed: int = 0
    refused: int = 0
    wrong: list[str] = field(default_factory=list)
    names: dict[str, Any] = field(default_factory=dict)
    made: Plan | None = None
    app: psycopg.Connection[Any] | None = None

    def run(self) -> None:
        """Go through the example. Raises PageError, and AssertionError with every answer that was another one."""
        self.names["app_dsn"] = self.database.app_dsn
        with ExitStack() as stack:
            for block in self.example.preamble:
                if block.language == "python":
                    self.python(block)
            for block in self.example.blocks:
                if block.is_asked and self.app is None and self.made is not None:
                    self.app = stack.enter_context(self.database.connect_as_app())
                self.block(block)
        if self.wrong:
            raise AssertionError("\n".join(self.wrong))

    def block(self, block: Block) -> None:
        match block.language:
            case "python":
                self.python(block)
            case "toml":
                if load(tomllib.loads(self.local("\n".join(block.lines)))) != self.names.get("rules"):
                    self.wrong.append(f"{block.place}: this rule file is not the last `rules`")
            case "sql" if block.is_asked:
                for statement in statements(block):
                    self.performed += 1
                    got = self.answer(block, statement)
                    if statement.answer:
                        place = f"{block.page}:{statement.line}"
                        self.compare(place, statement.who, statement.text, got, "\n".join(statement.answer))
            case "sql":
                self.becomes(block)
            case "console":
                self.console(block)

    def python(self, block: Block) -> None:
        before = self.names.get("rules")
        for line, source, answer in code(block):
            # The line numbers of a traceback are those of the page.
            source_here = "\n" * (line - 1) + self.local(source)
            compiled = compile(source_here, block.page, "exec", dont_inherit=True)
            raised = "nothing"
            try:
                exec(compiled, self.names)
            except RlskitError as error:
                if not answer:
                    raise
                raised = f"{type(error).__name__}: {error}"
            if answer:
                self.refused += 1
                self.compare(f"{block.page}:{line}", "python", source, raised, answer)
        rules = self.names.get("rules")
        if isinstance(rules, Rules) and rules is not before:
            with self.database.connect_as_owner() as conn:
                self.made = plan(conn, rules)
                self.made.apply(conn)

    def becomes(self, block: Block) -> None:
        """Each statement of the block stands in the plan's SQL, from the beginning of a line to the end of one."""
        script = "\n" + self.general(self.plan_at(block).sql())
        text: list[str] = []
        for number, line in enumerate(block.lines, block.line):
            if not line and not text:
                continue
            text.append(line)
            if line.endswith(";"):
                statement, text = "\n".join(text), []
                if f"\n{statement}\n" not in script:
                    self.wrong.append(f"{block.page}:{number}: this is not in the plan's SQL:\n{statement}")
        if text:
            raise PageError(f"{block.place}: a statement without an end")

    def console(self, block: Block) -> None:
        found = re.fullmatch(r"\$ rlskit plan(?: \| grep (\w+:?|'[^']+'))?", block.lines[0])
        if found is None:
            raise PageError(f"{block.place}: only `$ rlskit plan` and `$ rlskit plan | grep WORD` are checked")
        printed = [*self.general(str(self.plan_at(block))).splitlines(), "Nothing was changed."]
        got = [line for line in printed if (found[1] or "").strip("'") in line]
        self.compare(block.place, "$", block.lines[0][2:], "\n".join(got), "\n".join(block.lines[1:]))

    def answer(self, block: Block, statement: Statement) -> str:
        """What the database answers, as psql would print it."""
        if statement.who == TABLE_OWNER:
            with self.database.connect_as_owner(autocommit=True) as conn:
                return shown(conn.execute(statement.text))
        asking = self.names.get(statement.who)
        if statement.who != NOBODY and not isinstance(asking, Identity):
            raise PageError(f"{block.page}:{statement.line}: nobody is named `{statement.who}` on this page")
        if self.app is None:
            raise PageError(f"{block.page}:{statement.line}: {statement.who} asks before there are rules")
        as_whom: AbstractContextManager[psycopg.Connection[Any]] = (
            as_user(self.app, asking) if isinstance(asking, Identity) else as_nobody(self.app)
        )
        try:
            with as_whom as conn:
                return shown(conn.execute(statement.text))
        except psycopg.Error as error:
            return f"ERROR: {error.diag.message_primary}"

    def plan_at(self, block: Block) -> Plan:
        if self.made is None:
            raise PageError(f"{block.place}: there are no rules yet, so there is no plan")
        return self.made

    def compare(self, place: str, who: str, what: str, got: str, expected: str) -> None:
        if got != expected:
            self.wrong.append(
                f"{place}: {who}: {what}\nexpected: {expected or 'no output'}\ngot:      {got or 'no output'}"
            )

    def local(self, text: str) -> str:
        """With the role of this database for the page's."""
        return text.replace(f'"{ROLE}"', f'"{self.database.app}"')

    def general(self, text: str) -> str:
        """With the page's role for this database's."""
        return text.replace(self.database.app, ROLE)


def shown(cursor: psycopg.Cursor[Any]) -> str:
    """Rows as PostgreSQL writes them, one a line; or what it says of a change."""
    result = cursor.pgresult
    assert result is not None
    if not cursor.description:
        return cursor.statusmessage or ""
    rows = [
        " | ".join(
            "null" if (value := result.get_value(row, column)) is None else value.decode()
            for column in range(result.nfields)
        )
        for row in range(result.ntuples)
    ]
    return "\n".join(rows) or "no rows"


# --- the pages -------------------------------------------------------------------------------------------------------


def examples_of(paths: list[Path]) -> list[Example]:
    return [
        example
        for path in paths
        for example in read_page(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
    ]


EXAMPLES = examples_of(PAGES)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda each: f"{Path(each.page).stem}: {each.title}")
def test_an_example_gives_the_answers_of_the_page(
    example: Example, database: Database, record_property: Callable[[str, object], None]
) -> None:
    performance = Performance(example, database)
    performance.run()
    record_property("page_statements", performance.performed)

    assert (performance.performed, performance.refused) == (example.statements, example.raises)
    assert performance.performed + performance.refused > 0


@pytest.mark.parametrize("example", examples_of(GUIDES), ids=lambda each: f"{Path(each.page).stem}: {each.title}")
def test_the_python_of_a_guide_does_what_it_says(example: Example, database: Database) -> None:
    urls = {"url": url(database.app_dsn), "owner_url": url(database.owner_dsn)}
    performance = Performance(example, database, names=urls)
    try:
        performance.run()
        if "app" in performance.names:
            assert asyncio.run(posted(performance.names["app"], "/todos?content=milk")) == "5d1c::alice"
    finally:
        if "engine" in performance.names:
            performance.names["engine"].dispose()

    assert performance.refused == example.raises


async def posted(app: Any, address: str) -> Any:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://app") as client:
        return (await client.post(address)).json()


def url(dsn: str) -> str:
    """The DSN as SQLAlchemy wants it."""
    parts = conninfo_to_dict(dsn)
    user, name = parts.pop("user"), parts.pop("dbname")
    query = {key: str(value) for key, value in parts.items()}
    return sqlalchemy.URL.create("postgresql+psycopg", str(user), database=str(name), query=query).render_as_string()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_no_statement_of_a_page_is_left_out(path: Path) -> None:
    """Counted once more in the text itself, by other means."""
    text = path.read_text(encoding="utf-8")
    examples = [example for example in EXAMPLES if example.page == f"docs/{path.name}"]
    asked = "".join(re.findall(r"^```sql\n(-- .*?\n)```$", text, re.DOTALL | re.MULTILINE))
    refusals = re.findall(r"^#> \w+Error: ", text, re.MULTILINE)

    assert sum(example.statements for example in examples) == len(re.findall(r";$", asked, re.MULTILINE)) > 0
    assert sum(example.raises for example in examples) == len(refusals)
    assert text.count("\n```sql\n") == sum(block.language == "sql" for example in examples for block in example.blocks)


AMPLIFY = [
    "allow.owner()]",
    "allow.owner().to(['create', 'read', 'update'])]",
    "owner: a.string().authorization(allow => [allow.owner().to(['read', 'delete'])])",
    "allow.ownerDefinedIn('author')]",
    "allow.ownersDefinedIn('owners')]",
    "allow.ownersDefinedIn('authors')]",
    "client.models.Todo.create(",
    "client.models.Todo.update(",
    "owners: [...newTodo.owners, otherUserId]",
]


@pytest.mark.parametrize("words", AMPLIFY)
def test_the_tutorial_has_every_example_of_amplifys_pages(words: str) -> None:
    shown_to_the_reader = "\n".join(
        line
        for example in EXAMPLES
        for block in example.blocks
        if example.page == "docs/tutorial.md" and block.language == "ts"
        for line in block.lines
    )

    assert words in shown_to_the_reader


def test_every_difference_has_its_example() -> None:
    titles = [example.title for example in EXAMPLES if example.page == "docs/differences.md"]

    assert [title.partition(":")[0] for title in titles if title.startswith("D")] == [f"D{n}" for n in range(1, 10)]


def anchors(path: Path) -> set[str]:
    """The headings of a page, as GitHub names them in an address."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", [*PAGES, *HOW_TO], ids=lambda path: path.name)
def test_a_link_leads_somewhere(path: Path) -> None:
    links = re.findall(r"\]\((?!https://)([^)#]*)#?([^)]*)\)", path.read_text(encoding="utf-8"))
    targets = [((path.parent / target).resolve() if target else path, anchor) for target, anchor in links]

    assert targets
    assert [target for target, _ in targets if not target.exists()] == []
    assert [(target.name, anchor) for target, anchor in targets if anchor and anchor not in anchors(target)] == []


def test_the_number_of_recorded_decisions_is_that_of_the_file() -> None:
    recorded = json.loads((ROOT / "tests" / "conformance" / "amplify.json").read_text(encoding="utf-8"))
    number = sum(len(schema["cases"]) for schema in recorded["schemas"])

    assert f" {number:,} decisions of Amplify itself" in (ROOT / "docs" / "differences.md").read_text(encoding="utf-8")


# --- the runner itself: a page that is wrong fails -------------------------------------------------------------------

TINY = """\
# A page

```python
from rlskit import Identity, Rules, TableRules, allow

alice = Identity(sub="5d1c", username="alice")
```

## An example

```sql
-- table owner
create table todo (id serial primary key, content text);
```

```python
rules = Rules(TableRules("todo", allow.owner(), columns={"owner": allow.same().to("read", "delete")}), role="app_user")
```

```toml
role = "app_user"
[tables.todo]
allow = [{ owner = "owner" }]
columns.owner = [{ to = ["read", "delete"] }]
```

```sql
alter table "public"."todo" add column "owner" text;
grant delete on "public"."todo" to "app_user";
```

```console
$ rlskit plan | grep insert
  create policy rlskit_insert for insert to app_user  [ACCESS EXCLUSIVE]
  grant insert (content, id) to app_user  [ACCESS SHARE]
```

```sql
-- alice
insert into todo (content)
values ('milk'), (null) returning content, owner;
--> milk | 5d1c::alice
--> null | 5d1c::alice
update todo set owner = 'bob';
--> ERROR: permission denied for table todo

delete from todo;
--> DELETE 2
-- nobody
select * from todo;
--> no rows
```

```python
TableRules("todo", allow.owner().to("get"))
#> RuleError: `get` alone cannot be told apart by PostgreSQL
#> hint: `read` covers get, list, sync, listen and search
```
"""


def tiny(old: str = "", new: str = "") -> Example:
    """The page with one place of it changed."""
    assert not old or TINY.count(old) == 1
    (example,) = read_page("page.md", TINY.replace(old, new) if old else TINY)
    return example


def test_a_page_that_is_right_passes(database: Database) -> None:
    performance = Performance(tiny(), database)
    performance.run()

    assert (performance.performed, performance.refused) == (5, 1)
    assert (performance.example.statements, performance.example.raises) == (5, 1)


WRONG = {
    "a row": (
        ("--> milk | 5d1c::alice", "--> milk | 77aa::bob"),
        "page.md:40: alice: insert into todo (content)\nvalues ('milk'), (null) returning content, owner;\n"
        "expected: milk | 77aa::bob\nnull | 5d1c::alice\n"
        "got:      milk | 5d1c::alice\nnull | 5d1c::alice",
    ),
    "a row that is missing": (
        ("--> null | 5d1c::alice\n", ""),
        "page.md:40: alice: insert into todo (content)\nvalues ('milk'), (null) returning content, owner;\n"
        "expected: milk | 5d1c::alice\n"
        "got:      milk | 5d1c::alice\nnull | 5d1c::alice",
    ),
    "an error": (
        ("--> ERROR: permission denied for table todo", "--> UPDATE 2"),
        "page.md:44: alice: update todo set owner = 'bob';\n"
        "expected: UPDATE 2\ngot:      ERROR: permission denied for table todo",
    ),
    "a count": (
        ("--> DELETE 2", "--> DELETE 1"),
        "page.md:47: alice: delete from todo;\nexpected: DELETE 1\ngot:      DELETE 2",
    ),
    "no rows": (
        ("--> no rows", "--> 1"),
        "page.md:50: nobody: select * from todo;\nexpected: 1\ngot:      no rows",
    ),
    "a statement of the SQL": (
        ('grant delete on "public"."todo"', 'grant truncate on "public"."todo"'),
        'page.md:29: this is not in the plan\'s SQL:\ngrant truncate on "public"."todo" to "app_user";',
    ),
    "a part of a statement of the SQL": (
        ('alter table "public"."todo" add column "owner" text;', 'add column "owner" text;'),
        'page.md:28: this is not in the plan\'s SQL:\nadd column "owner" text;',
    ),
    "a line of the plan": (
        ("  grant insert (content, id) to", "  grant insert (content) to"),
        "page.md:33: $: rlskit plan | grep insert\n"
        "expected:   create policy rlskit_insert for insert to app_user  [ACCESS EXCLUSIVE]\n"
        "  grant insert (content) to app_user  [ACCESS SHARE]\n"
        "got:        create policy rlskit_insert for insert to app_user  [ACCESS EXCLUSIVE]\n"
        "  grant insert (content, id) to app_user  [ACCESS SHARE]",
    ),
    "a line of the plan that the page does not show": (
        (
            "  create policy rlskit_insert for insert to app_user  [ACCESS EXCLUSIVE]\n"
            "  grant insert (content, id) to app_user  [ACCESS SHARE]\n",
            "",
        ),
        "page.md:33: $: rlskit plan | grep insert\n"
        "expected: no output\n"
        "got:        create policy rlskit_insert for insert to app_user  [ACCESS EXCLUSIVE]\n"
        "  grant insert (content, id) to app_user  [ACCESS SHARE]",
    ),
    "the rule file": (
        ('columns.owner = [{ to = ["read", "delete"] }]', "columns.owner = []"),
        "page.md:21: this rule file is not the last `rules`",
    ),
    "what is raised": (
        ("#> RuleError: `get` alone", "#> RuleError: `list` alone"),
        'page.md:55: python: TableRules("todo", allow.owner().to("get"))\n'
        "expected: RuleError: `list` alone cannot be told apart by PostgreSQL\n"
        "hint: `read` covers get, list, sync, listen and search\n"
        "got:      RuleError: `get` alone cannot be told apart by PostgreSQL\n"
        "hint: `read` covers get, list, sync, listen and search",
    ),
    "that something is raised": (
        ('allow.owner().to("get"))', 'allow.owner().to("read"))'),
        'page.md:55: python: TableRules("todo", allow.owner().to("read"))\n'
        "expected: RuleError: `get` alone cannot be told apart by PostgreSQL\n"
        "hint: `read` covers get, list, sync, listen and search\n"
        "got:      nothing",
    ),
    "the owner of the tables is refused": (
        ("-- nobody\nselect * from todo;\n--> no rows", "-- table owner\nselect * from todo;\n--> 1"),
        "page.md:50: table owner: select * from todo;\nexpected: 1\ngot:      no rows",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_page_that_is_wrong_fails_and_shows_the_place(what: str, database: Database) -> None:
    (old, new), message = WRONG[what]
    with pytest.raises(AssertionError) as caught:
        Performance(tiny(old, new), database).run()

    assert str(caught.value) == message


def test_every_wrong_answer_is_shown(database: Database) -> None:
    text = TINY.replace("--> DELETE 2", "--> DELETE 3").replace("--> no rows", "--> 1")
    with pytest.raises(AssertionError) as caught:
        Performance(*read_page("page.md", text), database).run()

    assert re.findall(r"^page\.md:\d+", str(caught.value), re.MULTILINE) == ["page.md:47", "page.md:50"]


def test_a_statement_of_the_owner_that_fails_is_not_passed_over(database: Database) -> None:
    with pytest.raises(psycopg.errors.UndefinedObject):
        Performance(tiny("id serial primary key", "id cereal primary key"), database).run()


def test_a_declaration_that_is_refused_by_surprise_is_not_passed_over(database: Database) -> None:
    with pytest.raises(RlskitError, match="is no operation"):
        Performance(tiny('allow.same().to("read", "delete")', 'allow.same().to("read", "select")'), database).run()


MALFORMED = {
    "no answer": ("--> no rows\n", "", "page.md:51: a statement of nobody has no answer"),
    "an answer to nothing": ("-- nobody\n", "-- nobody\n--> 1\n", "page.md:50: an answer to no statement"),
    "no semicolon": ("select * from todo;\n--> no rows\n", "select * from todo\n", "page.md:50: a statement without an end"),
    "an unknown fence": ("```toml", "```yaml", "page.md:20: a fence of `yaml` is none that is executed or checked"),
    "an empty fence": ("## An example\n", "## An example\n```sql\n```\n", "page.md:11: an empty fence"),
    "an open fence": ("and search\n```\n", "and search\n", "page.md:55: a fence without an end"),
}  # fmt: skip


@pytest.mark.parametrize("what", MALFORMED)
def test_a_page_that_cannot_be_read_is_refused(what: str) -> None:
    old, new, message = MALFORMED[what]
    with pytest.raises(PageError) as caught:
        tiny(old, new)

    assert str(caught.value) == message


UNCLEAR = {
    "an unknown person": ("-- nobody\n", "-- mallory\n", "page.md:50: nobody is named `mallory` on this page"),
    "another command": (
        "$ rlskit plan | grep insert",
        "$ rlskit sql",
        "page.md:33: only `$ rlskit plan` and `$ rlskit plan | grep WORD` are checked",
    ),
}


@pytest.mark.parametrize("what", UNCLEAR)
def test_a_page_that_cannot_be_performed_is_refused(what: str, database: Database) -> None:
    old, new, message = UNCLEAR[what]
    with pytest.raises(PageError) as caught:
        Performance(tiny(old, new), database).run()

    assert str(caught.value) == message


EARLY = {
    "toml": ('role = "app_user"', "page.md:12: this rule file is not the last `rules`"),
    "sql": ("-- alice\nselect 1;\n--> 1", "page.md:13: alice asks before there are rules"),
    "console": ("$ rlskit plan", "page.md:12: there are no rules yet, so there is no plan"),
}


@pytest.mark.parametrize("fence", EARLY)
def test_what_needs_rules_is_refused_before_there_are_any(fence: str, database: Database) -> None:
    lines, message = EARLY[fence]
    head = TINY.partition("## An example")[0]
    (example,) = read_page("page.md", f"{head}## Too early\n\n```{fence}\n{lines}\n```\n")
    with pytest.raises((PageError, AssertionError)) as caught:
        Performance(example, database).run()

    assert str(caught.value) == message
