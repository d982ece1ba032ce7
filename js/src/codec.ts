// Values as JSON text and back, as `_codec.py` and `_tags.py` write them. What goes in comes out equal and of the same
// type, or is refused before anything is written.
import { RecordError, SerializationError } from "./errors.js";

const MAX_DEPTH = 64;
const MAX_NAME_BYTES = 255;
const LATEST = 253402300799999;

/**
 * A value of a Python type that JavaScript lacks: `$tuple`, `$date`, `$time`, `$timedelta`, `$uuid`, `$decimal`,
 * `$markup`, a `$datetime` that is no moment of UTC in whole milliseconds, and a `$set` of more than text and numbers.
 * It is written back as it was read.
 */
export class Tagged {
    constructor(
        readonly tag: string,
        readonly content: unknown,
    ) {}
}

const KEPT = ["$date", "$datetime", "$decimal", "$markup", "$time", "$timedelta", "$uuid"];

class Refused extends Error {}

/** Write one value; the key is named in errors. Throws `SerializationError`. */
export function encode(key: string, value: unknown): string {
    try {
        return write(value, MAX_DEPTH);
    } catch (error) {
        if (!(error instanceof Refused)) throw error;
        throw new SerializationError(`session key ${JSON.stringify(key)}: ${error.message}`);
    }
}

/** Write a session's data as the fields of a record. Throws `SerializationError`. */
export function encodeFields(data: object): Map<string, string> {
    const kind = Object.prototype.toString.call(data);
    if (kind !== "[object Object]") throw new TypeError(`a session's data is an object, not ${kind}`);
    return new Map(
        Object.entries(data).map(([key, value]) => {
            const size = Buffer.byteLength(key);
            if (!size || size > MAX_NAME_BYTES || key.startsWith("\0") || !key.isWellFormed()) {
                throw new SerializationError(`a key has 1 to ${MAX_NAME_BYTES} bytes and does not begin with NUL`);
            }
            return [key, encode(key, value)];
        }),
    );
}

function write(value: unknown, room: number): string {
    switch (typeof value) {
        case "string":
            if (!value.isWellFormed()) throw new Refused("text with a lone surrogate");
            return JSON.stringify(value);
        case "boolean":
            return String(value);
        case "number":
            if (!Number.isFinite(value)) throw new Refused(`${value} is not a number that JSON has; use null`);
            if (Object.is(value, -0)) return "-0.0";
            // Python would take a large one for a whole number of as many digits.
            return Number.isInteger(value) && !Number.isSafeInteger(value) ? value.toExponential() : String(value);
        case "bigint":
            return `{"$int":"${value < 0 ? "-" : ""}0x${(value < 0 ? -value : value).toString(16)}"}`;
        case "object":
            return value === null ? "null" : writeObject(value, room);
        default:
            throw new Refused(`a value of type ${typeof value} would not come back; use null, or leave the key out`);
    }
}

function writeObject(value: object, room: number): string {
    const list = (items: readonly unknown[]) => `[${Array.from(items, (item) => write(item, room - 1)).join(",")}]`;
    if (!room) throw new Refused(`nested deeper than ${MAX_DEPTH} levels, or a container that contains itself`);
    if (Array.isArray(value)) return list(value);
    if (value instanceof Date) return `{"$datetime":"${writeDate(value)}"}`;
    if (value instanceof Uint8Array) return `{"$bytes":"${Buffer.from(value).toString("base64")}"}`;
    if (value instanceof Tagged) return `{"${value.tag}":${write(value.content, room)}}`;
    if (value instanceof Set) {
        if (![...value].every(isFitForSet)) throw new Refused("a Set holds text, numbers and what Python wrote");
        // Python compares the text, so it must be one text.
        const texts = [...value].map((item) => Buffer.from(write(item, room - 1))).sort(Buffer.compare);
        return `{"$set":[${texts.join(",")}]}`;
    }
    const kind = Object.getPrototypeOf(value);
    if (kind !== Object.prototype && kind !== null) {
        throw new Refused(`a value of type ${kind.constructor?.name} would not come back as one; store a plain object`);
    }
    const entries = Object.entries(value);
    const text = `{${entries.map(([name, item]) => `${write(name, room)}:${write(item, room - 1)}`).join(",")}}`;
    return entries.length === 1 && entries[0]![0].startsWith("$") ? `{"$dict":${text}}` : text;
}

