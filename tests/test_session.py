import copy
import json
import pickle
from collections import OrderedDict
from types import MappingProxyType
from typing import Any
from unittest.mock import AsyncMock

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from server_session import SerializationError, SessionNotLoadedError
from server_session._codec import decode_fields, encode_fields
from server_session.kernel.mapping import Changes, Session
from server_session.kernel.unloaded import LazySession, UnloadedSession


def session_of(**data: Any) -> Session:
    return Session(encode_fields(data))


def changes_of(session: Session) -> tuple[dict[str, Any], set[str], bool]:
    changes = session.changes()
    if changes is None:
        return {}, set(), False
    return decode_fields(changes.changed), set(changes.removed), changes.cleared


def delete(session: Session, key: str) -> None:
    del session[key]


def merge_in_place(session: Session, other: Any) -> None:
    session |= other


WRITES = [
    ("session[…] =", lambda s: s.__setitem__("a", 2), {"a": 2}, set()),
    ("a new key", lambda s: s.__setitem__("c", 3), {"c": 3}, set()),
    ("del", lambda s: delete(s, "a"), {}, {"a"}),
    ("pop", lambda s: s.pop("a"), {}, {"a"}),
    ("pop of an absent key", lambda s: s.pop("absent", None), {}, set()),
    ("popitem", lambda s: s.popitem(), {}, {"nested"}),
    ("setdefault of an absent key", lambda s: s.setdefault("c", [1]), {"c": [1]}, set()),
    ("setdefault of a key that is there", lambda s: s.setdefault("a", 9), {}, set()),
    ("update with a dict", lambda s: s.update({"a": 2, "c": 3}), {"a": 2, "c": 3}, set()),
    ("update with pairs", lambda s: s.update([("a", 2)]), {"a": 2}, set()),
    ("update with keywords", lambda s: s.update(a=2), {"a": 2}, set()),
    ("|=", lambda s: merge_in_place(s, {"a": 2}), {"a": 2}, set()),
    ("|= with pairs", lambda s: merge_in_place(s, [("a", 2)]), {"a": 2}, set()),
    ("a change inside a list", lambda s: s["nested"]["list"].append(2), {"nested": {"list": [1, 2]}}, set()),
    ("a change inside by get", lambda s: s.get("nested").update(x=1), {"nested": {"list": [1], "x": 1}}, set()),
    ("a change inside by values", lambda s: list(s.values())[2].clear(), {"nested": {}}, set()),
    ("a change inside by items", lambda s: dict(s.items())["nested"].clear(), {"nested": {}}, set()),
    ("a change inside by setdefault", lambda s: s.setdefault("nested", {}).clear(), {"nested": {}}, set()),
    ("the same value again", lambda s: s.__setitem__("a", 1), {}, set()),
    ("a key removed and set again as it was", lambda s: (s.pop("a"), s.__setitem__("a", 1)), {}, set()),
    ("a key set and removed", lambda s: (s.__setitem__("c", 1), s.pop("c")), {}, set()),
    ("another type that is equal", lambda s: s.__setitem__("a", True), {"a": True}, set()),
]


@pytest.mark.parametrize("write,changed,removed", [w[1:] for w in WRITES], ids=[w[0] for w in WRITES])
def test_every_kind_of_write_is_recorded_and_only_what_it_changed(write, changed, removed):
    session = session_of(a=1, b=2, nested={"list": [1]})
    write(session)
    assert changes_of(session) == (changed, removed, False)
    assert session.modified == bool(changed or removed)
    if (changes := session.changes()) is not None:
        session.settle(changes)
    assert session.changes() is None


@pytest.mark.parametrize("text", [b" [1]", b"\n\t[ 1 ]", b"\r[1]"])
def test_a_change_inside_a_list_is_seen_whatever_white_space_another_writer_put_before_it(text):
    session = Session({"cart": text})
    session["cart"].append(2)
    assert session.may_differ
    assert changes_of(session) == ({"cart": [1, 2]}, set(), False)
    unchanged = Session({"cart": text})
    unchanged["cart"].clear()
    unchanged["cart"].append(1)
    assert unchanged.changes() is None


