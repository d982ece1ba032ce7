// The call of a page that has been open since before the log-in, and so has the token of then.
"use strict";

const outcome = document.querySelector("#outcome");
const { url, text, token } = outcome.dataset;

document.querySelector('meta[name="csrf-token"]').content = token;
fetch(url, {
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify({ text }),
}).then(({ status }) => {
  outcome.textContent = status === 200 ? "Sent, refused, signed anew and sent again: the wish is noted." : `Refused: ${status}`;
});
