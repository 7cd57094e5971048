// The map: what is done.

import { done } from "./answers.js";
import { offline } from "./offline.js";

const lessons = JSON.parse(document.getElementById("map").textContent); // {page: [lesson, [holes]]}

function show() {
  document.querySelectorAll(".done").forEach((mark) => mark.remove());
  for (const [page, [lesson, holes]] of Object.entries(lessons)) {
    const count = done(lesson, holes);
    if (!count) continue;
    const mark = document.createElement("span");
    mark.className = "done";
    mark.textContent = count === holes.length ? " ✓ all done" : ` ✓ ${count} of ${holes.length} done`;
    document.querySelector(`main a[href="${page}"]`).after(mark);
  }
}

show();
addEventListener("storage", show);
addEventListener("pageshow", show);
offline(document.getElementById("offline"));
