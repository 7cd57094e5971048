// Python, in a thread of its own: it may loop for ever, and the page ends it.
// A message {start: …} comes first; then {id, run: …}, {id, check: …} or {id, tutor: …}, one after the other;
// {id, files: {name: bytes}, run: …} where a cell reads files.

let pyodide, session;

self.onmessage = async ({ data }) => {
  try {
    if (data.start) {
      session = await start(data.start);
      self.postMessage({ ready: true });
      return;
    }
    const emit = (kind, text) => self.postMessage({ id: data.id, out: kind, text });
    const { files = {}, ...asked } = data;
    for (const [name, bytes] of Object.entries(files)) pyodide.FS.writeFile(name, bytes);
    const answer = session.answer(JSON.stringify(asked), emit);
    self.postMessage({ id: data.id, done: JSON.parse(answer) });
  } catch (error) {
    self.postMessage({ id: data.id, fatal: String(error.message || error) });
  }
};

async function start({ lesson, base, hashes, course, lock }) {
  verify(base, hashes);
  const [{ loadPyodide }, contents, archive] = await Promise.all([
    script(base, "pyodide.mjs", hashes),
    fetch(course + "pyodide-lock.json").then((found) => found.text()),
    fetch(course + "tinyalex.zip").then((found) => found.arrayBuffer()),
  ]);
  const create = (await script(base, "pyodide.asm.mjs", hashes)).default;
  pyodide = await loadPyodide({
    indexURL: base,
    packageBaseUrl: base,
    lockFileContents: contents,
    createPyodideModule: create,
    packages: ["numpy"],
  });
  pyodide.unpackArchive(archive, "zip", { extractDir: "/lib/tinyalex" });
  pyodide.runPython("import sys; sys.path.insert(0, '/lib/tinyalex')");
  const { Session } = pyodide.pyimport("tinyalex.lessons.live.session");
  return Session(lesson, contents, (file) => bytes(base + file), (data) => pyodide.unpackArchive(data, "wheel"));
}

// From here on what is fetched below `base` has to have its hash, and what fails ends it all: Pyodide itself
// would wait for ever.
function verify(base, hashes) {
  const plain = self.fetch.bind(self);
  self.fetch = async (what, options) => {
    const url = String(what.url ?? what);
    const integrity = hashes[url.replace(base, "")];
    const found = await plain(what, integrity ? { ...options, integrity } : options).catch(failed(url));
    return found.ok ? found : failed(url)({ message: `${found.status} ${found.statusText}` });
  };
}

function failed(url) {
  return ({ message }) => {
    const error = new Error(`${url} could not be loaded: ${message}`);
    self.postMessage({ fatal: error.message });
    throw error;
  };
}

async function script(base, file, hashes) {
  if (!hashes[file]) return import(base + file).catch(failed(base + file));
  const text = await (await fetch(base + file)).text(); // import() itself knows no hash
  return import(URL.createObjectURL(new Blob([text], { type: "text/javascript" })));
}

// The bytes of a file, at once: an import statement cannot wait.
function bytes(url) {
  const request = new XMLHttpRequest();
  request.open("GET", url, false);
  request.responseType = "arraybuffer";
  request.send();
  if (request.status !== 200) throw new Error(`${url}: ${request.status} ${request.statusText}`);
  return new Uint8Array(request.response);
}
