// Each call is signed with the token that the last answer brought; the first one came with the page.
"use strict";

let token = document.querySelector('meta[name="csrf-token"]').content;

const form = document.querySelector("#wish-form");
const list = document.querySelector("#wishes");
const calls = document.querySelector("#calls");

async function call(path, text) {
  const signedWith = token;
  const answer = await fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-CSRF-Token": signedWith },
    body: JSON.stringify({ text }),
  });
  if (!answer.ok) {
    const why = answer.status === 403 ? "refused: reload the page, you have logged in or out" : `failed: ${answer.status}`;
    note(path, signedWith, why);
    return;
  }
  const { wishes, csrf_token: next } = await answer.json();
  token = next;
  note(path, signedWith, `next token …${tail(next)}`);
  show(wishes);
}

function note(path, signedWith, outcome) {
  const line = document.createElement("li");
  line.textContent = `POST ${path}, signed with …${tail(signedWith)} → ${outcome}`;
  calls.prepend(line);
}

function show(wishes) {
  list.replaceChildren(
    ...wishes.map((text) => {
      const line = document.createElement("li");
      const words = document.createElement("span");
      words.textContent = text;
      const button = document.createElement("button");
      button.className = "quiet";
      button.textContent = "Remove";
      button.setAttribute("aria-label", `Remove ${text}`);
      button.addEventListener("click", () => call("/api/wishes/remove", text));
      line.append(words, button);
      return line;
    }),
  );
}

const tail = (text) => text.slice(-6);

form.addEventListener("submit", (event) => {
  event.preventDefault();
  call("/api/wishes", form.wish.value);
  form.reset();
});

show([...list.children].map((line) => line.textContent));
