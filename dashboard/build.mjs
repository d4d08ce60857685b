// Bundles src into the Python package, beside a digest of the sources that the tests compare.
import { createHash } from "node:crypto";
import { copyFileSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { build } from "esbuild";

const out = "../src/dwcp/dashboard/assets";
rmSync(out, { recursive: true, force: true });
mkdirSync(out, { recursive: true });
await build({
  entryPoints: { app: "src/main.ts" },
  bundle: true,
  minify: true,
  format: "esm",
  target: ["chrome123", "firefox128", "safari17.5"],
  legalComments: "eof",
  outdir: out,
});
const sources = readdirSync("src").sort();
for (const name of sources.filter((name) => /\.(html|svg)$/.test(name))) copyFileSync(`src/${name}`, `${out}/${name}`);

const sha256 = (data) => createHash("sha256").update(data).digest("hex");
const lines = [...sources.map((name) => `src/${name}`), "package-lock.json"].map(
  (path) => `${path} ${sha256(readFileSync(path))}\n`,
);
writeFileSync(`${out}/sources.sha256`, sha256(lines.join("")) + "\n");