def test_popitem_of_a_session_that_loads_when_it_is_touched_takes_the_last_key_as_a_dict_does():
    session = LazySession(lambda: session_of(a=1, b=2))
    assert session.popitem() == ("b", 2)
    assert session.popitem() == ("a", 1)
    with pytest.raises(KeyError):
        session.popitem()


def test_what_takes_out_returns_what_it_took_out_as_a_dict_s_does():
    session = session_of(a=1, b=2)
    assert session.pop("a") == 1
    assert session.pop("a", 3) == 3
    with pytest.raises(KeyError):
        session.pop("a")
    assert session.popitem() == ("b", 2)


def test_clear_means_every_field_seen_or_not():
    session = session_of(a=1, b=2)
    session.clear()
    assert changes_of(session) == ({}, set(), True)
    session["c"] = 3
    assert changes_of(session) == ({"c": 3}, set(), True)


def test_a_session_that_nobody_touched_is_not_even_compared(monkeypatch):
    session = session_of(a=1, nested=[1])
    monkeypatch.setattr("server_session.kernel.mapping.encode_fields", None)
    assert session.changes() is None


def test_a_value_of_a_type_that_cannot_be_stored_is_named():
    session = session_of(a=1)
    session["when"] = {"deep": [object()]}
    with pytest.raises(SerializationError, match="'when'") as caught:
        session.changes()
    assert caught.value.key == "when"


READS = [
    ("session[…]", lambda s: s["a"]),
    ("get", lambda s: s.get("a")),
    ("in", lambda s: "a" in s),
    ("not in", lambda s: "x" not in s),
    ("len", len),
    ("bool", bool),
    ("iteration", list),
    ("reversed", lambda s: list(reversed(s))),
    ("keys", lambda s: s.keys()),
    ("values", lambda s: s.values()),
    ("items", lambda s: s.items()),
    ("copy", lambda s: s.copy()),
    ("copy.copy", copy.copy),
    ("deepcopy", copy.deepcopy),
    ("==", lambda s: s == {}),
    ("!=", lambda s: s != {}),
    ("|", lambda s: s | {}),
    ("| from the left", lambda s: {} | s),
    ("repr", repr),
    ("dict()", dict),
    ("{**}", lambda s: {**s}),
    ("json.dumps", json.dumps),
    ("pickle", pickle.dumps),
    ("mark_accessed", lambda s: s.mark_accessed()),
]


@pytest.mark.parametrize("read", [r[1] for r in READS], ids=[r[0] for r in READS])
def test_every_kind_of_read_makes_the_response_vary_and_changes_nothing(read):
    session = session_of(a=1, nested=[1])
    assert session.accessed is False
    read(session)
    assert session.accessed is True
    assert session.changes() is None


def test_what_looks_past_a_dict_s_methods_sees_the_data():
    data = {"a": 1, "b": [1, {"c": None}], "ü": "…"}
    session = Session(encode_fields(data))
    assert json.loads(json.dumps(session)) == data
    assert json.loads(json.dumps({"in": session}, indent=1)) == {"in": data}
    assert orjson.loads(orjson.dumps(session)) == data
    assert dict(session) == data
    assert {**session} == data
    assert session.copy() == data
    assert type(session.copy()) is dict
    assert session == data
    assert data == session
    assert OrderedDict(session) == data
    assert dict(MappingProxyType(session)) == data
    assert pickle.loads(pickle.dumps(session)) == data  # noqa: S301 - its own
    assert session | {"a": 2} == data | {"a": 2}
    assert {"a": 2} | session == {"a": 2} | data
    assert {"z": 2} | session == {"z": 2} | data
    assert isinstance(session, dict)
    match session:
        case {"a": found}:
            assert found == 1
        case _:
            pytest.fail("a pattern did not match")


