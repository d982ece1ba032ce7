// The store contract over Redis, by the script that the Python library runs: a hash a session, one call on one key.
import { createHash } from "node:crypto";
import { RecordError, StoreError } from "./errors.js";
import type { Fields } from "./record.js";
import { SCRIPT } from "./script.js";

/** What a session store needs of a client: `createClient(…)` of `redis`, of one server or by a Sentinel. */
export interface RedisClient {
    sendCommand(words: string[], options?: { abortSignal?: AbortSignal }): Promise<unknown>;
}

export type Outcome = "missing" | "applied" | "conflict";

/** What must be so for a call to take place: a field and its text, or `null` where it must be absent. */
export type Expect = readonly (readonly [string, string | null])[];

/** How long a record lives, in seconds: idle, and to its deadline or `null`. */
export interface Lifetime {
    idle: number;
    remaining: number | null;
}

const NAME = createHash("sha1").update(SCRIPT).digest("hex");
const OUTCOMES: readonly Outcome[] = ["missing", "applied", "conflict"];

export class Store {
    readonly #client: () => Promise<RedisClient>;
    /** Why there is no connection, as the client last said. */
    #why = "";

    constructor(
        client: RedisClient | string,
        readonly prefix: string,
        readonly seconds: number,
    ) {
        let opened: Promise<RedisClient> | undefined;
        const begin = async () => (typeof client === "string" ? this.#open(client) : client);
        this.#client = () =>
            (opened ??= begin().catch((error) => {
                // The next call tries anew.
                opened = undefined;
                throw error;
            }));
    }

    /** Return all fields, and restart the idle clock if they are as expected and `touch` says so. */
    async get(key: string, expect: Expect, touch: boolean): Promise<Fields | "missing" | "conflict"> {
        const answer = await this.#run(key, touch ? "get" : "look", expect, []);
        if (!Array.isArray(answer)) return answer === 0 ? "missing" : "conflict";
        const fields = new Map<string, string>();
        for (let at = 0; at < answer.length; at += 2) if (answer[at] !== "") fields.set(answer[at], answer[at + 1]);
        return fields;
    }

    /** Write a whole record: where there is none, or with `expect` where there is one as expected. */
    async set(key: string, fields: Fields, lifetime: Lifetime, expect: Expect | null = null): Promise<Outcome> {
        const call = expect === null ? "create" : "replace";
        return outcome(await this.#run(key, call, expect ?? [], writes(fields, [], lifetime)));
    }

    /** Write some fields, drop others, and touch the record. */
    async merge(
        key: string,
        changed: Fields,
        removed: Iterable<string>,
        expect: Expect,
        lifetime: Lifetime | null = null,
    ): Promise<Outcome> {
        return outcome(await this.#run(key, "merge", expect, writes(changed, removed, lifetime)));
    }

    async #run(key: string, call: string, expect: Expect, written: string[]): Promise<unknown> {
        const expected = expect.flatMap(([name, text]) => [name, text === null ? "" : `=${text}`]);
        const words = ["1", this.prefix + key, call, String(expected.length), ...expected, ...written];
        let answer: unknown;
        try {
            answer = await this.#send(["EVALSHA", NAME, ...words]);
        } catch (error) {
            // Nothing ran. The server never had the script, or has lost it.
            if (!String(error).includes("NOSCRIPT")) throw error;
            answer = await this.#send(["EVAL", SCRIPT, ...words]);
        }
        if (answer === 3) throw new RecordError("the key holds a hash that is no session: another program wrote it");
        return answer;
    }

    async #open(url: string): Promise<RedisClient> {
        const { createClient } = await import("redis");
        const client = createClient({ url, disableOfflineQueue: true, socket: { connectTimeout: 1000 * this.seconds } });
        // It connects anew by itself; each call says what failed.
        client.on("error", (error: Error) => (this.#why = `: ${error.message}`));
        client.on("ready", () => (this.#why = ""));
        await client.connect();
        return client as RedisClient;
    }

    async #send(words: string[]): Promise<unknown> {
        // What was not sent by then is not sent any more.
        const abortSignal = AbortSignal.timeout(1000 * this.seconds);
        const late = new Promise<never>((_, refuse) => {
            abortSignal.onabort = () => refuse(new Error(`not within ${this.seconds} s${this.#why}`));
        });
        try {
            const client = await Promise.race([this.#client(), late]);
            return await Promise.race([client.sendCommand(words, { abortSignal }), late]);
        } catch (error) {
            throw new StoreError(`no answer from Redis: ${error instanceof Error ? error.message : error}`);
        } finally {
            abortSignal.onabort = null;
        }
    }
}

function outcome(answer: unknown): Outcome {
    const named = OUTCOMES[answer as number];
    if (named === undefined) throw new StoreError("Redis answered what the script does not say");
    return named;
}

function writes(changed: Fields, removed: Iterable<string>, lifetime: Lifetime | null): string[] {
    const milliseconds = (seconds: number | null) =>
        seconds === null ? "" : String(Math.ceil(Math.min(Math.max(seconds, 0), 1e12) * 1000));
    const times = lifetime ? [milliseconds(lifetime.idle), milliseconds(lifetime.remaining)] : ["", ""];
    return [...times, String(2 * changed.size), ...[...changed].flat(), ...removed];
}
