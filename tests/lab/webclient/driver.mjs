// Builds the page (once), serves it on loopback and drives it in headless Chromium, by lines of JSON on stdin (see tests/lab/rpc.py).

import { createServer } from "node:http";
import { cpSync, existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { extname, join, normalize } from "node:path";
import readline from "node:readline";
import { fileURLToPath } from "node:url";

for (const level of ["log", "debug", "info", "trace"]) console[level] = (...words) => console.warn(...words);
const here = fileURLToPath(new URL(".", import.meta.url));
const site = join(here, "site");

async function build() {
  const esbuild = await import("esbuild");
  const packages = join(here, "node_modules");
  mkdirSync(join(site, "assets"), { recursive: true });
  cpSync(join(packages, "hydrogen-view-sdk/asset-build/assets"), join(site, "assets"), { recursive: true });
  for (const name of ["olm.js", "olm.wasm", "olm_legacy.js"]) cpSync(join(packages, "@matrix-org/olm", name), join(site, "assets", name));
  cpSync(join(packages, "hydrogen-view-sdk/lib-build/sw.js"), join(site, "sw.js"));
  await esbuild.build({
    entryPoints: [join(here, "app.mjs")], bundle: true, format: "esm", outfile: join(site, "app.js"),
    external: ["fs", "path", "crypto"], logLevel: "error", loader: { ".wasm": "file" },
  });
  const style = readdirSync(join(site, "assets")).find((name) => /^theme-element-light.*\.css$/.test(name));
  writeFileSync(join(site, "index.html"), `<!doctype html><html><head><meta charset="utf-8"><title>Hydrogen</title>
<link rel="icon" href="data:,"><link rel="stylesheet" href="assets/${style}"><style>html, body { height: 100%; margin: 0 }</style></head>
<body id="app" class="hydrogen"><script type="module" src="app.js"></script></body></html>`);
}

const TYPES = { ".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".wasm": "application/wasm", ".svg": "image/svg+xml" };

function serve() {
  const server = createServer((request, response) => {
    const path = join(site, normalize(new URL(request.url, "http://x").pathname.replace(/\/$/, "/index.html")));
    if (!path.startsWith(site) || !existsSync(path)) { response.writeHead(404).end(); return; }
    response.writeHead(200, { "Content-Type": TYPES[extname(path)] ?? "application/octet-stream" }).end(readFileSync(path));
  });
  return new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve(server.address().port)));
}

let browser = null;
let page = null;

const calls = {
  async open({ homeserver, executable }) {
    if (!existsSync(join(site, "index.html"))) await build();
    const port = await serve();
    const { chromium } = await import("playwright-core");
    browser = await chromium.launch({ executablePath: executable, args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking"] });
    page = await browser.newPage({ viewport: { width: 1100, height: 700 } });
    page.on("console", (message) => console.warn(message.text()));
    page.on("pageerror", (error) => console.warn(error));
    await page.goto(`http://127.0.0.1:${port}/?homeserver=${encodeURIComponent(homeserver)}`);
    return null;
  },

  async login({ user, password }) {
    await page.locator("input[name=username], #username").first().fill(user, { timeout: 30_000 });
    await page.locator("input[type=password]").first().fill(password);
    await page.getByRole("button", { name: "Log In", exact: true }).click();
    await page.locator(".RoomList, .LeftPanel").first().waitFor({ timeout: 60_000 });
    return null;
  },

  async open_room({ name }) {
    await page.locator(".LeftPanel").getByText(name, { exact: true }).first().click({ timeout: 30_000 });
    await page.locator(".MessageComposer textarea").waitFor({ timeout: 30_000 });
    return null;
  },

  async send({ body }) {
    await page.locator(".MessageComposer textarea").fill(body);
    await page.locator(".MessageComposer textarea").press("Enter");
    return null;
  },

  async wait_text({ text }) {
    await page.locator(".Timeline").getByText(text).first().waitFor({ timeout: 30_000 });
    return null;
  },

  async screenshot({ path }) { await page.screenshot({ path }); return null; },
};

const lines = readline.createInterface({ input: process.stdin });
lines.on("line", async (line) => {
  const { id, method, params } = JSON.parse(line);
  let answer;
  try {
    answer = { id, result: (await calls[method](params)) ?? null };
  } catch (error) {
    console.warn(error);
    answer = { id, error: String(error?.message ?? error) };
  }
  process.stdout.write(JSON.stringify(answer) + "\n");
});
lines.on("close", async () => { await browser?.close(); process.exit(0); });
