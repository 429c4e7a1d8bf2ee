// What opencode's own settings cannot say, as a plugin that the enforced configuration names: plugins of a
// project that is not trusted are refused by their paths, and no file lifts what is enforced once the
// configuration is merged. The supervisor waits for the line at the end, and keeps the server down without it.
import { plugin } from "bun";
import { readFileSync } from "node:fs";

/** `{ refused: [path prefix], packages: [npm name], enforced: settings }` */
const GIVEN = "@GIVEN@";

if (GIVEN.refused.length > 0) {
  const quoted = (text) => text.replace(/[.*+?^${}()|[\]\\/]/g, "\\$&");
  const anyOf = (texts) => texts.map(quoted).join("|");
  const packages = GIVEN.refused.at(-1);
  const declared =
    GIVEN.packages.length > 0 ? `(?!${quoted(packages)}(${anyOf(GIVEN.packages)})(@[0-9A-Za-z.^~-]*)?/)` : "";
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

/** `rules` with `last` behind all of them, and nothing of a lower level within those. */
function ending(rules, last) {
  const all = { ...table(rules) };
  for (const [key, value] of Object.entries(last)) {
    delete all[key];
    all[key] = value;
  }
  return all;
}

/** The rules that settings, or those of an agent, say; `tools` is their older form. */
function rulesOf({ permission, tools }) {
  const rules = {};
  for (const [tool, on] of Object.entries(tools ?? {})) {
    const edits = ["write", "edit", "patch", "multiedit"].includes(tool);
    rules[edits ? "edit" : tool] = on ? "allow" : "deny";
  }
  return ending(rules, table(permission));
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
  const { permission, tools, plugin, instructions, mode, agent, $schema, ...rest } = enforced;
  const rules = rulesOf({ permission, tools });
  if (Object.keys(rules).length > 0) {
    config.permission = ending(config.permission, rules);
    for (const one of Object.values(config.agent ?? {})) {
      one.permission = ending(one.permission, rules);
    }
  }
  // What is enforced of one agent comes behind what is enforced of all.
  for (const [name, given] of Object.entries({ ...mode, ...agent })) {
    const one = ((config.agent ??= {})[name] ??= {});
    const { permission, tools, ...values } = given;
    merge(one, resolve(values));
    const own = rulesOf({ permission, tools });
    if (Object.keys(own).length > 0) one.permission = ending(one.permission, own);
  }
  merge(config, resolve(rest));
}

export const Guard = async () => ({
  config: async (config) => {
    try {
      impose(config, GIVEN.enforced);
    } catch (error) {
      // opencode would go on without what is enforced.
      console.error(`opencode-instances: enforcedSettings cannot be imposed: ${error}`);
      process.exit(1);
    }
  },
});

console.error("opencode-instances: the guard is active");
