"""What goes in comes out equal and of the same type, or is refused with its place."""

import collections
import dataclasses
import enum
import io
import struct
import sys
import traceback
import zoneinfo
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Context, Decimal, localcontext
from typing import Any, NamedTuple, NotRequired, TypedDict
from uuid import UUID

import attrs
import msgspec
import pydantic
import pytest
from django.utils.datastructures import MultiValueDict
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markupsafe import Markup
from werkzeug.datastructures import MultiDict

from server_session._codec import (
    MAX_DEPTH,
    decode_fields,
    decode_value,
    encode_fields,
    encode_value,
)
from server_session._convert import convert
from server_session.exceptions import DataTypeError, RecordError, SerializationError

PARIS = zoneinfo.ZoneInfo("Europe/Paris")


def identity(value: Any) -> Any:
    """Return a form that is equal only for values of the same type all through, in the same order of keys."""
    kind = type(value)
    if kind is dict:
        return kind, [(identity(key), identity(item)) for key, item in value.items()]
    if kind is list or kind is tuple:
        return kind, [identity(item) for item in value]
    if kind is set:
        return kind, sorted(repr(identity(item)) for item in value)
    if kind is datetime or kind is time:
        zone = value.tzinfo
        return kind, value.replace(tzinfo=None), value.fold, type(zone), str(zone)
    # repr tells -0.0 from 0.0 and Decimal("1.0") from Decimal("1.00").
    return kind, value if kind is int else repr(value)


def nested(depth: int, wrap: Callable[[Any], Any]) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = wrap(value)
    return value


texts = st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(["$", "$dict", "$uuid", "", "\x00", '"$'])
offsets = st.integers(-86399, 86399).map(lambda seconds: timedelta(seconds=seconds))
zones: st.SearchStrategy[tzinfo | None] = (
    st.none()
    | st.just(UTC)
    | offsets.map(timezone)
    | st.sampled_from(["Europe/Paris", "America/St_Johns", "Australia/Lord_Howe", "UTC"]).map(zoneinfo.ZoneInfo)
)
# Built by hand, for hypothesis sets the fold only where it matters.
moments = st.builds(
    lambda moment, zone, fold: moment.replace(tzinfo=zone, fold=fold), st.datetimes(), zones, st.sampled_from([0, 1])
)
clocks = st.builds(
    lambda clock, zone, fold: clock.replace(tzinfo=zone, fold=fold), st.times(), zones, st.sampled_from([0, 1])
)
scalars: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    texts,
    st.dates(),
    moments,
    clocks,
    st.timedeltas(),
    st.uuids(),
    st.decimals(allow_nan=False, allow_infinity=False),
    st.binary(),
    texts.map(Markup),
)
hashables = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=5)
values = st.recursive(
    scalars | st.sets(hashables, max_size=4),
    lambda inner: (
        st.lists(inner, max_size=4) | st.lists(inner, max_size=4).map(tuple) | st.dictionaries(texts, inner, max_size=4)
    ),
    max_leaves=20,
)


@settings(deadline=None)
@given(values)
@example({"$dict": {"$dict": {"$uuid": "x"}}})
@example({"$uuid": "x", "b": 1})
@example([{"$markup": "<script>"}, Markup("<script>")])
@example(datetime(2026, 10, 25, 2, 30, tzinfo=PARIS, fold=1))
@example(Decimal("-0E+999999999999999999"))
@example([2**63 - 1, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1])
@example(timedelta.min)
@example(timedelta.max)
def test_what_goes_in_comes_out_equal_and_of_the_same_type(value: Any) -> None:
    text = encode_value("key", value)
    back = decode_value("key", text)
    assert back == value or isinstance(value, list | dict | tuple)  # containers by their parts, below
    assert identity(back) == identity(value)
    assert decode_fields({"a": b"1", "key": text, "b": b"[2]"}) == {"a": 1, "key": back, "b": [2]}
    assert encode_value("key", back) == text, "what was not changed must not look changed"
    msgspec.json.decode(text)


