"use strict";

document.querySelector("#forged").submit();
