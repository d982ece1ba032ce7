"""Hostile bytes: names and values that quoting, patterns and collations trip over."""

from server_session.stores._base import APPLIED, CONFLICT, SessionStore
from server_session.testing._checks import check_equal, shown
from server_session.testing._scenarios import scenario
from server_session.testing._stage import LONG, Stage

__all__ = ["HostileBytes"]

# Every pair is two names, or two values: a store that takes them for one fails.
LOOKALIKES: tuple[tuple[str, str], ...] = (
    ("a", "A"),
    ("a", "a "),
    ("a", " a"),
    ("a", "a\0"),
    ("a", "a\n"),
    ("a", "a\t"),
    ("a", "ab"),
    ("a", "\uff41"),
    ("a", "\u00e5"),
    ("1", "01"),
    ("1", "1.0"),
    ("1", "+1"),
    ("10", "1e1"),
    ("0", "-0"),
    ("\u00e9", "e\u0301"),
    ("\u00df", "ss"),
    ("i", "\u0131"),
    ("\u03c3", "\u03c2"),
    ("x", "x\u200b"),
    ("null", "NULL"),
    ("true", "True"),
)

HOSTILE_NAMES: tuple[str, ...] = (
    *dict.fromkeys(name for pair in LOOKALIKES for name in pair),
    *(" ", "  ", "\0", "\0\0", "\0a", "a\0b", "\n", "\r\n", "\t", "\x1a", "\x1b[0m", "\x7f", "\ufeff", "\uffff"),
    *("'", '"', "`", "''", "\\", "\\0", "\\x00", "\\'", "%", "_", "%s", "%(name)s", "?", "$1", ":name", "{}", "{0}"),
    *("'; DROP TABLE sessions; --", '" OR ""="', "/* */", "); --", "a,b", "a:b", "a|b", "a=b", "a;b", "a/b", "a.b"),
    *("*", "[a-z]", "{tag}", "}{", "*1\r\n$7\r\nFLUSHDB\r\n", "$-1", "\r\nget x\r\n", "noreply", "EX", "nx", "END"),
    *(".", "..", "../../a", "/", "~", "con", "nul.txt", "-", "--", "-rf", "#", "<a>", "&amp;", "$", "@", "^"),
    *("id", "key", "name", "value", "data", "fields", "idle", "ttl", "expire", "expires", "expiry", "expires_at"),
    *("deadline", "remaining", "lifetime", "touched", "version", "cas", "\0idle", "\0deadline", "\0expires", "_idle"),
    *("__class__", "__init__", "__proto__", "constructor", "self", "None", "nan", "inf", "[]", "[1]", '{"a": 1}'),
    *("\u4f60\u597d", "\u05d0\u202e", "\U0001f600", "\U0001f468\u200d\U0001f469", "\U0010ffff", "\u0660"),
    *("n" * 255, "n" * 254, "n" * 254 + "m", "\u00e9" * 127 + "x", "\U0001f600" * 63 + "abc", " " * 255, "\0" * 255),
)

HOSTILE_VALUES: tuple[bytes, ...] = (
    b"",
    bytes(range(256)),
    bytes(range(255, -1, -1)),
    b"\xff\xfe",
    b"\xc3(",
    b"\xed\xa0\x80",
    b"\x80\x04N.",
    b'{"a": 1}',
    b"\x00" * 300,
    *(name.encode() for name in HOSTILE_NAMES),
)


