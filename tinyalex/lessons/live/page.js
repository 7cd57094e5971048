// A lesson's page: editors in its holes, cells that run, verdicts, and Python beside it.

import { Answers } from "./answers.js";
import { edit } from "./editor.js";
import { offline } from "./offline.js";

const lesson = JSON.parse(document.getElementById("lesson").textContent);
const status = document.getElementById("python-status");
const stopButton = document.getElementById("stop");
const notice = document.getElementById("notice");
const answers = new Answers(lesson.number, noStorage);

function say(text) {
  const line = document.createElement("p");
  line.textContent = text;
  if (![...notice.children].some((other) => other.textContent === text)) notice.append(line);
  notice.hidden = false;
}

function noStorage(error) {
  const why = error.name === "QuotaExceededError" ? "its storage is full" : "storage is refused";
  say(`The browser does not keep what you type: ${why}.  It stays here until this page is closed; ` +
    "save it as a notebook (below) before that.");
}

addEventListener("beforeunload", (event) => answers.unsaved.size && event.preventDefault());

// ---- Python ----

const python = {
  worker: null,
  ready: null, // a promise
  waiting: new Map(), // id of a message → what to do with its answer
  count: 0,

  start() {
    status.textContent = "Python is being loaded …";
    const { begun } = self; // the page's head has begun it
    delete self.begun;
    const worker = (this.worker = begun?.worker ?? startPython());
    this.ready = new Promise((resolve, reject) => {
      const failed = (text) => {
        const error = new Error(text);
        reject(error);
        this.end(error);
        status.textContent = `Python has ended: ${text}`;
      };
      worker.onerror = (event) => failed(event.message || "its worker could not be loaded");
      worker.onmessage = ({ data }) => {
        if (data.ready) {
          status.textContent = "Python is ready.";
          resolve();
        } else if (data.fatal) {
          const where = lesson.base.startsWith("http") ? `  (Python comes from ${lesson.base}; ` +
            "where that is blocked, the course can be written with --pyodide FOLDER.)" : "";
          failed(data.id ? data.fatal : `${data.fatal}${where}`);
        } else {
          const asked = this.waiting.get(data.id);
          if (data.out) asked?.show(data.out, data.text);
          else {
            this.waiting.delete(data.id);
            asked?.resolve(data.done);
          }
        }
      };
    });
    this.ready.catch(() => {});
    begun?.said.forEach((data) => worker.onmessage({ data }));
  },

  async ask(message, show) {
    if (!this.worker) this.start();
    await this.ready;
    return new Promise((resolve, reject) => {
      const id = ++this.count;
      this.waiting.set(id, { resolve, reject, show });
      this.worker.postMessage({ id, ...message });
    });
  },

  end(error) {
    this.worker?.terminate();
    this.worker = null;
    for (const { reject } of this.waiting.values()) reject(error);
    this.waiting.clear();
    ended.forEach((act) => act());
  },
};

class Stopped extends Error {}
const ended = []; // what is done when Python has ended, and forgotten all

stopButton.onclick = () => {
  python.end(new Stopped("stopped"));
  status.textContent = "Stopped.  What you typed is there; Python starts again, and cells run again when needed.";
  python.start();
};

let line = Promise.resolve(); // what is asked of Python, one thing after the other

function inLine(what, doing) {
  const next = line.then(async () => {
    stopButton.hidden = false;
    const slow = setTimeout(() => (status.textContent = what), 300);
    try {
      return await doing();
    } catch (error) {
      if (!(error instanceof Stopped)) say(error.message);
    } finally {
      clearTimeout(slow);
      stopButton.hidden = true;
      if (status.textContent === what) status.textContent = "Python is ready.";
    }
  });
  line = next.catch(() => {});
  return next;
}

const asksFirst = navigator.connection?.saveData; // whoever pays by the byte asks for Python
if (asksFirst) status.textContent = "Python is loaded when you first run or check something.";
else python.start(); // beside all that follows

// ---- Cells ----

class Cell {
  constructor({ id, source, name, key, photograph }, index) {
    Object.assign(this, { id, source, name, key, photograph, index, ran: false });
    this.element = document.getElementById(`cell-${id}`);
    this.outputs = this.element.querySelector(".outputs");
    this.bar = document.createElement("div");
    this.bar.className = "bar";
    this.outputs.before(this.bar);
  }

