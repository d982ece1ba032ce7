import assert from "node:assert/strict";
import test from "node:test";
import { decode, encode, encodeFields } from "../dist/codec.js";
import { RecordError, SerializationError, Tagged } from "../dist/index.js";

class Cart {}
const circle = {};
circle.self = circle;
let deep = 1;
for (let level = 0; level < 65; level++) deep = [deep];

test("what would not come out as it went in is refused, and the key named", () => {
    const refused = [NaN, Infinity, undefined, () => 1, Symbol("a"), new Cart(), new Map(), /a/, [undefined], [,], { a: undefined }]
        .concat(["\ud800", { "\ud800": 1 }, new Date(NaN), new Date(-1e15), new Set([true]), new Set([[1]]), new Set([1n]), circle])
        .concat([[deep]]);
    for (const value of refused) assert.throws(() => encode("cart", value), { name: "SerializationError", message: /"cart"/ });
    for (const key of ["", "\0digest", "\ud800", "a".repeat(256)]) assert.throws(() => encodeFields({ [key]: 1 }), SerializationError);
    for (const data of [null, [1], "a", 1, new Map()]) assert.throws(() => encodeFields(data), TypeError);
});

test("values come back equal and of the same type", () => {
    const values = [null, true, 0, 1.5, 2 ** 53, 1e21, 1e-7, "ä\u2028", "", [], {}, [[{}]], { a: { b: [1, null] } }, 5n, -(2n ** 80n)];
    const more = [new Date(0), new Date(1767323045678), new Uint8Array([0, 255]), new Set(["b", "a", 3, 20]), { $date: 1 }, { $: { $: 1 } }];
    for (const value of [...values, ...more]) assert.deepEqual(decode("a", encode("a", value)), value);
    assert.ok(Object.is(decode("a", encode("a", -0)), -0));
    const own = decode("a", '{"__proto__":{"x":1},"b":2}');
    assert.equal(own.x, undefined);
    assert.equal(encode("a", own), '{"__proto__":{"x":1},"b":2}');
});

test("a whole number that JSON.parse would round is a bigint, wherever it stands", () => {
    assert.deepEqual(decode("a", '[9007199254740993,-18446744073709551615,1.12345678901234567890,1e20,"9007199254740993"]'), [
        9007199254740993n, -18446744073709551615n, 1.1234567890123457, 1e20, "9007199254740993",
    ]);
    assert.deepEqual(decode("a", '{"9007199254740993":"\\"9007199254740993"}'), { "9007199254740993": '"9007199254740993' });
    const long = { text: '"\\'.repeat(1e6), n: 2n ** 60n };
    assert.deepEqual(decode("a", `{"text":${JSON.stringify(long.text)},"n":${2n ** 60n}}`), long);
    assert.equal(encode("a", 2 ** 60), "1.152921504606847e+18");
});

test("what is no JSON is refused before digits are looked for in it", () => {
    assert.throws(() => decode("a", '[12345678901234567,"'), /position 20\b/);
});

test("what JavaScript lacks is kept as it was, and what nobody writes is an error", () => {
    const sets = ['{"$set":[null,true]}', '{"$set":[{"$bytes":"AA=="}]}', '{"$set":[{"$int":"0x5"},"a"]}'];
    const tuples = '{"$tuple":['.repeat(64) + "]}".repeat(64);
    for (const text of [...sets, tuples, '{"$uuid":"x"}', '{"$tuple":[1,{"$date":"2026-01-02"}]}', '{"$datetime":"2026-01-02T03:04:05.000001+00:00"}']) {
        assert.ok(decode("a", text) instanceof Tagged);
        assert.equal(encode("a", decode("a", text)), text);
    }
    for (const text of ['{"$new":"x"}', '{"$int":"5"}', '{"$bytes":"A"}', '{"$dict":{"a":1}}', '{"$set":1}', "{", "", "NaN", "[".repeat(70) + "]".repeat(70)]) {
        assert.throws(() => decode("a", text), RecordError);
    }
});
