// A service worker of the shop's own that passes every request on; `?way=…` says how.
const ways = {
  through: (request) => fetch(request),
  // Whatever the option, the request is then the worker's own.
  option: (request) => fetch(request, { cache: "no-store" }),
  async anew(request) {
    const body = request.method === "POST" ? await request.text() : undefined;
    return fetch(request.url, { method: request.method, headers: request.headers, body });
  },
};
const pass = ways[new URL(location).searchParams.get("way")];

addEventListener("install", () => skipWaiting());
addEventListener("activate", (event) => event.waitUntil(clients.claim()));
addEventListener("fetch", (event) => event.respondWith(pass(event.request)));
