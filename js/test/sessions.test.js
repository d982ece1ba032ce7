import assert from "node:assert/strict";
import { createServer } from "node:net";
import test from "node:test";
import { createClient } from "redis";
import { CookieWithheldError, NoResponseError, RecordError, Sessions, StoreError } from "../dist/index.js";

const url = process.env.REDIS;
const skip = url ? false : "REDIS names no server";
const sessions = () => new Sessions({ redis: url, timeout: 120, onDroppedWrite: () => undefined });
const valueOf = (line) => /^([^=]+=[^;]*)/.exec(line)[1];

function web(cookie, options = {}) {
    return [new Request("https://shop.example/", { headers: { ...(cookie && { cookie }), ...options.headers }, ...options }), { headers: new Headers() }];
}

test("a request and a response of the Web", { skip }, async () => {
    const served = sessions();
    const [request, response] = web(null);
    response.headers.append("set-cookie", "theme=dark");
    response.headers.set("vary", "Accept");
    response.headers.set("cache-control", "public");
    await served.setSessionData(request, response, { user: "ada" });
    assert.deepEqual(await served.getSessionData(request), { user: "ada" });
    const [theme, cookie] = response.headers.getSetCookie();
    assert.equal(theme, "theme=dark");
    assert.match(cookie, /^session=[\w-]{64}; Path=\/; Secure; HttpOnly; SameSite=Lax$/);
    assert.equal(response.headers.get("vary"), "Accept, Cookie");
    assert.equal(response.headers.get("cache-control"), "private, no-store");
    // One cookie, however often it changes in one response.
    await served.renewSession(request, response);
    assert.equal(response.headers.getSetCookie().length, 2);
    const other = web(valueOf(response.headers.getSetCookie()[1]));
    assert.deepEqual(await served.getSessionData(...other), { user: "ada" });
    assert.deepEqual(other[1].headers.getSetCookie(), []);
    assert.deepEqual(await served.getSessionData(...web(valueOf(cookie))), {});
});

test("an answer that a session was looked at for varies on the cookie", { skip }, async () => {
    const served = sessions();
    for (const ask of [served.getSessionData, served.isAlive, (...on) => served.validateCSRFToken(...on, "x")]) {
        const [request, response] = web();
        response.headers.set("vary", "Accept");
        await ask(request, response);
        await ask(request, response);
        assert.equal(response.headers.get("vary"), "Accept, Cookie");
        assert.equal(response.headers.get("cache-control"), null);
        const sent = { headersSent: true, setHeader: () => assert.fail(), getHeader: () => undefined };
        await ask({ headers: {}, method: "GET" }, sent);
    }
});

test("no CDN's own header keeps an answer with a token or a cookie", { skip }, async () => {
    const [request, response] = web();
    for (const name of ["CDN-Cache-Control", "Surrogate-Control", "X-Accel-Expires"]) response.headers.set(name, "max-age=9");
    await sessions().getCSRFToken(request, response);
    assert.deepEqual([...response.headers.keys()].sort(), ["cache-control", "set-cookie", "vary"]);
    const set = new Map([["vercel-cdn-cache-control", "max-age=9"]]);
    const node = {
        headersSent: false,
        getHeader: (name) => set.get(name),
        setHeader: (name, value) => set.set(name, value),
        removeHeader: (name) => set.delete(name),
    };
    await sessions().setSessionData({ headers: {}, method: "GET", socket: {} }, node, { a: 1 });
    assert.deepEqual([...set.keys()].sort(), ["cache-control", "set-cookie", "vary"]);
});

test("what Next's cookies() returns", { skip }, async () => {
    const served = new Sessions({ redis: url, timeout: 120, origin: "https://shop.example" });
    const set = [];
    const store = { getAll: () => [], set: (...words) => set.push(words) };
    await served.logIn(store, "ada", { user: "ada" });
    const [[name, value, attributes]] = set;
    assert.equal(name, "__Host-session");
    assert.deepEqual(attributes, { path: "/", sameSite: "lax", secure: true, httpOnly: true });
    const next = { getAll: (asked) => [{ value: asked === name ? value : "" }], set: (...words) => set.push(words) };
    assert.deepEqual(await served.getSessionData(next), { user: "ada" });
    assert.equal(await served.destroySession(next), true);
    assert.deepEqual(set[1], [name, "", { ...attributes, maxAge: 0 }]);
});