def test_an_int_beyond_pythons_own_limit_of_digits_comes_back() -> None:
    value = -(10 ** (sys.int_info.default_max_str_digits + 1))
    assert decode_value("key", encode_value("key", value)) == value


def test_a_record_is_readable_json() -> None:
    fields = encode_fields(
        {
            "user": {"name": "Zoë", "admin": False, "since": date(2026, 3, 1)},
            "id": UUID(int=1),
            "price": Decimal("1.10"),
            "seen": datetime(2026, 3, 1, 12, tzinfo=UTC),
            "opens": datetime(2026, 10, 25, 2, 30, tzinfo=PARIS, fold=1),
            "every": timedelta(hours=-1),
            "pair": (1, "a"),
            "tags": {"b", "a"},
            "raw": b"\xff",
            "said": Markup("<b>"),
            "large": 2**64,
            "query": {"$set": 1},
        }
    )
    assert list(fields.values()) == [
        '{"name":"Zoë","admin":false,"since":{"$date":"2026-03-01"}}'.encode(),
        b'{"$uuid":"00000000-0000-0000-0000-000000000001"}',
        b'{"$decimal":"1.10"}',
        b'{"$datetime":"2026-03-01T12:00:00+00:00"}',
        b'{"$datetime":"2026-10-25T02:30:00[Europe/Paris][fold=1]"}',
        b'{"$timedelta":"P-1DT82800.000000S"}',
        b'{"$tuple":[1,"a"]}',
        b'{"$set":["a","b"]}',
        b'{"$bytes":"/w=="}',
        b'{"$markup":"<b>"}',
        b'{"$int":"0x10000000000000000"}',
        b'{"$dict":{"$set":1}}',
    ]


def test_equal_sets_have_one_text_whatever_their_order() -> None:
    # 8 and 16 fall into one bucket of a small set, so the order of insertion shows.
    forward, backward = {8, 16, "a", (1, b"x")}, set[Any]()
    for item in reversed(list(forward)):
        backward.add(item)
    assert encode_value("key", {0, 8}) == encode_value("key", {8, 0})
    assert encode_value("key", forward) == encode_value("key", backward)


def test_the_order_of_keys_is_kept() -> None:
    data = {"b": {"z": 1, "a": (2,)}, "a": 1}
    back = decode_fields(encode_fields(data))
    assert list(back) == ["b", "a"]
    assert list(back["b"]) == ["z", "a"]


def test_encoding_changes_nothing_in_the_callers_data() -> None:
    inner = [1, (2,), {"$a": {3}}]
    data = {"key": inner, "when": {"at": date(2026, 1, 1), "b": 2}}
    encode_fields(data)
    assert data == {"key": [1, (2,), {"$a": {3}}], "when": {"at": date(2026, 1, 1), "b": 2}}
    assert data["key"] is inner


def test_the_current_decimal_context_has_no_say() -> None:
    with localcontext(Context(prec=3, capitals=0)):
        text = encode_value("key", Decimal("1.23456789E+50"))
        back = decode_value("key", text)
    assert text == b'{"$decimal":"1.23456789E+50"}'
    assert str(back) == "1.23456789E+50"


@pytest.mark.parametrize(
    "wrap", [lambda v: [v], lambda v: {"a": v}, lambda v: {"$": v}, lambda v: (v,)], ids=["list", "dict", "$", "tuple"]
)
def test_nesting_has_one_limit_on_the_way_in_and_out(wrap: Callable[[Any], Any]) -> None:
    text = encode_value("key", nested(MAX_DEPTH, wrap))
    assert identity(decode_value("key", text)) == identity(nested(MAX_DEPTH, wrap))
    for depth in (MAX_DEPTH + 1, 5000):
        with pytest.raises(SerializationError, match="nested deeper than 64 levels"):
            encode_value("key", nested(depth, wrap))


def cyclic_list() -> list[Any]:
    cycle: list[Any] = []
    cycle.extend([cycle, cycle])
    return cycle


def cyclic_dict() -> dict[str, Any]:
    cycle: dict[str, Any] = {"other": 1}
    cycle["self"] = (cycle,)
    return cycle