@pytest.mark.parametrize("session", [Session(), LazySession(Session), UnloadedSession(AsyncMock())], ids=type)
def test_an_attribute_of_another_library_s_session_is_refused_and_not_lost_in_silence(session: Any):
    with pytest.raises(AttributeError):
        session.max_age = 60


def test_a_deep_copy_shares_nothing_with_the_session():
    session = session_of(nested=[1])
    copied = copy.deepcopy(session)
    copied["nested"].append(2)
    assert session["nested"] == [1]
    assert type(copied) is dict


def test_what_is_absorbed_lies_beneath_what_is_not_yet_stored():
    session = session_of(a=1, b=1, c=1, d=[1], e=[1])
    kept = session["e"]
    session["a"] = "mine"
    del session["b"]
    session["d"].append("mine")
    session.absorb(encode_fields({"a": 2, "b": 2, "c": 2, "d": [2], "e": [1], "f": 2}))
    assert session == {"a": "mine", "c": 2, "d": [1, "mine"], "e": [1], "f": 2}
    assert session["e"] is kept
    assert changes_of(session) == ({"a": "mine", "d": [1, "mine"]}, {"b"}, False)


def test_what_was_removed_elsewhere_goes_unless_it_was_changed_here():
    session = session_of(a=1, b=1, c=[1])
    session["b"] = 2
    session["c"].append(2)
    session.absorb({})
    assert session == {"b": 2, "c": [1, 2]}
    assert changes_of(session) == ({"b": 2, "c": [1, 2]}, set(), False)


@pytest.mark.parametrize("theirs", [None, 1, "text", [3], {"x": 1}])
def test_a_change_inside_a_value_outlasts_whatever_was_written_in_its_place_meanwhile(theirs):
    session = session_of(user={"id": 1}, a=1)
    session["user"]["seen"] = 2
    session.absorb(encode_fields({"user": theirs, "a": 2}))
    assert session == {"user": {"id": 1, "seen": 2}, "a": 2}
    changes = session.changes()
    assert changes is not None
    assert decode_fields(changes.changed) == {"user": {"id": 1, "seen": 2}}
    assert changes.assigned == set()


def test_what_a_function_stored_supersedes_what_was_not_yet_stored():
    session = session_of(a=1, b=1)
    session["a"] = 2
    del session["b"]
    session.accept(encode_fields({"a": 3, "b": 3}))
    assert session == {"a": 3, "b": 3}
    assert session.changes() is None


def test_what_a_function_stored_supersedes_what_could_not_be_stored():
    session = session_of(a=1)
    session["a"] = object()
    session.accept(encode_fields({"a": 2}))
    assert session == {"a": 2}
    assert session.changes() is None


def test_a_new_start_leaves_in_place_what_it_holds_already():
    session = session_of(cart=[1], note="old", gone=[2])
    kept = session["cart"]
    session["note"] = "mine"
    session["fresh"] = 1
    session.restart(encode_fields({"cart": [1], "note": "new"}))
    assert session == {"cart": [1], "note": "new"}
    assert session["cart"] is kept
    assert session.changes() is None
    kept.append(2)
    assert changes_of(session) == ({"cart": [1, 2]}, set(), False)


@pytest.mark.parametrize("is_cleared", [False, True])
def test_what_was_under_way_when_the_session_was_replaced_is_of_no_matter_to_the_new_one(is_cleared):
    session = session_of(a=1)
    if is_cleared:
        session.clear()
    session["cart"] = session.setdefault("list", [1])
    changes = session.changes()
    assert changes is not None
    session.restart(encode_fields({"b": 2}))
    session["c"] = 3
    session.settle(changes)
    assert session == {"b": 2, "c": 3}
    assert changes_of(session) == ({"c": 3}, set(), False)


def test_what_settles_for_a_session_that_was_replaced_is_not_taken_for_stored_in_the_new_one():
    session = session_of()
    session["a"] = 1
    changes = session.changes()
    assert changes is not None
    session.restart({})
    session.settle(changes)
    session["a"] = 1
    assert changes_of(session) == ({"a": 1}, set(), False)


