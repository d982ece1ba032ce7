// Takes the script that runs in Redis from the Python library: it is written once, and bundlers find it in a module.
import { readFileSync, writeFileSync } from "node:fs";

const place = (name) => new URL(name, import.meta.url);
const script = readFileSync(place("../src/server_session/stores/redis/redis.lua"), "utf8");
writeFileSync(place("src/script.ts"), `export const SCRIPT = ${JSON.stringify(script)};\n`);
