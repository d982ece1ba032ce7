// Signs what a page's scripts send to its own origin with the page's CSRF token: `fetch`, `XMLHttpRequest`, and all that
// is built on them (htmx, axios, jQuery). The token is in <meta name="csrf-token" content="..." data-header="...">.
(() => {
  "use strict";
  const once = Symbol.for("server-session.csrf");
  // A page without an address of its own (about:, data:) has no origin to compare with.
  if (document[once] || location.origin === "null") return;
  Object.defineProperty(document, once, { value: true });

  const SAFE = new Set(["GET", "HEAD", "OPTIONS", "TRACE"]);
  const META = 'meta[name="csrf-token"]';
  const send = window.fetch.bind(window);

  // A token that must not be sent again: it was used and passes once, or the server called it stale.
  let spent = null;
  let refreshing = null;

  const meta = () => document.querySelector(META);
  const header = () => meta()?.dataset.header || "X-CSRF-Token";
  const isSingleUse = () => meta()?.dataset.singleUse !== undefined;
  const isStale = (status, rejection) => status === 403 && rejection === "csrf_stale";

  function isOwn(url) {
    try {
      return new URL(url, document.baseURI).origin === location.origin;
    } catch {
      return false; // No address at all: the browser will say so.
    }
  }

  // fetch and XMLHttpRequest bring only some methods into upper case; what is safe is so in any case.
  const isToSign = (method, url) => !SAFE.has(String(method).toUpperCase()) && isOwn(url);

  function tokenAtHand() {
    const token = meta()?.content;
    if (!token || token === spent) return "";
    if (isSingleUse()) spent = token;
    return token;
  }

  async function takeToken() {
    for (;;) {
      const token = tokenAtHand();
      if (token || !meta()?.content) return token;
      if (await refresh()) continue; // Of several that waited for one that passes once, one has it now.
      if (isSingleUse()) return "";
      spent = null; // Better an old one than none.
      return tokenAtHand();
    }
  }

  function discard(token) {
    if (meta()?.content === token) spent = token;
  }

  // Those who need a fresh token at the same time wait for the same one.
  function refresh() {
    refreshing ??= loadToken().finally(() => {
      refreshing = null;
    });
    return refreshing;
  }

  async function loadToken() {
    let page;
    try {
      const response = await send(location.href, {
        cache: "no-store",
        credentials: "same-origin",
        headers: { Accept: "text/html" },
        mode: "same-origin",
        signal: AbortSignal.timeout(10_000),
      });
      page = new DOMParser().parseFromString(await response.text(), "text/html");
    } catch {
      return false;
    }
    const token = page.querySelector(META)?.content;
    if (!token || token === spent || !meta()) return false;
    meta().content = token;
    renewForms(page, token);
    return true;
  }

  // A form has the token that the fresh page has in its like, for it may be of this form's scope, or pass once.
  function renewForms(page, token) {
    const spares = inputsOf(page);
    for (const input of inputsOf(document)) {
      const at = spares.findIndex((spare) => actionOf(spare) === actionOf(input));
      if (at >= 0) input.value = spares.splice(at, 1)[0].value;
      else if (!isSingleUse()) input.value = token;
    }
  }

  // Never that of a form which goes to another origin, or would show it in an address.
  function inputsOf(page) {
    const name = CSS.escape(meta()?.dataset.field || "csrf_token");
    return [...page.querySelectorAll(`input[type="hidden"][name="${name}"]`)].filter(
      (input) => /^post$/i.test(input.form?.getAttribute("method")) && isOwn(actionOf(input) || location.href),
    );
  }

  // Not `form.action`, which a control of that name hides.
  const actionOf = (input) => input.form.getAttribute("action") ?? "";

  function sign(request, token) {
    // In this mode a redirect to another origin is an error: else it would take the header along, if that origin
    // allows it. The other two are given again, for whatever is changed resets them.
    const { referrer, referrerPolicy } = request;
    const signed = new Request(request, { mode: "same-origin", referrer, referrerPolicy });
    signed.headers.set(header(), token);
    return signed;
  }

  window.fetch = async function fetch(input, init) {
    const isRequest = input instanceof Request;
    const method = init?.method ?? (isRequest ? input.method : "GET");
    if (!isToSign(method, isRequest ? input.url : input)) return send(input, init);
    const request = new Request(input, init);
    if (request.headers.has(header()) || request.credentials === "omit") return send(request);
    const token = await takeToken();
    if (!token) return send(request);
    // A stream can be read once, and is not held in memory for a second time.
    const spare = init?.body instanceof ReadableStream ? null : request.clone();
    const response = await send(sign(request, token));
    if (!isStale(response.status, response.headers.get("CSRF-Rejection"))) return response;
    discard(token);
    const fresh = spare && (await takeToken());
    if (!fresh || fresh === token) return response;
    response.body?.cancel();
    return send(sign(spare, fresh));
  };

  const { open, setRequestHeader, send: sendXhr, abort } = XMLHttpRequest.prototype;
  const calls = new WeakMap();

  XMLHttpRequest.prototype.open = function (method, url, ...more) {
    open.call(this, method, url, ...more);
    calls.set(this, { isToSign: isToSign(method, url), isAsync: !more.length || Boolean(more[0]), isWaiting: false });
  };

  XMLHttpRequest.prototype.setRequestHeader = function (name, value) {
    setRequestHeader.call(this, name, value);
    const call = calls.get(this);
    if (call && String(name).toLowerCase() === header().toLowerCase()) call.isToSign = false;
  };

  XMLHttpRequest.prototype.send = function (body) {
    const call = calls.get(this);
    if (!call?.isToSign) return sendXhr.call(this, body);
    const sendSigned = (token) => {
      if (token) {
        setRequestHeader.call(this, header(), token);
        this.addEventListener("load", () => learn(this, token), { once: true });
      }
      sendXhr.call(this, body);
    };
    if (call.isWaiting) throw new DOMException("The request is already under way.", "InvalidStateError");
    const token = tokenAtHand();
    if (token || !call.isAsync || !meta()?.content) return sendSigned(token);
    call.isWaiting = true;
    takeToken().then((late) => {
      // It may have been aborted or opened anew meanwhile.
      if (calls.get(this) !== call || !call.isWaiting) return;
      call.isWaiting = false;
      sendSigned(late);
    });
  };

  XMLHttpRequest.prototype.abort = function () {
    const call = calls.get(this);
    abort.call(this);
    if (!call?.isWaiting) return;
    call.isWaiting = false;
    for (const type of ["abort", "loadend"]) this.dispatchEvent(new ProgressEvent(type));
  };

  // What was reported cannot be taken back: the call has failed, and the next one passes.
  function learn(xhr, token) {
    if (!isStale(xhr.status, xhr.getResponseHeader("CSRF-Rejection"))) return;
    discard(token);
    refresh();
  }

  // Back from the back/forward cache the page is as old as it was left.
  window.addEventListener("pageshow", (event) => {
    if (!event.persisted || !meta()) return;
    spent = meta().content;
    if (inputsOf(document).length) refresh();
  });
})();
