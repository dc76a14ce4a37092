// What a host starts, by the library that hosts use: node resolve.mjs LIBRARY FOLDER SETTINGS
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [library, folder, settings] = process.argv.slice(2);
const { getMcpConfigForManifest } = await import(pathToFileURL(library));
const found = await getMcpConfigForManifest({
  manifest: JSON.parse(readFileSync(`${folder}/manifest.json`, "utf-8")),
  extensionPath: folder,
  systemDirs: {},
  userConfig: JSON.parse(settings),
  pathSeparator: "/",
});
process.stdout.write(JSON.stringify(found));
