"""The same through the application, with its own routes and its own pool."""

from __future__ import annotations

import pytest

from rlskit.testing import assert_no_leak_async

pytestmark = pytest.mark.anyio


async def test_bob_is_told_nothing_of_alices_todo(browser, rlskit_db):
    made = (await browser("alice").post("/todos", json={"content": "milk"})).json()
    path = f"/todos/{made['id']}"

    assert (await browser("alice").get(path)).json() == made
    assert (await browser("bob").get("/todos")).json() == []
    assert (await browser("bob").get(path)).status_code == 404
    assert (await browser("bob").delete(path)).status_code == 404
    assert [each["content"] for each in rlskit_db.stored("todo")] == ["milk"]


async def test_an_editor_who_asks_for_more_than_the_entries_is_refused(browser):
    made = (await browser("alice").post("/checklists", json={"title": "party"})).json()
    path = f"/checklists/{made['id']}"
    await browser("alice").put(f"{path}/editors/bob-sub")

    assert (await browser("bob").patch(path, json={"entries": ["cake"]})).json()["entries"] == ["cake"]
    assert (await browser("bob").patch(path, json={"title": "his party"})).status_code == 403
    assert (await browser("bob").put(f"{path}/editors/carol-sub")).status_code == 403
    assert (await browser("bob").delete(f"{path}/editors/bob-sub")).status_code == 403
    assert (
        await browser("bob").delete(path)
    ).status_code == 404  # may be read, and so this is no refusal: no row is touched


async def test_nobody_finds_on_a_connection_what_the_one_before_left(app):
    await assert_no_leak_async(app.state.pool)
