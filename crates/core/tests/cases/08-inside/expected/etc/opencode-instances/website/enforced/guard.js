// What opencode's own settings cannot say, as a plugin that the enforced configuration names: the server
// loads no code of a project that is not trusted, and nothing lifts what is enforced once the configuration is
// merged. The supervisor waits for the line at the end, and keeps the server down without it.
import { plugin } from "bun";
import { readFileSync } from "node:fs";

/** `{ refused: [path prefix], packages: [npm name], enforced: settings }` */
const GIVEN = {"refused":["/srv/website/","/var/lib/opencode/instance-state/website/.cache/opencode/packages/"],"packages":[],"enforced":{"share":"disabled","permission":{"webfetch":"deny"}}};

if (GIVEN.refused.length > 0) {
  const quoted = (text) => text.replace(/[.*+?^${}()|[\]\\/]/g, "\\$&");
  const anyOf = (texts) => texts.map(quoted).join("|");
  const declared = GIVEN.packages.length > 0 ? `(?!.*/packages/(${anyOf(GIVEN.packages)})(@[^/]*)?/)` : "";
  plugin({
    name: "opencode-instances",
    setup(build) {
      build.onLoad({ filter: new RegExp(`^${declared}(${anyOf(GIVEN.refused)})`) }, ({ path }) => {
        throw new Error(`${path} is not loaded: trustProject is off`);
      });
    },
  });
}

const isTable = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

/** Puts the values of `from` into `into`, table by table. */
function merge(into, from) {
  for (const [key, value] of Object.entries(from)) {
    if (isTable(value) && isTable(into[key])) merge(into[key], value);
    else into[key] = structuredClone(value);
  }
}

/** Rules as a table; the last one that matches counts. */
const table = (rules) => (isTable(rules) ? rules : rules === undefined ? {} : { "*": rules });

/** `rules` with `last` behind all of them. */
function ending(rules, last) {
  const all = { ...table(rules) };
  for (const [key, value] of Object.entries(table(last))) {
    const before = all[key];
    delete all[key];
    all[key] = isTable(value) ? ending(before, value) : value;
  }
  return all;
}

/** A text with what opencode would have put into it. */
const resolved = (text) =>
  text
    .replace(/\{env:([^}]+)\}/g, (_, name) => process.env[name] ?? "")
    .replace(/\{file:([^}]+)\}/g, (_, path) => readFileSync(path.trim(), "utf8").trim());

const resolve = (value) =>
  typeof value === "string"
    ? resolved(value)
    : Array.isArray(value)
      ? value.map(resolve)
      : isTable(value)
        ? Object.fromEntries(Object.entries(value).map(([key, one]) => [key, resolve(one)]))
        : value;

function impose(config, enforced) {
  // opencode adds lists of these up, so they cannot be lost.
  const { permission, tools, plugin, instructions, mode, $schema, ...rest } = enforced;
  merge(config, resolve(rest));
  const rules = { ...table(permission) };
  for (const [tool, on] of Object.entries(tools ?? {})) rules[tool] = on ? "allow" : "deny";
  if (Object.keys(rules).length === 0) return;
  config.permission = ending(config.permission, rules);
  for (const agent of Object.values(config.agent ?? {})) {
    agent.permission = ending(agent.permission, rules);
  }
}

export const Guard = async () => ({
  config: async (config) => impose(config, GIVEN.enforced),
});

console.error("opencode-instances: the guard is active");
