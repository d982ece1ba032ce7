// Where a request's cookie comes from and where an answer's goes: Node.js, the Web's Request, Next's cookies().
import type { IncomingMessage, ServerResponse } from "node:http";
import { NoResponseError } from "./errors.js";

/** The session's cookie; its name and `secure` follow from `origin` where they are not given. */
export interface CookieSettings {
    name: string;
    path: string;
    domain?: string;
    secure?: boolean;
    sameSite: "lax" | "strict" | "none";
}
export type CookieAttributes = Partial<CookieSettings>;

type WebRequest = { headers: Headers; method?: string; url?: string };
type WebResponse = { headers: Headers };
/** What `await cookies()` of `next/headers` is. */
export type CookieStore = {
    getAll(name: string): { value: string }[];
    set(name: string, value: string, attributes: Record<string, unknown>): unknown;
};
export type RequestLike = IncomingMessage | WebRequest;
export type ResponseLike = ServerResponse | WebResponse;
/** What bears both: the context of `getServerSideProps`, and Next's cookies(). */
export type Context = { req: RequestLike; res: ResponseLike } | CookieStore;
/** A function's arguments: where the session is, and what is asked of it. */
export type Args<Rest extends unknown[]> =
    | [context: Context | RequestLike, ...rest: Rest]
    | [request: RequestLike, response: ResponseLike, ...rest: Rest];

const SAFE = ["GET", "HEAD", "OPTIONS"];
const PAST = "; Max-Age=0";
const LONGEST = 400 * 24 * 60 * 60;
// By which one CDN or another would keep what belongs to one visitor.
const CDN_HEADERS = [
    ...["cdn-cache-control", "surrogate-control", "cloudflare-cdn-cache-control", "vercel-cdn-cache-control"],
    ...["netlify-cdn-cache-control", "akamai-cache-control", "edge-control", "x-accel-expires"],
];

/** A request and its response, if there is one. */
export class Carrier {
    constructor(
        readonly source: RequestLike | CookieStore,
        readonly response: ResponseLike | null,
    ) {}

    /** Return the carrier that a function's arguments begin with, and the rest of them. */
    static split(args: readonly unknown[]): [Carrier, unknown[]] {
        const [first, second, ...rest] = args as [Context | RequestLike, unknown, ...unknown[]];
        const after = args.slice(1);
        if (typeof first === "object" && first !== null) {
            if ("req" in first && "res" in first) return [new Carrier(first.req, first.res), after];
            if ("headers" in first && isResponse(second)) return [new Carrier(first, second), rest];
            if ("headers" in first) return [new Carrier(first, null), after];
            if ("getAll" in first) return [new Carrier(first, null), after];
        }
        throw new TypeError("the first argument is a request, a context with req and res, or what cookies() returned");
    }

    /** Return the values of the cookies of this name, as they came. */
    cookies(name: string): string[] {
        if ("getAll" in this.source) return this.source.getAll(name).map(({ value }) => value);
        const pairs = (this.#header("cookie") ?? "").split(";").map((pair) => pair.split("=").map(trimmed));
        return pairs.flatMap(([key, value, ...more]) => (key === name && !more.length ? (value ?? []) : []));
    }

    /** Tell whether a site other than our own sent this unsafe request, with which no `SameSite=Lax` cookie comes. */
    isCrossSite(own: string | undefined): boolean {
        if ("getAll" in this.source || SAFE.includes(this.source.method ?? "GET")) return false;
        const [site, origin] = [this.#header("sec-fetch-site"), this.#header("origin")];
        if (site) return site.includes("cross-site");
        if (origin === undefined || origin === own) return false;
        return own !== undefined || !origin.endsWith(`//${this.#header("host")}`);
    }

    /** Raise what forbids to set a cookie. */
    require(): void {
        const { response } = this;
        if (response && "headersSent" in response && response.headersSent) {
            throw new NoResponseError("this write needs a new cookie, and the response has started");
        }
        if (!response && !("getAll" in this.source)) {
            throw new NoResponseError("this write needs a cookie: pass the response after the request");
        }
    }

    /** Put a cookie of this session onto the response, `null` to expire it, for so many seconds or until it closes. */
    setCookie(settings: CookieSettings, value: string | null, seconds: number): void {
        const { name, path, domain, sameSite } = settings;
        const secure = settings.secure ?? this.#isSecure;
        const age = Math.min(Math.ceil(seconds), LONGEST);
        if ("getAll" in this.source) {
            const kept = value === null ? { maxAge: 0 } : age ? { maxAge: age } : {};
            const place = { path, ...(domain ? { domain } : {}) };
            this.source.set(name, value ?? "", { ...place, sameSite, secure, httpOnly: true, ...kept });
            return;
        }
        const place = `${domain ? `; Domain=${domain}` : ""}; Path=${path}`;
        const life = value === null ? PAST : age ? `; Max-Age=${age}` : "";
        const end = `${secure ? "; Secure" : ""}; HttpOnly; SameSite=${sameSite[0]!.toUpperCase()}${sameSite.slice(1)}`;
        const line = `${name}=${value ?? ""}${place}${life}${end}`;
        this.#change("set-cookie", (lines) => [...lines.filter((other) => !other.startsWith(`${name}=`)), line]);
        this.keepFromCaches();
    }

    /** Say that no shared cache may keep the response. */
    keepFromCaches(): void {
        for (const name of CDN_HEADERS) this.#change(name, () => []);
        this.#change("cache-control", () => ["private, no-store"]);
        this.varyOnCookie();
    }

    /** Say that the response is another to another visitor, unless it has started. */
    varyOnCookie(): void {
        const { response } = this;
        if (response && "headersSent" in response && response.headersSent) return;
        this.#change("vary", (lines) => {
            const names = lines.join(", ");
            return /(^|[ ,])(cookie|\*)([ ,]|$)/i.test(names) ? [names] : [[...lines, "Cookie"].join(", ")];
        });
    }

    #header(name: string): string | undefined {
        if ("getAll" in this.source) return undefined;
        const { headers } = this.source;
        const value = headers instanceof Headers ? headers.get(name) : headers[name];
        return Array.isArray(value) ? value.join(", ") : (value ?? undefined);
    }

    get #isSecure(): boolean {
        if ("getAll" in this.source) return false;
        const { source } = this;
        return "socket" in source ? "encrypted" in source.socket : (source.url ?? "").startsWith("https:");
    }

    #change(name: string, change: (lines: string[]) => string[]): void {
        const { response } = this;
        if (!response) return;
        if ("setHeader" in response) {
            const was = [response.getHeader(name) ?? []].flat().map(String);
            const lines = change(was);
            if (lines.length) response.setHeader(name, lines.length === 1 ? lines[0]! : lines);
            else if (was.length) response.removeHeader(name);
            return;
        }
        const { headers } = response;
        const lines = change(name === "set-cookie" ? headers.getSetCookie() : [headers.get(name) ?? []].flat());
        headers.delete(name);
        for (const line of lines) headers.append(name, line);
    }
}

/** Trim space and tab alone, and decode nothing: as a browser checks a name's prefix. */
function trimmed(text: string): string {
    let [start, end] = [0, text.length];
    while (text[start] === " " || text[start] === "\t") start++;
    while (end > start && (text[end - 1] === " " || text[end - 1] === "\t")) end--;
    return text.slice(start, end);
}

function isResponse(value: unknown): value is ResponseLike {
    if (typeof value !== "object" || value === null) return false;
    return "setHeader" in value || ("headers" in value && value.headers instanceof Headers);
}
