// What any page of the tests, good or evil, can try.

function submit(to, fields, target) {
  const form = document.createElement("form");
  Object.assign(form, { method: "post", action: to, target: target ?? "" });
  for (const [name, value] of Object.entries(fields)) {
    const input = document.createElement("input");
    Object.assign(input, { type: "hidden", name, value });
    form.append(input);
  }
  document.body.append(form);
  form.submit();
}

// The most that a page can send elsewhere without asking for leave: a simple request, with cookies.
async function send(to, fields, headers) {
  try {
    const answer = await fetch(to, {
      method: "POST",
      mode: new URL(to, location).origin === location.origin ? "cors" : "no-cors",
      credentials: "include",
      body: new URLSearchParams(fields),
      headers: headers ?? {},
    });
    return answer.type === "opaque" ? "opaque" : String(answer.status);
  } catch (error) {
    return error.name;
  }
}

async function read(path) {
  return (await fetch(path)).text();
}

// A form whose origin is "null": a frame in a sandbox has none that it could name.
function submitFromSandbox(to, fields) {
  const frame = document.createElement("iframe");
  frame.sandbox = "allow-scripts allow-forms allow-top-navigation";
  frame.srcdoc = `<body><script>${submit}
    submit(${JSON.stringify(to)}, ${JSON.stringify(fields)}, "_top");<\/script>`;
  document.body.append(frame);
}

// A form whose answer goes to a frame, which nobody needs to see.
function submitIntoFrame(to, fields) {
  return new Promise((resolve) => {
    const frame = document.createElement("iframe");
    frame.name = "inner";
    document.body.append(frame);
    frame.onload = () => {
      // Firefox tells of the empty page that it starts with; another origin's may not be looked at.
      if (frame.contentDocument?.URL !== "about:blank") resolve();
    };
    submit(to, fields, "inner");
  });
}

function connect(to) {
  return new Promise((resolve) => {
    const socket = new WebSocket(to);
    socket.onmessage = (message) => resolve(message.data);
    socket.onerror = () => resolve("refused");
  });
}

async function install(worker) {
  await navigator.serviceWorker.register(worker);
  await navigator.serviceWorker.ready;
  if (!navigator.serviceWorker.controller) {
    await new Promise((resolve) => navigator.serviceWorker.addEventListener("controllerchange", resolve, { once: true }));
  }
}

function setCookies(cookies) {
  for (const cookie of cookies) document.cookie = cookie;
  return document.cookie;
}
