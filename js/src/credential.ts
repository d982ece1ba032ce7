// What a browser holds, as `_tokens.py` makes it: the cookie's selector and verifier, and the CSRF tokens made of it.
import { createHash, createHmac, randomBytes, timingSafeEqual } from "node:crypto";

const SELECTOR_LENGTH = 24;
const SELECTOR_BYTES = 18;
const VERIFIER_BYTES = 30;
const TIME_BYTES = 4;
const NONCE_BYTES = TIME_BYTES + 16;
const TAG_BYTES = 32;

export class Credential {
    readonly #verifier: string;

    private constructor(
        readonly selector: string,
        verifier: string,
    ) {
        this.#verifier = verifier;
    }

    /** Return the parts of a cookie's value, or `null` unless it is 64 characters of base64url. */
    static parse(value: string): Credential | null {
        if (!/^[A-Za-z0-9_-]{64}$/.test(value)) return null;
        return new Credential(value.slice(0, SELECTOR_LENGTH), value.slice(SELECTOR_LENGTH));
    }

    /** Return one of a fresh verifier, and of a fresh selector if none is given. */
    static found(selector = random(SELECTOR_BYTES)): Credential {
        return new Credential(selector, random(VERIFIER_BYTES));
    }

    /** The cookie's value. */
    get value(): string {
        return this.selector + this.#verifier;
    }

    /** What the store keeps of it, as JSON text. */
    get digest(): string {
        return `"${createHash("sha256").update(this.value).digest("base64url")}"`;
    }

    /** Return a fresh CSRF token; `scope` is `""` for the whole session, `now` in seconds. */
    issueToken(scope: string, now: number): string {
        const nonce = randomBytes(NONCE_BYTES);
        nonce.writeUInt32BE(Math.floor(now) % 2 ** 32);
        return Buffer.concat([nonce, this.#tag(scope, nonce)]).toString("base64url");
    }

    /** Tell whether a token was issued by this credential, for this scope. */
    issued(text: string, scope: string): boolean {
        // Of the spellings of the same bytes only the one that is issued.
        if (!/^[A-Za-z0-9_-]{69}[AQgw]$/.test(text)) return false;
        const raw = Buffer.from(text, "base64url");
        return timingSafeEqual(raw.subarray(NONCE_BYTES), this.#tag(scope, raw.subarray(0, NONCE_BYTES)));
    }

    #tag(scope: string, nonce: Buffer): Buffer {
        const secret = createHmac("sha256", this.#verifier).update("server-session csrf token").digest();
        const name = Buffer.from(scope);
        const length = Buffer.alloc(4);
        length.writeUInt32BE(name.length);
        return createHmac("sha256", secret).update(length).update(name).update(nonce).digest();
    }
}

/** Return text of a token's form that will not validate. */
export const junkToken = () => random(NONCE_BYTES + TAG_BYTES);

/** Return the few characters by which logs name a session. */
export const shortDigest = (selector: string) => createHash("sha256").update(selector).digest("hex").slice(0, 10);

/** Return the key of an owner's list of sessions. */
export function ownerKey(owner: string): string {
    const digest = createHash("sha256").update(`server-session owner\0${owner}`).digest();
    return digest.subarray(0, SELECTOR_BYTES).toString("base64url");
}

function random(bytes: number): string {
    return randomBytes(bytes).toString("base64url");
}
