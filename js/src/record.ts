// The core's own fields in a record, as `_record.py` names and writes them.
import { randomBytes } from "node:crypto";
import type { Credential } from "./credential.js";
import { RecordError } from "./errors.js";

export const DIGEST = "\0digest";
export const FORMER = "\0former";
export const CREATED = "\0created";
export const OWNER = "\0owner";
export const AUTHENTICATED = "\0authenticated";
export const LIFE = "\0life";
export const LONGEST = "\0longest";
export const STAMP = "\0stamp";
export const ENDED = "\0ended";

/** For how many seconds an ended session leaves its mark, and a digest swapped out is known again. */
export const MARK_SECONDS = 60;

export type Fields = ReadonlyMap<string, string>;

/** What became of a credential, by the record that is under its selector. */
export type Finding = "held" | "gone" | "ended" | "swapped" | "foreign";

export function findingOf(credential: Credential, fields: Fields | null, now: number): Finding {
    if (fields === null) return "gone";
    if (fields.has(ENDED)) return "ended";
    const digest = fields.get(DIGEST);
    if (digest === credential.digest) return "held";
    if (digest === undefined || !/^"[\w-]{43}"$/.test(digest)) {
        throw new RecordError("the session is encrypted, and this package has no EncryptedCodec; or it is damaged");
    }
    const start = `[${credential.digest},`;
    const former = fields.get(FORMER) ?? "";
    const since = former.startsWith(start) ? Number(former.slice(start.length, -1)) : NaN;
    return now - since < MARK_SECONDS ? "swapped" : "foreign";
}

/** Return the fields that are the user's. */
export function userFields(fields: Fields | null): Map<string, string> {
    return new Map([...(fields ?? [])].filter(([name]) => name >= "\x01"));
}

/** Return a time in seconds as JSON text, to the millisecond. */
export const number = (seconds: number) => seconds.toFixed(3);

/** Return a stamp that no earlier write had. */
export function freshStamp(now: number): string {
    const stamp = randomBytes(9);
    stamp.writeUInt32BE(Math.floor(now) % 2 ** 32);
    return `"${stamp.toString("base64url")}"`;
}

/** Return the second of the record's last write. */
export function stampedAt(fields: Fields): number {
    const stamp = fields.get(STAMP) ?? "";
    return /^"[\w-]{12}"$/.test(stamp) ? Buffer.from(stamp.slice(1, -1), "base64url").readUInt32BE() : 0;
}

/** Return the time that one of the core's fields holds. */
export function timeOf(fields: Fields, name: string): number {
    const time = Number(fields.get(name) ?? NaN);
    if (!(time >= 0)) throw new RecordError(`record field ${JSON.stringify(name)} cannot be read: it is no time`);
    return time;
}

/** Return what renewals asked of the session's life: idle seconds, age at its end, whether the browser keeps it. */
export function lifeOf(fields: Fields): [idle: number | null, absolute: number | null, persistent: boolean | null] {
    return JSON.parse(fields.get(LIFE) ?? "[null,null,null]");
}
