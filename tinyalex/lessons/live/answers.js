// What the learner typed, kept in the browser under the lesson and the hole, whatever the course's version.
//
//   tinyalex/05/add_back         {text, passed}         the answer to a hole
//   tinyalex/05/add_back/before  [text, …]              what another tab or a notebook put another text in place of
//   tinyalex/05/cell-1f0c…       {text, base}           a cell of the lesson that was changed; the name is base's hash

const all = "tinyalex/";

export class Answers {
  constructor(lesson, trouble) {
    this.prefix = `${all}${String(lesson).padStart(2, "0")}/`;
    this.known = {}; // what this page last read or wrote: another text there is another tab's
    this.trouble = trouble; // (what to say): the browser keeps nothing
    this.unsaved = new Set();
  }

  read(name) {
    try {
      this.known[name] = localStorage.getItem(this.prefix + name);
      return JSON.parse(this.known[name]);
    } catch (error) {
      if (!(error instanceof SyntaxError)) this.trouble(error);
      return null;
    }
  }

  write(name, value) {
    const text = JSON.stringify(value);
    try {
      const there = localStorage.getItem(this.prefix + name);
      if (there !== null && there !== this.known[name]) this.keepBefore(name, JSON.parse(there).text);
      localStorage.setItem(this.prefix + name, text);
      this.known[name] = text;
      this.unsaved.delete(name);
    } catch (error) {
      this.unsaved.add(name);
      this.trouble(error);
    }
  }

  // Keep a text that another one takes the place of, behind those that were kept so before.
  keepBefore(name, text) {
    const before = this.read(`${name}/before`) ?? [];
    if (!before.includes(text)) this.write(`${name}/before`, [...before, text].slice(-10));
  }

  forget(name) {
    try {
      localStorage.removeItem(this.prefix + name);
      this.known[name] = null;
    } catch (error) {
      this.trouble(error);
    }
  }

  names() {
    try {
      return Object.keys(localStorage)
        .filter((key) => key.startsWith(this.prefix))
        .map((key) => key.slice(this.prefix.length));
    } catch {
      return [];
    }
  }

  // told(name, text): another tab has kept another text.
  watch(told) {
    addEventListener("storage", ({ key, newValue }) => {
      if (!key?.startsWith(this.prefix) || key.endsWith("/before") || newValue === null) return;
      const name = key.slice(this.prefix.length);
      told(name, JSON.parse(newValue), () => (this.known[name] = newValue));
    });
  }
}

// How many of these holes of a lesson are done.
export function done(lesson, holes) {
  const answers = new Answers(lesson, () => {});
  return holes.filter((name) => answers.read(name)?.passed).length;
}
