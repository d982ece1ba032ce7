// One request's dealings with its session: the states and rules of the Python library's kernel (docs/design.md, ideas 2
// and 3). What writes returns false if the session ended meanwhile.
import type { Carrier, CookieSettings } from "./carrier.js";
import { decode, decodeFields, encode, encodeFields, isSame } from "./codec.js";
import { Credential, junkToken, ownerKey, shortDigest } from "./credential.js";
import { ConflictError, CookieWithheldError, StoreError } from "./errors.js";
import * as record from "./record.js";
import { AUTHENTICATED, CREATED, DIGEST, ENDED, FORMER, LONGEST, OWNER, STAMP } from "./record.js";
import type { Fields, Finding } from "./record.js";
import type { Expect, Store } from "./store.js";

/** The settings that a session's life depends on. Times in seconds. */
export interface Policy {
    store: Store;
    cookie: CookieSettings;
    origin: string | undefined;
    idle: number;
    absolute: number | null;
    renewOn: readonly string[];
    onDroppedWrite: (session: string) => void;
}

type Draft = [changed: Map<string, string>, removed: string[], expect: Expect];

const UPDATE_SECONDS = 2;
const LONGEST_PAUSE = 0.05;
const SEEN_SECONDS = 60;
const LONGEST_LIFE = 400 * 24 * 60 * 60;
const now = () => Date.now() / 1000;

export class Visit {
    // None: there is no session. Unasked: a cookie not yet looked up. Live. Refused: the verifier does not hold. Over:
    // ended or swapped within the minute, or gone after this request saw it live.
    #state: "none" | "unasked" | "live" | "refused" | "over" = "none";
    #credential: Credential | null = null;
    /** The record of the credential, as this request last saw or wrote it. */
    #seen: Fields | null = null;
    #seenLive = false;
    #dropped = false;
    #founding: Credential | null = null;
    /** What a renewal under way may have put in the credential's place. */
    #swapping: Credential | null = null;
    #isAmbiguous = false;
    readonly #presented: Credential[];

    constructor(
        readonly policy: Policy,
        public carrier: Carrier,
    ) {
        const values = new Set(carrier.cookies(policy.cookie.name));
        this.#presented = [...values].flatMap((value) => Credential.parse(value) ?? []).slice(0, 4);
        this.#credential = this.#presented[0] ?? null;
        this.#state = this.#credential ? "unasked" : "none";
        this.#isAmbiguous = this.#presented.length > 1;
    }