class HostileBytes(Stage):
    """Names and values are kept and compared byte by byte."""

    @scenario
    async def test_values_of_all_bytes_come_back_as_they_were(self, store: SessionStore) -> None:
        fields = {f"v{n}": value for n, value in enumerate(HOSTILE_VALUES)}
        fields |= {f"byte {n}": bytes([n]) for n in range(256)}
        key = await self._new(store, fields)
        check_equal(await store.get(key, fields), fields, "get that expects every value")
        merged = await self._new(store, {"keep": b"k"})
        check_equal(await store.merge(merged, fields, [], {}), APPLIED, "merge of all bytes")
        await self._check_record(store, merged, {**fields, "keep": b"k"}, "the merged record")

    @scenario
    async def test_names_of_all_kinds_come_back_as_they_were(self, store: SessionStore) -> None:
        fields = {name: b"%d" % n for n, name in enumerate(HOSTILE_NAMES)}
        key = await self._new(store, fields)
        check_equal(await store.get(key, fields), fields, "get that expects every field")
        merged = await self._new(store, {"keep": b"k"})
        check_equal(await store.merge(merged, fields, [], dict.fromkeys(fields)), APPLIED, "merge of all names")
        await self._check_record(store, merged, {**fields, "keep": b"k"}, "the merged record")
        check_equal(await store.merge(merged, {}, list(fields), fields), APPLIED, "merge that removes all names")
        await self._check_record(store, merged, {"keep": b"k"}, "the record, after all names were removed")

    @scenario
    async def test_each_name_works_alone(self, store: SessionStore) -> None:
        key = await self._new(store, {"keep of all": b"k"})
        for name in HOSTILE_NAMES:
            what = f"the field named {shown(name)}"
            check_equal(await store.merge(key, {name: b"1"}, [], {name: None}), APPLIED, f"{what}: merge")
            check_equal(await store.get(key, {name: b"2"}), CONFLICT, f"{what}: get that expects another value")
            check_equal(await store.get(key, {name: b"1"}), {name: b"1", "keep of all": b"k"}, f"{what}: get")
            check_equal(await store.merge(key, {}, [name], {name: b"1"}), APPLIED, f"{what}: removal")
        await self._check_record(store, key, {"keep of all": b"k"}, "the record, after all fields came and went")

    @scenario
    async def test_names_are_compared_as_bytes(self, store: SessionStore) -> None:
        for pair in LOOKALIKES:
            for one, other in (pair, pair[::-1]):
                what = f"a record with the field {one!r}, not {other!r}"
                key = await self._new(store, {one: b"1", "keep": b"k"})
                check_equal(await store.get(key, {other: b"1"}), CONFLICT, f"{what}: get that expects the other")
                check_equal(
                    await store.merge(key, {}, [other], {other: None}), APPLIED, f"{what}: removal of the other"
                )
                check_equal(
                    await store.merge(key, {other: b"2"}, [], {one: b"1"}), APPLIED, f"{what}: merge of the other"
                )
                await self._check_record(store, key, {one: b"1", other: b"2", "keep": b"k"}, "a record with both")
                check_equal(await store.merge(key, {}, [one], {}), APPLIED, f"{what}: removal of the one")
                await self._check_record(store, key, {other: b"2", "keep": b"k"}, "a record with the other alone")

    @scenario
    async def test_values_are_compared_as_bytes(self, store: SessionStore) -> None:
        pairs = [(one.encode(), other.encode()) for one, other in LOOKALIKES]
        pairs += [
            (b"", b"\0"),
            (b"", b" "),
            (b"abc", b"abcd"),
            (b"\xff", b"\xfe"),
            (b"\xff", b"\xc3\xbf"),
            (b"\x00a", b"\x00b"),
        ]
        pairs += [(b"%", b"x"), (b"_", b"x"), (b"*", b"x"), (b"x" * 300 + b"a", b"x" * 300 + b"b")]
        for pair in pairs:
            for one, other in (pair, pair[::-1]):
                what = f"the value {shown(one)}, expected to be {shown(other)}"
                key = await self._new(store, {"a": one})
                check_equal(await store.get(key, {"a": other}), CONFLICT, f"{what}: get")
                check_equal(await store.merge(key, {"b": b"2"}, [], {"a": other}), CONFLICT, f"{what}: merge")
                check_equal(await store.set(key, {"b": b"2"}, LONG, {"a": other}), CONFLICT, f"{what}: set")
                check_equal(await store.get(key, {"a": one}), {"a": one}, f"{what}: get that expects it as it is")

    @scenario
    async def test_an_empty_value_is_not_an_absent_field(self, store: SessionStore) -> None:
        key = await self._new(store, {"a": b"", "b": b"2"})
        check_equal(await store.get(key, {"a": None}), CONFLICT, "an empty value, expected to be absent")
        check_equal(await store.get(key, {"c": b""}), CONFLICT, "an absent field, expected to be empty")
        check_equal(await store.merge(key, {"b": b""}, [], {"a": b"", "c": None}), APPLIED, "merge of an empty value")
        await self._check_record(store, key, {"a": b"", "b": b""}, "a record of empty values")

    @scenario
    async def test_a_value_of_the_greatest_length_is_kept_whole(self, store: SessionStore) -> None:
        size = self.max_value
        one = (bytes(range(256)) * (size // 256 + 1))[:size]
        other = one[:-1] + b"?"
        key = await self._new(store, {"a": one})
        check_equal(await store.get(key, {"a": other}), CONFLICT, "get that expects another last byte")
        check_equal(await store.get(key, {"a": one[:-1]}), CONFLICT, "get that expects one byte fewer")
        check_equal(await store.merge(key, {"a": other}, [], {"a": one}), APPLIED, "merge of the greatest value")
        check_equal(await store.get(key, {"a": other}), {"a": other}, "get that expects the greatest value")
