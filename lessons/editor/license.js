// Print the licences of what is bundled: one text, the MIT licence, under many names.
import { readFileSync } from "node:fs";

const read = (path) => readFileSync(path, "utf8");
const { packages } = JSON.parse(read("package-lock.json"));
const bundled = Object.entries(packages).filter(([path, { dev }]) => path && !dev);
const texts = bundled.map(([path]) => read(`${path}/LICENSE`));
const permission = (text) => text.slice(text.indexOf("Permission is hereby granted")).trim();
for (const [k, text] of texts.entries())
  if (permission(text).replace(/\s+/g, " ") !== permission(texts[0]).replace(/\s+/g, " "))
    throw new Error(`${bundled[k][0]}: another licence`);
console.log("editor.js is CodeMirror 6 and what it needs, bundled:\n");
for (const [k, [path, { version }]] of bundled.entries())
  console.log(`- ${path.replace("node_modules/", "")} ${version}: ${/^Copyright.*$/m.exec(texts[k])[0]}`);
console.log(`\nMIT License\n\n${permission(texts[0])}`);