  get text() {
    return this.editor ? this.editor.text() : this.source;
  }

  get what() {
    return this.name ? `${this.name} is being checked` : "a cell runs";
  }

  button(label, describe, act) {
    const made = document.createElement("button");
    made.type = "button";
    made.textContent = label;
    made.setAttribute("aria-label", `${label}: ${describe}`);
    made.onclick = act;
    this.bar.append(made);
    return made;
  }

  openEditor(text, label, run) {
    const code = this.element.querySelector("pre.code");
    const frame = document.createElement("div");
    frame.className = "editor";
    code.after(frame);
    code.hidden = true;
    this.editor = edit(frame, text, {
      label, run, describedby: "editor-keys",
      changed: () => {
        this.ran = false;
        clearTimeout(this.later);
        this.later = setTimeout(() => this.keep(), 200);
      },
    });
  }

  keep() {
    clearTimeout(this.later);
    this.later = null;
  }

  // Show what Python sends: text, HTML or a picture.
  show(kind, text) {
    if (this.old) this.outputs.replaceChildren();
    this.old = false;
    let last = this.outputs.lastElementChild;
    if (kind === "text") {
      if (!last?.matches("pre.printed")) {
        last = document.createElement("pre");
        last.className = "out printed";
        this.outputs.append(last);
      }
      last.textContent += text;
      return;
    }
    const box = document.createElement("div");
    if (kind === "html") box.innerHTML = text;
    else {
      box.className = "figure";
      box.tabIndex = 0;
      const picture = document.createElement("img");
      picture.alt = this.heading();
      picture.src = `data:image/png;base64,${text}`;
      box.append(picture);
    }
    this.outputs.append(box);
  }

  heading() {
    const before = [...document.querySelectorAll("main h1, main h2, main h3")].filter(
      (h) => h.compareDocumentPosition(this.element) & Node.DOCUMENT_POSITION_FOLLOWING);
    return before.at(-1)?.textContent ?? "";
  }

  error(text) {
    this.show("text", "");
    const box = document.createElement("pre");
    box.className = "out verdict error";
    box.textContent = text;
    this.outputs.append(box);
  }

  async ask(message) {
    this.old = true;
    this.element.setAttribute("aria-busy", "true");
    try {
      const done = await python.ask(message, (kind, text) => this.show(kind, text));
      if (this.old) this.outputs.replaceChildren();
      return done;
    } catch (error) {
      this.old = true;
      if (error instanceof Stopped) this.error("stopped");
      throw error;
    } finally {
      this.old = false;
      this.element.removeAttribute("aria-busy");
    }
  }
}

class Code extends Cell {
  constructor(given, index) {
    super(given, index);
    this.button("Run", "this cell, and those above it that have not run", () => runTo(this));
    this.editButton = this.button("Edit", "this cell", () => (this.open(), this.editor.focus()));
    if (this.photograph) this.choosePhotograph();
    const kept = answers.read(`cell-${this.key}`);
    if (kept) this.open(kept.text);
  }

  // Let a photograph be chosen; it is given to Python, and goes nowhere else.
  choosePhotograph() {
    const label = document.createElement("label");
    label.innerHTML = 'Your photograph: <input type="file" accept="image/*">';
    label.lastChild.onchange = async ({ target }) => {
      const [file] = target.files;
      if (!file) return;
      this.files = { [this.photograph]: new Uint8Array(await file.arrayBuffer()) };
      const next = cells[this.index + 1]; // which draws it
      this.ran = next.ran = false;
      runTo(next);
    };
    this.bar.append(label);
  }

  open(text = this.source) {
    if (this.editor) return;
    this.openEditor(text, `code in “${this.heading()}”`, () => runTo(this));
    this.editButton.remove();
    this.button("As it was", "put back the lesson's own text", () => this.editor.replace(this.source, true));
    this.element.querySelector("details.drawing")?.setAttribute("open", "");
  }

  keep() {
    super.keep();
    if (this.text === this.source) answers.forget(`cell-${this.key}`);
    else answers.write(`cell-${this.key}`, { text: this.text, base: this.source });
  }