@pytest.mark.parametrize("make", [cyclic_list, cyclic_dict])
def test_a_container_that_contains_itself_is_refused(make: Callable[[], Any]) -> None:
    with pytest.raises(SerializationError, match="contains itself"):
        encode_value("key", make())


class Level(enum.IntEnum):
    HIGH = 1


class Shade(enum.StrEnum):
    RED = "red"


class Size(enum.Enum):
    LARGE = "large"


class Listing(list[Any]):
    pass


class Safer(Markup):
    __slots__ = ()


class Text(str):
    __slots__ = ()

    def __str__(self) -> str:
        return self


class Number(int):
    pass


class Real(float):
    pass


class Moment(datetime):
    pass


class Pair(NamedTuple):
    a: int
    b: int


@dataclasses.dataclass
class Item:
    sku: str
    count: int


class ItemStruct(msgspec.Struct):
    sku: str
    count: int


@attrs.define
class ItemAttrs:
    sku: str
    count: int = attrs.field(validator=attrs.validators.gt(0))


class ItemModel(pydantic.BaseModel):
    sku: str
    count: int


class Offset(tzinfo):
    def utcoffset(self, _: datetime | None) -> timedelta:
        return timedelta(hours=1)

    def dst(self, _: datetime | None) -> None:
        return None

    def tzname(self, _: datetime | None) -> str:
        return "Offset"


SUBCLASSES: list[tuple[Any, Any]] = [
    (Level.HIGH, 1),
    (Shade.RED, "red"),
    (Text("a"), "a"),
    (Safer("<b>"), "<b>"),
    (Number(2**70), 2**70),
    (Real(1.5), 1.5),
    (Pair(1, 2), (1, 2)),
    (collections.OrderedDict(a=Shade.RED), {"a": "red"}),
    (collections.Counter("a"), {"a": 1}),
    (collections.defaultdict(list, {"$set": [1]}), {"$set": [1]}),
    (Listing([Pair(1, 2)]), [(1, 2)]),
    ({"a": [Level.HIGH, (Shade.RED,)]}, {"a": [1, ("red",)]}),
]


def kinds_in(value: Any) -> Any:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return type(value), [kinds_in(part) for part in parts]


@pytest.mark.parametrize("value, plain", SUBCLASSES, ids=lambda value: type(value).__name__)
def test_what_is_of_a_subclass_of_json_s_types_comes_out_equal_and_as_that_type(value: Any, plain: Any) -> None:
    (out,) = decode_fields(encode_fields({"a": value})).values()
    assert out == plain == value
    assert kinds_in(out) == kinds_in(plain)
    assert encode_value("a", value) == encode_value("a", plain)


def test_a_subclass_s_content_is_stored_and_not_what_it_shows() -> None:
    class Shy(dict[str, Any]):
        def items(self) -> Any:
            return {}.items()

        def __iter__(self) -> Any:
            return iter(())

    assert decode_value("a", encode_value("a", Shy(a=1))) == {"a": 1}


@pytest.mark.parametrize("form", [MultiValueDict({"a": ["1", "2"]}), MultiDict([("a", "2"), ("a", "1")])])
def test_a_form_s_fields_come_out_as_they_are_asked_for(form: dict[str, Any]) -> None:
    assert decode_value("post", encode_value("post", [form])) == [{"a": form["a"]}] == [{"a": "2"}]


MENDABLE: list[Any] = [
    Size.LARGE,
    Moment(2026, 1, 1, tzinfo=UTC),
    Item("a", 1),
    ItemStruct("a", 1),
    ItemAttrs("a", 1),
    ItemModel(sku="a", count=1),
    collections.ChainMap({"a": 1}),
    collections.deque([1]),
    frozenset({1}),
    bytearray(b"a"),
    memoryview(b"a"),
    {"a": 1}.keys(),
    range(3),
    iter([1]),
]