/** Tell whether a set may hold it: what may be equal to Python and is not here, or cannot be in a set there, may not. */
function isFitForSet(item: unknown): boolean {
    return ["string", "number"].includes(typeof item) || item instanceof Tagged;
}

function writeDate(value: Date): string {
    const time = value.getTime();
    if (!(time <= LATEST) || value.getUTCFullYear() < 1) throw new Refused("a Date outside the years 1 to 9999");
    return value.toISOString().replace(".000Z", "+00:00").replace("Z", "000+00:00");
}

/** Read one field of a record. Throws `RecordError`. */
export function decode(key: string, text: string): unknown {
    try {
        // Before its digits are looked for: in what is no JSON that takes a time of its length's square.
        const plain = JSON.parse(text);
        return read(/\d{16}/.test(text) ? JSON.parse(text.replace(TOKENS, whole)) : plain, MAX_DEPTH);
    } catch (error) {
        if (error instanceof Refused || error instanceof SyntaxError) {
            throw new RecordError(`record field ${JSON.stringify(key)} cannot be read: ${error.message}`);
        }
        throw error;
    }
}

/** Read all fields of a record. */
export function decodeFields(fields: ReadonlyMap<string, string>): Record<string, unknown> {
    return Object.fromEntries([...fields].map(([name, text]) => [name, decode(name, text)]));
}

/** Tell whether a stored field holds the value that this text holds, however the other writer spelt it. */
export function isSame(key: string, stored: string | undefined, text: string): boolean {
    return stored !== undefined && (stored === text || encode(key, decode(key, stored)) === text);
}

const TOKENS = /"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g;

/** Keep the digits of a whole number that `JSON.parse` would round. */
function whole(token: string): string {
    return /^-?\d+$/.test(token) && !Number.isSafeInteger(Number(token)) ? write(BigInt(token), 1) : token;
}

function read(value: unknown, room: number): unknown {
    if (typeof value !== "object" || value === null) return value;
    const entries = Object.entries(value);
    const [name, content] = entries[0] ?? ["", null];
    if (!Array.isArray(value) && entries.length === 1 && name.startsWith("$")) return readTagged(name, content, room);
    if (!room) throw new Refused(`nested deeper than ${MAX_DEPTH} levels`);
    if (Array.isArray(value)) return value.map((item) => read(item, room - 1));
    return Object.fromEntries(entries.map(([name, item]) => [name, read(item, room - 1)]));
}

function readTagged(tag: string, content: unknown, room: number): unknown {
    if (Array.isArray(content) && (tag === "$set" || tag === "$tuple")) {
        const items = read(content, room) as unknown[];
        return tag === "$set" && items.every(isFitForSet) ? new Set(items) : new Tagged(tag, items);
    }
    if (tag === "$dict" && typeof content === "object" && content !== null && room) {
        const [entry, ...more] = Object.entries(content);
        if (entry?.[0].startsWith("$") && !more.length) return { [entry[0]]: read(entry[1], room - 1) };
    }
    if (typeof content === "string") {
        const made = READERS[tag]?.(content);
        // Only what would have been written so is read: the rest is Python's to know.
        if (made !== undefined && write(made, 1) === `{"${tag}":${JSON.stringify(content)}}`) return made;
        if (KEPT.includes(tag)) return new Tagged(tag, content);
    }
    throw new Refused(`a malformed tag ${JSON.stringify(tag.slice(0, 32))}`);
}

const READERS: Record<string, (text: string) => unknown> = {
    $bytes: (text) => new Uint8Array(Buffer.from(text, "base64")),
    $datetime: (text) => (/^\d{4}-\d\d-\d\dT[\d:]{8}(\.\d{3}000)?\+00:00$/.test(text) ? dateOf(text) : undefined),
    $int: (text) => (/^-?0x[0-9a-f]+$/.test(text) ? BigInt(text.replace("-", "")) * sign(text) : undefined),
};

const sign = (text: string) => (text.startsWith("-") ? -1n : 1n);

function dateOf(text: string): Date | undefined {
    const date = new Date(text);
    return Number.isNaN(date.getTime()) ? undefined : date;
}
