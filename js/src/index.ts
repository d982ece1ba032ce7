import { Carrier } from "./carrier.js";
import type { Args, CookieAttributes } from "./carrier.js";
import { Store } from "./store.js";
import type { RedisClient } from "./store.js";
import { Visit } from "./visit.js";
import type { Policy } from "./visit.js";

export { Tagged } from "./codec.js";
export * from "./errors.js";
export type { Args, Context, CookieAttributes, CookieStore, RequestLike, ResponseLike } from "./carrier.js";
export type { RedisClient } from "./store.js";

/** The Python side's. */
const RENEW_ON = ["user", "user_id", "_user_id", "_auth_user_id", "auth.userid", "identity.id", "AIOHTTP_SECURITY"];

/** A session's data. */
export type Data = Record<string, unknown>;

/** What is configured; each is to say the same as the Python side's. Times in seconds. */
export interface Settings {
    /** A client of `redis`, connected, or the server's URL. */
    redis: RedisClient | string;
    /** What each key begins with; `session:` by default. */
    prefix?: string;
    /** Where the application lives in public: Secure and the cookie's `__Host-` follow from it. */
    origin?: string;
    cookie?: CookieAttributes;
    /** The idle time-out: 30 minutes by default. */
    maxAge?: number;
    /** The age at which a session ends: 30 days by default, `null` for none. */
    absoluteMaxAge?: number | null;
    /** Keys whose writing means log-in. */
    renewOn?: readonly string[];
    /** For how long Redis may take to answer: 2 seconds by default. */
    timeout?: number;
    /** Told of a write to a session that ended meanwhile, with a short digest that names it; by default a warning. */
    onDroppedWrite?: (session: string) => void;
}

/**
 * The functions over one Redis and one cookie. Each begins with where the session is: a request and its response, a
 * context that has both, or what Next's `await cookies()` returned. What writes returns false if the session ended
 * meanwhile.
 */
export class Sessions {
    readonly #policy: Policy;
    readonly #visits = new WeakMap<object, Visit>();

    constructor(settings: Settings) {
        const { redis, prefix = "session:", timeout = 2, cookie = {}, origin } = settings;
        const isHttps = origin?.startsWith("https:");
        const isHost = isHttps && (cookie.path ?? "/") === "/" && cookie.domain === undefined;
        const name = cookie.name ?? (isHost ? "__Host-session" : isHttps ? "__Secure-session" : "session");
        const secure = origin === undefined ? {} : { secure: isHttps === true };
        this.#policy = {
            store: new Store(redis, prefix, timeout),
            cookie: { path: "/", sameSite: "lax", ...secure, ...cookie, name },
            origin,
            idle: settings.maxAge ?? 30 * 60,
            absolute: settings.absoluteMaxAge === undefined ? 30 * 24 * 60 * 60 : settings.absoluteMaxAge,
            renewOn: settings.renewOn ?? RENEW_ON,
            onDroppedWrite: settings.onDroppedWrite ?? warn,
        };
    }

    /** Return the data, `{}` without a session; never makes one, nor sets a cookie. */
    getSessionData = <T = Data>(...args: Args<[options?: { touch?: boolean }]>) =>
        this.#on<[{ touch?: boolean }?], T>(args, (visit, options) => visit.get(options?.touch ?? true) as Promise<T>);

    /** Tell whether the session lives, without restarting its idle clock. */
    isAlive = (...args: Args<[]>) => this.#on<[], boolean>(args, (visit) => visit.isAlive());

    /** Merge top-level keys, atomically; make a session and its cookie if there is none. */
    setSessionData = (...args: Args<[data: object]>) =>
        this.#on<[object], boolean>(args, (visit, data) => visit.set(data));

    /** Let `change` alter the data, and store that if what it read is still so; else again, for at most 2 seconds. */
    updateSessionData = (...args: Args<[change: (data: Data) => void]>) =>
        this.#on<[(data: Data) => void], boolean>(args, (visit, change) => visit.update(change));

    /** Replace all data, in a session founded anew; with `inPlace` in the same one. */
    replaceSessionData = (...args: Args<[data: object, options?: { inPlace?: boolean }]>) =>
        this.#on<[object, { inPlace?: boolean }?], boolean>(args, (visit, data, options) =>
            visit.replace(data, options?.inPlace ?? false),
        );

    /** Replace all data in a session founded anew, and record whose it is and that they logged in. */
    logIn = (...args: Args<[owner: string, data?: object]>) =>
        this.#on<[string, object?], boolean>(args, (visit, owner, data) => visit.logIn(owner, data ?? {}));

    /** Remove one key and return its value, or `null`; of several callers exactly one gets it. */
    pluckSessionProperty = <T = unknown>(...args: Args<[name: string]>) =>
        this.#on<[string], T | null>(args, (visit, name) => visit.pluck(name) as Promise<T | null>);

    /** Give the session a new cookie, and merge data in the same step; call it on any change of privilege. */
    renewSession = (...args: Args<[data?: object]>) =>
        this.#on<[object?], boolean>(args, (visit, data) => visit.renew(data ?? null));

    /** End the session and expire its cookie: log-out. Return whether there was one to end. */
    destroySession = (...args: Args<[]>) => this.#on<[], boolean>(args, (visit) => visit.destroy());

    /** Return a fresh token for a form; make a session if there is none. `scope` is `"POST /path"`, of one form. */
    getCSRFToken = (...args: Args<[options?: { scope?: string }]>) =>
        this.#on<[{ scope?: string }?], string>(args, (visit, options) => visit.csrfToken(options?.scope ?? ""));

    /** Tell whether a token was issued to this session, by either side. Anything else is false, never an error. */
    validateCSRFToken = (...args: Args<[token: unknown, options?: { scope?: string }]>) =>
        this.#on<[unknown, { scope?: string }?], boolean>(args, (visit, token, options) =>
            visit.hasCsrfToken(token, options?.scope ?? ""),
        );

    async #on<Rest extends unknown[], T>(args: unknown[], ask: (visit: Visit, ...rest: Rest) => Promise<T>) {
        const [carrier, rest] = Carrier.split(args);
        // All calls of one request are one visit: what one founds or ends, the next knows.
        const visit = this.#visits.get(carrier.source) ?? new Visit(this.#policy, carrier);
        if (carrier.response) visit.carrier = carrier;
        carrier.varyOnCookie();
        this.#visits.set(carrier.source, visit);
        return ask(visit, ...(rest as Rest));
    }
}

function warn(session: string): void {
    console.warn(`server-session: a write was dropped: its session ended or was renewed meanwhile (${session})`);
}

let configured: Sessions | undefined;

/** Configure the sessions that the functions serve; call it once, where the server starts. */
export function configure(settings: Settings): Sessions {
    return (configured = new Sessions(settings));
}

const served = new Proxy({} as Sessions, {
    get: (_, name) => (...args: unknown[]) => {
        if (!configured) throw new TypeError("server-session: call configure() where the server starts");
        return (configured[name as keyof Sessions] as (...args: unknown[]) => unknown)(...args);
    },
});

export const { getSessionData, setSessionData, updateSessionData, replaceSessionData, logIn } = served;
export const { pluckSessionProperty, renewSession, destroySession, isAlive, getCSRFToken, validateCSRFToken } = served;