    async get(touch: boolean): Promise<Record<string, unknown>> {
        return decodeFields(record.userFields(await this.#look(touch)));
    }

    async isAlive(): Promise<boolean> {
        return (await this.#look(false)) !== null;
    }

    async set(data: object): Promise<boolean> {
        const changed = encodeFields(data);
        if (this.#isAmbiguous) await this.#choose();
        // Whether it is the same user once more, the record says.
        if (this.policy.renewOn.some((name) => changed.has(name)) && !this.#seen) await this.#look(false);
        while (this.#state !== "over") {
            if (this.#current) {
                if (await this.#write(changed, [], [])) return true;
            } else if (!changed.size || (await this.#found(changed))) return true;
        }
        return this.#drop();
    }

    async update(change: (data: Record<string, unknown>) => void): Promise<boolean> {
        return this.#writeIfStillSo("updateSessionData", (fields) => {
            const before = record.userFields(fields);
            const data = decodeFields(before);
            const returned: unknown = change(data);
            if (returned !== undefined) throw new TypeError("change alters the data and returns nothing");
            const after = encodeFields(data);
            const changed = new Map([...after].filter(([name, text]) => !isSame(name, before.get(name), text)));
            const removed = [...before.keys()].filter((name) => !after.has(name));
            if (!changed.size && !removed.length) return null;
            return [changed, removed, [[STAMP, fields?.get(STAMP) ?? null]]];
        });
    }

    async replace(data: object, inPlace: boolean): Promise<boolean> {
        const changed = encodeFields(data);
        if (!inPlace) return this.#foundAnew(changed, null);
        return this.#writeIfStillSo("replaceSessionData", (fields) => {
            const removed = [...record.userFields(fields).keys()].filter((name) => !changed.has(name));
            return [changed, removed, [[STAMP, fields?.get(STAMP) ?? null]]];
        });
    }

    async logIn(owner: unknown, data: object): Promise<boolean> {
        if (typeof owner !== "string" || !owner.isWellFormed()) throw new TypeError("an owner is a user's id, as text");
        return this.#foundAnew(encodeFields(data), owner);
    }

    async pluck(name: string): Promise<unknown> {
        let text: string | undefined;
        const applied = await this.#writeIfStillSo("pluckSessionProperty", (fields) => {
            text = record.userFields(fields).get(name);
            return text === undefined ? null : [new Map(), [name], [[name, text]]];
        });
        return applied && text !== undefined ? decode(name, text) : null;
    }

    async renew(data: object | null): Promise<boolean> {
        const changed = data && encodeFields(data);
        for (;;) {
            const credential = this.#current;
            // A browser that lost the answer of its first log-in comes with the cookie from before it.
            if (!credential && (this.#state !== "over" || (changed && !this.#seenLive))) {
                if (!changed) return false;
                if (await this.#found(changed)) return true;
                continue;
            }
            if (!credential) return this.#drop();
            this.carrier.require();
            if (!this.#seen) {
                await this.#look(false);
                continue;
            }
            const fresh = (this.#swapping = Credential.found(credential.selector));
            const swap = new Map([...(changed ?? []), [DIGEST, fresh.digest]]);
            const former = `[${credential.digest},${record.number(now())}]`;
            // One that no browser has yet is not remembered: that would forget the one before.
            if (this.#presented.includes(credential)) swap.set(FORMER, former);
            if (!(await this.#write(swap, [], []))) continue;
            if (this.#credential === credential) this.#have(fresh, this.#seen);
            return true;
        }
    }

    /** End the session; return whether there was one that this request was entitled to end. */
    async destroy(): Promise<boolean> {
        if (this.#isAmbiguous) await this.#choose();
        for (let credential = this.#current; credential; credential = this.#current) {
            const outcome = await this.#mark(credential, [[DIGEST, credential.digest]]);
            if (outcome === "applied") return this.#hasEnded(credential);
            await this.#learn(credential, outcome);
        }
        const credential = this.#credential;
        // Who logs out while another request renews still logs out.
        const wasSwapped = this.#state === "over" && credential && (await this.#endSuccessor(credential));
        if (wasSwapped) return this.#hasEnded(credential);
        if (this.#state === "none" && credential) this.#forget();
        return false;
    }

    async csrfToken(scope: string): Promise<string> {
        this.carrier.keepFromCaches();
        await this.#look(true);
        if (this.#state === "none" || this.#state === "refused") await this.#found(new Map());
        return this.#state === "over" || !this.#credential ? junkToken() : this.#credential.issueToken(scope, now());
    }

    async hasCsrfToken(text: unknown, scope: string): Promise<boolean> {
        if (this.#isAmbiguous) await this.#choose();
        const credential = this.#current;
        if (typeof text !== "string" || !credential?.issued(text, scope)) return false;
        return (await this.#look(true)) !== null && this.#credential === credential;
    }

    // --- what there is

    /** The credential of the session, or the one that is not yet looked up. */
    get #current(): Credential | null {
        return this.#state === "live" || this.#state === "unasked" ? this.#credential : null;
    }

    async #look(touch: boolean, toWrite = false): Promise<Fields | null> {
        if (this.#isAmbiguous) await this.#choose();
        for (let credential = this.#current; credential; credential = this.#current) {
            const answer = await this.policy.store.get(credential.selector, [[DIGEST, credential.digest]], touch);
            if (typeof answer === "string") {
                await this.#learn(credential, answer);
                continue;
            }
            this.#move("held");
            if (this.#credential === credential) this.#seen = answer;
            if (touch && !toWrite) await this.#noteRead(credential, answer);
            return answer;
        }
        return null;
    }

    /** Renew the stamp of an owner's session after a read, once a minute: it tells when the session was seen. */
    async #noteRead(credential: Credential, fields: Fields): Promise<void> {
        if (!fields.has(OWNER) || Math.abs(now() - record.stampedAt(fields)) <= SEEN_SECONDS) return;
        const stamp = new Map([[STAMP, record.freshStamp(now())]]);
        const expect: Expect = [[STAMP, fields.get(STAMP) ?? null], [DIGEST, credential.digest]];
        // The read is what was asked for, and it was made.
        await this.policy.store.merge(credential.selector, stamp, [], expect).catch(() => undefined);
    }

    /** Look at the record that a credential names, without a touch, whether it opens it or not. */
    async #inspect(credential: Credential): Promise<Fields | null> {
        const answer = await this.policy.store.get(credential.selector, [], false);
        return typeof answer === "string" ? null : answer;
    }

    /** Find out what it means that the session is not as expected. */
    async #learn(credential: Credential, outcome: "missing" | "conflict"): Promise<void> {
        const fields = outcome === "missing" ? null : await this.#inspect(credential);
        // Another call of this request may have learnt it, or gone on, meanwhile.
        if (this.#current !== credential) return;
        if (this.#swapping && fields?.get(DIGEST) === this.#swapping.digest) this.#have(this.#swapping, fields);
        else this.#move(record.findingOf(credential, fields, now()));
    }

    #move(finding: Finding): void {
        if (finding === "held") this.#state = this.#state === "unasked" ? "live" : this.#state;
        else if (this.#state === "live" || finding === "ended" || finding === "swapped") this.#state = "over";
        else this.#state = finding === "gone" ? "none" : "refused";
        this.#seenLive ||= this.#state === "live";
        if (this.#state === "over") this.#seen = null;
    }

    /** Choose among several cookies the one that lives, if one does. */
    async #choose(): Promise<void> {
        const ask = async (one: Credential) => ({ one, is: record.findingOf(one, await this.#inspect(one), now()) });
        const found = await Promise.all(this.#presented.map(ask));
        if (!this.#isAmbiguous) return;
        this.#isAmbiguous = false;
        const living = found.filter(({ is }) => is === "held");
        const over = found.filter(({ is }) => is === "ended" || is === "swapped");
        const chosen = living.length ? (living.length > 1 ? undefined : living[0]) : over.at(-1);
        this.#credential = chosen?.one ?? this.#credential;
        this.#move(chosen?.is ?? "gone");
    }

    // --- the cookie

    /** Go on with a credential of this request's own making, of which the browser is to hear. */
    #have(credential: Credential, fields: Fields | null): void {
        this.#founding = this.#swapping = null;
        this.#state = "live";
        this.#seenLive = true;
        this.#credential = credential;
        this.#isAmbiguous = this.#dropped = false;
        this.#seen = fields;
        const [idle, asked, persistent] = fields ? record.lifeOf(fields) : [null, null, null];
        const absolute = asked ?? this.policy.absolute;
        const age = persistent ? Math.max(0, now() - record.timeOf(fields!, CREATED)) : 0;
        // To the deadline, so that it need not be sent again while the session slides.
        const kept = absolute === null ? (idle ?? this.policy.idle) : Math.max(absolute - age, 1);
        this.carrier.setCookie(this.policy.cookie, credential.value, persistent ? kept : 0);
    }

    #forget(): void {
        this.#state = "none";
        this.#credential = this.#seen = null;
        this.carrier.setCookie(this.policy.cookie, null, 0);
    }

    #requireNewCookie(): void {
        this.carrier.require();
        const { origin, cookie } = this.policy;
        // The browser may hold the cookie of a log-in, which a session founded now would push out.
        const isCrossSite = cookie.sameSite !== "none" && this.carrier.isCrossSite(origin);
        if (isCrossSite && !this.carrier.cookies(cookie.name).length) {
            throw new CookieWithheldError("another site sent this request: answer with a redirect (303) to a GET");
        }
    }

    // --- founding

    /** Found a session; return false where another write of this request founded it first. */
    async #found(changed: Map<string, string>): Promise<boolean> {
        this.#requireNewCookie();
        // Chosen before the first wait, so that two first writes of one request found one session.
        const credential = (this.#founding ??= Credential.found());
        const fields = await this.#setFirst(credential, changed).catch((error) => {
            this.#founding = null;
            throw error;
        });
        if (!fields && this.#credential?.selector !== credential.selector) await this.#requireOwn(credential);
        if (this.#founding === credential) this.#have(credential, fields);
        return fields !== null && this.#credential?.selector === credential.selector;
    }

    /** Found a session under a new selector, and then end the one before it: who hangs up between loses no log-in. */
    async #foundAnew(changed: Map<string, string>, owner: string | null): Promise<boolean> {
        this.#requireNewCookie();
        if (this.#isAmbiguous) await this.#choose();
        const before = this.#state === "none" || this.#state === "refused" ? null : this.#credential;
        const credential = Credential.found();
        const isLogIn = owner !== null || this.policy.renewOn.some((name) => (changed.get(name) ?? "null") !== "null");
        const own = new Map([...changed, ...(isLogIn ? [[AUTHENTICATED, record.number(now())] as const] : [])]);
        if (owner !== null) {
            own.set(OWNER, encode("owner", owner));
            await this.#enter(owner, credential.selector);
        }
        const fields = await this.#setFirst(credential, own);
        // All sessions of the owner were ended meanwhile, this one before it lived.
        if (!fields && (await this.#requireOwn(credential)) === "ended") return this.#drop();
        this.#have(credential, fields);
        const outcome = before && (await this.#mark(before, [[DIGEST, before.digest]]));
        if (outcome === "conflict") await this.#endSuccessor(before!);
        return true;
    }

    async #setFirst(credential: Credential, changed: Map<string, string>): Promise<Fields | null> {
        const [created, stamp] = [record.number(now()), record.freshStamp(now())];
        const fields = new Map([...changed, [DIGEST, credential.digest], [CREATED, created], [STAMP, stamp]]);
        const lifetime = { idle: this.policy.idle, remaining: this.policy.absolute };
        return (await this.policy.store.set(credential.selector, fields, lifetime)) === "applied" ? fields : null;
    }

    async #requireOwn(credential: Credential): Promise<Finding> {
        const finding = record.findingOf(credential, await this.#inspect(credential), now());
        if (finding !== "held" && finding !== "ended") throw new StoreError("a fresh key is in use");
        return finding;
    }

    /** List a session that is about to live: whoever ends all sessions of the owner now ends this one too. */
    async #enter(owner: string, selector: string): Promise<void> {
        const { store, absolute } = this.policy;
        const key = ownerKey(owner);
        let idle = absolute ?? LONGEST_LIFE;
        let longest: string | null = record.number(idle);
        for (const pause = pauses("logIn"); ; await pause()) {
            const [time, stamp] = [record.number(now()), record.freshStamp(now())];
            const entry = new Map([[selector, time], [LONGEST, record.number(idle)], [STAMP, stamp]]);
            const lifetime = { idle, remaining: null };
            let outcome = await store.merge(key, entry, [], [[LONGEST, longest]], lifetime);
            if (outcome === "missing") {
                outcome = await store.set(key, entry.set(OWNER, encode("owner", owner)), lifetime);
            }
            if (outcome === "applied") return;
            const index = await store.get(key, [], false);
            longest = typeof index === "string" ? null : (index.get(LONGEST) ?? null);
            idle = Math.max(idle, Number(longest));
        }
    }

    // --- writing and ending

    /** Write and remove some fields if the record is as expected, and still this credential's. */
    async #write(...[changed, removed, expect]: Draft): Promise<boolean> {
        const credential = this.#credential!;
        const stamped = new Map([...changed, [STAMP, record.freshStamp(now())]]);
        const dropped = new Set(removed);
        const changesUser = (name: string) => {
            const was = this.#seen?.get(name) ?? "null";
            const will = changed.get(name);
            const isOther = will !== undefined && was !== "null" && !isSame(name, was, will);
            return isOther || will === "null" || dropped.has(name);
        };
        // Whoever comes next has proved nothing.
        if (this.policy.renewOn.some(changesUser)) dropped.add(AUTHENTICATED);
        const own: Expect = [...expect, [DIGEST, credential.digest]];
        const outcome = await this.policy.store.merge(credential.selector, stamped, dropped, own);
        if (outcome === "applied") {
            this.#move("held");
            if (this.#credential === credential && this.#seen) {
                this.#seen = new Map([...this.#seen, ...stamped].filter(([name]) => !dropped.has(name)));
            }
            return true;
        }
        if (outcome === "missing" || !expect.length) await this.#learn(credential, outcome);
        return false;
    }

    /** Read, decide, write if what was read is still so; else pause, and do so again. */
    async #writeIfStillSo(name: string, decide: (fields: Fields | null) => Draft | null): Promise<boolean> {
        for (const pause = pauses(name); ; await pause()) {
            const fields = await this.#look(true, true);
            if (this.#state === "over") return this.#drop();
            const draft = decide(fields);
            if (!draft) {
                if (fields && this.#credential) await this.#noteRead(this.#credential, fields);
                return true;
            }
            if (fields ? await this.#write(...draft) : await this.#found(draft[0])) return true;
        }
    }

    /** Give up a write to a session that ended meanwhile: once said. */
    #drop(): false {
        if (!this.#dropped && this.#credential) this.policy.onDroppedWrite(shortDigest(this.#credential.selector));
        this.#dropped = true;
        return false;
    }

    /** End the session whose cookie was swapped out from under this one within the minute. */
    async #endSuccessor(credential: Credential): Promise<boolean> {
        const fields = await this.#inspect(credential);
        if (!fields || record.findingOf(credential, fields, now()) !== "swapped") return false;
        const expect: Expect = [DIGEST, FORMER].map((name) => [name, fields.get(name)!]);
        return (await this.#mark(credential, expect)) === "applied";
    }

    /** Leave the mark that a late write meets. */
    #mark(credential: Credential, expect: Expect) {
        const lifetime = { idle: record.MARK_SECONDS, remaining: record.MARK_SECONDS };
        return this.policy.store.set(credential.selector, new Map([[ENDED, record.number(now())]]), lifetime, expect);
    }

    #hasEnded(credential: Credential): true {
        if (this.#credential === credential) this.#forget();
        return true;
    }
}

/** Return what waits a little before a further try, and raises `ConflictError` when the time is over. */
function pauses(name: string): () => Promise<void> {
    const end = now() + UPDATE_SECONDS;
    let longest = 0.001;
    return async () => {
        if (now() > end) throw new ConflictError(`${name} met other writers for too long; calling again is safe`);
        await new Promise((resume) => setTimeout(resume, 1000 * longest * Math.random()));
        longest = Math.min(2 * longest, LONGEST_PAUSE);
    };
}