def test_what_a_clear_took_away_is_stored_when_it_comes_again():
    session = session_of(a=1)
    session.clear()
    session["b"] = 2
    changes = session.changes()
    assert changes is not None
    session.settle(changes)
    session["a"] = 1
    assert changes_of(session) == ({"a": 1}, set(), False)


def test_a_value_that_was_assigned_as_it_is_stored_already_may_change_inside():
    session, cart = session_of(cart=[1]), [1]
    session["cart"] = cart
    assert session.changes() is None
    cart.append(2)
    assert changes_of(session) == ({"cart": [1, 2]}, set(), False)


def test_a_value_that_was_stored_while_another_was_written_may_change_inside():
    session = session_of()
    session["user"] = {"id": 1}
    changes = session.changes()
    assert changes is not None
    session["b"] = 2
    session.settle(changes)
    session["user"]["seen"] = True
    changes = session.changes()
    assert changes is not None
    assert changes.changed.keys() == {"user", "b"}
    assert changes.assigned == {"b"}


def test_a_clear_is_stored_once_whatever_is_written_meanwhile():
    session = session_of(a=1)
    session.clear()
    session["b"] = 1
    changes = session.changes()
    assert changes is not None
    session["c"] = 1
    session.settle(changes)
    assert changes_of(session) == ({"c": 1}, set(), False)


def test_a_value_that_a_function_has_stored_as_it_was_assigned_may_change_inside():
    session, cart = session_of(), [1]
    session["cart"] = cart
    session.accept(encode_fields({"cart": [1]}))
    assert session.changes() is None
    cart.append(2)
    assert changes_of(session) == ({"cart": [1, 2]}, set(), False)


def test_nothing_that_the_store_has_comes_back_into_a_mapping_that_was_cleared():
    session = session_of(a=1)
    session.clear()
    session["b"] = 1
    assert session.absorb(encode_fields({"a": 1, "c": 1})) == encode_fields({"b": 1})
    assert session == {"b": 1}


def test_what_was_brought_in_is_no_change_and_may_change_inside():
    session = session_of(a=[1])
    assert session["a"] == [1]
    session.absorb(encode_fields({"a": [2], "b": [1]}))
    assert session.changes() is None
    session["b"].append(2)
    assert changes_of(session) == ({"b": [1, 2]}, set(), False)


def test_a_session_becomes_what_another_mapping_holds_and_nothing_else():
    session = session_of(a=1, b=2)
    session.become({"b": 3, "c": 4})
    assert changes_of(session) == ({"b": 3, "c": 4}, {"a"}, False)
    session.become(None)
    assert changes_of(session) == ({}, set(), True)


async def test_a_session_of_no_request_is_not_alive_and_has_nowhere_to_be_saved():
    assert await session_of(a=1).is_alive() is False
    with pytest.raises(SessionNotLoadedError, match="belongs to no request"):
        await session_of(a=1).save()


def test_what_a_function_took_out_while_a_commit_wrote_it_is_not_in_the_mapping():
    session = session_of(a=1)
    session["list"] = session.setdefault("list", [1])
    changes = session.changes()
    assert changes is not None
    session.accept({}, {"list"})
    session.settle(changes)
    assert session == {"a": 1}
    assert session.changes() is None


WHILE_STORED = [
    ("set again", lambda s: s.__setitem__("b", 3), {"a": 1, "b": 3}),
    ("removed", lambda s: delete(s, "b"), {"a": 1}),
    ("removed and set", lambda s: (delete(s, "b"), s.__setitem__("b", 3)), {"a": 1, "b": 3}),
    ("cleared", lambda s: s.clear(), {}),
    ("cleared and set", lambda s: (s.clear(), s.__setitem__("c", 3)), {"c": 3}),
]