@pytest.mark.parametrize("value", MENDABLE, ids=lambda value: type(value).__name__)
def test_a_value_of_another_class_is_refused_with_a_mend_that_works(value: Any) -> None:
    with pytest.raises(SerializationError) as caught:
        encode_fields({"cart": {"items": [1, 2, {"when": value}]}})
    error = caught.value
    assert (error.key, error.where) == ("cart", "['items'][2]['when']")
    assert str(error).startswith("session key 'cart' at ['items'][2]['when']: a value of type ")
    assert type(value).__qualname__ in error.reason
    mend = error.reason.partition("; store ")[2].removesuffix(" instead")
    names = {"dataclasses": dataclasses, "attrs": attrs, "msgspec": msgspec, "datetime": datetime, "value": value}
    encode_value("cart", eval(mend, names))  # noqa: S307


def zone_of(key: str | None) -> zoneinfo.ZoneInfo:
    """Return a zone without a name of its own, made from a file (RFC 8536) and given a key."""
    header = struct.pack(">4s16x6L", b"TZif", 0, 0, 0, 0, 1, 4)
    return zoneinfo.ZoneInfo.from_file(io.BytesIO(header + struct.pack(">lBB", 0, 0, 0) + b"UTC\0"), key)


REFUSED: list[tuple[Any, str, str]] = [
    (float("nan"), "", "nan is not a number"),
    ([1.0, float("-inf")], "[1]", "-inf is not a number"),
    ({"a": (1, Decimal("NaN"))}, "['a'][1]", "Decimal('NaN') is not a number"),
    (Decimal("-Infinity"), "", "is not a number"),
    ({float("inf")}, "{…}", "inf is not a number"),
    ([{(1, frozenset[int]())}], "[0]{…}[1]", "store set(value) instead"),
    ({"a": {1: "b"}}, "['a']", "a key of type int"),
    ({"a": {"b": 1, Shade.RED: 2}}, "['a']", "a key of type"),
    ({None: 1}, "", "a key of type NoneType"),
    ("\ud800", "", "lone surrogate"),
    ({"a": ["b", "\udfff"]}, "['a'][1]", "lone surrogate"),
    ({"a": {"\ud800": 1}}, "['a']['\\ud800']", "lone surrogate"),
    ([Markup("\ud800")], "[0]", "lone surrogate"),
    ([1, {("a", "\ud800")}], "[1]{…}[1]", "lone surrogate"),
    ({"a": {"\ud800"}, 1: 2}, "['a']{…}", "lone surrogate"),
    ([datetime(2026, 1, 1, tzinfo=Offset())], "[0]", "Offset would not come back"),
    (time(1, tzinfo=timezone(timedelta(hours=1), "CET")), "", "a name of its own"),
    (time(1, tzinfo=timezone(timedelta(microseconds=1))), "", "a fraction of a second"),
    (datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=-1, microseconds=1))), "", "a fraction of a second"),
    (datetime(2026, 1, 1, tzinfo=zoneinfo.ZoneInfo.no_cache("Europe/Paris")), "", "its key does not lead back"),
    *(
        (datetime(2026, 1, 1, tzinfo=zone_of(key)), "", "its key does not lead back")
        for key in (None, "Nowhere/Here", "../outside", "Europe")
    ),
    (object(), "", "a value of type object"),
    (1j, "", "a value of type complex"),
    (dict, "", "a value of type type"),
    (len, "", "a value of type builtin_function_or_method"),
    (..., "", "a value of type ellipsis"),
]


@pytest.mark.parametrize("value, where, reason", REFUSED, ids=[f"{row[1]} {row[2]}" for row in REFUSED])
def test_what_would_come_out_otherwise_is_refused_with_its_place(value: Any, where: str, reason: str) -> None:
    with pytest.raises(SerializationError) as caught:
        encode_fields({"fine": 1, "key": value})
    assert (caught.value.key, caught.value.where) == ("key", where)
    assert reason in caught.value.reason
    str(caught.value).encode()


