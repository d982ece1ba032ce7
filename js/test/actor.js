// Takes steps of a scenario, a line of JSON each, and answers what they gave: `node actor.js FORM URL`.
// FORM is ours, or next-server-session, the package itself in its own layout.
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const [form, url] = process.argv.slice(2);
const requests = new Map();

function requestOf({ request, cookie, method = "GET", headers = {}, isAlone }) {
    const known = requests.get(request);
    if (known) return known;
    const set = new Map();
    const req = { headers: { ...headers, host: "shop.example", ...(cookie && { cookie }) }, method, socket: {} };
    const res = {
        headersSent: false,
        getHeader: (name) => set.get(name.toLowerCase()),
        setHeader: (name, value) => set.set(name.toLowerCase(), value),
        json: true,
    };
    const made = { carrier: isAlone ? [req] : [req, res], cookies: () => [set.get("set-cookie") ?? []].flat() };
    requests.set(request, made);
    return made;
}

async function ours() {
    const { Sessions } = await import("../dist/index.js");
    const { decode, decodeFields, encode } = await import("../dist/codec.js");
    const sessions = new Sessions({ redis: url, timeout: 120 });
    const read = (value) => decode("", JSON.stringify(value));
    const data = (value) => decodeFields(new Map(Object.entries(value).map(([name, item]) => [name, JSON.stringify(item)])));
    const wrote = (found) => Object.fromEntries(Object.entries(found).map(([name, item]) => [name, JSON.parse(encode(name, item))]));
    return {
        get: async (on) => wrote(await sessions.getSessionData(...on)),
        look: async (on) => wrote(await sessions.getSessionData(...on, { touch: false })),
        alive: (on) => sessions.isAlive(...on),
        set: (on, value) => sessions.setSessionData(...on, data(value)),
        add: (on, name, number) => sessions.updateSessionData(...on, (held) => void (held[name] = (held[name] ?? 0) + number)),
        copy: (on, from, to) => sessions.updateSessionData(...on, (held) => void (held[to] = held[from])),
        remove: (on, name) => sessions.updateSessionData(...on, (held) => void delete held[name]),
        replace: (on, value) => sessions.replaceSessionData(...on, data(value)),
        reset: (on, value) => sessions.replaceSessionData(...on, data(value), { inPlace: true }),
        "log in": (on, owner, value) => sessions.logIn(...on, owner, data(value)),
        pluck: async (on, name) => JSON.parse(encode(name, await sessions.pluckSessionProperty(...on, name))),
        renew: (on, value) => sessions.renewSession(...on, ...(value ? [data(value)] : [])),
        destroy: (on) => sessions.destroySession(...on),
        token: (on, scope) => sessions.getCSRFToken(...on, { scope }),
        validate: (on, token, scope) => sessions.validateCSRFToken(...on, read(token), { scope }),
    };
}

async function theirs() {
    const require = createRequire(import.meta.url);
    const sessions = require("next-server-session");
    const { createRedisSessionStore } = require("next-server-session/dist/redisSessionStore");
    const { hostname, port } = new URL(url);
    const store = createRedisSessionStore(30 * 60 * 1000, hostname, Number(port), 0);
    sessions.configure({ sessionStore: store });
    const done = (answer) => answer ?? true;
    return {
        get: (on) => sessions.getSessionData(...on),
        set: async (on, data) => done(await sessions.setSessionData(...on, data)),
        replace: async (on, data) => done(await sessions.replaceSessionData(...on, data)),
        pluck: (on, name) => sessions.pluckSessionProperty(...on, name),
        // As of a request that had looked its session up before that ended.
        "merge late": async ([{ headers }], data) => done(await store.merge(headers.cookie.split("=")[1], data)),
        destroy: async (on) => done(await sessions.destroySession(...on)),
        token: (on) => sessions.getCSRFToken(...on),
        validate: (on, token) => sessions.validateCSRFToken(...on, token),
    };
}

const verbs = await (form === "ours" ? ours() : theirs());
for await (const line of createInterface({ input: process.stdin })) {
    const step = JSON.parse(line);
    const { carrier, cookies } = requestOf(step);
    const answer = (outcome) => console.log(JSON.stringify({ number: step.number, cookies: cookies(), ...outcome }));
    Promise.resolve(carrier)
        .then((on) => verbs[step.do](on, ...step.with))
        .then((gives) => answer({ gives }), (error) => answer({ raises: error.name, why: String(error.stack) }));
}
process.exit();