@pytest.mark.parametrize("is_cleared", [False, True])
@pytest.mark.parametrize("write,left", [w[1:] for w in WHILE_STORED], ids=[w[0] for w in WHILE_STORED])
def test_what_is_written_while_the_store_is_at_work_is_stored_next(write, left, is_cleared):
    session = session_of(a=1)
    if is_cleared:
        session.clear()
        session["a"] = 1
    session["b"] = 2
    stored = encode_fields({"a": 1})
    for step in (write, len):
        changes = session.changes()
        assert changes is not None
        step(session)
        if changes.cleared:
            stored.clear()
        stored.update(changes.changed)
        for name in changes.removed:
            del stored[name]
        session.settle(changes)
    assert decode_fields(stored) == session == left
    assert session.changes() is None


def test_another_writer_s_spelling_of_the_same_value_is_no_change():
    session = Session({"a": b'{ "x" : [ 1 , 2 ] }', "b": b"1e0"})
    assert session["a"] == {"x": [1, 2]}
    assert session.changes() is None
    session["a"]["x"].append(3)
    assert changes_of(session) == ({"a": {"x": [1, 2, 3]}}, set(), False)


KEYS = st.sampled_from(["a", "b", "c", "d"])
VALUES = st.one_of(st.integers(-3, 3), st.lists(st.integers(0, 2), max_size=2), st.none())
KINDS = [
    "set",
    "del",
    "append",
    "clear",
    "popitem",
    "begin",
    "settle",
    "get",
    "function",
    "replace",
    "elsewhere",
    "gone",
]
STEPS = st.lists(st.tuples(st.sampled_from(KINDS), KEYS, VALUES), max_size=12)


def apply(changes: Changes, stored: dict[str, bytes]) -> None:
    if changes.cleared:
        stored.clear()
    stored.update(changes.changed)
    for name in changes.removed:
        stored.pop(name, None)


@given(st.dictionaries(KEYS, VALUES, max_size=4), STEPS)
@example({"a": [1]}, [("append", "a", None), ("elsewhere", "a", None), ("get", "a", None)])
@example({"a": [1]}, [("append", "a", None), ("gone", "a", None), ("get", "a", None)])
def test_what_is_stored_after_any_steps_is_what_the_mapping_shows(start, steps):
    stored = encode_fields(start)
    session = Session(stored)
    under_way: Changes | None = None

    # No function writes while a commit is under way: which of the two the store takes first nobody knows.
    for kind, key, value in steps:
        if kind == "set":
            session[key] = value
        elif kind == "del":
            session.pop(key, None)
        elif kind == "append" and isinstance(session.get(key), list):
            session[key].append(0)
        elif kind == "clear" and under_way is None:
            session.clear()
        elif kind == "popitem" and session:
            session.popitem()
        elif kind == "begin" and under_way is None and (under_way := session.changes()) is not None:
            apply(under_way, stored)
        elif kind == "settle" and under_way is not None:
            session.settle(under_way)
            under_way = None
        elif kind == "get":
            assert decode_fields(session.absorb(stored)) == session.plain()
        elif kind == "function" and under_way is None:
            stored.update(encode_fields({key: value}))
            session.accept(encode_fields({key: value}))
        elif kind == "replace" and under_way is None:
            stored = encode_fields({key: value})
            session.restart(stored)
        elif kind == "elsewhere":
            stored.update(encode_fields({key: value}))
        elif kind == "gone":
            stored.pop(key, None)
    if under_way is not None:
        session.settle(under_way)
    if (changes := session.changes()) is not None:
        apply(changes, stored)
        session.settle(changes)
    assert session.changes() is None
    session.absorb(stored)
    assert decode_fields(stored) == session


# A copy of what is not loaded is not loaded either.
NOT_OF_THE_DATA = ("repr", "mark_accessed", "pickle", "copy.copy", "deepcopy")