def test_an_error_does_not_quote_the_value() -> None:
    with pytest.raises(SerializationError) as caught:
        encode_value("token", bytearray(b"hunter2"))
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "key, reason",
    [
        (1, "of type int"),
        (None, "of type NoneType"),
        (Text("a"), "Text; use text"),
        ("", "empty"),
        ("\x00", "reserved"),
        ("\x00digest", "reserved"),
        ("\ud800", "lone surrogate"),
        ("a" * 256, "longer than 255 bytes"),
        ("é" * 128, "longer than 255 bytes"),
    ],
)
def test_a_key_that_a_record_cannot_have_is_refused(key: Any, reason: str) -> None:
    with pytest.raises(SerializationError, match=reason) as caught:
        encode_fields({"fine": 1, key: 1})
    assert caught.value.key == key


@pytest.mark.parametrize("key", ["a", "a" * 255, "é" * 127, "$uuid", "a\x00", "😀", " ", '"'])
def test_any_other_text_is_a_key(key: str) -> None:
    assert decode_fields(encode_fields({key: {"\x00": 1, "": 2}})) == {key: {"\x00": 1, "": 2}}


HOSTILE = [
    b"",
    b" ",
    b"[",
    b"nul",
    b"NaN",
    b"Infinity",
    b"1e999",
    b"1" * 5000,
    b"1 2",
    b'1,"x":1',
    b'1,"fine":2',
    b"1}",
    b"'a'",
    b'"\\ud800"',
    b'"\xed\xa0\x80"',
    b'"\xff"',
    b"\xef\xbb\xbf1",
    b"[" * 65 + b"]" * 65,
    b'{"a":' * 65 + b"1" + b"}" * 65,
    b'{"$tuple":[' * 65 + b"]}" * 65,
    b'{"$dict":{"$":' * 65 + b"1" + b"}}" * 65,
    b"[" * 100_000 + b"]" * 100_000,
    b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    b"[" * 100_000,
    b'{"$":1}',
    b'{"$unknown":"a"}',
    b'{"$uuid":1}',
    b'{"$uuid":"{00000000-0000-0000-0000-000000000001}"}',
    b'{"$int":"1_0"}',
    b'{"$int":"0X10000000000000000"}',
    b'{"$int":""}',
    b'{"$datetime":"2026-01-01"}',
    b'{"$datetime":"2026-01-01T00:00:00Z"}',
    b'{"$datetime":"2026-01-01T00:00:00[Nowhere/Here]"}',
    b'{"$datetime":"2026-01-01T00:00:00[America]"}',
    b'{"$datetime":"2026-01-01T00:00:00[../../etc/passwd]"}',
    b'{"$datetime":"2026-01-01T00:00:00[\\u0000]"}',
    b'{"$datetime":"2026-01-01T00:00:00[fold=1][Europe/Paris]"}',
    b'{"$datetime":"2026-01-01T00:00:00+01:00[Europe/Paris]"}',
    b'{"$date":"2026-W01-1"}',
    b'{"$time":"24:00:00"}',
    b'{"$timedelta":"P1D"}',
    b'{"$timedelta":"P999999999999DT0.000000S"}',
    b'{"$timedelta":"P0DT86400.000000S"}',
    b'{"$decimal":"NaN"}',
    b'{"$decimal":"sNaN1"}',
    b'{"$decimal":"Infinity"}',
    b'{"$decimal":" 1"}',
    b'{"$decimal":"1e5"}',
    b'{"$decimal":"1E+99999999999999999999999"}',
    b'{"$bytes":"/x=="}',
    b'{"$bytes":"/w"}',
    b'{"$bytes":"\xc3\xa9"}',
    b'{"$markup":1}',
    b'{"$markup":{"$markup":"<b>"}}',
    b'{"$tuple":{"a":1}}',
    b'{"$tuple":"a"}',
    b'{"$set":[[]]}',
    b'{"$set":[{}]}',
    b'{"$set":[1,1.0]}',
    b'{"$set":null}',
    b'{"$set":"ab"}',
    b'{"$dict":{}}',
    b'{"$dict":{"a":1}}',
    b'{"$dict":{"$a":1,"$b":2}}',
    b'{"$dict":[1]}',
    b'[1,{"a":{"$uuid":"x"}}]',
]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text[:60]))
def test_a_field_that_was_not_written_so_is_a_record_error_that_names_it(text: bytes) -> None:
    with pytest.raises(RecordError, match="'bad'"):
        decode_value("bad", text)
    with pytest.raises(RecordError, match="'bad'"):
        decode_fields({"fine": b"1", "bad": text, "last": b"[2]"})


