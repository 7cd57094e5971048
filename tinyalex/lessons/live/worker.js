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

async function start({ lesson, base, hashes, course, archives }) {
  fetchInOrder(base, hashes);
  const [{ loadPyodide }, { default: createPyodideModule }, lock, ...packed] = await Promise.all([
    script(base, "pyodide.mjs", hashes),
    script(base, "pyodide.asm.mjs", hashes),
    fetch(course + "pyodide-lock.json").then((found) => found.text()),
    ...archives.map((name) => fetch(course + name).then((found) => found.arrayBuffer())),
  ]);
  pyodide = await loadPyodide({
    indexURL: base,
    packageBaseUrl: base,
    lockFileContents: lock,
    createPyodideModule,
    packages: ["numpy"],
  });
  for (const archive of packed) pyodide.unpackArchive(archive, "zip", { extractDir: "/lib/tinyalex" });
  pyodide.runPython("import sys; sys.path.insert(0, '/lib/tinyalex')");
  const { Session } = pyodide.pyimport("tinyalex.lessons.live.session");
  return Session(lesson, lock, (file) => bytes(base + file), (data) => pyodide.unpackArchive(data, "wheel"));
}

// Fetch what starts Python, now; packages are fetched behind it, while Python starts.  From here on what is
// fetched below `base` has to have its hash, and what fails ends it all: Pyodide itself would wait for ever.
function fetchInOrder(base, hashes) {
  const plain = self.fetch.bind(self);
  const get = async (url, options) => {
    const integrity = hashes[url.replace(base, "")];
    const found = await plain(url, integrity ? { ...options, integrity } : options).catch(failed(url));
    return found.ok ? found : failed(url)({ message: `${found.status} ${found.statusText}` });
  };
  const library = get(`${base}python_stdlib.zip`).then((found) => found.arrayBuffer());
  const begun = {
    [`${base}pyodide.asm.wasm`]: get(`${base}pyodide.asm.wasm`),
    [`${base}python_stdlib.zip`]: library.then((data) => new Response(data)),
  };
  self.fetch = async (what, options) => {
    const url = String(what.url ?? what);
    if (url.endsWith(".whl")) await library;
    return begun[url] ?? get(url, options);
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
