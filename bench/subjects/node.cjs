// The applications that run under Node.js, and their worker: as bench/worker.py, in the same words over the same pipes.
// node node.cjs FOLDER-OF-MODULES APPLICATION [PORT]: with a port the application is served there instead.
"use strict";

const http = require("http");
const path = require("path");
const { Duplex } = require("stream");

const [modules, application, port] = process.argv.slice(2);
const load = (name) => require(path.join(modules, name));
const express = load("express");

const KEY = "key5";
const VALUES = Object.fromEntries([...Array(10).keys()].map((n) => [`key${n}`, String(n).repeat(100)]));
const AGE = 30 * 60 * 1000;
const VISITORS = 32;
let written = 0;
const nextValue = () => String(++written).padStart(100, "0");

function textual(app, page, respond, method = "get") {
    app[method](page, async (req, res) => res.type("text").send(await respond(req, res)));
}

const APPLICATIONS = {
    bare(app) {
        for (const page of ["/read", "/write", "/first", "/token"]) textual(app, page, () => "ok");
        textual(app, "/check", () => "ok", "post");
    },

    "express-session"(app) {
        const settings = { secret: "k".repeat(32), resave: false, saveUninitialized: false, cookie: { maxAge: AGE } };
        const store = new (load("express-session").MemoryStore)();
        app.use(load("express-session")({ ...settings, store }));
        textual(app, "/read", (req) => req.session[KEY]);
        textual(app, "/write", (req) => (req.session[KEY] = nextValue()));
        textual(app, "/first", (req) => Object.assign(req.session, VALUES) && "ok");
    },

    "next-server-session"(app) {
        const sessions = load("next-server-session");
        sessions.configure({ sessionStore: sessions.createMemorySessionStore(AGE) });
        textual(app, "/read", async (req, res) => (await sessions.getSessionData(req, res))[KEY]);
        textual(app, "/write", async (req, res) => {
            const value = nextValue();
            await sessions.setSessionData(req, res, { [KEY]: value });
            return value;
        });
        textual(app, "/first", async (req, res) => {
            await sessions.setSessionData(req, res, { ...VALUES });
            return "ok";
        });
        textual(app, "/token", (req, res) => sessions.getCSRFToken(req, res));
        textual(
            app,
            "/check",
            async (req, res) => {
                const passes = await sessions.validateCSRFToken(req, res, req.headers["x-csrf-token"]);
                if (!passes) res.status(403);
                return passes ? "ok" : "no";
            },
            "post",
        );
    },
};

const app = express();
app.disable("x-powered-by");
app.disable("etag");
// On the way of every request, as sessions are that a middleware brings.
if (application === "bare") textual(app, "/untouched", () => "ok");
APPLICATIONS[application](app);
if (application !== "bare") textual(app, "/untouched", () => "ok");

const PATHS = {
    "no-cookie": "/untouched",
    untouched: "/untouched",
    read: "/read",
    write: "/write",
    first: "/first",
    token: "/token",
    check: "/check",
};

function prepared(kind, visitor) {
    const chunks = [];
    const socket = new Duplex({ read() {}, write: (chunk, _, done) => (chunks.push(chunk), done()) });
    socket.remoteAddress = "127.0.0.1";
    const req = new http.IncomingMessage(socket);
    Object.assign(req, { method: kind === "check" ? "POST" : "GET", url: PATHS[kind], httpVersion: "1.1" });
    req.httpVersionMajor = req.httpVersionMinor = 1;
    req.headers = { host: "shop.example" };
    if (visitor.cookie && kind !== "no-cookie" && kind !== "first") req.headers.cookie = visitor.cookie;
    if (kind === "check") req.headers["x-csrf-token"] = visitor.token;
    req.push(null);
    const res = new http.ServerResponse(req);
    res.assignSocket(socket);
    return { req, res, chunks };
}

const made = ({ req, res }) =>
    new Promise((resolve) => {
        res.once("finish", resolve);
        app(req, res);
    });

async function ask(kind, visitor) {
    const request = prepared(kind, visitor);
    await made(request);
    const cookies = [request.res.getHeader("set-cookie") ?? []].flat().map((line) => line.split(";")[0]);
    const body = Buffer.concat(request.chunks).toString().split("\r\n\r\n")[1];
    return { status: request.res.statusCode, cookie: cookies.join("; ") || visitor.cookie, body };
}

function expect(passes, what) {
    if (!passes) throw new Error(`${application}: ${what}`);
}

async function visitor() {
    const { status, cookie } = await ask("first", {});
    expect(status === 200 && cookie, "a first write makes no session");
    return { cookie };
}

const withToken = async (who) => ({ ...who, token: (await ask("token", who)).body });

async function verify(kind) {
    const who = await visitor();
    const answer = await ask(kind, kind === "check" ? await withToken(who) : who);
    expect(answer.status === 200, `${kind} is answered with ${answer.status}`);
    if (kind === "read") expect(answer.body === VALUES[KEY], "what is read is not what was written");
    if (kind === "write") expect((await ask("read", who)).body === answer.body, "what was written is not read");
    if (kind === "first") expect((await ask("read", answer)).body === VALUES[KEY], "a new session cannot be read");
    if (kind === "check") expect((await ask(kind, { ...who, token: "wrong" })).status === 403, "a wrong token passes");
}

let visitors = [];

async function time(kind, requests) {
    while (visitors.length < VISITORS) visitors.push(await visitor());
    let nanoseconds = 0n;
    const asked = [];
    const timed = async (batch) => {
        const begun = process.hrtime.bigint();
        for (const request of batch) await made(request);
        nanoseconds += process.hrtime.bigint() - begun;
        asked.push(...batch);
    };
    if (kind === "check") {
        // Each token passes once.
        for (let n = 0; n < requests; n++) {
            const who = visitors[n % VISITORS];
            await timed([prepared(kind, application === "bare" ? who : await withToken(who))]);
        }
    } else {
        await timed([...Array(requests).keys()].map((n) => prepared(kind, visitors[n % VISITORS])));
    }
    expect(asked.every(({ res }) => res.statusCode === 200), `${kind} is not answered with 200`);
    return Number(nanoseconds) / 1e9;
}

async function obey(order) {
    if (order.verify) {
        if (application !== "bare") for (const kind of order.verify) await verify(kind);
        else visitors = Array(VISITORS).fill({});
        return {};
    }
    return { seconds: await time(order.time, order.requests) };
}

async function main() {
    if (port) {
        app.listen(Number(port), "127.0.0.1");
        return;
    }
    process.stdout.write("{}\n");
    for await (const line of require("readline").createInterface({ input: process.stdin })) {
        let answer;
        try {
            answer = await obey(JSON.parse(line));
        } catch (error) {
            answer = { error: String(error.message) };
        }
        process.stdout.write(`${JSON.stringify(answer)}\n`);
    }
    process.exit(0);
}

main();