@pytest.mark.parametrize("text", [b'{"$markup":"<b>"}', b'[1,{"$markup":"<b>"}]'])
def test_markup_without_its_library_is_a_record_error_that_names_both(
    monkeypatch: pytest.MonkeyPatch, text: bytes
) -> None:
    monkeypatch.setitem(sys.modules, "markupsafe", None)
    with pytest.raises(RecordError, match=r"'bad'.*markupsafe"):
        decode_value("bad", text)
    with pytest.raises(RecordError, match=r"'bad'.*markupsafe"):
        decode_fields({"fine": b"1", "bad": text})


def test_a_field_cannot_reach_into_its_neighbour() -> None:
    with pytest.raises(RecordError, match="'a'"):
        decode_fields({"a": b'{"x":1', "b": b"2}", "c": b'3,"b":4'})
    with pytest.raises(RecordError, match="'a'"):
        decode_fields({"a": b"[1", "b": b"2]", "c": b"3,4"})


def test_a_name_said_twice_inside_a_field_reaches_no_other_name() -> None:
    assert decode_fields({"a": b'{"x":1,"x":2}', "x": b"3"}) == {"a": {"x": 2}, "x": 3}


tag_names = st.sampled_from(["$int", "$datetime", "$date", "$time", "$timedelta", "$uuid", "$decimal", "$bytes"])
tagged_text = st.text("0123456789abcdefPDTS.:+-[]_=/WExZ ", max_size=40)
crafted = st.recursive(
    st.none() | st.integers(-5, 5) | st.floats(allow_nan=False) | tagged_text | texts,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(tag_names | st.sampled_from(["$dict", "$tuple", "$set", "a"]), inner, min_size=1, max_size=2)
    ),
    max_leaves=8,
).map(msgspec.json.encode)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    text = encode_value("key", draw(values))
    start = draw(st.integers(0, len(text)))
    end = draw(st.integers(start, len(text)))
    return text[:start] + draw(st.binary(max_size=4) | st.sampled_from([b"$", b'"', b"0", b"{", b"["])) + text[end:]


@settings(deadline=None, max_examples=300)
@given(st.binary() | crafted | damaged())
def test_bytes_from_anywhere_are_read_or_are_a_record_error(text: bytes) -> None:
    try:
        value = decode_fields({"key": text})["key"]
    except RecordError:
        return
    again = encode_value("key", value)
    assert identity(decode_value("key", again)) == identity(value)


@settings(deadline=None, max_examples=300)
@given(st.dictionaries(tag_names, tagged_text, min_size=1, max_size=1))
def test_only_the_spelling_that_is_written_is_read(tag: dict[str, str]) -> None:
    text = msgspec.json.encode(tag)
    try:
        value = decode_value("key", text)
    except RecordError:
        return
    if type(value) is not int:  # a small one is written plain
        assert encode_value("key", value) == text


class Cart(TypedDict):
    items: list[Item]
    note: NotRequired[str]


class StrictStruct(msgspec.Struct, forbid_unknown_fields=True):
    sku: str


class Outer(TypedDict):
    items: list[ItemModel]


GOOD = {"sku": "a", "count": 1}


@pytest.mark.parametrize("kind", [Item, ItemStruct, ItemAttrs, ItemModel])
def test_typed_data_comes_as_an_object_of_the_class(kind: Any) -> None:
    item = convert({**GOOD, "extra": 1}, kind)
    assert type(item) is kind
    assert (item.sku, item.count) == ("a", 1)


def test_a_typeddict_is_a_dict_with_its_own_keys_and_typed_parts() -> None:
    cart = convert({"items": [GOOD], "note": "n", "other": 1}, Cart)
    assert identity({**cart}) == identity({"items": [Item("a", 1)], "note": "n"})
    assert "note" not in convert({"items": []}, Cart)


