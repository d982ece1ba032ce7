// What a hostile page can try without a form: to write in the visitor's name, and to read what comes back.
"use strict";

const outcome = document.querySelector("#outcome");
const { means, url } = outcome.dataset;
const fields = JSON.parse(outcome.dataset.fields);

const requests = {
  // What any page may send to anybody: it looks like a form's.
  call: { mode: "no-cors", body: new URLSearchParams(fields) },
  json: {
    headers: { "Content-Type": "application/json", "X-CSRF-Token": "made-up" },
    body: JSON.stringify(fields),
  },
};

async function call() {
  try {
    const answer = await fetch(url, { method: "POST", credentials: "include", ...requests[means] });
    return answer.type === "opaque" ? "the request was sent, and the browser shows this page no answer" : `the answer ${answer.status}`;
  } catch (error) {
    return `the browser did not let the request out (${error.message})`;
  }
}

function listen() {
  return new Promise((resolve) => {
    const socket = new WebSocket(url.replace("http", "ws"));
    socket.addEventListener("message", ({ data }) => resolve(`what the shop sends you: ${data}`));
    socket.addEventListener("close", () => resolve("the shop did not let the socket in"));
  });
}

(means === "socket" ? listen() : call()).then((learnt) => {
  outcome.textContent = learnt;
  outcome.dataset.done = "yes";
});
