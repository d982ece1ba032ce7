// What a hostile page can try without a form: to write in the visitor's name, and to read the answer.
"use strict";

const button = document.querySelector("#fetch");
const outcome = document.querySelector("#outcome");

const attempts = [
  {
    what: "A form’s POST, sent blindly",
    path: "/cart/add",
    request: { mode: "no-cors", body: new URLSearchParams({ tea: "puerh" }) },
  },
  {
    what: "JSON, with a token made up",
    path: "/api/wishes",
    request: {
      headers: { "Content-Type": "application/json", "X-CSRF-Token": "made-up" },
      body: JSON.stringify({ text: "A hundred packets" }),
    },
  },
];

button.addEventListener("click", async () => {
  outcome.replaceChildren();
  for (const { what, path, request } of attempts) {
    const line = document.createElement("li");
    line.textContent = `${what}: ${await attempt(button.dataset.shop + path, request)}`;
    outcome.append(line);
  }
  outcome.dataset.done = "yes";
});

async function attempt(url, request) {
  try {
    const answer = await fetch(url, { method: "POST", credentials: "include", ...request });
    return answer.type === "opaque" ? "sent, but the browser shows this page no answer" : `answered: ${answer.status}`;
  } catch (error) {
    return `stopped by the browser before it was sent (${error.message})`;
  }
}
