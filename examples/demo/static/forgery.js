// Shows what the guard answered as soon as it has: a page that attacks does not say when it is done.
"use strict";

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

// Returns whether there was anything new.
async function show(place) {
  const answer = await fetch(`/forgery/verdicts/${place.dataset.name}`);
  const fresh = await answer.text();
  // It may be another process that answered, and has seen nothing.
  if (!answer.ok || !fresh.includes("<time") || fresh === place.shown) return false;
  place.shown = fresh;
  place.innerHTML = fresh;
  return true;
}

for (const card of document.querySelectorAll(".attack")) {
  const place = card.querySelector(".verdicts");
  card.querySelector(".run")?.addEventListener("click", async () => {
    await show(place);
    // An attack may take two requests: so a little longer than the first.
    for (let left = 20; left > 0; left -= 1) {
      await pause(200);
      if (await show(place)) left = Math.min(left, 5);
    }
  });
}