  async run() {
    const { error } = await this.ask({ files: this.files, run: { cell: this.id, source: this.text } });
    this.ran = !error;
    if (error) this.error(error);
    return this.ran;
  }
}

class Hole extends Cell {
  constructor(given, index) {
    super(given, index);
    const kept = answers.read(this.name);
    this.passed = Boolean(kept?.passed);
    this.openEditor(kept?.text ?? this.source, `your answer: ${this.name}`, () => this.check());
    this.button("Check", this.name, () => this.check());
    if (given.tutor) this.button("Step through", this.name, () => this.tutor());
    this.button("Start again", this.name, () => this.editor.replace(this.source, true));
    this.mark = document.createElement("span");
    this.bar.append(this.mark);
    this.verdict = document.createElement("div");
    this.verdict.setAttribute("role", "status");
    this.verdict.className = "judged";
    this.bar.after(this.verdict);
    this.marked();
  }

  marked() {
    this.mark.textContent = this.passed ? "✓ done" : "";
  }

  keep() {
    super.keep();
    if (this.text === this.source && !this.passed && !answers.read(this.name)) return;
    answers.write(this.name, { text: this.text, passed: this.passed });
  }

  check() {
    return inLine(this.what, () => this.run());
  }

  tutor() {
    return inLine(`stepping through ${this.name}`, async () => {
      const text = this.text;
      const found = await this.ask({ tutor: { cell: this.id, name: this.name, source: text } });
      this.judged(found, text);
      if (found.html) this.show("html", found.html);
    });
  }

  async run() {
    const text = this.text;
    this.judged(await this.ask({ check: { cell: this.id, name: this.name, source: text } }), text);
    return true; // the book's solution stands in for a wrong answer
  }

  judged({ state, message }, text) {
    const head = { passed: "✓ passed", open: "… not yet", wrong: "✗ not right" }[state];
    this.verdict.textContent = `${head}: ${this.name}${message && `\n${message}`}`;
    this.verdict.dataset.state = state;
    this.ran = true;
    if (text === this.text) {
      if (state !== "open" || this.passed) this.passed = state === "passed";
      this.keep();
    }
    this.marked();
  }
}

const cells = lesson.cells.map((given, i) => new (given.name ? Hole : Code)(given, i));
const holes = cells.filter((cell) => cell.name);
ended.push(() => cells.forEach((cell) => (cell.ran = false)));

function runTo(last) {
  return inLine(last.what, async () => {
    last.ran = false;
    for (const cell of cells.slice(0, last.index + 1)) {
      if (cell.ran || (await cell.run())) continue;
      if (cell !== last) {
        last.error("A cell above it raised an error: look there first.");
        cell.element.scrollIntoView({ block: "center" });
      }
      return;
    }
  });
}

document.getElementById("run-all").onclick = () => runTo(cells.at(-1));

const keepAll = () => cells.forEach((cell) => cell.later && cell.keep());
addEventListener("pagehide", keepAll);
document.addEventListener("visibilitychange", keepAll);

// ---- Another tab ----

answers.watch((name, value, settle) => {
  const cell = holes.find((hole) => hole.name === name) ?? cells.find((c) => name === `cell-${c.key}`);
  if (!cell || value.text === cell.text) return settle();
  const box = document.createElement("p");
  box.className = "other-tab";
  box.textContent = "This text was changed in another tab.  ";
  const choose = (label, act) => {
    const made = document.createElement("button");
    made.type = "button";
    made.textContent = label;
    made.onclick = () => (settle(), act(), box.remove());
    box.append(made);
  };
  choose("Take it", () => {
    answers.keepBefore(name, cell.text);
    cell.open?.();
    cell.editor.replace(value.text, true);
  });
  choose("Keep this one", () => {
    answers.keepBefore(name, value.text);
    cell.keep();
  });
  cell.element.querySelector(".other-tab")?.remove();
  cell.bar.before(box);
});

// ---- Texts of an earlier version, export and import ----