class Everything(TypedDict):
    moment: datetime
    day: date
    clock: time
    span: timedelta
    id: UUID
    price: Decimal
    raw: bytes
    pair: tuple[int, str]
    tags: set[str]
    real: float


def test_values_that_are_python_objects_already_pass_as_they_are() -> None:
    data = {
        "moment": datetime(2026, 10, 25, 2, 30, tzinfo=PARIS, fold=1),
        "day": date(2026, 1, 1),
        "clock": time(1, 2, 3, 4),
        "span": timedelta(days=-1, microseconds=1),
        "id": UUID(int=1),
        "price": Decimal("1.10"),
        "raw": b"\xff",
        "pair": (1, "a"),
        "tags": {"a"},
        "real": 1.0,
    }
    assert identity(convert(decode_fields(encode_fields(data)), Everything)) == identity(data)


MISFITS: list[tuple[Any, Any, str, str]] = [
    ({"items": [GOOD, GOOD, {"sku": "a", "count": "1"}]}, Cart, "cart", "cart.items[2].count: expected int, got str"),
    ({"items": [GOOD, {"sku": "a"}]}, Cart, "", "items[1]: object missing required field count"),
    ({}, Cart, "cart", "cart: object missing required field items"),
    ([], Cart, "", "the session's data: expected object, got array"),
    ({"sku": "a", "count": True}, Item, "", "count: expected int, got bool"),
    ({"sku": "a", "count": 1.0}, ItemStruct, "", "count: expected int, got float"),
    ({"sku": b"a", "count": 1}, ItemAttrs, "", "sku: expected str, got bytes"),
    ({"sku": "a", "count": 0}, ItemAttrs, "item", "item: 'count' must be > 0: 0"),
    ({"sku": "a", "b": 1}, StrictStruct, "", "the session's data: object contains unknown field b"),
    ("1", int, "visits", "visits: expected int, got str"),
    ({"a": {"b": "1"}}, dict[str, dict[str, int]], "", "[...][...]: expected int, got str"),
    ({"a": 1}, dict[int, int], "seats", "seats: expected int, got str, as a key"),
    (GOOD, Level, "level", "level: expected int, got object"),
    (1, Offset, "zone", "zone: expected Offset, got int"),
]


@pytest.mark.parametrize("value, kind, where, message", MISFITS, ids=[row[3] for row in MISFITS])
def test_data_that_does_not_fit_is_an_error_that_names_the_field(
    value: Any, kind: Any, where: str, message: str
) -> None:
    with pytest.raises(DataTypeError) as caught:
        convert(value, kind, where)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "value, kind, where, field",
    [
        ({"sku": "a", "count": "hunter2"}, ItemModel, "", "count: "),
        ({"sku": "a", "count": "hunter2"}, ItemModel, "item", "item.count: "),
        ({"items": [GOOD, {"count": "hunter2"}]}, Outer, "cart", "cart.items[1].sku: "),
        ([GOOD, {"sku": "a", "count": "hunter2"}], list[ItemModel], "items", "items[1].count: "),
        ("hunter2", ItemModel, "", "the session's data: "),
    ],
)
def test_a_pydantic_model_names_the_field_and_does_not_quote_the_data(
    value: Any, kind: Any, where: str, field: str
) -> None:
    with pytest.raises(DataTypeError) as caught:
        convert(value, kind, where)
    assert str(caught.value).startswith(field)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_a_pydantic_model_checks_by_its_own_rules_wherever_it_lies() -> None:
    # Pydantic's own mode reads "1" as a number, and msgspec's strict one would not.
    assert convert({"sku": "a", "count": "1"}, ItemModel) == ItemModel(sku="a", count=1)
    assert convert({"items": [GOOD]}, Outer) == {"items": [ItemModel(sku="a", count=1)]}


def test_a_type_that_cannot_work_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        convert(GOOD, Item | ItemStruct)  # type: ignore[arg-type]
