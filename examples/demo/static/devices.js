// Tells at once if this device is logged out from another one: the shop then closes the socket.
"use strict";

const POLICY_VIOLATION = 1008;

const socket = new WebSocket(`${location.origin.replace("http", "ws")}/devices/live`);

socket.addEventListener("close", ({ code }) => {
  if (code === POLICY_VIOLATION) document.querySelector("#ended").hidden = false;
});