test("no cookie where none can be set, or another site sent the request", { skip }, async () => {
    const served = sessions();
    const sent = { headersSent: true, setHeader: () => assert.fail(), getHeader: () => undefined };
    await assert.rejects(served.setSessionData({ headers: {}, method: "GET" }, sent, { a: 1 }), NoResponseError);
    await assert.rejects(served.setSessionData(web()[0], { a: 1 }), NoResponseError);
    const forged = web(null, { method: "POST", headers: { "sec-fetch-site": "cross-site" } });
    await assert.rejects(served.getCSRFToken(...forged), CookieWithheldError);
    const behind = { method: "POST", headers: { host: "inside:3000", origin: "https://shop.example" } };
    const known = new Sessions({ redis: url, timeout: 120, origin: "https://shop.example" });
    assert.equal(await known.setSessionData(...web(null, behind), { a: 1 }), true);
    await assert.rejects(served.setSessionData(...web(null, behind), { a: 1 }), CookieWithheldError);
    for (const first of [undefined, null, {}, "cookie", 1]) await assert.rejects(served.getSessionData(first), TypeError);
});

test("a cookie is read as a browser has checked its name, and quickly", { skip }, async () => {
    const served = sessions();
    const [request, response] = web();
    await served.setSessionData(request, response, { user: "ada" });
    const cookie = valueOf(response.headers.getSetCookie()[0]);
    const read = (header) => served.getSessionData({ headers: { cookie: header }, method: "GET", socket: {} });
    for (const header of [` \t${cookie}\t `, `a; =; ${cookie}`, cookie.replace("=", " = ")]) assert.deepEqual(await read(header), { user: "ada" });
    const forms = [`\u00a0${cookie}`, `"${cookie}"`, cookie.replace("=", '="') + '"', `Session${cookie.slice(7)}`, `${cookie}=`, `${cookie}\u00a0`];
    for (const header of forms) assert.deepEqual(await read(header), {});
    await read(`${" ".repeat(1e6)}x`);
});

test("an encrypted record is an error, and nothing is founded beside it", { skip }, async () => {
    const served = sessions();
    const [request, response] = web();
    await served.setSessionData(request, response, { user: "ada" });
    const cookie = valueOf(response.headers.getSetCookie()[0]);
    const client = await createClient({ url }).connect();
    await client.hSet(`session:${cookie.slice(8, 32)}`, "\0digest", "\x01sealed");
    for (const ask of ["getSessionData", "destroySession", "getCSRFToken"]) await assert.rejects(served[ask](...web(cookie)), RecordError);
    await assert.rejects(served.setSessionData(...web(cookie), { user: "eve" }), RecordError);
    await client.close();
});

test("a client that is given serves too, and a script that the server has lost is sent again", { skip }, async () => {
    const client = await createClient({ url }).connect();
    const served = new Sessions({ redis: client, timeout: 120 });
    const [request, response] = web();
    await client.scriptFlush();
    await served.setSessionData(request, response, { n: 1 });
    await client.scriptFlush();
    assert.deepEqual(await served.getSessionData(...web(valueOf(response.headers.getSetCookie()[0]))), { n: 1 });
    await client.close();
});

test("first writes at once in one request found one session, and leave no other", { skip }, async () => {
    const client = await createClient({ url }).connect();
    const keys = new Set();
    const sendCommand = (words, options) => (keys.add(words[3]), client.sendCommand(words, options));
    const served = new Sessions({ redis: { sendCommand }, timeout: 120 });
    const on = web();
    const applied = await Promise.all([1, 2, 3].map((n) => served.setSessionData(...on, { [`n${n}`]: n })));
    assert.deepEqual(applied, [true, true, true]);
    assert.equal(keys.size, 1);
    assert.deepEqual(await served.getSessionData(...on), { n1: 1, n2: 2, n3: 3 });
    await client.close();
});

test("a server that is silent, or is not there, is an error within the limit", async () => {
    const silent = createServer(() => undefined).listen(0, "127.0.0.1");
    await new Promise((resume) => silent.once("listening", resume));
    const { port } = silent.address();
    const cookie = `session=${"A".repeat(64)}`;
    for (const redis of [`redis://127.0.0.1:${port}`, { sendCommand: () => new Promise(() => undefined) }]) {
        const served = new Sessions({ redis, timeout: 0.2 });
        await assert.rejects(served.getSessionData(...web(cookie)), StoreError);
        assert.deepEqual(await served.getSessionData(...web()), {});
    }
    silent.close();
    const gone = new Sessions({ redis: { sendCommand: async () => { throw new Error("ECONNREFUSED"); } } });
    await assert.rejects(gone.setSessionData(...web(), { a: 1 }), StoreError);
    const nobody = new Sessions({ redis: `redis://127.0.0.1:${port}`, timeout: 0.2 });
    await assert.rejects(nobody.setSessionData(...web(), { a: 1 }), { message: /not within 0.2 s: connect ECONNREFUSED/ });
});

test.after(() => setTimeout(() => process.exit(), 100));
