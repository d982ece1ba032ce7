// Each call is signed by csrf_script, with the token in the page's head; nothing of that is to be seen here.
"use strict";

const form = document.querySelector("#wish-form");
const list = document.querySelector("#wishes");
const calls = document.querySelector("#calls");

async function call(path, text) {
  const answer = await fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ text }),
  });
  note(path, answer.ok ? `signed with …${token().slice(-6)}` : `failed: ${answer.status}`);
  if (answer.ok) show((await answer.json()).wishes);
}

const token = () => document.querySelector('meta[name="csrf-token"]').content;

function note(path, outcome) {
  const line = document.createElement("li");
  line.textContent = `POST ${path}: ${outcome}`;
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

form.addEventListener("submit", (event) => {
  event.preventDefault();
  call("/api/wishes", form.wish.value);
  form.reset();
});

show([...list.children].map((line) => line.textContent));