@pytest.mark.parametrize("read", [r[1] for r in READS if r[0] not in NOT_OF_THE_DATA])
def test_a_session_that_was_not_loaded_is_an_error_and_never_looks_empty(read):
    async def load() -> Session:
        raise AssertionError

    unloaded: Any = UnloadedSession(load)
    with pytest.raises((SessionNotLoadedError, TypeError)):
        read(unloaded)
    with pytest.raises(SessionNotLoadedError, match="load"):
        unloaded["a"] = 1
    with pytest.raises(TypeError):
        orjson.dumps(unloaded)
    assert not isinstance(unloaded, dict)


@pytest.mark.parametrize(
    "touch",
    [
        *(lambda s: s["a"], lambda s: "a" in s, lambda s: s.get("a"), lambda s: s.update(a=1), lambda s: s.pop("a")),
        *(list, len, bool, lambda s: s == {}, lambda s: s != {}, lambda s: list(reversed(s)), lambda s: s | {}),
        *(lambda s: merge_in_place(s, {"a": 1}), lambda s: s.__delitem__("a"), lambda s: s.__setitem__("a", 1)),
    ],
)
def test_a_session_that_was_not_loaded_says_how_to_load_it_whatever_is_done_to_it(touch):
    with pytest.raises(SessionNotLoadedError, match=r"session = await request\.session\.load\(\)"):
        touch(UnloadedSession(AsyncMock()))


def test_a_session_that_was_not_loaded_has_no_attributes_that_a_dict_has_not():
    assert not hasattr(UnloadedSession(AsyncMock()), "max_age")


@pytest.mark.parametrize("copied", [copy.copy, lambda s: s.copy()])
def test_a_copy_of_a_session_that_loads_when_it_is_touched_is_a_plain_dict(copied):
    session = LazySession(lambda: session_of(a=1))
    plain = copied(session)
    assert type(plain) is dict
    assert plain == {"a": 1}


@pytest.mark.parametrize("session", [session_of(a=1), LazySession(lambda: session_of(a=1))], ids=type)
def test_a_session_takes_in_others_and_stays_itself(session):
    merged = session
    merged |= {"b": 2}
    assert merged is session
    assert session == {"a": 1, "b": 2}


def test_to_call_a_session_modified_is_to_look_at_it():
    session = LazySession(lambda: session_of(a=1))
    assert not session.accessed
    session.modified = True
    assert session.accessed
    assert not session.modified


TRACKED = [
    ("[…]", lambda d: d["a"], {"a"}, False),
    ("get", lambda d: d.get("x"), {"x"}, False),
    ("in", lambda d: "x" in d, {"x"}, False),
    ("setdefault", lambda d: d.setdefault("x", 1), {"x"}, False),
    ("pop", lambda d: d.pop("a"), {"a"}, False),
    ("del", lambda d: d.__delitem__("a"), {"a"}, False),
    ("a write alone", lambda d: d.__setitem__("a", 2), set(), False),
    ("update alone", lambda d: d.update(a=2), set(), False),
    ("iteration", list, set(), True),
    ("len", len, set(), True),
    ("items", lambda d: d.items(), set(), True),
    ("values", lambda d: d.values(), set(), True),
    ("keys", lambda d: d.keys(), set(), True),
    ("{**}", lambda d: {**d}, {"a", "b"}, True),
    ("json.dumps", json.dumps, set(), True),
    ("==", lambda d: d == {}, set(), True),
    ("|", lambda d: d | {}, set(), True),
    ("copy", copy.copy, set(), True),
    ("deepcopy", copy.deepcopy, set(), True),
    ("popitem", lambda d: d.popitem(), {"b"}, True),
    ("clear", lambda d: d.clear(), set(), True),
    ("repr", repr, set(), True),
]


@pytest.mark.parametrize("step,read,read_all", [t[1:] for t in TRACKED], ids=[t[0] for t in TRACKED])
def test_an_update_knows_what_its_result_depends_on(step, read, read_all):
    data = session_of(a=1, b=2)
    step(data)
    assert data.read == read
    assert data.read_names is read_all
