// Keeps the course (COURSE) and Python (PYTHON, which changes seldom) in the browser, each under its version.
// A newer one is fetched whole and takes over when no page of the old one is open any more.

const COURSE = /*COURSE*/ { version: "", files: [] };
const PYTHON = /*PYTHON*/ { version: "", files: {} }; // url → hash

const names = [`tinyalex-course-${COURSE.version}`, `tinyalex-python-${PYTHON.version}`];

self.addEventListener("install", (event) => event.waitUntil(keep()));

async function keep() {
  const [course, python] = await Promise.all(names.map((name) => caches.open(name)));
  const fetched = async (cache, url, integrity) => {
    if (await cache.match(url)) return;
    const found = await fetch(url, integrity ? { integrity } : { cache: "no-cache" });
    if (!found.ok) throw new Error(`${url}: ${found.status}`);
    await cache.put(url, found);
  };
  await Promise.all(COURSE.files.map((url) => fetched(course, url)));
  for (const [url, hash] of Object.entries(PYTHON.files)) await fetched(python, url, hash);
}

self.addEventListener("activate", (event) => event.waitUntil(begin()));

async function begin() {
  for (const name of await caches.keys())
    if (name.startsWith("tinyalex-") && !names.includes(name)) await caches.delete(name);
  await self.clients.claim();
}

self.addEventListener("fetch", (event) => {
  if (event.request.method === "GET") event.respondWith(answer(event.request));
});

async function answer(request) {
  const url = new URL(request.url);
  url.search = url.hash = "";
  if (url.href === self.registration.scope) url.pathname += "index.html";
  for (const name of names) {
    const found = await (await caches.open(name)).match(url.href);
    if (found) return found;
  }
  return fetch(request);
}
