// Print the errors that AsyncAPI's own parser finds in documents, as JSON:
// {path: [{severity, code, path, message}]}.
// Severities: 0 error, 1 warning, 2 information, 3 hint.
//
// usage: node dev/specs/validate.mjs DOCUMENT...

import { readFileSync } from "node:fs";
import asyncapi from "@asyncapi/parser";

const parser = new asyncapi.Parser();
const found = {};
for (const path of process.argv.slice(2)) {
  const { diagnostics } = await parser.parse(readFileSync(path, "utf8"), { source: path });
  found[path] = diagnostics.map(({ severity, code, path, message }) => {
    return { severity, code, path: path.join("."), message };
  });
}
console.log(JSON.stringify(found));