const known = new Set([...holes.map((hole) => hole.name), ...cells.map((cell) => `cell-${cell.key}`)]);
for (const name of answers.names().filter((key) => !known.has(key)))
  for (const text of [answers.read(name)].flat()) {
    const of = name.replace("/before", "");
    const folded = document.createElement("details");
    folded.innerHTML = "<summary></summary><pre></pre>";
    folded.firstChild.textContent = (of.startsWith("cell-") ? "a cell" : of) +
      (of === name ? ", which this version of the lesson does not have" : ", before another text took its place");
    folded.lastChild.textContent = text?.text ?? text;
    document.getElementById("earlier").append(folded);
  }
document.getElementById("earlier").hidden = !document.querySelector("#earlier details");

async function notebook() {
  const book = await (await fetch(`${lesson.stem}.ipynb`)).json();
  const text = new Map(cells.map((cell) => [cell.id, cell.text]));
  for (const cell of book.cells) if (text.has(cell.id)) cell.source = text.get(cell.id);
  return { ...book, metadata: { ...book.metadata, tinyalex: { lesson: lesson.number, version: lesson.version } } };
}

document.getElementById("export").onclick = async () => {
  keepAll();
  try {
    const file = new Blob([JSON.stringify(await notebook(), null, 1) + "\n"], { type: "application/x-ipynb+json" });
    const link = document.createElement("a");
    link.href = URL.createObjectURL(file);
    link.download = `${lesson.stem}.ipynb`;
    link.click();
  } catch (error) {
    say(`The notebook could not be made: ${error.message}.  Copy your texts from the page.`);
  }
};

const chooser = document.getElementById("import");
chooser.onchange = async () => {
  const [file] = chooser.files;
  chooser.value = "";
  if (file) say(take(file.name, await file.text()));
};

// Put a notebook's answers into the page; say what was taken.  Ctrl-Z in an editor takes it back.
function take(file, contents) {
  let book;
  try {
    book = JSON.parse(contents);
  } catch {
    return `${file}: expected a notebook (.ipynb), found something else.  Nothing was changed.`;
  }
  if (!Array.isArray(book?.cells)) return `${file}: expected a notebook with cells, found none.  Nothing was changed.`;
  const sources = book.cells.filter((c) => c?.cell_type === "code" && c.source)
    .map((c) => ({ id: c.id, text: Array.isArray(c.source) ? c.source.join("") : String(c.source) }));
  const found = new Map();
  for (const { text } of sources) {
    const name = /^def (\w+)\(/m.exec(text)?.[1];
    const hole = holes.find((h) => h.name === name);
    if (hole && !found.has(hole)) found.set(hole, text);
  }
  if (!found.size) {
    const other = book.metadata?.tinyalex?.lesson;
    return other && other !== lesson.number
      ? `${file}: expected lesson ${lesson.number}, found lesson ${other}.  Open it on that lesson's page.`
      : `${file}: expected a notebook of lesson ${lesson.number}, found none of its functions ` +
        `(${holes.map((h) => h.name).join(", ")}).  Nothing was changed.`;
  }
  let cellsTaken = 0;
  for (const cell of cells.filter((c) => !c.name)) {
    const theirs = sources.find(({ id }) => id === cell.id);
    const same = book.metadata?.tinyalex?.version === lesson.version; // else the ids may be other cells'
    if (same && theirs && theirs.text !== cell.text) {
      found.set(cell, theirs.text);
      cellsTaken++;
    }
  }
  let changed = 0;
  for (const [cell, text] of found) {
    if (text === cell.text) continue;
    if (cell.text !== cell.source) answers.keepBefore(cell.name ?? `cell-${cell.key}`, cell.text);
    cell.open?.();
    cell.editor.replace(text, true);
    cell.keep();
    changed++;
  }
  const missing = holes.filter((hole) => !found.has(hole)).map((hole) => hole.name);
  const version = book.metadata?.tinyalex?.version;
  return `${file}: ${found.size - cellsTaken} of ${holes.length} answers read, ${changed} texts changed` +
    (missing.length ? `; not in it: ${missing.join(", ")}` : "") +
    (version && version !== lesson.version ? `; it is of version ${version}, this page of ${lesson.version}` : "") +
    ".  Ctrl-Z in an editor takes a change back.";
}

// ---- Begin ----

document.body.classList.add("live");
const keepCourse = () => setTimeout(() => offline(document.getElementById("offline")), 2000); // after a first check
(asksFirst ? Promise.resolve() : python.ready).then(keepCourse, keepCourse);
